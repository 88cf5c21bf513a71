"""This page, the book's, and the same classifier behind Gradio: how fast they open and answer, what a visitor costs.

.venv/bin/python benchmarks/page.py

All in one run on one machine, in turns; 20 minutes on two cores, with 16 GB of memory for thirty visitors of the book's
page. It writes page.json, page.png and the tables in both README.md. Gradio takes part when it is there, in a folder of
its own because it wants another Pillow: .venv/bin/pip install --target benchmarks/.gradio gradio==6.31.0
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine
import matplotlib.pyplot as plt
import numpy as np
import psutil
from machine import free_port
from PIL import Image
from playwright.sync_api import sync_playwright
from visitors import visit_gradio, visit_voila

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "page.json"
READMES = (ROOT / "README.md", HERE / "README.md")
LEVELS = (1, 2, 5, 10, 20, 30)  # visitors at once
VISITS = 5  # with a browser, of each kind
ANSWERED = "[...document.querySelectorAll('{}')].some(e => /^Prediction:|^This does not look/.test(e.innerText))"


class Server:
    """A page in a folder of its own, started anew for every measurement that should not see the ones before."""

    env: dict[str, str] = {}
    files = {"export.pkl": ROOT / "export.pkl"}

    def __init__(self, folder: Path):
        self.folder = folder
        for name, source in self.files.items():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)

    @contextlib.contextmanager
    def started(self):
        """The address, as soon as it accepts connections."""
        port = free_port()
        with open(self.folder / "log", "w") as log:
            env = {**os.environ, "PYTHONPATH": str(ROOT), **self.env}
            self.process = subprocess.Popen(self.command(port), cwd=self.folder, env=env, stdout=log, stderr=log)
        try:
            while self.process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/"
        finally:
            everybody = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            for process in everybody:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def memory(self) -> float:
        """MB of the whole process tree: proportional set sizes, in which what is shared is shared out."""
        total = 0
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20


class Book(Server):
    name = "the book"
    files = Server.files | {"app.ipynb": HERE / "peers" / "book.ipynb"}
    button, classify, visit = ".widget-upload", ".widget-button:not(.widget-upload)", staticmethod(visit_voila)
    ready = "/\\(1\\)/.test(document.querySelector('.widget-upload').innerText)"
    answered = ANSWERED.format(".widget-label")

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}"]

    def choose(self, page, photo: Path) -> None:
        with page.expect_file_chooser() as chooser:
            page.click(self.button)
        chooser.value.set_files(photo)


class Here(Book):
    name = "this page"
    files = Server.files | {name: ROOT / name for name in ("app.ipynb", "MODEL_CARD.md", "voila.json")}
    button, classify = ".choose", ".classify"
    ready = "!document.querySelector('.classify').disabled"
    answered = ANSWERED.format(".says")


class Gradio(Server):
    name = "Gradio"
    packages = HERE / ".gradio"
    env = {"PYTHONPATH": f"{packages}:{ROOT}", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    button, classify, visit = "button.primary", "button.primary", staticmethod(visit_gradio)
    ready = "document.querySelector('.image-frame img, img[alt]')?.complete"
    answered = "/\\w/.test(document.querySelector('[data-testid=label-output-value]')?.innerText ?? '')"

    def command(self, port: int) -> list[str]:
        return [sys.executable, str(HERE / "peers" / "gradio_app.py"), str(port)]

    def choose(self, page, photo: Path) -> None:
        page.set_input_files("input[type=file]", photo)


def photo(folder: Path, megapixels: int) -> Path:
    """A photo that no one took, with as much detail as a camera's: JPEG, 4:3."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    size = width, round(width * 3 / 4)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.merge("RGB", [Image.effect_noise(size, 20)] * 3)
    path = folder / f"{megapixels}.jpg"
    Image.blend(coarse, fine, 0.25).save(path, quality=85)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=VISITS, help="with a browser, of each kind")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="numbers of visitors at once")
    parser.add_argument("--only", nargs="+", help="of: here book gradio; prints the table, but writes nothing")
    parser.add_argument("--from-results", action="store_true", help="measure nothing, write all of it from page.json")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if options.from_results else measure(options)
    print(table(results))
    if not options.only:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        for readme in READMES:
            write_between_marks(readme, "page.py", described(results, readme))
        plot(results)


