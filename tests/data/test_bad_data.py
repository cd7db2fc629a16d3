"""Damaged pictures, tables and settings: each is read, or ends in one error that names the file.

The generator is seeded; `SSBENCH_SOAK=1` draws thousands of the same inputs.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damaged_bytes, damaged_value, pick
from PIL import Image
from pydantic import ValidationError

from ssbench import keyed
from ssbench.data.acdc import Acdc
from ssbench.data.camvid import CamVid
from ssbench.data.dataset import read_float, read_grey, read_image, read_mask
from ssbench.data.open import class_of, imported
from ssbench.errors import DataError, RecipeError, SsbenchError
from ssbench.views.pipelines import read_views, unlabeled_view
from ssbench.views.regions import BOXES
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import UNREAD
from ssbench.views.strong import STRONG
from ssbench.views.weak import WEAK

Rng = np.random.Generator
COUNT = 1500 if os.environ.get("SSBENCH_SOAK") else 15
READERS = {"RGB": read_image, "L": read_grey, "F": read_float, "P": read_mask, "1": read_mask, "I;16": read_mask}


def picture(mode: str, rng: Rng) -> bytes:
    """A small picture of a mode, in one of the formats that hold it."""
    pixels = rng.integers(0, 200, (11, 13), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGB":
        image = Image.merge("RGB", [image] * 3)
    elif mode == "F":
        image = Image.fromarray(pixels / np.float32(255))
    elif mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16))
    elif mode != "L":
        image = image.convert(mode)
    formats = {"F": ["TIFF"], "RGB": ["PNG", "JPEG", "TIFF"], "L": ["PNG", "JPEG", "TIFF"]}
    file = io.BytesIO()
    image.save(file, pick(rng, formats.get(mode, ["PNG", "TIFF"])))
    return file.getvalue()


def a_picture(home: Path, rng: Rng) -> None:
    mode = pick(rng, list(READERS))
    path = home / "a.png"
    path.write_bytes(damaged_bytes(picture(mode, rng), rng))
    image = pick(rng, list(READERS.values()))(path)
    assert image.mode in ("RGB", "L", "F")
    image.getpixel((0, 0))


def a_table_of_volumes(home: Path, rng: Rng) -> None:
    rows = [f"patient{k:03d}_frame01,{pick(rng, ['train', 'val', 'test'])},{rng.integers(1, 9)}" for k in range(5)]
    text = "volume,subset,slices\n" + "\n".join(rows)
    odd = ["-1", "0", "9" * 5000, "1e9", "1000000000", "\0", '"', "nan", "\ud800"]
    text = text.replace(pick(rng, ["1", "2", "train", ",", "volume"]), pick(rng, odd), 1)
    data = text.encode("utf-8", "surrogatepass")
    (home / "volumes.csv").write_bytes(damaged_bytes(data, rng) if rng.random() < 0.5 else data)
    dataset = Acdc(home)
    for subset in dataset.subsets:
        assert len(dataset.ids(subset)) < 10_000


def an_id(home: Path, rng: Rng) -> None:
    dataset: Any = pick(rng, [Acdc, CamVid])(home)
    id = pick(rng, ["x" * 5000, "a\0b", "../../etc/passwd", "\udc80", "", "a/" * 3000, "."])
    dataset.image(id)


def a_dataset_name(home: Path, rng: Rng) -> None:
    class_of(pick(rng, ["x" * 5000, "a\0b", "../..", "\udc80", "", "a/" * 3000, ".", "toyy"]), home)


KINDS: tuple[Callable[[Path, Rng], None], ...] = (a_picture, a_table_of_volumes, an_id, a_dataset_name)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it then refuses
@pytest.mark.parametrize("read", KINDS, ids=lambda read: read.__name__)
def test_a_bad_input_is_read_or_named(read: Callable[[Path, Rng], None], tmp_path: Path) -> None:
    for k in range(COUNT):
        home = tmp_path / str(k)
        home.mkdir()
        refusal: SsbenchError | None = None
        try:
            read(home, keyed.rng("bad data", read.__name__, k))
        except (DataError, RecipeError) as error:
            refusal = error
        except Exception as error:
            error.add_note(f"input {k} of {read.__name__}")
            raise
        assert refusal is None or (refusal.what and refusal.fix), k


def settings(rng: Rng) -> Mapping[str, Any]:
    """Settings of three pipelines, one of them of a wrong type, size or name."""
    given: dict[str, Any] = {
        "weak": pick(rng, list(WEAK)),
        "strong": pick(rng, list(STRONG)),
        "box": pick(rng, list(BOXES)),
        "crop": int(rng.integers(1, 40)),
    }
    own = {
        name
        for table, key in ((WEAK, "weak"), (STRONG, "strong"), (BOXES, "box"))
        for name in _fields(table, given[key])
    }
    given |= {name: UNREAD[name] for name in sorted(own & UNREAD.keys()) if name not in ("base", "both_sides")}
    given |= {"base": 40} if "base" in own else {}
    extreme = [1e30, -1e30, 0, 0.0, 1, 2**70, [1e-9, 1e9], [0, 0], [0.9, 0.95], [0.05, 8.0], float("inf"), float("nan")]
    if rng.random() < 0.5:
        return {**given, pick(rng, list(given)): pick(rng, extreme)}
    return damaged_value(given, rng)  # type: ignore[no-any-return]


def _fields(table: Mapping[str, Any], name: str) -> set[str]:
    return set(table[name][0].model_fields)


def test_settings_of_views_are_refused_or_make_a_view() -> None:
    """What is accepted ends: no endless rejection, no picture that memory cannot hold."""
    accepted = 0
    for k in range(COUNT * 4):
        given = settings(keyed.rng("bad views", k))
        try:
            cfg = read_views(given)
        except ValidationError:
            continue
        if cfg.crop > 100:  # large, but within the bound
            continue
        sample = Sample.of("a", Image.new("RGB", (30, 20), (90, 120, 60)))
        view = unlabeled_view(sample, cfg, Draw(0, 0, "a", "v"), 1)
        assert view.weak.shape == view.strong[0].shape
        accepted += 1
    assert accepted > COUNT / 3


def test_folders_whose_names_are_no_text_are_not_datasets(tmp_path: Path) -> None:
    """A file system may hold names that no terminal or list can: they cannot stand in a recipe either."""
    for name in ("mine", os.fsdecode(b"caf\xe9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.yaml").write_text("name: mine\n")
    assert imported(tmp_path) == ("mine",)
