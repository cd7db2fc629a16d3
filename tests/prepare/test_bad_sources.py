"""Damaged and hostile inputs of preparation, import and splits: each ends in one error with three parts.

The generator is seeded; `SSBENCH_SOAK=1` runs thousands of the same inputs.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damaged_bytes, damaged_json, damaged_yaml, pick
from own_folders import import_options, own_folder
from PIL import Image

from ssbench import keyed
from ssbench.data.cache import load
from ssbench.data.dataset import read_ids
from ssbench.data.ledger import Ledger
from ssbench.data.toy import Toy
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.prepare import acdc, camvid, voc
from ssbench.prepare.cache import build
from ssbench.prepare.coco import paint, read_instances
from ssbench.prepare.fetch import RetryPolicy, fetch
from ssbench.prepare.job import Archive, PrepareJob
from ssbench.prepare.own import check_folder, import_folder
from ssbench.prepare.own_classes import read_classmap
from ssbench.prepare.prepare import check
from ssbench.prepare.unpack import bound, unpack
from ssbench.prepare.verify import write_ledger
from ssbench.splits.manifest import Partition, manifest
from ssbench.splits.passport import passport

h5py = pytest.importorskip("h5py", reason="needs the extra ssbench[medical]")
nibabel = pytest.importorskip("nibabel", reason="needs the extra ssbench[medical]")
Rng = np.random.Generator
SOAK = bool(os.environ.get("SSBENCH_SOAK"))
COUNT = 400 if SOAK else 9
"""Inputs of each kind."""
MEMORY = 300_000_000
"""Bytes that no input may take beyond what the test began with."""


# One function a kind: writes a damaged input into `home` and reads it as the suite does.


def an_archive(home: Path, rng: Rng) -> None:
    kind, data = pick(rng, ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"]), io.BytesIO()
    odd = [
        "a/../../b",
        "/abs",
        "a\\b",
        "x" * 300,
        "d/" * 2500 + "x",
        "caf\udce9",
        "C:x",
        "a\0b",
        "ok",
        "ok/x",
        ".",
        "..",
    ]
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("one/a.txt", b"a" * 500)
            name = pick(rng, odd).encode("utf-8", "replace").decode()
            archive.writestr(zipfile.ZipInfo(name), b"b")
    else:
        with tarfile.open(fileobj=data, mode=f"w:{kind[4:]}", format=pick(rng, [0, 1, 2])) as archive:
            for name in ("one/a.txt", pick(rng, odd)):
                info = tarfile.TarInfo(name[: 99 if archive.format == 0 else None])
                info.size, info.type = 500, pick(rng, [b"0", b"0", b"0", b"1", b"2", b"3", b"5", b"S", b"7"])
                archive.addfile(info, io.BytesIO(b"a" * 500))
    path = home / f"x.{kind}"
    path.write_bytes(damaged_bytes(data.getvalue(), rng) if rng.random() < 0.6 else data.getvalue())
    unpack(path, home / "out", bound(path))


def a_ledger(home: Path, rng: Rng) -> None:
    (home / "toy").mkdir()
    (home / "toy" / "train.txt").write_text("a\n")
    write_ledger(home / "toy", "toy", {"seed": 0}, {"train": 1})
    path = home / "toy" / "ledger.json"
    path.write_bytes(damaged_json(json.loads(path.read_text()), rng))
    Ledger.read(home / "toy")
    json.dumps([vars(problem) for problem in check("toy", home)]).encode()


def a_split(home: Path, rng: Rng) -> None:
    entry = {"count": 2, "fingerprint": "0" * 64}
    stated = {"dataset": "toy", "seed": 0, "rule": "x", "drawn": "2026-01-01", "labeled": entry, "unlabeled": entry}
    (home / "labeled.txt").write_bytes(b"train_0001\ntrain_0002\n")
    (home / "unlabeled.txt").write_bytes(b"train_0003\ntrain_0004\n")
    if rng.random() < 0.3:
        (home / "labeled.txt").write_bytes(damaged_bytes(b"train_0001\ntrain_0002\n", rng))
    else:
        (home / "split.yaml").write_bytes(damaged_yaml(stated, rng))
    json.dumps(passport(str(home), home / "data"))


def a_download_state(home: Path, rng: Rng) -> None:
    state = {"url": "ftp://nowhere", "validator": "x", "total": 3}
    (home / "a.zip.part").write_bytes(b"ab")
    (home / "a.zip.part.json").write_bytes(damaged_json(state, rng))
    policy = RetryPolicy(tries=1, pause=0, stall=0.1)
    fetch(
        Archive("a.zip", ("ftp://nowhere", "http://[", "http://a..b/"), sha256="0" * 64), home, "by hand", policy=policy
    )


def a_cache_index(home: Path, rng: Rng) -> None:
    root = home / "toy"
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (root / folder).mkdir(parents=True)
        for id in ("train_0000", "val_0000", "test_0000"):
            Image.new(mode, (9, 8)).save(root / folder / f"{id}.{'jpg' if mode == 'RGB' else 'png'}")
    for subset in ("train", "val", "test"):
        (root / f"{subset}.txt").write_text(f"{subset}_0000\n")
    write_ledger(root, "toy", {}, {"train": 1, "val": 1, "test": 1})
    build("toy", home, workers=1)
    path = root / ".cache" / "index.json"
    path.write_bytes(damaged_json(json.loads(path.read_text()), rng))
    store = load(root, Toy(root))
    if store and "train_0000" in store:
        np.asarray(store.image("train_0000"))
        np.asarray(store.mask("train_0000"))


def coco_file() -> dict[str, Any]:
    polygon = {
        "segmentation": [[1, 1, 8, 1, 8, 7]],
        "image_id": 1,
        "id": 5,
        "category_id": 1,
        "area": 9.5,
        "iscrowd": 0,
    }
    crowd = {
        "segmentation": {"size": [8, 9], "counts": [30, 12, 30]},
        "image_id": 1,
        "id": 6,
        "category_id": 3,
        "area": 12,
    }
    text = {"segmentation": {"size": [8, 9], "counts": "n0<n0"}, "image_id": 1, "id": 7, "category_id": 3, "area": 12}
    image = {"id": 1, "file_name": "000000000001.jpg", "width": 9, "height": 8}
    return {"images": [image], "annotations": [polygon, crowd, text], "categories": []}


def a_coco_file(home: Path, rng: Rng) -> None:
    pytest.importorskip("pycocotools")
    path = home / "instances_val2017.json"
    path.write_bytes(damaged_json(coco_file(), rng))
    painted(path)


def h5(path: Path, image: Any, label: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


def nifti(folder: Path, shape: tuple[int, ...] = (8, 9, 3)) -> tuple[Path, Path]:
    folder.mkdir(parents=True)
    paths = folder / f"{folder.name}_frame01.nii", folder / f"{folder.name}_frame01_gt.nii"
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
    for path, array in zip(paths, (values, values % 4), strict=True):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return paths


def an_acdc_source(home: Path, rng: Rng) -> None:
    way = int(rng.integers(3))
    if way == 0:
        (damage,) = rng.choice(nifti(home / "in" / "patient001"), 1)
        Path(damage).write_bytes(damaged_bytes(Path(damage).read_bytes(), rng))
        (home / "in" / "patient001" / "Info.cfg").write_bytes(damaged_bytes(b"ED: 1\nGroup: M\xe9\n", rng))
    elif way == 1:
        arrays = [np.float32(0.5), np.zeros(5, np.float32), np.zeros((2, 3, 4)), np.full((3, 4), np.nan), "text", []]
        arrays += [
            np.zeros((2, 2, 2, 2)),
            np.zeros((0, 3, 4)),
            np.ones((2, 3), bool),
            np.array([b"x"]),
            np.ones((3, 4)) * 9,
        ]
        h5(home / "in" / "patient001_frame01.h5", pick(rng, arrays), pick(rng, arrays))
    else:
        path = home / "in" / "patient001_frame01.h5"
        h5(path, np.zeros((2, 6, 5), np.float32), np.zeros((2, 6, 5), np.uint8))
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    acdc.convert(home / "in", home / "out", PrepareJob("acdc", home))


def a_camvid_or_voc_source(home: Path, rng: Rng) -> None:
    for subset in camvid.CamVid.subsets:
        for folder, mode in ((subset, "RGB"), (f"{subset}annot", "L")):
            (home / "in" / folder).mkdir(parents=True)
            Image.new(mode, (9, 8)).save(home / "in" / folder / "a.png")
        (home / "in" / f"{subset}.txt").write_text(f"{subset}/a.png {subset}annot/a.png\n")
    files = sorted(path for path in (home / "in").rglob("*") if path.is_file())
    path = pick(rng, files)
    path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    camvid.convert(home / "in", home / "out", PrepareJob("camvid", home))
    (home / "train.txt").write_bytes(damaged_bytes(b"a\nb\n", rng))
    read_ids(home / "train.txt", "voc")
    (home / "x.mat").write_bytes(damaged_bytes(b"MATLAB 5.0 MAT-file" + bytes(600), rng))
    voc.read_sbd(home / "x.mat")


def an_own_folder(home: Path, rng: Rng) -> None:
    source = own_folder(home / "in", count=4)
    (source / "classes.txt").write_text("a\nb\nc\n")
    files = sorted(path for path in source.rglob("*") if path.is_file())
    path = pick(rng, files)
    names = [b"caf\xe9.png", b"x" * 245 + b".png", b" .png", b"\x01.png", b"a\nb.jpg", "é.png".encode(), b"deep"]
    if rng.random() < 0.5:
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    else:
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/" + pick(rng, names)))
    options = import_options(source, None, labeled=(pick(rng, ["1_2", "3", "99", "1/1000"]),))
    json.dumps(check_folder(options, workers=1).json()).encode()
    import_folder(options, home / "data", workers=1)


def a_classes_file(home: Path, rng: Rng) -> None:
    classes = {"road": [1, 2, 3], "wall": [4, 5, 6], "ignore": [0, 0, 0]}
    if rng.random() < 0.3:
        (home / "classes.txt").write_bytes(damaged_bytes(b"road 1 2 3\nwall 4 5 6\n", rng))
    else:
        (home / "classes.yaml").write_bytes(
            damaged_yaml(pick(rng, [classes, ["road", "wall"], {"classes": classes}]), rng)
        )
    read_classmap(None, home, [pick(rng, ["1=0", "x", "300=1", "1=255", "9" * 5000 + "=1"])])


KINDS: tuple[Callable[[Path, Rng], None], ...] = (
    an_archive,
    a_ledger,
    a_split,
    a_download_state,
    a_cache_index,
    a_coco_file,
    an_acdc_source,
    a_camvid_or_voc_source,
    an_own_folder,
    a_classes_file,
)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_one_error(error: SsbenchError, kind: str) -> None:
    """What, where and fix, all printable, and the exit code of data (of usage, for what the user typed)."""
    assert error.what
    assert error.where
    assert error.fix
    str(error).encode()
    usage = kind in ("a_classes_file", "an_own_folder") and isinstance(error, UsageError)
    assert error.code == (2 if usage else 4), error


@pytest.mark.filterwarnings("ignore")  # the libraries warn of what they then refuse
@pytest.mark.parametrize("read", KINDS, ids=lambda read: read.__name__)
def test_a_bad_input_is_one_error_with_three_parts(read: Callable[[Path, Rng], None], tmp_path: Path) -> None:
    refused, before = 0, peak()
    for number in range(COUNT):
        home = tmp_path / str(number)
        home.mkdir()
        try:
            read(home, keyed.rng("bad input", read.__name__, number))
        except SsbenchError as error:
            is_one_error(error, read.__name__)
            refused += 1
        except BaseException as error:
            error.add_note(f"{read.__name__} {number}")
            raise
    assert refused > COUNT // 4, "most of the inputs were not bad"
    assert peak() - before < MEMORY


def bomb(path: Path, kind: bytes, size: int, holds: int) -> Path:
    """A tar.gz whose first header has `kind` and claims `size` bytes, of which the file holds `holds`."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(holds >> 20):
            out.write(b"a" * (1 << 20))
        out.write(tarfile.TarInfo("a").tobuf())
    return path


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("holds", [0, 1 << 30 if SOAK else 1 << 26])
def test_a_header_of_a_gigabyte_is_refused_before_it_is_read(tmp_path: Path, kind: bytes, holds: int) -> None:
    path, before = bomb(tmp_path / "x.tar.gz", kind, 1 << 30, holds), peak()
    with pytest.raises(DataError, match=r"header of more than 262\.1 kB") as caught:
        unpack(path, tmp_path / "out", bound(path))
    is_one_error(caught.value, "")
    assert peak() - before < 30_000_000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_sparse_map_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers, info.size = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, 1 << 30
    data, before = info.tobuf(tarfile.PAX_FORMAT) + b"90000000\n" + b"1\n" * (1 << 24), peak()
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="header of more than"):
        unpack(tmp_path / "x.tar", tmp_path / "out", 1 << 40)
    assert peak() - before < 30_000_000


