"""`certify`: a plug-in held to the contract, on every method that can host it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench.certify import CHECKS
from ssbench.commands.common import Json, print_grid, print_json, print_rows
from ssbench.errors import GateError, UsageError
from ssbench.paths import quoted

if TYPE_CHECKING:
    from ssbench.certify.trial import Certificate, Trial

WORDS = {
    "passed": "ok",
    "failed": "FAIL",
    "not seen": "none",
    "not declared": "none",
    "not asked": "-",
    "not tried": "?",
}
SHORT = {"determinism": "determ.", "safe load": "load"}
STYLES = {"passed": "green", "failed": "bold red", "not seen": "yellow", "not declared": "yellow"}


def certify(
    plugin: Annotated[str, typer.Argument(help="A plug-in: its name, or your file (path/to/mine.py).")],
    host: Annotated[list[str] | None, typer.Option("--host", help="Only on this method; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Hold a plug-in (methods are not certified) to the contract, on each method that can host it, in a minute.

    effect: at its own settings it changes something. step: finite loss and terms, answers of the promised form.
    gradients: one in each trained tensor. teacher: none on the teacher's side. waits: nothing waits for the device.
    resume: saved and loaded, the next losses are the same. determinism: two runs of a seed end in the same bytes,
    nothing draws from a shared stream. zero: at its declared strength zero, ten steps are the method's alone, bit for
    bit. safe load: state is tensors and plain data.
    Exit code 5 when a check fails.
    """
    import torch

    from ssbench import find
    from ssbench.certify.trial import certify as certificate_of
    from ssbench.console import Bars

    torch.set_num_threads(1)  # nets this small only lose by threads, and sums keep one order
    hosts = tuple(host or find.names("method"))
    with Bars() as bars:
        certificate = certificate_of(plugin, bars.watch(hosts, f"certify {plugin}", len(hosts)))
    if host and (refused := [t for t in certificate.trials if t.refused]):
        what = "; ".join(f"{t.host} cannot host {plugin}: {t.refused}" for t in refused)
        raise UsageError(what, "--host", "ssbench list plugins --matrix shows who can")
    if json:
        print_json(certificate.as_json())
    else:
        _print(certificate)
    if not certificate.certified:
        raise GateError(_summary(certificate), plugin, f"mend it, then: ssbench certify {quoted(plugin)}")


def _print(certificate: Certificate) -> None:
    """The checks of each method on stdout; what failed, in words, and the verdict on stderr."""
    from ssbench.console import say

    if certificate.trials:
        if sys.stdout.isatty():
            _print_drawn(certificate)
        else:
            states = ([t.checks[c].state if t.checks else "" for c in CHECKS] for t in certificate.trials)
            rows = [(t.host, *row, _note(t)) for t, row in zip(certificate.trials, states, strict=True)]
            print_rows("certificate", ("host", *CHECKS, "note"), rows)
    if certificate.settings.why:
        say(f"settings: {certificate.settings.why}")
    for trial in certificate.trials:
        for name, why in trial.failed.items():
            say(f"{trial.host}: {name}: {why}")
    if certificate.certified:
        say(_summary(certificate))


def _print_drawn(certificate: Certificate) -> None:
    able = [t for t in certificate.trials if t.checks]
    rows = [[(t.host, ""), *((WORDS[c.state], STYLES.get(c.state, "dim")) for c in t.checks.values())] for t in able]
    notes = [f"{t.host}: {_note(t)}" for t in certificate.trials if _note(t)]
    print_grid(f"certificate of {certificate.plugin}", ("host", *(SHORT.get(c, c) for c in CHECKS)), rows, notes)


def _note(trial: Trial) -> str:
    return f"impossible: {trial.refused}" if trial.refused else ", ".join(f"with {s}" for s in trial.settings)


def _summary(certificate: Certificate) -> str:
    able = [t for t in certificate.trials if not t.refused]
    if certificate.certified:
        but = "" if certificate.zero else "; not on zero: it declares no settings at which it is none (`zero`)"
        return f"{certificate.plugin} is certified on {len(able)} of {len(certificate.trials)} methods asked{but}"
    if certificate.settings.why:
        return f"{certificate.plugin} is not certified: {certificate.settings.why}"
    if not able:
        return f"{certificate.plugin} is not certified: no method can host it"
    failed = [t for t in able if t.failed]
    checks = sorted({name for t in failed for name in t.failed})
    return f"{certificate.plugin} is not certified: {', '.join(checks)} failed on {', '.join(t.host for t in failed)}"
