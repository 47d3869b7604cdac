"""Memory that stays with the process: what the C library's allocator does with freed blocks."""

from __future__ import annotations

import ctypes
import platform

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
