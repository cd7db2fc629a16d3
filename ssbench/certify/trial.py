"""A plug-in on trial: every check on every method that can host it, and the certificate that comes of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ssbench import find
from ssbench.certify import CHECKS, checks
from ssbench.certify.pair import Pair, observe_step
from ssbench.errors import RecipeError
from ssbench.methods.hosting import fit, yaml
from ssbench.ops.draws import TORCH
from ssbench.plugins.base import Plugin
from ssbench.plugins.promises import PluginFault

CheckState = Literal["passed", "failed", "not seen", "not declared", "not asked", "not tried"]
FAULTS = (Exception, SystemExit)
"""What a user's code may raise; `sys.exit` would end the command with exit code 0."""


@dataclass(frozen=True)
class Check:
    """How one check ended, and what is wrong.

    not seen: no effect, which is no fault. not declared: the plug-in names no strength zero. not asked: it makes no
    sense here. not tried: the check it builds on failed.
    """

    state: CheckState
    why: str = ""


@dataclass(frozen=True)
class Trial:
    """The checks of a plug-in on one method. refused: why the method cannot host it, "" if it can.

    settings: those of both that the pair takes, where defaults would not do, as a recipe has them.
    """

    host: str
    refused: str = ""
    settings: tuple[str, ...] = ()
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, str]:
        """Check -> what is wrong."""
        return {name: check.why for name, check in self.checks.items() if check.state == "failed"}

    @property
    def state(self) -> Literal["impossible", "failed", "passed"]:
        """The verdict in one word."""
        return "impossible" if self.refused else "failed" if self.failed else "passed"


@dataclass(frozen=True)
class Certificate:
    """The trials of a plug-in, its hooks, its settings at strength zero, and whether its settings are strict."""

    plugin: str
    hooks: tuple[str, ...]
    zero: dict[str, Any]
    settings: Check
    trials: tuple[Trial, ...]

    @property
    def certified(self) -> bool:
        """Whether some method hosts it and no check failed; `zero` counts only where the plug-in declares one."""
        states = {trial.state for trial in self.trials}
        return self.settings.state == "passed" and "passed" in states and "failed" not in states

    def as_json(self) -> dict[str, Any]:
        """The object of `certify --json`."""
        hosts = [
            {"host": t.host, "state": t.state, "reason": t.refused, "settings": list(t.settings),
             "checks": {name: asdict(check) for name, check in t.checks.items()}}
            for t in self.trials
        ]  # fmt: skip
        return {
            "plugin": self.plugin,
            "certified": self.certified,
            "hooks": list(self.hooks),
            "zero": self.zero or None,
            "settings": asdict(self.settings),
            "hosts": hosts,
        }


def certify(name: str, hosts: Iterable[str]) -> Certificate:
    """Every check of a plug-in (a name, or a user's file) on some methods.

    Raises:
        RecipeError: no such plug-in or method, one that cannot be imported, or a plug-in without a name.
    """
    plugin, trials = find.load("plugin", name), []
    find.own_name(plugin)  # without one no recipe can ask for it
    strict = _checked(lambda: checks.settings(plugin, name))
    for host in hosts if strict.state == "passed" else ():
        trials.append(_try_on(host, find.load("method", host), plugin))
    return Certificate(name, tuple(sorted(plugin.needs)), dict(plugin.zero), strict, tuple(trials))


def _try_on(host: str, method: type[Any], plugin: type[Plugin]) -> Trial:
    """Every check of a plug-in on one method."""
    fitting = fit(method, plugin)
    if fitting.reason:
        return Trial(host, refused=fitting.reason)
    with TemporaryDirectory(prefix="ssbench-certify-") as folder:
        pair = Pair.of(host, [plugin], Path(folder))
        try:
            pair.start()
        except RecipeError as error:
            return Trial(host, refused=error.what)
        except FAULTS as error:
            return Trial(host, checks={**_not_tried(), "step": Check("failed", _described(error))})
        changed = [("method", fitting.method), ("plugin", fitting.plugin)]
        lines = tuple(f"{section}.{yaml(k, v)}" for section, values in changed for k, v in values.items())
        return Trial(host, settings=lines, checks=contract(pair))


def contract(pair: Pair) -> dict[str, Check]:
    """Every check of a pair, or of a method alone. Those of whole runs are tried only where a step works."""
    results = {**_not_tried(), **_of_one_step(pair)}
    if results["step"].state == "failed":
        return results
    try:
        run = checks.run_pair(pair)
    except FAULTS as error:
        return {**results, "step": Check("failed", f"after {checks.BEFORE} steps at most: {_described(error)}")}
    results["safe load"] = _checked(lambda: checks.loads(run))
    if results["determinism"].state == "passed":
        results["determinism"] = _checked(lambda: checks.repeats(run))
    if results["safe load"].state == "passed":
        results["resume"] = _checked(lambda: checks.resumes(run))
    if not pair.plugins:
        return {**results, "zero": Check("not asked"), "effect": Check("not asked")}
    without_effect = checks.effect(run)
    results["effect"] = Check("not seen", without_effect) if without_effect else Check("passed")
    declared = all(setup.cls.zero for setup in pair.plugins)
    results["zero"] = _checked(lambda: checks.zero(pair)) if declared else Check("not declared")
    return results


def _of_one_step(pair: Pair) -> dict[str, Check]:
    """The checks that look at one step."""
    try:
        observed = observe_step(pair)
    except FAULTS as error:
        return {"step": Check("failed", _described(error))}
    reason = observed.method.synchronises
    return {
        "step": _checked(lambda: checks.step(observed)),
        "gradients": _checked(lambda: checks.gradients(observed)),
        "teacher": _checked(lambda: checks.teacher(observed)),
        "waits": Check("not asked", f"the method waits: {reason}")
        if reason
        else _checked(lambda: checks.waits(observed)),
        "determinism": _checked(lambda: checks.draws(observed)),
    }


def _checked(check: Callable[[], str]) -> Check:
    """A check's verdict; an exception is one too."""
    try:
        why = check()
    except FAULTS as error:
        why = _described(error)
    return Check("failed", why) if why else Check("passed")


def _not_tried() -> dict[str, Check]:
    return dict.fromkeys(CHECKS, Check("not tried"))


def _described(error: BaseException) -> str:
    """An exception, and the innermost line on its way that is neither torch's nor inside Python (`exit`)."""
    if isinstance(error, PluginFault):
        return f"{error.what} at {error.where}; {error.fix}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((TORCH, "<"))]
    return f"{type(error).__name__}: {error} at {frames[-1].filename}:{frames[-1].lineno}"
