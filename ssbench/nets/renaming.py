"""Names of parameters in files of others, turned into ours by lists of patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable

RELEASED_PARTS = frozenset({"encoder", "decoder", "auxor", "branch1", "branch2"})
"""First parts of names that `RENAMES` reads."""
RENAMES = {
    "u2pl": (  # U2PL, AEL, AugSeg
        (r"^encoder\.", "backbone."),
        (r"^auxor\.aux\.", "aux."),
        (r"^decoder\.low_conv\.", "reduce."),
        (r"^decoder\.aspp\.conv1\.", "head.b4.gap."),
        (r"^decoder\.aspp\.conv2\.", "head.b0."),
        (r"^decoder\.aspp\.conv3\.", "head.b1."),
        (r"^decoder\.aspp\.conv4\.", "head.b2."),
        (r"^decoder\.aspp\.conv5\.", "head.b3."),
        (r"^decoder\.head\.", "head.project."),
        (r"^decoder\.representation\.", "rep."),
        (r"^decoder\.(final|classifier\.[68])\.", "classifier."),
        (r"^decoder\.(tail|classifier)\.", "fuse."),
    ),
    "cps": (  # branch 1 is the one CPS evaluates
        (r"^branch1\.head\.aspp\.", "head."),
        (r"^branch1\.head\.last_conv\.", "fuse."),
        (r"^branch1\.head\.reduce\.", "reduce."),
        (r"^branch1\.", ""),
    ),
    "unimatch": (),  # UniMatch, ST++: our own names
    "unimatch_v2": (),  # likewise
    "mask2former": (),  # `mask2former_names` renames them
    "semivl": (),  # `semivl_names` renames them
}


def rename(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    """`name` after the first (pattern, replacement) that occurs in it; as it is where none does."""
    for pattern, ours in patterns:
        name, changed = re.subn(pattern, ours, name)
        if changed:
            break
    return name
