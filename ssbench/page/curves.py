"""Charts of runs: scores, loss terms and pseudo-label quality by epoch, scores by class, gains.

Epochs count from 1. Stages of a run (ST++) follow one another on the axis. Over several seeds a line is the mean, and
the area around it goes from the lowest to the highest seed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ssbench.page.charts import Band, BarChart, BarSeries, Dots, Level, LineChart, Series, slug
from ssbench.page.runs import Comparison, Experiment, StoredRun, gained_over
from ssbench.tables.band import find_band
from ssbench.tables.cell import Filled, Gain

METRICS = {"miou": "mIoU", "dice": "Dice"}
QUALITY = {"kept": "kept share", "precision": "precision", "recall": "recall"}
NOT_LOSSES = ("select", "kept", "known", "right")
MANY_CLASSES, SHOWN_CLASSES = 30, 15
CLOSE = 5
"""Most epochs between known scores of a released log for it to be drawn as a line."""

Curve = Sequence[tuple[int, float]]
"""(epoch from 1, score in percent), by epoch."""

Values = Mapping[int, Mapping[str, float]]
"""Epoch from 1 -> name -> value."""


def history(run: StoredRun) -> dict[int, dict[str, float]]:
    """What a run recorded by epoch: `select` (percent), every term of its loss, and the terms of `quality`."""
    values_at: dict[int, dict[str, float]] = {}
    before, stage = 0, None
    for entry in run.fields.get("history") or []:
        if entry.get("stage") != stage:
            before, stage = max(values_at, default=0), entry.get("stage")
        terms = entry.get("terms", entry)
        values = {k: float(v) for k, v in terms.items() if isinstance(v, int | float) and k not in ("epoch", "stage")}
        if isinstance(entry.get("select"), int | float):
            values["select"] = float(entry["select"])
        values_at[before + int(entry["epoch"]) + 1] = values
    return values_at


def quality(values: Mapping[str, float]) -> dict[str, float]:
    """Pseudo-label quality of one epoch in percent, as far as it was recorded (`methods.base.quality`).

    kept: of all valid pixels, those with a pseudo-label. recall: of the valid pixels whose true label is known, those
    that are kept and right. precision: of the kept pixels whose true label is known, those that are right; absent where
    there are none. Where many true labels are unknown, recall can exceed the kept share.
    """
    shares = {"kept": 100 * values["kept"]} if "kept" in values else {}
    if "right" in values and "known" in values:
        shares["recall"] = 100 * values["right"]
        if values["known"] > 0:
            shares["precision"] = 100 * values["right"] / values["known"]
    return shares


def score_chart(group: Comparison) -> LineChart | None:
    """The score that chose the epoch, over the band of released logs; None where no epoch was scored."""
    series = _series(group, "select", history)
    if not series:
        return None
    subset = group.base.runs[0].fields.get("protocol", {}).get("select", "val")
    y = f"{METRICS.get(group.base.metric, group.base.metric)} on {subset}, %"
    logs = [sorted((epoch + 1, score) for epoch, score in claim.curve or ()) for claim in group.claims]
    bands, dots = _bands([c for c in logs if _is_whole(c)]), _dots([c for c in logs if not _is_whole(c)])
    return LineChart(_name("score", group), group.heading, "epoch", y, series, bands, dots, tuple(_levels(group)))


def outside_bands(group: Comparison) -> list[str]:
    """ "seed 0, epoch 12: 48.1, band 60.2 to 66.9 of 3 released logs: ..." of the base's runs that left their band."""
    texts = []
    for run in group.base.runs:
        entries, resolved = run.fields.get("history") or [], run.fields.get("resolved")
        if not resolved or any("stage" in entry for entry in entries):
            continue
        scores = {epoch - 1: values["select"] for epoch, values in history(run).items() if "select" in values}
        band = find_band(group.claims, resolved, group.base.split, len(entries), group.base.metric)
        if band is not None and (outside := band.first_exit(scores)) is not None:
            texts.append(f"seed {run.record.seed}, {outside}")
    return texts


def loss_charts(group: Comparison) -> list[LineChart]:
    """One chart a term of the loss, the whole first: a term's range differs widely between methods."""
    names = {n for e in group.experiments for run in e.runs for values in history(run).values() for n in values}
    charts = []
    for name in sorted(names.difference(NOT_LOSSES), key=lambda n: (n != "loss", n)):
        if series := _series(group, name, history):
            charts.append(LineChart(_name(f"loss-{slug(name)}", group), group.heading, "epoch", name, series))
    return charts


def quality_charts(group: Comparison) -> list[LineChart]:
    """Kept share, precision and recall of pseudo-labels; only what was recorded."""
    charts = []
    for name, shown in QUALITY.items():
        if series := _series(group, name, lambda run: {e: quality(v) for e, v in history(run).items()}):
            title, y = f"{group.heading}: {shown}", f"{shown}, %"
            charts.append(LineChart(_name(f"pseudo-{name}", group), title, "epoch", y, series, limits=(0, 100)))
    return charts


def unmeasured(group: Comparison) -> str:
    """What is not known of a group's pseudo-labels: "everything", "precision and recall", or "" """
    known = {n for e in group.experiments for run in e.runs for v in history(run).values() for n in quality(v)}
    return "" if "recall" in known else "precision and recall" if known else "everything"


def class_chart(group: Comparison) -> BarChart | None:
    """Scores by class at the best epoch, mean over seeds; None where there are none."""
    metric = "Dice" if group.base.metric == "dice" else "IoU"
    scores = [_by_class(experiment) for experiment in group.experiments]
    names = max(map(list, scores), key=len)
    if not names:
        return None
    series = tuple(
        BarSeries(experiment.label, at, tuple(by_class.get(n) for n in names))
        for at, (experiment, by_class) in enumerate(zip(group.experiments, scores, strict=True))
    )
    shown = _largest_changes(series) if len(names) > MANY_CLASSES else ()
    return BarChart(_name("classes", group), group.heading, f"{metric}, %", tuple(names), series, shown)


