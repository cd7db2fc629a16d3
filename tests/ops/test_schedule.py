"""The learning-rate schedule against the formulas of the released codes."""

from __future__ import annotations

import pytest

from ssbench.ops.schedule import poly


def test_set_after_the_step_the_rate_lags_one_step() -> None:
    """The release (card: unimatch 1) sets base (1 - n/T)^0.9 after update n, so update n + 1 uses it."""
    steps, rate, used = 50, 1.0, []
    for n in range(steps):
        used.append(rate)
        rate = (1 - n / steps) ** 0.9
    assert [poly(n, steps) for n in range(steps)] == pytest.approx(used)
    assert poly(0, steps) == poly(1, steps) == 1.0
    assert poly(steps - 1, steps) > 0


def test_set_before_the_step_there_is_no_lag() -> None:
    assert [poly(n, 10, lag=0) for n in range(10)] == pytest.approx([(1 - n / 10) ** 0.9 for n in range(10)])


def test_power_one_is_a_straight_line() -> None:
    assert poly(25, 100, power=1.0, lag=0) == pytest.approx(0.75)
