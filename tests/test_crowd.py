"""Many visitors at once: all are served, each gets their own answer, and none leaves anything behind."""

import asyncio
import contextlib
import re
import time
import urllib.request

import psutil
from browsing import ANSWER, STRANGER
from conftest import draw_bear, encode
from PIL import Image
from sklearn.datasets import load_sample_image
from visitors import visit_voila

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

    before = len(kernels(project))
    answers, running = asyncio.run(come())
    for answer, expected in zip(answers, [ANSWER, STRANGER] * 5, strict=True):
        assert re.match(expected, answer)
    assert running >= 10
    log = (project / "server.log").read_text()
    assert "started as usual" not in log and "threads run" not in log
    for kernel_id in set(re.findall(r"Connecting to kernel ([\w-]+)", log)):
        with contextlib.suppress(urllib.error.HTTPError):  # it has ended before
            urllib.request.urlopen(f"{url}voila/api/shutdown/{kernel_id}", data=b"")
    assert any(time.sleep(0.1) or len(kernels(project)) <= before + 2 for _ in range(100)), "two are kept ready"
