"""app.ipynb served by Voilà, used by a visitor in a real browser. What they saw is in tests/screenshots."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import pytest
import torch
from conftest import ROOT, draw_bear, encode
from fastai.learner import load_learner
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from sklearn.datasets import load_sample_image

from bears.classifier import Classifier
from bears.photos import MAX_BYTES

ANSWER = re.compile(r"^Prediction: (\w+); Probability: ([01]\.\d{4})$")
STRANGER = re.compile(r"^This does not look like anything I was taught\. Closest: (\w+)$")
EITHER = re.compile(r"(?:Prediction|Closest): (\w+)")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextlib.contextmanager
def serve(folder: Path, *options: str):
    """The address of the page, served as the README says, from a copy of the project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "voila.log"
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}", *options]
    with open(log, "w") as output, subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as server:
        try:
            for _ in range(600):
                assert server.poll() is None, f"Voilà ended; see {log}"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """What a visitor's request can reach: a copy of the page and what it needs, to which a test may do harm."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("app.ipynb", "export.pkl", "MODEL_CARD.md", "voila.json"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "bears", folder / "bears")
    return folder


@pytest.fixture(scope="module")
def url(project):
    with serve(project) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        if not path and not Path(playwright.chromium.executable_path).exists():
            reason = "needs a browser: install Chromium, or run: playwright install chromium"
            pytest.fail(reason) if os.environ.get("BEARS_TEST_BROWSER") == "required" else pytest.skip(reason)
        with playwright.chromium.launch(executable_path=path) as browser:
            yield browser


class Visitor:
    """Somebody with the page open."""

    def __init__(self, browser, url):
        self.page = browser.new_page(viewport={"width": 800, "height": 600})
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url, timeout=120_000)
        self.upload = self.page.locator(".widget-upload")
        self.classify = self.page.get_by_role("button", name="Classify")
        self.says = self.page.locator(".widget-label").last
        self.thumbnail = self.page.locator(".jp-OutputArea img")
        expect(self.classify).to_be_visible(timeout=120_000)

    def chooses(self, file: Path | dict):
        with self.page.expect_file_chooser() as chooser:
            self.upload.click()
        self.upload.evaluate("button => button.textContent = ''")  # until the widget has read the file
        chooser.value.set_files(file)
        expect(self.upload).to_have_text("Upload (1)", timeout=30_000)

    def uploads(self, content: bytes, name="bear.jpg", type="image/jpeg"):
        self.chooses({"name": name, "mimeType": type, "buffer": content})
        self.classify.click()

    def reads(self, sentence: str | re.Pattern) -> str:
        expect(self.says).to_have_text(sentence, timeout=30_000)
        return self.says.inner_text()


@pytest.fixture
def visitor(browser, url):
    visitor = Visitor(browser, url)
    yield visitor
    visitor.page.close()
    assert visitor.errors == []


@pytest.fixture
def screenshot(request):
    def save(visitor):
        folder = ROOT / "tests" / "screenshots"
        folder.mkdir(exist_ok=True)
        visitor.page.screenshot(path=folder / f"{request.node.name}.png")

    return save


# A visit


def test_a_photo_gets_an_answer(visitor, screenshot):
    visitor.uploads(encode(draw_bear(), "JPEG"))
    label, probability = ANSWER.match(visitor.reads(ANSWER)).groups()
    expected = Classifier.load(ROOT / "export.pkl").classify(encode(draw_bear(), "JPEG"))
    assert (label, probability) == (expected.label, f"{expected.probability:.4f}")
    expect(visitor.thumbnail).to_be_visible()
    assert visitor.thumbnail.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [256, 256]
    screenshot(visitor)


def test_a_bear_is_told_from_a_temple(visitor, screenshot):
    temple = Image.fromarray(load_sample_image("china.jpg"))
    visitor.uploads(encode(temple, "JPEG"), "temple.jpg")
    label = STRANGER.match(visitor.reads(STRANGER)).group(1)
    assert label == Classifier.load(ROOT / "export.pkl").classify(encode(temple, "JPEG")).label
    assert "robability" not in visitor.says.inner_text()
    expect(visitor.says).to_have_class(re.compile("notice"))
    expect(visitor.thumbnail).to_be_visible()
    screenshot(visitor)
    visitor.uploads(encode(draw_bear(), "JPEG"))
    visitor.reads(ANSWER)
    expect(visitor.says).not_to_have_class(re.compile("notice"))


def test_real_bears_of_each_kind_are_named(visitor, real_photos):
    for folder in sorted((real_photos / "bears").iterdir()):
        photos = sorted(folder.iterdir())[:5]
        labels = []
        for photo in photos:
            visitor.uploads(photo.read_bytes())
            labels.append(EITHER.search(visitor.reads(EITHER)).group(1))
            visitor.page.evaluate("document.querySelectorAll('.widget-label').forEach(e => e.textContent = '')")
        assert labels.count(folder.name) >= 4, labels


def test_real_photos_of_something_else_are_not_recognised(visitor, real_photos):
    for photo in sorted((real_photos / "not_bears").iterdir())[::100]:
        visitor.uploads(photo.read_bytes())
        visitor.reads(STRANGER)
        visitor.page.evaluate("document.querySelectorAll('.widget-label').forEach(e => e.textContent = '')")


def test_a_second_photo_takes_the_place_of_the_first(visitor):
    visitor.uploads(encode(draw_bear(), "PNG"), "first.png", "image/png")
    visitor.reads(ANSWER)
    first = visitor.thumbnail.get_attribute("src")
    visitor.uploads(encode(draw_bear(fur="#222222"), "PNG"), "second.png", "image/png")
    expect(visitor.thumbnail).not_to_have_attribute("src", first)
    visitor.reads(ANSWER)
    expect(visitor.thumbnail).to_have_count(1)


def test_classify_without_a_photo_asks_for_one(visitor):
    visitor.classify.click()
    visitor.reads("Please choose a photo first.")


@pytest.mark.parametrize("content, sentence", [
    (b"This is not a bear.", re.compile("^This file is not a picture I can read")),
    (b"", "This file is empty. Please choose a photo."),
    (encode(draw_bear(), "JPEG")[:5000], re.compile("^This picture is damaged or incomplete")),
], ids=["text", "empty", "truncated"])  # fmt: skip
def test_what_is_not_a_photo_gets_a_sentence_and_the_page_goes_on(visitor, screenshot, content, sentence):
    visitor.uploads(content, "notes.txt", "text/plain")
    visitor.reads(sentence)
    expect(visitor.thumbnail).to_have_count(0)
    screenshot(visitor)
    visitor.uploads(encode(draw_bear(), "JPEG"))
    visitor.reads(ANSWER)


def test_uploads_of_64_megabytes_arrive_and_larger_ones_are_refused(visitor, tmp_path):
    """From a file: Playwright takes no more than 50 MB any other way."""
    photo = encode(draw_bear(), "JPEG")
    for size, sentence in ((MAX_BYTES, ANSWER), (MAX_BYTES + 1, re.compile("^This file is larger than 64 MB"))):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(photo + bytes(size - len(photo)))  # what follows the end of a JPEG is ignored
        visitor.chooses(path)
        visitor.classify.click()
        visitor.reads(sentence)


# What the server gives away


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_shows_no_code(url):
    status, html = get(url)
    assert status == 200 and "Bear classifier" in html
    assert "Classifier.load" not in html and "on_click" not in html


@pytest.mark.parametrize("path", ["app.ipynb", "export.pkl", "bears/photos.py", "voila.json", "photos/private.jpg"])
def test_no_file_of_the_project_is_served(project, url, path):
    (project / "photos").mkdir(exist_ok=True)
    (project / "photos" / "private.jpg").write_bytes(encode(draw_bear(), "JPEG"))
    assert (project / path).exists()
    status, _ = get(f"{url}voila/files/{path}")
    assert status in (403, 404)


# When something is wrong on our side


def test_an_export_that_does_not_know_novelty_serves_and_says_so(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = load_learner(ROOT / "export.pkl")
    for name in [name for name, _ in learner.model.named_buffers() if name.startswith("novelty_")]:
        delattr(learner.model, name)
    torch.save(learner, folder / "export.pkl")
    sha256 = hashlib.sha256((folder / "export.pkl").read_bytes()).hexdigest()
    (folder / "MODEL_CARD.md").write_text(f"---\nsha256: {sha256}\n---\n")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        expect(visitor.page.get_by_text("Whatever is on it, this classifier names one of these.")).to_be_visible()
        visitor.uploads(encode(Image.fromarray(load_sample_image("china.jpg")), "JPEG"))
        visitor.reads(ANSWER)
        visitor.page.close()


def test_a_broken_export_is_explained_in_the_page(browser, project, tmp_path, screenshot):
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "export.pkl").write_bytes(b"cut short")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        expect(visitor.page.get_by_text("export.pkl is incomplete: 9 of")).to_be_visible()
        expect(visitor.classify).to_be_disabled()
        assert "Traceback" not in visitor.page.content()
        screenshot(visitor)
        visitor.page.close()


def test_a_fault_of_ours_gets_a_sentence_and_its_traceback_goes_to_the_log_only(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with open(folder / "bears" / "classifier.py", "a") as module:
        module.write("\nClassifier.classify = lambda self, photo: 1 / 0\n")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        visitor.uploads(encode(draw_bear(), "JPEG"))
        visitor.reads(re.compile("^Something went wrong here"))
        assert "ZeroDivisionError" not in visitor.page.content()
        visitor.page.close()
    assert "ZeroDivisionError" in (folder / "voila.log").read_text()


# Kernels


def test_the_kernel_of_a_closed_page_is_culled_and_the_preheated_one_is_not(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    impatient = ["--MappingKernelManager.cull_idle_timeout=3", "--MappingKernelManager.cull_interval=1"]
    with serve(folder, *impatient) as url:
        visitor = Visitor(browser, url)
        kernel = visitor.page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').text).kernelId")
        alive = f"{url}api/kernels/{kernel}"
        time.sleep(8)
        assert get(alive)[0] == 200, "a page that is open keeps its kernel"
        visitor.page.close()
        for _ in range(60):
            if get(alive)[0] == 404:
                break
            time.sleep(1)
        else:
            pytest.fail("the kernel is still there a minute after its page was closed")
        time.sleep(5)  # by now the preheated kernel has been idle for longer than the limit, too
        visitor = Visitor(browser, url)
        visitor.uploads(encode(draw_bear(), "JPEG"))
        visitor.reads(ANSWER)
        visitor.page.close()
