"""Analyses that tables ask for, made of finished runs: patches (MPMC), boxes and pseudo-labels by class (WPL).

`ssbench run TABLE` makes those whose runs are done, `ssbench eval --store` the one of a checkpoint. The networks are
those of the best epoch, as the papers' numbers are; a quick run's analysis stays in its folder and fills no table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssbench.console import Bars, say
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.files import read_model
from ssbench.inspect.networks import load_method, load_predictor
from ssbench.inspect.patches import Over, PatchTable
from ssbench.inspect.pseudo_labels import ClassBoxes, PixelGroups
from ssbench.jobs.job import Job, Places
from ssbench.jobs.run import RunSpec
from ssbench.jobs.targets import AnalysisJob
from ssbench.plugins.wpl import WPL, things
from ssbench.plugins.wpl_detector import BoxesFile
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.analysis import Analysis, AnalysisKind, read_analysis, store_analysis
from ssbench.train import checkpoint
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import evaluate

Watch = Callable[..., Any]


@dataclass(frozen=True)
class FinishedRun:
    """A run whose networks are still there: what it is, its key, its folder and its best checkpoint."""

    spec: RunSpec
    best: Path

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        return self.spec.recipe

    @property
    def name(self) -> tuple[str, str]:
        """Stored name and key, as an analysis names the run it was made beside."""
        return self.recipe.stored_name, self.spec.key

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.best.parent

    @classmethod
    def of_checkpoint(cls, path: Path, recipe: Recipe, split: str, places: Places, must_be_stored: bool) -> FinishedRun:
        """The run that wrote a checkpoint; one without a stored record counts as seed 0 of its recipe.

        Raises:
            UsageError: a record is needed and there is none.
        """
        spec, key = RunSpec.of(recipe, split, 0, places), checkpoint.read_key(path)
        stored = spec.store.runs(recipe.stored_name, spec.partition.name)
        seed = next((record.seed for record in stored if record.key == key and record.status == "done"), None)
        if must_be_stored and seed is None:
            what = f"no record of {recipe.stored_name} on {split} has this checkpoint's key {key}"
            fix = "give its --recipe, --set, --split and --results, or leave out --store"
            raise UsageError(what, str(spec.store.root), fix)
        return cls(replace(spec, seed=seed or 0), path)

    @classmethod
    def of(cls, job: Job, places: Places) -> FinishedRun:
        """The run of a job.

        Raises:
            UsageError: it is not done, or its networks are not in its folder any more.
        """
        spec = RunSpec.of(job.load_recipe(places), job.split, job.seed, places)
        best = spec.folder / "best.pt"
        again = f"ssbench run {job.recipe} --split {job.split} --seed {job.seed}"
        if spec.find_record() is None:
            raise UsageError(f"{job} is not done", str(spec.folder), again)
        if not best.is_file() or checkpoint.read_key(best) != spec.key:
            what = f"the networks of {job} are not in its folder any more"
            raise UsageError(what, str(best), f"move its record away, then: {again}")
        return cls(spec, best)


def make_analyses(
    jobs: Sequence[AnalysisJob], places: Places, device: str | None, quick: bool = False
) -> list[tuple[AnalysisJob, SsbenchError | None]]:
    """Make and store the analyses that are not there yet and whose runs are done; each with its error, if any.

    One that waits for a run that is not done comes back with that as its error.
    """
    team, ends = join(device), list[tuple[AnalysisJob, SsbenchError | None]]()
    for analysis in jobs if team.leads else ():
        try:
            _make(analysis, places, team, quick)
            ends.append((analysis, None))
        except SsbenchError as error:
            say(f"no analysis {analysis}: {error}")
            ends.append((analysis, error))
    return ends


def _make(job: AnalysisJob, places: Places, team: Team, quick: bool) -> None:
    run = FinishedRun.of(job.job(quick), places)
    beside = None if job.beside is None else FinishedRun.of(replace(job.job(quick), **job.beside_run), places)
    root = run.spec.store.root
    stored = read_analysis(root, run.recipe.stored_name, job.split, job.seed, job.kind)
    if stored and not quick and stored.key == run.spec.key and stored.beside == (beside and beside.name):
        return
    say(f"analysis: {job}")
    with Bars() as bars:
        store_analysis(root, analyse(job.kind, run, beside, team, bars.watch))


def analyse(kind: AnalysisKind, run: FinishedRun, beside: FinishedRun | None, team: Team, watch: Watch) -> Analysis:
    """The analysis of a run.

    Raises:
        UsageError: the runs have not what it is of. DataError: a file is missing or damaged.
    """
    counters: Mapping[AnalysisKind, Callable[..., dict[str, Any]]] = {
        "patches": _patches, "boxes": _boxes, "pixels": _pixels,
    }  # fmt: skip
    dataset = dataset_of(run.recipe, run.spec.places.data)
    return as_analysis(kind, run, beside, counters[kind](run, beside, dataset, team, watch))


def as_analysis(
    kind: AnalysisKind, run: FinishedRun, beside: FinishedRun | None, counted: Mapping[str, Any]
) -> Analysis:
    """What was counted, with the runs it was counted of."""
    return Analysis.model_validate({
        "schema": 1, "kind": kind, "recipe": run.recipe.stored_name, "split": run.spec.partition.name,
        "seed": run.spec.seed, "key": run.spec.key, "beside": beside and beside.name,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **counted,
    })  # fmt: skip


@dataclass(frozen=True)
class CheckpointAnalyses:
    """Analyses of one checkpoint, as `ssbench eval` asks for them. baseline: the checkpoint read beside it.

    baseline_recipe: what that was made by (None: the recipe without its plug-in). is_stored: whether they are kept.
    """

    path: Path
    recipe: str
    overrides: tuple[str, ...]
    baseline: Path | None
    baseline_recipe: str | None
    is_stored: bool

    def make(
        self, kinds: Sequence[AnalysisKind], split: str, places: Places, device: str | None,
        scores: Mapping[str, Any],
    ) -> dict[str, dict[str, dict[str, float | None]]]:  # fmt: skip
        """The values of each analysis, by entry and quantity. scores: of `score_checkpoint`, with patches if counted.

        Raises:
            UsageError: no stored run wrote the checkpoint, and the analyses are to be kept; or the run lacks what they
            are of. DataError: a file is missing or damaged.
        """
        run = FinishedRun.of_checkpoint(self.path, self._load(self.recipe), split, places, self.is_stored)
        beside = None
        if self.baseline is not None:
            recipe = self._load(self.baseline_recipe) if self.baseline_recipe else self._load(self.recipe, plain=True)
            beside = FinishedRun.of_checkpoint(self.baseline, recipe, split, places, self.is_stored)
        values, team = {}, join(device)
        with Bars() as bars:
            for kind in kinds:
                if kind == "patches" and "patches" in scores:
                    counted = {"subset": scores["subset"], **patch_numbers(scores["patches"])}
                    result = as_analysis(kind, run, beside, counted)
                else:
                    result = analyse(kind, run, beside, team, bars.watch)
                if self.is_stored:
                    say(f"stored: {store_analysis(run.spec.store.root, result)}")
                values[str(kind)] = result.values
        return values

    def _load(self, name: str, plain: bool = False) -> Recipe:
        own = self.overrides if name == self.recipe else ()
        return load(name, (*own, *(("plugin=none",) if plain else ())))


def patch_numbers(table: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a `PatchTable` as values and counts of an analysis."""
    quantities = ("share", "miou", "baseline", "gain")
    return {
        "settings": {name: table[name] for name in ("window", "stride", "over")},
        "values": {row["agreement"]: {q: row[q] for q in quantities} for row in table["bins"]},
        "counts": {row["agreement"]: {"patches": row["patches"]} for row in table["bins"]},
    }


