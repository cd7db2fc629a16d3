import pytest
import torch

from ssbench.nets.segnet import resize, with_perturbed


def test_perturbed_copies_follow_the_clean_maps():
    maps = [torch.rand(2, 3, 4, 5), torch.rand(2, 1, 2, 2)]
    drop = [torch.tensor([[0.0, 2, 0], [2, 2, 0]]), torch.tensor([[2.0], [0]])]
    for f, m, both in zip(maps, drop, with_perturbed(maps, drop), strict=True):
        assert torch.equal(both[:2], f)
        for b in range(2):
            for d in range(f.shape[1]):
                assert torch.equal(both[2 + b, d], f[b, d] * m[b, d])
    assert with_perturbed(maps, None)[0] is maps[0]


@pytest.mark.parametrize("drop", [[torch.ones(2, 3)], [torch.ones(2, 3), torch.ones(1, 1)], []])
def test_multipliers_of_another_shape_are_refused(drop):
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 1\)"):
        with_perturbed([torch.rand(2, 3, 4, 5), torch.rand(2, 1, 2, 2)], drop)


def test_bilinear_aligns_corners_and_nearest_repeats():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    line = resize(x, (3, 3))
    assert line[0, 0].tolist() == [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]
    assert resize(x, (4, 4), "nearest")[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert resize(x, (2, 2)) is x
