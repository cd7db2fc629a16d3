"""The rules that fill in "auto": by hand, through the command line, and what goes before them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from own_folders import import_options, own_folder, picture
from ran import Ran

from ssbench.errors import RecipeError
from ssbench.prepare.own import import_folder
from ssbench.recipe.automatic import RULES, fill_in
from ssbench.recipe.compose import own_names
from ssbench.recipe.marks import Marked
from ssbench.recipe.recipe import Recipe, load
from ssbench.recipe.task import TaskFacts, task_facts

Ssbench = Callable[..., Ran]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ten pictures of 40 x 32 pixels, three classes, and a split of two labelled ones."""
    home = tmp_path_factory.mktemp("rooms")
    import_folder(import_options(own_folder(home / "rooms"), labeled=("2",)), home / "data", workers=1)
    return home / "data"


def rule(path: str, facts: TaskFacts, on_gpu: bool = False, **settled: object) -> object:
    return RULES[path](facts, on_gpu, lambda name: settled.get(name.replace(".", "_")))[0]


CAMVID = TaskFacts("streets", short_side=360, train=367, labeled=46, unlabeled=321, classes=11, channels=3,
                   subsets=("train", "val", "test"))  # fmt: skip


def test_the_rules_by_hand() -> None:
    """367 pictures of 480 x 360: on a CPU 10 passes of 8 are 458 steps, rounded to 440; 46 labels allow 8."""
    assert rule("views.crop", CAMVID) == 161
    assert rule("views.crop", CAMVID, on_gpu=True) == 353  # 22 x 16 + 1 within 360
    assert rule("views.scale", CAMVID, views_crop=353) == [0.5, 2.0]
    assert rule("views.scale", CAMVID, views_crop=161) == [0.3, 1.19]  # 161 / 360 / 0.75 = 0.596
    assert rule("schedule.labeled_batch", CAMVID) == 8
    assert rule("schedule.steps", CAMVID, schedule_unlabeled_batch=8) == 440
    assert rule("schedule.steps", CAMVID, on_gpu=True, schedule_unlabeled_batch=16) == 2000
    assert rule("eval.every", CAMVID, schedule_steps=440, schedule_unlabeled_batch=8) == 1  # 9.8 epochs
    assert rule("eval.report", CAMVID) == "test"
    assert [rule("method.low_rank", CAMVID), rule("method.high_rank", CAMVID)] == [3, 11]


def test_few_labels_small_pictures_and_two_classes() -> None:
    tiny = TaskFacts("cells", 40, 30, 3, 27, 2, 1, ("train", "val"))
    assert rule("views.crop", tiny) == 65  # the least a DeepLabV3+ reads; smaller pictures are padded
    assert rule("schedule.labeled_batch", tiny) == 2
    assert rule("schedule.unlabeled_batch", tiny, schedule_labeled_batch=2) == 2
    assert rule("views.normalise", tiny) == "none"
    assert rule("eval.report", tiny) == "val"
    assert [rule("method.low_rank", tiny), rule("method.high_rank", tiny)] == [1, 2]


def test_the_facts_of_a_dataset(root: Path) -> None:
    facts = task_facts("rooms", root)
    assert (facts.short_side, facts.train, facts.labeled, facts.unlabeled, facts.classes) == (32, 8, 2, 6, 3)


@pytest.mark.parametrize("name", own_names())
def test_every_method_has_a_recipe_for_any_dataset(name: str, root: Path) -> None:
    recipe = load(name, data_root=root, dataset="rooms")
    assert (recipe.name, recipe.data.dataset, recipe.overrides) == (name, "rooms", ())
    assert "auto" not in json.dumps(recipe.resolved())
    assert recipe.net.weights != "random"
    by_set = load(name, ["data.dataset=rooms"], data_root=root)
    assert by_set.stored_name == name, "the split names the dataset, so naming it makes no other recipe"
    assert by_set.resolved() == recipe.resolved()


