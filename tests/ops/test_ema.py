"""The moving average: fused update against a loop, buffers, decay schedule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssbench.ops import ema


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    teacher = copy.deepcopy(student).requires_grad_(False)
    for p in student.parameters():
        p.data.add_(torch.randn_like(p))
    student(torch.randn(2, 3, 8, 8))  # moves the statistics and counts a batch
    return teacher, student


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("buffers", [False, True])
def test_equals_a_loop_over_tensors(decay: float, buffers: bool) -> None:
    teacher, student = pair()
    before = copy.deepcopy(teacher.state_dict())
    names = {name for name, _ in student.named_parameters()}
    ema.update(teacher, student, decay, buffers)
    for name, value in teacher.state_dict().items():
        old, new = before[name], student.state_dict()[name]
        if name in names or (buffers and value.is_floating_point()):
            torch.testing.assert_close(value, decay * old + (1 - decay) * new)
        else:
            assert torch.equal(value, new if buffers else old), name


def test_decay_zero_is_a_copy_and_no_shared_memory() -> None:
    teacher, student = pair()
    ema.update(teacher, student, 0.0)
    for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_leaves_the_student_and_its_gradients_alone() -> None:
    teacher, student = pair()
    before = copy.deepcopy(student.state_dict())
    ema.update(teacher, student, 0.9, buffers=True)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_capped_decay_starts_as_a_copy_and_ends_at_the_cap() -> None:
    assert [ema.capped_decay(step, 0.99) for step in (0, 1, 2, 3)] == [0.0, 0.5, pytest.approx(2 / 3), 0.75]
    assert ema.capped_decay(98, 0.99) == pytest.approx(1 - 1 / 99)
    assert ema.capped_decay(100, 0.99) == 0.99


def test_capped_decay_makes_the_teacher_a_plain_mean_at_first() -> None:
    """Until the cap, the teacher is the mean of all students since the start."""
    teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for step, value in enumerate([2.0, 4.0, 9.0]):
        nn.init.constant_(student.weight, value)
        ema.update(teacher, student, ema.capped_decay(step, 0.99))
    assert teacher.weight.item() == pytest.approx(5.0)
