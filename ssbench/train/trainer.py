"""The training loop of one run: steps, scores at the end of epochs, checkpoints, resuming, requests to stop.

Of a method it knows `step`, the `loss` and the named `terms` a step returns, and its hooks after steps and epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssbench.console import Bar, Bars
from ssbench.data.batch import Batch
from ssbench.data.dataset import Dataset
from ssbench.data.loader import loader, make_steps, views_on_device
from ssbench.data.plan import Plan, plan_partition
from ssbench.data.workers import dead_workers_named, useful_workers
from ssbench.errors import DataError, Stopped
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.ops.progress import Progress
from ssbench.ops.schedule import poly
from ssbench.plugins.base import PrepareInputs
from ssbench.plugins.promises import term_names
from ssbench.recipe.identity import head_of
from ssbench.recipe.recipe import Recipe
from ssbench.splits.manifest import Partition
from ssbench.train.batched import BatchedPredictor
from ssbench.train.build import checkpoint_facts, method_of, optimizer_of
from ssbench.train.checkpoint import BestEpoch, Checkpointer, Snapshot, TrainingState
from ssbench.train.compiling import format_method
from ssbench.train.distributed import Team, in_parallel, share_batch_norm
from ssbench.train.evaluate import Score, evaluate
from ssbench.train.finite import Diverged, FiniteWatch, one_image_refused
from ssbench.train.precision import tf32_as_chosen
from ssbench.train.stopping import StopRequest
from ssbench.views.sample import Maps, Together

SAVE, STOP = 1, 2
"""What a process asks for after a step. The larger number wins among processes."""
GUARD_EVERY = 100
"""Steps between two checks that losses and weights are finite. A check waits for the device once."""
AGREE_EVERY = 10
"""Steps between two times that several processes agree on saving or stopping. This waits for the device, too."""


@dataclass
class Timing:
    """Wall-clock seconds since this process began: in steps, of these waiting for data, and in scoring."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    scoring: float = 0.0


