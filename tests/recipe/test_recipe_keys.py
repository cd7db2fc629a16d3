"""What makes two runs the same run: every constant, the split, the seed; and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from ran import SMALL

from ssbench.errors import RecipeError
from ssbench.recipe.recipe import Recipe, load


def _fields(recipe: Recipe) -> Iterator[tuple[str, str, Any, Any]]:
    """(section, field, value, annotation) of every constant in use."""
    models: dict[str, BaseModel] = {s: getattr(recipe, s) for s in ("data", "views", "net", "method", "loss")}
    models |= {"optim": recipe.optim, "schedule": recipe.schedule, "eval": recipe.eval, "plugin": recipe.plugins[0]}
    for section, model in models.items():
        for field, value in model.model_dump().items():
            yield section, field, value, type(model).model_fields[field].annotation


TRIED: dict[str, list[Any]] = {  # values to try where the type names none
    "data.dataset": ["camvid"],
    "net.encoder": ["resnet34"],
    "data.unlabeled": ["coco"],
    "eval.select": ["test"],
    "eval.report": ["val"],
}
START = ["optim.name=sgd", "optim.lr=0.1", "eval.report=test", "net.layout=u2pl", "net.wide=256"]


def _literals(annotation: Any) -> list[Any]:
    """Every value that a Literal inside an annotation allows."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for inner in get_args(annotation) for value in _literals(inner)]


def _others(value: Any) -> list[Any]:
    """Values of the same kind, some of which may be out of bounds."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value / 2 if isinstance(value, float) else value + 1, 0, 0.5]
    if isinstance(value, list | tuple):
        return [[v * 0.5 if isinstance(v, float) else v + 1 for v in value], [v / 2 for v in value]]
    return [3, 0.5, [1, 2, 4], True] if value is None else []


def test_every_constant_is_in_the_key_and_nothing_else_is() -> None:
    start = load("toy/s4mc_unimatch", START)
    key, free, stuck = start.key("abc", 0), set(), set()
    for section, field, value, annotation in _fields(start):
        name = f"{section}.{field}"
        for new in [v for v in [*TRIED.get(name, []), *_literals(annotation), *_others(value)] if v != value]:
            with contextlib.suppress(RecipeError):
                if load("toy/s4mc_unimatch", [*START, f"{name}={json.dumps(new)}"]).key("abc", 0) == key:
                    free.add(name)
                break
        else:
            stuck.add(name)
    assert free == {"data.workers", "schedule.checkpoint_minutes"}
    # Another value needs another layout, protocol, form, loss or score with it, so it is refused alone.
    tied = {"net.wide", "data.form", "eval.protocol", "plugin.gamma", "plugin.dpa", "plugin.agreement"}
    tied |= {"eval.border", "eval.summed", "eval.stride", "eval.step", "eval.padding", "eval.resize"}
    tied |= {"net.weights"}  # normalisation goes with them
    tied |= {"loss.ohem_threshold", "loss.ohem_min_kept", "loss.ohem_group"}
    tied |= {"schedule.compile"}
    assert stuck <= {"method.name", "net.name", "plugin.name"} | tied, "add to TRIED"
    fast = ["schedule.precision=fast", "schedule.compile="]
    compiled = {load("toy/s4mc_unimatch", [*START, fast[0], fast[1] + word]).key("abc", 0) for word in ("on", "off")}
    assert len(compiled | {key}) == 3


def test_split_and_seed_are_in_the_key_and_words_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SMALL)
    recipe = load("mine.yaml")
    assert len({recipe.key("a", 0), recipe.key("b", 0), recipe.key("a", 1)}) == 3
    Path("renamed.yaml").write_text(SMALL + "title: other words\npaper: s4mc\ndepartures: [none]\n")
    assert load("renamed.yaml").key("a", 0) == recipe.key("a", 0)
    assert load("mine.yaml", division="open").key("a", 0) == recipe.key("a", 0)


def test_fields_for_quick_runs_are_in_the_key_only_where_they_are_set() -> None:
    assert "few" not in load("toy/none_unimatch").resolved()["data"]
    assert "few" not in load("toy/none_unimatch").resolved()["eval"]
    assert load("toy/none_unimatch", ["data.few=8"]).resolved()["data"] == {"dataset": "toy", "few": 8}
