"""S4MC against the worked examples of its specification (section 11), and each of its switches."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CLASSES, build, make_batch, prepared, progress, train
from members import together
from PIL import Image
from running import Job
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.methods.cutmix_seg import _scaled_ce
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView
from ssbench.plugins.s4mc import PUBLISHED, S4MC
from ssbench.recipe.recipe import load
from ssbench.train.distributed import Team

P0 = [[0.60, 0.55, 0.20], [0.50, 0.42, 0.25], [0.45, 0.30, 0.10]]
P1 = [[0.25, 0.30, 0.65], [0.35, 0.40, 0.60], [0.22, 0.36, 0.75]]
P = torch.tensor([P0, P1, [[1 - a - b for a, b in zip(x, y, strict=True)] for x, y in zip(P0, P1, strict=True)]])[None]
EXACT: dict[str, Any] = {"connectivity": 4, "joint": "independent"}
BOUND: dict[str, Any] = {"connectivity": 4, "joint": "class_bound"}


def made(classes: int = 3, **settings: Any) -> S4MC:
    return S4MC(S4MC.Config(**settings), classes)


def everywhere(probs: Tensor) -> Tensor:
    return torch.ones_like(probs[:, 0], dtype=torch.bool)


def pseudo(probs: Tensor = P, valid: Tensor | None = None) -> Pseudo:
    inside = torch.ones_like(probs[:, 0], dtype=torch.bool) if valid is None else valid
    return Pseudo.of(probs.log(), inside, 0.95)


def picture(plugin: S4MC, given: Pseudo, step: int = 0) -> str:
    """The keep map as rows of 0 and 1."""
    keep = plugin.refine(given, progress(step, 80, 1)).keep[0].int().tolist()
    return "|".join("".join(map(str, row)) for row in keep)


def with_agreement(plugin: S4MC) -> S4MC:
    plugin.agreement.copy_(torch.tensor([0.99, 0.95, 0.90]))
    return plugin


@pytest.mark.parametrize(
    ("alpha", "settings", "expected"),
    [
        (0.4, {"refine_scores": False}, "111|001|001"),
        (0.4, EXACT, "101|101|001"),
        (0.4, BOUND, "101|101|011"),
        (0.2, {"refine_scores": False}, "111|101|101"),
        (0.2, EXACT, "111|101|111"),
        (0.2, BOUND, "101|101|111"),
    ],
)
def test_kept_pixels_of_the_example(alpha: float, settings: dict[str, Any], expected: str) -> None:
    assert picture(with_agreement(made(alpha0=alpha, **settings)), pseudo()) == expected


@pytest.mark.parametrize(("alpha", "gamma"), [(0.4, 0.1700), (0.2, 0.0800)])
def test_the_threshold_is_the_quantile_of_raw_margins(alpha: float, gamma: float) -> None:
    margins = torch.tensor([0.35, 0.25, 0.45, 0.15, 0.02, 0.35, 0.12, 0.02, 0.60])
    inside = torch.ones(9, dtype=torch.bool)
    assert made(alpha0=alpha)._gamma(margins, inside, progress()).item() == pytest.approx(gamma, abs=1e-5)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.40), (20, 0.30), (40, 0.20), (79, 0.005)])
@pytest.mark.parametrize("schedule", ["iteration", "epoch"])
def test_the_level_falls_to_zero(epoch: int, share: float, schedule: Any) -> None:
    """Dropped share at the first step of an epoch, out of 80 epochs."""
    values = torch.arange(1001.0)[None, None]
    t = progress(epoch * 10, 800, 10)
    gamma = made(schedule=schedule)._gamma(values, values >= 0, t)
    assert gamma.item() == pytest.approx(1000 * share, abs=0.01)


def test_the_level_by_epoch_is_constant_inside_an_epoch_and_by_iteration_is_not() -> None:
    values = torch.arange(1001.0)[None, None]
    inside = values >= 0
    for plugin, same in ((made(variant="release"), True), (made(variant="paper"), False)):
        first, last = (plugin._gamma(values, inside, progress(step, 800, 10)).item() for step in (20, 29))
        assert (first == last) is same


def test_variants_differ_where_the_specification_says() -> None:
    paper, release = made(variant="paper"), made(variant="release")
    assert (paper.connectivity, paper.joint, paper.by_epoch, paper.group) == (8, "independent", False, "batch")
    assert (release.connectivity, release.joint, release.by_epoch, release.group) == (4, "class_bound", True, 1)
    single = made(variant="release", joint="independent", schedule="iteration", connectivity=8)
    assert (single.connectivity, single.joint, single.by_epoch) == (8, "independent", False)
    assert made(variant="release", size=5).connectivity == 8


def test_labels_stay_the_raw_arg_max() -> None:
    """Example 2: the centre's refined arg-max is 1, its label stays 0 (card: s4mc 5)."""
    plugin, given = made(alpha0=0.0, **EXACT), pseudo()
    refined = plugin._refined(P, everywhere(P), progress())
    assert (refined.argmax(1)[0, 1, 1], given.label[0, 1, 1]) == (1, 0)
    found = plugin.refine(given, progress())
    assert torch.equal(found.label, given.label)
    assert torch.equal(found.conf, given.conf)