def test_a_chain_of_headers_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 0
    (tmp_path / "x.tar").write_bytes(header.tobuf() * 5000)
    with pytest.raises(DataError, match="damaged at its index"):
        unpack(tmp_path / "x.tar", tmp_path / "out", 1 << 30)


@pytest.mark.parametrize("name", ["caf\udce9", "x" * 300, "d/" * 2500 + "x"], ids=["bytes", "long", "deep"])
def test_a_name_that_no_list_or_disk_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="UTF-8|too long") as caught:
        unpack(tmp_path / "x.tar", tmp_path / "out", 1 << 30)
    is_one_error(caught.value, "")


def painted(path: Path) -> None:
    for annotated in read_instances(path).values():
        paint(annotated, path)


def test_a_matlab_file_that_inflates_to_a_gigabyte_is_refused(tmp_path: Path) -> None:
    content, before = zlib.compress(bytes(1 << 26), 1), peak()
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(content))
    (tmp_path / "x.mat").write_bytes(header + content)
    with pytest.raises(
        DataError, match=r"x\.mat cannot be read as an SBD mask: .* inflates to more than 33\.6 MB"
    ) as caught:
        voc.read_sbd(tmp_path / "x.mat")
    is_one_error(caught.value, "")
    assert peak() - before < 150_000_000


