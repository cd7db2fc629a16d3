"""`prepare voc` on archives in the official layouts, made of the real samples, and the loader on what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ssbench.data.voc import Voc
from ssbench.errors import DataError, UsageError
from ssbench.prepare import voc as prepare_voc
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.prepare import check, prepare
from ssbench.prepare.sources import SourceSpec, find_source
from ssbench.prepare.verify import verify
from ssbench.prepare.voc import ARCHIVES, COUNTS, VocFolders, convert, read_sbd
from ssbench.splits.lists import fingerprint

FINE, VAL, COARSE = ("2011_000003", "2011_000006"), ("2007_000129",), ("2011_000025",)
EVERY = sorted(FINE + VAL + COARSE)


def labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def sbd_file(path: Path, values: np.ndarray) -> None:
    """A .mat as SBD ships it: struct GTcls with Segmentation and, of no use here, Boundaries and CategoriesPresent."""
    inside = {"Segmentation": values, "Boundaries": np.zeros((20, 1)), "CategoriesPresent": np.unique(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": inside}, do_compression=True)


def lines(path: Path, ids: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{id}\n" for id in ids))


@pytest.fixture
def real(shared: Path) -> Path:
    return shared / "voc2012" / "VOCdevkit" / "VOC2012"


@pytest.fixture
def official(real: Path, tmp_path: Path) -> Path:
    """VOC and SBD as unpacked: two VOC train ids, one VOC val id, and one id that only SBD annotates.

    SBD's masks have no 255; that of 2011_000003, which VOC annotates better, is empty and must not be used.
    """
    root = tmp_path / "official"
    devkit, sbd = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    for id in EVERY:
        (devkit / "JPEGImages").mkdir(parents=True, exist_ok=True)
        (devkit / f"JPEGImages/{id}.jpg").write_bytes((real / f"JPEGImages/{id}.jpg").read_bytes())
    for id in FINE + VAL:
        (devkit / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        (devkit / f"SegmentationClass/{id}.png").write_bytes((real / f"SegmentationClass/{id}.png").read_bytes())
    lines(devkit / "ImageSets/Segmentation/train.txt", FINE)
    lines(devkit / "ImageSets/Segmentation/val.txt", VAL)
    coarse = labels(real / f"SegmentationClassAug/{COARSE[0]}.png")
    sbd_file(sbd / f"cls/{COARSE[0]}.mat", np.where(coarse == 255, 0, coarse).astype(np.uint8))
    sbd_file(sbd / f"cls/{FINE[0]}.mat", np.zeros_like(labels(real / f"SegmentationClass/{FINE[0]}.png")))
    lines(sbd / "train.txt", FINE[:1])
    lines(sbd / "val.txt", COARSE)
    return root


def wanted(train: int, val: int, fine: int) -> SourceSpec:
    """The plan of `prepare voc` for part of the data: other counts, and no checksums."""
    archives = tuple(type(a)(a.name, a.urls, optional=a.optional) for a in ARCHIVES)
    return SourceSpec(archives, None, {"train": train, "val": val, "fine": fine}, convert)


def drive(source: Path, root: Path, plan: SourceSpec, workers: int = 1) -> tuple[Path, PrepareJob]:
    """What `prepare` does up to the ledger, with the counts of `plan`."""
    job, work = PrepareJob("voc", root, source, workers), root / "voc"
    plan.convert(find_source(plan, job), work, job)
    verify(plan, job, work)
    return work, job


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_palette_is_vocs(real: Path) -> None:
    with Image.open(real / f"SegmentationClass/{VAL[0]}.png") as image:
        used = image.getpalette()
    assert used is not None
    assert Voc.palette[15] == (192, 128, 128)
    assert [tuple(used[3 * k : 3 * k + 3]) for k in range(21)] == list(Voc.palette)


def test_official_archives_end_to_end(official: Path, real: Path, tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    brought.mkdir()
    with tarfile.open(brought / "VOCtrainval_11-May-2012.tar", "w") as tar:
        tar.add(official / "VOCdevkit", "VOCdevkit")
    with tarfile.open(brought / "benchmark.tgz", "w:gz") as tar:
        tar.add(official / "benchmark_RELEASE", "benchmark_RELEASE")
    work, job = drive(brought, tmp_path / "data", wanted(3, 1, 2))
    voc = Voc(work)
    assert voc.ids("train") == tuple(sorted(FINE + COARSE))
    assert (voc.ids("val"), voc.ids("fine")) == (VAL, FINE)
    for id in FINE + VAL:
        np.testing.assert_array_equal(np.asarray(voc.mask(id)), labels(real / f"SegmentationClass/{id}.png"))
        assert labels(voc.mask_path(id)).ndim == 2
        with Image.open(voc.mask_path(id)) as image:
            assert image.mode == "L"  # one channel, so that readers who convert to L read labels
    coarse = labels(real / f"SegmentationClassAug/{COARSE[0]}.png")
    np.testing.assert_array_equal(np.asarray(voc.mask(COARSE[0])), np.where(coarse == 255, 0, coarse))
    assert voc.image(VAL[0]).mode == "RGB"
    assert voc.image_path(VAL[0]).stat().st_nlink == 2  # linked: what was unpacked here takes no second place on disk
    assert job.settings == {"fine_masks": "VOC SegmentationClass", "coarse_masks": "SBD GTcls"}
    assert not (work / "comparison.json").exists()


def test_the_copy_beside_sbd_is_compared_and_not_used(official: Path, real: Path, tmp_path: Path) -> None:
    aug = official / "SegmentationClassAug"
    aug.mkdir()
    for id in EVERY:
        (aug / f"{id}.png").write_bytes((real / f"SegmentationClassAug/{id}.png").read_bytes())
    (aug / "2009_000001.png").write_bytes((aug / f"{EVERY[0]}.png").read_bytes())
    hidden = official / "__MACOSX/SegmentationClassAug"  # what zips made on macOS bring along
    hidden.mkdir(parents=True)
    (hidden / f"._{EVERY[0]}.png").write_bytes(b"no picture")
    work, job = drive(official, tmp_path / "data", wanted(3, 1, 2))
    border = int((labels(real / f"SegmentationClassAug/{COARSE[0]}.png") == 255).sum())
    assert border > 0
    assert job.settings["coarse_masks"] == "SBD GTcls"
    assert json.loads((work / "comparison.json").read_text()) == {
        "compared_with": "SegmentationClassAug",
        "files": 4,
        "differing": 1,
        "only_here": 0,
        "only_there": 1,
        "differing_pixels": {COARSE[0]: border},  # SBD has no border, the copy has
    }


@pytest.mark.real
def test_the_copy_alone_stands_in_for_sbd(shared: Path, tmp_path: Path) -> None:
    work, job = drive(shared / "voc2012", tmp_path, wanted(3, 1, 3))
    assert job.settings["coarse_masks"] == "SegmentationClassAug"
    assert json.loads((work / "comparison.json").read_text())["differing"] == 0
    assert len(Voc(work).ids("train")) == 3


@pytest.mark.parametrize("folder", ["", "SegmentationClassAug/"])
@pytest.mark.parametrize("unpacked", [True, False])
def test_the_well_known_zip(official: Path, real: Path, tmp_path: Path, folder: str, unpacked: bool) -> None:
    """Beside the archive of VOC, or beside its unpacked folder; with a folder inside, or without."""
    brought = tmp_path / "brought"
    brought.mkdir()
    with tarfile.open(brought / "VOCtrainval_11-May-2012.tar", "w") as tar:
        tar.add(official / "VOCdevkit", "VOCdevkit")
    if unpacked:
        (brought / "VOCtrainval_11-May-2012.tar").unlink()
        (official / "VOCdevkit").rename(brought / "VOCdevkit")
    with zipfile.ZipFile(brought / "SegmentationClassAug.zip", "w") as file:
        for id in EVERY:
            file.write(real / f"SegmentationClassAug/{id}.png", f"{folder}{id}.png")
    whole = wanted(3, 1, 2)
    without_sbd = SourceSpec(whole.archives[::2], None, whole.counts, convert)
    for _ in range(2):
        work, job = drive(brought, tmp_path / "data", without_sbd)
    assert job.settings["coarse_masks"] == "SegmentationClassAug"
    np.testing.assert_array_equal(
        labels(work / f"SegmentationClassAug/{COARSE[0]}.png"), labels(real / f"SegmentationClassAug/{COARSE[0]}.png")
    )


def test_no_masks_for_the_augmented_set(official: Path, tmp_path: Path) -> None:
    (official / "benchmark_RELEASE").rename(tmp_path / "away")
    with pytest.raises(DataError, match="neither SBD's nor a copy") as error:
        convert(official, tmp_path / "voc", PrepareJob("voc", tmp_path))
    assert "benchmark.tgz" in error.value.fix


@pytest.mark.real
def test_prepare_names_the_missing_counts_and_writes_no_ledger(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train has 3 of 10582, val has 1 of 1449, fine has 3 of 1464") as error:
        prepare("voc", tmp_path, shared / "voc2012", workers=1)
    assert error.value.code == 4
    assert not (tmp_path / "voc").exists()
    assert [problem.path for problem in check("voc", tmp_path)] == ["ledger.json"]


def test_official_names_must_have_the_official_bytes(official: Path, tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    brought.mkdir()
    for name, folder in (("VOCtrainval_11-May-2012.tar", "VOCdevkit"), ("benchmark.tgz", "benchmark_RELEASE")):
        with tarfile.open(brought / name, "w") as tar:
            tar.add(official / folder, folder)
    with pytest.raises(DataError, match="VOCtrainval_11-May-2012.tar is not the published file"):
        prepare("voc", tmp_path / "data", brought, workers=1)


def test_train_aug_is_derived_from_the_official_lists(shared: Path, tmp_path: Path) -> None:
    """With the real ids (files empty): VOC train + SBD - VOC train - VOC val is train_aug, by its fingerprint."""
    folder = shared / "splits" / "U2PL" / "data" / "splits" / "pascal"
    named = {part: _ids(folder / part) for part in ("1464/labeled.txt", "1464/unlabeled.txt", "val.txt")}
    fine, rest, val = (named[part] for part in ("1464/labeled.txt", "1464/unlabeled.txt", "val.txt"))
    devkit, sbd = tmp_path / "VOC2012", tmp_path / "benchmark_RELEASE/dataset"
    extra = fine[:1100] + val[:1137]  # SBD annotates 2,237 images of VOC train and val too; which, is not known here
    for where, ids, end in (
        (devkit / "JPEGImages", fine + rest + val, "jpg"),
        (devkit / "SegmentationClass", fine + val, "png"),
        (sbd / "cls", rest + extra, "mat"),
    ):
        where.mkdir(parents=True)
        for id in ids:
            (where / f"{id}.{end}").touch()
    lines(devkit / "ImageSets/Segmentation/train.txt", fine)
    lines(devkit / "ImageSets/Segmentation/val.txt", val)
    lines(sbd / "train.txt", rest[:7000] + extra[:1498])
    lines(sbd / "val.txt", rest[7000:] + extra[1498:])
    lists, masks = prepare_voc.lists_and_masks(VocFolders(devkit, sbd, None))
    assert {subset: len(ids) for subset, ids in lists.items()} == COUNTS
    assert fingerprint(lists["train"]).startswith("d1326bd532648d73")  # splits_compare, section 2
    assert len(masks) == 12_031
    assert sum(path.suffix == ".mat" for path in masks.values()) == 9_118


def _ids(path: Path) -> tuple[str, ...]:
    return tuple(Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / f"benchmark_RELEASE/dataset/cls/{COARSE[0]}.mat").unlink(), r"2011_000025\.mat"),
        (lambda root: (root / f"VOCdevkit/VOC2012/JPEGImages/{COARSE[0]}.jpg").unlink(), r"2011_000025\.jpg"),
        (lambda root: (root / f"VOCdevkit/VOC2012/SegmentationClass/{VAL[0]}.png").unlink(), r"2007_000129\.png"),
        (lambda root: cut(root / f"benchmark_RELEASE/dataset/cls/{COARSE[0]}.mat"), r"2011_000025\.mat cannot be read"),
        (lambda root: cut(root / f"VOCdevkit/VOC2012/JPEGImages/{FINE[1]}.jpg"), r"2011_000006\.jpg cannot be read"),
        (lambda root: cut(root / f"VOCdevkit/VOC2012/SegmentationClass/{VAL[0]}.png"), r"2007_000129\.png cannot be"),
        (lambda root: unknown_label(root), r"2011_000025\.mat has label values 21, 77; allowed are 0\.\.20 and 255"),
        (lambda root: other_size(root), r"2011_000025\.jpg is 500x375, its mask in 2011_000025\.mat is 4x4"),
        (lambda root: brightness(root), r"2007_000129\.png has label values"),
    ],
)
def test_damage_is_named_and_nothing_is_finished(official: Path, tmp_path: Path, damage, message: str) -> None:
    good, _ = drive(official, tmp_path / "good", wanted(3, 1, 2))
    before = {path: path.read_bytes() for path in official.rglob("*") if path.is_file()}
    damage(official)
    with pytest.raises(DataError, match=message) as error:
        drive(official, tmp_path / "data", wanted(3, 1, 2))
    assert error.value.code == 4
    for path, data in before.items():
        path.write_bytes(data)
    mended, _ = drive(official, tmp_path / "data", wanted(3, 1, 2))
    assert contents(mended) == contents(good)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def unknown_label(root: Path) -> None:
    path = root / f"benchmark_RELEASE/dataset/cls/{COARSE[0]}.mat"
    values = np.asarray(read_sbd(path)).copy()
    values[:2, 0] = (77, 21)
    sbd_file(path, values)


def other_size(root: Path) -> None:
    sbd_file(root / f"benchmark_RELEASE/dataset/cls/{COARSE[0]}.mat", np.zeros((4, 4), np.uint8))


def brightness(root: Path) -> None:
    """The classic mistake: the palette image converted to grey, so that class 15 reads 147."""
    path = root / f"VOCdevkit/VOC2012/SegmentationClass/{VAL[0]}.png"
    image = Image.open(path).convert("L")
    image.save(path)


def test_masks_that_are_no_matrix_of_bytes_are_refused(tmp_path: Path) -> None:
    sbd_file(tmp_path / "a.mat", np.zeros((4, 4), np.float64))
    savemat(tmp_path / "b.mat", {"GTinst": {"Segmentation": np.zeros((4, 4), np.uint8)}})
    with pytest.raises(DataError, match=r"a\.mat.*float64 of shape \(4, 4\)"):
        read_sbd(tmp_path / "a.mat")
    with pytest.raises(DataError, match=r"b\.mat.*GTcls"):
        read_sbd(tmp_path / "b.mat")


def test_grey_photograph_becomes_rgb(official: Path, tmp_path: Path) -> None:
    path = official / f"VOCdevkit/VOC2012/JPEGImages/{VAL[0]}.jpg"
    Image.open(path).convert("L").save(path)
    work, _ = drive(official, tmp_path / "data", wanted(3, 1, 2))
    image = np.asarray(Voc(work).image(VAL[0]))
    assert image.shape[2] == 3
    assert (image[..., 0] == image[..., 2]).all()


def test_subsets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="voc has no subset 'trian'.*train"):
        Voc(tmp_path).ids("trian")
    with pytest.raises(DataError, match="voc is not prepared"):
        Voc(tmp_path).ids("train")


def test_a_second_run_converts_nothing(official: Path, tmp_path: Path) -> None:
    work, _ = drive(official, tmp_path / "data", wanted(3, 1, 2))
    before = stamps(work)
    drive(official, tmp_path / "data", wanted(3, 1, 2))
    assert stamps(work) == before


def test_only_what_is_damaged_is_converted_again(official: Path, tmp_path: Path) -> None:
    work, _ = drive(official, tmp_path / "data", wanted(3, 1, 2))
    before, good = stamps(work), contents(work)
    cut(work / f"SegmentationClassAug/{VAL[0]}.png")
    (work / f"JPEGImages/{FINE[0]}.jpg").unlink()
    drive(official, tmp_path / "data", wanted(3, 1, 2))
    after = stamps(work)
    assert contents(work) == good
    assert {name for name in before if before[name] != after[name]} >= {f"SegmentationClassAug/{VAL[0]}.png"}
    assert after[f"SegmentationClassAug/{COARSE[0]}.png"] == before[f"SegmentationClassAug/{COARSE[0]}.png"]


def test_the_users_own_files_are_copied_not_linked(official: Path, tmp_path: Path) -> None:
    work, _ = drive(official, tmp_path / "data", wanted(3, 1, 2))
    one = work / f"JPEGImages/{VAL[0]}.jpg"
    assert not one.samefile(official / f"VOCdevkit/VOC2012/JPEGImages/{VAL[0]}.jpg")


KILLED = """
import os, signal, sys
from pathlib import Path
from ssbench.console import Bars
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.voc import convert

