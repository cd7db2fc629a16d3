"""Mask2Former: a ResNet, a deformable pixel decoder, and a transformer whose queries each give a class and a mask.

Source: facebookresearch/Mask2Former 9b0651c6. The modules are those of `transformers` (extra `mask2former`), whose
outputs equal the authors' to the bit under the same weights; initial values are set here, because the library's
differ in several layers (card: mask2former 3). `nets.mask2former_names` reads the authors' checkpoints.
Departure: the library's guard against infinite activations, which makes every layer of the pixel decoder wait for the
device, is off. It changes no finite value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import timm
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from ssbench.errors import RecipeError, nearest
from ssbench.nets.precision import full
from ssbench.nets.segnet import Out, SegNet
from ssbench.nets.weights import load_encoder
from ssbench.ops.set_loss import QueryOutput

Count = Annotated[int, Field(gt=0)]
DIVISOR = 32
"""Sides of a batch are padded with zeros, right and below, to a multiple of this (release: SIZE_DIVISIBILITY)."""
FLOOR = 1e-30
"""Scores are raised to this before their logarithm: no query may claim a pixel at all."""


class Mask2FormerNet(SegNet):
    """Mask2Former for `classes` classes: 63,000,342 parameters with resnet101 and 21 classes.

    Draws its initial weights from torch's global generator, then loads `cfg.weights` into the encoder.
    Its logits are logarithms of the semantic scores, whose softmax is the scores divided by their sum; a method trains
    on `Out.sets`.
    """

    own_method = "mask2former"  # its outputs are sets, which no pixel loss reads
    quick: ClassVar[Mapping[str, Any]] = {
        **{"encoder": "test_resnet", "weights": "random", "queries": 8, "width": 32, "heads": 4},
        **{"encoder_layers": 1, "encoder_ffn": 64, "decoder_layers": 3, "decoder_ffn": 64},
    }

    class Config(BaseModel):
        """Settings of the network; the defaults are the authors' (card: mask2former 2)."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        name: Literal["mask2former"] = "mask2former"
        encoder: str = "resnet101"  # release maskformer2_R101; stride in the 3x3 convolution
        weights: str = "imagenet"  # "imagenet", "random", or a file
        queries: Count = 100  # release
        width: Count = 256  # release: of the pixel decoder, the transformer and the mask features
        heads: Count = 8  # release
        encoder_layers: Count = 6  # release: of the pixel decoder
        encoder_ffn: Count = 1024  # release: hard-coded there
        decoder_layers: Count = 9  # release DEC_LAYERS 10, which counts the prediction of the raw queries
        decoder_ffn: Count = 2048  # release

        @field_validator("encoder")
        @classmethod
        def _known(cls, name: str) -> str:
            if not timm.is_model(name):
                raise ValueError(f"no encoder '{name}'; {nearest(name, timm.list_models())}")
            return name

        @model_validator(mode="after")
        def _divides(self) -> Self:
            if self.width % 32 or self.width % self.heads:
                raise ValueError(f"width {self.width} must be a multiple of 32 and of the {self.heads} heads")
            return self

    perturb_channels: tuple[int, ...] = ()
    depth: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)  # timm's stages at strides 4 to 32; 0 is the stem

    def __init__(self, cfg: Config, classes: int, channels: int = 3) -> None:
        super().__init__()
        if channels != 3:
            raise RecipeError(f"mask2former takes images of 3 channels, not {channels}", fix="another net")
        self.cfg, self.classes = cfg, classes
        self.model = _library_model(cfg, classes)
        initialise(self.model)
        load_encoder(self, cfg.weights, cfg.encoder, "model.model.pixel_level_module.encoder._backbone")

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Logarithms of the scores of x [B, 3, H, W], and the sets they are made of; nothing is perturbed.

        In train mode the logits stay at the size of the masks, a quarter of the padded image: training reads the sets.

        Args:
            drop: for the interface's sake; no map is multiplied, so it must be empty. alone: likewise.
        """
        if drop:
            raise ValueError("Mask2Former has no map to perturb")
        output = self.model(pixel_values=padded(x), output_auxiliary_logits=True)
        pairs = [(a["class_queries_logits"], a["masks_queries_logits"]) for a in output.auxiliary_logits]
        pairs = [(output.class_queries_logits, output.masks_queries_logits), *pairs]
        final, *auxiliary = (QueryOutput(full(classes), full(masks)) for classes, masks in pairs)
        size = None if self.training else (x.shape[-2], x.shape[-1])
        logits = semantic_scores(final, size).clamp(min=FLOOR).log()
        return Out(logits, logits if drop is not None and not alone else None, sets=(final, *auxiliary))

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode; the pixel decoder's layers, which are the same in both, stay in eval mode (see above)."""
        super().train(mode)
        for layer in self.model.model.pixel_level_module.decoder.encoder.layers:
            layer.training = False
        return self

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The encoder's."""
        return [p for name, p in self.named_parameters() if _is_backbone(name)]

    def head_parameters(self) -> list[nn.Parameter]:
        """All others."""
        return [p for name, p in self.named_parameters() if not _is_backbone(name)]

    def receptive_field(self) -> tuple[int, int]:
        """Not defined: no plug-in that runs on this net asks for it."""
        raise RecipeError("Mask2Former has no receptive field of stage 1", fix="another net")


