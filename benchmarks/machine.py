"""What is on this machine: for the benchmarks, and for the tests."""

import os
import platform
import re
import shutil
import socket
import time
from pathlib import Path

import psutil

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")  # its names, and Chrome's, on different systems


def chromium() -> str | None:
    """The Chromium or Chrome that is installed; None: there is none, or only Playwright's own."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def free_port() -> int:
    """A TCP port that nothing listens at, for a moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def described(browser: str) -> dict[str, str | int]:
    """What figures that are measured today were measured on; `browser` is its version."""
    model = re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "chromium": browser,
    }
