"""A recipe that does not fit its dataset, lists or views is refused when they meet, with the setting to change."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ran import Ran

from ssbench.errors import RecipeError
from ssbench.recipe.recipe import load

SMALL = ("views.crop=48", "net.encoder=test_resnet", "net.wide=32", "schedule.epochs=1", "eval.few=2")


@pytest.fixture
def own(tmp_path: Path, ssbench: Callable[..., Ran]) -> Callable[[int], Path]:
    """A data root with a folder of one's own of so many classes, "own", and its split own/custom/few."""

    def make(classes: int) -> Path:
        folder, rng = tmp_path / "folder", np.random.default_rng(0)
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "images" / f"p{i:02}.png")
            mask = rng.integers(0, classes, (8, 8), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(mask).save(folder / "masks" / f"p{i:02}.png")
        (folder / "classes.txt").write_text("".join(f"c{i}\n" for i in range(classes)))
        ran = ssbench("import", folder, "--name", "folder1", "--labeled", "4", "--data-root", tmp_path / "data")
        assert ran.code == 0, ran.err
        return tmp_path / "data"

    return make


def labelled_split(ssbench: Callable[..., Ran], root: Path) -> str:
    """The split of four labelled images that the import drew."""
    splits = json.loads(ssbench("list", "splits", "--json", "--data-root", root).out)["splits"]
    own = [split["name"] for split in splits if split["name"].startswith("folder1/")]
    return next(name for name in own if not name.endswith("/full"))


def words(*sets: str) -> list[str]:
    return [word for text in ("data.dataset=folder1", "data.workers=0", *SMALL, *sets) for word in ("--set", text)]


def test_what_needs_more_classes_is_refused_before_it_trains(
    ssbench: Callable[..., Ran], own: Callable[..., Path]
) -> None:
    root = own(2)
    split = labelled_split(ssbench, root)
    ran = ssbench("run", "toy/none_u2pl", "--split", split, *words("method.low_rank=3"), "--data-root", root)
    assert ran.code == 3, ran.err
    assert "low_rank 3 leaves u2pl no negatives: the dataset has 2 classes" in ran.err
    assert "--set method.low_rank=1" in ran.err


@pytest.mark.parametrize("recipe", ["toy/s4mc_fixmatch", "toy/wpl_unimatch"])
def test_one_class_is_refused_by_plugins_that_compare_classes(
    ssbench: Callable[..., Ran], own: Callable[..., Path], recipe: str
) -> None:
    root = own(1)
    split = labelled_split(ssbench, root)
    ran = ssbench("run", recipe, "--split", split, *words(), "--data-root", root)
    assert ran.code == 3, ran.err
    assert "nothing to segment" in ran.err
    assert "a dataset of two classes or more, or no plug-in" in ran.err


def test_a_batch_of_one_and_lists_shorter_than_a_batch_name_the_setting(ssbench: Callable[..., Ran], toy: Path) -> None:
    sets = [word for text in ("data.workers=0", *SMALL) for word in ("--set", text)]
    run = ("run", "toy/none_supervised", "--split", "toy/ours/1_32", "--data-root", toy, *sets)
    ran = ssbench(*run, "--set", "schedule.labeled_batch=1")
    assert ran.code == 3, ran.err
    assert "a batch of one image" in ran.err
    assert "--set schedule.labeled_batch=2" in ran.err
    run = ("run", "toy/none_fixmatch", *run[2:])
    ran = ssbench(*run, "--set", "schedule.labeled_batch=1000", "--set", "schedule.unlabeled_batch=1000")
    assert "a batch of 1000 unlabelled images" in ran.err
    assert "--set schedule.unlabeled_batch=" in ran.err


@pytest.mark.parametrize("weak", ["acdc", "cps"])
def test_a_scale_that_the_weak_views_do_not_draw_is_refused(weak: str) -> None:
    views = f"views={{weak: {weak}, box: ael, crop: 64}}"
    with pytest.raises(RecipeError, match=f"has no effect: weak pipeline '{weak}' has no scale") as caught:
        load("ael_voc", [views])
    assert "method.paste_scale=null" in caught.value.fix
    load("ael_voc", [views, "method.paste_scale=null"])
