"""`schedule: {deterministic: true}`: torch's deterministic operations while a run lasts (IPixMatch Sec. IV-B)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from running import TINY, Job, trainer_of

from ssbench.data.batch import Batch
from ssbench.recipe.recipe import load
from ssbench.train.machine import deterministic_operations
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer


class Asking(Trainer):
    """Notes in every step what torch was switches."""

    switches: tuple[tuple[bool, bool], ...] = ()

    def _step(self, batch: Batch) -> None:
        now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        self.switches += (now,)
        super()._step(batch)


@pytest.mark.parametrize("is_set", [True, False])
def test_every_step_is_asked_for_it_and_none_after_the_run(toy: Path, tmp_path: Path, is_set: bool) -> None:
    few = (*TINY, "schedule.epochs=1", f"schedule.deterministic={str(is_set).lower()}")
    trainer = trainer_of(Job(toy, tmp_path, few), kind=Asking)
    assert isinstance(trainer, Asking)
    fit(trainer)
    assert set(trainer.switches) == {(is_set, is_set)}
    assert len(trainer.switches) == trainer.steps
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_a_form_warns_and_goes_on() -> None:
    with deterministic_operations(True), warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        x = torch.zeros(4)
        x.put_(torch.tensor([1]), torch.tensor([2.0]), accumulate=False)
        assert x[1] == 2
    assert any("deterministic" in str(w.message) for w in messages)


def test_a_run_that_fails_leaves_torch_as_it_was() -> None:
    def failing() -> float:
        with deterministic_operations(True):
            return 1 / (1 - torch.are_deterministic_algorithms_enabled())

    with pytest.raises(ZeroDivisionError):
        failing()
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_is_part_of_a_run_only_where_it_is_set() -> None:
    usual, is_set = load("toy/none_unimatch"), load("toy/none_unimatch", ["schedule.deterministic=true"])
    assert "deterministic" not in usual.resolved()["schedule"]
    assert is_set.resolved()["schedule"]["deterministic"] is True
    assert is_set.key("a", 0) != usual.key("a", 0)
