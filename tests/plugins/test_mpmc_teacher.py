"""MPMC's teacher side: whose classifier judges, and in which direction; hosts without unlabelled images."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from builders import CLASSES, batch_for, build, plugin, progress, train
from ran import SMALL

from ssbench.ops.progress import Progress
from ssbench.plugins.base import StepOutputs
from ssbench.plugins.mpmc import MPMC
from ssbench.recipe.recipe import load


def small(**settings: Any) -> MPMC:
    made = plugin("mpmc", widest=16, **settings)
    assert isinstance(made, MPMC)
    return made


class Recalling(MPMC):
    """Keeps what the classifier was when each step began."""

    def __init__(self, cfg: MPMC.Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self._kept: list[dict[str, torch.Tensor]] = []

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, torch.Tensor]:
        self._kept.append(copy.deepcopy(self._classifier[0].state_dict()))
        return super().loss(seen, t)


def test_the_copy_is_the_moving_average_of_what_each_step_left() -> None:
    """0.6 after a start without memory, like the hosts' own teachers: min(1 - 1/(s + 1), 0.6)."""
    chosen = Recalling(Recalling.Config(widest=16, teacher_module="ema", ema=0.6), CLASSES)
    train(build("fixmatch", chosen), 6)
    assert chosen.teacher is not None
    left = chosen._kept[1:]  # what step s left is what step s + 1 found; batch statistics move within a step as well
    for name, value in chosen.teacher.state_dict().items():
        if "running" in name or "batches" in name:
            continue
        expected = left[0][name]
        for s, now in enumerate(left[1:], 1):
            decay = min(1 - 1 / (s + 1), 0.6)
            expected = decay * expected + (1 - decay) * now[name]
        assert torch.allclose(value, expected, atol=1e-6), name
        assert not torch.equal(value, left[-1][name]) or not value.is_floating_point(), name


def test_the_copy_judges_and_takes_no_gradient() -> None:
    chosen = small(teacher_module="ema", warmup_epochs=0)
    method = build("fixmatch", chosen)
    assert chosen.teacher is not None
    t = progress(0)
    features = torch.rand(1, method.net.perturb_channels[0], 9, 9)
    chosen._start_step(t)
    with torch.no_grad():
        for p in chosen._classifier[0].parameters():
            p.mul_(2)
    shared = small()
    shared._classifier = [chosen.teacher]
    assert torch.equal(chosen._judge(features)[1], shared._judge(features)[1])
    method(batch_for(method, t), t).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in chosen.teacher.parameters())
    assert any(name.startswith("plugin.teacher.") for name in method.state_dict())


@pytest.mark.parametrize("host", ["fixmatch", "u2pl"])
def test_the_copy_is_saved_and_goes_on(host: str) -> None:
    """U2PL's warm-up weighs nothing; the copy follows all the same."""

    def made() -> Any:
        return build(host, small(teacher_module="ema"))

    whole, half, other = made(), made(), made()
    expected = train(whole, 6)
    train(half, 4)
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    again = train(other, 1, start=4)  # the optimiser is new: compare what one step says
    assert again[0] == expected[4]


def test_both_directions_of_cps_are_weighed() -> None:
    """With two equal networks the two patch losses are equal; they were not while the first call forgot the weights."""
    method = build("cps", small(warmup_epochs=0)).eval()
    method.second.load_state_dict(method.net.state_dict())  # type: ignore[union-attr, operator]
    t = progress(25)
    terms = method(batch_for(method, t), t).terms
    assert terms["mpmc_u"].item() == terms["mpmc_u_2"].item() > 0


@pytest.mark.parametrize("settings", [{"alpha": 0.25}, {"loss_form": "code"}, {"normalise": "none"}])
def test_the_sum_is_the_printed_one(settings: dict[str, Any]) -> None:
    """L_l + L^M_l + alpha L_u + beta L^M_u on a host that halves its own two; over 3.3 in the code's form."""
    method = build("fixmatch", small(warmup_epochs=0, **settings), threshold=0.3)
    t = progress(25)
    made = method(batch_for(method, t), t)
    host = (made.terms["sup"] + settings.get("alpha", 1.0) * made.terms["s"]) / 2
    host = host * (2 / 3.3 if "loss_form" in settings else 1.0)
    assert made.loss.item() == pytest.approx((host + made.terms["mpmc_l"] + made.terms["mpmc_u"]).item())


def test_literal_weights_shrink_the_unlabelled_loss() -> None:
    """Three of four classes at 0 and one at 1 weigh 0.1749 and 0.4754 at most (C = 4): about a quarter is left."""
    found = {}
    for normalise in ("mean", "none"):
        method = build("fixmatch", small(warmup_epochs=0, normalise=normalise), threshold=0.3)
        t = progress(25)
        found[normalise] = method(batch_for(method, t), t).terms["s"].item()
    assert 0.17 < found["none"] / found["mean"] < 0.48


def test_labelled_patches_alone_need_no_unlabelled_images() -> None:
    """Table 5: a supervised host."""
    method = build("supervised", small(unlabelled=False))
    terms = train(method, 3)[-1]
    assert set(terms) == {"loss", "sup", "mpmc_l"}
    assert terms["loss"] == pytest.approx(terms["sup"] + terms["mpmc_l"])


def test_a_recipe_may_ask_for_it(tmp_path: Any) -> None:
    text = SMALL.replace("fixmatch", "supervised").replace("{name: s4mc}", "{name: mpmc, unlabelled: false}")
    (tmp_path / "mine.yaml").write_text(text.replace("unlabeled_batch: 4", "unlabeled_batch: 0"))
    assert load(str(tmp_path / "mine.yaml")).plugins[0].labelled


def test_settings_that_came_later_leave_the_keys_of_stored_runs_alone() -> None:
    usual, other = load("toy/mpmc_unimatch"), load("toy/mpmc_unimatch", ["plugin.teacher_module=ema"])
    assert not {"teacher_module", "ema", "normalise"} & set(usual.resolved()["plugin"][0])
    assert other.resolved()["plugin"][0]["teacher_module"] == "ema"


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("target", ["pooled", "soft"])
def test_every_target_in_every_variant_trains_the_classifier(variant: str, target: str) -> None:
    method = build("unimatch", small(variant=variant, patch_target=target, labelled=False, warmup_epochs=0))
    t = progress(5)
    method(batch_for(method, t), t).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.extras.parameters())
