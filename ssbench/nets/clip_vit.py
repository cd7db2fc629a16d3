"""CLIP's image encoder as SemiVL reads it: a dense embedding at stride 16, and value maps of some blocks.

Source: SemiVL 13ee65d6, its MaskCLIP encoder (card: semivl 3). The blocks are timm's, whose CLIP models have the same
layers: activation GELU, LayerNorm with eps 1e-6, a norm before and after the blocks, no bias in the patch embedding.
What differs from timm is here: attention of the last block is left out, and positions are resized by plain bicubic
interpolation. Letters as in `ssbench.ops`; g: cells a side of the stored positions.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

EPS = 1e-6  # release mcvit16.py; CLIP was trained with 1e-5
TRAINED = ("attn", "pos_embed")
"""Parts of the names of what spatial fine-tuning trains: projections of attention in every block, and positions."""

VitName = Literal["vit_b16", "vit_tiny"]


@dataclass(frozen=True)
class VitSize:
    """Sizes of an encoder. embedding: channels of the dense embedding, which are those of the text."""

    patch: int
    width: int
    depth: int
    heads: int
    embedding: int


SIZES: dict[str, VitSize] = {
    "vit_b16": VitSize(16, 768, 12, 12, 512),  # CLIP ViT-B/16
    "vit_tiny": VitSize(8, 32, 6, 4, 16),  # ours: for runs of seconds
}


class ClipVit(VisionTransformer):
    """x [B, 3, H, W] -> value maps [B, width, h, w] of chosen blocks, and the embedding [B, embedding, h, w].

    grid: cells a side of the positions it holds. h and w are those of the image, padded with zeros to whole patches.
    """

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def __init__(self, size: VitSize, grid: int) -> None:
        norm: Any = partial(nn.LayerNorm, eps=EPS)
        super().__init__(
            img_size=grid * size.patch, patch_size=size.patch, embed_dim=size.width, depth=size.depth,
            num_heads=size.heads, num_classes=size.embedding, pre_norm=True, norm_layer=norm,
        )  # fmt: skip
        self.head = nn.Linear(size.width, size.embedding, bias=False)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.patch, self.cells = size.patch, grid

    def features(self, x: Tensor, blocks: Collection[int] = ()) -> tuple[list[Tensor], Tensor]:
        """The value maps of `blocks`, in order, and the embedding, not normalised."""
        down, right = (-side % self.patch for side in x.shape[-2:])
        patches = self.patch_embed.proj(F.pad(x, (0, right, 0, down)))
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(grid)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = self.norm_pre(torch.cat([first, tokens], 1))
        maps = []
        for i, block in enumerate(self.blocks):
            is_last = i == len(self.blocks) - 1
            if i in blocks or is_last:
                values = _value_path(block, tokens)
                if i in blocks:
                    maps.append(_as_map(values[:, 1:], grid))
            if not is_last:
                tokens = block(tokens)
        return maps, _as_map(self.head(self.norm(values[:, 1:])), grid)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """[1, h w, width]: the positions of patches, resized where their number differs."""
        stored = self.pos_embed[:, 1:]
        return stored if stored.shape[1] == math.prod(grid) else resized_positions(stored, grid)


def resized_positions(stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """[1, g g, D] -> [1, h w, D], bicubic without antialiasing (timm's own resize has it, and gives other values)."""
    side = math.isqrt(stored.shape[1])
    cells = stored.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(cells, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def _value_path(block: Any, tokens: Tensor) -> Tensor:
    """The block with each token attending to itself alone, so that patches keep their place (MaskCLIP)."""
    width, qkv = tokens.shape[-1], block.attn.qkv
    values = F.linear(block.norm1(tokens), qkv.weight[2 * width :], qkv.bias[2 * width :])
    values = tokens + block.attn.proj(values)
    out: Tensor = values + block.mlp(block.norm2(values))
    return out


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, h w, D] -> [B, D, h, w]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
