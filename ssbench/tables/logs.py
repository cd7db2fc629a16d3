"""Training logs the baselines' authors released: read in their own layout, kept as claims with a curve.

A log that another method's code wrote is refused (`log_form`), and so is what contradicts the log's own words.

UniMatch (LiheYoung/UniMatch, `training-logs/` and `more-scenarios/medical/training-logs/`): the settings printed as a
dictionary, "===========> Epoch: N", after each epoch one "MeanIoU:" ("meanIOU:" in the logs of 2022, "MeanDice:" on
ACDC), before it the "Mask ratio" of the epoch so far. AugSeg (ZhenZHAO/AugSeg, `training-logs/`): the settings, then
after each epoch "<<Test>> - Epoch: N.  MIoU: student/teacher", one number in supervised runs; a network that was not
scored in an epoch stands as -100000. UniMatch V2: `log_v2`; PrevMatch: `log_prevmatch`. An epoch whose score is nan has
no score, and the claim's note names it.
"""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError, UsageError
from ssbench.files import as_model
from ssbench.paths import quoted
from ssbench.splits.manifest import manifest
from ssbench.tables.claims import Claim
from ssbench.tables.log_form import DATASETS, augseg_findings, decode_log, unimatch_method
from ssbench.tables.log_prevmatch import AUTHOR as PREVMATCH
from ssbench.tables.log_prevmatch import is_prevmatch, prevmatch_findings
from ssbench.tables.log_v2 import REPOSITORY, EpochScore, is_v2, read_v2

NUMBER = r"(-?\d{1,9}(?:\.\d{1,9})?)"
SCORED = r"(-?\d{1,9}(?:\.\d{1,9})?|nan)"
EPOCH = re.compile(r"=> Epoch: (\d{1,9})")
SCORE = re.compile(r"Evaluation .*>>>> Mean(IoU|Dice): (-?\d{1,9}\.\d\d|nan)(?:, EMA: [\d.nan]+)?\s*$", re.IGNORECASE)
"""Two decimals to the end of the line: a file that is cut within a number must not give another number."""
KEPT = re.compile(rf"Loss w_fp: .*Mask(?: ratio)?: {NUMBER}")
TEST = re.compile(rf"<<Test>> - Epoch: (\d{{1,9}})\.\s+MIoU: {SCORED}(?:/{SCORED})?(?=\.\s)")
SAMPLES = re.compile(r"# samples: (\d{1,9})")
AUGSEG_KEPT = re.compile(rf"Epoch/Iter \[\d+:\s*(\d{{1,9}})/.*?Pseudo:[\d.]+\({NUMBER}\)")
SETTINGS = re.compile(r"^\[[^\]\n]*\]\[\s*INFO\](?: -)? (\{.*?\})[ \t]*\n(?=\n|\[)", re.MULTILINE | re.DOTALL)
HEAD = re.compile(r"^\[[^\]\n]*\]\[\s*INFO\](?: -)? \{", re.MULTILINE)
RESUMED = re.compile(r"Load from checkpoint at epoch \d+")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_LOG = 64 * 1024 * 1024  # bytes; the longest released one has 6 MB
MAX_SETTINGS = 100_000  # characters; the longest released ones have 3,000
MAX_HEADS = 64  # dictionaries at the begin of a line that are looked at
OF_A_START = ("port", "ngpus", "local_rank")  # settings that may change when a run is resumed
BACKBONES = {"xception": "xception65"}
AUTHORS = {"UniMatch": "LiheYoung/UniMatch", "AugSeg": "ZhenZHAO/AugSeg", REPOSITORY: "LiheYoung/UniMatch-V2",
           PREVMATCH: "wooseok-shin/PrevMatch"}  # fmt: skip
LISTS_OF = {PREVMATCH: "UniMatch"}  # whose lists an author's are named after (card: prevmatch 7)

AUTHORS_LIST = re.compile(r"(?:^|[/!])(?:splits|splitsall|partitions)/\w+/[^/]+/(?:labeled|train)\.txt$")
"""How the authors' lists are named: one that we do not know is another list, whatever `--split` says."""
NOT_SCORED = Decimal(-100000)  # what AugSeg prints for a network that was not scored

_Name = Annotated[str, Field(max_length=200)]
_Size = Annotated[int, Field(gt=0, lt=1_000_000)]
_Score = Annotated[Decimal, Field(ge=0, le=100)]


