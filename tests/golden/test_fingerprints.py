"""A part that computes something else than before must raise its behaviour version, or old records pass for new ones.

`fingerprints.json` holds the numbers of `fingerprints.versioned_parts` and the version they belong to. After a version
was raised, and for a new part:  pytest tests/golden/test_fingerprints.py --update-fingerprints
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fingerprints import Numbers, VersionedPart, versioned_parts

STORED = Path(__file__).with_name("fingerprints.json")
PARTS = {part.name: part for part in versioned_parts()}
UPDATE = "pytest tests/golden/test_fingerprints.py --update-fingerprints"
RELATIVE, ABSOLUTE = 1e-3, 2e-3
"""What processors, torch and Pillow may differ by: they round, and a rounded picture moves by a level in 255."""


def complaint(part: VersionedPart, numbers: Numbers, stored: dict[str, dict]) -> str:
    """What is wrong with a part's version; "" for nothing."""
    entry = stored.get(part.name)
    if entry is None:
        return f"{part.name} has no stored fingerprint: {UPDATE}"
    if entry["version"] != part.version:
        return f"{part.name} is at version {part.version}, its fingerprint at {entry['version']}: {UPDATE}"
    if _is_alike(numbers, entry["numbers"]):
        return ""
    what = f"{part.name} computes something else than at version {part.version}"
    return f"{what}: raise it to {part.version + 1} ({part.raise_at}), then {UPDATE}"


def _is_alike(numbers: Numbers, stored: Numbers) -> bool:
    return numbers.keys() == stored.keys() and all(
        values == pytest.approx(stored[name], rel=RELATIVE, abs=ABSOLUTE, nan_ok=True)
        for name, values in numbers.items()
    )


def updated(part: VersionedPart, numbers: Numbers, stored: dict[str, dict]) -> dict[str, dict]:
    """The stored fingerprints with this part's, if it is new or its version was raised."""
    entry = stored.get(part.name)
    if entry is not None and entry["version"] >= part.version:
        return stored
    rounded = {name: [float(f"{value:.7g}") for value in values] for name, values in numbers.items()}
    return dict(sorted({**stored, part.name: {"version": part.version, "numbers": rounded}}.items()))


def text_of(stored: dict[str, dict]) -> str:
    """JSON with one line a part."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in stored.items()) + "\n}\n"


def read_stored() -> dict[str, dict]:
    stored: dict[str, dict] = json.loads(STORED.read_text()) if STORED.is_file() else {}
    return stored


@pytest.mark.parametrize("name", PARTS)
def test_a_part_computes_what_its_version_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    part = PARTS[name]
    numbers = part.numbers(tmp_path)
    if request.config.getoption("--update-fingerprints", default=False):
        STORED.write_text(text_of(updated(part, numbers, read_stored())))
    assert complaint(part, numbers, read_stored()) == ""


def test_no_fingerprint_is_of_a_part_that_is_gone() -> None:
    assert read_stored().keys() <= PARTS.keys()


def test_a_change_without_a_new_version_names_the_number_to_raise(tmp_path: Path) -> None:
    part = PARTS["protocol whole"]
    numbers = part.numbers(tmp_path)
    changed = {name: [value * 1.01 for value in values] for name, values in numbers.items()}
    stored = {part.name: {"version": 1, "numbers": numbers}}
    assert complaint(part, numbers, stored) == ""
    message = complaint(part, changed, stored)
    assert "raise it to 2 (EvalConfig.behaviours, ssbench/recipe/sections.py)" in message
    assert updated(part, changed, stored) == stored  # the update does not bless a change without a version
    raised = VersionedPart(part.name, 2, part.raise_at, part.numbers)
    assert "--update-fingerprints" in complaint(raised, changed, stored)
    assert complaint(raised, changed, updated(raised, changed, stored)) == ""
