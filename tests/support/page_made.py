"""A made store with all that a report shows: seeds, a plug-in, a released log, failures, names that look like HTML."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from PIL import Image

from ssbench.page import page
from ssbench.page.drawing import draw
from ssbench.page.gallery import ComparedImage, Gallery, label_map, photograph
from ssbench.page.label_curves import labelled_count
from ssbench.page.page import ReportContent
from ssbench.page.runs import ReportedRuns, collect
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.claims import Claim, all_claims, write_claim
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

A, B = "voc/classic/1_16", "voc/classic/1_8"
Make = Callable[..., dict[str, Any]]
NASTY = "<script>window.taken = 1</script>"
LOG = tuple((epoch, 60.0 + epoch) for epoch in range(6))


def epochs(best: float, quality: bool = True) -> list[dict[str, Any]]:
    """Six epochs that end with `best`."""
    known = {"known": 0.4, "right": 0.3} if quality else {}
    terms = {"kept": 0.5, **known, "loss": 2.0, "sup": 1.5}
    return [{"epoch": e, "terms": terms, "select": best - 2 * (5 - e)} for e in range(6)]


def add_runs(store: ResultStore, make: Make) -> None:
    """Base and plug-in with two seeds on A, the plug-in with an older record on B, and two failures."""
    for seed, best in enumerate((70.0, 72.0)):
        store.add(make("toypaper/base", A, seed, best, history=epochs(best)))
        store.add(make("toypaper/plug", A, seed, best + 1, plugin="x", history=epochs(best + 1)))
    store.add(make("toypaper/plug", B, 0, plugin="x", history=epochs(71.0, quality=False)))
    failed = {"status": "failed", "scores": {}, "history": [], "plugin": "x"}
    store.add(make("toypaper/plug", B, 1, reason=f"no memory {NASTY}", batch_ids=["2007_000032"], **failed))
    store.add(make("toypaper/plug", B, 2, reason="stopped by the sun", **failed))
    write_claim(
        store.root, Claim("unimatch", None, A, "resnet50", None, "miou", Decimal("65.0"), "log", "a log", "n", LOG)
    )


def made_report(store: ResultStore, make: Make, table_file: Callable[..., Path]) -> ReportContent:
    """What the command collects from that store for its table, with a gallery of one picture and one without."""
    add_runs(store, make)
    table = PaperTable.read(str(table_file(("label: UniMatch + X", f"label: UniMatch + X {NASTY}"))))
    filled = fill(table, store)
    return ReportContent((filled,), ("mpmc/table1",), runs_of(store, [filled]), galleries())


def page_of(report: ReportContent) -> str:
    """The HTML of a report, with its charts drawn."""
    charts = page.charts(report.tables, report.runs.comparisons, lambda split: labelled_count(split, Path()))
    return page.html(report, charts, {chart.name: draw(chart) for chart in charts})


def runs_of(store: ResultStore, tables: list[Filled], everything: bool = True) -> ReportedRuns:
    return collect(store, tables, all_claims(store.root), everything)


def galleries() -> tuple[Gallery, ...]:
    image = Image.linear_gradient("L").resize((64, 48))
    labels = Image.new("RGB", (64, 48), (0, 128, 0))
    tiles = (photograph("image", image, "Image 1"), label_map("truth", labels, "True labels: tree 100 %"))
    shown = ComparedImage("2007_000033", "differ on 5.0 % of pixels", tiles)
    command = "ssbench run toypaper/base --split voc/classic/1_8 --seed 0"
    return (
        Gallery("base and plug", A, "1/16 (92)", 0, (shown,), (("tree", "#008000"), (NASTY, "#102030")), (80, 1449)),
        Gallery("base and plug", B, "1/8 (183)", 0, missing="no checkpoint below 'runs'", commands=(command,)),
    )
