"""Refuses sections of a recipe that do not fit each other, at the line that says so."""

from __future__ import annotations

from typing import Any

from ssbench.errors import RecipeError
from ssbench.nets.pretrained import ALL_PACKAGED, normalisation_of
from ssbench.recipe.marks import Marked
from ssbench.views.settings import ViewsConfig


def refuse_unfit_crop(net: Any, views: ViewsConfig, marked: Marked) -> None:
    """Refuse a network made for crops of another size (`net.crop`, where it has one) than the views'. RecipeError."""
    crop = getattr(net, "crop", None)
    if isinstance(crop, int) and crop != views.crop:
        what = f"the network is made for crops of {crop} pixels, views.crop is {views.crop}"
        raise RecipeError(what, str(marked.at(("net", "crop"))), f"crop: {views.crop} in both")


def refuse_unfit_weights(net: Any, views: ViewsConfig, marked: Marked) -> None:
    """Refuse images normalised otherwise than those that the encoder's weights were trained on.

    Unnormalised images are allowed for weights of the ImageNet statistics: the releases train so on ACDC.

    Raises:
        RecipeError: as said, or `weights: package` for an encoder that no package has.
    """
    encoder, weights = getattr(net, "encoder", None), getattr(net, "weights", None)
    if not isinstance(encoder, str) or not isinstance(weights, str):  # the net of a user's file has its own settings
        return
    if weights == "package" and encoder not in ALL_PACKAGED:
        what = f"no package has weights for encoder '{encoder}' (there are: {', '.join(ALL_PACKAGED)})"
        raise RecipeError(what, str(marked.at(("net", "weights"))), f"encoder: {next(iter(ALL_PACKAGED))}")
    own = normalisation_of(encoder, weights)
    if own is None or views.normalise in (own, "none" if own == "imagenet" else own):
        return
    what = f"views.normalise is '{views.normalise}', but weights '{weights}' of encoder '{encoder}' need '{own}'"
    raise RecipeError(what, str(marked.at(("views", "normalise"))), f"normalise: {own} (--set views.normalise={own})")


def refuse_device_views(views: ViewsConfig, precision: str, marked: Marked) -> None:
    """Refuse pictures computed on the device in a run that computes as the releases do (`views.device`).

    Raises:
        RecipeError: as said.
    """
    if views.device == "device" and precision == "exact":
        what = "views.device: device changes pixels by their rounding, which precision: exact excludes"
        fix = "--set schedule.precision=fast, or views.device: auto"
        raise RecipeError(what, str(marked.at(("views", "device"))), fix)
