"""SemiVL's network against its released sizes and names, and against naive forms of what is unusual in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from ssbench.errors import DataError, RecipeError
from ssbench.nets import semivl_names
from ssbench.nets.clip_vit import SIZES, ClipVit, resized_positions
from ssbench.nets.segnet import SegNet
from ssbench.nets.semivl import SemiVL
from ssbench.nets.vlg_decoder import VlgDecoder, VlgSizes
from ssbench.nets.weights import load_checkpoint

VOC = {"weights": "random", "text": "drawn"}
CITY = VOC | {"conv_encoder": True, "clip_normalise": True, "crop": 801}
TINY = VOC | {"encoder": "vit_tiny", "crop": 64}


def tiny(seed: int = 0, classes: int = 4, **settings: object) -> SemiVL:
    torch.manual_seed(seed)
    return SemiVL(SemiVL.Config.model_validate({**TINY, **settings}), classes)


@pytest.mark.parametrize(
    ("settings", "classes", "entries", "vit", "decoder", "conv"),
    [(VOC, 21, 372, 86_828_544, 2_217_185, 0), (CITY, 19, 450, 87_962_112, 2_176_225, 244_576)],
)
def test_parameters_are_the_released_ones(
    settings: dict[str, object], classes: int, entries: int, vit: int, decoder: int, conv: int
) -> None:
    """Counts of card: semivl; on tensors without values, so nothing large is made."""
    with torch.device("meta"):
        net = SemiVL(SemiVL.Config.model_validate(settings), classes)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert (count["backbone"], count["clip_encoder"]) == (vit, 86_828_544)
    assert (count["decode_head"], count.get("conv_encoder", 0)) == (decoder, conv)
    assert len(net.state_dict()) == entries
    trained = [n for n, p in net.backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 49
    assert all(".attn." in name or name == "pos_embed" for name in trained)
    assert not any(p.requires_grad for p in net.clip_encoder.parameters())
    groups = [*net.backbone_parameters(), *net.head_parameters()]
    assert {id(p) for p in groups} == {id(p) for p in net.parameters() if p.requires_grad}
    skips = {name: p.shape for name, p in net.decode_head.named_parameters() if name.startswith(("skip", "up2.up"))}
    second = (32, 256, 3, 3) if conv else (16, 768, 3, 3)
    assert (skips["skip_proj.0.0.weight"], skips["skip_proj.1.0.weight"]) == ((32, 768, 3, 3), second)
    assert skips["up2.up.weight"] == (64, 32 if conv else 48, 2, 2)


# Names


def released_names(net: SegNet) -> dict[str, Tensor]:
    """The state as the release names it, the projections as 1 x 1 convolutions."""
    state = {semivl_names.to_released(name): value for name, value in net.state_dict().items()}
    wide = ("backbone.proj.weight", "clip_encoder.proj.weight")
    return {name: value[..., None, None] if name in wide else value for name, value in state.items()}


def test_a_released_model_loads_by_its_own_names(tmp_path: Path) -> None:
    """Round trip of names, some of them by hand, and of values through a file."""
    source, net = (tiny(seed, conv_encoder=True) for seed in (1, 2))
    state = released_names(source)
    assert len(state) == len(source.state_dict())
    by_hand = {
        "backbone.ln0.weight", "backbone.ln1.bias", "backbone.patch_embed.projection.weight", "backbone.pos_embed",
        "clip_encoder.layers.3.attn.attn.in_proj_weight", "clip_encoder.layers.0.attn.attn.out_proj.bias",
        "backbone.layers.2.ffn.layers.0.0.weight", "backbone.layers.5.ffn.layers.1.bias", "backbone.layers.1.ln2.bias",
        "conv_encoder.stem.0.weight", "conv_encoder.stem.7.running_var", "conv_encoder.layer1.0.downsample.1.weight",
        "decode_head.aspp.aspp_convs.4.gap.1.weight", "decode_head.layers.0.transformer.attn.attn.in_proj_weight",
        "decode_head.layers.0.transformer.ffn.layers.0.0.weight", "decode_head.up1.conv.4.bias",
        "decode_head.text_proj.0.weight", "decode_head.head.bias",
    }  # fmt: skip
    assert by_hand <= state.keys()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "released.pth")
    assert load_checkpoint(net, tmp_path / "released.pth")["naming"] == "semivl"
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x).logits, source.eval()(x).logits, rtol=0, atol=0)


def openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's file, written down apart from the code: half precision, 14 x 14 positions, the projection transposed."""
    ours: dict[str, Tensor] = {
        "visual.class_embedding": state["cls_token"][0, 0],
        "visual.positional_embedding": state["pos_embed"][0],
        "visual.conv1.weight": state["patch_embed.proj.weight"],
        "visual.proj": state["head.weight"].T,
        "logit_scale": torch.ones(()),
        "transformer.resblocks.0.ln_1.weight": torch.ones(3),  # of the text tower
    }
    for name in ("weight", "bias"):
        ours |= {f"visual.ln_pre.{name}": state[f"norm_pre.{name}"], f"visual.ln_post.{name}": state[f"norm.{name}"]}
        for k in range(6):
            block, there = f"blocks.{k}.", f"visual.transformer.resblocks.{k}."
            ours[f"{there}attn.in_proj_{name}"] = state[f"{block}attn.qkv.{name}"]
            ours[f"{there}attn.out_proj.{name}"] = state[f"{block}attn.proj.{name}"]
            for n in (1, 2):
                ours[f"{there}ln_{n}.{name}"] = state[f"{block}norm{n}.{name}"]
            ours[f"{there}mlp.c_fc.{name}"] = state[f"{block}mlp.fc1.{name}"]
            ours[f"{there}mlp.c_proj.{name}"] = state[f"{block}mlp.fc2.{name}"]
    return {name: value.half() for name, value in ours.items()}


def transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file of `transformers`: queries, keys and values apart."""
    vision = "vision_model."
    ours: dict[str, Tensor] = {
        f"{vision}embeddings.class_embedding": state["cls_token"][0, 0],
        f"{vision}embeddings.position_embedding.weight": state["pos_embed"][0],
        f"{vision}embeddings.patch_embedding.weight": state["patch_embed.proj.weight"],
        "visual_projection.weight": state["head.weight"],
        "text_model.final_layer_norm.weight": torch.ones(3),
    }
    for name in ("weight", "bias"):
        ours[f"{vision}pre_layrnorm.{name}"] = state[f"norm_pre.{name}"]
        ours[f"{vision}post_layernorm.{name}"] = state[f"norm.{name}"]
        for k in range(6):
            block, there = f"blocks.{k}.", f"{vision}encoder.layers.{k}."
            for letter, part in zip("qkv", state[f"{block}attn.qkv.{name}"].chunk(3), strict=True):
                ours[f"{there}self_attn.{letter}_proj.{name}"] = part
            ours[f"{there}self_attn.out_proj.{name}"] = state[f"{block}attn.proj.{name}"]
            for n in (1, 2):
                ours[f"{there}layer_norm{n}.{name}"] = state[f"{block}norm{n}.{name}"]
                ours[f"{there}mlp.fc{n}.{name}"] = state[f"{block}mlp.fc{n}.{name}"]
    return ours


def released_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {semivl_names.to_released(f"backbone.{name}"): value for name, value in state.items()}
    return {name.removeprefix("backbone."): value for name, value in named.items()}


@pytest.mark.parametrize("naming", ["timm", "openai", "transformers", "released"])
def test_clip_weights_of_four_kinds_of_file(naming: str, tmp_path: Path) -> None:
    """All give the same encoders; positions are resized to each encoder's grid, in both networks."""
    torch.manual_seed(5)
    clip = ClipVit(SIZES["vit_tiny"], 14)
    nn.init.normal_(clip.pos_embed)
    state = {name: value.half().float() for name, value in clip.state_dict().items()}
    named = {
        "timm": {**state, "head.bias": torch.zeros(16)},
        "openai": openai_names(state),
        "transformers": transformers_names(state),
        "released": released_encoder(state),
    }[naming]
    torch.save(named, tmp_path / "clip.pth")
    ours = semivl_names.clip_vision(torch.load(tmp_path / "clip.pth", weights_only=True))
    assert {name for name in state if name not in ours} == set()
    for name, value in state.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
    net = tiny()
    net._load(net.cfg.model_copy(update={"weights": str(tmp_path / "clip.pth")}))
    positions = resized_positions(state["pos_embed"][:, 1:], (8, 8))
    torch.testing.assert_close(net.backbone.pos_embed[:, 1:].detach(), positions)
    assert net.clip_encoder.pos_embed.shape == (1, 1025, 32)


