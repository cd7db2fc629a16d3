"""WPL's detector as a step of a run: what it leaves in the folder, hands on as maps, does again and does not."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CLASSES, plugin, prepared
from running import start

from ssbench.errors import RecipeError
from ssbench.ops.components import component_boxes, right
from ssbench.plugins.base import PrepareInputs
from ssbench.plugins.wpl import WPL
from ssbench.plugins.wpl_boxes import BoxMaps


def small(**chosen: Any) -> WPL:
    made = plugin("wpl", **{**WPL.quick, **chosen})
    assert isinstance(made, WPL)
    return made


def noted(folder: Path, **chosen: Any) -> tuple[PrepareInputs, list[str]]:
    """What `prepare` is given, and the labels of the loops it goes through."""
    labels: list[str] = []

    def progress(items: Iterable[Any], label: str) -> Iterable[Any]:
        labels.append(label)
        return items

    return replace(prepared(folder, 48), progress=progress, **chosen), labels


def boxes(run: PrepareInputs) -> bytes:
    return (run.folder / "detector" / "boxes.json").read_bytes()


def test_boxes_of_all_unlabelled_images_are_stored_and_handed_on(tmp_path: Path) -> None:
    run, labels = noted(tmp_path)
    small().prepare(run)
    assert labels == ["boxes of labels", "detector", "boxes", "boxes against hidden labels"]
    found = json.loads(boxes(run))["images"]
    assert tuple(found) == run.unlabeled
    (maps,) = run.maps
    assert isinstance(maps, BoxMaps)
    assert {id: tuple(maps(id)) for id in (*run.labeled, *run.unlabeled)} == {
        **dict.fromkeys(run.labeled, ()),
        **dict.fromkeys(run.unlabeled, ("boxes0",)),
    }
    assert maps("u0")["boxes0"].size == (48, 48)
    rows = [row for one in found.values() for row in one["rows"]]
    assert rows
    for x0, y0, x1, y1, c, score in rows:
        assert 0 <= x0 < x1 <= 48
        assert 0 <= y0 < y1 <= 48
        assert c in (1, 2, 3)
        assert 0.05 < score <= 1


def test_what_is_done_is_not_done_again_nor_for_another_threshold(tmp_path: Path) -> None:
    small().prepare(noted(tmp_path)[0])
    before = boxes(noted(tmp_path)[0])
    for one in (small(), small(box_score=0.5, k=3, memory_size=7)):
        run, labels = noted(tmp_path)
        one.prepare(run)
        assert (labels, boxes(run)) == ([], before)


@pytest.mark.parametrize(
    ("chosen", "changed"),
    [({"detector_iterations": 5}, {}), ({"min_area": 5}, {}), ({"box_classes": (1, 3)}, {}), ({}, {"seed": 1}),
     ({}, {"labeled": ("l1", "l2")}), ({}, {"unlabeled": ("u0", "u1", "u9")})],
)  # fmt: skip
def test_what_would_change_boxes_makes_them_anew(chosen: Any, changed: Any, tmp_path: Path) -> None:
    first, _ = noted(tmp_path)
    small().prepare(first)
    before = boxes(first)
    run, labels = noted(tmp_path, **changed)
    small(**chosen).prepare(run)
    assert "detector" in labels
    assert boxes(run) != before


def test_two_folders_hold_the_same(tmp_path: Path) -> None:
    runs = [noted(tmp_path / name)[0] for name in ("one", "two")]
    for run in runs:
        small().prepare(run)
    assert boxes(runs[0]) == boxes(runs[1])


def die_at_write(folder: Path, number: int) -> None:
    """Prepare in `folder`, and be killed when the `number`-th file is about to get its name."""
    written = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and folder in Path(str(arguments[1])).parents:
            written.append(arguments)
            if len(written) == number:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.addaudithook(watch)
    small().prepare(prepared(folder, 48))


FILES = ("detector.pt", "boxes.json", "accuracy.json")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_at_any_write_it_ends_with_the_same_files(number: int, tmp_path: Path) -> None:
    """Training, boxes, their accuracy, and the mark that all is there; the mark comes last."""
    whole, _ = noted(tmp_path / "whole")
    small().prepare(whole)
    process = start(die_at_write, tmp_path / "killed", number)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    run, labels = noted(tmp_path / "killed")
    small().prepare(run)
    assert labels[-1] == "boxes against hidden labels"  # the stage was not done
    for name in FILES[1:]:
        assert (run.folder / "detector" / name).read_bytes() == (whole.folder / "detector" / name).read_bytes(), name
    small().prepare(noted(tmp_path / "killed")[0])
    assert {f.name for f in (run.folder / "detector").iterdir() if not f.name.startswith(".")} == set(FILES)


def test_boxes_without_their_accuracy_are_not_done(tmp_path: Path) -> None:
    """As a kill between the two left them before they had an order: counted again, with no step of training."""
    first, _ = noted(tmp_path)
    small().prepare(first)
    accuracy, before = tmp_path / "detector" / "accuracy.json", boxes(first)
    told = accuracy.read_bytes()
    accuracy.unlink()
    run, labels = noted(tmp_path)
    small().prepare(run)
    assert labels == ["boxes of labels", "boxes", "boxes against hidden labels"]
    assert (accuracy.read_bytes(), boxes(run)) == (told, before)


@pytest.mark.parametrize("rows", ['"many"', "[[0, 0, 5]]", "[[0, 0, 5, 5, 1, NaN]]", "[[0, 0, 5, 5, -1, 0.9]]"])
def test_damaged_boxes_are_sought_again(rows: str, tmp_path: Path) -> None:
    first, _ = noted(tmp_path)
    small().prepare(first)
    before = boxes(first)
    file = tmp_path / "detector" / "boxes.json"
    file.write_text(re.sub(r'"rows":\[\[.*?\]\]', f'"rows":{rows}', before.decode(), count=1))
    run, labels = noted(tmp_path)
    small().prepare(run)
    assert "boxes" in labels
    assert "detector" not in labels
    assert boxes(run) == before


def test_accuracy_is_counted_against_the_hidden_labels(tmp_path: Path) -> None:
    run, _ = noted(tmp_path)
    small().prepare(run)
    told = json.loads((tmp_path / "detector" / "accuracy.json").read_text())
    assert (told["images"], told["score"], told["iou"]) == (8, 0.05, 0.8)
    counted = {str(c): {"boxes": 0, "right": 0} for c in (1, 2, 3)}
    for id, image in json.loads(boxes(run))["images"].items():
        rows = np.array([row[:5] for row in image["rows"] if row[5] >= 0.05]).reshape(-1, 5)
        good = right(rows, component_boxes(np.array(run.mask(id)), (1, 2, 3), 90))
        for row, fine in zip(rows, good, strict=True):
            counted[str(int(row[4]))]["boxes"] += 1
            counted[str(int(row[4]))]["right"] += int(fine)
    assert told["classes"] == counted
    assert sum(n["boxes"] for n in counted.values())


def test_grey_images(tmp_path: Path) -> None:
    run, _ = noted(tmp_path)
    grey = replace(run, image=lambda id: run.image(id).convert("L"))
    small().prepare(grey)
    assert tuple(json.loads(boxes(grey))["images"]) == run.unlabeled


def test_labels_that_show_nothing_large_enough_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no labelled image has a part of more than 4000 pixels") as told:
        small(min_area=4000).prepare(noted(tmp_path)[0])
    assert "rppi" in told.value.fix


def test_samples_follow_the_number_of_images(tmp_path: Path) -> None:
    one = small()
    assert one.samples == 1
    one.prepare(noted(tmp_path)[0])
    assert one.samples == int(CLASSES / 3 * round(256 / 8))
    two = small(samples=3)
    two.prepare(noted(tmp_path)[0])
    assert two.samples == 3
