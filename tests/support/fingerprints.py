"""What each part with a behaviour version computes, as a few numbers: losses, outputs, views, scores.

In float64 where the part allows it: rounding differs from processor to processor, and float32 makes it visible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from builders import CLASSES
from PIL import Image
from torch import Tensor

from ssbench import find
from ssbench.certify.pair import LATE, Pair
from ssbench.certify.small import small_net
from ssbench.data.dataset import Dataset
from ssbench.methods.base import LossConfig, Losses
from ssbench.methods.hosting import fit
from ssbench.nets.segnet import SegNet
from ssbench.ops.pseudo import Pseudo
from ssbench.recipe.sections import EvalConfig
from ssbench.train.distributed import join
from ssbench.train.evaluate import evaluate
from ssbench.views.pipelines import labeled_view, read_views, unlabeled_view
from ssbench.views.regions import BOXES
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ViewsConfig
from ssbench.views.strong import STRONG
from ssbench.views.weak import WEAK

Numbers = dict[str, list[float]]
T = TypeVar("T")
SINGLE = {"mask2former", "wpl"}
"""Methods and plug-ins that compute in float32 whatever torch's default is."""
LOSSES = [("supervised", name) for name in ("ce", "ohem", "ce_dice")] + [("pseudo", name) for name in ("ce", "dice")]


@dataclass(frozen=True)
class VersionedPart:
    """A part, its present version, where that stands, and what computes its numbers (given an empty folder)."""

    name: str
    version: int
    raise_at: str
    numbers: Callable[[Path], Numbers]


def versioned_parts() -> Iterator[VersionedPart]:
    """Every method, plug-in, net, pipeline, protocol and loss; found, not listed."""
    for kind, folder in (("method", "methods"), ("plugin", "plugins"), ("net", "nets")):
        for name in find.names(kind):  # type: ignore[arg-type]
            at, compute = (
                f"`behaviour` in ssbench/{folder}/{name}.py",
                {"method": _method, "plugin": _plugin, "net": _net},
            )
            version = find.load(kind, name).behaviour  # type: ignore[arg-type]
            yield VersionedPart(f"{kind} {name}", version, at, functools.partial(compute[kind], name))
    for kind, table in (("weak", WEAK), ("strong", STRONG), ("box", BOXES)):
        for name in table:
            key = f"{kind} {name}"
            at, version = "ViewsConfig.behaviours, ssbench/views/settings.py", ViewsConfig.behaviours.get(key, 1)
            yield VersionedPart(f"views {key}", version, at, functools.partial(_views, kind, name))
    for name, version in EvalConfig.behaviours.items():
        at = "EvalConfig.behaviours, ssbench/recipe/sections.py"
        yield VersionedPart(f"protocol {name}", version, at, functools.partial(_protocol, name))
    for setting, name in LOSSES:
        config = LossConfig.model_validate({setting: name})
        at = "LossConfig.behaviour, ssbench/methods/base.py"
        yield VersionedPart(f"loss {setting} {name}", config.behaviour, at, functools.partial(_loss, setting, config))


def _in_float64(compute: Callable[[], T]) -> T:
    torch.set_default_dtype(torch.float64)
    try:
        return compute()
    finally:
        torch.set_default_dtype(torch.float32)


def _method(name: str, folder: Path) -> Numbers:
    """Losses of two steps on fixed tensors, past every warm-up; the second shows the update of the first."""
    return _steps(Pair.of(name, (), folder))


def _plugin(name: str, folder: Path) -> Numbers:
    """Losses of two steps on the first host that can have it."""
    cls = find.load("plugin", name)
    host = next(host for host in find.names("method") if not fit(find.load("method", host), cls).reason)
    return _steps(Pair.of(host, (cls,), folder))


def _steps(pair: Pair) -> Numbers:
    names = {pair.host, *(find.own_name(setup.cls) for setup in pair.plugins)}
    steps = pair.start().train(2, LATE) if names & SINGLE else _in_float64(lambda: pair.start().train(2, LATE))
    return {name: [step[name] for step in steps] for name in steps[0] if all(name in step for step in steps)}


def _net(name: str, folder: Path) -> Numbers:
    """A forward of fixed images through random weights, in eval mode and in train mode."""

    def compute() -> Numbers:
        net: SegNet = small_net(name, seed=3, classes=CLASSES)
        channels = next(weights for weights in net.parameters() if weights.ndim == 4).shape[1]
        x = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            return {"train": _summary(net.train()(x).logits), "eval": _summary(net.eval()(x).logits)}

    return _in_float64(compute)


def _summary(x: Tensor) -> list[float]:
    """Mean and spread of B C H W values, and means over a grid of 4 x 4 of the first image's first channel."""
    blocks = torch.nn.functional.adaptive_avg_pool2d(x[:1, :1].double(), 4)
    return [x.double().mean().item(), x.double().std().item(), *blocks.flatten().tolist()]


