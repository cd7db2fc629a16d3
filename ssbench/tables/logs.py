"""Training logs the baselines' authors released: read in their own layout, kept as claims with a curve.

UniMatch (LiheYoung/UniMatch, `training-logs/` and `more-scenarios/medical/training-logs/`): the settings printed as a
dictionary, "===========> Epoch: N", after each epoch one "MeanIoU:" ("meanIOU:" in the logs of 2022, "MeanDice:" on
ACDC), before it the "Mask ratio" of the epoch so far. AugSeg (ZhenZHAO/AugSeg, `training-logs/`): the settings, then
after each epoch "<<Test>> - Epoch: N.  MIoU: student/teacher", one number in supervised runs; students that were not
scored stand as -100000.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ssbench.errors import DataError, UsageError
from ssbench.splits.manifest import manifest
from ssbench.tables.claims import Claim

NUMBER = r"(-?\d+(?:\.\d+)?)"
EPOCH = re.compile(r"=> Epoch: (\d+)")
SCORE = re.compile(rf"Evaluation .*>>>> Mean(IoU|Dice): {NUMBER}", re.IGNORECASE)
KEPT = re.compile(rf"Loss w_fp: .*Mask(?: ratio)?: {NUMBER}")
STRONG = re.compile(r"Loss (w_fp|s):")
TEST = re.compile(rf"<<Test>> - Epoch: (\d+)\.\s+MIoU: {NUMBER}(?:/{NUMBER})?")
SETTINGS = re.compile(r"^\[[^\]\n]*\]\[\s*INFO\](?: -)? (\{.*?\})[ \t]*\n(?=\n|\[)", re.MULTILINE | re.DOTALL)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BACKBONES = {"xception": "xception65"}
AUTHORS = {"UniMatch": "LiheYoung/UniMatch", "AugSeg": "ZhenZHAO/AugSeg"}


@dataclass(frozen=True)
class Log:
    """What a released log says. author: key of `AUTHORS`. lists: path of the labelled list it names, or None.

    scores, students: epoch (from 0) -> percent, as printed; of AugSeg the teacher's, and its student's.
    kept: epoch -> share of pixels kept at its end. epochs: how many the run was to have.
    """

    author: str
    method: str
    backbone: str
    crop: int
    metric: str
    lists: str | None
    epochs: int
    scores: dict[int, Decimal]
    students: dict[int, Decimal]
    kept: dict[int, float]

    @property
    def best(self) -> tuple[int, Decimal]:
        """(epoch, score) of the best epoch; of equal ones the first."""
        epoch = max(self.scores, key=lambda e: (self.scores[e], -e))
        return epoch, self.scores[epoch]

    def note(self) -> str:
        """What a reader must know: which epoch, how the run ended, a student above its teacher."""
        epoch, _ = self.best
        last = max(self.scores)
        said = [f"best epoch {epoch}, last {self.scores[last]} at {last}"]
        if last + 1 < self.epochs:
            said.append(f"cut short: {last + 1} of {self.epochs} epochs")
        if self.students and (top := max(self.students.values())) > self.best[1]:
            said.append(f"its student reached {top}")
        return "; ".join(said)


def read_log(path: Path) -> Log:
    """The log in `path`. DataError when it is none of the two layouts, or holds no score."""
    try:
        text = COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"cannot read the log: {error.strerror}", str(path), "check the path") from None
    settings = _settings(text)
    if settings is None or not ({"crop_size", "dataset"} <= settings.keys() or {"trainer", "net"} <= settings.keys()):
        what = "this is no training log of UniMatch or AugSeg: it does not begin with their settings"
        raise DataError(what, str(path), "give a file of their training-logs folders, whole")
    try:
        made = _augseg(settings, text) if "trainer" in settings else _unimatch(settings, text)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the settings of the log lack {error}", str(path), "give the file as released") from None
    if not made.scores:
        raise DataError("the log holds no score of any epoch", str(path), "give the file whole")
    return made


def claim_of(log: Log, name: str, split: str | None) -> Claim:
    """The log as a claim; `split` where the log names no list (those of July 2022).

    Raises:
        UsageError: no split is known, or another one than the log's own list is given.
    """
    own = split_of(log)
    if split is not None and own is not None and split != own:
        raise UsageError(f"the log was trained on '{log.lists}', which is {own}, not {split}", name, f"--split {own}")
    if (chosen := split or own) is None:
        named = f"'{log.lists}', a list we do not know" if log.lists else "no list of its images"
        what = f"the log names {named}"
        raise UsageError(what, name, "say it: --split voc/classic/1_16")
    if chosen not in manifest().splits:
        raise UsageError(f"no split '{chosen}'", "--split", "ssbench list splits")
    source = f"{AUTHORS[log.author]}, training log {name}"
    curve = tuple((epoch, float(score)) for epoch, score in sorted(log.scores.items()))
    return Claim(log.method, None, chosen, log.backbone, log.crop, log.metric, log.best[1], "log", source, log.note(),
                 curve)  # fmt: skip


def split_of(log: Log) -> str | None:
    """The split whose labelled list the log names, by the manifest's paths of that author's repository."""
    if log.lists is None:
        return None
    tail = _tail(log.lists)
    for name, entry in manifest().splits.items():
        theirs = [p.partition(" ")[2] for p in entry.also if p.startswith(f"{log.author} ")]
        if entry.origin == log.author and entry.labeled.path:
            theirs.append(entry.labeled.path)
        if any(_tail(path) == tail for path in theirs):
            return name
    return None


def _tail(path: str) -> str:
    """A list's path below the folder of lists, which copies of a repository call differently."""
    return re.split(r"(?:^|[/!])(?:splits|splitsall|partitions)/", path)[-1]


