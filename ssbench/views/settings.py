"""Settings of the views: which named pipelines, and every number in them with where it comes from.

Specs are cited by file and section: "unimatch 2" is the behaviour specification of UniMatch, section 2.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Weak = Literal["none", "unimatch", "augseg", "u2pl", "cps", "stpp", "cutmix_seg", "acdc"]
Strong = Literal["none", "unimatch", "augseg", "stpp", "cutmix_seg", "acdc"]
Padding = Literal["black", "mean", "zero"]
Box = Literal["none", "unimatch", "cutmix_seg", "cps", "half", "ael"]

# YAML has lists where Python has tuples; the numbers inside stay strict.
Pair = Annotated[tuple[float, float], Strict(False)]
Four = Annotated[tuple[float, float, float, float], Strict(False)]
Floats = Annotated[tuple[float, ...], Strict(False)]
Share = Annotated[float, Field(ge=0, le=1)]

# A pipeline's own numbers where they differ from the field's default; a recipe's value wins.
OF_WEAK: dict[str, dict[str, Any]] = {
    "augseg": {"padding": "mean"},  # augseg 3.1
    "u2pl": {"padding": "zero"},  # u2pl 3, ael 3.1: padded after normalisation
    "cps": {"padding": "zero"},  # cps 2: padded after normalisation
    "cutmix_seg": {"padding": "zero", "scale": (0.5, 1.5)},  # cutmix_seg 4: alpha channel; scale 0.5 .. 1.5
    "acdc": {"normalise": "none"},  # unimatch 4
}
OF_STRONG: dict[str, dict[str, Any]] = {
    "cutmix_seg": {"jitter": (0.4, 0.4, 0.4, 0.1)},  # cutmix_seg 4
}
OF_BOX: dict[str, dict[str, Any]] = {
    "cutmix_seg": {"box_area": (0.5, 0.5)},  # cutmix_seg 3
    "cps": {"box_area": (0.25, 0.5), "box_count": 3},  # cps 4
}
NEEDS_BASE = {"stpp": "400 for VOC, 2048 for Cityscapes", "augseg": "500 for VOC (Cityscapes: both_sides: true)"}


class ViewsConfig(BaseModel):
    """How samples become views. `weak`, `strong` and `box` name pipelines; the rest are their numbers.

    Fields a named pipeline does not use are ignored by it. Pipeline-specific defaults (OF_WEAK, OF_STRONG, OF_BOX) are
    filled in when the recipe is read, so a resolved recipe shows every value in use.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    weak: Weak
    strong: Strong = "none"
    box: Box = "none"
    crop: Annotated[int, Field(ge=1)]  # side of the square training crop; acdc: side it is zoomed to (unimatch 4)

    # geometry
    scale: Pair = (0.5, 2.0)  # unimatch 2, augseg 2, u2pl 3, stpp 3; AEL's pasted image (0.1, 2.0) (ael 2)
    base: Annotated[int, Field(ge=1)] | None = None  # long side that `scale` multiplies; null: the image's own
    both_sides: bool = False  # augseg: one float factor for both sides of the image (Cityscapes, augseg 2)
    scales: Floats = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)  # cps 2: 1.25 is missing in the release too
    overrun: bool = True  # cps 2: the release's crop may start one pixel late; false: never
    flip: Share = 0.5  # every spec
    turn: Share = 0.5  # acdc: quarter turn and flip (unimatch 4)
    rotate: Share = 0.5  # acdc: else rotation (unimatch 4)
    angles: tuple[int, int] = Field((-20, 19), strict=False)  # acdc: whole degrees, both ends included (unimatch 4)
    padding: Padding = "black"  # black: 0 before normalising; zero: 0 after; mean: 123 116 103
    label_padding: Annotated[int, Field(ge=0, le=255)] = 255  # U2PL and AEL releases pad with 0 (u2pl 12 Q3, ael 3.1)

    # colour, each strong view drawn by itself
    jitter: Four = (0.5, 0.5, 0.5, 0.25)  # brightness, contrast, saturation, hue (unimatch 2a, stpp 3)
    jitter_share: Share = 0.8  # unimatch 2a, stpp 3, cutmix_seg 4
    grey_share: Share = 0.2  # unimatch 2b, stpp 3, cutmix_seg 4
    blur_share: Share = 0.5  # unimatch 2c, stpp 3
    blur: Pair = (0.1, 2.0)  # PIL radius (unimatch 2c, stpp 3, augseg 3.2)
    pool_count: tuple[int, int] = Field((1, 3), strict=False)  # augseg 3.2: operations a picture, both ends included
    pool_factor: Pair = (0.05, 0.95)  # augseg 3.2: contrast, brightness, colour, sharpness; in (0.05, 0.95]
    pool_bits: tuple[int, int] = Field((4, 7), strict=False)  # augseg 3.2: posterise
    pool_solar: tuple[int, int] = Field((1, 255), strict=False)  # augseg 3.2: solarise threshold
    pool_hue: Share = 0.5  # augseg 3.2: largest hue shift, as a share of the circle
    cutout_share: Share = 0.5  # stpp 3
    cutout_area: Pair = (0.02, 0.4)  # stpp 3
    cutout_ratio: Pair = (0.3, 1 / 0.3)  # stpp 3

    # mixing regions
    box_share: Share = 0.5  # unimatch 2d: share of pictures that get a region at all
    box_area: Pair = (0.02, 0.4)  # unimatch 2d; share of the crop
    box_ratio: Pair = (0.3, 1 / 0.3)  # unimatch 2d
    box_count: Annotated[int, Field(ge=1)] = 1  # cps 4: 3 boxes that toggle

    normalise: Literal["imagenet", "none"] = "imagenet"  # none: value / 255

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = OF_WEAK.get(given.get("weak", ""), {}) | OF_STRONG.get(given.get("strong", ""), {})
        return own | OF_BOX.get(given.get("box", ""), {}) | given

    @model_validator(mode="after")
    def _agree(self) -> ViewsConfig:
        if self.weak in NEEDS_BASE and self.base is None and not (self.weak == "augseg" and self.both_sides):
            raise ValueError(f"weak pipeline '{self.weak}' needs `base`: {NEEDS_BASE[self.weak]}")
        for name in ("scale", "angles", "blur", "pool_count", "pool_factor", "box_area", "box_ratio", "cutout_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"`{name}` runs from {low} down to {high}; the smaller number comes first")
        return self
