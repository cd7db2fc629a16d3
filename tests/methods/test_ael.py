"""AEL, re-derived (specs: ael 4-9, 12, 15); its banks; what it asks of the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pair
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, batch_for, build, maker, plugin, progress, train
from PIL import Image
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Needs, Plan, Steps
from ssbench.data.dataset import Dataset
from ssbench.data.views import ViewsConfig
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.methods.ael import AEL
from ssbench.methods.base import LossConfig
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Mixed, Pace, Plugin, Seen
from ssbench.recipe import load

TAU = 0.3
BANK = [0.1, 0.8, 0.4, 0.95]


def ael(chosen: Plugin | None = None, **settings: Any) -> AEL:
    method = build("ael", chosen, **{"paste_without": (0,), **settings})
    assert isinstance(method, AEL)
    method.bank.copy_(torch.tensor(BANK))
    return method


def own(batch: Batch) -> Batch:
    """The batch with donors of noise, labelled 1 in a square and 2 in the one beside it, else 255."""
    g = torch.Generator().manual_seed(99)
    y = torch.full_like(batch.labeled.y, 255)
    y[:, 10:30, 10:30], y[:, 10:30, 30:50] = 1, 2
    donor = Labeled(torch.randn(batch.labeled.x.shape, generator=g), y, batch.labeled.ids)
    return replace(batch, donor=donor)


class Probe(Plugin):
    """Notes what the host mixed, and what it was asked to weigh."""

    def __init__(self) -> None:
        super().__init__(Plugin.Config(), CLASSES)
        self.mixed: list[Mixed] = []
        self.refined: list[Pseudo] = []
        self.seen: list[Seen] = []

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.refined.append(pseudo)
        return pseudo

    def mix(self, host: Callable[[], Sequence[Mixed]], batch: Batch, weak: Pseudo, t: Progress) -> Sequence[Mixed]:
        self.mixed += host()
        return self.mixed[-1:]

    def loss(self, seen: Seen, t: Progress) -> dict[str, Tensor]:
        self.seen.append(seen)
        return {}


def chances(bank: Sequence[float], power: float, without: Sequence[int] = ()) -> list[float]:
    raised = [0.0 if c in without else float(np.exp((1 - b) ** power)) for c, b in enumerate(bank)]
    return [r / sum(raised) for r in raised]


def pasted(batch: Batch, t: Progress, draws: int, without: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Specs: ael 5, both images being one process of the release."""
    dice = rng(t.seed, t.step, "ael paste", 0)
    wanted = set(dice.choice(CLASSES, draws, p=chances(BANK, 0.5, without)).tolist())
    x, y, donor = batch.labeled.x.clone(), batch.labeled.y.clone(), batch.donor
    assert donor is not None
    for c in wanted:
        here = donor.y == c
        y[here] = c
        for b in range(len(x)):
            x[b][:, here[b]] = donor.x[b][:, here[b]]
    return x, y


def consistency(
    logits: Tensor, teacher: Tensor, bank: Tensor, t: Progress, name: str, group: int, tau: float
) -> Tensor:
    """Specs: ael 8, class by class as the release draws it."""
    q, label = teacher.softmax(1).max(1)
    predicted, each = logits.argmax(1), []
    for k in range(0, len(logits), group):
        some = slice(k, k + group)
        planes = torch.rand((CLASSES, *q.shape[1:]), generator=t.generator(f"ael keep {name} {k // group}"))
        kept = torch.zeros_like(q[some])
        for c in range(CLASSES):
            s = (1 - bank[c]) / (1 - bank).max()
            kept += (planes[c] * (predicted[some] == c) > 1 - s).float() * (predicted[some] == c)
        w = q[some] ** 2 * kept
        w = w / (w.sum() + 1e-12)
        ce = -F.log_softmax(logits[some], 1).gather(1, label[some][:, None])[:, 0]
        each.append((w * ce * (q[some] >= tau)).sum())
    return torch.stack(each).mean()


