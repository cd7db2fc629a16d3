"""DINOv2's image encoder as UniMatch V2 reads it: four maps at stride 14, positions resized by the authors' rule.

Source: UniMatch V2 f6afb4d, `model/backbone/dinov2.py` (card: unimatch_v2 2). The blocks are timm's, whose DINOv2 has
the same layers and names; a mask token, which nothing reads, stands here so that released states fit. What differs from
timm is the resize of positions. Letters as in `ssbench.ops`; g: cells a side of the stored positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssbench.errors import DataError
from ssbench.nets import pretrained
from ssbench.nets.renaming import rename
from ssbench.nets.weights import fit_state, read_state, timm_state, without_wrappers

EPS = 1e-6  # release: of every LayerNorm
OFFSET = 0.1  # release interpolate_offset: added to the cells of a side before the scale is computed

DinoName = Literal["vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2", "vit_tiny_patch8"]
TRANSFORMERS = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls|mask)_token$", r"\1_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.norm([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.mlp\.fc([12])\.", r"blocks.\1.mlp.fc\2."),
    (r"^layernorm\.", "norm."),
)
"""Names that the library `transformers` gives the parameters, and ours, which are DINOv2's own."""


@dataclass(frozen=True)
class DinoSize:
    """Sizes of an encoder. blocks: those whose tokens are read, from 0; grid: cells a side of the positions."""

    patch: int
    width: int
    depth: int
    heads: int
    blocks: tuple[int, int, int, int]
    grid: int


SIZES: dict[str, DinoSize] = {
    "vit_small_patch14_dinov2": DinoSize(14, 384, 12, 6, (2, 5, 8, 11), 37),
    "vit_base_patch14_dinov2": DinoSize(14, 768, 12, 12, (2, 5, 8, 11), 37),
    "vit_large_patch14_dinov2": DinoSize(14, 1024, 24, 16, (4, 11, 17, 23), 37),
    "vit_tiny_patch8": DinoSize(8, 32, 4, 4, (0, 1, 2, 3), 6),  # ours: for runs of seconds
}


class DinoVit(VisionTransformer):
    """x [B, 3, H, W] -> maps [B, width, h, w] of chosen blocks; H and W are multiples of the patch."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def __init__(self, size: DinoSize) -> None:
        norm: Any = partial(nn.LayerNorm, eps=EPS)
        super().__init__(
            img_size=size.grid * size.patch, patch_size=size.patch, embed_dim=size.width, depth=size.depth,
            num_heads=size.heads, num_classes=0, init_values=1.0, norm_layer=norm,
        )  # fmt: skip
        self.patch, self.grid = size.patch, size.grid
        # Never read, as in the release: no gradient reaches it, so no optimiser may decay it.
        self.mask_token = nn.Parameter(torch.zeros(1, size.width), requires_grad=False)

    def maps(self, x: Tensor, blocks: Collection[int]) -> list[Tensor]:
        """Tokens of `blocks` in order, each through the final LayerNorm, without the class token."""
        patches = self.patch_embed.proj(x)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self._positions(grid)
        maps = []
        for i in range(max(blocks) + 1):
            tokens = self.blocks[i](tokens)
            if i in blocks:
                maps.append(self.norm(tokens)[:, 1:].transpose(1, 2).reshape(len(x), -1, *grid))
        return maps

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """[1, 1 + h w, width]: positions of the class token and of the patches; those stored where the grid is."""
        if grid == (self.grid, self.grid):
            return self.pos_embed
        return torch.cat([self.pos_embed[:, :1], resized_positions(self.pos_embed[:, 1:], grid)], 1)


def resized_positions(stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """[1, g g, D] -> [1, h w, D], bicubic without antialiasing, by the scale factors (h + 0.1) / g and (w + 0.1) / g.

    The factor places the samples, too, so the result differs from a resize to exactly h x w, and from timm's.
    """
    side = math.isqrt(stored.shape[1])
    factors = [(cells + OFFSET) / side for cells in grid]
    cells = stored.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(cells, scale_factor=factors, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


def load_dino(vit: DinoVit, weights: str, encoder: str) -> None:
    """Load all of an encoder in place.

    Args:
        weights: "random" (nothing is loaded), "dinov2" (timm's copy of Meta's, downloaded once), "package" (of an
            installed package), or a file: Meta's, timm's, that of `transformers`, or a released UniMatch V2 network.
    Raises:
        DataError: the weights are missing, damaged, or of another network.
    """
    if weights == "random":
        return
    if weights == "dinov2":
        state = timm_state(encoder, partial(pretrained.no_dino, encoder))
    elif weights == "package":
        state = _of_package(encoder)
    else:
        state = read_state(Path(weights))
    state = dino_state(state)
    state.setdefault("mask_token", torch.zeros_like(vit.mask_token))  # timm's files are without it
    fit_state(vit, state, f"weights '{weights}' for encoder '{encoder}'", pretrained.GET_DINO)


def dino_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's encoder out of a file, under its own names, in fp32. What belongs to none keeps its name.

    Of a whole network whose encoder is called "backbone" the encoder alone is taken. What wrappers add to names goes.
    """
    names = without_wrappers(state, ())
    if inner := {name: value for name, value in names.items() if name.startswith("backbone.")}:
        names = {name.removeprefix("backbone."): value for name, value in inner.items()}
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in names.items():
        if match := re.match(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$", name):
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = value
        else:
            ours[rename(name, TRANSFORMERS)] = value
    for name, three in parts.items():
        if len(three) == 3:
            ours[name] = torch.cat([three[part] for part in ("query", "key", "value")])
    return {name: value.float() for name, value in ours.items()}


def _of_package(encoder: str) -> dict[str, Tensor]:
    """The encoder's part of a network in ONNX format, under the names of `transformers`.

    The export keeps names of biases and norms. Matrices of linear layers stand transposed under numbers: the name of
    the product that reads one says which it is.
    """
    path = pretrained.packaged_file(encoder)
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        what = f"weights '{encoder}' of a package are an ONNX file, which needs the library onnx ({error})"
        raise DataError(what, str(path), "pip install 'ssbench[dinov2]'") from error
    graph = onnx.load(str(path)).graph
    values = {item.name: item for item in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(values[name]).copy())

    state = {name.removeprefix("backbone."): tensor(name) for name in values if name.startswith("backbone.")}
    read_first = {node.name: node.input[0] for node in graph.node if node.input}
    positions = [tensor(read_first[f"/backbone/embeddings/{node}"]) for node in ("Concat_6", "Reshape_1")]
    state["embeddings.position_embeddings"] = torch.cat(positions, 1)
    for node in graph.node:
        place = re.match(r"^/backbone/(encoder/layer\.\d+/.*)/MatMul$", node.name)
        if place and node.input[1] in values:
            state[f"{place[1].replace('/', '.')}.weight"] = tensor(node.input[1]).T
    return state
