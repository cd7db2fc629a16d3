"""The decoded cache: the same pixels, refused when they would be others, and whole however its making ends."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from made_samples import bytes_of
from PIL import Image

from ssbench import keyed
from ssbench.data.cache import Cached, Mapped, Store
from ssbench.data.camvid import CamVid
from ssbench.data.dataset import Dataset
from ssbench.data.ledger import Ledger
from ssbench.data.open import open_dataset
from ssbench.data.toy import Toy
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.files import write_json
from ssbench.prepare import cache
from ssbench.prepare.convert import put_png, put_tiff
from ssbench.prepare.job import preparation_lock
from ssbench.prepare.prepare import check, prepare
from ssbench.prepare.verify import write_ledger
from ssbench.views.pipelines import eval_view, labeled_view, read_views, unlabeled_view
from ssbench.views.sample import Draw, Sample
from ssbench.views.strong import STRONG

RGB = keyed.rng("mapped").integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def prepared(small_camvid: Path, tmp_path: Path) -> Path:
    """A data root with ten small images."""
    prepare("camvid", tmp_path / "data", small_camvid, workers=1)
    return tmp_path / "data"


def files(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((root / "camvid" / ".cache").iterdir())}


def every(dataset: Dataset) -> list[str]:
    return [id for subset in ("train", "val", "test") for id in dataset.ids(subset)]


def read(root: Path) -> Cached:
    dataset = open_dataset("camvid", root)
    assert isinstance(dataset, Cached)
    return dataset


def test_a_cache_gives_the_pixels_of_the_files(prepared):
    report = cache.build("camvid", prepared, workers=1)
    assert (report.state, report.samples, report.bytes) == ("built", 10, 10 * 24 * 32 * 4)
    plain, cached = CamVid(prepared / "camvid"), read(prepared)
    assert (cached.name, cached.classes, cached.channels) == ("camvid", plain.classes, 3)
    for id in every(plain):
        for one, two in ((plain.image(id), cached.image(id)), (plain.mask(id), cached.mask(id))):
            assert (one.mode, one.size, one.tobytes()) == (two.mode, two.size, two.tobytes())
    assert sorted(files(prepared)) == ["00000.u8", "index.json"]
    assert check("camvid", prepared) == []


def test_no_file_is_opened_once_there_is_a_cache(prepared):
    cache.build("camvid", prepared, workers=1)
    dataset = read(prepared)
    shutil.rmtree(prepared / "camvid" / "images")
    shutil.rmtree(prepared / "camvid" / "masks")
    assert dataset.image("val_000000").size == dataset.mask("val_000000").size == (32, 24)


VIEWS = {
    "none": {"crop": 24},
    "unimatch": {"crop": 20},
    "stpp": {"crop": 20, "base": 30},
    "augseg": {"crop": 20, "base": 30},
    "u2pl": {"crop": 20},
    "cps": {"crop": 20},
    "cutmix_seg": {"crop": 12, "scale": (0.5, 1.5)},
    "acdc": {"crop": 20},
}


@pytest.mark.parametrize("weak", VIEWS)
def test_every_view_has_the_same_bytes_with_and_without_a_cache(prepared, weak):
    cache.build("camvid", prepared, workers=1)
    strong = weak if weak in STRONG else "unimatch"
    cfg = read_views({"weak": weak, "strong": strong, "box": "unimatch", **VIEWS[weak]})
    plain, cached = CamVid(prepared / "camvid"), read(prepared)
    for id in every(plain)[:5]:
        made = []
        for dataset in (plain, cached):
            draw, sample = Draw(1, 2, id, "a"), Sample.of(id, dataset.image(id), dataset.mask(id))
            made.append([bytes_of(labeled_view(sample, cfg, draw)), bytes_of(unlabeled_view(sample, cfg, draw, 2))])
            made[-1].append({"eval": eval_view(dataset.image(id), cfg).numpy().tobytes()})
        assert made[0] == made[1]


def test_a_grey_dataset_stays_grey(tmp_path):
    home = tmp_path / "data" / "grey"
    for folder in ("images", "masks"):
        (home / folder).mkdir(parents=True)
        for id in "ab":
            Image.fromarray(RGB[..., 0] % 3).save(home / folder / f"{id}.png")
    (home / "train.txt").write_text("a\n")
    (home / "val.txt").write_text("b\n")
    (home / "dataset.yaml").write_text(
        "name: grey\nclasses: [x, y, z]\npalette: [[0, 0, 0], [1, 1, 1], [2, 2, 2]]\nchannels: 1\n"
        "subsets: {train: 1, val: 1}\n"
    )
    write_ledger(home, "grey", {}, {"train": 1, "val": 1})
    assert cache.build("grey", tmp_path / "data", workers=1).bytes == 2 * 20 * 30 * 2
    assert open_dataset("grey", tmp_path / "data").image("a").mode == "L"


def test_float_slices_are_not_cached_as_bytes(tmp_path):
    home = tmp_path / "data" / "acdc"
    put_tiff(home / "slices" / "patient001_frame01_slice_1.tif", Image.fromarray(RGB[..., 0] / np.float32(255)))
    put_png(home / "labels" / "patient001_frame01_slice_1.png", Image.fromarray(RGB[..., 0] % 4))
    (home / "volumes.csv").write_text("volume,subset,slices\npatient001_frame01,test,1\n")
    write_ledger(home, "acdc", {}, {"test": 1})
    with pytest.raises(UsageError, match="acdc holds float images, and the cache holds bytes") as caught:
        cache.build("acdc", tmp_path / "data", workers=1)
    assert "leave out --cache" in caught.value.fix
    assert open_dataset("acdc", tmp_path / "data").image("patient001_frame01_slice_1").mode == "F"


@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0].copy()])
def test_a_mapped_picture_is_a_picture(pixels):
    plain = Image.fromarray(pixels)
    boxes = [(3, 2, 9, 12), (0, 0, 30, 20), (-2, -3, 4, 5), (25, 15, 33, 22), (0, 0, 0, 0), None]
    for box in boxes:
        assert Mapped(pixels).crop(box).tobytes() == plain.crop(box).tobytes()
    for flip in Image.Transpose:
        assert Mapped(pixels).transpose(flip).tobytes() == plain.transpose(flip).tobytes()
    assert Mapped(pixels).resize((7, 9)).tobytes() == plain.resize((7, 9)).tobytes()
    assert Mapped(pixels).getpixel((3, 4)) == plain.getpixel((3, 4))
    assert np.array_equal(np.asarray(Mapped(pixels)), pixels)
    assert Mapped(pixels).convert("L").tobytes() == plain.convert("L").tobytes()
    assert pickle.loads(pickle.dumps(Mapped(pixels))).tobytes() == plain.tobytes()  # noqa: S301  made here


def test_a_crop_and_numpy_read_no_more_than_they_need():
    picture = Mapped(RGB)
    assert np.shares_memory(np.asarray(picture), RGB)
    picture.crop((1, 1, 5, 5))
    assert picture._im is None, "nothing was given to Pillow"


def test_writing_into_a_mapped_picture_does_not_reach_the_cache(prepared):
    cache.build("camvid", prepared, workers=1)
    before = files(prepared)
    for picture in (read(prepared).image("val_000000"), read(prepared).mask("val_000000")):
        picture.paste(7, (0, 0, 32, 24))
        assert np.asarray(picture).max() == 7
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(read(prepared).mask("val_000000"))[0, 0] = 1
    assert files(prepared) == before


def test_a_dataset_goes_to_loader_workers_without_its_pixels(prepared):
    cache.build("camvid", prepared, workers=1)
    dataset = read(prepared)
    dataset.image("val_000000")
    data = pickle.dumps(dataset)
    assert len(data) < 5000
    assert pickle.loads(data).mask("val_000001").tobytes() == dataset.mask("val_000001").tobytes()  # noqa: S301


def test_what_else_a_dataset_offers_is_still_there(tmp_path):
    (tmp_path / "coarse.txt").write_text("train_0007\n")
    dataset = Cached(Toy(tmp_path), Store(tmp_path, 3, {}))
    assert dataset.coarse() == ("train_0007",)
    assert dataset.volumes("train") is None
    assert not hasattr(dataset, "nothing_of_the_kind")


def test_a_second_run_only_looks(prepared):
    cache.build("camvid", prepared, workers=1)
    before = {p: p.stat().st_mtime_ns for p in (prepared / "camvid" / ".cache").iterdir()}
    assert cache.build("camvid", prepared, workers=1).state == "complete"
    assert {p: p.stat().st_mtime_ns for p in before} == before


def refused(root: Path, *words: str) -> None:
    """Reading and checking both name what is wrong, and the command they give mends it."""
    with pytest.raises(DataError) as caught:
        open_dataset("camvid", root)
    (problem,) = check("camvid", root)
    for word in words:
        assert word in caught.value.what
        assert word in f"{problem.path} {problem.detail}"
    assert caught.value.fix == f"ssbench prepare camvid --cache --data-root {root}"
    assert cache.build("camvid", root, workers=1).state == "built"
    assert check("camvid", root) == []
    plain, cached = CamVid(root / "camvid"), read(root)
    assert all(plain.image(id).tobytes() == cached.image(id).tobytes() for id in every(plain))


def test_a_cache_of_other_files_is_refused_and_made_again(prepared, small_camvid):
    cache.build("camvid", prepared, workers=1)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(small_camvid / "val" / "val_000000.png")
    (prepared / "camvid" / "images" / "val_000000.png").unlink()
    prepare("camvid", prepared, small_camvid, workers=1)
    refused(prepared, "it was made from other files than are there now")
    assert not np.asarray(read(prepared).image("val_000000")).any()


def test_a_mended_dataset_keeps_its_cache(prepared, small_camvid):
    cache.build("camvid", prepared, workers=1)
    (prepared / "camvid" / "images" / "val_000000.png").unlink()
    prepare("camvid", prepared, small_camvid, workers=1)
    assert cache.build("camvid", prepared, workers=1).state == "complete"


def test_a_shard_that_is_missing_or_cut_short_is_refused(prepared):
    shard = prepared / "camvid" / ".cache" / "00000.u8"
    cache.build("camvid", prepared, workers=1)
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(prepared, "00000.u8 has 30719 of 30720 bytes")
    shard.unlink()
    refused(prepared, "00000.u8 is missing")


def test_an_index_that_cannot_be_read_is_refused(prepared):
    cache.build("camvid", prepared, workers=1)
    (prepared / "camvid" / ".cache" / "index.json").write_text('{"version": 1, ')
    refused(prepared, "this cache index is not JSON")


def test_pixels_of_another_jpeg_decoder_are_refused(prepared, monkeypatch):
    for path in sorted((prepared / "camvid" / "images").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    write_ledger(prepared / "camvid", "camvid", {}, {"train": 5, "val": 2, "test": 3})
    with monkeypatch.context() as patch:
        patch.setattr("ssbench.data.cache.features.version", lambda name: "1.2.3")
        cache.build("camvid", prepared, workers=1)
    refused(prepared, "libjpeg 1.2.3")


def test_changed_bytes_are_found_by_the_check(prepared):
    cache.build("camvid", prepared, workers=1)
    shard = prepared / "camvid" / ".cache" / "00000.u8"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    (problem,) = check("camvid", prepared)
    assert (problem.kind, problem.path) == ("changed", ".cache/00000.u8")
    assert cache.build("camvid", prepared, workers=1).state == "built"
    assert check("camvid", prepared) == []


def test_files_that_changed_since_they_were_prepared_are_not_cached(prepared):
    (prepared / "camvid" / "masks" / "val_000000.png").unlink()
    with pytest.raises(DataError, match=r"masks/val_000000.png is missing") as caught:
        cache.build("camvid", prepared, workers=1)
    assert "ssbench prepare camvid" in caught.value.fix


def test_what_is_not_prepared_is_not_cached(tmp_path):
    with pytest.raises(DataError, match="camvid is not prepared"):
        cache.build("camvid", tmp_path)


def test_many_shards_by_many_processes_and_a_run_that_goes_on(prepared, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 2 * 24 * 32 * 4)
    cache.build("camvid", prepared, workers=1)
    whole = files(prepared)
    assert [name for name in whole if name.endswith(".u8")] == [f"0000{n}.u8" for n in range(5)]
    index = json.loads(whole["index.json"])
    home = prepared / "camvid" / ".cache"
    (home / "index.json").unlink()  # as if it had ended after three shards
    plan = {"ledger": index["ledger"], "jpeg": None, "samples": 2}
    write_json(home / "plan.json", plan)
    for n, shard in enumerate(index["shards"][:3]):
        (home / f"0000{n}.json").write_text(json.dumps(shard))
    (home / ".00003.u8.x").write_bytes(b"half")
    kept = [(home / f"0000{n}.u8").stat().st_ino for n in range(3)]
    (home / "00004.u8").unlink()
    assert isinstance(open_dataset("camvid", prepared), CamVid), "an unfinished cache is not read"
    monkeypatch.setattr("ssbench.prepare.job.FEW", 1)
    assert cache.build("camvid", prepared, workers=2).state == "built"
    assert files(prepared) == whole
    assert [(home / f"0000{n}.u8").stat().st_ino for n in range(3)] == kept


def test_a_disk_too_small_is_said_before_anything_is_written(prepared, small_disk):
    shutil.copytree(prepared / "camvid", small_disk / "camvid")
    (small_disk / "ballast").write_bytes(bytes(512 * 1024 - 20_000 - used(small_disk)))
    with pytest.raises(DataError, match=r"the cache of camvid needs about 30.7 kB more, \d+.\d kB are free") as caught:
        cache.build("camvid", small_disk, workers=1)
    assert "--cache" in caught.value.fix
    assert not (small_disk / "camvid" / ".cache").exists()


def test_a_disk_that_fills_up_is_said_and_the_next_run_goes_on(prepared, small_disk, monkeypatch):
    shutil.copytree(prepared / "camvid", small_disk / "camvid")
    monkeypatch.setattr(cache, "SHARD", 2 * 24 * 32 * 4)
    monkeypatch.setattr(cache, "_need_room", lambda *_: None)  # as if others had filled it meanwhile
    (small_disk / "ballast").write_bytes(bytes(512 * 1024 - 20_000 - used(small_disk)))
    with pytest.raises(DataError, match="the disk is full"):
        cache.build("camvid", small_disk, workers=1)
    home = small_disk / "camvid" / ".cache"
    done = {p.name for p in home.glob("*.u8")}
    assert done
    assert not list(home.glob(".*"))
    assert isinstance(open_dataset("camvid", small_disk), CamVid)
    (small_disk / "ballast").unlink()
    assert cache.build("camvid", small_disk, workers=1).state == "built"
    assert check("camvid", small_disk) == []


def used(folder: Path) -> int:
    """Bytes in use on the file system of `folder`."""
    return shutil.disk_usage(folder).used


def test_two_at_once_end_in_one_whole_cache(prepared):
    ends: list[str] = []

    def work() -> None:
        try:
            ends.append(cache.build("camvid", prepared, workers=1).state)
        except SsbenchError as error:
            ends.append(error.what)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("built") == 1
    assert all(end in ("built", "complete") or "another process" in end for end in ends)
    assert check("camvid", prepared) == []


def test_nothing_is_cached_while_another_process_prepares(prepared):
    with (
        preparation_lock(prepared, "camvid"),
        pytest.raises(DataError, match="camvid is being prepared by another process"),
    ):
        cache.build("camvid", prepared)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from ssbench.prepare import cache
flush, left = os.fsync, [int(sys.argv[2])]
def counted(file):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(file)
if __name__ == "__main__":
    os.fsync, cache.SHARD = counted, 2 * 24 * 32 * 4
    cache.build("camvid", Path(sys.argv[1]), workers=1)
    assert "torch" not in sys.modules, "torch was imported"
"""


