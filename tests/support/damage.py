"""Damages of files and values, drawn by a generator: what the tests of bad inputs write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import yaml

Rng = np.random.Generator


def pick(rng: Rng, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def damaged_bytes(data: bytes, rng: Rng) -> bytes:
    """Cut short, with bytes exchanged, something put in the middle, or something else altogether."""
    at = int(rng.integers(len(data))) if data else 0
    way = int(rng.integers(5))
    if way == 0:
        return data[:at]
    if way == 1:
        return pick(rng, [b"", b"\xff\xfe\x00", b"<html>log in</html>", b"\0" * 2000, rng.bytes(300)])
    if way == 2:
        return data[:at] + rng.bytes(40) + data[at:]
    array = bytearray(data)
    for place in rng.integers(0, max(1, len(array)), 1 if way == 3 else 30):
        array[place : place + 1] = rng.bytes(1)
    return bytes(array)


WRONG: list[Any] = [None, True, -1, 0, 1e308, 10**30, "", "x", "\udc80", "../../x", [], {}, [[]], {"a": 1}, "9" * 6000]


def damaged_value(value: Any, rng: Rng) -> Any:
    """One place of a JSON value replaced by something of another type or size, or taken away."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = pick(rng, list(value))
        rest = {k: v for k, v in value.items() if k != key}
        return rest if rng.random() < 0.15 else {**rest, key: damaged_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = int(rng.integers(len(value)))
        return [*value[:at], damaged_value(value[at], rng), *value[at + 1 :]]
    return pick(rng, WRONG)


def damaged_json(value: Any, rng: Rng) -> bytes:
    way = rng.random()
    if way < 0.6:
        return json.dumps(damaged_value(value, rng)).encode("utf-8", "surrogatepass")
    if way < 0.7:
        deep = int(rng.integers(50, 100_000))
        return pick(rng, [b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b"[" * deep])
    if way < 0.75:
        return json.dumps(value).replace("1", pick(rng, ["NaN", "1e999", "9" * 5000])).encode()
    return damaged_bytes(json.dumps(value).encode(), rng)


def damaged_yaml(value: Any, rng: Rng) -> bytes:
    way = rng.random()
    if way < 0.6:
        return yaml.safe_dump(damaged_value(value, rng), allow_unicode=False).encode("utf-8", "surrogatepass")
    if way < 0.8:
        bomb = "a: &a [x]\n" + "".join(
            f"{n}: &{n} [*{m}, *{m}, *{m}]\n" for m, n in zip("abcdefg", "bcdefgh", strict=True)
        )
        return pick(rng, [bomb, "[" * 5000, "a: 2026-99-99", "? [a]\n: b", "a: !!set {b}", "- " * 3000, "\t"]).encode()
    return damaged_bytes(yaml.safe_dump(value).encode(), rng)