def _settings(text: str) -> dict[str, Any] | None:
    """The dictionary the log begins with, after whatever a scheduler printed; it ends before a blank or dated line."""
    found = SETTINGS.search(text)
    try:
        settings = ast.literal_eval(found[1]) if found else None
    except (SyntaxError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _unimatch(settings: dict[str, Any], text: str) -> Log:
    scores: dict[int, Decimal] = {}
    kept: dict[int, float] = {}
    epoch, metric, streams = -1, "miou", set()
    for line in text.splitlines():
        streams |= set(STRONG.findall(line))
        if found := EPOCH.search(line):
            epoch = int(found[1])
        elif found := KEPT.search(line):
            kept[epoch] = float(found[1])
        elif (found := SCORE.search(line)) and epoch >= 0:
            metric = "dice" if found[1].lower() == "dice" else "miou"
            scores[epoch] = Decimal(found[2])
    method = "unimatch" if "w_fp" in streams else "fixmatch" if "s" in streams else "supervised"
    backbone = str(settings.get("backbone", "unet"))
    lists = settings.get("labeled_id_path")
    return Log("UniMatch", method, BACKBONES.get(backbone, backbone), int(settings["crop_size"]), metric, lists,
               int(settings["epochs"]), scores, {}, kept)  # fmt: skip


def _augseg(settings: dict[str, Any], text: str) -> Log:
    net, train, trainer = settings["net"], settings["dataset"]["train"], settings["trainer"]
    scores: dict[int, Decimal] = {}
    students: dict[int, Decimal] = {}
    for epoch, first, second in _tested(text):
        scores[epoch] = second if second is not None else first
        if second is not None and first >= 0:
            students[epoch] = first
    method = "augseg" if "unsupervised" in trainer else "supervised"
    backbone = str(net["encoder"]["type"]).rpartition(".")[2]
    kept = {int(e): float(v) for e, v in re.findall(r"Epoch/Iter \[\d+:\s*(\d+)/.*?Pseudo:[\d.]+\(([\d.]+)\)", text)}
    return Log("AugSeg", method, backbone, int(train["crop"]["size"][0]), "miou", train.get("data_list"),
               int(trainer["epochs"]), scores, students, kept)  # fmt: skip


def _tested(text: str) -> Iterator[tuple[int, Decimal, Decimal | None]]:
    for found in TEST.finditer(text):
        yield int(found[1]), Decimal(found[2]), None if found[3] is None else Decimal(found[3])
