from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from ssbench.errors import DataError, UsageError
from ssbench.prepare.split_lists import fetch_lists
from ssbench.splits.manifest import Partition, folder, manifest

VOC, CITY, COCO, ADE = 10582, 2975, 118287, 20210
# The table of the design, by hand: labelled images of each part; the rest of the pool is unlabelled.
DESIGN = {
    "voc/classic": (VOC, {"1_16": 92, "1_8": 183, "1_4": 366, "1_2": 732, "full": 1464}),
    "voc/blender-u2pl": (VOC, {"1_16": 662, "1_8": 1323, "1_4": 2646, "1_2": 5291}),
    "voc/blender-cps": (VOC, {"1_16": 662, "1_8": 1323, "1_4": 2646, "1_2": 5291}),
    "voc/blender-stpp": (VOC, {"1_16": 662, "1_8": 1323, "1_4": 2645}),
    "cityscapes/cps": (CITY, {"1_30": 100, "1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488}),
    "cityscapes/u2pl": (CITY, {"1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488}),
    "cityscapes/stpp": (CITY, {"1_30": 100, "1_8": 372, "1_4": 744}),
    "acdc/ssl4mis": (1312, {"1": 32, "3": 68, "7": 136}),
    "coco/pseudoseg": (COCO, {"1_512": 232, "1_256": 463, "1_128": 925, "1_64": 1849, "1_32": 3697}),
    "ade20k/unimatch_v2": (ADE, {"1_64": 316, "1_32": 631, "1_16": 1263, "1_8": 2526, "1_4": 5052, "1_2": 10105}),
    "ade20k/semivl": (ADE, {"1_128": 158, "1_32": 632}),
    "voc/all": (VOC, {"full": VOC}),
    "camvid/ours": (367, {"1_16": 23, "1_8": 46, "1_4": 92, "1_2": 184, "full": 367}),
    "toy/ours": (320, {"1_32": 10, "1_16": 20, "1_8": 40, "1_4": 80, "full": 320}),
}
SPLITS = [(f"{family}/{part}", n, pool - n) for family, (pool, parts) in DESIGN.items() for part, n in parts.items()]
SPLITS += [
    ("voc/all/coco", VOC, COCO)
]  # the unlabelled images are another dataset's; tests/data/test_other.py reads it
TOY = "toy/ours/1_16"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """A data root with the published lists of voc, cityscapes and acdc."""
    path = tmp_path_factory.mktemp("data")
    for dataset in ("voc", "cityscapes", "acdc"):
        fetch_lists(dataset, path, shared)
    return path


@pytest.fixture
def lost(shared: Path, tmp_path: Path) -> Path:
    """A data root of its own, to damage."""
    fetch_lists("acdc", tmp_path, shared)
    return tmp_path


def own(path: Path, labeled: str, unlabeled: str, said: object = None) -> Path:
    path.mkdir(parents=True)
    (path / "labeled.txt").write_text(labeled)
    (path / "unlabeled.txt").write_text(unlabeled)
    if said is not None:
        (path / "split.yaml").write_text(yaml.safe_dump(said))
    return path


def test_the_manifest_has_the_splits_of_the_design_and_no_others() -> None:
    found = {(name, e.labeled.count, e.unlabeled.count) for name, e in manifest().splits.items()}
    assert found == set(SPLITS)


def test_every_origin_is_a_repository_at_a_full_commit_or_ours() -> None:
    book = manifest()
    for name, entry in book.splits.items():
        assert (entry.seed is not None) == (entry.origin == "ours"), name
        assert entry.origin == "ours" or len(book.repositories[entry.origin].commit) == 40, name
        assert all(also.split(" ")[0] in book.repositories for also in entry.also), name


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "labeled", "unlabeled"), [s for s in SPLITS if "coco" not in s[0] and "ade20k" not in s[0]]
)
def test_every_split_reads(name: str, labeled: int, unlabeled: int, root: Path) -> None:
    split = Partition.read(name, root)
    assert (split.name, split.dataset, split.custom) == (name, name.split("/")[0], False)
    assert (len(split.labeled), len(split.unlabeled)) == (labeled, unlabeled)
    assert list(split.unlabeled) == sorted(split.unlabeled)
    assert not set(split.labeled) & set(split.unlabeled)


def test_the_digest_covers_both_lists() -> None:
    split = Partition.read(TOY, Path("nowhere"))
    parts = ["".join(f"{id}\n" for id in ids) for ids in (split.labeled, split.unlabeled)]
    two = "\n".join(hashlib.sha256(part.encode()).hexdigest() for part in parts)
    assert split.sha256 == hashlib.sha256(two.encode()).hexdigest()
    assert len({Partition.read(name, Path("nowhere")).sha256 for name, *_ in SPLITS if "/ours/" in name}) == 10


@pytest.mark.real
def test_a_list_whose_last_line_is_lost_is_refused(lost: Path) -> None:
    path = folder("acdc/ssl4mis/3", lost) / "labeled.txt"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError) as caught:
        Partition.read("acdc/ssl4mis/3", lost)
    assert caught.value.what == "labeled.txt has 67 ids, manifest says 68 (last line lost?)"
    assert caught.value.where == str(path)
    assert caught.value.fix == f"ssbench prepare acdc --data-root {lost}"


@pytest.mark.real
def test_a_list_with_an_id_exchanged_is_refused_by_digest(lost: Path) -> None:
    path = folder("acdc/ssl4mis/3", lost) / "labeled.txt"
    path.write_text(path.read_text().replace("patient099_frame01_slice_1\n", "patient099_frame01_slice_99\n"))
    with pytest.raises(DataError, match="has 68 ids, as the manifest says, but others: digest [0-9a-f]{16}"):
        Partition.read("acdc/ssl4mis/3", lost)


@pytest.mark.real
@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n", "\n\n"), str.strip])
def test_line_ends_and_blank_lines_do_not_make_another_list(change: object, lost: Path) -> None:
    before = Partition.read("acdc/ssl4mis/1", lost)
    path = folder("acdc/ssl4mis/1", lost) / "labeled.txt"
    path.write_bytes(change(path.read_text()).encode())  # type: ignore[operator]
    assert Partition.read("acdc/ssl4mis/1", lost) == before


@pytest.mark.real
@pytest.mark.parametrize("damage", [b"\xff\xfe\x00p", b"patient099\n", b""])
def test_a_damaged_list_is_refused_by_name(damage: bytes, lost: Path) -> None:
    path = folder("acdc/ssl4mis/1", lost) / "unlabeled.txt"
    path.write_bytes(damage)
    with pytest.raises(DataError) as caught:
        Partition.read("acdc/ssl4mis/1", lost)
    assert str(path) in caught.value.where


def test_a_list_not_fetched_yet_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labeled\.txt is not there") as caught:
        Partition.read("voc/classic/1_16", tmp_path)
    assert caught.value.fix == f"ssbench prepare voc --data-root {tmp_path}"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("voc/clasic/1_16", "'voc/classic/1_16'"),
        ("cityscape/cps/1_8", "'cityscapes/cps/1_8'"),
        ("acdc/ssl4mis", "ssl4mis/"),
    ],
)
def test_an_unknown_name_answers_with_the_nearest(name: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no split '{name}'; did you mean") as caught:
        Partition.read(name, tmp_path)
    assert nearest in caught.value.what


def test_a_folder_of_ones_own_is_custom_and_says_so(tmp_path: Path) -> None:
    where = own(tmp_path / "mine", "2007_000039\n2007_000032\n", "2007_000063\n")
    split = Partition.read(str(where), tmp_path)
    assert (split.custom, split.dataset, split.name) == (True, "voc", "voc/custom/mine")
    assert split.labeled == ("2007_000039", "2007_000032"), "in the order of the file"


def test_a_custom_split_under_the_data_root_is_found_by_name(tmp_path: Path) -> None:
    own(tmp_path / "splits/toy/custom/few", "train_0001\n", "")
    assert Partition.read("toy/custom/few", tmp_path).labeled == ("train_0001",)


def test_a_custom_split_cannot_pass_for_a_published_one(tmp_path: Path) -> None:
    here = Partition.read(TOY, tmp_path)
    where = own(tmp_path / "copy", "\n".join(here.labeled), "\n".join(here.unlabeled))
    copy = Partition.read(str(where), tmp_path)
    assert copy.sha256 == here.sha256
    assert copy.custom
    assert copy.name != here.name


def test_a_dataset_of_ones_own_must_be_named(tmp_path: Path) -> None:
    where = own(tmp_path / "cats", "tabby 1\n", "tabby 2\n")
    with pytest.raises(DataError, match="which dataset") as caught:
        Partition.read(str(where), tmp_path)
    assert "dataset: " in caught.value.fix
    (where / "split.yaml").write_text("dataset: cats\n")
    assert Partition.read(str(where), tmp_path).dataset == "cats"


def test_a_custom_split_whose_digest_does_not_match_is_refused(tmp_path: Path) -> None:
    said = {"dataset": "toy", "labeled": {"count": 1, "fingerprint": "0" * 64}}
    where = own(tmp_path / "mine", "train_0001\n", "train_0002\n", said)
    with pytest.raises(DataError, match=r"has 1 ids, as the split\.yaml says, but others: digest") as caught:
        Partition.read(str(where), tmp_path)
    assert caught.value.where == str(where / "labeled.txt")


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "says"),
    [
        ("train_0001\ntrain_0001\n", "", "'train_0001' stands here twice, first on line 1"),
        ("train_0001\n", "train_0000\ntrain_0001\n", "1 ids are labelled and unlabelled at once, first 'train_0001'"),
        ("", "train_0001\n", "labeled.txt is empty"),
        ("train_0001\n", "2007_000032\n", "unlabeled.txt: 1 of 1 lines name no image of toy: '2007_000032' (line 1)"),
    ],
)
def test_impossible_custom_lists_are_refused(labeled: str, unlabeled: str, says: str, tmp_path: Path) -> None:
    where = own(tmp_path / "mine", labeled, unlabeled, {"dataset": "toy"})
    with pytest.raises(DataError) as caught:
        Partition.read(str(where), tmp_path)
    assert says in caught.value.what
    assert str(where) in caught.value.where


DAMAGED = {
    "- a\n": "damaged: input should be a valid dictionary",
    "labeled: 3\n": "damaged, field 'labeled'",
    "a: [\n": "is not YAML",
    "labeled: {count: two}\n": "damaged, field 'labeled.count'",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_a_split_yaml_that_is_no_passport_is_refused(text: str, tmp_path: Path) -> None:
    where = own(tmp_path / "mine", "train_0001\n", "")
    (where / "split.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"this split\.yaml.* {DAMAGED[text]}") as caught:
        Partition.read(str(where), tmp_path)
    assert caught.value.where.startswith(str(where / "split.yaml"))


def test_a_folder_without_lists_is_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labeled\.txt is not there"):
        Partition.read(str(tmp_path), tmp_path)
