"""Training logs in the layouts the baselines' authors released, shortened by hand."""

from __future__ import annotations

import pprint

UNIMATCH = """[2023-03-19 10:07:14,956][    INFO] {{'backbone': '{backbone}',
 'batch_size': 2,
 'conf_thresh': 0.95,
 'criterion': {{'kwargs': {{'ignore_index': 255}}, 'name': 'CELoss'}},
 'crop_size': {crop},
 'dataset': 'pascal',
 'epochs': {epochs}{lists}}}

[2023-03-19 10:07:15,613][    INFO] Total params: 40.5M

"""
EPOCH = """[2023-03-19 10:07:26,638][    INFO] ===========> Epoch: {epoch}, LR: 0.00100, Previous best: 0.00
[2023-03-19 10:07:52,361][    INFO] Iters: 0, Total loss: 1.489, Loss x: 2.978, Loss s: 0.000, {fp}: 0.000
[2023-03-19 10:17:45,394][    INFO] Iters: 1304, Total loss: 0.138, Loss x: 0.211, Loss s: 0.106, {fp}: {kept}
[2023-03-19 10:28:09,523][    INFO] ***** Evaluation ***** >>>> Class [0 background] {unit}: 86.81
[2023-03-19 10:28:09,525][    INFO] ***** Evaluation {mode}***** >>>> {word}: {score}

"""
R50_92 = {0: ("53.12", 0.55), 1: ("56.87", 0.679), 49: ("71.90", 0.9), 79: ("70.57", 0.95)}


def unimatch(
    scores: dict[int, tuple[str, float]],
    word: str = "MeanIoU",
    mode: str = "original ",
    lists: str | None = "92",
    **changed: object,
) -> str:
    """A log in UniMatch's layout."""
    mask = "Loss w_fp: 0.026, Mask" if word == "meanIOU" else "Loss w_fp: 0.026, Mask ratio"
    named = f",\n 'labeled_id_path': 'splits/pascal/{lists}/labeled.txt'" if lists else ""
    settings = {"backbone": "resnet50", "crop": 321, "epochs": 80} | changed
    unit = "Dice" if word == "MeanDice" else "IoU"
    parts = [
        EPOCH.format(epoch=e, fp=mask, kept=kept, unit=unit, mode=mode, word=word, score=score)
        for e, (score, kept) in scores.items()
    ]
    return UNIMATCH.format(lists=named, **settings) + "".join(parts)


AUGSEG = """[11/05/2022 18:19:47][INFO] - {{'criterion': {{'kwargs': {{'use_weight': False}}, 'type': 'CELoss'}},
 'dataset': {{'n_sup': 92,
             'train': {{'batch_size': 8,
                       'crop': {{'size': [513, 513], 'type': 'rand'}},
                       'data_list': './data/splitsall/{lists}/labeled.txt'}},
             'type': 'pascal_semi'}},
 'net': {{'ema_decay': 0.999,
         'encoder': {{'type': 'augseg.models.resnet.{net}'}}}},
 'trainer': {{'epochs': {epochs}{trainer}}}}}
[11/05/2022 18:19:49][INFO] - # samples: 92
"""
SEMI = ",\n             'unsupervised': {'loss_weight': 1.0,\n                              'threshold': 0.95}"
TESTED = """[11/05/2022 18:37:04][INFO] - Epoch/Iter [80: {epoch}/654].  Sup:0.038  Pseudo:0.720({kept})  LR:0.00099
[11/05/2022 18:37:52][INFO] -  [Test] -  class [0] IoU 90.36
[11/05/2022 18:38:44][INFO] -  <<Test>> - Epoch: {epoch}.  MIoU: {miou}.{rest}
"""


def augseg(scores: dict[int, str], lists: str = "pascal/92", net: str = "resnet101", semi: bool = True) -> str:
    """A log in AugSeg's layout; scores: epoch -> "student/teacher" or one number."""
    rest = "  \x1b[34mBest-STU:58.47/0  \x1b[31mBest-EMA: 58.47/0\x1b[0m" if semi else " Best: 3.49/0"
    head = AUGSEG.format(lists=lists, net=net, epochs=80, trainer=SEMI if semi else "")
    return head + "".join(TESTED.format(epoch=e, kept=0.739, miou=m, rest=rest) for e, m in scores.items())


