"""From pictures to tensors, with the arithmetic of torchvision's ToTensor and Normalize (tests compare bit for bit).

torch is imported inside, so that recipes can read the settings of the views without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ssbench.errors import DataError
from ssbench.views.sample import Picture, Sample
from ssbench.views.settings import Padded, ViewsConfig

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[float, float, float]
STATISTICS: dict[str, tuple[Colour, Colour]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # every release
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # EfficientNet-Lite and others of timm's (nets.pretrained)
}
"""Mean and standard deviation on [0, 1], by the name a recipe gives in `views.normalise`."""
MEAN, STD = STATISTICS["imagenet"]
MODES = ("RGB", "L", "F")


def picture(image: Picture, cfg: ViewsConfig, where: str = "") -> Tensor:
    """Float32 [C,H,W], normalised as `cfg.normalise`: by one of `STATISTICS`, or "none" (value / 255).

    "RGB" gives three channels; "L" and "F" (already in [0, 1]) one, or with statistics three equal ones before
    normalising. A float array is on the 0-255 scale. `where` names the image in the DataError for any other mode.
    """
    import torch

    if isinstance(image, Image.Image) and image.mode not in MODES:
        raise DataError(f"image mode '{image.mode}' cannot become a view; expected one of {', '.join(MODES)}", where)
    array = np.array(image)
    x = torch.from_numpy(array).to(torch.float32)
    x = x.permute(2, 0, 1).contiguous() if x.ndim == 3 else x[None]
    whole = 1.0 if isinstance(image, Image.Image) and image.mode == "F" else 255.0
    if cfg.normalise == "none":
        return x.div_(whole)
    mean, std = map(_column, STATISTICS[cfg.normalise])
    x = x.repeat(3, 1, 1) if len(x) == 1 else x
    if not isinstance(image, Image.Image):  # U2PL and AEL normalise on the 0-255 scale (card: views 5)
        return x.sub_(mean * 255).div_(std * 255)
    return x.div_(whole).sub_(mean).div_(std)


def pixels(x: Tensor, cfg: ViewsConfig) -> Image.Image:
    """The 8-bit picture, "RGB" or "L", that `picture` made x [C,H,W] of; values between two bytes are rounded."""
    shares = x
    if cfg.normalise in STATISTICS:
        mean, std = map(_column, STATISTICS[cfg.normalise])
        shares = x * std + mean
    array = shares.mul(255).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])


def view(sample: Sample, cfg: ViewsConfig) -> Tensor:
    """The sample's picture as float32 [C,H,W]; with `padding: zero`, padding is 0 after normalising.

    Where `alpha` says how much of a pixel is image, that much of the mean is taken off (card: views 8).
    """
    x = picture(sample.image, cfg, sample.id)
    if not isinstance(cfg, Padded) or cfg.padding != "zero":
        return x
    inside = layer(sample.alpha or sample.valid)
    if sample.alpha and cfg.normalise in STATISTICS:
        mean, std = map(_column, STATISTICS[cfg.normalise])
        x.add_((1 - inside) * mean.div(std))
    return x.mul_(inside > 0)


def layer(image: Image.Image) -> Tensor:
    """A mask or map as a tensor [H,W]: "1" bool, "L" uint8, "F" float32."""
    import torch

    return torch.from_numpy(np.array(image))


def erased(sample: Sample) -> Tensor:
    """Bool [H,W]: where cutout put noise; False everywhere when it did not."""
    import torch

    return layer(sample.erased).bool() if sample.erased else torch.zeros(sample.size[::-1], dtype=torch.bool)


def labels(sample: Sample, padding: int) -> Tensor:
    """The sample's mask as int64 [H,W], `padding` outside the image."""
    import torch

    y = torch.from_numpy(np.array(sample.mask, np.int64))
    if padding != 255:  # where the mask's own padding already is
        y[layer(sample.valid) == 0] = padding
    return y


def _column(values: Colour) -> Tensor:
    import torch

    return torch.tensor(values).view(3, 1, 1)
