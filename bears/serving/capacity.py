"""How many pages may be open at once: what they take, and what there is.

The figures are those that benchmarks/page.py measures, rounded up. Those in deploy/ follow from them, and
tests/test_deploy.py compares.
"""

from contextlib import suppress

from bears.memory import total

MIB = 1 << 20
FIRST = 830 * MIB  # of everything, with one visitor
FURTHER = 40 * MIB  # of every further one, whose kernel is forked
ORDINARY = 500 * MIB  # of one whose kernel is not, see forked_kernels
PHOTO = 800 * MIB  # for a second, while somebody's largest photo is opened

FILES = 15  # that the server has open for each visitor: their connection, and its kernel's sockets
OWN_FILES = 120  # that it has open without any, those of pages that are being prepared, and some to spare
ENOUGH_FILES = 1 << 16

MOST = 1 << 30  # where nothing is limited


class Full(Exception):
    """No further page may be opened now."""


def pages(memory: float | None = None, files: float | None = None) -> int:
    """For how many there is room in so many bytes, while one of them opens the largest photo, and so many open files.

    For one at least. Without numbers, in what this machine or container has, and this process may open.
    """
    memory = total() if memory is None else memory
    files = open_files() if files is None else files
    room = min((memory - FIRST - PHOTO) / FURTHER, (files - OWN_FILES) / FILES, MOST)
    return max(1, 1 + int(room))


def open_files() -> float:
    """How many files this process may open: from now on as many as it is allowed to ask for. Infinity: no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft != hard:
        wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
        with suppress(ValueError, OSError):  # macOS says that nothing is limited, and refuses all the same
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
            soft = max(soft, wanted)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
