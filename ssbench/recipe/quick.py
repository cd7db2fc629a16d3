"""What `--quick` changes: toy data, a small net and crop, few steps. Method, plug-in, losses and protocol stay.

A quick run answers "does it run at all?" in seconds on one core. Its scores mean nothing, and no table shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssbench import find
from ssbench.recipe.marks import Keys, Mark, Marked

CROP = 48  # pixels: three cells of an encoder at output stride 16
EVAL_CROP = 72  # two windows a side on scenes of 88 to 96 pixels, three on larger ones


def shrunk(raw: Mapping[str, Any], own: Mapping[str, Any], grey: bool) -> Marked:
    """The values to lay over a merged, valid recipe; `own` is its own `quick:` section, which wins.

    grey: its data have one channel, so the toy data are shown as grey stacks.
    """
    small: dict[str, Any] = {
        "data": {"dataset": "toy", "workers": 0, "few": 4, "form": "grey_stacks" if grey else "own"},
        "views": {"crop": CROP, **({"base": 2 * CROP} if _field(raw, "views", "base") else {})},
        "net": _net(raw),
        "plugin": _plugins(raw.get("plugin")),
        "schedule": {
            "epochs": 2,  # methods with a supervised first epoch show their second
            "labeled_batch": 2,
            "unlabeled_batch": 2 if _field(raw, "schedule", "unlabeled_batch") else 0,
            "devices": 1,
            **({"steps": None} if _field(raw, "schedule", "steps") else {}),  # it would go before `epochs`
        },
        "eval": {"select": "val", "report": "val", "every": 1, "few": 1, **_eval_crop(raw)},
    }
    for section, block in own.items():
        whole = not isinstance(block, dict) or "name" in block
        small[section] = block if whole else {**small.get(section, {}), **block}
    kept = {section: block for section, block in small.items() if block}
    mark = Mark("--quick", 0, "--quick")
    places = (place for section, block in kept.items() for place in _places((section,), block))
    return Marked(kept, {**dict.fromkeys(places, mark), **{(s,): mark for s in kept if s not in raw}})


def _places(at: Keys, block: Any) -> list[Keys]:
    """Where the fields of a section stand, or of each block of a list."""
    if isinstance(block, list):
        return [place for i, inner in enumerate(block) for place in _places((*at, i), inner)]
    return [(*at, field) for field in block] if isinstance(block, dict) else []


def _net(raw: Mapping[str, Any]) -> dict[str, Any]:
    return small_settings(find.load("net", str(_field(raw, "net", "name"))))


def small_settings(net: type[Any]) -> dict[str, Any]:
    """The settings of a class of networks for runs of seconds."""
    return {field: value for field, value in net.quick.items() if field in net.Config.model_fields}


def _plugins(section: Any) -> Any:
    """Plug-ins with their own settings for `--quick`; nothing where none has any."""
    listed = section if isinstance(section, list) else [section]
    blocks = [entry if isinstance(entry, dict) else {"name": entry} for entry in listed]
    small = [find.load("plugin", b["name"]).quick if b["name"] not in (None, "none") else {} for b in blocks]
    if not any(small):
        return {}
    if not isinstance(section, list):
        return {"name": blocks[0]["name"], **small[0]}
    return [{"name": block["name"], **fewer} for block, fewer in zip(blocks, small, strict=True)]


def _eval_crop(raw: Mapping[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {"crop": EVAL_CROP} if _field(raw, "eval", "protocol") not in (None, "whole") else {}
    windows = {"step": EVAL_CROP * 5 // 6, "resize": [4 * EVAL_CROP, EVAL_CROP + 36]}
    return small | {name: value for name, value in windows.items() if _field(raw, "eval", name)}


def _field(raw: Mapping[str, Any], section: str, field: str) -> Any:
    """A field of a section, None where there is neither."""
    return (raw.get(section) or {}).get(field)
