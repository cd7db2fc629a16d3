"""Names of the authors' Mask2Former checkpoints (detectron2's), and ours, in both directions.

Only the self-attention of the transformer decoder differs in more than its name: the released files hold q, k and v as
one matrix, the library as three. Source: facebookresearch/Mask2Former 9b0651c6 (card: mask2former 5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssbench.nets.renaming import rename

_PIXEL, _LAYER = "model.model.pixel_level_module", r"(\d+)"
_TRANSFORMER = "model.model.transformer_module"
_S, _D = r"sem_seg_head\.", f"{_TRANSFORMER}.decoder"
_ENCODER = f"{_PIXEL}.decoder.encoder.layers"
_BACKBONE = f"{_PIXEL}.encoder._backbone"
_RELEASED_ENCODER = rf"{_S}pixel_decoder\.transformer\.encoder\.layers\.{_LAYER}\."
_PREDICTOR = rf"{_S}predictor\."

RELEASED_TO_OURS = (
    (rf"{_S}pixel_decoder\.input_proj\.", f"{_PIXEL}.decoder.input_projections."),
    (rf"{_S}pixel_decoder\.transformer\.level_embed$", f"{_PIXEL}.decoder.level_embed"),
    (rf"{_RELEASED_ENCODER}self_attn\.", rf"{_ENCODER}.\1.self_attn."),
    (rf"{_RELEASED_ENCODER}norm1\.", rf"{_ENCODER}.\1.self_attn_layer_norm."),
    (rf"{_RELEASED_ENCODER}norm2\.", rf"{_ENCODER}.\1.final_layer_norm."),
    (rf"{_RELEASED_ENCODER}linear([12])\.", rf"{_ENCODER}.\1.fc\2."),
    (rf"{_S}pixel_decoder\.(adapter_1|layer_1)\.weight$", rf"{_PIXEL}.decoder.\1.0.weight"),
    (rf"{_S}pixel_decoder\.(adapter_1|layer_1)\.norm\.", rf"{_PIXEL}.decoder.\1.1."),
    (rf"{_S}pixel_decoder\.mask_features\.", f"{_PIXEL}.decoder.mask_projection."),
    (rf"{_PREDICTOR}transformer_cross_attention_layers\.{_LAYER}\.multihead_attn\.", rf"{_D}.layers.\1.cross_attn."),
    (rf"{_PREDICTOR}transformer_cross_attention_layers\.{_LAYER}\.norm\.", rf"{_D}.layers.\1.cross_attn_layer_norm."),
    (rf"{_PREDICTOR}transformer_self_attention_layers\.{_LAYER}\.self_attn\.", rf"{_D}.layers.\1.self_attn."),
    (rf"{_PREDICTOR}transformer_self_attention_layers\.{_LAYER}\.norm\.", rf"{_D}.layers.\1.self_attn_layer_norm."),
    (rf"{_PREDICTOR}transformer_ffn_layers\.{_LAYER}\.linear([12])\.", rf"{_D}.layers.\1.fc\2."),
    (rf"{_PREDICTOR}transformer_ffn_layers\.{_LAYER}\.norm\.", rf"{_D}.layers.\1.final_layer_norm."),
    (rf"{_PREDICTOR}decoder_norm\.", f"{_D}.layernorm."),
    (rf"{_PREDICTOR}query_feat\.", f"{_TRANSFORMER}.queries_features."),
    (rf"{_PREDICTOR}query_embed\.", f"{_TRANSFORMER}.queries_embedder."),
    (rf"{_PREDICTOR}level_embed\.", f"{_TRANSFORMER}.level_embed."),
    (rf"{_PREDICTOR}class_embed\.", "model.class_predictor."),
    (rf"{_PREDICTOR}mask_embed\.layers\.{_LAYER}\.", rf"{_D}.mask_predictor.mask_embedder.\1.0."),
    (r"criterion\.empty_weight$", "model.criterion.empty_weight"),
    (r"backbone\.stem\.conv1\.weight$", f"{_BACKBONE}.conv1.weight"),
    (r"backbone\.stem\.conv1\.norm\.", f"{_BACKBONE}.bn1."),
)
"""A pattern of a released name, from its start, and what it becomes; the blocks of the ResNet are in `_block_name`."""
_BLOCK = re.compile(r"backbone\.res([2-5])\.(\d+)\.(conv([123])|shortcut)\.(weight$|norm\.)")
_STACKED = re.compile(r"(.*transformer_module\.decoder\.layers\.\d+\.self_attn)\.in_proj_(weight|bias)$")


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state has the released names."""
    return any(name.startswith("sem_seg_head.") for name in state)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state under our names; names that are not known stay, so that the loader reports them.

    Heads of before version 2 say `static_query` for `query_feat` and lack the part `pixel_decoder.`.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        ours = _our_name(_of_today(name))
        if stacked := _STACKED.match(ours):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{stacked[1]}.{letter}_proj.{stacked[2]}"] = part.clone()
        else:
            renamed[ours] = value
    return renamed


def to_released(state: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Our state under the released names `names`, which must be those of the same network.

    Raises:
        KeyError: a released name has no counterpart.
    """
    released = {}
    for name in names:
        ours = _our_name(name)
        if stacked := _STACKED.match(ours):
            released[name] = torch.cat([state[f"{stacked[1]}.{letter}_proj.{stacked[2]}"] for letter in "qkv"])
        else:
            released[name] = state[ours]
    return released


def _of_today(name: str) -> str:
    name = name.replace("static_query", "query_feat")
    head = re.match(r"sem_seg_head\.(?!pixel_decoder\.|predictor\.)(.*)", name)
    return f"sem_seg_head.pixel_decoder.{head[1]}" if head else name


def _our_name(name: str) -> str:
    if block := _BLOCK.match(name):
        return _block_name(block) + name[block.end() :]
    return rename(name, ((rf"^{pattern}", ours) for pattern, ours in RELEASED_TO_OURS))


def _block_name(block: re.Match[str]) -> str:
    stage, number, module, conv, kind = block.groups()
    place = f"{_BACKBONE}.layer{int(stage) - 1}.{number}"
    is_norm = kind == "norm."
    if module == "shortcut":
        return f"{place}.downsample.1." if is_norm else f"{place}.downsample.0.weight"
    return f"{place}.bn{conv}." if is_norm else f"{place}.conv{conv}.weight"
