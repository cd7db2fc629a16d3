"""Tables that show more than scores: `run` and `eval --store` make the analyses, `table` shows, `plan` counts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ran import SMALL, Ran

from ssbench import find
from ssbench.errors import DataError
from ssbench.inspect.pseudo_labels import ClassBoxes, PixelGroups
from ssbench.plugins.wpl_boxes import ImageBoxes
from ssbench.results.analysis import Analysis, analysis_path, read_analysis, store_analysis
from ssbench.results.store import ResultStore
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

Ssbench = Callable[..., Ran]
SPLIT = "toy/ours/1_8"
WPL = json.dumps({"name": "wpl", "variant": "release", **find.load("plugin", "wpl").quick, "confidence": 0.1})
MPMC = json.dumps({"name": "mpmc", **find.load("plugin", "mpmc").quick, "warmup_epochs": 0})
TINY = SMALL.replace("few: 8", "few: 4").replace("few: 6", "few: 2").replace("test}", "val}")
RECIPES = {
    "plain": TINY.replace("{name: s4mc}", "none"),
    "judged": TINY.replace("{name: s4mc}", MPMC),
    "boxed": TINY.replace("{name: s4mc}", WPL).replace("fixmatch", "unimatch"),
}
CLASSES = ("sky", "sun")  # two of the toy's classes, for columns
PATCHES = f"""
title: Patches
metric: miou_gain
defaults: {{recipe: judged.yaml, beside: plain.yaml, split: {SPLIT}}}
columns: [{{id: a90, label: 90+}}, {{id: a0, label: 0-10}}]
rows: [{{id: share, label: share, metric: patch_share}}, {{id: gain, label: gain}}]
"""
LABELS = f"""
title: Boxes and pixels
metric: pixel_accuracy
defaults: {{split: {SPLIT}}}
columns: [{{id: one, label: one, class_name: CLASS}}, {{id: none, label: none, class_name: unheard of}}]
rows:
  - {{id: boxes, label: boxes, metric: box_accuracy, recipe: boxed.yaml}}
  - {{id: pixel, label: pixel, recipe: plain.yaml, beside: boxed.yaml, pixels: confident}}
  - {{id: agreed, label: agreed, recipe: plain.yaml, beside: boxed.yaml, pixels: agreed}}
"""


@pytest.fixture(scope="module")
def box_class() -> str:
    return str(find.load("dataset", "toy").classes[1])


@pytest.fixture
def folder(tmp_path: Path, box_class: str) -> Path:
    """Three recipes and two tables in the folder the command works in."""
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "table1.yaml").write_text(PATCHES)
    (tmp_path / "table2.yaml").write_text(LABELS.replace("CLASS", box_class))
    return tmp_path


def numbers(ssbench: Ssbench, table: str) -> dict[tuple[str, str], float | None]:
    shown = ssbench("table", table, "--json")
    assert shown.code == 0, shown.err
    return {(c["row_id"], c["column_id"]): c["measured"] for c in json.loads(shown.out)["cells"]}


def test_running_a_table_makes_its_analyses_once(ssbench: Ssbench, folder: Path, toy_data: Path) -> None:
    """Patches: both runs, then the analysis; a second call makes nothing again; the plan knows."""
    words = ("table1.yaml", "--data-root", toy_data)
    plan = json.loads(ssbench("plan", *words, "--json").out)
    runs = {(r["recipe"].rpartition("/")[2], r["state"]) for r in plan["runs"]}
    assert runs == {("judged.yaml", "missing"), ("plain.yaml", "missing")}
    assert [(a["kind"], a["state"]) for a in plan["analyses"]] == [("patches", "missing")]
    ran = ssbench("run", *words)
    assert ran.code == 0, ran.err
    path = analysis_path(folder / "results", "custom/judged", SPLIT, 0, "patches")
    first = path.read_bytes()
    stored = read_analysis(folder / "results", "custom/judged", SPLIT, 0, "patches")
    assert stored is not None
    assert stored.beside is not None
    assert stored.beside[0] == "custom/plain"
    assert sum(row["patches"] for row in stored.counts.values()) > 100
    shown = numbers(ssbench, "table1.yaml")
    assert shown["share", "a90"] == pytest.approx(stored.value("90+", "share"), abs=1e-4)
    assert shown["gain", "a0"] == pytest.approx(stored.value("0-10", "gain"), abs=1e-4)
    again = ssbench("run", *words)
    assert again.code == 0, again.err
    assert path.read_bytes() == first
    plan = json.loads(ssbench("plan", *words, "--json").out)
    assert {a["state"] for a in plan["analyses"]} == {"done"}
    for form in ("md", "csv", "latex", "html"):
        assert "not yet" not in ssbench("table", "table1.yaml", "--format", form).out


def test_boxes_and_pixels_by_class(ssbench: Ssbench, folder: Path, toy_data: Path, box_class: str) -> None:
    """The table's analyses, and the same numbers from `eval`, which stores them too."""
    ran = ssbench("run", "table2.yaml", "--data-root", toy_data)
    assert ran.code == 0, ran.err
    results = folder / "results"
    boxes = read_analysis(results, "custom/boxed", SPLIT, 0, "boxes")
    pixels = read_analysis(results, "custom/plain", SPLIT, 0, "pixels")
    assert boxes is not None
    assert pixels is not None
    shown = numbers(ssbench, "table2.yaml")
    assert shown["boxes", "none"] is None
    for row, analysis, quantity in (("boxes", boxes, "accuracy"), ("agreed", pixels, "agreed")):
        value = analysis.value(box_class, quantity)
        assert shown[row, "one"] == (None if value is None else pytest.approx(value, abs=1e-4))
    groups = pixels.counts[box_class]
    assert groups["agreed"] + groups["unboxed"] == groups["confident"]
    path = analysis_path(results, "custom/plain", SPLIT, 0, "pixels")
    path.unlink()
    best = {name: folder / f"runs/custom/{name}/toy-ours-1_8/seed0/best.pt" for name in RECIPES}
    words = ("--recipe", "plain.yaml", "--split", SPLIT, "--data-root", toy_data, "--pixels", "--store")
    done = ssbench("eval", best["plain"], *words, "--baseline", best["boxed"], "--baseline-recipe", "boxed.yaml")
    assert done.code == 0, done.err
    again = read_analysis(results, "custom/plain", SPLIT, 0, "pixels")
    assert again is not None
    assert (again.values, again.counts, again.beside) == (pixels.values, pixels.counts, pixels.beside)


