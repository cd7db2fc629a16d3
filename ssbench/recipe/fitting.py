"""Refuses sections of a recipe that do not fit each other, at the line that says so."""

from __future__ import annotations

from collections.abc import Sequence
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
        raise RecipeError(what, str(marked.at(("net", "crop"))), f"--set net.crop={views.crop}")


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
        raise RecipeError(what, str(marked.at(("net", "weights"))), f"--set net.encoder={next(iter(ALL_PACKAGED))}")
    own = normalisation_of(encoder, weights)
    if own is None or views.normalise in (own, "none" if own == "imagenet" else own):
        return
    what = f"views.normalise is '{views.normalise}', but weights '{weights}' of encoder '{encoder}' need '{own}'"
    raise RecipeError(what, str(marked.at(("views", "normalise"))), f"normalise: {own} (--set views.normalise={own})")


def refuse_single_image(classes: Sequence[type[Any]], method: Any, plugins: Sequence[Any], schedule: Any) -> None:
    """Refuse batches of which one image passes alone through a network that pools images to 1 x 1.

    Batch norm has one value a channel there, and torch refuses it at the first step.

    Args:
        classes: of method, net and plug-ins.
    Raises:
        RecipeError: as said, with the smallest batches that the method takes.
    """
    cls, net = classes[:2]
    views = next((plugin.mixed_views for plugin in plugins if getattr(plugin, "mixed_views", None)), None)
    labeled, unlabeled = schedule.labeled_batch, schedule.unlabeled_batch

    def is_single(labeled: int, unlabeled: int) -> bool:
        return bool(cls.smallest_pass(method, labeled, unlabeled, views) == 1)

    if not getattr(net, "pools_images", False) or not is_single(labeled, unlabeled):
        return
    doubled = ((2 * labeled, unlabeled), (labeled, 2 * unlabeled), (2 * labeled, 2 * unlabeled))
    pairs = [pair for pair in doubled if not is_single(*pair) and _takes(cls, method, *pair)]
    names, before = ("schedule.labeled_batch", "schedule.unlabeled_batch"), (labeled, unlabeled)
    larger = next(iter(pairs), doubled[-1])
    fix = " ".join(f"--set {name}={new}" for name, new, old in zip(names, larger, before, strict=True) if new != old)
    name = net.Config.model_fields["name"].default
    what = f"a batch of one image: one image of the batch passes alone, and net '{name}' pools it to 1 x 1"
    where = next(name for name, new, old in zip(names, larger, before, strict=True) if new != old)
    raise RecipeError(f"{what}: batch norm has one value a channel", where, f"{fix}, or another net")


def _takes(cls: type[Any], method: Any, labeled: int, unlabeled: int) -> bool:
    try:
        cls.check_batches(method, labeled, unlabeled)
    except RecipeError:
        return False
    return True


def refuse_device_views(views: ViewsConfig, precision: str, marked: Marked) -> None:
    """Refuse pictures computed on the device in a run that computes as the releases do (`views.device`).

    Raises:
        RecipeError: as said.
    """
    if views.device == "device" and precision == "exact":
        what = "views.device: device changes pixels by their rounding, which precision: exact excludes"
        fix = "--set schedule.precision=fast, or views.device: auto"
        raise RecipeError(what, str(marked.at(("views", "device"))), fix)
