"""Half an hour of visitors who send odd files and leave without a word, while what serves them is killed at random.

.venv/bin/python benchmarks/soak.py [MINUTES]

Every visitor who stays is answered or told why, and in the end there is as much of everything as in the beginning:
processes, open files, sockets, temporary files, memory. It prints a line each minute, and what was not as it should be.
"""

import asyncio
import collections
import io
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from page import ROOT, Here
from PIL import Image
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClosedError
from visitors import Kernel, classify_voila, open_voila

VISITORS = 30
PATIENCE = 90  # seconds after which somebody who waits counts as forgotten
KILLS = 7  # seconds between two, on average
GONE = (ConnectionError, WebSocketClosedError, OSError)


class Page(Here):
    """With room for twice as many, and less patience with who is gone without a word: they leave all the time."""

    def command(self, port: int) -> list[str]:
        room = f"--VisitorKernelManager.most_pages={2 * VISITORS}"
        return [*super().command(port), room, "--MappingKernelManager.cull_idle_timeout=20"]


def odd_files() -> list[bytes]:
    """Photos, and what is none, is broken, or is larger than it looks."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
    files = []
    for format in "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP":
        content = io.BytesIO()
        noise.save(content, format)
        files += [content.getvalue(), content.getvalue()[:5000], content.getvalue()[: len(content.getvalue()) // 2]]
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    return [*files, bomb.getvalue(), b"", b"no photo", bytes(1_000_000), b"\xff\xd8\xff" + os.urandom(100_000)]


class Soak:
    def __init__(self, server: Page, url: str):
        self.server, self.url = server, url
        self.files, self.counts, self.wrong = odd_files(), collections.Counter(), []
        self.random = random.Random(0)

    async def visit(self) -> None:
        """Come, send some files, and leave in one way or another."""
        try:
            kernel = await asyncio.wait_for(open_voila(self.url), PATIENCE)
        except Exception as error:  # whatever it is, a visitor would have seen it
            self.counts["found no page"] += 1
            self.wrong.append(f"no page: {error!r}")
            return
        for _ in range(self.random.randint(1, 4)):
            try:
                await asyncio.wait_for(classify_voila(kernel, self.random.choice(self.files)), PATIENCE)
                self.counts["answered"] += 1
            except GONE:
                self.counts["lost the connection"] += 1
                if not (kernel := await self.back(kernel)):
                    return
            except RuntimeError:
                self.counts["told that the kernel ended"] += 1
                return
            except TimeoutError:
                self.counts["forgotten"] += 1
                self.wrong.append(f"forgotten by {kernel.id}")
                return
            await asyncio.sleep(self.random.expovariate(1))
        with suppress(*GONE):
            how = self.random.choice([kernel.close, kernel.disconnect, self.mid_upload])
            await (how(kernel) if how == self.mid_upload else how())

    async def back(self, kernel: Kernel) -> Kernel | None:
        """Connect again, as the page's script does; None: it is told that there is nobody any more."""
        with suppress(Exception):
            return await asyncio.wait_for(Kernel.connect(self.url, kernel.id), PATIENCE)
        self.counts["told that the kernel is gone"] += 1
        return None

    async def mid_upload(self, kernel: Kernel) -> None:
        await kernel.send("comm_msg", {"comm_id": "nobody", "data": {}}, buffers=[bytes(5_000_000)])
        kernel.connection.close()

    async def visitors(self, until: float) -> None:
        while time.monotonic() < until:
            await self.visit()
            await asyncio.sleep(self.random.expovariate(1))

    async def killer(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self.random.expovariate(1 / KILLS))
            everybody = psutil.Process(self.server.process.pid).children(recursive=True)
            kernels = [process for process in everybody if _name(process) == "jupyter-kernel"]
            forks = [
                process for process in everybody if process not in kernels and "forked_kernels" in _command(process)
            ]
            victims = forks if self.random.random() < 0.1 else kernels
            if victims:
                with suppress(psutil.NoSuchProcess):
                    self.random.choice(victims).kill()
                self.counts["fork server killed" if victims is forks else "kernel killed"] += 1

    def measured(self) -> dict[str, float]:
        """What there is of everything."""
        voila = psutil.Process(self.server.process.pid)
        everybody = [voila, *voila.children(recursive=True)]
        return {
            "processes": len(everybody),
            "open files": voila.num_fds(),
            "sockets": len(voila.net_connections("all")),
            "temporary files": sum(1 for _ in Path(os.environ["TMPDIR"]).rglob("*")),
            "memory, MB": round(self.server.memory()),
        }

    async def run(self, minutes: float) -> None:
        await asyncio.sleep(15)
        before = self.measured()
        print("before", before, flush=True)
        until = time.monotonic() + 60 * minutes
        tasks = [asyncio.create_task(self.visitors(until)) for _ in range(VISITORS)]
        tasks.append(asyncio.create_task(self.killer(until)))
        while time.monotonic() < until:
            await asyncio.sleep(min(60, max(0, until - time.monotonic())))
            print(time.strftime("%H:%M:%S"), self.measured(), dict(self.counts), flush=True)
        await asyncio.gather(*tasks)
        await asyncio.sleep(100)  # pages that nobody opened end after a minute; those that were lost after five seconds
        after = self.measured()
        print("after", after, dict(self.counts), flush=True)
        print("\n".join(self.wrong) or "Nobody was forgotten.")


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def main(minutes: float) -> None:
    AsyncHTTPClient.configure(None, max_clients=1000)
    with tempfile.TemporaryDirectory() as folder:
        server = Page(Path(folder))
        os.environ["TMPDIR"] = os.environ["JUPYTER_RUNTIME_DIR"] = str(Path(folder, "tmp"))
        Path(folder, "tmp").mkdir()
        with server.started() as url:
            asyncio.run(Soak(server, url).run(minutes))
        log = Path(folder, "log").read_text()
        print(log.count("Traceback"), "tracebacks in the log")
        shutil.copy(Path(folder, "log"), ROOT / "benchmarks" / "soak.log")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30)
