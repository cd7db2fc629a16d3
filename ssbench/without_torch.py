"""Lets the package's own classes be imported without torch, for a command that reads recipes and runs no network.

`ssbench check` needs the settings classes of methods, plug-ins and nets, and the names of their hooks. Importing torch,
torchvision and timm for that takes seconds. As Sphinx does for `autodoc_mock_imports`, stand-ins take the place of
these packages: names in capitals are empty classes, enough to derive from `nn.Module`; all other names can be called
and used as decorators. Computing with a stand-in fails.
"""

from __future__ import annotations

import sys
from collections.abc import MutableSequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HEAVY = ("torch", "torchvision", "timm")


class _StandIn(ModuleType):
    """A module, function or constant of a package that is not imported."""

    __path__: MutableSequence[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {}) if name[0].isupper() else _StandIn(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *args: Any, **_: Any) -> Any:
        """As a decorator the function itself, so that its signature stays; else a stand-in again."""
        return args[0] if args and callable(args[0]) else self


class _StandInFinder(MetaPathFinder, Loader):
    """Imports stand-ins for the heavy packages and every module of them."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        heavy = fullname.partition(".")[0] in HEAVY
        return ModuleSpec(fullname, self, is_package=True) if heavy else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def has_stand_ins() -> bool:
    """Whether this process imports stand-ins, and so cannot compute."""
    return any(isinstance(finder, _StandInFinder) for finder in sys.meta_path)


def import_stand_ins() -> None:
    """From now on this process imports stand-ins of the heavy packages; no effect where one is imported already.

    A module that has met a stand-in cannot compute any more, so this is for a process that ends without computing. It
    is for code of this package alone: a user's file may compute while it is imported.
    """
    if not any(name in sys.modules for name in HEAVY):
        sys.meta_path.insert(0, _StandInFinder())
