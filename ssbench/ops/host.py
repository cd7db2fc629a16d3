"""From the device to the host with one wait, for the few methods that cannot do without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the tensors on the CPU, in one transfer: a device is waited for once, whatever their number.

    Args:
        tensors: any shapes and types, all on one device. Never views of the result's storage.
    """
    flat = [x.detach().contiguous().view(-1).view(torch.uint8) for x in tensors]
    order = sorted(range(len(flat)), key=lambda i: -tensors[i].element_size())  # so that every type is aligned
    joined = torch.cat([flat[i] for i in order]).cpu()
    found: dict[int, Tensor] = {}
    start = 0
    for i in order:
        end = start + len(flat[i])
        found[i] = joined[start:end].view(tensors[i].dtype).view(tensors[i].shape)
        start = end
    return [found[i] for i in range(len(tensors))]
