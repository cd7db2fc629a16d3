"""Weights from outside: ImageNet encoders, and the checkpoints that the baselines' authors released.

Files are read as plain data (`weights_only`), so a pickle that carries code is refused. A file that does not fit the
network is refused with the names that differ; it is never loaded in part. Missing weights are an error, never random.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ssbench.errors import DataError
from ssbench.nets import mask2former_names, pretrained, semivl_names
from ssbench.nets.renaming import RELEASED_PARTS, RENAMES, rename

OTHER_FILE = "give a file that the baseline's authors released, or one that `ssbench run` wrote"
OTHER_NET = "use a recipe whose net (layout, encoder, classes, aux, rep) is the one of that file"
OTHER_ENCODER = "set net.encoder to the network of that file (names as timm has them), or net.weights to another file"
ENCODER_PREFIXES = ("backbone.", "encoder.", "branch1.backbone.")
"""Of the encoder in whole networks: UniMatch and ST++; U2PL, AEL and AugSeg; CPS."""
ENTRIES = ("teacher_state", "model_state", "model", "state_dict")
"""Where released files hold the state. The teacher comes first: U2PL and AugSeg report its scores."""
ROLES: dict[str, tuple[str, ...]] = {
    "student": ("student", "net", "model_state", "model", "state_dict", "student_state", "student_model"),
    "teacher": (
        *("teacher", "ema", "model_ema", "state_dict_ema", "ema_net", "teacher_state", "ema_state_dict", "ema_model"),
        *("teacher_model", "teacher_state_dict"),
    ),
}
"""What entries of checkpoints are called that hold the trained network, or its moving average."""
TEACHERS = ("teacher", "ema", "model_ema", "state_dict_ema")
"""Names that ask for the moving average whatever a file calls it."""
WRAPPERS = frozenset({"module", "_orig_mod"})
"""Parts of names that DataParallel, DDP, timm's EMA and torch.compile add."""


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
    state = without_wrappers(_encoder_state(weights, encoder), backbone.state_dict())
    state = _named_as(backbone, state, encoder)
    first, kernel = next((name, p) for name, p in backbone.named_parameters())
    if first in state and kernel.shape[1] == 1 and state[first].shape[1] == 3:
        state[first] = state[first].sum(1, keepdim=True)
    _fit(backbone, state, f"weights '{weights}' for encoder '{encoder}'", OTHER_ENCODER)


def load_checkpoint(net: nn.Module, path: Path, entry: str | None = None) -> dict[str, Any]:
    """Load a released checkpoint (.pth, .pkl, .safetensors) into `net` in place.

    Of UniMatch, UniMatch V2, ST++, U2PL, AEL, AugSeg, CPS, Mask2Former (detectron2's names) or SemiVL.

    Args:
        entry: the network to take, by the name of its dictionary entry or by what it is (`ROLES`); by default the
            first of `ENTRIES` that the file has, or the file itself.
    Returns:
        path, entry (None where the file itself is the state), others (entries that hold further networks), naming, and
        epoch and score as the authors saved them (percent or fraction; None where they are absent or no number).
        notes: a line for each thing that was left out.
    Raises:
        DataError: the file is missing, damaged, carries code, or does not fit.
    """
    content = _read(path)
    states = _states(content)
    entry, content = _teacher_of_v2(content, states, entry)
    entry, state = _unwrap(content, entry, path)
    own = net.state_dict()
    state = _without_shared_parts(without_wrappers(state, own), own)
    naming = "cps" if any(k.startswith("branch1.") for k in state) else "unimatch"
    naming = "u2pl" if any(k.startswith("decoder.low_conv.") for k in state) else naming
    naming = "unimatch_v2" if any(k.startswith("head.scratch.") for k in state) else naming
    if mask2former_names.is_released(state):
        naming, state = "mask2former", mask2former_names.to_ours(state)
    elif semivl_names.is_released(state):
        naming, state = "semivl", semivl_names.from_released(state)
    _fit(net, _rename_state(state, naming), f"checkpoint {path}")
    numbers, notes = {name: _number(content.get(name)) for name in ("epoch", "previous_best", "best_miou")}, []
    for name, number in numbers.items():
        if name in content and number is None:
            notes.append(f"{path.name} says {name} = {_shown(content[name])}, which is no number: left out")
    epoch = None if numbers["epoch"] is None else int(numbers["epoch"])
    score = next((numbers[k] for k in ("previous_best", "best_miou") if numbers[k] is not None), None)
    others = [name for name in states if name != entry]
    return {"path": str(path), "entry": entry, "others": others, "naming": naming, "epoch": epoch, "score": score,
            "notes": notes}  # fmt: skip


def _teacher_of_v2(
    content: dict[str, Any], states: Collection[str], entry: str | None
) -> tuple[str | None, dict[str, Any]]:
    """(entry, content) of a file of UniMatch V2 with its teacher, unless another entry is asked for; others unchanged.

    The student's best epoch decides when its `best.pth` is written. The teacher's best score is this state's only where
    it was reached in the same epoch, and is left out elsewhere (card: unimatch_v2 10).
    """
    if "previous_best_ema" not in content or entry_named(entry or "teacher", states) != "model_ema":
        return entry, content
    is_best = content.get("best_epoch_ema") == content.get("epoch")
    rest = {name: value for name, value in content.items() if name != "previous_best"}
    return "model_ema", {**rest, "previous_best": content["previous_best_ema"]} if is_best else rest


