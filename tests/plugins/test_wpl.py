"""WPL against the worked examples of its specification (section 13), its memory and each of its switches."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, batch_for, build, make_batch, plugin, prepared, progress
from torch import Tensor

from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig, Losses
from ssbench.nets.segnet import Out
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Stack, StepOutputs, StudentView
from ssbench.plugins.wpl import CITYSCAPES, WPL
from ssbench.recipe.recipe import load

LABELED = [[[0, 3, 0, 1, 0, 0], [0, 1, 0, 3.3, 0, 1]], [[2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]]
UNLABELED = [[[0, 2, 0, 0, 0, 3]], [[0, 0, 0, 0, 0, 0]]]
FIRST = [[0.1, 2.0, 0, 1.5, 0.2, 0.3], [1.9, 0.1, 0.2, 0, 1.0, 0.3]]
PIXELS = [*FIRST, [0.2, 1.1, 0, 0.4, 0.3, 0.9], [0, 0.1, 2.2, 0.3, 1.7, 0.2]]
CE, CONF = (0.2, 1.0, 0.6, 2.0), (0.99, 0.97, 0.96, 0.90)


def made(classes: int = 2, **chosen: Any) -> WPL:
    return WPL(WPL.Config(**{"k": 2, "rppi": False, **chosen}), classes)


def filled(**chosen: Any) -> WPL:
    """With the memory of the worked example."""
    one = made(memory_size=4, **chosen)
    one.memory.insert(0, torch.tensor(LABELED), torch.tensor([2, 1]))
    one.memory.insert(int(one.apart), torch.tensor(UNLABELED), torch.tensor([1, 0]))
    return one


def four(conf: tuple[float, ...] = CONF) -> Pseudo:
    """The four pixels of the worked example, a row; labels 0 1 0 1."""
    label, sure = torch.tensor([[[0, 1, 0, 1]]]), torch.tensor([[conf]])
    feats = {"penultimate": torch.tensor(PIXELS).T[None, :, None]}
    return Pseudo(label, sure, sure >= 0.95, torch.ones_like(label, dtype=torch.bool), feats=feats)


def weights(one: WPL, pseudo: Pseudo | None = None) -> Tensor | None:
    blank = torch.zeros(1, 3, 1, 4)
    pseudo = one.refine(pseudo or four(), progress())
    return one.weigh(MixedView(blank, replace(pseudo, feats={}), blank), lambda _: Out(blank), progress())


def values(one: WPL, pseudo: Pseudo | None = None) -> list[float]:
    found = weights(one, pseudo)
    assert found is not None
    return found.flatten().tolist()


@pytest.mark.parametrize(("variant", "expected"), [("paper", [1, 1, 0.5, 0.5]), ("release", [2, 2, 1.5, 1.5])])
def test_rank_weights_of_the_worked_example(variant: str, expected: list[float]) -> None:
    assert values(filled(variant=variant)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"ppw": False}, 0.4500),
        ({"variant": "release"}, 0.4714),
        ({"variant": "release", "weight_offset": 0.0}, 0.5000),
        ({"variant": "paper", "divisor": "weights"}, 0.5000),
        ({"variant": "paper"}, 0.3750),
    ],
)
def test_the_loss_of_the_worked_example(chosen: dict[str, Any], expected: float) -> None:
    one, target = filled(**chosen), four()
    gap = torch.tensor([-math.log(math.expm1(ce)) for ce in CE])  # of two logits whose cross-entropy is that
    logits = torch.zeros(1, 2, 1, 4).scatter_(1, target.label[:, None], gap.view(1, 1, 1, 4))
    loss = Losses(LossConfig(), one.absolute).pseudo(logits, target, weights(one))
    assert loss.item() == pytest.approx(expected, abs=5e-5)


def test_an_empty_memory_knows_no_class() -> None:
    assert values(made()) == [0] * 4
    assert values(made(variant="release")) == [1] * 4
    assert values(filled(similarity="cosine"))[0] > 0.9
    assert values(made(similarity="euclidean")) == [0] * 4


def test_pasted_ground_truth_weighs_most() -> None:
    pasted = replace(four(), trusted=torch.tensor([[[False, False, True, False]]]))
    assert values(filled(), pasted) == [1, 1, 1, 0.5]
    assert values(filled(variant="release"), pasted) == [2, 2, 2, 1.5]


def test_what_the_teacher_said_is_mixed_along() -> None:
    one, region = filled(), torch.tensor([[[False, True, True, False]]])
    first, second = (one.refine(p, progress()) for p in (four(), four().permuted(slice(None))))
    turned = Pseudo(*(x.flip(-1) for x in (second.label, second.conf, second.keep, second.valid)))
    turned = turned.with_carry(**{name: value.flip(-1) for name, value in second.carry.items()})
    mixed, blank = first.pasted(turned, region), torch.zeros(1, 3, 1, 4)
    found = one.weigh(MixedView(blank, mixed, blank), lambda _: Out(blank), progress())
    assert found is not None
    assert found.flatten().tolist() == [1, 0.5, 1, 0.5]  # places 1 and 2 hold pixels 2 and 1


def test_a_mix_that_lost_it_is_looked_at_anew() -> None:
    one, blank, out = filled(), torch.zeros(1, 3, 1, 4), Out(torch.zeros(1), feats=dict(four().feats))
    found = one.weigh(MixedView(blank, replace(four(), feats={}), blank), lambda _: out, progress())
    assert found is not None
    assert found.flatten().tolist() == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize("similarity", ["rank", "cosine", "euclidean"])
def test_native_features_are_spread_to_the_nearest_pixels(similarity: str) -> None:
    full, native = (filled(similarity=similarity, features=f) for f in ("full", "native"))
    assert values(native) == pytest.approx(values(full))
    p = four()
    wide = Pseudo(*(x.repeat_interleave(3, 2).repeat_interleave(2, 1) for x in (p.label, p.conf, p.keep, p.valid)))
    expected = torch.tensor(values(native)).view(1, 4).repeat_interleave(3, 1).repeat_interleave(2, 0).flatten()
    assert values(native, replace(wide, feats=p.feats)) == pytest.approx(expected.tolist())


def test_the_variants() -> None:
    paper, release = made(), made(variant="release")
    assert (paper.offset, paper.absolute, paper.apart) == (0.0, True, False)
    assert (release.offset, release.absolute, release.apart) == (1.0, False, True)
    mixed = made(weight_offset=0.5, divisor="weights", memory="two")
    assert (mixed.offset, mixed.absolute, mixed.apart) == (0.5, False, True)
    assert Stack([mixed, paper]).absolute
    assert not Stack([mixed, release]).absolute


def test_alpha_scales_unlabelled_terms() -> None:
    assert made(alpha=0.4).scale(progress()) == LossScale(1.0, 0.4)
    losses = {}
    for alpha in (0.0, 0.5, 1.0):
        host = build("unimatch", made(CLASSES, alpha=alpha, k=5), threshold=0.0)
        step = host(batch_for(host, progress(), seed=1), progress())
        losses[alpha] = step.loss.item()
        assert alpha or step.loss.item() == pytest.approx(step.terms["sup"].item() / 2)
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="box_classes"):
        made(box_classes=(0, 2))
    with pytest.raises(RecipeError, match="CPS trains two"):
        build("cps", plugin("wpl"))
    with pytest.raises(RecipeError, match="wpl needs refine, which stpp does not offer"):
        load("toy/none_stpp", ("plugin={name: wpl, variant: release}",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ppw": False}, "reliable pixels"),
        ({"box_classes": []}, "at least 1 item"),
        ({"box_classes": [-1]}, "greater than or equal to 0"),
        ({"box_classes": [1, 1]}, "hold one twice"),
        ({"box_classes": [1, 9]}, "classes are 0 to 5"),
        ({"box_score": 1.5}, "less than or equal to 1"),
        ({"detector_lr": 0.0}, "greater than 0"),
        ({"detector_weights": "imagenet"}, "small detector has no weights"),
        ({"k": 5.0}, "valid integer"),
        ({"memory_size": True}, "valid integer"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_the_recipe_is_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("toy/wpl_unimatch", [f"plugin.{name}={json.dumps(value)}" for name, value in settings.items()])


def test_which_classes_have_boxes() -> None:
    assert made(19).things == CITYSCAPES
    assert made(21).things == tuple(range(1, 21))
    assert made(11).things == (6, 8, 9, 10)
    assert made(4, box_classes=(0, 3)).things == (0, 3)


def seen(logits: Tensor, y: Tensor, feats: Tensor, views: tuple[StudentView, ...] = ()) -> StepOutputs:
    host = build("unimatch")
    batch = make_batch(host.needs, side=y.shape[-1], images=len(y))
    batch = replace(batch, labeled=replace(batch.labeled, y=y))
    return StepOutputs(batch, Out(logits, feats={"penultimate": feats}), views, host.net, lambda x: Out(x))


def told(label: Tensor, conf: float, classes: int = CLASSES) -> Tensor:
    """Logits whose softmax is `conf` at the label."""
    rest = (1 - conf) / (classes - 1)
    return torch.full((*label.shape, classes), rest).scatter_(-1, label[..., None], conf).log().movedim(-1, 1)


def stored(one: WPL, bank: int = 0) -> list[list[float]]:
    """First channel of each class's rows."""
    counts = one.memory.count[bank].tolist()
    return [sorted(row[:n, 0].tolist()) for row, n in zip(one.memory.rows[bank], counts, strict=True)]


