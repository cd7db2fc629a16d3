"""Names of parameters in files of others, turned into ours by lists of patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable


def rename(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    """`name` after the first (pattern, replacement) that occurs in it; as it is where none does."""
    for pattern, ours in patterns:
        name, changed = re.subn(pattern, ours, name)
        if changed:
            break
    return name
