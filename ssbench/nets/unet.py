"""The 2-D U-Net of SSL4MIS as UniMatch uses it on ACDC: 1,813,764 parameters at 4 classes.

Source: UniMatch 0324f3d, more-scenarios/medical/model/unet.py; state-dict keys are the released ones. The released
parameter dictionary says transposed convolutions, but the flag never reaches the decoder: 1x1 convolution and bilinear
upsampling, as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ssbench.errors import RecipeError
from ssbench.nets.precision import full
from ssbench.nets.segnet import Out, SegNet, resize, with_perturbed

WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)  # element-wise, inside the encoder's blocks


class ConvBlock(nn.Module):
    """Twice [3x3 convolution, BatchNorm, LeakyReLU 0.01] with dropout between: [B, I, h, w] -> [B, O, h, w]."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, h, w] -> [B, O, h, w]."""
        return self.conv_conv(x)  # type: ignore[no-any-return]


class Down(nn.Module):
    """Max-pool by 2, then a block."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(inputs, outputs, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I, h, w] -> [B, O, h // 2, w // 2]."""
        return self.maxpool_conv(x)  # type: ignore[no-any-return]


class Up(nn.Module):
    """Halve the channels by a 1x1 convolution, upsample to the skip's grid, concatenate behind it, block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, outputs, 1)
        self.conv = ConvBlock(2 * outputs, outputs, 0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x [B, I, h, w] and skip [B, O, 2h, 2w] -> [B, O, 2h, 2w]; odd sides of the skip are met, not refused."""
        return self.conv(torch.cat([skip, resize(self.conv1x1(x), skip.shape[-2:])], 1))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """x [B, 1, H, W] -> five maps of 16, 32, 64, 128, 256 channels at strides 1, 2, 4, 8, 16."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv = ConvBlock(1, WIDTHS[0], DROPOUT[0])
        self.down1, self.down2, self.down3, self.down4 = (
            Down(WIDTHS[i], WIDTHS[i + 1], DROPOUT[i + 1]) for i in range(4)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The five maps, finest first."""
        maps = [self.in_conv(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        return maps


class Decoder(nn.Module):
    """The five maps -> the input of `out_conv` [B, 16, H, W] and the scores [B, C, H, W]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.up1, self.up2, self.up3, self.up4 = (Up(WIDTHS[i], WIDTHS[i - 1]) for i in (4, 3, 2, 1))
        self.out_conv = nn.Conv2d(WIDTHS[0], classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Penultimate map and scores of the encoder's maps, finest first."""
        x = maps[4]
        for up, skip in zip((self.up1, self.up2, self.up3, self.up4), maps[3::-1], strict=True):
            x = up(x, skip)
        return x, self.out_conv(x)


class UNet(SegNet):
    """The ACDC U-Net: one input channel, sides of 16 pixels or more, trained from torch's global generator."""

    class Config(BaseModel):
        """The released network has no setting; `weights` stands here so that every net has the field."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        name: Literal["unet"] = "unet"
        weights: Literal["random"] = "random"  # trained from nothing, as released

    perturb_channels = WIDTHS

    def __init__(self, cfg: Config, classes: int, channels: int = 1) -> None:
        super().__init__()
        if channels != 1:
            raise RecipeError(f"unet takes images of 1 channel, not {channels}", fix="net: {name: deeplabv3plus}")
        self.cfg, self.classes = cfg, classes
        self.encoder = Encoder()
        self.decoder = Decoder(classes)

    def forward(self, x: Tensor, drop: Sequence[Tensor] | None = None, alone: bool = False) -> Out:
        """Scores of x [B, 1, H, W]; `drop` multiplies all five encoder maps, [B, 16] .. [B, 256] (see `SegNet`)."""
        maps = self.encoder(x)
        fused, scores = self.decoder(with_perturbed(maps, drop, alone))
        scores = full(scores)
        n = len(x)
        feats = {f"layer{i}": f for i, f in enumerate(maps, start=1)} | {"penultimate": fused[:n], "logits": scores[:n]}
        return Out(scores[:n], None if drop is None or alone else scores[n:], feats)

    def _first_stage(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder.in_conv(x)
        return features

    def receptive_field(self) -> tuple[int, int]:
        """(2, 1): two 3x3 convolutions at full resolution."""
        return 2, 1

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters: the release trains in one group."""
        return list(self.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []
