"""The gallery from real runs of seconds: the images are those a plain loop finds, and what is missing is said."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ran import Ran

from ssbench.data.toy import Toy
from ssbench.inspect.networks import load_predictor
from ssbench.jobs.job import Job, Places
from ssbench.jobs.queue import work
from ssbench.page.gallery import SIDE, galleries, label_map, photograph
from ssbench.page.runs import collect
from ssbench.recipe.recipe import load
from ssbench.results.store import ResultStore
from ssbench.train.distributed import join
from ssbench.train.evaluate import label_image

Ssbench = Callable[..., Ran]
SPLIT = "toy/ours/1_16"
SMALL = ("data.few=8", "data.workers=0", "schedule.epochs=1", "net.encoder=test_resnet", "net.wide=32", "eval.few=6")
RECIPES = ("toy/none_fixmatch", "toy/s4mc_fixmatch")


@pytest.fixture(scope="module")
def trained(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Two tiny runs, a baseline and the same with a plug-in."""
    folder = tmp_path_factory.mktemp("trained")
    places = Places(toy_data, folder / "runs", folder / "results")
    done = work([Job(recipe, SPLIT, 0, SMALL) for recipe in RECIPES], places, "cpu")
    assert not [d for d in done if d.error]
    return places


@pytest.fixture
def places(trained: Places, tmp_path: Path) -> Places:
    """A copy of the two runs that a test may damage."""
    shutil.copytree(trained.runs.parent, tmp_path, dirs_exist_ok=True)
    return Places(trained.data, tmp_path / "runs", tmp_path / "results")


def checkpoint(places: Places, recipe: str) -> Path:
    (found,) = places.runs.glob(f"{recipe}+*/toy-ours-1_16/seed0/best.pt")
    return found


def test_the_images_are_those_that_differ_most(places: Places) -> None:
    groups = collect(ResultStore(places.results), [], [], everything=True).comparisons
    (gallery,) = galleries(groups, places, 2, 100, "cpu")
    dataset, team, shares = Toy(places.data / "toy"), join("cpu"), dict[str, float]()
    nets = [load_predictor(load(r, SMALL), checkpoint(places, r), dataset, team.device) for r in RECIPES]
    recipe = load(RECIPES[0], SMALL)
    for id in dataset.ids("val"):
        base, plug = (label_image(net, dataset.image(id), recipe.eval, recipe.views, team) for net in nets)
        truth = np.array(dataset.mask(id))
        shares[id] = sum(int(a != b) for a, b, t in zip(base.flat, plug.flat, truth.flat, strict=True) if t != 255)
        shares[id] /= int((truth != 255).sum())
    most = sorted(shares, key=lambda id: (-shares[id], id))[:2]
    assert [p.id for p in gallery.pictures] == most
    assert gallery.searched == (80, 80)
    for picture in gallery.pictures:
        assert picture.note.startswith(f"they differ on {100 * shares[picture.id]:.1f} % of pixels")
        assert [t.caption.partition(":")[0] for t in picture.images] == [
            "image", "truth", "baseline", "baseline + plug-in", "difference"
        ]  # fmt: skip


def test_a_lost_checkpoint_is_said_and_the_command_brings_it_back(
    ssbench: Ssbench, places: Places, tmp_path: Path
) -> None:
    words = ("report", "--results", places.results, "--runs", places.runs, "--data-root", places.data, "--json")
    checkpoint(places, RECIPES[1]).unlink()
    stored = {path: path.read_bytes() for path in places.results.rglob("seed*.json")}
    before = json.loads(ssbench(*words).out)
    (missing,) = before["missing"]
    assert before["pictures"] == 0
    assert missing["why"].endswith(f"no checkpoint below '{places.runs}'")
    (command,) = missing["commands"]
    assert ssbench(*shlex.split(command)[1:]).code == 0
    after = json.loads(ssbench(*words).out)
    assert (after["pictures"], after["missing"]) == (3, [])
    assert {path: path.read_bytes() for path in places.results.rglob("seed*.json")} == stored


def test_missing_data_and_checkpoints_of_other_runs_are_said(places: Places, tmp_path: Path) -> None:
    groups = collect(ResultStore(places.results), [], [], everything=True).comparisons
    (bare,) = galleries(groups, Places(tmp_path / "no", places.runs, places.results), 1, 10, "cpu")
    assert (bare.missing, bare.commands) == (
        "toy is not prepared",
        (f"ssbench prepare toy --data-root {tmp_path / 'no'}",),
    )
    checkpoint(places, RECIPES[0]).write_bytes(checkpoint(places, RECIPES[1]).read_bytes())
    (mixed,) = galleries(groups, places, 1, 10, "cpu")
    assert mixed.missing.endswith("its checkpoint is of another run")
    assert mixed.pictures == ()


def test_a_recipe_that_has_changed_since_is_no_pair(places: Places) -> None:
    for path in places.results.glob("toy/none_fixmatch+*/*/seed0.json"):
        path.write_text(path.read_text().replace('"key": "', '"key": "0'))
    groups = collect(ResultStore(places.results), [], [], everything=True).comparisons
    (gallery,) = galleries(groups, places, 1, 10, "cpu")
    assert gallery.missing == "toy/none_fixmatch with " + ", ".join(SMALL) + ": its recipe has changed since this run"
    (command,) = gallery.commands
    assert "--results" not in command


def test_images_keep_labels_exact_and_photographs_small() -> None:
    import base64
    import io

    labels = np.zeros((400, 600, 3), np.uint8)
    labels[:, 300:] = (200, 10, 30)
    tile = label_map("truth", Image.fromarray(labels), "")
    shown = Image.open(io.BytesIO(base64.b64decode(tile.source.partition(",")[2]))).convert("RGB")
    assert (shown.size, (tile.width, tile.height)) == ((SIDE, 213), (SIDE, 213))
    assert {colour for _, colour in shown.getcolors() or []} == {(0, 0, 0), (200, 10, 30)}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    assert photograph("image", noise, "").source.startswith("data:image/jpeg")
    assert photograph("image", Image.new("RGB", (20, 20)), "").source.startswith("data:image/png")
