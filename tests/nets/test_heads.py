"""Parameter counts, keys and shapes: every figure stands in the releases' own descriptions."""

import pytest
import torch
from torch import nn

from ssbench.nets.deeplabv3plus import WITH_AUX, WITH_REP
from ssbench.nets.heads import LAYOUTS, DecoderSize

COUNTS = [
    ("unimatch", "resnet50s", 19, "", 40_475_443),
    ("unimatch", "resnet50s", 21, "", 40_475_957),
    ("unimatch", "resnet50s", 81, "", 40_491_377),
    ("unimatch", "resnet101s", 19, "", 59_467_571),
    ("unimatch", "resnet101s", 21, "", 59_468_085),
    ("unimatch", "resnet101s", 81, "", 59_483_505),
    ("unimatch", "xception65", 81, "", 54_726_881),
    ("cps", "resnet50s", 21, "", 40_475_957),
    ("cps", "resnet50s", 19, "", 40_475_443),
    ("cps", "resnet101s", 21, "", 59_468_085),
    ("cps", "resnet101s", 19, "", 59_467_571),
    ("stpp", "resnet50", 21, "", 40_352_181),
    ("stpp", "resnet50", 19, "", 40_351_667),
    ("stpp", "resnet101", 21, "", 59_344_309),
    ("stpp", "resnet101", 19, "", 59_343_795),
    ("augseg", "resnet50s", 21, "", 40_476_005),
    ("augseg", "resnet50s", 19, "", 40_475_491),
    ("augseg", "resnet101s", 21, "", 59_468_133),
    ("augseg", "resnet101s", 19, "", 59_467_619),
    ("u2pl", "resnet101s", 21, "rep", 64_459_989),
    ("u2pl", "resnet101s", 21, "", 62_623_189),
    ("u2pl", "resnet101s", 19, "rep aux", 66_824_422),
    ("u2pl", "resnet101s", 19, "aux", 64_987_622),
    ("u2pl", "resnet50s", 21, "rep", 45_467_861),
    ("u2pl", "resnet50s", 21, "", 43_631_061),
    ("u2pl", "resnet50s", 19, "rep aux", 47_832_294),
    ("u2pl", "resnet50s", 19, "aux", 45_995_494),
    ("ael", "resnet50s", 21, "aux", 45_996_522),
    ("ael", "resnet50s", 19, "aux", 45_995_494),
    ("ael", "resnet101s", 21, "aux", 64_988_650),
    ("ael", "resnet101s", 19, "aux", 64_987_622),
]
PARTS = [
    ("cps", 21, ("head", "reduce", "fuse"), 16_838_752),
    ("cps", 21, ("classifier",), 5_397),
    ("cps", 19, ("classifier",), 4_883),
    ("unimatch", 19, ("head", "reduce", "fuse", "classifier"), 16_843_635),
    ("unimatch", 21, ("head", "reduce", "fuse", "classifier"), 16_844_149),
    ("augseg", 21, ("head", "reduce", "fuse", "classifier"), 16_844_197),
    ("augseg", 19, ("head", "reduce", "fuse", "classifier"), 16_843_683),
    ("u2pl", 21, ("head", "reduce", "fuse", "classifier", "rep"), 21_836_053),
    ("u2pl", 19, ("head", "reduce", "fuse", "classifier", "rep"), 21_835_539),
    ("u2pl", 19, ("rep",), 1_836_800),
    ("u2pl", 19, ("aux",), 2_364_947),
    ("ael", 21, ("head", "reduce", "fuse", "classifier"), 19_999_253),
    ("ael", 19, ("head", "reduce", "fuse", "classifier"), 19_998_739),
    ("ael", 21, ("aux",), 2_365_461),
]


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("layout", "encoder", "classes", "heads", "count"), COUNTS)
def test_a_layout_has_the_published_number_of_parameters(shell, layout, encoder, classes, heads, count):
    net = shell(layout, encoder, classes, **dict.fromkeys(heads.split(), True))
    assert size(net) == count


@pytest.mark.parametrize(("layout", "classes", "names", "count"), PARTS)
def test_the_parts_of_a_decoder_have_the_published_numbers(layout, classes, names, count):
    with torch.device("meta"):
        parts = LAYOUTS[layout](DecoderSize(256, 1024, 2048, classes, (6, 12, 18), "bilinear"))
    assert sum(size(getattr(parts, name)) for name in names) == count


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_offer_exactly_the_heads_a_layout_builds(layout):
    with torch.device("meta"):
        parts = LAYOUTS[layout](DecoderSize(256, 1024, 2048, 5, (6, 12, 18), "bilinear"))
    assert (parts.aux is not None, parts.rep is not None) == (layout in WITH_AUX, layout in WITH_REP)


@pytest.mark.parametrize(
    ("encoder", "parameters", "norms", "entries"),
    [("resnet50s", 194, 64, 386), ("resnet101s", 347, 115, 692), ("xception65", 425, 141, 848)],
)
def test_the_unimatch_net_has_the_published_number_of_tensors(shell, encoder, parameters, norms, entries):
    net = shell("unimatch", encoder, 81)
    assert len(list(net.parameters())) == parameters
    assert len(net.state_dict()) == entries
    assert sum(type(m) is nn.BatchNorm2d for m in net.modules()) == norms  # plain, so SyncBN can replace each


