"""Weights from outside: ImageNet encoders, and the checkpoints that the baselines' authors released.

Files are read as plain data (`weights_only`), so a pickle that carries code is refused. A file that does not fit the
network is refused with the names that differ; it is never loaded in part. Missing weights are an error, never random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ssbench.errors import DataError
from ssbench.nets import mask2former_names, pretrained, semivl_names

OTHER_FILE = "give a file that the baseline's authors released, or one that `ssbench run` wrote"
OTHER_NET = "use a recipe whose net (layout, encoder, classes, aux, rep) is the one of that file"
OTHER_ENCODER = "set net.encoder to the network of that file (names as timm has them), or net.weights to another file"
ENCODER_PREFIXES = ("backbone.", "encoder.", "branch1.backbone.")
"""Of the encoder in whole networks: UniMatch and ST++; U2PL, AEL and AugSeg; CPS."""
ENTRIES = ("teacher_state", "model_state", "model", "state_dict")
"""Where released files hold the state. The teacher comes first: U2PL and AugSeg report its scores."""
RENAMES = {
    "u2pl": (  # U2PL, AEL, AugSeg
        (r"^encoder\.", "backbone."),
        (r"^auxor\.aux\.", "aux."),
        (r"^decoder\.low_conv\.", "reduce."),
        (r"^decoder\.aspp\.conv1\.", "head.b4.gap."),
        (r"^decoder\.aspp\.conv2\.", "head.b0."),
        (r"^decoder\.aspp\.conv3\.", "head.b1."),
        (r"^decoder\.aspp\.conv4\.", "head.b2."),
        (r"^decoder\.aspp\.conv5\.", "head.b3."),
        (r"^decoder\.head\.", "head.project."),
        (r"^decoder\.representation\.", "rep."),
        (r"^decoder\.(final|classifier\.[68])\.", "classifier."),
        (r"^decoder\.(tail|classifier)\.", "fuse."),
    ),
    "cps": (  # branch 1 is the one CPS evaluates
        (r"^branch1\.head\.aspp\.", "head."),
        (r"^branch1\.head\.last_conv\.", "fuse."),
        (r"^branch1\.head\.reduce\.", "reduce."),
        (r"^branch1\.", ""),
    ),
    "unimatch": (),  # UniMatch, ST++: our own names
    "mask2former": (),  # `mask2former_names` renames them
    "semivl": (),  # `semivl_names` renames them
}


def load_encoder(net: nn.Module, weights: str, encoder: str, at: str = "backbone") -> None:
    """Load the encoder of `net`, its submodule `at`, in place.

    Of a file with a whole network (timm's and torchvision's classifiers, a released segmentation network) the encoder
    is taken. For a network of one channel the first convolution of a three-channel file is summed over its inputs,
    which equals repeating the channel.

    Args:
        weights: "random" (nothing is loaded), "imagenet" (timm's, downloaded once), "package" (of an installed package
            with weights), or a file.
    Raises:
        DataError: the weights are missing, damaged, or of another network.
    """
    if weights == "random":
        return
    backbone = net.get_submodule(at)
    state = _named_as(backbone, _encoder_state(weights, encoder), encoder)
    first, kernel = next((name, p) for name, p in backbone.named_parameters())
    if first in state and kernel.shape[1] == 1 and state[first].shape[1] == 3:
        state[first] = state[first].sum(1, keepdim=True)
    _fit(backbone, state, f"weights '{weights}' for encoder '{encoder}'", OTHER_ENCODER)


def load_checkpoint(net: nn.Module, path: Path, entry: str | None = None) -> dict[str, Any]:
    """Load a released checkpoint (.pth, .pkl, .safetensors) into `net` in place.

    Of UniMatch, ST++, U2PL, AEL, AugSeg, CPS, Mask2Former (detectron2's names) or SemiVL.

    Args:
        entry: the dictionary entry to take; by default the first of `ENTRIES` that the file has, or the file itself.
    Returns:
        path, entry (None where the file itself is the state), naming, and epoch and score as the authors saved them
        (percent or fraction; None where they are absent).
    Raises:
        DataError: the file is missing, damaged, carries code, or does not fit.
    """
    content = _read(path)
    entry, state = _unwrap(content, entry, path)
    naming = "cps" if any(k.startswith("branch1.") for k in state) else "unimatch"
    naming = "u2pl" if any(k.startswith("decoder.low_conv.") for k in state) else naming
    if mask2former_names.is_released(state):
        naming, state = "mask2former", mask2former_names.to_ours(state)
    elif semivl_names.is_released(state):
        naming, state = "semivl", semivl_names.from_released(state)
    _fit(net, _rename(state, naming), f"checkpoint {path}")
    try:
        score = next((float(content[k]) for k in ("previous_best", "best_miou") if k in content), None)
        epoch = int(content["epoch"]) if "epoch" in content else None
    except (TypeError, ValueError) as error:
        what = f"epoch or score of the weights file is no number ({error})"
        raise DataError(what, str(path), OTHER_FILE) from None
    return {"path": str(path), "entry": entry, "naming": naming, "epoch": epoch, "score": score}


def read_state(path: Path) -> dict[str, Tensor]:
    """The state in a file as it names it. DataError where it is missing, damaged, or carries code."""
    return _unwrap(_read(path), None, path)[1]


def fit_state(module: nn.Module, state: dict[str, Tensor], what: str, fix: str) -> None:
    """Load all of `state` into all of `module`, or raise a DataError with the names that differ."""
    _fit(module, state, what, fix)


def _encoder_state(weights: str, encoder: str) -> dict[str, Tensor]:
    """What the weights' file holds, under the file's names."""
    if weights == "imagenet":
        return _imagenet(encoder)
    if weights == "package":
        # The file has EfficientNet's own names, in timm's order of modules; every shape was compared.
        state = list(_read(pretrained.packaged_file(encoder)).values())
        return dict(zip(_whole_network(encoder), state, strict=True))
    return _unwrap(_read(Path(weights)), None, Path(weights))[1]


def _named_as(backbone: nn.Module, state: dict[str, Tensor], encoder: str) -> dict[str, Tensor]:
    """The encoder's part of `state`, under the names of `backbone`. What belongs nowhere keeps its name."""
    names = list(backbone.state_dict())
    for prefix in ENCODER_PREFIXES:  # a whole segmentation network: its decoder is left out
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if inner and not names[0].startswith(prefix):
            state = inner
            break
    # timm's feature extractors write "stages_0" where its whole models, and so its files, write "stages.0".
    own = {name.replace(".", "_"): name for name in names}
    renamed = {own.get(name.replace(".", "_"), name): value for name, value in state.items()}
    if encoder == "xception65":
        # The released file also carries leftovers of its conversion from another framework.
        return {name: value for name, value in renamed.items() if not re.search(r"^fc\.|itr|tmp|track", name)}
    whole = _whole_network(encoder)
    beyond = {name for name in whole if name.replace(".", "_") not in own}
    heads = {_module(name) for name in beyond} - {_module(name) for name in whole if name not in beyond} | {"fc"}
    return {n: value for n, value in renamed.items() if n in names or not (n in beyond or _module(n) in heads)}


def _module(name: str) -> str:
    """The outermost module of a parameter."""
    return name.partition(".")[0]


def _whole_network(encoder: str) -> list[str]:
    """Names of the state of timm's whole model, classifier included, in its order."""
    with torch.device("meta"):
        return list(timm.create_model(encoder).state_dict())


def _imagenet(encoder: str) -> dict[str, Tensor]:
    """timm's published weights of `encoder`."""
    if encoder == "xception65":
        raise pretrained.no_imagenet(encoder, "timm's differ in BatchNorm and shortcuts")
    path, url = pretrained.cached_file(encoder), pretrained.address(encoder)
    if path is not None:
        # timm asks the hub about a file even where it is here. It is asked only where names need its translation.
        state = _read(path)
        if all(name in state for name in _whole_network(encoder) if not name.endswith("num_batches_tracked")):
            return state
    elif url is None or (why := pretrained.unreachable(url)):
        raise pretrained.no_imagenet(encoder, why if url else "timm has none")
    try:
        with torch.random.fork_rng(devices=[]):  # building timm's model draws; the caller's stream must not move
            name = pretrained.timm_name(encoder)
            net = timm.create_model(name, pretrained=True, features_only=True, out_indices=(-4, -3, -2, -1))
    except Exception as error:  # the network, the hub and timm each raise their own kind
        raise pretrained.no_imagenet(encoder, f"{type(error).__name__}: {_first_line(error)}") from error
    return net.state_dict()


def _read(path: Path) -> dict[str, Any]:
    """The file's dictionary, on the CPU."""
    if not path.is_file():
        raise pretrained.no_file(str(path))
    try:
        content = _load(path)
    except Exception as error:  # a damaged pickle raises anything at all
        fix = "where you trust it, save its state_dict alone with torch.save, or download the file again"
        what = f"cannot read weights as plain data ({type(error).__name__}: {_first_line(error)})"
        raise DataError(what, str(path), fix) from error
    if not isinstance(content, dict):
        raise DataError(f"weights file holds a {type(content).__name__}, not a dictionary", str(path), OTHER_FILE)
    return content


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # Authors save their best score as a NumPy number. Its constructor and dtypes run no code of the file.
    scalar: Any = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    with torch.serialization.safe_globals([*scalars, np.dtype, *dtypes]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: dict[str, Any], entry: str | None, path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The entry taken and its state, without the "module." of distributed wrappers."""
    entries = [name for name in ENTRIES if isinstance(content.get(name), Mapping)]
    if entry is not None and entry not in entries:
        raise DataError(f"checkpoint has no entry '{entry}' (it has: {entries or 'none'})", str(path), OTHER_FILE)
    entry = entry or next(iter(entries), None)
    state = content if entry is None else content[entry]
    wrong = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong or not state:
        raise DataError(f"weights file has no state we know ({', '.join(wrong[:6]) or 'empty'})", str(path), OTHER_FILE)
    return entry, {name.removeprefix("module."): value for name, value in state.items()}


def _rename(state: dict[str, Tensor], naming: str) -> dict[str, Tensor]:
    """The state under our names; CPS's second branch is left out."""
    renamed = {}
    for name, value in state.items():
        if naming == "cps" and name.startswith("branch2."):
            continue
        for pattern, ours in RENAMES[naming]:
            name, changed = re.subn(pattern, ours, name)
            if changed:
                break
        renamed[name] = value
    return renamed


def _fit(module: nn.Module, state: dict[str, Tensor], what: str, fix: str = OTHER_NET) -> None:
    """Load all of `state` into all of `module`, or raise a DataError with the names that differ."""
    own = module.state_dict()
    shapes = {name: (tuple(state[name].shape), tuple(own[name].shape)) for name in own if name in state}
    misfits = {
        # Old files lack BatchNorm's batch counter, which nothing here reads.
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [f"{name} {there} for {here}" for name, (there, here) in shapes.items() if there != here],
    }
    if any(misfits.values()):
        lists = [f"{len(names)} {kind}: {_shortened(names)}" for kind, names in misfits.items() if names]
        raise DataError(f"{what}: does not fit the network", "; ".join(lists), fix)
    module.load_state_dict(state, strict=False)


def _shortened(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
