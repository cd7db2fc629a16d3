"""The options of `eval` that are its own, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Split = Annotated[str | None, typer.Option("--split", help="The split it was trained on, for the record.")]
Protocol = Annotated[str | None, typer.Option("--protocol", help="A named protocol, not the recipe's.")]
Subset = Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")]
Patches = Annotated[bool, typer.Option("--patches", help="Also count by patches: MPMC's Table 4.")]
Over = Annotated[Literal["union", "all_classes"], typer.Option("--over", help="Classes that patches' agreement is of.")]
Boxes = Annotated[
    bool, typer.Option("--boxes", help="Also the boxes of its detector (WPL) by class, on unlabelled images.")
]
Pixels = Annotated[
    bool, typer.Option("--pixels", help="Also its pseudo-labels by class, apart by the boxes of --baseline.")
]
Store = Annotated[
    bool, typer.Option("--store", help="Keep what is counted beside the run's record, where tables find it.")
]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="Checkpoint that patches gain over, or whose detector has boxes.")
]
BaselineRecipe = Annotated[
    str | None, typer.Option("--baseline-recipe", help="Its recipe (default: RECIPE without its plug-in).")
]
