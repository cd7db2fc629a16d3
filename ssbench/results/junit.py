"""What a gate found, in words: rows and lines for people, and JUnit XML for continuous integration.

In JUnit a cell is a test case and so is a mean of cells; a failure carries the numbers behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ssbench.results.gate import FAILING, TOO_SLOW, CellComparison, DropTest, ScoreGate, SpeedComparison, SpeedGate

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings, and a row a cell."""


def gate_rows(gate: ScoreGate | SpeedGate) -> Rows:
    """Recipe, split, verdict, and the numbers behind it: scores in percent, or images/s with their machine."""
    if isinstance(gate, SpeedGate):
        return ("recipe", "split", "verdict", "stored", "new", "ratio", "machine"), [
            (c.recipe, c.split, c.verdict, _number(c.stored, ".1f"), _number(c.new, ".1f"), _number(c.ratio, ".2f"),
             c.machine)
            for c in gate.cells
        ]  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for c in gate.cells:
        test = ("", "") if c.test is None else (f"{c.test.drop:+.2f}", f"{c.test.tolerance:.2f}")
        rows.append((c.recipe, c.split, c.verdict, _mean(c.stored), _mean(c.new), *test, c.note))
    return ("recipe", "split", "verdict", "stored", "new", "drop", "tolerance", "note"), rows


def gate_summary(gate: ScoreGate) -> Iterator[str]:
    """The tests of means, what they rest on, and what could not be compared, a line each."""
    for test in gate.groups:
        word = "WORSE" if test.worse else "ok"
        yield f"{word:5} {test.level} {test.name}, {test.cells} cells: {_test_numbers(test)}"
    for (dataset, metric), spread in gate.spreads.items():
        basis = f"{spread.cells} cells of several seeds" if spread.cells else "assumed: too few seeds are stored"
        freedom = f"{spread.freedom:.1f} degrees of freedom"
        yield f"seeds of {dataset} ({metric}) scatter by {spread.sd:.2f}, {freedom} ({basis})"
    yield f"by chance alone, {gate.alpha:.0%} of such comparisons fail"
    for recipe, split in gate.not_stored:
        yield f"not compared, no stored result: {recipe} {split}"


@dataclass(frozen=True)
class TestCase:
    """One case. failure: its kind and message, both empty where it passed; skipped: why nothing was compared."""

    classname: str
    name: str
    output: str
    failure: tuple[str, str] = ("", "")
    skipped: str = ""


def document_of(gate: ScoreGate | SpeedGate, suite: str) -> bytes:
    """The XML document of a gate, named `suite`: <testsuites> with one <testsuite>."""
    if isinstance(gate, SpeedGate):
        cases = [_speed_case(cell, gate.slower) for cell in gate.cells]
    else:
        cases = [*map(_cell_case, gate.cells), *map(_mean_case, gate.groups)]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure[0]) for case in cases)),
        "errors": "0",
        "skipped": str(sum(bool(case.skipped) for case in cases)),
        "time": "0",
    }
    root = Element("testsuites", {"name": "ssbench gate", **counts})
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    block = SubElement(root, "testsuite", {"name": suite, **counts, "timestamp": now, "hostname": "localhost"})
    for case in cases:
        element = SubElement(block, "testcase", {"classname": case.classname, "name": case.name, "time": "0"})
        if case.failure[0]:
            attributes = {"type": case.failure[0], "message": _xml_text(case.failure[1])}
            SubElement(element, "failure", attributes).text = _xml_text(case.output)
        elif case.skipped:
            SubElement(element, "skipped", {"message": _xml_text(case.skipped)})
        SubElement(element, "system-out").text = _xml_text(case.output)
    indent(root)
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _xml_text(text: str) -> str:
    """Without the control characters XML cannot hold (a failed run's reason may have any)."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?"
        for c in text
    )


def _cell_case(cell: CellComparison) -> TestCase:
    text = cell.note or cell.verdict
    if cell.test is not None:
        text = f"{cell.metric} {_mean(cell.new)} now, {_mean(cell.stored)} stored; {_test_numbers(cell.test)}"
        text += f"; {cell.note}" if cell.note else ""
    return TestCase(cell.recipe, cell.split, text, (cell.verdict, text) if cell.verdict in FAILING else ("", ""))


def _mean_case(test: DropTest) -> TestCase:
    text = f"mean of {test.cells} cells: {_test_numbers(test)}"
    return TestCase(f"mean.{test.level}", test.name, text, ("worse", text) if test.worse else ("", ""))


def _speed_case(cell: SpeedComparison, slower: float) -> TestCase:
    if cell.ratio is None:
        failure = (cell.verdict, "no new result") if cell.verdict in TOO_SLOW else ("", "")
        return TestCase(cell.recipe, cell.split, cell.verdict, failure, "" if failure[0] else cell.verdict)
    text = f"{cell.new:.1f} images/s now, {cell.stored:.1f} stored ({cell.records}) on {cell.machine}"
    text += f": x {cell.ratio:.2f}"
    failure = (cell.verdict, f"{text}, slower than x {1 - slower:.2f}") if cell.verdict in TOO_SLOW else ("", "")
    return TestCase(cell.recipe, cell.split, text, failure)


def _test_numbers(test: DropTest) -> str:
    """A test's numbers in a line, percent."""
    return f"drop {test.drop:+.2f}, tolerance {test.tolerance:.2f} (a drop of {test.detectable:.2f} would be found)"


def _mean(scores: Sequence[tuple[int, float]]) -> str:
    """Mean and number of seeds."""
    return "" if not scores else f"{sum(s for _, s in scores) / len(scores):.2f} ({len(scores)})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
