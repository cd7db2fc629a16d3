"""Bringing a user's folder: layouts, what masks may look like, and everything that is wrong named at once."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from own_folders import NAMES, divided_folder, import_options, labels, own_folder, paletted, picture
from PIL import Image

from ssbench.data.ledger import Ledger
from ssbench.data.open import open_dataset
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.prepare.job import preparation_lock
from ssbench.prepare.own import ImportReport, check_folder, import_folder
from ssbench.prepare.own_classes import read_classmap
from ssbench.prepare.own_folder import FolderCheck, ImportOptions
from ssbench.prepare.own_layout import FolderLayout
from ssbench.prepare.own_masks import ConvertRules
from ssbench.splits.manifest import Partition


def run(home: Path, classes: str | None = NAMES, changes: tuple[str, ...] = (), **more: object) -> ImportReport:
    return import_folder(import_options(home, classes, changes, **more), home.parent / "data", workers=1)


def looked(home: Path, classes: str | None = NAMES, changes: tuple[str, ...] = (), **more: object) -> FolderCheck:
    return check_folder(import_options(home, classes, changes, **more), workers=1)


def fails(home: Path, *words: str, classes: str | None = NAMES, **more: object) -> DataError:
    """Nothing is imported, and the message has these words; looking only finds the same."""
    with pytest.raises(DataError) as caught:
        run(home, classes, **more)
    for word in words:
        assert word in caught.value.what, caught.value.what
    assert caught.value.fix
    assert not (home.parent / "data" / "rooms").exists()
    assert not (home.parent / "data" / ".rooms.partial").exists()
    assert not (home.parent / "data" / ".rooms.lock").exists()
    if " wrong with " in caught.value.what:
        assert looked(home, classes, **more).findings
    return caught.value


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Ten pairs in images/ and masks/."""
    return own_folder(tmp_path / "mine")


def mask(home: Path, k: int = 3) -> Path:
    return home / "masks" / f"room_{k:02d}.png"


def test_a_folder_of_pairs_is_imported(home):
    report = run(home)
    assert (report.state, report.counts, report.files) == ("imported", {"train": 8, "val": 2}, 23)
    said = report.json()
    assert said["masks"] == {"grey": 10}
    assert [row["class"] for row in said["classes"]] == ["floor", "wall", "door", "ignore"]
    assert sum(row["pixels"] for row in said["classes"]) == 10 * 40 * 32
    assert said["notes"] == ["no val folder: 2 images with masks are drawn for val (--val 0.2, seed 0)"]
    assert sorted(p.name for p in (home.parent / "data").iterdir()) == [".rooms.lock", "rooms"]
    dataset = open_dataset("rooms", home.parent / "data")
    for k in range(10):
        stored = (home.parent / "data" / "rooms" / "images" / f"room_{k:02d}.jpg").read_bytes()
        assert stored == (home / "images" / f"room_{k:02d}.jpg").read_bytes()
        assert dataset.mask(f"room_{k:02d}").tobytes() == labels(f"room{k}").tobytes()


@pytest.mark.parametrize("how", ["images/{}", "{}/images"])
def test_subsets_may_be_folders_inside_or_outside(tmp_path, how):
    report = run(divided_folder(tmp_path / "mine", how))
    assert report.counts == {"train": 8, "val": 4}
    assert report.check.notes == ()


