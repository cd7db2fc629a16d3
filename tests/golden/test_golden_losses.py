"""The losses of ten steps of every method, on a fixed net and fixed batches, as they were when last looked at.

A change of one of them is a change of the method: either a bug, or worth a line in the changelog. Then, and for a new
method:  pytest tests/golden --update-golden
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from builders import build, train
from pydantic import ValidationError

from ssbench import find

GOLDEN = Path(__file__).with_name("losses.json")
CONFIDENT = 0.3
"""Threshold of methods that have one: about what an untrained net reaches, so that selection takes part."""


SHARES = {"kept", "known", "right", "counted"}


def losses(method: str) -> dict[str, list[float | None]]:
    """Each term over ten steps of epochs of three (a warm-up of one epoch is over), null where it is absent.

    In float64: rounding differs from processor to processor, and in float32 ten steps make it visible.
    """
    cls = find.load("method", method)
    config, settings = (
        cls.Config,
        {**({"threshold": CONFIDENT} if "threshold" in cls.Config.model_fields else {}), **cls.trial},
    )
    try:
        config(**settings)
    except ValidationError:  # a threshold that nothing reads under the method's defaults is refused
        settings = {}
    torch.set_default_dtype(torch.float64)
    try:
        steps = train(build(method, **settings), 10, lr=0.005)
    finally:
        torch.set_default_dtype(torch.float32)
    names = sorted({name for step in steps for name in step})
    return {name: [float(f"{step[name]:.7g}") if name in step else None for step in steps] for name in names}


def on_few_lines(by_method: dict[str, dict[str, list[float | None]]]) -> str:
    """JSON with one line a term."""
    blocks = []
    for method, terms in by_method.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in terms.items()]
        blocks.append(f" {json.dumps(method)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


@pytest.fixture(scope="module")
def stored(request: pytest.FixtureRequest) -> dict[str, dict[str, list[float | None]]]:
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.write_text(on_few_lines({method: losses(method) for method in find.names("method")}))
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("method", find.names("method"))
def test_ten_steps(method: str, stored: dict[str, dict[str, list[float | None]]]) -> None:
    assert method in stored, "a new method: pytest tests/golden --update-golden"
    terms = losses(method)
    assert sorted(terms) == sorted(stored[method])
    for name, values in terms.items():
        for step, (value, expected) in enumerate(zip(values, stored[method][name], strict=True)):
            if expected is None or value is None:
                assert value is expected, (name, step)
            else:
                pixel = 1e-3 if name in SHARES else 1e-7  # a share of pixels moves by whole ones
                assert value == pytest.approx(expected, rel=1e-4, abs=pixel), (name, step)


def test_no_method_is_golden_that_does_not_exist(stored: dict[str, dict[str, list[float | None]]]) -> None:
    assert set(stored) <= set(find.names("method"))
