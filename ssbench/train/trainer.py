"""The loop: it asks a method for a step and knows only `loss` and `terms`; saving, resuming, scoring, stopping."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssbench.console import Bar, Bars
from ssbench.data.batch import Batch
from ssbench.data.dataset import Dataset
from ssbench.data.loader import loader, make_steps, useful_workers
from ssbench.data.plan import Plan, plan_partition
from ssbench.errors import RunsFailed, Stopped
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.ops.progress import Progress
from ssbench.ops.schedule import poly
from ssbench.plugins.base import PrepareInputs
from ssbench.recipe.recipe import Recipe
from ssbench.splits.manifest import Partition
from ssbench.train.build import method_of, optimizer_of
from ssbench.train.distributed import Team, in_parallel, share_batch_norm
from ssbench.train.evaluate import Score, evaluate
from ssbench.train.keeper import Keeper
from ssbench.train.machine import repeatable
from ssbench.train.stages import Stages
from ssbench.train.state import State, Timing
from ssbench.train.stopping import StopRequest
from ssbench.views.sample import Maps, Together

NEVER = 2**62
SAVE, STOP = 1, 2  # the larger wins among processes
GUARD_EVERY = 100
"""Steps between two looks at whether a loss was not finite; each look waits for the device once."""


AGREE_EVERY = 10
"""Steps between two times that several processes agree on saving or stopping; this waits for the device too."""


class Diverged(RunsFailed):
    """A loss, or a weight after a step, that is no number; `ids` are the images of the step's batch."""

    def __init__(self, step: int, ids: tuple[str, ...], what: str = "the loss") -> None:
        some = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
        super().__init__(f"{what} of step {step} is not finite", f"images {some}", "lower it: --set optim.lr=...")
        self.step, self.ids, self._subject = step, ids, what

    def __reduce__(self) -> Any:
        """Passes between processes (`run --jobs`) whole."""
        return Diverged, (self.step, self.ids, self._subject)


