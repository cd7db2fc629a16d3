"""The supervised baseline, re-derived (card: unimatch 5, 6, 10)."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import naive
import pytest
import torch
from builders import build, make_batch, maker, progress, tiny_net, unet

from ssbench import find
from ssbench.data.plan import Needs, Plan
from ssbench.methods.base import LossConfig
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import load
from ssbench.tables.printed import printed_scores


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_the_loss_is_the_plain_cross_entropy_without_halving(encoder: str) -> None:
    method = build("supervised", net=maker(encoder=encoder))
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    result = method(batch, progress())
    result.loss.backward()
    expected = naive.supervised(reference(batch.labeled.x).logits, batch.labeled.y)
    assert result.loss.item() == result.terms["sup"].item() == pytest.approx(expected.item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(expected, reference))


def test_cityscapes_mines_hard_pixels_in_groups_of_two_images() -> None:
    """The number of kept pixels is that of a process of two images (card: unimatch 6)."""
    loss = LossConfig(supervised="ohem", ohem_threshold=0.05, ohem_min_kept=1000, ohem_group=2)
    method = build("supervised", loss=loss)
    batch, reference = make_batch(method.needs, images=4), copy.deepcopy(method.net)
    logits, y = reference(batch.labeled.x).logits, batch.labeled.y.clone()
    for group in (slice(0, 2), slice(2, 4)):
        part, truth = logits[group].softmax(1), y[group]
        p = part.gather(1, truth.where(truth != 255, 0)[:, None])[:, 0].where(truth != 255, 1.0)
        limit = max(0.05, p.flatten().sort().values[999].item())
        y[group] = truth.where(p <= limit, 255)
    kept = int((y != 255).sum())
    assert 2000 <= kept < int((batch.labeled.y != 255).sum())
    assert method(batch, progress()).loss.item() == pytest.approx(naive.supervised(logits, y).item(), rel=1e-5)


def test_the_unet_learns_by_half_cross_entropy_half_dice() -> None:
    method = build("supervised", net=maker(net=unet), loss=LossConfig(supervised="ce_dice"))
    batch, reference = make_batch(method.needs, channels=1), copy.deepcopy(method.net)
    torch.manual_seed(5)  # element-wise dropout in the encoder
    result = method(batch, progress())
    torch.manual_seed(5)
    logits = reference(batch.labeled.x).logits
    known = batch.labeled.y != 255
    dice = naive.soft_dice(logits, batch.labeled.y, known)
    expected = (naive.supervised(logits, batch.labeled.y) + dice) / 2
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_reads_labelled_images_only_for_as_long_as_asked() -> None:
    assert build("supervised").needs == Needs(unlabeled=False, epoch_of="labeled")
    assert build("supervised", epoch_of="unlabeled").needs == Needs(unlabeled=False, epoch_of="unlabeled")


def test_predicts_with_the_student() -> None:
    method = build("supervised").eval()
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.predict(x), method.net(x).logits)


def test_the_random_start_depends_on_seed_and_role() -> None:
    def weights(net: SegNet) -> torch.Tensor:
        return net.state_dict()["classifier.weight"]

    assert torch.equal(weights(build("supervised").net), weights(maker()("student")))
    assert not torch.equal(weights(maker()("student")), weights(maker()("second")))
    assert not torch.equal(weights(tiny_net(0)), weights(tiny_net(1)))


@pytest.mark.parametrize(
    ("recipe", "labeled", "total"),
    [
        ("u2pl/supervised_voc_r101", 92, 480),
        ("u2pl/supervised_voc_r101", 1323, 6640),
        ("u2pl/supervised_voc_r101", 5291, 26_480),
        ("u2pl/supervised_cityscapes_r101", 186, 2400),
        ("u2pl/supervised_cityscapes_r101", 744, 9400),
        ("u2pl/supervised_cityscapes_r101", 1488, 18_600),
        ("augseg/supervised_voc_r50", 92, 480),
        ("augseg/supervised_cityscapes_r101", 186, 2880),
        ("unimatch/supervised_voc_r101", 92, 400),
        ("unimatch/supervised_cityscapes_r101", 186, 2640),
    ],
)
def test_the_authors_short_schedules_have_their_steps(recipe: str, labeled: int, total: int) -> None:
    """What each release does with it (card: supervised 2)."""
    assert steps(recipe, labeled, 10_582 - labeled) == total


@pytest.mark.parametrize(
    ("recipe", "host"),
    [
        ("unimatch/supervised_equal_voc_r101", "unimatch/unimatch_voc_r101"),
        ("unimatch/supervised_equal_cityscapes_r101", "unimatch/unimatch_cityscapes_r101"),
        ("acdc/supervised_equal_unet", "acdc/unimatch_unet"),
        ("cps/supervised_voc_r50", "cps/cps_voc_r50"),
    ],
)
def test_the_equal_reading_has_its_neighbours_steps(recipe: str, host: str) -> None:
    assert steps(recipe, 100, 2300) == steps(host, 100, 2300)
    assert not printed_scores(recipe), "no table prints this reading"


def steps(name: str, labeled: int, unlabeled: int) -> int:
    recipe = load(name)
    lists = [tuple(f"{kind}{k}" for k in range(count)) for kind, count in (("l", labeled), ("u", unlabeled))]
    s, needs = recipe.schedule, find.load("method", recipe.method.name).needs.fget(SimpleNamespace(cfg=recipe.method))
    each = Plan(*lists, needs, s.labeled_batch, s.unlabeled_batch, s.devices, 0, s.last).steps_per_epoch
    return each * s.epochs_of(each)


def test_an_auxiliary_head_adds_its_share() -> None:
    """L = OHEM(main) + 0.4 OHEM(aux), here with plain cross entropy (card: u2pl 5)."""
    method = build("supervised", net=maker(layout="augseg", aux=True))  # a layout without dropout
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    out = reference(batch.labeled.x)
    assert out.aux is not None
    expected = naive.supervised(out.logits, batch.labeled.y) + 0.4 * naive.supervised(out.aux, batch.labeled.y)
    assert method(batch, progress()).loss.item() == pytest.approx(expected.item(), rel=1e-5)