def test_the_comparison_is_strict() -> None:
    even = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert not made(refine_scores=False).refine(pseudo(even), progress()).keep.any()


@pytest.mark.parametrize(
    ("neighbour", "expected"),
    [
        ("max", (0.6135, 0.6184, 0.3491)),
        ("min", (0.5079, 0.5092, 0.2546)),
        ("two_max", (0.7307, 0.7017, 0.4083)),
    ],
)
def test_neighbour_switch(neighbour: Any, expected: tuple[float, ...]) -> None:
    found = made(neighbour=neighbour, **EXACT)._refined(P, everywhere(P), progress())
    assert found[0, :, 1, 1].tolist() == pytest.approx(expected, abs=6e-5)


def test_a_random_neighbour_changes_with_the_step_and_not_with_the_state_of_the_generator() -> None:
    plugin = made(neighbour="random", connectivity=8)
    probs = torch.randn(1, 3, 16, 16).softmax(1)
    first = plugin._refined(probs, everywhere(probs), progress(3))
    torch.rand(7)
    assert torch.equal(plugin._refined(probs, everywhere(probs), progress(3)), first)
    assert not torch.equal(plugin._refined(probs, everywhere(probs), progress(4)), first)


@pytest.mark.parametrize("size", [5, 7])
def test_a_larger_window_finds_more(size: Any) -> None:
    probs = torch.full((1, 2, 9, 9), 0.1)
    probs[0, 0, 4, 4] = 0.9
    away = size // 2
    assert made(2, size=3)._refined(probs, everywhere(probs), progress())[0, 0, 4, 4 + away] < 0.2
    reached = made(2, size=size)._refined(probs, everywhere(probs), progress())[0, 0, 4, 4 + away].item()
    assert reached == pytest.approx(0.1 + np.exp(-away / 2) * 0.9 * 0.9, rel=1e-5)


def test_score_switch_orders_pixels_differently() -> None:
    pixels = torch.tensor([[0.60, 0.39, 0.01], [0.55, 0.23, 0.22], [0.50, 0.25, 0.25]]).T.reshape(1, 3, 1, 3)
    order = {}
    for score in ("max", "margin", "entropy"):
        plugin = made(score=score, refine_scores=False, alpha0=0.4)
        order[score] = picture(plugin, pseudo(pixels))
    assert order == {"max": "110", "margin": "011", "entropy": "110"}


@pytest.mark.parametrize(("alpha", "kept"), [(0.2, 80), (0.3, 70), (0.4, 60), (0.5, 50), (0.6, 40)])
def test_alpha_switch_drops_that_share_of_pixels(alpha: float, kept: int) -> None:
    best = torch.linspace(0.51, 0.99, 100).view(1, 1, 10, 10)
    given = pseudo(torch.cat([best, 1 - best], 1))
    found = made(2, alpha0=alpha, refine_scores=False).refine(given, progress())
    assert int(found.keep.sum()) == kept


def test_joint_switches() -> None:
    p, n = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1).expand(1, 2, 3, 3), 0.6065306597
    kinds = ("independent", "bound", "class_bound", "empirical_only")
    plugins = {j: made(2, connectivity=4, joint=j) for j in kinds}
    for plugin in plugins.values():
        plugin.agreement.copy_(torch.tensor([0.9, 0.5]))
        plugin.pair_agreement.fill_(0.3)
    found = {j: plugin._refined(p, everywhere(p), progress())[0, :, 1, 1].tolist() for j, plugin in plugins.items()}
    assert found["independent"] == pytest.approx([0.6 + n * (0.6 - 0.36), 0.4 + n * (0.4 - 0.16)])
    assert found["class_bound"] == pytest.approx([0.6 + n * (0.6 - 0.54), 0.4 + n * (0.4 - 0.20)])
    assert found["empirical_only"] == pytest.approx([0.6 + n * (0.6 - 0.3), 0.4 + n * (0.4 - 0.3)])  # Eq. 15
    assert found["bound"] == pytest.approx([0.6 + n * (0.6 - 0.36), 0.4 + n * (0.4 - 0.3)])  # Eq. 16


