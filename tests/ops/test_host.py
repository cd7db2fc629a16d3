"""Several tensors to the host in one transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from ssbench.ops.host import to_host


def test_what_arrives_is_what_was_sent_whatever_its_type() -> None:
    sent: list[Tensor] = [
        torch.tensor([[True, False, True]]),
        torch.arange(6).view(2, 3).t(),  # not contiguous
        torch.rand(5),
        torch.tensor(7, dtype=torch.uint8),
        torch.rand(3, dtype=torch.float64),
        torch.zeros(0, 4),
    ]
    for before, after in zip(sent, to_host(sent), strict=True):
        assert after.dtype == before.dtype
        assert torch.equal(after, before)


def test_what_arrives_is_no_view_of_what_was_sent() -> None:
    sent = torch.rand(4, requires_grad=True)
    (got,) = to_host([sent])
    got.zero_()
    assert sent.detach().all()
    assert not got.requires_grad
