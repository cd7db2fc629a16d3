"""A plug-in of strength zero is no plug-in, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pairs import PLUGINS, SMALL, ZEROS, pair
from runs import same_run

from ssbench import find


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_plugin_says_at_which_settings_it_is_none(plugin: str) -> None:
    assert find.load("plugin", plugin).zero


@pytest.mark.parametrize(("method", "plugin"), ZEROS)
def test_ten_steps(method: str, plugin: str, tmp_path: Path) -> None:
    zero = find.load("plugin", plugin).zero
    chosen, maps = pair(method, plugin, tmp_path, side=SMALL, **zero)
    same_run(method, chosen, 10, maps)
