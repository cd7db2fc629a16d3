"""Every method x plug-in pair: published by a paper, working here, or impossible, and why.

What is published is read off the shipped tables, what can work off the hooks themselves; nothing is listed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from ssbench import find
from ssbench.errors import SsbenchError
from ssbench.methods.hosting import Fit, fit, yaml
from ssbench.tables.cell import cells_of
from ssbench.tables.spec import PaperTable, table_names

PairState = Literal["published", "works", "impossible"]
Tables = Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class PluginPair:
    """One pair. published: a paper's table holds it (`tables`); works: the method calls the hooks the plug-in uses.

    fit: the settings it takes, or the reason why it is impossible. ours: both are part of ssbench, whose contract tests
    run the pair; for others `ssbench certify` does.
    """

    method: str
    plugin: str
    state: PairState
    fit: Fit
    tables: tuple[str, ...] = ()
    ours: bool = True

    @property
    def note(self) -> str:
        """What a person should know of it, in one line; "" for nothing."""
        if self.fit.reason:
            return self.fit.reason
        sections = [("method", self.fit.method), ("plugin", self.fit.plugin)]
        needs = [
            f"with {section}.{yaml(name, value)}" for section, fields in sections for name, value in fields.items()
        ]
        never = [f"not with method.{setting}" for setting in self.fit.never] if not self.fit.method else []
        own = [] if self.ours else [f"not in the suite's tests: ssbench certify {self.plugin}"]
        return ", ".join([*needs, *never, *own])

    def as_json(self) -> dict[str, Any]:
        """As `list plugins --matrix --json` has it."""
        return {
            "method": self.method,
            "plugin": self.plugin,
            "state": self.state,
            "reason": self.fit.reason,
            "tables": list(self.tables),
            "settings": {"method": dict(self.fit.method), "plugin": dict(self.fit.plugin)},
            "not_with": list(self.fit.never),
            "tested": self.ours,
        }


@dataclass(frozen=True)
class PluginMatrix:
    """All pairs, method by method. elsewhere: pairs of the tables whose method or plug-in is not here."""

    methods: tuple[str, ...]
    plugins: tuple[str, ...]
    pairs: Mapping[tuple[str, str], PluginPair]
    elsewhere: Tables = field(default_factory=dict)


def matrix(also: Sequence[str] = ()) -> PluginMatrix:
    """The pairs of every method and plug-in: ours, those of installed packages, and files of the user's (`also`)."""
    methods, plugins = find.names("method"), (*find.names("plugin"), *also)
    hosts = {name: _loaded("method", name) for name in methods}
    classes = {name: _loaded("plugin", name) for name in plugins}
    tables = published()
    pairs = {
        (host, name): _pair(host, name, hosts[host], classes[name], tables.get((host, name), ()))
        for host in methods
        for name in plugins
    }
    return PluginMatrix(methods, plugins, pairs, {pair: names for pair, names in tables.items() if pair not in pairs})


def published() -> Tables:
    """(method, plug-in) -> the papers' tables with a re-runnable row of it: comparisons (P) and ablations (A)."""
    tables: dict[tuple[str, str], dict[str, None]] = {}  # inner dict: a set that keeps its order
    for name in table_names():
        table = PaperTable.read(name)
        for cell in cells_of(table) if table.paper else ():
            if cell.role in ("P", "A") and cell.method and cell.plugin:
                tables.setdefault((cell.method, cell.plugin), {})[name] = None
    return {pair: tuple(names) for pair, names in tables.items()}


def _loaded(kind: Literal["method", "plugin"], name: str) -> type[Any] | str:
    """The class, or why it cannot be had: another package's fault shall not hide the other pairs."""
    try:
        cls = find.load(kind, name)
        find.own_name(cls)  # refuses settings that are no pydantic model
        return cls
    except SsbenchError as error:
        if name.endswith(".py"):  # asked for by the user
            raise
        return error.what


def _pair(
    host: str, name: str, method: type[Any] | str, plugin: type[Any] | str, tables: tuple[str, ...]
) -> PluginPair:
    if isinstance(method, str) or isinstance(plugin, str):
        answer = Fit(reason=method if isinstance(method, str) else str(plugin))
    else:
        try:
            answer = fit(method, plugin)
        except ValidationError as error:
            answer = Fit(reason=f"a setting has no default: {error.errors()[0]['loc']}")
    ours = find.is_ours("method", host) and find.is_ours("plugin", name)
    state: PairState = "impossible" if answer.reason else "published" if tables else "works"
    return PluginPair(host, name, state, answer, tables, ours)
