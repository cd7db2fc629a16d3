"""`list plugins --matrix`: which plug-in lives on which method. The hooks are asked for, so this one loads torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssbench.commands.common import print_grid, print_json, print_rows

if TYPE_CHECKING:
    from ssbench.tables.matrix import Matrix, State

STYLES: dict[State, str] = {"published": "bold green", "works": "green", "impossible": "dim"}


def show_matrix(also: Sequence[str], json: bool) -> None:
    """Print the pairs: a grid with footnotes at a terminal, one line a pair elsewhere, one object with `json`."""
    from ssbench.tables.matrix import matrix

    found = matrix(also)
    rest = [{"method": m, "plugin": p, "tables": list(at)} for (m, p), at in found.elsewhere.items()]
    if json:
        print_json({"matrix": [pair.as_json() for pair in found.pairs.values()], "elsewhere": rest})
        return
    if sys.stdout.isatty():
        _print_grid(found)
    else:
        rows = [(p.method, p.plugin, p.state, " ".join(p.tables), p.note) for p in found.pairs.values()]
        print_rows("matrix", ("method", "plugin", "state", "tables", "note"), rows)
    if rest:
        said = ", ".join(f"{one['plugin']} on {one['method']}" for one in rest)
        print(f"published, but not here yet: {said}", file=sys.stderr)


def _print_grid(found: Matrix) -> None:
    """Methods down, plug-ins across; a letter in a cell is a note below."""
    letters: dict[str, str] = {}
    rows = []
    for method in found.methods:
        cells = [(method, "")]
        for plugin in found.plugins:
            pair = found.pairs[method, plugin]
            letter = letters.setdefault(pair.note, chr(ord("a") + len(letters))) if pair.note else ""
            cells.append((f"{pair.state} {letter}".rstrip(), STYLES[pair.state]))
        rows.append(cells)
    notes = [f"{letter}  {note}" for note, letter in letters.items()]
    names = [Path(name).name if name.endswith(".py") else name for name in found.plugins]
    print_grid("method x plug-in", ("", *names), rows, notes)
