"""`ssbench import LOG` on logs of UniMatch V2's four scripts: what they claim, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran
from released_logs import V2_92, unimatch_v2

from ssbench.tables.claims import read_claim
from ssbench.tables.logs import read_log

Command = Callable[..., Ran]


@pytest.fixture
def imported(ssbench: Command, tmp_path: Path) -> Callable[..., Ran]:
    """Import a text as a log."""

    def run(text: str, *words: str) -> Ran:
        path = tmp_path / "run.log"
        path.write_text(text)
        return ssbench("import", str(path), "--results", str(tmp_path / "results"), "--json", *words)

    return run


def refused(ran: Ran, tmp_path: Path, *words: str, code: int = 4) -> None:
    assert ran.code == code, ran
    for word in (*words, "fix:"):
        assert word in ran.err
    assert not list((tmp_path / "results").rglob("*.json"))


def test_the_teacher_is_claimed_and_its_curve_kept(imported: Command, tmp_path: Path) -> None:
    claim = json.loads(imported(unimatch_v2(V2_92)).out)
    assert (claim["method"], claim["split"], claim["backbone"]) == (
        "unimatch_v2", "voc/classic/1_16", "vit_small_patch14_dinov2",
    )  # fmt: skip
    assert (claim["value"], claim["crop"], claim["metric"], claim["epochs"]) == ("72.50", 518, "miou", 60)
    assert claim["curve"] == [[0, 60.63], [1, 67.50], [2, 71.29], [3, 72.50]]
    assert claim["source"] == "LiheYoung/UniMatch-V2, training log run.log"
    assert claim["note"] == "best epoch 3, last 72.50 at 3; cut short: 4 of 60 epochs; its student reached 73.13"
    assert read_claim(Path(claim["file"])).epochs == 60
    log = read_log(tmp_path / "run.log")
    assert log.kept == {0: 0.0, 1: 0.001, 2: 0.002, 3: 0.003}
    assert str(log.students[3]) == "73.13"


@pytest.mark.parametrize(
    ("dataset", "part", "split"),
    [
        ("pascal", "1464", "voc/classic/full"),
        ("pascal", "732", "voc/classic/1_2"),
        ("cityscapes", "1_16", "cityscapes/cps/1_16"),
        ("cityscapes", "1_30", "cityscapes/cps/1_30"),
        ("ade20k", "1_64", "ade20k/unimatch_v2/1_64"),
        ("ade20k", "1_2", "ade20k/unimatch_v2/1_2"),
        ("coco", "1_512", "coco/pseudoseg/1_512"),
    ],
)
@pytest.mark.parametrize("method", ["supervised", "fixmatch", "unimatch_v1", "unimatch_v2"])
@pytest.mark.parametrize("encoder", ["dinov2_small", "dinov2_base"])
def test_every_script_dataset_and_encoder_is_read(
    imported: Command, dataset: str, part: str, split: str, method: str, encoder: str
) -> None:
    pair = ("50.00",) if method == "supervised" else ("49.00", "50.00")
    claim = json.loads(imported(unimatch_v2({0: pair}, method, dataset, part, encoder)).out)
    assert claim["split"] == split
    assert claim["method"] == {"unimatch_v1": "unimatch"}.get(method, method)
    assert claim["backbone"] == f"vit_{encoder.partition('_')[2]}_patch14_dinov2"
    assert (claim["value"], claim["departs"]) == ("50.00", "")


def test_logs_of_july_2024_name_no_lock(imported: Command) -> None:
    text = unimatch_v2(V2_92, "unimatch_v1", lock_backbone=None).replace("Encoder params", "Total params")
    assert json.loads(imported(text).out)["method"] == "unimatch"


def test_a_kept_encoder_is_another_run(imported: Command) -> None:
    claim = json.loads(imported(unimatch_v2(V2_92, lock_backbone=True)).out)
    assert claim["backbone"] == "vit_small_patch14_dinov2 (frozen)"


def test_other_encoders_keep_their_name(imported: Command) -> None:
    assert json.loads(imported(unimatch_v2(V2_92, encoder="beit_base")).out)["backbone"] == "beit_base"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conf_thresh": 0.9}, "conf_thresh 0.9 (released 0.95)"),
        ({"ngpus": 2}, "images a step 8 (released 16)"),
        ({"epochs": 30, "lr": 1e-05}, "epochs 30 (released 60); lr 1e-05 (released 5e-06)"),
    ],
)
def test_settings_that_are_not_the_released_ones_are_named(
    imported: Command, changes: dict[str, object], words: str
) -> None:
    claim = json.loads(imported(unimatch_v2(V2_92, **changes)).out)
    assert claim["departs"] == words
    assert claim["note"].endswith(words)


def test_a_supervised_script_doubles_its_batch_before_it_prints_it(imported: Command) -> None:
    assert json.loads(imported(unimatch_v2({0: ("57.75",)}, "supervised")).out)["departs"] == ""


def test_the_settings_decide_which_split_it_is(imported: Command, tmp_path: Path) -> None:
    text = unimatch_v2(V2_92, dataset="ade20k", part="1_16")
    refused(imported(text, "--split", "voc/classic/1_16"), tmp_path, "which is ade20k/unimatch_v2/1_16", code=2)
    refused(imported(text, "--split", "ade20k/unimatch_v2/1_8"), tmp_path, "not ade20k/unimatch_v2/1_8", code=2)


def test_a_list_of_the_large_setting_is_refused(imported: Command, tmp_path: Path) -> None:
    text = unimatch_v2(V2_92, dataset="coco", part="1_512", labeled_id_path="splits/coco/all/train.txt")
    refused(imported(text, "--split", "coco/pseudoseg/1_512"), tmp_path, "a list we do not know", code=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"save_path": None}, "fixmatch and unimatch_v2 print these lines alike, and no save_path says which it is"),
        ({"save_path": "exp/pascal/supervised/dinov2_small/92"}, "save_path is that of 'supervised'"),
        ({"save_path": "exp/pascal/corrmatch/dinov2_small/92"}, "save_path is that of 'corrmatch'"),
        ({"corr": 1}, "setting 'corr'"),
        ({"nclass": 19}, "dataset 'pascal' has 21 classes, and its settings say 19"),
        ({"model": "upernet"}, "its model 'upernet' is not dpt"),
    ],
)
def test_what_its_code_does_not_write_is_named(
    imported: Command, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    refused(imported(unimatch_v2(V2_92, **changes)), tmp_path, "no method of UniMatch-V2", words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Loss s: 0.000", "Loss s: 0.000, Loss kl: 0.1", "term 'Loss kl'"),
        (", Loss x: 2.983, Loss s: 0.000, Mask ratio: 0.003", "", "the terms of none"),
        (", EMA: 72.50", "", "print one score where a teacher has a second"),
        ("Decoder params", "Adapter params", "line 'Adapter params: 2.7M'"),
        ("'dataset': 'pascal'", "'dataset': 'ade'", "dataset 'ade' is none of pascal"),
        ("Iters: ", "Step: ", "no line of a training step"),
    ],
)  # fmt: skip
def test_lines_of_forks_are_named(imported: Command, tmp_path: Path, old: str, new: str, words: str) -> None:
    refused(imported(unimatch_v2(V2_92).replace(old, new)), tmp_path, "no method of UniMatch-V2", words)


def test_nan_a_cut_file_and_two_runs(imported: Command, tmp_path: Path) -> None:
    claim = json.loads(imported(unimatch_v2(V2_92 | {4: ("nan", "nan")})).out)
    assert "epoch 4 scored nan" in claim["note"]
    text = unimatch_v2(V2_92).rstrip("\n")
    assert json.loads(imported(text).out)["value"] == "72.50"
    for cut in (1, len("0, EMA: 72.50"), len(", EMA: 72.50")):
        assert json.loads(imported(text[:-cut]).out)["value"] == "71.29"
    for path in (tmp_path / "results").rglob("*.json"):
        path.unlink()
    refused(imported(unimatch_v2(V2_92) + unimatch_v2(V2_92, part="183")), tmp_path, "two runs")


def test_a_resumed_run_is_one(imported: Command) -> None:
    whole = unimatch_v2(V2_92)
    at = whole.index("[2024-08-25 03:53:59,377][    INFO] ===========> Epoch: 2")
    head = whole[: whole.index("[2024-08-25 03:53:59,377][    INFO] ===========> Epoch: 0")].replace("26609", "26610")
    again = f"{head}[2024-08-25 03:53:59,377][    INFO] ************ Load from checkpoint at epoch 1\n\n{whole[at:]}"
    assert len(json.loads(imported(whole[:at] + again).out)["curve"]) == 4
