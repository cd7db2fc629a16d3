"""What the released code of UniMatch and of AugSeg prints into a log, and what in a log is none of it.

Much code of this field began as a copy of UniMatch's: it prints the same head and the same line of scores for another
method, another network or another dataset. Such a log must not become a claim about UniMatch. So every setting, every
dated line and every term of a training step is held against what the released code prints (UniMatch: the three
scripts, their configurations and all logs in `training-logs/`; AugSeg: `train_semi.py` and the configurations that its
logs print).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssbench.errors import DataError
from ssbench.paths import quoted

DATASETS = {
    "UniMatch": {"pascal": ("voc", 21), "cityscapes": ("cityscapes", 19), "coco": ("coco", 81), "acdc": ("acdc", 4)},
    "AugSeg": {
        **dict.fromkeys(("pascal", "pascal_semi"), ("voc", 21)),
        **dict.fromkeys(("cityscapes", "cityscapes_semi"), ("cityscapes", 19)),
    },
    **dict.fromkeys(
        ("PrevMatch", "UniMatch-V2"),
        {"pascal": ("voc", 21), "cityscapes": ("cityscapes", 19), "coco": ("coco", 81), "ade20k": ("ade20k", 150)},
    ),
}
"""Author -> the dataset as its settings call it -> our name, and how many classes it has."""

UNIMATCH_SETTINGS = frozenset(
    [
        "backbone",
        "batch_size",
        "conf_thresh",
        "config",
        "criterion",
        "crop_size",
        "data_root",
        "dataset",
        "dilations",
        "epochs",
        "labeled_id_path",
        "local_rank",
        "lr",
        "lr_multi",
        "multi_grid",
        "nclass",
        "ngpus",
        "port",
        "replace_stride_with_dilation",
        "save_path",
        "unlabeled_id_path",
    ]
)
UNIMATCH_BACKBONES = re.compile(r"resnet\d+|xception|unet")
UNIMATCH_STEPS = {
    frozenset({"Total loss"}): "supervised",
    frozenset({"Total loss", "Loss x", "Loss s", "Mask"}): "fixmatch",
    frozenset({"Total loss", "Loss x", "Loss s", "Loss w_fp", "Mask"}): "unimatch",
}
"""The terms of a training step's line -> the method whose script prints them; 2023's "Mask ratio" is 2022's "Mask"."""

AUGSEG_SETTINGS = {
    "": "criterion dataset exp_path log_path net save_path saver trainer",
    "dataset": "ignore_label mean n_sup std train type val workers",
    "dataset.train": "batch_size crop data_list data_root flip rand_resize resize_base_size strong_aug",
    "net": "aux_loss decoder ema_decay encoder num_classes sync_bn",
    "trainer": "epochs evaluate_student lr_scheduler optimizer sup_only_epoch unsupervised",
    "trainer.unsupervised": "flag_extra_weak loss_weight threshold use_cutmix use_cutmix_adaptive "
    "use_cutmix_trigger_prob",
}
AUGSEG_STEPS = frozenset({"Sup", "Uns", "Pseudo", "Time", "LR", "Data", "Loss"})

OTHERS = {"model": "UniMatch V2", "lock_backbone": "UniMatch V2", "thresh_init": "CorrMatch"}
"""A setting that neither has -> whose it is, where that is known."""

NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?|nan"
DATED = re.compile(r"^\[[^\]\n]{1,40}\]\[\s*INFO\] (.*)$")
STEP = re.compile(r"Iters: \d+, (.+)")
_KNOWN = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"Total params: .*",
        rf"=+> Epoch: \d+, LR: (?:{NUMBER}), Previous best: (?:{NUMBER})",
        rf"\*+ Evaluation [^*]*\*+ >>>> (?:Mean(?:IoU|Dice)|Class \[.*\] (?:IoU|Dice)): (?:{NUMBER})",
        r"\*+ Load from checkpoint at epoch \d+",
        r"\{.*",  # the settings; that there is one run only is held elsewhere
    )
)
_AUGSEG_STEP = re.compile(r"Epoch/Iter \[[^\]]*\]\.?\s+(.*)$", re.MULTILINE)
_AUGSEG_TERM = re.compile(r"([A-Za-z][\w ]*?)[: ]-?\d")
SHOWN = 3  # foreign lines, settings or terms that a message names


