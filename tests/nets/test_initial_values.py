"""Initial values of every network, by their distribution: each parameter has a law, and follows it.

Laws are written from the releases' own code and framework defaults (card: mask2former 3; card: cps 1; card: u2pl 1), by
layer group. A new network needs a law here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssbench import find
from ssbench.nets.heads import LAYOUTS
from ssbench.nets.segnet import SegNet


@dataclass(frozen=True)
class Law:
    """A distribution around 0: "uniform" in [-size, size], "normal" of deviation size; or "constant", one value."""

    kind: str
    size: float

    def complaint(self, values: Tensor) -> str:
        """What is wrong with these values as a sample of the law, "" for nothing. Five standard errors are allowed."""
        values, count = values.detach().double().flatten(), values.numel()
        if self.kind == "constant":
            return "" if torch.equal(values, torch.full_like(values, self.size)) else f"not all {self.size}"
        if self.kind == "uniform" and values.abs().max() > self.size * (1 + 1e-5):
            return f"{values.abs().max():.4g} lies outside of +-{self.size:.4g}"
        if count < 64:
            return ""
        deviation = self.size / math.sqrt(3) if self.kind == "uniform" else self.size
        # Of the squares' mean the relative standard error is sqrt((kurtosis - 1) / n): kurtosis 1.8 and 3.
        spread = math.sqrt((0.8 if self.kind == "uniform" else 2.0) / count) / 2
        measured = float(values.square().mean().sqrt())
        if abs(measured / deviation - 1) > 5 * spread:
            return f"deviation {measured:.4g}, not {deviation:.4g}"
        if abs(float(values.mean())) > 5 * deviation / math.sqrt(count):
            return f"mean {float(values.mean()):.4g}"
        tail = float((values.abs() > 2 * deviation).double().mean())  # none of a uniform one, 4.55 % of a normal one
        share = 0.0 if self.kind == "uniform" else 0.0455
        return "" if abs(tail - share) <= 5 * math.sqrt(0.0455 / count) else f"{tail:.1%} beyond two deviations"


def uniform(size: float) -> Law:
    return Law("uniform", size)


def fans(weight: Tensor) -> tuple[int, int]:
    """(in, out) of a linear or convolution weight."""
    area = weight[0, 0].numel() if weight.ndim > 2 else 1
    return weight.shape[1] * area, weight.shape[0] * area


def default(module: nn.Module, name: str, value: Tensor) -> Law:
    """torch's own: uniform in 1 / sqrt(fan in), weights and biases; norms 1 and 0."""
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        return Law("constant", float(name == "weight"))
    weight = module.weight
    assert isinstance(weight, Tensor)
    return uniform(1 / math.sqrt(fans(weight)[0]))


def kaiming_out(module: nn.Module, name: str, value: Tensor) -> Law:
    """Convolutions normal by their fan out (ReLU), as ResNets are built before an ImageNet file replaces them."""
    if isinstance(module, nn.Conv2d) and name == "weight":
        return Law("normal", math.sqrt(2 / fans(module.weight)[1]))
    return default(module, name, value)


def deeplab(layout: str) -> Callable[[str, nn.Module, str, Tensor], Law]:
    def law(path: str, module: nn.Module, name: str, value: Tensor) -> Law:
        if path.startswith("backbone."):
            return kaiming_out(module, name, value)
        if layout == "cps" and isinstance(module, nn.Conv2d) and name == "weight":
            return Law("normal", math.sqrt(2 / fans(module.weight)[0]))
        return default(module, name, value)

    return law


def unet(path: str, module: nn.Module, name: str, value: Tensor) -> Law:
    return default(module, name, value)


def xavier(weight: Tensor, stacked: int = 1) -> Law:
    """Xavier uniform; of `stacked` such matrices in one."""
    fan_in, fan_out = fans(weight)
    return uniform(math.sqrt(6 / (fan_in + stacked * fan_out)))


def mask2former(path: str, module: nn.Module, name: str, value: Tensor) -> Law:
    """Card: mask2former 3, in its order."""
    if "_backbone" in path:
        return kaiming_out(module, name, value)
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        return default(module, name, value)
    zero = Law("constant", 0.0)
    is_bias = name.endswith("bias")
    if "input_projections" in path:
        return zero if is_bias else xavier(value)
    if any(part in path for part in ("adapter_1", "layer_1", "mask_projection")):
        return zero if is_bias else uniform(math.sqrt(3 / fans(value)[0]))
    if isinstance(module, nn.Embedding) or path.endswith("level_embed"):
        return Law("normal", 1.0)
    if ".sampling_offsets" in path:
        return Law("star", 0.0) if is_bias else zero
    if ".attention_weights" in path:
        return zero
    if any(part in path for part in ("value_proj", "output_proj", "out_proj")):
        return zero if is_bias else xavier(value)
    if any(part in path for part in ("q_proj", "k_proj", "v_proj")) and "self_attn" in path and ".encoder." not in path:
        return zero if is_bias else xavier(value, stacked=3)
    if "cross_attn" in path:
        return zero if is_bias else uniform(math.sqrt(6 / (value.shape[0] + value.shape[1])))
    if "fc1" in path or "fc2" in path:
        return default(module, name, value) if is_bias else xavier(value)
    assert "class_predictor" in path or "mask_embedder" in path, path
    return default(module, name, value)


