"""The loop: it asks a method for a step and knows only `loss` and `terms`; saving, resuming, scoring, stopping."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ssbench.data.batch import Batch, Maps, Plan, Steps, loader, partition_plan
from ssbench.data.dataset import Dataset
from ssbench.data.partition import Partition
from ssbench.engine import checkpoint
from ssbench.engine.build import method_of, optimizer_of
from ssbench.engine.console import Bars, StepBar, say
from ssbench.engine.distributed import Team, share_batch_norm
from ssbench.engine.evaluate import Score, evaluate
from ssbench.errors import SsbenchError, Stopped
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.ops.progress import Progress
from ssbench.ops.schedule import poly
from ssbench.plugins.base import Prepared
from ssbench.recipe import Recipe

GUARD_EVERY = 100
"""Steps between two looks at whether a loss was not finite; each look waits for the device once."""


class Diverged(SsbenchError):
    """A loss that is no number; `ids` are the images of the batch."""

    def __init__(self, step: int, ids: tuple[str, ...]) -> None:
        super().__init__(f"the loss of step {step} is not finite", f"images {', '.join(ids[:8])}", "lower optim.lr")
        self.step, self.ids = step, ids


@dataclass
class State:
    """What a checkpoint holds besides networks and optimiser: plain data, so that it loads safely."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None


