"""CutMix-Seg, re-derived: the S4MC/U2PL trainer (card: cutmix_seg 4) and the original (card: cutmix_seg 1, 2)."""

from __future__ import annotations

import copy

import naive
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, build, make_batch, maker, progress, train
from torch import Tensor

from ssbench.data.plan import Needs
from ssbench.errors import RecipeError
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.plugins.base import Plugin


def nets(method: Method) -> tuple[SegNet, SegNet]:
    """Copies of student and teacher."""
    teacher = method.teacher
    assert isinstance(teacher, SegNet)
    return copy.deepcopy(method.net), copy.deepcopy(teacher)


def step_with(probability: float, mixes: bool) -> int:
    """A step after the warm-up at which the keyed coin says whether to mix."""
    return next(k for k in range(11, 40) if (progress(k).chance("cutmix") < probability) is mixes)


def test_the_teacher_starts_as_a_copy_without_gradients() -> None:
    student, teacher = nets(build("cutmix_seg"))
    assert all(torch.equal(v, student.state_dict()[k]) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_warm_up_is_supervised_and_moves_only_the_teachers_statistics() -> None:
    """Only the labelled loss trains (card: u2pl 3)."""
    method = build("cutmix_seg")
    student, before = nets(method)
    batch = make_batch(method.needs)
    result = method(batch, progress(0))
    method.after_step(progress(0))
    expected = naive.supervised(student(batch.labeled.x).logits, batch.labeled.y)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(result.terms) == {"sup"}
    before(batch.labeled.x)
    _, teacher = nets(method)
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in teacher.state_dict().items())


