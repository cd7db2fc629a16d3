from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ssbench.errors import RecipeError
from ssbench.paths import shipped
from ssbench.recipe.recipe import SECTIONS, load
from ssbench.tables.cell import stored_name

RECIPE = """\
# Mine.
base: base/toy.yaml
title: a recipe of mine
method:
  name: fixmatch  # ours
  threshold: 0.8  # ours
plugin:
  name: s4mc
  alpha0: 0.4  # Sec. 3.2.2
"""
BASE = """\
data: {dataset: toy, workers: 0}
views: {weak: unimatch, strong: unimatch, box: unimatch, crop: 64}  # ours
net:
  name: deeplabv3plus  # ours
  encoder: resnet18  # ours
  weights: random  # ours
optim:
  lr: 0.02  # ours
  head: 1  # ours
schedule:
  epochs: 20  # ours
  labeled_batch: 8  # ours
  unlabeled_batch: 8  # ours
"""
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a recipe above its base; its name from the folder the test stands in."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "toy.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)

    def to_file(*swaps: tuple[str, str], name: str = "mine.yaml", text: str = RECIPE) -> str:
        for old, new in swaps:
            assert old in text
            text = text.replace(old, new)
        Path(name).write_text(text)
        return name

    return to_file


def test_a_recipe_of_ones_own_is_read_over_its_base(write: Write) -> None:
    recipe = load(write())
    assert (recipe.name, recipe.title, recipe.paper, recipe.division) == (
        "custom/mine",
        "a recipe of mine",
        None,
        "closed",
    )
    assert recipe.data.dataset == "toy"
    assert recipe.method.threshold == 0.8
    assert [p.name for p in recipe.plugins] == ["s4mc"]
    assert recipe.plugins[0].alpha0 == 0.4


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("  threshold: 0.8", "  treshold: 0.8", 6, ["method fixmatch has no field 'treshold'", "'threshold'?"]),
        ("  alpha0:", "  alpha_0:", 9, ["plugin s4mc has no field 'alpha_0'; did you mean 'alpha0'?"]),
        ("name: s4mc", "name: s4m", 8, ["no plugin 's4m'", "did you mean 's4mc'"]),
        ("name: fixmatch", "name: fixmach", 5, ["no method 'fixmach'; did you mean 'fixmatch'"]),
        ("threshold: 0.8", "threshold: high", 6, ["threshold = 'high'", "valid number"]),
        ("threshold: 0.8", "threshold: [1]", 6, ["threshold = [1]"]),
        ("title:", "titel:", 3, ["no section 'titel'; did you mean 'title'"]),
        ("title: a recipe of mine", "title: [1]", 3, ["title = [1]", "valid string"]),
        ("title: a recipe of mine", "division: fast", 3, ["division = 'fast'", "'closed' or 'open'"]),
        ("title: a recipe of mine", "departures: none at all", 3, ["departures = 'none at all'", "valid list"]),
        ("title: a recipe of mine", "expect: {voc/classic/1_16: 70.1}", 3, ["no section 'expect'"]),
        ("title: a recipe of mine", "data: {dataset: tpy}", 3, ["no dataset 'tpy'; did you mean 'toy'"]),
        ("title: a recipe of mine", "data: toy", 3, ["'data' must be a mapping, not 'toy'"]),
        ("title: a recipe of mine", "data: {dataset: voc, form: grey_stacks}", 3, ["form grey_stacks is for"]),
        ("title: a recipe of mine", "net: {encoder: resnet19}", 3, ["no encoder 'resnet19'", "resnet1"]),
        ("title: a recipe of mine", "net: {name: unnet}", 3, ["no net 'unnet'; did you mean 'unet'"]),
        ("title: a recipe of mine", "optim: {lr: -1}", 3, ["optim: lr = -1", "greater than 0"]),
        ("title: a recipe of mine", "optim: {lr: .nan}", 3, [".nan is no finite number"]),
        ("title: a recipe of mine", "optim: {lr: '0.1'}", 3, ["lr = '0.1'", "valid number"]),
        ("title: a recipe of mine", "schedule: {epochs: 0}", 3, ["epochs = 0", "greater than or equal to 1"]),
        ("title: a recipe of mine", "schedule: {epochs: 2.5}", 3, ["epochs = 2.5", "valid integer"]),
        ("title: a recipe of mine", "schedule: {precision: faster}", 3, ["precision = 'faster'"]),
        ("title: a recipe of mine", "schedule: {compile: 'on'}", 3, ["compile: on is never read", "exact"]),
        ("title: a recipe of mine", "eval: {protocol: sliding}", 3, ["protocol 'sliding' needs a crop"]),
        ("title: a recipe of mine", "eval: {protocol: volume, crop: 32}", 3, ["protocol 'volume' does not fit toy"]),
        ("title: a recipe of mine", "views: {scale: [2.0, 0.5]}", 3, ["scale = [2.0, 0.5]: it runs from 2.0 down"]),
        ("title: a recipe of mine", "views: {crop: 64.0}", 3, ["crop = 64.0"]),
        ("title: a recipe of mine", "loss: {supervised: cee}", 3, ["supervised = 'cee'", "'ce', 'ohem' or 'ce_dice'"]),
        ("title: a recipe of mine", "quick: 3", 3, ["'quick' must be a mapping"]),
        ("title: a recipe of mine", "title: a\ntitle: b", 4, ["'title' stands twice"]),
        ("title: a recipe of mine", "\ttitle: b", 3, ["not YAML"]),
        ("base: base/toy.yaml", "base: base/tov.yaml", 2, ["no base file 'base/tov.yaml'"]),
        ("base: base/toy.yaml", "base: [base/toy.yaml, 3]", 2, ["base 3 is neither a name nor a path"]),
        ("  name: fixmatch  # ours\n", "", 4, ["'method' needs a name"]),
        ("  name: s4mc\n", "", 7, ["'plugin' needs a name"]),
        ("  name: s4mc\n", "  name: 7\n", 7, ["'plugin' needs a name"]),
    ],
)  # fmt: skip
def test_errors_say_what_where_and_what_to_do(write: Write, old: str, new: str, line: int, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        load(write((old, new)))
    for part in parts:
        assert part in error.value.what
    assert error.value.where == f"mine.yaml:{line}"
    assert error.value.fix


def test_an_error_in_a_base_is_placed_in_the_base(write: Write) -> None:
    write()
    Path("base/toy.yaml").write_text(BASE.replace("lr: 0.02", "lr: quick"))
    with pytest.raises(RecipeError) as error:
        load("mine.yaml")
    assert error.value.where == "base/toy.yaml:8"


def test_later_bases_win_and_a_base_may_have_bases_of_its_own(write: Write) -> None:
    write()
    Path("base/more.yaml").write_text("optim: {lr: 0.5}  # more\n")
    recipe = load(write(("base: base/toy.yaml", "base: [base/toy.yaml, base/more.yaml]")))
    assert (recipe.optim.lr, recipe.optim.head) == (0.5, 1)
    Path("base/more.yaml").write_text("base: deeper/most.yaml\noptim: {head: 3}  # more\n")
    Path("base/deeper").mkdir()
    Path("base/deeper/most.yaml").write_text("optim: {lr: 0.25, head: 2}  # most\n")
    recipe = load("mine.yaml")
    assert (recipe.optim.lr, recipe.optim.head) == (0.25, 3)
    assert {str(m) for n, _, m in recipe.sources() if n == "optim.lr"} == {"base/deeper/most.yaml:1"}


def test_recipes_based_on_each_other_in_a_circle_are_refused(write: Write) -> None:
    write()
    Path("base/more.yaml").write_text("base: again.yaml\n")
    Path("base/again.yaml").write_text("base: more.yaml\n")
    with pytest.raises(RecipeError, match=r"based on itself: mine.yaml -> .*more.yaml -> .*again.yaml -> .*more.yaml"):
        load(write(("base: base/toy.yaml", "base: base/more.yaml")))


def test_a_recipe_is_based_on_a_shipped_one_by_name_from_any_folder(write: Write) -> None:
    base = "base: toy/none_fixmatch\noptim: {lr: 0.002}  # ours\nplugin: {name: s4mc}  # ours\n"
    Path("far").mkdir(exist_ok=True)
    Path("far/mine.yaml").write_text(base)
    recipe = load("far/mine.yaml")
    assert (recipe.method.name, recipe.optim.lr, recipe.optim.name) == ("fixmatch", 0.002, "adamw")
    with pytest.raises(RecipeError, match="did you mean") as error:
        load(write(("base: base/toy.yaml", "base: toy/none_fixmach")))
    assert error.value.where == "mine.yaml:2"


def test_a_host_takes_the_shipped_constants_of_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`host` + `plugin` in a file, HOST+PLUGIN as a name, and a paper's own row are the same recipe."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("host: unimatch_cityscapes\nplugin: wpl\n")
    own, named = load("mine.yaml"), load("unimatch_cityscapes+wpl")
    assert own.key("x", 0) == named.key("x", 0) == load("wpl/wpl_unimatch_cityscapes_r101_801").key("x", 0)
    assert named.name == "hosts/unimatch_cityscapes+wpl"
    marks = {name: str(mark) for name, _, mark in named.sources()}
    assert marks["plugin.box_score"].startswith("recipes/plugins/wpl_cityscapes.yaml:")
    assert marks["plugin.k"].startswith("recipes/plugins/wpl.yaml:")
    stacked = load("toy/none_fixmatch+s4mc+ipixmatch")
    assert [plugin.name for plugin in stacked.plugins] == ["s4mc", "ipixmatch"]
    with pytest.raises(RecipeError, match="no plugin 'wpk'"):
        load("unimatch_cityscapes+wpk")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_a_recipe_or_base_that_is_no_mapping_is_refused(write: Write, text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        load(write(text=text))
    write()
    Path("base/toy.yaml").write_text(text)
    with pytest.raises(RecipeError, match="a recipe is a mapping") as error:
        load("mine.yaml")
    assert error.value.where == "base/toy.yaml:1"


@pytest.mark.parametrize("section", ["data", "views", "net", "method", "optim", "schedule"])
def test_a_missing_section_is_named(write: Write, section: str) -> None:
    whole = "".join(
        f"{s}: {{name: x}}\n" for s in ("data", "views", "net", "method", "optim", "schedule") if s != section
    )
    with pytest.raises(RecipeError, match=f"no section '{section}'") as error:
        load(write(text=whole))
    assert error.value.where == "mine.yaml"


def test_a_missing_field_is_placed_at_its_section(write: Write) -> None:
    write()
    Path("base/toy.yaml").write_text(BASE.replace("  epochs: 20", "  devices: 1"))
    with pytest.raises(RecipeError, match="schedule lacks 'epochs'") as error:
        load("mine.yaml")
    assert error.value.where == "base/toy.yaml:10"


def test_a_block_with_another_name_replaces_the_block_of_the_base(write: Write) -> None:
    write()
    Path("base/toy.yaml").write_text(BASE + "method: {name: unimatch, feature_drop: 0.3}  # base\n")
    recipe = load("mine.yaml")
    assert recipe.method.name == "fixmatch"
    assert not any("base/toy.yaml" in str(mark) for name, _, mark in recipe.sources() if name.startswith("method."))


@pytest.mark.parametrize("name", ["s4mc/none_cutmix_seg_voc_r10", "unimatch_voc_r101", "toy/none-unimatch"])
def test_an_unknown_recipe_answers_with_the_closest(name: str) -> None:
    with pytest.raises(RecipeError, match="did you mean") as error:
        load(name)
    assert error.value.fix == "ssbench list recipes"


def test_a_recipe_file_that_is_not_there_and_a_table_are_said_so() -> None:
    with pytest.raises(RecipeError, match=r"no recipe file 'mine\.yaml'"):
        load("mine.yaml")
    with pytest.raises(RecipeError, match="is a table, not a recipe"):
        load("s4mc/table1")


def test_a_shipped_recipe_given_by_path_is_the_shipped_recipe() -> None:
    assert load(str(shipped("recipes") / "toy" / "none_unimatch.yaml")).name == "toy/none_unimatch"


# --- overrides ---


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("optim.lr=1e-3", "optim", "lr", 0.001),
        ("views.scale=[0.9, 1.1]", "views", "scale", (0.9, 1.1)),
        ("net.multi_grid=null", "net", "multi_grid", None),
        ("eval.absent=zero", "eval", "absent", "zero"),
        ("method.name=supervised", "method", "epoch_of", "labeled"),
        ("loss.pseudo=dice", "loss", "pseudo", "dice"),
    ],
)
def test_set_overrides_one_constant(text: str, section: str, field: str, value: object) -> None:
    recipe = load("toy/none_unimatch", [text])
    assert getattr(getattr(recipe, section), field) == value
    assert recipe.overrides == (text,)
    marks = {name: str(mark) for name, _, mark in recipe.sources()}
    if text.startswith(f"{section}.{field}="):
        assert marks[f"{section}.{field}"] == f"--set {text}"


