"""PrevMatch: list, schedule, draws and loss against naive loops, and its state through checkpoints."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, batch_for, build, plugin, progress, tiny_net
from running import TINY, Job
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.methods.base import Method
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import StepOutputs, StudentView
from ssbench.plugins.prevmatch import CONF, LABEL, PrevMatch, draw, ramp
from ssbench.train.checkpoint import load, to_bytes

T = progress(25)  # epoch 2 of 4: lambda 1
LATER = progress(35)  # epoch 3 of 4: lambda 0.5
SIDE = 33


def end_of(epoch: int) -> Progress:
    return progress(epoch * 10 + 9)


def prevmatch(**settings: Any) -> PrevMatch:
    made = plugin("prevmatch", **settings)
    assert isinstance(made, PrevMatch)
    return made


def hosted(method: str = "unimatch", former: int = 0, **settings: Any) -> tuple[Method, PrevMatch]:
    """A method with the plug-in and a list of `former` networks of random weights, each with statistics of its own."""
    own = prevmatch(**settings)
    chosen = build(method, own, threshold=0.3)
    for seed in range(1, former + 1):
        net = tiny_net(seed).train()
        with torch.no_grad():
            net(torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(seed)))
            for p in list(net.parameters())[-2:]:
                p.mul_(8)  # so that some pixels are sure
        own.end_epoch(net, True, end_of(0))
    return chosen, own


def observed(method: Method, own: PrevMatch, t: Progress) -> tuple[float, StepOutputs, Batch]:
    """The loss of a step, and what the plug-in was given."""
    batch, given, loss = batch_for(method, t, seed=3, side=SIDE), [], own.loss

    def recording(outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        given.append(outputs)
        return loss(outputs, t)

    own.loss = recording  # type: ignore[method-assign]
    torch.manual_seed(0)
    step = method(batch, t)
    return step.loss.item(), given[0], batch


def host_loss(t: Progress) -> float:
    alone = build("unimatch", threshold=0.3)
    torch.manual_seed(0)
    return alone(batch_for(alone, t, seed=3, side=SIDE), t).loss.item()


def former_probabilities(own: PrevMatch, x: Tensor, t: Progress) -> Tensor:
    """softmax of the weighted logits of copies in eval mode, drawn as `draw` says."""
    total = 0
    for which, weight in zip(*draw(len(own.former), own.cfg.model_num, own.cfg.random_select, t), strict=True):
        net = copy.deepcopy(own.former[which]).eval()
        with torch.no_grad():
            total = total + weight * net(x).logits
    return total.softmax(1)


def expected_terms(own: PrevMatch, given: StepOutputs, batch: Batch, t: Progress) -> dict[str, float]:
    """The loss of every view pixel by pixel, its labels cut out of two images as the views are."""
    here, there = batch.unlabeled, batch.partner
    assert here is not None
    assert there is not None
    ours, theirs = (former_probabilities(own, x, t).tolist() for x in (here.weak, there.weak))
    boxes = {"s1": here.boxes[0], "s2": here.boxes[1], "fp": torch.zeros_like(here.boxes[0])}
    terms = {}
    for view in given.views:
        box, ce = boxes[view.name].tolist(), (-view.out.logits.log_softmax(1)).tolist()
        valid = {False: here.valid.tolist(), True: there.valid.tolist()}
        total, count = 0.0, 0
        for b, row, column in itertools.product(range(len(ce)), range(SIDE), range(SIDE)):
            is_pasted = box[b][row][column]
            if not valid[is_pasted][b][row][column]:
                continue
            count += 1
            scores = [of_class[row][column] for of_class in (theirs if is_pasted else ours)[b]]
            if max(scores) >= own.cfg.threshold:
                total += ce[b][scores.index(max(scores))][row][column]
        terms[view.name] = total / count
    return terms


@pytest.mark.parametrize("former", [0, 1, 3])
def test_the_loss_of_a_step(former: int) -> None:
    for t, factor in ((T, 1.0), (LATER, 0.5)):
        method, own = hosted(former=former, threshold=0.3)
        loss, given, batch = observed(method, own, t)
        host = host_loss(t)  # (L_x + L_std) / 2
        if not former:
            assert loss == host
            continue
        terms = expected_terms(own, given, batch, t)
        prev = 0.25 * terms["s1"] + 0.25 * terms["s2"] + 0.5 * terms["fp"]
        assert 0 < terms["s1"] != terms["s2"]
        assert loss == pytest.approx((2 * host + factor * prev) / (2 + factor), rel=1e-5)


def test_a_host_without_a_feature_perturbed_view_averages_its_strong_views() -> None:
    method, own = hosted("fixmatch", former=1, threshold=0.3)
    _, given, batch = observed(method, own, T)
    (view,) = given.views
    terms = own.loss(given, T)
    ce = F.cross_entropy(view.out.logits, (view.pseudo.carry[LABEL] - 1).clamp(min=0), reduction="none")
    kept = (view.pseudo.carry[CONF] >= 0.3) & view.pseudo.valid
    assert terms["prev"].item() == pytest.approx(((ce * kept).sum() / view.pseudo.valid.sum() / 3).item())


def test_the_average_mode_follows_the_released_lines() -> None:
    """Of each group: the sum of the loss, padding too, times the sum of the images' mean confidences, by valid ones."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, CLASSES, 5, 6, generator=g)
    label, conf = torch.randint(0, CLASSES, (4, 5, 6), generator=g), torch.rand(4, 5, 6, generator=g)
    valid = torch.rand(4, 5, 6, generator=g) > 0.3
    pseudo = Pseudo(label, conf, valid, valid, carry={LABEL: label + 1, CONF: conf})
    view = StudentView("s1", torch.zeros(4, 3, 5, 6), Out(logits), pseudo, torch.zeros(4, 3, 5, 6))
    groups = []
    for first in (0, 2):
        total, confidence = 0.0, 0.0
        for b in (first, first + 1):
            total += F.cross_entropy(logits[b][None], label[b][None], reduction="sum").item()
            confidence += (conf[b] * valid[b]).sum().item() / valid[b].sum().item()
        groups.append(total * confidence / valid[first : first + 2].sum().item())
    own = prevmatch(confidence="average", group=2)
    assert own._former_loss(view).item() == pytest.approx(sum(groups) / 2)


