"""Keyed randomness: a view is a function of its key and of nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import bytes_of, config, draw, sample

from ssbench.views.pipelines import (
    unlabeled_view,
)
from ssbench.views.sample import Draw
from ssbench.views.strong import STRONG


@pytest.mark.parametrize("weak", ["unimatch", "augseg", "u2pl", "cps", "stpp", "cutmix_seg", "acdc"])
def test_same_key_same_bytes_in_any_order(weak: str) -> None:
    strong = weak if weak in STRONG else "unimatch"
    cfg = config(weak, strong=strong, box="unimatch", box_share=1.0)
    keys = [draw(k) for k in range(5)]
    forward = [bytes_of(unlabeled_view(sample(), cfg, d, 2)) for d in keys]
    backward = [bytes_of(unlabeled_view(sample(), cfg, d, 2)) for d in reversed(keys)]
    assert forward == backward[::-1]
    assert len({f["weak"] for f in forward}) > 1
    one = bytes_of(unlabeled_view(sample(), cfg, keys[0], 1))
    assert all(forward[0][k] == v for k, v in one.items())  # a second strong view does not disturb the first
    assert forward[0]["boxes0"] != forward[0]["boxes1"]


def test_views_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib, numpy as np; from PIL import Image\n"
        "from ssbench.views.pipelines import Draw, Sample, read_views, unlabeled_view\n"
        "s = Sample.of('a', Image.fromarray(np.arange(7500).astype(np.uint8).reshape(50, 50, 3)))\n"
        "c = read_views(dict(weak='unimatch', strong='unimatch', box='unimatch', crop=32))\n"
        "v = unlabeled_view(s, c, Draw(1, 2, 'a', 'u'), 2)\n"
        "said = hashlib.sha256(b''.join(t.numpy().tobytes() for t in (v.weak, *v.strong, *v.boxes))).hexdigest()\n"
    )
    here: dict[str, str] = {}
    exec(code, here)  # noqa: S102  the very text the other process runs
    there = subprocess.run([sys.executable, "-c", code + "print(said)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["said"]


NUMBERS, NAMES = st.integers(0, 9), st.sampled_from(["a", "b", "labeled0", "partner0"])
KEYS = st.tuples(NUMBERS, NUMBERS, NAMES, NAMES)


@settings(deadline=None)
@given(one=KEYS, other=KEYS, purpose=st.sampled_from(["resize", "crop"]), second=st.sampled_from(["resize", "crop"]))
def test_changing_any_part_of_the_key_changes_the_draw(
    one: tuple[int, int, str, str], other: tuple[int, int, str, str], purpose: str, second: str
) -> None:
    a, b = Draw(*one)(purpose).random(4), Draw(*other)(second).random(4)
    assert np.array_equal(a, b) == ((*one, purpose) == (*other, second))
    assert np.array_equal(Draw(*one)(purpose).random(4), a)
    assert not np.array_equal(Draw(*one).of("strong0")(purpose).random(4), a)


def test_changing_any_part_of_the_key_changes_the_view() -> None:
    cfg = config("unimatch", crop=24, strong="unimatch")
    base = Draw(1, 2, "a", "unlabeled0")
    others = [replace(base, **change) for change in ({"seed": 2}, {"epoch": 3}, {"id": "b"}, {"view": "partner0"})]
    seen = {bytes_of(unlabeled_view(sample(), cfg, d, 1))["weak"] for d in (base, *others)}
    assert len(seen) == 5
