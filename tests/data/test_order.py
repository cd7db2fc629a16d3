"""The order of images, against naive re-statements of what the releases do (card: views 1)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssbench.data.plan import Needs, Plan, plan_partition
from ssbench.errors import DataError
from ssbench.keyed import rng
from ssbench.splits import lists
from ssbench.splits.manifest import ListEntry, Partition, digest, manifest, published_digest, read_list

CUT, DRAWN = Needs(strong=1), Needs(strong=1, repeats="drawn")


def ids(prefix: str, count: int) -> tuple[str, ...]:
    """Ids whose order is not the sorted one."""
    return tuple(f"{prefix}{k}" for k in rng("order", prefix).permutation(count))


def epoch_of(plan: Plan, number: int = 0) -> list[tuple[str, int]]:
    each = plan.steps_per_epoch
    return [reading for step in range(number * each, (number + 1) * each) for reading in plan.labeled_at(step)]


@pytest.mark.parametrize(("labeled", "unlabeled"), [(732, 9850), (92, 1049), (186, 2789), (1488, 1487), (5, 48)])
def test_lists_are_repeated_and_cut_in_the_order_of_the_file(labeled: int, unlabeled: int) -> None:
    """UniMatch: `ids *= math.ceil(nsample / len(ids))`, then `ids[:nsample]`."""
    own = ids("l", labeled)
    plan = Plan(own, ids("u", unlabeled), CUT, 1, 1)
    expected = Counter((list(own) * -(-unlabeled // labeled))[:unlabeled])
    assert Counter(id for id, _ in epoch_of(plan)) == expected
    assert Counter(id for id, _ in epoch_of(plan, 3)) == expected
    if unlabeled % labeled:
        plan = Plan(tuple(sorted(own)), ids("u", unlabeled), CUT, 1, 1)
        assert Counter(id for id, _ in epoch_of(plan)) != expected, "the sorted list repeats other images once more"


@pytest.mark.parametrize(("labeled", "unlabeled"), [(92, 1049), (5, 48), (1488, 1487)])
def test_drawn_repetitions_are_drawn_once_for_the_whole_run(labeled: int, unlabeled: int) -> None:
    """AugSeg, U2PL: `random.sample(list repeated, nsample)` when the data set is built, not in every epoch."""
    own, counts = ids("l", labeled), []
    for seed in range(3):
        plan = Plan(own, ids("u", unlabeled), DRAWN, 1, 1, seed=seed)
        every = [epoch_of(plan, number) for number in range(3)]
        assert len({frozenset(Counter(readings).items()) for readings in every}) == 1, "the same entries in each epoch"
        assert every[0] != every[1], "in another order"
        assert len(set(every[0])) == unlabeled, "without replacement"
        repeated = Counter(list(own) * -(-unlabeled // labeled))
        drawn = Counter(id for id, _ in every[0])
        assert all(count <= repeated[id] for id, count in drawn.items())
        counts.append(frozenset(drawn.items()))
    assert len(set(counts)) == 3, "another draw for another seed"


def test_every_image_is_left_out_as_often_as_any_other() -> None:
    """A uniform draw of 7 from 3 x 3 entries leaves two out; each of three images equally often."""
    left_out: Counter[str] = Counter()
    for seed in range(600):
        plan = Plan(("a", "b", "c"), ids("u", 7), DRAWN, 1, 1, seed=seed)
        left_out.update(dict.fromkeys("abc", 3))
        left_out.subtract(id for id, _ in epoch_of(plan))
    assert sum(left_out.values()) == 1200
    assert max(left_out.values()) - min(left_out.values()) < 100


def test_nothing_is_drawn_where_the_lists_divide_evenly() -> None:
    """So runs on the toy lists meet the images they met before the draw was made."""
    cut, drawn = (Plan(ids("l", 4), ids("u", 12), needs, 2, 2) for needs in (CUT, DRAWN))
    assert all(cut.labeled_at(step) == drawn.labeled_at(step) for step in range(12))


def test_images_that_fill_the_last_batch_are_repetitions_of_their_own() -> None:
    needs = Needs(unlabeled=False, epoch_of="labeled")
    plan = Plan(ids("l", 10), (), needs, 4, 0, last="fill")
    readings = epoch_of(plan)
    assert [id for id, _ in readings[10:]] == [id for id, _ in readings[:2]]
    assert len(set(readings)) == 12, "augmented afresh"
    padded = Plan(ids("l", 3), ids("u", 45), CUT, 8, 8, devices=8)
    assert len(set(epoch_of(padded))) == 48
    unlabeled = [reading for step in range(6) for reading in padded.unlabeled_at(step)]
    assert len(set(unlabeled)) == 48
    assert {id for id, repetition in unlabeled if repetition} == {id for id, _ in unlabeled[:3]}


def test_a_mixture_passes_over_the_labelled_list_in_whole() -> None:
    partition = Partition("a/b/c", "a", ids("l", 3), ids("u", 8), "", custom=False)
    plan = plan_partition(partition, Needs(mixture="coloured"), 4, 0, 4, 0)
    seen = [item for step in range(plan.steps_per_epoch) for item in plan.mixture_at(step)]  # type: ignore[attr-defined]
    assert len(set(seen)) == len(seen) == 20, "17 entries, padded to 20: three come again, as repetitions of their own"
    assert {id for id, _, labeled in seen if labeled} == set(partition.labeled)


# --- the lists themselves ---


def test_the_digest_covers_the_order_of_the_labelled_list_alone() -> None:
    a, b = ("x", "y"), ("u", "v")
    assert digest(a, b) != digest(a[::-1], b)
    assert digest(a, b) == digest(a, b[::-1])
    both = lists.fingerprint(a), lists.fingerprint(b)
    sorted_entry = ListEntry(count=2, fingerprint=both[0]), ListEntry(count=2, fingerprint=both[1])
    entry = next(iter(manifest().splits.values())).model_copy(
        update={"labeled": sorted_entry[0], "unlabeled": sorted_entry[1]}
    )
    assert published_digest(entry) == digest(a, b), "sorted lists keep the digest that stored records have"
    turned = sorted_entry[0].model_copy(update={"order": lists.order_digest(a[::-1])})
    assert published_digest(entry.model_copy(update={"labeled": turned})) == digest(a[::-1], b)


def test_a_list_that_an_older_version_sorted_is_refused(tmp_path: Path) -> None:
    published = ("2007_000068", "2007_000032", "2007_000039")
    entry = ListEntry(count=3, fingerprint=lists.fingerprint(published), order=lists.order_digest(published))
    path = tmp_path / "labeled.txt"
    path.write_text(lists.dump(published))
    assert read_list(path, entry, "voc", "prepare") == published
    path.write_text(lists.dump(sorted(published)))
    with pytest.raises(DataError, match="another order than the published file") as caught:
        read_list(path, entry, "voc", "ssbench prepare voc")
    assert caught.value.fix == "ssbench prepare voc"


@pytest.mark.real
def test_the_orders_of_the_manifest_are_those_of_the_published_files(shared: Path) -> None:
    checked = 0
    for name, split in manifest().splits.items():
        path = shared / "splits" / split.origin / str(split.labeled.path)
        if path.is_file():
            published = lists.parse(path.read_text("utf-8"), split.format, name.split("/")[0], path)
            order = lists.order_digest(published)
            assert (split.labeled.order or split.labeled.fingerprint) == order, name
            checked += 1
    assert checked > 25


def test_shuffles_are_uniform_enough_to_meet_every_image() -> None:
    plan = Plan(ids("l", 9), ids("u", 20), CUT, 2, 2)
    firsts = Counter(plan.labeled_at(number * plan.steps_per_epoch)[0][0] for number in range(500))
    assert set(firsts) == set(plan.labeled)
    assert np.ptp(list(firsts.values())) < 60
