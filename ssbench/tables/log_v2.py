"""Training logs of UniMatch V2 (LiheYoung/UniMatch-V2, `training-logs/`): their form, and what in one is not of it.

One layout serves four scripts (card: unimatch_v2 11). The settings are UniMatch's with `model`, and `lock_backbone` in
logs since August 2024. Supervised training prints one score an epoch. The others print two, "MeanIoU: 55.20, EMA:
60.63"; the second is the teacher's, which the paper reports. FixMatch and UniMatch V2 print the very same lines: only
`save_path` (exp/DATASET/METHOD/BACKBONE/SPLIT) tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ssbench.tables.claims import FROZEN
from ssbench.tables.log_form import (
    DATASETS,
    DATED,
    NUMBER,
    STEP,
    UNIMATCH_SETTINGS,
    dataset_findings,
    method_of_path,
    named_words,
    unknown_settings,
)

REPOSITORY = "UniMatch-V2"
"""Key of this repository in the split manifest, whose lists it shares with UniMatch but for ADE20K's."""
SETTINGS = UNIMATCH_SETTINGS | {"model", "lock_backbone", "pretrained_path"}
METHODS = {"supervised": "supervised", "fixmatch": "fixmatch", "unimatch_v1": "unimatch", "unimatch_v2": "unimatch_v2"}
"""The method as `save_path` calls it -> our name."""
STEPS: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"Total loss"}): ("supervised",),
    frozenset({"LR", "Total loss", "Loss x", "Loss s", "Mask ratio"}): ("fixmatch", "unimatch_v2"),
    frozenset({"LR", "Total loss", "x", "u", "strong", "fp", "Mask ratio"}): ("unimatch",),
}
"""The terms of a training step's line -> the methods whose scripts print them."""
ENCODERS = {f"dinov2_{size}": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""The encoder as its settings call it -> our name, timm's."""
RELEASED: dict[str, dict[str, Any]] = {
    "pascal": {"epochs": 60, "crop_size": 518, "images a step": 16},
    "cityscapes": {"epochs": 180, "crop_size": 798, "images a step": 8},
    "ade20k": {"epochs": 60, "crop_size": 518, "images a step": 8},
    "coco": {"epochs": 20, "crop_size": 518, "images a step": 16},
}
"""configs/*.yaml, for four processes; what all share is in `SHARED`. A claim names every other value."""
SHARED = {"lr": 5e-06, "lr_multi": 40.0, "conf_thresh": 0.95}

_EPOCH = re.compile(r"=> Epoch: (\d{1,9})")
_KEPT = re.compile(r"Loss s: .*Mask ratio: (\d{1,9}(?:\.\d{1,9})?)$|fp: .*Mask ratio: (\d{1,9}(?:\.\d{1,9})?)$")
SCORE = re.compile(r"Evaluation .*>>>> MeanIoU: (-?\d{1,9}\.\d\d|nan)(?:, EMA: (-?\d{1,9}\.\d\d|nan))?\s*$")
_KNOWN = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:Total|Encoder|Decoder) params: .*",
        rf"=+> Epoch: \d+, LR: (?:{NUMBER}), Previous best: (?:{NUMBER})",
        rf"=+> Epoch: \d+, Previous best: (?:{NUMBER}) @epoch-\d+, EMA: (?:{NUMBER}) @epoch-\d+",
        rf"\*+ Evaluation [^*]*\*+ >>>> (?:MeanIoU|Class \[.*\] IoU): (?:{NUMBER})(?:, EMA: (?:{NUMBER}))?",
        r"\*+ Load from checkpoint at epoch \d+",
        r"\{.*",  # the settings
    )
)


class EpochScore(NamedTuple):
    """The scores of one epoch as they are printed, and the line (from 0) that has them."""

    line: int
    epoch: int
    score: str
    student: str = ""


class V2Form(NamedTuple):
    """What the lines hold: scores, share of pixels kept by epoch, terms of training steps, lines of no known form."""

    tests: list[EpochScore]
    kept: dict[int, float]
    steps: set[frozenset[str]]
    unknown: list[str]


def is_v2(settings: Mapping[str, Any]) -> bool:
    """Whether settings are UniMatch V2's: UniMatch's own name no `model`."""
    return "model" in settings and "backbone" in settings