def test_set_reaches_into_lists_and_makes_missing_blocks(write: Write) -> None:
    listed = write(("plugin:\n  name: s4mc\n  alpha0: 0.4", "plugin:\n  - name: s4mc\n    alpha0: 0.4"))
    assert load(listed, ["plugin.0.alpha0=0.7"]).plugins[0].alpha0 == 0.7
    added = load("toy/none_fixmatch", ["plugin.name=s4mc", "plugin.alpha0=0.6"])
    assert [(p.name, p.alpha0) for p in added.plugins] == [("s4mc", 0.6)]
    assert load("toy/s4mc_fixmatch", ["plugin=none"]).plugins == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("optim.lr", "is no name.field=value"),
        ("=3", "is no name.field=value"),
        ("optim..lr=3", "is no name.field=value"),
        ("optim.lr=[1", "not YAML"),
        ("optim.lrr=3", "has no field 'lrr'; did you mean 'lr'"),
        ("optimm.lr=3", "no section 'optimm'; did you mean 'optim'"),
        ("base=x", "no section 'base'"),
        ("optim.lr.x=3", "no place 'lr'"),
        ("plugin.3.alpha0=3", "plugin"),
        ("optim.lr=fast", "lr = 'fast'"),
        ("optim=3", "'optim' must be a mapping, not 3"),
    ],
)
def test_an_override_that_cannot_be_is_refused(text: str, part: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(part)) as error:
        load("toy/s4mc_unimatch", [text])
    assert error.value.where.startswith("--set")


