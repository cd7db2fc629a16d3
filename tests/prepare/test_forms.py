"""Every form in which people bring their data, through the command line: what is taken as it is, what is refused once
with the option that mends it, and that the command with this option imports the right labels."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import brought
import numpy as np
import pytest
from own_folders import own_folder, picture
from PIL import Image
from ran import Ran

from ssbench.data.folder import read_labels
from ssbench.data.ledger import Ledger
from ssbench.data.open import open_dataset
from ssbench.splits.manifest import Partition

Cli = Callable[..., Ran]
DATA = Path("data")
GIVEN = ("--name", "mine", "--data-root", "data", "--workers", "1")


def imported(ssbench: Cli, *options: str, source: str = "brought") -> dict[str, object]:
    """The JSON report of an import that succeeds."""
    answer = ssbench("import", source, *GIVEN, *options, "--json")
    assert answer.code == 0, answer.err
    report: dict[str, object] = json.loads(answer.out)
    return report


def refused(ssbench: Cli, *options: str, source: str = "brought") -> Ran:
    """An import that is refused, finds the same with --check, and leaves nothing behind."""
    answer = ssbench("import", source, *GIVEN, *options)
    assert (answer.code, answer.out) == (4, ""), answer.err
    assert not DATA.exists()
    look = ssbench("import", source, *GIVEN, *options, "--check")
    assert look.code == 4
    both = f"{look.out}\n{look.err}".replace(" --check", "")  # what was listed is not said again in the error
    assert [line for line in answer.err.splitlines() if line.strip() not in both] == []
    return answer


def kinds(answer: Ran) -> list[str]:
    """Kinds of the groups of findings in an error, a line each."""
    return re.findall(r"^    ([a-z-]+): ", answer.err, re.MULTILINE)


def pasted(answer: Ran) -> list[str]:
    """The options that the error's last line adds to the command."""
    words = shlex.split(answer.err.split("fix:")[1])
    return words[words.index("1") + 1 :]


def holds(truth: brought.Truth) -> None:
    """The imported dataset has these labels, pictures of their size, and a right count of its labels."""
    dataset, counted = open_dataset("mine", DATA), read_labels(DATA / "mine")
    assert {id for subset in ("train", "val") for id in dataset.ids(subset)} <= truth.keys()
    for id, values in truth.items():
        assert np.array_equal(np.asarray(dataset.mask(id)), values), id
        assert dataset.image(id).size == values.shape[::-1]
        assert counted[id] == dataset.labels_in(id) == set(np.unique(values).tolist()) - {255}


TAKEN = [
    (brought.plain, ""),
    (brought.one_bit, "1-bit masks: values 0 and 1: 8"),
    (brought.four_bits, "masks of 4 bits a pixel: their values as stored: 8"),
    (brought.cmyk, "CMYK: converted to RGB: 1 (05)"),
    (brought.turned_portrait, "EXIF orientation: applied, the mask fits so: 8"),
    (brought.nested, ""),
    (brought.composed, "decomposed Unicode"),
    (brought.palettes, "palette masks: read by their colours"),
    (brought.labelme, "'__ignore__' stands for ignored pixels (255) and is no class"),
    (brought.stacks, "each page is an image, called NAME_p0 and on"),
    (brought.side_by_side, "images and masks lie side by side: masks end with _mask"),
    (brought.same_names, "4 names stand for different images in several subsets"),
    (brought.affixes, "without what all of them share"),
    (brought.three_bands_of_grey, "RGB masks of equal bands: read as grey values: 8"),
]


@pytest.mark.parametrize(("bring", "note"), TAKEN, ids=[bring.__name__ for bring, _ in TAKEN])
def test_what_has_one_meaning_is_taken_and_said(
    bring: Callable[[Path], brought.Truth], note: str, tmp_path: Path, ssbench: Cli
) -> None:
    truth = bring(tmp_path / "brought")
    report = imported(ssbench)
    holds(truth)
    assert any(note in line for line in report["notes"]), report["notes"]  # type: ignore[attr-defined]
    assert imported(ssbench)["state"] == "complete"