def test_a_quick_table_analyses_its_quick_runs(ssbench: Ssbench, folder: Path, toy_data: Path) -> None:
    ran = ssbench("run", "table1.yaml", "--quick", "--data-root", toy_data)
    assert ran.code == 0, ran.err
    assert list((folder / "runs/quick").rglob("analysis-patches-seed0.json"))
    assert not list((folder / "results").rglob("*.json"))


def an_analysis(**fields: object) -> Analysis:
    base = {"schema": 1, "kind": "boxes", "recipe": "x/y", "split": SPLIT, "seed": 0, "key": "k", "subset": "val"}
    return Analysis.model_validate({**base, "values": {"tv/monitor": {"accuracy": 50.0}}, **fields})


def test_an_analysis_of_another_run_or_beside_another_does_not_count(
    ssbench: Ssbench, folder: Path, toy_data: Path
) -> None:
    assert ssbench("run", "table1.yaml", "--data-root", toy_data).code == 0
    table, store = PaperTable.read(folder / "table1.yaml"), ResultStore
    place = (folder / "results", "custom/judged", SPLIT, 0, "patches")
    sound = read_analysis(*place)  # type: ignore[arg-type]
    assert sound is not None
    for change in ({"key": "0" * 16}, {"beside": ("custom/other", "k")}, {"beside": None}):
        store_analysis(place[0], sound.model_copy(update=change))
        filled = fill(table, store(place[0]))
        assert {cell.state for cell in filled.cells.values()} == {"not run"}, change
        assert all(dict(cell.left_out) == {"run without its analysis": 1} for cell in filled.cells.values())
    analysis_path(*place).write_text('{"schema": 1, "values": {"90+": {"gain": "much"}}}')  # type: ignore[arg-type]
    damaged = store(place[0])
    assert {cell.state for cell in fill(table, damaged).cells.values()} == {"not run"}
    assert len(damaged.damaged) == 1
    with pytest.raises(DataError, match=r"analysis|kind"):
        read_analysis(*place)  # type: ignore[arg-type]


def test_names_of_classes_may_differ_in_writing(tmp_path: Path) -> None:
    store_analysis(tmp_path, an_analysis())
    stored = read_analysis(tmp_path, "x/y", SPLIT, 0, "boxes")
    assert stored is not None
    assert (stored.value("TVmonitor", "accuracy"), stored.value("tv", "accuracy")) == (50.0, None)
    assert read_analysis(tmp_path, "x/y", SPLIT, 1, "boxes") is None


def test_boxes_are_right_from_four_fifths_of_overlap_on() -> None:
    """Worked by hand: a 10 x 10 object; boxes of IoU 0.8 and 0.79, one below the score, one of another class."""
    mask = np.zeros((20, 20), np.uint8)
    mask[:10, :10] = 1
    rows = [(0.0, 0.0, 10.0, 8.0, 1, 0.9), (0.0, 0.0, 10.0, 7.9, 1, 0.9), (0.0, 0.0, 10.0, 10.0, 1, 0.8),
            (0.0, 0.0, 10.0, 10.0, 2, 0.9)]  # fmt: skip
    boxes = ClassBoxes((1, 2), 0.85, 90)
    boxes.add(ImageBoxes(size=(20, 20), rows=rows), mask)
    assert boxes.result(("none", "a", "b")) == {
        "values": {"a": {"accuracy": 50.0}, "b": {"accuracy": 0.0}},
        "counts": {"a": {"boxes": 2, "right": 1}, "b": {"boxes": 1, "right": 0}},
    }


def test_pixels_are_told_apart_by_the_box_of_their_class() -> None:
    """Worked by hand on 2 x 4 pixels: class 1 is said of five, four of them surely; the box covers the left half."""
    label = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    sure = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    logits = torch.where(torch.nn.functional.one_hot(label, 2).movedim(-1, 0).bool(), 6.0, 0.0)
    logits = torch.where(sure, logits, logits / 12)
    truth = np.array([[1, 0, 1, 0], [1, 255, 1, 0]], np.uint8)
    groups = PixelGroups(2, (1,), 0.85, 0.95, "centres")
    groups.add(logits, ImageBoxes(size=(4, 2), rows=[(0.0, 0.0, 2.0, 2.0, 1, 0.9)]), truth)
    result = groups.result(("none", "a"))
    assert result["values"]["none"] == {"confident": pytest.approx(200 / 3)}
    assert result["values"]["a"] == {"confident": pytest.approx(200 / 3), "agreed": 50.0, "unboxed": 100.0}
    assert result["counts"]["a"]["agreed"] == 2, "the pixel whose label is unknown counts nowhere"
