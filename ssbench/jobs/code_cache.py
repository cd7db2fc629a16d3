"""What took a while to count, kept in the user's cache folder as long as the code it was counted of is the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssbench.files import write_json
from ssbench.paths import PACKAGE

FOLDERS = ("methods", "plugins", "nets", "ops", "train", "jobs")


class Remembered:
    """Plain data by key, in one JSON file; a file that cannot be read or written is done without."""

    def __init__(self, name: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.path = Path(home) / "ssbench" / f"{name}.json"
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self.path.read_text(encoding="utf-8"))
            self._known = said["values"] if said.get("code") == _code() else {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept for `key`, else what `make` says now."""
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        if name not in self._known:
            self._known[name] = make()
            with contextlib.suppress(OSError):
                write_json(self.path, {"code": _code(), "values": self._known})
        return self._known[name]


@cache
def _code() -> str:
    """Digest of the sources, and of the libraries, that decide what is counted."""
    found = hashlib.sha256("".join(map(version, ("torch", "timm"))).encode())
    for path in sorted(p for folder in FOLDERS for p in (PACKAGE / folder).glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