def test_overrides_are_kept_apart_in_the_store() -> None:
    plain, other = load("toy/none_unimatch"), load("toy/none_unimatch", ["optim.lr=0.5"])
    assert plain.stored_name == "toy/none_unimatch"
    assert re.fullmatch(r"toy/none_unimatch\+[0-9a-f]{6}", other.stored_name)
    assert other.stored_name == stored_name("toy/none_unimatch", ["optim.lr=0.5"])
    assert load("toy/none_unimatch", division="open").stored_name == "toy/none_unimatch"
    assert load("toy/none_unimatch", division="open").division == "open"


# --- hooks ---


def test_a_plug_in_the_method_has_no_hook_for_is_refused(write: Write) -> None:
    recipe = write(("  name: fixmatch  # ours\n  threshold: 0.8  # ours", "  name: supervised"))
    with pytest.raises(RecipeError, match="s4mc needs refine, which supervised does not offer") as error:
        load(recipe)
    assert error.value.where == "mine.yaml:6"


MIXER = """\
from ssbench.plugins.base import Plugin, PluginConfig


class {name}(Plugin):
    class Config(PluginConfig):
        name: str = "{name}"

    def {hook}(self, *given):
        return super().{hook}(*given)
"""


@pytest.mark.parametrize(("hook", "refused"), [("mix", True), ("extras", False), ("loss", False)])
def test_two_plug_ins_on_one_exclusive_hook_are_refused(write: Write, tmp_path: Path, hook: str, refused: bool) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(MIXER.format(name=name, hook=hook))
    old = "plugin:\n  name: s4mc\n  alpha0: 0.4  # Sec. 3.2.2"
    recipe = write((old, f"plugin: [{{name: {tmp_path}/one.py}}, {{name: {tmp_path}/two.py}}]"))
    if not refused:
        assert [p.name for p in load(recipe).plugins] == ["one", "two"]
        return
    with pytest.raises(RecipeError, match=f"one and two both use {hook}") as error:
        load(recipe)
    assert error.value.where == "mine.yaml:7"


