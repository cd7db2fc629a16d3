"""Second writings of what methods compute, from the specifications alone: plain torch, none of our ops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssbench.data.batch import Batch, Unlabeled
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.segnet import SegNet


@dataclass
class Labels:
    """What a teacher says: class, confidence and whether the pixel is image, B H W each."""

    label: Tensor
    conf: Tensor
    valid: Tensor

    @classmethod
    def of(cls, logits: Tensor, valid: Tensor) -> Labels:
        conf, label = torch.max(F.softmax(logits.detach(), dim=1), dim=1)
        return cls(label, conf, valid)

    def under(self, other: Labels, box: Tensor) -> Labels:
        """With `other` pasted into the box, pixel by pixel."""
        pairs = ((self.label, other.label), (self.conf, other.conf), (self.valid, other.valid))
        return Labels(*(cut_in(a, b, box) for a, b in pairs))


def cut_in(below: Tensor, above: Tensor, box: Tensor) -> Tensor:
    out = below.clone()
    for b in range(len(out)):
        out[b][..., box[b]] = above[b][..., box[b]]
    return out


def parts(batch: Batch) -> tuple[Tensor, Tensor, Unlabeled]:
    assert batch.unlabeled is not None
    return batch.labeled.x, batch.labeled.y, batch.unlabeled


def partner(batch: Batch) -> Unlabeled:
    assert batch.partner is not None
    return batch.partner


def supervised(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of -log p(true class) over pixels with a label."""
    log_p = F.log_softmax(logits, dim=1).permute(0, 2, 3, 1)[y != 255]
    return -log_p[torch.arange(len(log_p)), y[y != 255]].mean()


def unsupervised(logits: Tensor, labels: Labels, tau: float) -> Tensor:
    """Sum of CE over confident image pixels, divided by the number of image pixels (card: unimatch 3)."""
    keep = (labels.conf >= tau) & labels.valid
    log_p = F.log_softmax(logits, dim=1).permute(0, 2, 3, 1)[keep]
    return -log_p[torch.arange(len(log_p)), labels.label[keep]].sum() / labels.valid.sum()


def soft_dice(logits: Tensor, label: Tensor, keep: Tensor) -> Tensor:
    """As UniMatch's release for ACDC computes it."""
    p = F.softmax(logits, dim=1)
    terms = []
    for c in range(logits.shape[1]):
        pc, tc = p[:, c][keep], (label[keep] == c).float()
        terms.append(1 - (2 * (pc * tc).sum() + 1e-5) / ((pc * pc).sum() + (tc * tc).sum() + 1e-5))
    return torch.stack(terms).mean()


def eval_logits(net: SegNet, x: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        out = net(x).logits
    net.train()
    return out


def perturbed(net: DeepLabV3Plus, x: Tensor, drop: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clean and perturbed logits: one encoder pass on B images, one decoder pass on 2B maps, channel by channel."""
    low, _, _, deep = net.backbone(x)
    maps = []
    for clean, mask in ((low, drop[0]), (deep, drop[1])):
        dropped = clean.clone()
        for b in range(len(clean)):
            for d in range(clean.shape[1]):
                dropped[b, d] = clean[b, d] * mask[b, d]
        maps.append(torch.cat([clean, dropped]))
    scores = net.classifier(net.fuse(net.join(*maps)))
    scores = F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=True)
    return scores[: len(x)], scores[len(x) :]


def gradients(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    names, values = zip(*[(n, p) for n, p in net.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def assert_same_gradients(ours: nn.Module, theirs: dict[str, Tensor]) -> None:
    """After a backward of our loss: the same gradient in every tensor, so nothing was detached that should not be."""
    for name, p in ours.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            scale = theirs[name].abs().max().item()
            torch.testing.assert_close(p.grad, theirs[name], rtol=1e-3, atol=1e-3 * scale + 1e-7, msg=name)
