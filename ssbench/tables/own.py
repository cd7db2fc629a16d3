"""The table of a dataset of one's own: written after an import, or put together from whatever records there are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from ssbench import find
from ssbench.errors import RecipeError, UsageError
from ssbench.files import write_text
from ssbench.recipe.automatic import RULES, fill_in
from ssbench.recipe.compose import own_names, read_recipe
from ssbench.recipe.device import has_gpu
from ssbench.recipe.encoder_choice import PretrainedEncoder, best_encoder
from ssbench.recipe.marks import Marked
from ssbench.recipe.overrides import override
from ssbench.recipe.stored import set_arguments
from ssbench.recipe.task import recipes_folder, task_facts
from ssbench.results.record import Record
from ssbench.results.store import ResultStore
from ssbench.splits.draw import make
from ssbench.splits.manifest import Partition, custom_splits
from ssbench.tables.spec import PaperTable

METHODS = ("supervised", "fixmatch", "unimatch")
PLUGINS = ("s4mc",)
LABELS = {"supervised": "Supervised", "fixmatch": "FixMatch", "unimatch": "UniMatch", "mean_teacher": "Mean Teacher",
          "cutmix_seg": "CutMix-Seg", "augseg": "AugSeg", "ael": "AEL", "u2pl": "U2PL", "cps": "CPS", "stpp": "ST++",
          "mpmc": "MPMC", "s4mc": "S4MC", "wpl": "WPL", "ipixmatch": "IPixMatch", "upc": "UPC"}  # fmt: skip
HOST = "unimatch"
"""The method that the plug-ins' rows are on."""
FULL, ALL = "full", "all"
"""Parts of a split's name: every training image is labelled; every image that has a mask, others unlabelled."""
FRACTIONS = (8, 4, 2)
FEWEST = 4
"""Labelled images that a split drawn here has at least."""


@dataclass(frozen=True)
class OwnTable:
    """What `write_own_table` did. name: `NAME/table1`. kept: the files were there already and stay."""

    name: str
    path: Path
    splits: tuple[str, ...]
    recipes: tuple[str, ...]
    encoder: PretrainedEncoder
    random: bool = False
    kept: bool = False
    drawn: tuple[str, ...] = field(default=())

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields: dict[str, Any] = {"table": self.name, "file": str(self.path), "kept": self.kept}
        lists = {"splits": list(self.splits), "recipes": list(self.recipes), "drawn": list(self.drawn)}
        return {**fields, **lists, "weights": "random" if self.random else self.encoder.source}


def write_own_table(
    dataset: str,
    data_root: Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    plugins: Sequence[str] = PLUGINS,
    replace: bool = False,
) -> OwnTable:
    """Write `NAME/table1` and the task file of a dataset below `<data root>/recipes/NAME`.

    Its columns are the user's splits of the dataset. Where none has unlabelled images one is drawn; where every
    training image has a mask the split `full` is drawn, for the rows that read labels alone.

    Args:
        overrides: values of the task file that go before the rules, as `--set` writes them.
        replace: whether to write over files that are there; without it they stay as they are.
    Raises:
        RecipeError: no such dataset, method or plug-in, or an override of a value that no rule gives.
    """
    folder = recipes_folder(dataset, data_root)
    path, task = folder / "table1.yaml", folder / "task.yaml"
    known = [name.partition("/")[2] for name in own_names()]
    for method in methods:
        if method not in known:
            raise RecipeError(f"no recipe own/{method}", "--method", f"methods: {', '.join(known)}")
    for plugin in plugins:
        find.load("plugin", plugin, "--plugin")
    if replace:  # the lists of `full` are those of the import before
        shutil.rmtree(data_root / "splits" / dataset / "custom" / FULL, ignore_errors=True)
    drawn = tuple(_draw_missing(dataset, data_root))
    splits = custom_splits(dataset, data_root)
    recipes = [*(f"own/{method}" for method in methods), *(f"own/{HOST}+{plugin}" for plugin in plugins)]
    channels, has_file = task_facts(dataset, data_root).channels, path.is_file() and task.is_file()
    best = best_encoder(has_gpu(), ask_network=True, channels=channels)
    if not has_file or replace:
        text, is_random = _task_text(dataset, data_root, overrides, best)
        write_text(task, text)
        write_text(path, _table_text(dataset, splits, methods, plugins))
    else:
        is_random = "weights: random" in task.read_text(encoding="utf-8")
    names = tuple(split.name for split in splits)
    return OwnTable(f"{dataset}/table1", path, names, tuple(recipes), best, is_random, has_file and not replace, drawn)


