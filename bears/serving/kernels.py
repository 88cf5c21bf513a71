"""How Voilà talks to kernels, and when it may end one. Named in voila.json; nothing of ours imports it."""

import os
import sys
from datetime import UTC, datetime

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from traitlets import default

import bears.serving.addresses  # noqa: F401  voila.json names this file, so it is here that Voilà comes by
from bears.serving import LARGEST_MESSAGE


class OneKernelManager(ServerKernelManager):
    """Talks to its kernel over Unix sockets, in a folder that belongs to Voilà; and no kernel keeps a history.

    Jupyter's own way is to look for five free TCP ports and tell the kernel to take them. When something else takes one
    first, the kernel ends, and Voilà waits for it for ever, with all its visitors. It has happened with three servers
    starting at once on one machine, where every user could have reached the kernels, too.

    IPython would write the notebook's code into its history for every visitor, 7 kB each time.
    """

    @default("transport")
    def _unix_sockets(self) -> str:
        short = len(self.connection_file) <= 100  # as their addresses must be, which are two characters longer
        return "ipc" if short and sys.platform != "win32" else "tcp"

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return super().format_kernel_cmd([*(extra_arguments or []), "--HistoryManager.enabled=False"])


class KernelManager(AsyncMappingKernelManager):
    """Counts a kernel as idle from the moment its visitor left, not from the last message.

    Jupyter's own clock ends kernels that are in use. A preheated kernel that has waited for longer than
    `cull_idle_timeout` is overdue as soon as a visitor is given it, and so is one whose page was left open for as long
    when its connection drops for a second. If the next check falls into that moment, the visitor is left with a dead
    page. (The kernels in its pool Voilà spares itself, before it asks this class.)
    """

    @default("kernel_manager_class")
    def _one_kernel_manager(self) -> str:
        return f"{OneKernelManager.__module__}.{OneKernelManager.__name__}"

    async def start_kernel(self, **options) -> str:
        settings = getattr(self.parent, "tornado_settings", {})
        largest = settings.get("websocket_max_message_size") or 0
        options["env"] = {**(options.get("env") or os.environ), LARGEST_MESSAGE: str(largest)}
        return await super().start_kernel(**options)

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        kernel = self._kernels[kernel_id]
        if not getattr(kernel, "given_to_a_visitor", False):  # seen outside the pool for the first time
            kernel.given_to_a_visitor = True
            kernel.last_activity = datetime.now(UTC)
        await super().cull_kernel_if_idle(kernel_id)

    def notify_disconnect(self, kernel_id: str) -> None:
        super().notify_disconnect(kernel_id)
        if kernel_id in self._kernels:
            self._kernels[kernel_id].last_activity = datetime.now(UTC)