class Trainer:
    """One run in one folder; `stages.fit` drives it. `train` resumes from wherever the folder stands.

    Attributes:
        state: updates done, history of epochs, best epoch. `timing`: what this process has spent.
        computation: in which number formats this machine computes it.
        stage, earlier_stages: the training under way and the facts of those before it, in a run of several trainings.
    """

    def __init__(
        self, recipe: Recipe, partition: Partition, dataset: Dataset, seed: int, folder: Path, team: Team, bars: Bars
    ) -> None:
        self.recipe, self.partition, self.dataset, self.seed = recipe, partition, dataset, seed
        self.folder, self.team, self.bars = folder, team, bars
        self.list_notes: tuple[str, ...] = ()  # what is to be known of the split's lists, for the record
        self.head = head_of(recipe, partition.name, partition.sha256, seed)
        self.key = self.head.key
        self.stop = StopRequest()
        self.method = self._build_method()
        self.facts = checkpoint_facts(self.head, recipe, dataset, self.method)
        self.checkpointer = Checkpointer(folder, self.key, team, bars.write_line, about=self.facts)
        schedule = recipe.schedule
        batches = (schedule.labeled_batch, schedule.unlabeled_batch)
        self.plan = plan_partition(partition, self.method.needs, *batches, schedule.devices, seed, schedule.last)
        self.method.attach(self.plan)
        self.epochs = schedule.epochs_of(self.plan.steps_per_epoch)
        self.steps = self.plan.steps_per_epoch * self.epochs
        self.method.to(team.device)
        share_batch_norm(self.method, team)
        self.computation = format_method(self.method, recipe, dataset.channels, team)
        self.module = self.method if team.world == 1 else in_parallel(self.method, team)
        is_exact = self.computation.precision == "exact"
        self.predictor = BatchedPredictor(lambda x: self.method.predict(x), team.device, is_exact)
        self.optimizer = self._build_optimizer()
        self.state, self.timing = TrainingState(), Timing()
        self.maps: Maps | None = None
        self.stage = ""
        self.earlier_stages: list[dict[str, Any]] = []
        self.on_epoch: list[Callable[[dict[str, Any]], None]] = []  # called with each saved entry of the history
        self._sums: dict[str, Tensor] = {}  # of each term over the epoch: [sum, steps]
        self._finite = FiniteWatch(team.device)
        self._saved_at = (-1, -1)

    def prepare(self) -> None:
        """What the plug-in computes before training (WPL's detector), and the maps it stores for every image."""

        def progress(items: Iterable[Any], label: str) -> Iterator[Any]:
            listed = list(items)
            return self.watch(listed, label, len(listed))

        inputs = PrepareInputs(
            classes=len(self.dataset.classes),
            labeled=self.partition.labeled,
            unlabeled=self.partition.unlabeled,
            image=self.dataset.image,
            mask=self.dataset.mask,
            folder=self.folder,
            seed=self.seed,
            progress=progress,
        )
        self.method.plugin.prepare(inputs)
        if inputs.maps:
            self.maps = Together(inputs.maps)

    def train(self) -> None:
        """From where the folder stands to the last step, with a score at the end of each epoch.

        Raises:
            Stopped: a signal came; everything is saved.
            Diverged: a loss or a weight is not finite; nothing of that step is saved.
        """
        self._resume()
        label = f"{self.recipe.name} {self.partition.name} seed {self.seed} {self.stage}".rstrip()
        bar = self.bars.bar(label, self.steps, self.state.step)
        self.module.train()
        if self.state.step == self.plan.steps_per_epoch * (len(self.state.history) + 1):
            self._end_epoch(bar)  # the request to stop came while this epoch was scored
        saved = time.monotonic()
        with dead_workers_named(), closing(self._batches()) as batches:
            for batch in self._timed(batches):
                self._step(batch)
                if self.state.step == 1 or self.state.step % GUARD_EVERY == 0:
                    self._check_finite()
                bar.move_to(self.state.step)
                if self.state.step % self.plan.steps_per_epoch == 0:
                    self._end_epoch(bar)
                    saved = time.monotonic()
                action = self._agreed_action(time.monotonic() - saved > 60 * self.recipe.schedule.checkpoint_minutes)
                if action:
                    self._save()
                    saved = time.monotonic()
                if action == STOP:
                    raise self._stopped()

    def begin_stage(self, stage: str, plan: Plan, checkpointer: Checkpointer, maps: Maps | None, epochs: int) -> None:
        """Turn to another training of this run: the networks stay as they are, the optimiser is new."""
        self.stage, self.plan, self.checkpointer, self.maps = stage, plan, checkpointer, maps
        self.epochs = epochs
        self.steps = plan.steps_per_epoch * self.epochs
        self.optimizer = self._build_optimizer()
        self.state, self._saved_at = TrainingState(), (-1, -1)

    def score(self, subset: str) -> Score:
        """The method's score on a subset. The networks are in eval mode meanwhile.

        Raises:
            Stopped: a signal came, and no other process waits for this one. Nothing is saved here.
        """
        began, was_training = time.monotonic(), self.method.training
        self.method.eval()
        cfg, views, workers = self.recipe.eval, self.recipe.views, self.recipe.data.workers
        with tf32_as_chosen(self.computation):
            score = evaluate(self.predictor, self.dataset, subset, cfg, views, self.team, workers, self.watch)
        self.method.train(was_training)
        self.timing.scoring += time.monotonic() - began
        return score

    def load_best(self) -> None:
        """Put the best epoch's networks in place."""
        self.method.load_state_dict(self.checkpointer.load_best())

    def progress(self, step: int) -> Progress:
        """What a method is told about a step: its number, of how many, and this process's place."""
        team = self.team
        return Progress(step, self.steps, self.plan.steps_per_epoch, self.seed, team.device, team.rank, team.world)

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        """`items` under a bar. Raises Stopped on a request to stop, if no other process waits for this one."""
        for item in self.bars.watch(items, label, total):
            yield item
            if self.stop.is_requested and self.team.world == 1:
                raise self._stopped()

    def _build_method(self) -> Method:
        return method_of(self.recipe, len(self.dataset.classes), self.dataset.channels, self.seed)

    @property
    def views_on_device(self) -> bool:
        """Whether the device computes the pictures of the training under way, or the loader's workers do."""
        return views_on_device(self.plan, self.recipe.views, self.team.device, self.computation.precision == "fast")

    def _build_optimizer(self) -> Any:
        return optimizer_of(self.recipe.optim, self.method.parameter_groups(), self.computation.fused, self.method)

    def _batches(self) -> Generator[Batch]:
        views, team = self.recipe.views, self.team
        steps = make_steps(self.plan, self.dataset, views, self.maps, team.rank, team.world, self.views_on_device)
        pin = self.team.device.type == "cuda"
        batches = loader(steps, self.state.step, self.steps, useful_workers(self.recipe.data.workers), pin)
        with closing(batches):
            for batch in batches:
                # The method chooses partners by what it has learned so far, so they cannot be loaded ahead.
                wants = self.method.wants(batch, self.progress(self.state.step))
                yield steps.with_partner(batch, wants, self.state.step)

    def _resume(self) -> None:
        snapshot = self.checkpointer.load()
        if snapshot is None:
            return
        try:
            self.method.load_state_dict(snapshot.method)
            self.optimizer.load_state_dict(snapshot.optimizer)
        except Exception as error:  # torch raises RuntimeError, ValueError, KeyError and more
            # The key is this run's, so the file was damaged in a way that checksums allow, or the code has changed.
            what = f"the checkpoint does not fit this run: {' '.join(str(error).split())[:200]}"
            raise DataError(what, str(self.checkpointer.newest), "delete the run's folder and run again") from None
        self.state, self._sums = snapshot.state, snapshot.sums

    def _step(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device."""
        t = self.progress(self.state.step)
        # Dropout and other draws of torch depend on the step alone, so that a resumed run repeats them.
        torch.manual_seed(key(self.seed, t.step, "step", self.team.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * poly(t.step, t.steps, self.recipe.optim.power, self.recipe.optim.lag)
        with one_image_refused():
            step = self.module(batch.to(self.team.device).computed(self.recipe.views), t)
        self.optimizer.zero_grad(set_to_none=True)
        step.loss.backward()
        if self.recipe.optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.optim.clip)
        self.optimizer.step()
        self.method.after_step(t)
        self._add_terms({"loss": step.loss.detach(), **step.terms}, t.step)
        self.state.step += 1

    def _add_terms(self, terms: dict[str, Tensor], step: int) -> None:
        self._finite.add(terms, term_names(self.method.plugin), step)
        for name, value in terms.items():
            pair = torch.stack([value.double(), value.new_ones((), dtype=torch.double)])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def _check_finite(self) -> None:
        """Stop a run whose loss or weights are not finite, before anything of it is saved."""
        if fault := self._finite.first_fault(self.method.parameters(), self.state.step - 1, self.team):
            step, what, fix = fault
            raise Diverged(step, self.plan.ids_at(step), what, fix)

    def _end_epoch(self, bar: Bar) -> None:
        """Score the epoch, add it to the history, save. The order of the writes matters: see `Checkpointer`."""
        self._check_finite()
        epoch = self.state.step // self.plan.steps_per_epoch - 1
        stage = {"stage": self.stage} if self.stage else {}
        entry: dict[str, Any] = {"epoch": epoch, "terms": self._term_means(), **stage}
        is_best = False
        if self.recipe.eval.is_scored(epoch, self.epochs):
            score = self._score_or_save()
            entry |= {"select": score.value} | ({"volumes": score.volumes} if score.volumes else {})
            is_best = self.state.best is None or score.value > self.state.best.select
            if is_best:
                facts: dict[str, Any] = {"select": score.value, "per_class": score.per_class, "matrix": score.matrix}
                self.state.best = BestEpoch(epoch=epoch, step=self.state.step, **facts)
            bar.note(f"epoch {epoch + 1}/{self.epochs} {self.recipe.eval.select} {score.value:.2f}")
        self.method.end_epoch(is_best, self.progress(self.state.step - 1))
        self._sums = {}
        self.state.history.append(entry)
        self.checkpointer.save_epoch(epoch, self.method.state_dict())
        self._save()
        if is_best:
            self.checkpointer.save_best(epoch, self.method.state_dict())
        for watch in self.on_epoch:
            watch(entry)

    def _score_or_save(self) -> Score:
        """This epoch's score. On a request to stop meanwhile the state is saved, and the next start scores first."""
        try:
            return self.score(self.recipe.eval.select)
        except Stopped:
            self._save()
            raise

    def _term_means(self) -> dict[str, float]:
        """Means over the epoch's steps and over processes. A term that was undefined in a step is left out."""
        means = {}
        for name, pair in sorted(self._sums.items()):
            total, steps = self.team.sum(pair.clone()).tolist()
            if math.isfinite(total):
                means[name] = total / steps
        return means

    def _save(self) -> None:
        if (position := (self.state.step, len(self.state.history))) == self._saved_at:
            return
        self._check_finite()
        self._saved_at = position
        method, optimizer = self.method.state_dict(), self.optimizer.state_dict()
        snapshot = Snapshot(key=self.key, method=method, optimizer=optimizer, state=self.state, sums=self._sums)
        self.checkpointer.save(snapshot)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, counting how long each kept the loop waiting; scoring and saving count to neither."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            loaded, scoring = time.monotonic(), self.timing.scoring
            yield batch
            self.timing.steps += 1
            self.timing.waiting += loaded - began
            self.timing.seconds += time.monotonic() - began - (self.timing.scoring - scoring)

    def _agreed_action(self, is_due: bool) -> int:
        """0, SAVE (a save is due) or STOP (a signal came), the same on every process at every step."""
        action = STOP if self.stop.is_requested else SAVE if is_due else 0
        if self.team.world == 1:
            return action
        at = self.state.step
        return self.team.most(action) if at % AGREE_EVERY == 0 or at % self.plan.steps_per_epoch == 0 else 0

    def _stopped(self) -> Stopped:
        what = f"stopped at step {self.state.step} of {self.steps}"
        return Stopped(what, str(self.folder), "run the same command again")
