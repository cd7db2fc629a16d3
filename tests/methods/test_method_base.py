"""What methods share: losses by name, cutting outputs, labelling in either mode."""

from __future__ import annotations

import pytest
import torch
from builders import build, make_batch, tiny_net

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import (
    LossConfig,
    Losses,
    frozen_copy,
    frozen_forward,
    labels_of,
    mean,
    parts,
    quality,
    streams,
)
from ssbench.nets.segnet import Out
from ssbench.ops import losses
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 6, 6, generator=G)
LABEL = torch.randint(4, (2, 6, 6), generator=G)
KEEP, VALID, TRUSTED = (torch.rand(2, 6, 6, generator=G) < share for share in (0.4, 0.8, 0.2))
SAID = Pseudo(LABEL, torch.ones(2, 6, 6), KEEP, VALID)


@pytest.mark.parametrize("kind", ["ce", "ohem", "ce_dice"])
def test_supervised_losses_by_name(kind: str) -> None:
    mining = {"ohem_threshold": 0.3, "ohem_min_kept": 10} if kind == "ohem" else {}
    given = Losses(LossConfig(supervised=kind, **mining))
    expected = {
        "ce": losses.cross_entropy(LOGITS, LABEL),
        "ohem": losses.ohem(LOGITS, LABEL, 0.3, 10, 2),
        "ce_dice": losses.ce_dice(LOGITS, LABEL),
    }
    assert given.supervised(LOGITS, LABEL) == expected[kind]


def test_pseudo_losses_by_name() -> None:
    over_valid, over_kept, dice = (
        Losses(LossConfig(**c)).pseudo(LOGITS, SAID) for c in ({}, {"pseudo_over": "kept"}, {"pseudo": "dice"})
    )
    assert over_valid == losses.pseudo_cross_entropy(LOGITS, LABEL, KEEP, VALID)
    assert over_kept.item() == pytest.approx(
        over_valid.item() * VALID.sum().item() / (KEEP & VALID).sum().item(), rel=1e-5
    )
    assert dice == losses.dice(LOGITS, LABEL, KEEP & VALID)


@pytest.mark.parametrize("settings", [{}, {"pseudo_over": "kept"}, {"pseudo": "dice"}])
def test_pasted_ground_truth_passes_every_rule(settings: dict[str, str]) -> None:
    given = Losses(LossConfig(**settings))
    trusting = Pseudo(LABEL, SAID.conf, KEEP, VALID, trusted=TRUSTED)
    kept = Pseudo(LABEL, SAID.conf, KEEP | TRUSTED, VALID)
    assert given.pseudo(LOGITS, trusting) == given.pseudo(LOGITS, kept)
    assert given.pseudo(LOGITS, trusting) != given.pseudo(LOGITS, SAID)


def test_parts_cut_everything_an_output_holds() -> None:
    whole = Out(LOGITS, 2 * LOGITS, {"layer1": torch.arange(2.0)[:, None, None, None]}, 3 * LOGITS, 4 * LOGITS)
    first, second = parts(whole, [1, 1])
    for k, part in enumerate((first, second)):
        row = LOGITS[k : k + 1]
        assert torch.equal(part.logits, row)
        for factor, value in ((2, part.perturbed), (3, part.aux), (4, part.rep)):
            assert value is not None
            assert torch.equal(value, factor * row)
        assert part.feats["layer1"].item() == k
    sizes = [len(part.logits) for part in parts(Out(torch.randn(5, 2, 1, 1)), [2, 0, 3])]
    assert sizes == [2, 0, 3]


@pytest.mark.parametrize("train_mode", [True, False])
@pytest.mark.parametrize("was", [True, False])
def test_labelling_leaves_the_mode_as_it_was_and_no_gradient(train_mode: bool, was: bool) -> None:
    net = tiny_net().train(was)
    x, valid = torch.randn(2, 3, 33, 33, generator=G), torch.ones(2, 33, 33, dtype=torch.bool)
    before = net.backbone.bn1.running_mean.clone()
    pseudo = labels_of(net, x, valid, 0.3, train_mode)
    assert all(module.training is was for module in net.modules())
    assert not pseudo.soft.requires_grad
    assert {"layer1", "penultimate"} <= set(pseudo.feats)
    assert torch.equal(net.backbone.bn1.running_mean, before) is not train_mode


def test_a_frozen_copy_shares_nothing_and_a_frozen_forward_leaves_no_trace() -> None:
    net = tiny_net()
    copied = frozen_copy(net)
    assert not any(p.requires_grad for p in copied.parameters())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in net.parameters())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    out = frozen_forward(net)(torch.randn(2, 3, 33, 33))
    assert not out.logits.requires_grad
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_identitys_scale_leaves_the_very_tensor() -> None:
    host = torch.tensor(2.0)
    assert build("supervised")._finish(LossScale(), lambda _: host, {}).loss is host


def test_a_plugin_scales_the_host_and_its_unlabelled_terms_and_adds_its_own() -> None:
    extra = {"a": torch.tensor(3.0), "b": torch.tensor(4.0)}
    sup, unsup = torch.tensor(2.0, requires_grad=True), torch.tensor(8.0)
    step = build("supervised")._finish(LossScale(0.5, 0.25), lambda u: sup + u * unsup, extra, sup=sup)
    assert step.loss.item() == 0.5 * (2 + 0.25 * 8) + 3 + 4
    assert {name: term.item() for name, term in step.terms.items()} == {"sup": 2, "a": 3, "b": 4}
    assert not step.terms["sup"].requires_grad


def test_the_mean_of_scalars() -> None:
    assert mean([torch.tensor(1.0), torch.tensor(4.0)]).item() == 2.5


def test_the_quality_of_pseudo_labels_is_counted_on_valid_pixels_whose_label_is_known() -> None:
    """Six pixels: one padded, one of unknown label; three kept, of them two known and one right."""
    label = torch.tensor([[[0, 1, 2, 0, 1, 2]]])
    keep, valid = torch.tensor([[[1, 1, 1, 0, 0, 1]]]).bool(), torch.tensor([[[1, 1, 1, 1, 1, 0]]]).bool()
    pseudo = Pseudo(label, torch.ones(1, 1, 6), keep, valid)
    truth = torch.tensor([[[0, 2, 255, 0, 0, 2]]])
    result = {name: value.item() for name, value in quality(pseudo, truth).items()}
    assert result == pytest.approx({"kept": 3 / 5, "known": 2 / 4, "right": 1 / 4})
    assert quality(pseudo.with_carry(truth=truth)).keys() == result.keys()
    assert quality(pseudo).keys() == {"kept"}


def test_a_batch_without_a_partner_is_refused() -> None:
    batch = make_batch(Needs(strong=1, partner="same"))
    assert streams(batch) == (batch.labeled, batch.unlabeled, batch.partner)
    with pytest.raises(ValueError, match="partner"):
        streams(Batch(batch.labeled, batch.unlabeled))
    with pytest.raises(ValueError, match="unlabelled"):
        build("mean_teacher")(Batch(batch.labeled), None)