def test_what_is_given_moves_what_follows_from_it(root: Path) -> None:
    def own(*overrides: str) -> Recipe:
        return load("own/unimatch", overrides, data_root=root, dataset="rooms")

    assert (own("net.weights=random").optim.lr, own("net.weights=random").optim.head) == (0.02, 1)
    assert own("net.encoder=resnet18").optim.lr == 0.005
    assert own("net.encoder=resnet18").views.normalise == "imagenet", "normalisation goes with the weights"
    assert own("schedule.labeled_batch=4").schedule.unlabeled_batch == 4
    halved = load("own/stpp", (), data_root=root, dataset="rooms").schedule.steps
    assert halved == own().schedule.steps // 2, "three trainings share the steps"


def test_grey_pictures_get_an_encoder_that_takes_them_as_they_are(tmp_path: Path) -> None:
    """Weights of packages need normalised pictures of three channels; timm's are also used without (as on ACDC)."""
    home = own_folder(tmp_path / "rooms")
    for path in (home / "images").iterdir():
        picture(path.stem, grey=True).save(path)
    import_folder(import_options(home, channels=1), tmp_path / "data", workers=1)
    recipe = load("own/unimatch", data_root=tmp_path / "data", dataset="rooms")
    assert (recipe.net.encoder, recipe.net.weights, recipe.views.normalise) == ("resnet18", "imagenet", "none")


def test_every_value_says_where_it_is_from(root: Path) -> None:
    recipe = load("own/unimatch", ["views.crop=97"], data_root=root, dataset="rooms")
    sources = {name: (str(mark), mark.comment) for name, _, mark in recipe.sources()}
    assert sources["views.crop"][1] == "--set"
    assert sources["schedule.steps"] == (
        "recipes/tasks/own.yaml:27",
        "ours: 10 passes over 8 images, within 400 and 1000 (a CPU)",
    )


def test_a_task_file_goes_before_the_rules(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("rooms", "splits"):
        (data / name).symlink_to(root / name)
    (data / "recipes" / "rooms").mkdir(parents=True)
    task = data / "recipes" / "rooms" / "task.yaml"
    task.write_text("schedule:\n  steps: 30  # as at home\n")
    recipe = load("own/fixmatch", data_root=data, dataset="rooms")
    assert recipe.schedule.steps == 30
    assert next(mark.comment for name, _, mark in recipe.sources() if name == "schedule.steps") == "as at home"
    assert load("own/fixmatch", ["schedule.steps=20"], data_root=data, dataset="rooms").schedule.steps == 20
    task.write_text("schedule: 3\n")
    with pytest.raises(RecipeError, match="a task file has sections") as error:
        load("own/fixmatch", data_root=data, dataset="rooms")
    assert error.value.fix.endswith("ssbench new table rooms --replace")


def test_auto_is_a_value_like_any_other_where_there_is_no_rule(root: Path) -> None:
    assert load("own/unimatch", data_root=root, dataset="rooms").schedule.compile == "auto"
    with pytest.raises(RecipeError, match="momentum = 'auto'"):
        load("own/unimatch", ["optim.momentum=auto"], data_root=root, dataset="rooms")
    assert fill_in(Marked({"optim": {"lr": 1}}), None, root).data == {"optim": {"lr": 1}}


def test_which_dataset_is_asked_for(ssbench: Ssbench, root: Path) -> None:
    ran = ssbench("check", "own/unimatch")
    assert (ran.code, "which one?" in ran.err, "--set data.dataset=NAME" in ran.err) == (3, True, True)
    ran = ssbench("check", "own/unimatch", "--set", "data.dataset=rooms", "--data-root", root, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["recipes"][0]["resolved"]["data"]["dataset"] == "rooms"
    ran = ssbench("run", "own/unimatch", "--data-root", root)
    assert (ran.code, "which one?" in ran.err) == (3, True)
    listed = ssbench("list", "recipes").out
    assert "own/unimatch\tany\tunimatch" in listed
