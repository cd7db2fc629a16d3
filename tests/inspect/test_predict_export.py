"""`ssbench predict` and `ssbench export` on a network of a real small run, and one in a released file's form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from ran import SMALL, Ran, process

from ssbench.data.dataset import Dataset, read_mask
from ssbench.data.open import open_dataset
from ssbench.errors import DataError, UsageError
from ssbench.files import sha256
from ssbench.inspect.networks import load_predictor
from ssbench.inspect.opened import CheckpointUse, open_checkpoint
from ssbench.inspect.predict import find_pictures
from ssbench.inspect.score import score_checkpoint
from ssbench.recipe.recipe import load
from ssbench.train.build import net_maker

TEACHER = SMALL.replace("name: fixmatch", "name: fixmatch, teacher: ema")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a recipe whose score is its teacher's, and the checkpoint of a run of it."""
    home = tmp_path_factory.mktemp("home")
    (home / "small.yaml").write_text(TEACHER)
    assert process("prepare", "toy", cwd=home).code == 0
    assert process("run", "small.yaml", "--split", "toy/ours/1_8", cwd=home).code == 0
    return home


def toy(home: Path) -> Dataset:
    return open_dataset("toy", home / "data")


def best(home: Path) -> Path:
    return next(home.glob("runs/**/best.pt"))


def exported(home: Path, form: str, *more: str) -> Ran:
    words = (str(best(home)), "--recipe", "small.yaml", "--form", form, "-o", f"net.{form}", "--json", *more)
    return process("export", *words, cwd=home)


def predicted(home: Path, images: str, out: str) -> Ran:
    return process("predict", str(best(home)), images, "--recipe", "small.yaml", "-o", out, cwd=home)


def few(home: Path) -> str:
    """A folder of six of its pictures."""
    folder = home / "pictures"
    folder.mkdir(exist_ok=True)
    for path in sorted((home / "data/toy/images").iterdir())[:6]:
        (folder / path.name).write_bytes(path.read_bytes())
    return str(folder)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # readers of such files exist all the same
@pytest.mark.parametrize("form", ["onnx", "torchscript", "pt2"])
def test_an_exported_network_answers_as_the_checkpoint_does(form: str, trained: Path) -> None:
    facts = json.loads(exported(trained, form, "--size", "64x80").out)
    assert (facts["input"], facts["output"]) == ([1, 3, 64, 80], [1, 6, 64, 80])
    assert facts["checkpoint_sha256"] == sha256(best(trained))
    recipe, x = load(str(trained / "small.yaml"), ("net.weights=random",)), torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = load_predictor(recipe, best(trained), toy(trained), torch.device("cpu"))(x)
    assert torch.allclose(answer(trained / f"net.{form}", form, x), expected, atol=1e-4)
    assert json.loads((trained / f"net.{form}.json").read_text())["classes"] == facts["classes"]


def answer(path: Path, form: str, x: torch.Tensor) -> torch.Tensor:
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])
    if form == "pt2":
        return torch.export.load(str(path)).module()(x).detach()
    return torch.jit.load(str(path))(x).detach()


def test_the_network_that_is_scored_is_the_one_exported(trained: Path) -> None:
    state = torch.load(best(trained), weights_only=True)["method"]
    opened = open_checkpoint(best(trained), CheckpointUse(), trained / "data")
    exported_state = opened.network(torch.device("cpu")).state_dict()
    assert all(torch.equal(value, state[f"ema_net.{name}"]) for name, value in exported_state.items())


def test_a_released_bare_network_is_exported_too(trained: Path, tmp_path: Path) -> None:
    recipe = load(str(trained / "small.yaml"), ("net.weights=random",))
    net = net_maker(recipe, 6, 3, 5)("student")
    torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "best.pth")
    use = CheckpointUse(str(trained / "small.yaml"))
    opened = open_checkpoint(tmp_path / "best.pth", use, trained / "data")
    exported_state = opened.network(torch.device("cpu")).state_dict()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in exported_state.items())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def untyped(path: Path) -> None:
    torch.save({"key": "a", "method": [1, 2]}, path)


def numbers(path: Path) -> None:
    torch.save({"key": "a", "method": {"net.fuse.0.weight": 3}}, path)


