"""The process that kernels are forked from: python -m forked_kernels.server SOCKET PRELOAD...

It imports what is to be shared, then forks whenever `ForkServer` asks it to. It is single-threaded: a thread would not
exist in the child, and what it had locked would stay locked there. That is why Jupyter's server, which has threads,
cannot fork kernels itself. multiprocessing's fork server is not used because its children count as dead when it dies.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import runpy
import select
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path

from forked_kernels import kernel

# What every IPython kernel imports by and by
JUPYTER = (
    *("ipykernel.kernelapp", "ipykernel.debugger", "IPython.core.completerlib", "IPython.extensions.storemagic"),
    *("IPython.core.debugger", "IPython.core.logger", "IPython.core.oinspect", "IPython.utils.wildcard", "sqlite3"),
    *("tornado.platform.asyncio", "tornado.locks", "ipykernel_launcher"),
)


def main(socket: int, *preload: str) -> None:
    """Fork a kernel for every request that comes through `socket`, a file descriptor, until its other end is closed."""
    connection = Connection(socket)
    owner = os.getppid()
    _forget_first_environment()
    gc.disable()  # there is nothing to collect, and looking for it takes a seventh of the time
    for name in JUPYTER:
        _import(name)
    kernel.JUPYTERS.update(sys.modules)
    hooks = list(filter(None, map(_import, preload)))
    if ipywidgets := sys.modules.get("ipywidgets"):
        ipywidgets.register_comm_target()  # as it does itself when it is imported, but only where IPython runs already
    children = set()
    signal.signal(signal.SIGCHLD, lambda *_: _reap(children))
    modules = 0
    connection.send("ready")
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):  # the owner has ended, however that happened
            return
        for hook in hooks:
            _call(hook)
        if len(sys.modules) != modules:
            modules = _put_names_together()
        # Objects that exist now are never looked at by the children's collector, which would write into them all.
        gc.freeze()
        if (threads := _threads()) > 1:  # what they have locked would stay locked in the child for ever
            connection.send(RuntimeError(f"{threads} threads run in the process that kernels are forked from."))
            continue
        if not request:
            connection.send("it would work")
            continue
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # nobody is reaped before `children` knows them
        try:
            pid = os.fork()
        except OSError as error:
            connection.send(error)
        else:
            if not pid:
                connection.close()  # or its other end would not notice that this process has died
                _be_the_kernel(owner, **request)
            children.add(pid)
            pidfd = os.pidfd_open(pid)
            connection.send(pid)
            send_handle(connection, pidfd, owner)
            os.close(pidfd)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _forget_first_environment() -> None:
    """Keep the environment, but not where /proc/PID/environ shows it, of every kernel, too.

    That is the memory which this process was started with. There, kernels whose own environment was chosen with care
    could read what was left out of it.
    """
    kept = dict(os.environ)
    os.environ.clear()
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # proc_pid_stat(5), from the third on
    start, end = int(fields[47]), int(fields[48])  # env_start, env_end; 0 if that is not to be known
    ctypes.memset(start, 0, end - start)
    os.environ.update(kept)


def _threads() -> int:
    """How many run here, this one included. Those that end are given a second."""
    for _ in range(100):
        if (threads := len(os.listdir("/proc/self/task"))) == 1:
            break
        time.sleep(0.01)
    return threads


def _import(name: str):
    """Import what `name` says, "module" or "module:function", and return the function."""
    module, _, function = name.partition(":")
    try:
        module = importlib.import_module(module)
        return getattr(module, function) if function else None
    except Exception:  # the kernel that needs it will say so where its user sees it
        traceback.print_exc()


def _call(hook) -> None:
    try:
        hook()
    except Exception:
        traceback.print_exc()


def _put_names_together() -> int:
    """Give `sys.modules` new keys that lie side by side; returns how many they are.

    Whoever lists them, as IPython does, writes a reference count into each: a megabyte then, not eight.
    """
    for name, copy in [(name, str(name.encode(), "utf-8")) for name in sys.modules]:
        sys.modules[copy] = sys.modules.pop(name)
    return len(sys.modules)


def _reap(children: set[int]) -> None:
    """Only our own: `preload` may have started processes, too."""
    for pid in list(children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        children.discard(pid)


def _be_the_kernel(owner: int, module: str, arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """What `python -m module arguments` does, in the child. Does not return."""
    code = 1
    stderr = os.fdopen(os.dup(2), "w")  # the kernel will send its own to its user
    try:
        # What exec would have done away with
        atexit._clear()  # as multiprocessing does: these are the parent's, and so is what they would tidy up
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()  # so that signals for this kernel reach the processes that it starts, and nobody else
        Path("/proc/self/comm").write_text("jupyter-kernel")  # for ps and top
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        if not sys.flags.safe_path:
            sys.path[0] = cwd
        sys.argv[1:] = arguments
        _seed()
        gc.enable()
        _end_with(owner)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc(file=stderr)
    finally:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            for stream in (sys.stdout, sys.stderr, stderr):
                stream.flush()
        os._exit(code)  # without tidying up memory, which would first have to be copied


def _seed() -> None:
    """Other random numbers than its siblings'. (Python's own `random` sees to it itself.)"""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def _end_with(owner: int) -> None:
    """End when the process with this ID ends, as kernels do.

    ipykernel watches its parent for that. But that is the server here, which may die and be replaced.
    """

    def watch():
        with contextlib.suppress(OSError):  # it has ended already
            select.select([os.pidfd_open(owner)], [], [])
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
