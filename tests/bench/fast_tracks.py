"""Whether `fast` is the same method as `exact`: paired seeds of both, final scores and loss curves, by a stated rule.

python tests/bench/fast_tracks.py --data-root DATA --work FOLDER [--sets toy acdc] [--seeds 0 1 2] [--out results/bench]

The runs are those of `ssbench run`, in FOLDER; what is stored there is not run again, so the command may be stopped
and started. `--report` only writes the tables of what is stored. Rule, decided before any run was made: a recipe tracks
when

1. the mean over seeds of (fast - exact) is within 2.5 standard errors of 0, the standard error being that of the paired
   differences or that of seed noise (the deviation of exact scores over the square root of seeds), whichever is larger,
2. and in nine of ten epochs the mean loss of fast lies within the band of exact: its mean over seeds, two deviations
   (and at least 2 % of the loss) up and down.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STANDARD_ERRORS, DEVIATIONS, LEAST_BAND, SHARE_OF_EPOCHS = 2.5, 2.0, 0.02, 0.9
PRECISIONS = ("exact", "fast")


@dataclass(frozen=True)
class TrackedRecipe:
    """A recipe that is run in both precisions."""

    recipe: str
    split: str
    settings: tuple[str, ...] = ()

    def overrides(self, precision: str) -> list[str]:
        """The settings of its run."""
        return [*self.settings, f"schedule.precision={precision}"]


SMALL_ACDC = ("views.crop=128", "eval.crop=128", "schedule.steps=600", "eval.every=3")
SETS = {
    "toy": [
        TrackedRecipe(f"toy/{name}", "toy/ours/1_16", ("eval.every=2",))
        for name in (
            *("none_unimatch", "none_fixmatch", "none_augseg", "none_cps", "none_u2pl"),
            *("s4mc_unimatch", "mpmc_unimatch"),
        )
    ],
    "acdc": [
        TrackedRecipe("acdc/supervised_equal_unet", "acdc/ssl4mis/7", SMALL_ACDC),
        TrackedRecipe("acdc/unimatch_unet", "acdc/ssl4mis/7", SMALL_ACDC),
    ],
    "tiny": [
        TrackedRecipe(
            "toy/none_unimatch",
            "toy/ours/1_32",
            (
                *(
                    "net.encoder=test_resnet",
                    "net.wide=32",
                    "views.crop=48",
                    "data.few=8",
                    "eval.few=3",
                    "eval.every=1",
                ),
                *("schedule.labeled_batch=2", "schedule.unlabeled_batch=2", "schedule.epochs=3"),
            ),
        )
    ],
}
"""tiny: for a test of this script."""


def main() -> None:
    """Run what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["toy", "acdc"], choices=list(SETS))
    parser.add_argument("--recipes", nargs="+", help="only these of the sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("fast_tracks"), help="runs and records (default fast_tracks)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench", help="fast_tracks.md and .json go there")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    chosen = [r for name in args.sets for r in SETS[name] if args.recipes is None or r.recipe in args.recipes]
    if not args.report:
        for seed in args.seeds:  # seed by seed, so that a stopped command leaves whole pairs
            for recipe in chosen:
                for precision in PRECISIONS:
                    run(recipe, precision, seed, args)
    rows = [row for recipe in chosen if (row := compared(recipe, args.seeds, args.work / "results"))]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fast_tracks.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.out / "fast_tracks.md").write_text(page(rows) + "\n")
    print(page(rows))


def run(recipe: TrackedRecipe, precision: str, seed: int, args: argparse.Namespace) -> None:
    """One run, unless its record is stored."""
    words = [sys.executable, "-m", "ssbench", "run", recipe.recipe, "--split", recipe.split, "--seed", str(seed)]
    for text in recipe.overrides(precision):
        words += ["--set", text]
    words += ["--data-root", str(args.data_root), "--device", args.device]
    words += ["--runs", str(args.work / "runs"), "--results", str(args.work / "results")]
    print(f"{recipe.recipe} {precision} seed {seed}", file=sys.stderr)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path})


def records(recipe: TrackedRecipe, precision: str, folder: Path) -> dict[int, dict[str, Any]]:
    """Finished records by seed."""
    from ssbench.recipe.recipe import load

    name = load(recipe.recipe, recipe.overrides(precision)).stored_name
    files = sorted((folder / name / recipe.split.replace("/", "-")).glob("seed*.json"))
    whole = [json.loads(path.read_text()) for path in files]
    return {record["seed"]: record for record in whole if record["status"] == "done"}