def read_v2(settings: Mapping[str, Any], text: str) -> tuple[dict[str, Any], list[str]]:
    """The fields of a `Log`, and what in it the code of UniMatch V2 does not write (none: it is theirs).

    The scores are the teacher's, where there is one; then `students` has the student's. KeyError names a setting that
    is not there.
    """
    form = _read_lines(text)
    name = str(settings["dataset"])
    method, findings = _method(settings, form.steps)
    if form.unknown:
        findings.append(f"it has the {named_words('line', form.unknown)}")
    findings[:0] = unknown_settings(set(settings) - SETTINGS)
    findings += dataset_findings(REPOSITORY, name, settings.get("nclass"))
    if settings["model"] != "dpt":
        findings.append(f"its model '{str(settings['model'])[:40]}' is not dpt")
    if len(pairs := {bool(test.student) for test in form.tests}) > 1 or pairs == {method == "supervised"}:
        findings.append("its epochs print one score where a teacher has a second, or the other way round")
    frozen = FROZEN if settings.get("lock_backbone") else ""
    return {
        **{"author": REPOSITORY, "method": method, "metric": "miou", "labeled": None, "kept": form.kept},
        **{"backbone": ENCODERS.get(str(settings["backbone"]), str(settings["backbone"])) + frozen},
        **{"crop": settings["crop_size"], "dataset": DATASETS[REPOSITORY].get(name, (name, 0))[0]},
        **{"epochs": settings["epochs"]},
        **{"lists": settings.get("labeled_id_path"), "tests": form.tests},
        **{"departs": "; ".join(_departures(settings, method))},
    }, findings


def _read_lines(text: str) -> V2Form:
    """A last line without its end is not held against the form: the file was cut there, or is being written."""
    form, epoch = V2Form([], {}, set(), []), -1
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if match := _EPOCH.search(line):
            epoch = int(match[1])
        elif match := _KEPT.search(line):
            form.kept[epoch] = float(match[1] or match[2])
        elif (match := SCORE.search(line)) and epoch >= 0:
            second = (match[2] or "").lower()
            if not second and number == len(lines) - 1 and any(test.student for test in form.tests):
                continue  # cut between the two scores
            pair = (second, match[1].lower()) if second else (match[1].lower(), "")
            form.tests.append(EpochScore(number, epoch, *pair))
        if number == len(lines) - 1 or not (dated := DATED.match(line)):
            continue
        rest = dated[1].strip()
        if step := STEP.fullmatch(rest):
            form.steps.add(frozenset(item.partition(":")[0].strip() for item in step[1].split(", ")))
        elif rest and not any(known.fullmatch(rest) for known in _KNOWN):
            form.unknown.append(rest[:80])
    return form


def _method(settings: Mapping[str, Any], steps: set[frozenset[str]]) -> tuple[str, list[str]]:
    """Our name of the method ("supervised" where it is not to be told), and why it is not to be told."""
    if not steps:
        return "supervised", ["it has no line of a training step ('Iters: 0, LR: 0.0000050, Total loss: ...')"]
    printed = STEPS.get(next(iter(steps)), ()) if len(steps) == 1 else ()
    if not printed:
        known = frozenset[str]().union(*STEPS)
        foreign = sorted({term for terms in steps for term in terms} - known)
        words = f"the {named_words('term', foreign)}" if foreign else "the terms of none of its scripts"
        return "supervised", [f"its training steps have {words}"]
    word = method_of_path(settings)
    named = METHODS.get(word or "")
    if word is not None and named not in printed:
        return printed[0], [
            f"its save_path is that of '{word}', its training steps are those of {' or '.join(printed)}"
        ]
    if named is None and len(printed) > 1:
        return printed[0], [f"{' and '.join(printed)} print these lines alike, and no save_path says which it is"]
    return named or printed[0], []


def _departures(settings: Mapping[str, Any], method: str) -> Iterator[str]:
    """Where settings that are printed differ from the released configuration: "conf_thresh 0.9 (released 0.95)"."""
    released = {**RELEASED.get(str(settings["dataset"]), {}), **SHARED}
    actual: dict[str, Any] = dict(settings)
    if isinstance(size := settings.get("batch_size"), int) and isinstance(count := settings.get("ngpus"), int):
        actual["images a step"] = size * count // (2 if method == "supervised" else 1)  # its script doubles batch_size
    for name, value in released.items():
        if actual.get(name, value) != value:
            yield f"{name} {actual[name]} (released {value})"
