"""How strongly unlabelled terms count: a plug-in's factor on them, and weights that stay out of the divisor."""

from __future__ import annotations

import pytest
from builders import CLASSES, build
from pairs import HONOURS, METHODS, Constant, one_step

from ssbench import find
from ssbench.errors import RecipeError
from ssbench.methods.base import Method
from ssbench.methods.hosting import fit, is_allowed
from ssbench.ops.progress import Progress
from ssbench.plugins.base import LossScale, Plugin

HOSTS = [m for m in METHODS if {"scale", "weigh"} <= HONOURS[m]]
WEIGHED = {"s", "s1", "s2", "fp", "unsup", "mixed", "cps", "consistency"}
"""Names of terms that are nothing but weighed losses."""


class Absolute(Constant):
    """Weights of 3 that scale the loss."""

    absolute = True


class Factor(Plugin):
    """Unlabelled terms times `factor`."""

    factor = 1.0

    def scale(self, t: Progress) -> LossScale:
        return LossScale(unlabeled=self.factor)


def host(method: str, plugin: Plugin) -> Method:
    """With every pixel counting, and a teacher (who is the student yet) that looks at another picture."""
    cls = find.load("method", method)
    chosen = dict(fit(cls, type(plugin)).method)
    for telling in ({"consistency": "hard"}, {"threshold": 0.0}):
        chosen |= telling if is_allowed(cls.Config, {**chosen, **telling}) else {}
    return build(method, plugin, **chosen)


def loss_at(method: str, factor: float) -> float:
    plugin = Factor(Plugin.Config(), CLASSES)
    plugin.factor = factor
    return one_step(host(method, plugin)).loss.item()


@pytest.mark.parametrize("method", [m for m in HOSTS if m != "stpp"])  # there all pixels share one mean
def test_the_loss_is_linear_in_the_factor(method: str) -> None:
    none, half, whole, double = (loss_at(method, factor) for factor in (0.0, 0.5, 1.0, 2.0))
    assert whole == one_step(host(method, Plugin(Plugin.Config(), CLASSES))).loss.item()
    assert whole > none
    assert half == pytest.approx((none + whole) / 2, rel=1e-5)
    assert double - whole == pytest.approx(whole - none, rel=1e-4)


@pytest.mark.parametrize("method", [m for m in HOSTS if m != "stpp"])
def test_absolute_weights_scale_what_they_weigh(method: str) -> None:
    weighed, absolute = (one_step(host(method, cls(Plugin.Config(), CLASSES))).terms for cls in (Constant, Absolute))
    assert absolute["sup"] == weighed["sup"]
    # SemiVL's guidance terms are its `weigh` (card: semivl 10); its other terms take no weights.
    names = {"guidance"} if method == "semivl" else WEIGHED & set(weighed)
    assert names
    for name in names:
        assert weighed[name] > 0, name
        assert absolute[name].item() == pytest.approx(3 * weighed[name].item(), rel=1e-5), name


def test_a_host_whose_divisor_is_the_labels_too_refuses_absolute_weights() -> None:
    with pytest.raises(RecipeError, match="divisor, which STPlusPlus shares"):
        build("stpp", Absolute(Plugin.Config(), CLASSES))
