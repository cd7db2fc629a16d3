from __future__ import annotations

import csv
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from made_ade20k import published_lists
from PIL import Image

from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, UsageError
from ssbench.prepare.split_lists import fetch_lists
from ssbench.splits import lists
from ssbench.splits.draw import make
from ssbench.splits.manifest import Partition, PoolEntry, manifest, pool_file
from ssbench.splits.passport import catalogue, diff, passport

# First 16 digits of the fingerprints of the released lists, written down by hand.
FINGERPRINTS = {
    "voc/classic": "1_16 325a965b6206ac6e 1_8 3b208061a59a42b4 1_4 ea8aa0b2ceedf56b 1_2 81c3256e4a7fc4c3"
    " full aa623bd2c8ce4443",
    "voc/blender-cps": "1_16 7dada8ccc5eb6309 1_8 df63f50a798512c3 1_4 62c450787069b36d 1_2 192132b4f645339d",
    "voc/blender-u2pl": "1_16 0c6466b63b2f5206 1_8 2f24ef964761485f 1_4 3c653f4ff30f3c05 1_2 8ef07e486384a825",
    "voc/blender-stpp": "1_16 abf8992c3a812606 1_8 e77eb8080ec87ff3 1_4 2585aa6b915c7248",
    "cityscapes/cps": "1_30 d356a23daa743733 1_16 dc2a06a86232bc32 1_8 2755fe0b65333394 1_4 605f06bce9cb841e"
    " 1_2 f071d8e32b163da4",
    "cityscapes/u2pl": "1_16 c9b2d8a6a7290bca 1_8 af350f9ea948a470 1_4 d787c1a5a4d0e4b8 1_2 245bcea234d21ace",
    "cityscapes/stpp": "1_30 d356a23daa743733 1_8 af350f9ea948a470 1_4 87be9e9c00d1d0cf",
}
POOLS = "voc train d1326bd532648d73 voc fine aa623bd2c8ce4443 voc val cdc1326d12f69ce5"
POOLS += " cityscapes train 7f56ebec1d2eb8db cityscapes val 73099b252b778d6f"
# Overlaps of labelled sets, section 1 of the same file.
OVERLAPS = [
    ("voc/blender-cps/1_16", "voc/blender-u2pl/1_16", 43),
    ("voc/blender-cps/1_8", "voc/blender-u2pl/1_8", 172),
    ("voc/blender-cps/1_4", "voc/blender-u2pl/1_4", 666),
    ("voc/blender-cps/1_2", "voc/blender-u2pl/1_2", 2690),
    ("voc/blender-cps/1_16", "voc/blender-stpp/1_16", 44),
    ("voc/blender-u2pl/1_16", "voc/blender-stpp/1_16", 35),
    ("voc/blender-cps/1_8", "voc/blender-stpp/1_8", 163),
    ("voc/blender-u2pl/1_8", "voc/blender-stpp/1_8", 163),
    ("voc/blender-cps/1_4", "voc/blender-stpp/1_4", 636),
    ("voc/blender-u2pl/1_4", "voc/blender-stpp/1_4", 670),
    ("voc/blender-u2pl/1_4", "voc/blender-u2pl/1_2", 1978),
    ("voc/classic/1_16", "voc/classic/1_8", 9),
    ("voc/classic/1_8", "voc/classic/1_4", 42),
    ("voc/classic/1_4", "voc/classic/1_2", 188),
    ("cityscapes/cps/1_16", "cityscapes/u2pl/1_16", 8),
    ("cityscapes/cps/1_8", "cityscapes/u2pl/1_8", 48),
    ("cityscapes/cps/1_4", "cityscapes/u2pl/1_4", 182),
    ("cityscapes/cps/1_2", "cityscapes/u2pl/1_2", 720),
    ("cityscapes/cps/1_4", "cityscapes/stpp/1_4", 168),
    ("cityscapes/u2pl/1_4", "cityscapes/stpp/1_4", 190),
    ("cityscapes/u2pl/1_8", "cityscapes/stpp/1_8", 372),
    ("cityscapes/cps/1_30", "cityscapes/stpp/1_30", 100),
]
FINE = {
    "voc/blender-cps": {"1_16": 93, "1_8": 193, "1_4": 388, "1_2": 742},
    "voc/blender-u2pl": {"1_16": 662, "1_8": 1323, "1_4": 1464, "1_2": 1464},
    "voc/blender-stpp": {"1_16": 85, "1_8": 177, "1_4": 375},
    "voc/classic": {"1_16": 92, "1_8": 183, "1_4": 366, "1_2": 732, "full": 1464},
}
BIG = ("voc", "cityscapes", "acdc")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    path = tmp_path_factory.mktemp("data")
    for dataset in (*BIG, "coco"):
        fetch_lists(dataset, path, shared)
    return path


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_labelled_lists_have_the_published_fingerprints(family: str) -> None:
    words = FINGERPRINTS[family].split()
    for part, start in zip(words[::2], words[1::2], strict=True):
        assert str(manifest().splits[f"{family}/{part}"].labeled.fingerprint).startswith(start), part


