"""Writes the files that a plug-in or a method of one's own starts from: code, recipe and test, working as they stand.

The texts are complete and small. A new plug-in passes `ssbench certify`; a new method hosts every plug-in that FixMatch
hosts and runs from its recipe. Each says at its top what is to be replaced.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Literal

from ssbench import find
from ssbench.errors import UsageError
from ssbench.files import write_text
from ssbench.recipe.compose import read_recipe

PLUGIN = '''"""{title}: pseudo-labels are kept above a threshold that falls while the teacher gets surer.

Replace the rule in `refine` by yours. Hooks, their order and their shapes: python -m pydoc ssbench.plugins.base
    ssbench certify {name}.py        ssbench run {name}.yaml --split toy/ours/1_16
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Plugin, PluginConfig


class {title}(Plugin):
    """keep = confidence >= tau * (1 - strength * share of the run that is over)."""

    zero: ClassVar = {{"strength": 0.0}}  # settings at which a run equals one without the plug-in, bit for bit

    class Config(PluginConfig):
        """Settings; a recipe's lines, checked when it is read."""

        name: Literal["{name}"] = "{name}"
        tau: float = Field(0.95, ge=0, le=1)  # ours
        strength: float = Field(0.5, ge=0, le=1)  # ours

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """The teacher's pseudo-labels with another `keep` (B H W bool). Called without gradient."""
        if self.cfg.strength == 0:
            return pseudo
        threshold = self.cfg.tau * (1 - self.cfg.strength * t.fraction)
        return replace(pseudo, keep=(pseudo.conf >= threshold) & pseudo.valid)
'''

PLUGIN_RECIPE = """# {host} with {name}.py, a plug-in of one's own.
# ssbench run {name}.yaml --split {split}
host: {host}
title: {host} + {name}
plugin:
  name: {name}.py  # beside this file
  tau: 0.95  # ours
  strength: 0.5  # ours
"""

PLUGIN_TEST = '''"""{title}: its contract by the suite's certificate, its recipe, and its rule by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from ssbench import find
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo

HERE = Path(__file__).resolve().parent


def ssbench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ssbench", *words], cwd=HERE, capture_output=True, text=True)


def test_it_keeps_the_contract() -> None:
    done = ssbench("certify", "{name}.py", "--host", "{method}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_recipe_can_be_run() -> None:
    done = ssbench("check", "{name}.yaml")
    assert done.returncode == 0, done.stderr


def test_the_threshold_falls_with_the_run() -> None:
    """tau 0.8, strength 0.5: 0.8 at the first of 100 steps, 0.4 at the last."""
    cls = find.load("plugin", str(HERE / "{name}.py"))
    plugin = cls(cls.Config(tau=0.8, strength=0.5), 2)
    conf = torch.tensor([[[0.79, 0.81, 0.41]]])  # B H W
    label, valid = torch.zeros_like(conf, dtype=torch.long), torch.ones_like(conf, dtype=torch.bool)
    pseudo = Pseudo(label, conf, keep=conf > 0.9, valid=valid)
    kept = [plugin.refine(pseudo, Progress(step, 100, 100, 0, torch.device("cpu"))).keep.tolist() for step in (0, 100)]
    assert kept == [[[[False, True, False]]], [[[True, True, True]]]]
'''

METHOD = '''"""{title}: the network's own confident labels of a weak view teach it a strong view of the same image.

Replace `step` by yours; what it returns is the loss and the terms to log. Base class: python -m pydoc
ssbench.methods.base; a complete method to read: ssbench/methods/fixmatch.py.
    ssbench run {name}.yaml --quick        ssbench certify s4mc --host {name}.py