def measured(bank: Tensor, logits: Tensor, y: Tensor, momentum: float = 0.999) -> Tensor:
    """Specs: ael 4, for one group."""
    p = logits.detach().softmax(1)
    m = [p[:, c][y == c].mean() if (y == c).any() else torch.zeros(()) for c in range(CLASSES)]
    return momentum * bank + (1 - momentum) * torch.stack(m)


@pytest.mark.parametrize("layout", ["unimatch", "augseg"])  # without and with an auxiliary head, no dropout in either
def test_first_step(layout: str) -> None:
    probe = Probe()
    settings: dict[str, Any] = {"threshold": TAU, "weight": 2.0, "loss_scale": 0.125, "paste_draws": 2}
    method = ael(probe, net=maker(layout=layout, aux=layout == "augseg"), **settings)
    net, teacher, t = copy.deepcopy(method.net), copy.deepcopy(method.teacher), progress(3)
    batch = own(batch_for(method, t))
    made = method(batch, t)
    made.loss.backward()

    x, y = pasted(batch, t, 2, [0])
    out = net(x)
    sup, aux = naive.supervised(out.logits, y), torch.zeros(())
    if out.aux is not None:
        aux = naive.supervised(out.aux, y)
    with torch.no_grad():
        known = teacher(x).logits
        here, there = batch.unlabeled, naive.partner(batch)
        assert here is not None
        pair = teacher(torch.cat([here.weak, there.weak])).logits
    bank = measured(torch.tensor(BANK), out.logits, y)
    n, mixed = len(here.weak), probe.mixed[0]
    region = (mixed.images == there.weak).all(1)
    assert 0 < region.float().mean() < 1
    assert torch.equal(mixed.images, naive.cut_in(here.weak, there.weak, region))
    view = net(mixed.images).logits
    of_labeled = consistency(out.logits, known, bank, t, "labeled", 2, TAU)
    of_mixed = consistency(view, naive.cut_in(pair[:n], pair[n:], region), bank, t, "s1", 1, TAU)
    total = (sup + 0.4 * aux + 2.0 * (of_labeled + of_mixed)) / 8
    expected = {"sup": sup, "aux": aux, "labeled": of_labeled, "mixed": of_mixed}
    for name, value in expected.items():
        assert made.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert made.loss.item() == pytest.approx(total.item(), rel=1e-4)
    torch.testing.assert_close(method.bank, bank)
    total.backward()
    naive.assert_same_gradients(method.net, {k: p.grad for k, p in net.named_parameters() if p.grad is not None})
    for ours, theirs in ((method.net, net), (method.teacher, teacher)):
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b)  # all train-mode passes, the teacher's own too
    assert all(p.grad is None for p in method.teacher.parameters())


def test_gradients_reach_every_trained_tensor_of_the_released_network() -> None:
    settings: dict[str, Any] = {"output_stride": 8, "multi_grid": (2, 2, 4), "ceil_mode": True}
    method = ael(net=maker(encoder="resnet18", layout="ael", aux=True, **settings))
    t = progress()
    method(batch_for(method, t), t).loss.backward()
    for name, p in method.net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_the_step_may_be_scaled_as_the_release_scales_it() -> None:
    t = progress()
    one, eighth = (ael(loss_scale=s) for s in (1.0, 0.125))
    batch = batch_for(one, t)
    assert one(batch, t).loss.item() == pytest.approx(8 * eighth(batch, t).loss.item())


# The banks


def test_a_class_the_batch_lacks_counts_as_zero_unless_skipped() -> None:
    for absent, expected in (("zero", 0.999 * BANK[3]), ("skip", BANK[3])):
        method, t = ael(absent=absent), progress()
        batch = batch_for(method, t)
        y = batch.labeled.y.where(batch.labeled.y != 3, 255)
        method(replace(batch, labeled=replace(batch.labeled, y=y), donor=None), t)
        assert method.bank[3].item() == pytest.approx(expected)


