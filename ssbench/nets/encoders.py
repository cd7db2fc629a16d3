"""Encoders: timm's feature extractors, with the settings in which the released DeepLabV3+ ResNets differ.

`resnet50s` and `resnet101s` are the deep-stem (64-64-128) ResNets of UniMatch, AugSeg, U2PL, AEL and CPS: same module
names, shapes and dilations as the released files. `resnet50`, `resnet101` are ST++'s (plain 7x7 stem). Every other timm
model with intermediate features serves the open division. `xception65` is UniMatch's, in `nets.xception`, because
timm's model of that name computes something else.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from ssbench.errors import RecipeError
from ssbench.nets.xception import Xception65


def is_known(name: str) -> bool:
    """Whether an encoder of that name exists. It may carry timm's tag, as in "resnet50.a1_in1k"."""
    return name == "xception65" or timm.is_model(name)


def build(
    name: str, channels: int, output_stride: int, multi_grid: tuple[int, ...] | None, ceil_mode: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """An encoder x [B, channels, H, W] -> four maps at strides 4, 8, .. output_stride, and the maps' channels.

    Randomly initialised from torch's global generator (convolutions Kaiming normal, fan out; BatchNorm 1 and 0).

    Raises:
        RecipeError: the encoder does not exist with these settings.
    """
    if name == "xception65":
        if (channels, output_stride, multi_grid, ceil_mode) != (3, 16, None, False):
            raise RecipeError("xception65 exists for 3 channels at output stride 16, without multi_grid or ceil_mode")
        return Xception65(), Xception65.widths
    net = _timm(name, channels, output_stride)
    if multi_grid is not None:
        _apply_multi_grid(net, name, multi_grid)
    if ceil_mode:
        # U2PL, AEL, AugSeg: one more row and column whenever the stem's map has an even side.
        if not isinstance(pool := getattr(net, "maxpool", None), nn.MaxPool2d):
            raise RecipeError(f"ceil_mode: encoder '{name}' has no max-pool in its stem", fix="ceil_mode: false")
        pool.ceil_mode = True
    return net, tuple(net.feature_info.channels())  # type: ignore[union-attr, operator]


def receptive_field(encoder: nn.Module) -> tuple[int, int]:
    """(half-width, stride) in pixels of one cell of stage 1, from the ResNet's own kernels, strides and dilations.

    Cell i sees pixels stride*i - half .. stride*i + half, clipped to the image: 39 wide at stride 4 for the deep stem,
    35 for the plain one (bottlenecks).

    Raises:
        RecipeError: the encoder is no ResNet.
    """
    if not all(hasattr(encoder, part) for part in ("conv1", "maxpool", "layer1")):
        what = f"the receptive field of stage 1 is known for ResNets only, not for {type(encoder).__name__}"
        fix = (
            "--set net.encoder=resnet50 --set net.weights=imagenet --set views.normalise=imagenet "
            "(without a download: --set net.weights=random)"
        )
        raise RecipeError(what, "net.encoder", fix)
    field, stride = 1, 1
    for name, module in encoder.named_modules():
        part, _, rest = name.partition(".")
        is_shortcut = "downsample" in rest  # 1x1, and parallel to the block: it widens nothing
        is_on_path = part in ("conv1", "maxpool", "layer1") and not is_shortcut
        if not is_on_path or not isinstance(module, nn.Conv2d | nn.MaxPool2d):
            continue
        field += (_side(module.kernel_size) - 1) * _side(module.dilation) * stride
        stride *= _side(module.stride)
    return field // 2, stride


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _timm(name: str, channels: int, output_stride: int) -> nn.Module:
    """timm's features-only model; its classifier, if it had one, is gone."""
    # The released ResNets start the last BatchNorm of a block at 1 (UniMatch, ST++) or 0 (U2PL, AEL, AugSeg); the
    # ImageNet file replaces both, so 1 serves all.
    options: dict[str, Any] = {"zero_init_last": False} if name.startswith("resnet") else {}
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        net = timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1), in_chans=channels, **options)
    except (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as e:
        why = f"encoder '{name}' gives no four feature maps at output stride {output_stride} ({type(e).__name__}: {e})"
        raise RecipeError(why, fix="output_stride: 32, or a ResNet encoder such as resnet50s") from e
    return net


def _apply_multi_grid(net: nn.Module, name: str, grid: tuple[int, ...]) -> None:
    """Multiply the dilation of each block of the last stage by its entry of `grid`.

    (2, 2, 4) turns 1, 2, 2 at output stride 16 into 2, 4, 8 (CPS, AugSeg) and 2, 4, 4 at stride 8 into 4, 8, 16 (U2PL,
    AEL). A stage of two blocks (resnet18) takes the first two entries.
    """
    if not isinstance(getattr(net, "layer4", None), nn.Sequential):
        raise RecipeError(f"multi_grid: encoder '{name}' has no ResNet stage 4", fix="multi_grid: null")
    for block, factor in zip(net.layer4, grid, strict=False):  # type: ignore[arg-type]
        for part, conv in block.named_modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and "downsample" not in part:
                side = conv.dilation[0] * factor
                conv.dilation = conv.padding = (side, side)
