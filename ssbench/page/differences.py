"""Pictures for the report: the images on which a baseline and the same baseline with a plug-in differ most.

Nothing here trains. Both runs' best checkpoints label the images on which their recipe reports its score, and the
images whose labels differ on the largest share of pixels of known truth are kept; of equal ones the first by id.
"""

from __future__ import annotations

import heapq
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ssbench.console import Bars
from ssbench.data.dataset import IGNORE, Dataset
from ssbench.errors import DataError, RecipeError, SsbenchError
from ssbench.inspect.networks import load_predictor
from ssbench.inspect.pictures import coloured
from ssbench.jobs.job import Places, run_folder
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.page.facts import run_command
from ssbench.page.gallery import Gallery, Picture, Tile, hexes, label_tile, photo_tile
from ssbench.page.runs import Group, Line, Run, given
from ssbench.recipe.recipe import Recipe, load
from ssbench.train import checkpoint as files
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import Predict, label_image

BETTER, WORSE, BOTH = (0, 128, 92), (196, 78, 0), (90, 98, 107)
"""Where the plug-in alone is right (solid), the baseline alone (stripes), neither but differently (dots)."""


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    recipe: Recipe
    predict: Predict


@dataclass(frozen=True)
class Found:
    """An image and what the two say of it: H W labels. share: of pixels of known truth on which they differ."""

    share: float
    id: str
    truth: np.ndarray
    base: np.ndarray
    plug: np.ndarray


def galleries(
    groups: Sequence[Group], places: Places, count: int, look: int, device: str | None
) -> tuple[Gallery, ...]:
    """One gallery a pair of baseline and plug-in, of `count` images found among `look` ones spread over the subset.

    Where a checkpoint or the data are missing or are another run's, the gallery says so and how to come by them.
    """
    team = join(device)
    with Bars() as bars:
        return tuple(_gallery(base, plug, places, count, look, team, bars) for g in groups for base, plug in g.pairs())


def _gallery(base: Line, plug: Line, places: Places, count: int, look: int, team: Team, bars: Bars) -> Gallery:
    title = f"{base.label} and {plug.label}"
    seeds = sorted({r.record.seed for r in base.runs} & {r.record.seed for r in plug.runs})
    if not seeds:
        return Gallery(title, base.split, 0, missing="The two have no seed in common.")
    found, missing, commands = list[Side](), defaultdict[str, list[str]](list), list[str]()
    for line in (base, plug):
        run = next(r for r in line.runs if r.record.seed == seeds[0])
        try:
            found.append(_side(line, run, places, team))
        except SsbenchError as error:
            missing[error.what].append(line.label)
            commands.append(error.fix)
    if missing:
        why = "; ".join(what if len(whose) == 2 else f"{whose[0]}: {what}" for what, whose in missing.items())
        return Gallery(title, base.split, seeds[0], missing=why, commands=_once(commands))
    dataset = dataset_of(found[0].recipe.data.dataset, places.data, found[0].recipe.data.form)
    ids = dataset.ids(found[0].recipe.eval.report)
    wanted = _spread(ids, look)
    top = heapq.nsmallest(count, _compared(found, dataset, wanted, team, bars), key=lambda f: (-f.share, f.id))
    pictures = tuple(_picture(f, dataset) for f in top if f.share > 0)
    classes = tuple(zip(dataset.classes, hexes(dataset.palette), strict=False))
    alike = "" if pictures else "The two label every pixel alike."
    return Gallery(title, base.split, seeds[0], pictures, classes, (len(wanted), len(ids)), alike)


def _side(line: Line, run: Run, places: Places, team: Team) -> Side:
    """The run's networks. DataError says what is missing, or that it is another run's, with the command that helps."""
    name, overrides, record = line.recipe.partition("+")[0], given(run.whole.get("departures") or ()), run.record
    try:
        recipe = load(name, overrides, division=run.whole["division"], data_root=places.data)
    except RecipeError as error:
        raise DataError(f"its recipe cannot be read here ({error.what})", error.where, error.fix) from None
    dataset = dataset_of(recipe.data.dataset, places.data, recipe.data.form)
    dataset.ids(recipe.eval.report)
    now = run_command(record.recipe, record.split, record.seed, run.whole, *_roots(places))
    if recipe.key(str(run.whole.get("split_sha256")), record.seed) != record.key:
        raise DataError("its recipe has changed since this run", str(record.path), now)
    again = f"{now} --results {shlex.quote(str(places.runs / 'again'))}"  # beside the record that stands
    path = run_folder(recipe, record.split, record.seed, places) / "best.pt"
    if not path.is_file():
        raise DataError(f"no checkpoint below '{places.runs}'", str(path), again)
    if files.load(path).get("key") != record.key:
        raise DataError(f"the checkpoint below '{places.runs}' is of another run", str(path), again)
    bare = load(name, (*overrides, "net.weights=random"), data_root=places.data)  # its weights are in the checkpoint
    return Side(recipe, load_predictor(bare, path, dataset, team.device))


