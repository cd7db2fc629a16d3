"""The pretext of the toy encoder: pictures, training, and the file that a recipe reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_encoder
import toy_objects

from ssbench.console import Bars
from ssbench.data import toy_scene
from ssbench.files import sha256, write_bytes
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.paths import shipped


def test_pictures_depend_on_their_number_alone() -> None:
    image, outline, relief = toy_objects.picture(7)
    again = toy_objects.picture(7)
    assert image.shape == (64, 64, 3)
    assert np.array_equal(image, again[0])
    assert (outline, relief) == again[1:]
    several = np.stack([toy_objects.picture(number)[0] for number in range(4)])
    assert hashlib.sha256(several.tobytes()).hexdigest().startswith("ae40a0bb0067f148")


def test_nothing_of_the_toy_scenes_is_in_the_pretext() -> None:
    scenes = {kind.outline for kind in toy_scene.KINDS} | {kind.relief for kind in toy_scene.KINDS}
    scenes |= set(toy_scene.DISTRACTORS) | {toy_scene.plain}
    assert not scenes & {*toy_objects.OUTLINES, *toy_objects.RELIEFS}


@pytest.mark.parametrize("outline", toy_objects.OUTLINES, ids=lambda outline: outline.__name__)
def test_every_outline_has_an_inside_and_an_outside(outline: object) -> None:
    dice = toy_scene.Dice("test", 0)
    spot = toy_scene.Spot.throw(dice, 96, 96, 20.0)
    edge = outline(spot, dice)  # type: ignore[operator]
    assert 0.02 < float((edge < 0).mean()) < 0.6


def test_the_shipped_encoder_is_the_one_described() -> None:
    path = shipped("recipes") / "toy" / "encoder.safetensors"
    assert sha256(path) == toy_encoder.SHIPPED_SHA256
    assert path.stat().st_size < 1_000_000
    cfg = DeepLabV3Plus.Config(encoder=toy_encoder.ENCODER, weights=str(path), wide=64)
    assert DeepLabV3Plus(cfg, 6).backbone.state_dict()["conv1.0.weight"].abs().mean() > 0.05


def test_a_pretrained_encoder_is_read_by_a_network(tmp_path: Path) -> None:
    with Bars(show=False) as bars:
        net, accuracy = toy_encoder.pretrain(bars, pictures=128, epochs=1)
    assert 0 <= accuracy <= 1
    path = tmp_path / "encoder.safetensors"
    write_bytes(path, toy_encoder.encoded(net))
    assert path.stat().st_size < 1_000_000
    cfg = DeepLabV3Plus.Config(encoder=toy_encoder.ENCODER, weights=str(path), wide=64)
    loaded = DeepLabV3Plus(cfg, 6).backbone.state_dict()
    for name, value in net.backbone.state_dict().items():
        if value.ndim:
            assert torch.equal(loaded[name], value.half().float()), name
