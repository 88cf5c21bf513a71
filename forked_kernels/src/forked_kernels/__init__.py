"""Jupyter kernels that are forked from a process that has already imported what they need.

A kernel that is started as usual imports its libraries anew: seconds, and hundreds of megabytes of its own. A forked
one finds them in memory, and shares that memory until it writes to it. `ForkedProvisioner` is a
kernel provisioner, Jupyter's plug-in for how kernels are started: name it in a kernelspec, or make it the default
(README.md).
"""

from forked_kernels.provisioner import ForkedProvisioner

__all__ = ["ForkedProvisioner"]
