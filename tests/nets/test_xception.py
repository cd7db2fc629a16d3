import torch

from ssbench.nets.xception import Block, Xception65


def test_the_encoder_has_the_published_size_and_shapes():
    torch.manual_seed(0)
    net = Xception65().eval()
    assert sum(p.numel() for p in net.parameters()) == 37_867_312
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 65, 65))
    assert [tuple(m.shape) for m in maps] == [(1, 256, 17, 17), (1, 256, 9, 9), (1, 1024, 5, 5), (1, 2048, 5, 5)]
    assert maps[0].min() < 0  # the low-level map is taken before its ReLU
    assert maps[3].min() >= 0
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert shapes["block20.sepconv2.pointwise.weight"] == (1024, 728, 1, 1)
    assert shapes["block3.sepconv1.depthwise.weight"] == (256, 1, 3, 3)
    assert shapes["block20.skip.weight"] == (1024, 728, 1, 1)
    assert [n for n in range(1, 21) if f"block{n}.skip.weight" in shapes] == [1, 2, 3, 20]
    assert all(c.dilation == (1, 1) for c in net.modules() if isinstance(c, torch.nn.Conv2d))


def test_an_identity_block_rectifies_its_shortcut_and_a_strided_one_does_not():
    x = -torch.rand(1, 8, 5, 5)  # rectified: nothing left
    identity, strided = Block((8, 8, 8, 8)).eval(), Block((8, 8, 8, 12), stride=2).eval()
    for block in (identity, strided):
        torch.nn.init.zeros_(block.sepconv3.bn2.weight)  # the shortcut alone
    assert identity(x)[0].eq(0).all()
    torch.testing.assert_close(strided(x)[0], strided.skipbn(strided.skip(x)))
