"""What a method says of its smallest pass in train mode is what its step does; recipes whose net cannot do it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from builders import batch_for, build, plugin, progress
from torch import nn

from ssbench import find
from ssbench.errors import RecipeError
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import load

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("supervised", {}),
    ("fixmatch", {}),
    ("fixmatch", {"teacher": "ema"}),
    ("unimatch", {}),
    ("mean_teacher", {"consistency": "soft"}),
    ("mean_teacher", {"consistency": "hard"}),
    ("cutmix_seg", {"variant": "original"}),
    ("cutmix_seg", {"variant": "s4mc", "warmup_epochs": 1}),
    ("cutmix_seg", {"variant": "s4mc", "warmup_epochs": 0}),
    ("cps", {}),
    ("cps", {"cutmix": False}),
    ("augseg", {"warmup_epochs": 0}),
    ("augseg", {"warmup_epochs": 1}),
    ("u2pl", {"warmup_epochs": 0}),
    ("u2pl", {"warmup_epochs": 1}),
    ("ael", {"pick": 1}),
    ("ael", {"pick": 2}),
    ("stpp", {}),
    ("unimatch_v2", {}),
]
EPOCH, STEPS = 10, (0, 25)  # a step of the first epoch, where warm-ups are, and a later one


def smallest(method: str, settings: dict[str, Any], labeled: int, unlabeled: int, mixer: str = "") -> int:
    """Images of the smallest pass through a network in train mode, counted; BatchNorm's refusal of one is off."""
    built = build(method, plugin("upc", **{"ras": "off"}) if mixer else None, **settings)
    passes: list[int] = []

    def note(net: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        if net.training:
            passes.append(len(args[0]))

    for module in built.modules():
        if isinstance(module, SegNet):
            module.register_forward_pre_hook(note, with_kwargs=True)
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.track_running_stats, layer.momentum = True, 0.1
                    layer.forward = lambda x: x  # type: ignore[method-assign]
    for step in STEPS:
        t = progress(step, 40, EPOCH)
        used = unlabeled // built.needs.pick if built.needs.unlabeled else 0
        built(batch_for(built, t, images=labeled, unlabeled=used), t)
    return min(passes)


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_method_knows_its_smallest_pass(method: str, settings: dict[str, Any], sizes: tuple[int, int]) -> None:
    cls = find.load("method", method)
    labeled, unlabeled = sizes[0], sizes[1] * settings.get("pick", 1)
    cfg = cls.Config(**settings)
    try:
        cls.check_batches(cfg, labeled, unlabeled)
    except RecipeError:
        return  # no such batch can be trained
    counted = smallest(method, settings, labeled, unlabeled)
    assert cls.smallest_pass(cfg, labeled, unlabeled, None) == counted


def test_a_plug_in_that_gives_one_view_leaves_one_image() -> None:
    unimatch = find.load("method", "unimatch")
    assert smallest("unimatch", {}, 2, 1, "upc") == unimatch.smallest_pass(unimatch.Config(), 2, 1, 1) == 1
    with pytest.raises(RecipeError, match="one image of the batch passes alone"):
        load("unimatch_voc+upc", ["plugin.ras=off", "schedule.unlabeled_batch=1"])
    assert load("unimatch_voc", ["schedule.unlabeled_batch=1"]).schedule.unlabeled_batch == 1
    assert load("unimatch_voc+upc", ["schedule.unlabeled_batch=1"]).schedule.unlabeled_batch == 1  # three copies


ONE = ["schedule.labeled_batch=1", "schedule.unlabeled_batch=1"]
HOSTS = ["supervised_toy", "fixmatch_toy", "cutmix_seg_toy", "cps_toy", "u2pl_toy"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_batch_of_one_is_refused_when_the_recipe_is_read_and_the_fix_works_as_pasted(host: str) -> None:
    group = ["method.group=1"] if host == "u2pl_toy" else []
    warm = ["method.warmup_epochs=1"] if host in ("u2pl_toy", "cutmix_seg_toy") else []
    sets = [*ONE, *group, *warm]
    with pytest.raises(RecipeError, match="pools it to 1 x 1") as refused:
        load(host, sets)
    pasted = re.findall(r"--set (\S+?)(?=[ ,])", refused.value.fix + " ")
    assert pasted
    assert load(host, [*sets, *pasted]).name == f"hosts/{host}"


def test_a_net_that_does_not_pool_takes_a_batch_of_one() -> None:
    assert load("acdc/unimatch_unet", ["schedule.labeled_batch=1", "schedule.unlabeled_batch=1"]).name
