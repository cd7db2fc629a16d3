"""One update of every method and plug-in on a real GPU; skipped without one. `make gpu` runs these."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pairs import METHODS, PAIRS

from ssbench import find
from ssbench.certify.pair import LATE, SMALL, Pair
from ssbench.certify.small import optimizer, progress
from ssbench.data.noise import batch_for
from ssbench.methods.base import Method
from ssbench.ops.progress import Progress
from ssbench.recipe.sections import ScheduleConfig
from ssbench.train.precision import choose_computation, set_formats, tf32_as_chosen

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
HOSTED = {plugin: method for method, plugin in PAIRS}
TRIED = [*((m, "") for m in METHODS), *((m, p) for p, m in HOSTED.items())]


def one_update(method: Method, precision: str, device: torch.device, maps: tuple[object, ...]) -> float:
    """The loss of a step on the device, whose update is made."""
    computation = choose_computation(
        ScheduleConfig(epochs=1, labeled_batch=1, precision=precision), device  # type: ignore[arg-type]
    )  # fmt: skip
    method = copy.deepcopy(method).to(device)
    set_formats(method, computation.passes)
    t = progress(LATE)
    batch = batch_for(method, t, maps=maps, side=SMALL).to(device)  # type: ignore[arg-type]
    optim = optimizer(method)
    at = Progress(t.step, t.steps, t.steps_per_epoch, t.seed, device)
    torch.manual_seed(0)
    with tf32_as_chosen(computation):
        step = method(batch, at)
        step.loss.backward()
        optim.step()
        method.after_step(at)
    assert all(p.isfinite().all() for p in method.parameters())
    return float(step.loss)


@pytest.mark.parametrize(("method", "plugin"), TRIED)
def test_an_update_on_the_gpu(method: str, plugin: str, tmp_path: Path) -> None:
    begun = Pair.of(method, [find.load("plugin", plugin)] if plugin else [], tmp_path).start()
    cuda = torch.device("cuda")
    exact, fast = (one_update(begun.method, precision, cuda, begun.maps) for precision in ("exact", "fast"))
    assert fast == pytest.approx(exact, rel=0.05)


def test_supervised_has_the_loss_of_the_cpu() -> None:
    """Without draws on the device, which differ from the CPU's, both compute the same loss."""
    begun = Pair.of("supervised", [], Path()).start()
    here = one_update(begun.method, "exact", torch.device("cpu"), ())
    there = one_update(begun.method, "exact", torch.device("cuda"), ())
    assert there == pytest.approx(here, rel=1e-2)
