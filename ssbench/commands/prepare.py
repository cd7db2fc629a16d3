"""`prepare`: from official archives or folders to verified data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssbench.commands.common import DataRoot, Json, print_json
from ssbench.errors import DataError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prepare)


def prepare(
    datasets: Annotated[list[str], typer.Argument(help="voc, cityscapes, acdc, coco, camvid, toy.")],
    data_root: DataRoot = None,
    source: Annotated[Path | None, typer.Option("--source", help="A folder or archives already on disk.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only verify what is there.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes (default: one a core).")] = None,
    json: Json = False,
) -> None:
    """Download (or take from --source), verify, convert and record the digests of datasets."""
    from ssbench.data import prepare as making
    from ssbench.paths import data_root as data_of

    root = data_of(data_root)
    if check:
        _check(datasets, root, json)
        return
    reports = [making.prepare(name, root, source, workers) for name in datasets]
    if json:
        print_json({"prepared": [r.as_json() for r in reports]})
        return
    for report in reports:
        counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
        print(f"{report.name}: {counts}; ledger {report.ledger}")


def _check(datasets: list[str], root: Path, json: bool) -> None:
    from ssbench.data import prepare as making

    problems = {name: making.check(name, root) for name in datasets}
    if json:
        print_json({"problems": {n: [vars(p) | {"path": str(p.path)} for p in ps] for n, ps in problems.items()}})
    for name, found in problems.items():
        if not json:
            print(f"{name}: {'ok' if not found else f'{len(found)} problems'}")
        for problem in found if not json else ():
            print(f"  {problem.kind}: {problem.path} {problem.detail}".rstrip())
    bad = [name for name, found in problems.items() if found]
    if bad:
        raise DataError(f"{', '.join(bad)}: files differ from the ledger", str(root), f"ssbench prepare {' '.join(bad)}")
