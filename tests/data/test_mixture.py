"""Mixtures: the sizes of the specification's table, and batches against views made one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.dataset import Dataset
from ssbench.data.loader import loader, make_steps
from ssbench.data.plan import Mixture, Needs, plan_partition
from ssbench.errors import RecipeError
from ssbench.splits.manifest import Partition
from ssbench.views import tensors
from ssbench.views.pipelines import labeled_view, read_views, strong_view, unlabeled_view
from ssbench.views.sample import Draw, Sample

VIEWS = read_views({"weak": "stpp", "strong": "stpp", "crop": 32, "base": 36, "jitter_share": 0.5})
LABELED, UNLABELED = ("l0", "l1", "l2"), ("u0", "u1", "u2", "u3", "u4")


class Noise(Dataset):
    """Pictures of noise of several sizes; a mask has the labels 0 to 3."""

    name = "noise"
    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (80, 0, 0), (0, 80, 0), (0, 0, 80))

    def ids(self, subset: str) -> tuple[str, ...]:
        return LABELED + UNLABELED

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(self.drawn(id).integers(0, 256, (*self.size(id), 3), np.uint8))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(self.drawn(id).integers(0, 4, self.size(id), np.uint8))

    def size(self, id: str) -> tuple[int, int]:
        return 28 + 2 * int(id[1]), 40 - int(id[1])

    def drawn(self, id: str) -> np.random.Generator:
        return np.random.default_rng(list(id.encode()))


DATA = Noise(Path())


def pseudo(id: str) -> Image.Image:
    """Another mask than the true one, which no batch may contain for these ids."""
    return DATA.mask(id).point(lambda value: (value + 1) % 4)


def stored(id: str) -> dict[str, Image.Image]:
    unsure = Image.fromarray(np.full(DATA.size(id), 0.5, np.float32))
    return {"pseudo": pseudo(id), "entropy": unsure} if id in UNLABELED else {}


def mixture(batch: int = 4, repeats: int = 2, unlabeled: tuple[str, ...] = UNLABELED, **needs: Any) -> Mixture:
    asked = Needs(**({"mixture": "coloured"} | needs))
    return Mixture(LABELED, unlabeled, asked, batch, 0, 1, seed=5, repeats=repeats)


def of(plan: Mixture, step: int, rank: int = 0, world: int = 1) -> Batch:
    return make_steps(plan, DATA, VIEWS, stored, rank, world)[step]


def told(batch: Batch) -> Unlabeled:
    assert batch.unlabeled is not None
    return batch.unlabeled


def named(count: int, prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{k}" for k in range(count))


VOC = {
    92: (11, 1316, 661), 183: (22, 1301, 656), 366: (22, 1279, 639), 732: (45, 1256, 628), 1464: (91, 1210, 650),
    662: (41, 1240, 641), 1323: (82, 1157, 620), 2645: (165, 1157, 578),
}  # fmt: skip
CITYSCAPES = {100: (12, 360, 183), 372: (23, 325, 174), 744: (46, 278, 162)}


SIZES = [(whole, n, steps) for whole, table in ((10582, VOC), (2975, CITYSCAPES)) for n, steps in table.items()]


@pytest.mark.parametrize(("whole", "labeled", "steps"), SIZES)
def test_steps_an_epoch_are_those_tablethe_specification(whole: int, labeled: int, steps: tuple[int, ...]) -> None:
    """Card: views 3: the first training, one on all, one on the reliable half."""
    rest, doubled = whole - labeled, 2 if labeled < 200 else 1
    partition = Partition("a/b/c", "a", named(labeled, "l"), named(rest, "u"), "", custom=False)
    plan = plan_partition(partition, Needs(mixture="coloured"), 16, 0, 1, 0)
    assert isinstance(plan, Mixture)
    half = replace(plan, unlabeled=plan.unlabeled[: rest // 2], repeats=-(-(rest // 2) // labeled))
    found = (replace(plan, unlabeled=(), repeats=doubled).steps_per_epoch, plan.steps_per_epoch, half.steps_per_epoch)
    assert found == steps


def test_an_epoch_is_one_pass_over_the_list_without_its_short_end() -> None:
    plan = mixture(batch=4)
    assert (plan.length, plan.steps_per_epoch) == (11, 2)
    epochs = []
    for epoch in range(200):
        seen = [item for step in range(2) for item in plan.mixture_at(2 * epoch + step)]
        assert len(set(seen)) == len(seen) == 8
        epochs.append(seen)
    counts = Counter(item for seen in epochs for item in seen)
    assert set(counts) == {(id, rep, True) for id in LABELED for rep in (0, 1)} | {(id, 0, False) for id in UNLABELED}
    assert max(counts.values()) < 1.4 * min(counts.values()), "the end that is left out is another one each time"
    assert epochs[0] != epochs[1]


def test_kinds_come_as_the_shuffle_has_them() -> None:
    plan = mixture(batch=4)
    shares = {len(plan.labeled_at(step)) for step in range(40)}
    assert len(shares) > 2, "no fixed ratio"
    for step in range(40):
        both = [id for id, _ in plan.labeled_at(step) + plan.unlabeled_at(step)]
        assert sorted(both) == sorted(plan.ids_at(step))
        assert len(both) == 4


def test_labelled_images_are_weak_with_their_truth_and_unlabelled_ones_strong_with_the_stored_labels() -> None:
    """Bit for bit the views made one by one; the true masks of unlabelled images stand in `truth` alone."""
    plan, erased = mixture(batch=4), 0
    for step in range(30):
        epoch, batch = step // 2, of(plan, step)
        for k, (id, rep) in enumerate(plan.labeled_at(step)):
            sample = Sample.of(id, DATA.image(id), DATA.mask(id))
            view = labeled_view(sample, VIEWS, Draw(5, epoch, id, f"labeled{rep}"))
            assert torch.equal(batch.labeled.x[k], view.x)
            assert torch.equal(batch.labeled.y[k], view.y)
        for k, (id, _) in enumerate(plan.unlabeled_at(step)):
            here, draw = told(batch), Draw(5, epoch, id, "unlabeled0")
            view = strong_view(Sample.of(id, DATA.image(id), pseudo(id)), VIEWS, draw)
            assert torch.equal(here.strong[0][k], view.x)
            assert torch.equal(torch.where(here.valid[k], here.maps["pseudo"][k].long(), 255), view.y)
            assert torch.equal(here.maps["entropy"][k] > 0, view.valid)
            plain = unlabeled_view(Sample.of(id, DATA.image(id), DATA.mask(id)), VIEWS, draw, 0)
            assert torch.equal(here.weak[k], plain.weak)
            assert torch.equal(here.truth[k], plain.truth)
            erased += int((plain.valid & ~here.valid[k]).any())
    assert erased > 10, "cutout was seen"


def test_coloured_afterwards_is_coloured_by_the_loader() -> None:
    for step in range(10):
        loaded, plain = (told(of(mixture(7, mixture=kind), step)) for kind in ("coloured", "plain"))
        assert plain.strong == ()
        assert plain.colour is not None
        x, erased = plain.colour(plain.weak, 0)
        assert torch.equal(x, loaded.strong[0])
        assert torch.equal(plain.valid & ~erased, loaded.valid)
        other, _ = plain.colour(plain.weak, 1)
        assert not torch.equal(other, x)


@pytest.mark.parametrize(("mode", "normalise"), [("RGB", "imagenet"), ("RGB", "none"), ("L", "none")])
def test_a_normalised_picture_is_undone_exactly(mode: str, normalise: str) -> None:
    cfg = VIEWS.model_copy(update={"normalise": normalise})
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(values if mode == "L" else np.stack([values, values.T, values[::-1]], -1))
    undone = tensors.pixels(tensors.picture(image, cfg), cfg)
    assert undone.mode == mode
    assert np.array_equal(np.array(undone), np.array(image))


def test_a_donor_for_every_unlabelled_image() -> None:
    plan, seen = mixture(7, mixture="plain", donor=1.0), set()
    for step in range(20):
        batch = of(plan, step)
        assert isinstance(batch.donor, Labeled)
        assert len(batch.donor.x) == len(told(batch).ids) == len(batch.donor.ids)
        assert (batch.donor.y != 255).flatten(1).any(1).all()
        seen |= set(batch.donor.ids)
    assert seen == set(LABELED)


def test_two_processes_share_a_batch_evenly_in_either_kind() -> None:
    plan = mixture(batch=4)
    for step in range(20):
        whole, parts = of(plan, step), [of(plan, step, rank, 2) for rank in range(2)]
        known = [id for part in parts for id in part.labeled.ids]
        unknown = [id for part in parts for id in told(part).ids]
        assert Counter(known) == Counter(whole.labeled.ids)
        assert Counter(unknown) == Counter(told(whole).ids if whole.unlabeled else ())
        assert {len(part.labeled.ids) + len(told(part).ids) for part in parts} == {2}
        assert abs(len(parts[0].labeled.ids) - len(parts[1].labeled.ids)) <= 1


def test_a_batch_may_lack_a_kind() -> None:
    plan = mixture(batch=1)
    kinds = {bool(plan.labeled_at(step)): step for step in range(20)}
    only_known, only_told = of(plan, kinds[True]), of(plan, kinds[False])
    assert only_known.unlabeled is None
    assert only_told.labeled.x.shape == (0, 3, 32, 32)
    assert only_told.labeled.y.shape == (0, 32, 32)
    two = mixture(batch=2)
    step = next(s for s in range(40) if len(two.labeled_at(s)) == 2)
    empty = told(of(two, step, 1, 2))
    assert empty.ids == ()
    assert (empty.weak.shape, empty.strong[0].shape, empty.valid.shape) == ((0, 3, 32, 32), (0, 3, 32, 32), (0, 32, 32))
    alone = mixture(unlabeled=())
    assert all(of(alone, step, 0, 2).unlabeled is None for step in range(4)), "nobody has any"


def test_loader_workers_change_nothing() -> None:
    steps = make_steps(mixture(mixture="plain", donor=1.0), DATA, VIEWS, stored, 0, 1)
    for alone, helped in zip(loader(steps, 3, 7, 0), loader(steps, 3, 7, 1), strict=True):
        assert torch.equal(alone.labeled.x, helped.labeled.x)
        assert (alone.unlabeled is None) == (helped.unlabeled is None)
        if alone.unlabeled is not None:
            assert torch.equal(told(alone).weak, told(helped).weak)


@pytest.mark.parametrize(("batch", "devices", "said"), [(12, 1, "no step fits"), (4, 3, "cannot come from 3")])
def test_batches_that_cannot_be(batch: int, devices: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Mixture(LABELED, UNLABELED, Needs(mixture="coloured"), batch, 0, devices, repeats=2)


def test_a_batch_is_the_sum_tablethe_two_sizes() -> None:
    plan = Mixture(LABELED, UNLABELED, Needs(mixture="coloured"), 2, 2, 1, seed=5, repeats=2)
    assert plan.mixture_at(3) == mixture(batch=4).mixture_at(3)
