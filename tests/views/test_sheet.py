"""Contact sheets: what is on them, and that they are made from the loader's own tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssbench.data.dataset import Dataset
from ssbench.errors import UsageError
from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Turn
from ssbench.views.pipelines import ViewsConfig, unlabeled_view
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import Box
from ssbench.views.sheet import EDGE, HATCH, PADDING, SIDE, Paint, describe, page, row, sheet, shown, source

CFG = ViewsConfig(weak="unimatch", strong="unimatch", box="half", crop=48)
IDS = ("first", "second", "third")


class Drawn(Dataset):
    """Three pictures in two colours."""

    name = "drawn"
    classes = ("ground", "thing")
    palette = ((10, 20, 30), (200, 0, 0))

    def ids(self, subset: str) -> tuple[str, ...]:
        return IDS

    def image(self, id: str) -> Image.Image:
        rng = np.random.default_rng(IDS.index(id))
        return Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))

    def mask(self, id: str) -> Image.Image:
        ids = np.zeros((60, 80), np.uint8)
        ids[10:40, 20:70] = 1
        ids[:, :10] = 255
        return Image.fromarray(ids)


class Grey(Drawn):
    name = "grey"
    channels = 1

    def image(self, id: str) -> Image.Image:
        return super().image(id).convert("L")


def test_a_sheet_is_a_png_with_a_row_a_sample(tmp_path: Path) -> None:
    out = sheet(Drawn(tmp_path), IDS, CFG, 0, tmp_path / "new" / "sheet.png", 2)
    three = sheet(Drawn(tmp_path), IDS, CFG, 0, tmp_path / "three.png", 9)
    with Image.open(out) as two, Image.open(three) as all_three:
        assert (two.format, two.mode) == ("PNG", "RGB")
        assert two.width > 6 * SIDE
        assert all_three.height - two.height > SIDE
    first = out.read_bytes()
    assert sheet(Drawn(tmp_path), IDS, CFG, 0, out, 2).read_bytes() == first
    assert sheet(Drawn(tmp_path), IDS, CFG, 1, out, 2).read_bytes() != first


@pytest.mark.parametrize(("ids", "count"), [((), 1), (IDS, 0)])
def test_nothing_to_show_is_said(tmp_path: Path, ids: tuple[str, ...], count: int) -> None:
    with pytest.raises(UsageError, match="no samples"):
        sheet(Drawn(tmp_path), ids, CFG, 0, tmp_path / "sheet.png", count)
    assert not (tmp_path / "sheet.png").exists()


def test_panels_show_the_loaders_tensors(tmp_path: Path) -> None:
    data = Drawn(tmp_path)
    made = {p.title: p for p in row(data, "first", "second", CFG, Draw(4, 2, "first", "")).panels}
    assert list(made) == [
        "original", "its mask", "weak", "its labels", "strong 1", "strong 2", "mixed, strong 1", "mixed labels",
    ]  # fmt: skip
    first = Sample.of("first", data.image("first"), data.mask("first"))
    view = unlabeled_view(first, CFG, Draw(4, 2, "first", "unlabeled0"), 2)
    assert made["weak"].image.tobytes() == shown(view.weak, CFG).tobytes()
    assert made["strong 2"].image.tobytes() == shown(view.strong[1], CFG).tobytes()
    assert {p.image.height for p in made.values()} == {SIDE}
    assert "second" in made["mixed, strong 1"].detail
    yellow = (np.asarray(made["mixed labels"].image) == EDGE).all(-1)
    assert yellow.any()


def test_shown_undoes_the_normalising() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    view = unlabeled_view(Sample.of("a", image), ViewsConfig(weak="none", crop=1), Draw(0, 0, "a", "u"), 0)
    assert np.array_equal(np.asarray(shown(view.weak, CFG)), np.asarray(image))
    flat = torch.full((1, SIDE, SIDE), 0.2)
    assert set(np.unique(np.asarray(shown(flat, ViewsConfig(weak="acdc", crop=SIDE))))) == {51}


def test_masks_have_palette_colours_hatching_and_dark_padding(tmp_path: Path) -> None:
    ids = Image.fromarray(np.repeat(np.array([[0, 1, 255, 0]], np.uint8), 4, 0))
    valid = Image.fromarray(np.repeat(np.array([[True, True, True, False]]), 4, 0))
    painted = np.asarray(Paint(Drawn(tmp_path)).mask(ids, valid))
    quarter = SIDE // 4
    assert (painted[:, :quarter] == (10, 20, 30)).all()
    assert (painted[:, quarter : 2 * quarter] == (200, 0, 0)).all()
    assert {tuple(c) for c in painted[:, 2 * quarter : 3 * quarter].reshape(-1, 3).tolist()} == {HATCH, (255, 255, 255)}
    assert (painted[:, 3 * quarter :] == PADDING).all()


def test_words_and_outline_of_a_geometry() -> None:
    steps = (Resize((80, 60), (160, 120), "pil"), Flip((160, 120)), Crop((160, 120), 100, 20, (48, 48)))
    assert describe(steps) == "x2.00, flipped, at (100, 20)"
    assert source(steps) == (6, 10, 30, 34)
    assert source(()) is None
    assert source((Crop((9, 9), -3, 0, (30, 9)),)) is None
    turned = (Turn((9, 8), 3), Flip((8, 9), vertical=True), Rotate((8, 9), -7), Resize((8, 9), (4, 4), "zoom"))
    assert describe(turned) == "turned 270°, upside down, rotated -7°, to 4 x 4"
    assert source(turned) is None
    assert describe(()) == "as it is"


@pytest.mark.parametrize(
    ("box", "titles"), [("none", []), ("cps", ["mixed, strong 1", "mixed labels"]), ("unimatch", ["mixed"])]
)
def test_rows_without_a_region_and_grey_data(tmp_path: Path, box: Box, titles: list[str]) -> None:
    cfg = ViewsConfig(weak="acdc", strong="acdc", crop=64, box=box, box_share=0.0)
    made = row(Grey(tmp_path), "first", "third", cfg, Draw(0, 0, "first", ""))
    assert [p.title for p in made.panels][6:] == titles
    assert page("a title", [made], Grey(tmp_path)).width > 5 * SIDE


def test_many_classes_wrap_into_lines(tmp_path: Path) -> None:
    class Many(Drawn):
        classes = tuple(f"a class with a name {k}" for k in range(60))
        palette = tuple((k, k, k) for k in range(60))

    made = [row(Drawn(tmp_path), "first", "third", CFG, Draw(0, 0, "first", ""))]
    few, many = page("t", made, Drawn(tmp_path)), page("t", made, Many(tmp_path))
    assert many.width == few.width
    assert many.height > few.height + 40


@pytest.mark.real
def test_a_sheet_of_real_scenes(shared: Path, tmp_path: Path) -> None:
    folder = shared / "camvid"

    class Scenes(Drawn):
        classes = tuple(str(k) for k in range(11))
        palette = tuple((20 * k, 255 - 20 * k, 90) for k in range(11))

        def image(self, id: str) -> Image.Image:
            return Image.open(folder / "train" / f"{id}.jpg").convert("RGB")

        def mask(self, id: str) -> Image.Image:
            ids = np.array(Image.open(folder / "trainannot" / f"{id}.png"))
            return Image.fromarray(np.where(ids == 11, 255, ids).astype(np.uint8))

    ids = sorted(p.stem for p in (folder / "train").iterdir())[:2]
    cfg = ViewsConfig(weak="unimatch", strong="unimatch", box="unimatch", crop=321)
    with Image.open(sheet(Scenes(tmp_path), ids, cfg, 0, tmp_path / "camvid.png", 2)) as picture:
        assert picture.width > 8 * SIDE
