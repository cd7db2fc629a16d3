"""Mask2Former's network: size, scores, padding, the authors' names, and what is said where the library is missing."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssbench.errors import DataError, RecipeError
from ssbench.nets import mask2former_names
from ssbench.nets.mask2former import Mask2FormerNet, library, semantic_scores
from ssbench.nets.weights import load_checkpoint
from ssbench.ops.set_loss import QueryOutput


def tiny(classes: int = 4, seed: int = 0, **settings: Any) -> Mask2FormerNet:
    torch.manual_seed(seed)
    return Mask2FormerNet(Mask2FormerNet.Config(**{**Mask2FormerNet.quick, **settings}), classes)


@pytest.fixture(scope="module")
def whole() -> Mask2FormerNet:
    """The published network, without values."""
    with torch.device("meta"):
        return Mask2FormerNet(Mask2FormerNet.Config(weights="random"), 21)


def released_names() -> list[str]:
    """Names of the authors' ResNet-101 file with 6 and 9 layers, written from their modules."""
    both, names = ("weight", "bias"), ["criterion.empty_weight"]
    pixel, head = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    names += [f"{pixel}.input_proj.{k}.{j}.{p}" for k in range(3) for j in range(2) for p in both]
    names += [f"{pixel}.transformer.level_embed"]
    for k in range(6):
        layer = f"{pixel}.transformer.encoder.layers.{k}"
        parts = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        names += [f"{layer}.self_attn.{part}.{p}" for part in parts for p in both]
        names += [f"{layer}.{part}.{p}" for part in ("norm1", "norm2", "linear1", "linear2") for p in both]
    for part in ("adapter_1", "layer_1"):
        names += [f"{pixel}.{part}.weight", *(f"{pixel}.{part}.norm.{p}" for p in both)]
    names += [f"{pixel}.mask_features.{p}" for p in both]
    for k in range(9):
        for kind, module in (("cross", "multihead_attn"), ("self", "self_attn")):
            layer = f"{head}.transformer_{kind}_attention_layers.{k}"
            names += [f"{layer}.{module}.in_proj_{p}" for p in both]
            names += [f"{layer}.{module}.out_proj.{p}" for p in both] + [f"{layer}.norm.{p}" for p in both]
        layer = f"{head}.transformer_ffn_layers.{k}"
        names += [f"{layer}.{part}.{p}" for part in ("linear1", "linear2", "norm") for p in both]
    names += [f"{head}.decoder_norm.{p}" for p in both]
    names += [f"{head}.{part}.weight" for part in ("query_feat", "query_embed", "level_embed")]
    names += [f"{head}.class_embed.{p}" for p in both]
    names += [f"{head}.mask_embed.layers.{k}.{p}" for k in range(3) for p in both]
    return names + backbone_names()


def backbone_names() -> list[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def conv(place: str) -> list[str]:
        return [f"{place}.weight", *(f"{place}.norm.{part}" for part in norm)]

    names = conv("backbone.stem.conv1")
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 23, 3), strict=True):
        for block in range(blocks):
            place = f"backbone.res{stage}.{block}"
            names += [name for k in (1, 2, 3) for name in conv(f"{place}.conv{k}")]
            names += conv(f"{place}.shortcut") if block == 0 else []
    return names


def test_it_has_the_published_number_of_parameters(whole: Mask2FormerNet) -> None:
    assert sum(p.numel() for p in whole.parameters()) == 63_000_342
    assert sum(p.numel() for p in whole.backbone_parameters()) == 42_500_160
    both = [*whole.backbone_parameters(), *whole.head_parameters()]
    assert {id(p) for p in both} == {id(p) for p in whole.parameters()}
    assert len(both) == len({id(p) for p in both})


def test_every_released_name_has_its_place_and_every_place_a_name(whole: Mask2FormerNet) -> None:
    names = released_names()
    assert len(names) == len(set(names)) == 292 + 1 + 624  # the head, the criterion's class weights, the ResNet
    own = whole.state_dict()
    state = {name: torch.empty(0) for name in names}
    for name in names:  # the stacked q, k, v are cut in three
        if "self_attn.in_proj" in name:
            state[name] = torch.empty(3, 0)
    assert set(mask2former_names.to_ours(state)) == set(own)


