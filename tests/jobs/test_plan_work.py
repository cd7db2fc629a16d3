"""What a run computes, before it is run: passes, steps, FLOPs, bytes; against released logs and naive sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from ssbench.jobs.cost import Work, WorkCache
from ssbench.jobs.workload import NetCost, WorkCounter, seen_share
from ssbench.nets.unet import UNet
from ssbench.recipe.recipe import load
from ssbench.splits.manifest import manifest

TRAINED, PERTURBED, FROZEN = (True, False), (True, True), (False, False)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is remembered in the user's own folder."""
    folder = tmp_path_factory.getbasetemp() / "remembered"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("recipe", "passes", "nets"),
    [
        ("toy/none_supervised", {TRAINED: 4}, (1, 1)),
        ("toy/none_fixmatch", {FROZEN: 4, TRAINED: 12}, (1, 1)),  # B frozen, 2B + B trained (card: fixmatch 1)
        ("toy/none_unimatch", {FROZEN: 4, PERTURBED: 8, TRAINED: 8}, (1, 1)),  # 5B encoder, 7B decoder passes
        # A full list of 8, of which this step draws two, as on average, for both draws of images.
        ("unimatch_toy+prevmatch", {FROZEN: 4 + 2 * 8, PERTURBED: 8, TRAINED: 8}, (9, 1)),
        ("toy/none_augseg", {FROZEN: 4, TRAINED: 8}, (2, 1)),  # teacher on B; student on labelled and mixed
        ("toy/none_u2pl", {FROZEN: 12, TRAINED: 8}, (2, 1)),  # as 48 beside 32 crops at 16 + 16
        ("toy/none_ael", {FROZEN: 12, TRAINED: 8}, (2, 1)),  # teacher on labelled, unlabelled and partners
        ("toy/none_cps", {FROZEN: 16, TRAINED: 16}, (2, 2)),  # eight passes of 4, four of them without gradients
    ],
)
def test_passes_of_a_step(
    tmp_path: Path, recipe: str, passes: dict[tuple[bool, bool], float], nets: tuple[int, int]
) -> None:
    counted = WorkCounter(tmp_path).step(load(recipe))
    assert counted.passes == passes
    assert (counted.nets, counted.students) == nets


def test_steps_are_those_of_the_released_logs(tmp_path: Path) -> None:
    """Released logs: 1311 steps an epoch; 655; and three trainings of ST++."""
    counter, splits = WorkCounter(tmp_path), manifest().splits
    for recipe, steps in (
        ("unimatch/unimatch_voc_r101", 104_880),
        ("augseg/augseg_voc_r101", 52_400),
        ("stpp/stpp_voc_r101", 880 + 52_880 + 105_280),
    ):
        entry = splits["voc/classic/1_16"]
        work = counter.count(load(recipe), entry.labeled.count, entry.unlabeled.count)
        assert work.steps == steps
        assert work.images == steps * (16 if "unimatch" in recipe or "stpp" in recipe else 32)


def test_flops_of_a_network_against_a_sum_over_its_layers(tmp_path: Path) -> None:
    """Two FLOPs a multiplication; of convolutions only, as everything else in a U-Net is linear in the pixels."""
    recipe, total = load("acdc/unimatch_unet"), 0

    def add(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += 2 * out.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]

    net = UNet(UNet.Config(), 4).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        net(torch.zeros(1, 1, 256, 256))
    counter = WorkCounter(tmp_path)
    one = counter.net(recipe)
    assert one.clean == total
    assert one.weights == sum(p.numel() for p in net.parameters())
    assert one.clean < one.perturbed < 2 * one.clean


def test_training_flops_are_passes_times_three_or_one() -> None:
    net = NetCost(clean=10.0, perturbed=15.0, weights=1)
    assert net.flops({FROZEN: 4, PERTURBED: 8, TRAINED: 8}) == 4 * 10 + 8 * 15 * 3 + 8 * 10 * 3


