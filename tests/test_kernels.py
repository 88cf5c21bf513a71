"""bears.kernels: a kernel is culled when its visitor has been gone for long enough, and not before."""

import asyncio
from datetime import UTC, datetime, timedelta

from bears.kernels import KernelManager


def test_a_kernel_outlives_a_long_silence_but_not_a_long_absence():
    async def visit():
        manager = KernelManager(cull_idle_timeout=600)
        kernel_id = await manager.start_kernel(kernel_name="python3")
        kernel = manager.get_kernel(kernel_id)

        async def check_after_an_hour_without_a_message() -> bool:
            kernel.last_activity = datetime.now(UTC) - timedelta(hours=1)
            await manager.cull_kernel_if_idle(kernel_id)
            return kernel_id in manager

        try:
            assert await check_after_an_hour_without_a_message(), "preheated, given to a visitor just now"
            manager.notify_connect(kernel_id)
            assert await check_after_an_hour_without_a_message(), "the page is open"
            kernel.last_activity = datetime.now(UTC) - timedelta(hours=1)
            manager.notify_disconnect(kernel_id)
            await manager.cull_kernel_if_idle(kernel_id)
            assert kernel_id in manager, "the connection dropped a moment ago"
            assert not await check_after_an_hour_without_a_message(), "the visitor left an hour ago"
        finally:
            await manager.shutdown_all(now=True)

    asyncio.run(visit())


def test_a_visitor_who_never_connects_leaves_no_kernel():
    async def visit():
        manager = KernelManager(cull_idle_timeout=600)
        kernel_id = await manager.start_kernel(kernel_name="python3")
        try:
            for _ in range(2):  # the first check starts the clock
                manager.get_kernel(kernel_id).last_activity = datetime.now(UTC) - timedelta(hours=1)
                await manager.cull_kernel_if_idle(kernel_id)
            assert kernel_id not in manager
        finally:
            await manager.shutdown_all(now=True)

    asyncio.run(visit())
