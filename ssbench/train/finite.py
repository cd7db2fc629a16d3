"""Finds the first step whose loss or weights are not finite, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssbench.errors import RecipeError, RunsFailed, first_few
from ssbench.train.distributed import Team

NEVER = 2**62
"""A step that no run reaches: no loss was bad yet. Larger than any step, so that a minimum over processes works."""
LOSS = "loss"


class Diverged(RunsFailed):
    """A loss, or a weight after an update, is not finite. ids: the images of that step's batch."""

    def __init__(self, step: int, ids: tuple[str, ...], what: str = "the loss", fix: str = "") -> None:
        fix = fix or "lower the learning rate: --set optim.lr=..."
        super().__init__(f"{what} of step {step} is not finite", f"images {first_few(ids, 8)}", fix)
        self.step, self.ids = step, ids


@contextmanager
def one_image_refused() -> Iterator[None]:
    """Turn batch norm's refusal of a single value a channel into a sentence about the batch.

    It comes at the first step, of a net that pools an image to 1 x 1 (the ASPP of DeepLabV3+) and a batch of one.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        what = "a batch of one image, and a net that pools it to 1 x 1: batch norm has one value a channel"
        fix = "--set schedule.labeled_batch=2 --set schedule.unlabeled_batch=2, or another net"
        raise RecipeError(what, "schedule.labeled_batch", fix) from error


class FiniteWatch:
    """The first step at which the loss, and each of a plug-in's terms, was not finite; on the device."""

    def __init__(self, device: torch.device) -> None:
        self.first_bad = {LOSS: torch.full((), NEVER, dtype=torch.int64, device=device)}

    def add(self, terms: Mapping[str, Tensor], plugin_terms: Collection[str], step: int) -> None:
        """Look at a step's loss, and at the terms that a plug-in gave. The method's own may be undefined."""
        for name in (LOSS, *sorted(plugin_terms)):
            if name in terms:
                first = self.first_bad.setdefault(name, torch.full_like(self.first_bad[LOSS], NEVER))
                is_first_bad = ~torch.isfinite(terms[name]) & (first == NEVER)
                self.first_bad[name] = torch.where(is_first_bad, step, first)

    @torch.no_grad()
    def first_fault(self, parameters: Iterable[nn.Parameter], last: int, team: Team) -> tuple[int, str, str] | None:
        """(step, what is not finite, what to do) of the first fault up to step `last`. Waits for the device."""
        largest = torch._foreach_norm(list(parameters), torch.inf)
        is_sound = torch.stack([value.float() for value in largest]).isfinite().all()
        in_loss = self.first_bad[LOSS]
        first = team.least(torch.where(is_sound, in_loss, in_loss.clamp(max=last)))
        if first == NEVER:
            return None
        if team.least(in_loss) != first:
            return first, "a weight after the update", ""
        guilty = [name for name, at in self.first_bad.items() if name != LOSS and int(at) == first]
        if guilty:
            return first, f"plugin term '{guilty[0]}'", "mend the plug-in's `loss`: a log or a root of 0, a division"
        if first == 0:
            fix = "nothing is learned yet, so the rate is not the reason: look at these images, the method and the loss"
            return first, "the loss", fix
        return first, "the loss", ""