def test_scoring_counts_the_images_and_windows_of_the_protocol(tmp_path: Path) -> None:
    """Toy: 80 val images of 96 x 96, scored after epochs 4 and 8, then twice for the record; crop 64."""
    recipe, counter = load("toy/none_supervised"), WorkCounter(tmp_path)
    work = counter.count(recipe, 20, 300)
    net = counter.net(recipe)
    assert work.score_flops == pytest.approx(4 * 80 * net.clean * 96**2 / 64**2)
    assert work.train_flops == pytest.approx(600 * 4 * 3 * net.clean)
    sliding = load(
        "unimatch/unimatch_cityscapes_r101"
    )  # windows of 801 at steps of 534, cut: (801 + 490) x (3 x 801 + 446)
    assert seen_share(sliding, counter.dataset(sliding)) == pytest.approx((801 + 490) * (801 * 3 + 446) / 801**2)


def cached(name: str) -> Work:
    """The work of a recipe by the cache; KeyboardInterrupt where it has to be counted."""

    def count() -> Work:
        raise KeyboardInterrupt("counted again")

    return WorkCache().get(load(name), 20, 300, count)


def test_what_was_counted_is_cached_until_the_code_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(steps=600, images=4800, train_flops=1e12, score_flops=1e10, checkpoint_bytes=10**6)
    name = "toy/none_augseg"
    assert WorkCache().get(load(name), 20, 300, lambda: work) == work
    assert cached(name) == work
    file = cache / "ssbench" / "workloads.json"
    for text in ('{"code": "another", "values": {}}', '{"values": 3}', "no JSON", '{"code": "x", "values": {"a": {}}}'):
        file.write_text(text)
        with pytest.raises(KeyboardInterrupt, match="counted again"):
            cached(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no" / "folder"))
    (tmp_path / "no").write_text("a file, so that no folder can be made")
    assert WorkCache().get(load(name), 20, 300, lambda: work) == work


def test_a_plug_in_that_needs_maps_is_counted_with_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "mapped.py").write_text(MAPPED)
    (tmp_path / "mapped.yaml").write_text(RECIPE)
    recipe = load(str(tmp_path / "mapped.yaml"))
    work = WorkCounter(tmp_path).count(recipe, 20, 300)
    assert work.note == ""
    bare = WorkCounter(tmp_path).count(load("toy/none_fixmatch"), 20, 300)
    assert work.train_flops / bare.train_flops == pytest.approx(
        (4 + 12 * 3 + 4) / (4 + 12 * 3)
    )  # one more teacher pass


def test_a_changed_file_of_the_user_s_is_counted_again(tmp_path: Path) -> None:
    """A process imports the file once, so what is looked at here is that another text is another key."""
    (tmp_path / "mapped.py").write_text(MAPPED)
    (tmp_path / "mapped.yaml").write_text(RECIPE)
    name = str(tmp_path / "mapped.yaml")
    work = Work(steps=1, images=1, train_flops=1.0, score_flops=1.0, checkpoint_bytes=1)
    WorkCache().get(load(name), 20, 300, lambda: work)
    assert cached(name).steps == 1
    (tmp_path / "mapped.py").write_text(MAPPED + "# changed\n")
    with pytest.raises(KeyboardInterrupt, match="counted again"):
        cached(name)


def test_a_plug_in_that_breaks_on_noise_leaves_the_host(tmp_path: Path) -> None:
    (tmp_path / "mapped.py").write_text(MAPPED.replace('mixed.pseudo.carry["mine"]', "(1 / 0)"))
    (tmp_path / "mapped.yaml").write_text(RECIPE)
    work = WorkCounter(tmp_path).count(load(str(tmp_path / "mapped.yaml")), 20, 300)
    assert work.note == "without what its plug-in passes"
    assert work.train_flops == WorkCounter(tmp_path).count(load("toy/none_fixmatch"), 20, 300).train_flops


MAPPED = '''
"""Paper: none. No code to be checked against."""
from typing import Literal
from ssbench.plugins.base import Plugin, PluginConfig


class Mapped(Plugin):
    class Config(PluginConfig):
        name: Literal["mapped"] = "mapped"

    def weigh(self, mixed, teach, t):
        teach(mixed.images)
        return mixed.pseudo.carry["mine"].float() + 1
'''
RECIPE = f"""
base: {Path(__file__).resolve().parents[2] / "recipes/tasks/toy.yaml"}
method: {{name: fixmatch, threshold: 0.8}}  # ours
plugin: {{name: mapped.py}}  # ours
"""
