"""CPS recipes: the equal settings of one process, as many steps as the release, decay on weights alone."""

from __future__ import annotations

import pytest
from builders import build

from ssbench.data.plan import Plan
from ssbench.recipe.recipe import load
from ssbench.train.build import optimizer_of


@pytest.mark.parametrize(
    ("name", "weight", "gpus", "rate"),
    [
        ("cps_voc_r50", 1.5, 4, 0.0025 * 4),
        ("cps_cutmix_voc_r101", 1.0, 4, 0.0025 * 4),
        ("cps_cutmix_voc_few_r101", 0.1, 4, 0.0025 * 4),
        ("cps_cityscapes_r101", 6.0, 8, 0.02),
        ("cps_cutmix_cityscapes_r50", 5.0, 8, 0.02),
    ],
)
def test_recipes_hold_the_equal_settings_of_one_process(name: str, weight: float, gpus: int, rate: float) -> None:
    """A gradient divided by W is a rate divided by W and a weight decay times W (card: cps 8)."""
    recipe = load(f"cps/{name}")
    assert recipe.method.weight == weight
    assert recipe.optim.lr == pytest.approx(rate / gpus)
    assert recipe.optim.weight_decay == pytest.approx(1e-4 * gpus)
    assert (recipe.optim.decay, recipe.optim.head, recipe.optim.lag) == ("weights", 1.0, 0)
    assert (recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch) == (8, 8)
    assert recipe.schedule.devices == gpus
    assert (recipe.loss.supervised, recipe.views.box) == ("ohem" if "city" in name else "ce", "cps")


VOC = {"1/16": (9920, 32, 39680), "1/8": (9259, 34, 39338), "1/4": (7936, 40, 39680), "1/2": (5291, 60, 39660)}
CITYSCAPES = {
    "1/16": (2789, 128, 44544),
    "1/8": (2603, 137, 44525),
    "1/4": (2231, 160, 44640),
    "1/2": (1487, 240, 44640),
}


@pytest.mark.parametrize("part", VOC)
@pytest.mark.parametrize(("name", "table", "off"), [("cps_voc_r50", VOC, 0), ("cps_cityscapes_r50", CITYSCAPES, 140)])
def test_recipes_train_as_long_as_the_release(
    name: str, table: dict[str, tuple[int, int, int]], off: int, part: str
) -> None:
    """All partitions have one number of steps (card: cps 2); on Cityscapes an epoch may have one step less."""
    unlabeled, epochs, total = table[part]
    schedule = load(f"cps/{name}").schedule
    rest = tuple(map(str, range(unlabeled)))
    plan = Plan(("a",), rest, build("cps").needs, 8, 8, schedule.devices)
    assert schedule.epochs_of(plan.steps_per_epoch) == epochs
    assert 0 <= plan.steps_per_epoch * epochs - total <= off


def test_biases_and_batch_norm_have_no_weight_decay() -> None:
    method = build("cps")
    cfg = load("cps/cps_voc_r50").optim
    optimizer = optimizer_of(cfg, method.parameter_groups())
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in method.named_parameters():
        assert decayed[id(p)] == (cfg.weight_decay if p.ndim == 4 else 0.0), name
    assert {group["base"] for group in optimizer.param_groups} == {cfg.lr}
    everything = optimizer_of(cfg.model_copy(update={"decay": "all"}), method.parameter_groups())
    assert {group["weight_decay"] for group in everything.param_groups} == {cfg.weight_decay}
