"""A folder of one's own, from import to a filled table, a report, a gate and an export."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from own_folders import NAMES, import_options, own_folder
from ran import Ran

from ssbench.prepare.own import import_folder
from ssbench.tables.own import write_own_table
from ssbench.tables.spec import PaperTable

Ssbench = Callable[..., Ran]
SMALL = ("--set", "net.weights=random", "--set", "net.encoder=test_resnet", "--set", "schedule.steps=2")


def test_an_import_writes_the_table_of_its_dataset(ssbench: Ssbench, tmp_path: Path) -> None:
    own_folder(tmp_path / "my rooms")
    root = ("--data-root", "my data")
    words = ("import", "my rooms", "--name", "rooms", "--classes", NAMES, "--labeled", "1_4", *root)
    ran = ssbench(*words)
    assert ran.code == 0, ran.err
    assert "  split: rooms/custom/full\n" in ran.out
    assert "  table: rooms/table1: 4 rows, 2 splits" in ran.out
    assert "  next: ssbench run rooms/table1 --data-root 'my data'\n" in ran.out
    table = PaperTable.read("rooms/table1", tmp_path / "my data")
    assert [(column.label, column.split) for column in table.columns] == [
        ("1/4 (2)", "rooms/custom/1_4"),
        ("full (8)", "rooms/custom/full"),
    ]
    assert [(row.label, row.recipe, row.over) for row in table.rows] == [
        ("Supervised", "own/supervised", None),
        ("FixMatch", "own/fixmatch", ["c0"]),
        ("UniMatch", "own/unimatch", ["c0"]),
        ("UniMatch + S4MC", "own/unimatch+s4mc", ["c0"]),
    ]
    planned = ssbench("plan", "rooms/table1", *root, "--json")
    assert planned.code == 0, planned.err
    runs = json.loads(planned.out)["runs"]
    assert len(runs) == 5
    assert {run["state"] for run in runs} == {"missing"}
    again = ssbench(*words, "--json")
    assert json.loads(again.out)["table"]["kept"] is True, "what a user edited stays"


def test_commands_that_are_suggested_work_when_pasted(ssbench: Ssbench, tmp_path: Path) -> None:
    own_folder(tmp_path / "rooms")
    ran = ssbench("import", "rooms", "--name", "rooms", "--classes", NAMES, "--data-root", "a b")
    suggested = [line.partition("next: ")[2] for line in ran.out.splitlines() if "next: " in line]
    assert suggested
    for line in suggested[:1]:
        assert ssbench(*shlex.split(line)[1:]).code == 0
    missing = ssbench("splits", "show", "voc/classic/1_16", "--data-root", "a b")
    assert "--data-root 'a b'" in missing.err


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A data root with an import of ten small pictures, a split of two labels, and a table of two rows."""
    import_folder(import_options(own_folder(tmp_path / "rooms"), labeled=("1_4",)), tmp_path / "data", workers=1)
    overrides = ["net.weights=random", "net.encoder=test_resnet", "schedule.steps=2"]
    write_own_table("rooms", tmp_path / "data", overrides=overrides, methods=["supervised", "unimatch"], plugins=[])
    return tmp_path / "data"