def test_values_survive_the_way_there_and_back(whole: Mask2FormerNet) -> None:
    g = torch.Generator().manual_seed(0)
    own = {
        name: torch.randn(tuple(min(side, 6) for side in v.shape), generator=g)
        for name, v in whole.state_dict().items()
    }
    names = tuple(released_names())
    released = mask2former_names.to_released(own, names)
    assert set(released) == set(names)
    back = mask2former_names.to_ours(released)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def tiny_released(net: Mask2FormerNet) -> dict[str, Tensor]:
    """The head of a small network under the authors' names; its encoder, no ResNet of theirs, keeps ours."""
    state, kept = net.state_dict(), [n for n in released_names() if n.startswith(("sem_seg", "criterion"))]
    kept = [n for n in kept if not any(f"layers.{k}." in n and "mask_embed" not in n for k in range(3, 9))]
    kept = [n for n in kept if not any(f"encoder.layers.{k}." in n for k in (1, 2))]
    backbone = {name: value for name, value in state.items() if "_backbone" in name}
    return mask2former_names.to_released(state, tuple(kept)) | backbone


def test_a_released_file_loads_and_computes_the_same(tmp_path: Path) -> None:
    first, second, x = tiny(seed=1).eval(), tiny(seed=2).eval(), torch.randn(1, 3, 64, 64)
    torch.save({"model": tiny_released(first), "iteration": 7}, tmp_path / "model.pth")
    facts = load_checkpoint(second, tmp_path / "model.pth")
    assert (facts["entry"], facts["naming"]) == ("model", "mask2former")
    with torch.no_grad():
        assert torch.equal(first(x).logits, second(x).logits)


def test_old_heads_have_other_names(tmp_path: Path) -> None:
    first, second = tiny(seed=1), tiny(seed=2)
    old = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): value
        for name, value in tiny_released(first).items()
    }
    torch.save(old, tmp_path / "old.pth")
    load_checkpoint(second, tmp_path / "old.pth")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_file_that_lacks_a_name_is_refused(tmp_path: Path) -> None:
    state = tiny_released(tiny())
    del state["sem_seg_head.predictor.query_feat.weight"]
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(DataError, match="1 missing: model.model.transformer_module.queries_features.weight"):
        load_checkpoint(tiny(), tmp_path / "torn.pth")


def test_scores_are_the_sum_over_queries_at_the_padded_size() -> None:
    g = torch.Generator().manual_seed(0)
    output = QueryOutput(torch.randn(1, 5, 4, generator=g), torch.randn(1, 5, 8, 16, generator=g))
    scores = semantic_scores(output, (30, 50))  # padded to 32 x 64
    masks = torch.nn.functional.interpolate(output.masks, (32, 64), mode="bilinear", align_corners=False).sigmoid()
    probs = output.classes.softmax(-1)
    expected = sum(probs[:, q, :3, None, None] * masks[:, q, None] for q in range(5))
    torch.testing.assert_close(scores, expected[..., :30, :50])


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 40)])
def test_any_size_is_padded_with_zeros_and_cropped_again(size: tuple[int, int]) -> None:
    net, x = tiny().eval(), torch.randn(2, 3, *size)
    larger = torch.zeros(2, 3, *(-(-side // 32) * 32 for side in size))
    larger[..., : size[0], : size[1]] = x
    with torch.no_grad():
        out = net(x)
        assert out.logits.shape == (2, 4, *size)
        torch.testing.assert_close(out.logits, net(larger).logits[..., : size[0], : size[1]])
    shares = out.logits.softmax(1)
    torch.testing.assert_close(shares, out.logits.exp() / out.logits.exp().sum(1, keepdim=True))


def test_outputs_are_the_final_one_and_one_a_layer_and_the_raw_queries() -> None:
    net = tiny().train()
    out = net(torch.randn(2, 3, 64, 64))
    assert len(out.sets) == 4
    for output in out.sets:
        assert (tuple(output.classes.shape), tuple(output.masks.shape)) == ((2, 8, 5), (2, 8, 16, 16))
    sum((o.classes.sum() + o.masks.sum()) for o in out.sets).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_training_waits_for_no_infinite_activation() -> None:
    net = tiny().train()
    layers = net.model.model.pixel_level_module.decoder.encoder.layers
    assert not any(layer.training for layer in layers)
    assert net.model.model.transformer_module.training
    assert all(not layer.training for layer in net.eval().train().model.model.pixel_level_module.decoder.encoder.layers)


@pytest.mark.parametrize(("settings", "reason"), [
    ({"width": 48}, "multiple of 32"), ({"heads": 5}, "multiple of 32"), ({"encoder": "resnet1001"}, "no encoder"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Mask2FormerNet.Config(**settings)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match="transformers") as error:
        library()
    assert "pip install 'ssbench[mask2former]'" in error.value.fix


def test_more_channels_are_refused() -> None:
    with pytest.raises(RecipeError, match="3 channels, not 1"):
        Mask2FormerNet(Mask2FormerNet.Config(**Mask2FormerNet.quick), 4, 1)