class Log(BaseModel):
    """What a released log holds. author: key of `AUTHORS`. dataset: our name of the one it was trained on.

    lists: path of the labelled list it names, or None. labeled: how many images it says that list has, or None.
    scores, students: epoch (from 0) -> percent, as printed; of AugSeg and UniMatch V2 the teacher's, and its student's.
    unscored: epochs whose score is nan. logged: the last epoch that was tested. kept: epoch -> share of pixels kept at
    its end. epochs: how many the run was to have. departs: settings that are not those of the released configuration.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    author: str
    method: str
    backbone: _Name
    crop: _Size
    metric: str
    plugin: str | None = None
    dataset: str
    lists: _Name | None
    labeled: int | None
    epochs: _Size
    scores: dict[int, _Score]
    students: dict[int, _Score]
    unscored: tuple[int, ...]
    logged: int
    kept: dict[int, float]
    departs: Annotated[str, Field(max_length=1000)] = ""

    @property
    def best(self) -> tuple[int, Decimal]:
        """(epoch, score) of the best epoch; of equal ones the first."""
        epoch = max(self.scores, key=lambda e: (self.scores[e], -e))
        return epoch, self.scores[epoch]

    def note(self) -> str:
        """What a reader must know: which epoch, how the run ended, scores of nan, a student above its teacher."""
        epoch, score = self.best
        last = max(self.scores)
        notes = [f"best epoch {epoch}, last {self.scores[last]} at {last}"]
        if self.unscored:
            notes.append(f"{_epochs(self.unscored)} scored nan")
        if self.logged + 1 < self.epochs:
            notes.append(f"cut short: {self.logged + 1} of {self.epochs} epochs")
        if self.students and (top := max(self.students.values())) > score:
            notes.append(f"its student reached {top}")
        if self.departs:
            notes.append(self.departs)
        return "; ".join(notes)


def read_log(path: Path, split: str | None = None) -> Log:
    """The log in `path`; `split`: what it is said to be trained on, which a refusal names where it contradicts too.

    Raises:
        DataError: it has none of the three layouts, another method's code wrote it, it holds two runs or no score.
    """
    kind, fix = "training log", "give a file of their training-logs folders, whole"
    try:
        if path.stat().st_size > MAX_LOG:
            raise DataError(f"this {kind} is larger than {MAX_LOG:,} bytes", str(path), fix)
        text = COLOUR.sub("", decode_log(path.read_bytes(), path))
    except OSError as error:
        raise DataError(f"this {kind} cannot be read: {error.strerror}", str(path), "check the path") from None
    start, settings, text = _one_run(text, path)
    try:
        if _is_augseg(settings):
            fields, findings = _augseg(settings, text)
        elif is_v2(settings) and not is_prevmatch(settings):
            fields, findings = read_v2(settings, text)
        elif settings:
            fields, findings = _unimatch(settings, text)
        else:
            authors = "UniMatch, UniMatch V2, AugSeg or PrevMatch"
            what = f"this is no training log of {authors}: it does not begin with their settings"
            raise DataError(what, str(path), fix)
        if findings:
            if split is not None and split.partition("/")[0] != fields["dataset"]:
                findings.insert(0, f"it was trained on {fields['dataset']}, not on {split}")
            raise _foreign(fields["author"], findings, path)
        fields |= _ordered(fields.pop("tests"), start, path)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"the settings of the log lack {error}", str(path), fix) from None
    log = as_model(fields, Log, str(path), kind, fix)
    if not log.scores:
        what = (
            f"all {len(log.unscored)} scores of the log are nan"
            if log.unscored
            else "the log holds no score of any epoch"
        )
        raise DataError(what, str(path), "give the file whole" if not log.unscored else "there is nothing to claim")
    return log


def claim_of(log: Log, name: str, split: str | None) -> Claim:
    """The log as a claim; `split` where the log names no list (those of July 2022).

    Raises:
        UsageError: no split is known, or one that contradicts the log's own list, dataset or number of images.
    """
    own = split_of(log)
    if split is not None and own is not None and split != own:
        raise UsageError(f"the log was trained on '{log.lists}', which is {own}, not {split}", name, f"--split {own}")
    chosen, known = split or own, log.lists is None or not AUTHORS_LIST.search(log.lists)
    if chosen is None or not known and own is None:
        lists = f"'{log.lists}', a list we do not know" if log.lists else "no list of its images"
        fix = (
            "say it: --split voc/classic/1_16" if known else "only published lists can be claimed: ssbench list splits"
        )
        raise UsageError(f"the log names {lists}", name, fix)
    if chosen not in manifest().splits:
        raise UsageError(f"no split '{chosen}'", "--split", "ssbench list splits")
    _refuse_other_split(log, name, chosen)
    source = f"{AUTHORS[log.author]}, training log {name}"
    taken = f"; its list '{log.lists}' was taken to be {chosen}, as --split said" if log.lists and own is None else ""
    curve = tuple((epoch, float(score)) for epoch, score in sorted(log.scores.items()))
    return Claim(log.method, log.plugin, chosen, log.backbone, log.crop, log.metric, log.best[1], "log", source,
                 log.note() + taken, curve, log.epochs, log.departs)  # fmt: skip


def _refuse_other_split(log: Log, name: str, split: str) -> None:
    """UsageError where the log's own dataset, or the number of its labelled images, is not that of `split`."""
    dataset, fix = split.partition("/")[0], f"ssbench list splits, and take one of {log.dataset}"
    if log.dataset != dataset:
        lists = f" and its list is '{log.lists}'" if log.lists else ""
        raise UsageError(f"the log was trained on {log.dataset}{lists}, not on {dataset} ({split})", name, fix)
    count = manifest().splits[split].labeled.count
    if None not in (log.labeled, count) and log.labeled != count:
        raise UsageError(f"the log was trained on {log.labeled} labelled images, and {split} has {count}", name, fix)