def compared(recipe: TrackedRecipe, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Scores, loss curves and verdict of a recipe; {} where no seed is there in both precisions."""
    exact, fast = (records(recipe, precision, folder) for precision in PRECISIONS)
    paired = [seed for seed in seeds if seed in exact and seed in fast]
    if not paired:
        return {}
    scores = {name: [runs[s]["scores"]["last"]["report"] for s in paired] for name, runs in pairs(exact, fast)}
    curves = {name: [losses(runs[s]) for s in paired] for name, runs in pairs(exact, fast)}
    differences = [b - a for a, b in zip(scores["exact"], scores["fast"], strict=True)]
    error = standard_error(differences, scores["exact"])
    inside = share_inside(curves["exact"], curves["fast"])
    tracks = None if error is None else abs(fmean(differences)) <= STANDARD_ERRORS * error and inside >= SHARE_OF_EPOCHS
    first = fast[paired[0]]
    return {
        "recipe": recipe.recipe, "split": recipe.split, "settings": list(recipe.settings), "seeds": paired,
        "scores": scores, "difference": fmean(differences), "standard_error": error, "losses": curves,
        "share_inside_band": inside, "tracks": tracks, "computation": first["computation"],
        "hardware": first["hardware"], "seconds_per_step": {n: seconds(r, paired) for n, r in pairs(exact, fast)},
    }  # fmt: skip


def pairs(
    exact: Mapping[int, dict[str, Any]], fast: Mapping[int, dict[str, Any]]
) -> Iterator[tuple[str, Mapping[int, dict[str, Any]]]]:
    """The two precisions by name."""
    yield "exact", exact
    yield "fast", fast


def losses(record: Mapping[str, Any]) -> list[float]:
    """Mean loss of each epoch."""
    return [entry["terms"]["loss"] for entry in record["history"]]


def seconds(runs: Mapping[int, Mapping[str, Any]], seeds: Sequence[int]) -> float:
    """Mean seconds a step; the machine may have had other work."""
    return fmean(runs[s]["timings"]["train_s"] / max(runs[s]["timings"]["steps"], 1) for s in seeds)


def standard_error(differences: Sequence[float], exact: Sequence[float]) -> float | None:
    """Of the mean difference; None for one seed, which tells nothing of noise."""
    if len(differences) < 2:
        return None
    return max(stdev(differences), stdev(exact)) / math.sqrt(len(differences))


def share_inside(exact: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> float:
    """Share of epochs in which the mean loss of fast lies within the band of exact."""
    inside = []
    for of_exact, of_fast in zip(zip(*exact, strict=True), zip(*fast, strict=True), strict=True):
        spread = stdev(of_exact) if len(of_exact) > 1 else 0.0
        band = max(DEVIATIONS * spread, LEAST_BAND * abs(fmean(of_exact)))
        inside.append(abs(fmean(of_fast) - fmean(of_exact)) <= band)
    return sum(inside) / len(inside)


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables: scores, and the loss of every epoch."""
    if not rows:
        return "No pair of runs is stored."
    machine, computed = rows[0]["hardware"], rows[0]["computation"]
    lines = [
        "# fast beside exact", "",
        f"Made by `python tests/bench/fast_tracks.py` on {machine['name']}; fast computed in {computed['dtype']}. "
        "Score of the last epoch in percent, mean over paired seeds. A recipe tracks when the mean difference is in "
        f"{STANDARD_ERRORS} standard errors of 0 (of paired differences or of seed noise, whichever is larger) and the "
        f"mean loss of fast lies in the band of exact (mean ± {DEVIATIONS:g} deviations, at least "
        f"{100 * LEAST_BAND:g} %) in {100 * SHARE_OF_EPOCHS:g} % of epochs.", "",
        "| recipe | split | seeds | exact | fast | fast - exact | ± | epochs in band | time, fast : exact | tracks |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for row in rows:
        each = {name: fmean(values) for name, values in row["scores"].items()}
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.2f}"
        ratio = row["seconds_per_step"]["fast"] / row["seconds_per_step"]["exact"]
        verdict = {True: "yes", False: "no", None: "one seed"}[row["tracks"]]
        lines.append(
            f"| {row['recipe']} | {row['split']} | {len(row['seeds'])} | {each['exact']:.2f} | {each['fast']:.2f} | "
            f"{row['difference']:+.2f} | {error} | {100 * row['share_inside_band']:.0f} % | {ratio:.2f} | {verdict} |"
        )
    for row in rows:
        lines += [
            "",
            f"## Loss of {row['recipe']}",
            "",
            "| epoch | exact, mean ± deviation | fast, mean |",
            "|---:|---:|---:|",
        ]
        curves = zip(zip(*row["losses"]["exact"], strict=True), zip(*row["losses"]["fast"], strict=True), strict=True)
        for epoch, (of_exact, of_fast) in enumerate(curves, 1):
            spread = f" ± {stdev(of_exact):.4f}" if len(of_exact) > 1 else ""
            lines.append(f"| {epoch} | {fmean(of_exact):.4f}{spread} | {fmean(of_fast):.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