def test_the_bank_is_the_mean_over_groups_of_two_images() -> None:
    method, t = ael(), progress()
    pairs = [batch_for(method, t, seed) for seed in (1, 2)]
    x, y = (torch.cat([getattr(b.labeled, part) for b in pairs]) for part in ("x", "y"))
    y[2:] = y[2:].where(y[2:] != 0, 255)  # the second pair has no class 0
    net = copy.deepcopy(method.net)
    joined = replace(pairs[0], labeled=Labeled(x, y, tuple("abcd")), donor=None)
    method(joined, t)
    logits = net(x).logits
    start = torch.tensor(BANK)
    both = [measured(start, logits[k : k + 2], y[k : k + 2]) for k in (0, 2)]
    torch.testing.assert_close(method.bank, (both[0] + both[1]) / 2)


def shown(logits: Tensor, share: float) -> list[list[bool]]:
    label = logits.argmax(1)
    pixels = label[0].numel()
    return [[int((one == c).sum()) >= share * pixels for c in range(CLASSES)] for one in label]


def test_the_image_bank_holds_what_the_teacher_saw_last() -> None:
    method, t = ael(presence=0.2), progress(2)
    batch, teacher = batch_for(method, t), copy.deepcopy(method.teacher)
    here, there = batch.unlabeled, naive.partner(batch)
    assert here is not None
    assert not method.images.any()
    with torch.no_grad():
        teacher(batch.labeled.x)
        logits = teacher(torch.cat([here.weak, there.weak])).logits
    method(batch, t)
    expected = torch.zeros(8, CLASSES, dtype=torch.bool)
    for id, row in zip((*here.ids, *there.ids), shown(logits, 0.2), strict=True):
        expected[int(id[1:])] = torch.tensor(row)
    assert torch.equal(method.images, expected)
    assert expected.any()


def test_images_it_does_not_know_are_no_trouble() -> None:
    method, t = ael(), progress()
    batch = batch_for(method, t)
    assert batch.unlabeled is not None
    method(replace(batch, unlabeled=replace(batch.unlabeled, ids=("x", "y"))), t)


def test_the_partner_shows_the_class_drawn_for_it() -> None:
    method, found = ael(), []
    method.images[[1, 4, 6], 2] = True
    method.images[3, [0, 1, 3]] = True
    for step in range(200):
        t = progress(step, 400)
        batch = batch_for(method, t)
        drawn = [c for _, c in method._drawn(batch, t)]
        for c, id in zip(drawn, method.wants(batch, t), strict=True):
            assert id in ({"u1", "u4", "u6"} if c == 2 else {"u3"})
            found.append((c, id))
    assert {id for c, id in found if c == 2} == {"u1", "u4", "u6"}
    seen = np.bincount([c for c, _ in found], minlength=CLASSES) / len(found)
    assert seen == pytest.approx(chances(BANK, 1.0), abs=0.08)


def test_any_image_may_come_while_none_shows_the_class() -> None:
    method = ael()
    asked = {id for step in range(60) for id in method.wants(batch_for(method, progress()), progress(step, 100))}
    assert asked == {f"u{k}" for k in range(8)}


def test_the_banks_go_on_where_they_were_saved() -> None:
    """What they decide, too: partners, and with them the losses."""
    first, second = ael(), build("ael", seed=1, paste_without=(0,))
    assert isinstance(second, AEL)
    train(first, 4)
    assert first.images.any()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.bank, first.bank)
    assert torch.equal(second.images, first.images)
    asked = [[m.wants(batch_for(m, t), t) for t in map(progress, range(4, 9))] for m in (first, second)]
    assert asked[0] == asked[1]
    assert train(first, 3, start=4) == train(second, 3, start=4)
    assert torch.equal(second.bank, first.bank)
    assert torch.equal(second.images, first.images)


