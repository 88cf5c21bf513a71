"""What the C library does with memory that is freed. On Linux with glibc; elsewhere nothing here does anything."""

import ctypes
import sys
from contextlib import suppress


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


def _libc():
    return ctypes.CDLL(None) if sys.platform == "linux" else None  # musl has neither function
