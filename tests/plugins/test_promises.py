"""What breaks a promise of a plug-in has its sentence, with the line of the user's file, in certify and in run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran

HEAD = """
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from ssbench.plugins.base import Plugin, PluginConfig


class Bad(Plugin):
    class Config(PluginConfig):
        name: Literal["bad"] = "bad"

"""
REFINE = "    def refine(self, pseudo, t):\n"
FAULTS = {
    "none": (REFINE + "        pass\n", "`refine`: returns None, no Pseudo"),
    "shape": (
        "    def weigh(self, mixed, teach, t):\n        return torch.ones(2, 3)\n",
        "`weigh`: returns a tensor of float32 and shape (2, 3), where the labels are (2, ",
    ),
    "dtype": (REFINE + "        return replace(pseudo, keep=pseudo.conf)\n", "returns as keep a tensor of float32"),
    "float": ('    def loss(self, outputs, t):\n        return {"e": 0.5}\n', "`loss`: returns as term 'e' a float"),
    "infinite": (
        '    def loss(self, outputs, t):\n        return {"e": outputs.labeled.logits.mean() / 0.0}\n',
        "plugin term 'e' is ",
    ),
    "in_place": (
        REFINE + "        pseudo.label[pseudo.conf < 2] = 7\n        return pseudo\n",
        "`refine`: changes a tensor it was given, in place (label)",
    ),
    "labels": (
        REFINE + "        return replace(pseudo, label=pseudo.label + 90)\n",
        "`refine`: returns label 9",
    ),
    "numpy": (
        REFINE + "        return replace(pseudo, keep=pseudo.conf > np.random.rand())\n",
        "`refine`: draws from the global stream of numpy or random",
    ),
    "torch": (REFINE + "        return replace(pseudo, keep=torch.rand_like(pseudo.conf) > 0.5)\n", "rand_like at "),
    "raises": (REFINE + "        return pseudo.confidence\n", "AttributeError: 'Pseudo' object has no attribute"),
    "builds": (
        "    def __init__(self, cfg, classes):\n        super().__init__(cfg, classes)\n        {}['a']\n\n"
        + REFINE
        + "        return pseudo\n",
        "`__init__`: KeyError: 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_promise_has_its_sentence_in_certify_and_in_run(
    ssbench: Callable[..., Ran], toy: Path, tmp_path: Path, fault: str
) -> None:
    body, sentence = FAULTS[fault]
    path = tmp_path / f"{fault}.py"
    path.write_text(HEAD + body)
    certified = ssbench("certify", path, "--host", "fixmatch")
    assert certified.code == 5
    assert sentence in certified.err
    assert f"{path.name}:" in certified.err
    ran = ssbench("run", "fixmatch_toy", "--plugin", path, "--split", "toy/ours/1_16", "--quick", "--data-root", toy)
    assert ran.code == 6, ran.err
    assert sentence in ran.err
    assert f"  where: {path}:" in ran.err
    assert "optim.lr" not in ran.err
    assert "Traceback" not in ran.err
    (record,) = (tmp_path / "runs").rglob("seed0*.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_a_term_that_breaks_later_is_named(ssbench: Callable[..., Ran], toy: Path, tmp_path: Path) -> None:
    late = '        bad = outputs.labeled.logits.mean() * (0.0 if t.step < 2 else float("inf"))\n'
    path = tmp_path / "late.py"
    path.write_text(HEAD + "    def loss(self, outputs, t):\n" + late + '        return {"e": bad}\n')
    ran = ssbench("run", "fixmatch_toy", "--plugin", path, "--split", "toy/ours/1_16", "--quick", "--data-root", toy)
    assert ran.code == 6, ran.err
    assert "plugin term 'e' of step " in ran.err
    assert "mend the plug-in's `loss`" in ran.err


def test_sys_exit_in_a_constructor_leaves_a_failed_record(
    ssbench: Callable[..., Ran], toy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "leaves.py"
    path.write_text(HEAD + FAULTS["builds"][0].replace("{}['a']", "raise SystemExit(0)"))
    ran = ssbench("run", "fixmatch_toy", "--plugin", path, "--split", "toy/ours/1_16", "--quick", "--data-root", toy)
    assert ran.code == 6, ran.err
    (record,) = (tmp_path / "runs").rglob("seed0*.json")
    stored = json.loads(record.read_text())
    assert (stored["status"], "sys.exit(0)" in stored["reason"]) == ("failed", True)


METHOD = """
from typing import Literal

from ssbench.methods.fixmatch import FixMatch


class Mine(FixMatch):
    class Config(FixMatch.Config):
        name: Literal["mine"] = "mine"
"""
NET = """
from typing import Literal

from ssbench.nets.deeplabv3plus import DeepLabV3Plus


class Wide(DeepLabV3Plus):
    class Config(DeepLabV3Plus.Config):
        name: Literal["wide"] = "wide"
"""


def test_a_method_and_a_net_of_one_s_own_files_run(ssbench: Callable[..., Ran], toy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "wide.py").write_text(NET)
    net = "net={name: wide.py, encoder: test_resnet, weights: random, wide: 32}"
    own = ("--set", "method.name=mine.py", "--set", net)
    sets = ("schedule.epochs=1", "data.few=4", "eval.few=2", "views.crop=48")
    small = [word for text in sets for word in ("--set", text)]
    assert ssbench("check", "fixmatch_toy", *own).code == 0
    ran = ssbench("run", "fixmatch_toy", "--split", "toy/ours/1_32", *own, *small, "--data-root", toy)
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "results").rglob("seed0*.json")
    stored = json.loads(record.read_text())
    assert (stored["method"], stored["resolved"]["net"]["name"]) == ("mine", "wide")
