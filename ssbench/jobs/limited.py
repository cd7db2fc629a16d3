"""The first steps of a real run, on its real data: does it train, how fast, and what does a whole run take?

Nothing is stored: the run's folder is a temporary one, and no record is written.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import Any

from ssbench.console import Bar, Bars
from ssbench.data.batch import Batch
from ssbench.jobs.job import Job, Places
from ssbench.jobs.run import RunSpec
from ssbench.jobs.workload import count_trainings
from ssbench.train import machine
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer

SCORED = 4
"""Pictures that are scored after the steps, so that scoring has been tried, too."""


TIMED = 8
"""Steps that tell a run's speed for a budget."""


class _LimitReached(Exception):  # noqa: N818  the normal end of a limited run
    pass


class LimitedTrainer(Trainer):
    """A trainer that stops after `limit` steps of its first training, and saves and scores nothing on the way."""

    limit = 1

    def train(self) -> None:
        """To the limit, or to the end of the schedule where that comes first. Always ends in `_LimitReached`."""
        super().train()
        raise _LimitReached

    def _step(self, batch: Batch) -> None:
        if self.state.step >= self.limit:  # asked before the step, so that every step is timed to its end
            raise _LimitReached
        super()._step(batch)

    def _end_epoch(self, bar: Bar) -> None:
        self._check_finite()

    def _save(self) -> None:
        self._check_finite()


@dataclass(frozen=True)
class LimitedRun:
    """What the first steps of a run showed.

    steps, total: done, and those of its (first) training. all_steps: of all its trainings. terms: means over the steps.
    images_per_s: None before two steps. score: of `SCORED` pictures, percent. hours: a whole run by this speed, None
    where that is not known; what is computed between trainings is not in them.
    """

    job: Job
    steps: int
    total: int
    all_steps: int
    terms: dict[str, float]
    images_per_s: float | None
    seconds: float
    score: float
    peak_bytes: int
    hours: float | None

    def __str__(self) -> str:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        speed = "" if self.images_per_s is None else f"; {self.images_per_s:g} images/s"
        whole = "" if self.hours is None else f"; all {self.all_steps} steps: about {self.hours:.2f} hours"
        score = f"{self.score:.2f} on {SCORED} pictures"
        return (
            f"tried {self.job}: {self.steps} steps of {self.total}: {terms}; {score}{speed}{whole}; nothing is stored"
        )

    def as_json(self) -> dict[str, Any]:
        """An entry of `tried` in the object of `ssbench run --limit N --json`."""
        fields = ("steps", "total", "all_steps", "terms", "images_per_s", "score", "peak_bytes", "hours")
        names = {"recipe": self.job.recipe, "overrides": list(self.job.overrides), "split": self.job.split}
        return {**names, "seed": self.job.seed, **{name: getattr(self, name) for name in fields}}


def run_limited(job: Job, places: Places, team: Team, bars: Bars, limit: int) -> LimitedRun:
    """Train the first `limit` steps of a job, then score some pictures.

    Raises:
        What a whole run would raise; nothing is recorded.
    """
    recipe = job.load_recipe(places)
    spec = RunSpec.of(recipe, job.split, job.seed, places)
    dataset = dataset_of(recipe, places.data)
    places.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".limit-", dir=places.runs) as name:
        folder = places.runs / name.rpartition("/")[2]
        few = replace(recipe, eval=recipe.eval.model_copy(update={"few": SCORED}))
        trainer = LimitedTrainer(few, spec.partition, dataset, job.seed, folder, team, bars)
        trainer.limit = limit
        try:
            fit(trainer)
        except _LimitReached:
            trainer._check_finite()
        score = trainer.score(recipe.eval.select).value
        timing, steps = trainer.timing, trainer.state.step
        schedule = recipe.schedule
        images = timing.steps * (schedule.labeled_batch + schedule.unlabeled_batch * trainer.plan.needs.unlabeled)
        each = timing.seconds / timing.steps if timing.steps else None
        lists = len(spec.partition.labeled), len(spec.partition.unlabeled)
        trainings, scored = count_trainings(recipe, trainer.method, *lists)
        volumes = dataset.volumes(recipe.eval.select) if recipe.eval.select in dataset.subsets else None
        pictures = len(dataset.ids(recipe.eval.select)) if recipe.eval.select in dataset.subsets else SCORED
        scoring = timing.scoring * (pictures if volumes is None else len(volumes)) / SCORED * (scored + 2)
        hours = None if each is None else (each * sum(trainings) + scoring) / 3600
        return LimitedRun(
            job=job,
            steps=steps,
            total=trainer.steps,
            all_steps=sum(trainings),
            terms=trainer._term_means(),
            images_per_s=round(images / timing.seconds, 3) if timing.steps and timing.seconds else None,
            seconds=timing.seconds + timing.scoring,
            score=score,
            peak_bytes=machine.peak_memory(team.device),
            hours=hours,
        )