FILE = Law("file", 0.0)
"""Comes from a file in every run but trials on noise, so no release states a law."""


def semivl(path: str, module: nn.Module, name: str, value: Tensor) -> Law:
    """The decoder has torch's defaults; both CLIP encoders and the ResNet are read from files."""
    if not path.startswith("decode_head."):
        return FILE
    if isinstance(module, nn.MultiheadAttention):
        return Law("constant", 0.0) if name.endswith("bias") else xavier(value)
    if path.endswith("out_proj.bias"):
        return Law("constant", 0.0)
    if path.startswith("decode_head.head."):
        return FILE  # the quick encoder's is enlarged; no run of a table has it
    return default(module, name, value)


def dpt(path: str, module: nn.Module, name: str, value: Tensor) -> Law:
    """Card: unimatch_v2 9. The transposed convolutions' fan in counts their second axis, as torch has it."""
    if not path.startswith("backbone."):
        return default(module, name, value)
    laws = {"cls_token": Law("normal", 1e-6), "pos_embed": Law("normal", 0.02), "mask_token": Law("constant", 0.0)}
    if name in laws:
        return laws[name]
    if name == "gamma":
        return Law("constant", 1.0)
    if isinstance(module, nn.Linear):
        return Law("constant", 0.0) if name == "bias" else Law("normal", 0.02)
    return default(module, name, value)


NETS: dict[str, tuple[Callable[[str, nn.Module, str, Tensor], Law], dict[str, Any]]] = {
    **{
        f"deeplabv3plus {layout}": (deeplab(layout), {"layout": layout, "encoder": "resnet18", "weights": "random"})
        for layout in LAYOUTS
    },
    "deeplabv3plus resnet50s": (
        deeplab("u2pl"),
        {"layout": "u2pl", "encoder": "resnet50s", "weights": "random", "aux": True, "rep": True},
    ),
    "deeplabv3plus xception65": (deeplab("unimatch"), {"encoder": "xception65", "weights": "random"}),
    "unet": (unet, {"weights": "random"}),
    "mask2former": (
        mask2former,
        {"encoder": "resnet18", "weights": "random", "encoder_layers": 2, "decoder_layers": 2},
    ),
    "semivl": (semivl, {}),
    "dpt": (dpt, {}),
}


def build(name: str) -> SegNet:
    cls = find.load("net", name.split()[0])
    torch.manual_seed(11)
    settings = NETS[name][1] or {field: cls.quick[field] for field in cls.quick if field in cls.Config.model_fields}
    net: SegNet = cls(cls.Config(**settings), 6, 1 if name == "unet" else 3)
    return net


def test_every_network_has_a_law() -> None:
    assert {name.split()[0] for name in NETS} == set(find.names("net"))


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_follows_the_law_of_its_layer(name: str) -> None:
    net, seen = build(name), 0
    for path, module in net.named_modules():
        for part, value in module.named_parameters(recurse=False):
            full = f"{path}.{part}".lstrip(".")
            law = NETS[name][0](full, module, part, value)
            if law.kind not in ("star", "file"):
                assert law.complaint(value) == "", full
            seen += 1
    assert seen == len(list(net.named_parameters()))


def test_offsets_of_deformable_attention_are_a_star() -> None:
    net = build("mask2former")
    biases = [p for name, p in net.named_parameters() if name.endswith("sampling_offsets.bias")]
    assert len(biases) == 2
    for bias in biases:
        offsets = bias.detach().view(8, 3, 4, 2)  # heads, levels, points, (x, y)
        radii = torch.tensor([1.0, 2, 3, 4])
        assert torch.allclose(offsets.abs().amax(-1), radii.expand(8, 3, 4))
        assert torch.equal(offsets[:, 0], offsets[:, 2])
        assert torch.allclose(offsets[0, 0, :, 0], radii)
        assert torch.allclose(offsets[0, 0, :, 1], torch.zeros(4))
        assert torch.allclose(offsets[1, 0, 0], torch.tensor([1.0, 1.0]))  # 45 degrees, scaled to the square
        assert torch.allclose(offsets[2, 0, 1], torch.tensor([0.0, 2.0]), atol=1e-6)


def test_running_statistics_start_at_zero_and_one() -> None:
    for name in ("mask2former", "unet", "deeplabv3plus cps"):
        for path, value in build(name).named_buffers():
            if path.endswith("running_mean"):
                assert not value.any(), path
            if path.endswith("running_var"):
                assert torch.equal(value, torch.ones_like(value)), path


@pytest.mark.parametrize(("law", "values"), [
    (uniform(1.0), torch.randn(4096)),
    (Law("normal", 1.0), torch.rand(4096) * 2 * math.sqrt(3) - math.sqrt(3)),
    (Law("normal", 0.02), torch.randn(4096) * 0.03),
    (Law("constant", 0.0), torch.full((8,), 1e-9)),
])  # fmt: skip
def test_a_sample_of_another_law_is_seen(law: Law, values: Tensor) -> None:
    assert law.complaint(values)
