"""Stacked plug-ins end to end: a recipe that lists two, settings of each, what is refused, what a record says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import SMALL, Ran

from ssbench.errors import RecipeError
from ssbench.recipe.recipe import load

LISTED = """\
plugin:
  - s4mc
  - name: ipixmatch
    alpha: 0.5  # mine
"""
RECIPE = SMALL.replace("plugin: {name: s4mc}  # ours\n", LISTED)
MINE = """\
from ssbench.plugins.base import Plugin, PluginConfig


class Mine(Plugin):
    class Config(PluginConfig):
        name: str = "mine"

    def mix(self, host, *_):
        return host()
"""
FIRST = RECIPE.splitlines().index("  - s4mc") + 1


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("stack.yaml").write_text(RECIPE)
    return Path("stack.yaml")


def test_each_part_has_its_settings_and_their_sources(stack: Path) -> None:
    recipe = load(str(stack), ("plugin.0.alpha0=0.2",))
    assert [(p.name, p.alpha0 if p.name == "s4mc" else p.alpha) for p in recipe.plugins] == [
        ("s4mc", 0.2),
        ("ipixmatch", 0.5),
    ]
    marks = {name: str(mark) for name, _, mark in recipe.sources()}
    assert marks["plugin.0.alpha0"] == "--set plugin.0.alpha0=0.2"
    assert marks["plugin.1.alpha"] == f"stack.yaml:{FIRST + 2}"
    assert marks["plugin.1.tau"].startswith("ssbench/plugins/ipixmatch.py:")


def test_a_bare_name_takes_settings_too(stack: Path) -> None:
    stack.write_text(SMALL.replace("plugin: {name: s4mc}", "plugin: s4mc"))
    assert load("stack.yaml", ("plugin.alpha0=0.2",)).plugins[0].alpha0 == 0.2


@pytest.mark.parametrize(
    ("changed", "line", "what"),
    [
        (("- s4mc", "- ipixmatch"), 1, "ipixmatch is stacked on itself"),
        (("- s4mc", "- {name: s4mc, alhpa: 1}"), 0, "s4mc has no field 'alhpa'; did you mean 'alpha0'"),
        (("    alpha: 0.5", "    alpha0: 0.5"), 2, "ipixmatch has no field 'alpha0'; did you mean 'alpha'"),
        (("name: ipixmatch", "name: ipixmatsch"), 1, "no plugin 'ipixmatsch'; did you mean 'ipixmatch'"),
        (("method: {name: fixmatch}", "method: {name: supervised}"), 0, "s4mc needs refine, which supervised"),
        (("  - s4mc", "  - mine.py"), 1, "mine and upc both use mix"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(stack: Path, changed: tuple[str, str], line: int, what: str) -> None:
    Path("mine.py").write_text(MINE)
    text = RECIPE.replace(*changed)
    stack.write_text(text.replace("name: ipixmatch\n    alpha: 0.5", "name: upc") if "mine.py" in changed[1] else text)
    with pytest.raises(RecipeError, match=what) as error:
        load("stack.yaml")
    assert error.value.where == f"stack.yaml:{FIRST + line}"
    assert error.value.fix


def test_a_list_over_the_same_list_of_a_base_goes_part_by_part(stack: Path) -> None:
    Path("over.yaml").write_text("base: stack.yaml\nplugin:\n  - {name: s4mc, alpha0: 0.1}  # here\n  - ipixmatch\n")
    recipe = load("over.yaml")
    assert [recipe.plugins[0].alpha0, recipe.plugins[1].alpha] == [0.1, 0.5]
    marks = {name: str(mark) for name, _, mark in recipe.sources()}
    assert (marks["plugin.0.alpha0"], marks["plugin.1.alpha"]) == ("over.yaml:3", f"stack.yaml:{FIRST + 2}")
    Path("over.yaml").write_text("base: stack.yaml\nplugin: [ipixmatch, s4mc]\n")
    assert [p.name for p in load("over.yaml").plugins] == ["ipixmatch", "s4mc"]
    assert load("over.yaml").plugins[0].alpha == 1.0


def test_quick_settings_reach_each_part(stack: Path) -> None:
    quick = load("stack.yaml", quick=True)
    assert [p.name for p in quick.plugins] == ["s4mc", "ipixmatch"]
    assert (quick.plugins[1].alpha, quick.plugins[1].tau) == (0.5, 0.3)
    marks = {name: str(mark) for name, _, mark in quick.sources()}
    assert (marks["plugin.1.tau"], marks["plugin.1.alpha"]) == ("--quick", f"stack.yaml:{FIRST + 2}")


def test_a_run_names_both(stack: Path, ssbench: Callable[..., Ran], toy_data: Path, tmp_path: Path) -> None:
    ran = ssbench("run", tmp_path / stack, "--quick", "--data-root", toy_data, "--runs", tmp_path / "runs")
    assert ran.code == 0, ran.err
    (path,) = (tmp_path / "runs").rglob("record.json")
    record = json.loads(path.read_text())
    assert record["plugin"] == ["s4mc", "ipixmatch"]
    assert [p["name"] for p in record["resolved"]["plugin"]] == ["s4mc", "ipixmatch"]
    assert record["history"][-1]["terms"]["ipix"] > 0
    assert {"kept", "right"} <= set(record["history"][-1]["terms"])