def test_pools_have_the_published_fingerprints() -> None:
    words = POOLS.split()
    for dataset, subset, start in zip(words[::3], words[1::3], words[2::3], strict=True):
        assert str(manifest().pools[dataset][subset].fingerprint).startswith(start), (dataset, subset)


def stored(shared: Path) -> dict[tuple[str, str], Path]:
    with (shared / "splits/FILES.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stored_at"]]
    return {(row["repo"], row["upstream_path"]): shared / "splits" / row["stored_at"] for row in rows}


@pytest.mark.real
def test_the_manifest_has_the_digest_of_every_upstream_file(shared: Path) -> None:
    files, checked, made = stored(shared), 0, published_lists()  # tests/data/test_ade20k.py checks those
    entries = [(e, e.origin) for pools in manifest().pools.values() for e in pools.values()]
    entries += [(e, s.origin) for s in manifest().splits.values() for e in (s.labeled, s.unlabeled) if e.has_file]  # type: ignore[misc]
    for entry, origin in entries:
        path = files.get((origin, str(entry.path)))
        if path is None:
            assert origin == "ours" or entry.git_blob or entry.path is None or (origin, entry.path) in made, entry
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        assert sum(bool(line.strip()) for line in path.read_text().splitlines()) == entry.count
        checked += 1
    assert checked == 2 * (16 + 12 + 3) + 2 + 5 + 3 + 2 + 3 + 1  # pairs, all of VOC, COCO's labelled lists, pools


@pytest.mark.real
def test_every_published_file_named_as_equal_holds_the_same_set(shared: Path) -> None:
    files, checked = stored(shared), 0
    for name, split in manifest().splits.items():
        for also in split.also:
            repository, _, path = also.partition(" ")
            path, _, first = path.partition(", first ")
            if name.startswith("ade20k/"):
                continue  # tests/data/test_ade20k.py
            ids = any_format(files[repository, path], name.split("/")[0])
            chosen = ids[: int(first.split()[0])] if first else ids
            assert lists.fingerprint(chosen) == split.labeled.fingerprint, also
            checked += 1
    assert checked > 90


def any_format(path: Path, dataset: str) -> tuple[str, ...]:
    for format in lists.FORMATS:
        try:
            return lists.parse(path.read_text(), format, dataset, path)
        except DataError:
            continue
    raise AssertionError(path)


@pytest.mark.real
def test_whoever_publishes_a_set_of_the_manifest_is_named(shared: Path) -> None:
    unnamed = []
    for (repository, path), file in stored(shared).items():
        dataset = next(
            (d for d, word in (("voc", "ascal"), ("cityscapes", "city"), ("coco", "coco")) if word in path), None
        )
        if dataset is None or repository not in manifest().repositories or "unlabeled" in path:
            continue
        found = lists.fingerprint(any_format(file, dataset))
        for name, split in manifest().splits.items():
            known = {f"{split.origin} {split.labeled.path}", *split.also}
            if split.labeled.fingerprint == found and f"{repository} {path}" not in known:
                unnamed.append((name, repository, path))
    assert not unnamed


@pytest.mark.real
@pytest.mark.parametrize(("a", "b", "common"), OVERLAPS)
def test_overlaps_are_those_published(a: str, b: str, common: int, root: Path) -> None:
    page = diff(a, b, root)["labeled"]
    assert page["common"] == common
    assert len(page["only_a"]) == page["a"] - common
    assert len(page["only_b"]) == page["b"] - common


@pytest.mark.real
@pytest.mark.parametrize("family", FINE)
def test_the_share_of_fine_images_is_that_published(family: str, root: Path) -> None:
    for part, count in FINE[family].items():
        page = passport(f"{family}/{part}", root)
        assert page["fine"] == {"count": count, "share": count / page["labeled"]["count"]}


@pytest.mark.real
@pytest.mark.parametrize(
    ("parts", "nested"),
    [
        ([f"voc/blender-cps/1_{n}" for n in (16, 8, 4, 2)], True),
        ([f"voc/blender-u2pl/1_{n}" for n in (16, 8, 4)], True),
        ([f"cityscapes/cps/1_{n}" for n in (16, 8, 4, 2)], True),
        ([f"acdc/ssl4mis/{n}" for n in (1, 3, 7)], True),
        (["voc/blender-u2pl/1_4", "voc/blender-u2pl/1_2"], False),
        ([f"voc/classic/1_{n}" for n in (16, 8, 4, 2)], False),
        ([f"cityscapes/u2pl/1_{n}" for n in (16, 8, 4, 2)], False),
    ],
)
def test_families_nest_as_published(parts: list[str], nested: bool, root: Path) -> None:
    sets = [set(Partition.read(name, root).labeled) for name in parts]
    assert all(a < b for a, b in itertools.pairwise(sets)) == nested