def test_folders_may_have_other_names_and_masks_a_suffix(tmp_path):
    home = own_folder(tmp_path / "mine", images="shots", masks="truth")
    for path in sorted((home / "truth").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    layout = FolderLayout(images="shots", masks="truth", mask_suffix="_mask")
    assert run(home, layout=layout).counts == {"train": 8, "val": 2}
    (home / "shots").rename(home / "train")  # the folder of images may be called as a subset is
    assert not looked(home, layout=FolderLayout(images="train", masks="truth", mask_suffix="_mask")).findings
    (home / "train").rename(home / "shots")
    for words, given in (
        ("no folder of images", FolderLayout()),
        ("no folder of masks", FolderLayout(images="shots")),
    ):
        with pytest.raises(DataError, match=words) as caught:
            check_folder(import_options(home, layout=given))
        assert "NAME" in caught.value.fix


def test_images_of_all_usual_forms_come_out_readable(home):
    for k, suffix in enumerate((".png", ".bmp", ".tif", ".webp", ".JPEG")):
        old = home / "images" / f"room_{k:02d}.jpg"
        picture(f"x{k}", grey=k == 1).save(old.with_suffix(suffix))
        old.unlink()
    opaque = picture("a").convert("RGBA")
    opaque.save(home / "images" / "room_05.png")
    (home / "images" / "room_05.jpg").unlink()
    picture("liar").save(home / "images" / "room_06.jpg", format="PNG")
    run(home)
    stored = home.parent / "data" / "rooms" / "images"
    assert {p.stem: p.suffix for p in stored.iterdir()} == {
        **{f"room_{k:02d}": ".png" for k in (0, 1, 2, 3, 5, 6)},
        **{f"room_{k:02d}": ".jpg" for k in (4, 7, 8, 9)},
    }
    dataset = open_dataset("rooms", home.parent / "data")
    assert {dataset.image(f"room_{k:02d}").mode for k in range(10)} == {"RGB"}
    assert dataset.image("room_05").tobytes() == picture("a").tobytes()


def test_grey_images_can_stay_grey(home):
    for k in range(10):
        picture(f"g{k}", grey=True).save(home / "images" / f"room_{k:02d}.jpg")
    run(home, channels=1)
    dataset = open_dataset("rooms", home.parent / "data")
    assert (dataset.channels, dataset.image("room_00").mode) == (1, "L")
    picture("colour").save(home / "images" / "room_04.jpg")
    (finding,) = looked(home, channels=1).findings
    assert "mode 'RGB', not an 8-bit grey image (--grey was given)" in finding.detail


def test_palette_masks_are_read_by_index(home):
    for k in range(5):
        paletted(labels(f"room{k}")).save(mask(home, k))
    report = run(home)
    assert report.check.masks == {"palette": 5, "grey": 5}
    assert open_dataset("rooms", home.parent / "data").mask("room_02").tobytes() == labels("room2").tobytes()


COLOURED = {"floor": (10, 20, 30), "wall": (200, 0, 0), "door": (0, 0, 250), "ignore": (255, 255, 255)}


def test_colour_coded_masks_need_a_table_and_are_read_by_it(home):
    table = np.array([*COLOURED.values()], np.uint8)
    for k in range(10):
        values = np.asarray(labels(f"room{k}")).copy()
        values[:2] = 3
        Image.fromarray(table[values]).save(mask(home, k))
    error = fails(home, "10 20 30", "255 255 255", "are the most frequent of 4", "classes.txt")
    assert "1 colour" in error.what
    (home / "classes.txt").write_text("".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in COLOURED.items()))
    report = run(home, None)
    assert report.check.masks == {"colours": 10}
    dataset = open_dataset("rooms", home.parent / "data")
    assert dataset.classes == ("floor", "wall", "door")
    assert dataset.palette == tuple(COLOURED.values())[:3]
    got, wanted = np.asarray(dataset.mask("room_02")), np.asarray(labels("room2"))
    assert np.array_equal(got[2:], wanted[2:])
    assert (got[:2] == 255).all()


def test_a_colour_that_is_not_in_the_table_is_named_with_its_pixels(home):
    (home / "classes.txt").write_text("floor 0 0 0\nwall 1 1 1\ndoor 2 2 2\n")
    for k in range(2):
        page = Image.new("RGB", (40, 32), (1, 1, 1))
        page.putpixel((0, k), (9, 8, 7))
        page.save(mask(home, k))
    error = fails(home, "colour 9 8 7 is no class: 2 pixels in 2 masks", "room_00.png", classes=None)
    assert "1 colour" in error.what


def test_unknown_values_are_counted_and_can_be_mapped(home):
    for k in (3, 5):
        page = labels(f"room{k}")
        for x in range(k):
            page.putpixel((x, 0), 11)
        page.save(mask(home, k))
    fails(home, "1 value", "2 (masks/room_03.png", "value 11 is no class: 8 pixels in 2 masks", "--map 11=255")
    report = run(home, changes=("11=255",))
    assert report.check.classes[-1] == {"label": 255, "class": "ignore", "pixels": 8, "images": 2}
    assert open_dataset("rooms", home.parent / "data").mask("room_03").getpixel((0, 0)) == 255


