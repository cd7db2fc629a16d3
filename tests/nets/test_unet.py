import pytest
import torch
from torch import Tensor, nn

from ssbench.errors import RecipeError
from ssbench.nets.segnet import resize
from ssbench.nets.unet import UNet

WIDTHS = (16, 32, 64, 128, 256)


@pytest.fixture
def net() -> UNet:
    torch.manual_seed(0)
    return UNet(UNet.Config(), 4)


def block(prefix: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    table: dict[str, tuple[int, ...]] = {}
    for i, n in ((0, inputs), (4, outputs)):
        table |= {f"{prefix}.{i}.weight": (outputs, n, 3, 3), f"{prefix}.{i}.bias": (outputs,)}
        table |= {f"{prefix}.{i + 1}.{e}": (outputs,) for e in ("weight", "bias", "running_mean", "running_var")}
        table |= {f"{prefix}.{i + 1}.num_batches_tracked": ()}
    return table


def test_size_keys_and_shapes_are_the_released_ones(net):
    assert sum(p.numel() for p in net.parameters()) == 1_813_764
    assert len(list(net.parameters())) == 82
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 18
    table = block("encoder.in_conv.conv_conv", 1, 16)
    for i in range(1, 5):
        table |= block(f"encoder.down{i}.maxpool_conv.1.conv_conv", WIDTHS[i - 1], WIDTHS[i])
        deep, fine = WIDTHS[5 - i], WIDTHS[4 - i]
        table |= block(f"decoder.up{i}.conv.conv_conv", 2 * fine, fine)
        table |= {f"decoder.up{i}.conv1x1.weight": (fine, deep, 1, 1), f"decoder.up{i}.conv1x1.bias": (fine,)}
    table |= {"decoder.out_conv.weight": (4, 16, 3, 3), "decoder.out_conv.bias": (4,)}
    assert {name: tuple(v.shape) for name, v in net.state_dict().items()} == table
    assert len(table) == 136


def test_dropout_stands_in_the_encoder_only(net):
    rates = [m.p for name, m in net.named_modules() if isinstance(m, nn.Dropout) and name.startswith("encoder")]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert all(m.p == 0 for m in net.decoder.modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (70, 97)])
def test_scores_and_taps_have_their_sizes(net, size):
    with torch.no_grad():
        out = net.eval()(torch.rand(1, 1, *size))
    assert out.logits.shape == (1, 4, *size)
    shapes = {k: tuple(f.shape[1:]) for k, f in out.feats.items()}
    levels = {f"layer{i + 1}": (w, size[0] >> i, size[1] >> i) for i, w in enumerate(WIDTHS)}
    assert shapes == levels | {"penultimate": (16, *size), "logits": (4, *size)}


def test_the_perturbed_half_is_a_second_pass_through_the_decoder(net):
    net.eval()
    x = torch.rand(2, 1, 64, 64)
    drop = [torch.randint(0, 2, (2, d)) * 2.0 for d in net.perturb_channels]
    with torch.no_grad():
        plain, out = net(x), net(x, drop)
        maps = [plain.feats[f"layer{i}"] * m[:, :, None, None] for i, m in enumerate(drop, start=1)]
        _, again = net.decoder(maps)
    torch.testing.assert_close(out.logits, plain.logits)
    torch.testing.assert_close(out.perturbed, again)
    assert net.perturb_channels == WIDTHS


def test_an_up_step_doubles_the_grid_with_corners_aligned(net):
    up = net.decoder.up1.eval()
    x, skip = torch.rand(1, 256, 4, 4), torch.rand(1, 128, 8, 8)
    doubled = nn.functional.interpolate(up.conv1x1(x), scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(resize(up.conv1x1(x), (8, 8)), doubled)
    torch.testing.assert_close(up(x, skip), up.conv(torch.cat([skip, doubled], 1)))


def test_gradient_reaches_every_parameter(net):
    drop = [torch.full((2, d), 2.0) for d in net.perturb_channels]
    out = net.train()(torch.rand(2, 1, 64, 64), drop)
    (out.logits.square().mean() + out.perturbed.square().mean()).backward()
    # a bias before BatchNorm has no effect, so its gradient is rounding or zero
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    assert all(p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n.endswith("weight"))


def test_all_parameters_are_one_group(net):
    assert len(net.backbone_parameters()) == 82
    assert net.head_parameters() == []


def test_receptive_field_of_the_first_level_is_the_support_of_its_gradient(net):
    x = torch.rand(1, 1, 32, 32, requires_grad=True)
    net.eval()(x).feats["layer1"][0, :, 10, 12].sum().backward()
    rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
    half, stride = net.receptive_field()
    assert (rows.min(), rows.max()) == (10 * stride - half, 10 * stride + half)
    assert (columns.min(), columns.max()) == (12 * stride - half, 12 * stride + half)


def test_three_channels_are_refused():
    with pytest.raises(RecipeError, match="1 channel, not 3"):
        UNet(UNet.Config(), 4, channels=3)


def test_seeded_construction_repeats_itself():
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(UNet(UNet.Config(), 4).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