def measure(options) -> dict:
    kinds = {"book": Book, "here": Here} | ({"gradio": Gradio} if Gradio.packages.exists() else {})
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = Chromium(playwright)
        photos = {megapixels: photo(Path(folder), megapixels) for megapixels in (12, 37)}
        servers = []
        for name in options.only or kinds:
            place = Path(folder, name)
            place.mkdir()
            servers.append(kinds[name](place))
        results = {
            "machine": machine.described(chromium.version),
            "photos": {megapixels: path.stat().st_size for megapixels, path in photos.items()},
            "pages": {server.name: {} for server in servers},
        }
        for what in (first_visitor, opening, answering, memory, crowds):
            for server in servers:
                with contextlib.ExitStack() as stack:
                    measured = what(server, chromium, photos, options, stack)
                results["pages"][server.name] |= measured
                print(server.name, json.dumps(measured), flush=True)
    return results


class Chromium:
    def __init__(self, playwright):
        self.start, self.executable = playwright.chromium, machine.chromium()

    @property
    def version(self) -> str:
        with self() as browser:
            return browser.version

    def __call__(self):
        """A new one, which keeps nothing from one context to the next."""
        return self.start.launch(executable_path=self.executable)

    def with_cache(self):
        return self.start.launch_persistent_context(tempfile.mkdtemp(), executable_path=self.executable)


# With a browser


def usable(page, server) -> None:
    page.wait_for_function(f"document.querySelector('{server.button}')?.offsetParent", polling="raf", timeout=120_000)


def first_visitor(server, chromium, photos, options, stack) -> dict:
    """Seconds from the start of the process until somebody who was waiting can use the page."""
    browser = stack.enter_context(chromium())
    seconds = []
    for _ in range(3):
        page = browser.new_page()
        start = time.perf_counter()
        with server.started() as url:
            while True:
                with contextlib.suppress(Exception):
                    page.goto(url, wait_until="commit", timeout=120_000)
                    break
            usable(page, server)
            seconds.append(time.perf_counter() - start)
            page.context.close()
    return {"first_visitor": seconds}


def opening(server, chromium, photos, options, stack) -> dict:
    """Seconds to open the page until it is usable, with an empty cache and with a full one, and the bytes for it."""
    url = stack.enter_context(server.started())
    browser = stack.enter_context(chromium())
    rest(server, url)
    measured = {"open_cold": [], "open_warm": [], "bytes_cold": [], "bytes_warm": [], "requests": []}
    for cache in ("cold", "warm"):
        context = None
        for number in range(options.visits + (cache == "warm")):
            if cache == "cold":
                context = browser.new_context()
            elif context is None:
                context = stack.enter_context(chromium.with_cache())
            page = context.new_page()
            traffic = Traffic(context, page)
            start = time.perf_counter()
            page.goto(url, wait_until="commit", timeout=120_000)
            usable(page, server)
            seconds = time.perf_counter() - start
            page.wait_for_timeout(1000)
            if cache == "cold" or number:
                measured[f"open_{cache}"].append(seconds)
                measured[f"bytes_{cache}"].append(traffic.bytes)
            if cache == "cold":
                measured["requests"].append(traffic.requests)
                context.close()
            else:
                page.close()
            time.sleep(3)
    return measured


