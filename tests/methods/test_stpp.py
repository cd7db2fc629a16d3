"""ST and ST++, re-derived (card: stpp 1, 2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, build, make_batch, maker, progress
from torch import Tensor
from watching import waits_of

from ssbench import find
from ssbench.data.batch import Batch
from ssbench.data.plan import Plan
from ssbench.errors import DataError, RecipeError
from ssbench.methods.base import LossConfig, Method
from ssbench.methods.stpp import Stored, STPlusPlus
from ssbench.nets.segnet import Out
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin
from ssbench.recipe.recipe import load, recipe_names


def method_of(plugin: type[Plugin] | None = None, net: Any = None, **settings: Any) -> STPlusPlus:
    method = build("stpp", plugin(plugin.Config(), CLASSES) if plugin else None, net, **settings)
    assert isinstance(method, STPlusPlus)
    return method


def target_of(batch: Batch) -> Tensor:
    """Given labels, then stored ones; 255 on padding and where cutout put noise."""
    _, y, here = naive.parts(batch)
    label = here.maps["pseudo"].long()
    label[~here.valid] = 255
    return torch.cat([y, label])


def ce(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the target class, B H W; nan where there is none."""
    log_p = logits.log_softmax(1)
    out = torch.full(target.shape, math.nan)
    for c in range(logits.shape[1]):
        out = torch.where(target == c, -log_p[:, c], out)
    return out


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_first_step_of_a_retraining(encoder: str) -> None:
    """One forward, one mean over the pixels of both kinds."""
    method = method_of(net=maker(encoder=encoder))
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    result = method(batch, progress())
    result.loss.backward()
    x, _, here = naive.parts(batch)
    target = target_of(batch)
    expected = naive.supervised(reference(torch.cat([x, here.strong[0]])).logits, target)
    assert result.loss.item() == result.terms["ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (target[2:] == 255).any()
    naive.assert_same_gradients(method.net, naive.gradients(expected, reference))
    for ours, theirs in zip(method.net.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)  # a single pass in train mode


def test_first_step_of_the_first_training() -> None:
    method = method_of()
    batch = replace(make_batch(method.needs), unlabeled=None)
    reference = copy.deepcopy(method.net)
    expected = naive.supervised(reference(batch.labeled.x).logits, batch.labeled.y)
    assert method(batch, progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_labelled_images() -> None:
    method = method_of()
    batch = make_batch(method.needs)
    none = replace(batch.labeled, x=batch.labeled.x[:0], y=batch.labeled.y[:0], ids=())
    reference, (_, _, here) = copy.deepcopy(method.net), naive.parts(batch)
    expected = naive.supervised(reference(here.strong[0]).logits, target_of(batch)[2:])
    assert method(replace(batch, labeled=none), progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_plain_step_waits_for_nothing() -> None:
    method = method_of()
    batch = make_batch(method.needs)
    assert waits_of(lambda: method(batch, progress()).loss.backward()) == []


class Weighed(Plugin):
    """Weights 0 to 2 from the left to the right."""

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        return ramp(mixed.pseudo.conf)


def ramp(like: Tensor) -> Tensor:
    return torch.linspace(0, 2, like.shape[-1]).expand_as(like)


def test_a_plugins_weights_have_a_mean_of_one_over_the_stored_labels() -> None:
    """sum(w CE) / N, where labelled pixels weigh 1."""
    method = method_of(Weighed)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    x, _, here = naive.parts(batch)
    target = target_of(batch)
    each = ce(reference(torch.cat([x, here.strong[0]])).logits, target)
    weight = torch.ones_like(each)
    weight[2:] = ramp(each[2:])
    known = target != 255
    weight[2:] /= weight[2:][known[2:]].mean()
    expected = (weight * each)[known].sum() / known.sum()
    assert method(batch, progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


class Twice(Plugin):
    """Two copies: the left half from a labelled image, and the same with all labels gone from the right one."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        here = batch.unlabeled
        assert here is not None
        assert here.strong == (), "mixing comes before colouring"
        assert torch.equal(weak.carry["entropy"], here.maps["entropy"])
        left = torch.zeros_like(weak.valid)
        left[..., :30] = True
        x = torch.where(left[:, None], batch.labeled.x, here.weak)
        known = batch.labeled.y != 255
        given = Pseudo(batch.labeled.y.where(known, torch.zeros_like(weak.label)), weak.conf, known, known)
        pasted = replace(weak, carry={}).pasted(given, left)
        return [MixedView(x, pasted, here.weak), MixedView(x, replace(pasted, keep=pasted.keep & left), here.weak)]


def test_copies_of_a_plugin_that_mixes_are_coloured_afterwards_and_share_the_weight_of_one() -> None:
    method = method_of(Twice)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    assert (method.needs.mixture, method.needs.donor) == ("plain", 1.0)
    known, y, here = naive.parts(batch)
    assert batch.donor is not None
    assert here.colour is not None
    x, label = here.weak.clone(), here.maps["pseudo"].long()
    label[~here.valid] = 255
    x[..., :30], label[..., :30] = batch.donor.x[..., :30], batch.donor.y[..., :30]
    inputs, targets = [known], [y]
    for k in range(2):
        seen, erased = here.colour(x, k)
        label_k = label.clone()
        if k == 1:
            label_k[..., 30:] = 255
        label_k[erased] = 255
        inputs.append(seen)
        targets.append(label_k)
    assert not torch.equal(inputs[1], inputs[2]), "each copy has its own colours"
    target = torch.cat(targets)
    each, weight = ce(reference(torch.cat(inputs)).logits, target), torch.ones(target.shape)
    weight[2:] = 0.5
    counted = target != 255
    expected = (weight * each)[counted].sum() / weight[counted].sum()
    assert method(batch, progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


class WarmUp(Plugin):
    """Labelled images alone."""

    def scale(self, t: Progress) -> LossScale:
        return LossScale(unlabeled=False)


def test_a_warm_up_leaves_the_labelled_pixels() -> None:
    method = method_of(WarmUp)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    x, y, here = naive.parts(batch)
    expected = naive.supervised(reference(torch.cat([x, here.strong[0]])).logits[:2], y)
    assert method(batch, progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)


class Mixes(Plugin):
    """As it is; but to have overridden the hook makes the method store entropies."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        return host()


def predict(x: Tensor) -> Tensor:
    """Logits that depend on the place, the size and the side."""
    g = torch.Generator().manual_seed(3)
    return F.conv2d(x, 3 * torch.randn(CLASSES, 3, 3, 3, generator=g), padding=1)


def test_labels_and_entropies_of_the_ten_predictions() -> None:
    """Arg-max of the sum, on every pixel (card: stpp 1); entropies as bytes over [0, log C]."""
    x = torch.randn(1, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(1, CLASSES, 20, 28)
    for scale in (0.5, 0.75, 1.0, 1.5, 2.0):
        size = (int(20 * scale), int(28 * scale))
        small = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        for seen, turned in ((small, False), (small.flip(3), True)):
            p = predict(seen).softmax(1)
            p = p.flip(3) if turned else p
            total += F.interpolate(p, size=(20, 28), mode="bilinear", align_corners=True)
    stored = method_of(Mixes)._label_image(predict, x)
    assert stored["pseudo"].mode == "P"
    assert np.array_equal(np.array(stored["pseudo"]), total[0].argmax(0).numpy())
    p = (total[0] / 10).double()
    share = -(p * p.log()).sum(0) / math.log(CLASSES)
    assert np.abs(np.array(stored["entropy"]) / 255 - share.numpy()).max() < 0.5 / 255 + 1e-5
    assert list(stored) == ["entropy", "pseudo"], "the labels last: they say that an image is done"
    assert list(method_of()._label_image(predict, x)) == ["pseudo"]


def test_stored_maps_are_read_back(tmp_path: Path) -> None:
    stored = method_of(Mixes)._label_image(predict, torch.randn(1, 3, 9, 11))
    for name, image in stored.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "u1.png")
    maps = Stored(tmp_path, frozenset({"u1", "u2"}), CLASSES, ("pseudo", "entropy"))
    assert maps("l0") == {}
    read = maps("u1")
    assert (read["pseudo"].mode, read["entropy"].mode) == ("L", "F")
    assert np.array_equal(np.array(read["pseudo"]), np.array(stored["pseudo"]))
    nats = np.array(stored["entropy"]) / 255 * math.log(CLASSES)
    assert np.allclose(np.array(read["entropy"]), nats)
    with pytest.raises(DataError, match="u2.png cannot be read"):
        maps("u2")
    (tmp_path / "pseudo" / "u2.png").write_bytes((tmp_path / "pseudo" / "u1.png").read_bytes()[:40])
    with pytest.raises(DataError, match="u2.png cannot be read"):
        Stored(tmp_path, frozenset({"u2"}), CLASSES, ("pseudo",))("u2")


@dataclass
class Lists:
    """What a run tells a method before anything is trained."""

    labeled: Sequence[str] = ()
    unlabeled: Sequence[str] = ()
    epochs: int = 80


@pytest.mark.parametrize(("epochs", "thirds"), [(80, [26, 53, 80]), (240, [80, 160, 240]), (2, [1, 1, 2])])
def test_networks_rank_after_a_third_two_thirds_and_all(epochs: int, thirds: list[int]) -> None:
    """Thirds of the epochs (card: stpp 1)."""
    assert method_of()._ranking_epochs(Lists(epochs=epochs)) == thirds  # type: ignore[arg-type]


@pytest.mark.parametrize(("labeled", "repeats"), [(92, 2), (199, 2), (200, 1), (366, 1)])
def test_lists_of_fewer_than_200_count_twice(labeled: int, repeats: int) -> None:
    """Twice below 200 (card: stpp 2); with epochs over the unlabelled list, as often as fits."""
    run = Lists(["l"] * labeled, ["u"] * 1000)
    assert method_of()._first_repeats(run) == repeats  # type: ignore[arg-type]
    assert method_of(double_below=0)._first_repeats(run) == 1  # type: ignore[arg-type]
    assert method_of(epoch_of="unlabeled")._first_repeats(run) == math.ceil(1000 / labeled)  # type: ignore[arg-type]


def test_a_loss_that_is_no_mean_over_all_pixels_is_refused() -> None:
    with pytest.raises(RecipeError, match="one loss for all pixels"):
        build("stpp", loss=LossConfig(supervised="ohem"))


def test_a_split_without_unlabelled_images_is_refused() -> None:
    method: Method = method_of()
    with pytest.raises(RecipeError, match="no unlabelled images"):
        method.attach(Plan(("l0", "l1"), (), method.needs, 1, 1))


NAMES = [name for name in recipe_names() if name.startswith("stpp/")]


@pytest.mark.parametrize("name", [*NAMES, "toy/none_stpp"])
@pytest.mark.parametrize("quick", [False, True])
def test_recipes_load(name: str, quick: bool) -> None:
    recipe = load(name, quick=quick)
    assert recipe.method.name == "stpp"
    assert recipe.method.variant == ("st" if name.startswith("stpp/st_") else "st++")
    assert recipe.views.strong == "stpp"


@pytest.mark.parametrize("name", NAMES)
def test_recipes_hold_the_constants_of_the_specification(name: str) -> None:
    """Constants of the release (card: stpp 2 to 6)."""
    recipe, voc = load(name), "_voc_" in name
    assert (recipe.views.crop, recipe.views.base) == ((321, 400) if voc else (721, 2048))
    assert recipe.views.scale == (0.5, 2.0)
    assert (recipe.optim.lr, recipe.optim.head, recipe.optim.lag) == (0.001 if voc else 0.004, 10, 0)
    assert (recipe.schedule.epochs, recipe.schedule.devices) == (80 if voc else 240, 1)
    assert (recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch) == (16, 0)
    assert (recipe.net.layout, recipe.net.output_stride, recipe.net.aspp_rates) == ("stpp", 8, (12, 24, 36))
    assert recipe.net.encoder == ("resnet50" if name.endswith("r50") else "resnet101")
    assert (recipe.method.scales, recipe.method.flip) == ((0.5, 0.75, 1.0, 1.5, 2.0), True)
    assert (recipe.method.double_below, recipe.method.label_with, recipe.method.epoch_of) == (200, "best", "labeled")
    assert (recipe.eval.protocol, recipe.eval.absent, recipe.eval.every) == ("whole", "left_out", 1)


def test_hooks_it_does_not_call_are_refused_when_a_recipe_is_read() -> None:
    assert find.load("plugin", "upc").needs <= STPlusPlus.honours
    with pytest.raises(RecipeError, match="refine, which stpp does not offer"):
        load("stpp/stpp_voc_r50", ("plugin={name: s4mc}",))
