"""What `--quick` makes of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from ran import SMALL

from ssbench.errors import RecipeError
from ssbench.recipe.recipe import load


def test_quick_shrinks_what_costs_time_and_keeps_what_is_tested() -> None:
    whole, quick = load("s4mc/s4mc_cutmix_seg_voc_r101"), load("s4mc/s4mc_cutmix_seg_voc_r101", quick=True)
    assert (quick.data.dataset, quick.data.few) == ("toy", 4)
    assert (quick.net.encoder, quick.net.weights) == ("test_resnet", "random")
    assert (quick.views.crop, quick.schedule.epochs, quick.schedule.unlabeled_batch) == (48, 2, 2)
    for section in ("method", "plugins", "loss", "optim"):
        assert getattr(quick, section) == getattr(whole, section)
    assert quick.net.layout == whole.net.layout == "u2pl"
    assert quick.net.multi_grid == whole.net.multi_grid
    assert (quick.quick, whole.quick) == (True, False)


def test_quick_keeps_the_protocol_and_the_number_of_channels() -> None:
    windows = load("unimatch/unimatch_cityscapes_r50", quick=True)
    assert (windows.eval.protocol, windows.eval.crop) == ("sliding", 72)
    volumes = load("acdc/unimatch_unet", quick=True)
    assert (volumes.data.form, volumes.eval.protocol, volumes.eval.select) == ("grey_stacks", "volume", "val")
    assert load("acdc/supervised_unet", quick=True).schedule.unlabeled_batch == 0


def test_a_recipe_has_the_last_word_on_its_quick_form_and_set_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SMALL + "quick: {net: {encoder: resnet18}, schedule: {epochs: 3}}\n")
    quick = load("mine.yaml", quick=True)
    assert (quick.net.encoder, quick.net.weights) == ("resnet18", "random")
    assert (quick.schedule.epochs, quick.schedule.labeled_batch) == (3, 2)
    assert load("mine.yaml", ["schedule.epochs=1"], quick=True).schedule.epochs == 1
    assert load("mine.yaml").net.encoder == "test_resnet"


def test_quick_does_not_hide_a_mistake_in_what_it_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL.replace("epochs: 2", "epochs: many"))
    with pytest.raises(RecipeError, match="epochs = 'many'"):
        load(str(path), quick=True)