def decode_log(data: bytes, path: Path) -> str:
    """The text of a log in UTF-8, UTF-16 or UTF-32 (a Windows console writes UTF-16), its lines ended by newlines.

    Raises:
        DataError: bytes of UTF-16 without the mark that says in which order they stand.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and data[:4096].count(0) > len(data[:4096]) // 4:
        target = quoted(path.with_suffix(".utf8.log"))
        fix = f"iconv -f UTF-16LE -t UTF-8 {quoted(path)} > {target}   (UTF-16BE, if that is not readable)"
        raise DataError(
            "this training log is not UTF-8: it looks like UTF-16 without its byte order mark", str(path), fix
        )
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")


# The mark of UTF-32 begins with the mark of UTF-16.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


def unimatch_method(settings: Mapping[str, Any], text: str) -> tuple[str, list[str]]:
    """Which of UniMatch's three methods wrote a log, and what in it that code does not write (none: it is theirs)."""
    findings = [
        *unknown_settings(set(settings) - UNIMATCH_SETTINGS),
        *dataset_findings("UniMatch", settings.get("dataset"), settings.get("nclass")),
    ]
    backbone = str(settings.get("backbone", "unet"))
    if not UNIMATCH_BACKBONES.fullmatch(backbone):
        findings.append(f"its backbone '{backbone[:40]}' is none of resnet, xception and unet")
    steps, unknown = unimatch_lines(text)
    if unknown:
        findings.append(f"it has the {named_words('line', unknown)}")
    method = UNIMATCH_STEPS.get(frozenset(*steps), "") if len(steps) == 1 else ""
    if not steps:
        findings.append("it has no line of a training step ('Iters: 0, Total loss: ...')")
    elif not method:
        findings.append(_step_finding(steps))
    elif (other := method_of_path(settings)) not in (None, method):
        findings.append(f"its save_path is that of '{other}', its training steps are those of {method}")
    return method or "supervised", findings


def augseg_findings(settings: Mapping[str, Any], text: str) -> list[str]:
    """What in a log of AugSeg's layout that code does not write."""
    unknown: set[str] = set()
    for place, keys in AUGSEG_SETTINGS.items():
        node: Any = settings
        for key in filter(None, place.split(".")):
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            unknown |= {f"{place}.{key}".lstrip(".") for key in map(str, node) if key not in keys.split()}
    net = settings["net"]
    findings = [
        *unknown_settings(unknown),
        *dataset_findings("AugSeg", settings["dataset"].get("type"), net.get("num_classes")),
    ]
    encoder = str(net["encoder"]["type"])
    if not re.fullmatch(r"augseg\.models\.resnet\.resnet\d+", encoder):
        findings.append(f"its encoder '{encoder[:60]}' is none of AugSeg's")
    steps = _AUGSEG_STEP.findall(text)
    terms = sorted({term for step in steps for term in _AUGSEG_TERM.findall(step)} - AUGSEG_STEPS)
    if not steps:
        findings.append("it has no line of a training step ('Epoch/Iter [80: 0/654]. ...')")
    if terms:
        findings.append(f"its training steps have the {named_words('term', terms)}")
    return findings


def unknown_settings(names: Iterable[str]) -> Iterator[str]:
    """A finding about settings that an author's code does not have, if there are any."""
    if names := sorted(names):
        known = sorted({OTHERS[name] for name in names if name in OTHERS})
        yield f"it has the {named_words('setting', names)}" + (f", as {' and '.join(known)} has" if known else "")


def dataset_findings(author: str, name: Any, classes: Any) -> Iterator[str]:
    """A dataset that the author's code does not know, or one with another number of classes."""
    known = DATASETS[author]
    if name not in known:
        yield f"its dataset '{str(name)[:40]}' is none of {', '.join(known)}"
    elif classes is not None and classes != known[name][1]:
        yield f"its dataset '{name}' has {known[name][1]} classes, and its settings say {classes}"


def unimatch_lines(text: str) -> tuple[set[frozenset[str]], list[str]]:
    """The sets of terms that training steps have, and the dated lines that UniMatch's scripts do not print.

    A last line without its end is left out: the file was cut there, or it is being written.
    """
    steps: set[frozenset[str]] = set()
    unknown: list[str] = []
    for line in text.split("\n")[:-1]:
        if not (dated := DATED.match(line)):
            continue
        rest = dated[1].strip()
        if step := STEP.fullmatch(rest):
            steps.add(frozenset(_term(item) for item in step[1].split(", ")))
        elif rest and not any(known.fullmatch(rest) for known in _KNOWN):
            unknown.append(rest[:80])
    return steps, unknown


def _term(item: str) -> str:
    return item.partition(":")[0].strip().replace("Mask ratio", "Mask")


def _step_finding(steps: set[frozenset[str]]) -> str:
    known = frozenset[str]().union(*UNIMATCH_STEPS)
    foreign = sorted({term for terms in steps for term in terms} - known)
    if foreign:
        return f"its training steps have the {named_words('term', foreign)}"
    return "its training steps have the terms of " + ("two methods" if len(steps) > 1 else "none of its three methods")


def method_of_path(settings: Mapping[str, Any]) -> str | None:
    """The method that `save_path` names: UniMatch's `scripts/train.sh` puts exp/DATASET/METHOD/... there."""
    parts = str(settings.get("save_path", "")).split("/")
    return parts[2] if len(parts) > 3 and parts[0] == "exp" and parts[1] == settings.get("dataset") else None


def named_words(noun: str, names: list[str]) -> str:
    """ "settings 'a', 'b' and 3 more"."""
    rest = len(names) - SHOWN
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}"
