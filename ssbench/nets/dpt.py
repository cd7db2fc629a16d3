"""DPT on a DINOv2 encoder, as UniMatch V2 segments: four maps of tokens, reassembled and fused, without batch norm.

Source: UniMatch V2 f6afb4d, `model/semseg/dpt.py` and `model/util/blocks.py`; names of parameters are the released ones
(card: unimatch_v2 2). Weights are never random unawares: `weights: random` has to be written down.
Departure: parameters that no pass reads (the mask token, and the first residual unit of the deepest fusion) are frozen.
The release hands them to its optimiser, which leaves them alone for want of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ssbench.errors import RecipeError
from ssbench.nets.dinov2 import SIZES, DinoName, DinoVit, load_dino
from ssbench.nets.precision import full
from ssbench.nets.segnet import Out, SegNet, resize, with_perturbed

HEADS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "vit_small_patch14_dinov2": (64, (48, 96, 192, 384)),
    "vit_base_patch14_dinov2": (128, (96, 192, 384, 768)),
    "vit_large_patch14_dinov2": (256, (256, 512, 1024, 1024)),
    "vit_tiny_patch8": (16, (8, 8, 16, 16)),  # ours
}
"""By encoder: channels of the fused maps, and of the four maps that are reassembled (release unimatch_v2.py)."""


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3, [B, D, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The ReLU is not in place: the sum takes x as it came."""
        residual: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return residual + x


class Fusion(nn.Module):
    """A deeper map, with the lateral one added to it, refined and enlarged. Names as released."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(width, width, 1)
        self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)

    def forward(self, deep: Tensor, size: Sequence[int], lateral: Tensor | None = None) -> Tensor:
        """[B, D, *size], from `deep` and `lateral` of one size; the deepest fusion has no lateral map."""
        if lateral is not None:
            deep = deep + self.resConfUnit1(lateral)
        fused: Tensor = self.out_conv(resize(self.resConfUnit2(deep), size))
        return fused


class DPTHead(nn.Module):
    """Four maps [B, inputs, h, w] -> the fused map [B, width, 8h, 8w], and scores [B, classes, 8h, 8w] of it."""

    def __init__(self, inputs: int, width: int, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        c1, c2, _, c4 = channels
        self.projects = nn.ModuleList(nn.Conv2d(inputs, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(c1, c1, 4, 4),
            nn.ConvTranspose2d(c2, c2, 2, 2),
            nn.Identity(),
            nn.Conv2d(c4, c4, 3, 2, 1),
        ])  # fmt: skip
        self.scratch = nn.Module()
        for i, c in enumerate(channels, start=1):
            self.scratch.add_module(f"layer{i}_rn", nn.Conv2d(c, width, 3, padding=1, bias=False))
        for i in range(1, 5):
            self.scratch.add_module(f"refinenet{i}", Fusion(width))
        output = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1)]
        self.scratch.add_module("output_conv", nn.Sequential(*output))
        self.scratch.get_submodule("refinenet4.resConfUnit1").requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Input of the last 1x1 convolution, and its scores."""
        part = self.scratch.get_submodule
        pairs = zip(self.projects, self.resize_layers, maps, strict=True)
        laterals = [part(f"layer{i}_rn")(grow(project(x))) for i, (project, grow, x) in enumerate(pairs, start=1)]
        fused = part("refinenet4")(laterals[3], laterals[2].shape[-2:])
        for i in (3, 2, 1):
            height, width = laterals[i - 1].shape[-2:]
            size = laterals[i - 2].shape[-2:] if i > 1 else (2 * height, 2 * width)
            fused = part(f"refinenet{i}")(fused, size, laterals[i - 1])
        first, relu, last = part("output_conv").children()
        fused = relu(first(fused))
        return fused, last(fused)


class DPT(SegNet):
    """DPT for `classes` classes: with 21 of them 24,795,637 parameters on DINOv2-S, 97,528,789 on -B.

    Draws initial values from torch's global generator, then loads `cfg.weights` into the encoder. Images whose sides
    are no multiples of the patch are resized to the nearest ones, and scores back, both bilinear with corners aligned:
    so the release evaluates (card: unimatch_v2 7). `feats` has the four maps at the stride of the patch.
    """

    no_files: ClassVar[Mapping[str, Any]] = {"weights": "random"}
    quick: ClassVar[Mapping[str, Any]] = {"encoder": "vit_tiny_patch8", "weights": "random"}
    not_local: ClassVar[str] = "every token of a transformer sees the whole image"

    class Config(BaseModel):
        """Settings of the network; the defaults are the authors' small one."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        name: Literal["dpt"] = "dpt"
        encoder: DinoName = "vit_small_patch14_dinov2"  # release configs/*.yaml backbone
        weights: Annotated[str, Field(min_length=1)] = (
            "dinov2"  # "dinov2" (Meta's, by timm), "package", "random", a file
        )
        frozen: bool = False  # release lock_backbone: whether the encoder keeps its weights

    def __init__(self, cfg: Config, classes: int, channels: int = 3) -> None:
        super().__init__()
        if channels != 3:
            raise RecipeError(f"dpt takes images of 3 channels, not {channels}", fix="another net")
        self.cfg, self.classes, self.size = cfg, classes, SIZES[cfg.encoder]
        self.perturb_channels = (self.size.width,) * 4
        self.backbone = DinoVit(self.size)
        self.head = DPTHead(self.size.width, *HEADS[cfg.encoder], classes)
        load_dino(self.backbone, cfg.weights, cfg.encoder)
        if cfg.frozen:
            self.backbone.requires_grad_(False)

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Scores of x [B, 3, H, W]; `drop` multiplies the four maps of tokens before the decoder (see `SegNet`)."""
        maps = self.backbone.maps(self._whole_patches(x), self.size.blocks)
        fused, scores = self.head(with_perturbed(maps, drop, alone))
        scores, n, patch = full(scores), len(x), self.size.patch
        rows, columns = maps[0].shape[-2:]
        resized = resize(resize(scores, (patch * rows, patch * columns)), x.shape[-2:])
        feats = {f"layer{i}": f for i, f in enumerate(maps, start=1)} | {"penultimate": fused[:n], "logits": scores[:n]}
        return Out(resized[:n], None if drop is None or alone else resized[n:], feats)

    def _first_stage(self, x: Tensor) -> Tensor:
        return self.backbone.maps(self._whole_patches(x), self.size.blocks[:1])[0]

    def _whole_patches(self, x: Tensor) -> Tensor:
        """x at the nearest multiple of the patch in height and width (release supervised.py `evaluate`)."""
        patch = self.size.patch
        return resize(x, [max(int(side / patch + 0.5), 1) * patch for side in x.shape[-2:]])

    def receptive_field(self) -> tuple[int, int]:
        """None is known. RecipeError."""
        raise RecipeError(f"dpt has no stage of local features: {self.not_local}", "net", "another net")

    def backbone_parameters(self) -> list[nn.Parameter]:
        """What is trained of the encoder."""
        return [p for p in self.backbone.parameters() if p.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """The decoder, but for the unit that no pass reads."""
        return [p for p in self.head.parameters() if p.requires_grad]
