"""Damaged records, baselines, claims, logs and tables: read, or refused in three parts; never a traceback.

A seeded fuzz: a few inputs of each kind here, thousands with SSBENCH_SOAK=1 (`make soak`).
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ran import ROOT, Ran
from released_logs import R50_92, augseg, unimatch
from table_fixtures import TABLE, make

from ssbench.errors import DataError, RecipeError, SsbenchError
from ssbench.paths import shipped
from ssbench.results.baseline import read_runs, save
from ssbench.results.record import read_record
from ssbench.results.store import ResultStore
from ssbench.tables.claims import Claim, all_claims, read_claim, read_shipped, shipped_claims, write_claim
from ssbench.tables.fill import fill
from ssbench.tables.logs import read_log
from ssbench.tables.render import long_rows, render
from ssbench.tables.spec import PaperTable

ROUNDS = 1500 if os.environ.get("SSBENCH_SOAK") else 25
SPLIT = "voc/classic/1_16"
ODD: tuple[Any, ...] = (
    None, True, -1, 0.5, 10**30, 1e300, float("nan"), float("inf"), "", "x", "70.0", "\x00\x1b[31m", "a/../b",
    "é" * 300, "x" * 3000, [], [[]], [70.0], {}, {"best": 70.0}, {"report": "70"}, [[[[1]]]],
)  # fmt: skip
Draw = random.Random


def draws() -> list[Draw]:
    return [random.Random(seed) for seed in range(ROUNDS)]  # noqa: S311  repeatable on purpose


def damaged_bytes(rng: Draw, data: bytes) -> bytes:
    """Cut off, or with some bytes lost, doubled or changed."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 20)
    new = bytes(rng.randrange(256) for _ in range(length))
    return rng.choice((
        data[:at], data[:at] + data[at + length :], data[:at] + data[at - length :], data[:at] + new + data[at:],
        data[:at] + new + data[at + length :], b"", b"\xff\xfe" + data, data[:at] + b"[" * 100_000,
    ))  # fmt: skip


