"""Everything that needs a GPU, in stages that may be cut off: `make gpu`, under ten minutes.

python tests/bench/gpu.py [--minutes 9] [--out results/bench/gpu] [--stages facts checks race ...] [--tiny]

facts       the machine, torch, the state of the code
checks      tests/gpu: one update of every method and plug-in on the GPU, exact beside fast, against the CPU's losses
race        seconds a step and peak memory (bench_race.py): the authors' plain step, exact, fast, fast compiled;
            UniMatch on VOC's R101 at 321 (8 + 8 images) and on the ACDC U-Net (12 + 12)
evaluation  images a second and peak memory of scoring, exact and fast
table       as much of acdc/table1 as the time allows; it goes on where it stopped when the command is run again

Each stage is a process with a time limit. What it wrote is kept when it is cut off, and `summary.md` is written anew
after each. `--tiny` runs the same on a CPU with toy sizes, which is how the script itself is tested.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCH = Path(__file__).resolve().parent
RESERVE = 15.0
"""Seconds left for the summary, and for a stage that is told to stop."""


@dataclass(frozen=True)
class GpuStage:
    """A stage: its command, and the seconds it may take at most."""

    name: str
    command: tuple[str, ...]
    seconds: float


def main() -> None:
    """Run the stages in order, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="all stages together (default 9)")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench/gpu")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("SSBENCH_DATA", ROOT / "data")))
    parser.add_argument("--stages", nargs="+", help="only these")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on a CPU, to test this script")
    parser.add_argument("--child", choices=("facts", "evaluation"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        {"facts": write_facts, "evaluation": write_evaluation}[args.child](args)
        return
    if not args.tiny and not has_gpu():
        sys.exit("no GPU: run this on a machine with one, or with --tiny to test the script")
    args.out.mkdir(parents=True, exist_ok=True)
    until, done = time.monotonic() + 60 * args.minutes, {}
    for stage in stages(args):
        if args.stages is None or stage.name in args.stages:
            done[stage.name] = run(stage, until - time.monotonic() - RESERVE, args.out)
            (args.out / "summary.md").write_text(summary(args.out, done))
    print((args.out / "summary.md").read_text())
    if any(facts["state"] == "failed" for facts in done.values()):
        sys.exit(6)


def has_gpu() -> bool:
    """Whether torch sees one."""
    import torch

    return bool(torch.cuda.is_available())


def stages(args: argparse.Namespace) -> list[GpuStage]:
    """In the order of what matters most when time is short."""
    python, device = sys.executable, "cpu" if args.tiny else "cuda"
    own = (python, __file__, "--out", str(args.out), "--data-root", str(args.data_root), *(["--tiny"] * args.tiny))
    race = (python, str(BENCH / "bench_race.py"), "--device", device, "--data-root", str(args.data_root))
    sides = ("plain", "exact", "fast", "fast,schedule.compile=on")
    cases = ("tiny",) if args.tiny else ("r101", "acdc12")
    steps = ("--turns", "1", "--steps", "1") if args.tiny else ("--turns", "3", "--steps", "10", "--workers", "8")
    return [
        GpuStage("facts", (*own, "--child", "facts"), 30),
        GpuStage("checks", (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests/gpu")), 90),
        *(
            GpuStage(f"race-{case}", (*race, "--cases", case, "--sides", *sides[: 3 if args.tiny else 4], *steps,
                                      "--out", str(args.out / f"race-{case}")), 150)
            for case in cases
        ),
        GpuStage("evaluation", (*own, "--child", "evaluation"), 60),
        GpuStage("table", table_command(args, device), 600),
    ]  # fmt: skip


def table_command(args: argparse.Namespace, device: str) -> tuple[str, ...]:
    """`ssbench run` of the table, fast, seed 0; with --tiny of one quick run."""
    words = [
        sys.executable,
        "-m",
        "ssbench",
        "run",
        *(["toy/none_supervised", "--quick"] if args.tiny else ["acdc/table1"]),
    ]
    if args.tiny:
        words += ["--split", "toy/ours/1_32"]
    words += ["--set", "schedule.precision=fast", "--seed", "0", "--device", device, "--data-root", str(args.data_root)]
    return (*words, "--runs", str(args.out / "runs"), "--results", str(args.out / "records"))


def run(stage: GpuStage, seconds_left: float, out: Path) -> dict[str, Any]:
    """A stage's state: done, failed, cut off (told to stop, with what it wrote kept) or left out."""
    limit = min(stage.seconds, seconds_left)
    if limit < 5:
        return {"state": "left out", "seconds": 0.0}
    print(f"{stage.name}: at most {limit:.0f} s", file=sys.stderr)
    path, began = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), time.monotonic()
    with (out / f"{stage.name}.log").open("w") as log:
        process = subprocess.Popen(
            stage.command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            end(process)
    state = "cut off" if code is None else "done" if code in (0, 75) else "failed"
    return {"state": state, "seconds": round(time.monotonic() - began, 1), "exit_code": code}


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a stage and its children to stop, as Slurm does, then make them."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
            return
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue


def summary(out: Path, done: Mapping[str, Mapping[str, Any]]) -> str:
    """What the stages found, from the files they left."""
    facts = read(out / "facts.json")
    lines = [
        "# On a GPU",
        "",
        f"`make gpu` on {facts.get('name', 'an unknown machine')}, torch {facts.get('torch', '?')}.",
    ]
    lines += ["", "| stage | state | seconds |", "|---|---|---:|"]
    lines += [f"| {name} | {stage['state']} | {stage['seconds']:.0f} |" for name, stage in done.items()]
    for path in sorted(out.glob("race-*/race.md")):
        lines += ["", path.read_text().split("\n\n", 1)[1].strip()]
    if rows := read(out / "evaluation.json").get("rows"):
        lines += ["", "| scoring | images / s | peak MiB |", "|---|---:|---:|"]
        lines += [f"| {r['name']} | {r['images_per_s']:.1f} | {r['peak_bytes'] / 2**20:.0f} |" for r in rows]
    if scores := finished(out / "records"):
        lines += ["", "| run | split | best | s / step | peak MiB |", "|---|---|---:|---:|---:|", *scores]
    return "\n".join(lines) + "\n"


def finished(records: Path) -> list[str]:
    """A line of each finished run."""
    lines = []
    for path in sorted(records.rglob("seed*.json")):
        record = read(path)
        if record.get("status") != "done":
            continue
        step, peak = record["throughput"]["seconds_per_step"], record["memory"]["peak_bytes"]
        best = record["scores"]["best"]["report"]
        lines.append(f"| {record['recipe']} | {record['split']} | {best:.2f} | {step:.3f} | {peak / 2**20:.0f} |")
    return lines


def read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where a stage has not come so far."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


# Stages that are this script's own processes


def write_facts(args: argparse.Namespace) -> None:
    """facts.json: hardware, packages, code, what bf16 and TF32 are here."""
    import torch

    from ssbench.nets.precision import bf16_support
    from ssbench.train import machine

    device = torch.device("cpu" if args.tiny else "cuda")
    facts = {
        **machine.hardware(device),
        "packages": machine.packages(),
        "git": machine.code(),
        "torch": torch.__version__,
    }
    facts |= {"bf16": bf16_support(device), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"capability": list(torch.cuda.get_device_capability(device)), "memory": properties.total_memory}
    (args.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def write_evaluation(args: argparse.Namespace) -> None:
    """evaluation.json: scoring of the race's networks, untrained, exact and fast. Written after each."""
    import torch
    from bench_race import CASES, build_trainer, prepared

    rows: list[dict[str, Any]] = []
    for case_name in ("tiny",) if args.tiny else ("r101", "acdc12"):
        for precision in ("exact", "fast"):
            case = prepared(CASES[case_name], args.data_root)
            order = {
                "case": vars(case), "workers": 0 if args.tiny else 4, "data": str(args.data_root), "steps": 1,
                "device": "cpu" if args.tiny else "cuda",
            }  # fmt: skip
            trainer = build_trainer(
                order, f"schedule.precision={precision}", "eval.few=4" if args.tiny else "eval.few=100"
            )
            rows.append({"name": f"{case_name} {precision}", **score_twice(trainer)})
            del trainer
            (args.out / "evaluation.json").write_text(json.dumps({"rows": rows, "torch": torch.__version__}) + "\n")


def score_twice(trainer: Any) -> dict[str, float]:
    """Images a second of the second scoring; the first chooses kernels."""
    import torch

    from ssbench.train.machine import peak_memory

    cfg, dataset, device = trainer.recipe.eval, trainer.dataset, trainer.team.device
    volumes: Sequence[Any] | None = list((dataset.volumes(cfg.select) or {}).values()) or None
    images = len(dataset.ids(cfg.select)[: cfg.few]) if volumes is None else sum(map(len, volumes[: cfg.few]))
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        trainer.score(cfg.select)
        seconds = time.perf_counter() - began
    return {"images_per_s": images / seconds, "peak_bytes": float(peak_memory(device))}


if __name__ == "__main__":
    main()