"""

from __future__ import annotations

from typing import Literal

import torch

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import Method, MethodConfig, Step, frozen_forward, labels_of, mean, quality
from ssbench.ops.progress import Progress
from ssbench.plugins.base import MixedView, Share, StepOutputs


class {title}(Method):
    """L = (L_labeled + L_strong) / 2."""

    honours = frozenset({{"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"}})  # it calls

    class Config(MethodConfig):
        """Settings; a recipe's lines, checked when it is read."""

        name: Literal["{name}"] = "{name}"
        threshold: Share = 0.95  # ours

    @property
    def needs(self) -> Needs:
        """What the loader makes of each unlabelled image: one strong view."""
        return Needs(strong=1)

    def step(self, batch: Batch, t: Progress) -> Step:
        """The loss of one step. Letters of shapes as in ssbench.ops."""
        labeled, here = batch.labeled, batch.unlabeled
        assert here is not None  # `needs` asks for it
        weak = labels_of(self.net, here.weak, here.valid, self.cfg.threshold, train_mode=False)
        weak = self.plugin.refine(weak.with_carry(**here.maps), t)

        def unmixed() -> list[MixedView]:
            return [MixedView(here.strong[0], weak, here.weak)]

        mixed, teach = self.plugin.mix(unmixed, batch, weak, t), frozen_forward(self.net)
        out = self.net(labeled.x)
        terms, views = self._teach_views(mixed, [self.net(view.images) for view in mixed], teach, t)
        sup, strong = self.losses.supervised(out.logits, labeled.y), mean(terms)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)

        def printed(unlabeled: float) -> torch.Tensor:
            return (sup + unlabeled * strong) / 2 if unlabeled else sup / 2

        return self._finish(
            self.plugin.scale(t), printed, extra, sup=sup, s=strong, **quality(weak, here.truth)
        )
'''

METHOD_RECIPE = """# {name}.py, a method of one's own, on the toy scenes.
# ssbench run {name}.yaml --split toy/ours/1_16
host: fixmatch_toy
title: {name} on toy scenes
method:
  name: {name}.py  # beside this file
  threshold: 0.95  # ours
"""

METHOD_TEST = '''"""{title}: it hosts a plug-in by the suite's certificate, and its recipe runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def ssbench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ssbench", *words], cwd=HERE, capture_output=True, text=True)


def test_it_hosts_plug_ins() -> None:
    done = ssbench("certify", "s4mc", "--host", "{name}.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_recipe_runs(tmp_path: Path) -> None:
    places = ["--data-root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    done = ssbench("run", "{name}.yaml", "--quick", "--device", "cpu", *places)
    assert done.returncode == 0, done.stderr
'''


def write_plugin(name: str, host: str, folder: Path) -> list[Path]:
    """Write NAME.py, NAME.yaml and test_NAME.py of a plug-in over the recipe `host`; their paths.

    Raises:
        UsageError: a name that cannot be, or files that are there. RecipeError: no such host.
    """
    _check_name("plugin", name)
    recipe = read_recipe(host)[1].data
    dataset, method = recipe["data"]["dataset"], recipe["method"]["name"]
    split = {"voc": "voc/classic/1_16", "cityscapes": "cityscapes/cps/1_16"}.get(dataset, f"{dataset}/ours/1_16")
    words = {"name": name, "title": _class_name(name), "host": host, "split": split, "method": method}
    texts = {f"{name}.py": PLUGIN, f"{name}.yaml": PLUGIN_RECIPE, f"test_{name}.py": PLUGIN_TEST}
    return _write(folder, {file: text.format(**words) for file, text in texts.items()})


def write_method(name: str, folder: Path) -> list[Path]:
    """Write NAME.py, NAME.yaml and test_NAME.py of a method on the toy scenes; their paths.

    Raises:
        UsageError: a name that cannot be, or files that are there.
    """
    _check_name("method", name)
    words = {"name": name, "title": _class_name(name)}
    texts = {f"{name}.py": METHOD, f"{name}.yaml": METHOD_RECIPE, f"test_{name}.py": METHOD_TEST}
    return _write(folder, {file: text.format(**words) for file, text in texts.items()})


def _check_name(kind: Literal["plugin", "method"], name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        fix = "small letters, digits and _, beginning with a letter: my_idea"
        raise UsageError(f"'{name}' cannot be the name of a {kind}", "arguments", fix)
    if name in (*find.names(kind), "base", "none"):
        raise UsageError(f"there is a {kind} '{name}' already", "arguments", f"ssbench list {kind}s; another name")


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    """All files or none: nothing that is there is written over."""
    paths = [folder / file for file in texts]
    if there := [path for path in paths if path.exists()]:
        raise UsageError(f"'{there[0]}' is there already", str(there[0]), "another name, or another --out folder")
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths
