"""UniMatch's Xception-65 encoder (its COCO runs), output stride 16.

Source: UniMatch 0324f3d, model/backbone/xception.py. Not timm's `xception65`: BatchNorm eps is 1e-5 here, nothing is
dilated at output stride 16, and the shortcut of an identity block is rectified, because the released block's first
ReLU works in place on the tensor the shortcut shares.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

MOMENTUM = 3e-4  # of every BatchNorm of the encoder (release)


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise 1x1, each followed by BatchNorm: [B, I, h, w] -> [B, O, h/stride, w/stride].

    ReLU comes first (`before`), or after each BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, before: bool = True) -> None:
        super().__init__()
        self.before = before
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs, momentum=MOMENTUM)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """One separable convolution of x [B, I, h, w]."""
        if self.before:
            return self.bn2(self.pointwise(self.bn1(self.depthwise(x.relu()))))  # type: ignore[no-any-return]
        return self.bn2(self.pointwise(self.bn1(self.depthwise(x)).relu())).relu()  # type: ignore[no-any-return]


class Block(nn.Module):
    """Three separable convolutions (the stride on the third) beside a shortcut.

    The shortcut is a 1x1 convolution of the input where the shape changes, else the rectified input (see the module).
    """

    def __init__(self, widths: tuple[int, int, int, int], stride: int = 1) -> None:
        super().__init__()
        first, second, third, last = widths
        self.sepconv1 = SeparableConv(first, second)
        self.sepconv2 = SeparableConv(second, third)
        self.sepconv3 = SeparableConv(third, last, stride)
        self.skip, self.skipbn = None, None
        if first != last or stride != 1:
            self.skip = nn.Conv2d(first, last, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(last, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output and the map after its second convolution (block 2's is the low-level map)."""
        shortcut = x.relu() if self.skip is None or self.skipbn is None else self.skipbn(self.skip(x))
        middle = self.sepconv2(self.sepconv1(x))
        return self.sepconv3(middle) + shortcut, middle


class Xception65(nn.Module):
    """x [B, 3, H, W] -> maps at strides 4, 8, 16, 16; the first is taken before its ReLU. 37,867,312 parameters."""

    widths: ClassVar[tuple[int, ...]] = (256, 256, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.block1 = Block((64, 128, 128, 128), stride=2)
        self.block2 = Block((128, 256, 256, 256), stride=2)
        self.block3 = Block((256, 728, 728, 728), stride=2)
        for n in range(4, 20):
            self.add_module(f"block{n}", Block((728, 728, 728, 728)))
        self.block20 = Block((728, 728, 1024, 1024))
        self.conv3 = SeparableConv(1024, 1536, before=False)
        self.conv4 = SeparableConv(1536, 1536, before=False)
        self.conv5 = SeparableConv(1536, 2048, before=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # ours, for weights: random; the release always loads a file
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """The four maps of x [B, 3, H, W]."""
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        x, _ = self.block1(x)
        stride8, low = self.block2(x)
        x, _ = self.block3(stride8)
        for n in range(4, 21):
            x, _ = self.get_submodule(f"block{n}")(x)
        return [low, stride8, x, self.conv5(self.conv4(self.conv3(x)))]