def changed(**fields: Any) -> dict[str, Any]:
    """The file with fields of its first annotation changed."""
    file = coco_file()
    file["annotations"][0] |= fields
    return file


COCO: list[tuple[Any, str]] = [
    ([], "not a whole instances file"),
    ({"images": 5, "annotations": []}, "not a whole instances file"),
    (changed(image_id="1"), "'image_id' is '1', not a whole number"),
    (changed(category_id=[1]), "'category_id'"),
    (changed(area=None), "not a whole instances file"),
    (changed(segmentation=[["x"]]), "not a whole instances file"),
    (changed(segmentation=[[1e300, 1, 8, 1, 8, 7]]), "outline far longer"),
    (changed(segmentation=[[0, 0, 30000, 30000] * 500]), "outline far longer"),
    (changed(segmentation={"size": [8, 9], "counts": [30]}), "does not cover"),
    (changed(segmentation={"size": [8, 9], "counts": ""}), "does not cover"),
    (changed(segmentation={"size": [8, 9], "counts": "~~~"}), "character '~' in its run-length code"),
    (changed(segmentation={"size": [8, 9], "counts": "o" * 4000}), "run-length code"),
    (changed(segmentation={"size": 8, "counts": [72]}), "object 5 of image 000000000001"),
    ({"images": [{"id": 1, "file_name": "1.jpg", "width": 1e9, "height": 8}]}, "'width'"),
    ({"images": [{"id": 1, "file_name": "1.jpg", "width": 10**9, "height": 8}]}, "'width' is '1000000000'"),
]


