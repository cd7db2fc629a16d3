"""Worked examples of the specifications (4 decimals) that need more than one piece of a plug-in, or tell two apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import progress
from torch import Tensor, nn

from ssbench.nets.segnet import Out
from ssbench.ops import confidence, neighbours
from ssbench.ops.losses import pseudo_cross_entropy
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.relation import relation_distance, spatial_log_softmax
from ssbench.plugins.base import MixedView, StudentView
from ssbench.plugins.mpmc import MPMC


def close(*values: float) -> Any:
    return pytest.approx(values if len(values) > 1 else values[0], abs=6e-5)  # the printed digits, and float32


class Told(nn.Module):
    """A patch classifier that answers the same logits to everything."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).logit().view(1, -1, 1, 1)

    def scales(self, features: Tensor) -> Tensor:
        return features

    def forward(self, scales: Tensor) -> Tensor:
        return self.logits


def mpmc(*probabilities: float, **settings: Any) -> MPMC:
    """MPMC whose classifier gives these class probabilities, for one patch of 2 x 2 pixels."""
    plugin = MPMC(MPMC.Config(**settings), len(probabilities))
    plugin._classifier = [Told(*probabilities)]  # type: ignore[list-item]
    plugin._window = (1, 4)
    return plugin


def weighed(plugin: MPMC, *labels: int) -> tuple[Pseudo, Tensor | None]:
    """Pseudo-labels of 2 x 2 pixels, and the weights the plug-in gives them."""
    label = torch.tensor(labels).view(1, 2, 2)
    sure = torch.ones(1, 2, 2, dtype=torch.bool)
    pseudo = Pseudo(label, sure.float(), sure, sure, feats={"layer1": torch.zeros(1, 1, 1, 1)})
    images = torch.zeros(1, 3, 2, 2)
    return pseudo, plugin.weigh(MixedView(images, pseudo, images), lambda x: Out(x), progress())


def patch_loss(plugin: MPMC, *student: float) -> float:
    """L^M_u of the student's class probabilities for the one patch, where classes 0 and 2 are pseudo-labelled."""
    pseudo, _ = weighed(plugin, 0, 2, 2, 0)
    images = torch.zeros(1, 3, 2, 2)
    view = StudentView("s1", images, Out(images), pseudo, images)
    return plugin._unlabelled(Told(*student).logits, view).item()


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        ("softmax_sigmoid", (0.4469, 0.2219, 0.3311)),
        ("softmax_logits", (0.8372, 0.0233, 0.1395)),
        ("sigmoid", (0.9, 0.2, 0.6)),
    ],
)
def test_mpmc_4_weights_at_the_label(lam: str, expected: tuple[float, ...]) -> None:
    _, weight = weighed(mpmc(0.9, 0.2, 0.6, lam=lam), 0, 1, 2, 0)
    assert weight is not None
    assert weight.flatten().tolist() == close(*expected, expected[0])


def test_mpmc_4_patch_losses() -> None:
    """Hard targets (1, 0, 1) are pooled from the labels, soft ones are q; Eq. 6 as printed divides by C."""
    assert patch_loss(mpmc(0.9, 0.2, 0.6), 0.7, 0.4, 0.5) == close(0.5023)
    soft = patch_loss(mpmc(0.9, 0.2, 0.6, patch_target="soft"), 0.7, 0.4, 0.5)
    assert soft == close(0.5582)
    assert patch_loss(mpmc(0.9, 0.2, 0.6, patch_target="soft", normalise="none"), 0.7, 0.4, 0.5) == close(0.1861)
    each = [patch_loss(mpmc(*one, patch_target="soft", lam="sigmoid"), 0.7, 0.4, 0.5) for one in SOFT]
    assert each == close(0.4414, 0.5919, 0.6931)


SOFT = ((0.9, 1e-12, 1e-12), (1e-12, 0.2, 1e-12), (1e-12, 1e-12, 0.6))
"""Teachers that give all the weight to one class, so that the loss is that class's term."""


def test_mpmc_3_labelled_loss() -> None:
    """q = (0.9, 0.2, 0.6), y = (1, 0, 0): one pixel of class 0 in a large window, whose share is next to nothing."""
    mask = torch.full((1, 200, 200), 255)
    mask[0, 0, 0] = 0
    found = {}
    for variant in ("paper", "release"):
        plugin = mpmc(0.9, 0.2, 0.6, variant=variant)
        plugin._window = (199, 400)
        found[variant] = plugin._labelled(Told(0.9, 0.2, 0.6).logits, mask).item()
    assert found["paper"] == close(0.2333)
    assert found["release"] == close(0.4149)


