"""Every cell of the papers' tables that can be run names a recipe, and that recipe is what the cell says it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from papers import PAPERS, empty, paper_tables, table

from ssbench.paths import shipped
from ssbench.recipe.compose import own_names
from ssbench.recipe.recipe import Recipe, load, recipe_names
from ssbench.recipe.sections import PROTOCOLS
from ssbench.splits.manifest import manifest
from ssbench.tables.cell import Cell
from ssbench.tables.spec import table_names

TABLES = paper_tables()

# (table, row) -> why no recipe can fill its cells yet; row "*": the whole table.
NO_RULE = {("upc/table4", "upc-mask2former")}
"""(table, row) of cells without a recipe: no rule by which image-level labels enter a Mask2Former teacher."""

# (table, row, column group or "") -> (crop the paper states, crop of the recipe), and why they may differ.
CROPS = {
    ("mpmc/table2", "supervised", "ResNet-50"): (801, 800),  # printed from AugSeg's README, trained at its 800
    ("wpl/table2", "supervised", "ResNet-50"): (801, 800),  # the same row
    ("ipixmatch/table3", "s513-cps", "ResNet-50"): (513, 512),  # CPS's own; the block of the table is called 513
    ("ipixmatch/table3", "s513-cps", "ResNet-101"): (513, 512),
    ("ipixmatch/table4", "r101-stpp", ""): (512, 321),  # "512 for the others"; the numbers are ST++'s own
    ("ipixmatch/table4", "r101-u2pl", ""): (512, 513),  # "512 for the others"; the numbers are U2PL's own
}

# Rows gained over a row whose run differs in more than the plug-in, and why.
UNPAIRED = {
    ("mpmc/table3", "unimatch-mpmc"): "the paper gains ResNet-101 over a U-Net; acdc/table1 has both on both",
    **dict.fromkeys(
        [("upc/table1", "mask2former-upc"), ("upc/table2", "mask2former-upc"), ("upc/table4", "upc-mask2former")],
        "the plug-in needs self-training, whose first training is the row without it",
    ),
}

ENCODERS = {"resnet50": {"resnet50", "resnet50s"}, "resnet101": {"resnet101", "resnet101s"}}


def runnable(name: str) -> Iterator[Cell]:
    """Cells of roles B, P, A and C for which a number is printed, or a run wanted, and a recipe must be there."""
    for cell in empty(name).cells.values():
        if cell.role != "Q" and not cell.dash and not (cell.column == "image" and (name, cell.row) in NO_RULE):
            yield cell


@cache
def loaded(recipe: str, overrides: tuple[str, ...] = ()) -> Recipe:
    return load(recipe, overrides)


def of(cell: Cell) -> Recipe:
    return loaded(str(cell.recipe), cell.overrides)


@pytest.mark.parametrize("name", TABLES)
def test_cells_can_be_run_or_the_reason_is_known(name: str) -> None:
    without = {c.row for c in empty(name).cells.values() if c.role != "Q" and not c.dash and c.state != "not run"}
    assert without == {row for table, row in NO_RULE if table == name}
    assert all(c.recipe in recipe_names() for c in runnable(name))


def test_reasons_are_about_rows_that_exist() -> None:
    for name, row in [*NO_RULE, *UNPAIRED, *((t, r) for t, r, _ in CROPS)]:
        assert row == "*" or row in {r.id for r in table(name).rows}


@pytest.mark.parametrize("name", TABLES)
def test_a_cell_and_its_recipe_agree(name: str) -> None:
    """Data, method, plug-in and network; a hash of the recipe would say nothing of what the row means."""
    for cell in runnable(name):
        recipe, where = of(cell), (name, cell.row, cell.column, cell.recipe)
        assert cell.split, where
        assert recipe.data.dataset == cell.split.split("/")[0], where
        assert recipe.method.name == cell.method, where
        assert [p.name for p in recipe.plugins] == ([cell.plugin] if cell.plugin else []), where
        if cell.backbone == "unet":
            assert recipe.net.name == "unet", where
        else:
            assert recipe.net.encoder in ENCODERS.get(str(cell.backbone), {cell.backbone}), where


def test_crops_are_those_the_papers_state() -> None:
    differ = {}
    for name in TABLES:
        groups = {c.id: c.group or "" for c in table(name).columns}
        for cell in runnable(name):
            if cell.crop is not None and cell.crop != of(cell).views.crop:
                group = groups[cell.column] if groups[cell.column].startswith("ResNet") else ""
                differ[name, cell.row, group] = (cell.crop, of(cell).views.crop)
    assert differ == CROPS


def test_baselines_and_plugin_rows_differ_in_the_plugin_alone() -> None:
    """Paired runs: the same data, views, network, method, losses, optimiser, schedule and scoring."""
    pairs, apart = 0, set()
    for name in TABLES:
        over = {r.id: r.gain_over for r in table(name).rows}
        across = {c.id: c.gain_over for c in table(name).columns}
        for cell in runnable(name):
            base = empty(name).cells.get((over[cell.row] or cell.row, across[cell.column] or cell.column))
            if base is None or base == cell or not cell.plugin or base.plugin or base.recipe is None:
                continue
            ours, theirs = of(cell).resolved(), of(base).resolved()
            pairs += 1
            if {k: v for k, v in ours.items() if k != "plugin"} != {k: v for k, v in theirs.items() if k != "plugin"}:
                apart.add((name, cell.row))
    assert apart == UNPAIRED.keys()
    assert pairs > 300


def test_rows_of_two_papers_share_their_runs() -> None:
    """MPMC and WPL print the same baselines; each of those runs is one."""
    for first, second in (("mpmc/table1", "wpl/table1"), ("mpmc/table2", "wpl/table2")):
        ours, theirs = (
            {(c.row, c.column): (c.stored, c.split) for c in runnable(name) if not c.plugin} for name in (first, second)
        )
        assert ours == theirs
        assert len(ours) > 40


def test_no_two_recipes_are_the_same_run() -> None:
    """An alias would be trained twice under two names."""
    same: dict[str, list[str]] = {}
    for name in recipe_names():
        same.setdefault(loaded(name).key("", 0), []).append(name)
    assert [names for names in same.values() if len(names) > 1] == []


def card(paper: str) -> str:
    return (shipped("recipes") / paper / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_its_card(paper: str) -> None:
    """With each table's state, and what the card must answer."""
    text = card(paper)
    for name in TABLES:
        if name.startswith(f"{paper}/"):
            assert name in text, f"{name} is not in the card"
    for heading in ("Checked against the authors' code", "Variants", "Departures", "What cannot be settled", "Tables",
                    "How to run"):  # fmt: skip
        assert f"## {heading}" in text
    if any(name.startswith(f"{paper}/") for name, _ in NO_RULE):
        assert "the paper gives no rule" in text


FACTS_ALONE = ("datasets", "views")  # cards of what no command is about
RELEASED_FOLDERS = ("augseg/dataset", "augseg/models", "augseg/utils", "u2pl/models")  # of the authors' repositories


@pytest.mark.parametrize("path", sorted(shipped("recipes").glob("*/README.md")), ids=lambda p: p.parent.name)
def test_cards_name_what_exists(path: Path) -> None:
    """Recipes, tables, splits and protocols in their commands and in backquotes."""
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"ssbench (?:run|table|plan|check|eval) .*", text)
    assert commands or path.parent.name in FACTS_ALONE
    known = {*recipe_names(), *own_names(), *table_names(), *manifest().splits, *PROTOCOLS, *RELEASED_FOLDERS}
    for line in commands:
        words = [w.strip("`,.") for w in line.split("#")[0].split()[2:] if "/" in w and "=" not in w]
        assert words, line
        assert {w for w in words if w not in known and "/custom/" not in w} == set(), line
    folders = {p.name for p in shipped("recipes").iterdir() if p.is_dir()}
    quoted = {w for w in re.findall(r"`(\w+/\w+)`", text) if w.split("/")[0] in folders - {"base", "claims"}}
    assert {w for w in quoted if w not in known} == set()