def test_a_constant_threshold() -> None:
    assert picture(made(dpa=False, gamma=0.3, refine_scores=False), pseudo()) == "101|001|001"
    assert picture(made(dpa=False, gamma=0.3, refine_scores=False), pseudo(), step=79) == "101|001|001"
    assert picture(made(dpa=False, gamma=0.3, **EXACT), pseudo()) == "101|001|001"


def test_padding_is_never_kept_and_helps_no_neighbour() -> None:
    """Negative entropy of a zeroed pixel is 0, the highest score there is (card: s4mc 5)."""
    probs = P.clone()
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    valid[0, :, 2] = False
    for score in ("margin", "max", "entropy"):
        plugin = made(alpha0=0.0, score=score, **EXACT)
        found = plugin.refine(pseudo(probs, valid), progress())
        assert not found.keep[0, :, 2].any(), score
    for neighbour in ("max", "min"):
        plugin = made(neighbour=neighbour, **EXACT)
        refined = plugin._refined(probs, valid, progress())
        assert torch.equal(refined[..., :2], plugin._refined(P[..., :2], everywhere(P[..., :2]), progress()))


def test_padding_does_not_move_the_threshold() -> None:
    wide = torch.cat([P, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 3, 5)], 3)
    valid = torch.zeros(1, 3, 8, dtype=torch.bool)
    valid[..., :3] = True
    keep = made(refine_scores=False).refine(pseudo(wide + 1e-9, valid), progress()).keep
    assert keep[0, :, :3].int().tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]


def test_images_that_are_all_padding_keep_nothing() -> None:
    nothing = torch.zeros(1, 3, 3, dtype=torch.bool)
    assert not made().refine(pseudo(P, nothing), progress()).keep.any()


def test_mixed_pseudo_labels_are_refused_not_passed_by() -> None:
    mixed = replace(pseudo(), probs=None, logits=None)
    with pytest.raises(ValueError, match="mixed"):
        made().refine(mixed, progress())


def test_agreement_is_estimated_from_the_labelled_masks(tmp_path: Path) -> None:
    masks = {"a": [[0, 0, 1], [0, 1, 1], [0, 1, 1]], "b": [[255, 255, 1], [0, 255, 1], [0, 0, 1]]}
    run = replace(
        prepared(tmp_path),
        labeled=("a", "b"),
        mask=lambda id: Image.fromarray(np.array(masks[id], np.uint8)),
    )
    plugin = made(3, **BOUND)
    plugin.prepare(run)
    # a: class 0 6 of 10 pairs, class 1 10 of 14; b: class 0 4 of 5, class 1 4 of 5
    assert plugin.agreement.tolist() == pytest.approx([10 / 15, 14 / 19, 24 / 34])  # class 2 is in no mask: the mean
    assert plugin.pair_agreement.item() == pytest.approx(24 / 34)


def test_an_estimate_is_saved_with_the_plugin(tmp_path: Path) -> None:
    plugin = made(CLASSES, variant="release")
    plugin.prepare(prepared(tmp_path))
    other = made(CLASSES, variant="release")
    other.load_state_dict(plugin.state_dict())
    assert torch.equal(other.agreement, plugin.agreement)
    assert 0.5 < plugin.pair_agreement.item() < 1


def test_nothing_is_read_where_nothing_is_estimated(tmp_path: Path) -> None:
    def refuse(id: str) -> Image.Image:
        raise AssertionError(id)

    run = replace(prepared(tmp_path), mask=refuse)
    made(3, joint="independent").prepare(run)
    made(3, joint="class_bound", refine_scores=False).prepare(run)
    made(21, joint="class_bound", agreement="published").prepare(run)


