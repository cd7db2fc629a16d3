"""Who works on a run: the file `lock` in its folder is one process's until that process ends, however it ends.

The lock is the system's (`flock`), so nothing has to be cleaned up after a kill, and it holds between machines wherever
the file system shares such locks (NFS and Lustre do when mounted with them).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ssbench.errors import UsageError

LOCK = "lock"


class Busy(UsageError):  # noqa: N818  says what is the case
    """Another process works on the run."""

    def __init__(self, holder: str, folder: Path) -> None:
        what = f"process {holder} works on this run"
        super().__init__(what, str(folder), "ssbench status shows it; wait for it, or stop it")
        self.folder = folder


def opened(folder: Path) -> IO[str]:
    """The lock of a run's folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / LOCK).open("a+")


def take(lock: IO[str]) -> str | None:
    """None, and the file is this process's until closed; or the number of the process whose it is."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        return lock.read().strip() or "unknown"
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return None


def held(lock: Path) -> bool:
    """Whether some process has the lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