class Traffic:
    """What a page fetched, as it came over the wire."""

    def __init__(self, context, page):
        self.bytes = self.requests = 0
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", lambda event: self.count(event["request"]["url"].startswith("http"), 0))
        session.on("Network.loadingFinished", lambda event: self.count(0, event["encodedDataLength"]))
        session.on("Network.webSocketFrameReceived", lambda event: self.count(0, len(event["response"]["payloadData"])))

    def count(self, requests: int, size: int) -> None:
        self.requests += requests
        self.bytes += size


def answering(server, chromium, photos, options, stack) -> dict:
    """Seconds from the click to the answer, once the photo is there, and from choosing it, when one clicks at once."""
    url = stack.enter_context(server.started())
    browser = stack.enter_context(chromium())
    rest(server, url)
    measured = {}
    for what, megapixels in (("click", 12), ("click", 37), ("choose", 37)):
        for _ in range(options.visits):
            context = browser.new_context()
            page = context.new_page()
            page.goto(url, wait_until="commit", timeout=120_000)
            usable(page, server)
            page.wait_for_timeout(500)
            start = time.perf_counter()
            server.choose(page, photos[megapixels])
            page.wait_for_function(server.ready, polling="raf", timeout=60_000)
            if what == "click":
                page.wait_for_timeout(3000)
                start = time.perf_counter()
            page.evaluate(f"document.querySelector({server.classify!r}).click()")
            page.wait_for_function(server.answered, polling="raf", timeout=60_000)
            measured.setdefault(f"{what}_{megapixels}", []).append(time.perf_counter() - start)
            context.close()
            time.sleep(2)
    return measured


def memory(server, chromium, photos, options, stack) -> dict:
    """MB after 0, 1, 2, ... visitors have each had a photo of 12 megapixels classified, and are still there."""
    url = stack.enter_context(server.started())
    browser = stack.enter_context(chromium())
    time.sleep(12)
    measured = [server.memory()]
    for _ in range(6):
        page = browser.new_page()
        page.goto(url, wait_until="commit", timeout=120_000)
        usable(page, server)
        page.wait_for_timeout(500)
        server.choose(page, photos[12])
        page.wait_for_function(server.ready, polling="raf", timeout=60_000)
        page.evaluate(f"document.querySelector({server.classify!r}).click()")
        page.wait_for_function(server.answered, polling="raf", timeout=60_000)
        page.wait_for_timeout(3000)
        measured.append(server.memory())
    return {"memory": measured}


def rest(server, url: str) -> None:
    """Until it has prepared what it prepares, and answered one visitor."""
    time.sleep(12)
    run(server.visit(url, small()))
    time.sleep(3)


# Without a browser


def run(coroutine):
    with ThreadPoolExecutor() as thread:  # Playwright's own loop runs in this one
        return thread.submit(asyncio.run, coroutine).result()


def small() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((640, 480), 50).convert("RGB").save(content, "JPEG")
    return content.getvalue()


def crowds(server, chromium, photos, options, stack) -> dict:
    """For every number of visitors who come at once: seconds until each has an answer (None: has none), and MB then."""

    async def come(url: str, count: int):
        async with contextlib.AsyncExitStack() as stay:
            content = small()

            async def one():
                start = time.perf_counter()
                try:
                    await asyncio.wait_for(server.visit(url, content, stay), 300)
                except Exception as error:
                    print(f"{server.name}: {error!r}", file=sys.stderr)
                    return None
                return time.perf_counter() - start

            seconds = await asyncio.gather(*(one() for _ in range(count)))
            return {"seconds": seconds, "memory": server.memory()}

    measured = {}
    for level in options.levels:
        with server.started() as url:
            time.sleep(12)
            measured[level] = run(come(url, level))
    return {"crowd": measured}


# What is told of it


