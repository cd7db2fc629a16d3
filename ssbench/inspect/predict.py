"""Predictions for a folder of pictures: label maps in the dataset's colours, and overlays to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from ssbench.console import Bars
from ssbench.data.decode import SUFFIXES, DecodeRules, PictureError, read_upright
from ssbench.errors import DataError, UsageError
from ssbench.files import read_model, sha256, write_json
from ssbench.inspect.networks import Outputs
from ssbench.inspect.opened import CheckpointUse, OpenedCheckpoint, open_checkpoint
from ssbench.inspect.pictures import coloured, paletted, write_png
from ssbench.recipe.recipe import Recipe
from ssbench.train.batched import Predict
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import label_image

ORIGIN = "predict.json"
PLAIN = DecodeRules()
"""Pictures of 8 bits and three bands; others are refused."""
COLOUR_SHARE = 0.55  # ours: of the labels' colours in an overlay, the rest is the picture


class _Origin(BaseModel):
    """`predict.json`: what the predictions in a folder were made with. checkpoint: SHA-256 of the file.

    bands, depth16: how pictures were read; a folder whose first pictures needed neither may get them later.
    """

    checkpoint: str
    recipe: str
    resolved: dict[str, Any]
    bands: tuple[int, ...] = ()
    depth16: str | None = None
    entry: str | None = None

    def allows(self, other: _Origin) -> bool:
        """Whether predictions of `other` may go into the same folder."""
        rules = {"bands": self.bands or other.bands, "depth16": self.depth16 or other.depth16}
        return self.model_copy(update=rules) == other


@dataclass(frozen=True)
class PredictionTask:
    """The pictures `names`, paths below `source`, the folder their predictions go to, and how pictures are read."""

    recipe: Recipe
    source: Path
    names: tuple[Path, ...]
    out: Path
    rules: DecodeRules = PLAIN

    def path(self, kind: str, name: Path) -> Path:
        """Where a prediction is written. kind: "masks" or "overlays"."""
        return self.out / kind / name.with_suffix(".png")


def predict_folder(
    checkpoint: Path,
    use: CheckpointUse,
    source: Path,
    out: Path,
    data_root: Path,
    device: str | None,
    rules: DecodeRules = PLAIN,
) -> dict[str, Any]:
    """Write `out/masks/<name>.png` (palette PNG of label values) and `out/overlays/<name>.png` for every picture.

    Pictures are turned as viewers show them. Those of several bands or 16 bits are read by `rules`, or as the import of
    the dataset read its own. Pictures that were predicted before, from the same checkpoint and recipe, are skipped: an
    interrupted job resumes. Nothing is written before checkpoint, recipe and classes are known to fit.

    Returns:
        The documented object of `ssbench predict --json`.

    Raises:
        DataError: pictures that cannot be read (raised after all others are done), or a damaged `predict.json`.
        UsageError: no pictures, or a folder that holds predictions of another checkpoint or recipe.
    """
    opened, team = open_checkpoint(checkpoint, use, data_root), join(device)
    recipe, outputs = opened.recipe, opened.outputs
    # What the command says of the pictures, else what the dataset's import was told, if it is here.
    own: DecodeRules = getattr(opened.dataset, "rules", PLAIN)
    names, rules = find_pictures(source, out), DecodeRules(3, rules.bands or own.bands, rules.depth16 or own.depth16)
    task = PredictionTask(recipe, source if source.is_dir() else source.parent, names, out, rules)
    origin = _origin(task, opened)
    is_claimed = _is_claimed(task, origin)
    predict = opened.predictor(team.device)
    todo = [name for name in task.names if not task.path("overlays", name).is_file()]  # overlays are written last
    unreadable: list[str] = []
    fixes: list[str] = []
    with Bars() as bars:
        for name in bars.watch(todo, "predict", len(todo)):
            try:
                maps = _predict_picture(task, name, outputs, predict, team)
                if not is_claimed:  # not before there is a prediction: a refused call leaves nothing
                    write_json(out / ORIGIN, origin.model_dump(exclude_defaults=True))
                    is_claimed = True
                for kind, image in maps.items():
                    write_png(task.path(kind, name), image)
            except DataError as error:
                unreadable.append(str(name))
                fixes.append(error.option if isinstance(error, PictureError) else "")
                bars.write_line(f"error: {error.what}")
    if unreadable:
        what = f"{len(unreadable)} of {len(task.names)} pictures cannot be read: {', '.join(unreadable[:5])}"
        options = " ".join(dict.fromkeys(filter(None, fixes)))
        mend = f"add {options} to the command" if options else "mend these and run the same command again"
        raise DataError(what, str(source), f"the others are done; {mend}")
    return {"checkpoint": str(checkpoint), "recipe": recipe.name, "out": str(out), "pictures": len(task.names),
            "classes": list(outputs.classes)}  # fmt: skip


def find_pictures(source: Path, out: Path | None = None) -> tuple[Path, ...]:
    """Paths below the folder `source` of all picture files in it, or the one file it is; none of what lies below `out`.

    Raises:
        UsageError: there are none, or two whose predictions would be the same file.
    """
    if source.is_file():
        return (Path(source.name),)
    results = out.resolve() if out and out.resolve() != source.resolve() else None
    files = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and results not in path.resolve().parents
    )
    names = tuple(path.relative_to(source) for path in files)
    if not names:
        raise UsageError(f"no pictures in '{source}'", str(source), f"a folder with {', '.join(SUFFIXES)} files")
    stems = [name.with_suffix("") for name in names]
    if twice := [stem for stem, later in zip(stems, stems[1:], strict=False) if stem == later]:
        raise UsageError(f"two pictures are called '{twice[0]}'", str(source), "rename one of them")
    return names


def _origin(task: PredictionTask, opened: OpenedCheckpoint) -> _Origin:
    """What the predictions of this call are made with."""
    return _Origin(
        checkpoint=sha256(opened.path),
        recipe=task.recipe.name,
        resolved=task.recipe.resolved(),
        bands=task.rules.bands,
        depth16=task.rules.depth16,
        entry=opened.entry,
    )


def _is_claimed(task: PredictionTask, origin: _Origin) -> bool:
    """Whether `predict.json` already says `origin`; refuses a folder that holds anything else."""
    path = task.out / ORIGIN
    if path.is_file():
        before = read_model(path, _Origin, "list of predictions", "choose another -o, or remove that folder")
        if not before.allows(origin):
            what = f"'{task.out}' holds predictions of another checkpoint or recipe ({before.recipe})"
            raise UsageError(what, str(path), "choose another -o, or remove that folder")
        return before == origin
    if task.out.is_dir() and any(task.out.iterdir()):
        raise UsageError(f"'{task.out}' is not empty and holds no predictions", "-o", "choose another folder")
    return False


def _predict_picture(
    task: PredictionTask, name: Path, outputs: Outputs, predict: Predict, team: Team
) -> dict[str, Image.Image]:
    """The two images to write of one picture, by their folder. The overlay comes last."""
    image = read_upright(task.source / name, task.rules)
    image = image.convert("L") if outputs.channels == 1 else image
    labels = label_image(predict, image, task.recipe.eval, task.recipe.views, team)
    overlay = Image.blend(image.convert("RGB"), coloured(labels, outputs.palette), COLOUR_SHARE)
    return {"masks": paletted(labels, outputs.palette), "overlays": overlay}