def table_gains(filled: Filled) -> BarChart | None:
    """The gains a table takes, row by row as it has them, beside the printed ones; None where none is measured."""
    table, rows = filled.table, []
    columns = {c.id: c.label for c in table.columns}
    for row in table.rows:
        for column in columns if row.gain_over else ():
            gain = filled.gain(row.id, column, str(row.gain_over), column)
            if gain.pairs:
                cells = filled.cells[row.id, column], filled.cells[str(row.gain_over), column]
                apart = any(cell.apart for cell in cells)  # such a number is not compared with a printed one
                where = f"{row.label}, {columns[column]}" if len(columns) > 1 else row.label
                rows.append((where, gain, None if apart else gain.printed))
    return _gains(f"gains-{slug(table.name)}", f"{table.name}: gains over the baselines", rows)


def other_gains(groups: Iterable[Comparison], tables: Sequence[Filled]) -> BarChart | None:
    """The gains of plug-ins that none of the tables takes, over the seeds both runs have; None without any."""
    in_tables = set(gained_over(tables))
    rows = []
    for group in groups:
        for base, plug in group.pairs():
            ours, theirs = plug.scores(), base.scores()
            gain = Gain(None, tuple(ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs))
            if gain.pairs and (plug.place, base.place) not in in_tables:
                rows.append((f"{plug.label}, {plug.column}", gain, None))
    return _gains("gains-others", "Gains over the baselines, outside the tables", rows)


def _gains(name: str, title: str, rows: Sequence[tuple[str, Gain, object]]) -> BarChart | None:
    """One row a gain: measured mean over seeds in points, and the printed one where any row has one."""
    if not rows:
        return None
    seeds = ("1 seed" if g.error is None else f"{len(g.pairs)} seeds, ± {g.error:.2f}" for _, g, _ in rows)
    labels = tuple(f"{label} ({text})" for (label, *_), text in zip(rows, seeds, strict=True))
    printed = tuple(None if value is None else float(str(value)) for _, _, value in rows)
    series = [BarSeries("printed", 0, printed)] if any(p is not None for p in printed) else []
    series.append(BarSeries("measured", 1, tuple(statistics.fmean(gain.pairs) for _, gain, _ in rows)))
    return BarChart(name, title, "points, ± standard error over seeds", labels, tuple(series), signed=True)


def _name(kind: str, group: Comparison) -> str:
    return slug(kind, group.base.split, group.base.recipe)


def _series(group: Comparison, name: str, values: Callable[[StoredRun], Values]) -> tuple[Series, ...]:
    """One line of `name` for each experiment that has it."""
    series = []
    for style, experiment in enumerate(group.experiments):
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for run in experiment.runs:
            for epoch, of_epoch in values(run).items():
                if name in of_epoch:
                    by_epoch[epoch].append(of_epoch[name])
        if by_epoch:
            series.append(seed_line(experiment.label, style, by_epoch))
    return tuple(series)


def seed_line(label: str, style: int, values: Mapping[int, Sequence[float]]) -> Series:
    """The line through the means over seeds, and the area from the lowest to the highest where there are several.

    Args:
        values: x -> what the seeds have there, one or more.
    """
    points = tuple((float(x), statistics.fmean(values[x])) for x in sorted(values))
    band = tuple((float(x), min(values[x]), max(values[x])) for x in sorted(values) if len(values[x]) > 1)
    return Series(label, style, points, band)


def _bands(curves: Sequence[Curve]) -> tuple[Band, ...]:
    """Lowest and highest of the released logs at every epoch one of them knows, each drawn straight between."""
    points = []
    for epoch in sorted({e for curve in curves for e, _ in curve}):
        if scores := [v for curve in curves if (v := _between(curve, epoch)) is not None]:
            points.append((float(epoch), min(scores), max(scores)))
    return (Band(_logs(len(curves)), tuple(points)),) if points else ()


def _dots(curves: Sequence[Curve]) -> tuple[Dots, ...]:
    """The scores of logs that are known at few epochs: no line is drawn where nobody knows its course."""
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


def _levels(group: Comparison) -> Iterator[Level]:
    """The supervised experiment's best select score, for scale."""
    if group.reference is None:
        return
    best = [run.fields["scores"]["best"].get("select") for run in group.reference.runs]
    if known := [b for b in best if b is not None]:
        yield Level(f"{group.reference.label} (best epoch)", statistics.fmean(known))


def _by_class(experiment: Experiment) -> dict[str, float]:
    """Class -> mean over seeds of its score at the best epoch; classes that occur nowhere are left out."""
    scores: dict[str, list[float]] = defaultdict(list)
    for run in experiment.runs:
        values = (run.fields.get("per_class") or {}).get("best") or []
        names = run.fields.get("classes") or []
        names = names[1:] if len(values) == len(names) - 1 else names  # Dice leaves out the background
        for name, value in zip(names, values, strict=False):
            if value is not None:
                scores[name].append(value)
    return {name: statistics.fmean(values) for name, values in scores.items()}


def _largest_changes(series: Sequence[BarSeries]) -> tuple[int, ...]:
    """Positions of the classes whose scores lie furthest apart, in the dataset's order."""
    spans = []
    for at in range(len(series[0].values)):
        known = [v for s in series if (v := s.values[at]) is not None]
        spans.append((-(max(known) - min(known)) if known else 0.0, at))
    return tuple(sorted(at for _, at in sorted(spans)[:SHOWN_CLASSES]))
