"""Slurm, through submitit: options in sbatch's words, arrays of jobs, and the states of jobs.

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
from typing import Any

from ssbench.errors import HardwareError, UsageError, nearest

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
HOLD_WARNING = (
    "import os, signal, sys; "
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Starts a job's Python with Slurm's warning (SIGUSR2) blocked: `python -c HOLD_WARNING python ...`.

Until its handler is there, seconds later on a busy machine, the warning would kill the process. Blocked it waits,
through the exec too, until the job has its handler and lets it in (`slurm_job`).
"""

TEXT = (r".+", "a word on one line")
COUNT = (r"[1-9]\d{0,5}", "a number")
MEMORY = r"\d+[KMGT]?B?"
TIME = r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?"
OPTIONS: Mapping[str, tuple[str, str]] = {
    "time": (TIME, "a time such as 90, 8:00:00 or 2-00:00:00"),
    "gpus-per-node": (r"([\w.-]+:)?\d+", "a number of GPUs, or kind:number"),
    "cpus-per-task": COUNT,
    "ntasks-per-node": COUNT,
    "nodes": COUNT,
    "mem": (MEMORY, "an amount such as 32G"),
    "mem-per-cpu": (MEMORY, "an amount such as 4G"),
    "mem-per-gpu": (MEMORY, "an amount such as 64G"),
    "signal-delay": COUNT,
    "runs-per-job": COUNT,
    "exclusive": (r"yes|true|1", "yes"),
    **dict.fromkeys(("partition", "account", "qos", "constraint", "nodelist", "exclude", "gres", "comment"), TEXT),
    **dict.fromkeys(("dependency", "mail-type", "mail-user", "job-name", "reservation", "licenses", "begin"), TEXT),
}
"""sbatch's long options (and two of ours): the pattern of a value, and what it is for people."""
ALIASES = {"cpus": "cpus-per-task", "gpus": "gpus-per-node", "tasks": "ntasks-per-node"}
ADDITIONAL = ("reservation", "licenses", "begin")
"""Options that submitit has no parameter for; it passes them on."""


@dataclass(frozen=True)
class SlurmOptions:
    """Options of jobs. parameters: under submitit's names; runs_per_job: how many runs one job does."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    runs_per_job: int = 1


@dataclass(frozen=True)
class JobState:
    """Slurm's word for a job, and its reason."""

    word: str
    reason: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the job runs, waits, or will run again."""
        return self.word not in OVER

    def __str__(self) -> str:
        return self.word.lower() + (f" ({self.reason})" if self.reason not in ("", "None") else "")


def parse_options(texts: Sequence[str]) -> SlurmOptions:
    """The options of `--slurm key=value`, keys as sbatch spells its long options.

    By default a job has a day, and is warned two minutes before its end (or at half of a shorter time).

    Raises:
        UsageError: no such option, or not a value of its kind.
    """
    parameters: dict[str, Any] = {"time": 24 * 60}
    additional: dict[str, str] = {}
    runs_per_job = 1
    for text in texts:
        key, equals, value = text.partition("=")
        key = ALIASES.get(key, key)
        if not equals or key not in OPTIONS:
            known = [*OPTIONS, *ALIASES]
            what = f"no Slurm option '{key}'; {nearest(key, known)}" if equals else f"'{text}' has no '='"
            raise UsageError(what, "--slurm", "--slurm partition=gpu --slurm time=8:00:00 --slurm gpus-per-node=1")
        parsed = _value(key, value)
        if key == "runs-per-job":
            runs_per_job = parsed
        elif key in ADDITIONAL:
            additional[key] = parsed
        else:
            parameters["signal_delay_s" if key == "signal-delay" else key.replace("-", "_")] = parsed
    delay = parameters.setdefault("signal_delay_s", min(120, 30 * parameters["time"]))
    if delay >= 60 * parameters["time"]:
        what = f"a warning {delay} s before the end of {60 * parameters['time']} s would come at once"
        raise UsageError(what, "--slurm signal-delay", "--slurm time=8:00:00")
    return SlurmOptions({**parameters, **({"additional_parameters": additional} if additional else {})}, runs_per_job)


def _value(key: str, text: str) -> Any:
    """A value as submitit takes it. Printable and on one line: a line of sbatch's file must end where it should."""
    pattern, kind = OPTIONS[key]
    try:
        if not (text.isprintable() and len(text) <= 200 and re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE)):
            raise ValueError(text)
        if key == "time":
            return minutes(text)
        return int(text) if OPTIONS[key] == COUNT else True if key == "exclusive" else text
    except ValueError:
        raise UsageError(f"{text!r} is not {kind}", f"--slurm {key}", f"--slurm {key}=...") from None


