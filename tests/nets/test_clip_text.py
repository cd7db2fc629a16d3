"""Text embeddings: phrases behind each row, digests, and rows computed by a CLIP text tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssbench.errors import DataError
from ssbench.nets import clip_text
from ssbench.nets.clip_text import ARRAYS, DECODER, GUIDANCE, computed, drawn, owners, phrases, published

LIBRARY = pytest.importorskip("transformers")


def test_rows_are_as_many_as_published() -> None:
    """And name their classes in the order of the dataset's."""
    for (words, form), array in ARRAYS.items():
        groups = phrases(words, form)
        rows = sum(map(len, groups)) if form == "concept" else len(groups)
        assert rows == array.rows == len(owners(words, form)), (words, form)
        assert len(groups) == {"voc": 21, "cityscapes": 19, "coco": 81}[words]
    assert [DECODER[w] for w in ("voc", "cityscapes", "coco")] == ["single", "average", "single"]
    assert [GUIDANCE[w] for w in ("voc", "cityscapes", "coco")] == ["concept", "concept", "single"]


def test_phrases_are_the_published_ones() -> None:
    """Some that are easily lost: a comma inside of a phrase, misspelt words, names that differ from the dataset's."""
    city, voc = phrases("cityscapes", "concept"), phrases("voc", "concept")
    assert city[3] == ("individual standing wall, which is not part of a building",)
    assert "skyscaper" in city[2]
    assert len(city[11]) == 7
    assert len(voc[0]) == 45
    assert "wolve" in voc[0]
    assert voc[20] == ("tv", "monitor", "standalone screen")
    assert phrases("voc", "single")[20] == ("tvmonitor",)
    assert phrases("voc", "single")[11] == ("diningtable",)
    assert phrases("coco", "single")[:2] == [("background",), ("person",)]
    assert phrases("cityscapes", "average") == city
    assert owners("cityscapes", "concept")[:5] == [0, 0, 0, 1, 2]


def test_an_array_is_read_only_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder; a file of another content, of another shape, or none is refused with the address."""
    rows = np.random.default_rng(0).normal(size=(19, 512)).astype(np.float16)
    name = ARRAYS["cityscapes", "single"].file
    np.save(tmp_path / name, rows)
    with pytest.raises(DataError, match="not SemiVL's") as caught:
        published("cityscapes", "single", tmp_path)
    assert f"{clip_text.COMMIT}/configs/_base_/datasets/text_embedding/{name}" in caught.value.fix
    with pytest.raises(DataError, match=r"no coco_single\.npy"):
        published("coco", "single", tmp_path)
    with pytest.raises(DataError, match="no published text embeddings"):
        published("coco", "concept", tmp_path)
    digest = clip_text.sha256(tmp_path / name)[:16]
    array = clip_text.TextArray(name, 19, digest)
    monkeypatch.setitem(ARRAYS, ("cityscapes", "single"), array)
    read = published("cityscapes", "single", tmp_path)
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.from_numpy(rows.astype(np.float32)))
    monkeypatch.setitem(ARRAYS, ("cityscapes", "single"), clip_text.TextArray(name, 20, digest))
    with pytest.raises(DataError, match="shape"):
        published("cityscapes", "single", tmp_path)


def test_a_download_is_verified_before_it_is_kept(tmp_path: Path, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server sends in place of the array is not written; the right file is, and asked for once."""
    array = ARRAYS["cityscapes", "single"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(clip_text, "ADDRESS", web.url("").rstrip("/"))
    web.files[array.file] = b"<html>log in</html>"
    with pytest.raises(DataError, match="not the pinned file"):
        published("cityscapes", "single")
    assert not list(tmp_path.rglob("*.npy"))
    np.save(tmp_path / "right.npy", np.zeros((19, 512), np.float16))
    web.files[array.file] = (tmp_path / "right.npy").read_bytes()
    digest = clip_text.sha256(tmp_path / "right.npy")[:16]
    monkeypatch.setitem(ARRAYS, ("cityscapes", "single"), clip_text.TextArray(array.file, 19, digest))
    assert published("cityscapes", "single").shape == (19, 512)
    del web.files[array.file]
    assert published("cityscapes", "single").shape == (19, 512)
    web.files.clear()
    with pytest.raises(DataError, match="could not be downloaded"):
        published("coco", "single")


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A folder with a small CLIP text tower of random weights, and a tokenizer of single characters."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(k) for k in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer: Any = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    cfg: Any = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=8, max_position_embeddings=77, **ends,
    )  # fmt: skip
    model: Any = CLIPTextModelWithProjection(cfg)
    model.save_pretrained(tmp_path / "model", safe_serialization=True)
    return tmp_path / "model"


def test_rows_are_computed_of_the_prompts(text_model: Path) -> None:
    """A phrase a row; an average is the mean of its phrases' rows before they are normalised."""
    concept, average = (computed("cityscapes", form, str(text_model)) for form in ("concept", "average"))
    assert (concept.shape, average.shape) == ((54, 8), (19, 8))
    torch.testing.assert_close(concept.norm(dim=1), torch.ones(54))
    torch.testing.assert_close(average[1], concept[3])  # sidewalk has one phrase
    assert not torch.allclose(average[0], torch.nn.functional.normalize(concept[:3].mean(0), dim=0), atol=1e-6)
    with pytest.raises(DataError, match="no CLIP text model"):
        computed("voc", "single", str(text_model / "absent"))


def test_drawn_rows_are_always_the_same() -> None:
    assert torch.equal(drawn(5, 16), drawn(5, 16))
    torch.testing.assert_close(drawn(5, 16).norm(dim=1), torch.ones(5))
