"""U2PL against a second writing of its specification (card: u2pl 3 to 8), as released and as the paper says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import naive
import numpy as np
import pair
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, build, make_batch, maker, optimizer, plugin, progress, train, unet
from torch import Tensor
from watching import waits_of

from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig
from ssbench.methods.u2pl import U2PL
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, PluginConfig, Stack, StepOutputs

SMALL: dict[str, Any] = {"anchors": 6, "negatives": 3, "bank": 40, "bank_first": 50, "anchor_above": 0.26}
"""Few draws, small banks, and a threshold that random networks of four classes reach."""
U2PL_NET: dict[str, Any] = {
    "encoder": "resnet18",
    "layout": "u2pl",
    "output_stride": 8,
    "multi_grid": (2, 2, 4),
    "rep": True,
}


def method_of(plug: Plugin | None = None, **settings: Any) -> U2PL:
    method = build("u2pl", plug, **(SMALL | settings))
    assert isinstance(method, U2PL)
    return method


def apart(method: U2PL, epochs_done: bool = True) -> tuple[SegNet, SegNet]:
    """A teacher near the student, with statistics of its own, as after some epochs; copies of both."""
    g = torch.Generator().manual_seed(9)
    method.teacher.load_state_dict(method.net.state_dict())
    for p in method.teacher.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g) * p.abs().mean()
    method.teaching.fill_(epochs_done)
    return copy.deepcopy(method.net), copy.deepcopy(method.teacher)


def at(epoch: int, mixes: bool, epochs: int = 4) -> Progress:
    """A step of an epoch (of ten steps) at which the keyed coin says whether to mix."""
    steps = (progress(10 * epoch + k, 10 * epochs) for k in range(10))
    return next(t for t in steps if (t.chance("cutmix") < 0.5) is mixes)


def test_the_teacher_has_a_head_of_its_own() -> None:
    method = method_of()
    head = [n for n, p in method.net.named_parameters() if n.startswith("fuse") and p.dim() > 1]
    assert head
    assert not any(torch.equal(method.net.get_parameter(n), method.teacher.get_parameter(n)) for n in head)
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_the_warm_up_is_supervised_and_moves_only_the_teachers_statistics() -> None:
    """The warm-up (card: u2pl 3). Terms that are zero reach every parameter, as the representation head's."""
    method = method_of(net=maker(**U2PL_NET))
    before = copy.deepcopy(method.teacher.state_dict())
    step = method(make_batch(method.needs), progress(0))
    step.loss.backward()
    method.after_step(progress(0))
    assert set(step.terms) == {"sup"}
    assert torch.equal(step.loss, step.terms["sup"])
    assert all(p.grad is not None for p in method.net.parameters())
    assert method.net.get_parameter("rep.0.weight").grad.abs().sum() == 0  # type: ignore[union-attr]
    for name, value in method.teacher.state_dict().items():
        assert torch.equal(value, before[name]) != ("running" in name or "tracked" in name), name
    assert method.bank.seen.sum() == 0


def test_for_one_epoch_the_teacher_is_the_student_and_then_its_average() -> None:
    """A copy for one epoch; the decay counts from the end of the warm-up: 1 - 1 / 5 at step 5 (card: u2pl 3)."""
    method = method_of()
    train(method, 2, steps_per_epoch=2, lr=0.1)
    assert not torch.equal(next(method.net.parameters()), next(method.teacher.parameters()))
    copies: list[bool] = []
    method.teacher.register_forward_pre_hook(lambda _, __: copies.append(same(method)))
    train(method, 2, start=2, steps_per_epoch=2, lr=0.1)
    assert same(method)
    assert copies == [True] * 4  # two passes a step
    before = [p.clone() for p in method.teacher.parameters()]
    train(method, 1, start=4, steps_per_epoch=2, lr=0.1)
    for new, old, student in zip(method.teacher.parameters(), before, method.net.parameters(), strict=True):
        torch.testing.assert_close(new, 2 / 3 * old + 1 / 3 * student)


def test_buffers_of_the_teacher_come_from_its_own_passes() -> None:
    method = method_of()
    train(method, 8, steps_per_epoch=2, lr=0.1)
    student = dict(method.net.named_buffers())
    assert all(not torch.equal(v, student[n]) for n, v in method.teacher.named_buffers() if "running" in n)


@pytest.mark.parametrize(("epoch", "kept"), [(0, 0.80), (1, 0.85), (2, 0.90), (3, 0.95)])
def test_the_share_kept_rises_from_drop_percent_to_all(epoch: int, kept: float) -> None:
    method = method_of(warmup_epochs=0)
    apart(method)
    with torch.no_grad():
        step = method(make_batch(method.needs, images=4), at(epoch, mixes=False))
    assert step.terms["kept"].item() == pytest.approx(kept, abs=0.002)