@pytest.mark.parametrize(("classes", "first", "last"), [(21, 0.9981, 0.9933), (19, 0.9964, 0.9545)])
def test_published_agreement(classes: int, first: float, last: float) -> None:
    assert len(PUBLISHED[classes]) == classes
    agreement = made(classes, variant="release", agreement="published").agreement
    assert agreement[[0, -1]].tolist() == pytest.approx([first, last])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 5, "connectivity": 4}, "size 5 with connectivity 4"),
        ({"dpa": False}, "refined scores need a threshold"),
        ({"gamma": 0.5}, "gamma: 0.5 is never read with dpa: true"),
        ({"dpa": False, "gamma": 0.5, "group": 2}, "group: 2 is never read with dpa: false"),
        ({"agreement": "published"}, "agreement: published is never read with joint: independent"),
        ({"dpa": False, "gamma": 1.5}, "gamma 1.5 is no margin score"),
        ({"dpa": False, "gamma": 0.5, "score": "entropy"}, "gamma 0.5 is no entropy score"),
        ({"alpha0": 5}, "less than or equal to 1"),
        ({"alpha0": "0.4"}, "valid number"),
        ({"alpha0": float("nan")}, "number"),
        ({"dpa": 1}, "valid boolean"),
        ({"group": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_the_recipe_is_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(3, **settings)
    with pytest.raises(RecipeError, match=message):
        load("toy/s4mc_fixmatch", [f"plugin.{name}={json.dumps(value)}" for name, value in settings.items()])


def test_published_agreement_exists_for_two_numbers_of_classes() -> None:
    with pytest.raises(RecipeError, match="no published agreement for 3 classes") as error:
        made(3, variant="release", agreement="published")
    assert error.value.fix


def two_images() -> tuple[Tensor, Tensor]:
    """Scores of two images of 1 x 5 pixels, and a mask that hides the last pixel of the second."""
    raw = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0.5]], [[0.6, 0.7, 0.8, 0.9, 0.0]]])
    valid = torch.ones_like(raw, dtype=torch.bool)
    valid[1, 0, 4] = False
    return raw, valid


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"variant": "paper"}, [0.5, 0.5]),  # nine scores 0.1 to 0.9, level 0.5
        ({"variant": "release"}, [0.3, 0.75]),  # 0.1 to 0.5; 0.6 to 0.9
        ({"variant": "release", "group": 2}, [0.5, 0.5]),
        ({"variant": "release", "group": "batch"}, [0.5, 0.5]),
        ({"variant": "paper", "group": 1}, [0.3, 0.75]),
    ],
)
def test_whose_scores_share_a_quantile(settings: dict[str, Any], expected: list[float]) -> None:
    gamma = made(alpha0=0.5, **settings)._gamma(*two_images(), progress())
    assert gamma.expand(2, 1, 1).flatten().tolist() == pytest.approx(expected)


def gammas(_: Job, team: Team) -> list[float]:
    """The thresholds of both variants, of the one image this process has."""
    raw, valid = (x[team.rank : team.rank + 1] for x in two_images())
    return [made(alpha0=0.5, variant=v)._gamma(raw, valid, progress()).item() for v in ("paper", "release")]


def test_the_number_of_processes_changes_no_quantile(tmp_path: Path) -> None:
    first, second = (found[0] for found in together(2, [(gammas, Job(tmp_path, tmp_path, ()))], tmp_path))
    assert first == pytest.approx([0.5, 0.3])
    assert second == pytest.approx([0.5, 0.75])


def test_a_batch_that_does_not_form_groups_is_refused() -> None:
    raw, valid = two_images()
    with pytest.raises(RecipeError, match="3 unlabelled images a process do not form groups of 2"):
        made(group=2)._gamma(torch.cat([raw, raw[:1]]), torch.cat([valid, valid[:1]]), progress())


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        ({}, 1),
        ({"neighbour": "two_max"}, 1),
        ({"variant": "release"}, 2),
        ({"neighbour": "min"}, 2),
        ({"joint": "bound"}, 2),
    ],
)
def test_behaviour_rises_only_where_the_computation_changed(settings: dict[str, Any], version: int) -> None:
    assert S4MC.behaviour_of(S4MC.Config(**settings)) == version


