"""Mask2Former as a method: two trainings, a step, the optimiser, what it refuses, resuming to the byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CLASSES, batch_for, build, progress
from members import Trained, together, trained
from running import ALONE, Job, trainer_of
from torch import Tensor, nn

from ssbench import find
from ssbench.data.plan import Mixture, Needs
from ssbench.errors import RecipeError, Stopped
from ssbench.methods.base import Method
from ssbench.ops.set_loss import mask_targets, pad_labels, set_loss
from ssbench.plugins.upc import UPC
from ssbench.recipe.recipe import load
from ssbench.train.build import method_of, optimizer_of
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer

QUICK = (
    "views.crop=48",
    "data.few=8",
    "schedule.labeled_batch=2",
    "schedule.unlabeled_batch=2",
    "schedule.epochs=2",
    "eval.few=3",
    "eval.every=1",
    "method.points=64",
)
HOST = "mask2former_toy"


def job_of(toy: Path, out: Path, *more: str, recipe: str = HOST) -> Job:
    return Job(toy, out, (*QUICK, *more), recipe)


class Noted:
    """Stands in for the engine; notes what a method's `fit` asks for."""

    def __init__(self, labeled: int, unlabeled: int, batch: int, epochs: int) -> None:
        self.labeled = tuple(f"l{k}" for k in range(labeled))
        self.unlabeled = tuple(f"u{k}" for k in range(unlabeled))
        self.batch, self.epochs, self.folder = batch, epochs, Path("stages")
        self.calls: list[tuple[Any, ...]] = []

    @property
    def stages(self) -> Noted:
        return self

    def train(self, name: str, unlabeled: Sequence[str] = (), **options: Any) -> None:
        options.pop("maps", None)
        self.calls.append((name, len(unlabeled), options))

    def scorer(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        self.calls.append(("scorer", stage, epoch))
        return lambda x: x

    def store(self, name: str, ids: Sequence[str], maps: Sequence[str], draw: Any) -> None:
        self.calls.append((name, len(ids), tuple(maps)))


def asked(labeled: int, unlabeled: int, epochs: int = 46, **settings: Any) -> list[tuple[Any, ...]]:
    run = Noted(labeled, unlabeled, 16, epochs)
    build("mask2former", **settings).fit(run)  # type: ignore[arg-type]
    return run.calls


def test_two_trainings_with_the_labelling_between() -> None:
    assert asked(92, 10490, steps=(30000, 60000)) == [
        ("supervised", 0, {"repeats": 113, "keep": [], "steps": 30000}),  # 46 epochs of 649 steps: 29854, nearest
        ("scorer", "supervised", None),
        ("label", 10490, ("pseudo", "entropy")),
        ("self_training", 10490, {"last": True, "steps": 60000}),
    ]


def test_the_supervised_row_is_the_first_training() -> None:
    ((name, unlabeled, options),) = asked(92, 10490, training="supervised", steps=(30000, 60000))
    assert (name, unlabeled, options) == ("supervised", 0, {"repeats": 113, "last": True, "steps": 30000})
    ((_, _, all_of_voc),) = asked(10582, 0, training="supervised", steps=(30000, 60000))
    assert all_of_voc["repeats"] == 1


def test_the_last_network_labels_where_a_recipe_wants_it() -> None:
    calls = asked(10, 20, label_with="last", epochs=7)
    assert calls[0] == ("supervised", 0, {"repeats": 2, "keep": [7], "steps": None})
    assert calls[1] == ("scorer", "supervised", 7)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(92, 10490), (1464, 9118), (10582, 118287)])
def test_trainings_have_the_papers_number_of_steps(labeled: int, unlabeled: int) -> None:
    ids = tuple(map(str, range(labeled))), tuple(f"u{k}" for k in range(unlabeled))
    wanted = (30000, 120000 if unlabeled > 20000 else 60000)
    needs = build("mask2former").needs
    (_, _, first), *_, (_, _, _) = asked(labeled, unlabeled, steps=wanted)
    supervised = Mixture(ids[0], (), needs, 8, 8, repeats=first["repeats"])
    second = Mixture(*ids, needs, 8, 8)
    for plan, steps in ((supervised, wanted[0]), (second, wanted[1])):
        epochs = max(1, round(steps / plan.steps_per_epoch))
        assert epochs * plan.steps_per_epoch == pytest.approx(steps, rel=0.065)


def test_a_batch_has_a_fixed_number_of_each_kind() -> None:
    ids = tuple(f"l{k}" for k in range(5)), tuple(f"u{k}" for k in range(13))
    plan = Mixture(*ids, Needs(mixture="plain", composition="fixed"), 3, 4, seed=2)
    assert plan.steps_per_epoch == 3  # 13 // 4
    for step in range(6):
        kinds = [labeled for *_, labeled in plan.mixture_at(step)]
        assert kinds == [True] * 3 + [False] * 4
    seen = [id for step in range(3) for id, _ in plan.unlabeled_at(step)]
    assert len(set(seen)) == len(seen) == 12
    labelled = [id for step in range(5) for id, _ in plan.labeled_at(step)]
    assert all(labelled.count(id) == 3 for id in ids[0])  # pass after pass
    first = replace(plan, unlabeled=(), repeats=4)
    assert (first.steps_per_epoch, len(first.mixture_at(0))) == (2, 7)
    with pytest.raises(RecipeError, match="no step fits"):
        Mixture(ids[0], ids[1][:3], Needs(mixture="plain", composition="fixed"), 3, 4)


