"""Every shipped recipe: it loads, says what it reproduces, sources its constants, and runs in its quick form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssbench.console import Bars
from ssbench.jobs.queue import QUICK_SPLIT, Cell, Done, do_one
from ssbench.jobs.run import Places
from ssbench.paths import shipped
from ssbench.recipe.marks import Keys, Marked, read
from ssbench.recipe.recipe import Recipe, find_recipe, load, recipe_names
from ssbench.splits.manifest import manifest
from ssbench.train.distributed import join

BASES = [f"base/{path.stem}" for path in sorted((shipped("recipes") / "base").glob("*.yaml"))]
NO_CONSTANT = ("base", "paper", "title", "cost", "departures", "data")  # words, and what the recipe is for


def _file(name: str) -> Path:
    return shipped("recipes") / f"{name}.yaml"


def _header(name: str) -> str:
    """The comment a file opens with, as one text."""
    lines = _file(name).read_text().splitlines()
    comment = [line for line, more in zip(lines, _opening(lines), strict=False) if more]
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _opening(lines: list[str]) -> Iterator[bool]:
    opening = True
    for line in lines:
        opening = opening and line.startswith("#")
        yield opening


def _constants(marked: Marked) -> Iterator[tuple[Keys, str]]:
    """(path, comment) of every constant written down; a list in brackets is one."""
    for keys, mark in marked.marks.items():
        inside = marked.data
        for key in keys:
            inside = inside[key]
        if keys and keys[0] not in NO_CONSTANT and not isinstance(inside, dict) and not isinstance(keys[-1], int):
            yield keys, mark.comment


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.title


@pytest.mark.parametrize("name", [*BASES, *recipe_names()])
def test_every_constant_ends_in_its_source(name: str) -> None:
    constants = dict(_constants(read(_file(name))))
    blocks = {keys[:-1] for keys in constants}
    bare = {
        keys for keys, comment in constants.items()
        if not comment and not (keys[-1] == "name" and keys[0] in ("method", "plugin", "net") and keys[:-1] in blocks)
    }  # fmt: skip
    assert not bare, f"{name}: no source behind {sorted('.'.join(map(str, keys)) for keys in bare)}"


@pytest.mark.parametrize("name", [*BASES, *recipe_names()])
def test_it_opens_with_what_it_reproduces(name: str) -> None:
    header = _header(name)
    assert len(header) > 30, header


@pytest.mark.parametrize("name", recipe_names())
def test_it_opens_with_its_row_its_command_and_what_to_expect(name: str) -> None:
    header, recipe = _header(name), load(name)
    command = re.search(r"ssbench run (\S+) --split (\S+)", header)
    assert command, header
    split = command.group(2).rstrip(".")
    assert command.group(1) == name
    assert split in manifest().splits
    assert split.split("/")[0] == recipe.data.dataset
    assert re.search(r"[Tt]able|README|no paper|printed", header), header
    told = [score for score in recipe.expect.values() if f"{score:g}" in header or f"{score:.1f}" in header]
    assert told or not recipe.expect, f"none of the printed {list(recipe.expect.values())} is in the opening comment"
    assert recipe.expect.keys() <= manifest().splits.keys()


@pytest.mark.parametrize("name", recipe_names())
def test_the_name_of_the_file_says_what_is_in_it(name: str) -> None:
    recipe = load(name)
    assert recipe.method.name in name
    assert all(plugin.name in name.partition("/")[2] for plugin in recipe.plugins)
    assert find_recipe(name) == (name, _file(name))


def test_printed_scores_agree_with_the_tables() -> None:
    """What a recipe expects is what the tables print in the cells that name it."""
    from ssbench.tables.spec import PaperTable, table_names

    expected = {name: load(name).expect for name in recipe_names()}
    wrong = [
        f"{cell.recipe} on {cell.split}: {table} prints {cell.printed}, the recipe {expected[cell.recipe][cell.split]}"
        for table in table_names()
        for cell in PaperTable.read(table).cells()
        if cell.recipe and cell.split and cell.printed is not None and not cell.overrides and cell.role in ("B", "P")
        if abs(expected.get(cell.recipe, {}).get(cell.split, float(cell.printed)) - float(cell.printed)) > 0.05
    ]
    assert not wrong, "\n".join(wrong)


class Quick:
    """Quick runs of whatever none before has shown to work; `ssbench run NAME --quick` is the same."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.shown: set[str] = set()

    def run(self, name: str) -> Done | None:
        """The run, None where every part of the recipe has run in others."""
        quick = load(name, quick=True)
        parts = _parts(quick)
        if parts <= self.shown:
            return None
        with Bars(show=False, write_line=lambda _: None) as bars:
            done = do_one(Cell(name, QUICK_SPLIT, 0, quick=True), self.places, join("cpu"), bars)
        if done.error is None:
            self.shown |= parts
        return done


def _parts(recipe: Recipe) -> set[str]:
    """What a quick run shows to work together or at all: the pair of method and plug-in, the method's settings with
    the losses, and every other section as it stands."""
    facts = recipe.resolved()
    pair = [facts["method"]["name"], [plugin["name"] for plugin in facts["plugin"]]]
    facts |= {"pair": pair, "method": [facts["method"], facts["loss"]]}
    return {json.dumps([name, value], sort_keys=True) for name, value in facts.items()}


@pytest.fixture(scope="module")
def quick(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Quick:
    out = tmp_path_factory.mktemp("quick")
    return Quick(Places(toy_data, out / "runs", out / "results"))


@pytest.mark.parametrize("name", recipe_names())
def test_it_runs_quickly(name: str, quick: Quick) -> None:
    """Method, plug-in, losses and protocol, all of them for real."""
    done, whole, small = quick.run(name), load(name), load(name, quick=True)
    assert small.method.name == whole.method.name
    assert [p.name for p in small.plugins] == [p.name for p in whole.plugins]
    assert small.eval.protocol == whole.eval.protocol
    if done is None:
        return
    assert done.error is None, done.error
    assert done.record is not None
    assert not done.repeated
    assert {k: done.record["resolved"][k] for k in ("method", "plugin", "loss", "optim")} == {
        k: small.resolved()[k] for k in ("method", "plugin", "loss", "optim")
    }
    assert done.record["protocol"]["protocol"] == whole.eval.protocol
    assert done.record["history"]
    assert all(0 <= done.record["scores"][which]["report"] <= 100 for which in ("best", "last"))
    assert not quick.places.results.exists()