def split_of(log: Log) -> str | None:
    """The split whose labelled list the log names, by the manifest's paths of that author's repository."""
    if log.lists is None:
        return None
    tail = _tail(log.lists)
    author = LISTS_OF.get(log.author, log.author)
    for name, entry in manifest().splits.items():
        paths = [p.partition(" ")[2] for p in entry.also if p.startswith(f"{author} ")]
        if entry.origin == author and entry.labeled.path:
            paths.append(entry.labeled.path)
        if any(_tail(path) == tail for path in paths):
            return name
    return None


def _tail(path: str) -> str:
    """A list's path below the folder of lists, which copies of a repository call differently."""
    return re.split(r"(?:^|[/!])(?:splits|splitsall|partitions)/", path)[-1]


def _one_run(text: str, path: Path) -> tuple[int, dict[str, Any], str]:
    """The line (from 0) in which the log of the only run in `text` begins, its settings, and its text.

    A start that ended before its first score counts as no run. A run that was resumed prints its settings again and
    then "Load from checkpoint at epoch N": it is one run. No settings, and the whole text, where there are none.

    Raises:
        DataError: there are two runs, whose scores must not be mixed.
    """
    heads = [(head.start(), settings) for head in islice(HEAD.finditer(text), MAX_HEADS)
             if (settings := _settings(text, head.start()))]  # fmt: skip
    if not heads:
        return 0, {}, text
    ends = [*(start for start, _ in heads[1:]), len(text)]
    runs: list[tuple[int, dict[str, Any], str]] = []
    for (start, settings), end in zip(heads, ends, strict=True):
        part = text[start:end]
        if runs and RESUMED.search(part) and _is_same(runs[-1][1], settings):
            runs[-1] = (runs[-1][0], runs[-1][1], text[runs[-1][0] : end])
        else:
            runs.append((start, settings, part))
    scored = [run for run in runs if TEST.search(run[2]) or any(map(SCORE.search, run[2].split("\n")))]
    if len(scored) > 1:
        line = text.count("\n", 0, scored[1][0]) + 1
        raise _two_runs(f"the second one's settings begin in line {line}", line, path)
    start, settings, part = (scored or runs)[0]
    return text.count("\n", 0, start), settings, part


