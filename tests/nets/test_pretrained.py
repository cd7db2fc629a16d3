"""Encoders from packages, from timm's and torchvision's own files, and what is said where a file is missing."""

import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image

from ssbench.errors import DataError, RecipeError
from ssbench.nets import pretrained
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.weights import load_encoder
from ssbench.recipe.recipe import load
from ssbench.views.pipelines import eval_view, read_views

LITE = "tf_efficientnet_lite0"
PACKAGE = ("net.weights=package", f"net.encoder={LITE}")


def test_a_package_s_encoder_knows_a_street(make, shared: Path) -> None:
    """Its two best of 1,000 guesses about a CamVid picture are things of a street."""
    net, whole = make(encoder=LITE, weights="package"), timm.create_model(LITE).eval()
    theirs = torch.load(pretrained.packaged_file(LITE), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), theirs.values(), strict=True)))
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    street = {829, 874, 920, 705, 468, 919, 880}  # tram, trolleybus, traffic light, coach, cab, street sign, unicycle
    views = read_views({"weak": "none", "crop": 8, "normalise": "half"})
    paths = sorted((shared / "camvid" / "val").iterdir())[::20]
    pictures = [Image.open(path, formats=["JPEG", "PNG"]).convert("RGB").resize((299, 224)) for path in paths]
    with torch.no_grad():
        best = [set(whole(eval_view(picture, views)[None]).topk(2).indices[0].tolist()) for picture in pictures]
    assert all(guesses & street for guesses in best), best


def test_a_recipe_cannot_feed_an_encoder_the_wrong_mean() -> None:
    recipe = load("camvid/none_supervised", [*PACKAGE, "views.normalise=half"])
    assert (recipe.net.weights, recipe.views.normalise) == ("package", "half")
    for wrong in ([], ["views.normalise=none"]):
        with pytest.raises(RecipeError, match=f"weights 'package' of encoder '{LITE}' need 'half'") as caught:
            load("camvid/none_supervised", [*PACKAGE, *wrong])
        assert "--set views.normalise=half" in caught.value.fix
    with pytest.raises(RecipeError, match="needs? 'imagenet'"):
        load("unimatch_voc", ["views.normalise=half"])
    with pytest.raises(RecipeError, match="need 'half'"):  # timm's own file of the same network
        load("unimatch_voc", [f"net.encoder={LITE}"])
    with pytest.raises(RecipeError, match="no package has weights for encoder 'resnet101s'"):
        load("unimatch_voc", ["net.weights=package"])


def test_a_package_that_is_absent_or_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pretrained.PACKAGED[LITE]
    changed = tmp_path / source.module / source.file
    changed.parent.mkdir(parents=True)
    changed.write_bytes(b"other weights")
    (tmp_path / source.module / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="are not those of") as caught:
        pretrained.packaged_file(LITE)
    assert caught.value.where == str(changed)
    monkeypatch.setitem(pretrained.ALL_PACKAGED, LITE, pretrained.PackagedWeights("a", "1", "no_such_module", "f", ""))
    with pytest.raises(DataError, match="is not installed") as caught:
        pretrained.packaged_file(LITE)
    assert "ssbench[weights]" in caught.value.fix


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_convnext", "test_resnet"])
def test_timm_s_own_files_load_without_their_classifier(make, tmp_path: Path, encoder: str) -> None:
    source = timm.create_model(encoder, num_classes=7)
    torch.save(source.state_dict(), tmp_path / "timm.pth")
    net = make(encoder=encoder, output_stride=32, weights=str(tmp_path / "timm.pth"))
    flat = {name.replace(".", "_"): value for name, value in source.state_dict().items()}
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, flat[name.replace(".", "_")]), name


def test_torchvision_s_and_a_segmentation_network_s_files_load_as_encoders(make, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    net = make(weights=str(tmp_path / "r18.pth"))
    torch.save({"model": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "whole.pth")
    other = make(seed=3, weights=str(tmp_path / "whole.pth"))
    assert torch.equal(other.backbone.layer4[1].conv2.weight, net.backbone.layer4[1].conv2.weight)
    assert not torch.equal(other.fuse[0].weight, net.fuse[0].weight)
    with pytest.raises(DataError, match="does not fit the network") as caught:
        load_encoder(make(encoder="resnet34"), str(tmp_path / "r18.pth"), "resnet34")
    assert "net.encoder" in caught.value.fix


def test_a_hub_that_does_not_answer_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(
        DataError, match=r"no ImageNet weights for encoder 'resnet18' \(no answer from 127.0.0.1:9"
    ) as e:
        DeepLabV3Plus(DeepLabV3Plus.Config(encoder="resnet18"), 3)
    assert time.monotonic() - began < 10
    assert "http://127.0.0.1:9/timm/resnet18.tv_in1k/resolve/main/model.safetensors" in e.value.where
    assert "net.weights=package" in e.value.fix
    assert pretrained.missing_weights("resnet18", "imagenet") is not None


def test_a_file_of_the_hub_s_cache_is_read_without_the_hub(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--resnet18.tv_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    source = timm.create_model("resnet18")
    save_file(source.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    net = make(seed=5, weights="imagenet")
    assert torch.equal(net.backbone.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert pretrained.missing_weights("resnet18", "imagenet") is None
