"""Released training logs: their layouts, shortened by hand, and the numbers of the specs' log tables."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ran import process
from released_logs import R50_92, augseg, unimatch

from ssbench.errors import DataError, UsageError
from ssbench.tables.claims import read_claim
from ssbench.tables.logs import claim_of, read_log, split_of


def written(tmp_path: Path, text: str, name: str = "92.log") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_unimatchs_layout(tmp_path: Path) -> None:
    """UniMatch's release, ResNet-50/92.log: best 71.90 at epoch 49, last 70.57."""
    log = read_log(written(tmp_path, unimatch(R50_92)))
    assert (log.method, log.backbone, log.crop, log.metric) == ("unimatch", "resnet50", 321, "miou")
    assert log.best == (49, Decimal("71.90"))
    assert log.kept == {0: 0.55, 1: 0.679, 49: 0.9, 79: 0.95}
    claim = claim_of(log, "92.log", None)
    assert (claim.split, claim.value, claim.kind) == ("voc/classic/1_16", Decimal("71.90"), "log")
    assert claim.curve == ((0, 53.12), (1, 56.87), (49, 71.90), (79, 70.57))
    assert claim.note == "best epoch 49, last 70.57 at 79"


def test_the_logs_of_2022_name_no_list_and_spell_the_score_otherwise(tmp_path: Path) -> None:
    """UniMatch's release, 92-run1.log: best 75.46 at epoch 27."""
    text = "phoenix-srun: Job 5776 scheduled successfully!\n\n" + unimatch(
        {0: ("58.74", 0.612), 27: ("75.46", 0.8), 79: ("74.81", 0.9)}, "meanIOU", lists=None, backbone="resnet101"
    )
    log = read_log(written(tmp_path, text))
    assert (log.best, log.kept[0]) == ((27, Decimal("75.46")), 0.612)
    with pytest.raises(UsageError, match="names no list of its images"):
        claim_of(log, "92-run1.log", None)
    assert claim_of(log, "92-run1.log", "voc/classic/1_16").split == "voc/classic/1_16"


def test_a_split_that_is_not_the_logs_own_is_refused(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, unimatch(R50_92)))
    with pytest.raises(UsageError, match=r"which is voc/classic/1_16, not voc/classic/1_8"):
        claim_of(log, "92.log", "voc/classic/1_8")


def test_the_medical_layout(tmp_path: Path) -> None:
    text = unimatch({0: ("14.45", 0.63), 299: ("88.77", 0.991)}, "MeanDice", "", crop=256, epochs=300, lists=None)
    text = text.replace("'backbone': 'resnet50',\n ", "").replace(
        "'dataset': 'pascal'", "'dataset': 'acdc',\n 'labeled_id_path': 'partitions/acdc/3/labeled.txt'"
    )
    log = read_log(written(tmp_path, text, "3cases.log"))
    assert (log.backbone, log.metric, split_of(log)) == ("unet", "dice", "acdc/ssl4mis/3")
    assert log.best == (299, Decimal("88.77"))


@pytest.mark.parametrize(
    ("lists", "split"),
    [
        ("pascal/92", "voc/classic/1_16"),
        ("pascal/662", "voc/blender-cps/1_16"),
        ("pascal_u2pl/662", "voc/blender-u2pl/1_16"),
        ("pascal_u2pl/2646", "voc/blender-u2pl/1_4"),
        ("cityscapes/186", "cityscapes/cps/1_16"),
        ("cityscapes/1488", "cityscapes/cps/1_2"),
    ],
)
def test_augsegs_lists_have_our_names(lists: str, split: str, tmp_path: Path) -> None:
    """A log of AugSeg's release."""
    assert split_of(read_log(written(tmp_path, augseg({0: "58.47/58.47"}, lists)))) == split


@pytest.mark.parametrize(
    ("lists", "split"),
    [("1_16", "voc/blender-cps/1_16"), ("u2pl_1_16", "voc/blender-u2pl/1_16"), ("366", "voc/classic/1_4")],
)
def test_unimatchs_lists_have_our_names(lists: str, split: str, tmp_path: Path) -> None:
    assert split_of(read_log(written(tmp_path, unimatch(R50_92, lists=lists)))) == split


def test_augsegs_layout_scores_the_teacher(tmp_path: Path) -> None:
    """AugSeg's release, R101 366: best teacher 78.66 at 43, best student 78.80 at 34, last 77.28 / 77.29."""
    said = {0: "58.47/58.47", 34: "78.80/78.00", 43: "78.10/78.66", 79: "77.28/77.29"}
    log = read_log(written(tmp_path, augseg(said, "pascal/366")))
    assert (log.method, log.backbone, log.crop) == ("augseg", "resnet101", 513)
    assert log.best == (43, Decimal("78.66"))
    assert log.note() == "best epoch 43, last 77.29 at 79; its student reached 78.80"
    assert log.kept[43] == 0.739


def test_students_that_were_not_scored_do_not_count(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, augseg({239: "-100000.00/73.52"}, "cityscapes/186", "resnet50")))
    assert (log.students, log.best) == ({}, (239, Decimal("73.52")))


def test_a_supervised_log_that_was_cut_short(tmp_path: Path) -> None:
    log = read_log(written(tmp_path, augseg({0: "3.49", 66: "44.03", 70: "42.99"}, semi=False, net="resnet50")))
    assert (log.method, log.best) == ("supervised", (66, Decimal("44.03")))
    assert "cut short: 71 of 80 epochs" in log.note()


@given(text=st.text(max_size=200), cut=st.integers(0, 2000))
def test_a_text_is_read_or_refused_in_three_parts(text: str, cut: int, folder: Path) -> None:
    for candidate in (text, unimatch(R50_92)[:cut]):
        assert outcome(written(folder, candidate))


def outcome(path: Path) -> bool:
    """Whether it was read with a score, or refused with a place and a remedy."""
    try:
        return bool(read_log(path).scores)
    except DataError as error:
        return bool(error.where and error.fix)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


def test_the_command_keeps_the_claim(tmp_path: Path) -> None:
    log = written(tmp_path, unimatch(R50_92), "92.log")
    results = tmp_path / "results"
    told = json.loads(process("import", str(log), "--results", str(results), "--json", cwd=tmp_path).out)
    assert (told["kind"], told["split"], told["value"]) == ("log", "voc/classic/1_16", "71.90")
    kept = read_claim(Path(told["file"]))
    assert (kept.method, kept.value, len(kept.curve or ())) == ("unimatch", Decimal("71.90"), 4)
    again = json.loads(process("import", str(log), "--results", str(results), "--json", cwd=tmp_path).out)
    assert again["file"] == told["file"]
    assert len(list((results / "claims").iterdir())) == 1
