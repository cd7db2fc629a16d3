"""`plan`: the runs behind tables and recipes, what they cost, and which of them a budget is best spent on."""

from __future__ import annotations

from typing import Annotated

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.commands.check import use_only_our_classes
from ssbench.errors import HardwareError, UsageError
from ssbench.without_torch import import_stand_ins

TFLOPS, UTILISATION = 19.5, 0.5
"""As in `jobs.cost.Device`, which `--help` does not load."""

Utilisation = Annotated[
    float,
    typer.Option(
        "--utilisation", min=0.001, max=1, callback=common.finite, help="Share of the peak that a run reaches."
    ),
]
MOST_SEEDS = 1000
"""More is a typing error: the plan would list every run."""

PlanBudget = Annotated[
    float | None,
    typer.Option(
        "--gpu-hours",
        min=0,
        callback=common.finite,
        help="Only what fits, most informative first.",
    ),
]
PlanTflops = Annotated[
    float,
    typer.Option(
        "--tflops", min=0.001, callback=common.finite, help="Peak of the device where no stored run tells (A100, fp32)."
    ),
]
PlanHardware = Annotated[
    str | None, typer.Option("--hardware", help="Only stored speeds of machines whose name contains this.")
]


def plan(
    targets: Annotated[list[str], typer.Argument(help="Tables (paper/table1) and recipes (name or YAML file).")],
    plugin: common.Plugins = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Of tables, only these; repeatable.")] = None,
    overrides: common.Overrides = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each cell, seeds 0, 1, ...")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Runs at a time, for the wall time.")] = 1,
    budget: PlanBudget = None,
    tflops: PlanTflops = TFLOPS,
    utilisation: Utilisation = UTILISATION,
    hardware: PlanHardware = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time ten steps of each recipe here, exact and fast, and plan with them.")
    ] = False,
    data_root: common.DataRoot = None,
    runs: common.Runs = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """What a table or recipe still takes: runs, each once across papers, hours, disk. --json is for `run --plan`."""
    from ssbench.console import say
    from ssbench.jobs.cost import Device
    from ssbench.jobs.job import Places
    from ssbench.jobs.plan import make_plan
    from ssbench.jobs.plan_file import COLUMNS, rows, summary
    from ssbench.jobs.planned import PlanRequest
    from ssbench.jobs.targets import target_runs
    from ssbench.recipe.compose import with_plugins
    from ssbench.recipe.device import has_gpu, processor_name

    if seeds > MOST_SEEDS:
        raise UsageError(f"{seeds} seeds of each cell", "--seeds", f"at most {MOST_SEEDS}")
    targets = with_plugins(targets, plugin or ())
    device = Device(tflops, utilisation)
    # The speed of a GPU elsewhere says nothing of a machine that has none.
    own = None if hardware or has_gpu() else processor_name()
    request = PlanRequest(tuple(targets), tuple(split or ()), seeds, gpus, budget, device, hardware or own, measure)
    places = Places(paths.data_root(data_root), paths.runs_root(runs), paths.results_root(results))
    runs_of_targets = target_runs(targets, split or (), places, overrides or ())
    if measure:
        from ssbench.jobs.bench import measure_speeds

        measure_speeds(list(runs_of_targets.cells), places)
    elif all(use_only_our_classes([recipe], settings) for recipe, settings, _ in runs_of_targets.cells):
        import_stand_ins()
    planned = make_plan(request, places, runs_of_targets)
    if json:
        common.print_json(planned.as_json())
    else:
        common.print_rows(" ".join(targets), COLUMNS, rows(planned))
        for line in summary(planned):
            say(line)
        unmeasured = sum(not run.measured for run in planned.todo)
        if own and unmeasured and (tflops, utilisation) == (TFLOPS, UTILISATION):
            say(f"planned for an A100, not this machine ({own}, no GPU): of {unmeasured} runs no speed is stored here")
            say("--measure times ten steps of each here; ssbench run RECIPE --split SPLIT --limit 20 tries one")
    if planned.needed is not None:
        what = f"no run fits {budget:g} hours: the shortest takes {planned.needed:.2f}"
        raise HardwareError(what, "--gpu-hours", f"--gpu-hours {planned.needed:.2f} or more")
