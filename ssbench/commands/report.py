"""`report`: everything known of tables and runs as one HTML file, with the charts as files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, Overrides, Results, Runs, damaged_rows, print_damaged, print_json
from ssbench.errors import UsageError
from ssbench.without_torch import import_stand_ins

if TYPE_CHECKING:
    from ssbench.page.page import ReportContent
    from ssbench.results.stale import WhyStale
    from ssbench.results.store import ResultStore


def report(
    tables: Annotated[
        list[str] | None, typer.Argument(help="paper/table1, or YAML files (default: all results).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.html and plots/.")] = Path("report"),
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Images a pair in the gallery; 0 for none.")] = 3,
    look: Annotated[int, typer.Option("--look", min=1, help="Images looked through for them, a pair.")] = 100,
    device: Annotated[
        str | None, typer.Option("--device", help="For the pictures (default: cuda where there is one).")
    ] = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Write one HTML file: tables, learning curves, scores by class, pseudo-labels, pictures, provenance, failures."""
    from ssbench.console import Bars
    from ssbench.files import write_bytes, write_text
    from ssbench.page import drawing, page
    from ssbench.page.label_curves import labelled_count
    from ssbench.results.stale import StaleCheck
    from ssbench.results.store import ResultStore

    store, folders = ResultStore(paths.results_root(results)), paths.runs_root(runs)
    root = paths.data_root(data_root)
    if not pictures or next(folders.rglob("best.pt"), None) is None:
        import_stand_ins()  # no picture can be made, and recipes are only read to tell stale records
    content = _collect(tables or [], store, folders, StaleCheck(root), root, overrides or ())
    content = _with_gallery(content, root, folders, store.root, pictures, look, device)
    charts = page.charts(content.tables, content.runs.comparisons, lambda split: labelled_count(split, root))
    drawings, files = {}, list[str]()
    with Bars() as bars:
        for chart in bars.watch(charts, "plots", len(list(charts))):
            drawings[chart.name] = drawn = drawing.draw(chart)
            for form, data in (("svg", drawn.svg), ("png", drawn.png)):
                files.append(str(out / "plots" / f"{chart.name}.{form}"))
                write_bytes(Path(files[-1]), data)
    write_text(out / "report.html", page.html(content, charts, drawings))
    if json:
        print_json({**_object(content, out / "report.html", files), **damaged_rows(store.damaged)})
        return
    print(out / "report.html")


def _collect(
    names: Sequence[str],
    store: ResultStore,
    runs: Path,
    why_stale: WhyStale,
    data_root: Path,
    overrides: Sequence[str],
) -> ReportContent:
    """What the report shows besides pictures; UsageError where there is nothing at all."""
    from ssbench.commands.table import filled_table
    from ssbench.page.page import ReportContent
    from ssbench.page.runs import collect
    from ssbench.tables.claims import all_claims
    from ssbench.tables.spec import own_table_names, table_names

    everything = [*table_names(), *own_table_names(data_root)]
    filled = [filled_table(name, store, runs, why_stale, data_root, overrides) for name in names or everything]
    shown = [f for f in filled if names or any(c.state in ("measured", "failed") for c in f.cells.values())]
    reported = collect(store, filled, all_claims(store.root, store.damaged), everything=not names)
    print_damaged(store.damaged)
    if not names and not reported.experiments and not reported.failed:
        fix = "ssbench demo makes some; ssbench report toy/table1 shows a table as it stands"
        raise UsageError(f"no results in '{store.root}'", str(store.root), fix)
    return ReportContent(tuple(shown), tuple(f.table.name for f in filled if f not in shown), reported)


def _with_gallery(
    content: ReportContent, data: Path, runs: Path, results: Path, count: int, look: int, device: str | None
) -> ReportContent:
    """The report with its gallery, or why it has none."""
    if not count:
        return replace(content, no_gallery="No pictures were asked for (--pictures 0).")
    if not any(group.experiments[1:] for group in content.runs.comparisons):
        return replace(content, no_gallery="No baseline has been run both without and with a plug-in.")
    from ssbench.jobs.job import Places
    from ssbench.page.gallery import galleries

    places = Places(data, runs, results)
    return replace(content, galleries=galleries(content.runs.comparisons, places, count, look, device))


def _object(content: ReportContent, page: Path, plots: list[str]) -> dict[str, Any]:
    """The documented object of `ssbench report --json`.

    page, plots: files written; bytes: size of the page. tables, empty_tables: names, with and without a result. runs:
    how many are done and shown, failed, or not shown by reason. pictures: images in the gallery. missing: galleries
    without pictures, why, and the commands that bring them.
    """
    return {
        "page": str(page),
        "bytes": page.stat().st_size,
        "plots": plots,
        "tables": [f.table.name for f in content.tables],
        "empty_tables": list(content.empty_tables),
        "runs": {
            "done": sum(len(e.runs) for e in content.runs.experiments),
            "failed": len(content.runs.failed),
            "not_shown": dict(content.runs.left_out),
        },
        "pictures": sum(len(g.pictures) for g in content.galleries),
        "missing": [
            {"gallery": g.title, "split": g.split, "why": g.missing, "commands": list(g.commands)}
            for g in content.galleries
            if g.missing
        ],
    }