def loss_of(method: Method, outs: Any, rows: slice, labels: Tensor, purpose: str, t: Any) -> Tensor:
    """The set loss of some rows of the network's outputs, as the step should compute it."""
    outputs = [replace(o, classes=o.classes[rows], masks=o.masks[rows]) for o in outs]
    targets = mask_targets(pad_labels(labels, 96, 96), CLASSES)
    terms = set_loss(outputs, targets, method.set_loss, t.generator(purpose))
    return terms["class"] + terms["mask"] + terms["dice"]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_step_is_two_set_losses(weight: float) -> None:
    method, t = build("mask2former", UPC(UPC.Config(ras="off", k=3), CLASSES), points=64, weight=weight), progress(3)
    batch, kept = batch_for(method, t), {}
    mix = method.plugin.mix
    method.plugin.mix = lambda *args: kept.setdefault("views", mix(*args))  # type: ignore[method-assign]
    method.net.register_forward_hook(lambda net, args, out: kept.update(x=args[0], sets=out.sets))
    step = method(batch, t)
    (view,) = kept["views"]
    assert torch.equal(kept["x"], torch.cat([batch.labeled.x, view.images]))
    known = view.pseudo.valid & view.pseudo.counted
    mixed = torch.where(known, view.pseudo.label, 255)
    sup = loss_of(method, kept["sets"], slice(0, 2), batch.labeled.y, "points 0", t)
    unsup = loss_of(method, kept["sets"], slice(2, 4), mixed, "points 1", t)
    torch.testing.assert_close(step.terms["sup"], sup.detach())
    torch.testing.assert_close(step.terms["unsup"], unsup.detach())
    torch.testing.assert_close(step.loss, sup + weight * unsup)


def test_of_several_copies_the_mean_counts() -> None:
    method, t = build("mask2former", UPC(UPC.Config(ras="all"), CLASSES), points=64), progress(3)
    kept: dict[str, Any] = {}
    method.net.register_forward_hook(lambda net, args, out: kept.update(images=len(args[0])))
    step = method(batch_for(method, t), t)
    assert kept["images"] == 2 + 3 * 2
    torch.testing.assert_close(step.loss.detach(), step.terms["sup"] + step.terms["unsup"])


def test_pasted_patches_teach_by_ground_truth() -> None:
    method, t = build("mask2former", UPC(UPC.Config(ras="off", k=16), CLASSES), points=64), progress(3)
    kept: dict[str, Any] = {}
    mix = method.plugin.mix
    method.plugin.mix = lambda *args: kept.setdefault("views", mix(*args))  # type: ignore[method-assign]
    method(batch := batch_for(method, t), t)
    (view,) = kept["views"]
    places = [int((batch.labeled.x == image).flatten(1).all(1).nonzero()[0]) for image in view.images]
    known = batch.labeled.y[places] != 255
    assert torch.equal(view.pseudo.trusted_mask(), known)
    assert torch.equal(view.pseudo.label[known], batch.labeled.y[places][known])


def test_supervised_steps_read_no_unlabelled_image() -> None:
    method, t = build("mask2former", training="supervised", points=64), progress(3)
    batch = batch_for(method, t)
    one = method(batch, t).loss
    method = build("mask2former", training="supervised", points=64)
    assert torch.equal(method(replace(batch, unlabeled=None), t).loss, one)


def test_pseudo_labels_and_entropies_of_normalised_scores() -> None:
    method = build("mask2former")
    scores = torch.tensor([[0.9, 0.2], [0.3, 0.2], [0.0, 0.2], [0.0, 0.2]])[None, :, None]  # 1 C 1 2
    maps = method._label_image(lambda _: scores, torch.zeros(1, 3, 1, 2))
    assert np.asarray(maps["pseudo"]).tolist() == [[0, 0]]
    nats = np.asarray(maps["entropy"]) / 255 * np.log(4)
    assert nats[0] == pytest.approx([0.5623, np.log(4)], abs=np.log(4) / 500)  # (0.75, 0.25, 0, 0)


