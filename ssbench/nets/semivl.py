"""SemiVL's network: CLIP's image encoder, a language-guided decoder, and a second, frozen encoder that gives labels.

Paper: Hoyer et al., "SemiVL: Semi-Supervised Semantic Segmentation with Vision-Language Guidance", ECCV 2024. Source:
google-research/semivl 13ee65d6 (card: semivl 2 to 7). CLIP's weights are never random unawares: `weights: random` has
to be written down. Departures: the release computes the last block's attention, which nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ssbench.errors import DataError, RecipeError, UsageError
from ssbench.nets import clip_text, pretrained, semivl_names
from ssbench.nets.clip_text import DECODER, GUIDANCE, Form, Words
from ssbench.nets.clip_vit import SIZES, TRAINED, ClipVit, VitName, resized_positions
from ssbench.nets.segnet import Out, SegNet, with_perturbed
from ssbench.nets.vlg_decoder import ConvEncoder, VlgDecoder, VlgSizes
from ssbench.nets.weights import fit_state, read_state, timm_state
from ssbench.views.tensors import MEAN, STD

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TIMM_CLIP, TIMM_CONV = pretrained.OF_SEMIVL  # exact GELU, as the release; not the one called quickgelu
GUIDANCE_CROP = 512
"""Crop whose positions the frozen encoder holds, on every dataset (release mcvit16.py)."""
SHARPNESS = 100.0  # release vlm.py: factor on likenesses before softmax
GET_CLIP = (
    "download timm/vit_base_patch16_clip_224.openai (model.safetensors) or OpenAI's ViT-B-16 as a plain state dict, "
    "and set net.weights to the file; or train from nothing (--set net.weights=random --set net.text=drawn "
    "--division open)"
)
GET_CONV = (
    f"download timm/{TIMM_CONV} (model.safetensors) and set net.conv_weights to the file; or train it from nothing "
    "(--set net.conv_weights=random --division open)"
)


class SemiVL(SegNet):
    """SemiVL for `classes` classes: 176 M parameters, of which 31 M are trained.

    Draws initial values from torch's global generator, then loads `cfg.weights` into both image encoders. `feats` has
    "penultimate", the trained encoder's embedding before it is normalised.
    """

    no_files: ClassVar = {"weights": "random", "text": "drawn"}
    not_local: ClassVar = "every token sees the whole image"
    quick: ClassVar = {
        **{"encoder": "vit_tiny", "weights": "random", "conv_weights": "random"},
        **{"text": "drawn", "crop": 48},
    }

    class Config(BaseModel):
        """Settings of the network; the defaults are the authors' on Pascal VOC."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        name: Literal["semivl"] = "semivl"
        encoder: VitName = "vit_b16"  # release mcvit16.py
        weights: Annotated[str, Field(min_length=1)] = "clip"  # "clip" (OpenAI's, by timm), "random", or a file
        crop: Annotated[int, Field(ge=16, le=4096)] = 512  # side of training crops: decides positions and output size
        conv_encoder: bool = False  # release: a ResNet's first stage beside CLIP, on Cityscapes
        conv_weights: Annotated[str, Field(min_length=1)] = "imagenet"  # or a file, or "random" (as where `weights` is)
        clip_normalise: bool = False  # release renorm_clip_img: CLIP's own mean and deviation, on Cityscapes
        text: Literal["voc", "cityscapes", "coco", "drawn"] = "voc"  # whose class names; drawn: rows without a meaning
        decoder_text: Form | None = None  # None: as the authors have it for these classes
        guidance_text: Form | None = None  # likewise
        text_source: Annotated[str, Field(min_length=1)] = "release"  # "release", "computed", or a folder of arrays

        @model_validator(mode="after")
        def _fits(self) -> SemiVL.Config:
            if self.text == "drawn" and self.weights != "random":
                raise ValueError("text: drawn has no meaning beside CLIP's weights: name the classes' dataset")
            if self.decoder_text == "concept":
                raise ValueError("the decoder reads a row a class: decoder_text: single or average")
            if self.text == "coco" and not {self.decoder_text, self.guidance_text} <= {None, "single"}:
                raise ValueError("COCO's classes have single names alone")
            return self

    @classmethod
    def missing_files(cls, cfg: Config) -> Iterator[DataError]:
        """CLIP's weights, those of the convolutional encoder, and the published text embeddings."""
        for field, given, name in _sources(cfg):
            fix = GET_CLIP if field == "weights" else GET_CONV
            if given in ("clip", "imagenet") and not pretrained.cached_file(name):
                yield pretrained.NotHereError(f"no weights of timm's {name} (not downloaded yet)", name, fix)
            elif given not in ("clip", "imagenet", "random") and not Path(given).is_file():
                yield DataError(f"no weights file '{given}'", f"net.{field}", fix)
        if cfg.text != "drawn" and cfg.text_source != "computed":
            forms = (cfg.decoder_text or DECODER[cfg.text], cfg.guidance_text or GUIDANCE[cfg.text])
            folder = None if cfg.text_source == "release" else Path(cfg.text_source)
            yield from clip_text.missing_arrays(cfg.text, forms, folder)

    def __init__(self, cfg: Config, classes: int, channels: int = 3) -> None:
        super().__init__()
        if channels != 3:
            raise RecipeError(f"semivl takes images of 3 channels, not {channels}", fix="another net")
        size, width = SIZES[cfg.encoder], 128 if cfg.encoder == "vit_b16" else 32
        self.cfg, self.classes, self.patch = cfg, classes, size.patch
        conv, up = cfg.conv_encoder, (width // 2, width // 4 if width > 64 else 16)
        skips = (width // 4, width // 4 if conv else width // 8)
        self.blocks = (4,) if conv else (0, 4)  # release out_indices
        self.perturb_channels = (*[size.width] * len(self.blocks), size.embedding, *([256] if conv else []))
        self.backbone = ClipVit(size, cfg.crop // size.patch)
        sizes = VlgSizes(size.embedding, width, up, (size.width, 256 if conv else size.width), skips)
        if cfg.encoder == "vit_tiny":
            sizes = VlgSizes(size.embedding, 32, (32, 16), sizes.skip_inputs, (16, 16), layers=1, heads=2)
        self.decode_head = VlgDecoder(sizes)
        self.clip_encoder = ClipVit(size, GUIDANCE_CROP // 16)
        self.conv_encoder = ConvEncoder() if conv else None
        self._add_texts(cfg, classes, size.embedding)
        self._load(cfg)
        if cfg.encoder == "vit_tiny":  # ours: from random values the classes' scores hardly differ; here some are sure
            with torch.no_grad():
                self.decode_head.head.weight.mul_(20)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(any(part in name for part in TRAINED))
        self.clip_encoder.requires_grad_(False)

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Scores of x [B, 3, H, W]: made at crop x crop, whatever x's size is, and resized to it (release builder.py).

        `drop` multiplies the value maps, the normalised embedding, and the convolutional map, in this order.
        """
        values, raw = self.backbone.features(self._for_clip(x), self.blocks)
        maps = [*values, raw / raw.norm(dim=1, keepdim=True)]
        if self.conv_encoder is not None:
            maps.append(self.conv_encoder(x))
        scores = self._decode(with_perturbed(maps, drop, alone), x.shape[-2:])
        feats = {"penultimate": raw}
        if drop is None or alone:
            return Out(scores, feats=feats)
        return Out(scores[: len(x)], scores[len(x) :], feats)

    @torch.no_grad()
    def guide(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Labels (B H W int64) of the frozen encoder, and where it is sure of them (B H W bool) (card: semivl 8)."""
        embedding = self.clip_encoder.features(self._for_clip(x))[1]
        embedding = embedding / embedding.norm(dim=1, keepdim=True)
        likeness = torch.einsum("bchw,nc->bnhw", embedding, self.guidance.to(embedding.dtype))
        likeness = torch.stack([likeness[:, first:last].amax(1) for first, last in self.rows], 1)
        likeness = F.interpolate(likeness.float(), x.shape[-2:], mode="bilinear", align_corners=False)
        certainty, label = (SHARPNESS * likeness).softmax(1).max(1)
        return label, certainty >= threshold

    def receptive_field(self) -> tuple[int, int]:
        """None is known: every token sees the whole image."""
        raise UsageError("semivl has no stage of local features", "net", "another net")

    def backbone_parameters(self) -> list[nn.Parameter]:
        """What is trained of CLIP's encoder, and the convolutional one: their rates are equal (card: semivl 9)."""
        parts = [self.backbone] if self.conv_encoder is None else [self.backbone, self.conv_encoder]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """The decoder."""
        return list(self.decode_head.parameters())

    def train(self, mode: bool = True) -> SemiVL:
        """The frozen encoder stays in eval mode."""
        super().train(mode)
        self.clip_encoder.eval()
        return self

    def _decode(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        embedding = maps[len(self.blocks)]
        deep_first = list(maps[: len(self.blocks)])[::-1] + list(maps[len(self.blocks) + 1 :])
        scores: Tensor = self.decode_head(embedding, deep_first, self.words.to(embedding.dtype))
        for side in ((self.cfg.crop, self.cfg.crop), tuple(size)):
            scores = F.interpolate(scores, side, mode="bilinear", align_corners=False)
        return scores

    def _for_clip(self, x: Tensor) -> Tensor:
        """The image under CLIP's mean and deviation, where the recipe says so; padding moves along, as released."""
        if not self.cfg.clip_normalise:
            return x
        mean, std, own_mean, own_std = self.statistics
        own: Tensor = (x * std + mean - own_mean) / own_std
        return own

    def _add_texts(self, cfg: Config, classes: int, width: int) -> None:
        """Rows of text, and for each class the range of its rows in the guidance's; no part of the saved state."""
        if cfg.text == "drawn":
            words = guidance = clip_text.drawn(classes, width)
            owners = list(range(classes))
        else:
            form = cfg.guidance_text or GUIDANCE[cfg.text]
            words = _texts(cfg, cfg.text, cfg.decoder_text or DECODER[cfg.text])
            guidance, owners = _texts(cfg, cfg.text, form), clip_text.owners(cfg.text, form)
        if len(words) != classes or max(owners) + 1 != classes:
            what = f"text embeddings of {len(words)} classes of '{cfg.text}' for a task of {classes}"
            raise RecipeError(what, "net.text", "name the classes' dataset")
        starts = [owners.index(c) for c in range(classes)]
        self.rows = list(zip(starts, [*starts[1:], len(owners)], strict=True))
        statistics = torch.tensor([MEAN, STD, CLIP_MEAN, CLIP_STD])[..., None, None]
        for name, value in (("words", words), ("guidance", guidance), ("statistics", statistics)):
            self.register_buffer(name, value.to(torch.empty(0).device), persistent=False)
        self.words: Tensor
        self.guidance: Tensor
        self.statistics: Tensor

    def _load(self, cfg: Config) -> None:
        if cfg.weights != "random":
            state = clip_state(cfg.weights)
            for vit in (self.backbone, self.clip_encoder):
                fit_state(vit, _with_grid(state, vit.cells), f"weights '{cfg.weights}' for CLIP ViT-B/16", GET_CLIP)
        if self.conv_encoder is not None and "random" not in (cfg.weights, cfg.conv_weights):
            what = f"weights '{cfg.conv_weights}' for the first stage of ResNet-101 v1c"
            fit_state(self.conv_encoder, _conv_state(cfg.conv_weights), what, "net.conv_weights: imagenet, or a file")


def _sources(cfg: SemiVL.Config) -> Iterator[tuple[str, str, str]]:
    """(setting, its value, timm's name) of each file of weights that is read."""
    if cfg.weights == "random":
        return
    yield "weights", cfg.weights, TIMM_CLIP
    if cfg.conv_encoder:
        yield "conv_weights", cfg.conv_weights, TIMM_CONV


def clip_state(weights: str) -> dict[str, Tensor]:
    """CLIP ViT-B/16's image encoder under our names: "clip" is timm's copy of OpenAI's, downloaded once; or a file.

    Raises:
        DataError: it is missing, damaged, or holds something else.
    """
    if weights == "clip":
        return semivl_names.clip_vision(_of_timm(TIMM_CLIP, num_classes=SIZES["vit_b16"].embedding))
    return semivl_names.clip_vision(read_state(Path(weights)))


def _conv_state(weights: str) -> dict[str, Tensor]:
    """The first stage's part of a ResNet-101 v1c: timm's, a released SemiVL file, or mmsegmentation's file."""
    state = _of_timm(TIMM_CONV) if weights == "imagenet" else read_state(Path(weights))
    state = {semivl_names.conv_name(name).removeprefix("conv_encoder."): value for name, value in state.items()}
    parts = ("conv1.", "bn1.", "layer1.")
    return {name: value for name, value in state.items() if name.startswith(parts)}


def _of_timm(name: str, **options: Any) -> dict[str, Tensor]:
    fix = GET_CLIP if name == TIMM_CLIP else GET_CONV
    return timm_state(name, lambda why: DataError(f"no weights of timm's {name} ({why})", name, fix), **options)


def _with_grid(state: dict[str, Tensor], cells: int) -> dict[str, Tensor]:
    """The state with its positions resized to `cells` a side (14 in CLIP's file)."""
    if "pos_embed" not in state or state["pos_embed"].shape[1] == cells**2 + 1:
        return state
    stored = state["pos_embed"]
    return {**state, "pos_embed": torch.cat([stored[:, :1], resized_positions(stored[:, 1:], (cells, cells))], 1)}


def _texts(cfg: SemiVL.Config, words: Words, form: Form) -> Tensor:
    if cfg.text_source == "computed":
        return clip_text.computed(words, form)
    return clip_text.published(words, form, None if cfg.text_source == "release" else Path(cfg.text_source))
