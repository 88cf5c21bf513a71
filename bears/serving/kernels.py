"""How Voilà talks to kernels, how many it may start, and when it ends one.

Named in voila.json; nothing of ours imports it.
"""

import asyncio
import os
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import voila.app
import zmq
from forked_kernels.provisioner import ForkedProcess
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from traitlets import Float, Int, default

from bears.files import stamp
from bears.serving import LARGEST_MESSAGE, capacity
from bears.serving.capacity import Full
from bears.serving.handlers import limit_what_is_heard  # voila.json names this file: here Voilà comes by

MADE_OF = ("app.ipynb", "export.pkl", "MODEL_CARD.md")  # what a page that was prepared ahead shows as it was then
MOST_CONNECTIONS = 8  # to one kernel, each of six sockets


@dataclass(eq=False)
class Opening:
    """A page that is being made for a visitor."""

    kernel_id: str | None = None  # which one it is about


_here: ContextVar[Opening | None] = ContextVar("_here", default=None)  # the one that this task is about


class OneKernelManager(ServerKernelManager):
    """Talks to its kernel over Unix sockets, in a folder that belongs to Voilà; and no kernel keeps a history.

    Jupyter's own way is to look for five free TCP ports and tell the kernel to take them. When something else takes one
    first, the kernel ends, and Voilà waits for it for ever, with all its visitors. It has happened with three servers
    starting at once on one machine, where every user could have reached the kernels, too.

    IPython would write the notebook's code into its history for every visitor, 7 kB each time.
    """

    # What `VisitorKernelManager` knows of it
    made_of: list | None = None  # what its page shows; None: it is being started
    given: datetime | None = None  # when its page was last given to a visitor; None: it is prepared
    opened = False  # by a browser, at least once
    connections = 0  # of browsers, those that are on their way included
    visitor: str | None = None  # whose it is; empty: of one without cookies; None: nobody has come yet
    takes = 1.0  # of the room

    @default("transport")
    def _unix_sockets(self) -> str:
        short = len(self.connection_file) <= 100  # as their addresses must be, which are two characters longer
        return "ipc" if short and sys.platform != "win32" else "tcp"

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return super().format_kernel_cmd([*(extra_arguments or []), "--HistoryManager.enabled=False"])


class VisitorKernelManager(AsyncMappingKernelManager):
    """A kernel for each visitor, as long as there is room, and until they leave.

    Jupyter's own clock ends kernels that are in use: it counts from the last message. A preheated kernel that has
    waited for longer than `cull_idle_timeout` is overdue as soon as a visitor is given it, and so is one whose page was
    left open for as long when its connection drops for a second. So here it counts from when the visitor left. (Voilà
    itself spares the kernels in its pool, before it asks this class.)
    """

    most_pages = Int(
        None,
        allow_none=True,
        config=True,
        help="""How many pages may be open at once. By default as many as there is memory for: see
        bears.serving.capacity.""",
    )
    connect_within = Float(
        60,
        config=True,
        help="Seconds after which a kernel ends whose page was sent, but never opened in a browser.",
    )

    retry_after = Float(5, config=True, help="Seconds after which a visitor without room tries again; the mean.")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._opening: set[Opening] = set()  # pages that are being made
        files = capacity.open_files()  # however many pages: from now on it is allowed as many as it may ask for
        self._room = self.most_pages or capacity.pages(files=files)
        self._next, self._until = 1.0, 0.0  # how much of the room the next kernel will take, and until when that holds
        self.context.set(zmq.MAX_SOCKETS, self.context.get(zmq.SOCKET_LIMIT))  # 1,023 are 170 pages

    @default("kernel_manager_class")
    def _one_kernel_manager(self) -> str:
        return f"{OneKernelManager.__module__}.{OneKernelManager.__name__}"

    async def start_kernel(self, **options) -> str:
        settings = getattr(self.parent, "tornado_settings", {})
        largest = settings.get("websocket_max_message_size") or 0
        options["env"] = {**(options.get("env") or os.environ), LARGEST_MESSAGE: str(largest)}
        files = _stamps()
        kernel_id = await super().start_kernel(**options)
        kernel = self._kernels[kernel_id]
        kernel.made_of = files
        forked = self.most_pages or isinstance(kernel.provisioner.process, ForkedProcess)
        self._next = kernel.takes = 1.0 if forked else capacity.ORDINARY / capacity.FURTHER
        self._until = time.monotonic() + 60  # or nobody would be let in, and no kernel started that shows otherwise
        return kernel_id

    # The room

    @contextmanager
    def page(self):
        """While one is made for a visitor; raises `Full` where there is no room for another one."""
        following = self._next if time.monotonic() < self._until else 1.0
        taken = [kernel.takes for kernel in self._kernels.values() if kernel.given]
        taken += [following for opening in self._opening if not opening.kernel_id]
        if taken and sum(taken) + following > self._room:
            raise Full
        opening = Opening()
        token = _here.set(opening)
        self._opening.add(opening)
        try:
            yield opening
        finally:
            self._opening.discard(opening)
            _here.reset(token)
            if opening.kernel_id in self:
                self._kernels[opening.kernel_id].given = datetime.now(UTC)  # from now on a browser may connect

    def give(self, kernel_id: str) -> None:
        """To the visitor whose page is being made here; it is none of the pool any more."""
        kernel = self._kernels[kernel_id]
        kernel.given = kernel.last_activity = datetime.now(UTC)
        if opening := _here.get():
            opening.kernel_id = kernel_id

    def admits(self, visitor: str | None, kernel_id: str) -> bool:
        """Whether a kernel is this visitor's; it is the first one's who comes.

        Without a cookie it is whose address it has. Some browsers send none, and none do from a frame in another site.
        """
        if (kernel := self._kernels.get(kernel_id)) is None:
            return True  # that it is not there others say
        if kernel.visitor is None:
            kernel.visitor = visitor or ""
        return kernel.visitor in ("", visitor)

    def is_as_prepared(self, kernel_id: str) -> bool:
        """Whether it shows what would be shown now: nothing that it is made of is new, and it has not died since."""
        if kernel_id not in self:
            return False
        kernel = self._kernels[kernel_id]
        process = kernel.provisioner.process  # that it has died is noticed every three seconds only
        return process and process.poll() is None and kernel.made_of == _stamps()

    # When a kernel may be ended

    async def end(self, kernel_id: str | None) -> None:
        """At once, if it has not ended yet."""
        if kernel_id in self:
            await self.shutdown_kernel(kernel_id, now=True)

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        kernel = self._kernels.get(kernel_id)  # it may have ended while others were looked at
        if kernel is None or not kernel.made_of:  # it does not run yet
            return
        if any(opening.kernel_id == kernel_id for opening in self._opening):
            return
        if kernel.given and not kernel.opened:
            if (datetime.now(UTC) - kernel.given).total_seconds() > self.connect_within:
                self.log.info("Nobody has opened the page of kernel %s", kernel_id)
                await self.end(kernel_id)
            return
        await super().cull_kernel_if_idle(kernel_id)

    def _handle_kernel_died(self, kernel_id: str) -> None:
        """Tidy up after it. Jupyter would start it anew (voila.json says not to), without what the page talks to."""
        self.log.warning("Kernel %s has died", kernel_id)
        asyncio.ensure_future(self.end(kernel_id))

    def connects(self, kernel_id: str) -> bool:
        """Whether one more browser may connect to it; a page needs one, and some to spare while its line is bad."""
        kernel = self._kernels.get(kernel_id)
        if kernel and kernel.connections >= MOST_CONNECTIONS:
            return False
        if kernel:
            kernel.connections += 1
        return True

    def disconnects(self, kernel_id: str) -> None:
        if kernel := self._kernels.get(kernel_id):
            kernel.connections -= 1

    def notify_connect(self, kernel_id: str) -> None:
        super().notify_connect(kernel_id)
        if kernel_id in self._kernels:
            self._kernels[kernel_id].opened = True

    def notify_disconnect(self, kernel_id: str) -> None:
        super().notify_disconnect(kernel_id)
        if kernel_id in self._kernels:
            self._kernels[kernel_id].last_activity = datetime.now(UTC)


