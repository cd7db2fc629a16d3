"""What a run keeps in its folder to go on from: the newest state, and the best epoch's networks.

The state says which epoch is the best, the networks stand in another file, and a kill may fall between the two. So the
state is written first: where it names an epoch whose networks are not yet in their file, they are the state's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ssbench.errors import DataError
from ssbench.train import checkpoint
from ssbench.train.distributed import Team

State = dict[str, Any]


class Keeper:
    """The checkpoints `checkpoint.pt` and `best.pt` (and the one before each) of one run; only the leader writes.

    key: the run's; files of another run that stood in the folder before are not taken for this one's. keep: epochs
    (from 1) whose networks stay, in `epoch<n>.pt`.
    """

    def __init__(
        self, folder: Path, key: str, team: Team, warn: Callable[[str], None], keep: Collection[int] = ()
    ) -> None:
        self.newest, self.best = folder / "checkpoint.pt", folder / "best.pt"
        self.folder, self.key, self.team, self.warn, self.keep = folder, key, team, warn, keep

    def save(self, state: State) -> None:
        """Write the newest state. Read here are its "method" and "state": {"step": n, "best": {"epoch", "step"}}."""
        if self.team.leads:
            checkpoint.save(self.newest, {"key": self.key, **state})

    def save_best(self, epoch: int, method: State) -> None:
        """Write the best epoch's networks; `save` goes first."""
        if self.team.leads:
            checkpoint.save(self.best, {"key": self.key, "epoch": epoch, "method": method})

    def save_epoch(self, epoch: int, method: State) -> None:
        """Write the networks of an epoch (from 0) if they are to stay; before `save`, so that none is missed."""
        if self.team.leads and epoch + 1 in self.keep:
            kept = {"key": self.key, "epoch": epoch, "method": method}
            checkpoint.save(self.folder / f"epoch{epoch + 1}.pt", kept, keep_previous=False)

    def forget(self) -> None:
        """Remove what only going on from here would need."""
        if self.team.leads:
            for path in (self.newest, checkpoint.previous(self.newest), checkpoint.previous(self.best)):
                path.unlink(missing_ok=True)

    def load(self) -> State | None:
        """The newest state whose best epoch's networks are at hand, or None: the run starts from nothing."""
        if self.team.leads:
            checkpoint.sweep(self.folder)
            self._mend()
        self.team.wait()
        return self._read(self.newest)

    def load_best(self) -> State:
        """The best epoch's networks.

        Raises:
            DataError: missing or damaged.
        """
        self.team.wait()
        found: State = checkpoint.load(self.best, self.team.device)["method"]
        return found

    def _mend(self) -> None:
        """Leave either a whole state and its best epoch, each under its own name, or nothing."""
        found = self._newest()
        if found is None:
            return
        best = found["state"]["best"]
        if best is None or self._has(self.best, best["epoch"]):
            return
        if self._has(checkpoint.previous(self.best), best["epoch"]):  # the state before, and so the best before
            checkpoint.previous(self.best).replace(self.best)
        elif best["step"] == found["state"]["step"]:
            self.save_best(best["epoch"], found["method"])
        else:
            self.warn(f"the networks of the best epoch ({best['epoch'] + 1}) are lost; starting from nothing")
            for path in (self.newest, checkpoint.previous(self.newest)):
                path.unlink(missing_ok=True)

    def _newest(self) -> State | None:
        """The newest whole state; a damaged one gives its name to the one before."""
        before = checkpoint.previous(self.newest)
        found = self._read(self.newest)
        if found is None and (found := self._read(before)) is not None:
            before.replace(self.newest)
        return found

    def _read(self, path: Path) -> State | None:
        """The state in `path` if it is readable and this run's."""
        if not path.is_file():
            return None
        try:
            found: State = checkpoint.load(path, self.team.device)
        except DataError as error:
            self.warn(f"{error.what}; trying the one before")
            return None
        return found if found["key"] == self.key else None

    def _has(self, path: Path, epoch: int) -> bool:
        found = self._read(path)
        return found is not None and found["epoch"] == epoch
