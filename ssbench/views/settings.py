"""Settings that every combination of view pipelines has, and the types of the settings beside each pipeline.

A recipe names three pipelines: `weak` (`views.weak`), `strong` (`views.strong`) and `box` (`views.regions`). Each has a
class with its own settings, and `pipelines.read_views` joins the three: a setting that none of them reads is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

WeakName = Literal["none", "unimatch", "augseg", "u2pl", "cps", "stpp", "cutmix_seg", "acdc", "mask2former", "semivl"]
StrongName = Literal["none", "unimatch", "augseg", "stpp", "cutmix_seg", "acdc"]
BoxName = Literal["none", "unimatch", "cutmix_seg", "cps", "half", "ael"]

LARGEST = 16384
"""Longest side, in pixels, of any picture on the way to a view: 800 MB as RGB."""

Number = TypeVar("Number", int, float)


def _refuse_descending(pair: tuple[Number, Number]) -> tuple[Number, Number]:
    if pair[0] > pair[1]:
        raise ValueError(f"it runs from {pair[0]} down to {pair[1]}; the smaller number comes first")
    return pair


LOOSE, ASCENDING = Strict(False), AfterValidator(_refuse_descending)
"""LOOSE: YAML has lists where Python has tuples. The numbers inside stay strict."""
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0.05, le=8)]  # of a side; above 8 a Cityscapes image is longer than LARGEST
Factors = Annotated[tuple[Factor, ...], LOOSE, Field(min_length=1, max_length=64)]
Scale = Annotated[tuple[Factor, Factor], LOOSE, ASCENDING]
Area = Annotated[float, Field(gt=0, le=0.95)]  # share of a picture; a larger rectangle hardly ever fits by rejection
Areas = Annotated[tuple[Area, Area], LOOSE, ASCENDING]
Ratio = Annotated[float, Field(ge=0.01, le=100)]  # height / width
Ratios = Annotated[tuple[Ratio, Ratio], LOOSE, ASCENDING]
Radius = Annotated[float, Field(ge=0, le=100)]
Radii = Annotated[tuple[Radius, Radius], LOOSE, ASCENDING]

UNREAD: dict[str, Any] = {
    **{"scale": [0.5, 2.0], "base": None, "both_sides": False, "scales": [0.5, 0.75, 1.0, 1.5, 1.75, 2.0]},
    **{"overrun": True, "flip": 0.5, "turn": 0.5, "rotate": 0.5, "angles": [-20, 19]},
    **{"padding": "black", "label_padding": 255},
    **{"jitter": [0.5, 0.5, 0.5, 0.25], "jitter_share": 0.8, "grey_share": 0.2, "blur_share": 0.5, "blur": [0.1, 2.0]},
    **{"pool_count": [1, 3], "pool_factor": [0.05, 0.95], "pool_bits": [4, 7], "pool_solar": [1, 255], "pool_hue": 0.5},
    **{"cutout_share": 0.5, "cutout_area": [0.02, 0.4], "cutout_ratio": [0.3, 1 / 0.3]},
    **{"box_share": 0.5, "box_area": [0.02, 0.4], "box_ratio": [0.3, 1 / 0.3], "box_count": 1},
}
"""Settings of all pipelines, as they stand in a run's key where no chosen pipeline reads them.

Until a setting that is not read was refused, all of them were hashed into the key of a run. Stored records keep their
keys because these values still are.
"""


class ViewsConfig(BaseModel):
    """How samples become views: the names of three pipelines, and what all of them read."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    pipelines: ClassVar[str] = ""  # the three of a joined class, for messages

    weak: WeakName
    strong: StrongName = "none"
    box: BoxName = "none"
    crop: Annotated[int, Field(ge=1, le=4096)]  # side of the square training crop; acdc: side it is zoomed to
    normalise: Literal["imagenet", "half", "none"] = "imagenet"  # half: mean and std 0.5; none: value / 255

    device: Literal["auto", "host", "device"] = "auto"  # ours: who computes the pictures, see `views.device`

    behaviours: ClassVar[dict[str, int]] = {
        "weak acdc": 2,  # slices are float and zoomed as scipy does at every size
        "box ael": 2,  # the fallback rectangle's corner is rounded
    }
    """Version of what a pipeline computes, where it is above 1. Raise it when its views change: above 1 it enters the
    run key."""

    @property
    def behaviour(self) -> int:
        """Version of these three pipelines together: it rises whenever one of them does.

        The two that reached version 2 did so at once, and keys of that time have a 2 for both together.
        """
        chosen = (f"weak {self.weak}", f"strong {self.strong}", f"box {self.box}")
        versions = [self.behaviours.get(name, 1) for name in chosen]
        return min(max(versions), 2) + sum(max(version - 2, 0) for version in versions)

    def facts(self) -> dict[str, Any]:
        """The settings as a run's key holds them: those in use, and the `UNREAD` values of all others.

        `device` counts where it is set. With "auto" the record says what was chosen, as of the number format.
        """
        facts = UNREAD | self.model_dump(mode="json")
        return {name: value for name, value in facts.items() if name != "device" or value != "auto"}


class Padded(ViewsConfig):
    """Settings of weak pipelines that may crop beyond the image."""

    padding: Literal["black", "mean", "zero"] = "black"  # black: 0 before normalising; zero: 0 after; mean: 123 116 103
    label_padding: Annotated[int, Field(ge=0, le=255)] = 255  # the releases of U2PL and AEL pad with 0 (card: views 5)
