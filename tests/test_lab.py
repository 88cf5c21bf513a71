"""Notebooks in JupyterLab, where template/ does not reach: app.ipynb, of which page.css is all, and the cleaner."""

import contextlib

import nbformat
import pandas as pd
import pytest
from browsing import ANSWER, file, running
from conftest import draw_folder
from machine import free_port
from playwright.sync_api import expect

from bears.training.dataset import DELETE, check_photos, read_decisions


@contextlib.contextmanager
def jupyterlab(folder, notebook):
    """The address of a notebook in JupyterLab."""
    port = free_port()
    command = ["jupyter-lab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    with running(command, folder, port):
        yield f"http://127.0.0.1:{port}/lab/tree/{notebook}?reset"


def opened(browser, address):
    """The notebook, all of whose cells have been run."""
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.goto(address)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    return page


@pytest.fixture
def lab(project):
    with jupyterlab(project, "app.ipynb") as address:
        yield address


def test_the_page_works_in_jupyterlab_and_its_bars_look_like_bars(browser, lab, screenshot):
    page = opened(browser, lab)
    expect(page.locator(".choose")).to_be_enabled(timeout=120_000)
    with page.expect_file_chooser() as chooser:
        page.locator(".choose").click()
    chooser.value.set_files([file()])
    expect(page.locator(".classify")).to_be_enabled()
    page.locator(".classify").click()

    answer = page.locator(".answer")
    expect(answer.locator(".says")).to_have_text(ANSWER)
    bars = answer.locator(".bar > div")
    boxes = [bar.bounding_box() for bar in bars.all()]
    assert len(boxes) == 3 and all(box["height"] > 5 for box in boxes)
    assert boxes[0]["width"] > 50 > boxes[2]["width"], "the largest first"
    assert len({box["x"] for box in boxes}) == 1 and boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]
    assert "rgba(0, 0, 0, 0)" not in {style(bar, "backgroundColor") for bar in bars.all()}
    others = [style(answer.locator(part).first, "fontSize") for part in (".file", "dt", ".percent")]
    assert float(style(answer.locator(".says"), "fontSize")[:-2]) > max(float(size[:-2]) for size in others)
    screenshot(page)
    page.close()


def style(locator, name):
    return locator.evaluate(f"node => getComputedStyle(node).{name}")


@pytest.fixture
def cleaner(tmp_path):
    """A notebook of one cell, with a cleaner of drawings."""
    photos, _ = check_photos(draw_folder(tmp_path / "drawings", 12))
    doubts = pd.DataFrame([[0.2, 0.7, 0.1]] * len(photos), columns=["circle", "square", "triangle"])
    pd.to_pickle((photos.assign(group=photos.sha256), doubts), tmp_path / "photos.pkl")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CLEANER), nbformat.v4.new_code_cell("1 + 1")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, tmp_path / "cleaner.ipynb")
    return tmp_path


CLEANER = """\
import pandas as pd
from bears.training.cleaning import Cleaner
Cleaner(*pd.read_pickle("photos.pkl"), "cleaning.csv")"""


def test_the_keyboard_cleans_and_moves_no_cell(browser, cleaner, screenshot):
    with jupyterlab(cleaner, "cleaner.ipynb") as address:
        page = opened(browser, address)
        page.locator(".bears-cleaner .photo").first.click()
        decided = page.locator('.bears-cleaner .photo:not([data-state="open"], [data-state="waiting"])')
        for keys, count in {"k": 1, "d": 2, "3": 3, "Shift+Enter": 5, "d d": 7, "u": 6, "Control+z": 5}.items():
            for key in keys.split():
                page.keyboard.press(key)
            expect(decided).to_have_count(count)
        for key in ("x", "b", "m"):  # which cut a cell, add one and make it text
            page.keyboard.press(key)
        page.keyboard.press("PageDown")
        expect(page.locator(".bears-cleaner .where")).to_have_text("2 of 2")
        expect(decided).to_have_count(0)
        page.keyboard.press("PageUp")
        expect(decided).to_have_count(5)
        assert page.locator(".jp-CodeCell").count() == 2
        screenshot(page)
        page.close()
    rows = [(row["from"], row["to"]) for row in read_decisions(cleaner / "cleaning.csv").values()]
    assert len(rows) == 5 and sum(to == DELETE for _, to in rows) == 1
