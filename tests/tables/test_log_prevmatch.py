"""Released training logs of PrevMatch, shortened by hand, and what is none of its code's."""

from __future__ import annotations

import json
import pprint
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ran import Ran

from ssbench.errors import DataError
from ssbench.tables.log_form import UNIMATCH_STEPS
from ssbench.tables.logs import claim_of, read_log, split_of

STAMP = "[2024-01-27 05:28:00,504][    INFO] "
HEAD: dict[str, Any] = {
    "amp": True, "backbone": "resnet50", "batch_size": 8, "conf_thresh": 0.95, "config": "configs/pascal.yaml",
    "criterion": {"kwargs": {"ignore_index": 255}, "name": "CELoss"}, "crop_size": 321, "data_root": "../data/pascal",
    "dataset": "pascal", "dilations": [6, 12, 18], "epochs": 80, "labeled_id_path": "splits/pascal/92/labeled.txt",
    "local_rank": 0, "lr": 0.001, "lr_multi": 10.0, "model": "deeplabv3plus", "nclass": 21, "ngpus": 1, "port": 23,
    "prev": {"base_only_epoch": 0, "conf_thresh": 0.9, "list_max_len": 8, "model_num": 3, "random_select": True},
    "replace_stride_with_dilation": [False, False, True], "save_path": "exp/pascal/prevmatch/r50/92",
    "unlabeled_id_path": "splits/pascal/92/unlabeled.txt",
}  # fmt: skip
"""As 92-run1-73.5.log begins."""
ALONE = "iter time: 0.196, Total loss: 0.091, Loss x: 0.100, Loss s: 0.141, Loss w_fp: 0.021, Mask ratio: 0.635"
FORMER = ", Loss s_prev: 0.255, Loss w_fp_prev: 0.110, Mask ratio_prev: 0.800"
CITYSCAPES = {
    "backbone": "resnet101", "batch_size": 4, "conf_thresh": 0, "crop_size": 801, "dataset": "cityscapes",
    "epochs": 240, "labeled_id_path": "splits/cityscapes/1_16/labeled.txt", "model": None, "nclass": 19, "ngpus": 2,
    "save_path": "exp/cityscapes/prevmatch/r101/1_16",
}  # fmt: skip


def log(scores: dict[int, str], left: str = "", former: str = FORMER, mode: str = "original", **settings: Any) -> str:
    """A log: epoch -> score. left: what the lines of epochs end in. A setting of None is left out."""
    head = {name: value for name, value in {**HEAD, **settings}.items() if value is not None}
    text = f"{STAMP}{pprint.pformat(head)}\n\n{STAMP}Total params: 40.5M\n\n"
    for epoch, score in scores.items():
        text += f"{STAMP}===========> Epoch: {epoch}, LR: 0.00100, Previous best: 0.00{left}\n"
        text += f"{STAMP}Iters: 0, {ALONE}{former if epoch else ''}\n"
        text += f"{STAMP}***** Evaluation ***** >>>> Class [0 background] IoU: 87.83\n"
        text += f"{STAMP}***** Evaluation {mode} ***** >>>> MeanIoU: {score}\n\n"
    return text


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "92-run1-73.5.log"
    path.write_text(text)
    return path


def test_its_layout(tmp_path: Path) -> None:
    read = read_log(written(tmp_path, log({0: "51.72", 1: "53.84", 60: "73.52", 79: "72.51"})))
    assert (read.author, read.method, read.plugin, read.backbone, read.crop) == (
        "PrevMatch", "unimatch", "prevmatch", "resnet50", 321)  # fmt: skip
    assert read.best == (60, Decimal("73.52"))
    assert read.kept[1] == 0.635, "of the student's own labels"
    claim = claim_of(read, "92-run1-73.5.log", None)
    assert (claim.method, claim.plugin, claim.split) == ("unimatch", "prevmatch", "voc/classic/1_16")
    assert claim.source == "wooseok-shin/PrevMatch, training log 92-run1-73.5.log"


def test_logs_of_cityscapes_name_the_time_left_and_no_model(tmp_path: Path) -> None:
    text = log({0: "47.19", 1: "55.27"}, ", ETA: 2070.31M", mode="sliding_window", **CITYSCAPES)
    read = read_log(written(tmp_path, text))
    assert (read.best, split_of(read), read.backbone) == ((1, Decimal("55.27")), "cityscapes/cps/1_16", "resnet101")


@pytest.mark.parametrize(
    ("lists", "split"),
    [("1_16", "voc/blender-cps/1_16"), ("u2pl_1_16", "voc/blender-u2pl/1_16"), ("1464", "voc/classic/full")],
)
def test_its_lists_have_the_names_of_unimatchs(lists: str, split: str, tmp_path: Path) -> None:
    text = log({0: "56.98"}, labeled_id_path=f"splits/pascal/{lists}/labeled.txt")
    assert split_of(read_log(written(tmp_path, text))) == split


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"thresh_init": 0.85}, "setting 'thresh_init', as CorrMatch has"),
        ({"prev": {"conf_thresh": 0.9}}, "its setting 'prev' does not have the fields 'base_only_epoch'"),
        ({"dataset": "acdc", "nclass": 4}, "its dataset 'acdc' is none of pascal"),
        ({"backbone": "dinov2_base"}, "its backbone 'dinov2_base'"),
        ({"save_path": "exp/pascal/supervised/r50/92"}, "its save_path is that of 'supervised'"),
        ({"former": ", Loss kl: 0.1"}, "its training steps have the term 'Loss kl'"),
        ({"former": FORMER.replace("Loss s_prev: 0.255, ", "")}, "its training steps lack the term 'Loss s_prev'"),
        ({"left": ", EMA: 0.9"}, "it has the line"),
    ],
)
def test_what_its_code_does_not_write_is_refused(changed: dict[str, Any], finding: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no method of PrevMatch wrote this training log") as refused:
        read_log(written(tmp_path, log({0: "50.00", 1: "60.00"}, **changed)))
    assert finding in refused.value.what


def test_a_log_of_unimatch_is_no_log_of_prevmatch(tmp_path: Path) -> None:
    """Former terms in a log without `prev`, and UniMatch's steps in one with it."""
    with pytest.raises(DataError, match="no method of UniMatch wrote this"):
        read_log(written(tmp_path, log({0: "50.00", 1: "60.00"}, prev=None, model=None)))
    (terms,) = (terms for terms, method in UNIMATCH_STEPS.items() if method == "unimatch")
    text = log({0: "50.00"}).replace(ALONE, ", ".join(f"{term}: 0.1" for term in sorted(terms)))
    with pytest.raises(DataError, match="its training steps lack the term 'iter time'"):
        read_log(written(tmp_path, text))


def test_the_command_keeps_the_claim(ssbench: Callable[..., Ran], tmp_path: Path) -> None:
    path = written(tmp_path, log({0: "51.72", 79: "73.52"}))
    ran = ssbench("import", str(path), "--results", str(tmp_path / "results"), "--json")
    assert ran.code == 0, ran.err
    claim = json.loads(ran.out)
    assert (claim["method"], claim["plugin"], claim["value"]) == ("unimatch", "prevmatch", "73.52")
    table = ssbench("table", "prevmatch/table1", "--claims", "--json", "--results", str(tmp_path / "results"))
    assert "training log 92-run1-73.5.log" in table.out