def minutes(text: str) -> int:
    """Slurm's ways to write a time, rounded up: 90, 90:00, 1:30:00, 1-6, 1-6:30, 1-6:30:00.

    Raises:
        ValueError: none of these, or no time at all.
    """
    match = re.fullmatch(TIME, text, re.ASCII)
    if not match:
        raise ValueError(text)
    days, first, second, third = (int(part or 0) for part in match.groups())
    starts_with_hours = match[1] is not None or match[4] is not None
    hours, mins, seconds = (first, second, third) if starts_with_hours else (0, first, second)
    total = (days * 24 + hours) * 60 + mins + -(-seconds // 60)
    if total == 0:
        raise ValueError(text)
    return total


def require_slurm() -> None:
    """HardwareError where jobs cannot be submitted: no submitit, or no Slurm."""
    import importlib.util

    if importlib.util.find_spec("submitit") is None:
        raise HardwareError("submitit is not installed", "--launcher slurm", "pip install 'ssbench[slurm]'")
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            fix = "start it on a login node of the cluster, or leave --launcher slurm out"
            raise HardwareError(f"no {command} on PATH: this machine has no Slurm", "--launcher slurm", fix)


def submit(tasks: Sequence[Callable[[], None]], options: SlurmOptions, folder: Path, parallel: int | None) -> list[str]:
    """Submit the tasks as arrays, `parallel` at a time (None: as many as Slurm allows). Their job ids, in order.

    Args:
        folder: for logs; it exists.
    Raises:
        UsageError: sbatch refuses, with its words. HardwareError: see `require_slurm`.
    """
    require_slurm()
    import submitit

    if re.search(r"[%\x00-\x1f]", str(folder)):  # in a log's path Slurm replaces %j and the like
        raise UsageError(f"Slurm cannot write below a folder of this name: {folder}", "--runs", "choose another folder")
    # A process that fails ends those it trains with; srun 22.05 and newer does not take over sbatch's CPUs.
    cpus = options.parameters.get("cpus_per_task")
    srun = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    defaults = {"job_name": "ssbench", "wckey": None, "array_parallelism": parallel or ARRAY, "srun_args": srun}
    # submitit's own requeue needs the job to be requeueable, which a site may not allow by default
    additional = {"requeue": True, **options.parameters.get("additional_parameters", {})}
    python = shlex.join([sys.executable, "-I", "-S", "-c", HOLD_WARNING, sys.executable])
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=RESTARTS, python=python)
    executor.update_parameters(**{**defaults, **options.parameters, "additional_parameters": additional})
    errors = (submitit.core.utils.FailedSubmissionError, submitit.core.utils.UncompletedJobError)
    try:
        with _outside_of_jobs():
            jobs = [job for at in range(0, len(tasks), ARRAY) for job in executor.submit_array(tasks[at : at + ARRAY])]
    except errors as error:
        fix = "mend the --slurm options; sinfo shows partitions"
        raise UsageError(_last_message(str(error)), "sbatch", fix) from None
    return [str(job.job_id) for job in jobs]


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a job that this process may be in: sbatch would take the new jobs' options from them."""
    from submitit.helpers import clean_env, environment_variables

    site = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(), environment_variables(**site):
        yield


def job_states(jobs: Sequence[str]) -> dict[str, JobState]:
    """The states of the jobs that Slurm still knows; it forgets those that ended some minutes ago.

    Raises:
        HardwareError: squeue is missing, or its controller does not answer.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"squeue does not answer: {error}", "squeue", "ask again on a login node") from None
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
        raise HardwareError(f"squeue: {_last_message(answer.stderr)}", "squeue", "ask again when Slurm answers")
    rows = (line.split("|", 2) for line in answer.stdout.splitlines() if line.count("|") >= 2)
    return {job: JobState(word, reason) for job, word, reason in rows if job in set(jobs)}


def requeue(job: str) -> bool:
    """Ask Slurm, from inside a job, to run that job again. Whether Slurm agreed.

    A job that Slurm has ended itself (cancelled, or requeued already) is no longer RUNNING, and is left to Slurm.
    """
    state = job_states([job]).get(job)
    if state is None or state.word != "RUNNING":
        return False
    return subprocess.run(["scontrol", "requeue", job], timeout=60).returncode == 0  # noqa: S603, S607


def _last_message(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error:" in line] or [text.strip()[-300:]]
    return re.sub(r"^\w+: (error: )?", "", lines[-1])
