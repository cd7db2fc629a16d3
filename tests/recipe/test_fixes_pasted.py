"""Refusals of settings that do not fit: the `--set` of each fix is pasted, and the recipe then makes a step."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from own_folders import NAMES, import_options, own_folder
from PIL import Image

from ssbench.errors import RecipeError
from ssbench.jobs.workload import WorkCounter
from ssbench.prepare.own import import_folder
from ssbench.recipe.recipe import load

EVERY_CLASS = "[" + ",".join(map(str, range(21))) + "]"
REFUSED = {
    "paste nothing": ("ael_voc", [f"method.paste_without={EVERY_CLASS}"]),
    "scale unread": ("ael_acdc", ["method.paste_scale=[0.5,1.5]"]),
    "pseudo loss": ("ael_voc", ["loss.pseudo=dice"]),
    "boxes of no class": ("unimatch_voc+wpl", ["plugin.box_classes=[25]"]),
    "rppi alone": ("unimatch_voc+wpl", ["plugin.ppw=false"]),
    "no ResNet": (
        "unimatch_voc+mpmc",
        ["net.encoder=tf_efficientnet_lite0", "net.weights=package", "views.normalise=half"],
    ),
    "published agreement": ("own/unimatch+s4mc", ["plugin.agreement=published"]),
    "no negatives": ("own/u2pl", ["method.low_rank=3", "method.high_rank=4"]),
    "ranks of no class": ("own/u2pl", ["method.low_rank=3"]),
    "groups of u2pl": ("u2pl_voc", ["method.group=3"]),
    "groups of augseg": ("augseg_voc", ["method.group=3"]),
    "batches of augseg": ("augseg_voc", ["schedule.labeled_batch=4"]),
    "normalisation": ("own/unimatch", ["net.weights=package", "views.normalise=none"]),
    "no such package": ("own/unimatch", ["net.encoder=resnet50", "net.weights=package", "views.normalise=half"]),
    "crop of semivl": ("semivl_voc", ["views.crop=384"]),
    "views on the device": ("unimatch_voc", ["views.device=device"]),
    "nothing to label": ("mask2former_voc", ["schedule.unlabeled_batch=0"]),
    "a loss nobody reads": ("mask2former_voc", ["loss.supervised=ohem"]),
    "two losses": ("stpp_voc", ["loss.supervised=ohem"]),
    "protocol of images": ("acdc/unimatch_unet", ["eval.protocol=whole"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ten pictures of three classes, and a split of two labelled ones."""
    home = tmp_path_factory.mktemp("rooms")
    import_folder(import_options(own_folder(home / "rooms"), labeled=("1_4",)), home / "data", workers=1)
    return home / "data"


def options_of(fix: str) -> list[str]:
    """The arguments of the first `--set` options in a row of a fix: what a user pastes."""
    row = re.search(r"(--set ('[^']*'|[^\s,;)]+) ?)+", fix)
    return [] if row is None else shlex.split(row.group())[1::2]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_fix_works_when_it_is_pasted(kind: str, root: Path) -> None:
    name, sets = REFUSED[kind]
    dataset = "rooms" if name.startswith("own/") else None
    with pytest.raises(RecipeError) as refused:
        load(name, sets, data_root=root, dataset=dataset)
    pasted = options_of(refused.value.fix)
    assert pasted, refused.value.fix
    recipe = load(name, [*sets, *pasted], data_root=root, dataset=dataset)
    assert WorkCounter(root).step(recipe).note == "", "a step on noise, its plug-in included"


def test_classes_of_an_imported_dataset_are_known_when_a_recipe_is_read(tmp_path: Path) -> None:
    """Two classes leave U2PL's release no negatives; one leaves S4MC and WPL nothing to choose."""
    home = own_folder(tmp_path / "one")
    for path in (home / "masks").glob("*.png"):
        with Image.open(path) as mask:
            mask.point(lambda _: 0).save(path)
    import_folder(import_options(home, NAMES.split(",")[0]), tmp_path / "data", workers=1)
    for recipe, what in (
        ("own/unimatch+s4mc", "the dataset has one"),
        ("own/unimatch+wpl", "wpl"),
        ("own/u2pl", "low_rank"),
    ):
        with pytest.raises(RecipeError, match=what):
            load(recipe, data_root=tmp_path / "data", dataset="rooms")
