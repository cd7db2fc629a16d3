"""MPMC against worked examples, its variants by naive loops, and what its settings refuse."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import build, make_batch, progress

from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig, Losses
from ssbench.nets.segnet import Out, resize
from ssbench.ops.losses import pseudo_cross_entropy
from ssbench.ops.patch_stats import agreement, patch_labels, patch_shares
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, StepOutputs, StudentView
from ssbench.plugins.mpmc import MPMC, PatchClassifier, asymmetric_focal
from ssbench.recipe.recipe import load

TOY = torch.tensor([[0, 0, 1, 1, 255], [0, 0, 1, 1, 255], [0, 0, 0, 0, 0], [255, 255, 0, 0, 1], [255, 255, 0, 0, 1]])[
    None
]


def close(*values: float) -> Any:
    return pytest.approx(values if len(values) > 1 else values[0], abs=5e-5)


@pytest.mark.parametrize(("classes", "count"), [(19, 3_984_531), (21, 3_984_597), (4, 3_984_036)])
def test_parameter_counts(classes: int, count: int) -> None:
    made = PatchClassifier(256, classes, (7, 19), "release")
    assert sum(p.numel() for p in made.parameters()) == count


def test_parameter_count_of_the_papers_wording() -> None:
    made = PatchClassifier(256, 19, (7, 19), "paper")
    assert sum(p.numel() for p in made.stack.parameters()) == 3_943_808


def test_patch_labels_and_shares_of_the_toy_window() -> None:
    present = patch_labels(TOY, 2, 1, 2, (3, 3))[0]
    assert present[0].tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    assert present[1].tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 1]]
    shares = patch_shares(TOY, 2, 1, 2, (3, 3))[0]
    assert shares[0].flatten().tolist() == close(1.0, 0.3333, 0.0, 0.6667, 0.6667, 0.5, 0.0, 0.6667, 0.5)
    assert shares[1].flatten().tolist() == close(0.0, 0.6667, 0.5, 0.0, 0.2222, 0.3333, 0.0, 0.0, 0.5)
    assert shares[:, 0, 0].softmax(0).tolist() == close(0.7311, 0.2689)


def test_one_pixel_is_seen_by_the_cells_within_reach() -> None:
    mask = torch.zeros(1, 45, 45, dtype=torch.int64)
    mask[0, 0, 0] = 1
    present = patch_labels(mask, 2, 19, 4, (12, 12))[0]
    assert present[0].bool().all()
    expected = torch.zeros(12, 12)
    expected[:5, :5] = 1
    assert torch.equal(present[1], expected)


@pytest.mark.parametrize(("height", "width", "ceil"), [(45, 45, 0), (64, 97, 0), (21, 33, 0), (64, 64, 1), (9, 70, 0)])
def test_patch_labels_against_explicit_windows(height: int, width: int, ceil: int) -> None:
    generator = torch.Generator().manual_seed(height * width)
    mask = torch.randint(0, 4, (2, height, width), generator=generator)
    mask[mask == 3] = 255
    grid = ((height - 1) // 4 + 1 + ceil, (width - 1) // 4 + 1 + ceil)
    found = patch_labels(mask, 3, 19, 4, grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            window = mask[:, max(4 * i - 19, 0) : 4 * i + 20, max(4 * j - 19, 0) : 4 * j + 20].flatten(1)
            for c in range(3):
                assert torch.equal(found[:, c, i, j], (window == c).any(1).float())


def test_a_chain_of_seven_pools_is_one_window() -> None:
    mask = torch.randint(0, 2, (1, 61, 53), generator=torch.Generator().manual_seed(0))
    chain = torch.stack([(mask == c).float() for c in range(2)], 1)
    for stride in (2, 1, 1, 2, 1, 1, 1):
        chain = F.max_pool2d(chain, 3, stride, 1)
    assert torch.equal(patch_labels(mask, 2, 19, 4, (chain.shape[-2], chain.shape[-1])), chain)


def test_asymmetric_loss() -> None:
    q, y = torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1.0, 0.0, 0.0])
    each = asymmetric_focal(q.logit(), y)
    assert each.tolist() == close(0.1054, 0.0446, 0.5498)
    assert each.mean().item() == close(0.2333)


def test_lam_s_is_read_between_cell_centres_at_the_label() -> None:
    lam = torch.tensor([[[0.8, 0.6], [0.3, 0.1]], [[0.2, 0.4], [0.7, 0.9]]])[None]
    label = torch.tensor([0, 0, 1, 1, 1]).expand(5, 5)[None]
    found = resize(lam, (5, 5)).gather(1, label[:, None])[0, 0]
    assert found[0].tolist() == close(0.8, 0.75, 0.3, 0.35, 0.4)
    assert found[2].tolist() == close(0.55, 0.5, 0.55, 0.6, 0.65)
    assert found[4].tolist() == close(0.3, 0.25, 0.8, 0.85, 0.9)


def test_weighted_unlabelled_loss() -> None:
    ce = torch.tensor([0.2, 1.0, 3.0, 0.5])
    logits = torch.stack([torch.zeros(4), (ce.exp() - 1).log()])[None, :, None]  # -log softmax_0 = ce
    keep = torch.tensor([0.99, 0.96, 0.80, 0.97]).ge(0.95).view(1, 1, 4)
    valid, label = torch.ones_like(keep), torch.zeros(1, 1, 4, dtype=torch.int64)
    assert pseudo_cross_entropy(logits, label, keep, valid).item() == close(0.4250)
    weight = torch.tensor([0.40, 0.25, 0.35, 0.10]).view(1, 1, 4)
    assert pseudo_cross_entropy(logits, label, keep, valid, weight).item() == close(0.3455)


def test_average_pool_counts_padding() -> None:
    scales = PatchClassifier(1, 2, (7,), "release").scales(torch.ones(1, 1, 5, 5))[0, 1]
    assert [scales[0, 0].item(), scales[0, 2].item(), scales[2, 2].item()] == [
        close(0.3265),
        close(0.4082),
        close(0.5102),
    ]


def test_patch_agreement() -> None:
    sets = {"02": [1, 0, 1, 0], "0": [1, 0, 0, 0], "01": [1, 1, 0, 0], "12": [0, 1, 1, 0]}
    p, t = (torch.tensor([sets[k] for k in keys], dtype=torch.bool) for keys in (("02", "01"), ("0", "12")))
    assert agreement(p, t, "all_classes").tolist() == close(0.75, 0.5)
    assert agreement(p, t).tolist() == close(0.5, 0.3333)
    assert agreement(torch.zeros(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)).item() == 1


def test_teacher_features_are_reused_for_an_unmixed_view_and_taken_anew_for_a_mixed_one() -> None:
    plugin = MPMC(MPMC.Config(), 2)
    plugin._classifier = [PatchClassifier(4, 2, (7, 19), "release")]
    asked: list[int] = []

    def teach(x: torch.Tensor) -> Out:
        asked.append(len(x))
        return Out(x, feats={"layer1": torch.zeros(1, 4, 3, 3)})

    t = progress(9, 10, 5)
    valid = torch.ones(1, 9, 9, dtype=torch.bool)
    plain = Pseudo.of(torch.zeros(1, 2, 9, 9), valid, 0.0, {"layer1": torch.zeros(1, 4, 3, 3)})
    images = torch.zeros(1, 3, 9, 9)
    weight = plugin.weigh(MixedView(images, plain, images), teach, t)
    assert asked == []
    assert weight is not None
    assert weight.shape == (1, 9, 9)
    assert not weight.requires_grad
    plugin.weigh(MixedView(images, plain.pasted(plain, valid), images), teach, t)
    assert asked == [1]


def row(keep: list[bool], valid: list[bool]) -> tuple[torch.Tensor, Pseudo]:
    """Logits of four pixels whose cross-entropies are 0.2, 1, 3 and 0.5, and their pseudo-labels."""
    ce = torch.tensor([0.2, 1.0, 3.0, 0.5])
    logits = torch.stack([torch.zeros(4), (ce.exp() - 1).log()])[None, :, None]  # -log softmax_0 = ce
    maps = [torch.tensor(v).view(1, 1, 4) for v in (keep, valid)]
    return logits, Pseudo(torch.zeros(1, 1, 4, dtype=torch.int64), torch.ones(1, 1, 4), *maps)


def test_unsure_pixels_leave_the_releases_divisor() -> None:
    """card: mpmc 4. UniMatch divides by valid pixels: (0.2 + 0.5) / 3. The release by those that are kept: / 2."""
    logits, pseudo = row([True, False, True, True], [True, True, False, True])
    images = torch.zeros(1, 3, 1, 4)
    mixed = MixedView(images, pseudo, images)
    plugin = MPMC(MPMC.Config(variant="release"), 2)
    weight = plugin.weigh(mixed, lambda x: Out(x), progress())
    losses = Losses(LossConfig(), plugin.absolute)
    assert losses.pseudo(logits, pseudo).item() == close(0.7 / 3)
    assert losses.pseudo(logits, pseudo, weight).item() == close(0.7 / 2)


def with_classifier(**settings: Any) -> MPMC:
    """MPMC on features of 4 channels and patches of 3 x 3 pixels, stride 2, two classes."""
    plugin = MPMC(MPMC.Config(**settings), 2)
    torch.manual_seed(0)
    plugin._classifier = [PatchClassifier(4, 2, (7,), "release", 16)]
    plugin._window = (1, 2)
    return plugin


@pytest.mark.parametrize(("variant", "expected"), [("paper", [[0, 0], [1, 1]]), ("release", [[0, 1], [1, 1]])])
def test_padding_counts_in_the_releases_patch_targets(variant: str, expected: list[list[int]]) -> None:
    """card: mpmc 5. Class 1 is sure at pixel (0, 2), which is padding, and at (2, 1)."""
    label = torch.zeros(1, 3, 3, dtype=torch.int64)
    label[0, 0, 2] = label[0, 2, 1] = 1
    valid = torch.ones_like(label, dtype=torch.bool)
    valid[0, 0, 2] = False
    pseudo = Pseudo(label, torch.ones(1, 3, 3), label >= 0, valid)
    target = with_classifier(variant=variant)._target(pseudo, torch.zeros(1, 2, 2, 2), None)
    assert target[0, 1].tolist() == expected


def outputs_of(features: dict[str, torch.Tensor]) -> StepOutputs:
    """A step of UniMatch whose stage-1 features are these."""
    host = build("unimatch")
    images, valid = torch.zeros(2, 3, 5, 5), torch.ones(2, 5, 5, dtype=torch.bool)
    pseudo = Pseudo.of(torch.zeros(2, 2, 5, 5), valid, 0.0)
    views = [StudentView(n, images, Out(images, feats={"layer1": features[n]}), pseudo, images) for n in ("s1", "fp")]
    labeled = Out(images, feats={"layer1": features["labeled"]})
    return StepOutputs(make_batch(host.needs), labeled, tuple(views), host.net, lambda x: Out(x))


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("in_warmup", [True, False])
def test_which_features_share_batch_statistics(variant: str, in_warmup: bool) -> None:
    """card: mpmc 6. The release's first pass has four groups, in the warm-up as well; the paper's does not."""
    generator = torch.Generator().manual_seed(1)
    features = {n: torch.rand(2, 4, 3, 3, generator=generator) for n in ("labeled", "s1", "fp")}
    plugin, t = with_classifier(variant=variant), progress(0 if in_warmup else 25)
    naive = copy.deepcopy(plugin._classifier[0])
    outputs = outputs_of(features)
    views = () if in_warmup else outputs.views
    torch.manual_seed(3)  # the head drops
    found = plugin._logits(outputs, views, t)
    torch.manual_seed(3)
    labeled, weak, strong = (naive.scales(features[n]) for n in ("labeled", "fp", "s1"))
    drop_labeled, drop = (t.channel_drop(2, 8, 0.5, f"mpmc drop{n}")[..., None, None] for n in (" labeled", ""))
    if variant == "release":
        first = naive(torch.cat([labeled, weak, labeled * drop_labeled, weak * drop]))
    else:
        first = naive(labeled if in_warmup else torch.cat([labeled, weak * drop]))
    expected = [first[:2]] if in_warmup else [first[:2], naive(strong), first[-2:]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    statistics = {k: v for k, v in naive.state_dict().items() if "running" in k}
    assert all(torch.equal(v, plugin._classifier[0].state_dict()[k]) for k, v in statistics.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "greater than or equal to 0"),
        ({"feature_drop": 1.0}, "less than 1"),
        ({"kernels": []}, "at least 1 item"),
        ({"kernels": [7, 7]}, "hold one twice"),
        ({"kernels": [9]}, "should be 7 or 19"),
        ({"warmup_epochs": -1}, "greater than or equal to 0"),
        ({"beta": True}, "valid number"),
        ({"ema": 0.5}, "ema: 0.5 is never read"),
        ({"variant": "release", "normalise": "none"}, "normalise: none is never read"),
        ({"variant": "release", "lam": "sigmoid"}, "lam: sigmoid is never read"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_the_recipe_is_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("toy/mpmc_unimatch", [f"plugin.{name}={json.dumps(value)}" for name, value in settings.items()])


@pytest.mark.parametrize(
    ("settings", "version"),
    [({}, 1), ({"variant": "release"}, 2), ({"normalise": "none"}, 2), ({"normalise": "none", "unlabelled": False}, 1)],
)
def test_behaviour_rises_only_where_the_computation_changed(settings: dict[str, Any], version: int) -> None:
    assert MPMC.behaviour_of(MPMC.Config(**settings)) == version
