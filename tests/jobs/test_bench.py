"""`bench`, `plan --measure` and `gate --throughput --measure`: what they time, store and compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ran import Ran

from ssbench.files import write_json
from ssbench.jobs.cost import measured_speeds, speed_file, speed_kind, stored_speeds
from ssbench.recipe.recipe import load
from ssbench.train.machine import hardware

RESULTS = Path(__file__).resolve().parents[2] / "results"
Ssbench = Callable[..., Ran]
TOY = ("toy/none_supervised", "--split", "toy/ours/1_16")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_steps_are_timed_exact_and_fast_with_and_without_loading(ssbench: Ssbench, toy_data: Path) -> None:
    ran = ssbench("bench", *TOY, "--steps", "1", "--device", "cpu", "--data-root", toy_data, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    ways = [(row["precision"], row["loading"]) for row in result["timings"]]
    assert ways == [("exact", False), ("fast", False), ("exact", True), ("fast", True)]
    images = load("toy/none_supervised").schedule.labeled_batch
    for row in result["timings"]:
        assert row["seconds_per_step"] > 0
        assert row["images_per_s"] == pytest.approx(images / row["seconds_per_step"])
    assert not list(Path().rglob("*.pt")), "nothing is stored"


def test_without_data_steps_are_timed_on_noise_alone(ssbench: Ssbench, tmp_path: Path) -> None:
    ran = ssbench("bench", *TOY, "--steps", "1", "--device", "cpu", "--data-root", tmp_path / "none", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert [row["loading"] for row in result["timings"]] == [False, False]
    assert "no step with loading was timed" in result["note"]


def test_a_plan_is_made_with_what_was_measured(ssbench: Ssbench, toy_data: Path) -> None:
    words = ("plan", *TOY, "--data-root", toy_data, "--json")
    ran = ssbench(*words, "--measure")
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)["runs"][0]
    assert run["basis"].startswith("measured on ")
    assert run["measured"]
    kinds = {precision: speed_kind(load("toy/none_supervised", [f"schedule.precision={precision}"]).resolved())
             for precision in ("exact", "fast")}  # fmt: skip
    speeds = measured_speeds()
    assert set(speeds) == set(kinds.values())
    hours = run["work"]["images"] / speeds[kinds["exact"]].images_per_s / 3600
    assert run["hours"] == pytest.approx(hours)


def test_a_damaged_file_of_speeds_is_as_none(tmp_path: Path) -> None:
    assert measured_speeds() == {}
    write_json(speed_file(), {"machines": {"a": {"b": {"machine": "a", "images_per_s": "fast"}}}})
    assert measured_speeds() == {}
    assert stored_speeds([]) == {}


def test_the_gate_times_the_stored_runs_of_this_machine(ssbench: Ssbench, toy_data: Path, tmp_path: Path) -> None:
    place = "toy/none_supervised/toy-ours-1_16/seed0.json"
    record = json.loads((RESULTS / place).read_text())
    stored = tmp_path / "stored"
    (stored / place).parent.mkdir(parents=True)
    write_json(stored / place, {**record, "hardware": hardware(torch.device("cpu"))})
    ran = ssbench("gate", "--against", stored, "--throughput", "--measure", "--slower", "0.99",
                  "--data-root", toy_data, "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    (cell,) = json.loads(ran.out)["cells"]
    assert cell["verdict"] in ("within", "faster")


def test_only_speeds_can_be_measured_by_the_gate(ssbench: Ssbench) -> None:
    assert ssbench("gate", "--against", "results", "--measure").code == 2
