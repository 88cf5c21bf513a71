"""Visitors: app.ipynb served by Voilà, open in a real browser. What they saw is in tests/screenshots.

The fixtures are there for every test, see conftest.py.
"""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import machine
import pytest
import requests
from conftest import ROOT, draw_bear, encode
from machine import free_port
from playwright.sync_api import Browser, Locator, expect, sync_playwright

ANSWER = re.compile(r"^Prediction: (\w+); Probability: ([01]\.\d{4})(?:\. I cannot rule out .*)?$")
STRANGER = re.compile(r"^This does not look like anything I was taught\. Closest: (\w+)$")
expect.set_options(timeout=30_000)  # on a machine that is busy with something else


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int, **environment: str):
    """A server, from when it listens at the port; what it says is in server.log."""
    log = folder / "server.log"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **environment}
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    with server:
        try:
            for _ in range(600):
                assert server.poll() is None, f"It ended; see {log}"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            else:
                raise TimeoutError(f"It does not listen at port {port}; see {log}")
            yield server
        finally:
            server.terminate()


@contextlib.contextmanager
def serve(folder: Path, *options: str):
    """The address of the page, served as the README says, from a copy of the project."""
    port = free_port()
    with running(
        [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}", *options], folder, port
    ):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """What a visitor's request can reach: a copy of the page and what it needs, to which a test may do harm."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("app.ipynb", "export.pkl", "MODEL_CARD.md", "voila.json"):
        shutil.copy(ROOT / name, folder)
    for name in ("bears", "binder", "deploy"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def url(project):
    with serve(project) as address:
        yield address


def needs(what: str, found):
    """What was found; without it the test is skipped, or failed where BEARS_TEST_BROWSER is "required"."""
    if not found:
        missed = pytest.fail if os.environ.get("BEARS_TEST_BROWSER") == "required" else pytest.skip
        missed(f"needs {what}")
    return found


@pytest.fixture(scope="module")  # not the session: its event loop would be in the way of the notebooks' tests
def browser():
    with sync_playwright() as playwright:
        path = machine.chromium()
        found = path or Path(playwright.chromium.executable_path).exists()
        needs("a browser: install Chromium, or run: playwright install chromium", found)
        with playwright.chromium.launch(executable_path=path) as browser:
            yield browser


class Link:
    """What lies between a browser and the server at `url`, and may be slow, cut, or closed to WebSockets."""

    rate = None  # bytes a second from the browser to the server; None: no limit
    cut = False  # connections are broken, and new ones refused
    held = False  # connections stay, and nothing arrives
    websockets = True
    mute = False  # new WebSockets are opened, and nothing passes

    def __init__(self, url: str):
        self._target = urlsplit(url)
        self._writers, self._listens = set(), threading.Event()

    def __enter__(self) -> "Link":
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))
        self._thread.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _run(self):
        self._loop, self._end, self._turn = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        async with await asyncio.start_server(self._connect, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            self.url = urlunsplit(self._target._replace(netloc=f"127.0.0.1:{port}"))
            self._listens.set()
            await self._end.wait()
            server.close()
            await asyncio.sleep(0.1)  # for what has been accepted, to be among the writers
            self._abort()
            await asyncio.sleep(0.1)  # for those that read, to notice

    def _abort(self):
        for writer in self._writers:
            writer.transport.abort()

    def breaks(self):
        self.cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def mends(self):
        self.cut = False

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self.cut:
                return writer.transport.abort()
            socket = b"upgrade: websocket" in head.lower()
            if not self.websockets and socket:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return writer.close()
            there, upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._writers.add(upstream)
            upstream.write(head)
            mute = socket and self.mute
            pumps = self._pump(reader, upstream, True, mute), self._pump(there, writer, False, mute)
            await asyncio.gather(*pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_server: bool, mute: bool):
        with contextlib.suppress(OSError):
            while data := await reader.read(16_384):
                if to_server and self.rate:
                    async with self._turn:
                        await asyncio.sleep(len(data) / self.rate)
                while self.held:
                    await asyncio.sleep(0.05)
                if mute and not data.startswith(b"HTTP/1.1 101"):
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()


def file(content: bytes | None = None, name="bear.jpg", type="image/jpeg") -> dict:
    """A file for Playwright; a drawn bear, if nothing else."""
    content = encode(draw_bear(), "JPEG") if content is None else content
    return {"name": name, "mimeType": type, "buffer": content}


class Visitor:
    """Somebody with the page open. Nobody's browser is ever sent to another host.

    `blocked` are addresses that cannot be reached; in an `old` browser uploads.js fails.
    """

    def __init__(self, browser: Browser, url: str, width=800, height=600, blocked="", old=False, **preferences):
        self.page = browser.new_context(viewport={"width": width, "height": height}, **preferences).new_page()
        self.errors, self.outside, self.sent = [], [], 0
        self.expected = ["matchMedia is not defined"] if old else []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url, url.split("?")[0]))
        self.page.on("websocket", lambda socket: socket.on("framesent", self._sends))
        self.page.on("filechooser", lambda chooser: None)  # or one that opens at once may be missed when it is expected
        if old:
            self.page.add_init_script("delete window.matchMedia")
        if blocked:
            self.page.route(blocked, lambda route: route.abort())
        self.page.goto(url, timeout=120_000)
        self.choose = self.page.locator(".choose")
        self.classify = self.page.locator(".classify")
        self.rows = self.page.locator(".answer")
        expect(self.choose).to_be_visible(timeout=120_000)

    def _requested(self, address: str, url: str):
        if not address.startswith((url, "data:", "blob:")):
            self.outside.append(address)

    def _sends(self, payload: str | bytes):
        self.sent += len(payload)

    @property
    def kernel(self) -> str:
        """The ID of the page's kernel."""
        return self.page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').text).kernelId")

    def chooses(self, *files: Path | dict):
        with self.page.expect_file_chooser() as chooser:
            self.choose.click()
        self.page.evaluate("document.querySelectorAll('.answer').forEach(row => row.dataset.old = 'true')")
        chooser.value.set_files(list(files))
        expect(self.page.locator(".answer:not([data-old])")).to_have_count(len(files), timeout=30_000)

    def uploads(self, *files: Path | dict):
        self.chooses(*files)
        expect(self.classify).to_be_enabled()
        self.classify.click()

    def says(self, number: int = 0) -> Locator:
        """What stands beside a photo, below the name of its file."""
        return self.rows.nth(number).locator(".says")

    def reads(self, sentence: str | re.Pattern, number: int = 0) -> str:
        expect(self.says(number)).to_have_text(sentence, timeout=30_000)
        return self.says(number).inner_text()

    def screenshot(self, path: Path):
        self.page.screenshot(path=path)

    def asks(self) -> requests.Session:
        """For requests with this visitor's cookies, when they have left, too."""
        session = requests.Session()
        for cookie in self.page.context.cookies(self.page.url):
            session.cookies.set(cookie["name"], cookie["value"])
        return session

    def loses_its_kernel(self):
        assert self.asks().post(f"{self.page.url}voila/api/shutdown/{self.kernel}", timeout=60).ok
        self.page.evaluate("window.dispatchEvent(new Event('online'))")  # it looks at once

    def leaves(self):
        self.page.context.close()
        assert self.errors == self.expected and self.outside == []


@pytest.fixture
def newcomer(browser, url):
    """Somebody who has just opened the page."""
    visitor = Visitor(browser, url)
    yield visitor
    visitor.leaves()


@pytest.fixture(scope="module")
def visitor(browser, url):
    """Somebody who stays, and hands over one photo after the other: to open a page takes seconds."""
    visitor = Visitor(browser, url)
    yield visitor
    visitor.leaves()


@pytest.fixture
def screenshot(request):
    def save(visitor, name=""):
        folder = ROOT / "tests" / "screenshots"
        folder.mkdir(exist_ok=True)
        visitor.screenshot(path=folder / f"{request.node.name}{name}.png")

    return save
