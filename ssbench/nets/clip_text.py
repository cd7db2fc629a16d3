"""Text embeddings of classes: SemiVL's published arrays, verified by digest, or computed from the prompts.

An array holds one normalised row of 512 numbers a class ("single", "average") or a phrase ("concept"), float16 as
published. Which prompts stand behind a row, and how the arrays were checked: card: semivl 6.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.data.cityscapes import Cityscapes
from ssbench.data.coco import Coco
from ssbench.data.voc import Voc
from ssbench.errors import DataError
from ssbench.files import sha256, write_bytes
from ssbench.nets.pretrained import NotHereError

Words = Literal["voc", "cityscapes", "coco"]
Form = Literal["single", "average", "concept"]
"""single: a row a class. average: the mean of a class's phrases. concept: a row a phrase; a class has their maximum."""
COMMIT = "13ee65d6f27e197e0b55d987b346fc880fc811ca"
ADDRESS = f"https://raw.githubusercontent.com/google-research/semivl/{COMMIT}/configs/_base_/datasets/text_embedding"
MODEL = "openai/clip-vit-base-patch16"  # the text tower whose embeddings the arrays hold
PROMPT = "a photo of a {}"  # always "a", as published
MAX_BYTES = 1_000_000
AGREES = 0.9999
"""Least cosine of a computed row with the published one: those were computed in half precision."""


@dataclass(frozen=True)
class TextArray:
    """A published array: its file, rows, and the first 16 hex digits of its SHA-256."""

    file: str
    rows: int
    digest: str


ARRAYS: dict[tuple[Words, Form], TextArray] = {
    ("voc", "single"): TextArray("voc12_wbg_single.npy", 21, "dc6d1ec1d5e6a236"),
    ("voc", "average"): TextArray("voc12_wbg_conceptavg4_single.npy", 21, "b66876bd18ce0823"),
    ("voc", "concept"): TextArray("voc12_wbg_concept4_single.npy", 98, "320be7843c376595"),
    ("cityscapes", "single"): TextArray("cityscapes_single.npy", 19, "8fccecaf52deb6db"),
    ("cityscapes", "average"): TextArray("cityscapes_conceptavg3_single.npy", 19, "da050af44afa4f6e"),
    ("cityscapes", "concept"): TextArray("cityscapes_concept3_single.npy", 54, "2ce9909b76d8af24"),
    ("coco", "single"): TextArray("coco_single.npy", 81, "425810eb73c19667"),
}
DECODER: dict[Words, Form] = {"voc": "single", "cityscapes": "average", "coco": "single"}
GUIDANCE: dict[Words, Form] = {"voc": "concept", "cityscapes": "concept", "coco": "single"}
"""Which form the decoder and the frozen encoder read (release experiments.py)."""
SINGLE: dict[Words, tuple[str, ...]] = {"voc": Voc.classes, "cityscapes": Cityscapes.classes, "coco": Coco.classes}
CONCEPTS: dict[str, tuple[str, ...]] = {
    "voc": (
        "background, bed, building, cabinet, ceiling, curtain, door, fence, floor, grass, ground, mountain, road, "
        "rock, shelves, sidewalk, sky, snow, tree, wall, water, window, hang glider, helicopter, jet ski, go-cart, "
        "tractor, emergency vehicle, lorry, truck, lion, stool, bench, wheelchair, coffee table, desk, side table, "
        "picnic bench, wolve, flowers in a vase, goat, tram, laptop, advertising display, vehicle interior",
        "aeroplane, airplane, glider", "bicycle, tricycle, unicycle", "bird", "boat, ship, rowing boat, pedalo",
        "bottle, plastic bottle, glass bottle, feeding bottle", "bus, minibus",
        "car, van, large family car, realistic toy car", "cat, domestic cat", "chair, armchair, deckchair", "cow",
        "dining table, table for eating at", "dog, domestic dog", "horse, pony, donkey, mule",
        "motorbike, moped, scooter, sidecar", "person, people, baby, face",
        "potted plant, indoor plant in a pot, outdoor plant in a pot", "sheep", "sofa", "train, train carriage",
        "tv, monitor, standalone screen",
    ),
    "cityscapes": (
        "road, street, parking space", "sidewalk",
        "building, skyscaper, house, bus stop building, garage, car port, scaffolding",
        "individual standing wall; which is not part of a building", "fence, hole in fence",
        "pole, sign pole, traffic light pole", "traffic light", "traffic sign, parking sign, direction sign",
        "vegetation, tree, hedge", "terrain, grass, soil, sand", "sky",
        "person, pedestrian, walking person, standing person, person sitting on the ground, person sitting on a bench, "
        "person sitting on a chair",
        "rider, cyclist, motorcyclist", "car, jeep, SUV, van", "truck, box truck, pickup truck, truck trailer", "bus",
        "train, tram", "motorcycle, moped, scooter", "bicycle",
    ),
}  # fmt: skip
"""Phrases of each class, "; " for a comma inside of one. Misspelt words are part of the published embeddings."""