def test_pasted_ground_truth_has_no_former_label() -> None:
    carry = {LABEL: torch.tensor([[[0, 3]]]), CONF: torch.tensor([[[0.0, 0.95]]])}
    known = torch.ones(1, 1, 2, dtype=torch.bool)
    pseudo = Pseudo(torch.zeros(1, 1, 2, dtype=torch.long), carry[CONF], known, known, carry=carry)
    logits = torch.randn(1, CLASSES, 1, 2)
    view = StudentView("s1", torch.zeros(1, 3, 1, 2), Out(logits), pseudo, torch.zeros(1, 3, 1, 2))
    expected = F.cross_entropy(logits[:, :, 0, 1], torch.tensor([2])).item()
    assert prevmatch(threshold=0.0)._former_loss(view).item() == pytest.approx(expected / 2)
    average = prevmatch(confidence="average")._former_loss(view).item()
    assert average == pytest.approx(expected * 0.475 / 2)


@pytest.mark.parametrize("epochs", [1, 2, 5, 80, 240])
def test_lambda_rises_to_the_middle_and_falls(epochs: int) -> None:
    half = epochs // 2
    for epoch in range(epochs):
        expected = epoch / half if epoch < half else 1 - (epoch - half) / (epochs - half)
        assert ramp(epoch, epochs) == expected
    if epochs == 80:
        assert [ramp(e, 80) for e in (0, 20, 40, 60, 79)] == [0, 0.5, 1, 0.5, pytest.approx(0.025)]


def test_draws() -> None:
    counts: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    for step in range(3000):
        chosen, weights = draw(8, 3, True, progress(step))
        assert len(chosen) == len(set(chosen)) == len(weights)
        assert sum(weights) == pytest.approx(1)
        assert all(0 <= which < 8 for which in chosen)
        counts[len(chosen)] += 1
        asked.update(chosen)
    assert all(count == pytest.approx(1000, rel=0.1) for count in (counts[1], counts[2], counts[3]))
    assert all(asked[which] == pytest.approx(750, rel=0.15) for which in range(8))
    assert {len(draw(8, 3, False, progress(step))[0]) for step in range(20)} == {3}
    assert {len(draw(2, 3, False, progress(step))[0]) for step in range(20)} == {2}
    assert draw(8, 3, True, T) == draw(8, 3, True, T) != draw(8, 3, True, LATER)
    assert draw(1, 3, True, T) == ([0], [1.0])


def marked(value: float) -> SegNet:
    """A network that says which it is."""
    net = tiny_net()
    with torch.no_grad():
        next(net.parameters()).fill_(value)
        next(net.buffers()).fill_(value)
    return net


def marks(own: PrevMatch) -> list[float]:
    return [next(net.parameters()).flatten()[0].item() for net in own.former]


