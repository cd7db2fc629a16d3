"""Names of SemiVL's and CLIP's files, turned into ours: timm's for the image encoders, the released ones elsewhere.

Card: semivl 7 has the table. Four kinds of file hold an image encoder: SemiVL's (or MaskCLIP's), OpenAI's, timm's and
that of `transformers`; the first three are told apart by one name each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssbench.nets.renaming import rename

ENCODERS = ("backbone.", "clip_encoder.")
RELEASED = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln0\.", "norm_pre."),
    (r"^ln1\.", "norm."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.attn\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^layers\.(\d+)\.attn\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^proj\.", "head."),
)
OPENAI = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
    (r"^proj$", "head.weight"),
)
TRANSFORMERS = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc([12])\.", r"blocks.\1.mlp.fc\2."),
)
STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}
"""Layers of the released stem, in timm's `resnet101c`."""


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is that of a whole SemiVL model."""
    return "decode_head.conv1.weight" in state and "backbone.patch_embed.projection.weight" in state


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole released SemiVL model under our names."""
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix = next((p for p in ENCODERS if name.startswith(p)), "")
        if prefix:
            renamed = rename(name.removeprefix(prefix), RELEASED)
            ours[prefix + renamed] = value[..., 0, 0] if renamed == "head.weight" and value.ndim == 4 else value
        else:
            ours[conv_name(name)] = value
    return ours


def to_released(name: str) -> str:
    """The released name of one of our parameters."""
    prefix = next((p for p in ENCODERS if name.startswith(p)), "")
    if not prefix:
        stems = {f"conv_encoder.{ours}.": f"conv_encoder.stem.{theirs}." for theirs, ours in STEM.items()}
        return next((name.replace(o, t, 1) for o, t in stems.items() if name.startswith(o)), name)
    inner = name.removeprefix(prefix)
    backward = (
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm_pre\.", "ln0."),
        (r"^norm\.", "ln1."),
        (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.ln\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"layers.\1.attn.attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attn.attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1."),
        (r"^head\.", "proj."),
    )
    return prefix + rename(inner, backward)


def conv_name(name: str) -> str:
    """Our name of a parameter of the released convolutional encoder; others as they are."""
    match = re.match(r"^(conv_encoder\.)?stem\.(\d+)\.(.*)$", name)
    if match is None or match[2] not in STEM:
        return name
    return f"{match[1] or ''}{STEM[match[2]]}.{match[3]}"


def clip_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's image encoder out of a file, under our names, in fp32. What belongs to none keeps its name.

    The file may be SemiVL's (with "backbone." before each name or without), OpenAI's with or without its text tower,
    timm's, or that of `transformers`.
    """
    inner = _without(state, "backbone.", "patch_embed.projection.weight")
    if "patch_embed.projection.weight" in inner:
        ours = {rename(name, RELEASED): value for name, value in inner.items()}
        head = ours.get("head.weight")
        if head is not None and head.ndim == 4:
            ours["head.weight"] = head[..., 0, 0]
    elif "visual.conv1.weight" in state or "conv1.weight" in state:
        inner = _without(state, "visual.", "conv1.weight")
        ours = {rename(name, OPENAI): value for name, value in inner.items()}
        if "head.weight" in ours:
            ours["head.weight"] = ours["head.weight"].T
    elif any(name.endswith("embeddings.patch_embedding.weight") for name in state):
        ours = _of_transformers(state)
    else:
        ours = {name: value for name, value in state.items() if name != "head.bias"}  # timm's is zero
    if "cls_token" in ours:
        ours["cls_token"] = ours["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in ours:
        ours["pos_embed"] = ours["pos_embed"].reshape(1, -1, ours["pos_embed"].shape[-1])
    return {name: value.float() for name, value in ours.items()}


def _of_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower of a CLIPModel or CLIPVisionModelWithProjection; queries, keys and values are joined."""
    inner = {name.removeprefix("vision_model."): v for name, v in state.items() if name.startswith("vision_model.")}
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in inner.items():
        match = re.match(r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)$", name)
        if match:
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = value
        elif name != "embeddings.position_ids":
            ours[rename(name, TRANSFORMERS)] = value
    joined = {name: torch.cat([part[k] for k in "qkv"]) for name, part in parts.items() if len(part) == 3}
    head = {"head.weight": state["visual_projection.weight"]} if "visual_projection.weight" in state else {}
    return {**ours, **joined, **head}


def _without(state: Mapping[str, Tensor], prefix: str, marker: str) -> dict[str, Tensor]:
    """The entries below `prefix` where the file has them, without it; else the whole file."""
    if prefix + marker in state:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return dict(state)
