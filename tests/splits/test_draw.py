from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssbench.data.dataset import Dataset
from ssbench.errors import UsageError
from ssbench.paths import shipped
from ssbench.splits.draw import draw, make, presence
from ssbench.splits.manifest import Partition, folder, manifest

IDS = st.lists(st.text("abc019_", min_size=1, max_size=6), unique=True, min_size=1, max_size=30)
OURS = [name for name, entry in manifest().splits.items() if entry.origin == "ours"]


class Small(Dataset):
    """A dataset in memory: `masks` by id."""

    classes = ("a", "b", "c")

    def __init__(self, name: str, masks: dict[str, list[int]]) -> None:
        super().__init__(Path("nowhere"))
        self.name, self.masks = name, masks  # type: ignore[misc]

    def ids(self, subset: str) -> tuple[str, ...]:
        return tuple(sorted(self.masks)) if subset == "train" else ()

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(np.array([self.masks[id]], np.uint8))

    def image(self, id: str) -> Image.Image:
        return self.mask(id).convert("RGB")


@pytest.mark.parametrize("name", OURS)
def test_the_shipped_lists_are_drawn_again_to_the_id(name: str) -> None:
    entry = manifest().splits[name]
    pool = (shipped("splits") / name.split("/")[0] / "train.txt").read_text().split()
    split = Partition.read(name, Path("nowhere"))
    assert entry.seed is not None
    assert draw(pool, entry.labeled.count, entry.seed) == split.labeled
    assert set(split.unlabeled) == set(pool) - set(split.labeled)
    assert folder(name, Path("nowhere")).is_relative_to(shipped("splits"))


@pytest.mark.parametrize("family", ["camvid/ours", "toy/ours"])
def test_the_shipped_families_are_nested(family: str) -> None:
    draws = sorted((set(Partition.read(n, Path()).labeled) for n in OURS if n.startswith(family)), key=len)
    assert len(draws) == 5
    assert all(small < large for small, large in zip(draws, draws[1:], strict=False))


@given(ids=IDS, data=st.data(), seed=st.integers(0, 99))
def test_a_draw_depends_on_the_set_and_the_seed_only(ids: list[str], data: st.DataObject, seed: int) -> None:
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, len(ids))] * 2)))
    drawn = draw(ids, large, seed)
    assert drawn == draw(reversed(ids), large, seed) == tuple(sorted(drawn))
    assert len(drawn) == large
    assert set(draw(ids, small, seed)) <= set(drawn)


def test_seeds_draw_independently() -> None:
    ids = [f"{i:04d}" for i in range(1000)]
    common = len(set(draw(ids, 100, 0)) & set(draw(ids, 100, 1)))
    assert 1 <= common <= 25  # ten expected; these bounds are five standard deviations away


@pytest.mark.parametrize("count", [-1, 4])
def test_more_than_there_are_cannot_be_drawn(count: int) -> None:
    with pytest.raises(UsageError, match=f"cannot draw {count} of 3 ids"):
        draw(["a", "b", "c"], count, 0)


@given(
    present=st.lists(st.frozensets(st.integers(0, 4)), min_size=1, max_size=30), data=st.data(), seed=st.integers(0, 9)
)
def test_a_stratified_draw_has_the_count_and_reaches_each_class_it_has_room_for(
    present: list[frozenset[int]], data: st.DataObject, seed: int
) -> None:
    strata = {f"{i:02d}": classes for i, classes in enumerate(present)}
    count = data.draw(st.integers(0, len(strata)))
    drawn = draw(strata, count, seed, strata)
    assert len(drawn) == count
    assert drawn == draw(sorted(strata, reverse=True), count, seed, strata)
    if count >= 5:
        assert {c for id in drawn for c in strata[id]} == {c for classes in present for c in classes}


@pytest.mark.real
def test_on_voc_a_stratified_92_keeps_the_share_of_every_class(shared: Path) -> None:
    lines = (shared / "voc2012/aug_mask_stats.csv").read_text().splitlines()[1:]
    fine = {  # the VOC 2012 train and val images: only their masks have the ignored border
        id: frozenset(int(pair.split(":")[0]) for pair in pixels.split()) - {255}
        for id, _, _, pixels in (line.split(",") for line in lines)
        if " 255:" in pixels
    }
    total = Counter(c for classes in fine.values() for c in classes)
    worst: dict[bool, float] = {}
    for stratified in (False, True):
        drawn = draw(fine, 92, 0, fine if stratified else None)
        found = Counter(c for id in drawn for c in fine[id])
        worst[stratified] = max(abs(found[c] / 92 - total[c] / len(fine)) for c in range(1, 21))
    assert len(total) == 21
    assert worst[True] < 0.06
    assert worst[True] < worst[False]


