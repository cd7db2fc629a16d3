"""Views end to end: every pair of pipelines, tensors, what plug-ins need, settings."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import MEAN, STD, bytes_of, config, draw, sample
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import functional as F

from ssbench.errors import DataError
from ssbench.views.geometry import Crop, Resize, move_boxes, rasterise
from ssbench.views.pipelines import (
    eval_view,
    labeled_view,
    read_views,
    strong_view,
    unlabeled_view,
    weaken,
)
from ssbench.views.regions import BOXES
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import UNREAD, ViewsConfig
from ssbench.views.strong import STRONG
from ssbench.views.weak import WEAK


@pytest.mark.parametrize("weak", list(WEAK))
@pytest.mark.parametrize("strong", list(STRONG))
def test_every_pair_of_pipelines_gives_views_of_one_size(weak: str, strong: str) -> None:
    cfg = config(weak, strong=strong, box="unimatch")
    side = (40, 50) if weak == "none" else (32, 32)
    channels = 3
    for k in range(6):
        got = unlabeled_view(sample(), cfg, draw(k), 2)
        assert [tuple(x.shape) for x in (got.weak, *got.strong)] == [(channels, *side)] * 3
        assert {x.dtype for x in (got.weak, *got.strong)} == {torch.float32}
        assert [(tuple(b.shape), b.dtype) for b in (*got.boxes, *got.erased, got.valid)] == [(side, torch.bool)] * 5
        assert (got.truth.dtype, tuple(got.truth.shape)) == (torch.int64, side)
        assert (got.truth[~got.valid] == 255).all()
        again = got.maps["again"]
        assert again.dtype == torch.uint8
        assert torch.equal(again[got.valid].long(), got.truth[got.valid]) or weak == "acdc"
        assert all(torch.isfinite(x).all() for x in (got.weak, *got.strong))
        labeled = labeled_view(sample(), cfg, draw(k))
        assert (labeled.y.dtype, tuple(labeled.x.shape)) == (torch.int64, (channels, *side))


def test_strong_views_are_aligned_with_the_weak_one() -> None:
    """Without its colours every strong view is the weak one in grey: the geometry is shared."""
    cfg = config("unimatch", strong="unimatch", jitter_share=0.0, blur_share=0.0, grey_share=1.0)
    for k in range(10):
        got = unlabeled_view(sample(), cfg, draw(k), 2)
        weak = weaken(sample(), cfg, draw(k)).image
        assert isinstance(weak, Image.Image)
        for x in got.strong:
            assert torch.equal(x, eval_view(weak.convert("L"), cfg))
    silent = config("unimatch", strong="unimatch", jitter_share=0.0, blur_share=0.0, grey_share=0.0)
    got = unlabeled_view(sample(), silent, draw(), 2)
    assert all(x is got.weak for x in got.strong)


def test_weak_crop_does_not_depend_on_strong_settings() -> None:
    """Paired runs: whatever is done to the strong views, the weak view and its labels stay the same bytes."""
    plain = bytes_of(unlabeled_view(sample(), config("unimatch"), draw(), 0))
    other = bytes_of(unlabeled_view(sample(), config("unimatch", strong="augseg", box="cps"), draw(), 2))
    assert all(other[k] == v for k, v in plain.items())


def test_tensors_are_totensor_and_normalize() -> None:
    image = sample().image
    assert isinstance(image, Image.Image)
    cfg = config("none")
    assert torch.equal(eval_view(image, cfg), F.normalize(F.to_tensor(image), MEAN, STD))
    assert torch.equal(eval_view(image, config("none", normalise="none")), F.to_tensor(image))
    grey = image.convert("L")
    assert torch.equal(eval_view(grey, config("acdc")), F.to_tensor(grey))
    three = Image.merge("RGB", (grey, grey, grey))
    assert torch.equal(eval_view(grey, cfg), eval_view(three, cfg))


def test_u2pl_resizes_in_float_on_the_0_255_scale() -> None:
    """Card: views 5: normalised first, then interpolated; the two commute, up to float rounding."""
    original = sample((30, 24))
    got = labeled_view(original, config("u2pl", flip=0.0, scale=(0.8, 1.0)), draw())
    resize, crop = got.geometry
    assert isinstance(resize, Resize)
    assert isinstance(crop, Crop)
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    x = (torch.from_numpy(np.array(original.image)).permute(2, 0, 1).float() - mean) / std
    w, h = resize.size
    x = torch.nn.functional.interpolate(x[None], size=(h, w), mode="bilinear", align_corners=False)[0]
    y = torch.from_numpy(np.array(original.mask))[None, None].float()
    y = torch.nn.functional.interpolate(y, size=(h, w), mode="nearest")[0, 0]
    left, top = -crop.x if crop.x < 0 else 0, -crop.y if crop.y < 0 else 0
    assert torch.allclose(got.x[:, top : top + h, left : left + w], x, atol=2e-5)
    assert torch.equal(got.y[top : top + h, left : left + w].float(), y)


def test_colours_after_float_geometry_work_on_8_bits() -> None:
    got = unlabeled_view(sample(), config("u2pl", strong="unimatch", jitter_share=1.0), draw(), 1)
    assert not torch.equal(got.weak, got.strong[0])
    assert not got.strong[0][:, ~got.valid].any()


def test_modes_that_cannot_become_views_are_refused() -> None:
    bad = replace(sample(), id="munich_7", image=Image.new("CMYK", (50, 40)))
    with pytest.raises(DataError, match="CMYK") as error:
        labeled_view(bad, config("none"), draw())
    assert error.value.where == "munich_7"


def test_a_sample_without_a_mask_is_ignored_everywhere() -> None:
    got = unlabeled_view(Sample.of("a", sample().image), config("unimatch"), draw(), 0)  # type: ignore[arg-type]
    assert (got.truth == 255).all()


@pytest.mark.parametrize("weak", ["unimatch", "augseg", "cps", "stpp"])
def test_stored_boxes_follow_the_view(weak: str) -> None:
    """Moving coordinates and moving a rasterised map agree to a pixel."""
    from scipy.ndimage import binary_dilation, binary_erosion

    box = np.array([[12.0, 9, 37, 30]])
    held = Sample.of("a", Image.new("RGB", (50, 40)), None, {"box": Image.fromarray(rasterise(box, (50, 40)))})
    for k in range(60):
        got = unlabeled_view(held, config(weak), draw(k), 0)
        moved, kept = move_boxes(box, got.geometry)
        raster, carried = rasterise(moved, (32, 32)), got.maps["box"].numpy()
        assert got.maps["box"].dtype == torch.bool
        assert not (carried & ~got.valid.numpy()).any()
        assert not (carried & ~binary_dilation(raster, iterations=2)).any()
        assert not (binary_erosion(raster, iterations=2) & ~carried).any()
        assert len(kept) == 1 or not carried.any()


def test_strong_view_ignores_what_was_cut_out() -> None:
    """Card: views 3: self-training on a stored mask; unlabeled views mark the same in `erased`."""
    cfg = config("stpp", strong="stpp", cutout_share=1.0)
    trained = strong_view(sample(), cfg, draw())
    online = unlabeled_view(sample(), cfg, draw(), 1)
    assert torch.equal(trained.x, online.strong[0])
    assert online.erased[0].any()
    assert torch.equal(trained.y, online.truth.masked_fill(online.erased[0], 255))
    assert not unlabeled_view(sample(), config("stpp"), draw(), 1).erased[0].any()


def test_pipelines_fill_in_their_own_numbers_and_a_recipe_wins() -> None:
    cut = config("cutmix_seg", strong="cutmix_seg", box="cps")
    assert (cut.scale, cut.jitter, cut.padding) == ((0.5, 1.5), (0.4, 0.4, 0.4, 0.1), "zero")
    assert (cut.box_area, cut.box_count) == ((0.25, 0.5), 3)
    assert config("cutmix_seg", scale=[0.7, 1.1]).scale == (0.7, 1.1)
    assert config("acdc").normalise == "none"
    assert config("augseg").padding == "mean"
    assert config("unimatch").padding == "black"
    again = read_views(cut.model_dump())
    assert again == cut


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weak": "stpp", "crop": 8}, "400 for VOC"),
        ({"weak": "augseg", "crop": 8}, "500 for VOC"),
        ({"weak": "none", "crop": 0}, "greater than or equal to 1"),
        ({"weak": "u2pl", "crop": 8, "scale": [2.0, 0.5]}, "from 2.0 down to 0.5"),
        ({"weak": "none", "crop": 8, "flips": 0.5}, "Extra inputs"),
        ({"weak": "none", "crop": "8"}, "valid integer"),
        ({"weak": "cps", "crop": 8, "flip": 1.5}, "less than or equal to 1"),
        ({"weak": "unimtach", "crop": 8}, "unimatch"),
        ({"weak": "u2pl", "crop": 8, "scale": ["0.5", "2"]}, "valid number"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        read_views(given)


def test_every_named_pipeline_exists() -> None:
    weak, strong = (ViewsConfig.model_fields[name].annotation.__args__ for name in ("weak", "strong"))  # type: ignore[union-attr]
    assert set(weak) == set(WEAK)
    assert set(strong) == set(STRONG)
    assert set(ViewsConfig.model_fields["box"].annotation.__args__) == set(BOXES)  # type: ignore[union-attr]


def test_settings_are_read_without_torch() -> None:
    """Recipes hold a ViewsConfig, and `--help` must stay quick."""
    code = (
        "import sys; from ssbench.views.pipelines import read_views\n"
        "read_views({'weak': 'none', 'crop': 8}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real
def test_real_voc_samples_pass_through_every_pipeline(shared: Path) -> None:
    masks = sorted((shared / "voc2012").rglob("SegmentationClass*/*.png"))
    assert masks
    for path in masks[:2]:
        image = Image.open(next((shared / "voc2012").rglob(f"JPEGImages/{path.stem}.jpg"))).convert("RGB")
        mask = Image.fromarray(np.array(Image.open(path)))
        for weak in ("unimatch", "augseg", "u2pl", "cps", "stpp", "cutmix_seg"):
            strong = weak if weak in STRONG else "none"
            cfg = config(weak, crop=321, base=500, strong=strong, box="unimatch")
            got = unlabeled_view(Sample.of(path.stem, image, mask), cfg, Draw(0, 0, path.stem, "unlabeled0"), 2)
            assert got.weak.shape == (3, 321, 321)
            assert set(got.truth.unique().tolist()) <= {*range(21), 255}


UNREAD_BY = [
    ({"weak": "cps", "crop": 8}, {"scale": [0.5, 2.0], "base": 500, "turn": 0.5, "both_sides": False}),
    ({"weak": "unimatch", "crop": 8}, {"scales": [1.0], "overrun": False, "blur": [0.1, 1.0], "pool_count": [1, 2]}),
    ({"weak": "acdc", "crop": 8}, {"flip": 0.5, "padding": "zero", "label_padding": 0, "scale": [0.5, 1.0]}),
    ({"weak": "none", "crop": 8, "strong": "acdc"}, {"grey_share": 0.2, "cutout_share": 0.1, "pool_hue": 0.5}),
    ({"weak": "none", "crop": 8, "box": "half"}, {"box_share": 0.5, "box_area": [0.5, 0.5], "box_count": 1}),
]


@pytest.mark.parametrize(("names", "name", "value"), [(n, k, v) for n, unread in UNREAD_BY for k, v in unread.items()])
def test_a_setting_that_no_chosen_pipeline_reads_is_refused(names: dict[str, object], name: str, value: object) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        read_views({**names, name: value})
    assert name in UNREAD
    assert name in read_views(names).facts(), "a run's key still holds it"


def test_the_facts_of_all_pipelines_name_the_same_settings() -> None:
    """Else two recipes could differ in what their keys cover. A younger pipeline's settings stand in its keys alone."""
    fields = {*UNREAD, *ViewsConfig.model_fields} - {"device"}  # which counts only where it is set
    for weak in WEAK:
        for strong in STRONG:
            cfg = config(weak, strong=strong, box="unimatch")
            younger = set(type(cfg).model_fields) - {*fields, "device"}
            assert set(cfg.facts()) == fields | younger
            assert not younger or weak in ("semivl", "mask2former")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weak": "u2pl", "crop": 8, "scale": [0.5, 1e30]}, "less than or equal to 8"),
        ({"weak": "u2pl", "crop": 100_000}, "less than or equal to 4096"),
        ({"weak": "u2pl", "crop": 8, "scale": [0.2, 0.8]}, "must contain 1"),
        ({"weak": "stpp", "crop": 8, "base": 8192, "scale": [0.5, 4.0]}, "above 16384 pixels"),
        ({"weak": "cutmix_seg", "crop": 4096, "scale": [0.1, 1.0]}, "above 16384 pixels"),
        ({"weak": "augseg", "crop": 8, "base": 500, "both_sides": True}, "leave it out"),
        (
            {"weak": "none", "crop": 8, "box": "unimatch", "box_area": [0.5, 0.9], "box_ratio": [0.3, 0.4]},
            "no rectangle",
        ),
        ({"weak": "none", "crop": 8, "box": "unimatch", "box_area": [0.0, 0.4]}, "greater than 0"),
        (
            {"weak": "none", "crop": 8, "strong": "unimatch", "jitter": [0.5, 0.5, 0.5, 0.6]},
            "less than or equal to 0.5",
        ),
        ({"weak": "none", "crop": 8, "strong": "unimatch", "blur": [0.1, float("nan")]}, "finite"),
        ({"weak": "cps", "crop": 8, "scales": []}, "at least 1"),
    ],
)
def test_settings_out_of_bounds_are_refused_when_read(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        read_views(given)


def test_settings_reach_loader_workers() -> None:
    """The class is joined at run time, so a worker that was spawned could not import it."""
    cfg = config("cps", strong="stpp", box="cps", cutout_share=0.25)
    again = pickle.loads(pickle.dumps(cfg))  # noqa: S301  made here
    assert again == cfg
    assert type(again) is type(cfg)
