"""`predict`, `export`: what a trained checkpoint is used for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench.commands.common import DataRoot, Device, Json, Overrides, print_json
from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.inspect.export import Form

Checkpoint = Annotated[Path, typer.Argument(help="Our best.pt / checkpoint.pt, or the authors' released file.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="The recipe that says what the network is.")]


class Kind(StrEnum):
    """What `export` writes."""

    onnx = "onnx"
    torchscript = "torchscript"
    pt2 = "pt2"


FORMS: dict[Kind, Form] = {Kind.onnx: "onnx", Kind.torchscript: "torchscript", Kind.pt2: "pt2"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(predict)
    app.command()(export)


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Path, typer.Argument(help="A folder of pictures (folders in it too), or one picture.")],
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks/ and overlays/.")],
    overrides: Overrides = None,
    device: Device = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Colour masks (palette PNGs of label values) and overlays for a folder of pictures."""
    from ssbench.inspect.predict import predict_folder
    from ssbench.paths import data_root as data_of

    _there(checkpoint, images)
    found = predict_folder(checkpoint, recipe, images, out, data_of(data_root), device, overrides or [])
    if json:
        print_json(found)
    else:
        print(f"{found['pictures']} pictures: {out / 'masks'}, {out / 'overlays'}")


def export(
    checkpoint: Checkpoint,
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; FILE.json beside it says how to use it.")],
    form: Annotated[Kind, typer.Option("--form", help="onnx, torchscript, or pt2 (torch.export).")] = Kind.onnx,
    size: Annotated[str | None, typer.Option("--size", help="Input HEIGHTxWIDTH (default: the recipe's crop).")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """The network of a checkpoint for other programs, compared with the original before it is written."""
    from ssbench.inspect.export import export as exported
    from ssbench.paths import data_root as data_of

    _there(checkpoint)
    found = exported(checkpoint, recipe, FORMS[form], out, _size(size), data_of(data_root))
    if json:
        print_json(found)
        return
    parity = found["parity"]
    print(f"{found['file']}: {found['bytes'] / 2**20:.1f} MiB, input {found['input']}, output {found['output']}")
    gap, same = parity["difference"], parity["labels_equal"]
    print(f"  largest difference {gap:.1e} of the largest logit, labels equal {same:.2%}")


def _there(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(f"no file or folder '{path}'", str(path.absolute()), "check the path")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UsageError(f"--size '{text}' is not HEIGHTxWIDTH", "--size", "--size 512x1024")
    return int(height), int(width)
