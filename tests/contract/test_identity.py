"""A plug-in whose hooks pass everything on is no plug-in, bit for bit."""

from __future__ import annotations

import pytest
from builders import CLASSES
from pairs import HONOURS, METHODS, Watch, made
from runs import same_run

from ssbench.plugins.base import Plugin, Stack


@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_pass_everything_on(method: str) -> None:
    watch = Watch()
    watch.needs &= HONOURS[method]
    same_run(method, made(method, watch), 4)


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_of_nothing(method: str) -> None:
    same_run(method, made(method, Stack([Plugin(Plugin.Config(), CLASSES)])), 4)
