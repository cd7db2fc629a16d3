"""Every shipped recipe: it loads, says what it reproduces, sources its constants, and runs in its quick form."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from ssbench.console import Bars
from ssbench.jobs.job import Job, Outcome, Places
from ssbench.jobs.run import run_job
from ssbench.jobs.targets import QUICK_SPLIT
from ssbench.paths import shipped
from ssbench.recipe.compose import _aliases, find_recipe, host_names, recipe_names
from ssbench.recipe.marks import Keys, Marked, read
from ssbench.recipe.recipe import Recipe, load
from ssbench.splits.manifest import manifest
from ssbench.tables.printed import printed_scores
from ssbench.train.distributed import join

ROOT = shipped("recipes")
FILES = [p for folder in ("hosts", "plugins", "tasks") for p in sorted((ROOT / folder).glob("*.yaml"))]
OWN_FILES = sorted({find_recipe(name).path for name in recipe_names()})
NO_CONSTANT = ("base", "host", "paper", "title", "departures", "data")  # words, and what the recipe is for


def _header(path: Path) -> str:
    """The comment a file opens with, as one text."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _constants(marked: Marked) -> Iterator[tuple[Keys, str]]:
    """(path, comment) of every constant written down; a list in brackets is one."""
    for keys, mark in marked.marks.items():
        inside = marked.data
        for key in keys:
            inside = inside[key]
        if keys and keys[0] not in NO_CONSTANT and not isinstance(inside, dict) and not isinstance(keys[-1], int):
            yield keys, mark.comment


def _recipes_in(path: Path) -> list[Marked]:
    """The file as a recipe, or each of its rows."""
    whole = read(path)
    if path.stem != "rows":
        return [whole]
    rows = {row: {k[1:]: m for k, m in whole.marks.items() if k[:1] == (row,)} for row in whole.data}
    return [Marked(whole.data[row], marks) for row, marks in rows.items()]


@pytest.mark.parametrize("name", [*recipe_names(), *host_names()])
def test_it_loads(name: str) -> None:
    recipe = load(name)
    assert recipe.name == (name if "/" in name else f"hosts/{name}")
    assert recipe.title or name in host_names()


@pytest.mark.parametrize("path", [*FILES, *OWN_FILES], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_constant_ends_in_its_source(path: Path) -> None:
    for marked in _recipes_in(path):
        constants = dict(_constants(marked))
        blocks = {keys[:-1] for keys in constants}
        bare = {
            keys for keys, comment in constants.items()
            if not comment
            and not (keys[-1] in ("name", "plugin") and keys[0] in ("method", "plugin", "net"))
            and (keys[:-1] in blocks or len(keys) > 1)
        }  # fmt: skip
        assert not bare, f"{path}: no source behind {sorted('.'.join(map(str, keys)) for keys in bare)}"


@pytest.mark.parametrize("path", [*FILES, *OWN_FILES], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_opens_with_what_it_reproduces(path: Path) -> None:
    header = _header(path)
    assert len(header) > 30, header
    if path in OWN_FILES and path.stem != "rows":
        command = re.search(r"ssbench run (\S+) --split (\S+)", header)
        assert command, header
        recipe, split = load(command.group(1)), command.group(2)
        assert find_recipe(command.group(1)).path == path
        assert split in manifest().splits
        assert split.split("/")[0] == recipe.data.dataset


@pytest.mark.parametrize("path", [*FILES, *OWN_FILES], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_printed_number_stands_in_its_table_alone(path: Path) -> None:
    """No score, with its decimals, in a comment of a recipe: sources quote settings, tables quote scores."""
    for name in recipe_names():
        if find_recipe(name).path == path:
            header = _header(path)
            assert not [s for s in printed_scores(name).values() if s % 1 and f"{s:g}" in header.split()], name


@pytest.mark.parametrize("name", recipe_names())
def test_the_name_says_what_is_in_it(name: str) -> None:
    recipe = load(name)
    assert recipe.method.name in name
    assert all(plugin.name in name.partition("/")[2] for plugin in recipe.plugins)
    assert find_recipe(name).name == name


def test_hosts_are_complete_and_take_each_plugin_that_fits_by_name() -> None:
    for host in host_names():
        assert load(host).plugins == ()
    assert [p.name for p in load("unimatch_voc+mpmc").plugins] == ["mpmc"]
    assert load("unimatch_cityscapes+wpl").plugins[0].box_score == 0.95, (
        "plugins/wpl_cityscapes.yaml lies over wpl.yaml"
    )


def test_old_names_of_base_files_still_work(tmp_path: Path) -> None:
    """A user's recipe from before names `recipes/base/toy.yaml` by path."""
    for old in ("toy", "unimatch_voc", "mpmc", "camvid_r50"):
        assert _aliases()[f"base/{old}"]
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {ROOT / 'base/toy.yaml'}\nmethod: {{name: supervised}}\n")
    assert load(str(mine)).data.dataset == "toy"


class Quick:
    """Quick runs of whatever none before has shown to work; `ssbench run NAME --quick` is the same."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.shown: set[str] = set()

    def run(self, name: str) -> Outcome | None:
        """The run, None where every part of the recipe has run in others."""
        quick = load(name, quick=True)
        parts = _parts(quick)
        if parts <= self.shown:
            return None
        with Bars(show=False, write_line=lambda _: None) as bars:
            done = run_job(Job(name, QUICK_SPLIT, 0, quick=True), self.places, join("cpu"), bars)
        if done.error is None:
            self.shown |= parts
        shutil.rmtree(self.places.runs)  # weights of every net of every paper: 6 GB
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


def test_only_the_rows_on_fixmatch_divide_by_the_kept_pixels() -> None:
    """S4MC, Eq. 3: its rows on FixMatch, whose host has no release, divide by the pixels with a pseudo-label.

    CutMix-Seg's release divides otherwise, and its rows keep what that does.
    """
    over = {name: load(name).loss.pseudo_over for name in recipe_names() if name.startswith("s4mc/")}
    fixmatch = {name for name in over if "_fixmatch_" in name}
    cutmix = {name for name in over if "_cutmix_seg_" in name}
    assert (len(fixmatch) >= 4, len(cutmix) >= 4) == (True, True)
    assert {over[name] for name in fixmatch} == {"kept"}
    assert {name for name in cutmix if over[name] == "kept"} == set()
