"""Two processes are one with the same total batch: weights, statistics, terms, scores, files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from members import Trained, damaged, recorded, scored, stopped, together, trained
from running import ALONE, SPLIT, TINY, Job, trainer_of
from torch import nn

from ssbench import find
from ssbench.errors import HardwareError, RecipeError, Stopped, UsageError
from ssbench.train import checkpoint
from ssbench.train.distributed import ProcessFailed, SharedBatchNorm2d, Team, join, share_batch_norm
from ssbench.train.finite import Diverged

FOUR = (*TINY, "schedule.labeled_batch=4", "schedule.unlabeled_batch=4", "schedule.epochs=2")
SGD = "optim={name: sgd, lr: 0.02, head: 1}"  # Adam would blow up rounding where a gradient is nearly zero
OHEM = ("loss.supervised=ohem", "loss.ohem_min_kept=800")
DICE = ("loss.supervised=ce_dice", "loss.pseudo=dice")
WPL = {"name": "wpl", "variant": "release", **find.load("plugin", "wpl").quick, "confidence": 0.0}
PREVMATCH = {"name": "prevmatch", "select": "labeled", "confidence": "average", "group": 2}
CASES: dict[str, tuple[str, ...]] = {
    "supervised, ohem": ("method={name: supervised, epoch_of: unlabeled}", *OHEM),
    "supervised, ce and dice": ("method={name: supervised, epoch_of: unlabeled}", *DICE),
    "fixmatch": ("method={name: fixmatch, threshold: 0.25}",),
    "fixmatch, dice": ("method={name: fixmatch, threshold: 0.25}", *DICE),
    "unimatch, ohem": ("method={name: unimatch, threshold: 0.25}", *OHEM),
    "unimatch, wpl": (
        "method={name: unimatch, threshold: 0.25}",
        f"plugin={json.dumps(WPL)}",
    ),
    "unimatch, prevmatch": (
        "method={name: unimatch, threshold: 0.25}",
        f"plugin={json.dumps(PREVMATCH)}",
    ),
    "semivl, wpl": (
        "net={name: semivl, encoder: vit_tiny, weights: random, text: drawn, crop: 48, conv_encoder: true}",
        "method={name: semivl, confidence: average}",
        f"plugin={json.dumps(WPL)}",
    ),
    "unimatch_v2, dpt": (
        "net={name: dpt, encoder: vit_tiny_patch8, weights: random}",
        "method={name: unimatch_v2, threshold: 0.0, group: 2}",
    ),
    "unimatch, dice": ("method={name: unimatch, threshold: 0.25}", *DICE),
}


def job_of(case: str, toy: Path, out: Path) -> Job:
    return Job(toy, out / case.replace(" ", "-").replace(",", ""), (*FOUR, SGD, *CASES[case]))


@pytest.fixture(scope="module")
def pair(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of two processes found, by task; one start of Python for all tests of this file."""
    out = tmp_path_factory.mktemp("pair")
    whole = Job(toy, out / "whole", (*FOUR, SGD))
    locked = Job(toy, out / "locked", (*FOUR, SGD))
    tasks = {case: (trained, job_of(case, toy, out)) for case in CASES}
    tasks["scores"] = (scored, replace(whole, overrides=(*FOUR, "eval.few=5")))
    tasks["record"] = (recorded, whole)
    tasks["again"] = (recorded, whole)
    tasks["stop"] = (stopped, Job(toy, out / "stopped", (*FOUR, SGD, "schedule.epochs=30")))
    tasks["diverged"] = (recorded, Job(toy, out / "diverged", (*FOUR, "optim={name: sgd, lr: 1.0e+30}")))
    tasks["locked"] = (recorded, locked)
    tasks["three"] = (recorded, Job(toy, out / "three", (*FOUR, "schedule.labeled_batch=3")))
    locked.folder.mkdir(parents=True)
    with (locked.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        found = together(2, list(tasks.values()), out)
    return {name: [member[at] for member in found] for at, name in enumerate(tasks)}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case: str, pair: dict[str, list[Any]], toy: Path, tmp_path: Path) -> None:
    one, two = trained(job_of(case, toy, tmp_path), ALONE), pair[case]
    assert isinstance(two[0], Trained), two[0]
    assert one.tensors.keys() == two[0].tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(two[0].tensors[name], two[1].tensors[name]), f"the two differ in {name}"
        gap = (two[0].tensors[name] - value).abs().max()
        assert gap <= 1e-10 * (1 + value.abs().max()), f"{name} differs by {gap}"
    assert two[0].terms == two[1].terms
    for alone, shared in zip(one.terms, two[0].terms, strict=True):
        assert shared == pytest.approx(alone, rel=1e-7)  # shares of pixels are single precision


def test_every_image_is_scored_once(pair: dict[str, list[Any]], toy: Path, tmp_path: Path) -> None:
    """Five images for two processes: the same counts, to the pixel, on both."""
    alone = scored(Job(toy, tmp_path, (*FOUR, "eval.few=5")), ALONE)
    assert pair["scores"] == [alone, alone]