def _draw_missing(dataset: str, data_root: Path) -> list[str]:
    """Draw a split with unlabelled images where there is none, and `full` where masks allow it; their names."""
    from ssbench.data.open import open_dataset

    splits = custom_splits(dataset, data_root)
    opened, drawn = open_dataset(dataset, data_root), []
    train = len(opened.ids("train"))
    parts = [split.name.rpartition("/")[2] for split in splits]
    below = data_root / "splits" / dataset / "custom"
    fitting = next((n for n in FRACTIONS if train // n >= FEWEST), None)
    if fitting and ALL not in parts and not any(split.unlabeled for split in splits):
        make(opened, below / f"1_{fitting}", fraction=Fraction(1, fitting))
        drawn.append(f"{dataset}/custom/1_{fitting}")
    if ALL not in parts and not any(not split.unlabeled for split in splits):
        make(opened, below / FULL, fraction=Fraction(1))  # a count would be of groups, where images have them
        drawn.append(f"{dataset}/custom/{FULL}")
    return drawn


def _task_text(dataset: str, data_root: Path, overrides: Sequence[str], best: PretrainedEncoder) -> tuple[str, bool]:
    """The task file's text, and whether its encoder starts from random weights."""
    marked = read_recipe(f"own/{HOST}")[1]
    fields = [tuple(path.split(".")) for path in RULES if not path.startswith("method.")]
    given = {text.partition("=")[0].strip() for text in overrides}
    if unknown := sorted(given - {".".join(keys) for keys in fields}):
        what = f"'{unknown[0]}' is no value that the rules give"
        raise RecipeError(what, "--set", f"one of {', '.join('.'.join(keys) for keys in fields)}")
    if "net.encoder" not in given:
        marked = Marked({**marked.data, "net": {**marked.data["net"], "encoder": best.encoder}}, marked.marks)
    for text in overrides:
        marked = override(marked, text)
    filled = fill_in(marked, dataset, data_root, with_task=False)
    lines = [f"# {dataset}: what every run of own/<method> on it shares. Written by rules; yours to edit.",
             f"# Written anew: ssbench new table {dataset} --replace"]  # fmt: skip
    section = ""
    for keys in sorted(fields, key=lambda keys: keys[0] != "views"):  # `normalise` is settled after the network
        if keys[0] != section:
            section = keys[0]
            lines.append(f"{section}:")
        value, source = filled.data[keys[0]][keys[1]], filled.at(keys).comment
        source = f"ours: {best}" if keys == ("net", "encoder") and "net.encoder" not in given else source
        source = "ours: as given" if ".".join(keys) in given else source
        lines.append(f"  {keys[1]}: {_flow(value)}  # {source}")
    return "\n".join(lines) + "\n", filled.data["net"].get("weights") == "random"


def _table_text(dataset: str, splits: Sequence[Partition], methods: Sequence[str], plugins: Sequence[str]) -> str:
    """The table's YAML. Rows that read unlabelled images leave out columns that have none."""
    columns = [
        {"id": f"c{k}", "label": _column_label(split), "group": "labelled images", "split": split.name}
        for k, split in enumerate(splits)
    ]
    mixed = [f"c{k}" for k, split in enumerate(splits) if split.unlabeled]
    over = {} if len(mixed) == len(columns) else {"over": mixed}
    rows: list[dict[str, Any]] = []
    for method in methods:
        if method != "supervised" and not mixed:
            continue
        row = {"id": method, "label": LABELS.get(method, method), "method": method, "recipe": f"own/{method}"}
        rows.append(row | (over if method != "supervised" else {}))
    for plugin in plugins if mixed else ():
        name = Path(plugin).stem
        row = {"id": f"{HOST}_{name}", "label": f"{LABELS[HOST]} + {LABELS.get(name, name)}", "method": HOST}
        row |= {"plugin": name, "role": "P", "recipe": f"own/{HOST}+{plugin}"}
        rows.append(row | ({"gain_over": HOST} if HOST in methods else {}) | over)
    content: dict[str, Any] = {
        "title": f"{dataset}, own images, the recipes own/<method>",
        "metric": "miou",
        "caption": "Measured here; no paper prints it.",
        "defaults": {"role": "B"},
        "columns": columns,
        "rows": rows,
    }
    head = (
        f"# Methods on {dataset}; crop, batch, encoder and steps of all rows stand in task.yaml.\n"
        f"# Rows, columns and splits are yours to edit. ssbench run {dataset}/table1; ssbench table {dataset}/table1\n"
    )
    listed = {name: content.pop(name) for name in ("columns", "rows")}
    lines = [head, str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))]
    for name, items in listed.items():
        lines.append(f"{name}:\n")
        lines += [f"  - {_flow(item)}\n" for item in items]
    return "".join(lines)


def _flow(value: object) -> str:
    """A value in YAML's flow style, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return str(text).splitlines()[0]


def _column_label(split: Partition) -> str:
    part = split.name.rpartition("/")[2]
    pieces = part.split("_")
    share = "/".join(pieces) if len(pieces) == 2 and all(piece.isdecimal() for piece in pieces) else part
    return f"{share} ({len(split.labeled)})"


def dataset_table(dataset: str, store: ResultStore) -> PaperTable:
    """A table of whatever records the store has of a dataset: one row a recipe, one column a split.

    A recipe with `--set` is a row of its own, named by its overrides.

    Raises:
        UsageError: there is no record of it.
    """
    records = [record for record in store.records([dataset]) if not record.quick]
    if not records:
        fix = f"ssbench run {dataset}/table1, or: ssbench run own/unimatch --split {dataset}/custom/1_8"
        raise UsageError(f"no records of {dataset}", str(store.root), fix)
    splits = {record.split: record.custom_split for record in records}
    columns = [{"id": split, "label": split.partition("/")[2], "split": split} for split in sorted(splits)]
    rows = []
    for recipe in sorted({record.recipe for record in records}):
        of_recipe = [record for record in records if record.recipe == recipe]
        row = {"id": recipe, "label": _row_label(of_recipe[0], store), "recipe": recipe}
        row |= {"method": of_recipe[0].method, "metric": of_recipe[0].metric}
        rows.append(row | {"over": sorted({record.split for record in of_recipe})})
    content = {"title": f"{dataset}: every record here", "metric": records[0].metric, "columns": columns, "rows": rows}
    return PaperTable.model_validate(content).model_copy(update={"name": f"{dataset}/records"})


def _row_label(record: Record, store: ResultStore) -> str:
    """The recipe's name; of one with `--set`, its overrides instead of their hash."""
    sets = set_arguments((store.whole(record) or {}).get("departures"))
    name = record.recipe.rpartition("+")[0] if sets else record.recipe
    return " ".join([name, *sets])[:2000]
