"""`schedule: {precision: fast}`: passes in bf16 where the processor has it, everything else in fp32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build, maker, tiny_net, unet
from pairs import METHODS, PAIRS
from running import TINY, Job, trainer_of

from ssbench import find
from ssbench.certify.pair import LATE, Pair
from ssbench.certify.small import progress
from ssbench.data.noise import batch_for
from ssbench.errors import Stopped
from ssbench.nets.precision import PassFormat, bf16_support, full
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import ScheduleConfig, load
from ssbench.train.distributed import SharedBatchNorm2d
from ssbench.train.precision import choose_computation, set_formats, tf32_as_chosen

CPU = torch.device("cpu")
BF16 = PassFormat(torch.bfloat16, channels_last=True)
"""What `fast` is on a processor with bf16. Without one torch computes the same, slowly."""
FAST = "schedule.precision=fast"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True}, False),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "avx512_vnni": True}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
    ],
)
def test_bf16_is_used_where_the_processor_multiplies_it(capabilities: Mapping[str, Any], expected: bool) -> None:
    assert bf16_support(CPU, capabilities) is expected


@pytest.mark.parametrize("has_bf16", [True, False])
def test_without_bf16_the_passes_are_fp32_with_channels_last(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssbench.train.precision.bf16_support", lambda device: has_bf16)
    fast = ScheduleConfig(epochs=1, labeled_batch=1, precision="fast")
    facts = choose_computation(fast, CPU).facts()
    assert facts == {
        "precision": "fast", "dtype": "bfloat16" if has_bf16 else "float32", "channels_last": True, "compile": False,
        "fused_optimizer": True, "tf32": {"products": True, "convolutions": True},
    }  # fmt: skip
    exact = choose_computation(replace_precision(fast), CPU).facts()
    assert (exact["dtype"], exact["channels_last"], exact["tf32"]["products"]) == ("float32", False, False)


def replace_precision(schedule: ScheduleConfig) -> ScheduleConfig:
    return schedule.model_copy(update={"precision": "exact"})


@pytest.mark.parametrize("kind", ["deeplab", "deeplab with all heads", "unet"])
def test_scores_leave_a_network_in_fp32_and_features_in_bf16(kind: str) -> None:
    net, x = net_of(kind), torch.randn(2, 1 if kind == "unet" else 3, 65, 65)
    exact = net.eval()(x)
    set_formats(net, BF16)
    out = net(x)
    scores = {name: getattr(out, name) for name in ("logits", "aux", "rep") if getattr(out, name) is not None}
    assert {value.dtype for value in scores.values()} == {torch.float32}
    assert out.feats["logits"].dtype == torch.float32
    assert out.feats["layer1"].dtype == torch.bfloat16
    assert full(out.feats["layer1"]).dtype == torch.float32
    for name, value in scores.items():
        whole = getattr(exact, name)
        assert (value - whole).abs().max() < 0.05 * whole.abs().max(), name
    agree = (out.logits.argmax(1) == exact.logits.argmax(1)).float().mean()
    assert agree > 0.97  # of an untrained net, whose classes are close to each other


def net_of(kind: str) -> SegNet:
    if kind == "unet":
        return unet()
    return tiny_net(**({"layout": "u2pl", "aux": True, "rep": True} if "heads" in kind else {}))


def test_exact_passes_and_their_bits_do_not_depend_on_the_wrapping() -> None:
    net, x = tiny_net().eval(), torch.randn(2, 3, 65, 65)
    assert torch.equal(net(x).logits, net._call_impl(x).logits)
    net.double()
    assert net(x.double()).logits.dtype == torch.float64  # tests in double precision stay in it


def test_parameters_statistics_updates_and_averages_stay_in_fp32() -> None:
    method = build("mean_teacher", consistency="hard")
    before = copy.deepcopy(method.state_dict())
    set_formats(method, BF16)
    optimizer, t = torch.optim.SGD(method.net.parameters(), lr=0.1, momentum=0.9, fused=True), progress(LATE)
    method(batch_for(method, t), t).loss.backward()
    assert {p.grad.dtype for p in method.net.parameters() if p.grad is not None} == {torch.float32}
    optimizer.step()
    method.after_step(t)
    kept = [value for value in method.state_dict().values() if isinstance(value, torch.Tensor)]
    kept += [state["momentum_buffer"] for state in optimizer.state.values()]
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}
    after = method.state_dict()
    assert list(after) == list(before)
    assert not torch.equal(after["net.backbone.bn1.running_mean"], before["net.backbone.bn1.running_mean"])


def test_a_network_copied_in_fast_computes_like_the_first() -> None:
    net, x = tiny_net().eval(), torch.randn(1, 3, 65, 65)
    set_formats(net, BF16)
    assert torch.equal(copy.deepcopy(net)(x).logits, net(x).logits)


def test_a_shared_batch_norm_takes_its_statistics_in_fp32() -> None:
    x = 30 + torch.randn(2, 8, 17, 17)
    alone, shared = torch.nn.BatchNorm2d(8), SharedBatchNorm2d.of(torch.nn.BatchNorm2d(8))
    for norm in (alone, shared):
        norm(x.bfloat16())
    assert shared.running_mean is not None
    assert alone.running_mean is not None
    assert shared.running_mean.dtype == torch.float32
    torch.testing.assert_close(shared.running_mean, alone.running_mean, rtol=1e-4, atol=1e-4)


HOSTED = {plugin: method for method, plugin in PAIRS}
"""Every plug-in on one of its hosts."""


@pytest.mark.parametrize(("method", "plugin"), [*((m, "") for m in METHODS), *((m, p) for p, m in HOSTED.items())])
def test_losses_of_fast_steps_are_those_of_exact_ones_but_for_rounding(
    method: str, plugin: str, tmp_path: Path
) -> None:
    pair = Pair.of(method, [find.load("plugin", plugin)] if plugin else [], tmp_path)
    exact, fast = pair.start(), pair.start()
    set_formats(fast.method, BF16)
    for a, b in zip(exact.train(3), fast.train(3), strict=True):
        assert a.keys() == b.keys()
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)


def test_the_switches_for_tf32_are_set_for_the_run_alone() -> None:
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    fast = choose_computation(ScheduleConfig(epochs=1, labeled_batch=1, precision="fast"), CPU)
    with tf32_as_chosen(fast):
        assert [switch.allow_tf32 for switch in switches] == [True, True]
    assert [switch.allow_tf32 for switch in switches] == before
    with tf32_as_chosen(replace(fast, tf32=(False, True))):
        assert [switch.allow_tf32 for switch in switches] == [False, True]


def test_a_fast_run_is_of_the_open_division_and_says_how_it_was_computed(toy: Path, tmp_path: Path) -> None:
    record = Job(toy, tmp_path, (*TINY, "schedule.epochs=1", FAST)).here()
    assert (record["division"], record["status"]) == ("open", "done")
    assert f"set {FAST}" in record["departures"]
    computation = record["computation"]
    assert computation["precision"] == "fast"
    assert computation["dtype"] == ("bfloat16" if bf16_support(CPU) else "float32")
    assert record["hardware"]["processor"]
    assert record["throughput"]["seconds_per_step"] > 0
    recipe = load("toy/none_unimatch", [FAST])
    assert recipe.division == "open"
    assert recipe.key("a", 0) != load("toy/none_unimatch").key("a", 0)


def test_an_exact_run_keeps_its_key_and_division() -> None:
    recipe = load("toy/none_unimatch")
    assert recipe.division == "closed"
    assert recipe.resolved()["schedule"]["precision"] == "exact"
    assert "compile" not in recipe.resolved()["schedule"]


def test_a_fast_run_that_was_stopped_ends_in_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    settings = (*TINY, "schedule.epochs=2", FAST)
    whole, parted = Job(toy, tmp_path / "a", settings), Job(toy, tmp_path / "b", settings)
    ends = [whole.here()]
    trainer = trainer_of(parted)
    step = trainer._step

    def stepping(batch: Any) -> None:
        step(batch)
        trainer.stop.is_requested = trainer.state.step == 5

    trainer._step = stepping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        trainer.train()
    ends.append(parted.here())
    assert ends[0]["history"] == ends[1]["history"]
    assert ends[0]["scores"] == ends[1]["scores"]
    for name in ("best.pt", "checkpoint.pt"):
        assert (whole.folder / name).read_bytes() == (parted.folder / name).read_bytes()


def test_networks_of_several_roles_share_the_format() -> None:
    method = build("u2pl", net=maker(layout="u2pl", aux=True, rep=True))
    set_formats(method, BF16)
    assert {net.format for net in method.modules() if isinstance(net, SegNet)} == {BF16}
