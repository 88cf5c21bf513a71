"""IPython's kernel, made without writing to the memory of everything that was imported before the fork."""

import sys

from ipykernel.ipkernel import IPythonKernel

JUPYTERS: dict = {}  # the modules without `preload`, by name; `server.main` puts them here


class ForkedKernel(IPythonKernel):
    """An `IPythonKernel`; named with its application's own option, `kernel_class`."""

    def __init__(self, **kwargs):
        # It lists every module there is, for its debugger, and so writes reference counts all over the memory that it
        # shares: 31 MB with fastai's 4,300 modules. So it is shown those of Jupyter and Python alone.
        everything = sys.modules
        JUPYTERS["__main__"] = everything["__main__"]
        sys.modules = JUPYTERS
        try:
            super().__init__(**kwargs)
        finally:
            sys.modules = everything
            everything.update(JUPYTERS)  # what was imported meanwhile, and IPython's own __main__
