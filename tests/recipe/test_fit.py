"""Who can host what: hooks called, settings that leave some out, plug-ins that collide; and the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from yaml import safe_load as yaml_load

from ssbench import find
from ssbench.certify.matrix import matrix, published
from ssbench.errors import RecipeError
from ssbench.methods.base import Method, MethodConfig
from ssbench.methods.hosting import Fit, Part, choices, fit, refused, yaml
from ssbench.plugins.base import Plugin, PluginConfig
from ssbench.recipe.recipe import load


class Host(Method):
    """Mixes unless it is told not to."""

    honours = frozenset({"prepare", "mix", "loss"})

    class Config(MethodConfig):
        name: Literal["host"] = "host"
        style: Literal["soft", "hard"] = "hard"

    @classmethod
    def calls(cls, cfg: Config) -> frozenset[str]:
        return cls.honours if cfg.style == "hard" else cls.honours - {"mix"}


class Two(Host):
    two_students = True


class Mixer(Plugin):
    def mix(self, host: Any, batch: Any, weak: Any, t: Any) -> Any:
        return host()


class Other(Mixer):
    one_student = True


class Weigher(Plugin):
    """Weighs, unless it is told not to."""

    class Config(PluginConfig):
        name: Literal["weigher"] = "weigher"
        weights: bool = True
        word: str = "free"

    @classmethod
    def uses(cls, cfg: Config) -> frozenset[str]:
        return cls.needs if cfg.weights else cls.needs - {"weigh"}

    def weigh(self, mixed: Any, teach: Any, t: Any) -> None:
        return None

    def loss(self, seen: Any, t: Any) -> dict[str, Any]:
        return {}


def said(method: type[Method], *plugins: type[Plugin], **settings: Any) -> tuple[str, str, int] | None:
    parts = [Part(cls.__name__.lower(), cls, cls.Config()) for cls in plugins]
    found = refused("host", method, method.Config(**settings), parts)
    return None if found is None else (found.what, found.fix, found.which)


def test_hooks_that_are_called_fit() -> None:
    assert said(Host, Mixer) is None
    assert fit(Host, Mixer) == Fit(never=("style: soft",))


def test_a_setting_may_leave_a_hook_out() -> None:
    what = "mixer needs mix, which host does not call with style: soft"
    assert said(Host, Mixer, style="soft") == (what, "set method.style: hard", 0)


def test_a_plug_in_may_do_without_a_hook() -> None:
    what = "weigher needs weigh, which host does not offer"
    assert said(Host, Mixer, Weigher) == (what, "set plugin.weights: false", 1)
    assert fit(Host, Weigher) == Fit(plugin={"weights": False})
    parts = [Part("weigher", Weigher, Weigher.Config(weights=False))]
    assert refused("host", Host, Host.Config(), parts) is None


def test_a_host_whose_default_leaves_the_hook_out() -> None:
    class Shy(Host):
        class Config(MethodConfig):
            name: Literal["shy"] = "shy"
            style: Literal["soft", "hard"] = "soft"

    assert fit(Shy, Mixer) == Fit(method={"style": "hard"}, never=("style: soft",))


def test_a_memory_of_one_student_has_no_place_where_two_are_trained() -> None:
    reason = "remembers one student's features"
    assert said(Two, Other) == (f"other {reason}, host trains two", "choose a host of one student", 0)
    assert fit(Two, Other).reason == f"the plug-in {reason}, the method trains two"
    assert said(Two, Mixer) is None


def test_two_mixers_and_one_plug_in_twice_collide() -> None:
    assert said(Host, Mixer, Other) == ("mixer and other both use mix", "remove one of them", 1)
    assert said(Host, Mixer, Mixer) == ("mixer is stacked on itself", "remove one of them", 1)


def test_choices_are_those_a_recipe_can_write() -> None:
    assert list(choices(Weigher.Config)) == [("weights", False)]
    assert list(choices(Host.Config, with_defaults=True)) == [("style", "soft"), ("style", "hard")]
    assert [yaml("a", v) for v in (True, "hard", None, 0.5)] == ["a: true", "a: hard", "a: null", "a: 0.5"]


# --- the matrix, and recipes that ask for its pairs ---

METHODS, PLUGINS = find.names("method"), find.names("plugin")
MATRIX = matrix()


def recipe(folder: Path, method: str, plugins: Sequence[str]) -> str:
    path = folder / "mine.yaml"
    listed = "".join(f"\n  - {block}" for block in plugins)
    base = Path(__file__).resolve().parents[2] / "recipes" / "base" / "toy.yaml"
    own = find.load("method", yaml_load(method)["name"]).network
    net = f"net: {{name: {own}, weights: random}}\n" if own else ""
    if own == "semivl":  # its network is made for one crop
        net = "net: {name: semivl, weights: random, crop: 64}\n"
    path.write_text(f"base: {base}\nmethod: {method}\nplugin:{listed}\n{net}")
    return str(path)


def block(name: str, settings: Any) -> str:
    return "{" + ", ".join([f"name: {name}", *(yaml(k, v) for k, v in settings.items())]) + "}"


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_is_refused_when_read_where_the_matrix_says_impossible(method: str, tmp_path: Path) -> None:
    for plugin in PLUGINS:
        pair = MATRIX.pairs[method, plugin]
        wanted = recipe(tmp_path, block(method, pair.fit.method), [block(plugin, pair.fit.plugin)])
        if pair.state != "impossible":
            assert load(wanted).plugins[0].name == plugin
            continue
        with pytest.raises(RecipeError) as error:
            load(wanted)
        assert error.value.where == f"{tmp_path}/mine.yaml:4"
        assert error.value.fix


def test_settings_that_the_matrix_warns_of_are_refused_when_read(tmp_path: Path) -> None:
    warned = [pair for pair in MATRIX.pairs.values() if pair.fit.never]
    assert {pair.method for pair in warned} >= {"cps", "cutmix_seg", "mean_teacher"}
    for pair in warned:
        for setting in pair.fit.never:
            with pytest.raises(RecipeError, match=f"needs mix, which {pair.method} does not call with {setting}"):
                load(recipe(tmp_path, f"{{name: {pair.method}, {setting}}}", [pair.plugin]))


def test_what_the_papers_print_can_be_run() -> None:
    known = published()
    assert known["unimatch", "mpmc"] == ("mpmc/table1", "mpmc/table2", "mpmc/table3")
    assert {pair for pair in known if pair[1] == "upc"} >= {("cps", "upc"), ("stpp", "upc"), ("u2pl", "upc")}
    assert ("unimatch", "s4mc") not in known  # of our own tables only
    for pair, tables in known.items():
        if pair not in MATRIX.elsewhere:
            assert (MATRIX.pairs[pair].state, MATRIX.pairs[pair].tables) == ("published", tables)
    assert not MATRIX.elsewhere


def test_every_pair_has_a_state() -> None:
    assert list(MATRIX.pairs) == [(method, plugin) for method in METHODS for plugin in PLUGINS]
    assert MATRIX.pairs["supervised", "s4mc"].fit.reason == "its step does not call refine"
    assert MATRIX.pairs["supervised", "mpmc"].note == "with plugin.unlabelled: false"  # its Table 5
    assert MATRIX.pairs["mean_teacher", "upc"].note == "with method.consistency: hard"
    assert MATRIX.pairs["cps", "upc"].note == "not with method.cutmix: false"
    assert all(pair.ours for pair in MATRIX.pairs.values())
