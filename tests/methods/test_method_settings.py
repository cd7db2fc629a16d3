"""Settings of methods and losses that mean nothing are refused when a recipe is read, with the line they stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ssbench import find
from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig
from ssbench.recipe.recipe import load

OUT_OF_BOUNDS: dict[str, dict[str, Any]] = {
    "unimatch": {"threshold": 2.0, "feature_drop": 1.0, "strong_weight": -0.5},
    "fixmatch": {"threshold": "0.9", "ema": 1.0},
    "mean_teacher": {"weight": -1.0, "ema_buffers": 1},
    "cutmix_seg": {"mix_probability": 1.1, "warmup_epochs": -1},
    "augseg": {"threshold": 1.5, "group": 0, "inject_beta": [0.0, 2.0], "copy_epochs": 0.5},
    "u2pl": {
        "low_rank": 0,
        "high_rank": 3,
        "drop_percent": 101,
        "temperature": 0,
        "negatives": True,
        "low_entropy": 51,
    },
    "ael": {"pick": 0, "paste_scale": [2.0, 0.1], "paste_without": [-1], "loss_scale": 0, "bank_momentum": 1},
    "cps": {"weight": float("nan"), "partner": "none"},
    "stpp": {"scales": [], "double_below": -1},
    "mask2former": {"points": 0, "oversample": 0.5, "uncertain": 1.5, "weight": -1, "label_with": "first"},
    "semivl": {"threshold": 1.5, "feature_drop": 1, "guidance": -0.1, "confidence": "image"},
    "supervised": {"aux_weight": float("inf"), "epoch_of": "all", "list_at_least": -1},
    "unimatch_v2": {"threshold": 1.5, "ema": 1.0, "dropout": "both", "group": 0},
}
UNREAD: dict[str, list[dict[str, Any]]] = {
    "fixmatch": [{"ema": 0.5}],
    "mean_teacher": [{"threshold": 0.5}],
    "cutmix_seg": [{"threshold": 0.5}, {"confidence": "pixel"}, {"variant": "original", "mix_probability": 1.0}],
    "cps": [{"cutmix": False, "partner": "other"}],
    "ael": [{"paste_share": 0, "paste_draws": 1}],
    "mask2former": [{"training": "supervised", "weight": 2.0}, {"training": "supervised", "label_with": "last"}],
    "stpp": [{"epoch_of": "unlabeled", "double_below": 0}],
}
CASES = [(method, {name: value}) for method, values in OUT_OF_BOUNDS.items() for name, value in values.items()]


def test_every_method_has_cases() -> None:
    assert set(OUT_OF_BOUNDS) == set(find.names("method"))


@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_values_without_a_meaning_are_refused(method: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        find.load("method", method).Config(**settings)


@pytest.mark.parametrize(("method", "settings"), [(m, s) for m, each in UNREAD.items() for s in each], ids=str)
def test_settings_that_nothing_reads_are_refused(method: str, settings: dict[str, Any]) -> None:
    config = find.load("method", method).Config
    with pytest.raises(ValidationError, match="is never read with"):
        config(**settings)
    defaults = {name: config.model_fields[name].default for name in settings if name in list(settings)[-1:]}
    config(**(settings | defaults))  # at their default they may stand, as in a record's recipe


@pytest.mark.parametrize("method", sorted(OUT_OF_BOUNDS))
def test_a_resolved_recipe_is_read_again(method: str) -> None:
    config = find.load("method", method).Config
    assert config.model_validate(config().model_dump(mode="json")) == config()


@pytest.mark.parametrize(
    "settings",
    [
        {"supervised": "ohem", "ohem_group": 0},
        {"supervised": "ohem", "ohem_min_kept": 0},
        {"supervised": "ohem", "ohem_threshold": 1.1},
        {"ohem_group": 4},
        {"pseudo": "dice", "pseudo_over": "kept"},
        {"pseudo": "mse"},
    ],
    ids=str,
)
def test_losses_without_a_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LossConfig(**settings)


def test_averaging_hard_examples_by_group_is_a_new_behaviour() -> None:
    assert [LossConfig(supervised=kind).behaviour for kind in ("ce", "ohem", "ce_dice")] == [1, 2, 1]


@pytest.mark.parametrize(
    ("base", "override", "what"),
    [
        ("ael", "loss={pseudo: dice}", "weighted cross entropy"),
        ("ael", "method.paste_without=[0, 1, 2, 3, 4, 5, 6, 7]", "leaves none of the"),
        ("stpp", "loss={supervised: ce_dice}", "one loss for all pixels"),
        ("augseg", "schedule.labeled_batch=2", "2 labelled and 4 unlabelled"),
        ("augseg", "method.group=3", "do not form groups of 3"),
        ("u2pl", "method.group=3", "do not form groups of 3"),
        ("unimatch_v2", "method.group=3", "do not form groups of 3"),
        ("unimatch", "method.threshold=2.0", "threshold = 2.0"),
        ("unimatch", "method.threshold='0.9'", "threshold = '0.9'"),
    ],
)
def test_a_recipe_is_refused_before_anything_is_built(base: str, override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=what):
        load(f"toy/none_{base}", [override], data_root=tmp_path)
