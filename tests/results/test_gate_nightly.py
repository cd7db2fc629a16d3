"""`make nightly` by a dry run, and the workflow file that calls it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml
from ran import ROOT


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    found = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    assert isinstance(found, dict)
    return found


def dry(*settings: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    done = subprocess.run(["make", "-n", "nightly", *settings], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", " ")


def test_nightly_runs_every_toy_table_afresh_and_asks_both_gates() -> None:
    lines = [" ".join(line.split()) for line in dry().splitlines() if "nightly" in line]
    tables = " ".join(f"toy/{path.stem}" for path in sorted((ROOT / "recipes/toy").glob("table*.yaml")))
    assert lines[0] == "rm -rf nightly"
    assert lines[1].endswith("ssbench prepare toy --data-root nightly/data")
    assert f"ssbench run {tables} --seed 0 --seed 1 --seed 2 " in lines[2]
    assert "--results nightly/results" in lines[2]
    assert lines[2].endswith("|| test $? -eq 6")  # failed runs are the gate's to report, a stop is not
    assert len(lines) == 4
    scores, throughput = lines[3].split(" || code=$?;")[:2]
    for command, file in ((scores, "scores"), (throughput, "throughput")):
        assert f"ssbench gate {tables} --against results --results nightly/results" in command
        assert f"--junit nightly/{file}.xml" in command
    assert "--throughput" in throughput
    assert lines[3].endswith("exit $code")


def test_nightly_takes_settings() -> None:
    said = dry("TABLES=toy/table1", "SEEDS=0 7", "GATE=--exact", "STORED=elsewhere", "SLOWER=0.1")
    assert "run toy/table1 --seed 0 --seed 7 " in said
    assert "--exact" in said
    assert "--against elsewhere" in said
    assert "--slower 0.1" in said


def test_the_workflow_is_for_a_machine_of_one_s_own(workflow: dict[Any, Any]) -> None:
    """YAML 1.1 reads the key `on` as true; Actions does not mind."""
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}  # never on somebody else's pull request
    assert workflow[True]["schedule"][0]["cron"].split()[2:] == ["*", "*", "*"]
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "self-hosted" in job["runs-on"]
    assert job["timeout-minutes"] <= 24 * 60


def test_the_workflow_checks_out_runs_and_uploads_whatever_happened(workflow: dict[Any, Any]) -> None:
    (job,) = workflow["jobs"].values()
    checkout, run, upload = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["persist-credentials"] is False
    assert run == {"run": "make nightly"}
    assert upload["uses"].startswith("actions/upload-artifact@")
    assert upload["if"] == "always()"
    assert "nightly/*.xml" in upload["with"]["path"]
