"""Training logs in the layouts the baselines' authors released, shortened by hand."""

from __future__ import annotations

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
    **said: object,
) -> str:
    """A log in UniMatch's layout."""
    mask = "Loss w_fp: 0.026, Mask" if word == "meanIOU" else "Loss w_fp: 0.026, Mask ratio"
    named = f",\n 'labeled_id_path': 'splits/pascal/{lists}/labeled.txt'" if lists else ""
    settings = {"backbone": "resnet50", "crop": 321, "epochs": 80} | said
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
