"""Charts of runs: score and loss terms by epoch, pseudo-label quality by epoch, scores by class, gains.

Epochs count from 1. Stages of a run (ST++) follow one another on the axis. Over several seeds a line is the mean, and
the area around it goes from the lowest to the highest seed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ssbench.page.charts import Band, Bars, BarSeries, Dots, Level, Lines, Series, slug
from ssbench.page.runs import Group, Line, Run
from ssbench.tables.cell import Gain

METRICS = {"miou": "mIoU", "dice": "Dice"}
QUALITY = {"kept": "kept share", "precision": "precision", "recall": "recall"}
NOT_LOSSES = ("kept", "known", "right")
MANY_CLASSES, SHOWN_CLASSES = 30, 15
MANY_GAINS, GAIN = 12, "points, ± standard error over seeds"
CLOSE = 5
"""Epochs between known scores of a released log, at most, for it to be drawn as a line."""

Curve = Sequence[tuple[int, float]]
"""(epoch from 1, score in percent), by epoch."""

Values = Mapping[int, Mapping[str, float]]
"""Epoch from 1 -> name -> value."""


def history(run: Run) -> dict[int, dict[str, float]]:
    """What a run recorded by epoch: `select` (percent), every term of its loss, and the terms of `quality`."""
    out: dict[int, dict[str, float]] = {}
    before, stage = 0, None
    for entry in run.whole.get("history") or []:
        if entry.get("stage") != stage:
            before, stage = max(out, default=0), entry.get("stage")
        terms = entry.get("terms", entry)
        values = {k: float(v) for k, v in terms.items() if isinstance(v, int | float) and k not in ("epoch", "stage")}
        if isinstance(entry.get("select"), int | float):
            values["select"] = float(entry["select"])
        out[before + int(entry["epoch"]) + 1] = values
    return out


def quality(values: Mapping[str, float]) -> dict[str, float]:
    """Pseudo-label quality of one epoch in percent, as far as it was recorded.

    kept: share of valid pixels with a pseudo-label. recall: share of pixels of known truth that are kept and right.
    precision: share of right ones among the kept pixels of known truth; none where nothing is kept.
    """
    out = {"kept": 100 * values["kept"]} if "kept" in values else {}
    if "right" in values and "known" in values:
        out["recall"] = 100 * values["right"]
        if values["known"] > 0:
            out["precision"] = 100 * values["right"] / values["known"]
    return out


def score_chart(group: Group) -> Lines | None:
    """The score that chose the epoch, over the band of released logs; None where no epoch was scored."""
    series = _series(group, "select", history)
    if not series:
        return None
    subset = group.lines[0].runs[0].whole.get("protocol", {}).get("select", "val")
    y = f"{METRICS.get(group.lines[0].metric, group.lines[0].metric)} on {subset}, %"
    levels = tuple(_levels(group))
    logs = [sorted((epoch + 1, score) for epoch, score in claim.curve or ()) for claim in group.claims]
    bands, dots = _bands([c for c in logs if _is_whole(c)]), _dots([c for c in logs if not _is_whole(c)])
    return Lines(_name("score", group), group.heading, "epoch", y, series, bands, dots, levels)


def loss_charts(group: Group) -> list[Lines]:
    """One chart a term of the loss, the whole first; how wide a term's range is differs between methods."""
    names = {n for line in group.lines for run in line.runs for values in history(run).values() for n in values}
    wanted = sorted(names - {"select", *NOT_LOSSES}, key=lambda n: (n != "loss", n))
    charts = []
    for name in wanted:
        if series := _series(group, name, history):
            charts.append(Lines(_name(f"loss-{slug(name)}", group), group.heading, "epoch", name, series))
    return charts


def quality_charts(group: Group) -> list[Lines]:
    """Kept share, precision and recall of pseudo-labels; only what was recorded."""
    charts = []
    for name, shown in QUALITY.items():
        if series := _series(group, name, lambda run: {e: quality(v) for e, v in history(run).items()}):
            y = f"{shown} of pseudo-labels, %"
            charts.append(Lines(_name(f"pseudo-{name}", group), group.heading, "epoch", y, series, limits=(0, 100)))
    return charts


def unmeasured(group: Group) -> str:
    """What is not known of a group's pseudo-labels: "everything", "precision and recall", or "" """
    known = {name for line in group.lines for run in line.runs for v in history(run).values() for name in quality(v)}
    return "" if "recall" in known else "precision and recall" if known else "everything"


def class_chart(group: Group) -> Bars | None:
    """Scores by class at the best epoch, mean over seeds; None where there are none."""
    metric = "Dice" if group.lines[0].metric == "dice" else "IoU"
    found = [_by_class(line) for line in group.lines]
    names = max(map(list, found), key=len)
    if not names:
        return None
    series = tuple(
        BarSeries(line.label, at, tuple(values.get(n) for n in names))
        for at, (line, values) in enumerate(zip(group.lines, found, strict=True))
    )
    shown = _largest_changes(series) if len(names) > MANY_CLASSES else ()
    return Bars(_name("classes", group), group.heading, f"{metric}, %", tuple(names), series, shown)


