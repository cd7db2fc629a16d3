"""Predictions for a folder of pictures: label maps in the dataset's colours, and overlays to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from ssbench.console import Bars
from ssbench.data.dataset import Dataset, read_any
from ssbench.errors import DataError, UsageError
from ssbench.files import read_model, sha256, write_json
from ssbench.inspect.networks import BARE, load_predictor
from ssbench.inspect.pictures import coloured, paletted, write_png
from ssbench.recipe.recipe import Recipe, load
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import Predict, label_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
COLOUR_SHARE = 0.55  # ours: of the labels' colours in an overlay, the rest is the picture


class _Origin(BaseModel):
    """`predict.json`: what the predictions in a folder were made with. checkpoint: SHA-256 of the file."""

    checkpoint: str
    recipe: str
    resolved: dict[str, Any]


@dataclass(frozen=True)
class PredictionTask:
    """The pictures `names`, paths below `source`, and the folder their predictions go to."""

    recipe: Recipe
    source: Path
    names: tuple[Path, ...]
    out: Path

    def path(self, kind: str, name: Path) -> Path:
        """Where a prediction is written. kind: "masks" or "overlays"."""
        return self.out / kind / name.with_suffix(".png")


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

    Pictures that were predicted before, from the same checkpoint and recipe, are skipped: an interrupted job resumes.

    Returns:
        The documented object of `ssbench predict --json`.

    Raises:
        DataError: pictures that cannot be read (raised after all others are done), or a damaged `predict.json`.
        UsageError: no pictures, or a folder that holds predictions of another checkpoint or recipe.
    """
    recipe = load(recipe_name, (*BARE, *overrides), data_root=data_root)
    task = PredictionTask(recipe, source if source.is_dir() else source.parent, find_pictures(source), out)
    _claim_folder(task, checkpoint)
    dataset, team = dataset_of(recipe, data_root), join(device)
    predict = load_predictor(recipe, checkpoint, dataset, team.device)
    todo = [name for name in task.names if not task.path("overlays", name).is_file()]  # overlays are written last
    unreadable: list[str] = []
    with Bars() as bars:
        for name in bars.watch(todo, "predict", len(todo)):
            try:
                _predict_picture(task, name, dataset, predict, team)
            except DataError as error:
                unreadable.append(str(name))
                bars.write_line(f"error: {error.what}")
    if unreadable:
        what = f"{len(unreadable)} of {len(task.names)} pictures cannot be read: {', '.join(unreadable[:5])}"
        raise DataError(what, str(source), "the others are done; mend these and run the same command again")
    return {"checkpoint": str(checkpoint), "recipe": recipe.name, "out": str(out), "pictures": len(task.names),
            "classes": list(dataset.classes)}  # fmt: skip


def find_pictures(source: Path) -> tuple[Path, ...]:
    """Paths below the folder `source` of all picture files in it, or the one file it is.

    Raises:
        UsageError: there are none, or two whose predictions would be the same file.
    """
    if source.is_file():
        return (Path(source.name),)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = tuple(path.relative_to(source) for path in files)
    if not names:
        raise UsageError(f"no pictures in '{source}'", str(source), f"a folder with {', '.join(SUFFIXES)} files")
    stems = [name.with_suffix("") for name in names]
    if twice := [stem for stem, later in zip(stems, stems[1:], strict=False) if stem == later]:
        raise UsageError(f"two pictures are called '{twice[0]}'", str(source), "rename one of them")
    return names


def _claim_folder(task: PredictionTask, checkpoint: Path) -> None:
    """State in `predict.json` what the folder's predictions are made with; refuse a folder that holds others."""
    path = task.out / "predict.json"
    origin = _Origin(checkpoint=sha256(checkpoint), recipe=task.recipe.name, resolved=task.recipe.resolved())
    if path.is_file():
        before = read_model(path, _Origin, "list of predictions", "choose another -o, or remove that folder")
        if before != origin:
            what = f"'{task.out}' holds predictions of another checkpoint or recipe ({before.recipe})"
            raise UsageError(what, str(path), "choose another -o, or remove that folder")
        return
    if task.out.is_dir() and any(task.out.iterdir()):
        raise UsageError(f"'{task.out}' is not empty and holds no predictions", "-o", "choose another folder")
    write_json(path, origin.model_dump())


def _predict_picture(task: PredictionTask, name: Path, dataset: Dataset, predict: Predict, team: Team) -> None:
    image = read_any(task.source / name).convert("L" if dataset.channels == 1 else "RGB")
    labels = label_image(predict, image, task.recipe.eval, task.recipe.views, team)
    write_png(task.path("masks", name), paletted(labels, dataset.palette))
    overlay = Image.blend(image.convert("RGB"), coloured(labels, dataset.palette), COLOUR_SHARE)
    write_png(task.path("overlays", name), overlay)
