"""Damaged files: named and passed over where a person only looks, an error of three parts where they are needed.

Each file is a valid one with a random damage, drawn from a seed. `SSBENCH_SOAK=1` draws thousands.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ran import Ran

from ssbench.errors import DataError, SsbenchError
from ssbench.jobs.cost import WorkCache
from ssbench.jobs.job import Places
from ssbench.jobs.plan_file import planned_jobs
from ssbench.jobs.progress import ProgressFile, RunProgress, read_progress
from ssbench.jobs.queue_file import QueueFile, read_queues, write_queue_file
from ssbench.jobs.slurm_job import JobOutcome, read_outcome
from ssbench.jobs.status import FIELDS, STATES, StatusView, survey, texts

OLD = Path(__file__).parent / "old_files"
COUNT = 600 if os.environ.get("SSBENCH_SOAK") else 12
FOLDER = Path("toy/none_cutmix_seg/toy-ours-1_16/seed0")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e300, 2**80, "", "x" * 2000, "\ud800", "../../..", "\x00", [], {}, [[]], {"a": []}, "NaN",
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "1 2", "'x'", "")


def damaged(path: Path, draw: random.Random) -> bytes:
    """The bytes of a valid JSON file with one damage."""
    data = path.read_bytes()
    kind = draw.randrange(6)
    if kind == 0:
        return data[: draw.randrange(len(data))]
    if kind == 1:
        at = draw.randrange(len(data))
        return data[:at] + draw.randbytes(draw.randrange(1, 4)) + data[at + 1 :]
    if kind == 2:
        return draw.choice((b"", b"[]", b"null", b"3", b'"x"', b"\xff\xfe\x00", b"\x00" * 50, b"[" * 100_000))
    value = json.loads(data)
    holder, name = draw.choice(list(places_of(value)))
    if kind == 3:
        del holder[name]
        return json.dumps(value).encode()
    if kind == 4:
        holder[name] = draw.choice(VALUES)
        return json.dumps(value).encode()
    holder[name] = "@here@"
    return json.dumps(value).replace('"@here@"', draw.choice(RAW)).encode()


def places_of(value: Any) -> Any:
    """(container, key) of everything inside."""
    if isinstance(value, dict | list):
        for name in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, name
            yield from places_of(value[name])


def seeds(name: str) -> list[Any]:
    return [pytest.param(random.Random(f"{name} {k}"), id=f"{k}") for k in range(COUNT)]  # noqa: S311  no secret


@pytest.mark.parametrize("draw", seeds("progress"))
def test_a_progress_file(tmp_path: Path, draw: random.Random) -> None:
    """Status shows the run, and names the file where it is damaged; a run that begins there replaces it."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "progress.json").write_bytes(damaged(OLD / "progress.json", draw))
    warnings: list[str] = []
    (row,) = survey(tmp_path, report=warnings.append)
    assert tuple(row) == FIELDS
    assert row["state"] in STATES
    assert all(isinstance(text, str) for text in texts(row))
    assert all(str(folder / "progress.json") in warning for warning in warnings)
    assert bool(warnings) == (read_progress(folder) == RunProgress())
    ProgressFile(folder, {"key": "k", "recipe": "r"}).end("done")
    assert read_progress(folder).state == "done"


@pytest.mark.parametrize("draw", seeds("local queue"))
def test_the_file_of_a_queue_here(tmp_path: Path, draw: random.Random) -> None:
    """Nobody holds it: no reader opens it, and the next queue removes it. Held, it is named."""
    with write_queue_file(tmp_path):
        (path,) = (tmp_path / "queues").glob("local-*.json")
        path.write_bytes(damaged(OLD / "local-machine-6088.json", draw))
        check_queues(tmp_path)


@pytest.mark.parametrize("draw", seeds("Slurm queue"))
def test_the_file_of_a_slurm_queue(tmp_path: Path, draw: random.Random) -> None:
    (tmp_path / "queues").mkdir()
    (tmp_path / "queues/slurm-12.json").write_bytes(damaged(OLD / "slurm-12.json", draw))
    check_queues(tmp_path)