def test_the_first_draws_of_a_step_use_the_bank_before_it() -> None:
    """Also in the very step after a checkpoint was loaded, when the host knows no bank yet."""
    one, other, t = ael(bank_momentum=0.0), ael(bank_momentum=0.0), progress()
    batch = own(batch_for(one, t))
    other._heard = None
    assert one(batch, t).loss.item() == other(batch, t).loss.item()
    assert one._heard is not None
    assert one._heard.tolist() == one.bank.tolist()


def test_a_run_starts_with_random_confidences_of_its_seed() -> None:
    banks = []
    for seed in (0, 0, 1):
        method = build("ael")
        assert isinstance(method, AEL)
        method.attach(Plan(("l0",), ("u0", "u1"), method.needs, 2, 2, seed=seed))
        banks.append(method.bank.tolist())
        assert method.images.shape == (2, CLASSES)
    assert banks[0] == banks[1] != banks[2]
    assert all(0 <= b < 1 for b in banks[0])


def test_two_processes_equal_one() -> None:
    """Both banks too, and with them the images asked for: each process holds one group of two."""
    alone, together = pair.alone_and_together("ael", 3, 3, images=4, threshold=TAU, paste_without=(0,))
    pair.assert_equal(alone, together)
    assert alone["state"]["_extra_state"].any()


# Copy-paste and CutMix


def test_excluded_classes_are_never_pasted_and_the_others_are() -> None:
    method, seen = ael(paste_without=(0, 2), paste_draws=1), set()
    for step in range(30):
        t = progress(step)
        batch = own(batch_for(method, t))
        found = method._pasted(batch, t)
        changed = found.y != batch.labeled.y
        assert not changed[:, 10:30, 30:50].any()  # class 2
        assert not changed[:, 30:].any()
        seen.add(bool(changed.any()))
        same = (found.x == batch.labeled.x).all(1)
        assert torch.equal(~same, (found.x == batch.donor.x).all(1))  # type: ignore[union-attr]
        assert (found.y[~same] == 1).all()
    assert seen == {True, False}


def test_both_images_of_a_group_get_the_same_classes_and_groups_differ() -> None:
    method, kinds = ael(paste_draws=1), set()
    for step in range(40):
        t = progress(step)
        batch = own(batch_for(method, t))
        four = Labeled(
            batch.labeled.x.repeat(2, 1, 1, 1), torch.zeros_like(batch.labeled.y.repeat(2, 1, 1)), tuple("abcd")
        )
        donor = Labeled(torch.ones_like(four.x), batch.donor.y.repeat(2, 1, 1), four.ids)  # type: ignore[union-attr]
        y = method._pasted(replace(batch, labeled=four, donor=donor), t).y
        assert torch.equal(y[0], y[1])
        assert torch.equal(y[2], y[3])
        kinds.add(torch.equal(y[0], y[2]))
    assert kinds == {True, False}


def test_images_without_a_donor_stay_as_they_are() -> None:
    method, t = ael(), progress()
    batch = own(batch_for(method, t))
    assert batch.donor is not None
    none = replace(batch.donor, y=torch.full_like(batch.donor.y, 255))
    found = method._pasted(replace(batch, donor=none), t)
    assert torch.equal(found.x, batch.labeled.x)
    assert torch.equal(found.y, batch.labeled.y)


def test_the_region_is_a_part_of_the_class_or_half_the_image() -> None:
    method, t = ael(component_area=0.01), progress()
    masks = np.zeros((3, 40, 40), np.bool_)
    masks[0, 5:15, 20:32] = True
    masks[1, 0, :3] = True  # too small
    region = method._region(masks, t)
    assert torch.equal(region[0], torch.from_numpy(masks[0]))
    for k in (1, 2):
        assert region[k].float().mean().item() == pytest.approx(0.5, abs=0.03)
    again = method._region(masks, t)
    assert torch.equal(region, again)
    assert not torch.equal(region[1], region[2])