def damaged_value(rng: Draw, value: Any) -> Any:
    """The same data with an odd value at one place, or without it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: damaged_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], damaged_value(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


def damaged_json(rng: Draw, data: bytes) -> bytes:
    """Half of them damaged as bytes, half as data in the layout of a record."""
    if rng.random() < 0.5:
        return damaged_bytes(rng, data)
    value = damaged_value(rng, json.loads(data))
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    return ("{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}\n").encode()


def is_refused(error: SsbenchError) -> bool:
    """What is wrong, where, and what to do; short enough to read."""
    return bool(error.what and error.where and error.fix) and len(error.what) < 1000


def test_damaged_records_reach_no_table_and_hide_no_other(tmp_path: Path, table_file: Callable[..., Path]) -> None:
    table = PaperTable.read(str(table_file()))
    root = ResultStore(tmp_path / "results")
    sound = root.add(make("toypaper/base", SPLIT, 0, 70.0))
    other = root.add(make("toypaper/base", SPLIT, 1, 71.0))
    data = other.read_bytes()
    for rng in draws():
        other.write_bytes(damaged_json(rng, data))
        store = ResultStore(root.root)
        assert sound in [record.path for record in store.records()]
        assert all(is_refused(error) for error in store.damaged.values())
        for record in store.records():
            assert store.whole(record) is not None or record.path in store.damaged
        filled = fill(table, store)
        assert render(filled, "md")
        for row in long_rows(filled):
            assert row["measured"] is None or 0 <= row["measured"] <= 100
            assert row["sd"] is None or math.isfinite(row["sd"])
        try:
            read_runs(root.root)
        except DataError as error:
            assert is_refused(error)  # noqa: PT017  either outcome is right


def test_damaged_baselines_are_read_or_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    for seed in (0, 1):
        store.add(make("toypaper/base", SPLIT, seed))
    path = tmp_path / "stored.json"
    save(read_runs(store.root), path)
    record = next(store.records()).path.read_bytes()
    for data in (path.read_bytes(), record):
        for rng in draws():
            path.write_bytes(damaged_json(rng, data))
            try:
                assert all(run.score is None or 0 <= run.score <= 101 for run in read_runs(path))
            except DataError as error:
                assert is_refused(error)  # noqa: PT017


def test_damaged_claims_are_named_and_hide_no_other(tmp_path: Path) -> None:
    first, second = shipped_claims()[:2]
    sound, other = write_claim(tmp_path, first), write_claim(tmp_path, second)
    assert read_claim(sound) == first
    data = other.read_bytes()
    for rng in draws():
        other.write_bytes(damaged_json(rng, data))
        damaged: dict[Path, DataError] = {}
        claims = all_claims(tmp_path, damaged)
        assert all(isinstance(claim, Claim) and claim.value.is_finite() for claim in claims)
        assert first in claims[len(shipped_claims()) :]
        assert sound not in damaged
        assert all(map(is_refused, damaged.values()))


@pytest.mark.parametrize("text", [unimatch(R50_92), augseg({0: "58.47/58.47", 9: "60.1/61.2"})])
def test_damaged_logs_are_read_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.log"
    for rng in draws():
        path.write_bytes(damaged_bytes(rng, text.encode()))
        try:
            assert all(0 <= score <= 100 for score in read_log(path).scores.values())
        except DataError as error:
            assert is_refused(error)  # noqa: PT017


ODD_LINES = (
    "printed: nan",
    "crop: 1e999",
    "id: [a]",
    "- - -",
    "{",
    "set: {a: .nan}",
    "over: &a [*a]",
    "\t",
    "rows: []",
)


def damaged_table(rng: Draw) -> bytes:
    """Half of them damaged as bytes; half by a line that is lost or odd, which keeps more of them readable."""
    if rng.random() < 0.5:
        return damaged_bytes(rng, TABLE.encode())
    lines = TABLE.splitlines()
    at = rng.randrange(len(lines))
    odd = rng.choice((*ODD_LINES, rng.choice(lines)))
    return "\n".join([*lines[:at], rng.choice(("", "  ", "    ")) + odd, *lines[at + rng.randrange(2) :]]).encode()


def test_damaged_tables_are_read_or_refused(tmp_path: Path) -> None:
    store, path = ResultStore(tmp_path / "none"), tmp_path / "table1.yaml"
    for rng in draws():
        path.write_bytes(damaged_table(rng))
        try:
            table = PaperTable.read(str(path))
        except RecipeError as error:
            assert is_refused(error)  # noqa: PT017
            continue
        try:
            filled = fill(table, store)
        except SsbenchError as error:
            assert error.what  # noqa: PT017  a name that no folder can have
            continue
        for how in ("md", "csv", "latex", "html"):
            assert render(filled, how)


def test_damaged_claims_of_ours_are_read_or_refused(tmp_path: Path) -> None:
    data = (shipped("recipes") / "claims" / "supervised.yaml").read_bytes()
    for rng in draws():
        path = tmp_path / "supervised.yaml"
        path.write_bytes(damaged_bytes(rng, data))
        try:
            assert all(claim.value.is_finite() for claim in read_shipped(path))
        except RecipeError as error:
            assert is_refused(error)  # noqa: PT017


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text", [BOMB + "title: [*a39]\n", "title: " + "[" * 5000, "title: " + "{a: " * 5000, "rows: &r [*r]", "? [a]\n: b"]
)
def test_a_table_that_unfolds_without_end_is_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table1.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(RecipeError):
        PaperTable.read(str(path))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("number", ["nan", "inf", "1e5", "1" * 5000, "0x10", "101", "'70.123456789012'"])
def test_what_no_paper_prints_is_refused(table_file: Callable[..., Path], number: str) -> None:
    with pytest.raises(RecipeError):
        PaperTable.read(str(table_file(("printed: 70.0 71.50 -", f"printed: 70.0 {number} -"))))


def test_records_of_earlier_versions_are_read_whole() -> None:
    """Everything under results/, written by the versions of before."""
    store = ResultStore(ROOT / "results", strict=True)
    records = list(store.records())
    if not records:
        pytest.skip("an installed package has no results")
    assert all(store.whole(record) for record in records)
    assert {r.path for r in records} == {*(ROOT / "results").glob("**/seed*.json")}


def test_one_torn_record_blocks_no_command(
    ssbench: Callable[..., Ran], tmp_path: Path, record: Callable[..., dict[str, Any]]
) -> None:
    results = ResultStore(tmp_path / "results")
    results.add(record("toy/none_unimatch", "toy/ours/1_16", 0))
    torn = results.add(record("toy/none_unimatch", "toy/ours/1_16", 1))
    torn.write_bytes(torn.read_bytes()[:200])
    done = ssbench("list", "runs", "--json")
    said = json.loads(done.out)
    assert (done.code, [row["seed"] for row in said["runs"]]) == (0, [0])
    assert [row["file"] for row in said["damaged"]] == [str(torn.relative_to(tmp_path))]
    assert "ignored: " in ssbench("list", "runs").err
    assert ssbench("list").code == 0
    refused = ssbench("gate", "--against", "results", "--results", "new")
    assert refused.code == 4
    assert "a gate cannot pass over it" in refused.err
    assert str(torn.relative_to(tmp_path)) in refused.err
    elsewhere = results.add(record("toy/none_cps", "toy/ours/1_16", 0))
    assert read_record(elsewhere).seed == 0
    assert ssbench("gate", "toy/none_cps", "--against", "results", "--results", "new").code == 5  # missing, not damaged