def test_groups_of_the_optimiser() -> None:
    recipe = load("mask2former_voc", quick=True)
    method = method_of(recipe, 6, 3, 0)
    optimizer = optimizer_of(recipe.optim, method.parameter_groups(), method=method)
    names = {id(p): name for name, p in method.named_parameters()}
    spared, rates = set(), {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            rates[names[id(p)]] = group["lr"]
            spared |= {names[id(p)]} if group["weight_decay"] == 0 else set()
            assert group["weight_decay"] in (0, 1e-4)
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        assert rate == pytest.approx(1e-5 if "_backbone" in name else 1e-4)
    layers = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    expected = {
        f"{path}.{part}"
        for path, module in method.named_modules()
        for part, _ in module.named_parameters(recurse=False)
        if isinstance(module, layers)
    }
    assert spared == expected
    assert not any(name.endswith("decoder.level_embed") for name in spared)  # the pixel decoder's is decayed
    assert any(name.endswith("transformer_module.level_embed.weight") for name in spared)
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-8)


def test_gradients_are_clipped_together(toy: Path, tmp_path: Path) -> None:
    norms = []

    class Measured(Trainer):
        def _step(self, batch: Any) -> None:
            super()._step(batch)
            grads = [p.grad for p in self.method.parameters() if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    trainer = trainer_of(job_of(toy, tmp_path, "optim.clip=0.01", "method.training=supervised"), kind=Measured)
    fit(trainer)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-4)


REFUSED = [name for name in find.names("plugin") if name != "upc"]


@pytest.mark.parametrize("plugin", REFUSED)
def test_plug_ins_that_weigh_pixels_are_refused_when_a_recipe_is_read(plugin: str) -> None:
    reason = "which mask2former does not offer: its loss compares sets of masks and has no term of a pixel"
    with pytest.raises(RecipeError, match=reason):
        load(HOST, [f"plugin={{name: {plugin}}}"])


@pytest.mark.parametrize(("changes", "reason"), [
    (["net={name: deeplabv3plus, encoder: test_resnet, weights: random}"], "trains the network 'mask2former' alone"),
    (["method={name: unimatch}"], "mask2former is trained by mask2former, not by unimatch"),
    (["loss.supervised=ohem"], "has its own set loss"),
    (["schedule.unlabeled_batch=0"], "self-training reads unlabelled images in every step"),
    (["method.training=supervised", "plugin={name: upc}"], "needs mix, which mask2former does not call with training"),
    (["method={name: mask2former, training: supervised, label_with: last}"], "never read with training: supervised"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_its_reason(changes: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load(HOST, changes)


def test_a_split_with_nothing_to_label_is_refused() -> None:
    method = build("mask2former")
    with pytest.raises(RecipeError, match="no unlabelled images, which self-training labels"):
        method.attach(replace(Mixture(("a", "b"), ("c", "d"), method.needs, 1, 1), unlabeled=()))


def test_the_papers_rows_read_as_stated() -> None:
    row, plain = load("upc/upc_mask2former_voc_r101_512"), load("mask2former/mask2former_voc_r101")
    assert (row.method.steps, row.plugins[0].ras, row.plugins[0].ras_k) == ((30000, 60000), "sample", (2, 3, 5))
    assert (plain.method.training, plain.schedule.labeled_batch, plain.schedule.unlabeled_batch) == (
        "supervised",
        16,
        0,
    )
    assert (row.optim.name, row.optim.lr * row.optim.head, row.optim.clip, row.optim.lag) == ("adamw", 1e-4, 0.01, 0)
    assert load("upc/upc_mask2former_voc_coco_r101_512").data.unlabeled == "coco"


class Stopping(Trainer):
    """Is asked to stop after a number of steps."""

    left = 3

    def _step(self, batch: Any) -> None:
        super()._step(batch)
        Stopping.left -= 1
        if Stopping.left == 0:
            self.stop.is_requested = True


def test_a_run_stopped_anywhere_ends_in_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    change = ("plugin={name: upc, ras: sample}",)
    whole = trainer_of(job_of(toy, tmp_path / "whole", *change))
    fit(whole)
    stops = 0
    for _ in range(20):
        Stopping.left = 3
        trainer = trainer_of(job_of(toy, tmp_path / "parts", *change), kind=Stopping)
        try:
            fit(trainer)
            break
        except Stopped:
            stops += 1
    assert stops >= 3
    for name in ("checkpoint.pt", "best.pt"):
        assert (trainer.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert trainer.state.history == whole.state.history
    assert trainer.earlier_stages == whole.earlier_stages


def test_two_processes_train_as_one(toy: Path, tmp_path: Path) -> None:
    # Adam would blow up rounding where a gradient is nearly zero.
    sgd = "optim={name: sgd, lr: 0.002, head: 1, clip: 1.0}"
    more = (sgd, "schedule.labeled_batch=4", "schedule.unlabeled_batch=4", "schedule.epochs=1")
    alone = trained(job_of(toy, tmp_path / "one", *more), ALONE)
    first, second = (found for (found,) in together(2, [(trained, job_of(toy, tmp_path / "two", *more))], tmp_path))
    assert isinstance(first, Trained), first
    for name, value in alone.tensors.items():
        assert torch.equal(first.tensors[name], second.tensors[name]), name
        gap = (first.tensors[name] - value).abs().max()
        assert gap <= 1e-7 * (1 + value.abs().max()), f"{name} differs by {gap}"
