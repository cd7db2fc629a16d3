"""The plug-in contract: hooks found by name, misuse refused, several plug-ins on one host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import progress
from torch import Tensor, nn

from ssbench.data.batch import Batch, Labeled
from ssbench.errors import RecipeError
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import HOOKS, LossScale, MixedView, Plugin, PluginConfig, PrepareInputs, Stack, StepOutputs

T = progress()
LOGITS = torch.randn(1, 3, 2, 2)
PSEUDO = Pseudo.of(LOGITS, torch.ones(1, 2, 2, dtype=torch.bool), 0.5)
IMAGE = torch.zeros(1, 3, 2, 2)
BATCH = Batch(Labeled(IMAGE, torch.zeros(1, 2, 2, dtype=torch.int64), ("a",)))
MIXED = MixedView(IMAGE, PSEUDO, IMAGE)
SEEN = StepOutputs(BATCH, Out(LOGITS), (), SegNet(), lambda x: Out(x))


class Weigher(Plugin):
    """Weighs every pixel alike."""

    class Config(PluginConfig):
        """Settings."""

        weight: float = 2.0

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        return torch.full_like(mixed.pseudo.conf, self.cfg.weight)


class Keeper(Plugin):
    """Keeps nothing, slows the host down, and adds a term."""

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        return pseudo.with_carry(seen=pseudo.conf + len(pseudo.carry))

    def scale(self, t: Progress) -> LossScale:
        return LossScale(0.5, unlabeled=t.epoch > 0)

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {"term": torch.tensor(1.0)}

    def extras(self, net: SegNet) -> nn.ModuleDict:
        return nn.ModuleDict({"head": nn.Linear(2, 1)})


class Mixer(Plugin):
    """Trains on the same view twice."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        return [*host(), *host()]


def plain(cls: type[Plugin] = Plugin) -> Plugin:
    return cls(cls.Config(), 3)


def test_the_base_changes_nothing() -> None:
    identity = plain()
    assert identity.needs == frozenset()
    assert identity.refine(PSEUDO, T) is PSEUDO
    host = [MIXED]
    assert identity.mix(lambda: host, BATCH, PSEUDO, T) is host
    assert identity.weigh(MIXED, lambda x: Out(x), T) is None
    assert identity.loss(SEEN, T) == {}
    assert identity.scale(T) == LossScale(1.0, unlabeled=True)
    assert len(identity.extras(SegNet())) == 0
    assert not identity.state_dict()


def test_a_plugin_needs_the_hooks_it_overrides() -> None:
    assert Weigher.needs == {"weigh"}
    assert Keeper.needs == {"refine", "scale", "loss", "extras"}


def test_hooks_of_a_parent_are_needed_too() -> None:
    class Child(Weigher):
        def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
            return {}

    assert Child.needs == {"weigh", "loss"}


@pytest.mark.parametrize("name", ["refin", "forward", "on_step_end"])
def test_a_public_method_that_is_no_hook_is_refused_when_the_class_is_made(name: str) -> None:
    with pytest.raises(RecipeError, match=name) as error:
        type("Wrong", (Plugin,), {name: lambda self: None})
    assert "refine" in error.value.fix


def test_private_methods_settings_and_properties_are_welcome() -> None:
    class Fine(Plugin):
        zero: Mapping[str, Any] = {"a": 0}

        class Config(PluginConfig):
            a: int = 1

        def _helper(self) -> int:
            return 1

        @property
        def size(self) -> int:
            return 1

    assert Fine.needs == frozenset()


def test_every_hook_is_a_method_of_the_base() -> None:
    assert all(callable(getattr(Plugin, hook)) for hook in HOOKS)


def test_settings_are_frozen_and_refuse_unknown_names() -> None:
    with pytest.raises(ValueError, match="extra"):
        Weigher.Config(wieght=1.0)
    with pytest.raises(ValueError, match="frozen"):
        Weigher.Config().weight = 3.0


def test_an_empty_stack_changes_nothing() -> None:
    stack = Stack([])
    assert stack.refine(PSEUDO, T) is PSEUDO
    assert stack.weigh(MIXED, lambda x: Out(x), T) is None
    assert (stack.scale(T), stack.loss(SEEN, T), stack.needs) == (LossScale(), {}, frozenset())


def test_a_stack_joins_its_parts() -> None:
    stack = Stack([plain(Weigher), plain(Keeper), plain(Keeper), plain(Weigher)])
    assert stack.needs == {"weigh", "refine", "scale", "loss", "extras"}
    weight = stack.weigh(MIXED, lambda x: Out(x), T)
    assert weight is not None
    assert (weight == 4).all()
    assert stack.scale(T) == LossScale(0.25, unlabeled=False)
    assert stack.scale(progress(step=10)) == LossScale(0.25, unlabeled=True)
    assert list(stack.loss(SEEN, T)) == ["term", "term_2"]
    assert torch.equal(stack.refine(PSEUDO, T).carry["seen"], PSEUDO.conf + 1)  # the second saw what the first left
    assert sorted(stack.extras(SegNet())) == ["1_head", "2_head"]
    assert [m.images is IMAGE for m in stack.mix(lambda: [MIXED], BATCH, PSEUDO, T)] == [True]


def test_the_one_mixer_of_a_stack_mixes() -> None:
    stack = Stack([plain(Weigher), plain(Mixer)])
    assert len(stack.mix(lambda: [MIXED], BATCH, PSEUDO, T)) == 2


def test_a_stack_prepares_all_and_saves_all(tmp_path: Path) -> None:
    class Counts(Plugin):
        def __init__(self, cfg: PluginConfig, classes: int) -> None:
            super().__init__(cfg, classes)
            self.register_buffer("count", torch.zeros(()))

        def prepare(self, run: PrepareInputs) -> None:
            self.count += 1

    stack = Stack([plain(Counts), plain(Counts)])
    nothing: Any = PrepareInputs(3, (), (), lambda _: IMAGE, lambda _: IMAGE, tmp_path, 0, lambda items, _: items)
    stack.prepare(nothing)
    assert {k: v.item() for k, v in stack.state_dict().items()} == {"parts.0.count": 1.0, "parts.1.count": 1.0}
