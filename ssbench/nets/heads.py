"""The decoders of the released DeepLabV3+ networks, one function for each release.

All take the same four steps: the deepest map through an ASPP (`head`), the low-level map through `reduce`, both through
`fuse`, and a 1x1 `classifier`. The names are UniMatch's; `weights` translates the names in the others' files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ssbench.nets.aspp import ASPP, Rates, SumASPP, conv_bn
from ssbench.nets.segnet import Interpolation


@dataclass(frozen=True)
class DecoderSize:
    """low, third, deep: channels of encoder stages 1, 3 and 4. rates: dilations of the ASPP.

    wide: channels of UniMatch's fusing convolutions, 256 in every release; small tasks of ours take fewer.
    """

    low: int
    third: int
    deep: int
    classes: int
    rates: Rates
    interpolation: Interpolation
    wide: int = 256


@dataclass(frozen=True)
class DecoderParts:
    """The modules of a decoder. `dropout` runs between `fuse` and `classifier`.

    deep_first: the order in which the deep and the low-level map are concatenated. aux, rep: further heads; they draw
    their initial weights last, so that leaving them out changes no other weight.
    """

    head: nn.Module
    reduce: nn.Module
    fuse: nn.Module
    classifier: nn.Module
    dropout: nn.Module
    deep_first: bool = False
    aux: nn.Module | None = None
    rep: nn.Module | None = None


def unimatch(s: DecoderSize, aspp_dropout: float = 0.0) -> DecoderParts:
    """UniMatch 0324f3d: no dropout, no bias but the classifier's; the ASPP is an eighth as wide as its input."""
    width = s.deep // 8
    head = ASPP(s.deep, width, s.rates, s.interpolation, dropout=aspp_dropout)
    reduce = nn.Sequential(*conv_bn(s.low, 48, 1))
    fuse = nn.Sequential(*conv_bn(48 + width, s.wide, 3), *conv_bn(s.wide, s.wide, 3))
    return DecoderParts(head, reduce, fuse, nn.Conv2d(s.wide, s.classes, 1), nn.Identity())


def stpp(s: DecoderSize) -> DecoderParts:
    """ST++: UniMatch's decoder with channel dropout 0.5 after the ASPP and dropout 0.1 before the classifier."""
    return replace(unimatch(s, aspp_dropout=0.5), dropout=nn.Dropout(0.1))


def augseg(s: DecoderSize) -> DecoderParts:
    """AugSeg: pooled branch first, `reduce` with bias, no dropout; no released run uses the auxiliary head."""
    head = ASPP(s.deep, 256, s.rates, s.interpolation, pool_first=True)
    reduce = nn.Sequential(*conv_bn(s.low, 48, 1, bias=True))
    fuse = nn.Sequential(*conv_bn(48 + 256, 256, 3), *conv_bn(256, 256, 3))
    aux = nn.Sequential(*conv_bn(s.third, 256, 3), nn.Conv2d(256, s.classes, 1))
    return DecoderParts(head, reduce, fuse, nn.Conv2d(256, s.classes, 1), nn.Identity(), aux=aux)


def u2pl(s: DecoderSize) -> DecoderParts:
    """U2PL ab3d2be: 256 low-level channels, biases, channel dropout 0.1, auxiliary and representation heads."""
    head = ASPP(s.deep, 256, s.rates, s.interpolation, project=3, pool_first=True, dropout=0.1)
    reduce = nn.Sequential(*conv_bn(s.low, 256, 1, bias=True))
    fuse, classifier = nn.Sequential(*_twice()), nn.Conv2d(256, s.classes, 1)
    aux = nn.Sequential(*conv_bn(s.third, 256, 3, bias=True), nn.Dropout2d(0.1), nn.Conv2d(256, s.classes, 1))
    rep = nn.Sequential(*_twice(), nn.Dropout2d(0.1), nn.Conv2d(256, 256, 1))
    return DecoderParts(head, reduce, fuse, classifier, nn.Dropout2d(0.1), aux=aux, rep=rep)


def ael(s: DecoderSize) -> DecoderParts:
    """AEL: U2PL's network (which grew out of it) without the representation head."""
    return replace(u2pl(s), rep=None)


def cps(s: DecoderSize) -> DecoderParts:
    """CPS (TorchSemiSeg 5e0c29c0): summed ASPP, deep map first, convolutions Kaiming normal (fan in, ReLU)."""
    head = SumASPP(s.deep, 256, s.rates)
    reduce = nn.Sequential(*conv_bn(s.low, 48, 1))
    fuse = nn.Sequential(*conv_bn(48 + 256, 256, 3), *conv_bn(256, 256, 3))
    parts = DecoderParts(head, reduce, fuse, nn.Conv2d(256, s.classes, 1), nn.Identity(), deep_first=True)
    for module in nn.ModuleList([parts.head, parts.reduce, parts.fuse, parts.classifier]).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return parts


def _twice() -> list[nn.Module]:
    """[low 256, deep 256] through two biased 3x3 convolutions with channel dropout between; indices 0, 1, 4, 5."""
    return [*conv_bn(512, 256, 3, bias=True), nn.Dropout2d(0.1), *conv_bn(256, 256, 3, bias=True)]


LAYOUTS: dict[str, Callable[[DecoderSize], DecoderParts]] = {
    f.__name__: f for f in (unimatch, stpp, augseg, u2pl, ael, cps)
}