def semantic_scores(output: QueryOutput, size: tuple[int, int] | None) -> Tensor:
    """B C height width: the sum over queries of class probability (no object left out) x mask probability.

    Args:
        size: height and width of the image. Masks are enlarged to its padded size, and cropped to it at the end. None:
            masks stay as they are.
    """
    masks, named = output.masks, output.classes.softmax(-1)[..., :-1]
    if size is None:
        return torch.einsum("bqc,bqhw->bchw", named, masks.sigmoid())
    whole = F.interpolate(masks, (_multiple(size[0]), _multiple(size[1])), mode="bilinear", align_corners=False)
    return torch.einsum("bqc,bqhw->bchw", named, whole.sigmoid())[..., : size[0], : size[1]]


def padded(x: Tensor) -> Tensor:
    """x with zeros on the right and below, up to multiples of `DIVISOR`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, _multiple(width) - width, 0, _multiple(height) - height))


def _is_backbone(name: str) -> bool:
    return name.startswith("model.model.pixel_level_module.encoder.")


def _multiple(side: int) -> int:
    return -(-side // DIVISOR) * DIVISOR


def library() -> Any:
    """`transformers`; RecipeError that names the extra where it is not installed, or misses what it needs."""
    try:
        import transformers
    except ImportError as error:
        what = f"mask2former needs the library transformers, which cannot be imported ({error})"
        raise RecipeError(what, "net", "pip install 'ssbench[mask2former]'") from error
    return transformers


def _library_model(cfg: Mask2FormerNet.Config, classes: int) -> Any:
    """The library's model. Nothing is downloaded: it is built from its settings."""
    lib = library()
    level = lib.logging.get_verbosity()
    lib.logging.set_verbosity_error()  # it warns of every encoder but Swin, with which it works as well
    try:
        encoder = lib.TimmBackboneConfig(backbone=cfg.encoder, out_indices=list(Mask2FormerNet.depth))
        settings = lib.Mask2FormerConfig(
            backbone_config=encoder,
            num_labels=classes,
            feature_size=cfg.width,
            mask_feature_size=cfg.width,
            hidden_dim=cfg.width,
            num_attention_heads=cfg.heads,
            num_queries=cfg.queries,
            encoder_layers=cfg.encoder_layers,
            encoder_feedforward_dim=cfg.encoder_ffn,
            decoder_layers=cfg.decoder_layers + 1,
            dim_feedforward=cfg.decoder_ffn,
            dropout=0.0,  # release
        )
        model = lib.Mask2FormerForUniversalSegmentation(settings)
        decoder = model.model.pixel_level_module.decoder
        decoder.forward = partial(_in_full, decoder.forward)  # release: also in mixed precision
        return model.to(model.class_predictor.weight.device)  # one of its parameters ignores `with torch.device(...)`
    finally:
        lib.logging.set_verbosity(level)


