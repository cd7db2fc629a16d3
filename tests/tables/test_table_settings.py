"""What the cells of the papers' tables set exists in the plug-in they set it of, and means what the row says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from test_tables import empty, paper_tables

from ssbench import find
from ssbench.plugins.base import Plugin
from ssbench.recipe import recipe
from ssbench.tables.cell import Cell
from ssbench.train.build import plugin_of

TABLES = paper_tables()
CLASSES = 21


def swept(name: str) -> list[Cell]:
    """The printed cells of a table that set something."""
    return [c for c in empty(name).cells.values() if c.printed is not None and c.overrides]


def own(cell: Cell) -> dict[str, Any]:
    """What a cell sets of its plug-in."""
    pairs = (text.partition("=") for text in cell.overrides)
    return {key.removeprefix("plugin."): yaml.safe_load(value) for key, _, value in pairs if key.startswith("plugin.")}


@pytest.mark.parametrize("name", [name for name in TABLES if swept(name)])
def test_settings_are_accepted_whether_a_recipe_is_there_or_not(name: str) -> None:
    """A setting that is refused, or that changes nothing, would only be seen when the cell is run."""
    for cell in swept(name):
        if cell.plugin is None or not (given := own(cell)):
            continue
        cls = find.load("plugin", cell.plugin)
        made = cls(cls.Config(**given), CLASSES)
        assert isinstance(made, Plugin)
        assert made.cfg != cls.Config(), f"{cell.row} {cell.column}: the row sets what is set already"


@pytest.mark.parametrize("name", [name for name in TABLES if swept(name)])
def test_cells_load_and_their_plugins_can_be_built(name: str) -> None:
    known = recipe.recipe_names()
    for chosen, given in {(c.recipe, c.overrides) for c in swept(name) if c.recipe in known}:
        loaded = recipe.load(str(chosen), given)
        assert type(plugin_of(loaded, CLASSES, 0)).__module__.endswith(loaded.plugins[0].name)


def settings(name: str, row: str) -> dict[str, dict[str, Any]]:
    """Column -> what the cells of a row set of their plug-in, beside its defaults."""
    cells = {c.column: c for c in swept(name) if c.row == row}
    return {
        column: find.load("plugin", str(c.plugin)).Config(**own(c)).model_dump(mode="json", exclude_defaults=True)
        for column, c in cells.items()
    }


def test_rows_set_what_they_say() -> None:
    """The switches of the ablations, table by table, as the papers name them."""
    assert settings("upc/table6", "patch") == {"miou": {"ras": "off"}}
    assert settings("upc/table7", "oracle")["k2"] == {"ras": "off", "k": 2, "guidance": "oracle"}
    assert settings("upc/table7", "random")["k5"] == {"ras": "off", "guidance": "random"}
    assert settings("upc/table8", "n5")["k11"] == {"ras": "off", "k": 11, "grid": 5}
    assert [settings("upc/table5", r)["b1323"] for r in ("random-erasing", "copy-paste", "cutmix")] == [
        {"mixer": "random_erasing"}, {"mixer": "copy_paste"}, {"mixer": "cutmix"},
    ]  # fmt: skip
    assert settings("mpmc/table6", "labeled")["c186"] == {"unlabelled": False}
    assert settings("mpmc/table6", "unlabeled")["c744"] == {"labelled": False}
    assert settings("ipixmatch/table1", "p1") == {
        "kl": {"warmup": False}, "cr": {"warmup": False, "distance": "corr"}
    }  # fmt: skip
    assert settings("ipixmatch/table2", "without")["r50-662"] == {"warmup": False}
    assert settings("s4mc/table4", "two-max")["n7"] == {"neighbour": "two_max", "size": 7, "connectivity": 8}
    assert settings("s4mc/table4", "alpha0")["a20"] == {"alpha0": 0.2}
    assert settings("s4mc/table5", "entropy")["c732"] == {"score": "entropy"}
