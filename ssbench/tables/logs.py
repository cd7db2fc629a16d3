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
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError, UsageError
from ssbench.files import as_model
from ssbench.splits.manifest import manifest
from ssbench.tables.claims import Claim

NUMBER = r"(-?\d{1,9}(?:\.\d{1,9})?)"
EPOCH = re.compile(r"=> Epoch: (\d{1,9})")
SCORE = re.compile(rf"Evaluation .*>>>> Mean(IoU|Dice): {NUMBER}", re.IGNORECASE)
KEPT = re.compile(rf"Loss w_fp: .*Mask(?: ratio)?: {NUMBER}")
STRONG = re.compile(r"Loss (w_fp|s):")
TEST = re.compile(rf"<<Test>> - Epoch: (\d{{1,9}})\.\s+MIoU: {NUMBER}(?:/{NUMBER})?")
AUGSEG_KEPT = re.compile(rf"Epoch/Iter \[\d+:\s*(\d{{1,9}})/.*?Pseudo:[\d.]+\({NUMBER}\)")
SETTINGS = re.compile(r"^\[[^\]\n]*\]\[\s*INFO\](?: -)? (\{.*?\})[ \t]*\n(?=\n|\[)", re.MULTILINE | re.DOTALL)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_LOG = 64 * 1024 * 1024  # bytes; the longest released one has 6 MB
MAX_SETTINGS = 100_000  # characters; the longest released ones have 3,000
BACKBONES = {"xception": "xception65"}
AUTHORS = {"UniMatch": "LiheYoung/UniMatch", "AugSeg": "ZhenZHAO/AugSeg"}

_Name = Annotated[str, Field(max_length=200)]
_Size = Annotated[int, Field(gt=0, lt=1_000_000)]
_Score = Annotated[Decimal, Field(ge=0, le=100)]


class Log(BaseModel):
    """What a released log holds. author: key of `AUTHORS`. lists: path of the labelled list it names, or None.

    scores, students: epoch (from 0) -> percent, as printed; of AugSeg the teacher's, and its student's.
    kept: epoch -> share of pixels kept at its end. epochs: how many the run was to have.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    author: str
    method: str
    backbone: _Name
    crop: _Size
    metric: str
    lists: _Name | None
    epochs: _Size
    scores: dict[int, _Score]
    students: dict[int, _Score]
    kept: dict[int, float]

    @property
    def best(self) -> tuple[int, Decimal]:
        """(epoch, score) of the best epoch; of equal ones the first."""
        epoch = max(self.scores, key=lambda e: (self.scores[e], -e))
        return epoch, self.scores[epoch]

    def note(self) -> str:
        """What a reader must know: which epoch, how the run ended, a student above its teacher."""
        epoch, score = self.best
        last = max(self.scores)
        notes = [f"best epoch {epoch}, last {self.scores[last]} at {last}"]
        if last + 1 < self.epochs:
            notes.append(f"cut short: {last + 1} of {self.epochs} epochs")
        if self.students and (top := max(self.students.values())) > score:
            notes.append(f"its student reached {top}")
        return "; ".join(notes)


def read_log(path: Path) -> Log:
    """The log in `path`. DataError when it has neither of the two layouts, or holds no score."""
    kind, fix = "training log", "give a file of their training-logs folders, whole"
    try:
        if path.stat().st_size > MAX_LOG:
            raise DataError(f"this {kind} is larger than {MAX_LOG:,} bytes", str(path), fix)
        text = COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"this {kind} cannot be read: {error.strerror}", str(path), "check the path") from None
    settings = _settings(text)
    try:
        if {"trainer", "net"} <= settings.keys():
            fields = _augseg(settings, text)
        elif {"crop_size", "dataset"} <= settings.keys():
            fields = _unimatch(settings, text)
        else:
            what = "this is no training log of UniMatch or AugSeg: it does not begin with their settings"
            raise DataError(what, str(path), fix)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"the settings of the log lack {error}", str(path), fix) from None
    log = as_model(fields, Log, str(path), kind, fix)
    if not log.scores:
        raise DataError("the log holds no score of any epoch", str(path), "give the file whole")
    return log


def claim_of(log: Log, name: str, split: str | None) -> Claim:
    """The log as a claim; `split` where the log names no list (those of July 2022).

    Raises:
        UsageError: no split is known, or another one than the log's own list is given.
    """
    own = split_of(log)
    if split is not None and own is not None and split != own:
        raise UsageError(f"the log was trained on '{log.lists}', which is {own}, not {split}", name, f"--split {own}")
    if (chosen := split or own) is None:
        lists = f"'{log.lists}', a list we do not know" if log.lists else "no list of its images"
        raise UsageError(f"the log names {lists}", name, "say it: --split voc/classic/1_16")
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
        paths = [p.partition(" ")[2] for p in entry.also if p.startswith(f"{log.author} ")]
        if entry.origin == log.author and entry.labeled.path:
            paths.append(entry.labeled.path)
        if any(_tail(path) == tail for path in paths):
            return name
    return None


def _tail(path: str) -> str:
    """A list's path below the folder of lists, which copies of a repository call differently."""
    return re.split(r"(?:^|[/!])(?:splits|splitsall|partitions)/", path)[-1]


