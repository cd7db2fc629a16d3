"""`schedule: {compile: auto}`: a measurement of this machine decides, once; compiled passes compute the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from builders import tiny_net

from ssbench.nets.precision import PassFormat
from ssbench.recipe.sections import ScheduleConfig
from ssbench.train import compiling
from ssbench.train.compiling import PassTimes, measure, remembered_times, side_to_compile
from ssbench.train.precision import choose_computation, set_formats

CPU, SHAPE = torch.device("cpu"), (2, 3, 65)
TRACED = "aot_eager"
"""Traces forward and backward as torch.compile does, and runs them without inductor, whose first use takes minutes."""


def schedule(**fields: object) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"epochs": 1, "labeled_batch": 2, **fields})


def test_who_asks_for_it_gets_it_and_a_processor_is_not_measured() -> None:
    net = tiny_net()
    sides = [
        side_to_compile(net, SHAPE, schedule(**fields), CPU)
        for fields in (
            {},
            {"precision": "fast"},
            {"precision": "fast", "compile": "off"},
            {"precision": "fast", "compile": "on"},
        )
    ]
    assert sides == [0, 0, 0, 65]
    assert choose_computation(schedule(precision="fast"), CPU, 65).facts()["compile"] is True


@pytest.mark.parametrize(
    ("plain", "compiled", "expected"), [(1.0, 0.5, True), (1.0, 0.95, True), (1.0, 0.99, False), (1.0, None, False)]
)
def test_the_rule(plain: float, compiled: float | None, expected: bool) -> None:
    assert PassTimes(plain=plain, compiled=compiled).gains is expected


def test_a_measurement_leaves_the_network_alone_and_a_failure_is_no_gain() -> None:
    net, x = tiny_net(), torch.randn(2, 3, 65, 65)
    before = copy.deepcopy(net.state_dict())
    assert measure(net, x, PassFormat(), "no such backend").compiled is None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_what_was_measured_is_remembered_by_network_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []

    def counted(net: object, x: torch.Tensor, passes: PassFormat) -> PassTimes:
        measured.append(len(x))
        return PassTimes(plain=1.0, compiled=0.5)

    monkeypatch.setattr(compiling, "measure", counted)
    fast = schedule(precision="fast")
    assert remembered_times(tiny_net(), SHAPE, fast, CPU).gains
    assert remembered_times(tiny_net(), SHAPE, fast, CPU).gains
    remembered_times(tiny_net(), (4, 3, 65), fast, CPU)
    remembered_times(tiny_net(classes=7), SHAPE, fast, CPU)
    assert measured == [2, 4, 2]
    (tmp_path / "ssbench" / "compile.json").write_text("damaged")
    remembered_times(tiny_net(), SHAPE, fast, CPU)
    assert measured == [2, 4, 2, 2]


def test_compiled_passes_compute_the_same_and_other_sizes_are_not_compiled() -> None:
    plain, x = tiny_net(), torch.randn(2, 3, 65, 65)
    compiled, form = copy.deepcopy(plain), PassFormat(torch.bfloat16, channels_last=True)
    set_formats(plain, form)
    set_formats(compiled, form.compiled(65, TRACED))
    drop = [torch.ones(2, channels) for channels in plain.perturb_channels]
    for a, b in ((plain(x, drop), compiled(x, drop)), (plain.eval()(x[:1]), compiled.eval()(x[:1]))):
        torch.testing.assert_close(b.logits, a.logits, rtol=1e-2, atol=1e-2)
        assert b.logits.dtype == torch.float32
    whole = torch.randn(1, 3, 70, 80)
    assert torch.equal(compiled(whole).logits, plain(whole).logits)
    assert torch.equal(copy.deepcopy(compiled)(whole).logits, plain(whole).logits)
