"""`honours` is true: a method calls the hooks it lists, no other, and obeys what they answer."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from builders import batch_for, build, progress
from pairs import HONOURS, LATE, METHODS, Constant, Labelled, Slow, Watch, WatchMix, hosting, one_step

from ssbench import find
from ssbench.errors import RecipeError
from ssbench.methods.hosting import choices, yaml
from ssbench.plugins.base import HOOKS


def honouring(*hooks: str) -> list[str]:
    return [m for m in METHODS if set(hooks) <= HONOURS[m]]


@pytest.mark.parametrize("method", METHODS)
def test_hooks_called_are_hooks_honoured(method: str) -> None:
    assert HONOURS[method] <= HOOKS
    watch = Watch()
    one_step(build(method, watch))
    assert set(watch.called) == HONOURS[method] & {"scale", "refine", "weigh", "loss"}


@pytest.mark.parametrize("method", METHODS)
def test_whatever_a_setting_is_the_hooks_called_are_those_it_says(method: str) -> None:
    cls = find.load("method", method)
    for name, value in choices(cls.Config):
        calls = cls.calls(cls.Config(**{name: value}))
        if "mix" in HONOURS[method] - calls:
            with pytest.raises(RecipeError, match=f"needs mix, which .* does not call with {yaml(name, value)}"):
                build(method, WatchMix(), **{name: value})
        watch = WatchMix() if "mix" in calls else Watch()
        one_step(build(method, watch, **{name: value}))
        assert set(watch.called) == calls & {"scale", "refine", "mix", "weigh", "loss"}, (name, value)


@pytest.mark.parametrize("method", honouring("mix"))
def test_mix_is_called_once_for_each_student_and_before_the_weights(method: str) -> None:
    chosen, watch = hosting(method, WatchMix)
    one_step(chosen)
    assert isinstance(watch, WatchMix)
    assert watch.called.count("mix") == len(chosen.students()) == 1 + type(chosen).two_students
    if "weigh" in HONOURS[method]:
        assert watch.called.index("mix") < watch.called.index("weigh")


@pytest.mark.parametrize("method", honouring("weigh"))
def test_equal_weights_are_no_weights(method: str) -> None:
    plain, weighed = one_step(build(method)), one_step(hosting(method, Constant)[0])
    assert weighed.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)


@pytest.mark.parametrize("method", honouring("scale", "loss"))
def test_pace_scales_the_host_and_not_the_plugins_own_terms(method: str) -> None:
    plain, chosen = one_step(build(method)), hosting(method, Slow)[0]
    slow = one_step(chosen)
    added = 2 * len(chosen.students()) * getattr(chosen.cfg, "loss_scale", 1.0)
    assert slow.loss.item() == pytest.approx(0.5 * plain.loss.item() + added, rel=1e-5)


@pytest.mark.parametrize("method", honouring("scale", "weigh"))
def test_a_plugins_warm_up_turns_the_unlabelled_terms_off(method: str) -> None:
    """Other unlabelled images leave the loss as it is; in eval mode, where batch statistics hardly carry them over."""
    chosen, t = hosting(method, Labelled)[0].eval(), progress(LATE)
    batch, other = (batch_for(chosen, t, seed) for seed in (1, 2))
    losses = [
        copy.deepcopy(chosen)(replace(batch, unlabeled=b.unlabeled, partner=b.partner), t).loss.item()
        for b in (batch, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
