"""`prepare cityscapes` on archives in the official layout, made of real samples; all 3,475 pairs in miniature."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.cityscapes import CITIES, Cityscapes, subset_of
from ssbench.errors import DataError, UsageError
from ssbench.prepare.cityscapes import ARCHIVES, COUNTS, MANUAL, TRAIN_IDS, convert, to_train_ids
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.prepare import check, prepare
from ssbench.prepare.sources import SourceSpec, find_source
from ssbench.prepare.verify import verify

AACHEN, FRANKFURT = "aachen_000000_000019", "frankfurt_000000_000294"


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def official(shared: Path, tmp_path: Path) -> Path:
    """One real pair of train, one of val, with everything of them the archives hold but the colour pictures."""
    root = tmp_path / "official"
    for id in (AACHEN, FRANKFURT):
        inside = Path(subset_of(id)) / id.split("_")[0]
        for path in (shared / "cityscapes").glob(f"*/{inside}/{id}_*"):
            if "labelTrainIds" not in path.name:  # not in the archive
                target = root / path.relative_to(shared / "cityscapes")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return root


def zipped(official: Path, folder: Path) -> Path:
    folder.mkdir()
    for archive, inside in zip(ARCHIVES, ("leftImg8bit", "gtFine"), strict=True):
        with zipfile.ZipFile(folder / archive.name, "w") as file:
            file.writestr("README", "both archives have this file")
            for path in sorted((official / inside).rglob("*.png")):
                file.write(path, path.relative_to(official))
    return folder


def drive(source: Path, root: Path) -> Cityscapes:
    """What `prepare` does up to the ledger, for one image a subset and archives without checksums."""
    plan = SourceSpec(tuple(type(a)(a.name) for a in ARCHIVES), MANUAL, {"train": 1, "val": 1}, convert)
    job, work = PrepareJob("cityscapes", root, source), root / "cityscapes"
    plan.convert(find_source(plan, job), work, job)
    verify(plan, job, work)
    return Cityscapes(work)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.real
def test_the_table_gives_the_train_ids_of_all_real_samples(shared: Path) -> None:
    files = sorted((shared / "cityscapes" / "gtFine").rglob("*_labelIds.png"))
    assert len(files) == 4
    for path in files:
        with Image.open(path) as image:
            made = np.asarray(to_train_ids(image, path))
        np.testing.assert_array_equal(made, labels(Path(str(path).replace("labelIds", "labelTrainIds"))))


def test_the_table_on_every_label() -> None:
    made = np.asarray(to_train_ids(Image.fromarray(np.arange(34, dtype=np.uint8)[None]), Path("all.png")))[0]
    kept = {label: int(value) for label, value in enumerate(made) if value != 255}
    assert kept == {label: train_id for train_id, label in enumerate(TRAIN_IDS)}
    assert (made[0], made[7], made[24], made[33]) == (255, 0, 11, 18)


def test_official_archives_end_to_end(official: Path, shared: Path, tmp_path: Path) -> None:
    found = drive(zipped(official, tmp_path / "brought"), tmp_path / "data")
    assert (found.ids("train"), found.ids("val")) == ((AACHEN,), (FRANKFURT,))
    for id in (AACHEN, FRANKFURT):
        wanted = shared / "cityscapes" / found.mask_path(id).relative_to(found.root)
        np.testing.assert_array_equal(np.asarray(found.mask(id)), labels(wanted))
        assert found.image(id).mode == "RGB"
    assert found.image(AACHEN).size == (2048, 1024)
    assert not list(found.root.rglob("*labelIds*"))


@pytest.mark.real
def test_the_real_sample_folder_converts_and_its_counts_are_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train has 3 of 2975, val has 1 of 500") as error:
        prepare("cityscapes", tmp_path, shared / "cityscapes", workers=1)
    assert error.value.code == 4
    assert not (tmp_path / "cityscapes").exists()


def test_without_the_archives_the_steps_by_hand_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has to be fetched by hand") as error:
        prepare("cityscapes", tmp_path, workers=1)
    for step in ("packageID=1 ", "packageID=3 ", "register", "--source", ARCHIVES[0].md5, ARCHIVES[1].md5):
        assert str(step) in error.value.fix


def test_archives_brought_by_hand_are_verified(official: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leftImg8bit_trainvaltest\.zip is not the published file"):
        prepare("cityscapes", tmp_path / "data", zipped(official, tmp_path / "brought"), workers=1)


LABEL_FILE = f"gtFine/train/aachen/{AACHEN}_gtFine_labelIds.png"
IMAGE_FILE = f"leftImg8bit/val/frankfurt/{FRANKFURT}_leftImg8bit.png"


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        ("gone", LABEL_FILE, rf"1 of 1 label files missing: {AACHEN}_gtFine_labelIds\.png"),
        ("gone", IMAGE_FILE, rf"1 of 1 images missing: {FRANKFURT}_leftImg8bit\.png"),
        ("cut", LABEL_FILE, rf"{AACHEN}_gtFine_labelIds\.png cannot be read"),
        ("cut", IMAGE_FILE, rf"{FRANKFURT}_leftImg8bit\.png cannot be read"),
        ("value 34", LABEL_FILE, rf"{AACHEN}_gtFine_labelIds\.png has label ids 34; allowed are 0\.\.33"),
        ("value 255", LABEL_FILE, rf"{AACHEN}_gtFine_labelIds\.png has label ids 255"),
        ("16 bits", LABEL_FILE, rf"{AACHEN}_gtFine_labelIds\.png has mode"),
        ("half size", LABEL_FILE, rf"{AACHEN}_leftImg8bit\.png is 2048x1024, its mask in .* is 1024x512"),
        ("moved", LABEL_FILE, rf"{AACHEN}_gtFine_labelIds\.png does not belong in train/bochum"),
    ],
)
def test_damage_is_named_and_mended(official: Path, tmp_path: Path, damage: str, file: str, message: str) -> None:
    good = (official / file).read_bytes()
    harm(official / file, damage)
    with pytest.raises(DataError, match=message) as error:
        drive(official, tmp_path / "data")
    assert error.value.code == 4
    shutil.rmtree(official / "gtFine/train/bochum", ignore_errors=True)
    (official / file).write_bytes(good)
    assert len(contents(drive(official, tmp_path / "data").root)) == 6  # two pairs and two lists


def harm(path: Path, damage: str) -> None:
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "moved":
        (path.parents[1] / "bochum").mkdir()
        path.rename(path.parents[1] / "bochum" / path.name)
    else:
        values = labels(path).copy()
        values[0, 0] = int(damage.removeprefix("value ")) if damage.startswith("value") else values[0, 0]
        values = values[::2, ::2] if damage == "half size" else values
        Image.fromarray(values.astype(np.uint16) if damage == "16 bits" else values).save(path)


def test_a_second_run_converts_nothing_and_mends_what_is_cut(official: Path, tmp_path: Path) -> None:
    found = drive(official, tmp_path)
    before, good = stamps(found.root), contents(found.root)
    drive(official, tmp_path)
    assert stamps(found.root) == before
    harm(found.mask_path(FRANKFURT), "cut")
    harm(found.image_path(AACHEN), "cut")
    drive(official, tmp_path)
    assert contents(found.root) == good


def test_ids_say_where_files_are(tmp_path: Path) -> None:
    assert sum(len(cities) for cities in CITIES.values()) == 21
    path = Cityscapes(tmp_path).mask_path("munster_000001_000019")
    assert str(path.relative_to(tmp_path)) == "gtFine/val/munster/munster_000001_000019_gtFine_labelTrainIds.png"
    with pytest.raises(UsageError, match="no city 'munter'.*") as error:
        Cityscapes(tmp_path).image("munter_000001_000019")
    assert "munster" in error.value.fix
    with pytest.raises(UsageError, match="no subset 'test'"):
        Cityscapes(tmp_path).ids("test")


@pytest.fixture
def whole(shared: Path, tmp_path: Path) -> Path:
    """All 3,475 pairs under their real names, each with the pixels of one small corner of a real one."""
    lists = shared / "splits/UniMatch/splits/cityscapes"
    files = ("1_2/labeled.txt", "1_2/unlabeled.txt", "val.txt")
    lines = [line for name in files for line in (lists / name).read_text().splitlines()]
    root = tmp_path / "whole"
    root.mkdir()
    real = Cityscapes(shared / "cityscapes")
    real.image(FRANKFURT).crop((0, 60, 16, 68)).save(root / "image.png")
    label_ids = str(real.mask_path(FRANKFURT)).replace("labelTrainIds", "labelIds")
    Image.fromarray(labels(Path(label_ids))[60:68, :16].copy()).save(root / "labels.png")
    for line in lines:
        image, mask = line.split()
        for name, origin in ((image, "image.png"), (mask.replace("labelTrainIds", "labelIds"), "labels.png")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).hardlink_to(root / origin)
    (root / "splits").symlink_to(shared / "splits")
    return root


def test_the_whole_dataset_is_prepared_checked_and_mended(whole: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = prepare("cityscapes", data, whole, workers=2)
    assert (done.state, done.counts, done.files) == ("prepared", COUNTS, 2 * 3475 + 2)
    assert done.lists > 0
    assert json.loads(Path(done.ledger).read_text())["settings"]["masks"].startswith("trainIds by lookup table")
    assert check("cityscapes", data) == []
    before = stamps(data / "cityscapes")
    assert prepare("cityscapes", data, whole, workers=2).state == "complete"
    assert stamps(data / "cityscapes") == before
    lost = Cityscapes(data / "cityscapes").mask_path(FRANKFURT)
    lost.unlink()
    assert [(p.kind, p.path) for p in check("cityscapes", data)] == [
        ("missing", str(lost.relative_to(data / "cityscapes")))
    ]
    assert prepare("cityscapes", data, whole, workers=2).state == "prepared"
    after = stamps(data / "cityscapes")
    assert {path for path in before if before[path] != after[path]} == {str(lost), done.ledger}
