import pytest
import torch
import torchvision
from torch import nn

from ssbench.errors import RecipeError
from ssbench.nets import encoders


def build(name: str, stride: int = 16, grid: tuple[int, ...] | None = None, ceil: bool = False) -> nn.Module:
    return encoders.build(name, 3, stride, grid, ceil)[0]


def dilations(net: nn.Module, stage: str) -> list[int]:
    convs = [m for name, m in net.get_submodule(stage).named_modules() if name.endswith("conv2")]
    assert all(c.padding == c.dilation for c in convs)
    return [c.dilation[0] for c in convs]


@pytest.mark.parametrize(
    ("stride", "grid", "third", "fourth"),
    [
        (16, None, [1] * 6, [1, 2, 2]),  # UniMatch; AugSeg's supervised logs
        (16, (2, 2, 4), [1] * 6, [2, 4, 8]),  # CPS, AugSeg
        (8, None, [1, 2, 2, 2, 2, 2], [2, 4, 4]),  # ST++
        (8, (2, 2, 4), [1, 2, 2, 2, 2, 2], [4, 8, 16]),  # U2PL, AEL
    ],
)
def test_the_last_stages_are_dilated_as_released(stride, grid, third, fourth):
    with torch.device("meta"):
        net = build("resnet50s", stride, grid)
    assert dilations(net, "layer3") == third
    assert dilations(net, "layer4") == fourth
    assert net.layer4[0].downsample[0].stride == (1, 1)


def test_multi_grid_reaches_both_blocks_of_a_two_block_stage():
    net = build("resnet18", 16, (2, 2, 4))
    assert [c.dilation[0] for b in net.layer4 for c in (b.conv1, b.conv2)] == [2, 4, 4, 4]


def test_a_plain_resnet_computes_what_torchvisions_computes():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = build("resnet50", 8).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)  # strict: the same names
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for mine, stage in zip(ours(x), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            y = stage(y)
            torch.testing.assert_close(mine, y)


@pytest.mark.parametrize(("side", "floor", "ceil"), [(64, 16, 17), (65, 17, 17), (224, 56, 57), (321, 81, 81)])
def test_ceil_mode_adds_a_row_when_the_stem_is_even(side, floor, ceil):
    x = torch.zeros(1, 3, side, side)
    for mode, want in ((False, floor), (True, ceil)):
        net = build("resnet18", ceil=mode).eval()
        with torch.no_grad():
            assert net.maxpool(net.conv1(x)).shape[-1] == want


@pytest.mark.parametrize(("name", "half"), [("resnet50s", 19), ("resnet101s", 19), ("resnet50", 17), ("resnet18", 21)])
def test_receptive_field_is_computed_from_the_modules(name, half):
    with torch.device("meta"):
        assert encoders.receptive_field(build(name)) == (half, 4)


@pytest.mark.parametrize(("name", "ceil"), [("resnet50s", False), ("resnet50s", True), ("resnet50", False)])
def test_receptive_field_is_the_support_of_the_gradient(name, ceil):
    torch.manual_seed(0)
    net = build(name, ceil=ceil).eval()
    half, stride = encoders.receptive_field(net)
    for p in net.parameters():
        p.data.abs_()  # no ReLU closes, so the whole support shows
    x = torch.rand(16, 3, 97, 97, requires_grad=True)  # many, as max-pool passes on one position each
    i, j = 12, 11
    net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))[:, :, i, j].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    columns = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (stride * i - half, stride * i + half)
    assert (columns.min().item(), columns.max().item()) == (stride * j - half, stride * j + half)


def test_receptive_field_of_another_encoder_is_refused():
    with pytest.raises(RecipeError, match="ResNet"):
        encoders.receptive_field(build("mobilenetv3_small_050"))


def test_any_timm_encoder_with_features_serves():
    torch.manual_seed(0)
    net, widths = encoders.build("mobilenetv3_small_050", 3, 16, None, False)
    maps = net.eval()(torch.zeros(1, 3, 65, 65))
    assert [m.shape[1] for m in maps] == list(widths)
    assert [m.shape[-1] for m in maps] == [17, 9, 5, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("vit_tiny_patch16_224", 3, 16, None, False), "output stride 16"),
        (("mobilenetv3_small_050", 3, 16, (2, 2, 4), False), "multi_grid"),
        (("mobilenetv3_small_050", 3, 16, None, True), "max-pool"),
        (("xception65", 3, 8, None, False), "output stride 16"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        encoders.build(*settings)


def test_encoders_start_from_the_global_generator_alone():
    torch.manual_seed(3)
    first = build("resnet18").state_dict()
    torch.manual_seed(3)
    again = build("resnet18").state_dict()
    other = build("resnet18").state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert first["layer1.0.bn2.weight"].eq(1).all()
