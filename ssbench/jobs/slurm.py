"""Slurm, through submitit: options in sbatch's words, arrays, and what has become of jobs.

Nothing a user types reaches a shell: options are checked here, quoted by submitit, and commands are lists of words.
submitit is imported when jobs are submitted, and only then.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssbench.errors import HardwareError, UsageError, nearest

if TYPE_CHECKING:
    from ssbench.jobs.slurm_job import Task

RESTARTS = 100
"""A job is requeued so often; then something is wrong with its time limit."""
ARRAY = 1000
"""Jobs in one array: Slurm's own limit, unless a site has another (MaxArraySize 1001)."""
OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
})  # fmt: skip
"""States a job does not leave by itself (squeue, "JOB STATE CODES")."""
RESUMABLE = frozenset({"CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "DEADLINE"})
"""Ends that are not the run's own fault."""


@dataclass(frozen=True)
class Wish:
    """What jobs are to be like. parameters: submitit's names for sbatch's options; runs: how many one job does."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1


@dataclass(frozen=True)
class JobState:
    """Slurm's word for a job, and its reason."""

    word: str
    reason: str = ""

    @property
    def lives(self) -> bool:
        """Whether it runs, waits, or will again."""
        return self.word not in OVER

    def __str__(self) -> str:
        return self.word.lower() + (f" ({self.reason})" if self.reason not in ("", "None") else "")


def wish(given: Sequence[str]) -> Wish:
    """From `--slurm key=value`, keys as sbatch spells its long options.

    Unless told otherwise a job has a day, and is warned two minutes before its end (or at half of a shorter time).

    Raises:
        UsageError: no such option, or not a value of its kind.
    """
    made: dict[str, Any] = {"time": 24 * 60}
    extra: dict[str, str] = {}
    runs = 1
    for text in given:
        key, equals, value = text.partition("=")
        key = ALIASES.get(key, key)
        if not equals or key not in KINDS:
            what = f"no Slurm option '{key}'; {nearest(key, [*KINDS, *ALIASES])}" if equals else f"'{text}' has no '='"
            raise UsageError(what, "--slurm", "--slurm partition=gpu --slurm time=8:00:00 --slurm gpus-per-node=1")
        read = _value(key, value)
        if key == "runs-per-job":
            runs = int(read)
        elif key in EXTRA:
            extra[key] = read
        else:
            made[NAMES.get(key, key.replace("-", "_"))] = read
    delay = made.setdefault("signal_delay_s", min(120, 30 * made["time"]))
    if delay >= 60 * made["time"]:
        what = f"a warning {delay} s before the end of {60 * made['time']} s would come at once"
        raise UsageError(what, "--slurm signal-delay", "--slurm time=8:00:00")
    return Wish({**made, **({"additional_parameters": extra} if extra else {})}, runs)


def minutes(text: str) -> int:
    """Slurm's ways to write a time, rounded up: 90, 90:00, 1:30:00, 1-6, 1-6:30, 1-6:30:00.

    Raises:
        ValueError: none of these, or no time at all.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise ValueError(text)
    days, first, second, third = (int(part or 0) for part in found.groups())
    from_hours = found[1] is not None or found[4] is not None
    hours, mins, seconds = (first, second, third) if from_hours else (0, first, second)
    total = (days * 24 + hours) * 60 + mins + -(-seconds // 60)
    if total == 0:
        raise ValueError(text)
    return total


def need() -> None:
    """HardwareError where jobs cannot be submitted: no submitit, or no Slurm."""
    import importlib.util

    if importlib.util.find_spec("submitit") is None:
        raise HardwareError("submitit is not installed", "--launcher slurm", "pip install 'ssbench[slurm]'")
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            fix = "start it on a login node of the cluster, or leave --launcher slurm out"
            raise HardwareError(f"no {command} on PATH: this machine knows no Slurm", "--launcher slurm", fix)


def submit(tasks: Sequence[Task], wanted: Wish, folder: Path, parallel: int | None) -> list[str]:
    """Submit the tasks as arrays, `parallel` at a time (None: as many as Slurm likes); their job ids, in order.

    folder: for logs; there already.
    Raises:
        UsageError: sbatch refuses, with its words. HardwareError: see `need`.
    """
    need()
    import submitit

    if re.search(r"[%\x00-\x1f]", str(folder)):
        raise UsageError(f"Slurm cannot write below a folder of this name: {folder}", "--runs", "choose another folder")
    own = {
        "job_name": "ssbench",
        "wckey": None,
        "array_parallelism": parallel or ARRAY,
        "srun_args": _srun(wanted.parameters.get("cpus_per_task")),
    }
    starter = Path(__file__).with_name("slurm_start.py")
    python = shlex.join([sys.executable, "-I", "-S", str(starter), sys.executable])
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=RESTARTS, python=python)
    extra = {"requeue": True, **wanted.parameters.get("additional_parameters", {})}  # a site may not do so by itself
    executor.update_parameters(**{**own, **wanted.parameters, "additional_parameters": extra})
    errors = (submitit.core.utils.FailedSubmissionError, submitit.core.utils.UncompletedJobError)
    try:
        with _outside():
            jobs = [job for at in range(0, len(tasks), ARRAY) for job in executor.submit_array(tasks[at : at + ARRAY])]
    except errors as error:
        raise UsageError(
            _last_words(str(error)), "sbatch", "mend the --slurm options; sinfo shows partitions"
        ) from None
    return [str(job.job_id) for job in jobs]


def _srun(cpus: int | None) -> list[str]:
    """A process that fails ends those it trains with; srun 22.05 and newer does not take over sbatch's CPUs."""
    return ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]


@contextmanager
def _outside() -> Iterator[None]:
    """Without what a job we may be in says of itself: it would decide about the new ones."""
    from submitit.helpers import clean_env, environment_variables

    site = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(), environment_variables(**site):
        yield


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """What Slurm says of the jobs it still knows; it forgets those that ended some minutes ago.

    Raises:
        HardwareError: squeue is missing, or its controller does not answer.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"squeue does not answer: {error}", "squeue", "ask again on a login node") from None
    if told.returncode != 0 and "Invalid job id" not in told.stderr:
        raise HardwareError(f"squeue: {_last_words(told.stderr)}", "squeue", "ask again when Slurm answers")
    rows = (line.split("|", 2) for line in told.stdout.splitlines() if line.count("|") >= 2)
    return {job: JobState(word, reason) for job, word, reason in rows if job in set(jobs)}


def requeue(job: str) -> bool:
    """Ask Slurm to run a job again, from inside of it; whether it will.

    One that Slurm has ended itself (cancelled, or requeued already) is no longer RUNNING, and is left to Slurm.
    """
    state = states([job]).get(job)
    if state is None or state.word != "RUNNING":
        return False
    return subprocess.run(["scontrol", "requeue", job], timeout=60).returncode == 0  # noqa: S603, S607


def _value(key: str, value: str) -> Any:
    kind, what = KINDS[key]
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{value!r} is not {what}", f"--slurm {key}", f"--slurm {key}=...") from None


def _text(value: str) -> str:
    """A word or two on one line: a line of sbatch's file must end where it is meant to."""
    if not value or not value.isprintable() or len(value) > 200:
        raise ValueError(value)
    return value


def _count(value: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", value):
        raise ValueError(value)
    return int(value)


def _gpus(value: str) -> str:
    if not re.fullmatch(r"([\w.-]+:)?\d+", value):
        raise ValueError(value)
    return value


def _memory(value: str) -> str:
    if not re.fullmatch(r"\d+[KMGT]?B?", value, re.IGNORECASE):
        raise ValueError(value)
    return value


def _yes(value: str) -> bool:
    if value not in ("yes", "true", "1"):
        raise ValueError(value)
    return True


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error:" in line] or [text.strip()[-300:]]
    return re.sub(r"^\w+: (error: )?", "", lines[-1])


Kind = tuple[Callable[[str], Any], str]
TEXT: Kind = (_text, "a word on one line")
COUNT: Kind = (_count, "a number")
KINDS: Mapping[str, Kind] = {
    "time": (minutes, "a time such as 90, 8:00:00 or 2-00:00:00"),
    "gpus-per-node": (_gpus, "a number of GPUs, or kind:number"),
    "cpus-per-task": COUNT,
    "ntasks-per-node": COUNT,
    "nodes": COUNT,
    "mem": (_memory, "an amount such as 32G"),
    "mem-per-cpu": (_memory, "an amount such as 4G"),
    "mem-per-gpu": (_memory, "an amount such as 64G"),
    "signal-delay": COUNT,
    "runs-per-job": COUNT,
    "exclusive": (_yes, "yes"),
    **dict.fromkeys(("partition", "account", "qos", "constraint", "nodelist", "exclude", "gres", "comment"), TEXT),
    **dict.fromkeys(("dependency", "mail-type", "mail-user", "job-name", "reservation", "licenses", "begin"), TEXT),
}
EXTRA = ("reservation", "licenses", "begin")
NAMES = {"signal-delay": "signal_delay_s"}
ALIASES = {"cpus": "cpus-per-task", "gpus": "gpus-per-node", "tasks": "ntasks-per-node"}
