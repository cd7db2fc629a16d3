"""`run --sweep plugin.tau=0.1,0.5,1`: the product of such lists as `--set` arguments, and its scores as a table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

from ssbench.errors import UsageError
from ssbench.jobs.job import Outcome

MOST = 1000
"""Combinations of one sweep; more is a typing error."""

Combination = tuple[str, ...]
"""`--set` arguments, one of each `--sweep`, in their order."""


def combinations(sweeps: Sequence[str]) -> list[Combination]:
    """Every combination of the values; a single empty one for no sweep.

    Raises:
        UsageError: not of the form "a.b=v1,v2", a name twice, or more than `MOST` combinations.
    """
    lists: list[list[str]] = []
    names: list[str] = []
    for text in sweeps:
        name, sign, values = text.partition("=")
        listed = list(_split(values)) if sign else []
        if not name.strip() or not listed or not all(listed):
            raise UsageError(f"--sweep '{text:.200}' is no name.field=v1,v2,...", "--sweep", "--sweep plugin.tau=0.5,1")
        if name in names:
            raise UsageError(f"--sweep names {name} twice", "--sweep", f"--sweep {name}=v1,v2,v3")
        names.append(name)
        lists.append([f"{name}={value}" for value in dict.fromkeys(listed)])
    product = list(itertools.islice(itertools.product(*lists), MOST + 1))
    if len(product) > MOST:
        raise UsageError(f"a sweep of more than {MOST} combinations", "--sweep", "fewer values")
    return product


def _split(values: str) -> Iterator[str]:
    """At the commas that stand in no brackets and no quotes: "[1,2],[3,4]" are two values."""
    piece, depth, quote = "", 0, ""
    for char in values:
        if quote or char in "'\"":
            quote = "" if char == quote else quote or char
        depth += (char in "[{") - (char in "]}") if not quote else 0
        if char == "," and not depth and not quote:
            yield piece.strip()
            piece = ""
        else:
            piece += char
    yield piece.strip()


def sweep_columns(sweeps: Sequence[str]) -> list[str]:
    """Headings of the rows of `sweep_rows`."""
    return ["recipe", *(text.partition("=")[0] for text in sweeps), "split", "seeds", "best", "sd", "last", "state"]


def sweep_rows(product: Sequence[Combination], outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each recipe, combination and split: mean and standard deviation over seeds, percent."""
    rows = []
    size = len(product[0])
    for combination in product:
        of_it = [o for o in outcomes if not size or o.job.overrides[-size:] == combination]
        for place in dict.fromkeys((o.job.recipe, o.job.split) for o in of_it):
            runs = [o for o in of_it if (o.job.recipe, o.job.split) == place]
            values = [text.partition("=")[2] for text in combination]
            rows.append([place[0], *values, place[1], *_numbers(runs)])
    return rows


def _numbers(runs: Sequence[Outcome]) -> list[str]:
    """Seeds, mean and deviation of the best epoch's scores, mean of the last epoch's, and how the runs ended."""
    records = [run.record for run in runs if run.record is not None and run.error is None]
    best = [record["scores"]["best"]["report"] for record in records if record.get("scores")]
    last = [record["scores"]["last"]["report"] for record in records if record.get("scores")]
    states = dict.fromkeys(run.state for run in runs)
    spread = f"{statistics.stdev(best):.2f}" if len(best) > 1 else ""
    means = [f"{statistics.fmean(values):.2f}" if values else "" for values in (best, last)]
    return [",".join(str(run.job.seed) for run in runs), means[0], spread, means[1], ", ".join(states)]
