"""Holds the scores of a run against the band of its released logs, epoch by epoch (`ssbench.tables.band`).

The run's log says it at the epoch at which the run leaves the band, and when it is back; the progress file keeps it for
`ssbench status`. Nothing here changes or ends a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssbench.errors import DataError, SsbenchError
from ssbench.tables.band import BandExit, ConvergenceBand, find_band
from ssbench.tables.claims import all_claims
from ssbench.train.trainer import Trainer


class BandWatch:
    """The band of one run, read when its first epoch ends, and whether the run is outside."""

    def __init__(self, trainer: Trainer, results: Path) -> None:
        self._trainer = trainer
        self._band = _band_of(trainer, results)
        self._outside: BandExit | None = None

    @property
    def text(self) -> str:
        """ "epoch 12: 48.1, band ..." while the run is outside, else "" """
        return str(self._outside or "")

    def check(self, _: dict[str, Any]) -> None:
        """Look at the run's history after an epoch; one line when the run leaves the band, one when it is back."""
        history = self._trainer.state.history
        if self._band is None or self._trainer.stage:
            return
        before, self._outside = self._outside, self._band.exit_of(scores_of(history))
        if self._outside is not None and before is None:
            self._trainer.bars.write_line(f"outside the band of released logs: {self._outside}")
        elif before is not None and self._outside is None:
            self._trainer.bars.write_line(f"epoch {len(history)}: back in the band of released logs")


def _band_of(trainer: Trainer, results: Path) -> ConvergenceBand | None:
    """The run's band. A damaged claim is left out, and a damaged shipped file of claims leaves the run without a band:
    the commands that show claims name both, and no run ends for them."""
    recipe, damaged = trainer.recipe, dict[Path, DataError]()
    metric = "dice" if recipe.eval.protocol == "volume" else "miou"
    try:
        claims = all_claims(results, damaged)
    except SsbenchError as error:
        trainer.bars.write_line(f"no band of released logs: {error.what}")
        return None
    return find_band(claims, recipe.resolved(), trainer.partition.name, trainer.epochs, metric)


@contextmanager
def band_watched(trainer: Trainer, results: Path) -> Iterator[BandWatch]:
    """Watch the epochs of a trainer inside the block."""
    watch = BandWatch(trainer, results)
    trainer.on_epoch.append(watch.check)
    try:
        yield watch
    finally:
        trainer.on_epoch.remove(watch.check)


def scores_of(history: list[dict[str, Any]]) -> dict[int, float]:
    """Epoch from 0 -> score on the select subset, percent, of a run of one stage."""
    return {int(entry["epoch"]): float(entry["select"]) for entry in history if "select" in entry}