def test_the_list_keeps_the_newest_best_epochs() -> None:
    own = prevmatch(list_max_len=2)
    long = [Progress(epoch, 8, 1, 0, torch.device("cpu")) for epoch in range(8)]
    for epoch, is_best in enumerate([True, False, True, True]):
        own.end_epoch(marked(epoch), is_best, long[epoch])
    assert marks(own) == [2, 3]
    own.end_epoch(marked(7), True, long[7])
    assert marks(own) == [2, 3], "nothing is copied after the last epoch"


def test_a_best_epoch_before_the_first_but_one_never_enters() -> None:
    own = prevmatch(base_only_epoch=2)
    for epoch in (0, 1, 2):
        own.end_epoch(marked(epoch), True, Progress(epoch, 8, 1, 0, torch.device("cpu")))
    assert marks(own) == [1, 2]


def test_former_models_are_frozen_copies() -> None:
    own, net = prevmatch(), marked(5)
    own.end_epoch(net, True, end_of(0))
    with torch.no_grad():
        next(net.parameters()).fill_(9)
        next(net.buffers()).fill_(9)
    assert marks(own) == [5]
    assert next(own.former[0].buffers()).flatten()[0] == 5
    assert not any(p.requires_grad for p in own.former.parameters())


def test_of_a_host_with_a_teacher_the_teacher_is_kept() -> None:
    method = build("fixmatch", prevmatch(), teacher="ema")
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(1)
    method.end_epoch(True, end_of(0))
    assert isinstance(method.plugin, PrevMatch)
    kept = method.plugin.former[0].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in method.labeller.state_dict().items())
    assert method.labeller is not method.net


def test_a_list_of_any_length_is_loaded_into_any_other() -> None:
    states = [hosted(former=former)[0].state_dict() for former in range(4)]
    method, own = hosted(former=2)
    for former in (3, 0, 1, 3):
        method.load_state_dict(states[former])
        assert len(own.former) == former
        assert to_bytes(method.state_dict()) == to_bytes(states[former])
        assert not any(p.requires_grad for p in own.former.parameters())


def test_chosen_by_labelled_images_the_score_on_val_is_no_matter() -> None:
    own = prevmatch(select="labeled")
    right = [2, 2, 4, 3, 5]  # of six labelled pixels an epoch
    for epoch, count in enumerate(right):
        y = torch.tensor([[[0, 0, 0, 1, 1, 1, 255]]])
        predicted = y.where(torch.arange(7) < count, 2)
        logits = F.one_hot(predicted.clamp(max=CLASSES - 1), CLASSES).movedim(-1, 1).float()
        batch = batch_for(build("supervised"), T)
        batch = replace(batch, labeled=replace(batch.labeled, y=y))
        own.loss(StepOutputs(batch, Out(logits), (), tiny_net(), lambda x: Out(x)), T)
        own.end_epoch(marked(epoch), epoch == 1, Progress(epoch, 8, 1, 0, torch.device("cpu")))
    assert marks(own) == [0, 2, 4]
    assert own.matrix.sum() == 0, "every epoch is counted anew"


def test_a_run_keeps_the_epochs_that_are_strictly_better(toy: Path, tmp_path: Path) -> None:
    chosen = 'plugin={"name": "prevmatch", "threshold": 0.3, "list_max_len": 3}'
    job = Job(toy, tmp_path, (*TINY, chosen, "schedule.epochs=6", "optim.lr=0.01"))
    history = job.here()["history"]
    scores = [entry["select"] for entry in history]
    best = [e for e, score in enumerate(scores) if score > max(scores[:e], default=-1)]
    assert best != list(range(6)), "an epoch that is not better belongs to the test"
    kept = load(job.folder / "checkpoint.pt")["method"]
    numbers = {name.split(".")[2] for name in kept if name.startswith("plugin.former.")}
    assert len(numbers) == min(len([e for e in best if e < 5]), 3)
    assert ["prev" in entry["terms"] for entry in history] == [False] + [True] * 5
    assert all(after["terms"]["prev"] >= 0 for _, after in pairwise(history))


def test_a_group_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="group: 2 is never read with confidence: pixel"):
        PrevMatch.Config(group=2)


def test_labels_without_their_images_are_refused() -> None:
    own = prevmatch()
    own.end_epoch(tiny_net(), True, end_of(0))
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    known = torch.ones_like(label, dtype=torch.bool)
    with pytest.raises(RecipeError, match="come without them"):
        own.refine(Pseudo(label, known.float(), known, known), T)


def test_two_networks_that_teach_each_other_are_refused() -> None:
    with pytest.raises(RecipeError, match="copy of which one is not defined"):
        job_recipe("cps_toy")


def job_recipe(host: str) -> None:
    from ssbench.recipe.recipe import load as load_recipe

    load_recipe(host, ('plugin={"name": "prevmatch"}',))
