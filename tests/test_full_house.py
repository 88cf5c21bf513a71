"""Past the number of pages that may be open: nobody inside loses anything, all others are told and get in later."""

import asyncio
import re
import shutil
import socket
import sys
import time
from urllib.parse import urlsplit

import nbformat
import pytest
import requests
from browsing import ANSWER, serve
from conftest import draw_bear, encode, run_python
from playwright.sync_api import expect
from test_crowd import kernels
from visitors import classify_voila, open_voila

from bears.memory import total
from bears.serving import capacity

BEAR = encode(draw_bear(), "JPEG")
LIMIT, POOL = 3, 2


@pytest.fixture(scope="module")
def house(project, tmp_path_factory):
    """A copy of the project that is served to three at once, and its address."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("house") / "project")
    options = f"--VisitorKernelManager.most_pages={LIMIT}", "--VisitorKernelManager.retry_after=1"
    with serve(folder, *options, "--VisitorKernelManager.connect_within=5") as url:
        yield folder, url


def kernel_of(page: requests.Response) -> str:
    return re.search(r'"kernelId": ?"([^"]+)"', page.text)[1]


def soon(condition) -> bool:
    return any(time.sleep(0.1) or condition() for _ in range(300))


def is_empty(house) -> bool:
    """Whether, soon, there are no kernels but those of pages that are prepared."""
    folder, _ = house

    def empty():
        log = (folder / "server.log").read_text()
        used, ended = (set(re.findall(what, log)) for what in (r"pre-heated kernel: ([\w-]+)", r"shutdown: ([\w-]+)"))
        return used <= ended and len(kernels(folder)) <= POOL

    return soon(empty)


def test_all_are_served_and_never_more_at_once_than_may_be(house):
    folder, url = house
    most = 0

    async def visit():
        nonlocal most
        kernel = await open_voila(url)
        answers = []
        for _ in range(2):  # whoever is inside stays inside while others come
            answers.append(await classify_voila(kernel, BEAR))
            most = max(most, len(kernels(folder)))
            await asyncio.sleep(0.5)
        await kernel.close()
        return answers

    async def all_at_once():
        return await asyncio.gather(*(visit() for _ in range(LIMIT + 4)))

    answers = asyncio.run(all_at_once())
    assert all(re.match(ANSWER, answer) for pair in answers for answer in pair)
    assert most <= LIMIT + POOL + 1, "and one that is on its way out"
    assert is_empty(house)


def test_a_visitor_who_goes_before_the_page_is_there_leaves_no_kernel(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    notebook = nbformat.read(folder / "app.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import time; time.sleep(2)"))
    nbformat.write(notebook, folder / "app.ipynb")
    with serve(folder, "--VoilaConfiguration.preheat_kernel=False") as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            assert soon(lambda: kernels(folder))
        assert soon(lambda: not kernels(folder)), "before it has waited for a browser for a minute"


def test_a_page_whose_kernel_dies_before_it_is_there_says_so_and_tries_again(project, tmp_path, monkeypatch):
    folder = shutil.copytree(project, tmp_path / "project")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "die.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    often = "--VoilaConfiguration.http_keep_alive_timeout=1"  # how often it is looked at
    with serve(folder, "--VoilaConfiguration.preheat_kernel=False", often) as url:
        page = requests.get(url, timeout=60).text
        assert page.count("<html") == page.count("Something went wrong while this page was made") == 1
        assert 'http-equiv="refresh"' in page and "Traceback" not in page
        assert soon(lambda: not kernels(folder)), "none is started in its place, where there is no page"


def test_a_page_that_cannot_be_begun_says_so_and_tries_again(project, tmp_path, monkeypatch):
    folder = shutil.copytree(project, tmp_path / "project")
    spec = tmp_path / "jupyter" / "kernels" / "broken"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/nowhere/python"], "display_name": "Broken", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(folder / "app.ipynb", as_version=4)
    notebook.metadata.kernelspec.name = "broken"
    nbformat.write(notebook, folder / "app.ipynb")
    with serve(folder, "--VoilaConfiguration.preheat_kernel=False") as url:
        page = requests.get(url, timeout=60)
    assert page.status_code == 500 and int(page.headers["Retry-After"]) >= 1
    assert "Something went wrong while this page was made" in page.text and "Traceback" not in page.text


def test_a_file_that_is_asked_for_takes_no_room(house):
    _, url = house
    pages = [requests.get(url, timeout=60) for _ in range(LIMIT)]
    assert requests.get(f"{url}voila/templates/bears/static/frontend.css", timeout=60).status_code == 200
    assert requests.get(f"{url}voila.json", timeout=60).status_code == 403
    for page in pages:
        requests.post(f"{url}voila/api/shutdown/{kernel_of(page)}", timeout=60)


@pytest.mark.parametrize("harm", ["a new export", "a new card", "their processes are killed"])
def test_pages_that_were_prepared_are_replaced_when_they_are_not_what_they_would_be_now(house, harm):
    folder, url = house
    assert is_empty(house)
    filled = "Kernel pool of app.ipynb is filled"
    log = folder / "server.log"
    before = set(re.findall("Kernel started: ([\\w-]+)", log.read_text()))
    if harm == "their processes are killed":
        for process in kernels(folder):
            process.kill()
            process.wait(30)
    else:
        name = "export.pkl" if "export" in harm else "MODEL_CARD.md"
        shutil.copy(folder / name, folder / "new")
        (folder / "new").replace(folder / name)
    page = requests.get(url, timeout=60)
    assert kernel_of(page) not in before
    requests.post(f"{url}voila/api/shutdown/{kernel_of(page)}", timeout=60)
    assert filled in log.read_text()

    async def visit():
        kernel = await open_voila(url)
        answer = await classify_voila(kernel, BEAR)
        await kernel.close()
        return answer

    assert re.match(ANSWER, asyncio.run(visit()))
    assert is_empty(house)


# How many that is


def test_the_default_is_what_memory_and_open_files_have_room_for():
    memory = capacity.FIRST + 10 * capacity.FURTHER + capacity.PHOTO
    files = capacity.OWN_FILES + 20 * capacity.FILES
    assert capacity.pages(memory, files) == 11
    assert capacity.pages(memory - 1, files) == 10
    assert capacity.pages(2 * memory, files) == 21
    assert capacity.pages(2**20, 100) == 1, "somebody has to be served"
    assert capacity.pages(float("inf"), float("inf")) > 1000
    assert capacity.pages() == capacity.pages(total(), capacity.open_files())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_as_many_files_may_be_open_as_can_be_had():
    """Many systems begin with 1,024, which are gone with the seventieth visitor."""
    code = """
import resource
from bears.serving.capacity import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
print(int(open_files()), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert run_python(code) == "1024 1024 1024\n"


# With a browser, whose event loop would be in the way of the others


def test_one_visitor_more_reads_that_the_house_is_full_and_gets_in_when_another_leaves(browser, house, screenshot):
    _, url = house
    inside = [requests.get(url, timeout=60) for _ in range(LIMIT)]
    assert [page.status_code for page in inside] == [200] * LIMIT
    refused = requests.get(url, timeout=60)
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
    page = browser.new_context(viewport={"width": 800, "height": 600}).new_page()
    page.goto(url)
    expect(page.get_by_role("status")).to_contain_text("tries again by itself")
    screenshot(page)
    requests.post(f"{url}voila/api/shutdown/{kernel_of(inside[0])}", timeout=60)
    expect(page.locator(".choose")).to_be_visible()
    page.context.close()
    assert is_empty(house), "and those that nobody connected to end, too"