def test_a_run_killed_in_the_middle_is_mended(prepared, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, str(program), str(prepared)]
    killed = subprocess.run([*command, "5"], env=environment, check=False)  # the plan, three shards, and a half
    assert killed.returncode == -signal.SIGKILL
    home = prepared / "camvid" / ".cache"
    assert not (home / "index.json").exists()
    kept = {p.name: p.stat().st_ino for p in home.glob("[0-9]*.u8")}
    assert sorted(kept) == ["00000.u8", "00001.u8", "00002.u8"]
    assert list(home.glob(".00003.u8.*"))
    subprocess.run([*command, "0"], env=environment, check=True)
    assert {name: (home / name).stat().st_ino for name in kept} == kept, "what was done was not done again"
    assert sorted(files(prepared)) == [*(f"0000{n}.u8" for n in range(5)), "index.json"]
    assert check("camvid", prepared) == []
    assert isinstance(open_dataset("camvid", prepared), Cached)


def test_the_ledger_does_not_know_the_cache(prepared):
    before = Ledger.read(prepared / "camvid")
    cache.build("camvid", prepared, workers=1)
    assert prepare("camvid", prepared).state == "complete"
    assert Ledger.read(prepared / "camvid") == before


def test_the_command_makes_checks_and_refuses_a_cache(prepared, ssbench):
    where = ("camvid", "--data-root", prepared)
    said = ssbench("prepare", *where, "--cache")
    assert said.code == 0
    assert "camvid: complete in" in said.out
    assert re.search(r"cache: built in \d+ s: 10 samples, 0.0 MiB in", said.out)
    (report,) = json.loads(ssbench("prepare", *where, "--cache", "--json").out)["prepared"]
    assert (report["cache"]["state"], report["cache"]["samples"], report["cache"]["shards"]) == ("complete", 10, 1)
    (report,) = json.loads(ssbench("prepare", *where, "--json").out)["prepared"]
    assert report["cache"] is None
    assert ssbench("prepare", *where, "--check").code == 0
    (prepared / "camvid" / ".cache" / "00000.u8").unlink()
    said = ssbench("prepare", *where, "--check")
    assert said.code == 4
    assert f"changed: .cache 00000.u8 is missing; ssbench prepare camvid --cache --data-root {prepared}" in said.out
    assert f"fix:   ssbench prepare camvid --cache --data-root {prepared}" in said.err
    assert ssbench("prepare", *where, "--cache").code == 0
    assert ssbench("prepare", *where, "--check").code == 0