def _stamps() -> list:
    return [stamp(Path(name)) for name in MADE_OF]


def _kernel_of(task: asyncio.Task) -> str | None:
    """Of a page in Voilà's pool; None, if there is none, because it failed."""
    return None if task.cancelled() or task.exception() else task.result()["kernel_id"]


def _for_visitors(base_class, *arguments, **options):
    """Voilà's own subclass, which has a pool of prepared pages, and ours of that, which knows who is given one."""
    limit_what_is_heard()  # here, because a JupyterLab that comes by must keep its own limits

    class Manager(_voilas_subclass(base_class, *arguments, **options)):
        async def get_rendered_notebook(self, *arguments, **options):
            *page, kernel_id = await super().get_rendered_notebook(*arguments, **options)
            self.give(kernel_id)
            return *page, kernel_id

        async def start_kernel(self, **options) -> str:  # Voilà asks for those of its pool by `super()`
            kernel_id = await super().start_kernel(**options)
            self.give(kernel_id)
            return kernel_id

        async def shutdown_kernel(self, kernel_id: str, *arguments, **options) -> None:
            for pool in getattr(self, "_pools", {}).values():  # of a page that failed Voilà asks its kernel
                pool[:] = [task for task in pool if not task.done() or _kernel_of(task)]
            await super().shutdown_kernel(kernel_id, *arguments, **options)

        def get_pool_size(self, notebook_name: str) -> int:
            """Asked before a page is taken from the pool: the moment to put new ones in the place of old ones."""
            if not hasattr(self, "_pools"):  # preheating is off
                return super().get_pool_size(notebook_name)
            pool = self._pools.get(notebook_name, [])
            old = [task for task in pool if task.done() and not self.is_as_prepared(_kernel_of(task))]
            for task in old:
                pool.remove(task)
                asyncio.ensure_future(self.end(_kernel_of(task)))
            if old or not pool:  # it is empty when all of it have died
                self.fill_if_needed(delay=0, notebook_name=notebook_name)
            return super().get_pool_size(notebook_name)

    return Manager


# Voilà makes that class when it starts, from the one that voila.json names; there is no setting for ours.
_voilas_subclass, voila.app.voila_kernel_manager_factory = voila.app.voila_kernel_manager_factory, _for_visitors
