"""The step a run is at, and the keyed random numbers of that step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssbench.keyed import key, rng


@dataclass(frozen=True)
class Progress:
    """One optimiser step: step counts from 0 over `steps`, epoch = step // steps_per_epoch."""

    step: int
    steps: int
    steps_per_epoch: int
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def epoch(self) -> int:
        """Epoch of this step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return self.steps // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """step / steps, in [0, 1)."""
        return self.step / self.steps

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the run's device for (seed, step, purpose); the same on every process."""
        return torch.Generator(device=self.device).manual_seed(key(self.seed, self.step, purpose))

    def chance(self, purpose: str) -> float:
        """One uniform number in [0, 1) on the host, the same on every process."""
        return float(rng(self.seed, self.step, purpose).random())

    def channel_drop(self, rows: int, channels: int, p: float, purpose: str) -> Tensor:
        """rows x channels multipliers: 0 with probability p, else 1 / (1 - p) (channel dropout).

        Drawn for the whole batch of all processes, of which this process's rows are returned.
        """
        drawn = torch.rand(rows * self.world, channels, generator=self.generator(purpose), device=self.device)
        mine = drawn[self.rank * rows : (self.rank + 1) * rows]
        return (mine >= p).to(drawn.dtype) / (1 - p)
