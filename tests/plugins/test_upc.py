"""UPC against the worked examples of its specification (section 9) and by naive loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import build, plugin, train

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.ops import confidence, patch_grid
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, Stack
from ssbench.plugins.upc import UPC

P0 = torch.tensor(
    [[0.90, 0.80, 0.60, 0.55], [0.95, 0.90, 0.70, 0.30], [0.45, 0.40, 0.90, 0.95], [0.30, 0.55, 0.99, 0.90]]
)
PROBS = torch.stack([P0, 1 - P0])[None]
GIVEN = torch.tensor([[2, 2, 2, 2], [2, 2, 2, 2], [3, 3, 3, 3], [3, 255, 3, 3]])[None]
T = Progress(3, 10, 5, 0, torch.device("cpu"))


def weak() -> Pseudo:
    conf, label = PROBS.max(1)
    return Pseudo(label, conf, conf >= 0.95, torch.ones_like(label, dtype=torch.bool), PROBS.log(), PROBS)


def batch() -> Batch:
    view = Unlabeled(
        torch.zeros(1, 3, 4, 4), (torch.zeros(1, 3, 4, 4),), torch.ones(1, 4, 4, dtype=torch.bool), (), GIVEN, ("u",)
    )
    return Batch(Labeled(torch.ones(1, 3, 4, 4), GIVEN, ("l",)), view)


def rows(text: str) -> list[list[int]]:
    return [[int(v) for v in row.split()] for row in text.split("|")]


def test_entropy_of_two_class_pixels() -> None:
    p = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    got = confidence.entropy(torch.stack([p, 1 - p])[None, :, None])[0, 0].tolist()
    assert got == pytest.approx([0.6931, 0.6730, 0.6109, 0.5004, 0.3251, 0.1985], abs=5e-5)


def test_patch_sums_and_order() -> None:
    sums = patch_grid.patch_sums(confidence.entropy(PROBS), 2)
    assert sums[0].tolist() == pytest.approx([1.3491, 2.5829, 2.6602, 0.9047], abs=5e-5)
    assert patch_grid.rank_patches(sums)[0].tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, "0 0 0 0|0 0 0 1|3 3 0 0|3 255 0 0"),
        (2, "0 0 2 2|0 0 2 2|3 3 0 0|3 255 0 0"),
        (3, "2 2 2 2|2 2 2 2|3 3 0 0|3 255 0 0"),
    ],
)
def test_mixing_of_the_example(k: int, expected: str) -> None:
    plugin = UPC(UPC.Config(ras="off", k=k, grid=2), 4)
    (mixed,) = plugin.mix(lambda: [], batch(), weak(), T)
    shown = torch.where(mixed.pseudo.valid, mixed.pseudo.label, 255)
    assert shown[0].tolist() == rows(expected)
    region = mixed.images[0, 0].bool()
    assert torch.equal(mixed.pseudo.trusted_mask()[0], region & (GIVEN[0] != 255))


def test_ras_makes_a_copy_for_each_k_and_sample_takes_one() -> None:
    copies = UPC(UPC.Config(grid=2, ras_k=(1, 2, 3)), 4).mix(lambda: [], batch(), weak(), T)
    assert [int(m.images[0, 0].sum()) for m in copies] == [4, 8, 12]
    (one,) = UPC(UPC.Config(grid=2, ras="sample", ras_k=(1, 2, 3)), 4).mix(lambda: [], batch(), weak(), T)
    assert int(one.images[0, 0].sum()) in (4, 8, 12)


def test_oracle_order_of_the_example() -> None:
    truth = torch.tensor(rows("0 0 0 1|0 0 1 1|1 1 0 0|0 1 0 0"))[None]
    iou, _ = patch_grid.patch_agreement(PROBS.argmax(1), truth, 2, 2)
    assert iou[0].tolist() == pytest.approx([1.0, 0.3333, 0.2500, 1.0], abs=5e-5)
    view = batch()
    asked = Batch(
        view.labeled, Unlabeled(view.unlabeled.weak, view.unlabeled.strong, view.unlabeled.valid, (), truth, ("u",))
    )  # type: ignore[union-attr]
    order = UPC(UPC.Config(guidance="oracle", grid=2, ras_k=(2,)), 2)._order(asked, weak(), T)
    assert order[0].tolist() == [2, 1, 0, 3]


def test_grid_that_does_not_divide() -> None:
    assert patch_grid.edges(10, 4) == [0, 2, 5, 7, 10]
    assert patch_grid.edges(801, 4) == [0, 200, 400, 600, 801]
    sums = patch_grid.patch_sums(torch.ones(1, 10, 10), 4)[0].view(4, 4)
    assert sums[0].tolist() == [4, 6, 4, 6]
    assert sums[1].tolist() == [6, 9, 6, 9]
    assert patch_grid.rank_patches(sums.view(1, -1))[0, 0].item() == 5


def test_patch_sums_against_slices() -> None:
    values = torch.rand(2, 33, 47, dtype=torch.double)
    rows_at, columns_at = patch_grid.edges(33, 5), patch_grid.edges(47, 5)
    naive = [
        values[:, rows_at[r] : rows_at[r + 1], columns_at[c] : columns_at[c + 1]].sum((1, 2))
        for r in range(5)
        for c in range(5)
    ]
    assert torch.allclose(patch_grid.patch_sums(values, 5), torch.stack(naive, 1))


def test_padding_has_no_uncertainty() -> None:
    hidden = weak()
    valid = torch.ones_like(hidden.valid)
    valid[:, 2:, :2] = False
    seen = Pseudo(hidden.label, hidden.conf, hidden.keep, valid, hidden.logits, hidden.probs)
    assert UPC(UPC.Config(grid=2, ras_k=(2,)), 4)._order(batch(), seen, T)[0].tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("mixer", ["cutmix", "copy_paste", "random_erasing", "none"])
def test_rivals_keep_labels_and_images_together(mixer: str) -> None:
    for step in range(20):
        t = Progress(step, 20, 5, 0, torch.device("cpu"))
        (mixed,) = UPC(UPC.Config(mixer=mixer), 4).mix(lambda: [], batch(), weak(), t)  # type: ignore[arg-type]
        pasted = mixed.images[0, 0] == 1
        if mixer in ("cutmix", "copy_paste"):
            labels = torch.where(mixed.pseudo.valid, mixed.pseudo.label, 255)[0]
            assert torch.equal(labels, torch.where(pasted, GIVEN[0], weak().label[0]))
        elif mixer == "none":
            assert torch.equal(mixed.pseudo.label, weak().label)
            assert not pasted.any()
        else:
            assert torch.equal(mixed.pseudo.label, weak().label)
            assert not (mixed.pseudo.keep & ~mixed.pseudo.valid).any()


def test_random_patches_are_k_others_at_every_step() -> None:
    plugin = UPC(UPC.Config(guidance="random", ras="off", k=3, grid=4), 4)
    picked = []
    for step in range(30):
        (mixed,) = plugin.mix(lambda: [], batch(), weak(), Progress(step, 30, 5, 0, torch.device("cpu")))
        region = mixed.images[0, 0].bool()
        assert int(region.sum()) == 3  # of 4 x 4 pixels, each a patch
        picked.append(region)
    assert 0 < torch.stack(picked).float().mean(0).min() < torch.stack(picked).float().mean(0).max() < 1


@pytest.mark.parametrize(("given", "meant"), [(False, "off"), (True, "all"), ("off", "off"), ("sample", "sample")])
def test_off_may_be_written_bare(given: object, meant: str) -> None:
    """YAML 1.1 reads a bare `off` as false."""
    assert UPC.Config(ras=given).ras == meant


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": 2}, "5 patches of a grid of 2 x 2"),
        ({"grid": 3, "ras": "off", "k": 10}, "10 patches of a grid of 3 x 3"),
        ({"ras": "off", "k": 0}, "greater than or equal to 1"),
        ({"ras_k": ()}, "at least 1 item"),
        ({"grid": 0}, "greater than or equal to 1"),
        ({"ras": "yes"}, "'all', 'sample' or 'off'"),
        ({"grid": 4.0}, "valid integer"),
        ({"k": 3}, "k: 3 is never read with ras: all"),
        ({"ras": "off", "ras_k": (2,)}, "ras_k: .* is never read with ras: off"),
        ({"mixer": "cutmix", "guidance": "random"}, "guidance: random is never read with mixer: cutmix"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UPC.Config(**settings)


def test_maps_that_follow_a_mix_follow_this_one() -> None:
    """A plug-in stacked on it sees its own map outside the patches, and nothing it could be sure of inside."""
    logits = PROBS.log() * 5
    (mixed,) = UPC(UPC.Config(ras="off", k=2, grid=2), 4).mix(lambda: [], batch(), weak().with_carry(mine=logits), T)
    region, carried = mixed.images[:, :1].bool(), mixed.pseudo.carry["mine"]
    assert torch.equal(carried[~region.expand_as(carried)], logits[~region.expand_as(logits)])
    assert carried.softmax(1).masked_select(region).eq(0.5).all()


def test_ipixmatch_on_top_compares_the_pixels_that_were_kept() -> None:
    """Logits of a stacked plug-in are not lost in the mix; with every patch replaced there is nothing to compare."""
    terms = {}
    for k in (5, 16):
        stack = Stack([plugin("ipixmatch", tau=0.26, warmup=False), plugin("upc", ras="off", k=k)])
        terms[k] = train(build("cps", stack), 1)[0]["ipix"]
    assert terms[5] > 0
    assert terms[16] == 0


def test_zero_strength_is_the_hosts_mix() -> None:
    own = [MixedView(torch.zeros(1), weak(), torch.zeros(1))]
    assert UPC(UPC.Config(**UPC.zero), 4).mix(lambda: own, batch(), weak(), T) is own
