"""`predict`: masks and overlays of a user's own pictures, by a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssbench import paths
from ssbench.commands.common import (
    Bands,
    Checkpoint,
    DataRoot,
    Depth16,
    Device,
    Json,
    NetworkRecipe,
    Overrides,
    print_json,
    read_bands,
    require_paths,
)


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Path, typer.Argument(help="A folder of pictures (folders in it too), or one picture.")],
    recipe: NetworkRecipe,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks/ and overlays/.")],
    overrides: Overrides = None,
    bands: Bands = None,
    depth16: Depth16 = None,
    device: Device = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Colour masks (palette PNGs of label values) and overlays for a folder of pictures."""
    from ssbench.data.decode import DecodeRules
    from ssbench.inspect.predict import predict_folder
    from ssbench.train.distributed import refuse_device

    refuse_device(device)
    require_paths(checkpoint, images)
    rules = DecodeRules(bands=read_bands(bands), depth16=depth16)
    root = paths.data_root(data_root)
    summary = predict_folder(checkpoint, recipe, images, out, root, device, overrides or [], rules)
    if json:
        print_json(summary)
    else:
        print(f"{summary['pictures']} pictures: {out / 'masks'}, {out / 'overlays'}")