@pytest.mark.parametrize("damage", [cut, flip, empty, untyped, numbers])
def test_a_damaged_checkpoint_is_one_error(trained: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(best(trained).read_bytes())
    damage(path)
    with pytest.raises(DataError) as caught:
        score_checkpoint(path, str(trained / "small.yaml"), None, None, trained / "data", "cpu")
    assert (caught.value.code, str(path) in f"{caught.value.what} {caught.value.where}") == (4, True)


def test_predictions_are_those_of_the_score_and_look_like_the_dataset(trained: Path) -> None:
    ran = predicted(trained, few(trained), "seen")
    assert ran.code == 0, ran.err
    dataset = open_dataset("toy", trained / "data")
    masks = sorted((trained / "seen" / "masks").iterdir())
    assert len(masks) == 6
    assert np.asarray(read_mask(masks[0])).max() < len(dataset.classes)
    overlay = trained / "seen" / "overlays" / masks[0].name
    with Image.open(masks[0]) as mask, Image.open(overlay) as seen:
        assert tuple((mask.getpalette() or [])[:3]) == dataset.palette[0]
        assert seen.size == mask.size
    untouched = masks[-1].stat().st_mtime_ns
    overlay.unlink()  # as if it had been interrupted there
    again = predicted(trained, few(trained), "seen")
    assert (again.code, overlay.is_file(), masks[-1].stat().st_mtime_ns) == (0, True, untouched)


def test_a_folder_of_another_checkpoints_predictions_is_left_alone(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen"
    out.mkdir()
    (out / "predict.json").write_text('{"checkpoint": "00", "recipe": "other", "resolved": {}}')
    ran = predicted(trained, few(trained), str(out))
    assert ran.code == 2
    assert "predictions of another checkpoint or recipe (other)" in ran.err
    assert [p.name for p in out.iterdir()] == ["predict.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": "other"}', '{"checkpoint": 1, "recipe": "a", "resolved": []}'])
def test_a_damaged_list_of_predictions_is_one_error(trained: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "predict.json").write_text(text)
    ran = predicted(trained, few(trained), str(tmp_path))
    assert ran.code == 4
    assert re.search(r"this list of predictions .*\n  where: .*predict\.json.*\n  fix:   \S", ran.err), ran.err


def test_a_picture_that_cannot_be_read_stops_no_other(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (70, 50), (10, 200, 30)).save(folder / "good.jpg")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ran = predicted(trained, str(folder), "mixed")
    assert ran.code == 4
    assert "1 of 2 pictures cannot be read: bad.png" in ran.err
    assert [p.name for p in (trained / "mixed" / "masks").iterdir()] == ["good.png"]


def test_pictures_that_would_write_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(UsageError, match="two pictures are called 'a'"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(("words", "code", "message"), [
    (["export", "none.pt", "--recipe", "small.yaml", "-o", "x.onnx"], 4, "no file or folder 'none.pt'"),
    (["export", "small.yaml", "--recipe", "small.yaml", "-o", "x.onnx", "--size", "64"], 2, "is not HEIGHTxWIDTH"),
    (["predict", "small.yaml", "nowhere", "--recipe", "small.yaml", "-o", "x"], 4, "no file or folder 'nowhere'"),
])  # fmt: skip
def test_what_cannot_be_is_refused(words: list[str], code: int, message: str, trained: Path) -> None:
    ran = process(*words, cwd=trained)
    assert (ran.code, message in ran.err) == (code, True), ran.err


def test_a_released_checkpoint_becomes_a_claim(trained: Path) -> None:
    recipe = load(str(trained / "small.yaml"), ("net.weights=random",))
    net = net_maker(recipe, 6, 3, 5)("student")
    torch.save({"model": net.state_dict()}, trained / "released.pth")
    lost = process("import", "released.pth", cwd=trained)
    assert (lost.code, "which network is it?" in lost.err) == (2, True)
    words = ("released.pth", "--recipe", "small.yaml", "--split", "toy/ours/1_8", "--json")
    facts = json.loads(process("import", *words, cwd=trained).out)
    scored = json.loads(process("eval", "released.pth", "--recipe", "small.yaml", "--json", cwd=trained).out)
    assert (facts["kind"], facts["value"]) == ("checkpoint", f"{scored['value']:.2f}")
    assert Path(trained / facts["file"]).is_file()


def test_pictures_are_predicted_as_viewers_show_them(trained: Path) -> None:
    folder = trained / "phone"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = min((trained / "data/toy/images").iterdir())
    upright = Image.open(path).convert("RGB").crop((0, 0, 64, 48))
    upright.save(folder / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    assert predicted(trained, "phone", "phone-out").code == 0
    masks = [np.asarray(read_mask(trained / "phone-out" / "masks" / f"{name}.png")) for name in ("upright", "turned")]
    assert np.array_equal(*masks)
    overlays = [Image.open(trained / "phone-out" / "overlays" / f"{name}.png") for name in ("upright", "turned")]
    assert overlays[0].tobytes() == overlays[1].tobytes()


def test_predictions_are_no_pictures_to_predict(trained: Path) -> None:
    folder = trained / "inside"
    folder.mkdir()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(folder / "one.png")
    for _ in range(2):
        answer = predicted(trained, "inside", "inside/out")
        assert answer.code == 0, answer.err
        assert answer.out.startswith("1 pictures")
        assert sorted(path.name for path in (folder / "out").rglob("*.png")) == ["one.png", "one.png"]


def test_depth_and_alpha_are_treated_as_an_import_treats_them(trained: Path) -> None:
    folder = trained / "odd"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "plain.png")
    Image.fromarray(np.dstack([pixels, np.full((48, 64), 200, np.uint8)])).save(folder / "glass.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "print.tif")
    answer = predicted(trained, "odd", "odd-out")
    assert answer.code == 4
    assert "2 of 4 pictures cannot be read: deep.png, glass.png" in answer.err
    assert "add --depth16 full --bands 1,2,3 to the command" in answer.err
    again = ("--recipe", "small.yaml", "-o", "odd-out", "--depth16", "full", "--bands", "1,2,3")
    answer = process("predict", str(best(trained)), "odd", *again, cwd=trained)
    assert answer.code == 0, answer.err
    masks = trained / "odd-out" / "masks"
    assert (masks / "plain.png").read_bytes() == (masks / "glass.png").read_bytes()
    answer = process("predict", str(best(trained)), "odd", *again[:5], "percentile", cwd=trained)
    assert answer.code == 2
    assert "holds predictions of another checkpoint or recipe" in answer.err