def _is_same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two settings are of one run; what a new start may change is left out."""
    return {**first, **dict.fromkeys(OF_A_START)} == {**second, **dict.fromkeys(OF_A_START)}


def _two_runs(why: str, line: int, path: Path) -> DataError:
    fix = f"cut it: head -n {line - 1} {quoted(path)} > first.log; tail -n +{line} {quoted(path)} > second.log"
    return DataError(f"two runs are in this training log: {why}", f"{path}:{line}", fix)


def _foreign(author: str, findings: list[str], path: Path) -> DataError:
    fix = f"only what the code of {AUTHORS[author]} wrote becomes a claim about its methods"
    return DataError(f"no method of {author} wrote this training log: {'; '.join(findings)}", str(path), fix)


def _settings(text: str, start: int) -> dict[str, Any]:
    """The settings of an author's code that are printed at `start`; they end before a blank or dated line.

    Empty where there are none. Their length is bounded because the parser of Python fails on deep nesting.
    """
    match = SETTINGS.match(text, start, start + MAX_SETTINGS)
    try:
        values = ast.literal_eval(match[1]) if match else {}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    settings = {k: v for k, v in values.items() if isinstance(k, str)} if isinstance(values, dict) else {}
    return settings if _is_augseg(settings) or {"crop_size", "dataset"} <= settings.keys() else {}


def _is_augseg(settings: dict[str, Any]) -> bool:
    return {"trainer", "net"} <= settings.keys()


def _ordered(tests: list[EpochScore], start: int, path: Path) -> dict[str, Any]:
    """The fields of a `Log` about its scores. DataError where an epoch is scored again: a second run begins there."""
    scores: dict[int, Decimal] = {}
    students: dict[int, Decimal] = {}
    unscored, last = [], -1
    for test in tests:
        if test.epoch <= last:
            raise _two_runs(f"epoch {test.epoch} is scored after epoch {last}", start + test.line + 1, path)
        last = test.epoch
        if test.score == "nan":
            unscored.append(test.epoch)
        elif Decimal(test.score) != NOT_SCORED:
            scores[test.epoch] = Decimal(test.score)
        if test.student not in ("", "nan") and Decimal(test.student) != NOT_SCORED:
            students[test.epoch] = Decimal(test.student)
    return {"scores": scores, "students": students, "unscored": tuple(unscored), "logged": last}


def _unimatch(settings: dict[str, Any], text: str) -> tuple[dict[str, Any], list[str]]:
    """The fields of a `Log`, and what UniMatch's code does not write; the medical logs name no backbone."""
    kept: dict[int, float] = {}
    tests, epoch, metrics = [], -1, set()
    for number, line in enumerate(text.split("\n")):
        if match := EPOCH.search(line):
            epoch = int(match[1])
        elif match := KEPT.search(line):
            kept[epoch] = float(match[1])
        elif (match := SCORE.search(line)) and epoch >= 0:
            metrics.add("dice" if match[1].lower() == "dice" else "miou")
            tests.append(EpochScore(number, epoch, match[2].lower()))
    author, plugin = (PREVMATCH, "prevmatch") if is_prevmatch(settings) else ("UniMatch", None)
    method, findings = ("unimatch", prevmatch_findings(settings, text)) if plugin else unimatch_method(settings, text)
    dataset = _dataset(author, settings["dataset"])
    if metrics - {metric := "dice" if dataset == "acdc" else "miou"}:
        findings.append(f"its scores on '{settings['dataset']}' are {' and '.join(sorted(metrics))}, not {metric}")
    backbone = settings.get("backbone", "unet")
    return {
        **{"author": author, "method": method, "plugin": plugin, "backbone": BACKBONES.get(str(backbone), backbone)},
        **{"crop": settings["crop_size"], "metric": metric, "dataset": dataset, "labeled": None, "kept": kept},
        **{"lists": settings.get("labeled_id_path"), "epochs": settings["epochs"], "tests": tests},
    }, findings


def _augseg(settings: dict[str, Any], text: str) -> tuple[dict[str, Any], list[str]]:
    """The fields of a `Log`, and what AugSeg's code does not write. Scores are the teacher's, where there is one."""
    tests = []
    for number, line in enumerate(text.split("\n")):
        if match := TEST.search(line):
            first, second = match[2], match[3]
            tests.append(EpochScore(number, int(match[1]), second or first, first if second else ""))
    net, train, trainer = settings["net"], settings["dataset"]["train"], settings["trainer"]
    method = "augseg" if "unsupervised" in trainer else "supervised"
    backbone, crop = net["encoder"]["type"].rpartition(".")[2], train["crop"]["size"][0]
    samples = SAMPLES.search(text)
    dataset = _dataset("AugSeg", settings["dataset"].get("type"))
    return {
        **{"author": "AugSeg", "method": method, "backbone": backbone, "crop": crop, "metric": "miou"},
        **{"dataset": dataset, "lists": train.get("data_list"), "labeled": int(samples[1]) if samples else None},
        **{"kept": {int(epoch): float(share) for epoch, share in AUGSEG_KEPT.findall(text)}},
        **{"epochs": trainer["epochs"], "tests": tests},
    }, augseg_findings(settings, text)


def _dataset(author: str, name: Any) -> str:
    """Our name of an author's dataset; one that it does not have is among the findings."""
    return DATASETS[author].get(str(name), (str(name), 0))[0]


def _epochs(epochs: tuple[int, ...]) -> str:
    """ "epoch 3", or "epochs 3, 4, 5 and 7 more"."""
    rest = f" and {len(epochs) - 3} more" if len(epochs) > 3 else ""
    return f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs[:3]))}{rest}"