@pytest.mark.parametrize("none", ["none", "null", "{name: none}", "[]", "{name: null}"])
def test_no_plug_in_can_be_said_in_each_way(write: Write, none: str) -> None:
    assert load(write(("plugin:\n  name: s4mc\n  alpha0: 0.4  # Sec. 3.2.2", f"plugin: {none}"))).plugins == ()


# --- sources ---


def test_every_constant_has_a_place_and_defaults_point_at_their_line(write: Write) -> None:
    from ssbench.paths import PACKAGE

    found = {name: (value, mark) for name, value, mark in load(write()).sources()}
    assert str(found["method.threshold"][1]) == "mine.yaml:6"
    assert str(found["optim.lr"][1]).startswith("base/toy.yaml:")
    value, mark = found["plugin.score"]
    line = (PACKAGE / "plugins" / "s4mc.py").read_text().splitlines()[mark.line - 1]
    assert line.strip().startswith("score:")
    assert f'"{value}"' in line
    assert line.endswith(f"# {mark.comment}")
    assert all(str(mark) for _, mark in found.values())


def test_a_number_of_a_pipeline_has_the_source_at_its_own_line(write: Write) -> None:
    recipe = load(write(("title: a recipe of mine", "views: {weak: u2pl}")))
    value, mark = next((v, m) for n, v, m in recipe.sources() if n == "views.padding")
    assert (value, mark.comment) == ("zero", "card: views 5")
    assert mark.file.startswith("ssbench/views/")


def test_sections_are_those_documented() -> None:
    assert set(SECTIONS) == {
        "paper", "title", "division", "departures", "data", "views", "net", "method", "optim",
        "schedule", "plugin", "loss", "eval", "quick", "logged",
    }  # fmt: skip
