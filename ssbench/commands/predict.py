"""`predict`: masks and overlays of a user's own pictures, by a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssbench import paths
from ssbench.commands import common


def predict(
    checkpoint: common.Checkpoint,
    images: Annotated[Path, typer.Argument(help="A folder of pictures (folders in it too), or one picture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks/ and overlays/.")],
    recipe: common.NetworkRecipe = None,
    overrides: common.Overrides = None,
    bands: common.Bands = None,
    depth16: common.Depth16 = None,
    entry: common.Entry = None,
    classes_as_saved: common.ClassesAsSaved = False,
    device: common.Device = None,
    data_root: common.DataRoot = None,
    json: common.Json = False,
) -> None:
    """Colour masks (palette PNGs of label values) and overlays for a folder of pictures."""
    from ssbench.data.decode import DecodeRules
    from ssbench.inspect.opened import CheckpointUse
    from ssbench.inspect.predict import predict_folder
    from ssbench.train.distributed import refuse_device

    refuse_device(device)
    common.require_paths(checkpoint, images)
    rules = DecodeRules(bands=common.read_bands(bands), depth16=depth16)
    use = CheckpointUse(recipe, tuple(overrides or ()), entry, classes_as_saved)
    summary = predict_folder(checkpoint, use, images, out, paths.data_root(data_root), device, rules)
    if json:
        common.print_json(summary)
    else:
        print(f"{summary['pictures']} pictures: {out / 'masks'}, {out / 'overlays'}")
