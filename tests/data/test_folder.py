"""An imported folder as a dataset: what its card says, and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from own_folders import divided_folder, import_options, labels, own_folder
from PIL import Image

from ssbench import find
from ssbench.data.cache import Cached
from ssbench.data.folder import Card, Folder, read_card
from ssbench.data.open import class_of, imported, open_dataset
from ssbench.data.voc import Voc
from ssbench.errors import DataError, RecipeError, UsageError
from ssbench.paths import shipped
from ssbench.prepare import cache
from ssbench.prepare.own import import_folder
from ssbench.prepare.prepare import check, prepare
from ssbench.splits.manifest import Partition


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A data root with the dataset "rooms": 8 images for train, 4 for val."""
    import_folder(import_options(divided_folder(tmp_path / "mine")), tmp_path / "data", workers=1)
    return tmp_path / "data"


def test_a_folder_is_a_dataset(rooms):
    dataset = open_dataset("rooms", rooms)
    assert isinstance(dataset, Folder)
    assert (dataset.name, dataset.classes, dataset.channels) == ("rooms", ("floor", "wall", "door"), 3)
    assert dataset.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert dataset.ids("train") == tuple(f"train_{k:02d}" for k in range(8))
    assert dataset.image("val_03").mode == "RGB"
    assert np.array_equal(np.asarray(dataset.mask("val_03")), np.asarray(labels("val3")))
    with pytest.raises(UsageError, match="rooms has no subset 'tset'"):
        dataset.ids("tset")
    with pytest.raises(DataError, match="no image of 'elsewhere'"):
        dataset.image("elsewhere")


def test_an_imported_folder_is_no_kind_of_dataset_of_its_own(rooms):
    assert not {"folder", "cache"} & set(find.names("dataset"))
    assert imported(rooms) == ("rooms",)
    assert imported(rooms / "nowhere") == ()


def test_an_unknown_name_is_told_apart_from_one_that_is_not_prepared(rooms):
    with pytest.raises(RecipeError, match="no dataset 'roms'; did you mean 'rooms'") as caught:
        open_dataset("roms", rooms, "mine.yaml:3")
    assert caught.value.where == "mine.yaml:3"
    assert "ssbench import FOLDER --name roms" in caught.value.fix
    with pytest.raises(DataError, match="voc is not prepared"):
        open_dataset("voc", rooms)
    assert class_of("voc", rooms) is Voc
    assert class_of("rooms", rooms) is Folder


def test_a_folder_can_be_cached_checked_and_looked_over(rooms):
    assert prepare("rooms", rooms).state == "complete"
    cache.build("rooms", rooms, workers=1)
    dataset = open_dataset("rooms", rooms)
    assert isinstance(dataset, Cached)
    assert dataset.image("val_01").tobytes() == Folder(rooms / "rooms").image("val_01").tobytes()
    assert check("rooms", rooms) == []


def test_a_folder_that_lost_a_file_says_which_and_how_to_mend_it(rooms, tmp_path):
    (rooms / "rooms" / "masks" / "val_01.png").unlink()
    Image.new("L", (40, 32), 7).save(rooms / "rooms" / "masks" / "val_02.png")
    kinds = [(problem.kind, problem.path) for problem in check("rooms", rooms)]
    assert kinds[0] == ("missing", "masks/val_01.png")
    assert ("bad-mask", "val_02") in kinds
    with pytest.raises(DataError, match=r"masks/val_01.png is missing") as caught:
        prepare("rooms", rooms)
    assert caught.value.fix == f"ssbench import FOLDER --name rooms --replace --data-root {rooms}"
    report = import_folder(import_options(tmp_path / "mine", replace=True), rooms, workers=1)
    assert report.state == "imported"
    assert check("rooms", rooms) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is not YAML: did not find expected node"),
        ("name: rooms\nclasses: [a]\n", "field 'palette': field required"),
        ("name: r\nclasses: [a, b]\npalette: [[0, 0, 0]]\nsubsets: {train: 1}", "1 colours for 2 classes"),
        (
            "name: r\nclasses: [a]\npalette: [[0, 0, 300]]\nsubsets: {train: 1}",
            "field 'palette.0.2': input should be less than or equal to 255",
        ),
        ("name: r\nclasses: [a]\npalette: [[0, 0, 0]]\nsubsets: {train: 1}\nmore: 1", "field 'more': extra inputs"),
        ("- 1", "valid dictionary"),
        ("name: &a r\nclasses: [*a]", "uses the alias *a"),
    ],
)
def test_a_damaged_card_is_refused(tmp_path, text, words):
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(DataError, match=r"this dataset\.yaml ") as caught:
        Folder(tmp_path)
    assert words in caught.value.what
    assert "ssbench import" in caught.value.fix


