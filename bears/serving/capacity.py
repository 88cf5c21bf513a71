"""How many pages may be open at once: what they take, and what there is.

The figures are those that benchmarks/page.py measures, rounded up. Those in deploy/ follow from them, and
tests/test_deploy.py compares.
"""

from bears.memory import total

MIB = 1 << 20
FIRST = 830 * MIB  # of everything, with one visitor
FURTHER = 40 * MIB  # of every further one, whose kernel is forked
ORDINARY = 500 * MIB  # of one whose kernel is not, see forked_kernels
PHOTO = 800 * MIB  # for a second, while somebody's largest photo is opened


class Full(Exception):
    """No further page may be opened now."""


def pages(memory: float | None = None) -> int:
    """For how many there is room in so many bytes, one of whom opens the largest photo; at least for one.

    Without a number, in what this machine or container has.
    """
    memory = total() if memory is None else memory
    return max(1, 1 + int(min(memory - FIRST - PHOTO, 1 << 50) // FURTHER))
