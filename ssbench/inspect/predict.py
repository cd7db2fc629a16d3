"""Predictions for a folder of pictures: label maps in the dataset's colours, and overlays to look at."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssbench.console import Bars
from ssbench.data.dataset import Dataset, read_any
from ssbench.errors import DataError, UsageError
from ssbench.files import sha256, write_bytes, write_json
from ssbench.inspect.pictures import coloured, colours
from ssbench.inspect.scoring import predictor
from ssbench.recipe.recipe import Recipe, load
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import Predict, label_image

KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SHARE = 0.55  # ours: of colour in an overlay


@dataclass(frozen=True)
class Job:
    """What is predicted: pictures by their path below `source`, with what, into which folder."""

    checkpoint: Path
    recipe: Recipe
    source: Path
    names: tuple[Path, ...]
    out: Path

    def facts(self) -> dict[str, Any]:
        """What must be the same for an interrupted job to go on in its folder."""
        return {"checkpoint": sha256(self.checkpoint), "recipe": self.recipe.name, "resolved": self.recipe.resolved()}


def predict_folder(
    checkpoint: Path,
    recipe_name: str,
    source: Path,
    out: Path,
    data_root: Path,
    device: str | None,
    overrides: list[str],
) -> dict[str, Any]:
    """Write `out/masks/<name>.png` (palette PNG of label values) and `out/overlays/<name>.png` for every picture.

    Those that are there already from the same checkpoint and recipe are left; so an interrupted job goes on.

    Returns:
        The documented object of `ssbench predict --json`.

    Raises:
        DataError: pictures that cannot be read, after all others are done. UsageError: nothing to predict, or a folder
        that holds predictions of another checkpoint.
    """
    recipe = load(recipe_name, ("net.weights=random", *overrides), data_root=data_root)
    job = Job(checkpoint, recipe, source if source.is_dir() else source.parent, pictures(source), out)
    _begin(job)
    dataset, team = dataset_of(recipe.data.dataset, data_root, recipe.data.form), join(device)
    predict = predictor(recipe, checkpoint, len(dataset.classes), dataset.channels, team.device)
    wrong: list[str] = []
    with Bars() as bars:
        for name in bars.watch(_missing(job), "predict", len(job.names)):
            try:
                _one(job, name, dataset, predict, team)
            except DataError as error:
                wrong.append(str(name))
                bars.write_line(f"error: {error.what}")
    if wrong:
        what = f"{len(wrong)} of {len(job.names)} pictures cannot be read: {', '.join(wrong[:5])}"
        raise DataError(what, str(source), "the others are done; mend these and run the same command again")
    return {"checkpoint": str(checkpoint), "recipe": recipe.name, "out": str(out), "pictures": len(job.names),
            "classes": list(dataset.classes)}  # fmt: skip


def pictures(source: Path) -> tuple[Path, ...]:
    """Paths below the folder `source` of all picture files in it, or the one file it is.

    Raises:
        UsageError: there are none, or two that would write the same file.
    """
    if source.is_file():
        return (Path(source.name),)
    found = [p.relative_to(source) for p in sorted(source.rglob("*")) if p.suffix.lower() in KINDS and p.is_file()]
    if not found:
        raise UsageError(f"no pictures in '{source}'", str(source), f"a folder with {', '.join(KINDS)} files")
    stems = [p.with_suffix("") for p in found]
    if twice := [p for p, later in zip(stems, stems[1:], strict=False) if p == later]:
        raise UsageError(f"two pictures are called '{twice[0]}'", str(source), "rename one of them")
    return tuple(found)


def _begin(job: Job) -> None:
    """Claim the folder for this checkpoint and recipe."""
    about = job.out / "predict.json"
    facts = job.facts()
    if about.is_file():
        held = json.loads(about.read_text(encoding="utf-8"))
        if held != facts:
            what = f"'{job.out}' holds predictions of another checkpoint or recipe ({held.get('recipe')})"
            raise UsageError(what, str(about), "choose another -o, or remove that folder")
        return
    if job.out.is_dir() and any(job.out.iterdir()):
        raise UsageError(f"'{job.out}' is not empty and holds no predictions", "-o", "choose another folder")
    write_json(about, facts)


def _missing(job: Job) -> Iterator[Path]:
    for name in job.names:
        if not _file(job, "overlays", name).is_file():  # written last
            yield name


def _file(job: Job, kind: str, name: Path) -> Path:
    return job.out / kind / name.with_suffix(".png")


def _one(job: Job, name: Path, dataset: Dataset, predict: Predict, team: Team) -> None:
    image = read_any(job.source / name).convert("L" if dataset.channels == 1 else "RGB")
    labels = label_image(predict, image, job.recipe.eval, job.recipe.views, team)
    write_bytes(_file(job, "masks", name), _png(paletted(labels, dataset)))
    blended = Image.blend(image.convert("RGB"), coloured(labels, dataset.palette).convert("RGB"), SHARE)
    write_bytes(_file(job, "overlays", name), _png(blended))


def paletted(labels: np.ndarray, dataset: Dataset) -> Image.Image:
    """H W uint8 label values as a palette picture in the dataset's colours; 255 is light grey."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette(colours(dataset.palette).tobytes())
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
