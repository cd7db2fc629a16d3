"""`ssbench import LOG`: logs of other methods, datasets and lists, two runs in one file, nan, other encodings."""

from __future__ import annotations

import json
import pprint
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ran import Ran
from released_logs import R50_92, augseg, unimatch

Command = Callable[..., Ran]
STAMP = "[2024-08-28 05:41:37,646][    INFO] "
STEP = "Total loss: 1.489, Loss x: 2.978, Loss s: 0.000, Loss w_fp: 0.000, Mask ratio: 0.800"
SUPERVISED, FIXMATCH = "Total loss: 1.489", "Total loss: 1.489, Loss x: 2.978, Loss s: 0.000, Mask: 0.800"
SPLIT = ("--split", "voc/classic/1_16")


def log(scores: list[str], step: str = STEP, extra: str = "", **settings: Any) -> str:
    """A log as UniMatch's code of 2023 prints it; `extra` stands after every score; a setting of None is left out."""
    head: dict[str, Any] = {"dataset": "pascal", "nclass": 21, "crop_size": 321, "epochs": len(scores),
                            "backbone": "resnet101", "labeled_id_path": "splits/pascal/92/labeled.txt"}  # fmt: skip
    head = {name: value for name, value in {**head, **settings}.items() if value is not None}
    text = f"{STAMP}{pprint.pformat(head)}\n\n{STAMP}Total params: 40.5M\n\n"
    for epoch, score in enumerate(scores):
        text += f"{STAMP}===========> Epoch: {epoch}, LR: 0.00100, Previous best: 0.00\n"
        text += f"{STAMP}Iters: 0, {step}\n" if step else ""
        text += f"{STAMP}***** Evaluation ***** >>>> Class [0 background] IoU: 90.00\n"
        text += f"{STAMP}***** Evaluation original ***** >>>> MeanIoU: {score}{extra}\n\n"
    return text


@pytest.fixture
def imported(ssbench: Command, tmp_path: Path) -> Callable[..., Ran]:
    """Import a text (or bytes) as a log."""

    def run(text: str | bytes, *words: str) -> Ran:
        path = tmp_path / "run.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ssbench("import", str(path), "--results", str(tmp_path / "results"), "--json", *words)

    return run


def refused(ran: Ran, tmp_path: Path, *words: str, code: int = 4) -> None:
    """It ended with this code, named these words, gave a fix, and kept no claim."""
    assert ran.code == code, ran
    for word in (*words, "fix:"):
        assert word in ran.err
    assert "Traceback" not in ran.err
    assert not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize(
    ("step", "method"), [(STEP, "unimatch"), (STEP.replace("Mask ratio", "Mask"), "unimatch"), (FIXMATCH, "fixmatch"),
                         (SUPERVISED, "supervised")]
)  # fmt: skip
def test_the_terms_of_a_step_say_which_method_it_is(imported: Command, step: str, method: str) -> None:
    claim = json.loads(imported(log(["60.00", "61.00"], step)).out)
    assert (claim["method"], claim["split"], claim["value"]) == (method, "voc/classic/1_16", "61.00")


