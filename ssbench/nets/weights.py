"""Weights from outside: ImageNet encoders, and the checkpoints the baselines' authors released.

Files are read as data only (`weights_only`), so a pickle that carries code is refused. Nothing is loaded in part: a
file that does not fit is refused with the names that differ, and absent weights are never replaced by random ones.
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

# timm's tag of each encoder's published ImageNet weights. The released deep-stem files name no provenance beyond
# "ImageNet"; Gluon's v1s files are the public ones of the same structure. tv_in1k: torchvision's first weights (ST++).
TAGS = {"resnet50s": "gluon_in1k", "resnet101s": "gluon_in1k"} | {f"resnet{n}": "tv_in1k" for n in (18, 34, 50, 101)}
XCEPTION_FILE = "1_j_mE07tiV24xXOJw4XDze0-a0NAhNVi"  # Google Drive id in UniMatch's README

# Released dictionaries hold the state under one of these; the teacher is what U2PL and AugSeg report.
ENTRIES = ("teacher_state", "model_state", "model", "state_dict")
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
}


def load_encoder(net: nn.Module, weights: str, encoder: str) -> None:
    """Load `net.backbone` in place. `weights`: "random" (leave it), "imagenet" (timm, downloads once), or a file.

    Only a classifier (`fc.*`) may be left over. For a one-channel net the first convolution of a three-channel file is
    summed over its inputs, which equals repeating the channel. Raises DataError when the weights are absent or misfit.
    """
    if weights == "random":
        return
    backbone = net.get_submodule("backbone")
    state = _imagenet(encoder) if weights == "imagenet" else _unwrap(_read(Path(weights)), None, Path(weights))[1]
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    if encoder == "xception65":  # the released file carries leftovers of its conversion
        state = {name: value for name, value in state.items() if not re.search("itr|tmp|track", name)}
    first, kernel = next((name, p) for name, p in backbone.named_parameters())
    if first in state and kernel.shape[1] == 1 and state[first].shape[1] == 3:
        state[first] = state[first].sum(1, keepdim=True)
    _fit(backbone, state, f"weights '{weights}' for encoder '{encoder}'")


def load_checkpoint(net: nn.Module, path: Path, entry: str | None = None) -> dict[str, Any]:
    """Load a released checkpoint (.pth, .safetensors) of UniMatch, ST++, U2PL, AEL, AugSeg or CPS into `net` in place.

    `entry` names the dictionary entry to take, where the file has several; by default the first there is of `ENTRIES`,
    or the file itself. Returns path, entry (None when bare), naming, and the file's epoch and score (percent or
    fraction, as its authors saved it; None when absent). Raises DataError when the file is missing, damaged, carries
    code, or does not fit.
    """
    content = _read(path)
    entry, state = _unwrap(content, entry, path)
    naming = "cps" if any(k.startswith("branch1.") for k in state) else "unimatch"
    naming = "u2pl" if any(k.startswith("decoder.low_conv.") for k in state) else naming
    _fit(net, _rename(state, naming), f"checkpoint {path}")
    score = next((float(content[k]) for k in ("previous_best", "best_miou") if k in content), None)
    epoch = int(content["epoch"]) if "epoch" in content else None
    return {"path": str(path), "entry": entry, "naming": naming, "epoch": epoch, "score": score}


def _imagenet(encoder: str) -> dict[str, Tensor]:
    """timm's published weights of `encoder`, named as `encoders.build` names them."""
    tag = encoder if "." in encoder or encoder not in TAGS else f"{encoder}.{TAGS[encoder]}"
    if encoder == "xception65":
        raise _absent(encoder, f"Google Drive file {XCEPTION_FILE}", "timm's differ in BatchNorm and shortcuts")
    try:
        with torch.random.fork_rng(devices=[]):  # building timm's model draws; the caller's stream must not move
            net = timm.create_model(tag, pretrained=True, features_only=True, out_indices=(-4, -3, -2, -1))
    except Exception as e:  # the network, the hub and timm each raise their own kind
        url = timm.get_pretrained_cfg(tag)
        place = (url.url or url.hf_hub_id) if url else None
        raise _absent(encoder, f"timm {tag}, {place}", f"{type(e).__name__}: {_line(e)}") from e
    return net.state_dict()


def _absent(encoder: str, where: str, why: str) -> DataError:
    fix = "download that file and set net.weights to its path (--set net.weights=FILE), or train from nothing "
    fix += "(--set net.weights=random --division open)"
    return DataError(f"no ImageNet weights for encoder '{encoder}' ({why})", where, fix)


def _read(path: Path) -> dict[str, Any]:
    """The file's dictionary, on the CPU."""
    if not path.is_file():
        raise DataError(f"no weights file '{path}'", fix="give the path of a .pth or .safetensors file, or 'imagenet'")
    try:
        content = _load(path)
    except Exception as e:  # a damaged pickle raises anything at all
        fix = "where you trust it, save its state_dict alone with torch.save, or download the file again"
        raise DataError(f"cannot read weights as plain data ({type(e).__name__}: {_line(e)})", str(path), fix) from e
    if not isinstance(content, dict):
        raise DataError(f"weights file holds a {type(content).__name__}, not a dictionary", str(path))
    return content


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # Authors save their best score as a NumPy number; its constructor and dtypes make no code run.
    scalar: Any = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    with torch.serialization.safe_globals([*scalars, np.dtype, *dtypes]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: dict[str, Any], entry: str | None, path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The entry taken and its state, without the "module." of distributed wrappers."""
    found = [name for name in ENTRIES if isinstance(content.get(name), Mapping)]
    if entry is not None and entry not in found:
        raise DataError(f"checkpoint has no entry '{entry}' (it has: {found or 'none'})", str(path))
    taken = entry or next(iter(found), None)
    state = content if taken is None else content[taken]
    odd = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if odd or not state:
        raise DataError(f"weights file has no state we know ({', '.join(odd[:6]) or 'empty'})", str(path))
    return taken, {name.removeprefix("module."): value for name, value in state.items()}


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


def _fit(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load all of `state` into all of `module`, or refuse.

    Old files lack BatchNorm's batch counter, which nothing here reads.
    """
    want = module.state_dict()
    lists = {
        "missing": [k for k in want if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in state if k not in want],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} for {tuple(want[k].shape)}"
            for k in want
            if k in state and state[k].shape != want[k].shape
        ],
    }
    said = [f"{len(names)} {kind}: {_some(names)}" for kind, names in lists.items() if names]
    if said:
        fix = "use a recipe whose net (layout, encoder, classes, aux, rep) is the one of that file"
        raise DataError(f"{what}: does not fit the network", "; ".join(said), fix)
    module.load_state_dict(state, strict=False)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
