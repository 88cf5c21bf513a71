"""Jupyter's side: a kernel provisioner that asks for forks, and the fork server as it sees it."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from jupyter_client.provisioning import LocalProvisioner
from traitlets import Dict, Float, List, Unicode

SUPPORTED = sys.platform == "linux"  # macOS's own libraries break in forked processes, Windows cannot fork


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
    server_timeout = Float(120, config=True, help="Seconds that importing it all, or a fork, may take.")

    async def launch_kernel(self, cmd: list[str], **kwargs):
        """Start the kernel; returns how to connect to it."""
        try:
            self.process = await asyncio.to_thread(self._fork, cmd, **kwargs)
        except ForkError as error:
            self.log.warning("This kernel is started as usual, not forked: %s", error)
            return await super().launch_kernel(cmd, **kwargs)
        self.pid = self.pgid = self.process.pid
        self.cwd = kwargs.get("cwd") or os.getcwd()
        return self.connection_info

    def _fork(self, cmd: list[str], cwd=None, env=None, **kwargs) -> "ForkedProcess":
        if not SUPPORTED:
            raise ForkError(f"{sys.platform} is not supported.")
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
        return server.fork(request, self.server_timeout)


class ForkServer:
    """The process that kernels are forked from; started when it is first needed, and again when it has died."""

    _servers: dict = {}  # of this process: what differs in Python or preload cannot share memory
    _one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, python: list[str], preload: tuple[str, ...], env: dict[str, str]) -> "ForkServer":
        """The one that runs this Python, with these modules and variables."""
        key = (*python, *preload, *sorted(env.items()))
        with cls._one_at_a_time:
            return cls._servers.setdefault(key, cls(python, preload, env))

    def __init__(self, python: list[str], preload: tuple[str, ...], env: dict[str, str]):
        self._command = [*python, "-m", "forked_kernels.server"]
        self._preload, self._env = preload, env
        self._process = self._connection = None
        self._lock = threading.Lock()

    def fork(self, request: dict, timeout: float) -> "ForkedProcess":
        """A kernel, as `request` says; waits for `timeout` seconds at most. Raises `ForkError`."""
        with self._lock:
            for attempt in range(2):  # a server that has died since the last time is replaced
                try:
                    if self._process is None:
                        self._start()
                    return self._exchange(request, timeout)
                except (OSError, EOFError) as error:
                    self._stop()
                    if attempt:
                        raise ForkError(f"the process that kernels are forked from ended: {error!r}") from error

    def _exchange(self, request: dict, timeout: float) -> "ForkedProcess":
        self._receive(timeout)  # "ready"
        self._connection.send(request)
        answer = self._receive(timeout)
        if isinstance(answer, Exception):
            raise ForkError(f"the system refuses: {answer}")
        return ForkedProcess(answer, recv_handle(self._connection))

    def _receive(self, timeout: float):
        if not self._connection.poll(timeout):
            self._stop()
            raise ForkError(f"the process that kernels are forked from took more than {timeout:.0f} seconds.")
        return self._connection.recv()

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
