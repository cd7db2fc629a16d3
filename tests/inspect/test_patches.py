"""`ssbench eval --patches`: MPMC's Table 4 on a real tiny run, counted again patch by patch in plain Python."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ran import SMALL, Ran

from ssbench import find
from ssbench.data.open import open_dataset
from ssbench.inspect.networks import load_method
from ssbench.methods.base import Method
from ssbench.recipe.recipe import Recipe, load
from ssbench.views.pipelines import eval_view

Ssbench = Callable[..., Ran]
MPMC = json.dumps({"name": "mpmc", **find.load("plugin", "mpmc").quick, "warmup_epochs": 0})
JUDGED = SMALL.replace("{name: s4mc}", MPMC).replace("test}", "val}")
"""The quick run of it has the same network and classifier, so that its checkpoint is one of this recipe."""
FEW = 2
ROWS = ["90+", "80-90", "70-80", "60-70", "50-60", "40-50", "30-40", "20-30", "10-20", "0-10"]


@pytest.fixture
def there(ssbench: Ssbench, tmp_path: Path, toy_data: Path) -> dict[str, Path]:
    """Quick runs of a recipe with a patch classifier and of the same without, in the folder the command works in."""
    texts = {"judged": JUDGED, "plain": JUDGED.replace(MPMC, "none")}
    checkpoints = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("few: 6", f"few: {FEW}"))
        ran = ssbench("run", f"{name}.yaml", "--split", "toy/ours/1_8", "--quick", "--data-root", toy_data)
        assert ran.code == 0, ran.err
        checkpoints[name] = tmp_path / f"runs/quick/custom/{name}/toy-ours-1_8/seed0/best.pt"
    return checkpoints


def counted(recipe: Recipe, methods: tuple[Method, Method], data: Path, over: str) -> dict[str, list[Any]]:
    """What the table holds, one list of (mIoU, mIoU of the baseline) a row, from explicit windows of 39 pixels."""
    dataset = open_dataset("toy", data)
    classes = len(dataset.classes)
    half, stride = methods[0].net.receptive_field()
    rows: dict[str, list[Any]] = {row: [] for row in ROWS}
    for id in dataset.ids("val")[:FEW]:
        x, truth = eval_view(dataset.image(id), recipe.views)[None], np.array(dataset.mask(id))
        with torch.no_grad():
            labels = [m.predict(x).argmax(1)[0].numpy() for m in methods]
            module = methods[0].extras["patches"]
            q = module(module.scales(methods[0].net(x).feats["layer1"])).sigmoid()[0].numpy()
        for i in range(q.shape[1]):
            for j in range(q.shape[2]):
                at = np.s_[max(stride * i - half, 0) : stride * i + half + 1,
                           max(stride * j - half, 0) : stride * j + half + 1]  # fmt: skip
                so = {c for c in range(classes) if (truth[at] == c).any()}
                predicted = {c for c in range(classes) if q[c, i, j] >= 0.5}
                same, of = len(predicted & so), len(predicted | so)
                if over == "all_classes":
                    same, of = classes - len(predicted ^ so), classes
                row = ROWS[9 - min(10 * same // of if of else 9, 9)]
                rows[row].append([miou(label[at], truth[at]) for label in labels])
    return rows


def miou(label: np.ndarray, truth: np.ndarray) -> float:
    label, truth = label[truth != 255], truth[truth != 255]
    each = [
        ((label == c) & (truth == c)).sum() / ((label == c) | (truth == c)).sum()
        for c in np.union1d(np.unique(label), np.unique(truth))
    ]
    return 100 * float(np.mean(each))


def test_the_table_is_what_patches_counted_one_by_one_give(
    ssbench: Ssbench, there: dict[str, Path], toy_data: Path
) -> None:
    words = ("eval", there["judged"], "--recipe", "judged.yaml", "--data-root", toy_data, "--patches")
    recipes = (load("judged.yaml", ("net.weights=random",)), load("plain.yaml", ("net.weights=random",)))
    toy, cpu, names = open_dataset("toy", toy_data), torch.device("cpu"), ("judged", "plain")
    methods = [load_method(r, there[name], toy, cpu) for r, name in zip(recipes, names, strict=True)]
    assert methods[0] is not None
    assert methods[1] is not None
    for over in ("union", "all_classes"):
        ran = ssbench(*words, "--baseline", there["plain"], "--over", over, "--split", "toy/ours/1_8", "--json")
        assert ran.code == 0, ran.err
        table = json.loads(ran.out)["patches"]
        expected = counted(recipes[0], (methods[0], methods[1]), toy_data, over)
        total = sum(map(len, expected.values()))
        assert (table["window"], table["stride"], table["over"]) == (
            2 * methods[0].net.receptive_field()[0] + 1,
            4,
            over,
        )
        assert table["patches"] == total
        assert [row["agreement"] for row in table["bins"]] == ROWS
        for row in table["bins"]:
            pairs = np.array(expected[row["agreement"]]).reshape(-1, 2)
            assert row["patches"] == len(pairs), row
            assert row["share"] == pytest.approx(100 * len(pairs) / total)
            if len(pairs):
                own, other = pairs.mean(0)
                got = (row["miou"], row["baseline"], row["gain"])
                assert got == pytest.approx((own, other, own - other), abs=1e-3)
            else:
                assert (row["miou"], row["baseline"], row["gain"]) == (None, None, None)


def test_people_see_the_rows_of_the_paper(ssbench: Ssbench, there: dict[str, Path], toy_data: Path) -> None:
    words = ("eval", there["judged"], "--recipe", "judged.yaml", "--data-root", toy_data)
    alone = ssbench(*words, "--patches").out
    assert alone.startswith(ssbench(*words).out), "the score itself stays as it is"
    lines = alone.splitlines()[-11:]
    assert lines[0].split() == ["agreement", "%", "patches", "mIoU", "baseline", "gain"]
    assert [line.split()[0] for line in lines[1:]] == ROWS
    assert all(line.split()[-2:] == ["-", "-"] for line in lines[1:]), "no baseline, no gain"
    assert sum(float(line.split()[1]) for line in lines[1:]) == pytest.approx(100, abs=0.5)
    named = ssbench(*words, "--patches", "--baseline", there["plain"], "--baseline-recipe", "plain.yaml")
    assert re.search(r"[+-]\d+\.\d\d$", named.out, re.MULTILINE), named.err


def test_what_cannot_be_counted_is_refused(ssbench: Ssbench, there: dict[str, Path], toy_data: Path) -> None:
    end = ("--data-root", toy_data)
    for words, part in (
        (("judged", "judged.yaml", "--baseline", there["plain"]), "--baseline is for --patches"),
        (("judged", "judged.yaml", "--patches", "--baseline-recipe", "plain.yaml"), "without a checkpoint"),
        (("plain", "plain.yaml", "--patches"), "judges patches"),
    ):
        name, recipe, *more = words
        ran = ssbench("eval", there[str(name)], "--recipe", recipe, *more, *end)
        assert (ran.code, part in ran.err) == (2, True), ran.err
        assert re.search(r"where: \S.*\n  fix:   \S", ran.err)
    swapped = ssbench(
        "eval", there["judged"], "--recipe", "judged.yaml", "--patches", "--baseline", there["judged"], *end
    )
    assert swapped.code == 4
    assert "of another recipe" in swapped.err
