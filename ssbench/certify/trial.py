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
from ssbench.certify.pair import Pair, look
from ssbench.certify.watch import TORCH
from ssbench.errors import RecipeError
from ssbench.methods.hosting import fit, yaml
from ssbench.plugins.base import Plugin

State = Literal["passed", "failed", "not seen", "not declared", "not asked", "not tried"]


@dataclass(frozen=True)
class Check:
    """How one check ended, and what is wrong.

    not seen: no effect, which is no fault. not declared: the plug-in names no strength zero. not asked: it makes no
    sense here. not tried: the one it builds on failed.
    """

    state: State
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
        """In one word."""
        return "impossible" if self.refused else "failed" if self.failed else "passed"


@dataclass(frozen=True)
class Certificate:
    """A plug-in's: its hooks, its settings at strength zero, how strict its settings are, and the trials."""

    plugin: str
    hooks: tuple[str, ...]
    zero: dict[str, Any]
    settings: Check
    trials: tuple[Trial, ...]

    @property
    def certified(self) -> bool:
        """Whether some method hosts it and no check failed; on `zero` only where the plug-in declares one."""
        return self.settings.state == "passed" and {"passed"} <= {t.state for t in self.trials} <= {
            "passed",
            "impossible",
        }

    def as_json(self) -> dict[str, Any]:
        """As `certify --json` has it."""
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
        RecipeError: no such plug-in or method, or one that cannot be imported.
    """
    plugin, trials = find.load("plugin", name), []
    strict = _said(lambda: checks.settings(plugin, name))
    for host in hosts if strict.state == "passed" else ():
        trials.append(_tried(host, find.load("method", host), plugin))
    return Certificate(name, tuple(sorted(plugin.needs)), dict(plugin.zero), strict, tuple(trials))


def _tried(host: str, method: type[Any], plugin: type[Plugin]) -> Trial:
    """Every check of a plug-in on one method."""
    found = fit(method, plugin)
    if found.reason:
        return Trial(host, refused=found.reason)
    with TemporaryDirectory(prefix="ssbench-certify-") as folder:
        pair = Pair.of(host, [plugin], Path(folder))
        try:
            pair.begun()
        except RecipeError as error:
            return Trial(host, refused=error.what)
        except Exception as error:  # a user's code, which may raise anything
            return Trial(host, checks={**_untried(), "step": Check("failed", _told(error))})
        changed = [("method", found.method), ("plugin", found.plugin)]
        told = tuple(f"{section}.{yaml(k, v)}" for section, values in changed for k, v in values.items())
        return Trial(host, settings=told, checks=contract(pair))


def contract(pair: Pair) -> dict[str, Check]:
    """Every check of a pair, or of a method alone; those of whole runs only where a step works."""
    done = {**_untried(), **_of_a_step(pair)}
    if done["step"].state == "failed":
        return done
    try:
        ran = checks.run(pair)
    except Exception as error:  # a user's code, which may raise anything
        return {**done, "step": Check("failed", f"after {checks.BEFORE} steps at most: {_told(error)}")}
    done["safe load"] = _said(lambda: checks.loads(ran))
    if done["determinism"].state == "passed":
        done["determinism"] = _said(lambda: checks.repeats(ran))
    if done["safe load"].state == "passed":
        done["resume"] = _said(lambda: checks.resumes(ran))
    if not pair.guests:
        return {**done, "zero": Check("not asked"), "effect": Check("not asked")}
    nothing = checks.effect(ran)
    done["effect"] = Check("not seen", nothing) if nothing else Check("passed")
    if all(guest.cls.zero for guest in pair.guests):
        done["zero"] = _said(lambda: checks.zero(pair))
    else:
        done["zero"] = Check("not declared")
    return done


def _of_a_step(pair: Pair) -> dict[str, Check]:
    """The checks that look at one step."""
    try:
        seen = look(pair)
    except Exception as error:  # a user's code, which may raise anything
        return {"step": Check("failed", _told(error))}
    patient = seen.method.synchronises
    return {
        "step": _said(lambda: checks.step(seen)),
        "gradients": _said(lambda: checks.gradients(seen)),
        "teacher": _said(lambda: checks.teacher(seen)),
        "waits": Check("not asked", f"the method waits: {patient}") if patient else _said(lambda: checks.waits(seen)),
        "determinism": _said(lambda: checks.draws(seen)),
    }


def _said(check: Callable[[], str]) -> Check:
    """A check's verdict; an exception is one too."""
    try:
        why = check()
    except Exception as error:  # a user's code, which may raise anything
        why = _told(error)
    return Check("failed", why) if why else Check("passed")


def _untried() -> dict[str, Check]:
    return dict.fromkeys(CHECKS, Check("not tried"))


def _told(error: Exception) -> str:
    """An exception, and the innermost line on its way that is not torch's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(TORCH)]
    return f"{type(error).__name__}: {error} at {frames[-1].filename}:{frames[-1].lineno}"
