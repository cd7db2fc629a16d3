"""Contact sheets: what is on them, and that they are made from the loader's own tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import config
from PIL import Image

from ssbench.errors import UsageError
from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Turn
from ssbench.views.pipelines import read_views, unlabeled_view
from ssbench.views.sample import Draw, Sample
from ssbench.views.sheet import (
    EDGE,
    HATCH,
    PADDING,
    SIDE,
    describe,
    draw_page,
    draw_row,
    draw_view,
    paint_mask,
    visible_part,
    write_sheet,
)

CFG = read_views({"weak": "unimatch", "strong": "unimatch", "box": "half", "crop": 48})
LEGEND = [("ground", (10, 20, 30)), ("thing", (200, 0, 0))]


def drawn(id: str, mode: str = "RGB") -> Sample:
    """A picture of noise in two classes."""
    rng = np.random.default_rng(len(id))
    ids = np.zeros((60, 80), np.uint8)
    ids[10:40, 20:70] = 1
    ids[:, :10] = 255
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    return Sample.of(id, image.convert(mode), Image.fromarray(ids))


SAMPLES = [drawn("first"), drawn("second"), drawn("the third")]


def test_a_sheet_is_a_png_with_a_row_a_sample(tmp_path: Path) -> None:
    out = write_sheet(tmp_path / "new" / "sheet.png", "drawn", SAMPLES[:2], LEGEND, CFG, 0)
    three = write_sheet(tmp_path / "three.png", "drawn", SAMPLES, LEGEND, CFG, 0)
    with Image.open(out) as two, Image.open(three) as all_three:
        assert two.format == all_three.format == "PNG"
        assert two.width > 6 * SIDE
        assert all_three.height > two.height + SIDE
    first = out.read_bytes()
    assert write_sheet(out, "drawn", SAMPLES[:2], LEGEND, CFG, 0).read_bytes() == first
    assert write_sheet(out, "drawn", SAMPLES[:2], LEGEND, CFG, 1).read_bytes() != first


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no samples"):
        write_sheet(tmp_path / "sheet.png", "drawn", [], LEGEND, CFG, 0)
    assert not (tmp_path / "sheet.png").exists()


def test_panels_show_the_loaders_tensors() -> None:
    panels = {p.title: p for p in draw_row(SAMPLES[0], SAMPLES[1], LEGEND, CFG, 4, 2)}
    assert list(panels) == [
        "original", "its mask", "weak", "its labels", "strong 1", "strong 2", "mixed, strong 1", "mixed labels",
    ]  # fmt: skip
    view = unlabeled_view(SAMPLES[0], CFG, Draw(4, 2, "first", "unlabeled0"), 2)
    assert panels["weak"].image.tobytes() == draw_view(view.weak, CFG).tobytes()
    assert panels["strong 2"].image.tobytes() == draw_view(view.strong[1], CFG).tobytes()
    assert {p.image.height for p in panels.values()} == {SIDE}
    assert "second" in panels["mixed, strong 1"].detail
    yellow = (np.asarray(panels["mixed labels"].image) == EDGE).all(-1)
    assert yellow.any()


def test_shown_undoes_the_normalising() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    view = unlabeled_view(Sample.of("a", image), read_views({"weak": "none", "crop": 1}), Draw(0, 0, "a", "u"), 0)
    assert np.array_equal(np.asarray(draw_view(view.weak, CFG)), np.asarray(image))
    flat = torch.full((1, SIDE, SIDE), 0.2)
    assert set(np.unique(np.asarray(draw_view(flat, read_views({"weak": "acdc", "crop": SIDE}))))) == {51}


def test_masks_have_palette_colours_hatching_and_dark_padding() -> None:
    ids = Image.fromarray(np.repeat(np.array([[0, 1, 255, 0]], np.uint8), 4, 0))
    valid = Image.fromarray(np.repeat(np.array([[True, True, True, False]]), 4, 0))
    painted = np.asarray(paint_mask(ids, LEGEND, valid))
    quarter = SIDE // 4
    assert (painted[:, :quarter] == (10, 20, 30)).all()
    assert (painted[:, quarter : 2 * quarter] == (200, 0, 0)).all()
    assert {tuple(c) for c in painted[:, 2 * quarter : 3 * quarter].reshape(-1, 3).tolist()} == {HATCH, (255, 255, 255)}
    assert (painted[:, 3 * quarter :] == PADDING).all()


def test_words_and_outline_of_a_geometry() -> None:
    steps = (Resize((80, 60), (160, 120), "pil"), Flip((160, 120)), Crop((160, 120), 100, 20, (48, 48)))
    assert describe(steps) == "x2.00, flipped, at (100, 20)"
    assert visible_part(steps) == (6, 10, 30, 34)
    assert visible_part(()) is None
    assert visible_part((Crop((9, 9), -3, 0, (30, 9)),)) is None
    turned = (Turn((9, 8), 3), Flip((8, 9), vertical=True), Rotate((8, 9), -7), Resize((8, 9), (4, 4), "zoom"))
    assert describe(turned) == "turned 270°, upside down, rotated -7°, to 4 x 4"
    assert visible_part(turned) is None
    assert describe(()) == "as it is"


@pytest.mark.parametrize(
    ("box", "titles"), [("none", []), ("cps", ["mixed, strong 1", "mixed labels"]), ("unimatch", ["mixed"])]
)
def test_rows_without_a_region_and_grey_data(box: str, titles: list[str]) -> None:
    cfg = config("acdc", 64, strong="acdc", box=box, box_share=0.0)
    panels = draw_row(drawn("first", "L"), drawn("the third", "L"), LEGEND, cfg, 0, 0)
    assert [p.title for p in panels][6:] == titles
    page = draw_page("a title", [("first", panels)], LEGEND)
    assert [axis.get_title() for axis in page.axes] == [p.title for p in panels]


def test_a_page_names_samples_and_classes() -> None:
    rows = [("first", draw_row(SAMPLES[0], SAMPLES[2], LEGEND, CFG, 0, 0))]
    few, many = (
        draw_page("t", rows, legend)
        for legend in (LEGEND, [(f"a class with a name {k}", (k, k, k)) for k in range(60)])
    )
    assert few.axes[0].get_ylabel() == "first"
    assert [text.get_text() for text in few.legends[0].get_texts()] == ["ground", "thing"]
    assert len(many.legends[0].get_texts()) == 60
    assert many.get_figheight() > few.get_figheight()


@pytest.mark.real
def test_a_sheet_of_real_scenes(shared: Path, tmp_path: Path) -> None:
    folder, samples = shared / "camvid", []
    for path in sorted((folder / "train").iterdir())[:2]:
        ids = np.array(Image.open(folder / "trainannot" / f"{path.stem}.png"))
        mask = Image.fromarray(np.where(ids == 11, 255, ids).astype(np.uint8))
        samples.append(Sample.of(path.stem, Image.open(path).convert("RGB"), mask))
    legend = [(str(k), (20 * k, 255 - 20 * k, 90)) for k in range(11)]
    cfg = read_views({"weak": "unimatch", "strong": "unimatch", "box": "unimatch", "crop": 321})
    with Image.open(write_sheet(tmp_path / "camvid.png", "camvid", samples, legend, cfg, 0)) as picture:
        assert picture.width > 8 * SIDE