def test_masks_of_0_and_255_are_not_taken_as_all_ignored(home):
    for k in range(10):
        labels(f"room{k}").point(lambda v: 255 if v else 0).save(mask(home, k))
    fails(home, "--map 255=1", classes="background,thing")
    assert run(home, "background,thing", ("255=1",)).check.classes[1]["pixels"] > 0
    meant = looked(home, "background,thing", ("255=255",))
    assert meant.findings == ()
    assert meant.notes[0] == "class 1 'thing' occurs in no mask"


def shares(home: Path) -> None:
    Image.fromarray(np.full((32, 40), 0.25, np.float32)).save(mask(home).with_suffix(".tif"))
    mask(home).unlink()


def two_pages(home: Path) -> None:
    labels("a").save(mask(home).with_suffix(".tif"), save_all=True, append_images=[labels("b")])
    mask(home).unlink()


def lossy(home: Path) -> None:
    labels("a").save(mask(home).with_suffix(".jpg"))
    mask(home).unlink()


def short(home: Path) -> None:
    mask(home).write_bytes(mask(home).read_bytes()[:-20])


def no_mask(home: Path) -> None:
    mask(home).unlink()


def no_image(home: Path) -> None:
    (home / "images" / "room_03.jpg").unlink()


def smaller(home: Path) -> None:
    labels("a", (32, 32)).save(mask(home))


def turned(home: Path) -> None:
    labels("a", (32, 40)).save(mask(home))


def two_of_a_stem(home: Path) -> None:
    picture("b").save(home / "images" / "room_03.png")


def glassy(home: Path) -> None:
    page = picture("a").convert("RGBA")
    page.putpixel((0, 0), (1, 2, 3, 4))
    (home / "images" / "room_03.jpg").unlink()
    page.save(home / "images" / "room_03.png")


def odd_name(home: Path) -> None:
    picture("b").save(home / "images" / "room\n.png")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shares, "1 number|value 0.25 is no class: 1280 pixels in 1 masks|--nearest"),
        (two_pages, "1 pages|(images/room_03.jpg): has 1 pages, its mask 2; --pages first reads"),
        (lossy, "1 lossy|(masks/room_03.jpg): is a JPEG: compression blurs labels|--nearest"),
        (short, "1 unreadable|(masks/room_03.png): cannot be read: it is cut short|--skip-bad"),
        (no_mask, "1 no-mask|(images/room_03.jpg): has no mask; --unlabeled keeps it for training"),
        (no_image, "1 no-image|(masks/room_03.png): has no image called room_03"),
        (smaller, "1 size|(images/room_03.jpg): is 40x32, its mask 32x32"),
        (turned, "1 size|sides exchanged: is the image turned by EXIF only?"),
        (two_of_a_stem, "1 duplicate|(images/room_03.png): has the stem of room_03.jpg"),
        (glassy, "1 alpha|(images/room_03.png): has an alpha channel that is not opaque|--bands 1,2,3"),
        (odd_name, "1 name|'room\\n' cannot be an id"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_imported(home, damage, words):
    good = home.parent / "good"
    shutil.copytree(home, good)
    damage(home)
    fails(home, "1 thing is wrong", *words.split("|"))
    shutil.rmtree(home)
    good.rename(home)
    assert run(home).state == "imported"


def test_everything_wrong_is_named_at_once(home):
    for k in range(8):
        short_mask = mask(home, k)
        short_mask.write_bytes(short_mask.read_bytes()[:-20])
    smaller(home)
    no_image(home)
    for k in range(4):
        picture(f"{k}").save(home / "images" / f"alone_{k}.png")
    error = fails(home, "12 things are wrong", "7 unreadable", "4 no-mask", "1 no-image")
    lines = error.what.splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:]] == ["unreadable", "no-mask", "no-image"]
    assert "7 (masks/room_00.png, masks/room_01.png, masks/room_02.png and 4 more): cannot be read" in lines[1]
    assert error.fix == "ssbench import FOLDER --name NAME --skip-bad --unlabeled"
    assert len(looked(home).findings) == 12


def test_an_image_in_train_and_val_is_found(tmp_path):
    home = divided_folder(tmp_path / "mine")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        shutil.copy(home / folder / "train" / f"train_00.{suffix}", home / folder / "val")
    fails(home, "1 duplicate", "val share an image")


def test_images_without_masks_become_unlabelled_ones(home):
    for k in (1, 4, 7):
        mask(home, k).unlink()
    report = run(home, unlabeled=True, labeled=("1_2",))
    assert report.counts == {"train": 8, "val": 2}
    assert report.splits == ("rooms/custom/1_2", "rooms/custom/all")
    bare = {"room_01", "room_04", "room_07"}
    half, every = (Partition.read(name, home.parent / "data") for name in report.splits)
    assert (len(half.labeled), len(half.unlabeled)) == (3, 5)
    assert set(every.unlabeled) == bare
    assert bare <= set(half.unlabeled)
    assert set(np.unique(open_dataset("rooms", home.parent / "data").mask("room_04"))) == {255}
    assert "images without a mask, kept as unlabelled ones: 3" in report.check.notes


def test_images_that_would_be_passed_over_are_named(tmp_path):
    home = divided_folder(tmp_path / "mine")
    (home / "images" / "train" / "empty").mkdir()
    (home / "notes").mkdir()
    assert not looked(home).findings
    picture("loose").save(home / "images" / "loose.png")
    (home / "images" / "holdout").mkdir()
    picture("held").save(home / "images" / "holdout" / "held.png")
    fails(home, "2 stray", "2 (images/holdout, images/loose.png): is not read")


def test_val_must_have_masks(tmp_path):
    home = divided_folder(tmp_path / "mine")
    (home / "masks" / "val" / "val_01.png").unlink()
    fails(home, "1 no-mask", "(images/val/val_01.jpg): has no mask", unlabeled=True)


def test_the_same_folder_again_changes_nothing(home):
    run(home)
    before = {p: p.stat().st_mtime_ns for p in (home.parent / "data" / "rooms").rglob("*")}
    again = run(home, labeled=("1_2",))
    assert (again.state, again.splits) == ("complete", ("rooms/custom/1_2",))
    assert run(home, labeled=("1_2",)).splits == ("rooms/custom/1_2",)
    assert {p: p.stat().st_mtime_ns for p in (home.parent / "data" / "rooms").rglob("*")} == before


def test_another_folder_under_the_same_name_has_to_be_meant(home):
    data = home.parent / "data"
    run(home, labeled=("1_2",))
    before = Ledger.read(data / "rooms")
    own_folder(home, 14)
    with pytest.raises(DataError, match="rooms is there already, and holds something else") as caught:
        run(home, labeled=("1_2",))
    assert "--replace" in caught.value.fix
    assert Ledger.read(data / "rooms") == before
    report = run(home, labeled=("1_2",), replace=True)
    assert report.counts == {"train": 11, "val": 3}
    assert len(Partition.read("rooms/custom/1_2", data).labeled) == 6
    assert not list(data.glob(".rooms.old"))


def test_a_split_of_ones_own_is_not_overwritten(home):
    lists = home.parent / "data" / "splits" / "rooms" / "custom" / "1_2"
    lists.mkdir(parents=True)
    (lists / "labeled.txt").write_text("room_00\n")
    with pytest.raises(UsageError, match="there are lists in that folder already"):
        run(home, labeled=("1_2",))
    assert (lists / "labeled.txt").read_text() == "room_00\n"


@pytest.mark.parametrize("name", ["voc", "toy", "splits", "downloads", "", "A", "a/b", "..", ".x"])
def test_names_that_cannot_be(home, name):
    with pytest.raises(UsageError, match="cannot be the name of a dataset of yours"):
        import_folder(ImportOptions(home, name, ConvertRules(read_classmap(NAMES, home, ()))), home.parent / "data")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"labeled": ("0",)}, "neither a fraction nor a count"),
        ({"labeled": ("1-8",)}, "neither a fraction nor a count"),
        ({"labeled": ("30",)}, "cannot label 30 of 8"),
        ({"val": 0.0}, "no share between 0 and 1"),
        ({"val": 1.0}, "no share between 0 and 1"),
    ],
)
def test_amounts_that_cannot_be(home, more, words):
    with pytest.raises(UsageError, match=words):
        run(home, **more)


