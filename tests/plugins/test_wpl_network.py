"""The detectors: torchvision's by structure, where its weights come from, what they return."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from ssbench.errors import DataError
from ssbench.plugins.wpl_detector import detect, faster_rcnn


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file, as ImageNet's is."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(resnet50().state_dict(), path)
    return path


def test_the_structure_is_that_of_torchvisions_builder() -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    ours = faster_rcnn("resnet50_fpn", 20, "random")
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert str(ours.roi_heads) == str(theirs.roi_heads)
    assert str(ours.transform) == str(theirs.transform)


def test_pretrained_encoders_come_from_a_file_and_keep_their_statistics_and_first_stage(weights: Path) -> None:
    model = faster_rcnn("resnet50_fpn", 3, str(weights))
    body, file = model.backbone.body, torch.load(weights, weights_only=True)
    for name, value in body.state_dict().items():
        assert torch.equal(value, file[name]), name
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in body.modules()) == 53
    fixed = {name.partition(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "layer1"}
    assert all(p.requires_grad for p in model.rpn.parameters())


def test_weights_that_are_not_there() -> None:
    with pytest.raises(DataError, match="no weights file"):
        faster_rcnn("resnet50_fpn", 3, "nowhere.pth")


def test_the_small_one_finds_boxes_inside_the_image_and_labels_from_one() -> None:
    torch.manual_seed(0)
    model = faster_rcnn("small", 3, "random")
    model.roi_heads.score_thresh = 0.0
    boxes, labels, scores = detect(model, torch.rand(3, 88, 112))
    assert len(boxes) == len(labels) == len(scores) > 0
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 112).all()
    assert (boxes[:, [1, 3]] <= 88).all()
    assert set(labels.tolist()) <= {1, 2, 3}
    assert (scores.diff() <= 0).all()