# The teacher


def test_the_teacher_is_a_copy_after_the_first_step_and_keeps_its_own_statistics() -> None:
    method = ael()
    assert not torch.equal(method.teacher.classifier.weight, method.net.classifier.weight)  # type: ignore[arg-type,union-attr]
    train(method, 1)
    for ours, theirs in zip(method.teacher.parameters(), method.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert any(not torch.equal(a, b) for a, b in zip(method.teacher.buffers(), method.net.buffers(), strict=True))
    method.eval()
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.predict(x), method.teacher(x).logits)


def passes(net: SegNet) -> int:
    return next(int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(("mode", "count"), [("train", 2), ("eval", 1)])
def test_the_teacher_labels_in_train_mode_unless_told_otherwise(mode: str, count: int) -> None:
    method, t = ael(pair_mode=mode), progress()
    method(batch_for(method, t), t)
    assert passes(method.teacher) == count
    assert passes(method.net) == 2


# Options


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "ignored"},
        {"normaliser": "counted", "threshold": TAU},
        {"confidence_power": 0.0},
        {"sampling_power": 0.1},
        {"group": 1},
    ],
)
def test_options_of_the_consistency_change_it(settings: dict[str, Any]) -> None:
    base = {"threshold": TAU} if "threshold" in settings else {}
    plain, changed, t = ael(**base), ael(**settings), progress()
    batch, term = batch_for(plain, t), "labeled" if "group" in settings else "mixed"
    before, after = plain(batch, t).terms[term], changed(batch, t).terms[term]
    assert before.item() != pytest.approx(after.item(), rel=1e-6)


def test_ignored_padding_is_out_of_both_sums() -> None:
    """The release's weighting with the padded pixels' weights set to 0 (specs: ael 13, row 11)."""
    probe = Probe()
    method, t = ael(probe, padding="ignored", sampling_power=0.0), progress()
    net, batch = copy.deepcopy(method.net), batch_for(method, t)
    term = method(batch, t).terms["mixed"].item()
    net(batch.labeled.x)
    m = probe.mixed[0]
    ce = -F.log_softmax(net(m.images).logits, 1).gather(1, m.pseudo.label[:, None])[:, 0]
    w = m.pseudo.conf**2 * m.pseudo.valid
    expected = ((w * ce).flatten(1).sum(1) / w.flatten(1).sum(1)).mean()
    assert term == pytest.approx(expected.item(), rel=1e-4)


def test_a_dice_loss_has_no_pixel_weights() -> None:
    with pytest.raises(RecipeError, match="weighted cross entropy"):
        build("ael", loss=LossConfig(pseudo="dice"))


# Plug-ins


def test_weights_enter_the_mixed_term_before_it_is_normalised() -> None:
    class Left(Plugin):
        """Nothing but the left half counts."""

        def weigh(self, mixed: Mixed, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
            return torch.ones_like(mixed.pseudo.conf).where(torch.arange(65) < 33, 0.0)

    probe, t = Probe(), progress()
    plain, left = ael(probe), ael(Left(Plugin.Config(), CLASSES))
    net, batch = copy.deepcopy(plain.net), batch_for(plain, t)
    before, after = plain(batch, t).terms, left(batch, t).terms
    assert before["labeled"] == after["labeled"]
    m, half = probe.mixed[0], torch.arange(65) < 33
    net(batch.labeled.x)
    logits = net(m.images).logits
    each = []
    for k in range(len(logits)):
        planes = torch.rand((CLASSES, 65, 65), generator=t.generator(f"ael keep s1 {k}"))
        s = (1 - plain.bank) / (1 - plain.bank).max()
        pred = logits[k].argmax(0)
        w = m.pseudo.conf[k] ** 2 * (planes.gather(0, pred[None])[0] > 1 - s[pred]) * half
        ce = -F.log_softmax(logits[k], 0).gather(0, m.pseudo.label[k][None])[0]
        each.append((w * ce).sum() / w.sum())
    assert after["mixed"].item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)