def test_corrmatchs_form_is_refused_with_its_settings_and_lines(imported: Command, tmp_path: Path) -> None:
    """CorrMatch's steps go to a progress bar; its scores have four decimals, and a list of classes follows."""
    after = f"21 \n\n{STAMP}***** ClassIOU ***** >>>> \n[0.93 0.88]\n"
    text = log(["75.46"], "", after, labeled_id_path=None, thresh_init=0.85, pretrain=True).replace(
        "MeanIoU", "meanIOU"
    )
    refused(imported(text, *SPLIT), tmp_path, "'pretrain', 'thresh_init', as CorrMatch has", "ClassIOU",
            "no line of a training step")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corr_threshold": 0.85}, "setting 'corr_threshold'"),
        ({"step": ""}, "no line of a training step"),
        ({"step": STEP + ", Loss kl: 0.1"}, "term 'Loss kl'"),
        ({"step": f"{STEP}\n{STAMP}Iters: 5, {FIXMATCH}"}, "terms of two methods"),
        (
            {"extra": f"\n{STAMP}***** Evaluation of the teacher: 77.00"},
            "line '***** Evaluation of the teacher: 77.00'",
        ),
        ({"nclass": 19}, "dataset 'pascal' has 21 classes, and its settings say 19"),
        ({"backbone": "mit_b2"}, "backbone 'mit_b2'"),
        ({"save_path": "exp/pascal/corrmatch/r101/92"}, "save_path is that of 'corrmatch'"),
    ],
)
def test_what_no_known_method_writes_is_named(
    imported: Command, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    refused(imported(log(["60.00"], **changes), *SPLIT), tmp_path, "no method of UniMatch", words)


def test_other_dice_than_acdcs_is_refused(imported: Command, tmp_path: Path) -> None:
    refused(imported(log(["60.00"]).replace("MeanIoU", "MeanDice")), tmp_path, "scores on 'pascal' are dice, not miou")


def test_a_log_of_the_released_path_and_settings_is_read(imported: Command) -> None:
    released = {"batch_size": 4, "conf_thresh": 0.95, "config": "configs/pascal.yaml", "data_root": "../Pascal",
                "criterion": {"kwargs": {"ignore_index": 255}, "name": "CELoss"}, "dilations": [6, 12, 18],
                "local_rank": 0, "lr": 0.001, "lr_multi": 10.0, "ngpus": 2, "port": 20004,
                "replace_stride_with_dilation": [False, False, True], "save_path": "exp/pascal/unimatch/r101/u2pl_1_16",
                "labeled_id_path": "splits/pascal/u2pl_1_16/labeled.txt", "crop_size": 513,
                "unlabeled_id_path": "splits/pascal/u2pl_1_16/unlabeled.txt"}  # fmt: skip
    assert json.loads(imported(log(["67.78"], **released)).out)["split"] == "voc/blender-u2pl/1_16"


@pytest.mark.parametrize("lists", [None, "splits/cityscapes/1_16/labeled.txt", "/home/me/ids.txt"])
def test_the_logs_own_dataset_wins(imported: Command, tmp_path: Path, lists: str | None) -> None:
    text = log(["60.00"], dataset="cityscapes", nclass=19, labeled_id_path=lists)
    refused(imported(text, *SPLIT), tmp_path, "trained on", "cityscapes", "not", "voc/classic/1_16", code=2)


def test_a_list_of_another_dataset_than_the_settings_is_refused(imported: Command, tmp_path: Path) -> None:
    text = log(["60.00"], labeled_id_path="splits/cityscapes/1_16/labeled.txt")
    refused(imported(text), tmp_path, "trained on voc", "'splits/cityscapes/1_16/labeled.txt'", code=2)


def test_a_list_that_nobody_published_is_not_replaced_by_a_split(imported: Command, tmp_path: Path) -> None:
    text = log(["60.00"], labeled_id_path="splits/pascal/my_92/labeled.txt")
    refused(imported(text, *SPLIT), tmp_path, "'splits/pascal/my_92/labeled.txt', a list we do not know", code=2)


def test_a_list_of_another_form_is_taken_at_its_word_and_the_claim_says_so(imported: Command) -> None:
    text = log(["60.00"], labeled_id_path="/home/me/ids.txt")
    assert imported(text).code == 2
    note = json.loads(imported(text, *SPLIT).out)["note"]
    assert "its list '/home/me/ids.txt' was taken to be voc/classic/1_16, as --split said" in note


def test_augsegs_own_count_of_images_wins(imported: Command, tmp_path: Path) -> None:
    """AugSeg prints how many images its lists have: "# samples: 92"."""
    text = augseg({0: "58.47/58.47"}).replace("./data/splitsall/pascal/92/labeled.txt", "/home/me/ids.txt")
    refused(imported(text, "--split", "voc/classic/1_8"), tmp_path, "trained on 92 labelled images", "has 183", code=2)
    assert json.loads(imported(text, *SPLIT).out)["method"] == "augseg"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("'threshold': 0.95", "'threshold': 0.95, 'corr': 1", "setting 'trainer.unsupervised.corr'"),
        ("Sup:0.038", "Sup:0.038  Con:0.1", "term 'Con'"),
        ("'pascal_semi'", "'ade20k_semi'", "dataset 'ade20k_semi' is none of pascal"),
        ("augseg.models.resnet.", "other.models.resnet.", "encoder 'other.models.resnet.resnet101'"),
        ("Epoch/Iter", "Step", "no line of a training step"),
    ],
)
def test_forks_of_augseg_are_refused(imported: Command, tmp_path: Path, old: str, new: str, words: str) -> None:
    refused(imported(augseg({0: "58.47/58.47"}).replace(old, new)), tmp_path, "no method of AugSeg", words)


