"""`prepare ade20k` on drawn pairs in the archive's layout, the form of its masks, and its published lists."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from made_ade20k import PARTS, published_lists, training_ids, val_ids, write_pairs
from PIL import Image

from ssbench.data.ade20k import Ade20k, folder_of
from ssbench.errors import DataError, UsageError
from ssbench.prepare.ade20k import LOOKED_AT, reduce_mask
from ssbench.prepare.split_lists import fetch_lists
from ssbench.splits import lists
from ssbench.splits.manifest import Partition, manifest
from ssbench.splits.passport import passport

NOWHERE = "http://127.0.0.1:9"
TRAIN, OTHER_TRAIN, VAL = "ADE_train_00000001", "ADE_train_00000002", "ADE_val_00000001"
RAW = {TRAIN: [0, 1, 2], OTHER_TRAIN: [150, 3, 0], VAL: [7, 0]}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lists of both repositories, side by side."""
    root = tmp_path_factory.mktemp("lists")
    for (repository, path), data in published_lists().items():
        file = root / repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root


def prepared(ssbench, monkeypatch, tmp_path: Path, published: Path, masks: dict[str, list[int]], **counts: int):
    """The command on a source with these masks; (its result, the data root)."""
    write_pairs(tmp_path / "source" / "ADEChallengeData2016", masks)
    (tmp_path / "splits").symlink_to(published)
    monkeypatch.setattr("ssbench.prepare.ade20k.COUNTS", counts or {"train": 2, "val": 1})
    root = tmp_path / "data"
    return ssbench("prepare", "ade20k", "--source", tmp_path / "source", "--data-root", root, "--workers", 1), root


def values(path: Path) -> list[int]:
    """The values of a mask of stripes, left to right."""
    row = np.asarray(Image.open(path))[0]
    return [int(v) for v in row[::8]]


def test_masks_of_the_archive_are_reduced_by_one_and_the_command_says_so(ssbench, monkeypatch, tmp_path, published):
    said, root = prepared(ssbench, monkeypatch, tmp_path, published, RAW)
    assert said.code == 0
    assert "masks: those of the archive (0..150), reduced by one: 0 becomes 255" in said.out
    assert "2 train, 1 val" in said.out
    dataset = Ade20k(root / "ade20k")
    assert values(dataset.mask_path(TRAIN)) == [255, 0, 1]
    assert values(dataset.mask_path(OTHER_TRAIN)) == [149, 2, 255]
    assert values(dataset.mask_path(VAL)) == [6, 255]
    assert dataset.labels_in(OTHER_TRAIN) == {149, 2}
    ledger = json.loads((root / "ade20k/ledger.json").read_text())
    assert "reduced by one: 0 becomes 255" in ledger["settings"]["masks"]
    source = tmp_path / "source/ADEChallengeData2016/images/training" / f"{TRAIN}.jpg"
    assert dataset.image_path(TRAIN).read_bytes() == source.read_bytes()
    assert ssbench("prepare", "ade20k", "--data-root", root, "--check").code == 0


def test_masks_that_are_reduced_already_are_taken_as_they_are(ssbench, monkeypatch, tmp_path, published):
    reduced = {TRAIN: [255, 0, 1], OTHER_TRAIN: [149, 2], VAL: [6, 255]}
    said, root = prepared(ssbench, monkeypatch, tmp_path, published, reduced)
    assert said.code == 0
    assert "masks: reduced by one already (0..149 and 255), taken as they are" in said.out
    dataset = Ade20k(root / "ade20k")
    assert {id: values(dataset.mask_path(id)) for id in reduced} == reduced


def test_the_other_form_under_the_same_names_is_prepared_anew(ssbench, monkeypatch, tmp_path, published):
    """A run cut off after masks of one form must not go on with those of the other."""
    broken = RAW | {VAL: [200, 1]}
    said, root = prepared(ssbench, monkeypatch, tmp_path, published, broken)
    assert said.code == 4
    assert not (root / "ade20k").exists()
    write_pairs(tmp_path / "source" / "ADEChallengeData2016", {TRAIN: [255, 4], OTHER_TRAIN: [5, 6], VAL: [6, 255]})
    again = ssbench("prepare", "ade20k", "--source", tmp_path / "source", "--data-root", root, "--workers", 1)
    assert again.code == 0
    assert values(Ade20k(root / "ade20k").mask_path(TRAIN)) == [255, 4]


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (RAW | {VAL: [255, 3]}, "has the label 150 of the archive's masks, ADE_val_00000001.png the 255 of reduced"),
        (
            RAW | {VAL: [151, 3]},
            "ADE_val_00000001.png has label values 151; the other masks of this source have 0..150",
        ),
        ({TRAIN: [255, 1], OTHER_TRAIN: [3], VAL: [250]}, "has label values 250; the other masks of this source have"),
        ({TRAIN: [0, 1], VAL: [3]}, "ade20k is not complete: train has 1 of 2"),
        ({TRAIN: [0, 1], OTHER_TRAIN: [2], "ADE_val_1": [3]}, "ADE_val_1.jpg does not belong in images/validation"),
    ],
)
def test_a_source_that_cannot_be_is_refused(ssbench, monkeypatch, tmp_path, published, masks, words):
    said, root = prepared(ssbench, monkeypatch, tmp_path, published, masks)
    assert said.code == 4
    assert words in " ".join(said.err.split())
    assert "fix:" in said.err
    assert not (root / "ade20k").exists()


