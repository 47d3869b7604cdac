"""Memory of the process: what the C library's allocator does with freed blocks, and how much was taken at most."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_BLOCK = 32 * 2**20  # bytes; glibc takes larger blocks from the system whatever it is told
MOST_KEPT = 2**31 - 1


def keep_memory() -> bool:
    """Let this process keep up to 2 GiB of what it frees, for what it takes next. Whether the allocator does.

    By default glibc gives large freed blocks back to the system, and pays for every page when it takes them again. A
    simulation takes and frees the same blocks at every chunk, so keeping them makes it faster, training above all. The
    price: the process looks as large as it once was, until `give_back_memory`. Without glibc nothing changes (False).
    """
    settings = {MMAP_THRESHOLD: LARGEST_BLOCK, TRIM_THRESHOLD: MOST_KEPT}
    return has_glibc() and all(ctypes.CDLL(None).mallopt(name, value) for name, value in settings.items())


def give_back_memory() -> bool:
    """Give what is free back to the system now. Whether the allocator did."""
    return has_glibc() and bool(ctypes.CDLL(None).malloc_trim(0))


def has_glibc() -> bool:
    """Whether this Python runs on the GNU C library, whose allocator can be told such things."""
    return platform.libc_ver()[0] == "glibc"


def peak() -> int:
    """The most bytes that this process has held in memory (Linux's getrusage would count its parent's, at the fork)."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(work: Callable, *arguments) -> int:
    """The most bytes that a process of its own holds while it calls `work(*arguments)`, Python and modules included.

    `work` and `arguments` are pickled; what the call returns is dropped, what it raises is raised here.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_after, work, arguments).result()


def _peak_after(work: Callable, arguments: tuple) -> int:
    work(*arguments)
    return peak()
