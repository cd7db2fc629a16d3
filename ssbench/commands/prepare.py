"""`prepare`: from official archives or folders to verified data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench.commands.common import DataRoot, Json, print_json
from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.prepare.cache import CacheReport
    from ssbench.prepare.prepare import Progress, Report


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prepare)


def prepare(
    datasets: Annotated[list[str], typer.Argument(help="voc, cityscapes, acdc, coco, camvid, toy, or an import.")],
    data_root: DataRoot = None,
    source: Annotated[Path | None, typer.Option("--source", help="A folder or archives already on disk.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only verify what is there.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Also store the pixels decoded: large, but fast.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes (default: one a core).")] = None,
    json: Json = False,
) -> None:
    """Download (or take from --source), verify, convert and record the digests of datasets."""
    from ssbench.paths import data_root as data_of
    from ssbench.prepare import cache as caching
    from ssbench.prepare import prepare as making

    root = data_of(data_root)
    if source is not None and not source.exists():
        raise DataError(f"no such folder or archive '{source}'", str(source), "give --source what is on disk")
    if source is not None and len(datasets) > 1:
        raise UsageError(f"one --source for {len(datasets)} datasets", "--source", "prepare them one by one")
    if check:
        _check(datasets, root, json)
        return
    reports = []
    for name in datasets:
        report = making.prepare(name, root, source, workers, _progress())
        if not json:
            print(_told(report), flush=True)
        cached = caching.build(name, root, workers, _progress()) if cache else None
        if cached and not json:
            print(_cached(cached), flush=True)
        reports.append(report.json() | {"cache": cached.json() if cached else None})
    if json:
        print_json({"prepared": reports})


def _progress() -> Progress:
    """Bars on stderr at a terminal, nothing elsewhere."""
    from ssbench.prepare.job import Bar, Silent

    return Bar() if sys.stderr.isatty() else Silent()


def _told(report: Report) -> str:
    counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
    lists = f", {report.lists} split lists" if report.lists else ""
    size = f"{report.files} files, {report.bytes / 2**20:.1f} MiB{lists}"
    return f"{report.name}: {report.state} in {report.seconds:.0f} s: {counts} ({size})\n  ledger: {report.ledger}"


def _cached(report: CacheReport) -> str:
    size = f"{report.samples} samples, {report.bytes / 2**20:.1f} MiB"
    return f"  cache: {report.state} in {report.seconds:.0f} s: {size} in {report.path}"


def _check(datasets: list[str], root: Path, json: bool) -> None:
    from ssbench.prepare import prepare as making

    problems = {name: making.check(name, root, _progress()) for name in datasets}
    if json:
        print_json({"problems": {name: [vars(p) for p in found] for name, found in problems.items()}})
    for name, found in problems.items() if not json else ():
        print(f"{name}: {f'{len(found)} problems' if found else 'every file is as it was prepared'}")
        for problem in found:
            print(f"  {problem.kind}: {problem.path} {problem.detail}".rstrip())
    bad = [name for name, found in problems.items() if found]
    if bad:
        what = f"{', '.join(bad)}: not as prepared ({sum(map(len, problems.values()))} problems)"
        cached = any(problem.path.startswith(".cache") for found in problems.values() for problem in found)
        again = f"ssbench prepare {' '.join(bad)}{' --cache' if cached else ''} --data-root {root}"
        raise DataError(what, str(root), again)
