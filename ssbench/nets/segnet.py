"""The interface of every segmentation network of the suite, and the two operations all of them use.

Letters as in `ssbench.ops`: B batch, C classes, H W pixels, h w feature grid, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssbench.errors import DataError
from ssbench.nets.precision import FormattedModule
from ssbench.nets.pretrained import missing_weights
from ssbench.ops.set_loss import QueryOutput

T = TypeVar("T")
Interpolation = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Out:
    """What a network returns for a batch of images.

    logits     [B, C, H, W] at input size.
    perturbed  [B, C, H, W] of the same images with feature perturbation, None unless `drop` was given.
    feats      clean maps, [B, D, h, w] each: the encoder stages "layer1", "layer2", ...; "penultimate", the input of
               the final convolution, before any dropout in front of it; "logits", the scores before they are resized.
    aux        [B, C, H, W] at input size, from the auxiliary head, where the net has one.
    rep        [B, 256, h, w] from the representation head (raw, not L2-normalised), where the net has one.
    sets       of a net that predicts sets of masks: the final output, then the auxiliary ones from the first.

    With `precision: fast` the passes run in bf16. All fields but `feats` are fp32 nevertheless; who computes with a map
    of `feats` outside a network takes `nets.precision.full` of it.
    """

    logits: Tensor
    perturbed: Tensor | None = None
    feats: dict[str, Tensor] = field(default_factory=dict)
    aux: Tensor | None = None
    rep: Tensor | None = None
    sets: tuple[QueryOutput, ...] = ()


class SegNet(FormattedModule):
    """Base of all networks: a subclass sets the two attributes and writes `forward` and `receptive_field`.

    classes           number of classes C.
    perturb_channels  channels D_i of each map that feature perturbation multiplies, in the order of `drop`.
    behaviour         version of the computation. Raise it when outputs change: above 1 it enters the run key.
    """

    behaviour: ClassVar[int] = 1
    pools_images: ClassVar[bool] = False
    """Whether batch norm sees an image as one value a channel, so that it cannot be trained on a single image."""
    own_method: ClassVar[str] = ""
    """The one method that can train it; empty: any."""
    not_local: ClassVar[str] = ""
    """Why cells of feats["layer1"] see more than a patch around them; empty: `receptive_field` has their size."""
    quick: ClassVar[Mapping[str, Any]] = {"encoder": "test_resnet", "weights": "random"}
    """Settings for a run of seconds (`--quick`, tests, the cost model), those that its `Config` has: here timm's
    ResNet of 0.4 M parameters."""
    no_files: ClassVar[Mapping[str, Any]] = {"weights": "random"}
    """Settings under which it is built without any file, those that its `Config` has."""
    classes: int
    perturb_channels: tuple[int, ...]

    @classmethod
    def encoder_not_local(cls, cfg: Any) -> str:
        """Why the encoder of these settings has no receptive field of stage 1 that is known; empty: it has one."""
        return ""

    @classmethod
    def missing_files(cls, cfg: Any) -> Iterator[DataError]:
        """What a run under these settings would look for and this machine has not; no network is asked.

        By default the weights of the encoder, where the settings name both.
        """
        encoder, weights = getattr(cfg, "encoder", None), getattr(cfg, "weights", None)
        is_named = isinstance(encoder, str) and isinstance(weights, str)
        if is_named and (missing := missing_weights(str(encoder), str(weights))) is not None:
            yield missing

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Scores of x [B, channels, H, W].

        Args:
            drop: one [B, D_i] tensor of multipliers per perturbed map (0 or 2 for channel dropout at p = 0.5). With it
                the encoder still runs once on B images; the decoder runs once on 2B maps, the clean ones first.
            alone: the decoder runs on the B perturbed maps only. Then `logits`, and what of `feats` the decoder makes,
                are theirs, and `perturbed` is None. Nothing without `drop`.
        """
        raise NotImplementedError

    def first_stage(self, x: Tensor) -> Tensor:
        """feats["layer1"] of x, without the rest of the pass where the network can stop there. The same bits."""
        features: Tensor = self._in_format(self._first_stage, x)
        return features

    def _first_stage(self, x: Tensor) -> Tensor:
        return self.forward(x).feats["layer1"]

    def receptive_field(self) -> tuple[int, int]:
        """(half, stride) in pixels of a cell of feats["layer1"]: cell i sees stride*i - half .. stride*i + half."""
        raise NotImplementedError

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters at the base learning rate: those named "backbone.*"."""
        return [p for name, p in self.named_parameters() if name.startswith("backbone.")]

    def head_parameters(self) -> list[nn.Parameter]:
        """The other parameters, which the recipe's head multiplier applies to."""
        return [p for name, p in self.named_parameters() if not name.startswith("backbone.")]

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
            """`forward` with its type, which nn.Module hides."""


@dataclass(frozen=True)
class FrozenForward:
    """An eval-mode, gradient-free forward of `net`.

    known: outputs that the method has computed already; they answer for the very tensor they were computed of.
    """

    net: SegNet
    known: Sequence[tuple[Tensor, Out]] = ()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Out:
        """The output for images x (B 3 H W)."""
        return self._recalled(x) or self._in_eval(self.net, x)

    @torch.no_grad()
    def first_stage(self, x: Tensor) -> Tensor:
        """feats["layer1"] alone, at the cost of the network's first layers."""
        recalled = self._recalled(x)
        return recalled.feats["layer1"] if recalled else self._in_eval(self.net.first_stage, x)

    def _recalled(self, x: Tensor) -> Out | None:
        return next((out for images, out in self.known if images is x), None)

    def _in_eval(self, call: Callable[[Tensor], T], x: Tensor) -> T:
        mode = self.net.training
        self.net.eval()
        out = call(x)
        self.net.train(mode)
        return out


def resize(x: Tensor, size: Sequence[int], mode: Interpolation = "bilinear") -> Tensor:
    """x [B, D, h, w] at `size` (height, width). Bilinear means corners aligned, as in every released DeepLabV3+."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x  # both modes are the identity here
    corners = True if mode == "bilinear" else None
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=corners)


def with_perturbed(maps: Sequence[Tensor], drop: Sequence[Tensor] | None, alone: bool = False) -> list[Tensor]:
    """The maps [B, D_i, h_i, w_i] followed along the batch by their perturbed copies [2B, ...]; as they are without
    `drop`; the perturbed copies only if they are `alone`.

    Raises:
        ValueError: `drop` does not hold one [B, D_i] tensor per map.
    """
    if drop is None:
        return list(maps)
    needed, given = [tuple(f.shape[:2]) for f in maps], [tuple(m.shape) for m in drop]
    if needed != given:
        raise ValueError(f"feature perturbation needs multipliers of shapes {needed}, got {given}")
    copies = [f * m.to(f.dtype)[:, :, None, None] for f, m in zip(maps, drop, strict=True)]
    return copies if alone else [torch.cat([f, copy]) for f, copy in zip(maps, copies, strict=True)]
