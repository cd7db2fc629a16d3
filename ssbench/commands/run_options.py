"""The options of `run`, each with its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssbench.commands.common import finite


class TrackerName(StrEnum):
    """What `--track` takes: the keys of `trackers.TRACKERS`."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"
    MLFLOW = "mlflow"


Targets = Annotated[list[str] | None, typer.Argument(help="Recipes (name or YAML file) or tables (paper/table1).")]
Plan = Annotated[Path | None, typer.Option("--plan", help="Instead: the runs of this `ssbench plan --json`.")]
Record = Annotated[Path | None, typer.Option("--from", help="Instead: the run of this record, from the record alone.")]
Split = Annotated[list[str] | None, typer.Option("--split", help="Such as voc/classic/1_16; repeatable.")]
Seed = Annotated[list[int] | None, typer.Option("--seed", min=0, help="Default 0; may be repeated.")]
Sweep = Annotated[
    list[str] | None, typer.Option("--sweep", help="plugin.tau=0.1,0.5,1: a run of each; several: their product.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Only the first so many steps, on the real data; stores nothing."),
]
Hours = Annotated[
    float | None,
    typer.Option("--hours", min=0.001, callback=finite, help="Steps so that all runs together take so long here."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Toy data, small net, a few steps: does it run?")]
Division = Annotated[
    Literal["closed", "open"] | None, typer.Option("--division", help="Default: what the recipe says.")
]
Track = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Send each epoch to this tracker too, kept below the runs folder; repeatable."),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time (default: one a GPU; 1 on a CPU).")
]
Launcher = Annotated[Literal["local", "slurm"], typer.Option("--launcher", help="Processes here, or jobs of Slurm.")]
Slurm = Annotated[
    list[str] | None, typer.Option("--slurm", help="sbatch's key=value: partition, time, gpus-per-node, cpus, ...")
]
Detach = Annotated[bool, typer.Option("--detach", help="Submit to Slurm, print the jobs, do not wait.")]
