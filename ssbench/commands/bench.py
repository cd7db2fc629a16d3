"""`bench`: seconds of a recipe's steps on this machine, exact and fast, beside those of stored runs."""

from __future__ import annotations

from typing import Annotated

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Device, Json, Overrides, Results, print_json, print_rows

COLUMNS = ("precision", "loading", "s a step", "images/s", "stored here", "times exact")


def bench(
    recipe: Annotated[str, typer.Argument(help="A recipe: its name, or a YAML file.")],
    split: Annotated[str, typer.Option("--split", help="The split whose lists are read.")],
    steps: Annotated[int, typer.Option("--steps", min=1, max=1000, help="Steps that count, of each way.")] = 10,
    overrides: Overrides = None,
    device: Device = None,
    data_root: DataRoot = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Time steps of a recipe with and without loading data, exact and fast, in turn. Nothing is stored."""
    from ssbench.console import say
    from ssbench.jobs.bench import bench as time_recipe
    from ssbench.jobs.job import Places

    places = Places(paths.data_root(data_root), paths.runs_root(None), paths.results_root(results))
    outcome = time_recipe(recipe, split, overrides or [], steps, places, device)
    if json:
        print_json(outcome.as_json())
        return
    exact = {t.loading: t.seconds for t in outcome.timings if t.precision == "exact"}
    rows = [
        (
            timing.precision,
            "yes" if timing.loading else "no",
            f"{timing.seconds:.3f}",
            f"{timing.images_per_s:.1f}",
            f"{outcome.stored[timing.precision]:.1f}" if timing.loading and timing.precision in outcome.stored else "",
            f"{timing.seconds / exact[timing.loading]:.2f}",
        )
        for timing in outcome.timings
    ]
    print_rows(f"{outcome.recipe} {outcome.split}, {outcome.machine}, {outcome.steps} steps", COLUMNS, rows)
    peak = max(timing.peak_bytes for timing in outcome.timings)
    say(f"peak memory of all ways together: {peak / 2**30:.2f} GiB")
    if outcome.note:
        say(outcome.note)
