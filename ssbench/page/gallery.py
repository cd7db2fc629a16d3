"""The gallery of the page: the images on which a baseline and the same baseline with a plug-in differ most.

The pictures become data URIs, so that the page stays one file. `inspect.differences` chooses the images.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ssbench.console import Bars
from ssbench.data.dataset import IGNORE, Dataset
from ssbench.data.open import open_dataset
from ssbench.errors import DataError, HardwareError, SsbenchError
from ssbench.jobs.claim import folder_of
from ssbench.jobs.job import Places
from ssbench.page.facts import run_command
from ssbench.page.runs import Comparison, Experiment, StoredRun

if TYPE_CHECKING:
    from ssbench.inspect.differences import Disagreement, TrainedRun  # loads torch: here and where networks are loaded

SIDE = 320
"""Longest side of a picture on the page, in pixels; smaller ones are enlarged by the browser, pixel by pixel."""
BETTER, WORSE, BOTH = (0, 128, 92), (196, 78, 0), (90, 98, 107)
"""Where the plug-in alone is right (solid), the baseline alone (stripes), neither but differently (dots)."""


@dataclass(frozen=True)
class InlineImage:
    """One picture. source: a data URI; alt: its contents in words; photo: whether it may be smoothed when enlarged."""

    caption: str
    source: str
    width: int
    height: int
    alt: str
    photo: bool = False


@dataclass(frozen=True)
class ComparedImage:
    """One image of the dataset as each run labels it. note: how far the two differ, in words."""

    id: str
    note: str
    images: tuple[InlineImage, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one pair of runs. column: what a table calls the split.

    searched: how many images were looked through, of how many; classes: (name, colour "#rrggbb"). missing: why there
    are no pictures, and commands: what to type for them; both empty where there are some.
    """

    title: str
    split: str
    column: str
    seed: int
    pictures: tuple[ComparedImage, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    searched: tuple[int, int] = (0, 0)
    missing: str = ""
    commands: tuple[str, ...] = ()


def galleries(
    groups: Sequence[Comparison], places: Places, count: int, look: int, device: str | None
) -> tuple[Gallery, ...]:
    """One gallery a pair of baseline and plug-in, of `count` images found among `look` ones spread over the subset.

    Where a checkpoint or the data are missing or are another run's, the gallery says so and how to come by them.
    """
    pairs = [pair for group in groups for pair in group.pairs()]
    with Bars() as bars:
        return tuple(_gallery(base, plug, places, count, look, device, bars) for base, plug in pairs)


def _gallery(
    base: Experiment, plug: Experiment, places: Places, count: int, look: int, device: str | None, bars: Bars
) -> Gallery:
    title = f"{base.label} and {plug.label}"
    seeds = sorted({r.record.seed for r in base.runs} & {r.record.seed for r in plug.runs})
    if not seeds:
        return Gallery(title, base.split, base.column, 0, missing="The two have no seed in common.")
    loaded: list[TrainedRun] = []  # an annotation, for the class loads torch
    missing, commands = defaultdict[str, list[str]](list), list[str]()
    for experiment in (base, plug):
        run = next(r for r in experiment.runs if r.record.seed == seeds[0])
        try:
            loaded.append(_load_run(run, places, device))
        except HardwareError:  # a device that is not there is no matter of this pair
            raise
        except SsbenchError as error:
            missing[error.what].append(experiment.label)
            commands.append(error.fix)
    if missing:
        why = "; ".join(what if len(runs) == 2 else f"{runs[0]}: {what}" for what, runs in missing.items())
        once = tuple(dict.fromkeys(command for command in commands if command))
        return Gallery(title, base.split, base.column, seeds[0], missing=why, commands=once)
    from ssbench.inspect.differences import most_different

    dataset = loaded[0].dataset
    ids = dataset.ids(loaded[0].recipe.eval.report)
    many = min(look, len(ids))
    spread = [ids[(2 * k + 1) * len(ids) // (2 * many)] for k in range(many)]  # evenly over the list
    differences = most_different(loaded, bars.watch(spread, "pictures", many), count)
    pictures = tuple(_compared_image(d, dataset) for d in differences)
    colours = ("#" + "".join(f"{v:02x}" for v in colour) for colour in dataset.palette)
    classes = tuple(zip(dataset.classes, colours, strict=False))
    alike = "" if pictures else "The two label every pixel alike."
    return Gallery(title, base.split, base.column, seeds[0], pictures, classes, (many, len(ids)), alike)


def _load_run(run: StoredRun, places: Places, device: str | None) -> TrainedRun:
    """The run's data and network. DataError names what is missing or is another run's, with the command that helps."""
    record, settings = run.record, run.fields.get("resolved") or {}
    # Data and checkpoint are looked for first, by the record alone: a report without them need not import torch.
    open_dataset(str((settings.get("data") or {}).get("dataset") or record.split.partition("/")[0]), places.data)
    # The command finds this report's folders where they are not the usual ones, and leaves the stored record as it is.
    roots = {"--data-root": (places.data, "data"), "--runs": (places.runs, "runs")}
    options = [word for option, (path, usual) in roots.items() if str(path) != usual for word in (option, str(path))]
    again = run_command(run, *options, "--results", str(places.runs / "again"))
    folder = places.runs / record.recipe / record.split.replace("/", "-") / f"seed{record.seed}"
    aside = folder_of(folder, record.key)  # where another recipe, data or code has taken the folder since
    path = (aside if aside.is_dir() else folder) / "best.pt"
    if not path.is_file():
        raise DataError(f"no checkpoint below '{places.runs}'", str(path), again)
    from ssbench.inspect.differences import load_run

    try:
        return load_run(record, run.fields, run.settings, path, places.data, device)
    except DataError as error:
        if not error.fix:  # of another recipe or checkpoint: training anew gives both
            error.fix = run_command(run, *options) if error.where == str(record.path) else again
        raise


def _compared_image(d: Disagreement, dataset: Dataset) -> ComparedImage:
    from ssbench.inspect.pictures import coloured

    known = d.truth != IGNORE
    differ = (d.base != d.plug) & known
    better, worse = differ & (d.plug == d.truth), differ & (d.base == d.truth)
    shares = [100 * float(m[known].mean()) for m in (differ, better, worse, differ & ~better & ~worse)]
    total, gained, lost, neither = (f"{share:.1f} %" for share in shares)
    note = f"they differ on {total} of pixels; the plug-in alone is right on {gained}, the baseline alone on {lost}, "
    note += f"neither on {neither}"
    image = dataset.image(d.id)
    images = (
        photograph("image", image, f"Image {d.id}"),
        label_map("truth", coloured(d.truth, dataset.palette), f"True labels: {_contents(d.truth, dataset)}"),
        _prediction("baseline", d.base, d.truth, dataset),
        _prediction("baseline + plug-in", d.plug, d.truth, dataset),
        photograph("difference", _marked(image, better, worse, differ), f"Map of the difference: {note}"),
    )
    return ComparedImage(d.id, note, images)


def _prediction(run: str, labels: np.ndarray, truth: np.ndarray, dataset: Dataset) -> InlineImage:
    from ssbench.inspect.differences import image_miou
    from ssbench.inspect.pictures import coloured

    caption = f"{run}: mIoU {image_miou(labels, truth, len(dataset.classes)):.1f} here"
    alt = f"Labels of the {caption}; {_contents(labels, dataset)}"
    return label_map(caption, coloured(labels, dataset.palette), alt)


def _contents(labels: np.ndarray, dataset: Dataset, most: int = 5) -> str:
    """The classes of a map by their share of pixels, for readers who do not see it."""
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


def photograph(caption: str, image: Image.Image, alt: str) -> InlineImage:
    """A photograph, at most SIDE pixels wide or high: JPEG, or PNG where that is smaller."""
    small = _fitted(image.convert("RGB"), Image.Resampling.LANCZOS)
    files = (_data_uri(small, "png"), _data_uri(small, "jpeg", quality=82))
    return InlineImage(caption, min(files, key=len), *small.size, alt, True)


def label_map(caption: str, image: Image.Image, alt: str) -> InlineImage:
    """A map of few colours: no colour that was not there, as a palette PNG."""
    small = _fitted(image.convert("RGB"), Image.Resampling.NEAREST)
    colours = small.getcolors(256)
    exact = small.quantize(len(colours), dither=Image.Dither.NONE) if colours else small
    return InlineImage(caption, _data_uri(exact, "png"), *small.size, alt)


def _fitted(image: Image.Image, how: Image.Resampling) -> Image.Image:
    factor = SIDE / max(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), how)


def _data_uri(image: Image.Image, form: str, **settings: object) -> str:
    out = io.BytesIO()
    image.save(out, form, optimize=True, **settings)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"