def test_too_few_images(tmp_path):
    fails(own_folder(tmp_path / "mine", 1), "1 images are too few")
    fails(own_folder(tmp_path / "none", 0), "no images in images")
    fails(tmp_path / "nowhere", "no folder")


def test_who_is_refused_leaves_the_lock_of_the_one_that_works(home, monkeypatch):
    """The second starts before the first has its lock file, and is refused after."""
    data = home.parent / "data"
    exists = Path.exists

    def just_before(path: Path, **words: bool) -> bool:
        return path.name != ".rooms.lock" and exists(path, **words)

    with preparation_lock(data, "rooms"):
        monkeypatch.setattr(Path, "exists", just_before)
        with pytest.raises(DataError, match="another process"):
            run(home)
        monkeypatch.undo()
        assert (data / ".rooms.lock").exists()


def test_two_at_once_end_in_one_whole_dataset(home):
    ends: list[str] = []

    def work() -> None:
        try:
            ends.append(run(home).state)
        except SsbenchError as error:
            ends.append(error.what)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("imported") == 1
    assert all(end in ("imported", "complete") or "another process" in end for end in ends)


def test_a_disk_that_is_full(home, small_disk):
    for free, words in ((8_000, r"the disk is full: \d+.\d kB more needed"), (60_000, "the disk is full: 0 B free")):
        (small_disk / "ballast").write_bytes(bytes(512 * 1024 - free))
        with pytest.raises(DataError, match=words) as caught:
            import_folder(import_options(home), small_disk, workers=1)
        assert str(small_disk) in caught.value.where
        assert not list(small_disk.glob("*/*"))
        (small_disk / "ballast").unlink()
    assert import_folder(import_options(home), small_disk, workers=1).state == "imported"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "# mine\nfloor\n\nback wall\ndoor, left\n"),
        ("classes.txt", "\ufefffloor 1 2 3\r\nback wall\t4 5 6\r\ndoor, left: 7, 8, 9\r\nignore 0 0 0\r\n"),
        ("classes.yaml", "[floor, back wall, 'door, left']"),
        ("classes.yaml", "classes: {0: floor, 1: back wall, 2: 'door, left'}"),
        ("classes.yml", "floor: [1, 2, 3]\nback wall: [4, 5, 6]\n'door, left': [7, 8, 9]\nignore: [0, 0, 0]\n"),
    ],
)
def test_class_files_of_every_form(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    found = read_classmap(None, tmp_path, ["7=255", "9=1"])
    assert found.names == ("floor", "back wall", "door, left")
    assert found.palette == (((1, 2, 3), (4, 5, 6), (7, 8, 9)) if "1" in text and "2, 3" in text or "1 2 3" in text
                             else ((0, 0, 0), (128, 0, 0), (0, 128, 0)))  # fmt: skip
    assert found.void == ((0, 0, 0) if "ignore" in text else None)
    assert found.table[[0, 7, 9]].tolist() == [0, 255, 1]
    assert read_classmap(str(tmp_path / file), tmp_path / "elsewhere", ()).names == found.names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\na\n", "class 'a' stands twice"),
        ("", "0 class names"),
        ("a 1 2 3\nb\n", "class 'b' has no colour, others have"),
        ("a 1 2 3\nb 1 2 3\n", "two classes have the colour"),
        ("a 1 2 300\n", "is no colour"),
        ("\n".join(f"c{k}" for k in range(256)), "256 class names"),
    ],
)
def test_class_files_that_cannot_be(tmp_path, text, words):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_classmap(None, tmp_path, ())


@pytest.mark.parametrize("change", ["11", "11=", "11=3", "a=b", "=1", "1=-1", "nan", "9" * 40 + "=1"])
def test_changes_that_cannot_be(tmp_path, change):
    with pytest.raises(UsageError, match="is not VALUE=LABEL"):
        read_classmap(NAMES, tmp_path, [change])


