"""Mean Teacher, re-derived: soft (card: mean_teacher 1) and hard (card: mean_teacher 2)."""

from __future__ import annotations

import copy

import naive
import pytest
import torch
from builders import CLASSES, build, make_batch, maker, progress, train
from torch import nn

from ssbench.data.plan import Needs
from ssbench.errors import RecipeError
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.plugins.base import Plugin

TAU = 0.3


def nets(method: Method) -> tuple[SegNet, SegNet]:
    """Copies of student and teacher."""
    teacher = method.teacher
    assert isinstance(teacher, SegNet)
    return copy.deepcopy(method.net), copy.deepcopy(teacher)


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_soft_is_the_mean_square_over_both_batches_times_a_hundred(encoder: str) -> None:
    method = build("mean_teacher", net=maker(encoder=encoder))
    train(method, 2, lr=0.05)  # so that teacher and student differ
    method.zero_grad()
    (student, teacher), batch = nets(method), make_batch(method.needs, seed=8)
    result = method(batch, progress(2))
    result.loss.backward()
    x, y, here = naive.parts(batch)
    logits = [student(x).logits, student(here.weak).logits]
    with torch.no_grad():
        targets = [teacher(x).logits, teacher(here.weak).logits]  # train mode, each batch its own statistics
    squares = [(a.softmax(1) - b.softmax(1)) ** 2 for a, b in zip(logits, targets, strict=True)]
    consistency = torch.cat(squares).mean()
    expected = naive.supervised(logits[0], y) + 100 * consistency
    assert result.terms["consistency"].item() == pytest.approx(consistency.item(), rel=1e-4)
    assert result.terms["consistency"].item() > 0
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(expected, student))


def test_soft_keeps_the_decay_constant_and_leaves_statistics_to_the_teachers_own_passes() -> None:
    method = build("mean_teacher")
    _, before = nets(method)
    train(method, 1, lr=0.05)
    student, teacher = nets(method)
    values, old = dict(student.named_parameters()), dict(before.named_parameters())
    for name, p in teacher.named_parameters():
        torch.testing.assert_close(p, 0.99 * old[name] + 0.01 * values[name], msg=name)
    own = {k: v for k, v in before.named_buffers() if "running_mean" in k}
    for name, value in teacher.named_buffers():
        if name in own:
            assert not torch.equal(value, own[name])


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_hard_trains_the_strong_view_on_confident_labels_of_the_eval_mode_teacher(encoder: str) -> None:
    method = build("mean_teacher", net=maker(encoder=encoder), consistency="hard", threshold=TAU)
    train(method, 2, lr=0.05)
    method.zero_grad()
    (student, teacher), batch = nets(method), make_batch(method.needs, seed=8)
    result = method(batch, progress(2))
    result.loss.backward()
    x, y, here = naive.parts(batch)
    pseudo = naive.Labels.of(naive.eval_logits(teacher, here.weak), here.valid)
    logits = student(torch.cat([x, here.strong[0]])).logits
    sup, strong = naive.supervised(logits[:2], y), naive.unsupervised(logits[2:], pseudo, TAU)
    assert result.terms["consistency"].item() == pytest.approx(strong.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx((sup + strong).item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(sup + strong, student))


def test_the_hard_teacher_gets_statistics_although_it_never_runs_in_train_mode() -> None:
    method = build("mean_teacher", consistency="hard")
    train(method, 1)
    teacher = method.teacher
    assert isinstance(teacher, nn.Module)
    student = method.net.state_dict()
    assert all(torch.equal(v, student[k]) for k, v in teacher.state_dict().items())  # decay 0 at step 0
    before = copy.deepcopy(teacher.state_dict())
    train(method, 1, start=1)
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.5 * before[name] + 0.5 * method.net.state_dict()[name], msg=name)


def test_weight_and_views_follow_the_kind() -> None:
    assert build("mean_teacher").needs == Needs(strong=0)
    assert build("mean_teacher", consistency="hard").needs == Needs(strong=1)
    method = build("mean_teacher", weight=3.0)
    train(method, 1)
    result = method(make_batch(method.needs), progress(1))
    sup, consistency = result.terms["sup"].item(), result.terms["consistency"].item()
    assert result.loss.item() == pytest.approx(sup + 3 * consistency, rel=1e-5)


def test_scores_the_student_when_soft_and_the_teacher_when_hard() -> None:
    x = torch.randn(1, 3, 65, 65)
    for consistency in ("soft", "hard"):
        method = build("mean_teacher", consistency=consistency)
        train(method, 3, lr=0.1)
        method.eval()
        teacher = method.teacher
        assert isinstance(teacher, SegNet)
        scored = method.net if consistency == "soft" else teacher
        assert torch.equal(method.predict(x), scored(x).logits)
        assert not torch.equal(method.net(x).logits, teacher(x).logits)


def test_a_mixing_plugin_is_refused_where_nothing_is_mixed() -> None:
    class Mixer(Plugin):
        def mix(self, host, batch, weak, t):
            return host()

    build("mean_teacher", Mixer(Mixer.Config(), CLASSES), consistency="hard")
    with pytest.raises(RecipeError, match="mix") as error:
        build("mean_teacher", Mixer(Mixer.Config(), CLASSES))
    assert "hard" in error.value.fix
