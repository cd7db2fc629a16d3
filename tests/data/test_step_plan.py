"""Which images a step reads, and that nothing but (seed, step) decides it."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import same, tensors
from PIL import Image

from ssbench import keyed
from ssbench.data.batch import Batch
from ssbench.data.dataset import Dataset
from ssbench.data.loader import Steps, loader
from ssbench.data.plan import Needs, Plan
from ssbench.errors import RecipeError
from ssbench.views.pipelines import read_views

VIEWS = read_views({"weak": "unimatch", "strong": "unimatch", "box": "unimatch", "crop": 24})
UNIMATCH = Needs(strong=2, partner="same")


class Noise(Dataset):
    """Images of keyed noise, 20 to 40 pixels a side."""

    name = "noise"
    classes = ("a", "b", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))

    def ids(self, subset: str) -> tuple[str, ...]:
        return ()

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(self._drawn(id, 3))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(self._drawn(id, 1)[..., 0] % 3)

    def _drawn(self, id: str, channels: int) -> Any:
        draw = keyed.rng("noise", id)
        height, width = draw.integers(20, 40, 2)
        return draw.integers(0, 256, (height, width, channels), np.uint8)


def ids(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i:05d}" for i in range(count))


def plan(labeled: int, unlabeled: int, needs: Needs = UNIMATCH, batch: tuple[int, int] = (8, 8), **more: Any) -> Plan:
    return Plan(ids("l", labeled), ids("u", unlabeled), needs, *batch, **more)


def steps_of(made: Plan, rank: int = 0, world: int = 1) -> Steps:
    return Steps(Noise(Path()), made, VIEWS, rank=rank, world=world)


def epoch(made: Plan, stream: str, number: int = 0) -> list[tuple[str, int]]:
    """All (id, repetition) of a stream in an epoch."""
    each = made.steps_per_epoch
    drawn = made.labeled_at if stream == "labeled" else lambda step: made.unlabeled_at(step, stream)
    return [pair for step in range(number * each, (number + 1) * each) for pair in drawn(step)]


# Steps an epoch at 4 x 2 (8 + 8) and, supervised, at 4 x 4 images (card: unimatch 2, 5).
SEMI = [
    (92, 10490, 1311), (183, 10399, 1300), (366, 10216, 1277), (732, 9850, 1231), (1464, 9118, 1140),
    (662, 9920, 1240), (1323, 9259, 1157), (2646, 7936, 992),
    (100, 2875, 359), (186, 2789, 349), (372, 2603, 325), (744, 2231, 279), (1488, 1487, 186),
    (232, 118055, 14757), (463, 117824, 14728), (925, 117362, 14670), (1849, 116438, 14555), (3697, 114590, 14324),
]  # fmt: skip
SUPERVISED = [
    (92, 5), (183, 11), (366, 23), (732, 45), (1464, 91), (662, 41), (1323, 82), (2646, 165),
    (186, 11), (372, 23), (744, 46), (1488, 93), (232, 14), (463, 29), (925, 58), (1849, 115), (3697, 231),
]  # fmt: skip


@pytest.mark.parametrize(("labeled", "unlabeled", "steps"), SEMI)
def test_steps_per_epoch_of_the_published_schedules(labeled: int, unlabeled: int, steps: int) -> None:
    assert plan(labeled, unlabeled, devices=4).steps_per_epoch == steps


@pytest.mark.parametrize(("labeled", "steps"), SUPERVISED)
def test_steps_per_epoch_of_the_supervised_rows(labeled: int, steps: int) -> None:
    needs = Needs(unlabeled=False, epoch_of="labeled")
    assert plan(labeled, 10, needs, (16, 0), devices=4).steps_per_epoch == steps


def test_a_kept_last_batch_is_filled_from_the_start_of_its_epoch() -> None:
    needs = Needs(unlabeled=False, epoch_of="labeled")
    short, kept = (plan(10, 0, needs, (4, 0), last=last) for last in ("drop", "fill"))
    assert (short.steps_per_epoch, kept.steps_per_epoch) == (2, 3)
    first, second, third = ([id for id, _ in kept.labeled_at(step)] for step in range(3))
    assert sorted(first + second + third[:2]) == sorted(kept.labeled)
    assert third[2:] == first[:2]
    assert [id for id, _ in short.labeled_at(0)] == first


def test_steps_per_epoch_of_the_medical_schedule() -> None:
    assert plan(136, 1176, batch=(12, 12)).steps_per_epoch == 98


def test_an_epoch_passes_once_over_the_unlabelled_images() -> None:
    made = plan(5, 48)
    for stream in ("unlabeled", "partner"):
        assert Counter(id for id, _ in epoch(made, stream)) == Counter(made.unlabeled)


def test_labelled_images_are_repeated_evenly() -> None:
    drawn = epoch(plan(5, 48), "labeled")
    assert set(Counter(id for id, _ in drawn).values()) == {9, 10}
    assert len(set(drawn)) == 48, "each repetition is told apart, and so augmented on its own"


def test_a_labelled_list_longer_than_the_unlabelled_one_loses_its_tail() -> None:
    made = plan(50, 48)
    assert Counter(id for id, _ in epoch(made, "labeled")) == Counter(made.labeled[:48])


def test_what_does_not_fill_a_batch_is_dropped_and_padding_wraps() -> None:
    dropped, padded = plan(5, 50), plan(5, 45, devices=8)
    assert len({id for id, _ in epoch(dropped, "unlabeled")}) == 48
    drawn = [id for id, _ in epoch(padded, "unlabeled")]
    assert (padded.steps_per_epoch, len(drawn), len(set(drawn))) == (6, 48, 45)
    assert drawn[45:] == drawn[:3]


def test_epochs_and_streams_and_seeds_are_shuffled_apart() -> None:
    made = plan(48, 48)
    orders = [epoch(made, "unlabeled"), epoch(made, "unlabeled", 1), epoch(made, "partner"),
              [(id.replace("l", "u"), k) for id, k in epoch(made, "labeled")],
              epoch(replace(made, seed=1), "unlabeled"), sorted(epoch(made, "unlabeled"))]  # fmt: skip
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_a_labelled_batch_of_its_own_size_leaves_no_image_out() -> None:
    """Six labelled images an epoch, of twenty: every image comes before any comes again."""
    made = plan(20, 48, batch=(1, 8))
    assert made.steps_per_epoch == 6
    drawn = [pair for number in range(10) for pair in epoch(made, "labeled", number)]
    for start in (0, 20, 40):
        assert {id for id, _ in drawn[start : start + 20]} == set(made.labeled)
    assert len(set(drawn)) == 60


def test_unlabelled_images_in_an_epoch_of_labelled_ones() -> None:
    made = plan(16, 50, Needs(strong=1, epoch_of="labeled"), (8, 8))
    assert made.steps_per_epoch == 2
    drawn = [id for number in range(7) for id, _ in epoch(made, "unlabeled", number)]
    assert set(drawn[:50]) == set(made.unlabeled)


@pytest.mark.parametrize(
    ("sizes", "needs", "batch", "devices", "said"),
    [
        ((5, 7), UNIMATCH, (8, 8), 1, "a batch of 8 unlabelled images from a list of 7"),
        (
            (7, 50),
            Needs(unlabeled=False, epoch_of="labeled"),
            (8, 0),
            1,
            "a batch of 8 labelled images from a list of 7",
        ),
        ((50, 0), UNIMATCH, (8, 8), 1, "no unlabelled images"),
        ((5, 50), UNIMATCH, (8, 0), 1, "batches of 8 labelled and 0 unlabelled"),
        ((5, 50), UNIMATCH, (8, 6), 4, "a batch of 6 cannot come from 4 processes"),
    ],
)
def test_impossible_plans(sizes: tuple[int, int], needs: Needs, batch: Any, devices: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        plan(*sizes, needs, batch, devices=devices)


def test_a_fully_labelled_split_suits_a_supervised_run_that_counts_unlabelled_epochs() -> None:
    assert plan(16, 0, Needs(unlabeled=False, epoch_of="unlabeled"), (8, 8)).steps_per_epoch == 2


@pytest.fixture(scope="module")
def reference() -> list[Batch]:
    steps = steps_of(plan(3, 8, batch=(4, 4)))
    return [steps[number] for number in range(6)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on fewer cores
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_change_nothing(reference: list[Batch], workers: int) -> None:
    got = list(loader(steps_of(plan(3, 8, batch=(4, 4))), 0, 6, workers))
    assert len(got) == 6
    assert all(same(a, b) for a, b in zip(got, reference, strict=True))


@pytest.mark.parametrize("start", [1, 3, 5])
def test_the_point_of_resumption_changes_nothing(reference: list[Batch], start: int) -> None:
    got = list(loader(steps_of(plan(3, 8, batch=(4, 4))), start, 6, workers=0))
    assert same(got, reference[start:])


def test_global_generators_change_nothing(reference: list[Batch]) -> None:
    import random

    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  the old global state is what must not matter
    random.seed(7)
    assert same(steps_of(plan(3, 8, batch=(4, 4)))[4], reference[4])


def test_steps_differ(reference: list[Batch]) -> None:
    assert not any(same(a, b) for i, a in enumerate(reference) for b in reference[:i])


def joined(parts: list[Any]) -> Any:
    """The shares of several processes as one batch."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if is_dataclass(first):
        return replace(first, **{f.name: joined([getattr(p, f.name) for p in parts]) for f in fields(first)})
    if isinstance(first, tuple) and first and not isinstance(first[0], str):
        return tuple(joined(list(each)) for each in zip(*parts, strict=True))
    return sum(parts, ()) if isinstance(first, tuple) else first


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch(reference: list[Batch], world: int) -> None:
    made = plan(3, 8, batch=(4, 4))
    parts = [steps_of(made, rank, world)[2] for rank in range(world)]
    assert [len(part.labeled.ids) for part in parts] == [4 // world] * world
    assert same(joined(parts), reference[2])


def test_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(RecipeError, match="a batch of 4 cannot be shared by 3 processes"):
        steps_of(plan(3, 8, batch=(4, 4)), 0, 3)
    with pytest.raises(RecipeError, match="a batch of 3"):
        steps_of(plan(3, 8, batch=(2, 3)), 0, 2)
    steps_of(plan(4, 8, Needs(unlabeled=False, epoch_of="labeled"), (2, 3)), 0, 2)  # its 3 are never read


def test_partner_same_is_the_same_images_drawn_afresh(reference: list[Batch]) -> None:
    for batch in reference:
        assert batch.unlabeled is not None
        assert batch.partner is not None
        assert batch.partner.ids == batch.unlabeled.ids
        assert not torch.equal(batch.partner.weak, batch.unlabeled.weak)


def test_partner_other_is_an_order_of_its_own() -> None:
    made = plan(3, 8, replace(UNIMATCH, partner="other"), (4, 4))
    batches = [steps_of(made)[number] for number in range(6)]
    assert any(b.partner.ids != b.unlabeled.ids for b in batches if b.partner and b.unlabeled)
    for number in (0, 2, 4):  # an epoch of two steps
        drawn = [b.partner.ids for b in batches[number : number + 2] if b.partner]
        assert sorted(sum(drawn, ())) == list(made.unlabeled)


def test_shapes_and_what_is_left_out() -> None:
    full = steps_of(plan(3, 8, batch=(2, 4)))[0]
    assert full.labeled.x.shape == (2, 3, 24, 24)
    assert full.labeled.y.shape == (2, 24, 24)
    assert full.labeled.y.dtype == torch.int64
    assert full.unlabeled is not None
    assert [s.shape for s in full.unlabeled.strong] == [(4, 3, 24, 24)] * 2
    assert [b.dtype for b in full.unlabeled.boxes] == [torch.bool] * 2
    assert full.unlabeled.valid.dtype == torch.bool
    few = steps_of(plan(3, 8, Needs(strong=1), (2, 4)))[0]
    assert few.partner is None
    none = steps_of(plan(3, 8, Needs(unlabeled=False), (2, 4)))[0]
    assert (none.unlabeled, none.partner) == (None, None)


def test_moving_a_batch_keeps_it_whole(reference: list[Batch]) -> None:
    assert same(reference[0].to(torch.device("cpu")), reference[0])
    moved = reference[0].to(torch.device("meta"))
    assert moved.partner is not None
    assert {t.device.type for t in tensors(moved) if isinstance(t, torch.Tensor)} == {"meta"}
    assert moved.partner.ids == moved.unlabeled.ids if moved.unlabeled else False
