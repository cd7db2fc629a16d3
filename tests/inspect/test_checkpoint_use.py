"""What a checkpoint says of itself, and that eval, predict, export and import hold it against what they are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_folders import own_folder
from ran import Ran

Command = Callable[..., Ran]
ROOMS = """\
data: {dataset: rooms, workers: 0}
views: {weak: unimatch, strong: unimatch, box: unimatch, crop: 24}  # ours
net: {name: deeplabv3plus, encoder: test_resnet, weights: random, wide: 32}  # ours
method: {name: fixmatch, teacher: ema}  # ours
optim: {lr: 0.01}  # ours
schedule: {epochs: 1, labeled_batch: 2, unlabeled_batch: 2}  # ours
eval: {few: 2}  # ours
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an imported dataset, one of the same classes in another order, and a run of two networks."""
    from ran import process

    home = tmp_path_factory.mktemp("home")
    own_folder(home / "folder", 10)
    for name, classes in (("rooms", "floor,wall,door"), ("swapped", "floor,door,wall")):
        ran = process("import", "folder", "--name", name, "--classes", classes, "--labeled", "4", cwd=home)
        assert ran.code == 0, ran.err
    (home / "rooms.yaml").write_text(ROOMS)
    ran = process("run", "rooms.yaml", "--split", "rooms/custom/4", cwd=home)
    assert ran.code == 0, ran.err
    (home / "rooms.yaml").rename(home / "gone.yaml")  # the file knows its recipe
    return home


@pytest.fixture
def command(home: Path, ssbench: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(home)
    return ssbench


def best(home: Path) -> Path:
    return next(home.glob("runs/**/best.pt"))


def old_file(home: Path) -> Path:
    """The checkpoint as versions wrote it that put nothing of itself into it."""
    content = torch.load(best(home), weights_only=True)
    del content["about"]
    torch.save(content, home / "old.pt")
    return home / "old.pt"


def test_it_says_what_it_is(home: Path) -> None:
    for name in ("best.pt", "checkpoint.pt"):
        about = torch.load(best(home).with_name(name), weights_only=True)["about"]
        assert (about["dataset"], about["classes"], about["ignore"]) == ("rooms", ["floor", "wall", "door"], 255)
        assert (about["networks"], about["channels"], len(about["palette"])) == (["net", "ema_net"], 3, 3)
        assert about["mean"] == [0.485, 0.456, 0.406]
        run = about["run"]
        assert (run["split"], run["seed"], run["resolved"]["net"]["encoder"]) == ("rooms/custom/4", 0, "test_resnet")
        assert run["key"] == torch.load(best(home), weights_only=True)["key"]


def test_ones_own_needs_neither_recipe_nor_settings(home: Path, command: Command) -> None:
    ran = command("eval", best(home), "--json")
    assert ran.code == 0, ran.err
    record = json.loads(next(home.glob("results/custom/**/seed0*.json")).read_text())
    assert json.loads(ran.out)["value"] == pytest.approx(record["scores"]["best"]["report"])
    assert "reads the network 'ema_net'; also inside: net (--entry net)" in ran.err
    ran = command("predict", best(home), "folder/images", "-o", "seen", "--json")
    assert json.loads(ran.out)["classes"] == ["floor", "wall", "door"]
    assert command("export", best(home), "-o", "net.pt2", "--form", "pt2", "--size", "32x32").code == 0
    ran = command("import", best(home), "--json")
    assert (ran.code, json.loads(ran.out)["split"]) == (0, "rooms/custom/4")


def test_a_network_is_chosen_by_name(home: Path, command: Command) -> None:
    content = torch.load(best(home), weights_only=True)
    content["method"] = {
        name: torch.zeros_like(value) if name.startswith("net.") else value for name, value in content["method"].items()
    }
    torch.save(content, "zero.pt")
    scores = {
        entry: json.loads(command("eval", "zero.pt", "--entry", entry, "--json").out)["value"]
        for entry in ("student", "net", "teacher", "ema", "model_ema", "state_dict_ema", "ema_net")
    }
    assert len({scores[entry] for entry in ("student", "net")}) == 1
    assert len({scores[entry] for entry in ("teacher", "ema", "model_ema", "state_dict_ema", "ema_net")}) == 1
    assert scores["teacher"] == json.loads(command("eval", best(home), "--json").out)["value"]
    ran = command("eval", best(home), "--entry", "third")
    assert (ran.code, "it has: net, ema_net" in ran.err) == (4, True)


@pytest.mark.parametrize("words", [("eval",), ("predict", "folder/images", "-o", "other"), ("export", "-o", "o.onnx")])
def test_another_list_of_classes_is_refused(home: Path, command: Command, words: tuple[str, ...]) -> None:
    verb, *rest = words
    ran = command(verb, best(home), *rest, "--set", "data.dataset=swapped")
    assert ran.code == 4
    assert "trained on 'rooms' with the classes floor, wall, door; 'swapped' has floor, door, wall" in ran.err
    assert "--classes-as-saved" in ran.err
    assert not (home / "other").exists()


def test_classes_as_saved_keeps_the_files_names(home: Path, command: Command) -> None:
    ran = command("eval", best(home), "--set", "data.dataset=swapped", "--classes-as-saved", "--json")
    assert (ran.code, json.loads(ran.out)["classes"]) == (0, ["floor", "wall", "door"])


def test_a_refused_predict_leaves_nothing_behind(home: Path, command: Command) -> None:
    refused = command("predict", best(home), "folder/images", "-o", "fresh", "--set", "data.dataset=swapped")
    assert (refused.code, (home / "fresh").exists()) == (4, False)
    assert command("predict", best(home), "folder/images", "-o", "fresh", "--entry", "third").code == 4
    assert command("predict", best(home), "folder/images", "-o", "fresh").code == 0


def test_predict_needs_no_dataset(home: Path, command: Command) -> None:
    (home / "data").rename(home / "away")
    try:
        ran = command("predict", best(home), "folder/images", "-o", "alone", "--json")
        assert json.loads(ran.out)["classes"] == ["floor", "wall", "door"]
        assert command("eval", best(home)).code == 3  # to score, the dataset itself is read
    finally:
        (home / "away").rename(home / "data")


def test_an_older_file_is_read_with_its_recipe_and_taken_on_trust(home: Path, command: Command) -> None:
    path = old_file(home)
    ran = command("eval", path)
    assert (ran.code, "does not say which network it holds" in ran.err) == (2, True)
    ran = command("eval", path, "--recipe", "gone.yaml", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["value"] == json.loads(command("eval", best(home), "--json").out)["value"]
    assert "old.pt names no classes: its outputs are taken for those of rooms, in order" in ran.err
    assert command("eval", path, "--recipe", "gone.yaml", "--set", "data.dataset=swapped").code == 0


def test_a_released_file_says_which_entry_is_read(home: Path, command: Command) -> None:
    state = torch.load(best(home), weights_only=True)["method"]
    net = {name.removeprefix("ema_net."): value for name, value in state.items() if name.startswith("ema_net.")}
    zeros = {name: torch.zeros_like(value) for name, value in net.items()}
    torch.save({"model": zeros, "model_ema": net, "epoch": None}, "released.pth")
    ran = command("eval", "released.pth", "--recipe", "gone.yaml")
    assert "reads the network 'model'; also inside: model_ema (--entry model_ema)" in ran.err
    assert "epoch = None, which is no number: left out" in ran.err
    ran = command("eval", "released.pth", "--recipe", "gone.yaml", "--entry", "ema", "--json")
    assert json.loads(ran.out)["value"] == json.loads(command("eval", best(home), "--json").out)["value"]
    ran = command("import", "released.pth", "--recipe", "gone.yaml", "--split", "rooms/custom/4", "--entry", "ema")
    assert ran.code == 0, ran.err