def test_from_the_table_to_runs_a_report_a_gate_and_an_export(ssbench: Ssbench, rooms: Path, tmp_path: Path) -> None:
    ran = ssbench("run", "rooms/table1", "--split", "rooms/custom/1_4", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert "done own/unimatch rooms/custom/1_4 seed 0: miou best " in ran.out
    cells = json.loads(ssbench("table", "rooms/table1", "--json").out)["cells"]
    measured = {cell["row"]: cell for cell in cells if cell["state"] == "measured"}
    assert set(measured) == {"Supervised", "UniMatch"}
    assert measured["UniMatch"]["marks"] == [], "a table of the user's own lists asks for them"
    assert [cell["state"] for cell in cells if "full" in cell["column"]] == ["not run"]
    every = json.loads(ssbench("table", "--dataset", "rooms", "--json").out)["cells"]
    assert [(cell["row"], cell["split"]) for cell in every] == [
        ("own/supervised", "rooms/custom/1_4"),
        ("own/unimatch", "rooms/custom/1_4"),
    ]
    done = json.loads(ssbench("plan", "rooms/table1", "--json").out)["totals"]
    assert (done["done"], done["missing"]) == (2, 1)
    status = json.loads(ssbench("status", "rooms/table1", "--json").out)["runs"]
    assert {row["recipe"] for row in status} == {"own/supervised", "own/unimatch"}
    assert json.loads(ssbench("status", "own/unimatch", "--json").out)["counts"]["done"] == 1
    report = ssbench("report", "rooms/table1", "-o", "page", "--pictures", "1", "--device", "cpu")
    assert report.code == 0, report.err
    assert "rooms/table1" in (tmp_path / "page" / "report.html").read_text()
    assert ssbench("gate", "rooms/table1", "--save", "base.json").code == 0
    gate = ssbench("gate", "rooms/table1", "--against", "base.json", "--json")
    assert gate.code == 0, gate.err
    assert {cell["verdict"] for cell in json.loads(gate.out)["cells"]} == {"identical"}
    best = "runs/own/unimatch/rooms-custom-1_4/seed0/best.pt"
    words = ("--recipe", "own/unimatch", "--set", "data.dataset=rooms")
    exported = ssbench("export", best, *words, "--form", "torchscript", "-o", "net.pt")
    assert exported.code == 0, exported.err
    shown = ssbench("data", "show", "rooms/custom/1_4", *words, "-o", "views.png")
    assert shown.code == 0, shown.err


def test_runs_with_set_are_found_by_the_same_set_and_listed_by_it(ssbench: Ssbench, rooms: Path) -> None:
    words = ("own/supervised", "--split", "rooms/custom/1_4", "--set", "optim.lr=0.01")
    assert ssbench("run", *words, "--device", "cpu").code == 0
    plain = json.loads(ssbench("table", "rooms/table1", "--json").out)["cells"]
    assert {cell["state"] for cell in plain} == {"not run"}
    noted = ssbench("table", "rooms/table1")
    pasted = "ssbench table rooms/table1 --set optim.lr=0.01"
    assert f"note: a cell has a run with other settings: {pasted}\n" in noted.err
    assert "note" not in ssbench(*shlex.split(pasted)[1:]).err, "they are shown now"
    assert ssbench("table", "rooms/table1", "--set", "optim.lr=0.01", "-o", "out", "--format", "csv").code == 0
    assert "measured" in (Path("out") / "rooms-table1.csv").read_text()
    varied = json.loads(ssbench("table", "rooms/table1", "--set", "optim.lr=0.01", "--json").out)["cells"]
    assert [cell["row"] for cell in varied if cell["state"] == "measured"] == ["Supervised"]
    assert "own/supervised optim.lr=0.01" in ssbench("table", "--dataset", "rooms").out
    planned = json.loads(ssbench("plan", *words, "--json").out)["runs"]
    assert [run["state"] for run in planned] == ["done"]
    assert ssbench("gate", "own/supervised", "--set", "optim.lr=0.01", "--save", "one.json").code == 0


def test_a_table_and_its_recipes_were_done_even_when_the_data_have_gone(ssbench: Ssbench, rooms: Path) -> None:
    """The values that rules took from the dataset are those of the record; another setting is another run."""
    words = ("own/supervised", "--split", "rooms/custom/1_4", "--device", "cpu")
    assert ssbench("run", "rooms/table1", "--device", "cpu", "--split", "rooms/custom/1_4").code == 0
    shutil.rmtree(rooms / "rooms")
    ran = ssbench("run", *words)
    assert (ran.code, ran.out.startswith("was done own/supervised rooms/custom/1_4 seed 0: ")) == (0, True), ran.err
    ran = ssbench("run", "rooms/table1", "--split", "rooms/custom/1_4", "--device", "cpu")
    assert (ran.code, ran.out.count("was done own/")) == (0, 2), ran.err
    shutil.rmtree(rooms)
    ran = ssbench("run", *words)
    assert (ran.code, ran.out.startswith("was done own/supervised")) == (0, True), ran.err
    assert ssbench("run", *words, "--set", "optim.lr=0.5").code == 2


def test_a_new_table_takes_rows_and_settings(ssbench: Ssbench, rooms: Path) -> None:
    kept = ssbench("new", "table", "rooms", *SMALL)
    assert (kept.code, "kept as it was" in kept.out) == (0, True)
    words = ("new", "table", "rooms", "--replace", "--method", "cps", "--plugin", "ipixmatch", *SMALL, "--json")
    assert json.loads(ssbench(*words).out)["recipes"] == ["own/cps", "own/unimatch+ipixmatch"]
    assert [row.label for row in PaperTable.read("rooms/table1", rooms).rows] == ["CPS", "UniMatch + IPixMatch"]
    assert ssbench("new", "table", "rooms", "--replace", "--set", "optim.power=1").code == 3
    assert ssbench("new", "table", "rooms", "--replace", "--method", "cqs").code == 3
    assert ssbench("new", "table", "nowhere").code == 3
    assert "rooms/table1" in ssbench("list", "tables").out
    assert "rooms/custom/1_4" in ssbench("list", "splits").out
    assert "imported: 8 train, 2 val, 3 classes" in ssbench("doctor").out


def test_a_dataset_may_not_be_called_as_a_folder_of_recipes(ssbench: Ssbench, tmp_path: Path) -> None:
    own_folder(tmp_path / "rooms")
    for name in ("mpmc", "own", "recipes"):
        assert ssbench("import", "rooms", "--name", name, "--classes", NAMES).code == 2


def test_a_dataset_without_records_says_how_to_make_some(ssbench: Ssbench) -> None:
    ran = ssbench("table", "--dataset", "rooms")
    assert (ran.code, "ssbench run rooms/table1" in ran.err) == (2, True)


@pytest.mark.real
def test_photographs_as_a_stranger_would_have_them(ssbench: Ssbench, shared: Path, tmp_path: Path) -> None:
    """CamVid under other names, from import to runs of its table, a report, a gate and an export."""
    classes = ("sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist",)
    for subset in ("train", "val"):
        for folder in ("photos", "labels"):
            (tmp_path / "my streets" / subset / folder).mkdir(parents=True)
        for k, path in enumerate(sorted((shared / "camvid" / subset).iterdir())[: 8 if subset == "train" else 3]):
            shutil.copy(path, tmp_path / "my streets" / subset / "photos" / f"IMG {k:04d}{path.suffix}")
            mask = shared / "camvid" / f"{subset}annot" / f"{path.stem}.png"
            shutil.copy(mask, tmp_path / "my streets" / subset / "labels" / f"IMG {k:04d}.png")
    words = ("import", "my streets", "--name", "streets", "--classes", *classes, "--map", "11=255", "--labeled", "1_4")
    ran = ssbench(*words, "--images", "photos", "--masks", "labels")
    assert ran.code == 0, ran.err + ran.out
    assert "  table: streets/table1: 4 rows, 2 splits" in ran.out
    small = ("--set", "net.weights=random", "--set", "net.encoder=test_resnet", "--set", "schedule.steps=2")
    small += ("--set", "views.crop=65")
    ran = ssbench("run", "streets/table1", "--split", "streets/custom/1_4", *small, "--device", "cpu")
    assert (ran.code, ran.out.count("done own/")) == (0, 4), ran.err
    cells = json.loads(ssbench("table", "streets/table1", *small, "--json").out)["cells"]
    assert sum(cell["state"] == "measured" for cell in cells) == 4
    report = ssbench("report", "streets/table1", *small, "-o", "page", "--pictures", "1", "--device", "cpu")
    assert report.code == 0, report.err
    assert "pavement" in (tmp_path / "page" / "report.html").read_text()
    assert ssbench("gate", "streets/table1", *small, "--save", "base.json").code == 0
    best = next((tmp_path / "runs").glob("own/supervised*/*/seed0/best.pt"))
    exported = ssbench("export", best, "--form", "torchscript", "-o", "net.pt")
    assert exported.code == 0, exported.err
