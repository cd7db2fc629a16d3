import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssbench.errors import DataError
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.unet import UNet
from ssbench.nets.weights import load_checkpoint, load_encoder

State = dict[str, Tensor]

# Our name -> the release's, longest first, written from the releases' descriptions.
U2PL = {
    "backbone.": "encoder.",
    "head.b4.gap.": "decoder.aspp.conv1.",
    "head.b0.": "decoder.aspp.conv2.",
    "head.b1.": "decoder.aspp.conv3.",
    "head.b2.": "decoder.aspp.conv4.",
    "head.b3.": "decoder.aspp.conv5.",
    "head.project.": "decoder.head.",
    "reduce.": "decoder.low_conv.",
    "fuse.": "decoder.classifier.",
    "classifier.": "decoder.classifier.8.",
    "rep.": "decoder.representation.",
    "aux.": "auxor.aux.",
}
NAMINGS: dict[str, dict[str, str]] = {
    "unimatch": {},
    "stpp": {},
    "u2pl": U2PL,
    "augseg": U2PL | {"classifier.": "decoder.classifier.6."},
    "ael": U2PL | {"classifier.": "decoder.final.", "fuse.": "decoder.tail."},
    "cps": {
        "backbone.": "branch1.backbone.",
        "head.": "branch1.head.aspp.",
        "reduce.": "branch1.head.reduce.",
        "fuse.": "branch1.head.last_conv.",
        "classifier.": "branch1.classifier.",
    },
}
SAMPLES = {  # names the releases' descriptions give, to pin the table above
    "u2pl": ["encoder.conv1.weight", "decoder.classifier.0.bias", "decoder.classifier.5.weight", "auxor.aux.4.bias"],
    "augseg": ["decoder.classifier.3.weight", "decoder.classifier.6.bias", "decoder.low_conv.0.bias"],
    "ael": ["decoder.tail.4.bias", "decoder.final.weight", "decoder.head.0.weight", "decoder.aspp.conv1.1.weight"],
    "cps": ["branch1.head.aspp.map_convs.3.weight", "branch1.head.last_conv.4.bias", "branch1.head.aspp.red_bn.bias"],
}


def official(state: State, layout: str) -> State:
    def name(ours: str) -> str:
        prefix = next((p for p in NAMINGS[layout] if ours.startswith(p)), "")
        return NAMINGS[layout].get(prefix, "") + ours.removeprefix(prefix)

    return {name(k): v for k, v in state.items()}


def module(state: State) -> State:
    return {f"module.{k}": v for k, v in state.items()}