def test_after_the_warm_up_the_teachers_weights_are_the_students() -> None:
    method = build("cutmix_seg")
    train(method, 3, steps_per_epoch=3, lr=0.1)
    student, teacher = nets(method)
    assert not torch.equal(next(student.parameters()), next(teacher.parameters()))
    method(make_batch(method.needs), progress(3, 40, 3))
    _, teacher = nets(method)
    for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_decay_counts_from_the_end_of_the_warm_up_and_covers_parameters_only() -> None:
    method = build("cutmix_seg")
    train(method, 4, steps_per_epoch=3, lr=0.1)  # step 3: decay 0
    student, before = nets(method)
    for a, b in zip(before.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)
    train(method, 1, start=4, steps_per_epoch=3, lr=0.1)  # step 4: decay 1/2
    student, teacher = nets(method)
    for a, b, c in zip(teacher.parameters(), before.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(a, 0.5 * b + 0.5 * c)
    student_statistics = {k: v for k, v in student.named_buffers() if "running" in k}
    assert all(not torch.equal(v, student_statistics[k]) for k, v in teacher.named_buffers() if "running" in k)


def mixed_by_hand(weak: Tensor, label: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Each image takes the box from the next image of the batch (card: u2pl 4)."""
    image, hard_labels = weak.clone(), label.clone()
    for j in range(len(weak)):
        k = (j + 1) % len(weak)
        image[j][:, box[j]] = weak[k][:, box[j]]
        hard_labels[j][box[j]] = label[k][box[j]]
    return image, hard_labels


@pytest.mark.parametrize("mixes", [True, False])
@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_s4mc_step(encoder: str, mixes: bool) -> None:
    """Without a plug-in every pixel is kept: plain cross-entropy on the hard labels, lambda 1."""
    method = build("cutmix_seg", net=maker(encoder=encoder))
    for p in method.teacher.parameters():
        p.data.mul_(1.05)  # a teacher that differs from the student
    (student, teacher), batch = nets(method), make_batch(method.needs, images=3)
    t = progress(step_with(0.5, mixes))
    result = method(batch, t)
    result.loss.backward()
    x, y, here = naive.parts(batch)
    label = naive.eval_logits(teacher, here.weak).argmax(1)
    image = here.weak
    if mixes:
        image, label = mixed_by_hand(here.weak, label, here.boxes[0])
    logits = student(torch.cat([x, image])).logits
    sup, unsup = naive.supervised(logits[:3], y), F.cross_entropy(logits[3:], label)
    assert result.terms["unsup"].item() == pytest.approx(unsup.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx((sup + unsup).item(), rel=1e-5)
    assert result.terms["kept"].item() == 1
    naive.assert_same_gradients(method.net, naive.gradients(sup + unsup, student))
    with torch.no_grad():
        teacher(torch.cat([x, image]))  # its train-mode pass on the same images, which moves its statistics
    for ours, theirs in zip(method.teacher.buffers(), teacher.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_batches_are_mixed_with_the_probability_asked_for(probability: float, share: float) -> None:
    method = build("cutmix_seg", mix_probability=probability)
    batch, mixed = make_batch(method.needs, side=33), []

    def look(_: object, args: tuple[Tensor, ...]) -> None:
        mixed.append(not torch.equal(args[0][2:], batch.unlabeled.weak))

    method.net.register_forward_pre_hook(look)
    with torch.no_grad():
        for step in range(11, 51):
            method(batch, progress(step, 60))
    assert sum(mixed) / len(mixed) == pytest.approx(share, abs=0.2 * (share == 0.5))


def test_the_score_is_the_students_in_the_warm_up_and_the_teachers_after_even_when_reloaded() -> None:
    """The student during the warm-up, afterwards the teacher (card: cutmix_seg 4)."""
    method, x = build("cutmix_seg"), torch.randn(1, 3, 65, 65)
    train(method, 3, steps_per_epoch=3, lr=0.1)
    reloaded = build("cutmix_seg", seed=1)
    for steps, scored in ((0, "net"), (2, "teacher")):
        train(method, steps, start=3, steps_per_epoch=3, lr=0.1)
        reloaded.load_state_dict(method.state_dict())
        expected = getattr(method.eval(), scored)(x).logits
        assert torch.equal(method.predict(x), expected)
        assert torch.equal(reloaded.eval().predict(x), expected)
        method.train()


def test_s4mc_reads_one_unlabelled_batch_and_original_two() -> None:
    assert build("cutmix_seg").needs == Needs(strong=1, partner=None)
    assert build("cutmix_seg", variant="original").needs == Needs(strong=1, partner="other")


@pytest.mark.parametrize("confidence", ["scalar", "pixel"])
@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_original_step(encoder: str, confidence: str) -> None:
    tau = 0.3
    method = build("cutmix_seg", net=maker(encoder=encoder), variant="original", confidence=confidence, threshold=tau)
    train(method, 2, lr=0.05)
    method.zero_grad()
    (student, teacher), batch = nets(method), make_batch(method.needs, seed=6)
    result = method(batch, progress(2))
    result.loss.backward()
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    m = here.boxes[0][:, None].float()
    sup = naive.supervised(student(x).logits, y)
    with torch.no_grad():
        first, second = teacher(here.weak).logits, teacher(there.weak).logits
    q = (first * (1 - m) + second * m).softmax(1)  # logits mixed, then softmax: the same, m being binary
    inside = (here.valid[:, None] * (1 - m) + there.valid[:, None] * m)[:, 0]
    p = student(here.strong[0] * (1 - m) + there.strong[0] * m).logits.softmax(1)
    sure = (q.amax(1) >= tau).float()
    factor = sure if confidence == "pixel" else sure.mean()
    unsup = (((p - q) ** 2).sum(1) * inside * factor).mean()
    assert 0.1 < sure.mean().item() < 1
    assert result.terms["unsup"].item() == pytest.approx(unsup.item(), rel=1e-4)
    assert result.loss.item() == pytest.approx((sup + unsup).item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(sup + unsup, student))


def test_original_averages_parameters_and_buffers_with_a_constant_decay() -> None:
    """Every float of the state dict, 0.99 from the first step, after the teacher's own passes (card: cutmix_seg 2)."""
    method = build("cutmix_seg", variant="original")
    student, teacher = nets(method)
    batch = make_batch(method.needs, seed=0)
    with torch.no_grad():
        teacher(batch.unlabeled.weak)
        teacher(batch.partner.weak)
    train(method, 1, lr=0.05)
    now = method.net.state_dict()
    for name, value in method.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.99 * teacher.state_dict()[name] + 0.01 * now[name], msg=name)


def test_the_weight_is_lambda() -> None:
    method = build("cutmix_seg", weight=2.5)
    result = method(make_batch(method.needs), progress(12))
    assert result.loss.item() == pytest.approx(
        result.terms["sup"].item() + 2.5 * result.terms["unsup"].item(), rel=1e-5
    )


def test_a_mixing_plugin_is_refused_by_the_original() -> None:
    class Mixer(Plugin):
        def mix(self, host, batch, weak, t):
            return host()

    build("cutmix_seg", Mixer(Mixer.Config(), CLASSES))
    with pytest.raises(RecipeError, match="mix") as error:
        build("cutmix_seg", Mixer(Mixer.Config(), CLASSES), variant="original")
    assert "s4mc" in error.value.fix
