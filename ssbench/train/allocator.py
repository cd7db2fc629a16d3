"""The C library keeps freed memory for the next operation instead of giving it back to the system.

glibc takes each block of more than 32 MB from the system and gives it back when it is freed. The blocks of a training
step on a CPU are larger than that, so each operation pays for new pages, one page fault for every 4 KiB. With the
settings here the process keeps what it freed. No number changes: only where the bytes lie.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

SWITCH = "SSBENCH_KEEP_MEMORY"
"""`SSBENCH_KEEP_MEMORY=0` leaves the C library as it is: the peak of a process falls, its steps take longer."""

# Parameters of mallopt(3), from malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
# No block from mmap, nothing given back from the top of the heap, which grows by 256 MiB at a time.
_SETTINGS = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 << 20}


@cache
def keep_freed_memory() -> bool:
    """Set the allocator of this process and of the processes it forks; has to run before the first large tensor.

    Returns:
        Whether memory is kept: False off Linux, with another C library, and with the switch off.
    """
    if not sys.platform.startswith("linux") or os.environ.get(SWITCH, "1") == "0":
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  musl has mallopt, too, and ignores it
        return all(library.mallopt(name, value) == 1 for name, value in _SETTINGS.items())
    except AttributeError:
        return False
