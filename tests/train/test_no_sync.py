"""Nothing in a training step waits for the device, whatever the method, its options and its plug-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import TINY, partition_of

from ssbench import find
from ssbench.certify.watch import watched
from ssbench.console import Bars
from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig
from ssbench.methods.hosting import choices
from ssbench.recipe.recipe import Recipe, load, recipe_names
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer

X = torch.arange(6.0).view(2, 3)
AT = torch.tensor(1)
WAITING: dict[str, Callable[[], Any]] = {
    "item": lambda: X.sum().item(),
    "float": lambda: float(X.sum()),
    "if": lambda: 1 if X.sum() else 0,
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "cpu": lambda: X.cpu(),
    "mask": lambda: X[X > 2],
    "write by mask": lambda: X.clone().__setitem__(X > 2, X[0, 0]),
    "index by a tensor without dimensions": lambda: X[0][AT],
    "nonzero": lambda: (X > 2).nonzero(),
    "where of one": lambda: torch.where(X > 2),
    "masked_select": lambda: X.masked_select(X > 2),
    "unique": lambda: X.unique(),
    "bincount": lambda: X.flatten().long().bincount(),
    "repeat": lambda: X.repeat_interleave(torch.tensor([1, 2]), dim=0),
    "from the host": lambda: torch.as_tensor(0.5, device=X.device),
    "in": lambda: 2.0 in X,
}
HARMLESS: dict[str, Callable[[], Any]] = {
    "where of three": lambda: torch.where(X > 2, X, torch.zeros_like(X)),
    "masked_fill": lambda: X.masked_fill(X > 2, 0.0),
    "gather": lambda: X.gather(0, AT.view(1, 1).expand(1, 3)),
    "index by a list of positions": lambda: X[AT[None]],
    "one_hot": lambda: torch.nn.functional.one_hot(X.long(), 6),
    "sort": lambda: X.flatten().sort().values.kthvalue(2).values,
    "full": lambda: torch.full((), 0.5),
    "repeat by a number": lambda: X.repeat_interleave(2, dim=0),
}


@pytest.mark.parametrize("name", WAITING)
def test_the_watch_sees_what_waits(name: str) -> None:
    with watched() as waits:
        WAITING[name]()
    assert waits


@pytest.mark.parametrize("name", HARMLESS)
def test_the_watch_lets_pass_what_does_not(name: str) -> None:
    with watched() as waits:
        HARMLESS[name]()
    assert waits == []


def kinds(value: Any) -> Any:
    """`value` with every number as the name of its type."""
    if isinstance(value, dict):
        return {name: kinds(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [kinds(v) for v in value]
    return type(value).__name__ if type(value) in (int, float) else value


def cases() -> list[str]:
    """Shipped recipes that differ in more than numbers, every method and plug-in with every option, every loss."""
    names: dict[str, str] = {}
    for name in recipe_names():
        facts = load(name, quick=True).resolved()
        names.setdefault(json.dumps(kinds([facts[part] for part in ("method", "plugin", "loss")])), name)
    options = []
    for kind in ("method", "plugin"):
        for name in find.names(kind):  # type: ignore[arg-type]
            options.append(f"{kind}={{name: {name}}}")
            chosen = choices(find.load(kind, name).Config)  # type: ignore[arg-type]
            settings = [c for c in chosen if c[0] != "detector"]  # which is trained before any step
            options += [f"{kind}={{name: {name}, {field}: {json.dumps(value)}}}" for field, value in settings]
    return [*names.values(), *options, *(f"loss.{field}={value}" for field, value in choices(LossConfig))]


CASES = cases()
SMALLER = (
    "views.crop=32",
    "schedule.epochs=2",
    "schedule.labeled_batch=4",
    "schedule.unlabeled_batch=4",
    "eval.every=2",
)


def loaded(case: str) -> Recipe:
    """The recipe of a case: a name, or what is changed in a tiny one."""
    if "=" not in case:
        return load(case, quick=True)
    base = "toy/s4mc_fixmatch" if case.startswith("plugin") else "toy/none_unimatch"
    kind, _, block = case.partition("=")
    given = yaml.safe_load(block) if kind == "plugin" else {}
    quick = find.load("plugin", given["name"]).quick if given else {}
    small = [f"plugin.{field}={json.dumps(value)}" for field, value in quick.items() if field not in given]
    try:
        return load(base, (*TINY, *SMALLER, case, *small))
    except RecipeError as refused:
        pytest.skip(f"no pair: {refused.what}")


class Watched(Trainer):
    """Collects what waits in its steps."""

    seen: tuple[str, ...] = ()

    def _step(self, batch: Batch) -> None:
        with watched() as waits:
            super()._step(batch)
        self.seen += tuple(waits)


class Strict(Trainer):
    """Lets torch refuse what waits for the GPU, from the second step on: the first builds kernels and buffers."""

    def _step(self, batch: Batch) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.state.step else "default")
        try:
            super()._step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def run(kind: type[Trainer], recipe: Recipe, toy: Path, folder: Path, device: str) -> Trainer:
    """The whole training, of few steps; skipped where a recipe refuses the combination."""
    schedule = recipe.schedule
    few = 2 * max(schedule.labeled_batch, schedule.unlabeled_batch)  # of one list both kinds of a mixture must come
    recipe = replace(recipe, data=recipe.data.model_copy(update={"few": few, "workers": 0}))
    dataset = dataset_of(recipe, toy)
    team = Team(0, 1, torch.device(device))
    try:
        trainer = kind(recipe, partition_of(recipe, toy), dataset, 0, folder, team, Bars(show=False))
    except RecipeError as refused:
        pytest.skip(f"no pair: {refused.what}")
    fit(trainer)
    return trainer


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing(case: str, toy: Path, tmp_path: Path) -> None:
    trainer = run(Watched, loaded(case), toy, tmp_path, "cpu")
    assert isinstance(trainer, Watched)
    if not trainer.method.synchronises:  # a reason that is said where the method is written
        assert trainer.seen == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there torch itself says what waits")
@pytest.mark.parametrize("case", CASES if torch.cuda.is_available() else ["every case"])
def test_a_step_waits_for_nothing_on_a_gpu(case: str, toy: Path, tmp_path: Path) -> None:
    recipe = loaded(case)
    patient = find.load("method", recipe.method.name).synchronises
    run(Trainer if patient else Strict, recipe, toy, tmp_path, "cuda:0")
