"""When Voilà may end a kernel. Named in voila.json; nothing of ours imports it."""

from datetime import UTC, datetime

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class KernelManager(AsyncMappingKernelManager):
    """Counts a kernel as idle from the moment its visitor left, not from the last message.

    Jupyter's own clock ends kernels that are in use. A preheated kernel that has waited for longer than
    `cull_idle_timeout` is overdue as soon as a visitor is given it, and so is one whose page was left open for as long
    when its connection drops for a second. If the next check falls into that moment, the visitor is left with a dead
    page. (The kernels in its pool Voilà spares itself, before it asks this class.)
    """

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