def test_a_file_that_is_no_clip_is_refused_and_nothing_is_random_unawares(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "other.pth")
    for weights in (tmp_path / "other.pth", tmp_path / "absent.pth"):
        net = tiny()
        cfg = net.cfg.model_copy(update={"weights": str(weights)})
        with pytest.raises(DataError, match=r"does not fit|no weights file"):
            net._load(cfg)
    with pytest.raises(ValidationError, match="drawn has no meaning"):
        SemiVL.Config(text="drawn")
    with pytest.raises(RecipeError, match="3 channels"):
        SemiVL(SemiVL.Config.model_validate(TINY), 4, channels=1)


# What the encoder computes


def test_the_embedding_leaves_attention_of_the_last_block_out() -> None:
    """Against a naive form: plain blocks but the last, whose tokens attend to themselves (card: semivl 3)."""
    torch.manual_seed(1)
    vit = ClipVit(SIZES["vit_tiny"], 8).eval()
    nn.init.normal_(vit.pos_embed, std=0.5)
    x = torch.randn(2, 3, 61, 64)
    with torch.no_grad():
        maps, embedding = vit.features(x, (0, 4))
        padded = F.pad(x, (0, 0, 0, 3))
        tokens = vit.patch_embed.proj(padded).flatten(2).transpose(1, 2)
        tokens = torch.cat([vit.cls_token.expand(2, -1, -1), tokens], 1) + vit.pos_embed  # 8 x 8: nothing to resize
        tokens = vit.norm_pre(tokens)
        naive = {}
        for i, block in enumerate(vit.blocks):
            weight, bias = block.attn.qkv.weight[64:], block.attn.qkv.bias[64:]
            values = tokens + block.attn.proj(F.linear(block.norm1(tokens), weight, bias))
            naive[i] = values + block.mlp(block.norm2(values))
            tokens = tokens + block.attn(block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        expected = F.linear(vit.norm(naive[5])[:, 1:], vit.head.weight).transpose(1, 2).reshape(2, 16, 8, 8)
        skips = [naive[i][:, 1:].transpose(1, 2).reshape(2, 32, 8, 8) for i in (0, 4)]
    torch.testing.assert_close(embedding, expected)
    for ours, theirs in zip(maps, skips, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_positions_are_resized_without_antialiasing() -> None:
    stored = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    for grid in ((2, 2), (5, 7)):
        cells = stored.reshape(1, 3, 3, 4).permute(0, 3, 1, 2)
        expected = F.interpolate(cells, size=grid, mode="bicubic", align_corners=False, antialias=False)
        torch.testing.assert_close(resized_positions(stored, grid), expected.flatten(2).transpose(1, 2))
    assert resized_positions(stored, (3, 3)).allclose(stored, atol=1e-6)


def test_queries_and_keys_of_the_last_block_get_no_gradient() -> None:
    net = tiny().train()
    net(torch.randn(1, 3, 64, 64)).logits.square().sum().backward()
    for i, block in enumerate(net.backbone.blocks):
        gradient = block.attn.qkv.weight.grad
        parts = [bool(part.any()) for part in gradient.chunk(3)]
        assert parts == ([False, False, True] if i == 5 else [True, True, True]), i
    assert net.backbone.pos_embed.grad is not None
    assert all(p.grad is None for p in net.clip_encoder.parameters())
    assert all(p.grad is not None for p in net.decode_head.parameters())


# What the decoder and the whole compute


def test_classes_are_images_of_their_own() -> None:
    """Without the layers that compare classes, a class's scores do not depend on the others."""
    torch.manual_seed(0)
    sizes = VlgSizes(16, 32, (32, 16), (32, 32), (16, 16), layers=0, heads=2)
    decoder, text = VlgDecoder(sizes).eval(), torch.randn(5, 16)
    embedding, skips = torch.randn(2, 16, 6, 7), [torch.randn(2, 32, 6, 7) for _ in range(2)]
    with torch.no_grad():
        whole = decoder(embedding, skips, text)
        assert whole.shape == (2, 5, 24, 28)
        for c in range(5):
            torch.testing.assert_close(decoder(embedding, skips, text[c : c + 1])[:, 0], whole[:, c])
        torch.testing.assert_close(decoder(3 * embedding, skips, 7 * text), whole)  # both sides are normalised


def test_the_order_of_classes_and_of_images_is_that_of_the_scores() -> None:
    net, x = tiny().eval(), torch.randn(2, 3, 64, 64)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        scores = net(x).logits
        torch.testing.assert_close(net(x.flip(0)).logits, scores.flip(0))
        net.words = net.words[order]
        torch.testing.assert_close(net(x).logits, scores[:, order])


def test_scores_are_made_at_the_crop_and_stretched_to_a_smaller_window() -> None:
    """Release: head output crop x crop, then resized to the input, corners not aligned, twice."""
    net, x = tiny().eval(), torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        values, raw = net.backbone.features(x, net.blocks)
        low = net.decode_head(raw, values[::-1], net.words)
        assert low.shape == (1, 4, 20, 28)
        crop = F.interpolate(low, (64, 64), mode="bilinear", align_corners=False)
        expected = F.interpolate(crop, (40, 56), mode="bilinear", align_corners=False)
        torch.testing.assert_close(net(x).logits, expected)


def test_perturbation_multiplies_every_map_after_the_embedding_is_normalised() -> None:
    net, x = tiny(conv_encoder=True).train(), torch.randn(2, 3, 64, 64)
    assert net.perturb_channels == (32, 16, 256)
    ones = [torch.ones(2, wide) for wide in net.perturb_channels]
    out = net(x, ones)
    assert out.perturbed is not None
    torch.testing.assert_close(out.perturbed, out.logits)
    for k in range(3):
        drop = [2 * each if i == k else each for i, each in enumerate(ones)]
        doubled = net(x, drop)
        assert doubled.perturbed is not None
        is_same = torch.allclose(doubled.perturbed, out.logits, atol=1e-4)
        assert is_same == (k == 1), "only the embedding is normalised again"
    assert tiny().perturb_channels == (32, 32, 16)


def test_guidance_is_the_class_of_the_best_phrase_where_it_is_sure() -> None:
    """Naive: likeness to each phrase, its class's maximum, to the image, softmax of 100 times it."""
    net, x = tiny(classes=3), torch.randn(2, 3, 64, 72)
    net.guidance = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    net.rows = [(0, 2), (2, 3), (3, 5)]
    label, sure = net.guide(x, 0.9)
    with torch.no_grad():
        embedding = F.normalize(net.clip_encoder.features(x)[1], dim=1)
        rows = torch.einsum("bchw,nc->bnhw", embedding, net.guidance)
        likeness = torch.stack([rows[:, :2].amax(1), rows[:, 2], rows[:, 3:].amax(1)], 1)
        wide = F.interpolate(likeness, (64, 72), mode="bilinear", align_corners=False)
        conf, expected = (100 * wide).softmax(1).max(1)
    assert torch.equal(label, expected)
    assert torch.equal(sure, conf >= 0.9)
    assert 0 < sure.float().mean() < 1


def test_clip_reads_images_under_its_own_statistics_on_cityscapes() -> None:
    """A grey pixel of 0.5 by hand; the convolutional encoder still reads ImageNet's."""
    net = tiny(clip_normalise=True)
    x = (torch.tensor([0.5, 0.5, 0.5]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    own = net._for_clip(x.reshape(1, 3, 1, 1)).flatten()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(own, (0.5 - mean) / deviation)
    assert tiny()._for_clip(x) is x


def test_initial_values_of_the_decoder_are_torchs_own() -> None:
    """Kaiming uniform, a = sqrt 5, so U(+-1/sqrt fan-in); attention's joint projection Xavier; norms 1 and 0."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        decoder = VlgDecoder(VlgSizes(512, 128, (64, 32), (768, 768), (32, 16)))
    for name, p in decoder.named_parameters():
        if "in_proj_weight" in name:
            bound = math.sqrt(6 / (768 + 256))
        elif "in_proj_bias" in name or "out_proj.bias" in name:
            bound = 0.0
        elif p.ndim == 1:
            continue
        else:  # a transposed convolution's fan-in is that of its output channels
            bound = 1 / math.sqrt(p[0].numel())
        assert p.abs().max() <= bound + 1e-6, name
        if bound and p.numel() > 2000:
            assert float(p.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.06), name
    norms = [m for m in decoder.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() and m.eps == 1e-5 for m in norms)
    assert {m.num_channels // m.num_groups for m in norms if isinstance(m, nn.GroupNorm)} == {16}
    assert ClipVit(SIZES["vit_tiny"], 2).norm.eps == 1e-6


def test_classes_and_texts_have_to_agree() -> None:
    with pytest.raises(ValidationError, match="a row a class"):
        SemiVL.Config(decoder_text="concept")
    with pytest.raises(ValidationError, match="single names"):
        SemiVL.Config(text="coco", guidance_text="concept")
