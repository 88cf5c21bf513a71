"""Jupyter's side: a kernel provisioner that asks for forks, and the fork server as it sees it."""

import asyncio
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from jupyter_client.provisioning import LocalProvisioner
from traitlets import Dict, Float, List, Unicode

# macOS's own libraries break in forked processes, Windows cannot fork, and some of conda's Pythons know no pidfd
SUPPORTED = sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


class ForkError(Exception):
    """Why no kernel could be forked."""


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels by `python -m module ...` as forks of one process, and all others as `LocalProvisioner` does.

    So it does where the system is not Linux or the fork fails, with a word in the log.
    """

    preload = List(
        Unicode(),
        config=True,
        help="""What is imported before kernels are forked: "module", or "module:function" to call that function before
        every fork, too. They must not start threads, or end them again.""",
    )
    server_env = Dict(
        config=True,
        help="""Environment variables for the process that kernels are forked from. Those that libraries read when they
        are imported, such as OMP_NUM_THREADS, belong here; what comes with the kernel itself is too late for them.""",
    )
    server_timeout = Float(
        120,
        config=True,
        help="""Seconds that a kernel waits for its fork, and for what is imported before the first. Then it is started
        as usual.""",
    )
    retry_after = Float(
        60,
        config=True,
        help="""Seconds after which forking is tried again where it has failed. No kernel waits for that: until it has
        worked, they are started as usual.""",
    )

    async def launch_kernel(self, cmd: list[str], **kwargs):
        """Start the kernel; returns how to connect to it."""
        try:
            self.process = await self._fork(cmd, **kwargs)
        except ForkError as error:
            self.log.warning("This kernel is started as usual, not forked: %s", error)
            return await super().launch_kernel(cmd, **kwargs)
        self.pid = self.pgid = self.process.pid
        self.cwd = kwargs.get("cwd") or os.getcwd()
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        """To the kernel and the processes it has started; nothing, if it has ended.

        The number of its process group may then be another one's.
        """
        if self.process and self.process.poll() is None:
            await super().send_signal(signum)

    async def _fork(self, cmd: list[str], cwd=None, env=None, **kwargs) -> "ForkedProcess":
        if not SUPPORTED:
            raise ForkError(f"this Python on {sys.platform} is not supported.")
        if unknown := [name for name, value in self._scrub_kwargs(kwargs).items() if value]:
            raise ForkError(f"{', '.join(unknown)} cannot be passed on.")
        if "-m" not in cmd[1:-1]:
            raise ForkError(f"{cmd} is not of the form: python -m module.")
        split = cmd.index("-m")
        server = ForkServer.of(cmd[:split], tuple(self.preload), self.server_env)
        module, *arguments = cmd[split + 1 :]
        if module == "ipykernel_launcher":
            arguments.append("--IPKernelApp.kernel_class=forked_kernels.kernel.ForkedKernel")
        request = {
            "module": module,
            "arguments": arguments,
            "cwd": os.path.abspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
        }
        return await self._answer(server.fork(request, self.server_timeout, self.retry_after))

    async def _answer(self, future: "Future[ForkedProcess]") -> "ForkedProcess":
        answer = asyncio.wrap_future(future)
        try:
            await asyncio.wait({answer}, timeout=self.server_timeout)
        except asyncio.CancelledError:  # nobody wants the kernel any more
            if not future.cancel():
                future.add_done_callback(lambda future: future.exception() or future.result().kill())
            raise
        if future.cancel():  # if it comes after all, the server's thread ends it
            raise ForkError(_too_long(self.server_timeout))
        return await answer


def _too_long(seconds: float) -> str:
    return f"the process that kernels are forked from took more than {seconds:.0f} seconds."


class ForkServer:
    """The process that kernels are forked from; started when it is first needed, and again when it has died.

    It can do one thing at a time, so one thread asks it for what all others want. Nobody waits longer than they said:
    not for the process, not for each other. Once it has failed (it ended twice, took too long, or has threads), all are
    refused at once, until it has worked again in a trial that nobody waits for.
    """

    _servers: dict = {}  # of this process: what differs in Python or preload cannot share memory
    _one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, python: list[str], preload: tuple[str, ...], env: dict[str, str]) -> "ForkServer":
        """The one that runs this Python, with these modules and variables."""
        key = (*python, *preload, *sorted(env.items()))
        with cls._one_at_a_time:
            if key not in cls._servers:
                cls._servers[key] = cls(python, preload, env)
            return cls._servers[key]

    def __init__(self, python: list[str], preload: tuple[str, ...], env: dict[str, str]):
        self._command = [*python, "-m", "forked_kernels.server"]
        self._preload, self._env = preload, env
        self._process = self._connection = None  # the thread's
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()  # for the next two, and never held while anything is waited for
        self._failure = ""  # why it does not fork; empty: it does, as far as is known
        self._next_trial = 0.0  # by the monotonic clock; infinity: one is under way
        threading.Thread(target=self._work, name="fork server", daemon=True).start()

    def fork(self, request: dict, timeout: float, retry_after: float) -> "Future[ForkedProcess]":
        """A kernel, as `request` says, or `ForkError`. Cancelled, there is none.

        The process is given `timeout` seconds to import what it has to, and as many for the fork.
        """
        future: Future[ForkedProcess] = Future()
        with self._lock:
            if self._failure:
                future.set_exception(ForkError(self._failure))
                if time.monotonic() < self._next_trial:
                    return future
                self._next_trial = float("inf")
                self._wanted.put((Future(), None, timeout, retry_after))
            else:
                self._wanted.put((future, request, timeout, retry_after))
        return future

    def _work(self) -> None:
        while True:
            future, request, timeout, retry_after = self._wanted.get()
            if future.cancelled():
                continue
            process = error = None
            try:
                if request and self._failure:  # it was asked for before the failure was known
                    raise ForkError(self._failure)
                process = self._forked(request, timeout)
                self._failure = ""
            except ForkError as refused:
                error = refused
            except Exception as broken:
                self._stop()
                error = ForkError(str(broken))
                with self._lock:
                    self._failure, self._next_trial = str(broken), time.monotonic() + retry_after
            if not future.set_running_or_notify_cancel():
                if process:
                    process.kill()
            elif error:
                future.set_exception(error)
            else:
                future.set_result(process)

    def _forked(self, request: dict | None, timeout: float) -> "ForkedProcess | None":
        for attempt in range(2):  # a server that has died since the last time is replaced
            try:
                if self._process is None:
                    self._start()
                    self._receive(timeout)  # "ready"
                self._connection.send(request)
                answer = self._receive(timeout)
                return ForkedProcess(answer, recv_handle(self._connection)) if request else None
            except (OSError, EOFError) as error:
                self._stop()
                if attempt:
                    raise _Broken(f"the process that kernels are forked from ended: {error!r}") from error

    def _receive(self, timeout: float):
        if not self._connection.poll(timeout):
            raise _Broken(_too_long(timeout))
        answer = self._connection.recv()
        if isinstance(answer, OSError):
            raise ForkError(f"the system refuses: {answer}")
        if isinstance(answer, Exception):
            raise _Broken(str(answer))
        return answer

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        env = {**os.environ, **self._env}
        env["JPY_PARENT_PID"] = "1"  # ipykernel shall watch no parent: the server may die and be replaced
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), *self._preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,  # so that Ctrl-C in the terminal ends Jupyter, and Jupyter its kernels
            )
        self._connection = Connection(ours.detach())

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # its kernels live on
            self._process.wait()
            self._connection.close()
            self._process = self._connection = None


class _Broken(Exception):
    """It would not be otherwise for the next kernel."""


class ForkedProcess:
    """A process that is not our child, with as much of `subprocess.Popen` as `LocalProvisioner` needs.

    Linux's process file descriptors say when it has ended, and never mean another one that got its number later.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, pidfd: int):
        self.pid, self._pidfd = pid, pidfd
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)

    def poll(self) -> int | None:
        """None while it runs; then 0, because how it ended only its parent knows."""
        return 0 if self._pidfd is None or self._poll.poll(0) else None

    def wait(self) -> int:
        """Wait until it has ended."""
        if self._pidfd is not None:
            self._poll.poll()
            os.close(self._pidfd)
            self._pidfd = None
        return 0

    def send_signal(self, number: int) -> None:
        """Nothing, if it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def __del__(self):
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