def test_classes_have_to_be_named(tmp_path):
    assert not read_classmap(None, tmp_path, ()).is_named
    home = own_folder(tmp_path / "mine")
    with pytest.raises(UsageError, match="the classes have no names") as caught:
        run(home, None)
    assert caught.value.fix.startswith("--classes class0,class1,class2 ")
    smaller(home)
    fails(home, "2 things are wrong", "1 size", "1 classes", classes=None)
    with pytest.raises(UsageError, match=r"this file gone.txt is not there"):
        read_classmap(str(tmp_path / "gone.txt"), tmp_path, ())
    (tmp_path / "classes.yaml").write_text("{a: [")
    with pytest.raises(UsageError, match=r"this file classes.yaml is not YAML"):
        read_classmap(None, tmp_path, ())


def test_the_command_looks_imports_and_says_what_comes_next(home, ssbench):
    given = ("import", home, "--name", "rooms", "--classes", NAMES, "--data-root", "data")
    looked = ssbench(*given, "--check")
    assert (looked.code, looked.err) == (0, "")
    assert "0  floor " in looked.out
    assert not Path("data").exists()
    done = ssbench(*given, "--labeled", "1_4")
    assert done.code == 0
    assert "rooms: imported in" in done.out
    assert "next: ssbench run rooms/table1 --data-root data" in done.out
    assert json.loads(ssbench(*given, "--labeled", "1/4", "--json").out)["splits"] == ["rooms/custom/1_4"]
    assert "rooms\timported\tdata/rooms" in ssbench("list", "datasets", "--data-root", "data").out
    shown = ssbench("splits", "show", "rooms/custom/1_4", "--data-root", "data", "--json")
    assert json.loads(shown.out)["classes"]["door"]["images"] == 2
    drawn = ssbench("splits", "make", "rooms/custom/two", "--count", "2", "--data-root", "data", "--json")
    assert json.loads(drawn.out)["labeled"]["count"] == 2


def test_the_command_names_what_is_wrong(home, ssbench):
    given = ("import", home, "--name", "rooms", "--classes", NAMES, "--data-root", "data")
    no_mask(home)
    smaller(own_folder(home, 5))
    said = ssbench(*given, "--check", "--json")
    assert (said.code, [f["kind"] for f in json.loads(said.out)["findings"]]) == (4, ["size"])
    assert "1 thing is wrong" in said.err
    no_image(home)
    said = ssbench(*given)
    assert (said.code, said.out) == (4, "")
    assert "(masks/room_03.png): has no image called room_03" in said.err
    assert not Path("data").exists()


def test_check_lists_each_finding_once(home, ssbench):
    no_image(home)
    said = ssbench("import", home, "--name", "rooms", "--classes", NAMES, "--check")
    assert said.code == 4
    assert (said.out.count("room_03.png"), said.err.count("room_03.png")) == (1, 0)
    assert "1 thing is wrong" in said.err


def test_a_picture_of_train_that_stands_in_val_under_another_name_is_noted(tmp_path):
    home = divided_folder(tmp_path / "mine")
    trained, held = (sorted((home / "images" / subset).iterdir())[0] for subset in ("train", "val"))
    assert not [note for note in looked(home).notes if "byte for byte" in note]
    held.write_bytes(trained.read_bytes())
    (note,) = (note for note in run(home).check.notes if "byte for byte" in note)
    assert f"1 ({trained.stem} = {held.stem})" in note


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["here.log"], 4, "this is no training log of UniMatch, UniMatch V2, AugSeg or PrevMatch"),
        (["nowhere", "--name", "x"], 4, "no folder 'nowhere'"),
        (["mine"], 2, "the dataset needs a name"),
        (["mine", "--name", "x"], 2, "the classes have no names"),
        (["mine", "--name", "voc", "--classes", "a,b,c"], 2, "'voc' cannot be the name of a dataset of yours"),
        (["mine", "--name", "x", "--classes", "a,b,c", "--labeled", "many"], 2, "--labeled 'many' is neither"),
        (["mine", "--name", "x", "--classes", "a,b,c", "--map", "3"], 2, "--map '3' is not VALUE=LABEL"),
    ],
)
def test_the_command_refuses_what_cannot_be(home, ssbench, words, code, message):
    Path("here.log").write_text("epoch 1")
    said = ssbench("import", *words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert "fix:" in said.err
