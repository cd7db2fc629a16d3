"""Every citation of a card leads to a numbered heading of recipes/NAME/README.md; nothing cites files not here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("ssbench", "recipes", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml", ".md") and path != Path(__file__).resolve()
]
CITED = re.compile(r"\bcard:\s+(?:# )?(\w+)((?:(?:,| to)?\s+(?:# )?\d+\b(?!\.\d))*)", re.IGNORECASE)
"""card: NAME, card: NAME 3, card: NAME 3, 5 or card: NAME 3 to 5, which a line break may divide."""


def citations(text: str) -> list[tuple[str, list[int]]]:
    """(card, headings cited) in the order of the text; of "3 to 5" both ends and what lies between."""
    found = []
    for name, numbers in CITED.findall(text):
        spans = [[int(n) for n in span.split("to")] for span in numbers.replace("#", "").split(",") if span.strip()]
        found.append((name, [n for span in spans for n in range(span[0], span[-1] + 1)]))
    return found


@cache
def headings(card: str) -> frozenset[int]:
    """Numbers of a card's headings; raises OSError where there is no such card."""
    text = (ROOT / "recipes" / card / "README.md").read_text(encoding="utf-8")
    return frozenset(int(n) for n in re.findall(r"^## (\d+)\. \S", text, re.MULTILINE))


def test_citations_are_read_as_they_are_written() -> None:
    text = "(card: u2pl 7, 8). card: ael 2 to 4, 9; card: cps), card: unimatch\n# 3, 10. Card: datasets 2."
    assert citations(text) == [
        ("u2pl", [7, 8]),
        ("ael", [2, 3, 4, 9]),
        ("cps", []),
        ("unimatch", [3, 10]),
        ("datasets", [2]),
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_citation_leads_to_a_heading(path: Path) -> None:
    for card, numbers in citations(path.read_text(encoding="utf-8")):
        assert (ROOT / "recipes" / card / "README.md").is_file(), f"no card '{card}'"
        assert set(numbers) <= headings(card), f"card {card} has no heading {sorted(set(numbers) - headings(card))}"


def test_headings_of_a_card_are_numbered_from_one() -> None:
    for path in sorted((ROOT / "recipes").glob("*/README.md")):
        numbers = re.findall(r"^## (\d+)\. ", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert [int(n) for n in numbers] == list(range(1, len(numbers) + 1)), path.parent.name


def test_nothing_cites_files_that_are_not_here() -> None:
    for path in SOURCES:
        assert not re.search(r"\bspecs\b[:/]", path.read_text(encoding="utf-8"), re.IGNORECASE), path
