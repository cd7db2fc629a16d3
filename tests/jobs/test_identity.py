"""A score is a score of its data and code: relabelled data, an edited plug-in, other weights, a raised version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_folders import NAMES, own_folder
from PIL import Image
from ran import ROOT, SMALL, Ran

from ssbench.certify.small import tiny_net
from ssbench.methods.fixmatch import FixMatch

Command = Callable[..., Ran]
ROOMS = """\
data: {dataset: rooms, workers: 0}
views: {weak: unimatch, strong: unimatch, box: unimatch, crop: 24}  # ours
net: {name: deeplabv3plus, encoder: test_resnet, weights: random, wide: 32}  # ours
method: {name: fixmatch}  # ours
optim: {lr: 0.01}  # ours
schedule: {epochs: 1, labeled_batch: 2, unlabeled_batch: 2}  # ours
eval: {few: 2}  # ours
"""
OWN = """\
from dataclasses import replace
from typing import Literal

from ssbench.plugins.base import Plugin, PluginConfig


class Keep(Plugin):
    class Config(PluginConfig):
        name: Literal["keep"] = "keep"

    def refine(self, pseudo, t):
        return replace(pseudo, keep=pseudo.conf > 0.5)
"""
RUN = ("run", "rooms.yaml", "--split", "rooms/custom/4")


def import_rooms(ssbench: Command, *more: str) -> None:
    ran = ssbench("import", "folder", "--name", "rooms", "--classes", NAMES, "--labeled", "4", *more)
    assert ran.code == 0, ran.err


def relabel(folder: Path) -> None:
    """Turn every mask upside down: the same pictures and ids under other labels."""
    for path in (folder / "masks").iterdir():
        with Image.open(path) as mask:
            turned = mask.transpose(Image.Transpose.ROTATE_180)
        turned.save(path)


@pytest.fixture
def rooms(ssbench: Command) -> Command:
    """An empty folder with a small imported dataset and a recipe for it."""
    own_folder(Path("folder"), 12)
    import_rooms(ssbench)
    Path("rooms.yaml").write_text(ROOMS)
    return ssbench


@pytest.fixture
def small(ssbench: Command, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """An empty folder with the small recipe on toy data."""
    monkeypatch.setenv("SSBENCH_DATA", str(toy_data))
    Path("small.yaml").write_text(SMALL.replace("epochs: 2", "epochs: 1").replace("plugin: {name: s4mc}  # ours\n", ""))
    return ssbench


def last_line(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out.strip().splitlines()[-1]


def records(name: str = "rooms") -> list[Path]:
    return sorted(Path("results").glob(f"custom/{name}*/*/seed*.json"))


def stale(ssbench: Command) -> list[str]:
    """Why each stale record is stale."""
    return [row["why"] for row in json.loads(ssbench("list", "runs", "--stale", "--json").out)["runs"]]


def test_corrected_labels_are_another_run_and_the_old_record_stays(rooms: Command) -> None:
    assert last_line(rooms(*RUN)).startswith("done")
    assert last_line(rooms(*RUN)).startswith("was done")
    (first,) = records()
    relabel(Path("folder"))
    import_rooms(rooms, "--replace")
    assert stale(rooms) == ["the data of 'rooms' have changed"]
    ran = rooms(*RUN)
    assert last_line(ran).startswith("done")
    assert "holds a finished run that is not this one: the data of 'rooms' have changed" in ran.err
    assert len(records()) == 2
    assert json.loads(first.read_text())["identity"]["data"] not in records()[-1].read_text()
    assert last_line(rooms(*RUN)).startswith("was done")
    assert stale(rooms) == ["the data of 'rooms' have changed"]
    key = json.loads(first.read_text())["key"]
    assert torch.load(next(Path("runs").rglob(f"seed0.{key[:8]}/best.pt")), weights_only=True)["key"] == key


def test_tables_mark_stale_records(rooms: Command) -> None:
    table = "name: rooms/mine\ntitle: Rooms\nmetric: miou\n"
    table += "columns: [{id: a, label: four, split: rooms/custom/4}]\n"
    table += "rows: [{id: fixmatch, label: FixMatch, recipe: rooms.yaml, method: fixmatch}]\n"
    Path("table1.yaml").write_text(table)
    assert last_line(rooms(*RUN)).startswith("done")
    fresh = rooms("table", "table1.yaml", "--format", "md")
    assert "stale:" not in fresh.out
    relabel(Path("folder"))
    import_rooms(rooms, "--replace")
    marked = rooms("table", "table1.yaml", "--format", "md")
    assert "stale: the data of 'rooms' have changed" in marked.out
    (cell,) = json.loads(rooms("table", "table1.yaml", "--json").out)["cells"]
    assert cell["marks"] == [*cell["marks"][:-1], "stale: the data of 'rooms' have changed"]


def test_an_interrupted_run_is_not_gone_on_with_under_other_labels(rooms: Command) -> None:
    assert last_line(rooms(*RUN)).startswith("done")
    for path in (*records(), *Path("runs").rglob("record.json")):
        path.unlink()  # as if it had been cut off after its first epoch
    relabel(Path("folder"))
    import_rooms(rooms, "--replace")
    ran = rooms(*RUN)
    assert "holds an interrupted run that is not this one: the data of 'rooms' have changed; it is kept in" in ran.err
    assert len(list(Path("runs").rglob("checkpoint.pt"))) == 2


def test_a_changed_setting_is_named_and_its_run_comes_back_with_it(small: Command) -> None:
    run = ("run", "small.yaml", "--split", "toy/ours/1_16")
    assert last_line(small(*run)).startswith("done")
    for path in (*records("small"), *Path("runs").rglob("record.json")):
        path.unlink()
    text = Path("small.yaml").read_text()
    Path("small.yaml").write_text(text.replace("lr: 0.01", "lr: 0.02"))
    ran = small(*run)
    assert "an interrupted run that is not this one: optim.lr: 0.01, now 0.02" in ran.err
    Path("small.yaml").write_text(text)
    back = small(*run)
    assert "the earlier files of this very run are back" in back.err
    assert last_line(back).startswith("done")


def test_an_edited_plugin_file_is_another_run(small: Command) -> None:
    Path("keep.py").write_text(OWN)
    text = Path("small.yaml").read_text()
    Path("small.yaml").write_text(text + "plugin: {name: keep.py}  # ours\n")
    run = ("run", "small.yaml", "--split", "toy/ours/1_16")
    assert last_line(small(*run)).startswith("done")
    assert last_line(small(*run)).startswith("was done")
    Path("keep.py").write_text(OWN.replace("0.5", "2.0"))  # the same length: no byte-code cache may hide it
    assert stale(small) == ["plugin keep: keep.py has changed"]
    moved = Path("results").rename("elsewhere")
    assert stale(small) == ["plugin keep: keep.py has changed"]  # the run's folder tells it, too
    moved.rename("results")
    ran = small(*run)
    assert last_line(ran).startswith("done")
    assert "plugin keep: keep.py has changed" in ran.err
    kept = [json.loads(path.read_text())["history"][0]["terms"]["kept"] for path in records("small")]
    assert sorted(value > 0 for value in kept) == [False, True]
    Path("keep.py").write_text(OWN)
    assert last_line(small(*run)).startswith("was done")


def test_an_edited_weights_file_is_another_run(small: Command) -> None:
    torch.save(tiny_net(1).backbone.state_dict(), "start.pth")
    run = ("run", "small.yaml", "--split", "toy/ours/1_16", "--set", "net.weights=start.pth")
    assert last_line(small(*run)).startswith("done")
    assert last_line(small(*run)).startswith("was done")
    torch.save(tiny_net(2).backbone.state_dict(), "start.pth")
    assert stale(small) == ["net.weights: start.pth has changed"]
    assert last_line(small(*run)).startswith("done")


def test_a_raised_behaviour_version_makes_records_stale(small: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("run", "small.yaml", "--split", "toy/ours/1_16")
    assert last_line(small(*run)).startswith("done")
    (path,) = records("small")
    assert json.loads(path.read_text())["identity"]["versions"]["method"] == FixMatch.behaviour
    shutil.copytree("results", "stored")
    assert small("gate", "--save", "baseline.json").code == 0
    monkeypatch.setattr(FixMatch, "behaviour", FixMatch.behaviour + 1)
    assert stale(small) == ["behaviour of method: version 1, now 2"]
    for source in ("stored", "stored/custom/small/toy-ours-1_16/seed0.json"):
        gate = small("gate", "--against", source)
        assert (gate.code, "stale: behaviour of method: version 1, now 2" in gate.out) == (5, True)
    ran = small(*run)
    assert last_line(ran).startswith("done")
    assert "behaviour of method: version 1, now 2" in ran.err


def test_a_run_was_done_even_when_its_data_have_gone(rooms: Command) -> None:
    line = last_line(rooms(*RUN))
    shutil.rmtree("data")
    ran = rooms(*RUN)
    assert last_line(ran) == f"was {line}"
    assert "its data are not here" in ran.err
    other = rooms(*RUN, "--set", "optim.lr=0.02")
    assert other.code == 2  # not done under these settings, and the split went with the data


def test_a_record_that_names_no_data_counts_where_nothing_was_changed_since(rooms: Command) -> None:
    """Records of imported data written before the key held their digest."""
    from ssbench.recipe.recipe import load

    assert last_line(rooms(*RUN)).startswith("done")
    (path,) = records()
    record = json.loads(path.read_text())
    record["key"] = load("rooms.yaml").older_key(record["split_sha256"], 0)
    del record["identity"]
    path.write_text(json.dumps(record))
    later = {**record, "finished": "2999-01-01T00:00:00Z"}
    path.write_text(json.dumps(later))
    assert last_line(rooms(*RUN)).startswith("was done")
    path.write_text(json.dumps({**record, "finished": "2001-01-01T00:00:00Z"}))
    assert last_line(rooms(*RUN)).startswith("done")


def test_no_shipped_record_is_stale(ssbench: Command) -> None:
    ran = ssbench("list", "runs", "--stale", "--json", "--results", ROOT / "results")
    assert json.loads(ran.out) == {"runs": []}


def test_stale_is_about_runs(ssbench: Command) -> None:
    assert ssbench("list", "recipes", "--stale").code == 2
