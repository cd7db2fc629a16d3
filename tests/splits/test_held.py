"""Lists of a user's own, held against their dataset: the forms that are read, what is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import brought
import numpy as np
import pytest
from own_folders import own_folder
from ran import SMALL, Ran

from ssbench.data.dataset import Dataset
from ssbench.data.open import open_dataset
from ssbench.errors import DataError
from ssbench.splits.groups import guess_grouping
from ssbench.splits.hold import hold
from ssbench.splits.manifest import Partition

Cli = Callable[..., Ran]
Form = Callable[[list[str]], str]
IMPORT = ("--name", "rooms", "--data-root", "data", "--workers", "1")
RECIPE = SMALL.replace("dataset: toy", "dataset: rooms").replace("report: test", "report: val")
RUN = ("run", "rooms.yaml", "--data-root", "data", "--device", "cpu")


@pytest.fixture
def rooms(tmp_path: Path, ssbench: Cli) -> Path:
    """A data root with the dataset "rooms": 16 images for train, 4 for val."""
    own_folder(tmp_path / "mine", 20)
    assert ssbench("import", "mine", "--classes", "a,b,c", *IMPORT).code == 0
    return tmp_path / "data"


def lists(where: Path, labeled: Iterable[str], unlabeled: Iterable[str], form: Form | None = None) -> str:
    where.mkdir(parents=True, exist_ok=True)
    for role, ids in (("labeled", labeled), ("unlabeled", unlabeled)):
        listed = list(ids)
        text = "".join(f"{id}\n" for id in listed) if form is None else form(listed)
        (where / f"{role}.txt").write_bytes(text.encode())
    (where / "split.yaml").write_text("dataset: rooms\n")
    return str(where)


def lines(form: str, head: str = "") -> Form:
    return lambda ids: head + "".join(form.format(id=id, k=k) + "\n" for k, id in enumerate(ids))


FORMS: dict[str, Form] = {
    "endings": lines("{id}.jpg"),
    "columns": lines("images/{id}.jpg masks/{id}.png"),
    "tabs": lines("/images/{id}.jpg\t/masks/{id}.png"),
    "absolute": lines("/home/me/data/images/train/{id}.jpg"),
    "windows": lines("images\\{id}.jpg"),
    "carriage returns": lambda ids: "\ufeff" + "".join(f"{id}\r\n" for id in ids),
    "comments": lines("  {id}  ", "# mine\n\n"),
    "quotes": lines('"{id}"'),
    "capitals": lambda ids: "".join(f"{id.upper()}\n" for id in ids),
    "pandas": lines("{k},{id}", ",image\n"),
    "header": lines("{id}", "image_id\n"),
    "table": lines("{id}.jpg,{id}.png", "image,mask\n"),
    "quoted table": lines('"{k}";"{id}.jpg"', '"";"file name"\n'),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_any_usual_form_names_the_same_images(form: str, rooms: Path, tmp_path: Path) -> None:
    train = open_dataset("rooms", rooms).ids("train")
    plain = Partition.read(lists(tmp_path / "plain", train[:4], train[4:]), rooms)
    other = Partition.read(lists(tmp_path / "other", train[:4], train[4:], FORMS[form]), rooms)
    assert (other.labeled, other.unlabeled, other.sha256) == (plain.labeled, plain.unlabeled, plain.sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: [*ids, "room_99"], "labeled.txt: 1 of 5 lines name no image of rooms: 'room_99' (line 5)"),
        (
            lambda ids: ["a", "b", "c", "d"],
            "4 of 4 lines name no image of rooms: 'a' (line 1), 'b' (line 2), 'c' (line 3) and 1",
        ),
        (lambda ids: [*ids, f"images/{ids[0]}.jpg"], "stands here twice, first on line 1"),
    ],
)
def test_lines_that_name_no_image_are_counted_and_shown(
    change: Callable[[list[str]], list[str]], words: str, rooms: Path, tmp_path: Path
) -> None:
    train = open_dataset("rooms", rooms).ids("train")
    with pytest.raises(DataError) as caught:
        Partition.read(lists(tmp_path / "own", change(list(train[:4])), train[4:]), rooms)
    assert words in caught.value.what
    assert "labeled.txt:" in caught.value.where
    if "room_99" in words:
        assert "nearest known: 'room_" in caught.value.fix


def test_a_list_out_of_powershell_is_named_with_the_command_that_converts_it(rooms: Path, tmp_path: Path) -> None:
    train = open_dataset("rooms", rooms).ids("train")
    where = lists(tmp_path / "own", train[:4], train[4:])
    (tmp_path / "own" / "labeled.txt").write_bytes("".join(f"{id}\r\n" for id in train[:4]).encode("utf-16"))
    with pytest.raises(DataError, match="list labeled.txt is UTF-16 text") as caught:
        Partition.read(where, rooms)
    assert caught.value.fix.startswith("iconv -f UTF-16 -t UTF-8")


def test_an_image_of_val_is_not_trained_on_unless_that_is_meant(rooms: Path, tmp_path: Path, ssbench: Cli) -> None:
    dataset = open_dataset("rooms", rooms)
    train, held = dataset.ids("train"), dataset.ids("val")[0]
    split = lists(tmp_path / "own", [*train[:4], held], train[4:])
    Path("rooms.yaml").write_text(RECIPE)
    answer = ssbench(*RUN, "--split", split)
    assert answer.code == 4
    assert f"1 images that rooms/custom/own trains on are in val: {held}" in answer.err
    assert "--allow-leak" in answer.err
    assert not Path("runs").exists()
    answer = ssbench(*RUN, "--split", split, "--allow-leak")
    assert answer.code == 0, answer.err
    assert answer.err.count("allowed by --allow-leak") == 1
    (record,) = (json.loads(path.read_text()) for path in Path("results").rglob("seed0*.json"))
    assert any("allowed by --allow-leak" in note for note in record["list_notes"])
    assert record["resolved"]["data"]["allow_leak"] is True


def test_a_list_from_before_val_was_drawn_anew_is_told_so(rooms: Path, ssbench: Cli) -> None:
    assert ssbench("splits", "make", "rooms/custom/half", "--fraction", "1/2", "--data-root", "data").code == 0
    again = ssbench("import", "mine", "--classes", "a,b,c", *IMPORT, "--seed", "5", "--replace")
    assert "note: split rooms/custom/half no longer fits" in again.out
    Path("rooms.yaml").write_text(RECIPE)
    answer = ssbench(*RUN, "--split", "rooms/custom/half")
    assert answer.code == 4
    assert "(val was drawn anew since this list was: draw the list again)" in answer.err


def test_labelled_images_without_a_mask_are_refused(tmp_path: Path, ssbench: Cli) -> None:
    brought.unmasked(tmp_path / "brought")
    assert ssbench("import", "brought", *IMPORT, "--unlabeled").code == 0
    dataset = open_dataset("rooms", Path("data"))
    bare = [id for id in dataset.ids("train") if id in dataset.unmasked()]
    masked = [id for id in dataset.ids("train") if id not in bare]
    Path("rooms.yaml").write_text(RECIPE)
    for labeled, words in ((bare[:4], "4 of 4"), ([*masked[:3], bare[0]], "1 of 4")):
        rest = [id for id in dataset.ids("train") if id not in labeled]
        answer = ssbench(*RUN, "--split", lists(tmp_path / "own", labeled, rest))
        assert answer.code == 4
        assert f"{words} labelled images have no mask: {bare[0]}" in answer.err


def test_classes_that_no_labelled_mask_has_are_said_once_and_stored(rooms: Path, tmp_path: Path, ssbench: Cli) -> None:
    dataset = open_dataset("rooms", rooms)
    train = dataset.ids("train")
    for id in train[:4]:
        values = np.asarray(dataset.mask(id)).copy()
        values[values == 2] = 0
        brought.grey(values).save(tmp_path / "mine" / "masks" / f"{id}.png")
    assert ssbench("import", "mine", "--classes", "a,b,c", *IMPORT, "--replace").code == 0
    Path("rooms.yaml").write_text(RECIPE)
    answer = ssbench(*RUN, "--split", lists(tmp_path / "own", train[:4], train[4:]))
    assert answer.code == 0, answer.err
    said = "1 of 3 classes stand in no labelled mask: c"
    assert answer.err.count(said) == 1
    (record,) = (json.loads(path.read_text()) for path in Path("results").rglob("seed0*.json"))
    assert record["list_notes"] == [said]


def test_masks_that_are_ignored_everywhere_are_said_and_all_of_them_refused(rooms: Path, tmp_path: Path) -> None:
    dataset = open_dataset("rooms", rooms)
    train = dataset.ids("train")
    for id in train[:2]:
        brought.grey(np.full((32, 40), 255)).save(rooms / "rooms" / "masks" / f"{id}.png")
    (rooms / "rooms" / ".labels.json").unlink()  # masks are read where the import's count is not there
    fresh = open_dataset("rooms", rooms)
    some = Partition.read(lists(tmp_path / "some", train[:4], train[4:]), rooms)
    assert hold(some, fresh, None) == (f"2 of 4 labelled masks are ignored (255) everywhere: {train[0]}, {train[1]}",)
    every = Partition.read(lists(tmp_path / "every", train[:2], train[2:]), rooms)
    with pytest.raises(DataError, match="every pixel of all 2 labelled masks is ignored"):
        hold(every, fresh, None)


class Heart(Dataset):
    """Patients of ACDC: 1 to 4 for train, 5 for val; two slices each."""

    name, classes, palette = "acdc", ("ground", "heart"), ((0, 0, 0), (255, 0, 0))

    def ids(self, subset: str) -> tuple[str, ...]:
        patients = {"train": range(1, 5), "val": range(5, 6)}.get(subset, range(0))
        return tuple(f"patient{p:03d}_frame01_slice_{k}" for p in patients for k in (1, 2))

    def image(self, id: str) -> object:  # type: ignore[override]
        raise NotImplementedError

    def mask(self, id: str) -> object:  # type: ignore[override]
        return np.array([[0, 1]], np.uint8)


def heart(home: Path, labeled: Iterable[str], unlabeled: Iterable[str]) -> Partition:
    dataset = Heart(home)
    for subset in ("train", "val"):
        (home / "acdc").mkdir(exist_ok=True)
        (home / "acdc" / f"{subset}.txt").write_text("".join(f"{id}\n" for id in dataset.ids(subset)))
    where = lists(home / "own", labeled, unlabeled)
    (home / "own" / "split.yaml").write_text("dataset: acdc\n")
    return Partition.read(where, home)


def test_slices_of_a_patient_stay_together(tmp_path: Path) -> None:
    dataset = Heart(tmp_path)
    slices = dataset.ids("train")
    assert hold(heart(tmp_path, slices[:2], slices[2:]), dataset, None) == ()
    with pytest.raises(DataError, match="1 patients are labelled in part: patient002") as caught:
        hold(heart(tmp_path, slices[:3], slices[3:]), dataset, None)
    assert "--allow-leak" in caught.value.fix
    assert hold(heart(tmp_path, slices[:3], slices[3:]), dataset, None, allow_leak=True)
    leaked = [*slices[:2], "patient005_frame01_slice_1"]
    with pytest.raises(DataError, match="1 images that acdc/custom/own trains on are in val"):
        hold(heart(tmp_path, leaked, slices[2:]), dataset, None)


def test_a_list_of_volumes_is_told_to_list_their_slices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 lines name no image of acdc: 'patient001_frame01'") as caught:
        heart(tmp_path, ["patient001_frame01"], Heart(tmp_path).ids("train")[2:])
    assert "is a whole volume or folder; list its 2 images: patient001_frame01_slice_1" in caught.value.fix


def test_a_group_of_val_is_no_more_trained_on_than_its_images(tmp_path: Path, ssbench: Cli) -> None:
    for patient in range(5):
        own_folder(tmp_path / "mine", 4, stem=f"p{patient}")
    assert ssbench("import", "mine", "--classes", "a,b,c", *IMPORT).code == 0
    data = Path("data")
    train = open_dataset("rooms", data).ids("train")
    partition = Partition.read(lists(tmp_path / "own", train[:4], train[4:]), data)
    hold(partition, open_dataset("rooms", data), None)
    card = data / "rooms" / "dataset.yaml"
    card.write_text(card.read_text() + "group: '(p\\d)_'\n")  # val was drawn image by image, and now has groups
    with pytest.raises(DataError, match=r"are in val by their group: p"):
        hold(partition, open_dataset("rooms", data), None)
    shown = json.loads(ssbench("splits", "show", str(tmp_path / "own"), "--data-root", "data", "--json").out)
    assert shown["leaks"]["val"]["shared"]


def test_a_name_that_is_nearly_one_of_ones_own_splits_is_told_that_one(rooms: Path, ssbench: Cli) -> None:
    assert ssbench("splits", "make", "rooms/custom/half", "--fraction", "1/2", "--data-root", "data").code == 0
    answer = ssbench("splits", "show", "rooms/custom/halv", "--data-root", "data")
    assert answer.code == 2
    assert "did you mean 'rooms/custom/half' or" in answer.err


@pytest.mark.parametrize(
    ("ids", "pattern"),
    [
        ([f"patient{p:02d}_slice{s:02d}" for p in range(6) for s in range(8)], r"(.+)_slice\d+"),
        ([f"scene{p}/{s:03d}" for p in range(4) for s in range(5)], "(.+)/"),
        ([f"{p:02d}_p{s}" for p in range(5) for s in range(3)], r"(.+)_p\d+"),
        ([f"room_{k:02d}" for k in range(40)], None),
        ([f"{k:03d}" for k in range(40)], None),
        ([f"{p}_{s}" for p in range(30) for s in range(1)], None),
    ],
)
def test_names_that_look_grouped(ids: list[str], pattern: str | None) -> None:
    guess = guess_grouping(ids)
    assert (guess[0] if guess else None) == pattern


def test_only_images_with_masks_are_drawn(tmp_path: Path, ssbench: Cli) -> None:
    brought.unmasked(tmp_path / "brought")
    assert ssbench("import", "brought", *IMPORT, "--unlabeled").code == 0
    dataset = open_dataset("rooms", Path("data"))
    drawn = ssbench("splits", "make", "rooms/custom/full", "--fraction", "1", "--data-root", "data", "--json")
    assert json.loads(drawn.out)["labeled"]["count"] == len(set(dataset.ids("train")) - dataset.unmasked())
