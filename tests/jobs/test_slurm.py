"""Slurm's options as typed, what squeue says, and refusals: all that needs no Slurm."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ran import Ran

from ssbench.errors import HardwareError, UsageError
from ssbench.jobs.slurm import (
    HOLD_WARNING,
    OPTIONS,
    SlurmOptions,
    job_states,
    minutes,
    parse_options,
    requeue,
    submit,
)

TEXTS = [name for name, (_, kind) in OPTIONS.items() if kind.startswith("a word")]


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """Commands of these names, and no others, on the path: what a Slurm would answer."""
    for name, body in bodies.items():
        (folder / name).write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("90:00", 90), ("90:01", 91), ("1:30:00", 90), ("0:0:1", 1), ("1-6", 1800), ("1-6:30", 1830),
        ("2-00:00:59", 2881),
    ],
)  # fmt: skip
def test_times_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", [" ", "0", "0:00", "-5", "1h", "1:2:3:4", "1-", "a-1", "1.5"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        minutes(text)


def test_options_become_submitits() -> None:
    given_ = ["partition=gpu", "time=8:00:00", "gpus=a100:2", "cpus=8", "mem=32G", "reservation=day", "runs-per-job=4"]
    assert parse_options(given_) == SlurmOptions(
        {
            "partition": "gpu", "time": 480, "gpus_per_node": "a100:2", "cpus_per_task": 8, "mem": "32G",
            "signal_delay_s": 120, "additional_parameters": {"reservation": "day"},
        },
        runs_per_job=4,
    )  # fmt: skip
    assert parse_options([]) == SlurmOptions({"time": 1440, "signal_delay_s": 120})
    assert parse_options(["time=1"]).parameters["signal_delay_s"] == 30
    assert parse_options(["comment=it's ours; echo $HOME"]).parameters["comment"] == "it's ours; echo $HOME"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("partion=gpu", "no Slurm option 'partion'; did you mean 'partition'"),
        ("setup=rm -rf x", "no Slurm option 'setup'"),
        ("partition", "'partition' has no '='"),
        ("partition=", "'' is not a word on one line"),
        ("time=soon", "'soon' is not a time such as 90"),
        ("gpus=two", "'two' is not a number of GPUs"),
        ("cpus=0", "'0' is not a number"),
        ("mem=much", "'much' is not an amount"),
        ("exclusive=no", "'no' is not yes"),
        ("comment=a\nrm -rf x", r"'a\nrm -rf x' is not a word on one line"),
        ("signal-delay=86400", "would come at once"),
    ],
)
def test_what_is_no_option_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as caught:
        parse_options([text])
    assert caught.value.fix


@given(key=st.sampled_from(TEXTS), value=st.text(max_size=30))
def test_no_value_leaves_its_line(key: str, value: str) -> None:
    """Whatever is typed: refused, or one line of sbatch's file, quoted."""
    from submitit.slurm.slurm import _make_sbatch_string

    try:
        parameters = parse_options([f"{key}={value}"]).parameters
    except UsageError:
        return
    plain = _make_sbatch_string(
        command="srun me", folder="logs", **parse_options(["comment=x"]).parameters
    ).splitlines()
    lines = _make_sbatch_string(command="srun me", folder="logs", **parameters).splitlines()
    different = set(lines) - set(plain)
    assert len(lines) <= len(plain) + 1
    assert all(line.startswith(f"#SBATCH --{key}=") for line in different)
    assert lines[-1] == plain[-1]


def test_what_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "12_0|RUNNING|None\\n12_1|PENDING|Resources (Priority|x)\\n12_2|CANCELLED|None\\n13|COMPLETED|None"
    commands(tmp_path, monkeypatch, squeue=f"assert sys.argv[-1] == '--jobs=12,14', sys.argv\nprint('{answer}')")
    states = job_states(["12_0", "12_1", "12_2", "14"])
    assert {job: (str(state), state.is_alive) for job, state in states.items()} == {
        "12_0": ("running", True),
        "12_1": ("pending (Resources (Priority|x))", True),
        "12_2": ("cancelled", False),
    }
    assert job_states([]) == {}


def test_jobs_that_slurm_has_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path, monkeypatch, squeue="sys.exit('slurm_load_jobs error: Invalid job id specified')")
    assert job_states(["12"]) == {}
    assert not requeue("12")


def test_a_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path, monkeypatch, squeue="sys.exit('squeue: error: Unable to contact slurm controller')")
    with pytest.raises(HardwareError, match="squeue: Unable to contact slurm controller"):
        job_states(["12"])
    (tmp_path / "squeue").unlink()
    with pytest.raises(HardwareError, match="squeue does not answer"):
        job_states(["12"])


def test_only_a_running_job_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Slurm has cancelled or requeued itself is completing: it is left to Slurm."""
    log = tmp_path / "request"
    for word, request in (("COMPLETING", ""), ("PENDING", ""), ("RUNNING", "requeue 12_3")):
        commands(
            tmp_path, monkeypatch, squeue=f"print('12_3|{word}|None')",
            scontrol=f"open({str(log)!r}, 'w').write(' '.join(sys.argv[1:]))",
        )  # fmt: skip
        assert requeue("12_3") == bool(request)
        assert (log.read_text() if log.exists() else "") == request


def test_a_warning_waits_until_it_is_let_in() -> None:
    """Sent to a job's Python before it has a handler, and while it starts another program in its place."""
    late = (
        "import signal, sys, time\n"
        "print('up', flush=True)\n"
        "while signal.SIGUSR2 not in signal.sigpending(): time.sleep(0.01)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('warned'))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})\n"
    )
    words = [sys.executable, "-I", "-S", "-c", HOLD_WARNING, sys.executable, "-I", "-S", "-c", late]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "up\n"
        job.send_signal(signal.SIGUSR2)
        assert job.communicate(timeout=30) == ("warned\n", None)
    assert job.returncode == 0


def test_sbatch_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words, and what can be done."""
    refusal = "sys.exit('sbatch: error: invalid partition specified: x\\\\nsbatch: error: Batch job submission failed')"
    commands(tmp_path, monkeypatch, sbatch=refusal, srun="", squeue="")
    with pytest.raises(UsageError, match="Batch job submission failed|invalid partition") as caught:
        submit([print], parse_options(["partition=x"]), tmp_path, None)  # type: ignore[list-item]
    assert "--slurm" in caught.value.fix
    with pytest.raises(UsageError, match="cannot write below a folder of this name"):
        submit([print], parse_options([]), tmp_path / "50%j", None)  # type: ignore[list-item]


def test_no_slurm_is_code_7_and_its_options_need_it(
    ssbench: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "toy/none_supervised", "--split", "toy/ours/1_32")
    for option in (["--slurm", "time=1"], ["--detach"]):
        ran = ssbench(*run, *option)
        assert ran.code == 2
        assert f"{option[0]} without --launcher slurm" in ran.err
    monkeypatch.setenv("PATH", "")
    ran = ssbench(*run, "--launcher", "slurm")
    assert ran.code == 7
    assert "error: no sbatch on PATH" in ran.err
    monkeypatch.setitem(sys.modules, "submitit", None)
    ran = ssbench(*run, "--launcher", "slurm")
    assert (ran.code, "pip install 'ssbench[slurm]'" in ran.err) == (7, True)