def phrases(words: Words, form: Form) -> list[tuple[str, ...]]:
    """The phrases of every class, whose embeddings an array is made of."""
    if form == "single":
        return [(name,) for name in SINGLE[words]]
    return [tuple(phrase.replace("; ", ", ") for phrase in line.split(", ")) for line in CONCEPTS[words]]


def owners(words: Words, form: Form) -> list[int]:
    """The class of each row of an array."""
    counts = [len(group) if form == "concept" else 1 for group in phrases(words, form)]
    return [c for c, count in enumerate(counts) for _ in range(count)]


def published(words: Words, form: Form, folder: Path | None = None) -> Tensor:
    """The published array, rows x 512 in fp32: from `folder`, else from the cache, else downloaded into it.

    Raises:
        DataError: it cannot be had, or is not the pinned file.
    """
    if (array := ARRAYS.get((words, form))) is None:
        what = f"no published text embeddings '{form}' for '{words}'"
        raise DataError(what, "net.text", f"one of {', '.join(f for w, f in ARRAYS if w == words)}")
    path = (folder or _cache()) / array.file
    if not path.is_file() and folder is None:
        _download(array, path)
    if not path.is_file() or path.stat().st_size > MAX_BYTES or not sha256(path).startswith(array.digest):
        what = f"{array.file} is not SemiVL's (SHA-256 {array.digest}...)" if path.is_file() else f"no {array.file}"
        raise DataError(what, str(path), f"download {ADDRESS}/{array.file} to that place")
    values = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    if values.shape != (array.rows, 512):
        raise DataError(f"{array.file} has the shape {values.shape}", str(path), "delete it and try again")
    rows: Tensor = torch.from_numpy(values.astype(np.float32))
    return rows


def missing_arrays(words: Words, forms: Sequence[Form], folder: Path | None = None) -> Iterator[DataError]:
    """The published arrays of these forms that are not in `folder`, or not in the cache yet."""
    arrays = [ARRAYS[words, form] for form in dict.fromkeys(forms) if (words, form) in ARRAYS]
    for array in arrays:
        path = (folder or _cache()) / array.file
        if not path.is_file() and folder is None:
            fix = f"a run downloads it; without a network bring the file to {path}, or net.text_source: computed"
            yield NotHereError(f"no {array.file} (not downloaded yet)", f"{ADDRESS}/{array.file}", fix)
        elif not path.is_file():
            yield DataError(f"no {array.file}", str(path), f"download {ADDRESS}/{array.file} to that place")


def computed(words: Words, form: Form, model: str = MODEL) -> Tensor:
    """The same from the prompts, by the text tower of `transformers` (extra `clip`), in fp32: rows x 512.

    The class token's embedding, projected and normalised; of "average" the mean before it is normalised.

    Args:
        model: a name of the hub, or a folder with a CLIP model and its tokenizer.
    Raises:
        DataError: the library or the model is missing.
    """
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError:
        fix = 'pip install "ssbench[clip]", or net.text_source: release'
        raise DataError("text embeddings are computed with transformers, which is not installed", "", fix) from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        library: Any = CLIPTextModelWithProjection
        tower: Any = library.from_pretrained(model, use_safetensors=True).eval()
    except Exception as error:  # the library raises its own, the hub's and the file system's
        what = f"no CLIP text model '{model}' ({type(error).__name__}: {str(error).splitlines()[0][:150]})"
        raise DataError(what, model, "net.text_source: release, or a folder with the model") from None
    groups = phrases(words, form)
    rows = _encode(tokenizer, tower, [phrase for group in groups for phrase in group])
    if form == "average":
        parts = torch.split(rows, [len(group) for group in groups])
        rows = torch.stack([part.mean(0) for part in parts])
    return F.normalize(rows, dim=-1)


def drawn(rows: int, width: int) -> Tensor:
    """Normalised rows without a meaning, always the same: for small nets of random weights."""
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    values = torch.randn(rows, width, generator=generator)
    return F.normalize(values, dim=-1)


@torch.no_grad()
def _encode(tokenizer: Any, tower: Any, texts: Sequence[str]) -> Tensor:
    tokens = tokenizer([PROMPT.format(text) for text in texts], padding=True, return_tensors="pt")
    embeds: Tensor = tower(**tokens).text_embeds
    return embeds


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ssbench" / "semivl"


def _download(array: TextArray, path: Path) -> None:
    """Fetch an array into the cache; nothing is written that is not the pinned file."""
    import hashlib
    import urllib.request

    url = f"{ADDRESS}/{array.file}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  a pinned https address
            content: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        what = f"SemiVL's text embeddings could not be downloaded ({getattr(error, 'reason', error)})"
        raise DataError(what, url, f"bring the file to {path}, or net.text_source: computed") from None
    if not hashlib.sha256(content).hexdigest().startswith(array.digest):
        raise DataError(
            f"{array.file}: what was downloaded is not the pinned file", url, "try again, or another network"
        )
    write_bytes(path, content)