@pytest.mark.real
@pytest.mark.parametrize("dataset", BIG)
def test_both_lists_together_are_the_whole_pool_and_leak_nothing(dataset: str, root: Path) -> None:
    pool = manifest().pools[dataset]["train"].fingerprint
    for row in catalogue(root):
        if row["dataset"] == dataset and manifest().splits[row["name"]].unlabeled.pool is None:
            split = Partition.read(row["name"], root)
            assert lists.fingerprint(split.labeled + split.unlabeled) == pool, row["name"]
            leaks = passport(row["name"], root)["leaks"]
            assert leaks.keys() == {"val", "test"} & manifest().pools[dataset].keys()
            assert all(leak["count"] and not leak["shared"] for leak in leaks.values())


@pytest.mark.real
def test_a_leak_is_shown_by_id(root: Path, tmp_path: Path) -> None:
    val = pool_file("voc", "val", root).read_text().split()[:2]
    (tmp_path / "labeled.txt").write_text(f"2007_000032\n{val[0]}\n")
    (tmp_path / "unlabeled.txt").write_text(f"{val[1]}\n")
    assert passport(str(tmp_path), root)["leaks"]["val"] == {"count": 1449, "shared": val}


@pytest.mark.real
def test_in_acdc_another_slice_of_a_val_patient_is_a_leak(root: Path, tmp_path: Path) -> None:
    (tmp_path / "labeled.txt").write_text("patient028_frame01_slice_3\npatient099_frame01_slice_1\n")
    (tmp_path / "unlabeled.txt").write_text("")
    leaks = passport(str(tmp_path), root)["leaks"]
    assert leaks["val"] == {"count": 20, "shared": ["patient028_frame01_slice_3"]}
    assert leaks["test"] == {"count": 40, "shared": []}


@pytest.mark.real
def test_a_passport_is_one_json_object_and_names_its_namesakes(root: Path) -> None:
    page = json.loads(json.dumps(passport("cityscapes/cps/1_16", root)))
    assert page["sha256"] == Partition.read("cityscapes/cps/1_16", root).sha256
    assert page["labeled"]["fingerprint"].startswith("dc2a06a86232bc32")
    assert page["origin"]["repository"] == "charlesCXK/TorchSemiSeg"
    assert page["origin"]["commit"] == "5e0c29c02738728b6848a732817db15620a6e034"
    assert "AugSeg data/splitsall.tar.gz!splitsall/cityscapes/186/labeled.txt" in page["also"]
    assert page["namesakes"] == [{"name": "cityscapes/u2pl/1_16", "labeled": 186, "common": 8}]
    assert (page["fine"], page["classes"]) == (None, None)


@pytest.mark.real
def test_one_more_or_less_is_still_a_namesake(root: Path) -> None:
    found = {row["name"]: row["common"] for row in passport("voc/blender-stpp/1_4", root)["namesakes"]}
    assert found == {"voc/blender-cps/1_4": 636, "voc/blender-u2pl/1_4": 670}


@pytest.mark.real
def test_what_was_not_fetched_is_named_with_the_reason(root: Path, tmp_path: Path) -> None:
    name = "voc/blender-cps/1_16"
    for role in ("labeled", "unlabeled"):
        target = tmp_path / "splits" / name / f"{role}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / "splits" / name / f"{role}.txt").read_bytes())
    page = passport(name, tmp_path)
    assert page["fine"] == {"count": None, "share": None, "why": "fine.txt is not there"}
    assert page["leaks"]["val"] == {"count": None, "shared": None, "why": "val.txt is not there"}
    assert all(row["common"] is None and row["why"] == "labeled.txt is not there" for row in page["namesakes"])
    assert len(page["namesakes"]) == 2


class CamVid(Dataset):
    """The real road scenes as they lie in the shared folder; its void label 11 becomes 255."""

    name = "camvid"
    classes = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")

    def ids(self, subset: str) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in (self.root / f"{subset}annot").iterdir()))

    def image(self, id: str) -> Image.Image:
        raise NotImplementedError

    def mask(self, id: str) -> Image.Image:
        (path,) = self.root.glob(f"*annot/{id}.png")
        values = np.asarray(Image.open(path))
        return Image.fromarray(np.where(values == 11, 255, values).astype(np.uint8))