def test_plugins_see_the_pasted_labels_and_raw_teacher_labels_decide_the_banks() -> None:
    class Shuffle(Probe):
        """Refines every label to class 0."""

        def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
            return replace(super().refine(pseudo, t), label=torch.zeros_like(pseudo.label))

    probe, t = Shuffle(), progress()
    method, plain = ael(probe), ael()
    batch = own(batch_for(method, t))
    expected = method._pasted(batch, t)
    method(batch, t)
    plain(batch, t)
    assert torch.equal(method.images, plain.images)
    assert not probe.mixed[0].pseudo.label.any()
    assert len(probe.refined[0].label) == 4  # the unlabelled images and their partners, before they are mixed
    assert torch.equal(probe.seen[0].batch.labeled.y, expected.y)
    assert not torch.equal(expected.y, batch.labeled.y)
    assert probe.seen[0].views[0].name == "s1"


def test_a_warm_up_keeps_the_labelled_terms() -> None:
    class Off(Plugin):
        """No unlabelled terms."""

        def pace(self, t: Progress) -> Pace:
            return Pace(unlabeled=False)

    method, t = ael(Off(Plugin.Config(), CLASSES)), progress()
    made = method(batch_for(method, t), t)
    assert made.loss.item() == pytest.approx((made.terms["sup"] + made.terms["labeled"]).item())


def test_a_plugin_of_strength_zero_changes_no_bit() -> None:
    none, zero = (ael(chosen) for chosen in (None, plugin("s4mc", refine_scores=False, dpa=False)))
    t = progress()
    batch = batch_for(none, t)
    assert none(batch, t).loss.item() == zero(batch, t).loss.item()


# What it asks of the data


class Noise(Dataset):
    """Pictures by id, made on the spot."""

    name, classes, palette = "noise", ("a", "b", "c", "d"), ((0, 0, 0),) * 4

    def ids(self, subset: str) -> tuple[str, ...]:
        return ()

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(rng("image", id).integers(0, 256, (40, 50, 3), np.uint8))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(rng("mask", id).integers(0, 4, (40, 50), np.uint8))


def steps(needs: Needs, rank: int = 0, world: int = 1, unlabeled: int = 4) -> Steps:
    plan = Plan(tuple(f"l{k}" for k in range(6)), tuple(f"u{k}" for k in range(16)), needs, 4, unlabeled, 1, 5)
    views = ViewsConfig(weak="u2pl", crop=32)
    return Steps(Noise(Path()), plan, views, rank=rank, world=world)


def test_one_of_every_two_unlabelled_images_is_used() -> None:
    both, one = steps(Needs(), unlabeled=8), steps(Needs(pick=2), unlabeled=8)
    firsts = 0
    for step in range(2):
        loaded, used = both.plan.unlabeled_at(step), one.plan.unlabeled_at(step)
        assert len(used) == 4
        for k, drawn in enumerate(used):
            assert drawn in loaded[2 * k : 2 * k + 2]
            firsts += drawn == loaded[2 * k]
    assert 0 < firsts < 8
    assert one.plan.steps_per_epoch == both.plan.steps_per_epoch
    assert one[0].unlabeled.ids == tuple(id for id, _ in one.plan.unlabeled_at(0))  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="one of every 3"):
        steps(Needs(pick=3), unlabeled=8)