def _in_full(forward: Callable[..., Any], features: Sequence[Tensor], **options: Any) -> Any:
    """The pixel decoder's `forward` outside of autocast."""
    if features[0].device.type == "meta":  # where plans count operations; autocast does not know it
        return forward(features, **options)
    with torch.autocast(features[0].device.type, enabled=False):
        return forward([full(feature) for feature in features], **options)


@torch.no_grad()
def initialise(model: Any) -> None:
    """Set every parameter to the authors' initial distribution (card: mask2former 3), in place.

    The released code draws in another order, so single values differ; their distributions do not.
    """
    pixel, transformer = model.model.pixel_level_module, model.model.transformer_module
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
            module.reset_parameters()
    _init_resnet(pixel.encoder)
    _init_pixel_decoder(pixel.decoder)
    for layer in transformer.decoder.layers:
        _init_decoder_layer(layer)
    for embedding in (transformer.queries_embedder, transformer.queries_features, transformer.level_embed):
        nn.init.normal_(embedding.weight)
    # Class predictor and mask MLP keep nn.Linear's own values, set above.


def _init_resnet(encoder: nn.Module) -> None:
    """timm's ResNet from nothing, for `weights: random`; the release always loads a file."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _init_pixel_decoder(decoder: Any) -> None:
    for projection, _ in decoder.input_projections:
        nn.init.xavier_uniform_(projection.weight)
        nn.init.zeros_(projection.bias)
    for conv in (decoder.adapter_1[0], decoder.layer_1[0], decoder.mask_projection):
        nn.init.kaiming_uniform_(conv.weight, a=1)  # fvcore's c2_xavier_fill
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    nn.init.normal_(decoder.level_embed)
    for layer in decoder.encoder.layers:
        for weight in (layer.fc1.weight, layer.fc2.weight):
            nn.init.xavier_uniform_(weight)
        _init_deformable(layer.self_attn)


def _init_deformable(attention: Any) -> None:
    """Offsets point in as many directions as there are heads, the k-th point at radius k; weights are equal."""
    for linear in (attention.sampling_offsets, attention.attention_weights):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    angles = torch.arange(attention.n_heads, dtype=torch.float32) * (2.0 * math.pi / attention.n_heads)
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    square = (circle / circle.abs().amax(-1, keepdim=True)).view(attention.n_heads, 1, 1, 2)
    radii = torch.arange(1, attention.n_points + 1, dtype=torch.float32).view(1, 1, -1, 1)
    offsets = (square * radii).expand(-1, attention.n_levels, -1, -1)
    attention.sampling_offsets.bias.copy_(offsets.reshape(-1))
    for linear in (attention.value_proj, attention.output_proj):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)


def _init_decoder_layer(layer: Any) -> None:
    """Xavier uniform on every matrix, that of q, k and v as one; attention biases 0, those of the FFN nn.Linear's."""
    nn.init.xavier_uniform_(layer.cross_attn.in_proj_weight)
    nn.init.zeros_(layer.cross_attn.in_proj_bias)
    own = layer.self_attn
    width = own.q_proj.weight.shape[0]
    bound = math.sqrt(6 / (3 * width + width))  # of the 3 width x width matrix that the authors' module holds
    for linear in (own.q_proj, own.k_proj, own.v_proj):
        nn.init.uniform_(linear.weight, -bound, bound)
        nn.init.zeros_(linear.bias)
    for linear in (own.out_proj, layer.cross_attn.out_proj):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    for linear in (layer.fc1, layer.fc2):
        nn.init.xavier_uniform_(linear.weight)
