"""binder/: what Binder would build, and the page as Binder runs it: within a Jupyter server, under a base URL.

Binder itself cannot be had here. Its hub starts a Jupyter server through binder/start with JUPYTERHUB_SERVICE_PREFIX
set, and sends the visitor to app/ with a token.
"""

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest
import requests
from browsing import ANSWER, Visitor, file, running
from conftest import ROOT, draw_bear, encode
from machine import free_port
from playwright.sync_api import expect

BASE, TOKEN = "/user/abc/", "sesame"


@contextlib.contextmanager
def binder(folder, prefix=BASE):
    """The address of the Jupyter server, and the server."""
    port = free_port()
    command = [
        str(folder / "binder" / "start"), "jupyter", "lab", "--allow-root", "--no-browser", f"--port={port}",
        f"--ServerApp.base_url={BASE}", f"--ServerApp.token={TOKEN}", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    with running(command, folder, port, JUPYTERHUB_SERVICE_PREFIX=prefix) as server:
        yield f"http://127.0.0.1:{port}{BASE}", server


def get(url: str) -> int:
    """The status, for somebody with the token."""
    return requests.get(url, headers={"Authorization": f"token {TOKEN}"}, timeout=120).status_code


def pages(folder) -> list[psutil.Process]:
    """The Voilà servers of that folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and "app.ipynb" in command and command[0] != "flock":
            found.append(process)
    return found


def preheated(folder) -> str:
    """What the log says, once a kernel is ready for the next visitor."""
    for _ in range(600):
        log = (folder / "server.log").read_text()
        if log.count("Kernel pool of app.ipynb is filled with 1") > log.count("Kernel shutdown"):
            return log
        time.sleep(0.1)
    raise TimeoutError(log)


@pytest.fixture(scope="module")
def folder(project, tmp_path_factory):
    return shutil.copytree(project, tmp_path_factory.mktemp("binder") / "project")


@pytest.fixture(scope="module")
def hub(folder):
    with binder(folder) as (address, _):
        yield address


@pytest.fixture
def visit(browser, hub):
    """Comes as Binder sends its visitors."""
    return lambda **preferences: Visitor(browser, f"{hub}app/?token={TOKEN}", **preferences)


def test_binder_would_build_this_folder():
    """What repo2docker writes for Docker, which is not needed for that."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "--user-id=1000", "--user-name=me", "."]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    dockerfile = built.stdout + built.stderr
    assert built.returncode == 0, dockerfile
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in dockerfile
    assert "environment.py-3.11" in dockerfile.replace("-2e", ".").replace("-2d", "-")  # its names of files
    assert "RUN ./binder/postBuild" in dockerfile
    assert 'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in dockerfile


@pytest.mark.parametrize("name", ["postBuild", "start", "page"])
def test_what_binder_runs_is_executable(name):
    assert (ROOT / "binder" / name).stat().st_mode & stat.S_IXOTH
    assert subprocess.run(["bash", "-n", ROOT / "binder" / name]).returncode == 0


def test_the_badge_leads_to_the_page():
    (address,) = re.findall(r"mybinder\.org/v2/gh/[^)]*", (ROOT / "README.md").read_text())
    assert address.endswith("?urlpath=app%2F")


def test_a_visitor_gets_the_preheated_page_under_the_base_url(visit, folder, screenshot):
    before = preheated(folder)
    visitor = visit()
    assert f"Kernel started: {visitor.kernel}" in before
    visitor.uploads(file())
    visitor.reads(ANSWER)
    screenshot(visitor)
    visitor.leaves()  # it looks whether an address outside the base URL was asked for
    log = (folder / "server.log").read_text()
    assert "started as usual" not in log, "kernels are forked"
    assert "invalid/expired login cookie" not in log, "the server's cookies stay with it"


@pytest.mark.parametrize(("megabytes", "old"), [(13, False), (13, True), (64, True)])
def test_uploads_pass_through_the_server(visit, tmp_path, megabytes, old):
    """Tornado's own limit is 10 MB, at three places on the way. An old browser sends photos as ipywidgets does."""
    photo = encode(draw_bear(), "JPEG")
    (tmp_path / "bear.jpg").write_bytes(photo + bytes((megabytes << 20) - len(photo)))
    visitor = visit(old=old)
    visitor.uploads(tmp_path / "bear.jpg")
    visitor.reads(ANSWER)
    assert visitor.sent > megabytes << 20
    visitor.leaves()


def test_closing_the_page_ends_its_kernel(visit, hub):
    visitor = visit()
    alive = f"{hub}app/api/kernels/{visitor.kernel}"
    assert get(alive) == 200
    visitor.leaves()
    assert any(time.sleep(0.1) or get(alive) == 404 for _ in range(100))


def test_nobody_gets_in_without_the_token(hub):
    for path in ("app/", "app/api/kernels/0", "app/voila/templates/bears/static/frontend.css"):
        response = requests.get(hub + path, timeout=60)
        assert "/login" in response.url or response.status_code in (401, 403)


def test_the_notebooks_are_there_too(hub):
    assert get(f"{hub}lab/tree/app.ipynb") == 200
    assert get(f"{hub}api/contents/training.ipynb") == 404  # this copy has none; but it was allowed to ask


def test_the_page_comes_back_when_it_was_killed(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with binder(folder) as (address, _):
        for _ in range(2):  # the one that was started first; then one that the server has started
            visitor = Visitor(browser, f"{address}app/?token={TOKEN}")
            (page,) = pages(folder)
            page.kill()
            expect(visitor.page.get_by_role("alert")).to_contain_text("lost its connection", timeout=60_000)
            visitor.page.get_by_role("button", name="Reload").click()
            expect(visitor.page.get_by_role("alert")).to_have_count(0)
            visitor.uploads(file())
            visitor.reads(ANSWER)
            visitor.page.context.close()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_page_ends_with_its_server(project, tmp_path, end):
    folder = shutil.copytree(project, tmp_path / "project")
    with binder(folder) as (address, server):
        assert get(f"{address}app/") == 200
        processes = pages(folder)
        processes += [child for page in processes for child in page.children(recursive=True)]
        assert len(processes) > 2
        os.kill(server.pid, end)
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive


def test_without_a_hub_the_page_starts_when_it_is_asked_for(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with binder(folder, prefix="") as (address, _):
        assert not pages(folder)
        assert get(f"{address}app/") == 200
        assert len(pages(folder)) == 1
