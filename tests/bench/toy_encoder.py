"""Pretrains the small encoder of the toy task, as ImageNet pretrains those of the papers.

    PYTHONPATH=. python tests/bench/toy_encoder.py recipes/toy/encoder.safetensors
    ssbench run toy/none_supervised --split toy/ours/1_16 --set net.weights=recipes/toy/encoder.safetensors

The pretext is classification, without masks: which outline and which relief a single object has
(`toy_objects`). The file holds half-precision weights of timm's `test_resnet` without a classifier.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_objects import OUTLINES, RELIEFS, picture

from ssbench import keyed
from ssbench.console import Bars
from ssbench.files import write_bytes
from ssbench.nets import encoders
from ssbench.views.tensors import MEAN, STD

ENCODER = "test_resnet"
PICTURES, HELD_OUT, EPOCHS, BATCH, RATE = 12_000, 1_000, 20, 64, 0.003
SHIPPED_SHA256 = "00014ec83f6f3d152ee0f3a5fee88aae9eb2cb1354a29414a41f686d05acf6dd"
"""Of `recipes/toy/encoder.safetensors`, written on one thread of an AMD EPYC. Its network names outline and relief of
78.3 % of the held-out pictures (chance: 1.25 %). Another processor rounds otherwise: its file has other bytes."""


class PretextNet(nn.Module):
    """The encoder with one classifier for outlines and one for reliefs, both on its pooled deepest map."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, widths = encoders.build(ENCODER, 3, 16, None, False)
        self.outline, self.relief = nn.Linear(widths[-1], len(OUTLINES)), nn.Linear(widths[-1], len(RELIEFS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W -> logits B x outlines, B x reliefs."""
        pooled = self.backbone(x)[-1].mean((2, 3))
        return self.outline(pooled), self.relief(pooled)


def pretrain(bars: Bars, pictures: int = PICTURES, epochs: int = EPOCHS, seed: int = 0) -> tuple[PretextNet, float]:
    """The trained network, and the share of held-out pictures of which it names both outline and relief."""
    images, labels = draw(pictures + HELD_OUT, seed, bars)
    torch.manual_seed(keyed.key("toy encoder", seed))
    net, generator = PretextNet(), keyed.torch_generator("toy encoder", seed, "batches")
    steps = epochs * (pictures // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    with bars.stage("pretraining", steps) as bar:
        for _ in range(epochs):
            order = torch.randperm(pictures, generator=generator)[: pictures // BATCH * BATCH]
            for chosen in order.view(-1, BATCH):
                loss = pretext_loss(net, turned(images[chosen], generator), labels[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                bar.advance()
    net.eval()
    with torch.no_grad():
        guesses = torch.stack([logits.argmax(1) for logits in net(normalised(images[pictures:]))], 1)
    return net, float((guesses == labels[pictures:]).all(1).float().mean())


def draw(count: int, seed: int, bars: Bars) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, SIDE, SIDE] uint8, and outline and relief of each [count, 2]."""
    drawn = [picture(number, seed) for number in bars.watch(range(count), "drawing", count)]
    images = torch.from_numpy(np.stack([image for image, _, _ in drawn])).permute(0, 3, 1, 2)
    return images, torch.tensor([labels for _, *labels in drawn])


def pretext_loss(net: PretextNet, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of both classifications."""
    outline, relief = net(normalised(images))
    return F.cross_entropy(outline, labels[:, 0]) + F.cross_entropy(relief, labels[:, 1])


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch mirrored, turned and moved by up to six pixels, all images alike."""
    flips, turns, across, down = torch.randint(0, 2**16, (4,), generator=generator).tolist()
    images = images.flip(3) if flips % 2 else images
    return images.rot90(turns % 4, (2, 3)).roll((down % 13 - 6, across % 13 - 6), (2, 3))


def normalised(images: Tensor) -> Tensor:
    """uint8 -> float as the views of the toy task give it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def encoded(net: PretextNet) -> bytes:
    """The encoder's weights as a safetensors file, in half precision, without batch counters."""
    from safetensors.torch import save

    state = net.backbone.state_dict()
    return save({name: value.half().contiguous() for name, value in state.items() if value.ndim})


def main() -> None:
    """Pretrain and write the file named on the command line."""
    out = Path(sys.argv[1])
    with Bars() as bars:
        net, accuracy = pretrain(bars)
    write_bytes(out, encoded(net))
    print(f"{out}: {out.stat().st_size:,} bytes; outline and relief right on {accuracy:.1%} of {HELD_OUT} new pictures")


if __name__ == "__main__":
    main()
