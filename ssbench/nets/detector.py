"""Faster R-CNN from torchvision's parts, for plug-ins that use a detector's boxes (WPL).

"resnet50_fpn" equals what torchvision's builder of that name makes, which WPL's release calls. Only the encoder's
weights come from elsewhere: as everywhere in the suite from a file or from ImageNet, never from a trained detector.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from ssbench.nets.weights import load_encoder

DetectorKind = Literal["resnet50_fpn", "small"]
FROZEN = ("conv1.", "bn1.", "layer1.")
"""Layers of a pretrained encoder that torchvision's builder does not train (it trains three stages by default)."""


def faster_rcnn(kind: DetectorKind, classes: int, weights: str) -> FasterRCNN:
    """A detector of `classes` classes (labels 1 to `classes`, 0 = none) for images 3 H W in [0, 1].

    Randomly initialised except for its encoder. Kind "small" is ours, for pictures of about 100 pixels.

    Args:
        weights: of the encoder: "random", "imagenet" (timm, downloads once), or a file. "small" has "random" alone.

    Raises:
        DataError: the weights are absent or misfit.
    """
    if kind == "small":
        return _small(classes)
    body = _pretrained(weights) if weights != "random" else resnet50()
    names = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    return FasterRCNN(BackboneWithFPN(body, names, [256, 512, 1024, 2048], 256), classes + 1)


def _pretrained(weights: str) -> nn.Module:
    """ResNet-50 with fixed batch norm, its first stage fixed."""
    holder = nn.Module()
    plain = resnet50()
    plain.fc = nn.Identity()
    holder.backbone = plain
    load_encoder(holder, weights, "resnet50")
    body: nn.Module = resnet50(norm_layer=FrozenBatchNorm2d)
    body.fc = nn.Identity()
    body.load_state_dict(plain.state_dict())
    for name, value in body.named_parameters():
        value.requires_grad_(not name.startswith(FROZEN))
    return body


class _SmallEncoder(nn.Module):
    """x [B, 3, H, W] -> one map [B, 96, H / 8, W / 8]."""

    out_channels = 96

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, out, stride in ((3, 24, 2), (24, 48, 2), (48, 96, 2), (96, 96, 1)):
            conv = nn.Conv2d(wide, out, 3, stride, 1, bias=False)
            layers += [conv, nn.GroupNorm(8, out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _small(classes: int) -> FasterRCNN:
    """Pictures of 96 pixels (the short side), one map, small heads and samples."""
    anchors = AnchorGenerator(sizes=((16, 32, 48, 64),), aspect_ratios=((0.5, 1.0, 2.0),))
    wide = _SmallEncoder.out_channels
    return FasterRCNN(
        _SmallEncoder(),
        min_size=96,
        max_size=256,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(wide, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=TwoMLPHead(wide * 25, 128),
        box_predictor=FastRCNNPredictor(128, classes + 1),
        box_batch_size_per_image=64,
    )


@torch.no_grad()
def detect(model: FasterRCNN, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n 4 boxes in the image's pixels, n labels, n scores in [0, 1]) of one image 3 H W, in eval mode, on the CPU.

    torchvision's own rules: scores above 0.05, NMS at 0.5, at most 100 boxes.
    """
    model.eval()
    detections = model([image])[0]
    return detections["boxes"].cpu(), detections["labels"].cpu(), detections["scores"].cpu()