def _number(value: object) -> float | None:
    """A finite number as it is, also one that NumPy or torch wrote; None for anything else."""
    if isinstance(value, np.generic | Tensor):
        value = value.item() if isinstance(value, np.generic) or value.numel() == 1 else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number and isinstance(value, int | float) else None


def _shown(value: object) -> str:
    return repr(value)[:60]


def read_state(path: Path) -> dict[str, Tensor]:
    """The state in a file as it names it. DataError where it is missing, damaged, or carries code."""
    return _unwrap(_read(path), None, path)[1]


def timm_state(name: str, missing: Callable[[str], DataError], **options: Any) -> dict[str, Tensor]:
    """The state of a network with timm's published weights, from its cache, else downloaded once.

    Args:
        missing: the error for a reason why there are none.
        options: of `timm.create_model`.
    """
    url = pretrained.address(name)
    # The hub's own client tries for a minute before it gives up.
    if pretrained.cached_file(name) is None and (why := pretrained.unreachable(url) if url else "timm has none"):
        raise missing(why)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # building draws; the caller's stream stays
            net = timm.create_model(pretrained.timm_name(name), pretrained=True, **options)
    except Exception as error:  # the network, the hub and timm each raise their own kind
        raise missing(f"{type(error).__name__}: {_first_line(error)}") from error
    return dict(net.state_dict())


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
    if (path := pretrained.cached_file(encoder)) is not None:
        # timm asks the hub about a file even where it is here. It is asked only where names need its translation.
        state = _read(path)
        if all(name in state for name in _whole_network(encoder) if not name.endswith("num_batches_tracked")):
            return state
    missing = partial(pretrained.no_imagenet, encoder)
    return timm_state(encoder, missing, features_only=True, out_indices=(-4, -3, -2, -1))


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
    """The entry taken and its state, as it stands in the file."""
    states = _states(content)
    if entry is not None:
        name = entry_named(entry, states)
        if name is None:
            what = f"checkpoint has no entry '{entry}' (it has: {', '.join(states) or 'a bare state'})"
            raise DataError(
                what, str(path), f"--entry with one of these: {', '.join(states)}" if states else OTHER_FILE
            )
        return name, states[name]
    if states:
        name = next((known for known in ENTRIES if known in states), next(iter(states)))
        return name, states[name]
    # the first of the usual entries that is a dictionary at all, so that the error names what it holds
    name = next((known for known in ENTRIES if isinstance(content.get(known), Mapping)), None)
    state = content if name is None else content[name]
    wrong = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong or not state:
        raise DataError(f"weights file has no state we know ({', '.join(wrong[:6]) or 'empty'})", str(path), OTHER_FILE)
    return name, dict(state)


def _states(content: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The networks in a file, by entry: dictionaries of tensors, or tensors of one file told apart by a prefix.

    Empty where the file itself is the state of one network.
    """
    if entries := {name: dict(value) for name, value in content.items() if _is_state(value)}:
        return entries
    if not _is_state(content):
        return {}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in content.items():
        parts = [part for part in name.split(".") if part not in WRAPPERS]
        groups.setdefault(parts[0] if parts else "", {})[".".join(parts[1:])] = value
    known = {name for names in ROLES.values() for name in names}
    return groups if len(groups) > 1 and groups.keys() <= known else {}


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 1  # the weights of a loss may stand there, too
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def entry_named(entry: str, states: Collection[str]) -> str | None:
    """The entry called so, or the one that is what this name stands for."""
    if entry in states:
        return entry
    role = ROLES["student"] if entry in ("student", "net") else ROLES["teacher"] if entry in TEACHERS else ()
    return next((name for name in role if name in states), None)


def without_wrappers(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The state without what DataParallel and torch.compile put into its names, wherever it stands in them.

    A part that the network `own` has itself stays.
    """
    dropped = WRAPPERS - {part for name in own for part in name.split(".")}
    bare = {".".join(part for part in name.split(".") if part not in dropped): v for name, v in state.items()}
    return bare if len(bare) == len(state) else dict(state)  # where two names became one, these were no wrappers


def _without_shared_parts(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The state without each first part that all names share and the network does not have ("model." of Lightning)."""
    tops = {name.partition(".")[0] for name in own} | RELEASED_PARTS
    while len(firsts := {name.partition(".")[0] for name in state}) == 1 and not firsts & tops:
        shorter = {name.partition(".")[2]: value for name, value in state.items()}
        if "" in shorter or len(shorter) != len(state):
            break
        state = shorter
    return state


def _rename_state(state: dict[str, Tensor], naming: str) -> dict[str, Tensor]:
    """The state under our names; CPS's second branch is left out."""
    own = {name: value for name, value in state.items() if naming != "cps" or not name.startswith("branch2.")}
    return {rename(name, RENAMES[naming]): value for name, value in own.items()}


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
