"""A run on toy data beside made logs, by the command line: what its log and `ssbench status` say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from ran import Ran
from running import SPLIT, TINY, Job

from ssbench.tables.claims import Claim, write_claim

Command = Callable[..., Ran]
EPOCHS = 3


@pytest.fixture
def job(toy: Path, tmp_path: Path) -> Job:
    return Job(toy, tmp_path, (*TINY, f"schedule.epochs={EPOCHS}"), "toy/none_supervised")


def claim(score: float, number: int) -> Claim:
    curve = tuple((epoch, score) for epoch in range(EPOCHS))
    return Claim("supervised", None, SPLIT, "test_resnet", 48, "miou", Decimal(str(score)), "log", f"made {number}", "",
                 curve, EPOCHS)  # fmt: skip


def rows(ssbench: Command, job: Job) -> list[dict[str, object]]:
    return json.loads(ssbench("status", "--runs", job.out / "runs", "--json").out)["runs"]


def test_a_run_below_the_band_is_told_early(ssbench: Command, job: Job) -> None:
    for number in range(3):
        write_claim(job.out / "results", claim(95.0 - number, number))
    done = ssbench(*job.arguments)
    assert done.code == 0
    (row,) = rows(ssbench, job)
    text = str(row["band"])
    assert text.startswith(f"epoch {EPOCHS}: {row['score']:.1f}, band 91.9 to 96.1 of 3 released logs")
    assert text.endswith("check weights and batch size")
    assert done.err.count("outside the band of released logs: epoch 1: ") == 1  # once, at the first epoch
    assert text in ssbench("status", "--runs", job.out / "runs").out.replace("\n", " ")


def test_a_run_inside_or_without_logs_says_nothing(ssbench: Command, job: Job) -> None:
    done = ssbench(*job.arguments)
    assert "band of released logs" not in done.err
    (row,) = rows(ssbench, job)
    assert row["band"] == ""
    (stored,) = (path for path in (job.out / "results").rglob("seed0.json"))
    history = json.loads(stored.read_text())["history"]
    curve = tuple((entry["epoch"], round(entry["select"], 2)) for entry in history if "select" in entry)
    again = Job(job.data, job.out / "again", job.overrides, job.recipe)
    for number in range(2):
        log = replace(claim(max(score for _, score in curve), number), curve=curve)
        write_claim(again.out / "results", log)
    assert "band of released logs" not in ssbench(*again.arguments).err
    assert rows(ssbench, again)[0]["band"] == ""


def test_a_damaged_claim_ends_no_run(ssbench: Command, job: Job) -> None:
    path = job.out / "results/claims/x.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert ssbench(*job.arguments).code == 0