def test_mpmc_6_the_weighted_mean_and_the_literal_equation() -> None:
    """Eq. 5 as printed divides by the pixels (`normalise: none`)."""
    ce = torch.tensor([0.2, 1.0, 3.0, 0.5])
    logits = torch.stack([torch.zeros(4), (ce.exp() - 1).log()])[None, :, None]
    weight, keep = torch.tensor([0.40, 0.25, 0.35, 0.10]), torch.tensor([True, True, False, True])
    maps = [v.view(1, 1, 4) for v in (torch.zeros(4, dtype=torch.int64), keep, torch.ones_like(keep), weight)]
    for settings, expected in (({}, 0.3455), ({"normalise": "none"}, 0.0950)):
        absolute = mpmc(0.5, 0.5, **settings).absolute
        assert pseudo_cross_entropy(logits, *maps, absolute).item() == close(expected)


P = torch.tensor([[3.0, 1.0, -2.0, 0.2], [-1.0, -2.0, 2.0, 0.1]]).view(1, 2, 1, 4)
Q = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, -1.0, 1.0, 0.3]]).view(1, 2, 1, 4)
OMEGA, ALL = (torch.tensor([True, True, True, last]).view(1, 1, 4) for last in (False, True))


def spread(logits: Tensor, inside: Tensor) -> list[Tensor]:
    """The spatial softmax of each class over the pixels inside, t = 4."""
    whole = spatial_log_softmax(logits, inside, 4.0).exp()[0]
    return [row[inside.flatten()] for row in whole]


def test_ipixmatch_2_spatial_softmax_of_both() -> None:
    u, v = spread(P, OMEGA), spread(Q, OMEGA)
    assert [*u[0].tolist(), *u[1].tolist()] == close(0.5283, 0.3204, 0.1513, 0.2567, 0.1999, 0.5434)
    assert [*v[0].tolist(), *v[1].tolist()] == close(0.4810, 0.2918, 0.2272, 0.3265, 0.2543, 0.4192)


@pytest.mark.parametrize(
    ("inside", "kl", "total"), [(OMEGA, (0.0180, 0.0311), 0.0224), (ALL, (0.0188, 0.0234), 0.0152)]
)
def test_ipixmatch_3_and_4_the_teacher_is_the_reference(inside: Tensor, kl: tuple[float, float], total: float) -> None:
    each = [float((u * (u / v).log()).sum()) for u, v in zip(spread(P, inside), spread(Q, inside), strict=True)]
    assert each == close(*kl)
    assert relation_distance(P, Q, inside, 4.0, "kl").item() == close(total)


def test_ipixmatch_3_what_it_is_not() -> None:
    assert relation_distance(Q, P, OMEGA, 4.0, "kl").item() == close(0.0232)  # the student as reference
    assert 16 * relation_distance(P, Q, OMEGA, 4.0, "kl").item() == close(0.3577)  # a factor of t^2


def test_ipixmatch_5_correlations() -> None:
    pairs = zip(spread(P, OMEGA), spread(Q, OMEGA), strict=True)
    assert [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs] == close(0.9765, 0.9562)


def test_upc_6_and_7_scores_as_logarithms_become_probabilities() -> None:
    """Scores that do not sum to 1, and classes ruled out: a host hands both over as logits."""
    scores = torch.tensor([0.9, 0.3, 0.0]).log().view(1, 3, 1, 1)
    ruled = torch.tensor([0.5, 0.0, 0.2]).log().view(1, 3, 1, 1)
    found = [Pseudo.of(x, torch.ones(1, 1, 1, dtype=torch.bool), 0.0).soft for x in (scores, ruled)]
    assert [p.flatten().tolist() for p in found] == [close(0.75, 0.25, 0.0), close(0.7143, 0.0, 0.2857)]
    assert confidence.entropy(found[0]).item() == close(0.5623)


def test_s4mc_8_pairs_are_counted_inside_the_image_not_as_the_release_does() -> None:
    """The release divides by 4 and takes what is outside for class 0, which favours class 0 at borders."""
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 1]])
    equal, pairs = neighbours.label_agreement(mask, 2)
    assert (equal / pairs).tolist() == close(0.6000, 0.7143)
    wide = torch.nn.functional.pad(mask, (1, 1, 1, 1))
    sides = torch.stack([wide.roll(by, at)[1:-1, 1:-1] == mask for by in (1, -1) for at in (0, 1)]).float().mean(0)
    assert [sides[mask == c].mean().item() for c in (0, 1)] == close(0.7500, 0.5000)