def test_a_mask_without_its_image_is_named(ssbench, monkeypatch, tmp_path, published):
    write_pairs(tmp_path / "source/ADEChallengeData2016", RAW)
    (tmp_path / f"source/ADEChallengeData2016/images/training/{TRAIN}.jpg").unlink()
    said = ssbench("prepare", "ade20k", "--source", tmp_path / "source", "--data-root", tmp_path / "data")
    assert said.code == 4
    assert f"1 of 2 images missing: {TRAIN}.jpg" in said.err


def test_the_full_ade20k_is_told_from_the_challenge(ssbench, tmp_path):
    path = tmp_path / "source/ADE20K_2016_07_26/images/training/a/abbey/ADE_train_00000970_seg.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path)
    said = ssbench("prepare", "ade20k", "--source", tmp_path / "source", "--data-root", tmp_path / "data")
    assert said.code == 4
    assert "this is the full ADE20K with coloured *_seg.png masks" in said.err


def test_one_mask_of_reduced_form_is_enough_however_many_there_are(ssbench, monkeypatch, tmp_path, published):
    """The form is looked for in masks that are spread over the whole source."""
    many = {f"ADE_train_{n:08d}": [n % 149] for n in range(1, 2 * LOOKED_AT)}
    many[f"ADE_train_{1:08d}"] = [255]
    said, _ = prepared(ssbench, monkeypatch, tmp_path, published, many | {VAL: [1]}, train=len(many), val=1)
    assert "masks: reduced by one already" in said.out


def test_every_value_of_the_archive_has_its_label():
    raw = Image.fromarray(np.arange(151, dtype=np.uint8)[None])
    assert np.asarray(reduce_mask(raw, "archive", Path("m.png")))[0].tolist() == [255, *range(150)]
    with pytest.raises(DataError, match=r"m.png has label values 255; .* 0\.\.150"):
        reduce_mask(Image.fromarray(np.array([[255]], np.uint8)), "archive", Path("m.png"))
    with pytest.raises(DataError, match=r"m.png has label values 150; .* 0\.\.149 and 255"):
        reduce_mask(raw, "reduced", Path("m.png"))


def test_the_classes_are_those_of_the_challenge():
    assert len(Ade20k.classes) == len(Ade20k.palette) == len(set(Ade20k.classes)) == 150
    assert (Ade20k.classes[0], Ade20k.classes[12], Ade20k.classes[149]) == ("wall", "person", "flag")
    assert (folder_of(TRAIN), folder_of(VAL)) == ("training", "validation")
    with pytest.raises(UsageError, match="is no id of ade20k"):
        folder_of("ADE_test_00000001")


def test_the_published_lists_have_the_digests_of_the_manifest():
    files, checked = published_lists(), 0
    for name, split in manifest().splits.items():
        if not name.startswith("ade20k/"):
            continue
        for entry in (split.labeled, split.unlabeled):
            data = files[split.origin, str(entry.path)]
            ids = lists.parse(data.decode(), split.format, "ade20k", "list")
            assert hashlib.sha256(data).hexdigest() == entry.sha256
            assert (len(ids), lists.fingerprint(ids)) == (entry.count, entry.fingerprint)
            assert entry.order in (None, lists.order_digest(ids))
            checked += 1
        for also in split.also:
            repository, _, path = also.partition(" ")
            path, _, first = path.partition(", first ")
            ids = lists.parse(files[repository, path].decode(), split.format, "ade20k", "list")
            assert lists.fingerprint(ids[: int(first or len(ids))]) == split.labeled.fingerprint
    assert checked == 2 * 8
    pools = manifest().pools["ade20k"]
    assert pools["train"].fingerprint == lists.fingerprint(training_ids())
    assert pools["val"].fingerprint == lists.fingerprint(val_ids())
    assert hashlib.sha256(files["semivl", "splits/ade/val.txt"]).hexdigest() == pools["val"].sha256


def test_the_lists_are_fetched_and_the_unlabelled_ones_rebuilt_from_all_images(published, tmp_path):
    labelled_only = tmp_path / "source"
    for (repository, path), data in published_lists().items():
        if "unlabeled" not in path:
            (labelled_only / repository / path).parent.mkdir(parents=True, exist_ok=True)
            (labelled_only / repository / path).write_bytes(data)
    count = fetch_lists("ade20k", tmp_path / "data", labelled_only, train=training_ids(), host=NOWHERE)
    assert count == 1 + 2 * 8
    for part, labeled in PARTS.items():
        name = f"ade20k/{'semivl' if part == '1_128' else 'unimatch_v2'}/{part}"
        split = Partition.read(name, tmp_path / "data")
        assert split.labeled == tuple(training_ids()[:labeled])
        assert len(split.labeled) + len(split.unlabeled) == 20_210
    page = passport("ade20k/unimatch_v2/1_32", tmp_path / "data")
    assert (page["labeled"]["count"], page["unlabeled"]["count"]) == (631, 19_579)


def test_an_import_of_the_archive_is_refused_with_the_reason(ssbench, tmp_path):
    write_pairs(tmp_path / "ADEChallengeData2016", {f"ADE_train_{n:08d}": [0, 1 + n % 3] for n in range(1, 9)})
    given = ("import", tmp_path / "ADEChallengeData2016", "--name", "mine", "--data-root", tmp_path / "data")
    said = ssbench(*given, "--classes", "wall,building,sky,floor", "--check")
    assert said.code == 4
    assert "0 means 'other' and 1..150 are the classes, so each label would be one too high" in said.out
    assert "--map 0=255,1=0,2=1,3=2,4=3" in said.err  # the fix, to be pasted
    mapped = ssbench(*given, "--classes", "wall,building,sky,floor", "--map", "0=255,1=0,2=1,3=2,4=3")
    assert mapped.code == 0
    assert values(tmp_path / "data/mine/masks/ADE_train_00000001.png") == [255, 1]