def test_loss_scale_of_cutmix_seg() -> None:
    """Example 7: all pixels over kept ones times the mean over kept ones."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 3.0]]).T.reshape(1, 2, 1, 4)
    keep = torch.tensor([[[True, False, True, True]]])
    label = torch.tensor([[[0, 0, 1, 1]]])
    given = Pseudo(label, torch.ones(1, 1, 4), keep, torch.ones_like(keep))

    def scaled(target: Pseudo, weight: Tensor | None = None, absolute: bool = False) -> float:
        return _scaled_ce(logits, target, weight, absolute).item()

    assert scaled(given) * 3 / 4 == pytest.approx(0.2896, abs=5e-5)
    assert scaled(given) == pytest.approx(0.3861, abs=5e-5)
    twice = torch.full((1, 1, 4), 2.0)
    assert scaled(given, twice) == pytest.approx(0.3861, abs=5e-5)
    assert scaled(given, twice, absolute=True) == pytest.approx(2 * 0.3861, abs=1e-4)
    assert scaled(replace(given, keep=keep & False)) == 0
    assert scaled(replace(given, keep=keep & False, trusted=keep)) == pytest.approx(0.3861, abs=5e-5)


HOSTS: list[tuple[str, dict[str, Any]]] = [
    ("cutmix_seg", {}),
    ("cutmix_seg", {"variant": "original", "threshold": 0.3}),
    ("fixmatch", {"threshold": 0.3}),
    ("fixmatch", {"threshold": 0.3, "teacher": "ema"}),
    ("unimatch", {"threshold": 0.3}),
    ("mean_teacher", {}),
    ("mean_teacher", {"consistency": "hard", "threshold": 0.3}),
]


@pytest.mark.parametrize(("host", "settings"), HOSTS)
def test_zero_settings_are_the_host_bit_for_bit_and_default_ones_are_not(host: str, settings: dict[str, Any]) -> None:
    alone, zero, full = (
        build(host, plugin, **settings)
        for plugin in (None, made(CLASSES, **S4MC.zero), made(CLASSES))
    )  # fmt: skip
    expected = train(alone, 6)
    assert train(zero, 6) == expected
    weights = alone.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in zero.state_dict().items() if not k.startswith("plugin."))
    assert train(full, 6) != expected


class Watched(S4MC):
    """S4MC that remembers what it answered."""

    def __init__(self, cfg: S4MC.Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.refined: list[Pseudo] = []

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.refined.append(super().refine(pseudo, t))
        return self.refined[-1]


class WatchedMix(Watched):
    """The same, and what the host mixed from it."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        self.mixed = host()
        return self.mixed


@pytest.mark.parametrize(("host", "settings"), HOSTS)
def test_the_hosts_threshold_is_replaced(host: str, settings: dict[str, Any]) -> None:
    """At level 0 all but the least confident pixel pass, whatever the host's own threshold says."""
    if "threshold" in settings:
        settings = settings | {"threshold": 1.0}
    watched = Watched(Watched.Config(alpha0=0.0, refine_scores=False), CLASSES)
    method = build(host, watched, **settings)
    method(make_batch(method.needs), progress(15))
    assert watched.refined
    for told in watched.refined:
        assert (~told.keep & told.valid).sum() == 1


def test_keep_follows_the_images_through_the_mix() -> None:
    """FixMatch: selection on the weak view before CutMix, then image, label and keep are pasted together."""
    watched = WatchedMix(WatchedMix.Config(), CLASSES)
    method = build("fixmatch", watched)
    batch = make_batch(method.needs)
    method(batch, progress(15))
    there, here = watched.refined
    assert batch.unlabeled is not None
    box = batch.unlabeled.boxes[0]
    for name in ("keep", "label", "valid"):
        expected = torch.where(box, getattr(there, name), getattr(here, name))
        assert torch.equal(getattr(watched.mixed[0].pseudo, name), expected), name


def test_cutmix_seg_judges_the_mixed_images_and_keeps_the_labels_of_the_unmixed_ones() -> None:
    """Labels from the eval-mode pass before mixing, confidence from the pass on the mixed images."""
    watched = WatchedMix(WatchedMix.Config(), CLASSES)
    method = build("cutmix_seg", watched, mix_probability=1.0)
    batch = make_batch(method.needs)
    method(batch, progress(15))
    [judged] = watched.refined
    [mixed] = watched.mixed
    assert torch.equal(judged.label, mixed.pseudo.label)
    assert (mixed.pseudo.probs, mixed.pseudo.keep.all()) == (None, True)
    assert not torch.equal(judged.soft.argmax(1), judged.label)
    kept = judged.keep[judged.valid].float().mean().item()
    assert 0.3 < kept < 1.0
