"""How much memory there is, and what the C library does with what is freed, on Linux with glibc."""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
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
    found = [*_of_the_machine("MemAvailable", root), *(limit - used for limit, used in _of_containers(root))]
    return max(0, min(found, default=_of_the_system() / 2))


def total(root: str = "/") -> float:
    """Bytes that the machine has, or its container may take; infinity, where that is not known."""
    found = [*_of_the_machine("MemTotal", root), *(limit for limit, _ in _of_containers(root))]
    return min(found, default=_of_the_system())


def _of_the_machine(name: str, root: str) -> Iterator[int]:
    with suppress(OSError, TypeError):
        yield 1024 * int(re.search(rf"{name}: *(\d+) kB", Path(root, "proc/meminfo").read_text())[1])


def _of_containers(root: str) -> Iterator[tuple[int, int]]:
    """What a container may take, and has taken; of version 2 of control groups, and of version 1."""
    group, old = Path(root, "sys/fs/cgroup"), "memory/memory.limit_in_bytes"
    for limit, used in ("memory.max", "memory.current"), (old, "memory/memory.usage_in_bytes"):
        with suppress(OSError, ValueError):
            yield int((group / limit).read_text()), int((group / used).read_text())


def _of_the_system() -> float:
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def _libc():
    return ctypes.CDLL(None) if sys.platform == "linux" else None  # musl has neither function
