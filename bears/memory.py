"""How much memory there is, and what the C library does with what is freed, on Linux with glibc."""

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path


def keep_memory() -> None:
    """Keep it, for this process, which trains: half the time of a batch on a CPU went into page faults.

    glibc hands large blocks back to the kernel and gets them anew, zeroed, in the next batch. It raises the peak.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    with suppress(AttributeError):
        _libc().mallopt(m_mmap_max, 0)
        _libc().mallopt(m_trim_threshold, 2**31 - 1)


def give_memory_back() -> None:
    """Hand it back to the system now: after a photo 24 MB of a visitor's process are free, but still its own."""
    with suppress(AttributeError):
        _libc().malloc_trim(0)


def available(root: str = "/") -> float:
    """Bytes that this process may still take, without another one having to give: of the machine, or of its container.

    Where nothing says so, a half of what the machine has; infinity, where not even that is known.
    """
    found = []
    with suppress(OSError, TypeError):
        kilobytes = re.search(r"MemAvailable: *(\d+) kB", Path(root, "proc/meminfo").read_text())[1]
        found.append(1024 * int(kilobytes))
    group = Path(root, "sys/fs/cgroup")  # what a container may take; of version 2, and of version 1
    old = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
    for limit, used in ("memory.max", "memory.current"), old:
        with suppress(OSError, ValueError):
            found.append(int((group / limit).read_text()) - int((group / used).read_text()))
    if not found:
        with suppress(AttributeError, ValueError, OSError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return max(0, min(found, default=float("inf")))


def _libc():
    return ctypes.CDLL(None) if sys.platform == "linux" else None  # musl has neither function