def test_a_card_reads_back(tmp_path):
    card = Card(name="r", classes=("a", "Tür", "12"), palette=((0, 0, 0), (1, 2, 3), (4, 5, 6)), subsets={"train": 3})
    (tmp_path / "dataset.yaml").write_text(card.dump(), encoding="utf-8")
    assert read_card(tmp_path) == card
    assert "classes: [a, Tür, '12']" in card.dump()


def test_a_split_of_a_folder_is_a_partition(tmp_path):
    home = own_folder(tmp_path / "mine", 20)
    report = import_folder(import_options(home, labeled=("1_4", "3"), seed=2), tmp_path / "data", workers=1)
    assert report.splits == ("rooms/custom/1_4-seed2", "rooms/custom/3-seed2")
    split = Partition.read("rooms/custom/1_4-seed2", tmp_path / "data")
    assert (split.dataset, split.custom, len(split.labeled), len(split.unlabeled)) == ("rooms", True, 4, 12)
    assert set(split.labeled + split.unlabeled) == set(open_dataset("rooms", tmp_path / "data").ids("train"))
    assert len(Partition.read("rooms/custom/3-seed2", tmp_path / "data").labeled) == 3


RECIPE = """\
base: {base}
title: my own rooms
data: {{dataset: rooms}}
method: {{name: unimatch}}
plugin: {{name: s4mc}}
views: {{crop: 32}}
net: {{wide: 32}}
schedule: {{epochs: 1, labeled_batch: 2, unlabeled_batch: 2}}
eval: {{report: val}}
"""


def test_methods_and_plugins_run_on_a_folder_with_and_without_a_cache(tmp_path, ssbench):
    own_folder(tmp_path / "mine")
    Path("rooms.yaml").write_text(RECIPE.format(base=shipped("recipes") / "base" / "toy.yaml"))
    where = ("--data-root", "data")
    assert ssbench("import", "mine", "--name", "rooms", "--classes", "a,b,c", "--labeled", "1_2", *where).code == 0
    run = ("run", "rooms.yaml", "--split", "rooms/custom/1_2", *where, "--device", "cpu")
    records = []
    for place in ("plain", "cached"):
        said = ssbench(*run, "--runs", f"{place}/runs", "--results", f"{place}/results")
        assert said.code == 0, said.err
        (path,) = Path(place, "results").rglob("seed0*.json")
        records.append(json.loads(path.read_text()))
        assert ssbench("prepare", "rooms", "--cache", *where).code == 0
    assert ssbench("check", "rooms.yaml", *where).code == 0
    assert ssbench("check", "rooms.yaml", "--data-root", "elsewhere").code == 3
    plain, cached = records
    assert (plain["timings"]["steps"], plain["classes"], plain["custom_split"]) == (2, ["a", "b", "c"], True)
    for key in ("key", "scores", "confusion", "history"):
        assert plain[key] == cached[key]
    (Path("data/rooms/.cache") / "00000.u8").unlink()
    said = ssbench(*run, "--runs", "other/runs", "--results", "other/results")
    assert said.code == 4
    assert "the cache of rooms cannot be used: 00000.u8 is missing" in said.err


def test_a_recipe_for_a_folder_that_was_not_imported_is_refused_when_read(tmp_path, ssbench):
    text = RECIPE.format(base=shipped("recipes") / "base" / "toy.yaml")
    Path("rooms.yaml").write_text(text)
    said = ssbench("run", "rooms.yaml", "--split", "toy/ours/1_8", "--data-root", "data")
    assert said.code == 3
    assert "no dataset 'rooms'" in said.err
    assert "rooms.yaml:3" in said.err
    assert "ssbench import FOLDER --name rooms --data-root data" in said.err
