"""Recipes: strict YAML files that say what is trained on what, every constant with its source.

dataset + net + method + plug-in + constants; the split and the seed are arguments of a run, not of a recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ssbench import find
from ssbench.errors import RecipeError, nearest
from ssbench.marked import Keys, Mark, Marked, read
from ssbench.paths import shipped

SECTIONS = ("base", "paper", "title", "expect", "cost", "division", "data", "views", "net", "method", "plugin", "loss",
            "optim", "schedule", "eval", "quick", "departures")  # fmt: skip


class Section(BaseModel):
    """A block of a recipe; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """What is read: the dataset, and how many loader workers prepare it on each process."""

    dataset: str
    workers: int = 4


class OptimConfig(Section):
    """Optimiser and learning-rate schedule; two parameter groups, the encoder at `lr`, the rest at `lr` x `head`."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float
    head: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    lag: Literal[0, 1] = 1


class ScheduleConfig(Section):
    """How long, and with what batches (totals over all processes).

    devices: the authors' process count, which fixes steps per epoch (`data.batch.Plan`).
    checkpoint_minutes: besides every epoch's end.
    """

    epochs: int
    labeled_batch: int
    unlabeled_batch: int = 0
    devices: int = 1
    precision: Literal["exact"] = "exact"
    checkpoint_minutes: float = 10.0


class EvalConfig(Section):
    """The protocol of a score.

    whole: one forward at native size. sliding: windows of `crop`, steps of int(crop x 2/3), cut at the border,
    probabilities summed. center: central crop. volume: 3-D Dice of stacks, resized to `crop` and back.
    select: subset that picks the best epoch; report: subset whose score is printed. absent: what a class that
    occurs nowhere contributes to the mean.
    """

    protocol: Literal["whole", "sliding", "center", "volume"] = "whole"
    crop: int | None = None
    select: str = "val"
    report: str = "val"
    absent: Literal["zero", "left_out"] = "zero"
    every: int = 1


PROTOCOLS: dict[str, dict[str, Any]] = {
    "whole": {"protocol": "whole"},
    "cityscapes/sliding-801": {"protocol": "sliding", "crop": 801},
    "cityscapes/center-801": {"protocol": "center", "crop": 801},
    "acdc/val+test": {"protocol": "volume", "crop": 256, "select": "val+test", "report": "val+test"},
    "acdc/test": {"protocol": "volume", "crop": 256, "select": "val", "report": "test"},
    "camvid/test": {"protocol": "whole", "select": "val", "report": "test"},
}
"""Named protocols, for `ssbench eval --protocol NAME` and as documentation of what the recipes use."""


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every section typed, plus where each value came from."""

    name: str
    path: Path
    paper: str | None
    title: str
    expect: Mapping[str, Any]
    division: Literal["closed", "open"]
    data: DataConfig
    views: Any
    net: Any
    method: Any
    plugins: tuple[Any, ...]
    loss: Any
    optim: OptimConfig
    schedule: ScheduleConfig
    eval: EvalConfig
    departures: tuple[str, ...]
    overrides: tuple[str, ...]
    quick: bool
    marked: Marked

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain data; the run key is a hash of it."""
        return {
            "data": {"dataset": self.data.dataset},
            "views": self.views.model_dump(mode="json"),
            "net": self.net.model_dump(mode="json"),
            "method": self.method.model_dump(mode="json"),
            "plugin": [p.model_dump(mode="json") for p in self.plugins],
            "loss": self.loss.model_dump(mode="json"),
            "optim": self.optim.model_dump(mode="json"),
            "schedule": self.schedule.model_dump(mode="json", exclude={"checkpoint_minutes"}),
            "eval": self.eval.model_dump(mode="json"),
        }

    def key(self, split_sha256: str, seed: int) -> str:
        """Hash of the resolved recipe, the split's digest and the seed: what makes two runs the same run."""
        content = json.dumps([self.resolved(), split_sha256, seed], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def stored_name(self) -> str:
        """Name of its folder under results/: the recipe's, with a hash of the overrides if there are any."""
        if not self.overrides:
            return self.name
        return f"{self.name}+{hashlib.sha256(chr(10).join(self.overrides).encode()).hexdigest()[:6]}"

    def sources(self) -> Iterator[tuple[str, Any, Mark]]:
        """(dotted name, value, mark) of every constant that was written down, in order of appearance."""
        for keys, mark in self.marked.marks.items():
            value = _get(self.marked.data, keys)
            if keys and not isinstance(value, dict | list) and keys[0] not in ("base", "quick", "title", "expect"):
                yield ".".join(map(str, keys)), value, mark


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes: every YAML file with a `method` that is no base and no table."""
    root = shipped("recipes")
    files = [p.relative_to(root).with_suffix("") for p in sorted(root.glob("*/*.yaml"))]
    return tuple(str(f) for f in files if f.parts[0] != "base" and not is_table_name(f.name))


def is_table_name(stem: str) -> bool:
    """table1, supp_table2: tables stand beside recipes."""
    return stem.removeprefix("supp_").startswith("table")


def find_recipe(name: str) -> tuple[str, Path]:
    """(name, path) of a shipped recipe `paper/recipe`, or of a user's YAML file given by path."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml") and given.is_file():
        inside = given.resolve()
        root = shipped("recipes").resolve()
        if inside.is_relative_to(root):
            return str(inside.relative_to(root).with_suffix("")), given
        return f"custom/{given.stem}", given
    path = shipped("recipes") / f"{name}.yaml"
    if name not in recipe_names() or not path.is_file():
        raise RecipeError(f"no recipe '{name}'; {nearest(name, list(recipe_names()))}", "", "ssbench list recipes")
    return name, path


def read_raw(path: Path) -> Marked:
    """The file merged over its `base` files (one level: a base has no base), with marks from where each value stands."""
    own = read(path, _shown(path))
    if not isinstance(own.data, dict):
        raise RecipeError("a recipe is a mapping", _shown(path), "see ssbench list recipes for examples")
    bases = own.data.get("base", [])
    merged = Marked({}, {})
    for base in [bases] if isinstance(bases, str) else bases:
        below = read((path.parent / str(base)).resolve(), _shown((path.parent / str(base)).resolve()))
        if "base" in below.data:
            raise RecipeError("a base file has a base of its own", str(below.at(("base",))), "bases are one level deep")
        merged = _merge(merged, below)
    merged = _merge(merged, own)
    merged.data.pop("base", None)
    return merged


def load(name: str, overrides: Sequence[str] = (), quick: bool = False) -> Recipe:
    """Read, merge, override and validate a recipe.

    Args:
        overrides: "a.b=value" with YAML values.
        quick: apply the shrinking of `quick_overrides`, for a run of seconds on a CPU.
    Raises:
        RecipeError: anything wrong, with file:line and the nearest known name.
    """
    found, path = find_recipe(name)
    marked = read_raw(path)
    quick_given = marked.data.pop("quick", {}) or {}
    if quick:
        marked = _merge(marked, _quick(marked, quick_given))
    for text in overrides:
        marked = _merge(marked, _override(text))
    return _resolve(found, path, marked, tuple(overrides), quick)


def _resolve(name: str, path: Path, marked: Marked, overrides: tuple[str, ...], quick: bool) -> Recipe:
    from ssbench.data.views import ViewsConfig
    from ssbench.methods.base import LossConfig

    raw = marked.data
    _known(raw, SECTIONS, marked, ())
    for section in ("data", "views", "net", "method", "optim", "schedule"):
        if section not in raw:
            raise RecipeError(f"no section '{section}'", _shown(path), f"add '{section}:' or a base that has it")
    find.load("dataset", str(raw["data"].get("dataset")), str(marked.at(("data", "dataset"))))
    method_class = find.load("method", _name(raw["method"], marked, "method"), str(marked.at(("method", "name"))))
    net_class = find.load("net", _name(raw["net"], marked, "net"), str(marked.at(("net", "name"))))
    plugins = tuple(_plugins(raw.get("plugin"), marked))
    _compatible(method_class, _name(raw["method"], marked, "method"), plugins, marked)
    return Recipe(
        name=name,
        path=path,
        paper=raw.get("paper"),
        title=raw.get("title", ""),
        expect=raw.get("expect") or {},
        division=raw.get("division", "closed"),
        data=_section(DataConfig, raw["data"], marked, ("data",)),
        views=_section(ViewsConfig, raw["views"], marked, ("views",)),
        net=_section(net_class.Config, raw["net"], marked, ("net",)),
        method=_section(method_class.Config, raw["method"], marked, ("method",)),
        plugins=tuple(cfg for _, cfg in plugins),
        loss=_section(LossConfig, raw.get("loss") or {}, marked, ("loss",)),
        optim=_section(OptimConfig, raw["optim"], marked, ("optim",)),
        schedule=_section(ScheduleConfig, raw["schedule"], marked, ("schedule",)),
        eval=_section(EvalConfig, raw.get("eval") or {}, marked, ("eval",)),
        departures=tuple(raw.get("departures") or ()),
        overrides=overrides,
        quick=quick,
        marked=marked,
    )


def _plugins(given: Any, marked: Marked) -> Iterator[tuple[type[Any], Any]]:
    listed = given if isinstance(given, list) else [given] if given else []
    for i, one in enumerate(listed):
        at: Keys = ("plugin", i) if isinstance(given, list) else ("plugin",)
        block = {"name": one} if isinstance(one, str) else dict(one)
        name = block.get("name")
        if name in (None, "none"):
            continue
        cls = find.load("plugin", str(name), str(marked.at((*at, "name"))))
        if str(name).endswith(".py"):
            block["name"] = cls.Config.model_fields["name"].default
        yield cls, _section(cls.Config, block, marked, at)


def _compatible(method: type[Any], name: str, plugins: Sequence[tuple[type[Any], Any]], marked: Marked) -> None:
    """Refuse a plug-in whose hooks the method does not call, and two that want the same exclusive hook."""
    from ssbench.plugins.base import EXCLUSIVE

    used: set[str] = set()
    for cls, cfg in plugins:
        if missing := cls.needs - method.honours:
            what = f"{cfg.name} needs {', '.join(sorted(missing))}, which {name} does not offer"
            raise RecipeError(what, str(marked.at(("plugin",))), "choose another host or plug-in")
        if twice := used & cls.needs & EXCLUSIVE:
            raise RecipeError(f"two plug-ins use {', '.join(sorted(twice))}", str(marked.at(("plugin",))), "remove one")
        used |= cls.needs


def _section(model: type[BaseModel], value: Any, marked: Marked, at: Keys) -> Any:
    """`value` as `model`; pydantic's complaints become file:line errors with the nearest field name."""
    if not isinstance(value, dict):
        raise RecipeError(f"'{at[-1]}' must be a mapping, not {value!r}", str(marked.at(at)), "name: value lines")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        keys: Keys = (*at, *problem["loc"])
        where, field_name = str(marked.at(keys)), str(problem["loc"][-1]) if problem["loc"] else ""
        label = f"{at[0]} {value['name']}" if "name" in value else str(at[0])
        if problem["type"] == "extra_forbidden":
            raise RecipeError(f"{label} has no field '{field_name}'; {nearest(field_name, list(model.model_fields))}",
                              where, "ssbench check RECIPE shows the fields in use") from None
        if problem["type"] == "missing":
            raise RecipeError(f"{label} lacks '{field_name}'", where, f"add '{field_name}:'") from None
        got = _get(value, tuple(problem["loc"]))
        raise RecipeError(f"{label}: {field_name} = {got!r}: {problem['msg']}", where, "mend the value") from None


def _known(raw: Mapping[str, Any], known: Sequence[str], marked: Marked, at: Keys) -> None:
    for key in raw:
        if key not in known:
            raise RecipeError(f"no section '{key}'; {nearest(str(key), list(known))}", str(marked.at((*at, key))))


def _name(block: Any, marked: Marked, section: str) -> str:
    if not isinstance(block, dict) or "name" not in block:
        raise RecipeError(f"'{section}' needs a name", str(marked.at((section,))), f"{section}: {{name: ...}}")
    return str(block["name"])


def _merge(below: Marked, above: Marked) -> Marked:
    """`above` over `below`, mappings field by field; a block with another `name` replaces the whole block."""
    data, marks = dict(below.data), dict(below.marks)
    for key, value in above.data.items():
        old = data.get(key)
        blend = isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name")
        data[key] = {**old, **value} if blend else value  # type: ignore[dict-item]
        if not blend:
            marks = {k: m for k, m in marks.items() if k[:1] != (key,)}
    return Marked(data, {**marks, **above.marks})


def _override(text: str) -> Marked:
    """"a.b=value" as a one-value recipe."""
    dotted, sign, value = text.partition("=")
    keys = tuple(dotted.split("."))
    if not sign or not all(keys):
        raise RecipeError(f"--set {text!r} is no 'name.field=value'", "--set", "--set optim.lr=0.01")
    try:
        data: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {text!r}: the value is not YAML", "--set", "quote it") from None
    marks: dict[Keys, Mark] = {keys[:n]: Mark(f"--set {text}", 0, "--set") for n in range(1, len(keys) + 1)}
    for key in reversed(keys):
        data = {key: data}
    return Marked(data, marks)


def _quick(marked: Marked, given: Mapping[str, Any]) -> Marked:
    """What `--quick` changes: toy data, a small net and crop, few steps; method, plug-in and losses stay."""
    views, schedule = marked.data.get("views", {}), marked.data.get("schedule", {})
    nearly_unlabeled = 2 if schedule.get("unlabeled_batch", 0) else 0
    small: dict[str, Any] = {
        "data": {"dataset": "toy", "workers": 0},
        "views": {"crop": 64},
        "schedule": {"epochs": 2, "labeled_batch": 2, "unlabeled_batch": nearly_unlabeled, "devices": 1},
        "eval": {"protocol": "whole", "select": "val", "report": "val", "every": 1},
    }
    del views
    if marked.data.get("net", {}).get("name") == "deeplabv3plus":
        small["net"] = {"encoder": "resnet18", "weights": "random"}
    for section, block in given.items():
        small[section] = {**small.get(section, {}), **block}
    mark = Mark("--quick", 0, "--quick")
    marks: dict[Keys, Mark] = {(s, f): mark for s, block in small.items() for f in block}
    return Marked(small, marks)


def _get(data: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _shown(path: Path) -> str:
    """A recipe's path as a user would type it: recipes/... for shipped ones."""
    root = shipped("recipes").resolve()
    full = path.resolve()
    return f"recipes/{full.relative_to(root)}" if full.is_relative_to(root) else str(path)
