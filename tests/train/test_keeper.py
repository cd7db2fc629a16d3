"""The two files of a run agree after every way of being cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import ALONE

from ssbench.errors import DataError
from ssbench.train import checkpoint
from ssbench.train.keeper import Keeper


def state(epoch: int, best: int | None) -> dict[str, Any]:
    """The state at the end of `epoch`, of two steps; the weights are the epoch's number."""
    known = None if best is None else {"epoch": best, "step": 2 * best + 2}
    return {"method": {"w": torch.tensor(float(epoch))}, "state": {"step": 2 * epoch + 2, "best": known}}


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def keeper(tmp_path: Path, told: list[str]) -> Keeper:
    return Keeper(tmp_path, "this run", ALONE, told.append)


def test_nothing_there(keeper: Keeper) -> None:
    assert keeper.load() is None


def test_goes_on_from_the_newest(keeper: Keeper, told: list[str]) -> None:
    for epoch in (0, 1):
        keeper.save(state(epoch, 0))
        if epoch == 0:
            keeper.save_best(0, state(0, 0)["method"])
    found = keeper.load()
    assert found is not None
    assert found["method"]["w"] == 1
    assert keeper.load_best()["w"] == 0
    assert told == []


def test_killed_between_the_two_writes(keeper: Keeper, told: list[str]) -> None:
    """The state knows of a new best epoch whose networks are in itself alone."""
    keeper.save(state(0, 0))
    keeper.save_best(0, state(0, 0)["method"])
    keeper.save(state(1, 1))
    assert keeper.load() is not None
    assert keeper.load_best()["w"] == 1
    assert told == []


def test_the_state_before_gets_the_best_before(keeper: Keeper, told: list[str]) -> None:
    for epoch in (0, 1):
        keeper.save(state(epoch, epoch))
        keeper.save_best(epoch, state(epoch, epoch)["method"])
    keeper.newest.write_bytes(b"torn")
    found = keeper.load()
    assert found is not None
    assert (found["method"]["w"], keeper.load_best()["w"]) == (0, 0)
    assert "'checkpoint.pt' cannot be read" in told[0]
    keeper.save(state(1, 0))
    assert checkpoint.load(checkpoint.previous(keeper.newest))["method"]["w"] == 0, "not the torn one"


def test_another_run_in_the_same_folder(keeper: Keeper, tmp_path: Path, told: list[str]) -> None:
    other = Keeper(tmp_path, "another run", ALONE, told.append)
    other.save(state(3, 3))
    other.save_best(3, state(3, 3)["method"])
    assert keeper.load() is None
    keeper.save(state(0, 0))
    assert keeper.load() is not None
    assert keeper.load_best()["w"] == 0
    assert told == []


def test_what_killed_processes_were_writing_is_removed(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save(state(0, None))
    for name in (".checkpoint.pt.abc", ".best.pt.xyz", ".checkpoint.pt.link", ".record.json.q"):
        (tmp_path / name).write_bytes(b"half")
    keeper.load()
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
