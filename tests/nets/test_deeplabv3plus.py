import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.heads import LAYOUTS
from ssbench.nets.segnet import resize

Config = DeepLabV3Plus.Config


def halves(net: DeepLabV3Plus, n: int, seed: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2, (n, d), generator=g) * 2.0 for d in net.perturb_channels]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(65, 65), (97, 65), (66, 71)])
def test_scores_have_the_input_size(make, layout, size):
    net = make(layout=layout).eval()
    with torch.no_grad():
        out = net(torch.randn(1, 3, *size))
    assert out.logits.shape == (1, 5, *size)
    assert (out.perturbed, out.aux, out.rep) == (None, None, None)


@pytest.mark.parametrize(("side", "fine", "coarse"), [(65, 17, 5), (97, 25, 7), (321, 81, 21)])
def test_taps_have_their_names_and_grids(make, side, fine, coarse):
    net = make().eval()
    with torch.no_grad():
        feats = net(torch.zeros(1, 3, side, side)).feats
    shapes = {name: tuple(f.shape[1:]) for name, f in feats.items()}
    middle = -(-fine // 2)
    assert shapes == {
        "layer1": (64, fine, fine),
        "layer2": (128, middle, middle),
        "layer3": (256, coarse, coarse),
        "layer4": (512, coarse, coarse),
        "penultimate": (256, fine, fine),
        "logits": (5, fine, fine),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_penultimate_map_gives_the_scores(make, x, layout):
    net = make(layout=layout).eval()
    with torch.no_grad():
        out = net(x)
        scores = net.classifier(out.feats["penultimate"])
    torch.testing.assert_close(out.feats["logits"], scores)
    torch.testing.assert_close(out.logits, resize(scores, (65, 65)))
    assert out.feats["penultimate"].min() >= 0  # after ReLU


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_perturbed_half_is_a_second_pass_through_the_decoder(make, x, layout):
    net = make(layout=layout).eval()
    drop = halves(net, 2)
    with torch.no_grad():
        plain, out = net(x), net(x, drop)
        low, deep = (plain.feats[k] * m[:, :, None, None] for k, m in zip(("layer1", "layer4"), drop, strict=True))
        again = resize(net.classifier(net.fuse(net.join(low, deep))), (65, 65))
    torch.testing.assert_close(out.logits, plain.logits)
    torch.testing.assert_close(out.perturbed, again)
    assert not torch.allclose(out.perturbed, out.logits)
    assert {k: f.shape for k, f in out.feats.items()} == {k: f.shape for k, f in plain.feats.items()}


def test_in_training_the_encoder_runs_once_and_the_decoder_once_on_twice_the_batch(make, x):
    net = make().train()
    seen: dict[str, list[int]] = {"backbone": [], "head": [], "fuse": [], "classifier": []}
    for name, batches in seen.items():
        net.get_submodule(name).register_forward_pre_hook(lambda _, args, b=batches: b.append(len(args[0])))
    net(x, halves(net, 2))
    assert seen == {"backbone": [2], "head": [4], "fuse": [4], "classifier": [4]}


def test_nearest_repeats_the_fine_scores_and_bilinear_interpolates(make, x):
    smooth, blocky = make().eval(), make(interpolation="nearest").eval()
    assert all(torch.equal(a, b) for a, b in zip(smooth.parameters(), blocky.parameters(), strict=True))
    with torch.no_grad():
        s, b = smooth(x), blocky(x)
    rows = (torch.arange(65) * 17) // 65  # floor(i * h / H)
    assert torch.equal(b.logits, b.feats["logits"][:, :, rows][:, :, :, rows])
    assert torch.equal(s.logits[:, :, 0, 0], s.feats["logits"][:, :, 0, 0])  # corners are aligned
    assert torch.equal(s.logits[:, :, ::4, ::4].round(decimals=4), s.feats["logits"].round(decimals=4))
    low, deep = s.feats["layer1"], s.feats["layer4"]
    assert not torch.allclose(smooth.join(low, deep), blocky.join(low, deep))  # also between ASPP and stage 1


@pytest.mark.parametrize(
    ("layout", "heads"),
    [(name, {}) for name in LAYOUTS] + [("u2pl", {"aux": True, "rep": True}), ("ael", {"aux": True})],
)
def test_gradient_reaches_every_parameter(make, x, layout, heads):
    net = make(layout=layout, **heads)
    out = net(x, halves(net, 2))
    loss = out.logits.square().mean() + out.perturbed.square().mean()
    for extra in (out.aux, out.rep):
        loss = loss + (0 if extra is None else extra.square().mean())
    loss.backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # BatchNorm over one pixel, two images: the pooled branch's gradients can vanish but for rounding
    assert [name for name in dead if "gap" not in name and "pool" not in name] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_auxiliary_and_representation_heads_answer_for_the_clean_images(make, x):
    net = make(layout="u2pl", aux=True, rep=True).eval()
    with torch.no_grad():
        out, both = net(x), net(x, halves(net, 2))
    assert out.aux.shape == (2, 5, 65, 65)
    assert out.rep.shape == (2, 256, 17, 17)
    torch.testing.assert_close(both.rep, out.rep)
    torch.testing.assert_close(both.aux, out.aux)


def test_leaving_heads_out_changes_no_other_weight(make):
    full, bare = make(layout="u2pl", aux=True, rep=True).state_dict(), make(layout="u2pl").state_dict()
    assert all(torch.equal(full[name], value) for name, value in bare.items())
    ael = make(layout="ael").state_dict()
    assert all(torch.equal(ael[name], value) for name, value in bare.items())


def test_parameters_split_into_encoder_and_the_rest(make):
    net = make(layout="u2pl", aux=True, rep=True)
    backbone, head = net.backbone_parameters(), net.head_parameters()
    assert {id(p) for p in backbone} == {id(p) for p in net.backbone.parameters()}
    assert len(backbone) + len(head) == len(list(net.parameters()))
    assert not {id(p) for p in backbone} & {id(p) for p in head}


def test_synchronised_batchnorm_replaces_every_one(shell):
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(shell("unimatch", "resnet101s", 19))
    assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in net.modules()) == 115


def test_a_grey_net_takes_one_channel():
    torch.manual_seed(0)
    net = DeepLabV3Plus(Config(encoder="resnet50s", weights="random"), 4, channels=1).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 1, 65, 65)).logits.shape == (1, 4, 65, 65)
    assert net.receptive_field() == (19, 4)
    assert net.perturb_channels == (256, 2048)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnet50z"}, "did you mean"),
        ({"layout": "unimatch", "aux": True}, "no aux head"),
        ({"layout": "ael", "rep": True}, "no rep head"),
        ({"output_strid": 16}, "output_strid"),
        ({"output_stride": 4}, "output_stride"),
        ({"aspp_rates": (6, 12)}, "aspp_rates"),
        ({"multi_grid": (0, 2, 4)}, "multi_grid"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_read(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def test_settings_are_frozen():
    cfg = Config()
    with pytest.raises(ValidationError):
        cfg.encoder = "resnet18"  # type: ignore[misc]
