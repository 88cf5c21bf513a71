"""What a visitor of Binder waits for, on one core as there: this page, and the two ways that need no binder/start.

.venv/bin/python benchmarks/binder.py

All in one run on one machine, in turns; 5 minutes. It writes binder.json and the table in deploy/README.md. A Jupyter
server stands in for Binder's. What comes before, the hub's queue and the image on its way to a node, is not in it.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import machine
from page import HERE, ROOT, Book, Chromium, Here, first_visitor, photo, usable, write_between_marks
from playwright.sync_api import sync_playwright

RESULTS = HERE / "binder.json"
README = ROOT / "deploy" / "README.md"
BASE, TOKEN = "/user/abc/", "sesame"


class OnBinder:
    """A page in a Jupyter server as Binder starts it; the visitor comes with a token."""

    path = "voila/render/app.ipynb"
    start: list[str] = []

    def command(self, port: int) -> list[str]:
        server = ["jupyter", "lab", "--allow-root", "--no-browser", f"--port={port}"]
        options = [f"--ServerApp.base_url={BASE}", f"--ServerApp.token={TOKEN}"]
        return ["taskset", "--cpu-list", "0", *self.start, *server, *options]

    @contextlib.contextmanager
    def started(self):
        with super().started() as url:
            yield f"{url.rstrip('/')}{BASE}{self.path}?token={TOKEN}"

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"PATH": path, "JUPYTERHUB_SERVICE_PREFIX": BASE}


class Proxied(OnBinder, Here):
    name = "this page"
    files = Here.files | {"binder": ROOT / "binder"}
    path, start = "app/", ["binder/start"]

    def __init__(self, folder: Path):
        super().__init__(folder)
        (folder / "without").mkdir()  # in place of binder/postBuild, which uninstalls it
        (folder / "without" / "rfc3987_syntax.py").write_text("raise ImportError")

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"PYTHONPATH": f"{self.folder / 'without'}:{ROOT}"}


class Extension(OnBinder, Here):
    name = "this page, in Jupyter's server"


class BookOnBinder(OnBinder, Book):
    name = "the book's"


def visits(server, chromium, photos, options, stack) -> dict:
    """Seconds to open the page once more, seconds from click to answer, and MB with one visitor who has had it."""
    url = stack.enter_context(server.started())
    browser = stack.enter_context(chromium())
    opened, answered = [], []
    for _ in range(options.visits):
        time.sleep(8)
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(url, wait_until="commit", timeout=120_000)
        usable(page, server)
        opened.append(time.perf_counter() - start)
        page.wait_for_timeout(500)
        server.choose(page, photos[12])
        page.wait_for_function(server.ready, polling="raf", timeout=60_000)
        start = time.perf_counter()
        page.evaluate(f"document.querySelector({server.classify!r}).click()")
        page.wait_for_function(server.answered, polling="raf", timeout=60_000)
        answered.append(time.perf_counter() - start)
        page.wait_for_timeout(3000)
        if len(opened) == 1:
            memory = server.memory()
        page.context.close()
    return {"opened": opened, "answered": answered, "memory": memory}


def measure(options) -> dict:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = Chromium(playwright)
        photos = {12: photo(Path(folder), 12)}
        results = {"machine": machine.described(chromium.version), "pages": {}}
        for kind in (Proxied, Extension, BookOnBinder):
            place = Path(folder, kind.__name__)
            place.mkdir()
            server = kind(place)
            measured = {}
            for what in (first_visitor, visits):
                with contextlib.ExitStack() as stack:
                    measured |= what(server, chromium, photos, options, stack)
            results["pages"][server.name] = measured
            print(server.name, json.dumps(measured), flush=True)
    return results


def described(results: dict) -> str:
    """The table, as it stands in deploy/README.md."""
    names, pages = list(results["pages"]), results["pages"].values()

    def line(what, values):
        return f"| {' | '.join([what, *values])} |"

    def median(what, key):
        return line(what, [f"{statistics.median(page[key]):.2f} s" for page in pages])

    table = [
        line("", names),
        line("---", ["---"] * len(names)),
        median("from the server's start to a usable page", "first_visitor"),
        median("to open it again", "opened"),
        median("click to answer, 12 megapixels", "answered"),
        line("memory of everything, with one visitor", [f"{page['memory']:,.0f} MB" for page in pages]),
    ]
    by, visits = results["machine"], len(next(iter(pages))["opened"])
    measured = f"Measured on {by['date']}: one core, {by['processor']}; medians of three starts and {visits} visits."
    return "\n" + "\n".join(table) + f"\n\n{measured}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--from-results", action="store_true", help="measure nothing, write all of it from binder.json")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if options.from_results else measure(options)
    print(described(results))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_between_marks(README, "binder.py", described(results))


if __name__ == "__main__":
    main()
