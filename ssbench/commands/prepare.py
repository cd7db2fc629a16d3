"""`prepare`: from official archives or folders to verified data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, Workers, print_json, progress_bars
from ssbench.errors import DataError, UsageError
from ssbench.paths import quoted

if TYPE_CHECKING:
    from ssbench.prepare.prepare import PrepareReport


def prepare(
    datasets: Annotated[
        list[str], typer.Argument(help="voc, cityscapes, acdc, coco, ade20k, camvid, toy or an import.")
    ],
    data_root: DataRoot = None,
    source: Annotated[Path | None, typer.Option("--source", help="A folder or archives already on disk.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only verify what is there.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Also store the pixels decoded: large, but fast.")] = False,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Download (or take from --source), verify, convert and record the digests of datasets."""
    from ssbench.prepare import cache as pixel_cache
    from ssbench.prepare import prepare as preparation

    root = paths.data_root(data_root)
    if source is not None and not source.exists():
        raise DataError(f"no such folder or archive '{source}'", str(source), "give --source what is on disk")
    if source is not None and len(datasets) > 1:
        raise UsageError(f"one --source for {len(datasets)} datasets", "--source", "prepare them one by one")
    if check:
        _check(datasets, root, json)
        return
    reports = []
    for name in datasets:
        with progress_bars() as bars:
            report = preparation.prepare(name, root, source, workers, bars)
        if not json:
            print(_summary(report), flush=True)
        with progress_bars() as bars:
            cached = pixel_cache.build(name, root, workers, bars) if cache else None
        if cached and not json:
            size = f"{cached.samples} samples, {cached.bytes / 2**20:.1f} MiB"
            print(f"  cache: {cached.state} in {cached.seconds:.0f} s: {size} in {cached.path}", flush=True)
        reports.append(report.json() | {"cache": cached.json() if cached else None})
    if json:
        print_json({"prepared": reports})


def _summary(report: PrepareReport) -> str:
    counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
    lists = f", {report.lists} split lists" if report.lists else ""
    size = f"{report.files} files, {report.bytes / 2**20:.1f} MiB{lists}"
    rule = report.settings.get("masks")  # what the labels mean: two forms of one dataset's masks may be about
    masks = f"\n  masks: {rule}" if isinstance(rule, str) else ""
    return (
        f"{report.name}: {report.state} in {report.seconds:.0f} s: {counts} ({size})\n  ledger: {report.ledger}{masks}"
    )


def _check(datasets: list[str], root: Path, json: bool) -> None:
    """Print what differs from the ledgers of `datasets`; DataError when anything does."""
    from ssbench.prepare.prepare import check

    with progress_bars() as bars:
        problems = {name: check(name, root, bars) for name in datasets}
    if json:
        print_json({"problems": {name: [vars(p) for p in of_dataset] for name, of_dataset in problems.items()}})
    for name, of_dataset in problems.items() if not json else ():
        print(f"{name}: {f'{len(of_dataset)} problems' if of_dataset else 'every file is as it was prepared'}")
        for problem in of_dataset:
            print(f"  {problem.kind}: {problem.path} {problem.detail}".rstrip())
    if bad := [name for name, of_dataset in problems.items() if of_dataset]:
        what = f"{', '.join(bad)}: not as prepared ({sum(map(len, problems.values()))} problems)"
        in_cache = any(problem.path.startswith(".cache") for name in bad for problem in problems[name])
        again = f"ssbench prepare {' '.join(bad)}{' --cache' if in_cache else ''} --data-root {quoted(root)}"
        raise DataError(what, str(root), again)