def gains_chart(groups: Iterable[Group]) -> Bars | None:
    """Mean gain of each plug-in over its baseline over the seeds both have, in points; None without a pair."""
    pairs = list(gains_of(groups))
    if not pairs:
        return None
    rows = tuple(f"{base.split}: {plug.label} ({_seeds(gains)})" for base, plug, gains in pairs)
    printed = tuple(_printed_gain(base, plug) for base, plug, _ in pairs)
    series = [BarSeries("printed", 0, printed)] if any(p is not None for p in printed) else []
    series.append(BarSeries("measured", 1, tuple(statistics.fmean(gains) for _, _, gains in pairs)))
    order = sorted(range(len(rows)), key=lambda at: (-abs(series[-1].values[at] or 0), at))
    shown = tuple(sorted(order[:MANY_GAINS])) if len(rows) > MANY_GAINS else ()
    return Bars("gains", "Gain of each plug-in over its baseline", GAIN, rows, tuple(series), shown, signed=True)


def gains_of(groups: Iterable[Group]) -> Iterator[tuple[Line, Line, list[float]]]:
    """(baseline, baseline + plug-in, gains by seed) of every pair with a seed in common."""
    for group in groups:
        for base, plug in group.pairs():
            ours, theirs = plug.scores(), base.scores()
            if gains := [ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs]:
                yield base, plug, gains


def _seeds(gains: Sequence[float]) -> str:
    error = Gain(None, tuple(gains)).error
    return "1 seed" if error is None else f"{len(gains)} seeds, ± {error:.2f}"


def _printed_gain(base: Line, plug: Line) -> float | None:
    """As the printed numbers of one table's column give it; None where they must not be compared with ours."""
    ours, theirs = plug.cell, base.cell
    if ours is None or theirs is None or ours.column != theirs.column or ours.apart or theirs.apart:
        return None
    return None if ours.printed is None or theirs.printed is None else float(ours.printed - theirs.printed)


def _name(kind: str, group: Group) -> str:
    return slug(kind, group.split, group.lines[0].recipe)


def _series(group: Group, name: str, values: Any) -> tuple[Series, ...]:
    """One line of `name` for each of the group's lines that has it."""
    made = (
        _over_seeds(line, at, [_curve(values(run), name) for run in line.runs]) for at, line in enumerate(group.lines)
    )
    return tuple(s for s in made if s.points)


def _curve(values: Values, name: str) -> dict[int, float]:
    return {epoch: found[name] for epoch, found in values.items() if name in found}


def _over_seeds(line: Line, style: int, curves: Sequence[Mapping[int, float]]) -> Series:
    """Mean and range by epoch."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for epoch, value in curve.items():
            by_epoch[epoch].append(value)
    points = tuple((float(e), statistics.fmean(by_epoch[e])) for e in sorted(by_epoch))
    band = tuple((float(e), min(by_epoch[e]), max(by_epoch[e])) for e in sorted(by_epoch)) if len(curves) > 1 else ()
    return Series(line.label, style, points, band)


def _bands(curves: Sequence[Curve]) -> tuple[Band, ...]:
    """Lowest and highest of the released logs at every epoch one of them knows, each drawn straight between."""
    points = []
    for epoch in sorted({e for curve in curves for e, _ in curve}):
        if found := [v for curve in curves if (v := _between(curve, epoch)) is not None]:
            points.append((float(epoch), min(found), max(found)))
    return (Band(_logs(len(curves)), tuple(points)),) if points else ()


def _dots(curves: Sequence[Curve]) -> tuple[Dots, ...]:
    """What is known of logs that are known at few epochs: no line is drawn where nobody knows its course."""
    points = tuple(sorted((float(epoch), score) for curve in curves for epoch, score in curve))
    return (Dots(f"{_logs(len(curves))}, known epochs", points),) if points else ()


def _logs(many: int) -> str:
    return f"{many} released log{'s' if many > 1 else ''}"


def _is_whole(curve: Curve) -> bool:
    """Whether the known epochs lie close enough to draw the log as a line."""
    return len(curve) > 3 and all(b - a <= CLOSE for (a, _), (b, _) in zip(curve, curve[1:], strict=False))


def _between(curve: Curve, epoch: int) -> float | None:
    """The curve's value at an epoch, on a straight line between its neighbours; None outside of it."""
    for (x0, y0), (x1, y1) in zip(curve, curve[1:] or curve, strict=False):
        if x0 <= epoch <= x1:
            return y0 if x0 == x1 else y0 + (y1 - y0) * (epoch - x0) / (x1 - x0)
    return None


def _levels(group: Group) -> Iterator[Level]:
    """The supervised run's best select score, for scale."""
    if group.reference is None:
        return
    best = [run.whole["scores"]["best"].get("select") for run in group.reference.runs]
    if known := [b for b in best if b is not None]:
        yield Level(f"{group.reference.label} (best epoch)", statistics.fmean(known))


def _by_class(line: Line) -> dict[str, float]:
    """Class -> mean over seeds of its score at the best epoch; classes that are nowhere are left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in line.runs:
        values = (run.whole.get("per_class") or {}).get("best") or []
        names = run.whole.get("classes") or []
        names = names[1:] if len(values) == len(names) - 1 else names  # Dice leaves out the background
        for name, value in zip(names, values, strict=False):
            if value is not None:
                found[name].append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}


def _largest_changes(series: Sequence[BarSeries]) -> tuple[int, ...]:
    """Positions of the classes whose scores lie furthest apart, in the dataset's order."""
    spans = []
    for at in range(len(series[0].values)):
        known = [v for s in series if (v := s.values[at]) is not None]
        spans.append((-(max(known) - min(known)) if known else 0.0, at))
    return tuple(sorted(at for _, at in sorted(spans)[:SHOWN_CLASSES]))
