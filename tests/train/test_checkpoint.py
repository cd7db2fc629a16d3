"""The two files of a run agree after every way of being cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import ALONE

from ssbench.errors import DataError
from ssbench.train import checkpoint
from ssbench.train.checkpoint import BestEpoch, Checkpointer, Snapshot, TrainingState


def weights(epoch: int) -> dict[str, Any]:
    """Networks whose only weight is the epoch's number."""
    return {"w": torch.tensor(float(epoch))}


def snapshot(epoch: int, best: int | None, key: str = "this run") -> Snapshot:
    """The state at the end of `epoch`, of two steps."""
    best_epoch = None
    if best is not None:
        best_epoch = BestEpoch(epoch=best, step=2 * best + 2, select=50.0, per_class=[50.0, None], matrix=[[1]])
    state = TrainingState(step=2 * epoch + 2, best=best_epoch)
    return Snapshot(key=key, method=weights(epoch), optimizer={}, state=state, sums={})


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpointer(tmp_path: Path, warnings: list[str]) -> Checkpointer:
    return Checkpointer(tmp_path, "this run", ALONE, warnings.append)


def test_nothing_there(checkpointer: Checkpointer) -> None:
    assert checkpointer.load() is None


def test_goes_on_from_the_newest(checkpointer: Checkpointer, warnings: list[str]) -> None:
    for epoch in (0, 1):
        checkpointer.save(snapshot(epoch, 0))
        if epoch == 0:
            checkpointer.save_best(0, weights(0))
    loaded = checkpointer.load()
    assert loaded is not None
    assert loaded.method["w"] == 1
    assert checkpointer.load_best()["w"] == 0
    assert warnings == []


def test_killed_between_the_two_writes(checkpointer: Checkpointer, warnings: list[str]) -> None:
    """The state knows of a new best epoch whose networks are in itself alone."""
    checkpointer.save(snapshot(0, 0))
    checkpointer.save_best(0, weights(0))
    checkpointer.save(snapshot(1, 1))
    assert checkpointer.load() is not None
    assert checkpointer.load_best()["w"] == 1
    assert warnings == []


def test_the_state_before_gets_the_best_before(checkpointer: Checkpointer, warnings: list[str]) -> None:
    for epoch in (0, 1):
        checkpointer.save(snapshot(epoch, epoch))
        checkpointer.save_best(epoch, weights(epoch))
    checkpointer.newest.write_bytes(b"torn")
    loaded = checkpointer.load()
    assert loaded is not None
    assert (loaded.method["w"], checkpointer.load_best()["w"]) == (0, 0)
    assert "'checkpoint.pt' cannot be read" in warnings[0]
    checkpointer.save(snapshot(1, 0))
    assert checkpoint.load(checkpoint.previous(checkpointer.newest))["method"]["w"] == 0, "not the torn one"


def test_another_run_in_the_same_folder(checkpointer: Checkpointer, tmp_path: Path, warnings: list[str]) -> None:
    other = Checkpointer(tmp_path, "another run", ALONE, warnings.append)
    other.save(snapshot(3, 3, "another run"))
    other.save_best(3, weights(3))
    assert checkpointer.load() is None
    checkpointer.save(snapshot(0, 0))
    assert checkpointer.load() is not None
    assert checkpointer.load_best()["w"] == 0
    assert warnings == []


def test_what_killed_processes_were_writing_is_removed(checkpointer: Checkpointer, tmp_path: Path) -> None:
    checkpointer.save(snapshot(0, None))
    for name in (".checkpoint.pt.abc", ".best.pt.xyz", ".checkpoint.pt.link", ".record.json.q"):
        (tmp_path / name).write_bytes(b"half")
    checkpointer.load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    """Strings made anew and strings that are one object, shared lists and copies: all the same file."""
    name = "".join(["ep", "och"])
    shared = [1.0]
    one = {"history": [{name: 0}, {"epoch": 1}], "a": shared, "b": shared, "w": torch.arange(3)}
    two = {"history": [{"epoch": 0}, {"epoch": 1}], "a": [1.0], "b": [1.0], "w": torch.arange(3)}
    checkpoint.save(tmp_path / "one.pt", one)
    loaded = checkpoint.load(tmp_path / "one.pt")
    assert checkpoint.to_bytes(one) == checkpoint.to_bytes(two) == checkpoint.to_bytes(loaded)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"f": print}, path)
    with pytest.raises(DataError, match="cannot be read"):
        checkpoint.load(path)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint 'best.pt'"):
        checkpoint.load(tmp_path / "best.pt")