@pytest.mark.parametrize(("file", "words"), COCO)
def test_coco_files_with_wrong_types_name_the_field(tmp_path: Path, file: Any, words: str) -> None:
    pytest.importorskip("pycocotools")
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps(file))
    with pytest.raises(DataError, match=words) as caught:
        painted(path)
    is_one_error(caught.value, "")


def test_run_lengths_are_decoded_as_pycocotools_does() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    from ssbench.prepare.coco import _decoded_runs

    for number in range(40):
        region = (keyed.rng("runs", number).random((37, 53)) < number / 39).astype(np.uint8)
        runs = _decoded_runs(mask.encode(np.asfortranarray(region))["counts"].decode())
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(53, 37).T, region)


def convert_acdc(home: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        acdc.convert(home / "in", home / "out", PrepareJob("acdc", home))
    is_one_error(caught.value, "")
    return caught.value


@pytest.mark.parametrize(
    "image", [np.float32(0.5), np.zeros(5, np.float32), np.zeros((2, 2, 3, 4)), np.zeros((0, 3, 4))]
)
def test_hdf5_of_another_rank_is_named(tmp_path: Path, image: Any) -> None:
    h5(tmp_path / "in" / "patient001_frame01.h5", image, np.zeros(np.shape(image), np.uint8))
    assert "patient001_frame01.h5 cannot be read: an array of shape" in convert_acdc(tmp_path).what


def test_a_nifti_header_that_is_none_is_named(tmp_path: Path) -> None:
    image, _ = nifti(tmp_path / "in" / "patient001")
    data = bytearray(image.read_bytes())
    data[70:72] = (999).to_bytes(2, "little")  # the data type: nibabel raises its own HeaderDataError
    image.write_bytes(data)
    assert f"{image.name} cannot be read" in convert_acdc(tmp_path).what


def test_a_nifti_header_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    image, _ = nifti(tmp_path / "in" / "patient001")
    data = bytearray(image.read_bytes())
    for axis in range(3):
        data[42 + 2 * axis : 44 + 2 * axis] = (30_000).to_bytes(2, "little")
    image.write_bytes(data)
    assert "an array of shape (30000, 30000, 30000)" in convert_acdc(tmp_path).what


def test_labels_of_another_shape_are_named(tmp_path: Path) -> None:
    _, truth = nifti(tmp_path / "in" / "patient001")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 2), np.int16), np.eye(4)), truth)
    assert "labels of (2, 9, 8) beside an image of (3, 9, 8)" in convert_acdc(tmp_path).what