@dataclass
class Timing:
    """Wall-clock seconds of this session: in steps, of these waiting for data, in scoring."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    scoring: float = 0.0


class Trainer:
    """One run in one folder. `run` trains from wherever the folder stands and returns the state with both scores."""

    def __init__(
        self, recipe: Recipe, partition: Partition, dataset: Dataset, seed: int, folder: Path, team: Team, bars: Bars
    ) -> None:
        self.recipe, self.partition, self.dataset, self.seed = recipe, partition, dataset, seed
        self.folder, self.team, self.bars = folder, team, bars
        self.key = recipe.key(partition.sha256, seed)
        self.method = self._method()
        self.plan = self._plan()
        self.steps = self.plan.steps_per_epoch * recipe.schedule.epochs
        self.module = self._wrapped()
        self.optimizer = optimizer_of(recipe.optim, self.method.parameter_groups())
        self.state, self.timing = State(), Timing()
        self.maps: Maps | None = None
        self._sums: dict[str, Tensor] = {}
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=team.device)
        self._stop = False

    def run(self) -> State:
        """Prepare the plug-in, resume or start, fit; State.history and State.best tell the rest.

        Raises:
            Stopped: a signal came; everything is saved.
            Diverged: a loss was not finite.
        """
        self._prepare()
        self._resume()
        with self._signals():
            self.method.fit(self)
        return self.state

    def train(self) -> None:
        """Steps from the state's to the last, a score at the end of each epoch."""
        if self.state.step >= self.steps:
            return
        steps = Steps(self.dataset, self.plan, self.recipe.views, self.maps, self.team.rank, self.team.world)
        workers, pin = self.recipe.data.workers, self.team.device.type == "cuda"
        batches = loader(steps, self.state.step, self.steps, workers, pin)
        bar = self.bars.steps(self._label, self.steps, self.state.step)
        saved = time.monotonic()
        self.module.train()
        for batch in self._timed(batches):
            self._step(batch)
            bar.to(self.state.step)
            if self.state.step % self.plan.steps_per_epoch == 0:
                self._end_epoch(bar)
                saved = time.monotonic()
            elif time.monotonic() - saved > 60 * self.recipe.schedule.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
            if self._should_stop():
                self._save()
                raise Stopped(f"stopped at step {self.state.step} of {self.steps}", str(self.folder), "run the same command again")

    def score(self, subset: str) -> Score:
        """The method's score on a subset, networks in eval mode meanwhile."""
        began, was = time.monotonic(), self.method.training
        self.method.eval()
        found = evaluate(
            self.method.predict, self.dataset, subset, self.recipe.eval, self.recipe.views, self.team,
            self.recipe.data.workers, self.bars.watch,
        )
        self.method.train(was)
        self.timing.scoring += time.monotonic() - began
        return found

    def load_best(self) -> None:
        """Put the best epoch's networks in place."""
        self.method.load_state_dict(checkpoint.load(self.folder / "best.pt", self.team.device)["method"])

    def progress(self, step: int) -> Progress:
        """The `Progress` of a step."""
        return Progress(step, self.steps, self.plan.steps_per_epoch, self.seed, self.team.device, self.team.rank, self.team.world)

    def _method(self) -> Method:
        classes, channels = len(self.dataset.classes), self.dataset.channels
        return method_of(self.recipe, classes, channels, self.seed)

    def _plan(self) -> Plan:
        s = self.recipe.schedule
        return partition_plan(self.partition, self.method.needs, s.labeled_batch, s.unlabeled_batch, s.devices, self.seed)

    def _wrapped(self) -> torch.nn.Module:
        self.method.to(self.team.device)
        share_batch_norm(self.method, self.team)
        if self.team.world == 1:
            return self.method
        ids = [self.team.device.index] if self.team.device.type == "cuda" else None
        return DistributedDataParallel(self.method, device_ids=ids, broadcast_buffers=False)

    def _prepare(self) -> None:
        prepared = Prepared(
            len(self.dataset.classes), self.partition.labeled, self.partition.unlabeled, self.dataset.image,
            self.dataset.mask, self.folder, self.seed, lambda items, label: self.bars.watch(items, label, len(list(items))),
        )
        self.method.plugin.prepare(prepared)
        if prepared.maps:
            self.maps = _Together(prepared.maps)

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.folder / "checkpoint.pt", self.team.device, say)
        if found is None or found["key"] != self.key:
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
        bad = ~torch.isfinite(terms["loss"]) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        for name, value in terms.items():
            total = self._sums.get(name)
            self._sums[name] = torch.stack([value.double(), value.new_ones((), dtype=torch.double)]) + (0 if total is None else total)

    def _guard(self) -> None:
        """Stop a run whose loss was not finite, before anything of it is saved."""
        if self.team.any(bool((self._first_bad >= 0).item())):
            step = max(int(self._first_bad.item()), 0)
            ids = tuple(id for id, _ in (*self.plan.labeled_at(step), *self._unlabeled_ids(step)))
            raise Diverged(step, ids)

    def _unlabeled_ids(self, step: int) -> list[tuple[str, int]]:
        return self.plan.unlabeled_at(step) if self.plan.needs.unlabeled else []

    def _end_epoch(self, bar: StepBar) -> None:
        self._guard()
        epoch = self.state.step // self.plan.steps_per_epoch - 1
        entry: dict[str, Any] = {"epoch": epoch, "terms": self._terms()}
        self._sums = {}
        last = epoch + 1 == self.recipe.schedule.epochs
        if last or (epoch + 1) % self.recipe.eval.every == 0:
            found = self.score(self.recipe.eval.select)
            entry["select"] = found.value
            if found.volumes:
                entry["volumes"] = found.volumes
            self._keep_best(epoch, found)
            bar.note(f"epoch {epoch + 1}/{self.recipe.schedule.epochs} {self.recipe.eval.select} {found.value:.2f}")
        self.state.history.append(entry)
        self._save()

    def _keep_best(self, epoch: int, found: Score) -> None:
        if self.state.best is not None and not found.value > self.state.best["select"]:
            return
        self.state.best = {"epoch": epoch, "select": found.value, "per_class": found.per_class, "matrix": found.matrix}
        if self.team.leads:
            kept = {"key": self.key, "epoch": epoch, "method": self.method.state_dict()}
            checkpoint.save(self.folder / "best.pt", kept, keep_previous=False)

    def _terms(self) -> dict[str, float]:
        """Means over the epoch's steps and over processes."""
        means = {}
        for name, pair in sorted(self._sums.items()):
            both = self.team.sum(pair.clone()).tolist()
            means[name] = both[0] / both[1]
        return means

    def _save(self) -> None:
        self._guard()
        if not self.team.leads:
            return
        checkpoint.save(self.folder / "checkpoint.pt", {
            "key": self.key,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": {"step": self.state.step, "history": self.state.history, "best": self.state.best},
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

    def _should_stop(self) -> bool:
        """Whether a signal came; several processes agree on it every tenth step."""
        if self.team.world == 1:
            return self._stop
        return self.state.step % 10 == 0 and self.team.any(self._stop)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the run after the current step; a second SIGINT ends it at once."""

        def stop(number: int, _: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @property
    def _label(self) -> str:
        return f"{self.recipe.name} {self.partition.name} seed {self.seed}"


class _Together:
    """Several map sources as one; pickles to loader workers."""

    def __init__(self, sources: list[Maps]) -> None:
        self.sources = sources

    def __call__(self, id: str) -> dict[str, Any]:
        return {name: value for source in self.sources for name, value in source(id).items()}