def test_augsegs_epochs_in_which_no_network_was_scored_are_no_scores(imported: Command) -> None:
    """As its logs on Cityscapes, which test some epochs only."""
    text = augseg({0: "-100000.00/25.98", 1: "-100000.00/-100000.00", 79: "-100000.00/26.00"})
    claim = json.loads(imported(text).out)
    assert (claim["curve"], claim["note"]) == ([[0, 25.98], [79, 26.0]], "best epoch 79, last 26.00 at 79")


@pytest.mark.parametrize(
    "second", [log(["70.00", "71.00"]), log(["70.00"], backbone="resnet50"), augseg({0: "58.47/5.0"})]
)
def test_two_runs_in_one_file_are_refused(imported: Command, tmp_path: Path, second: str) -> None:
    first = log(["60.00", "61.00"])
    line = first.count("\n") + 1
    ran = imported(first + second)
    refused(ran, tmp_path, "two runs", f"in line {line}", f"head -n {line - 1} ", f"tail -n +{line} ")


def test_a_second_run_whose_settings_were_not_printed_is_refused(imported: Command, tmp_path: Path) -> None:
    second = log(["70.00", "71.00"]).partition("Total params")[2].partition("\n\n")[2]
    refused(imported(log(["60.00", "61.00"]) + second), tmp_path, "two runs", "epoch 0 is scored after epoch 1")


def test_a_start_that_came_to_no_score_is_no_run(imported: Command) -> None:
    claim = json.loads(imported(log([], epochs=80, crop_size=801) + log(["60.00", "61.00"])).out)
    assert (claim["crop"], claim["curve"]) == (321, [[0, 60.0], [1, 61.0]])


def test_a_run_that_was_resumed_is_one_run(imported: Command, tmp_path: Path) -> None:
    whole = log(["60.00", "61.00", "62.00"], port=1)
    cut = whole.index(f"{STAMP}===========> Epoch: 2")
    head = whole[: whole.index(f"{STAMP}===========> Epoch: 0")].replace("'port': 1", "'port': 2")
    resumed = f"{head}{STAMP}************ Load from checkpoint at epoch 1\n\n{whole[cut:]}"
    assert json.loads(imported(whole[:cut] + resumed).out)["curve"] == [[0, 60.0], [1, 61.0], [2, 62.0]]
    other = resumed.replace("'crop_size': 321", "'crop_size': 513")
    (tmp_path / "results").rename(tmp_path / "before")
    refused(imported(whole[:cut] + other), tmp_path, "two runs")


@pytest.mark.parametrize(
    "text", [log(["60.00", "61.00", "nan"]), augseg({0: "60.00/60.00", 1: "61.0/61.00", 79: "nan/nan"})]
)
def test_an_epoch_that_scores_nan_is_named_and_not_cut_short(imported: Command, text: str) -> None:
    claim = json.loads(imported(text).out)
    last = "2" if "Mask ratio" in text else "79"
    assert (claim["value"], claim["note"]) == ("61.00", f"best epoch 1, last 61.00 at 1; epoch {last} scored nan")
    assert claim["curve"] == [[0, 60.0], [1, 61.0]]


def test_many_epochs_of_nan_are_counted_and_a_cut_run_is_still_cut(imported: Command) -> None:
    note = json.loads(imported(log(["60.00", *["nan"] * 5], epochs=80)).out)["note"]
    assert note == "best epoch 0, last 60.00 at 0; epochs 1, 2, 3 and 2 more scored nan; cut short: 6 of 80 epochs"


def test_a_log_of_nothing_but_nan_claims_nothing(imported: Command, tmp_path: Path) -> None:
    refused(imported(log(["nan", "nan"])), tmp_path, "all 2 scores of the log are nan")


def test_a_score_that_is_cut_within_its_digits_is_none(imported: Command) -> None:
    text = log(["60.00", "71.90"]).rstrip("\n")
    assert json.loads(imported(text).out)["value"] == "71.90"
    assert json.loads(imported(text[:-1]).out)["value"] == "60.00"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_log_out_of_a_windows_console_is_read(imported: Command, encoding: str) -> None:
    text = unimatch(R50_92).replace("\n", "\r\n")
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert json.loads(imported(mark + text.encode(encoding)).out)["value"] == "71.90"


def test_utf16_without_its_mark_is_named_with_the_command_that_converts_it(imported: Command, tmp_path: Path) -> None:
    ran = imported(unimatch(R50_92).encode("utf-16-le"))
    refused(ran, tmp_path, "UTF-16", "iconv -f UTF-16LE -t UTF-8", "run.utf8.log")