def _patches(
    run: FinishedRun, beside: FinishedRun | None, dataset: Dataset, team: Team, watch: Watch, over: Over = "union"
) -> dict[str, Any]:
    """MPMC's Table 4 on the reported subset; the gain is over the run beside it."""
    method, baseline = _method(run, dataset, team), None
    if beside is not None:
        baseline = load_predictor(_bare(beside.recipe), beside.best, dataset, team.device)
    cfg = run.recipe.eval
    table = PatchTable(method, len(dataset.classes), cfg, over, baseline)
    evaluate(method.predict, dataset, cfg.report, cfg, run.recipe.views, team, run.recipe.data.workers, watch, table)
    return {"subset": cfg.report, **patch_numbers(table.result(team))}


def _boxes(run: FinishedRun, beside: FinishedRun | None, dataset: Dataset, team: Team, watch: Watch) -> dict[str, Any]:
    """The run's detector on the unlabelled images, which it never saw, against boxes of their hidden labels."""
    detected, cfg = _detector_boxes(run)
    classes = things(cfg.box_classes, len(dataset.classes))
    boxes = ClassBoxes(classes, cfg.box_score, cfg.min_area)
    for id in watch(run.spec.partition.unlabeled, "boxes against hidden labels", len(run.spec.partition.unlabeled)):
        boxes.add(detected.images[id], np.array(dataset.mask(id)))
    settings = {"score": cfg.box_score, "iou": boxes.overlap, "min_area": cfg.min_area}
    return {"subset": "unlabeled", "settings": settings, **boxes.result(dataset.classes)}


