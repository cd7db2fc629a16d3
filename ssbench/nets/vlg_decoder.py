"""SemiVL's language-guided decoder: a map for each class, of how alike image and text are, refined in several layers.

Source: SemiVL 13ee65d6, model/decode_heads/vlg_head.py; names of parameters are the released ones (card: semivl 4).
Every class's map is an image of its own: the classes of an image are folded into the batch, B N of them.
Letters as in `ssbench.ops`; N classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATES = (1, 6, 12, 18)  # release; 1: a 1x1 convolution
PER_GROUP = 16  # channels of a group of GroupNorm (release)


@dataclass(frozen=True)
class VlgSizes:
    """Widths of the decoder. skip_inputs, skips: channels of the two skip maps before and after their projection."""

    embedding: int
    channels: int
    up: tuple[int, int]
    skip_inputs: tuple[int, int]
    skips: tuple[int, int]
    layers: int = 2
    heads: int = 4
    pool: int = 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // PER_GROUP, channels)


def _conv(inputs: int, outputs: int, side: int, rate: int = 1) -> list[nn.Module]:
    padding = rate * (side // 2)
    conv = nn.Conv2d(inputs, outputs, side, padding=padding, dilation=rate, bias=False)
    return [conv, _norm(outputs), nn.ReLU(inplace=True)]


class _Pooling(nn.Module):
    """The mean over the map, at every place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.gap(x), x.shape[-2:], mode="bilinear", align_corners=True)


class _Aspp(nn.Module):
    """Convolutions at four rates and a pooled branch, joined, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        branches = [nn.Sequential(*_conv(channels, channels, 1 if rate == 1 else 3, rate)) for rate in RATES]
        self.aspp_convs = nn.ModuleList([*branches, _Pooling(channels)])
        self.project = nn.Sequential(*_conv(5 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.project(torch.cat([branch(x) for branch in self.aspp_convs], 1))
        return x + joined


class _Attention(nn.Module):
    """Self-attention, under the released names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x, x, x, need_weights=False)[0]
        return out


class _FeedForward(nn.Module):
    """Two linear layers with GELU between, under the released names."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, inner), nn.GELU()), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Transformer(nn.Module):
    """A pre-norm transformer layer over N tokens."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.ln2 = nn.LayerNorm(width)
        self.ffn = _FeedForward(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        out: Tensor = x + self.ffn(self.ln2(x))
        return out


class _SemanticLayer(nn.Module):
    """At each pooled place the classes attend to each other; their texts stand beside their features."""

    def __init__(self, channels: int, heads: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.transformer = _Transformer(2 * channels, 4 * channels, heads)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x [B N, D, h, w], text [N, D] -> x's shape."""
        classes, channels = text.shape
        # A window at the border of an image may have fewer cells than the pool.
        pooled = F.avg_pool2d(x, (min(self.pool, x.shape[-2]), min(self.pool, x.shape[-1])))
        height, width = pooled.shape[-2:]
        # B N D h w -> (B h w) N D
        tokens = pooled.reshape(-1, classes, channels, height, width).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.transformer(torch.cat([tokens, text.expand(len(tokens), -1, -1)], -1))[..., :channels]
        refined = tokens.reshape(-1, height, width, classes, channels).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return x + F.interpolate(refined, x.shape[-2:], mode="bilinear", align_corners=True)


class _Up(nn.Module):
    """Twice the size, a skip map beside it, two convolutions."""

    def __init__(self, inputs: int, outputs: int, skip: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs - skip, 2, stride=2)
        self.conv = nn.Sequential(*_conv(inputs, outputs, 3), *_conv(outputs, outputs, 3))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x [B N, D, h, w]; skip [B, S, h', w'], the same for every class of an image."""
        x = self.up(x)
        skip = F.interpolate(skip, x.shape[-2:], mode="bilinear", align_corners=True)
        skip = skip.repeat_interleave(len(x) // len(skip), 0)
        out: Tensor = self.conv(torch.cat([x, skip], 1))
        return out


class VlgDecoder(nn.Module):
    """Embedding [B, E, h, w], two skip maps and text [N, E] -> scores [B, N, 4 h, 4 w].

    Modules are built in the release's order, with torch's initial values: it has no others (card: semivl 4).
    """

    def __init__(self, sizes: VlgSizes) -> None:
        super().__init__()
        channels = sizes.channels
        self.conv1 = nn.Conv2d(1, channels, 7, padding=3)
        self.aspp = _Aspp(channels)
        self.layers = nn.ModuleList([_SemanticLayer(channels, sizes.heads, sizes.pool) for _ in range(sizes.layers)])
        self.text_proj = nn.Sequential(nn.Linear(sizes.embedding, channels), nn.ReLU())
        pairs = zip(sizes.skip_inputs, sizes.skips, strict=True)
        self.skip_proj = nn.ModuleList([nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU()) for i, o in pairs])
        self.up1 = _Up(channels, sizes.up[0], sizes.skips[0])
        self.up2 = _Up(sizes.up[0], sizes.up[1], sizes.skips[1])
        self.head = nn.Conv2d(sizes.up[1], 1, 3, padding=1)

    def forward(self, embedding: Tensor, skips: Sequence[Tensor], text: Tensor) -> Tensor:
        """skips: the map for `up1`, then that for `up2`. Both sides of the likeness are normalised here."""
        image, text = F.normalize(embedding, dim=1), F.normalize(text, dim=-1)
        likeness = torch.einsum("bchw,nc->bnhw", image, text)
        x = self.aspp(self.conv1(likeness.flatten(0, 1)[:, None]))
        words = self.text_proj(text)
        for layer in self.layers:
            x = layer(x, words)
        first, second = (project(skip) for project, skip in zip(self.skip_proj, skips, strict=True))
        x = self.up2(self.up1(x, first), second)
        scores: Tensor = self.head(x)
        return scores.reshape(len(embedding), -1, *scores.shape[-2:])


class ConvEncoder(nn.Module):
    """The stem and the first stage of a ResNet with a deep stem (v1c): x [B, 3, H, W] -> [B, 256, H / 4, W / 4].

    Modules are timm's `resnet101c`; the release uses it on Cityscapes for the finer skip map (card: semivl 5).
    """

    def __init__(self) -> None:
        super().__init__()
        import timm

        net = timm.create_model("resnet101c", num_classes=0, zero_init_last=False)
        parts = OrderedDict((name, net.get_submodule(name)) for name in ("conv1", "bn1", "act1", "maxpool", "layer1"))
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """The map at stride 4."""
        for part in self.children():
            x = part(x)
        return x