MENDED = [
    (brought.transparent, ["alpha"], ["--bands", "1,2,3"]),
    (brought.deep, ["depth"], ["--depth16", "full"]),
    (brought.turned_square, ["exif"], ["--exif", "apply"]),
    (brought.upside_down, ["exif"], ["--exif", "apply"]),
    (brought.gaps, ["value"], ["--map", "2=1", "--map", "5=2"]),
    (brought.spread, ["value"], ["--map", "127=1", "--map", "255=2"]),
    (brought.soft, ["value"], ["--map", "255=1", "--nearest"]),
    (brought.zero_255, ["value"], ["--map", "255=1"]),
    (brought.jpeg_masks, ["value", "lossy"], ["--map", "100=1", "--map", "200=2", "--nearest"]),
    (brought.other_sizes, ["size"], ["--skip-bad"]),
    (brought.cut, ["unreadable"], ["--skip-bad"]),
    (brought.bare_palettes, ["palette"], None),
    (brought.uneven_stacks, ["pages"], ["--pages", "first"]),
    (brought.devkit, ["not-listed"], ["--unlabeled"]),
    (brought.layers, ["layers"], ["--layers"]),
    (brought.layer_folders, ["layers"], ["--layers"]),
    (brought.gis, ["value"], ["--map", "-9999=255", "--map", "nan=255"]),
    (brought.unmasked, ["no-mask"], ["--unlabeled"]),
]


@pytest.mark.parametrize(("bring", "groups", "options"), MENDED, ids=[row[0].__name__ for row in MENDED])
def test_what_has_two_meanings_is_refused_once_and_the_command_it_names_imports_it(
    bring: Callable[[Path], brought.Truth], groups: list[str], options: list[str] | None, tmp_path: Path, ssbench: Cli
) -> None:
    truth = bring(tmp_path / "brought")
    answer = refused(ssbench)
    assert sorted(kinds(answer)) == sorted(groups), answer.err
    if options is None:  # the option that reads them would read them wrong: colours are missing
        assert "give the classes their colours" in answer.err
        (tmp_path / "brought" / "classes.txt").write_text(brought.COLOUR_LINES)
        imported(ssbench)
    else:
        assert sorted(pasted(answer)) == sorted(options), answer.err
        imported(ssbench, *pasted(answer))
    holds(truth)


def test_an_archive_is_read_like_the_folder_in_it(tmp_path: Path, ssbench: Cli) -> None:
    truth = brought.zipped(tmp_path / "brought")
    report = imported(ssbench, source="brought.zip")
    holds(truth)
    assert report["counts"] == {"train": 6, "val": 2, "test": 2}
    assert sorted(path.name for path in DATA.iterdir()) == [".mine.lock", "mine", "recipes", "splits"]
    (tmp_path / "bad.zip").write_bytes((tmp_path / "brought.zip").read_bytes()[:2000])
    answer = ssbench("import", "bad.zip", "--name", "bad", "--data-root", "elsewhere")
    assert answer.code == 4
    assert "bad.zip" in answer.err
    assert not Path("elsewhere").exists()


def test_a_list_of_a_devkit_says_what_each_image_is_for(tmp_path: Path, ssbench: Cli) -> None:
    brought.devkit(tmp_path / "brought")
    report = imported(ssbench, "--unlabeled")
    dataset = open_dataset("mine", DATA)
    assert dataset.ids("val") == ("04", "05")
    assert dataset.ids("train") == ("00", "01", "02", "03", "06", "07")
    assert dataset.unmasked() == {"06", "07"}
    assert report["splits"] == ["mine/custom/all"]
    (tmp_path / "brought" / "ImageSets" / "Segmentation" / "val.txt").write_text("04\n99\n")
    answer = ssbench("import", "brought", "--name", "other", "--data-root", "data", "--unlabeled")
    assert "list: lines of lists that fit no image: 1 (" in answer.err
    assert "first '99' (line 2)" in answer.err