def test_donors_come_with_their_probability_and_scale_and_change_nothing_else() -> None:
    plain, with_donors = steps(Needs()), steps(Needs(donor=0.5, donor_scale=(0.1, 1.0)))
    given, sizes = [], []
    for step in range(4):
        bare, batch = plain[step], with_donors[step]
        assert torch.equal(bare.labeled.x, batch.labeled.x)
        assert batch.donor is not None
        for x, y, id in zip(batch.donor.x, batch.donor.y, batch.donor.ids, strict=True):
            given.append(id)
            assert bool(id) is bool((y != 255).any())
            assert bool(id) is bool(x.any())
            sizes.append(int((y != 255).sum()))
    assert 0 < sum(map(bool, given)) < len(given)
    assert {id for id in given if id} <= {f"l{k}" for k in range(6)}
    assert any(0 < size < 20 * 25 for size in sizes)  # smaller than the views' own 0.5 would make it


def test_asked_images_are_loaded_for_the_step_and_by_place() -> None:
    made = steps(Needs(partner="asked"))
    batch = made[2]
    assert batch.partner is None
    assert made.completed(batch, (), 2) is batch
    ids = ("u3", "u3", "u7", "u0")
    partner = made.completed(batch, ids, 2).partner
    assert partner is not None
    assert partner.ids == ids
    assert not torch.equal(partner.weak[0], partner.weak[1])  # the same image twice, augmented afresh
    assert torch.equal(partner.weak, made.completed(batch, ids, 2).partner.weak)  # type: ignore[union-attr]
    assert not torch.equal(partner.weak, made.completed(batch, ids, 3).partner.weak)  # type: ignore[union-attr]
    halves = [steps(Needs(partner="asked"), rank, 2) for rank in (0, 1)]
    parts = [s.completed(s[2], ids[2 * k : 2 * k + 2], 2).partner for k, s in enumerate(halves)]
    assert torch.equal(torch.cat([p.weak for p in parts if p is not None]), partner.weak)


@pytest.mark.parametrize(
    ("name", "epochs", "threshold", "draws", "area", "presence", "crop"),
    [
        ("ael_cityscapes_r101", 200, 0.0, 3, 0.005, 0.01, 769),
        ("ael_voc_r101", 80, 0.7, 1, 0.03, 0.03, 513),
        ("ael_cityscapes_r50_801", 200, 0.0, 3, 0.005, 0.01, 801),
    ],
)
def test_recipes_hold_the_released_constants(
    name: str, epochs: int, threshold: float, draws: int, area: float, presence: float, crop: int
) -> None:
    """Specs: ael 2."""
    recipe = load(f"ael/{name}")
    m, s, o = recipe.method, recipe.schedule, recipe.optim
    assert (m.threshold, m.paste_draws, m.component_area, m.presence) == (threshold, draws, area, presence)
    assert (m.weight, m.aux_weight, m.ema, m.bank_momentum) == (1.0, 0.4, 0.99, 0.999)
    assert (m.confidence_power, m.sampling_power, m.paste_share, m.paste_scale) == (2.0, 1.0, 0.5, (0.1, 2.0))
    assert (m.loss_scale, m.absent, m.normaliser, m.padding) == (1 / 8, "zero", "all", "counted")
    assert (m.paste_without, m.group, m.pick) == ((0, 1, 2, 8, 10), 2, 2)
    assert (s.epochs, s.labeled_batch, s.unlabeled_batch, s.devices) == (epochs, 16, 16, 8)
    assert (o.lr, o.head, o.weight_decay, o.lag) == (0.01, 10.0, 1e-4, 0)
    assert (recipe.loss.supervised, recipe.loss.ohem_min_kept, recipe.loss.ohem_group) == ("ohem", 100_000, 2)
    assert (recipe.views.crop, recipe.views.label_padding, recipe.net.aux) == (crop, 0, True)


@pytest.mark.parametrize(("unlabeled", "per_epoch"), [(2789, 174), (1487, 93), (9920, 620), (5291, 331)])
def test_an_epoch_is_as_long_as_the_release_has_it(unlabeled: int, per_epoch: int) -> None:
    """Specs: ael 2."""
    plan = Plan(("a",), tuple(map(str, range(unlabeled))), build("ael").needs, 16, 16, 8)
    assert plan.steps_per_epoch == per_epoch