def bn(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    entries = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{e}": (channels,) for e in entries} | {f"{name}.num_batches_tracked": ()}


def official(blocks: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """The released UniMatch state: names and shapes, written out from the release, not from our modules."""
    b = "backbone."
    table = {f"{b}conv1.0.weight": (64, 3, 3, 3), f"{b}conv1.3.weight": (64, 64, 3, 3)}
    table |= (
        {f"{b}conv1.6.weight": (128, 64, 3, 3)} | bn(f"{b}conv1.1", 64) | bn(f"{b}conv1.4", 64) | bn(f"{b}bn1", 128)
    )
    inputs = 128
    for stage, (count, p) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for i in range(count):
            at = f"{b}layer{stage}.{i}."
            table |= {f"{at}conv1.weight": (p, inputs, 1, 1), f"{at}conv2.weight": (p, p, 3, 3)}
            table |= {f"{at}conv3.weight": (4 * p, p, 1, 1)}
            table |= bn(f"{at}bn1", p) | bn(f"{at}bn2", p) | bn(f"{at}bn3", 4 * p)
            if i == 0:
                table |= {f"{at}downsample.0.weight": (4 * p, inputs, 1, 1)} | bn(f"{at}downsample.1", 4 * p)
            inputs = 4 * p
    table |= {"head.b0.0.weight": (256, 2048, 1, 1)} | bn("head.b0.1", 256)
    for branch in ("b1", "b2", "b3"):
        table |= {f"head.{branch}.0.weight": (256, 2048, 3, 3)} | bn(f"head.{branch}.1", 256)
    table |= {"head.b4.gap.1.weight": (256, 2048, 1, 1)} | bn("head.b4.gap.2", 256)
    table |= {"head.project.0.weight": (256, 1280, 1, 1)} | bn("head.project.1", 256)
    table |= {"reduce.0.weight": (48, 256, 1, 1)} | bn("reduce.1", 48)
    table |= (
        {"fuse.0.weight": (256, 304, 3, 3), "fuse.3.weight": (256, 256, 3, 3)} | bn("fuse.1", 256) | bn("fuse.4", 256)
    )
    return table | {"classifier.weight": (classes, 256, 1, 1), "classifier.bias": (classes,)}


@pytest.mark.parametrize(("encoder", "blocks"), [("resnet50s", (3, 4, 6, 3)), ("resnet101s", (3, 4, 23, 3))])
def test_keys_and_shapes_are_those_of_the_official_unimatch_files(shell, encoder, blocks):
    net = shell("unimatch", encoder, 21)
    assert {name: tuple(v.shape) for name, v in net.state_dict().items()} == official(blocks, 21)


def test_cps_draws_its_head_kaiming_normal_by_fan_in():
    torch.manual_seed(0)
    parts = LAYOUTS["cps"](DecoderSize(64, 256, 512, 21, (6, 12, 18), "bilinear"))
    for conv in (parts.head.map_convs[1], parts.fuse[0], parts.classifier):
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("layout", "first"), [("unimatch", "low"), ("stpp", "low"), ("augseg", "low"), ("u2pl", "low"), ("cps", "deep")]
)
def test_the_join_has_the_released_order(make, layout, first):
    net = make(layout=layout, weights="random").eval()
    low, deep = torch.randn(1, 64, 17, 17), torch.randn(1, 512, 5, 5)
    joined = net.join(low, deep)
    changed = (net.join(low + 1, deep) != joined).flatten(2).any(2)[0]  # by channel
    low_width = net.reduce[0].out_channels
    where = slice(None, low_width) if first == "low" else slice(-low_width, None)
    assert changed[where].any()
    assert changed.sum() == changed[where].sum()


@pytest.mark.parametrize(("layout", "first"), [("unimatch", False), ("stpp", False), ("augseg", True), ("u2pl", True)])
def test_the_pooled_branch_has_the_released_place(make, layout, first):
    head = make(layout=layout).eval().head
    seen: list[torch.Tensor] = []
    head.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    head(torch.randn(1, 512, 5, 5))
    width = seen[0].shape[1] // 5
    flat = (seen[0] == seen[0][:, :, :1, :1]).flatten(2).all(2)[0].view(5, width).all(1)  # constant over the grid
    assert flat.tolist() == ([True] + [False] * 4 if first else [False] * 4 + [True])


DROPS = {
    "unimatch": [],
    "augseg": [],
    "cps": [],
    "stpp": [(nn.Dropout, 0.1), (nn.Dropout2d, 0.5)],
    "u2pl": [(nn.Dropout2d, 0.1)] * 3,
}


@pytest.mark.parametrize(("layout", "drops"), DROPS.items())
def test_dropout_is_where_the_release_has_it(shell, layout, drops):
    net = shell(layout, "resnet50s", 5)
    dropouts = [(type(m), m.p) for m in net.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert sorted(dropouts, key=str) == sorted(drops, key=str)
