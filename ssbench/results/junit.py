"""JUnit XML, as continuous integration reads it: one case a cell, a failure with its numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ssbench.results.gate import FAILING, Compared, Gate, Probe
from ssbench.results.gate_words import numbers, told
from ssbench.results.throughput import FAILING as SLOW
from ssbench.results.throughput import Pace, Paced


@dataclass(frozen=True)
class Case:
    """One case. failure: its kind and message, both empty where it passed; skipped: why it says nothing."""

    classname: str
    name: str
    said: str
    failure: tuple[str, str] = ("", "")
    skipped: str = ""


def document_of(gate: Gate | Pace, suite: str) -> bytes:
    """The XML document of a gate, named `suite`: <testsuites> with one <testsuite>."""
    if isinstance(gate, Pace):
        cases = [_of_pace(cell, gate.slower) for cell in gate.cells]
    else:
        cases = [*map(_of_cell, gate.cells), *map(_of_group, gate.groups)]
    return document(cases, suite)


def document(cases: Sequence[Case], suite: str) -> bytes:
    """The XML document of some cases."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure[0]) for case in cases)),
        "errors": "0",
        "skipped": str(sum(bool(case.skipped) for case in cases)),
        "time": "0",
    }
    root = Element("testsuites", {"name": "ssbench gate", **counts})
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    block = SubElement(root, "testsuite", {"name": suite, **counts, "timestamp": at, "hostname": "localhost"})
    for case in cases:
        _add(block, case)
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _add(block: Element, case: Case) -> None:
    one = SubElement(block, "testcase", {"classname": case.classname, "name": case.name, "time": "0"})
    if case.failure[0]:
        SubElement(one, "failure", {"type": case.failure[0], "message": _plain(case.failure[1])}).text = _plain(
            case.said
        )
    elif case.skipped:
        SubElement(one, "skipped", {"message": _plain(case.skipped)})
    SubElement(one, "system-out").text = _plain(case.said)


def _plain(text: str) -> str:
    """Without the control characters XML cannot hold (a failed run's reason may have any)."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?"
        for c in text
    )


def _of_cell(cell: Compared) -> Case:
    said = told(cell)
    return Case(cell.recipe, cell.split, said, (cell.verdict, said) if cell.verdict in FAILING else ("", ""))


def _of_group(test: Probe) -> Case:
    said = f"mean of {test.cells} cells: {numbers(test)}"
    return Case(f"mean.{test.level}", test.name, said, ("worse", said) if test.worse else ("", ""))


def _of_pace(cell: Paced, slower: float) -> Case:
    if cell.ratio is None:
        failed = (cell.verdict, "no new result") if cell.verdict in SLOW else ("", "")
        return Case(cell.recipe, cell.split, cell.verdict, failed, "" if failed[0] else cell.verdict)
    said = (
        f"{cell.new:.1f} images/s now, {cell.stored:.1f} stored ({cell.records}) on {cell.machine}: x {cell.ratio:.2f}"
    )
    failed = (cell.verdict, f"{said}, slower than x {1 - slower:.2f}") if cell.verdict in SLOW else ("", "")
    return Case(cell.recipe, cell.split, said, failed)