def _settings(text: str) -> dict[str, Any]:
    """The dictionary the log begins with, after whatever a scheduler printed; it ends before a blank or dated line.

    Empty where there is none. Its length is bounded because the parser of Python fails on deep nesting.
    """
    found = SETTINGS.search(text[:MAX_SETTINGS])
    try:
        settings = ast.literal_eval(found[1]) if found else {}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    return {k: v for k, v in settings.items() if isinstance(k, str)} if isinstance(settings, dict) else {}


def _unimatch(settings: dict[str, Any], text: str) -> dict[str, Any]:
    """The fields of a `Log`; the medical logs name no backbone."""
    scores: dict[int, Decimal] = {}
    kept: dict[int, float] = {}
    epoch, metric, streams = -1, "miou", set()
    for line in text.splitlines():
        streams |= set(STRONG.findall(line))
        if match := EPOCH.search(line):
            epoch = int(match[1])
        elif match := KEPT.search(line):
            kept[epoch] = float(match[1])
        elif (match := SCORE.search(line)) and epoch >= 0:
            metric = "dice" if match[1].lower() == "dice" else "miou"
            scores[epoch] = Decimal(match[2])
    method = "unimatch" if "w_fp" in streams else "fixmatch" if "s" in streams else "supervised"
    backbone = settings.get("backbone", "unet")
    lists, crop, epochs = settings.get("labeled_id_path"), settings["crop_size"], settings["epochs"]
    return {
        **{"author": "UniMatch", "method": method, "backbone": BACKBONES.get(str(backbone), backbone), "crop": crop},
        **{"metric": metric, "lists": lists, "epochs": epochs, "scores": scores, "students": {}, "kept": kept},
    }


def _augseg(settings: dict[str, Any], text: str) -> dict[str, Any]:
    """The fields of a `Log`. Scores are the teacher's, where there is one; students not scored stand as -100000."""
    scores: dict[int, Decimal] = {}
    students: dict[int, Decimal] = {}
    for epoch, first, second in TEST.findall(text):
        scores[int(epoch)] = Decimal(second or first)
        if second and Decimal(first) >= 0:
            students[int(epoch)] = Decimal(first)
    net, train, trainer = settings["net"], settings["dataset"]["train"], settings["trainer"]
    method = "augseg" if "unsupervised" in trainer else "supervised"
    backbone, crop = net["encoder"]["type"].rpartition(".")[2], train["crop"]["size"][0]
    kept = {int(epoch): float(share) for epoch, share in AUGSEG_KEPT.findall(text)}
    lists, epochs = train.get("data_list"), trainer["epochs"]
    return {
        **{"author": "AugSeg", "method": method, "backbone": backbone, "crop": crop, "metric": "miou"},
        **{"lists": lists, "epochs": epochs, "scores": scores, "students": students, "kept": kept},
    }