def test_only_the_first_process_writes(pair: dict[str, list[Any]]) -> None:
    (record, by_first), (same, by_second) = pair["record"]
    assert any("record.json" in path for path in by_first)
    assert by_second == []
    assert (record["status"], same["status"]) == ("done", "done")
    assert record["scores"] == same["scores"]


def test_a_finished_run_is_not_repeated(pair: dict[str, list[Any]]) -> None:
    for (record, _), (again, written) in zip(pair["record"], pair["again"], strict=True):
        assert record["scores"] == again["scores"]
        assert written == []


def test_a_request_to_stop_one_stops_both(pair: dict[str, list[Any]], toy: Path) -> None:
    first, second = pair["stop"]
    assert isinstance(first, Stopped), first
    assert isinstance(second, Stopped), second
    assert first.what == second.what
    state = checkpoint.load(Path(first.where) / "checkpoint.pt")["state"]
    assert f"stopped at step {state['step']} of" in first.what


def test_divergence_is_agreed_on(pair: dict[str, list[Any]]) -> None:
    first, second = pair["diverged"]
    assert isinstance(first, Diverged), first
    assert isinstance(second, Diverged), second
    assert (first.step, first.ids, str(first)) == (second.step, second.ids, str(second))
    assert len(first.ids) == 8


def test_a_locked_run_is_refused_by_both(pair: dict[str, list[Any]]) -> None:
    first, second = pair["locked"]
    assert isinstance(first, UsageError), first
    assert isinstance(second, UsageError), second
    assert "process 4711 works on this run" in first.what


def test_a_batch_that_cannot_be_shared(pair: dict[str, list[Any]]) -> None:
    for error in pair["three"]:
        assert "a batch of 3 cannot be shared by 2 processes" in str(error)


def test_what_ends_one_process_ends_all(toy: Path, tmp_path: Path) -> None:
    """A damaged image among those of the second process: it says so, and the first does not wait for it for ever."""
    job = Job(tmp_path / "data", tmp_path / "out", (*FOUR, SGD, "data.few=4", "schedule.epochs=1"))
    shutil.copytree(toy, job.data)
    broken = trainer_of(job).plan.unlabeled_at(0)[-1][0]
    (job.data / f"toy/images/{broken}.jpg").write_bytes(b"torn")
    (first,), (second,) = together(2, [(damaged, job)], tmp_path)
    assert isinstance(first, ProcessFailed), first
    assert isinstance(second, ProcessFailed), second
    assert f"{broken}.jpg" in str(second)
    assert json.loads(job.record.read_text())["status"] == "failed"


def test_torchrun(toy: Path, tmp_path: Path) -> None:
    """The command as a user types it: one object on stdout, one record, nothing twice."""
    job = Job(toy, tmp_path, (*TINY, "schedule.epochs=1", "data.few=2"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", "ssbench", *job.arguments, "--json"]
    with subprocess.Popen(command, start_new_session=True, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            said, noted = process.communicate(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, noted
    assert [one["state"] for one in json.loads(said)["runs"]] == ["done"]
    assert json.loads(job.record.read_text())["status"] == "done"
    assert noted.count(f"{SPLIT} seed 0: epoch 1/1") == 1
    assert "Warning" not in noted
    assert "Traceback" not in noted


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.again = self.inner[1]


def test_batch_norm_is_replaced_with_its_parameters() -> None:
    before = Grouped()
    state = {name: value.clone() for name, value in before.state_dict().items()}
    parameters = set(before.parameters())
    after = share_batch_norm(before, Team(0, 2, torch.device("cpu")))
    assert isinstance(after.get_submodule("inner.1"), SharedBatchNorm2d)
    assert after.get_submodule("again") is after.get_submodule("inner.1")
    assert set(after.parameters()) == parameters
    assert all(torch.equal(value, state[name]) for name, value in after.state_dict().items())
    x = torch.randn(2, 3, 5, 5)
    plain = Grouped()
    plain.load_state_dict(state)
    assert torch.equal(after.eval().get_submodule("inner")(x), plain.eval().inner(x))


def test_one_process_keeps_torchs_own() -> None:
    assert type(share_batch_norm(Grouped(), ALONE).get_submodule("inner.1")) is nn.BatchNorm2d


def test_a_batch_norm_that_does_more_is_refused() -> None:
    from timm.layers import BatchNormAct2d

    with pytest.raises(RecipeError, match="'0' is a BatchNormAct2d"):
        share_batch_norm(nn.Sequential(BatchNormAct2d(3)), Team(0, 2, torch.device("cpu")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(HardwareError, match="no device 'cuda': there are cpu"):
        join("cuda")


def test_alone_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    team = join("cpu")
    assert (team.rank, team.world, team.leads) == (0, 1, True)
    assert team.any(True)
    assert not team.any(False)
