"""The detector's stage: it learns, continues after a stop or kill, and takes no file of another run for its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssbench.errors import DataError, RunsFailed, Stopped
from ssbench.plugins import wpl_detector
from ssbench.plugins.wpl_detector import DetectorSchedule, DetectorStage, faster_rcnn

IDS, CLASSES = ("u0", "u1", "u2"), (3, 7)
SCHEDULE = DetectorSchedule(6, 1e-3, 5e-4, 0)


def scene(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A red square (label 1) and a green one (label 2) on noise."""
    g = torch.Generator().manual_seed(seed)
    x, boxes = 0.2 * torch.rand(3, 64, 64, generator=g), []
    for channel, left in ((0, 2), (1, 34)):
        at, top = (int(v) for v in torch.randint(0, 8, (2,), generator=g))
        boxes.append([left + at, top, left + at + 20, top + 20])
        x[channel, top : top + 20, left + at : left + at + 20] = 1
    return x, torch.tensor(boxes, dtype=torch.float32), torch.tensor([1, 2])


def examples(step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [scene(2 * step), scene(2 * step + 1)]


def image(id: str) -> Tensor:
    return scene(1000 + IDS.index(id))[0]


class Watch:
    """Ends a loop of some name after some items."""

    def __init__(self, label: str = "", after: int = 0, error: type[BaseException] = Stopped) -> None:
        self.label, self.after, self.error = label, after, error
        self.seen: list[str] = []

    def __call__(self, items: Iterable[Any], label: str) -> Iterator[Any]:
        for k, item in enumerate(items):
            if label == self.label and k == self.after:
                raise self.error("enough")
            self.seen.append(label)
            yield item


def stage(folder: Path, watch: Watch | None = None, made_from: str = "this") -> DetectorStage:
    return DetectorStage(folder, made_from, torch.device("cpu"), watch or Watch())


def whole(
    folder: Path, watch: Watch | None = None, made_from: str = "this", schedule: DetectorSchedule = SCHEDULE
) -> bytes:
    """The stage from nothing or from what is there; the bytes of what was found."""
    torch.manual_seed(3)
    model, one = faster_rcnn("small", 2, "random"), stage(folder, watch, made_from)
    one.train(model, examples, schedule)
    one.finish(one.survey(model, IDS, image, CLASSES), {"right": 1})
    return (folder / "boxes.json").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a stage nobody disturbed finds."""
    return whole(tmp_path_factory.mktemp("alone"))


def test_it_learns(tmp_path: Path) -> None:
    whole(tmp_path, schedule=DetectorSchedule(40, 2e-3, 0.0, 0))
    found = stage(tmp_path).wait_for_boxes()
    for id in IDS:
        best = {row[4]: row for row in reversed(found[id].rows)}
        truth = scene(1000 + IDS.index(id))[1].tolist()
        for c, edges in zip(CLASSES, truth, strict=True):
            assert best[c][:4] == pytest.approx(edges, abs=8)
        assert found[id].size == (64, 64)


@pytest.mark.parametrize(("label", "after"), [("detector", 0), ("detector", 4), ("boxes", 0), ("boxes", 2)])
def test_stopped_and_started_again(label: str, after: int, alone: bytes, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        whole(tmp_path, Watch(label, after))
    assert stage(tmp_path).boxes() is None
    again = Watch()
    assert whole(tmp_path, again) == alone
    assert again.seen.count(label) == (6 if label == "detector" else 3) - after


@pytest.mark.parametrize(("label", "after"), [("detector", 3), ("boxes", 1)])
def test_killed_after_a_write(
    label: str, after: int, alone: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wpl_detector, "SAVE_EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path, Watch(label, after, KeyboardInterrupt))
    again = Watch()
    assert whole(tmp_path, again) == alone
    assert again.seen.count(label) == (6 if label == "detector" else 3) - after


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = faster_rcnn("small", 2, "random")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    stage(tmp_path).train(model, examples, SCHEDULE)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_of_another_run_are_not_taken(alone: bytes, tmp_path: Path) -> None:
    whole(tmp_path, made_from="another")
    watch = Watch()
    assert stage(tmp_path).boxes() is None
    assert json.loads(whole(tmp_path, watch))["images"] == json.loads(alone)["images"]
    assert watch.seen.count("detector") == 6


def test_damage(alone: bytes, tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / "boxes.json").write_text('{"made_from": "this", "comp')
    assert whole(tmp_path) == alone
    (tmp_path / "detector.pt").write_bytes(b"torn")
    with pytest.raises(DataError, match="the detector cannot be read") as told:
        whole(tmp_path)
    assert "rm " in told.value.fix


def test_steps_without_a_box_change_nothing(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = faster_rcnn("small", 2, "random")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage(tmp_path).train(model, lambda _: [], SCHEDULE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = faster_rcnn("small", 2, "random")
    next(iter(model.roi_heads.box_predictor.parameters())).data.fill_(torch.nan)
    with pytest.raises(RunsFailed, match="loss of step 0 is not finite"):
        stage(tmp_path).train(model, examples, SCHEDULE)
    assert not (tmp_path / "detector.pt").exists()