@pytest.mark.parametrize("mixes", [True, False])
@pytest.mark.parametrize("impl", ["release", "paper"])
def test_a_step_re_derived(impl: str, mixes: bool) -> None:
    """Loss, terms, gradients and banks of one step with two groups of two images, from the text alone."""
    method = method_of(contrastive_impl=impl, group=2, contrastive_weight=0.25)
    student, teacher = apart(method)
    batch, t = make_batch(method.needs, seed=3, images=4), at(2, mixes)
    step = method(batch, t)
    step.loss.backward()
    x, y, here = naive.parts(batch)
    label = naive.eval_logits(teacher, here.weak).argmax(1)
    image = here.weak
    if mixes:
        image, label = mixed_by_hand(here.weak, label, here.boxes[0])
    out = student(torch.cat([x, image]))
    with torch.no_grad():
        teacher_out = teacher(torch.cat([x, image]))
    sup = naive.supervised(out.logits[:4], y)
    unsup, entropy = filtered(out.logits[4:], teacher_out.logits[4:], label, share=1 - 0.2 * (1 - 2 / 4))
    con, queues = contrasted(method, t, out, teacher_out, y, label, entropy, paper=impl == "paper")
    assert con.item() > 0
    assert step.terms["unsup"].item() == pytest.approx(unsup.item(), rel=1e-4)
    assert step.terms["contrast"].item() == pytest.approx(con.item(), rel=1e-4)
    assert step.loss.item() == pytest.approx((sup + unsup + 0.25 * con).item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(sup + unsup + 0.25 * con, student))
    for keys, queue in zip(torch.split(method.bank.keys, method.bank.sizes), queues, strict=True):
        ring = as_ring(queue, len(keys))
        assert (keys[len(ring) :] == 0).all()
        if ring:
            torch.testing.assert_close(keys[: len(ring)], torch.stack(ring))
    for ours, theirs in zip(method.teacher.buffers(), teacher.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_two_readings_differ_in_negatives_and_in_whose_they_are() -> None:
    """The paper fills every class's bank. Of the release, an image alone in its process adds keys only where two passes
    of the teacher disagree; of several the first alone adds keys, by the labels of the others.
    """
    filled = {}
    for impl, group in (("paper", 4), ("release", 1), ("release", 4)):
        method = method_of(contrastive_impl=impl, group=group, bank=4000, bank_first=4000)
        apart(method)
        with torch.no_grad():
            method(make_batch(method.needs, seed=3, images=4), at(2, mixes=True))
        filled[impl, group] = method.bank.seen
    assert (filled["paper", 4] > 100).all()
    assert filled["release", 1].sum() < 0.2 * filled["paper", 4].sum()
    assert 0 < filled["release", 4].sum() < filled["release", 1].sum()


def test_banks_fill_up_over_steps_and_are_resumed() -> None:
    method = method_of(warmup_epochs=0, bank=600, bank_first=900, contrastive_impl="paper")
    apart(method)
    first = train(method, 2, lr=0.01)
    other = method_of(warmup_epochs=0, bank=600, bank_first=900, contrastive_impl="paper", seed=1)
    other.load_state_dict(method.state_dict())
    assert method.bank.filled().max() > 300
    assert method.bank.limits.tolist() == [900, 600, 600, 600]
    assert first[1]["contrast"] > 0
    batch, t = make_batch(method.needs, seed=7), progress(11)
    with torch.no_grad():
        assert torch.equal(method(batch, t).loss, other(batch, t).loss)


def test_a_bank_on_the_cpu_computes_the_same() -> None:
    losses = []
    for place in ("device", "cpu"):
        method = method_of(bank_on=place, contrastive_impl="paper")
        apart(method)
        losses.append(method(make_batch(method.needs), at(2, mixes=True)).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize("impl", ["release", "paper"])
def test_every_student_tensor_learns_with_all_heads(impl: str) -> None:
    method = method_of(net=maker(**U2PL_NET, aux=True), contrastive_impl=impl)
    apart(method)
    step = method(make_batch(method.needs, seed=3), at(2, mixes=True))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert step.terms["contrast"] > 0
    assert method.bank.keys.shape == (50 + 3 * 40, 256)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.net.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_auxiliary_head_learns_the_labelled_images_alone() -> None:
    """Cityscapes: L_x = main + 0.4 aux (card: u2pl 5)."""
    method = method_of(net=maker(layout="ael", aux=True))
    for p in method.net.modules():
        if isinstance(p, torch.nn.Dropout2d):
            p.p = 0.0
    student, _ = apart(method)
    batch, t = make_batch(method.needs), at(2, mixes=False)
    out = student(torch.cat([batch.labeled.x, batch.unlabeled.weak]))  # type: ignore[union-attr]
    assert out.aux is not None
    y = batch.labeled.y
    expected = naive.supervised(out.logits[:2], y) + 0.4 * naive.supervised(out.aux[:2], y)
    assert method(batch, t).terms["sup"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_unet_with_dice_on_one_channel() -> None:
    loss, seen = LossConfig(supervised="ce_dice", pseudo="dice"), list[StepOutputs]()
    method = method_of(Watch(seen), net=lambda _: unet(), loss=loss, contrastive_impl="paper", low_rank=1)
    apart(method)
    step = method(make_batch(method.needs, side=48, channels=1), at(2, mixes=True))
    step.loss.backward()
    view = seen[0].views[0]
    assert step.terms["unsup"].item() == pytest.approx(
        naive.soft_dice(view.out.logits, view.pseudo.label, view.pseudo.keep).item(), rel=1e-5
    )
    assert method.bank.keys.shape[1] == 16  # the penultimate features stand in for a representation head
    assert torch.isfinite(step.loss)
    assert all(p.grad is not None for p in method.net.parameters())


def test_the_score_is_the_students_in_the_warm_up_and_the_teachers_after_even_when_reloaded() -> None:
    method, x = method_of(), torch.randn(1, 3, 65, 65)
    train(method, 3, steps_per_epoch=3, lr=0.1)
    reloaded = method_of(seed=1)
    for steps, scored in ((0, "net"), (2, "teacher")):
        train(method, steps, start=3, steps_per_epoch=3, lr=0.1)
        reloaded.load_state_dict(method.state_dict())
        expected = getattr(method.eval(), scored)(x).logits
        assert torch.equal(method.predict(x), expected)
        assert torch.equal(reloaded.eval().predict(x), expected)
        method.train()


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_identity_of_every_hook_changes_no_bit(epoch: int) -> None:
    result = []
    for plug in (None, Same(PluginConfig(), CLASSES)):
        method = method_of(plug)
        apart(method)
        loss = method(make_batch(method.needs), at(epoch, mixes=True)).loss
        loss.backward()
        result.append([loss, *(p.grad for p in method.net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_hooks_act_where_the_specifications_say() -> None:
    """`refine` after both passes of the teacher; `weigh` with the second, and no third; the factor stays (mpmc 9)."""
    plug, passes = Spy(), list[bool]()
    method = method_of(plug)
    _, teacher = apart(method)
    method.teacher.register_forward_pre_hook(lambda net, _: passes.append(net.training))
    batch, t = make_batch(method.needs, images=4), at(2, mixes=True)
    step = method(batch, t)
    assert passes == [False, True]
    view, weight = plug.seen[0].views[0], plug.weight
    assert view.pseudo.probs is not None
    assert plug.refined[1].probs is view.pseudo.probs
    assert set(view.pseudo.feats) >= {"layer1", "penultimate"}
    assert torch.equal(plug.answer.logits.softmax(1), view.pseudo.probs)
    ce = F.cross_entropy(view.out.logits, view.pseudo.label, reduction="none")
    kept = view.pseudo.keep.float()
    expected = (ce * kept * weight).sum() / (kept * weight).sum() * kept.numel() / kept.sum()
    assert step.terms["unsup"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(plug.seen[0].teach(batch.labeled.x).logits, naive.eval_logits(method.teacher, batch.labeled.x))


def test_what_refine_keeps_replaces_the_percentile() -> None:
    class Half(Plugin):
        def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
            keep = torch.zeros_like(pseudo.keep)
            keep[:, ::2] = True
            return Pseudo(**{**vars(pseudo), "keep": keep})

    method = method_of(Half(PluginConfig(), CLASSES))
    apart(method)
    with torch.no_grad():
        kept = method(make_batch(method.needs), at(2, mixes=True)).terms["kept"].item()
    assert kept == pytest.approx(33 / 65)


def test_pasted_ground_truth_passes_and_stays_out_of_the_percentile() -> None:
    """UPC's labelled patches (upc A5): kept whatever their entropy, sure in the contrast, not counted below it."""
    seen = list[StepOutputs]()
    method = method_of(Stack([plugin("upc", ras="off", k=6), Watch(seen)]))
    apart(method)
    with torch.no_grad():
        method(make_batch(method.needs, images=4), at(2, mixes=True))
    pseudo = seen[0].views[0].pseudo
    trusted = pseudo.trusted_mask()
    open_ = pseudo.valid & ~trusted
    h = entropy_of(pseudo.soft)
    assert 0.2 < trusted.float().mean() < 0.5
    limit = np.percentile(h[open_].numpy(), 90)
    assert torch.equal(pseudo.keep & open_, (h < limit) & open_)
    label, low, high = method._extremes(pseudo, at(2, mixes=True))
    assert low[trusted & pseudo.valid].all()
    assert not high[trusted].any()
    assert (label[~pseudo.valid] == 255).all()


def test_copies_of_a_plugins_mix_are_averaged() -> None:
    plug = plugin("upc")
    method = method_of(plug, contrastive_impl="paper")
    apart(method)
    step = method(make_batch(method.needs), at(2, mixes=True))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert step.terms["unsup"] < 10


@pytest.mark.parametrize("name", ["s4mc", "ipixmatch", "mpmc"])
def test_plugins_run_on_it(name: str) -> None:
    method = method_of(plugin(name))
    apart(method)
    step = method(make_batch(method.needs), at(2, mixes=True))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert step.terms["unsup"] > 0


def test_a_plugins_pace_can_switch_the_unlabelled_terms_off() -> None:
    class Warm(Plugin):
        def scale(self, t: Progress) -> LossScale:
            return LossScale(unlabeled=False)

    method = method_of(Warm(PluginConfig(), CLASSES), net=maker(**U2PL_NET))
    apart(method)
    step = method(make_batch(method.needs), at(2, mixes=True))
    step.loss.backward()
    assert torch.equal(step.loss, step.terms["sup"])
    assert all(p.grad is not None for p in method.net.parameters())


def test_images_that_form_no_groups_are_refused() -> None:
    batch, t = make_batch(method_of().needs, images=3), at(2, mixes=True)
    with pytest.raises(RecipeError, match="do not form groups of 2") as error:
        method_of(group=2)(batch, t)
    assert error.value.fix.startswith("--set method.group=3 ")
    with torch.no_grad():
        assert torch.isfinite(method_of(group=3)(batch, t).loss)
        assert torch.isfinite(method_of(group=4)(batch, t).loss)  # fewer than a group are one


def test_a_step_never_waits_for_the_device() -> None:
    method = method_of(group=1, warmup_epochs=1)
    batch, optim = make_batch(method.needs), optimizer(method)

    def step(t: Progress) -> None:
        method(batch, t).loss.backward()
        optim.step()
        method.after_step(t)

    for epoch in range(3):
        assert waits_of(lambda: step(at(epoch, mixes=True))) == []  # noqa: B023  called at once


@pytest.mark.parametrize("impl", ["paper", "release"])
def test_two_processes_equal_one(impl: str) -> None:
    """The last step of the warm-up and the first after it, banks included; groups of two images on either side."""
    settings = SMALL | {"group": 2, "contrastive_impl": impl, "contrastive_weight": 1.0}
    alone, together = pair.alone_and_together("u2pl", 9, 2, images=4, **settings)
    pair.assert_equal(alone, together)
    assert alone["state"]["bank.seen"].sum() > 20


def same(method: U2PL) -> bool:
    pairs = zip(method.net.parameters(), method.teacher.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def entropy_of(p: Tensor) -> Tensor:
    return -(p * (p + 1e-10).log()).sum(1)


def mixed_by_hand(weak: Tensor, label: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Groups of two images, which take the box from each other (card: u2pl 4)."""
    image, label_here = weak.clone(), label.clone()
    for j in range(len(weak)):
        image[j][:, box[j]] = weak[j ^ 1][:, box[j]]
        label_here[j][box[j]] = label[j ^ 1][box[j]]
    return image, label_here


def filtered(logits: Tensor, teacher_logits: Tensor, label: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Section 7, for each pair of images; the mean over pairs. Also the entropy."""
    h, terms = entropy_of(teacher_logits.softmax(1)), []
    for k in range(0, len(label), 2):
        some, target = h[k : k + 2], label[k : k + 2].clone()
        target[some >= float(np.percentile(some.numpy(), 100 * share))] = 255
        factor = target.numel() / (target != 255).sum()
        terms.append(factor * F.cross_entropy(logits[k : k + 2], target, ignore_index=255))
    return sum(terms[1:], terms[0]) / len(terms), h


def contrasted(
    method: U2PL, t: Progress, out: Out, teacher_out: Out, y: Tensor, label: Tensor, entropy: Tensor, paper: bool
) -> tuple[Tensor, list[list[Tensor]]]:
    """Section 8 by loops over groups, classes and anchors. Returns the loss and the queues, unbounded."""
    rep, key = out.feats["penultimate"], teacher_out.feats["penultimate"]
    probs = teacher_out.feats["logits"].softmax(1)
    near = [int(i * 65 / 17) for i in range(17)]
    share, queues = 0.2 * (1 - 2 / 4), [list[Tensor]() for _ in range(CLASSES)]
    groups = []
    for k in range(0, 4, 2):
        some = entropy[k : k + 2]
        low_limit, high_limit = (float(np.percentile(some.numpy(), 100 * s)) for s in (share, 1 - share))
        anchors, valid = [list[Tensor]() for _ in range(CLASSES)], [list[Tensor]() for _ in range(CLASSES)]
        for b in (k, k + 1, 4 + k, 4 + k + 1):
            labelled = b < 4
            for i, row in enumerate(near):
                for j, column in enumerate(near):
                    maps = y if labelled else label
                    label_here = int(maps[b % 4, row, column])
                    mates = [int(maps[m, row, column]) for m in (k, k + 1)]
                    labels = {label_here} - {255} if paper else released(mates, b % 4 - k)
                    h = float(entropy[b % 4, row, column])
                    low = label_here != 255 if labelled else h <= low_limit
                    high = label_here != 255 if labelled else h >= high_limit
                    p = probs[b, :, i, j]
                    ranked = p.argsort(descending=True).tolist()
                    for c in range(CLASSES):
                        if c in labels and low:
                            valid[c].append(key[b, :, i, j])
                            if p[c] > SMALL["anchor_above"]:
                                anchors[c].append(rep[b, :, i, j])
                        rank = ranked.index(c)
                        negative = (rank < 3 and c not in labels) if labelled else 3 <= rank < 20
                        if high and p[c] < 1 and negative and (paper or c in labels):
                            queues[c].append(key[b, :, i, j])
        groups.append((anchors, valid))
    sizes = [SMALL["bank_first"]] + [SMALL["bank"]] * (CLASSES - 1)
    u = torch.rand((2, CLASSES, 6), generator=t.generator("u2pl anchors s1"))
    w = torch.rand((2, CLASSES, 6, 3), generator=t.generator("u2pl negatives s1"))
    losses = []
    for g, (anchors, valid) in enumerate(groups):
        classes = [c for c in range(CLASSES) if valid[c]]
        total = rep.sum() * 0
        for v, c in enumerate(classes):
            mine = c if paper else v
            ring = as_ring(queues[c], int(sizes[c]))
            if not anchors[mine] or not ring:
                continue
            positive = torch.stack(valid[mine]).mean(0)
            for q in range(6):
                anchor = anchors[mine][int(u[g, mine, q] * len(anchors[mine]))]
                chosen = [ring[int(w[g, mine, q, m] * len(ring))] for m in range(3)]
                cos = torch.stack([F.cosine_similarity(anchor, other, dim=0) for other in (positive, *chosen)]) / 0.5
                total = total + F.cross_entropy(cos[None], torch.tensor([0])) / 6
        losses.append(total / len(classes))
    return sum(losses[1:], losses[0]) / 2, queues


def released(labels: list[int], image: int) -> set[int]:
    """A pixel's labels in the release's one-hot planes: those of all images of the process, in its first one."""
    if image or labels[0] == 255:
        return set()
    return {0 if label == 255 else label for label in labels}


def as_ring(queue: list[Tensor], size: int) -> list[Tensor]:
    """The newest entries in the slots they were written to."""
    ring = list(queue[:size])
    for j in range(size, len(queue)):
        ring[j % size] = queue[j]
    return ring


class Same(Plugin):
    """Every hook, changing nothing."""

    def scale(self, t: Progress) -> LossScale:
        return LossScale()

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        return pseudo.with_carry(again=pseudo.conf)

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        return list(host())

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        teach(mixed.weak)
        return None

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {}


class Watch(Plugin):
    """Keeps what `loss` is shown."""

    def __init__(self, seen: list[StepOutputs]) -> None:
        super().__init__(PluginConfig(), CLASSES)
        self.seen = seen

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        self.seen.append(seen)
        return {}


class Spy(Watch):
    """Keeps what every hook is given, and weighs pixels at random."""

    answer: Out

    def __init__(self) -> None:
        super().__init__([])
        self.refined: list[Pseudo] = []
        self.weight = torch.empty(0)

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.refined.append(pseudo)
        return pseudo

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        self.answer = teach(mixed.weak)
        self.weight = torch.rand(mixed.pseudo.conf.shape, generator=torch.Generator().manual_seed(1))
        return self.weight
