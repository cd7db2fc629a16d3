"""Two plug-ins on one host: together they keep the contract, each still acts, and their order is as documented."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from builders import CLASSES, progress
from pairs import METHODS, PLUGINS
from torch import Tensor

from ssbench import find
from ssbench.certify import checks
from ssbench.certify.pair import Pair, PluginSetup, observe_step
from ssbench.methods.hosting import Part, refused
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Plugin, Stack

HOSTS = ("fixmatch", "cutmix_seg")
"""Before the mixing and after it: where a teacher's statement meets `refine`."""
EXAMPLE = Path(__file__).parents[1] / "example_plugin" / "classwise.py"


def together(host: str, names: tuple[str, ...]) -> bool:
    method, parts = find.load("method", host), [find.load("plugin", name) for name in names]
    requested = [Part(name, cls, cls.Config()) for name, cls in zip(names, parts, strict=True)]
    return refused(host, method, method.Config(), requested) is None


STACKS = [(host, *two) for host in HOSTS for two in combinations(PLUGINS, 2) if together(host, two)]


def stacked(host: str, names: tuple[str, ...], folder: Path) -> Pair:
    return Pair.of(host, [find.load("plugin", name) for name in names], folder)


def silent(pair: Pair, which: int) -> Pair:
    """The pair with one of its plug-ins at strength zero."""
    setups = [
        replace(g, settings={**g.settings, **(g.cls.zero if k == which else {})}) for k, g in enumerate(pair.plugins)
    ]
    return replace(pair, plugins=tuple(setups))


def losses(pair: Pair) -> list[float]:
    return [terms["loss"] for terms in pair.start().train(3)]


def test_all_shipped_ones_can_be_stacked_but_on_themselves() -> None:
    assert len(STACKS) == len(HOSTS) * len(PLUGINS) * (len(PLUGINS) - 1) / 2
    assert not any(together("fixmatch", (name, name)) for name in PLUGINS)
    assert any(not together(method, ("s4mc", "ipixmatch")) for method in METHODS)


@pytest.mark.parametrize(("host", "first", "second"), STACKS)
def test_two_keep_the_contract(host: str, first: str, second: str, tmp_path: Path) -> None:
    pair = stacked(host, (first, second), tmp_path)
    seen = observe_step(pair)
    assert [check(seen) for check in (checks.step, checks.gradients, checks.teacher, checks.waits)] == [""] * 4
    assert checks.zero(pair, steps=4) == ""


@pytest.mark.parametrize(("host", "first", "second"), [one for one in STACKS if one[0] == "fixmatch"])
def test_each_acts_and_their_order_is_no_matter(host: str, first: str, second: str, tmp_path: Path) -> None:
    pair = stacked(host, (first, second), tmp_path)
    both = losses(pair)
    assert both != losses(silent(pair, 0)), f"{first} does nothing beside {second}"
    assert both != losses(silent(pair, 1)), f"{second} does nothing beside {first}"
    turned = replace(pair, plugins=pair.plugins[::-1])
    assert losses(turned)[0] == pytest.approx(both[0], rel=1e-5)


def test_a_stack_resumes(tmp_path: Path) -> None:
    pair = stacked("fixmatch", ("mpmc", "ipixmatch"), tmp_path)
    ran = checks.run_pair(pair)
    assert checks.loads(ran) == checks.resumes(ran) == checks.repeats(ran) == ""


def test_of_two_rules_for_the_same_pixels_the_later_stands() -> None:
    logits = torch.randn(2, CLASSES, 9, 9, generator=torch.Generator().manual_seed(0))
    pseudo, t = Pseudo.of(logits, torch.ones(2, 9, 9, dtype=torch.bool), 0.5), progress(5)

    def kept(*names: str) -> Tensor:
        plugins = [PluginSetup(find.load("plugin", name), {}).build() for name in names]
        return Stack(plugins).refine(pseudo, t).keep

    s4mc, mine = kept("s4mc"), kept(str(EXAMPLE))
    assert not torch.equal(s4mc, mine)
    assert torch.equal(kept("s4mc", str(EXAMPLE)), mine)
    assert torch.equal(kept(str(EXAMPLE), "s4mc"), s4mc)


class Absolute(Plugin):
    """Weighs every pixel by 3, and says that this scales the loss."""

    absolute = True

    def weigh(self, mixed: object, teach: object, t: object) -> Tensor:
        return torch.full((1, 2, 2), 3.0)


class Relative(Plugin):
    """Weighs four pixels by 1 to 4."""

    def weigh(self, mixed: object, teach: object, t: object) -> Tensor:
        return torch.arange(1.0, 5.0).view(1, 2, 2)


def test_weights_that_scale_the_loss_beside_others() -> None:
    def weights(*classes: type[Plugin]) -> Tensor:
        weight = Stack([cls(cls.Config(), 2) for cls in classes]).weigh(None, None, None)  # type: ignore[arg-type]
        assert weight is not None
        return weight.flatten()

    assert weights(Relative, Relative).tolist() == [1, 4, 9, 16]
    assert weights(Absolute, Absolute).tolist() == [9, 9, 9, 9]
    assert weights(Relative, Absolute).tolist() == pytest.approx([1.2, 2.4, 3.6, 4.8])  # 3 x (1, 2, 3, 4) / 2.5
    assert Stack([Relative(Relative.Config(), 2), Absolute(Absolute.Config(), 2)]).absolute