def _views(kind: str, name: str, folder: Path) -> Numbers:
    """Views of a fixed picture under three draws: the labelled one, or a strong one with its mixing region."""
    settings = {"weak": "none", "strong": "none", "box": "none", "crop": 48, kind: name}
    settings |= {"base": 70} if name in ("augseg", "stpp") and kind == "weak" else {}  # they have no usual base
    cfg, numbers = read_views(settings), {}
    for k in range(3):
        sample, draw = _scene(cfg, k), Draw(0, k, "scene", "labeled")
        if kind == "weak":
            view = labeled_view(sample, cfg, draw)
            counts = torch.bincount(view.y.flatten(), minlength=256)
            numbers[f"x {k}"] = _summary(view.x[None])
            numbers[f"y {k}"] = [*counts[:3].tolist(), counts[255].item(), view.valid.sum().item()]
        else:
            both = unlabeled_view(sample, cfg, draw, 1)
            rows, columns = torch.nonzero(both.boxes[0], as_tuple=True)
            numbers[f"strong {k}"] = _summary(both.strong[0][None])
            numbers[f"box {k}"] = [float(len(rows)), rows.sum().item(), columns.sum().item()]
            numbers[f"erased {k}"] = [both.erased[0].sum().item()]
    return numbers


def _scene(cfg: ViewsConfig, k: int) -> Sample:
    """A smooth picture with three labels; a square crop of it where nothing crops."""
    side = (cfg.crop, cfg.crop) if cfg.weak == "none" else (80, 64)
    y, x = np.mgrid[: side[1], : side[0]]
    waves = [127 + 120 * np.sin((x * a + y * b) / 9 + k) for a, b in ((1, 0.3), (0.2, 1), (0.7, 0.7))]
    image = Image.fromarray(np.stack(waves, 2).round().astype(np.uint8))
    if cfg.weak == "acdc":
        image = image.convert("L")
    labels = ((x > side[0] / 3).astype(np.uint8) + (y > side[1] / 2)).astype(np.uint8)
    return Sample.of("scene", image, Image.fromarray(labels))


class _Scenes(Dataset):
    """Two scenes, or two stacks of two slices, of several sizes."""

    name, classes, palette = "scenes", ("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99))
    subsets = ("val",)

    def ids(self, subset: str) -> tuple[str, ...]:
        return ("0", "1")

    def image(self, id: str) -> Image.Image:
        image = _scene(read_views({"weak": "unimatch", "crop": 48}), int(id)).image
        assert isinstance(image, Image.Image)
        return image.resize((80, 64 + 10 * int(id)), Image.Resampling.NEAREST)

    def mask(self, id: str) -> Image.Image:
        mask = _scene(read_views({"weak": "unimatch", "crop": 48}), int(id)).mask
        return mask.resize((80, 64 + 10 * int(id)), Image.Resampling.NEAREST)


class _Stacks(_Scenes):
    channels = 1

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]]:
        return {"first": ("0",), "second": ("1",)}

    def image(self, id: str) -> Image.Image:
        return super().image(id).convert("L")


def _protocol(name: str, folder: Path) -> Numbers:
    """Scores of fixed maps: three functions of the picture's values stand for a network's logits."""
    crop = {} if name == "whole" else {"crop": 48}
    views = read_views({"weak": "none", "crop": 48, "normalise": "none"})
    dataset = _Stacks(folder) if name == "volume" else _Scenes(folder)

    def predict(x: Tensor) -> Tensor:
        grey = x.mean(1, keepdim=True)
        local = grey - grey.mean((2, 3), keepdim=True)  # so that it matters what is in one window
        return torch.cat([3 * local, -2 * local, 4 * grey * (1 - grey) - 0.6], 1)

    cfg = EvalConfig.model_validate({"protocol": name, **crop})
    score = evaluate(predict, dataset, "val", cfg, views, join("cpu"))
    return {"value": [score.value], "classes": [value for value in score.per_class if value is not None]}


def _loss(setting: str, config: LossConfig, folder: Path) -> Numbers:
    """A loss of fixed logits."""
    g = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, CLASSES, 24, 24, generator=g, dtype=torch.float64)
    labels = torch.randint(CLASSES, (4, 24, 24), generator=g)
    labels[:, :3] = 255
    losses = Losses(config.model_copy(update={"ohem_min_kept": 50}) if config.supervised == "ohem" else config)
    if setting == "supervised":
        return {"loss": [losses.supervised(logits, labels).item()]}
    teacher = torch.randn(4, CLASSES, 24, 24, generator=g, dtype=torch.float64)
    pseudo = Pseudo.of(teacher, labels != 255, 0.4)
    weight = torch.rand(4, 24, 24, generator=g, dtype=torch.float64)
    return {"loss": [losses.pseudo(logits, pseudo).item(), losses.pseudo(logits, pseudo, weight).item()]}
