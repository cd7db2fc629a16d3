"""`export`: the network of a checkpoint as a file for other programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.errors import UsageError


def export(
    checkpoint: common.Checkpoint,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; FILE.json beside it says how to use it.")],
    form: Annotated[
        Literal["onnx", "torchscript", "pt2"],
        typer.Option("--form", help="onnx, torchscript, or pt2 (torch.export)."),
    ] = "onnx",
    size: Annotated[str | None, typer.Option("--size", help="Input HEIGHTxWIDTH (default: the recipe's crop).")] = None,
    recipe: common.NetworkRecipe = None,
    overrides: common.Overrides = None,
    entry: common.Entry = None,
    classes_as_saved: common.ClassesAsSaved = False,
    data_root: common.DataRoot = None,
    json: common.Json = False,
) -> None:
    """The network of a checkpoint for other programs, compared with the original before it is written."""
    from ssbench.inspect.export import export as export_network
    from ssbench.inspect.opened import CheckpointUse

    common.require_paths(checkpoint)
    use = CheckpointUse(recipe, tuple(overrides or ()), entry, classes_as_saved)
    summary = export_network(checkpoint, use, form, out, _height_width(size), paths.data_root(data_root))
    if json:
        common.print_json(summary)
        return
    parity = summary["parity"]
    megabytes = summary["bytes"] / 2**20
    print(f"{summary['file']}: {megabytes:.1f} MiB, input {summary['input']}, output {summary['output']}")
    gap, same = parity["difference"], parity["labels_equal"]
    print(f"  largest difference {gap:.1e} of the largest logit, labels equal {same:.2%}")


def _height_width(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.lower())
    if sides is None:
        raise UsageError(f"--size '{text}' is not HEIGHTxWIDTH", "--size", "--size 512x1024")
    return int(sides[1]), int(sides[2])