class Trainer:
    """One run in one folder. `run` trains from wherever the folder stands and returns the state with both scores."""

    def __init__(
        self, recipe: Recipe, partition: Partition, dataset: Dataset, seed: int, folder: Path, team: Team, bars: Bars
    ) -> None:
        self.recipe, self.partition, self.dataset, self.seed = recipe, partition, dataset, seed
        self.folder, self.team, self.bars = folder, team, bars
        self.key = recipe.key(partition.sha256, seed)
        self.keeper = Keeper(folder, self.key, team, bars.write_line)
        self.stop = StopRequest()
        self.method = self._method()
        self.plan = self._plan()
        self.method.attach(self.plan)
        self.epochs = recipe.schedule.epochs_of(self.plan.steps_per_epoch)
        self.steps = self.plan.steps_per_epoch * self.epochs
        self.module = self._wrapped()
        self.optimizer = optimizer_of(recipe.optim, self.method.parameter_groups())
        self.state, self.timing = State(), Timing()
        self.maps: Maps | None = None
        self.stage = ""
        self.earlier: list[dict[str, Any]] = []  # facts of the stages that are over
        self._sums: dict[str, Tensor] = {}
        self._first_bad = torch.full((), NEVER, dtype=torch.int64, device=team.device)
        self._saved = (-1, -1)

    def run(self) -> State:
        """Prepare the plug-in, resume or start, fit; State.history and State.best tell the rest.

        Raises:
            Stopped: a signal came; everything is saved.
            Diverged: a loss was not finite.
        """
        with self.stop, repeatable(self.recipe.schedule.deterministic):
            self._prepare()
            self.method.fit(self)
        return self.state

    def train(self) -> None:
        """From where the folder stands to the last step, a score at the end of each epoch."""
        self._resume()
        bar = self.bars.bar(self._label, self.steps, self.state.step)
        self.module.train()
        if self.state.step == self.plan.steps_per_epoch * (len(self.state.history) + 1):
            self._end_epoch(bar)  # the stop came while it was being scored
        saved = time.monotonic()
        for batch in self._timed(self._batches()):
            self._step(batch)
            bar.move_to(self.state.step)
            if self.state.step % self.plan.steps_per_epoch == 0:
                self._end_epoch(bar)
                saved = time.monotonic()
            wish = self._agreed(time.monotonic() - saved > 60 * self.recipe.schedule.checkpoint_minutes)
            if wish:
                self._save()
                saved = time.monotonic()
            if wish == STOP:
                raise self._stopped()

    @cached_property
    def stages(self) -> Stages:
        """For a method of several trainings; made before the first of them."""
        return Stages(self)

    def begin(self, stage: str, plan: Plan, keeper: Keeper, maps: Maps | None) -> None:
        """Turn to another training of this run, from the networks as they are, with a new optimiser."""
        self.stage, self.plan, self.keeper, self.maps = stage, plan, keeper, maps
        self.steps = plan.steps_per_epoch * self.epochs
        self.optimizer = optimizer_of(self.recipe.optim, self.method.parameter_groups())
        self.state, self._saved = State(), (-1, -1)

    def score(self, subset: str) -> Score:
        """The method's score on a subset, networks in eval mode meanwhile.

        Raises:
            Stopped: a signal came, and no other process has to be waited for. Nothing is saved here.
        """
        began, was = time.monotonic(), self.method.training
        self.method.eval()
        cfg, views, workers = self.recipe.eval, self.recipe.views, self.recipe.data.workers
        found = evaluate(self.method.predict, self.dataset, subset, cfg, views, self.team, workers, self.watch)
        self.method.train(was)
        self.timing.scoring += time.monotonic() - began
        return found

    def load_best(self) -> None:
        """Put the best epoch's networks in place."""
        self.method.load_state_dict(self.keeper.load_best())

    def progress(self, step: int) -> Progress:
        """The `Progress` of a step."""
        team = self.team
        return Progress(step, self.steps, self.plan.steps_per_epoch, self.seed, team.device, team.rank, team.world)

    def _method(self) -> Method:
        classes, channels = len(self.dataset.classes), self.dataset.channels
        return method_of(self.recipe, classes, channels, self.seed)

    def _plan(self) -> Plan:
        needs, s = self.method.needs, self.recipe.schedule
        batches = (s.labeled_batch, s.unlabeled_batch)
        return plan_partition(self.partition, needs, *batches, s.devices, self.seed, s.last)

    def _batches(self) -> Iterator[Batch]:
        steps = make_steps(self.plan, self.dataset, self.recipe.views, self.maps, self.team.rank, self.team.world)
        pin = self.team.device.type == "cuda"
        workers = useful_workers(self.recipe.data.workers)
        batches = loader(steps, self.state.step, self.steps, workers, pin)
        return (
            steps.with_partner(batch, self.method.wants(batch, self.progress(self.state.step)), self.state.step)
            for batch in batches
        )

    def _wrapped(self) -> torch.nn.Module:
        self.method.to(self.team.device)
        share_batch_norm(self.method, self.team)
        return self.method if self.team.world == 1 else in_parallel(self.method, self.team)

    def _prepare(self) -> None:
        def progress(items: Iterable[Any], label: str) -> Iterator[Any]:
            listed = list(items)
            return self.watch(listed, label, len(listed))

        prepared = PrepareInputs(
            classes=len(self.dataset.classes),
            labeled=self.partition.labeled,
            unlabeled=self.partition.unlabeled,
            image=self.dataset.image,
            mask=self.dataset.mask,
            folder=self.folder,
            seed=self.seed,
            progress=progress,
        )
        self.method.plugin.prepare(prepared)
        if prepared.maps:
            self.maps = Together(prepared.maps)

    def _resume(self) -> None:
        found = self.keeper.load()
        if found is None:
            return
        self.method.load_state_dict(found["method"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.state = State(**found["state"])
        self._sums = found["sums"]

    def _step(self, batch: Batch) -> None:
        """One update. Nothing here waits for the device."""
        t = self.progress(self.state.step)
        torch.manual_seed(key(self.seed, t.step, "step", self.team.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * poly(t.step, t.steps, self.recipe.optim.power, self.recipe.optim.lag)
        made = self.module(batch.to(self.team.device), t)
        self.optimizer.zero_grad(set_to_none=True)
        made.loss.backward()
        self.optimizer.step()
        self.method.after_step(t)
        self._record({"loss": made.loss.detach(), **made.terms}, t.step)
        self.state.step += 1
        if self.state.step % GUARD_EVERY == 0:
            self._guard()

    def _record(self, terms: dict[str, Tensor], step: int) -> None:
        bad = ~torch.isfinite(terms["loss"]) & (self._first_bad == NEVER)
        self._first_bad = torch.where(bad, step, self._first_bad)
        for name, value in terms.items():
            pair = torch.stack([value.double(), value.new_ones((), dtype=torch.double)])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    @torch.no_grad()
    def _guard(self) -> None:
        """Stop a run whose loss or weights were not finite, before anything of it is saved."""
        last = self.state.step - 1
        largest = torch._foreach_norm(list(self.method.parameters()), torch.inf)
        sound = torch.stack([value.float() for value in largest]).isfinite().all()
        broken = torch.where(sound, self._first_bad, self._first_bad.clamp(max=last))
        first = self.team.least(broken)
        if first == NEVER:
            return
        in_loss = self.team.least(self._first_bad) == first
        raise Diverged(first, self.plan.ids_at(first), "the loss" if in_loss else "a weight after the update")

    def _end_epoch(self, bar: Bar) -> None:
        self._guard()
        epoch = self.state.step // self.plan.steps_per_epoch - 1
        entry: dict[str, Any] = {"epoch": epoch, "terms": self._terms()} | ({"stage": self.stage} if self.stage else {})
        found = None
        if epoch + 1 == self.epochs or (epoch + 1) % self.recipe.eval.every == 0:
            found = self._scored_or_saved()
            entry |= {"select": found.value} | ({"volumes": found.volumes} if found.volumes else {})
        self._sums = {}
        self.state.history.append(entry)
        better = found is not None and self._is_best(epoch, found)
        self.keeper.save_epoch(epoch, self.method.state_dict())
        self._save()
        if better:
            self.keeper.save_best(epoch, self.method.state_dict())
        if found is not None:
            bar.note(f"epoch {epoch + 1}/{self.epochs} {self.recipe.eval.select} {found.value:.2f}")

    def _scored_or_saved(self) -> Score:
        """The score of this epoch; asked to stop meanwhile, the state is saved and the score left to the next start."""
        try:
            return self.score(self.recipe.eval.select)
        except Stopped:
            self._save()
            raise

    def _is_best(self, epoch: int, found: Score) -> bool:
        """Whether the epoch is better than those before; it is the best from then on."""
        if self.state.best is not None and not found.value > self.state.best["select"]:
            return False
        self.state.best = {
            "epoch": epoch,
            "step": self.state.step,
            "select": found.value,
            "per_class": found.per_class,
            "matrix": found.matrix,
        }
        return True

    def _terms(self) -> dict[str, float]:
        """Means over the epoch's steps and over processes."""
        means = {}
        for name, pair in sorted(self._sums.items()):
            both = self.team.sum(pair.clone()).tolist()
            means[name] = both[0] / both[1]
        return means

    def _save(self) -> None:
        now = (self.state.step, len(self.state.history))
        if now == self._saved:
            return
        self._guard()
        self._saved = now
        if self.team.leads:
            self.keeper.save({
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "state": asdict(self.state),
                "sums": self._sums,
            })  # fmt: skip

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, counting how long each kept the loop waiting; scoring and saving count to neither."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            got, scoring = time.monotonic(), self.timing.scoring
            yield batch
            self.timing.steps += 1
            self.timing.waiting += got - asked
            self.timing.seconds += time.monotonic() - asked - (self.timing.scoring - scoring)

    def _agreed(self, due: bool) -> int:
        """0, SAVE (it is `due`) or STOP (a signal came), the same on every process at every step."""
        wish = STOP if self.stop.asked else SAVE if due else 0
        if self.team.world == 1:
            return wish
        at = self.state.step
        return self.team.most(wish) if at % AGREE_EVERY == 0 or at % self.plan.steps_per_epoch == 0 else 0

    def _stopped(self) -> Stopped:
        what = f"stopped at step {self.state.step} of {self.steps}"
        return Stopped(what, str(self.folder), "run the same command again")

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        """`items` under a bar, cut short by a request to stop if no other process waits for this one."""
        for item in self.bars.watch(items, label, total):
            yield item
            if self.stop.asked and self.team.world == 1:
                raise self._stopped()

    @property
    def _label(self) -> str:
        return f"{self.recipe.name} {self.partition.name} seed {self.seed} {self.stage}".rstrip()