def check_queues(runs: Path) -> None:
    """Read, or named and passed over; an error where a queue has to know."""
    warnings: list[str] = []
    rows = survey(runs, ask_slurm=lambda jobs: {}, report=warnings.append)
    assert all(row["state"] == "waiting" for row in rows)
    if warnings:
        with pytest.raises(DataError) as caught:
            read_queues(runs)
        assert [f"ignored: {caught.value}"] == warnings
    else:
        assert all(isinstance(queue, QueueFile) for queue in read_queues(runs))


@pytest.mark.parametrize("draw", seeds("outcome"))
def test_an_outcome_file(tmp_path: Path, draw: random.Random) -> None:
    (tmp_path / "12_0_outcome.json").write_bytes(damaged(OLD / "12_0_outcome.json", draw))
    for index in range(3):
        outcome = or_error(lambda index=index: read_outcome(tmp_path, "12_0", index))
        if isinstance(outcome, DataError):
            assert outcome.where.startswith(str(tmp_path / "12_0_outcome.json"))
            assert outcome.fix
        else:
            assert isinstance(outcome, JobOutcome)


def or_error(read: Callable[[], Any]) -> Any:
    """What comes back, or the error that a person is shown. Any other error is a fault."""
    try:
        return read()
    except SsbenchError as error:
        return error


@pytest.mark.parametrize("draw", seeds("plan"))
def test_a_plan(tmp_path: Path, draw: random.Random) -> None:
    """Runs as planned, or an error of the contract: a damage may also name another recipe, split or key."""
    path = tmp_path / "plan.json"
    path.write_bytes(damaged(OLD / "plan.json", draw))
    places = Places(tmp_path / "data", tmp_path / "runs", tmp_path / "results")
    jobs = or_error(lambda: planned_jobs(path, places))
    if isinstance(jobs, SsbenchError):
        assert jobs.code in (2, 3, 4)
        assert jobs.what
    else:
        assert len(jobs) == 1


@pytest.mark.parametrize("draw", seeds("cache"))
def test_the_cache_of_counted_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: random.Random) -> None:
    """Is counted anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    valid = tmp_path / "valid.json"
    work = {"steps": 1, "images": 1, "train_flops": 1.0, "score_flops": 1.0, "checkpoint_bytes": 1, "note": ""}
    valid.write_text(json.dumps({"code": "c", "values": {"a": work}}))
    (tmp_path / "ssbench").mkdir()
    (tmp_path / "ssbench/workloads.json").write_bytes(damaged(valid, draw))
    WorkCache()


def test_status_names_a_damaged_file_and_shows_the_rest(
    ssbench: Callable[..., Ran], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("good", (OLD / "progress.json").read_text()), ("bad", '{"step": "NaN"}')):
        folder = tmp_path / "runs" / name / "toy-ours-1_16" / "seed0"
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        (folder / "progress.json").write_text(text)
    (tmp_path / "runs/queues").mkdir()
    shutil.copy(OLD / "plan.json", tmp_path / "runs/queues/slurm-12.json")
    ran = ssbench("status", "--runs", "runs", "--json")
    assert ran.code == 0
    assert [row["state"] for row in json.loads(ran.out)["runs"]] == ["stopped", "stopped"]
    assert "this progress file is damaged, field 'step': input should be a valid integer" in ran.err
    assert "this queue file is damaged, field 'launcher': field required" in ran.err
    assert "fix:" in ran.err


def test_a_damaged_plan_is_code_4(ssbench: Callable[..., Ran], tmp_path: Path) -> None:
    text = (OLD / "plan.json").read_text()
    for bad, complaint in (
        (text.replace('"seed": 0', '"seed": NaN'), "NaN is no JSON number"),
        (text.replace('"seed": 0', f'"seed": {"9" * 9000}'), "9000 digits"),
        (text.replace('"hours": 4.415792049230769e-05', '"hours": 1e999', 1).replace("4.4", "1e999"), ""),
        ("[" * 100_000, "nested deeper than"),
    ):
        (tmp_path / "plan.json").write_text(bad)
        ran = ssbench("run", "--plan", "plan.json")
        assert ran.code == 4, ran
        assert complaint in ran.err


def test_a_message_comes_once_however_often_it_is_read() -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO())
    with StatusView(console) as view:
        view.warn("ignored: a")
        view.warn("ignored: a")
    assert console.file.getvalue() == "ignored: a\n"  # type: ignore[attr-defined]
