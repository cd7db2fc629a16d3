"""The tables of UniMatch V2: every cell has its recipe and split, and released logs agree with what is printed."""

from __future__ import annotations

import pytest
import yaml

from ssbench.paths import shipped
from ssbench.recipe.recipe import load, recipe_names
from ssbench.tables.cell import cells_of
from ssbench.tables.claims import claims_for, shipped_claims
from ssbench.tables.spec import PaperTable

TABLES = [f"unimatch_v2/table{n}" for n in range(1, 6)]
ENCODERS = {"vit_small_patch14_dinov2": "dinov2s", "vit_base_patch14_dinov2": "dinov2b"}


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_names_what_exists(name: str) -> None:
    splits = yaml.safe_load((shipped("splits") / "manifest.yaml").read_text())["splits"]
    for cell in cells_of(PaperTable.read(name)):
        if cell.role == "Q":
            continue
        assert cell.recipe in recipe_names()
        assert cell.split in splits
        recipe = load(str(cell.recipe))
        assert (recipe.data.dataset, recipe.method.name) == (str(cell.split).split("/")[0], cell.method)
        if cell.role == "B":
            encoder, _, frozen = str(cell.backbone).partition(" ")
            assert (recipe.net.encoder, recipe.net.frozen, recipe.views.crop) == (encoder, bool(frozen), cell.crop)
            assert ENCODERS[encoder] in str(cell.recipe)
            assert recipe.division == "open"


@pytest.mark.parametrize("name", TABLES)
def test_logs_say_what_is_printed(name: str) -> None:
    """A score of a log, rounded to the printed digits, is the printed one."""
    checked = 0
    for cell in cells_of(PaperTable.read(name)):
        for claim in claims_for(cell, shipped_claims()):
            if claim.kind == "log" and "UniMatch-V2" in claim.source and cell.printed is not None:
                assert round(claim.value, 1) == cell.printed, claim
                checked += 1
    assert checked >= 8


def test_the_batch_of_ade20k_is_half_of_vocs() -> None:
    """Four processes of 2 images each; the supervised script doubles it."""
    recipe = load("unimatch_v2/unimatch_v2_ade20k_dinov2b_518")
    assert (recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch, recipe.schedule.epochs) == (8, 8, 60)
    assert not recipe.net.frozen
    supervised = load("unimatch_v2/supervised_ade20k_dinov2b_518")
    assert (supervised.schedule.labeled_batch, supervised.schedule.unlabeled_batch) == (16, 0)
    assert supervised.method.list_at_least == 6000


def test_the_table_and_its_plan_are_printed(ssbench) -> None:
    done = ssbench("table", "unimatch_v2/table3", "--format", "md")
    assert done.code == 0
    assert "| UniMatch V2 | 38.7 | 45.0 | 46.7 | 49.8 | 52.0 | not run |" in done.out
    plan = ssbench("plan", "unimatch_v2/table3")
    assert plan.code == 0
    assert "20 runs: 0 done" in plan.err + plan.out
