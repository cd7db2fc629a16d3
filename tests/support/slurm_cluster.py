"""A Slurm of one node on this machine, in a folder of its own: munged, slurmctld and slurmd, started and stopped.

Ports, sockets and keys are its own too, so several may run at once, and none meets a Slurm that the machine belongs to.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssbench.jobs.slurm import OVER

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "setpriv")
SECONDS = 120
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=200000,bf_interval=1
ReturnToService=2
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
"""cred_expire: how long Slurm lets a requeued job wait, 120 s by default, 5 at least. One process or thread of a test
suite does not need the accounting, the binding to cores and the MPI that are left out."""


def missing() -> str:
    """Why no Slurm can be started here; nothing if one can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "slurmd and munged are started as root and as munge, which root alone may do"
    with contextlib.suppress(KeyError):
        pwd.getpwnam("munge")
        return ""
    return "no user munge"


@dataclass(frozen=True)
class Cluster:
    """One that is up; `environment` leads Slurm's commands to it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def end(self, job: str) -> tuple[str, int]:
        """State and exit code of a job, when it has ended."""
        words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--Format=State,exit_code"]
        for _ in range(10 * SECONDS):
            state, status = self.ask(*words).split()
            if state in OVER:
                return state, os.waitstatus_to_exitcode(int(status))
            time.sleep(0.1)
        raise AssertionError(f"job {job} does not end")


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A cluster while it is needed. Its daemons end with this process, however that ends."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # of its own: munge's user must be able to enter it
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        cluster = _configured(folder)
        daemons.append(_start(cluster, "munged", *_munged(folder), user="munge"))
        _wait(lambda: (folder / "munge" / "socket").exists(), daemons)
        for name in ("slurmctld", "slurmd"):
            daemons.append(_start(cluster, name, "-D"))
        _wait(lambda: _idle(cluster), daemons)
        yield cluster
        cluster.ask("scancel", "--user=root")
        _wait(lambda: not cluster.ask("squeue", "--noheader"), daemons)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configured(folder: Path) -> Cluster:
    host = socket.gethostname().partition(".")[0]
    folder.chmod(0o755)
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for path in (key.parent, key):
        shutil.chown(path, "munge")
    text = CONF.format(host=host, folder=folder, controller=_free_port(), daemon=_free_port())
    (folder / "slurm.conf").write_text(text)
    return Cluster(folder)


def _munged(folder: Path) -> list[str]:
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return ["--foreground", *(f"--{option}={folder}/munge/{name}" for option, name in names.items())]


def _start(cluster: Cluster, *words: str, user: str = "") -> subprocess.Popen[bytes]:
    become = [f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    with (cluster.folder / f"{words[0]}.out").open("w") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *become, "--", *words],
            env={**os.environ, **cluster.environment, "PATH": path},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def _wait(happened: Callable[[], bool], daemons: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        dead = [daemon.args for daemon in daemons if daemon.poll() is not None]
        assert not dead, f"ended at once: {dead}"
        assert time.monotonic() < end, "Slurm does not come up"
        time.sleep(0.1)


def _idle(cluster: Cluster) -> bool:
    words = ["sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(words, env={**os.environ, **cluster.environment}, capture_output=True, text=True)
    return done.stdout.strip() == "idle"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