moves = []

def die_at_the_second(doing):
    moves.append(doing)
    if len(moves) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

bars = Bars(show=False)
bars.on_progress = die_at_the_second
convert(Path(sys.argv[1]), Path(sys.argv[2]), PrepareJob("voc", Path(sys.argv[3]), bars=bars))
"""


def test_a_killed_run_is_mended(official: Path, tmp_path: Path) -> None:
    good, _ = drive(official, tmp_path / "good", wanted(3, 1, 2))
    work = tmp_path / "data" / "voc"
    call = [sys.executable, "-c", KILLED, str(official), str(work), str(tmp_path / "data")]
    ended = subprocess.run(call, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, check=False)
    assert ended.returncode == -signal.SIGKILL
    half = stamps(work)
    assert 0 < len(half) < len(stamps(good))
    drive(official, tmp_path / "data", wanted(3, 1, 2))
    assert contents(work) == contents(good)
    assert half.items() <= stamps(work).items()  # what was done was not done again


def test_processes_give_the_same_bytes(official: Path, tmp_path: Path) -> None:
    devkit = official / "VOCdevkit/VOC2012"
    more = tuple(f"2012_{k:06d}" for k in range(40))
    for id in more:
        (devkit / f"JPEGImages/{id}.jpg").hardlink_to(devkit / f"JPEGImages/{VAL[0]}.jpg")
        (devkit / f"SegmentationClass/{id}.png").hardlink_to(devkit / f"SegmentationClass/{VAL[0]}.png")
    lines(devkit / "ImageSets/Segmentation/val.txt", VAL + more)
    one, _ = drive(official, tmp_path / "one", wanted(3, 41, 2))
    two, _ = drive(official, tmp_path / "two", wanted(3, 41, 2), workers=2)
    assert contents(one) == contents(two)
