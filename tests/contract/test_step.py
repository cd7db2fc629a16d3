"""One step of every method, alone and with every plug-in it honours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import CLASSES, Maps, batch_for, progress
from pairs import LATE, METHODS, PAIRS, made, one_step, pair, several

from ssbench.methods.base import Method


def check(method: Method, maps: tuple[Maps, ...] = ()) -> None:
    result = one_step(method, maps=maps)
    assert result.loss.shape == ()
    assert torch.isfinite(result.loss)
    assert result.terms
    for name, term in result.terms.items():
        assert term.shape == (), name
        assert not term.requires_grad, name
        assert torch.isfinite(term), name
    result.loss.backward()
    encoder, rest = method.parameter_groups()
    trained = {id(p) for p in (*encoder, *rest)}
    assert len(trained) == len(encoder) + len(rest)
    for name, p in method.named_parameters():
        assert p.requires_grad is (id(p) in trained), name
        if p.requires_grad:
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
        else:
            assert p.grad is None, name
    assert all(student.training for student in method.students())


@pytest.mark.parametrize("method", METHODS)
def test_finite_with_a_gradient_in_each_trained_tensor_and_in_no_other(method: str) -> None:
    check(made(method))


@pytest.mark.parametrize(("method", "plugin"), PAIRS)
def test_the_same_with_a_plugin(method: str, plugin: str, tmp_path: Path) -> None:
    check(*pair(method, plugin, tmp_path))


@pytest.mark.parametrize("method", METHODS)
def test_the_first_steps_are_finite_through_warm_ups(method: str) -> None:
    for terms in several(made(method), 6):
        assert torch.isfinite(torch.tensor(list(terms.values()))).all()


@pytest.mark.parametrize("method", METHODS)
def test_predicts_scores_of_every_class_at_the_size_of_the_image(method: str) -> None:
    with torch.no_grad():
        assert made(method).eval().predict(torch.randn(1, 3, 65, 97)).shape == (1, CLASSES, 65, 97)


@pytest.mark.parametrize("method", METHODS)
def test_draws_are_keyed_and_take_nothing_from_the_global_generator(method: str) -> None:
    losses = []
    for draws in (0, 3):
        chosen, t = made(method), progress(LATE)
        batch = batch_for(chosen, t)
        torch.rand(draws)
        losses.append(chosen(batch, t).loss.item())
    assert losses[0] == losses[1]
