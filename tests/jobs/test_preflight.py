"""What a run will need at its end is tried before it trains; refusals have three parts and DESIGN's exit codes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from ran import SMALL, Ran

RUN = ("run", "own.yaml", "--split", "toy/ours/1_32")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def own(tmp_path: Path, toy: Path) -> tuple[str, ...]:
    (tmp_path / "own.yaml").write_text(SMALL)
    return (*RUN, "--data-root", str(toy))


@pytest.mark.parametrize("place", ["results", "runs"])
def test_a_place_that_cannot_be_written_to_is_found_before_training(
    ssbench: Callable[..., Ran], own: tuple[str, ...], tmp_path: Path, place: str
) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    ran = ssbench(*own, f"--{place}", "taken/inside")
    assert ran.code == 2, ran.err
    assert "error: cannot use '" in ran.err
    assert "taken" in ran.err
    assert "  fix:   choose another place" in ran.err
    assert "Traceback" not in ran.err
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_disk_without_room_for_the_checkpoints_is_found_before_training(
    ssbench: Callable[..., Ran], own: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 5000, 5000))
    ran = ssbench(*own)
    assert ran.code == 7, ran.err
    assert "no room for the run's checkpoints: " in ran.err
    assert "  where: runs/custom/own/" in ran.err
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_check_names_weights_that_are_not_here(
    ssbench: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ran = ssbench("check", "unimatch_voc")
    assert ran.code == 0, ran.err
    assert "note: no ImageNet weights for encoder 'resnet101s' (not downloaded yet)" in ran.err
    assert "timm/resnet101s.gluon_in1k/resolve/main/model.safetensors" in ran.err
    assert "net.weights=package" in ran.err
    ran = ssbench("check", "unimatch_voc", "--set", "net.weights=none_of_mine.pth")
    assert ran.code == 4
    assert "no weights file 'none_of_mine.pth'" in ran.err


def test_check_names_the_weights_of_a_detector_and_of_clip(
    ssbench: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = ("--set", "net.weights=random")
    ran = ssbench("check", "unimatch_voc", "--plugin", "wpl", *small)
    assert ran.code == 0, ran.err
    assert "note: wpl's detector: no ImageNet weights for encoder 'resnet50' (not downloaded yet)" in ran.err
    assert "  where: plugin.detector_weights\n" in ran.err
    assert "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors" in ran.err
    assert (
        ssbench("check", "unimatch_voc", "--plugin", "wpl", *small, "--set", "plugin.detector_weights=random").err == ""
    )
    ran = ssbench("check", "unimatch_voc", "--plugin", "wpl", *small, "--set", "plugin.detector_weights=no.pth")
    assert ran.code == 4
    assert "error: wpl's detector: no weights file 'no.pth'" in ran.err
    assert "a download of net.weights" not in ran.err
    ran = ssbench("check", "semivl_cityscapes")
    assert ran.code == 0, ran.err
    assert "no weights of timm's vit_base_patch16_clip_224.openai (not downloaded yet)" in ran.err
    assert "no weights of timm's resnet101c.gluon_in1k (not downloaded yet)" in ran.err
    assert "no cityscapes_conceptavg3_single.npy (not downloaded yet)" in ran.err
    assert ssbench("check", "semivl_voc", "--set", "net.weights=no.pth").code == 4
    nothing = ("--set", "net.weights=random", "--set", "net.text=drawn")
    assert ssbench("check", "semivl_voc", *nothing).err == "", "the fix works when pasted"
