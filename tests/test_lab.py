"""app.ipynb as a notebook in JupyterLab, where template/ does not reach: what page.css gives the widgets is all."""

import pytest
from browsing import ANSWER, file, running
from machine import free_port
from playwright.sync_api import expect


@pytest.fixture
def lab(project):
    port = free_port()
    command = ["jupyter-lab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    with running(command, project, port):
        yield f"http://127.0.0.1:{port}/lab/tree/app.ipynb?reset"


def test_the_page_works_in_jupyterlab_and_its_bars_look_like_bars(browser, lab, screenshot):
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.goto(lab)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
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