@pytest.mark.real
def test_the_class_histogram_counts_the_real_masks(shared: Path, tmp_path: Path) -> None:
    published = [
        10682767,
        14750079,
        623349,
        20076880,
        2845085,
        6166762,
        743859,
        714595,
        3719877,
        405385,
        184967,
        2503995,
    ]
    page = passport("camvid/ours/full", tmp_path, CamVid(shared / "camvid"))
    assert [row["pixels"] for row in page["classes"].values()] == published  # the folder's README
    assert list(page["classes"]) == [*CamVid.classes, "ignore"]
    assert page["classes"]["road"]["images"] == 367
    assert page["leaks"] == {"val": {"count": 101, "shared": []}, "test": {"count": 233, "shared": []}}


@pytest.mark.real
def test_every_camvid_part_has_every_class(shared: Path, tmp_path: Path) -> None:
    page = passport("camvid/ours/1_16", tmp_path, CamVid(shared / "camvid"))
    assert all(row["images"] > 0 for row in page["classes"].values())
    assert page["origin"]["seed"] == 0
    assert "prefer test" in page["note"]


@pytest.mark.real
def test_camvid_ids_are_those_of_the_published_lists(shared: Path, tmp_path: Path) -> None:
    for subset, entry in manifest().pools["camvid"].items():
        ids = [Path(line.split()[0]).stem for line in (shared / f"camvid/{subset}.txt").read_text().splitlines()]
        assert lists.fingerprint(ids) == entry.fingerprint
        assert pool_file("camvid", subset, tmp_path).read_text() == lists.dump(ids)


class Two(Dataset):
    name, classes = "toy", ("a", "b")

    def ids(self, subset: str) -> tuple[str, ...]:
        return {"train": ("train_0000", "train_0001"), "val": ("val_0000", "train_0001"), "test": ()}[subset]

    def image(self, id: str) -> Image.Image:
        raise NotImplementedError

    def mask(self, id: str) -> Image.Image:
        return Image.new("L", (2, 3), int(id[-1]))


def test_a_split_of_ones_own_has_a_passport_too(tmp_path: Path) -> None:
    make(Two(tmp_path), tmp_path / "splits/toy/custom/mine", count=1, seed=3)
    page = passport("toy/custom/mine", tmp_path)
    assert (page["custom"], page["name"], page["origin"]["seed"]) == (True, "toy/custom/mine", 3)
    assert page["leaks"] == {}
    with_data = passport("toy/custom/mine", tmp_path, Two(tmp_path))
    assert with_data["leaks"]["val"] == {"count": 2, "shared": ["train_0001"]}  # the manifest has no val list of toy
    assert sum(row["pixels"] for row in with_data["classes"].values()) == 6


def test_diff_shows_ids_of_both_sides(tmp_path: Path) -> None:
    page = diff("toy/ours/1_16", "toy/ours/1_8", tmp_path)
    assert (page["labeled"]["common"], page["labeled"]["only_a"], len(page["labeled"]["only_b"])) == (20, [], 20)
    assert page["unlabeled"]["only_a"] == page["labeled"]["only_b"]
    assert (page["unlabeled"]["a"], page["unlabeled"]["b"]) == (300, 280)
    same = diff("toy/ours/1_8", "toy/ours/1_8", tmp_path)
    assert (same["labeled"]["only_a"], same["unlabeled"]["only_b"]) == ([], [])


def test_diff_of_two_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a split of toy, 'camvid/ours/1_8' of camvid"):
        diff("toy/ours/1_8", "camvid/ours/1_8", tmp_path)


def test_the_catalogue_has_a_row_per_split(tmp_path: Path) -> None:
    rows = catalogue(tmp_path)
    assert [row["name"] for row in rows] == list(manifest().splits)
    row = next(row for row in rows if row["name"] == "voc/blender-u2pl/1_8")
    assert (row["dataset"], row["family"], row["part"], row["labeled"]) == ("voc", "blender-u2pl", "1_8", 1323)
    assert (row["repository"], row["here"]) == ("Haochen-Wang409/U2PL", False)
    assert all(row["here"] == (row["repository"] == "ours") for row in rows)
    json.dumps(rows)


def test_pools_of_evaluation_are_pinned_for_every_published_dataset() -> None:
    counts = {f"{d}/{s}": e.count for d, pools in manifest().pools.items() for s, e in pools.items()}
    assert counts["voc/val"] == 1449
    assert counts["voc/fine"] == 1464
    assert counts["cityscapes/val"] == 500
    assert (counts["acdc/val"], counts["acdc/test"], counts["coco/val"]) == (20, 40, 5000)
    assert all(
        isinstance(e, PoolEntry) and (e.fingerprint or e.git_blob)
        for p in manifest().pools.values()
        for e in p.values()
    )
