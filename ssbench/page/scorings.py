"""How the best score of a run depends on how often it is scored.

The releases of this field print the best of all scorings, and the score scatters from epoch to epoch, so a run that is
scored more often has a higher best. This chart shows the best that each run would have had with fewer scorings, beside
its last score and the mean of its last tenth, which do not depend on that.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ssbench.page.charts import Level, LineChart, slug
from ssbench.page.curves import METRICS, history, seed_line
from ssbench.page.runs import Comparison, Experiment, StoredRun

FEWEST = 12
"""Scorings of a run below which the chart says little."""


def scorings(run: StoredRun) -> list[tuple[int, float]]:
    """(epoch from 1, score in percent) of each scoring, in order."""
    return sorted((epoch, values["select"]) for epoch, values in history(run).items() if "select" in values)


def best_by_interval(scores: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Epochs between scorings -> the best score that is left when only such epochs are scored.

    Intervals are the run's own, times 1, 2, 4, ..., as long as three scorings remain. The last epoch is always scored,
    as in training.
    """
    epochs = [epoch for epoch, _ in scores]
    own = min((b - a for a, b in zip(epochs, epochs[1:], strict=False)), default=1)
    best, interval, last = dict[int, float](), own, epochs[-1]
    while len(left := [score for epoch, score in scores if (last - epoch) % interval == 0]) >= 3:
        best[interval] = max(left)
        interval *= 2
    return best


def last_tenth(scores: Sequence[tuple[int, float]]) -> float:
    """Mean of the last tenth of the scorings, of one at least."""
    return statistics.fmean(score for _, score in scores[-max(1, round(len(scores) / 10)) :])


def scoring_chart(group: Comparison) -> LineChart | None:
    """The chart of a comparison; None where its runs were scored too seldom. Levels are those of its baseline."""
    series = tuple(
        seed_line(experiment.label, style, values)
        for style, experiment in enumerate(group.experiments)
        if (values := _best_of_seeds(experiment))
    )
    if not series:
        return None
    runs = [scores for run in group.base.runs if (scores := scorings(run))]
    levels = (
        (
            Level(f"{group.base.label}: last epoch", statistics.fmean(scores[-1][1] for scores in runs)),
            Level(f"{group.base.label}: mean of the last tenth", statistics.fmean(map(last_tenth, runs))),
        )
        if runs
        else ()
    )
    ticks = tuple((x, f"{x:g}") for x in sorted({x for line in series for x, _ in line.points}))
    y = f"best {METRICS.get(group.base.metric, group.base.metric)}, %"
    name = slug("scorings", group.base.split, group.base.recipe)
    return LineChart(name, group.heading, "epochs between scorings", y, series, levels=levels, ticks=ticks)


def _best_of_seeds(experiment: Experiment) -> dict[int, list[float]]:
    """Interval -> the best score of each seed; intervals that every seed has."""
    of_runs = [best_by_interval(scores) for run in experiment.runs if len(scores := scorings(run)) >= FEWEST]
    shared = set(of_runs[0]).intersection(*of_runs) if of_runs else set[int]()
    return {interval: [best[interval] for best in of_runs] for interval in shared}