V2_STEPS = {
    "supervised": "Total loss: 2.994",
    "fixmatch": "LR: 0.0000050, Total loss: 1.491, Loss x: 2.983, Loss s: 0.000, Mask ratio: {kept}",
    "unimatch_v1": "LR: 0.0000050, Total loss: 1.513, x: 3.026, u: 0.005, strong: 0.004, fp: 0.005, Mask ratio: {kept}",
    "unimatch_v2": "LR: 0.0000050, Total loss: 1.491, Loss x: 2.983, Loss s: 0.000, Mask ratio: {kept}",
}
V2_DATASETS = {
    "pascal": {"nclass": 21, "crop_size": 518, "epochs": 60, "batch_size": 4},
    "cityscapes": {"nclass": 19, "crop_size": 798, "epochs": 180, "batch_size": 2},
    "ade20k": {"nclass": 150, "crop_size": 518, "epochs": 60, "batch_size": 2},
    "coco": {"nclass": 81, "crop_size": 518, "epochs": 20, "batch_size": 4},
}
V2_92 = {0: ("55.20", "60.63"), 1: ("68.79", "67.50"), 2: ("70.72", "71.29"), 3: ("73.13", "72.50")}
"""Student and teacher in the first epochs of table01-pascal_unimatch_v2_92labels_dinov2_small.log."""


def unimatch_v2(
    scores: dict[int, tuple[str, ...]],
    method: str = "unimatch_v2",
    dataset: str = "pascal",
    part: str = "92",
    encoder: str = "dinov2_small",
    **changes: object,
) -> str:
    """A log in UniMatch V2's layout; scores: epoch -> (student, teacher), or one; a setting of None is left out."""
    size = V2_DATASETS[dataset]
    path = f"splits/{dataset}/{part}"
    batch = size["batch_size"] * (2 if method == "supervised" else 1)
    head = {
        **{"backbone": encoder, "batch_size": batch, "conf_thresh": 0.95, "config": f"configs/{dataset}.yaml"},
        **{"criterion": {"kwargs": {"ignore_index": 255}, "name": "CELoss"}, "crop_size": size["crop_size"]},
        **{"data_root": f"/data/{dataset}", "dataset": dataset, "epochs": size["epochs"]},
        **{"labeled_id_path": f"{path}/labeled.txt", "local_rank": 0, "lock_backbone": False, "lr": 5e-06},
        **{"lr_multi": 40.0, "model": "dpt", "nclass": size["nclass"], "ngpus": 4, "port": 26609},
        **{"save_path": f"exp/{dataset}/{method}/{encoder}/{part}", "unlabeled_id_path": f"{path}/unlabeled.txt"},
    } | changes
    stamp = "[2024-08-25 03:53:59,377][    INFO] "
    text = f"{stamp}{pprint.pformat({name: value for name, value in head.items() if value is not None})}\n\n"
    text += f"{stamp}Total params: 24.8M\n"
    if method != "supervised":
        text += f"{stamp}Encoder params: 22.1M\n{stamp}Decoder params: 2.7M\n"
    mode = "sliding_window" if dataset == "cityscapes" else "original"
    for epoch, pair in scores.items():
        before = "Previous best: 0.00 @epoch-0, EMA: 0.00 @epoch-0"
        if method == "supervised":
            before = "LR: 0.00001, Previous best: 0.00"
        ema = f", EMA: {pair[1]}" if len(pair) > 1 else ""
        kept = f"0.{epoch:03d}"
        text += f"\n{stamp}===========> Epoch: {epoch}, {before}\n"
        text += f"{stamp}Iters: 0, {V2_STEPS[method].format(kept='0.000')}\n"
        text += f"{stamp}Iters: 648, {V2_STEPS[method].format(kept=kept)}\n"
        text += f"{stamp}***** Evaluation ***** >>>> Class [20 tv/monitor] IoU: 35.40{ema and ', EMA: 44.93'}\n"
        text += f"{stamp}***** Evaluation {mode} ***** >>>> MeanIoU: {pair[0]}{ema}\n"
    return text + "\n"
