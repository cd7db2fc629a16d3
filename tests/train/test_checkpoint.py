"""The two files of a run agree after every way of being cut off."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from running import ALONE

from ssbench.errors import DataError
from ssbench.keyed import rng
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


def edited(folder: Path, change: dict[str, Any], name: str = "checkpoint.pt") -> None:
    """Replace parts of a stored state: "a.b" is the entry b of a."""
    content = checkpoint.load(folder / name)
    for where, value in change.items():
        *path, last = where.split(".")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    checkpoint.save(folder / name, content, keep_previous=False)


DAMAGES: list[dict[str, Any]] = [
    {"state": None}, {"state": []}, {"state.step": "2"}, {"state.step": -1}, {"state.step": 2.5}, {"key": 5},
    {"state.history": {}}, {"state.history": [{"epoch": "0"}]}, {"state.best": 7}, {"method": [1]}, {"optimizer": "x"},
    {"state.best.select": float("nan")}, {"state.best.select": "81.2"}, {"state.best.per_class": 3},
    {"state.best.matrix": [["a"]]}, {"sums": {"loss": 0.5}},
    {"state.history": [{"epoch": 0, "terms": {}, "select": float("inf")}]},
]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGES, ids=str)
def test_a_state_of_wrong_types_is_one_warning(
    checkpointer: Checkpointer, tmp_path: Path, warnings: list[str], change: dict[str, Any]
) -> None:
    """Checksums agree, and still no field of it is believed; the run begins again."""
    checkpointer.save(snapshot(0, 0))
    edited(tmp_path, change)
    assert checkpointer.load() is None
    assert warnings
    assert all("this checkpoint is damaged" in text for text in warnings)


def test_content_that_is_no_dictionary(checkpointer: Checkpointer, warnings: list[str]) -> None:
    checkpoint.save(checkpointer.newest, [torch.zeros(2), "text"])
    assert checkpointer.load() is None
    assert "this checkpoint is damaged" in warnings[0]


@pytest.mark.parametrize("change", [{"method": 3}, {"epoch": "one"}, {"key": None}], ids=str)
def test_networks_of_wrong_types_are_one_error(
    checkpointer: Checkpointer, tmp_path: Path, change: dict[str, Any]
) -> None:
    checkpointer.save_best(0, weights(0))
    edited(tmp_path, change, "best.pt")
    with pytest.raises(DataError, match="this checkpoint is damaged, field") as caught:
        checkpointer.load_best()
    assert (caught.value.code, caught.value.where) == (4, str(tmp_path / "best.pt"))


def test_random_bytes_of_a_checkpoint_end_in_one_error(tmp_path: Path) -> None:
    """Cut, overwritten and lengthened anywhere: the content, or a DataError, and nothing else."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"key": "this run", "method": weights(0), "epoch": 0})
    whole = path.read_bytes()
    for trial in range(60):
        draw, data = rng("damage", trial), bytearray(whole)
        at = int(draw.integers(len(data)))
        match trial % 3:
            case 0:
                del data[at:]
            case 1:
                data[at : at + 8] = draw.bytes(8)
            case _:
                data[at:at] = draw.bytes(16)
        path.write_bytes(data)
        with suppress(DataError):
            assert checkpoint.load_networks(path)["w"] == 0


def test_a_state_of_an_earlier_version_is_read(checkpointer: Checkpointer, warnings: list[str]) -> None:
    """The content as it was written before contents had types."""
    best = {"epoch": 0, "step": 2, "select": 61.5, "per_class": [70.0, None, 53.0], "matrix": [[1, 2], [3, 4]]}
    history = [{"epoch": 0, "terms": {"loss": 0.7, "s1": 0.1}, "select": 61.5}, {"epoch": 1, "terms": {"loss": 0.5}}]
    content = {
        "key": "this run", "method": weights(1), "optimizer": {"state": {}, "param_groups": []},
        "state": {"step": 4, "history": history, "best": best},
        "sums": {"loss": torch.tensor([0.5, 1.0], dtype=torch.float64)},
    }  # fmt: skip
    torch.save(content, checkpointer.newest)
    checkpointer.save_best(0, weights(0))
    loaded = checkpointer.load()
    assert loaded is not None
    assert (loaded.state.step, loaded.state.history, warnings) == (4, history, [])
    assert loaded.state.model_dump()["best"] == best