def test_presence_ignores_the_ignored() -> None:
    small = Small("mine", {"x": [0, 2, 255], "y": [255]})
    assert presence(small, small.ids("train")) == {"x": {0, 2}, "y": frozenset()}


def test_make_writes_a_split_that_reads_as_custom(tmp_path: Path) -> None:
    small = Small("toy", {f"train_{i:04d}": [i % 3] for i in range(33)})
    said = make(small, tmp_path / "mine", fraction=Fraction(1, 16), seed=5)
    split = Partition.read(str(tmp_path / "mine"), tmp_path)
    assert split.custom
    assert (len(split.labeled), len(split.unlabeled)) == (3, 30)  # 33/16, rounded up
    assert split.labeled == draw(small.ids("train"), 3, 5)
    assert yaml.safe_load((tmp_path / "mine/split.yaml").read_text()) == said
    assert said["seed"] == 5


@pytest.mark.parametrize(
    ("total", "fraction", "count"),
    [(10582, 1 / 16, 662), (10582, Fraction(1, 8), 1323), (10582, 0.25, 2646), (2975, 1 / 8, 372), (2975, 0.5, 1488),
     (10582, 1 / 2, 5291), (300, 0.01, 3), (3, 1, 3)],
)  # fmt: skip
def test_fractions_round_as_the_published_lists_do(
    total: int, fraction: float | Fraction, count: int, tmp_path: Path
) -> None:
    small = Small("mine", dict.fromkeys((str(i) for i in range(total)), [0]))
    assert make(small, tmp_path, fraction=fraction)["labeled"]["count"] == count


def test_make_stratified_reaches_a_rare_class(tmp_path: Path) -> None:
    small = Small("toy", {f"train_{i:04d}": [2 if i == 77 else i % 2] for i in range(200)})
    make(small, tmp_path / "a", count=4, stratify=True)
    assert "train_0077" in Partition.read(str(tmp_path / "a"), tmp_path).labeled


def test_make_keeps_the_slices_of_a_patient_together(tmp_path: Path) -> None:
    slices = {f"patient{p:03d}_frame0{f}_slice_{s}": [p % 3] for p in range(6) for f in (1, 2) for s in (1, 2, 3)}
    for stratify in (False, True):
        out = tmp_path / str(stratify)
        make(Small("acdc", slices), out, count=2, stratify=stratify)
        split = Partition.read(str(out), tmp_path)
        assert len({id.split("_")[0] for id in split.labeled}) == 2
        assert len(split.labeled) == 12


def test_make_overwrites_nothing(tmp_path: Path) -> None:
    small = Small("toy", {"train_0001": [0]})
    make(small, tmp_path, count=1)
    with pytest.raises(UsageError, match="lists in that folder already"):
        make(small, tmp_path, count=1)


@pytest.mark.parametrize(
    "how", [{}, {"count": 1, "fraction": 0.5}, {"count": 0}, {"count": 3}, {"fraction": 0}, {"fraction": 1.5}]
)
def test_impossible_sizes_are_refused(how: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make(Small("toy", {"train_0001": [0], "train_0002": [0]}), tmp_path, **how)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys
from pathlib import Path
from types import SimpleNamespace
from ssbench.splits.draw import make
ids = tuple(f"train_{n:04d}" for n in range(60))
toy = SimpleNamespace(name="toy", classes=("a",), ids=lambda subset: ids, mask=None, unit=lambda id: id)
make(toy, Path(sys.argv[1]), count=20)
"""


def test_the_files_of_a_split_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """The order of the labelled list decides which images a run repeats, so two machines must write the same bytes."""
    texts = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / seed)], env=environment, check=True)
        texts.add(tuple((tmp_path / seed / f"{role}.txt").read_text() for role in ("labeled", "unlabeled")))
    assert len(texts) == 1
