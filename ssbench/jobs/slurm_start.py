"""Starts a job's Python with Slurm's warning held back: `python slurm_start.py python ...`.

Until its handler is there, seconds later on a busy machine, SIGUSR2 would kill the process. Held back it waits, through
the exec too, until the job lets it in (`slurm_job`).
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606  the words of a list, no shell