def scores(net: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(x).logits


def heads(layout: str) -> dict[str, bool]:
    return {"u2pl": {"aux": True, "rep": True}, "ael": {"aux": True}}.get(layout, {})


@pytest.mark.parametrize("layout", NAMINGS)
def test_every_release_loads_under_its_own_names(make, tmp_path, x, layout):
    source, target = make(layout=layout, seed=1, **heads(layout)), make(layout=layout, seed=2, **heads(layout))
    theirs = official(source.state_dict(), layout)
    assert set(SAMPLES.get(layout, [])) <= set(theirs)
    if layout == "cps":  # the other branch lies in the same file
        theirs |= {k.replace("branch1", "branch2"): torch.zeros_like(v) for k, v in theirs.items()}
    torch.save({"model": module(theirs), "epoch": 7}, tmp_path / "net.pth")
    assert not torch.equal(scores(source, x), scores(target, x))
    info = load_checkpoint(target, tmp_path / "net.pth")
    assert torch.equal(scores(source, x), scores(target, x))
    assert info["epoch"] == 7
    assert info["naming"] == {"stpp": "unimatch", "augseg": "u2pl", "ael": "u2pl"}.get(layout, layout)


def wrappings(state: State) -> dict[str, dict[str, Any]]:
    stale = {k: torch.zeros_like(v) for k, v in state.items()}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    return {
        "bare": dict(state),
        "bare, distributed": module(state),
        "model": {"model": state, "optimizer": optimizer, "epoch": 3, "previous_best": np.float64(81.25)},
        "model_state": {"model_state": module(state), "optimizer_state": optimizer},
        "teacher_state": {"model_state": stale, "teacher_state": module(state), "best_miou": 0.8125},
    }


@pytest.mark.parametrize("how", wrappings({}))
@pytest.mark.parametrize("legacy", [False, True])
def test_every_wrapping_gives_equal_outputs(make, tmp_path, x, how, legacy):
    source, target = make(seed=1), make(seed=2)
    path = tmp_path / "net.pth"
    torch.save(wrappings(source.state_dict())[how], path, _use_new_zipfile_serialization=not legacy)
    info = load_checkpoint(target, path)
    assert torch.equal(scores(source, x), scores(target, x))
    assert info["entry"] == (None if how.startswith("bare") else how)
    assert info["score"] == {"model": 81.25, "teacher_state": 0.8125}.get(how)


def test_an_entry_can_be_asked_for(make, tmp_path, x):
    student, teacher, target = make(seed=1), make(seed=2), make(seed=3)
    torch.save({"model_state": student.state_dict(), "teacher_state": teacher.state_dict()}, tmp_path / "net.pth")
    load_checkpoint(target, tmp_path / "net.pth", entry="model_state")
    assert torch.equal(scores(student, x), scores(target, x))
    with pytest.raises(DataError, match=r"no entry 'model'.*teacher_state"):
        load_checkpoint(target, tmp_path / "net.pth", entry="model")


def test_safetensors_and_the_unet_load(make, tmp_path, x):
    source, target = make(seed=1), make(seed=2)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    load_checkpoint(target, tmp_path / "net.safetensors")
    assert torch.equal(scores(source, x), scores(target, x))
    grey = UNet(UNet.Config(), 4)
    state = {k: torch.full_like(v, 1) for k, v in grey.state_dict().items()}
    torch.save({"model": module(state)}, tmp_path / "unet.pth")
    load_checkpoint(grey, tmp_path / "unet.pth")
    assert grey.encoder.in_conv.conv_conv[0].weight.eq(1).all()


def test_a_file_of_another_network_is_refused_by_name_and_shape(make, tmp_path):
    torch.save({"model": make(classes=19).state_dict()}, tmp_path / "net.pth")
    target = make(classes=5)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(DataError, match=r"classifier.weight \(19, 256, 1, 1\) for \(5, 256, 1, 1\)"):
        load_checkpoint(target, tmp_path / "net.pth")
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())
    with pytest.raises(DataError, match=r"missing: reduce\.0\.bias.*"):
        load_checkpoint(make(classes=19, layout="augseg"), tmp_path / "net.pth")
    torch.save(make(layout="augseg").state_dict(), tmp_path / "net.pth")
    with pytest.raises(DataError, match=r"unexpected: reduce\.0\.bias"):
        load_checkpoint(target, tmp_path / "net.pth")


class Bomb:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_pickle_with_code_is_refused_and_not_run(make, tmp_path):
    flag, path = tmp_path / "ran", tmp_path / "net.pth"
    torch.save({"model": make().state_dict(), "extra": Bomb(flag)}, path)
    with pytest.raises(DataError, match="plain data"):
        load_checkpoint(make(), path)
    path.write_bytes(pickle.dumps(Bomb(flag)))
    with pytest.raises(DataError, match="plain data"):
        load_checkpoint(make(), path)
    assert not flag.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_damaged_file_is_refused(make, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        load_checkpoint(make(), tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {"a": 1}}, [torch.zeros(1)]])
