"""The whole path of wpl/supp_table6 on a drawn stand-in for COCO: annotations, Xception-65, detector, score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import ALONE
from toy_coco import draw_toy_coco

from ssbench.console import Bars
from ssbench.data.coco import Coco
from ssbench.jobs.job import Places
from ssbench.jobs.run import run
from ssbench.nets.xception import Xception65
from ssbench.prepare.prepare import prepare
from ssbench.recipe.recipe import load
from ssbench.splits.draw import make

SHORT = (
    "views.crop=65", "views.box_share=1.0", "data.workers=0", "schedule.epochs=1", "schedule.devices=1",
    "schedule.labeled_batch=2", "schedule.unlabeled_batch=2", "eval.few=1", "method.threshold=0.0",
    "plugin.detector=small", "plugin.detector_weights=random", "plugin.detector_iterations=2",
    "plugin.detector_crop=null", "plugin.confidence=0.0", "plugin.box_score=0.06",
)  # fmt: skip


@pytest.fixture
def coco_root(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with the stand-in, prepared from its annotations, and a custom split of 4 labelled images."""
    monkeypatch.setattr("ssbench.prepare.coco.COUNTS", draw_toy_coco(tmp_path / "source"))
    (tmp_path / "splits").symlink_to(shared / "splits")  # `prepare` brings the published lists, too
    prepare("coco", tmp_path / "data", source=tmp_path / "source")
    make(Coco(tmp_path / "data" / "coco"), tmp_path / "data/splits/coco/custom/some", count=4)
    return tmp_path / "data"


@pytest.mark.real
def test_unimatch_with_wpl_from_annotations_to_a_score(coco_root: Path, tmp_path: Path) -> None:
    """The recipe as it stands but for sizes: 81 classes, the released file's names, boxes of 80 things."""
    dataset = Coco(coco_root / "coco")
    shown = {int(c) for id in dataset.ids("train") for c in np.unique(np.asarray(dataset.mask(id)))}
    assert shown == set(range(81))
    torch.manual_seed(3)
    file = {**Xception65().state_dict(), "bn1.track_me_itr": torch.zeros(1)}
    torch.save(file, tmp_path / "xception.pth")
    weights = f"net.weights={tmp_path / 'xception.pth'}"
    recipe = load("wpl/wpl_unimatch_coco_xc65_513", [*SHORT, weights], data_root=coco_root)
    places = Places(coco_root, tmp_path / "runs", tmp_path / "results")
    record, _ = run(recipe, "coco/custom/some", 0, places, ALONE, Bars(show=False))
    assert record["status"] == "done"
    assert len(record["classes"]) == len(record["confusion"]["last"]) == 81
    assert sum(map(sum, record["confusion"]["last"])) == 96 * 80
    terms = record["history"][0]["terms"]
    assert np.isfinite([terms["sup"], terms["s1"], terms["s2"], terms["fp"]]).all()
    folder = next((tmp_path / "runs").rglob("boxes.json")).parent
    assert (folder / "accuracy.json").is_file()