def test_pairs_that_are_left_out_stand_in_the_ledger(tmp_path: Path, ssbench: Cli) -> None:
    brought.cut(tmp_path / "brought")
    report = imported(ssbench, "--skip-bad")
    ledger = Ledger.read(DATA / "mine")
    assert ledger is not None
    left = ledger.settings["skipped"]
    assert [[kind, Path(path).name] for kind, path in left] == [  # type: ignore[union-attr, str-unpack, misc]
        ["unreadable", "03.png"], ["unreadable", "04.png"], ["unreadable", "05.png"]
    ]  # fmt: skip
    assert "left out by --skip-bad, unreadable: 3 (03.png, 04.png, 05.png)" in report["notes"]  # type: ignore[operator]
    assert "it is empty" in ssbench("import", "brought", *GIVEN, "--check").out


def test_what_options_mean_to_pictures(tmp_path: Path, ssbench: Cli) -> None:
    brought.deep(tmp_path / "brought")
    for rule, name in (("full", "mine"), ("percentile", "other")):
        assert ssbench("import", "brought", "--name", name, "--data-root", "data", "--depth16", rule).code == 0
    values = np.asarray(Image.open(tmp_path / "brought" / "images" / "00.png"))
    full, stretched = (np.asarray(open_dataset(name, DATA).image("00"))[..., 0] for name in ("mine", "other"))
    assert np.array_equal(full, values // 257)
    low, high = np.percentile(values, (1, 99))
    assert np.array_equal(stretched, ((values - low) / (high - low) * 255).clip(0, 255).round().astype(np.uint8))
    brought.transparent(tmp_path / "glass")
    assert ssbench("import", "glass", "--name", "glass", "--data-root", "data", "--bands", "3,2,1").code == 0
    pixels = np.asarray(Image.open(tmp_path / "glass" / "images" / "00.png"))
    assert np.array_equal(np.asarray(open_dataset("glass", DATA).image("00")), pixels[..., 2::-1])
    for bands, words in (("1,2", "neither one nor three"), ("0", "neither one"), ("1,2,9", "names band 9")):
        answer = ssbench("import", "glass", "--name", "x", "--data-root", "data", "--bands", bands)
        assert words in answer.err


def test_a_square_picture_is_turned_or_left_as_the_option_says(tmp_path: Path, ssbench: Cli) -> None:
    brought.turned_square(tmp_path / "brought")
    stored = np.asarray(Image.open(tmp_path / "brought" / "images" / "00.jpg"))
    imported(ssbench, "--exif", "ignore")
    assert np.array_equal(np.asarray(open_dataset("mine", DATA).image("00")), stored)
    assert (DATA / "mine/images/00.jpg").read_bytes() == (tmp_path / "brought/images/00.jpg").read_bytes()
    imported(ssbench, "--exif", "apply", "--replace")
    assert np.array_equal(np.asarray(open_dataset("mine", DATA).image("00")), np.rot90(stored))


def test_layers_that_overlap_are_counted(tmp_path: Path, ssbench: Cli) -> None:
    truth = dict(brought.layers(tmp_path / "brought"))
    path = tmp_path / "brought" / "masks" / "00-door-0.png"
    door = np.asarray(Image.open(path)).copy()
    both = truth["00"] == 1
    brought.grey(np.where(both, 255, door)).save(path)
    report = imported(ssbench, "--layers")
    assert f"layers overlap in {both.sum()} pixels of 1 images" in "\n".join(report["notes"])  # type: ignore[arg-type]
    truth["00"] = np.where(both, 2, truth["00"])
    holds(truth)


def test_masks_without_names_of_their_classes_hide_no_other_finding(tmp_path: Path, ssbench: Cli) -> None:
    brought.cut(tmp_path / "brought")
    (tmp_path / "brought" / "classes.txt").unlink()
    answer = refused(ssbench)
    assert sorted(kinds(answer)) == ["classes", "unreadable"]
    answer = ssbench("import", "brought", *GIVEN, "--skip-bad")
    assert answer.code == 2
    assert "fix:   --classes class0,class1,class2 " in answer.err


def test_check_finds_a_name_that_is_taken(tmp_path: Path, ssbench: Cli) -> None:
    brought.plain(tmp_path / "brought")
    imported(ssbench)
    assert ssbench("import", "brought", *GIVEN, "--check").code == 0
    brought.grey_png(np.zeros((32, 40)), tmp_path / "brought" / "masks" / "00")
    for words in ((), ("--check",)):
        answer = ssbench("import", "brought", *GIVEN, *words)
        assert answer.code == 4
        assert "mine is there already, and holds something else" in answer.err
    assert "cannot be the name" in ssbench("import", "brought", "--name", "voc", "--check").err
    assert sorted(path.name for path in DATA.iterdir()) == [".mine.lock", "mine", "recipes", "splits"]


def test_edges_that_are_too_many_are_no_edges(tmp_path: Path, ssbench: Cli) -> None:
    brought.jpeg_masks(tmp_path / "brought")
    answer = refused(ssbench, "--nearest")
    assert "too many for soft edges between values that are classes" in answer.err
    assert pasted(answer) == ["--nearest", "--map", "100=1", "--map", "200=2"]


def test_pixels_whose_transparency_alone_says_something_are_asked_about(tmp_path: Path, ssbench: Cli) -> None:
    def mask(values: brought.Labels, path: Path, k: int) -> None:
        Image.fromarray(np.dstack([values, np.where(values == 0, 0, 255)]).astype(np.uint8)).save(f"{path}.png")

    truth = brought.write(tmp_path / "brought", brought.as_png, mask)
    for values in truth.values():
        values[0, 0] = 0
    for path in sorted((tmp_path / "brought" / "masks").iterdir()):
        page = Image.open(path)
        page.putpixel((0, 0), (0, 255))  # an opaque 0 beside transparent ones
        page.save(path)
    answer = refused(ssbench)
    assert kinds(answer) == ["alpha"]
    imported(ssbench, "--map", "transparent=255")
    assert np.asarray(open_dataset("mine", DATA).mask("00"))[0, 0] == 0
    assert (np.asarray(open_dataset("mine", DATA).mask("00")) == 255).sum() == (truth["00"] == 0).sum() - 1


CLASS_FILES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nfloor:0,0,0::\nwall:250,50,83::\ndoor:51,221,255::\n",
    "class_dict.csv": "name,r,g,b\nfloor,0,0,0\nwall,250,50,83\ndoor,51,221,255\n",
    "classes.json": '[{"name": "floor", "color": "#000000"}, {"name": "wall", "color": "#fa3253"}, '
    '{"name": "door", "color": [51, 221, 255]}]',
    "meta.json": '{"classes": [{"title": "floor", "color": "#000000"}, {"title": "wall", "color": "#FA3253"}, '
    '{"title": "door", "color": "#33DDFF"}]}',
    "labels.txt": "__ignore__\nfloor #000000\nwall #fa3253\ndoor #33ddff\n",
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_files_of_classes_of_label_tools_give_names_and_colours(name: str, tmp_path: Path, ssbench: Cli) -> None:
    truth = brought.palettes(tmp_path / "brought")
    (tmp_path / "brought" / "classes.txt").unlink()
    (tmp_path / "brought" / name).write_text(CLASS_FILES[name])
    imported(ssbench)
    holds(truth)
    assert open_dataset("mine", DATA).classes == ("floor", "wall", "door")


VALUED = {
    "data.yaml": "names: {0: floor, 2: wall, 5: door}\n",
    "_classes.csv": "Pixel Value, Class\n0, floor\n2, wall\n5, door\n",
    "labels.json": '{"floor": 0, "wall": 2, "door": 5}',
}


@pytest.mark.parametrize("name", VALUED)
def test_files_of_classes_that_give_values_are_taken_at_their_word(name: str, tmp_path: Path, ssbench: Cli) -> None:
    truth = brought.gaps(tmp_path / "brought")
    (tmp_path / "brought" / "classes.txt").unlink()
    (tmp_path / "brought" / name).write_text(VALUED[name])
    report = imported(ssbench)
    holds(truth)
    assert "the file of classes gives values of its own: 2 is 1, 5 is 2" in report["notes"]  # type: ignore[operator]
    brought.grey_png(np.ones((32, 40)), tmp_path / "brought" / "masks" / "00")
    answer = ssbench("import", "brought", *GIVEN)
    assert "value 1 is no class" in answer.err


def test_a_first_class_that_looks_like_ignored_pixels_is_pointed_out(tmp_path: Path, ssbench: Cli) -> None:
    brought.plain(tmp_path / "brought")
    report = imported(ssbench, "--classes", "void,floor,wall,door")
    assert "call the first __ignore__" in "\n".join(report["notes"])  # type: ignore[arg-type]


def test_a_group_stays_on_one_side(tmp_path: Path, ssbench: Cli) -> None:
    for patient in range(6):
        own_folder(tmp_path / "brought", 4, stem=f"patient{patient:02d}_slice")
    given = ("--classes", "a,b,c", "--labeled", "1_2")
    report = imported(ssbench, *given)
    assert r"ids look grouped (6 groups), and val was drawn image by image: --group '(.+)_slice_\d+'" in "\n".join(
        report["notes"]  # type: ignore[arg-type]
    )
    report = imported(ssbench, *given, "--group", r"(.+)_slice", "--replace")
    assert report["counts"] == {"train": 16, "val": 8}
    dataset, split = open_dataset("mine", DATA), Partition.read("mine/custom/1_2", DATA)
    sides = [{id.split("_")[0] for id in ids} for ids in (dataset.ids("val"), split.labeled, split.unlabeled)]
    assert [len(side) for side in sides] == [2, 2, 2]
    assert len(set.union(*sides)) == 6
    drawn = ssbench("splits", "make", "mine/custom/one", "--count", "1", "--data-root", "data")
    assert "1 of 4 groups are labelled: 4 images" in drawn.out
    shown = json.loads(ssbench("splits", "show", "mine/custom/one", "--data-root", "data", "--json").out)
    assert shown["leaks"]["val"]["shared"] == []
    for pattern, words in (("(", "is no pattern"), ("slice_00", "does not occur in 18 of 24"), ("pat", "one group")):
        answer = ssbench("import", "brought", "--name", "x", "--data-root", "data", *given, "--group", pattern)
        assert (answer.code, words in answer.err) == (2, True), answer.err


def test_a_draw_by_class_reaches_what_a_free_one_misses(tmp_path: Path, ssbench: Cli) -> None:
    names = ",".join(f"c{k}" for k in range(9))
    brought.write(
        tmp_path / "brought",
        brought.as_png,
        lambda v, p, k: brought.grey_png(np.where(v == 1, 1 + k % 8, 0), p),
        classes="",
        count=32,
    )
    free = imported(ssbench, "--classes", names, "--labeled", "8")
    assert "classes stand in no labelled mask: " in "\n".join(free["notes"])  # type: ignore[arg-type]
    assert "; --stratify draws so" in "\n".join(free["notes"])  # type: ignore[arg-type]
    by_class = imported(ssbench, "--classes", names, "--labeled", "8", "--stratify", "--replace")
    assert "stand in no labelled mask" not in "\n".join(by_class["notes"])  # type: ignore[arg-type]
    shown = json.loads(ssbench("splits", "show", "mine/custom/8", "--data-root", "data", "--json").out)
    assert all(shown["classes"][f"c{k}"]["images"] for k in range(9))


def test_splits_that_no_longer_fit_are_named(tmp_path: Path, ssbench: Cli) -> None:
    own_folder(tmp_path / "brought", 12)
    imported(ssbench, "--classes", "a,b,c", "--labeled", "1_2")
    report = imported(ssbench, "--classes", "a,b,c", "--seed", "3", "--replace")
    assert "split mine/custom/1_2 no longer fits: " in "\n".join(report["notes"])  # type: ignore[arg-type]


def test_a_picture_in_a_format_that_is_not_read_is_no_program_s_business(tmp_path: Path, ssbench: Cli) -> None:
    brought.plain(tmp_path / "brought")
    (tmp_path / "brought" / "images" / "03.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\n")
    (tmp_path / "brought" / "masks" / "04.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    answer = refused(ssbench)
    assert "it is a PostScript file" in answer.err
    assert "it is a Git LFS pointer" in answer.err


def test_a_name_that_needs_quotes_is_quoted_in_what_is_to_be_pasted(tmp_path: Path, ssbench: Cli) -> None:
    brought.zero_255(tmp_path / "my pictures")
    answer = refused(ssbench, source="my pictures")
    assert "fix:   ssbench import 'my pictures' --name mine" in answer.err
    assert "no folder 'gone'" in ssbench("import", "gone", "--name", "x").err
    assert picture("x").mode == "RGB"
