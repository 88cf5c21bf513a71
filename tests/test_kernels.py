"""bears.serving.kernels: no port that something else could take, no history; culled when a visitor is long gone."""

import asyncio
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bears.serving import capacity
from bears.serving.capacity import Full
from bears.serving.kernels import VisitorKernelManager

HOUR = timedelta(hours=1)


def with_a_kernel(visit, **options):
    async def run():
        manager = VisitorKernelManager(cull_idle_timeout=600, connect_within=60, **options)
        kernel_id = await manager.start_kernel(kernel_name="python3")
        try:
            await visit(manager, kernel_id, manager.get_kernel(kernel_id))
        finally:
            await manager.shutdown_all(now=True)

    asyncio.run(run())


def test_a_kernel_outlives_a_long_silence_but_not_a_long_absence():
    async def visit(manager, kernel_id, kernel):
        async def check_after_an_hour_without_a_message() -> bool:
            kernel.last_activity = datetime.now(UTC) - HOUR
            await manager.cull_kernel_if_idle(kernel_id)
            return kernel_id in manager

        manager.give(kernel_id)
        assert await check_after_an_hour_without_a_message(), "preheated, given to a visitor just now"
        manager.notify_connect(kernel_id)
        assert await check_after_an_hour_without_a_message(), "the page is open"
        kernel.last_activity = datetime.now(UTC) - HOUR
        manager.notify_disconnect(kernel_id)
        await manager.cull_kernel_if_idle(kernel_id)
        assert kernel_id in manager, "the connection dropped a moment ago"
        assert not await check_after_an_hour_without_a_message(), "the visitor left an hour ago"

    with_a_kernel(visit)


def test_a_kernel_whose_page_was_never_opened_ends_after_a_minute_and_not_while_it_is_made():
    async def visit(manager, kernel_id, kernel):
        async def check_after_an_hour() -> bool:
            kernel.given -= HOUR
            await manager.cull_kernel_if_idle(kernel_id)
            return kernel_id in manager

        with manager.page():
            manager.give(kernel_id)
            assert await check_after_an_hour()
        await manager.cull_kernel_if_idle(kernel_id)
        assert kernel_id in manager, "the minute begins when it is sent"
        assert not await check_after_an_hour()

    with_a_kernel(visit)


def test_there_is_room_until_all_is_taken_and_again_when_a_page_fails_or_a_kernel_ends():
    async def visit(manager, kernel_id, kernel):
        with pytest.raises(ZeroDivisionError), manager.page(), manager.page():
            with pytest.raises(Full), manager.page():
                pass
            raise ZeroDivisionError
        with manager.page():
            manager.give(kernel_id)
            with manager.page(), pytest.raises(Full), manager.page():
                pass
        with manager.page(), pytest.raises(Full), manager.page():
            pass
        await manager.shutdown_kernel(kernel_id, now=True)
        with manager.page(), manager.page():
            pass

    with_a_kernel(visit, most_pages=2)


def test_a_kernel_that_is_not_forked_takes_the_room_of_many(monkeypatch):
    monkeypatch.setattr(capacity, "pages", lambda **_: 10)

    async def visit(manager, kernel_id, kernel):
        with manager.page():
            manager.give(kernel_id)  # alone it may be, and has to be: somebody has to be served
        with pytest.raises(Full), manager.page():
            pass

    with_a_kernel(visit)


def started(folder, **environment: str) -> dict:
    """How a kernel is to be talked to whose files are in that folder."""

    async def visit():
        manager = VisitorKernelManager(connection_dir=str(folder))
        kernel_id = await manager.start_kernel(kernel_name="python3", env=environment and {**os.environ, **environment})
        kernel = manager.get_kernel(kernel_id)
        client = kernel.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            await client.execute_interactive("1 + 1", timeout=60)
            return kernel.get_connection_info()
        finally:
            client.stop_channels()
            await manager.shutdown_all(now=True)

    info = asyncio.run(visit())
    assert not list(folder.iterdir()), "nothing is left behind"
    return info


@pytest.mark.skipif(sys.platform == "win32", reason="there kernels have TCP ports")
def test_a_kernel_needs_no_tcp_port():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        info = started(Path(folder))
    assert info["transport"] == "ipc" and info["ip"].startswith(folder)


def test_where_unix_sockets_would_have_too_long_a_name_there_are_ports(tmp_path):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    assert started(folder)["transport"] == "tcp"


def test_what_is_executed_is_not_written_down(tmp_path):
    (tmp_path / "kernel").mkdir()
    started(tmp_path / "kernel", IPYTHONDIR=str(tmp_path / "ipython"))
    assert (tmp_path / "ipython").exists()
    assert not list(tmp_path.rglob("history.sqlite"))


def test_to_one_kernel_only_some_browsers_connect_and_who_leaves_makes_room():
    async def visit(manager, kernel_id, kernel):
        allowed = [manager.connects(kernel_id) for _ in range(10)]
        assert allowed == 8 * [True] + 2 * [False]
        manager.disconnects(kernel_id)
        assert manager.connects(kernel_id) and not manager.connects(kernel_id)

    with_a_kernel(visit)


def test_a_kernel_that_was_not_forked_does_not_close_the_house_for_good(monkeypatch):
    monkeypatch.setattr(capacity, "pages", lambda **_: 10)

    async def visit(manager, kernel_id, kernel):
        manager._until = 0  # a minute later; the one that was let in takes one place as far as is known
        with manager.page(), manager.page():
            pass

    with_a_kernel(visit)