def test_labelled_pixels_go_in_where_they_are_predicted_right_and_sure() -> None:
    y = torch.tensor([[[0, 1, 2, 255], [3, 3, 0, 1]]])
    said = torch.tensor([[[0, 2, 2, 0], [3, 3, 0, 1]]])
    feats = torch.arange(8.0).view(1, 1, 2, 4) + 1
    one = made(CLASSES, samples=4)
    logits = torch.where(torch.arange(4) == 2, told(said, 0.94), told(said, 0.96))  # the third column is not sure
    one.loss(seen(logits.requires_grad_(), y, feats.requires_grad_()), progress())
    assert stored(one) == [[1], [8], [], [5, 6]]
    assert not one.memory.rows.requires_grad


def view(name: str, pseudo: Pseudo, first: float) -> StudentView:
    blank, feats = torch.zeros(1, 3, 1, 4), torch.arange(4.0).view(1, 1, 1, 4) + first
    return StudentView(name, blank, Out(blank, feats={"penultimate": feats}), pseudo, blank)


@pytest.mark.parametrize("memory", ["one", "two"])
def test_reliable_pixels_of_strong_views_go_in(memory: str) -> None:
    """A box of the label's class, confidence 0.95, inside, no ground truth; of the strong views alone."""
    label = torch.tensor([[[1, 2, 1, 0]]])
    pseudo = Pseudo(label, torch.tensor([[[0.95, 0.99, 0.949, 0.99]]]), label < 0, label >= 0)
    pseudo = pseudo.with_carry(boxes0=torch.tensor([[[1, 3, 1, 7]]], dtype=torch.uint8))  # bit c - 1: class c
    one = made(CLASSES, rppi=True, samples=4, memory=memory)
    views = (view("s1", pseudo, 10), view("s2", pseudo, 20), view("fp", pseudo, 30))
    y = torch.full((1, 1, 4), 255)
    one.loss(seen(told(y.clamp(max=3), 0.9), y, torch.zeros(1, 1, 1, 4), views), progress())
    bank = int(memory == "two")
    assert stored(one, bank) == [[], [10, 20], [11, 21], []]
    assert one.memory.rows[bank, 1, :2, 0].tolist() == [20, 10]  # the newest first
    hidden = replace(pseudo, valid=label != 1, trusted=label == 2)
    other = made(CLASSES, rppi=True, samples=4, memory=memory)
    other.loss(seen(told(y.clamp(max=3), 0.9), y, torch.zeros(1, 1, 1, 4), (view("s1", hidden, 10),)), progress())
    assert not other.memory.count.any()
    alone = made(CLASSES, samples=4, memory=memory)  # without the detector
    alone.loss(seen(told(y.clamp(max=3), 0.9), y, torch.zeros(1, 1, 1, 4), views), progress())
    assert not alone.memory.count.any()


def test_without_the_detector_nothing_is_prepared_but_weights_come(tmp_path: Path) -> None:
    one, run = plugin("wpl", rppi=False, confidence=0.3), prepared(tmp_path)
    one.prepare(run)
    assert run.maps == []
    assert list(tmp_path.iterdir()) == []
    host = build("augseg", one, threshold=0.0)
    for step in range(3):
        host(batch_for(host, progress(step), seed=step), progress(step))
    assert one.memory.count[0].any()  # type: ignore[union-attr]
    assert one.memory.count.shape[0] == 1  # type: ignore[union-attr]


def test_weights_and_memory_carry_no_gradient(tmp_path: Path) -> None:
    one, run = plugin("wpl", **{**WPL.quick, "confidence": 0.0}), prepared(tmp_path)
    one.prepare(run)
    host = build("unimatch", one, threshold=0.0)
    for step in range(2):
        host(batch_for(host, progress(step), seed=step, maps=tuple(run.maps)), progress(step)).loss.backward()
    assert isinstance(one, WPL)
    assert one.memory.count[0].sum() > 4
    assert not one.memory.rows.requires_grad
    assert one.memory.rows.shape[-1] == 32