def test_a_patients_file_in_another_encoding_is_read(tmp_path: Path) -> None:
    nifti(tmp_path / "in" / "patient001")
    (tmp_path / "in" / "patient001" / "Info.cfg").write_bytes("ED: 1\nGroup: é\n".encode("latin-1"))
    acdc.convert(tmp_path / "in", tmp_path / "out", PrepareJob("acdc", tmp_path))
    assert len(list((tmp_path / "out" / "slices").glob("*.tif"))) == 3


def test_names_that_are_no_text_are_listed_and_refused(tmp_path: Path, ssbench: Any) -> None:
    home = own_folder(tmp_path / "in")
    name = os.fsdecode(os.fsencode(home / "images") + b"/caf\xe9.jpg")
    (home / "images" / "room_00.jpg").rename(name)
    answer = ssbench("import", home, "--name", "rooms", "--classes", "a,b,c", "--check")
    assert answer.code == 4
    assert "\\udce9" in answer.out
    assert "cannot be an id: give the file a plain name" in answer.out


@pytest.mark.parametrize("val", [0.999, 1e-9])
def test_a_val_share_leaves_an_image_for_each_subset_or_says_so(tmp_path: Path, val: float) -> None:
    home = own_folder(tmp_path / "in", count=2)
    assert import_folder(import_options(home, val=val), tmp_path / "data", workers=1).counts == {"train": 1, "val": 1}
    lone = own_folder(tmp_path / "lone", count=1)
    with pytest.raises(DataError, match="1 images are too few: 1 with masks for train and 0 for val") as caught:
        import_folder(import_options(lone, val=val), tmp_path / "other", workers=1)
    is_one_error(caught.value, "")
    assert not (tmp_path / "other" / "rooms").exists()


def test_a_split_that_cannot_be_drawn_is_said_before_anything_is_imported(tmp_path: Path) -> None:
    home = own_folder(tmp_path / "in", count=4)
    with pytest.raises(UsageError, match="cannot label 50 of 3"):
        import_folder(import_options(home, labeled=("50",)), tmp_path / "data", workers=1)
    assert not (tmp_path / "data" / "rooms").exists()


@pytest.mark.parametrize("command", [("prepare",), ("import",), ("splits", "show"), ("prepare", "toy", "--source")])
def test_a_name_too_long_for_a_path_is_no_fault_of_ours(tmp_path: Path, ssbench: Any, command: tuple[str, ...]) -> None:
    answer = ssbench(*command, "x" * 300, "--data-root", tmp_path)
    assert answer.code in (2, 4)
    assert "Traceback" not in answer.err
    assert "fix:" in answer.err


def test_a_split_named_like_nothing_on_earth_is_unknown(tmp_path: Path) -> None:
    for name in ("x" * 5000, "toy/custom/" + "x" * 300, "toy/custom/a\0b"):
        with pytest.raises(UsageError, match="no split"):
            Partition.read(name, tmp_path)
    assert manifest().version == 1
