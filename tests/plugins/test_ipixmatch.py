"""IPixMatch against the worked examples of its specification (section 9), to 4 decimals."""

from __future__ import annotations

import pytest
import torch
from builders import build, make_batch, plugin, progress

from ssbench.errors import RecipeError
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.relation import relation_distance, spatial_log_softmax
from ssbench.ops.schedule import gaussian_ramp
from ssbench.plugins.ipixmatch import IPixMatch

P = torch.tensor([[3.0, 1.0, -2.0, 0.2], [-1.0, -2.0, 2.0, 0.1]]).view(1, 2, 1, 4)
Q = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, -1.0, 1.0, 0.3]]).view(1, 2, 1, 4)
OMEGA = torch.tensor([True, True, True, False]).view(1, 1, 4)
ALL = torch.ones(1, 1, 4, dtype=torch.bool)


def close(value: float) -> object:
    return pytest.approx(value, abs=5e-5)


def test_omega_is_the_confident_pixels() -> None:
    best = P.softmax(1).amax(1).flatten().tolist()
    assert best == [close(0.9820), close(0.9526), close(0.9820), close(0.5250)]


def test_spatial_softmax_of_the_example() -> None:
    u = spatial_log_softmax(P, OMEGA, 4.0).exp()[0]
    assert u[0].tolist() == [close(0.5283), close(0.3204), close(0.1513), 0.0]
    assert u[1].tolist() == [close(0.2567), close(0.1999), close(0.5434), 0.0]


@pytest.mark.parametrize(
    ("inside", "distance", "expected"),
    [(OMEGA, "kl", 0.0224), (ALL, "kl", 0.0152), (OMEGA, "corr", 0.0306), (ALL, "corr", 0.0348)],
)
def test_distance_of_the_example(inside: torch.Tensor, distance: str, expected: float) -> None:
    assert relation_distance(P, Q, inside, 4.0, distance).item() == close(expected)  # type: ignore[arg-type]


def test_a_shift_of_a_class_changes_nothing_and_equal_logits_give_zero() -> None:
    shifted = P + torch.tensor([5.0, -3.0]).view(1, 2, 1, 1)
    assert relation_distance(P, shifted, OMEGA, 4.0, "kl").item() == pytest.approx(0, abs=1e-6)
    assert relation_distance(P, P, ALL, 4.0, "kl").item() == 0


def test_images_with_fewer_than_two_pixels_count_as_zero_with_finite_gradient() -> None:
    student = Q.repeat(2, 1, 1, 1).requires_grad_()
    inside = torch.cat([OMEGA, torch.tensor([True, False, False, False]).view(1, 1, 4)])
    each = relation_distance(P.repeat(2, 1, 1, 1), student, inside, 4.0, "kl")
    assert each.tolist() == [close(0.0224), 0.0]
    each.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert (student.grad[1] == 0).all()


def test_the_gradient_reaches_only_the_student() -> None:
    teacher, student = P.clone().requires_grad_(), Q.clone().requires_grad_()
    relation_distance(teacher, student, OMEGA, 4.0, "kl").sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_ramp_of_the_example() -> None:
    got = [gaussian_ramp(i, 100) for i in (0, 25, 50, 75, 100, 150)]
    assert got == [close(0.0067), close(0.0601), close(0.2865), close(0.7316), 1.0, 1.0]


def term_of(*streams: str) -> float:
    """The term of one step of UniMatch; a draw from the same start, whatever the streams."""
    chosen = {"streams": list(streams)} if streams else {}
    method = build("unimatch", plugin("ipixmatch", tau=0.26, warmup=False, **chosen))
    torch.manual_seed(0)
    return method(make_batch(method.needs), progress()).terms["ipix"].item()


def test_streams_are_taken_one_by_one_or_the_strong_ones_averaged() -> None:
    one, two, perturbed = term_of("s1"), term_of("s2"), term_of("fp")
    assert len({one, two, perturbed}) == 3
    assert term_of() == term_of("s1", "s2") == pytest.approx((one + two) / 2)
    assert term_of("s1", "s2", "fp") == pytest.approx((one + two + perturbed) / 3)


def test_a_stream_the_host_does_not_have_is_refused() -> None:
    """Not passed over: the loss would be 0 for the whole run."""
    with pytest.raises(RecipeError, match="no stream 's3'; did you mean 's2' or 's1'") as error:
        term_of("s1", "s3")
    assert error.value.fix == "one of ['s1', 's2', 'fp']"


def test_the_term_rises_over_the_warm_up_epochs_and_then_stays() -> None:
    """Epochs of ten steps, a warm-up of two: 20 steps."""
    ramped, whole = [], []
    for settings, found in (({"warmup_epochs": 2}, ramped), ({"warmup": False}, whole)):
        for step in (0, 10, 20, 35):
            method = build("unimatch", plugin("ipixmatch", tau=0.26, **settings))
            torch.manual_seed(0)
            found.append(method(make_batch(method.needs), progress(step)).terms["ipix"].item())
    shares = [a / b for a, b in zip(ramped, whole, strict=True)]
    assert shares == [close(0.0067), close(0.2865), 1.0, 1.0]


def test_logits_follow_the_mixing() -> None:
    plugin = IPixMatch(IPixMatch.Config(), 2)
    t = Progress(0, 10, 5, 0, torch.device("cpu"))
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    first, second = (plugin.refine(Pseudo.of(x, valid, 0.95), t) for x in (P, Q))
    box = torch.tensor([False, True, True, False]).view(1, 1, 4)
    carried = first.pasted(second, box).carry["ipixmatch_logits"]
    assert torch.equal(carried, torch.where(box[:, None], Q, P))
