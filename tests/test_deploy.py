"""deploy/: the page past one machine. Neither Docker nor Kubernetes is needed, and neither is tested."""

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from math import inf

import kubernetes_validate
import nbformat
import pytest
import requests
import yaml
from browsing import ANSWER, STRANGER, Visitor, file, needs, running, serve
from conftest import ROOT, encode
from machine import free_port
from PIL import Image
from playwright.sync_api import expect
from sklearn.datasets import load_sample_image

from bears.serving import capacity

DEPLOY = ROOT / "deploy"
MANIFESTS = {document["kind"]: document for document in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
VALUES = yaml.safe_load((DEPLOY / "jupyterhub.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BYTES = {"Mi": 1 << 20, "Gi": 1 << 30, "G": 10**9}


def quantity(text: str) -> float:
    """Bytes, from how Kubernetes and its charts state them."""
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()
    return float(number) * BYTES[unit]


@pytest.fixture
def pod():
    return MANIFESTS["Deployment"]["spec"]["template"]


@pytest.fixture
def measured():
    """Bytes with one visitor, and for each further one, from the benchmark."""
    memory = json.loads((ROOT / "benchmarks" / "page.json").read_text())["pages"]["this page"]["memory"]
    return memory[1] * (1 << 20), (memory[-1] - memory[1]) / (len(memory) - 2) * (1 << 20)


# Kubernetes


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kubernetes_would_accept(kind):
    kubernetes_validate.validate(MANIFESTS[kind], "1.37", strict=True)


def test_the_manifests_speak_of_one_another(pod):
    labels = pod["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert MANIFESTS[kind]["spec"]["selector"]["matchLabels"] == labels
    service = MANIFESTS["Service"]
    assert service["spec"]["selector"] == labels
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert {entry["targetPort"] for entry in service["spec"]["ports"]} == {port["name"]}
    assert f"EXPOSE {port['containerPort']}" in DOCKERFILE
    (rule,) = MANIFESTS["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] in {entry["name"] for entry in service["spec"]["ports"]}
    scaled = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", MANIFESTS["Deployment"]["metadata"]["name"])


def test_the_capacity_is_what_was_measured(measured):
    """And the largest photo: test_photos says that it takes no more than 1 GB."""
    first, further = measured
    assert first <= capacity.FIRST < 1.1 * first
    assert further <= capacity.FURTHER < 1.1 * further


def test_a_copy_has_the_memory_for_the_visitors_that_are_stated(pod):
    resources = pod["spec"]["containers"][0]["resources"]
    requested, limit = (quantity(resources[kind]["memory"]) for kind in ("requests", "limits"))
    (memory,) = [
        entry["resource"]
        for entry in MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
        if entry["resource"]["name"] == "memory"
    ]
    without_a_photo = requested + capacity.PHOTO
    at_next_copy = requested * memory["target"]["averageUtilization"] / 100 + capacity.PHOTO
    assert 30 <= capacity.pages(without_a_photo, inf) < 33 and capacity.pages(at_next_copy, inf) == 15
    assert capacity.pages(limit, inf) == 37
    manifest, readme = ((DEPLOY / name).read_text() for name in ("kubernetes.yaml", "README.md"))
    for text in manifest, readme:
        assert "thirty visitors" in text and " 37 pages" in text
    assert "15 visitors" in manifest and "at 15, another copy" in readme
    assert "144\nvisitors a copy" in readme and capacity.pages(0.8 * 2**33 + capacity.PHOTO, inf) == 144


def test_a_server_of_ones_own_has_the_memory_for_the_largest_photo():
    memory = VALUES["singleuser"]["memory"]
    assert capacity.FIRST < quantity(memory["guarantee"])
    assert capacity.FIRST + capacity.PHOTO < quantity(memory["limit"])


def test_the_probe_passes_on_a_real_page_and_leaves_no_kernel(url, project, pod):
    container = pod["spec"]["containers"][0]
    for kind in ("startupProbe", "readinessProbe"):
        python, probe = container[kind]["exec"]["command"]
        assert (ROOT / probe).exists()
    before = (project / "server.log").read_text().count("Kernel shutdown")
    done = subprocess.run([sys.executable, ROOT / probe, url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (project / "server.log").read_text().count("Kernel shutdown") == before + 1
    alive = container["livenessProbe"]["httpGet"]["path"].removeprefix("/")
    assert requests.get(url + alive, timeout=60).status_code == 200


def test_the_probe_passes_on_a_full_house(project, tmp_path):
    with serve(shutil.copytree(project, tmp_path / "project"), "--VisitorKernelManager.most_pages=1") as url:
        assert requests.get(url, timeout=60).status_code == 200
        assert requests.get(url, timeout=60).status_code == 503
        subprocess.run([sys.executable, DEPLOY / "probe.py", url], check=True)


def test_the_probe_fails_where_the_page_is_broken_or_absent(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    notebook = nbformat.read(folder / "app.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, folder / "app.ipynb")
    probe = [sys.executable, DEPLOY / "probe.py"]
    with serve(folder) as url:
        done = subprocess.run([*probe, url], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("The page ")
    done = subprocess.run([*probe, url], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("The page does not answer")


# The image


def test_the_image_has_the_versions_of_the_project():
    (python,) = re.findall("- python=(.*)", (ROOT / "environment.yml").read_text())
    assert set(re.findall("FROM python:([0-9.]+)", DOCKERFILE)) == {python}
    (tested,) = [entry for entry in PROJECT["optional-dependencies"]["test"] if entry.startswith("jupyterhub==")]
    assert f"ARG JUPYTERHUB={tested.removeprefix('jupyterhub==')}" in DOCKERFILE
    for extra in re.findall(r"--extra=(\w+)", DOCKERFILE):
        assert extra in PROJECT["optional-dependencies"]


# JupyterHub


@pytest.fixture(scope="module")
def proxy(tmp_path_factory) -> str:
    """JupyterHub's proxy, from npm."""
    npm = needs("npm", shutil.which("npm"))
    folder = tmp_path_factory.mktemp("proxy")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "configurable-http-proxy@5.3.0"]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder / "node_modules" / ".bin" / "configurable-http-proxy")


@pytest.fixture(scope="module")
def hub(project, proxy, tmp_path_factory):
    """deploy/jupyterhub_config.py, which runs what jupyterhub.yaml says."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("hub") / "project")
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterhub", "-f", str(folder / "deploy" / "jupyterhub_config.py"),
        f"--JupyterHub.bind_url=http://127.0.0.1:{port}",
        f"--JupyterHub.hub_bind_url=http://127.0.0.1:{free_port()}",
        f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{free_port()}",
        f"--ConfigurableHTTPProxy.command={proxy}",
        f"--SimpleLocalProcessSpawner.home_dir_template={folder.parent}/{{username}}",
        "--Spawner.args=--allow-root",
    ]  # fmt: skip
    before = {*folder.iterdir()}
    address = f"http://127.0.0.1:{port}/"
    with running(command, folder, port):
        # its proxy listens before it
        assert any(time.sleep(0.1) or requests.get(f"{address}hub/login", timeout=60).ok for _ in range(600))
        yield address
    assert {*folder.iterdir()} - before <= {folder / "server.log"}, "it leaves nothing in the project"


def test_three_users_at_once_have_each_their_own_page(browser, hub, screenshot):
    temple = file(encode(Image.fromarray(load_sample_image("china.jpg")), "JPEG"))
    users = {"ada": (file(), ANSWER), "ben": (temple, STRANGER), "cleo": (file(), ANSWER)}
    pages = {}
    for name in users:
        page = pages[name] = browser.new_context().new_page()
        page.goto(hub)
        page.locator("input[name=username]").fill(name)
        page.locator("input[name=password]").fill(VALUES["hub"]["config"]["DummyAuthenticator"]["password"])
        page.get_by_role("button", name="Sign in").click(no_wait_after=True)  # its server starts
    visitors = {}
    for name, page in pages.items():
        expect(page.locator(".choose")).to_be_visible(timeout=180_000)
        assert page.url == f"{hub}user/{name}{VALUES['singleuser']['defaultUrl']}"
        visitors[name] = Visitor(browser, page.url, storage_state=page.context.storage_state())
        page.context.close()
    for name, (photo, _) in users.items():
        visitors[name].uploads(photo)
    for name, (_, answer) in users.items():
        visitors[name].reads(answer)
    screenshot(visitors["ada"])

    assert visitors["ben"].page.request.get(f"{hub}user/ada/app/").status == 403, "that is not his"
    lab = visitors["ben"].page.request.get(f"{hub}user/ben/lab/tree/app.ipynb")
    assert lab.status == 200 and "JupyterLab" in lab.text()
    for visitor in visitors.values():
        visitor.leaves()


def test_nobody_gets_in_without_the_password(browser, hub):
    page = browser.new_context().new_page()
    page.goto(f"{hub}user/ada/app/")
    page.locator("input[name=username]").fill("ada")
    page.locator("input[name=password]").fill("guessed")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Invalid username or password")).to_be_visible()
    page.context.close()