def test_a_file_without_a_state_is_refused(make, tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(DataError, match=r"no state|not a dictionary"):
        load_checkpoint(make(), tmp_path / "net.pth")


@pytest.mark.parametrize("fact", [{"epoch": "last"}, {"epoch": [3]}, {"previous_best": {}}, {"best_miou": None}])
def test_facts_that_are_no_number_are_left_out_with_a_word(make, tmp_path, fact):
    torch.save({"model": make().state_dict(), **fact}, tmp_path / "net.pth")
    info = load_checkpoint(make(), tmp_path / "net.pth")
    assert (info["epoch"], info["score"]) == (None, None)
    assert next(iter(fact)) in info["notes"][0]


@pytest.mark.parametrize("prefixes", [
    ("_orig_mod.",), ("module._orig_mod.",), ("_orig_mod.module.",), ("module.module.",), ("model.",),
    ("model.net.",), ("module.model._orig_mod.",),
])  # fmt: skip
def test_wrappers_are_stripped_in_any_order_and_depth(make, tmp_path, x, prefixes):
    source, target = make(seed=1), make(seed=2)
    wrapped = {f"{prefixes[0]}{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "net.pth")
    load_checkpoint(target, tmp_path / "net.pth")
    assert torch.equal(scores(source, x), scores(target, x))
    inside = {re.sub(r"^backbone\.", "backbone._orig_mod.", name): v for name, v in source.state_dict().items()}
    torch.save(inside, tmp_path / "net.pth")
    load_checkpoint(target, tmp_path / "net.pth")
    assert torch.equal(scores(source, x), scores(target, x))


@pytest.mark.parametrize("names", [("model", "model_ema"), ("student", "teacher"), ("state_dict", "state_dict_ema")])
def test_an_entry_goes_by_its_name_or_by_what_it_is(make, tmp_path, x, names):
    student, teacher, target = make(seed=1), make(seed=2), make(seed=3)
    content = {names[0]: module(student.state_dict()), names[1]: teacher.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "net.pth")
    assert load_checkpoint(target, tmp_path / "net.pth")["others"] == [names[1]]
    for entry in ("ema", "teacher", "model_ema", "state_dict_ema", names[1]):
        assert load_checkpoint(target, tmp_path / "net.pth", entry)["entry"] == names[1]
        assert torch.equal(scores(teacher, x), scores(target, x))
    for entry in ("student", "net", names[0]):
        assert load_checkpoint(target, tmp_path / "net.pth", entry)["entry"] == names[0]
    assert torch.equal(scores(student, x), scores(target, x))
    flat = {f"{name}.{k}": v for name, net in zip(names, (student, teacher), strict=True)
            for k, v in net.state_dict().items()}  # fmt: skip
    torch.save(flat, tmp_path / "net.pth")
    assert load_checkpoint(target, tmp_path / "net.pth", "teacher")["entry"] == names[1]
    assert torch.equal(scores(teacher, x), scores(target, x))


def test_an_encoder_file_is_read_and_its_classifier_left_out(make, tmp_path):
    source = make(seed=1)
    state = {k: v for k, v in source.backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "r18.pth")
    net = make(seed=2, weights=str(tmp_path / "r18.pth"))  # the constructor loads it
    assert torch.equal(net.backbone.conv1.weight, source.backbone.conv1.weight)
    assert torch.equal(net.classifier.weight, make(seed=2).classifier.weight)  # the head keeps its own draw
    del state["layer4.1.bn2.bias"]
    torch.save(state | {"last.weight": torch.zeros(1)}, tmp_path / "r18.pth")
    with pytest.raises(DataError, match=r"1 missing: layer4\.1\.bn2\.bias; 1 unexpected: last\.weight"):
        load_encoder(net, str(tmp_path / "r18.pth"), "resnet18")


def test_a_grey_encoder_answers_as_if_the_channel_were_repeated(make, tmp_path):
    source = make(seed=1).eval()
    torch.save(source.backbone.state_dict(), tmp_path / "r18.pth")
    cfg = DeepLabV3Plus.Config(encoder="resnet18", weights=str(tmp_path / "r18.pth"))
    grey = DeepLabV3Plus(cfg, 5, channels=1).eval()
    x = torch.rand(1, 1, 65, 65)
    with torch.no_grad():
        for ours, theirs in zip(grey.backbone(x), source.backbone(x.repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_absent_weights_say_what_to_download_and_are_never_random(make, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        make(weights="imagenet")
    assert "resnet18.tv_in1k" in caught.value.where
    assert "net.weights=random" in caught.value.fix
    with pytest.raises(DataError, match="no weights file"):
        make(weights=str(tmp_path / "absent.pth"))
    with pytest.raises(DataError) as caught:
        make(weights="imagenet", encoder="xception65")
    assert "1_j_mE07tiV24xXOJw4XDze0-a0NAhNVi" in caught.value.where


def test_the_leftovers_of_the_released_xception_file_are_skipped(make, tmp_path):
    source = make(encoder="xception65", seed=1).backbone.state_dict()
    leftovers = {"itr": torch.zeros(1), "block1.tmp_x": torch.zeros(1)}
    torch.save(source | leftovers, tmp_path / "x65.pth")
    net = make(encoder="xception65", seed=2, weights=str(tmp_path / "x65.pth"))
    assert torch.equal(net.backbone.conv2.weight, source["conv2.weight"])
