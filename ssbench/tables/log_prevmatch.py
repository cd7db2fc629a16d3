"""Training logs of PrevMatch (wooseok-shin/PrevMatch, `training_logs/`): what in one its code does not write.

The layout is UniMatch's, of which the code began as a copy (card: prevmatch 7). The settings have `amp` and `prev`
besides, and sometimes `model`. The line of an epoch may end in the time left. The line of a step begins with the time
of an iteration, and has three more terms as soon as there is a former model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ssbench.tables.log_form import (
    UNIMATCH_SETTINGS,
    UNIMATCH_STEPS,
    dataset_findings,
    named_words,
    unimatch_lines,
    unknown_settings,
)

AUTHOR = "PrevMatch"
SETTINGS = UNIMATCH_SETTINGS | {"amp", "model", "prev", "save_map"}
LIST_SETTINGS = frozenset({"base_only_epoch", "conf_thresh", "list_max_len", "model_num", "random_select"})
BACKBONES = re.compile(r"resnet\d+|xception")
ALONE = next(terms for terms, method in UNIMATCH_STEPS.items() if method == "unimatch") | {"iter time"}
WITH_FORMER = ALONE | {"Loss s_prev", "Loss w_fp_prev", "Mask_prev"}
"""The terms of a step without and with a former model; "Mask" stands for "Mask ratio"."""
EPOCH = re.compile(r"=+> Epoch: \d+, LR: [\d.]+, Previous best: [\d.]+, ETA: [\d.]+M")


def is_prevmatch(settings: Mapping[str, Any]) -> bool:
    """Whether PrevMatch's code, or a copy of it, printed these settings."""
    return "prev" in settings


def prevmatch_findings(settings: Mapping[str, Any], text: str) -> list[str]:
    """What in a log with PrevMatch's settings its code does not write; none: it is theirs."""
    return [*_of_settings(settings), *_of_steps(text), *_of_path(settings)]


def _of_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from unknown_settings(set(settings) - SETTINGS)
    listed = settings["prev"]
    if not isinstance(listed, dict) or set(listed) != LIST_SETTINGS:
        yield f"its setting 'prev' does not have the {named_words('field', sorted(LIST_SETTINGS))}"
    yield from dataset_findings(AUTHOR, settings.get("dataset"), settings.get("nclass"))
    if not BACKBONES.fullmatch(backbone := str(settings.get("backbone"))):
        yield f"its backbone '{backbone[:40]}' is none of resnet and xception"


def _of_steps(text: str) -> Iterator[str]:
    steps, lines = unimatch_lines(text)
    if unknown := [line for line in lines if not EPOCH.fullmatch(line)]:
        yield f"it has the {named_words('line', unknown)}"
    if not steps:
        yield "it has no line of a training step ('Iters: 0, iter time: ...')"
    for terms in sorted(steps - {ALONE, WITH_FORMER}, key=sorted):
        if foreign := sorted(terms - WITH_FORMER):
            yield f"its training steps have the {named_words('term', foreign)}"
        else:
            yield f"its training steps lack the {named_words('term', sorted(ALONE - terms or WITH_FORMER - terms))}"


def _of_path(settings: Mapping[str, Any]) -> Iterator[str]:
    """`scripts/train_*.sh` put exp/DATASET/prevmatch/BACKBONE/SPLIT there; another method's script another name."""
    parts = str(settings.get("save_path", "")).split("/")
    if len(parts) > 3 and parts[0] == "exp" and parts[2] != "prevmatch":
        yield f"its save_path is that of '{parts[2][:40]}'"
