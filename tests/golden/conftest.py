"""`pytest tests/golden --update-golden` writes the golden losses anew; look at what changed before committing it."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/losses.json anew")
    help = "write the fingerprints of new parts, and of those whose behaviour version was raised"
    parser.addoption("--update-fingerprints", action="store_true", help=help)
