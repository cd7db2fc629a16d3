"""Pasting against a loop over pixels."""

from __future__ import annotations

import pytest
import torch

from ssbench.ops.mixing import paste


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 3, 5, 6)])
def test_takes_each_pixel_from_the_side_the_region_says(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    under, over = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    region = torch.rand(2, 5, 6, generator=g) < 0.5
    kept = under.clone()
    result = paste(under, over, region)
    for b in range(2):
        for i in range(5):
            for j in range(6):
                source = over if region[b, i, j] else under
                assert torch.equal(result[b, ..., i, j], source[b, ..., i, j])
    assert torch.equal(under, kept)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    under = torch.zeros(1, 2, 2, dtype=dtype)
    region = torch.tensor([[[True, False], [False, False]]])
    result = paste(under, torch.ones_like(under), region)
    assert result.dtype == dtype
    assert result.sum() == 1
