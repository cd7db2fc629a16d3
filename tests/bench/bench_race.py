"""Seconds a step and peak memory: the authors' plain step, `exact` and `fast`, each in a process of its own, in turns.

python tests/bench/bench_race.py [--cases acdc r50] [--sides plain exact fast] [--turns 3] [--steps 4] [--out FOLDER]

UniMatch on the U-Net for ACDC (4 + 4 + 4 images of 256 x 256) and on DeepLabV3+ R50 (2 + 2 + 2 images of 321 x 321 from
CamVid; toy images where the real ones are absent). "plain" is the step of the released script, restated: its batches
are at hand, its loss, gradient and SGD update are timed. The other sides are the engine: loader, step, terms, checks,
as a run makes them. One process at a time works, so a busy machine slows all alike. Without loader workers (the
default) wall and CPU seconds hold all work. A side may have settings: `fast,schedule.compile=on`,
`exact,SSBENCH_KEEP_MEMORY=0`. The first turn of each is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" if (ROOT.parent / "shared").is_dir() else ROOT / "shared"


@dataclass(frozen=True)
class RaceCase:
    """What is trained: a published recipe with a batch that two cores bear."""

    recipe: str
    dataset: str
    split: str
    crop: int
    images: int
    settings: tuple[str, ...] = ()


CASES = {
    "acdc": RaceCase("acdc/unimatch_unet", "acdc", "acdc/ssl4mis/7", 256, 4),
    "acdc12": RaceCase("acdc/unimatch_unet", "acdc", "acdc/ssl4mis/7", 256, 12),
    "r50": RaceCase("unimatch/unimatch_voc_r50", "camvid", "camvid/ours/1_8", 321, 2),
    "r101": RaceCase("unimatch/unimatch_voc_r101", "camvid", "camvid/ours/1_8", 321, 8),
    "tiny": RaceCase("unimatch/unimatch_voc_r50", "toy", "toy/ours/1_8", 65, 2, ("net.encoder=test_resnet",)),
}
"""tiny: for a test of this script."""


@dataclass(frozen=True)
class RaceSide:
    """One process of the race. settings: overrides of the recipe. environment: variables of the process."""

    name: str
    precision: str
    settings: tuple[str, ...]
    environment: dict[str, str]

    @classmethod
    def parsed(cls, text: str) -> RaceSide:
        """From `fast,schedule.compile=on` or `exact,SSBENCH_KEEP_MEMORY=0`."""
        precision, *rest = text.split(",")
        if precision not in ("plain", "exact", "fast"):
            sys.exit(f"no side '{precision}': plain, exact or fast, with settings behind a comma")
        variables = dict(part.split("=", 1) for part in rest if part.split("=")[0].isupper())
        settings = tuple(part for part in rest if not part.split("=")[0].isupper())
        keep = {"SSBENCH_KEEP_MEMORY": "0"} if precision == "plain" else {}
        return cls(text, precision, settings, {**keep, **variables})


def main() -> None:
    """Race, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["acdc", "r50"], choices=list(CASES))
    parser.add_argument("--sides", nargs="+", default=["plain", "exact", "fast"], metavar="SIDE")
    parser.add_argument("--turns", type=int, default=3, help="counted turns of each side (default 3)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn (default 4)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=0, help="loader workers of the engine (default 0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("SSBENCH_DATA", "/tmp/ssbench-race")))  # noqa: S108
    parser.add_argument("--out", type=Path, help="write race.json and race.md into this folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(json.loads(args.child))
        return
    sides = [RaceSide.parsed(text) for text in args.sides]
    results = {name: race(name, sides, args) for name in args.cases}
    text = "\n\n".join(markdown(name, rows, args) for name, rows in results.items())
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        facts = {"machine": machine(args.device), "threads": args.threads, "steps": args.steps, "turns": args.turns}
        (args.out / "race.json").write_text(json.dumps({**facts, "cases": results}, indent=1) + "\n")
        (args.out / "race.md").write_text(f"Made by `python {' '.join(sys.argv)}`.\n\n{text}\n")


# The parent: who works when


def race(name: str, sides: Sequence[RaceSide], args: argparse.Namespace) -> dict[str, Any]:
    """A row for each side: seconds of each turn, per step, and peak memory. Sides that fail say why."""
    case = prepared(CASES[name], args.data_root)
    racers = {side.name: Racer(side, case, args) for side in sides}
    try:
        for turn in range(args.turns + 1):
            for racer in racers.values():
                racer.take_turn(args.steps)
                print(f"{name} turn {turn} {racer.side.name}: {racer.last()}", file=sys.stderr)
    finally:
        for racer in racers.values():
            racer.end()
    return {label: racer.row() for label, racer in racers.items()}


def prepared(case: RaceCase, data: Path) -> RaceCase:
    """The case with its data prepared; with toy data where the real ones are absent."""
    if case.dataset != "toy" and not (data / case.dataset / "ledger.json").is_file():
        source = SHARED / "data" / case.dataset
        if not source.is_dir():
            form = ("data.form=grey_stacks",) if case.dataset == "acdc" else ()
            case = RaceCase(case.recipe, "toy", "toy/ours/1_8", case.crop, case.images, (*case.settings, *form))
    if not (data / case.dataset / "ledger.json").is_file():
        source = SHARED / "data" / case.dataset
        command = [sys.executable, "-m", "ssbench", "prepare", case.dataset, "--data-root", str(data)]
        subprocess.run([*command, *(["--source", str(source)] if source.is_dir() else [])], check=True, env=_env({}))
    return case


class Racer:
    """The process of one side, and what it measured."""

    def __init__(self, side: RaceSide, case: RaceCase, args: argparse.Namespace) -> None:
        self.side, self.turns, self.error = side, list[dict[str, float]](), ""
        order = {
            "side": asdict(side), "case": asdict(case), "threads": args.threads, "workers": args.workers,
            "device": args.device, "data": str(args.data_root), "steps": (args.turns + 1) * args.steps,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps(order)],
            env=_env(side.environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()  # once it is built, so that no other side's turn is disturbed

    def take_turn(self, steps: int) -> None:
        """So many steps, while all others wait."""
        if self.error:
            return
        assert self.process.stdin is not None  # noqa: S101  a pipe
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        if answer := self._answer():
            self.turns.append(answer)

    def last(self) -> str:
        """The last turn, for people."""
        return self.error or f"{self.turns[-1]['seconds']:.3f} s, {self.turns[-1]['cpu']:.3f} CPU s a step"

    def end(self) -> None:
        """Let the process end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def row(self) -> dict[str, Any]:
        """Medians over the counted turns."""
        counted = self.turns[1:]
        if self.error or not counted:
            return {"error": self.error or "no turn was counted"}
        return {
            "seconds": median(turn["seconds"] for turn in counted),
            "cpu": median(turn["cpu"] for turn in counted),
            "peak_bytes": max(turn["peak"] for turn in counted),
            "base_bytes": counted[0]["base"],
            "turns": counted,
        }

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None  # noqa: S101  a pipe
        line = self.process.stdout.readline()
        if not line:
            self.error = f"ended with exit code {self.process.wait()}"
            return {}
        answer: dict[str, float] = json.loads(line)
        return answer


def machine(device: str) -> dict[str, Any]:
    """Of the processes of the race, by name."""
    import torch

    from ssbench.train.machine import hardware

    return {**hardware(torch.device(device)), "torch": torch.__version__, "python": platform.python_version()}


def markdown(name: str, rows: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> str:
    """One table a case; ratios are to the first side."""
    case, of = CASES[name], machine(args.device)
    head = (
        f"{name}: {case.recipe}, {case.images} + {case.images} + {case.images} images of {case.crop} x {case.crop}; "
        f"{of['name']}, {args.threads} threads, {args.workers} loader workers, medians of {args.turns} turns of "
        f"{args.steps} steps"
    )
    columns = ("side", "s / step", "x first", "CPU s / step", "x first", "peak MiB", "x first")
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    first = next((row for row in rows.values() if "error" not in row), None)
    for label, row in rows.items():
        if "error" in row or first is None:
            lines.append(f"| {label} | {row.get('error', '')} | | | | | |")
            continue
        ratio = {key: row[key] / first[key] for key in ("seconds", "cpu", "peak_bytes")}
        lines.append(
            f"| {label} | {row['seconds']:.3f} | {ratio['seconds']:.2f} | {row['cpu']:.3f} | {ratio['cpu']:.2f} | "
            f"{row['peak_bytes'] / 2**20:.0f} | {ratio['peak_bytes']:.2f} |"
        )
    return f"{head}\n\n" + "\n".join(lines)


def _env(more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **more}


# The child: one side


def work(order: Mapping[str, Any]) -> None:
    """Build the side, say so, then make as many steps as each line of stdin asks for and answer what they took."""
    import torch

    from ssbench.train.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(order["threads"])
    base = _peak(order["device"])
    steps = plain_steps(order) if order["side"]["precision"] == "plain" else engine_steps(order)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        count = int(line)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            next(steps)()
        if order["device"] != "cpu":
            torch.cuda.synchronize()
        spent = {"seconds": (time.perf_counter() - began) / count, "cpu": (time.process_time() - cpu) / count}
        print(json.dumps({**spent, "peak": _peak(order["device"]), "base": base}), flush=True)


def engine_steps(order: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Each call is what a run does in one step: load, compute, update, add up the terms."""
    trainer = build_trainer(order, f"schedule.precision={order['side']['precision']}", *order["side"]["settings"])
    trainer.module.train()
    for batch in trainer._timed(trainer._batches()):
        yield lambda batch=batch: trainer._step(batch)  # type: ignore[misc]


def plain_steps(order: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """The authors' step on batches at hand: loss, gradient, SGD."""
    import torch

    from ssbench.train.build import method_of

    trainer = build_trainer(order)
    device = torch.device(order["device"])
    source = trainer._batches()
    batches = [next(source).to(device) for _ in range(4)]
    dataset = trainer.dataset
    net = method_of(trainer.recipe, len(dataset.classes), dataset.channels, 0).net.train().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    loss_of = medical_loss if trainer.recipe.loss.pseudo == "dice" else natural_loss
    number = 0

    def step() -> None:
        loss = loss_of(net, batches[number % len(batches)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # the release adds it to a meter in every step

    while True:
        yield step
        number += 1


def build_trainer(order: Mapping[str, Any], *settings: str) -> Any:
    """A trainer of the case's recipe on its data, one process's batch."""
    import tempfile

    from ssbench.console import Bars
    from ssbench.recipe.recipe import load
    from ssbench.splits.manifest import Partition
    from ssbench.train.build import dataset_of
    from ssbench.train.distributed import join
    from ssbench.train.trainer import Trainer

    case, data, n = order["case"], Path(order["data"]), order["case"]["images"]
    sets = [
        f"data.dataset={case['dataset']}", f"data.workers={order['workers']}", f"views.crop={case['crop']}",
        f"schedule={{epochs: {order['steps']}, labeled_batch: {n}, unlabeled_batch: {n}, devices: 1}}",
        *case["settings"], *settings,
    ]  # fmt: skip
    sets += ["net.weights=random"] if load(case["recipe"]).net.name != "unet" else []
    recipe = load(case["recipe"], sets)
    partition, folder = Partition.read(case["split"], data), Path(tempfile.mkdtemp(prefix="race-"))
    return Trainer(recipe, partition, dataset_of(recipe, data), 0, folder, join(order["device"]), Bars(show=False))


def natural_loss(net: Any, batch: Any, tau: float = 0.95) -> Any:
    """UniMatch's step (card: unimatch 3)."""
    import torch.nn.functional as F  # noqa: N812

    views = _passes(net, batch)
    loss = F.cross_entropy(views.labeled, batch.labeled.y, ignore_index=255)
    for weight, logits, label, conf, valid in views.targets:
        each = F.cross_entropy(logits, label, reduction="none") * ((conf >= tau) & valid)
        loss = loss + weight * each.sum() / valid.sum()
    return loss / 2


def medical_loss(net: Any, batch: Any, tau: float = 0.95) -> Any:
    """UniMatch's step on ACDC (card: unimatch 10)."""
    import torch.nn.functional as F  # noqa: N812

    views, y = _passes(net, batch), batch.labeled.y
    loss = (F.cross_entropy(views.labeled, y) + class_dice(views.labeled.softmax(1), y, None)) / 2
    for weight, logits, label, conf, _ in views.targets:
        loss = loss + weight * class_dice(logits.softmax(1), label, conf < tau)
    return loss / 2


def class_dice(probs: Any, label: Any, ignore: Any) -> Any:
    """The release's Dice loss: class by class, over pixels that are not ignored."""
    total, smooth = 0.0, 1e-5
    for c in range(probs.shape[1]):
        score, target = probs[:, c], (label == c).float()
        if ignore is not None:
            score, target = score[~ignore], target[~ignore]
        both, size = (score * target).sum(), (score * score).sum() + (target * target).sum()
        total = total + 1 - (2 * both + smooth) / (size + smooth)
    return total / probs.shape[1]


@dataclass
class _PlainViews:
    """labeled: logits of the labelled images. targets: (weight, logits, label, confidence, valid) of each view."""

    labeled: Any
    targets: list[tuple[float, Any, Any, Any, Any]]


def _passes(net: Any, batch: Any) -> _PlainViews:
    """The passes of the release in its order (card: unimatch 3)."""
    import torch

    x, here, there = batch.labeled.x, batch.unlabeled, batch.partner
    net.eval()  # 1
    with torch.no_grad():
        conf_pasted, label_pasted = net(there.weak).logits.softmax(1).max(1)
    net.train()
    strong = [torch.where(b[:, None], t, h) for h, t, b in zip(here.strong, there.strong, here.boxes, strict=True)]  # 2
    both = torch.cat([x, here.weak])  # 3
    drop = [(torch.rand(len(both), c, device=x.device) >= 0.5).float() * 2 for c in net.perturb_channels]
    out = net(both, drop)
    seen = net(torch.cat(strong)).logits.chunk(2)  # 4
    conf, label = out.logits[len(x) :].detach().softmax(1).max(1)  # 5
    targets = [(0.5, out.perturbed[len(x) :], label, conf, here.valid)]
    for logits, box in zip(seen, here.boxes, strict=True):  # 6, 7
        mixed, sure = torch.where(box, label_pasted, label), torch.where(box, conf_pasted, conf)
        targets.append((0.25, logits, mixed, sure, torch.where(box, there.valid, here.valid)))
    return _PlainViews(out.logits[: len(x)], targets)


def _peak(device: str) -> int:
    """Peak bytes of this process, or of the GPU's allocator. Linux hands `ru_maxrss` on to children, VmHWM not."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