def rows(results: dict):
    """Every line of the table: what, how to tell it, and for each page a number or None."""
    pages = results["pages"].values()

    def median(key):
        return [statistics.median(page[key]) if page.get(key) else None for page in pages]

    def further(page):
        return (page["memory"][-1] - page["memory"][1]) / (len(page["memory"]) - 2)

    def crowd(page, what):
        level = max(page["crowd"], key=int)
        seconds = page["crowd"][level]["seconds"]
        served = sorted(second for second in seconds if second is not None)
        if what == "failures":
            return len(seconds) - len(served)
        return float(np.percentile(served, what))

    level = max(next(iter(pages))["crowd"], key=int)
    s, mb = "{:.2f} s".format, "{:,.0f} MB".format
    yield "open to usable, first visit", s, median("open_cold")
    yield "open to usable, next visit", s, median("open_warm")
    yield "bytes, first visit", lambda size: f"{size / 1e6:.2f} MB", median("bytes_cold")
    yield "bytes, next visit", lambda size: f"{size / 1e6:.2f} MB", median("bytes_warm")
    yield "requests, first visit", "{:.0f}".format, median("requests")
    yield "click to answer, 12 megapixels", s, median("click_12")
    yield "click to answer, 37 megapixels", s, median("click_37")
    yield "choose to answer, 37 megapixels", s, median("choose_37")
    yield "server's start to first visitor's usable page", s, median("first_visitor")
    yield "memory with one visitor", mb, [page["memory"][1] for page in pages]
    yield "memory for each further visitor", mb, [further(page) for page in pages]
    yield f"{level} visitors at once: median to the answer", s, [crowd(page, 50) for page in pages]
    yield f"{level} visitors at once: 95th percentile", s, [crowd(page, 95) for page in pages]
    yield f"{level} visitors at once: without an answer", "{:.0f}".format, [crowd(page, "failures") for page in pages]


IN_SHORT = (
    *("open to usable, first visit", "click to answer, 37 megapixels", "memory with one visitor"),
    *("memory for each further visitor", "30 visitors at once: median to the answer"),
)


def table(results: dict, in_short: bool = False) -> str:
    """Markdown: a column for each page, and how the others compare with this one."""
    names = list(results["pages"])
    here = names.index(Here.name) if Here.name in names else 0
    others = [number for number in range(len(names)) if number != here]
    lines = [["", names[here], *(part for other in others for part in (names[other], "ratio"))]]
    for what, show, values in rows(results):
        if in_short and what not in IN_SHORT:
            continue
        line = [what, show(values[here])]
        for other in others:
            ratio = f"{values[other] / values[here]:.1f}" if values[here] else "–"
            line += [show(values[other]), ratio]
        lines.append(line)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def described(results: dict, readme: Path) -> str:
    """The table, as it stands in that file; the first README.md has it in short."""
    on = results["machine"]
    by = f"{on['processor']}, {on['cores']} cores, {on['memory']}, Chromium {on['chromium']}"
    return f"\n{table(results, in_short=readme == READMES[0])}\n\nMeasured on {on['date']}: {by}.\n\n"


def write_between_marks(path: Path, script: str, text: str) -> None:
    """Into the Markdown file, in place of what that script had written there before."""
    begin, end = f"<!-- written by benchmarks/{script} -->\n", "<!-- until here -->\n"
    before, rest = path.read_text().split(begin)
    path.write_text(before + begin + text + end + rest.split(end, 1)[1])


def plot(results: dict) -> None:
    """page.png: the slowest 5 % and the memory, from one visitor to thirty."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, page in results["pages"].items():
        levels = [int(level) for level in page["crowd"]]
        crowd = list(page["crowd"].values())
        slow = [np.percentile([s for s in one["seconds"] if s is not None], 95) for one in crowd]
        left.plot(levels, slow, marker="o", label=name)
        right.plot(levels, [one["memory"] / 1024 for one in crowd], marker="o", label=name)
    left.set(xlabel="visitors at once", ylabel="seconds to the answer\n(95th percentile)", yscale="log")
    right.set(xlabel="visitors at once", ylabel="GB of memory", yscale="log")
    left.legend(frameon=False)
    figure.savefig(HERE / "page.png", dpi=110)


if __name__ == "__main__":
    main()