def _pixels(run: FinishedRun, beside: FinishedRun | None, dataset: Dataset, team: Team, watch: Watch) -> dict[str, Any]:
    """The run's pseudo-labels of the unlabelled images, apart by what the detector of the run beside it says."""
    if beside is None:
        raise UsageError("pixels are told apart by a detector's boxes", "beside", "name a run with wpl")
    detected, cfg = _detector_boxes(beside)
    classes = things(cfg.box_classes, len(dataset.classes))
    groups = PixelGroups(len(dataset.classes), classes, cfg.box_score, cfg.confidence, cfg.box_edges)
    predict, ids = _method(run, dataset, team).predict, run.spec.partition.unlabeled
    for id in watch(ids, "pseudo-labels against hidden labels", len(ids)):
        with torch.no_grad():
            x = _image(dataset, id, run.recipe)[None].to(team.device)
            groups.add(predict(x)[0], detected.images[id], np.array(dataset.mask(id)))
    settings = {"confidence": cfg.confidence, "score": cfg.box_score}
    return {"subset": "unlabeled", "settings": settings, **groups.result(dataset.classes)}


def _image(dataset: Dataset, id: str, recipe: Recipe) -> torch.Tensor:
    from ssbench.views.pipelines import eval_view

    return eval_view(dataset.image(id), recipe.views)


def _method(run: FinishedRun, dataset: Dataset, team: Team) -> Any:
    method = load_method(_bare(run.recipe), run.best, dataset, team.device)
    if method is None:
        raise DataError("this file holds no networks of a run", str(run.best), "run it again")
    return method


def _bare(recipe: Recipe) -> Recipe:
    """The recipe without the weights its network starts from: those of the checkpoint replace them."""
    fields = type(recipe.net).model_fields
    bare = {name: "random" for name in ("weights",) if name in fields}
    return replace(recipe, net=recipe.net.model_copy(update=bare))


def _detector_boxes(run: FinishedRun) -> tuple[BoxesFile, Any]:
    """The boxes that a run's detector found on its unlabelled images, and the settings of its plug-in."""
    cfg = next((cfg for cfg in run.recipe.plugins if isinstance(cfg, WPL.Config) and cfg.rppi), None)
    if cfg is None:
        raise UsageError(f"{run.recipe.stored_name} has no detector", "plugin", "name a run with wpl and its detector")
    path = run.folder / "detector" / "boxes.json"
    file = read_model(path, BoxesFile, "file of boxes", "run it again: its detector stage goes on from there")
    missing = [id for id in run.spec.partition.unlabeled if id not in file.images]
    if not file.complete or missing:
        raise DataError(
            f"these boxes are not of the whole split ({len(missing)} images lack)", str(path), "run it again"
        )
    return file, cfg