def _roots(places: Places) -> list[str]:
    """The options that lead a run to the folders this report looks in, where they are not the usual ones."""
    roots = {"--data-root": (places.data, "data"), "--runs": (places.runs, "runs")}
    return [word for name, (path, usual) in roots.items() if str(path) != usual for word in (name, str(path))]


def _once(commands: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(command for command in commands if command))


def _spread(ids: Sequence[str], look: int) -> list[str]:
    """At most `look` ids, evenly over the list."""
    many = min(look, len(ids))
    return [ids[(2 * k + 1) * len(ids) // (2 * many)] for k in range(many)]


def _compared(sides: Sequence[Side], dataset: Dataset, ids: Sequence[str], team: Team, bars: Bars) -> Iterator[Found]:
    for id in bars.watch(ids, "pictures", len(ids)):
        image, truth = dataset.image(id), np.array(dataset.mask(id))
        base, plug = (label_image(s.predict, image, s.recipe.eval, s.recipe.views, team) for s in sides)
        known = truth != IGNORE
        yield Found(float((base != plug)[known].mean()) if known.any() else 0.0, id, truth, base, plug)


def _picture(f: Found, dataset: Dataset) -> Picture:
    known = f.truth != IGNORE
    differ = (f.base != f.plug) & known
    better, worse = differ & (f.plug == f.truth), differ & (f.base == f.truth)
    shares = [100 * float(m[known].mean()) for m in (differ, better, worse, differ & ~better & ~worse)]
    some, ours, theirs, neither = (f"{share:.1f} %" for share in shares)
    note = f"they differ on {some} of pixels; the plug-in alone is right on {ours}, the baseline alone on {theirs}, "
    note += f"neither on {neither}"
    image = dataset.image(f.id)
    tiles = (
        photo_tile("image", image, f"Image {f.id}"),
        label_tile("truth", coloured(f.truth, dataset.palette), f"True labels: {_contents(f.truth, dataset)}"),
        _prediction("baseline", f.base, f.truth, dataset),
        _prediction("baseline + plug-in", f.plug, f.truth, dataset),
        photo_tile("difference", _marked(image, better, worse, differ), f"Map of the difference: {note}"),
    )
    return Picture(f.id, note, tiles)


def _prediction(whose: str, labels: np.ndarray, truth: np.ndarray, dataset: Dataset) -> Tile:
    matrix = confusion(torch.from_numpy(labels), torch.from_numpy(truth), len(dataset.classes))
    caption = f"{whose}: mIoU {mean_iou(matrix):.1f} here"
    return label_tile(
        caption, coloured(labels, dataset.palette), f"Labels of the {caption}; {_contents(labels, dataset)}"
    )


def _contents(labels: np.ndarray, dataset: Dataset, most: int = 5) -> str:
    """The classes of a map by their share of pixels, for who does not see it."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(dataset.classes)]
    order = [at for at in np.argsort(-counts, kind="stable")[:most] if counts[at]]
    return ", ".join(f"{dataset.classes[at]} {100 * counts[at] / labels.size:.0f} %" for at in order)


def _marked(image: Image.Image, better: np.ndarray, worse: np.ndarray, differ: np.ndarray) -> Image.Image:
    """The image in pale grey with the differences on it, told apart by colour and by pattern."""
    grey = 170 + np.array(image.convert("L"), dtype=np.float32) / 3
    out = np.repeat(grey[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
    rows, columns = np.indices(differ.shape)
    size = max(1, max(differ.shape) // 110)
    out[better] = BETTER
    out[worse & ((rows + columns) // size % 4 < 2)] = WORSE
    out[differ & ~better & ~worse & (rows // size % 2 == 0) & (columns // size % 2 == 0)] = BOTH
    return Image.fromarray(out)
