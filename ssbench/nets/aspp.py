"""Atrous spatial pyramid pooling (ASPP), in the two forms of the released DeepLabV3+ networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssbench.nets.segnet import Interpolation, resize

Rates = tuple[int, int, int]


def conv_bn(inputs: int, outputs: int, size: int, bias: bool = False, dilation: int = 1) -> list[nn.Module]:
    """Convolution that keeps the grid, BatchNorm, ReLU: modules for an nn.Sequential."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=bias)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class ImagePooling(nn.Module):
    """Image pooling: the global mean [B, D, 1, 1] through a 1x1 convolution, spread over the grid again."""

    def __init__(self, inputs: int, outputs: int, interpolation: Interpolation) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, h, w] -> [B, outputs, h, w], constant over the grid."""
        return resize(self.gap(x), x.shape[-2:], self.interpolation)


class ASPP(nn.Module):
    """Five branches, concatenated and projected (UniMatch, ST++, AugSeg, U2PL, AEL). Names as in UniMatch's release.

    pool_first: the pooled branch comes before the others (AugSeg, U2PL, AEL). This permutes the inputs of `project`,
    so released weights only fit the right order. project: kernel size of the projection.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rates: Rates,
        interpolation: Interpolation,
        *,
        project: int = 1,
        pool_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool_first = pool_first
        self.b0 = nn.Sequential(*conv_bn(inputs, outputs, 1))
        self.b1, self.b2, self.b3 = (nn.Sequential(*conv_bn(inputs, outputs, 3, dilation=rate)) for rate in rates)
        self.b4 = ImagePooling(inputs, outputs, interpolation)
        tail = [nn.Dropout2d(dropout)] if dropout else []
        self.project = nn.Sequential(*conv_bn(5 * outputs, outputs, project), *tail)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, h, w] -> [B, outputs, h, w]."""
        branches = [self.b0(x), self.b1(x), self.b2(x), self.b3(x)]
        pooled = self.b4(x)
        return self.project(torch.cat([pooled, *branches] if self.pool_first else [*branches, pooled], 1))  # type: ignore[no-any-return]


class SumASPP(nn.Module):
    """CPS's form: one BatchNorm over the four concatenated branches, and the pooled branch added after reduction.

    Names as in TorchSemiSeg 5e0c29c0 (head.aspp). LeakyReLU 0.01 throughout.
    """

    def __init__(self, inputs: int, outputs: int, rates: Rates) -> None:
        super().__init__()
        dilated = (nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False) for rate in rates)
        self.map_convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 1, bias=False), *dilated])
        self.map_bn = nn.BatchNorm2d(4 * outputs)
        self.global_pooling_conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.global_pooling_bn = nn.BatchNorm2d(outputs)
        self.red_conv = nn.Conv2d(4 * outputs, outputs, 1, bias=False)
        self.pool_red_conv = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.red_bn = nn.BatchNorm2d(outputs)
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, h, w] -> [B, outputs, h, w]."""
        maps = self.act(self.map_bn(torch.cat([conv(x) for conv in self.map_convs], 1)))
        pooled = self.act(self.global_pooling_bn(self.global_pooling_conv(x.mean((2, 3), keepdim=True))))
        return self.act(self.red_bn(self.red_conv(maps) + self.pool_red_conv(pooled)))  # type: ignore[no-any-return]
