"""AEL's class bank and image bank, and what they decide: classes to paste, partners, regions (card: ael 4 to 6)."""

from __future__ import annotations

import copy
from dataclasses import replace

import naive
import numpy as np
import pair
import pytest
import torch
from builders import CLASSES, batch_for, build, progress, train
from made_ael import BANK, TAU, ael, chances, measured, own
from torch import Tensor

from ssbench.data.batch import Labeled
from ssbench.data.plan import Plan
from ssbench.methods.ael import AEL, to_host


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
    method, result = ael(), []
    method.images[[1, 4, 6], 2] = True
    method.images[3, [0, 1, 3]] = True
    for step in range(200):
        t = progress(step, 400)
        batch = batch_for(method, t)
        drawn = [c for _, c in method._draw_classes(batch, t)]
        for c, id in zip(drawn, method.wants(batch, t), strict=True):
            assert id in ({"u1", "u4", "u6"} if c == 2 else {"u3"})
            result.append((c, id))
    assert {id for c, id in result if c == 2} == {"u1", "u4", "u6"}
    seen = np.bincount([c for c, _ in result], minlength=CLASSES) / len(result)
    assert seen == pytest.approx(chances(BANK, 1.0), abs=0.08)


def test_any_image_may_come_while_none_shows_the_class() -> None:
    method = ael()
    partners = {id for step in range(60) for id in method.wants(batch_for(method, progress()), progress(step, 100))}
    assert partners == {f"u{k}" for k in range(8)}


def test_the_banks_go_on_where_they_were_saved() -> None:
    """What they decide, too: partners, and with them the losses."""
    first, second = ael(), build("ael", seed=1, paste_without=(0,))
    assert isinstance(second, AEL)
    train(first, 4)
    assert first.images.any()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.bank, first.bank)
    assert torch.equal(second.images, first.images)
    partners = [[m.wants(batch_for(m, t), t) for t in map(progress, range(4, 9))] for m in (first, second)]
    assert partners[0] == partners[1]
    assert train(first, 3, start=4) == train(second, 3, start=4)
    assert torch.equal(second.bank, first.bank)
    assert torch.equal(second.images, first.images)


def test_the_first_draws_of_a_step_use_the_bank_before_it() -> None:
    """Also in the very step after a checkpoint was loaded, when the host knows no bank yet."""
    one, other, t = ael(bank_momentum=0.0), ael(bank_momentum=0.0), progress()
    batch = own(batch_for(one, t))
    other._bank_on_host = None
    assert one(batch, t).loss.item() == other(batch, t).loss.item()
    assert one._bank_on_host is not None
    assert one._bank_on_host.tolist() == one.bank.tolist()


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


def test_excluded_classes_are_never_pasted_and_the_others_are() -> None:
    method, seen = ael(paste_without=(0, 2), paste_draws=1), set()
    for step in range(30):
        t = progress(step)
        batch = own(batch_for(method, t))
        result = method._paste_classes(batch, t)
        changed = result.y != batch.labeled.y
        assert not changed[:, 10:30, 30:50].any()  # class 2
        assert not changed[:, 30:].any()
        seen.add(bool(changed.any()))
        same = (result.x == batch.labeled.x).all(1)
        assert torch.equal(~same, (result.x == batch.donor.x).all(1))  # type: ignore[union-attr]
        assert (result.y[~same] == 1).all()
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
        y = method._paste_classes(replace(batch, labeled=four, donor=donor), t).y
        assert torch.equal(y[0], y[1])
        assert torch.equal(y[2], y[3])
        kinds.add(torch.equal(y[0], y[2]))
    assert kinds == {True, False}


def test_images_without_a_donor_stay_as_they_are() -> None:
    method, t = ael(), progress()
    batch = own(batch_for(method, t))
    assert batch.donor is not None
    none = replace(batch.donor, y=torch.full_like(batch.donor.y, 255))
    result = method._paste_classes(replace(batch, donor=none), t)
    assert torch.equal(result.x, batch.labeled.x)
    assert torch.equal(result.y, batch.labeled.y)


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


def test_what_arrives_is_what_was_sent_whatever_its_type() -> None:
    sent: list[Tensor] = [
        torch.tensor([[True, False, True]]),
        torch.arange(6).view(2, 3).t(),  # not contiguous
        torch.rand(5),
        torch.tensor(7, dtype=torch.uint8),
        torch.rand(3, dtype=torch.float64),
        torch.zeros(0, 4),
    ]
    for before, after in zip(sent, to_host(sent), strict=True):
        assert after.dtype == before.dtype
        assert torch.equal(after, before)


def test_what_arrives_is_no_view_of_what_was_sent() -> None:
    sent = torch.rand(4, requires_grad=True)
    (got,) = to_host([sent])
    got.zero_()
    assert sent.detach().all()
    assert not got.requires_grad
