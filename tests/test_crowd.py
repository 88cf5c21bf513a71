"""Many visitors at once: all are served, each gets their own answer, and none leaves anything behind."""

import asyncio
import contextlib
import re
import shutil
import textwrap
import time

import nbformat
import psutil
import requests
from browsing import ANSWER, STRANGER, serve
from conftest import draw_bear, encode
from PIL import Image
from sklearn.datasets import load_sample_image
from visitors import classify_voila, open_voila, visit_voila

BEAR = encode(draw_bear(), "JPEG")
TEMPLE = encode(Image.fromarray(load_sample_image("china.jpg")), "JPEG")


def kernels(project) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "jupyter-kernel" and process.info["cwd"] == str(project)
    ]


def test_ten_at_once_each_get_their_own_answer_from_forked_kernels(url, project):
    async def come():
        async with contextlib.AsyncExitStack() as stay:
            photos = [BEAR, TEMPLE] * 5
            answers = await asyncio.gather(*(visit_voila(url, photo, stay) for photo in photos))
            return answers, len(kernels(project))

    log = project / "server.log"
    assert any(time.sleep(0.1) or "filled with 2 kernel(s)" in log.read_text() for _ in range(600)), (
        "two are kept ready"
    )
    before = len(kernels(project))
    answers, running = asyncio.run(come())
    for answer, expected in zip(answers, [ANSWER, STRANGER] * 5, strict=True):
        assert re.match(expected, answer)
    assert running >= 10
    assert "started as usual" not in log.read_text()
    assert "Using pre-heated kernel" in log.read_text()
    assert any(time.sleep(0.1) or len(kernels(project)) <= before + 2 for _ in range(100)), "two are kept ready"


def test_a_visitor_takes_little_memory_before_the_answer_and_after(project, tmp_path):
    """Of its own, beside the process that it was forked from: as multiples, since machines and versions differ."""
    folder = shutil.copytree(project, tmp_path / "project")
    photo = encode(draw_bear().resize((4000, 4000)), "PNG")  # 48 MB, decoded

    async def visit(url):
        visitor = await open_voila(url)
        assert any(time.sleep(0.1) or len(kernels(folder)) == 3 for _ in range(300)), "two are kept ready"
        fresh = [process.memory_full_info().uss for process in kernels(folder)]
        shared = kernels(folder)[0].parent().memory_info().rss
        assert re.match(ANSWER, await classify_voila(visitor, photo))
        answered = max(process.memory_full_info().uss for process in kernels(folder))
        await visitor.close()
        return fresh, answered, shared

    with serve(folder) as url:
        fresh, answered, shared = asyncio.run(visit(url))
    assert max(fresh) < shared / 20
    assert answered < 2 * max(fresh)


def test_what_a_kernel_says_late_is_on_the_page_all_the_same(project, tmp_path):
    """Where many are busy, a cell's output comes seconds after the reply that it is done."""
    folder = shutil.copytree(project, tmp_path / "project")
    notebook = nbformat.read(folder / "app.ipynb", as_version=4)
    late = """
        import sys, time
        from ipykernel.iostream import IOPubThread
        send = IOPubThread._really_send
        def send_late(self, message, *arguments, **options):
            time.sleep(6 * any(b"widget-view" in bytes(part) for part in message))
            send(self, message, *arguments, **options)
        IOPubThread._really_send = send_late
        sys.stdout.flush_timeout = sys.stderr.flush_timeout = 0
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(textwrap.dedent(late)))
    nbformat.write(notebook, folder / "app.ipynb")
    with serve(folder, "--VoilaConfiguration.preheat_kernel=False") as url:
        assert "application/vnd.jupyter.widget-view+json" in requests.get(url, timeout=60).text
