"""The page's looks: narrow or wide, light or dark, for keyboards and screen readers, and as they were before.

Look at tests/screenshots. Those in tests/looks are kept: where a change of the page's looks is meant, delete them, run
this again, and look at the new ones before they are committed.
"""

import base64
import hashlib
import re
import shutil
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from axe_playwright_python.sync_playwright import Axe
from browsing import ANSWER, STRANGER, Visitor, file, serve
from conftest import ROOT, draw_shape, encode
from fastai.data.transforms import CategoryMap
from fastai.learner import load_learner
from PIL import Image, ImageChops
from playwright.sync_api import expect
from test_page import TEMPLE

SIZES = {"phone": (360, 740), "desk": (1280, 900)}
KEPT = ROOT / "tests" / "looks"
CELL = 8  # pixels: what is compared are the mean colours of squares of this side, in which a letter is a shade
SHADE = 16  # of 255: more is another colour
MOST = 0.003  # of the squares may have another colour; a line of text is 0.02


def states(visitor):
    """Brings the page from one state into the next, and names each."""
    yield "empty"
    name = "a circle with a name that is longer than its way around " * 3
    visitor.chooses(file(), file(encode(draw_shape("circle", 1, 480), "PNG"), name, "image/png"), file(b"no photo"))
    expect(visitor.classify).to_be_enabled()
    yield "chosen"
    visitor.classify.click()
    visitor.reads(ANSWER, 0)
    visitor.reads(STRANGER, 1)
    expect(visitor.classify).to_have_text("Classify")
    yield "answered"
    visitor.page.locator("summary").click()
    visitor.page.locator("details").scroll_into_view_if_needed()
    yield "about"
    visitor.loses_its_kernel()
    expect(visitor.page.get_by_role("alert")).to_be_visible()
    yield "gone"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_state_passes_axe_and_fits(browser, url, screenshot, size, scheme):
    """axe-core, with the rules of WCAG 2 A and AA (contrast among them) and good practice."""
    width, height = SIZES[size]
    visitor = Visitor(browser, url, width, height, color_scheme=scheme)
    for state in states(visitor):
        screenshot(visitor, f"-{state}")
        violations = Axe().run(visitor.page).response["violations"]
        assert violations == [], [(found["id"], [node["html"] for node in found["nodes"]]) for found in violations]
        wide = visitor.page.evaluate("document.querySelector('#rendered_cells').scrollWidth")
        assert wide <= width, "no scrolling sideways"
    visitor.leaves()


def test_every_state_looks_as_it_did(browser, url, screenshot):
    """In a font that is the same on every machine: DejaVu Sans, which comes with Matplotlib."""
    visitor = Visitor(browser, url, color_scheme="light")
    font = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf").read_bytes()
    source = f"url(data:font/ttf;base64,{base64.b64encode(font).decode()})"
    visitor.page.evaluate(f"new FontFace('everywhere', '{source}').load().then((font) => document.fonts.add(font))")
    visitor.page.add_style_tag(content="body { font-family: everywhere !important }")
    differing = []
    for state in states(visitor):
        screenshot(visitor, f"-{state}")
        now = ROOT / "tests" / "screenshots" / f"test_every_state_looks_as_it_did-{state}.png"
        kept = KEPT / f"{state}.png"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            Image.open(now).convert("RGB").save(kept, optimize=True)
            differing.append(f"{state}: there was none to compare with; now there is")
        elif (share := other_colour(Image.open(now), Image.open(kept))) > MOST:
            differing.append(f"{state}: {share:.1%} of it has another colour; see {now.relative_to(ROOT)}")
    visitor.leaves()
    assert not differing, "\n".join(differing)


def other_colour(one: Image.Image, other: Image.Image) -> float:
    """The share of their squares in which two pictures of one size differ."""
    assert one.size == other.size
    shades = [picture.convert("RGB").reduce(CELL) for picture in (one, other)]
    return float((np.asarray(ImageChops.difference(*shades)).max(axis=2) > SHADE).mean())


@pytest.fixture(scope="module")
def many(project, tmp_path_factory):
    """The page of a classifier with 120 labels, which knows nothing of them."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("many") / "project")
    labels = ["<b>bold</b>", "Donaudampfschifffahrtsgesellschaft" * 3, *(f"kind {number}" for number in range(118))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = load_learner(folder / "export.pkl")
    for loader in learner.dls.loaders:
        loader.dataset.tls[1].tfms.fs[-1].vocab = CategoryMap(labels, sort=False)
    torch.manual_seed(0)
    learner.model[1][-1] = torch.nn.Linear(learner.model[1][-1].in_features, len(labels))
    torch.save(learner, folder / "export.pkl")
    sha256 = hashlib.sha256((folder / "export.pkl").read_bytes()).hexdigest()
    card = yaml.safe_dump({"sha256": sha256, "labels": labels})
    (folder / "MODEL_CARD.md").write_text(f"---\n{card}---\n")
    with serve(folder) as url:
        yield url


def test_of_120_labels_five_are_shown_and_the_others_on_demand(browser, many, screenshot):
    visitor = Visitor(browser, many, *SIZES["phone"])
    expect(visitor.page.get_by_text("or one of 115 others?")).to_be_visible()
    visitor.uploads(*[file()] * 3)
    visitor.reads(re.compile("^Prediction"), 2)
    expect(visitor.rows.locator("dt:visible")).to_have_count(3 * 5)
    answers = visitor.page.locator(".answers")
    assert answers.bounding_box()["height"] < 3 * 740, "a screen for each photo at most"
    screenshot(visitor, "-folded")

    more = visitor.rows.nth(0).get_by_text("115 more labels")
    more.focus()
    visitor.page.keyboard.press("Enter")
    expect(visitor.rows.nth(0).locator("dt:visible")).to_have_count(120)
    expect(visitor.rows.nth(1).locator("dt:visible")).to_have_count(5)
    assert all(bar.bounding_box()["width"] > 40 for bar in visitor.rows.nth(0).locator(".bar").all()[::10])
    more.scroll_into_view_if_needed()
    screenshot(visitor, "-unfolded")

    visitor.page.get_by_text("About this classifier").click()
    visitor.page.get_by_text("All 120 labels").click()
    visitor.page.get_by_text("All 120 labels").scroll_into_view_if_needed()
    screenshot(visitor, "-about")
    violations = Axe().run(visitor.page).response["violations"]
    assert violations == [], [(found["id"], [node["html"] for node in found["nodes"]]) for found in violations]
    assert visitor.page.evaluate("document.querySelector('#rendered_cells').scrollWidth") <= 360
    visitor.leaves()


def test_dark_is_dark(visitor):
    for scheme, dark in ("dark", True), ("light", False):
        visitor.page.emulate_media(color_scheme=scheme)
        ground, text = visitor.page.evaluate("""() => {
            const style = getComputedStyle(document.querySelector("#rendered_cells"));
            return [style.backgroundColor, style.color].map(
                (colour) => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0));
        }""")
        assert (ground < text) == dark


def test_everything_can_be_done_with_the_keyboard(newcomer):
    visitor = newcomer
    visitor.page.keyboard.press("Tab")
    expect(visitor.choose).to_be_focused()
    assert visitor.choose.evaluate("button => getComputedStyle(button).outlineStyle") == "solid", (
        "one sees where one is"
    )
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.keyboard.press("Enter")
    chooser.value.set_files(file())
    expect(visitor.classify).to_be_enabled()
    visitor.page.keyboard.press("Tab")
    expect(visitor.classify).to_be_focused()
    visitor.page.keyboard.press("Space")
    visitor.reads(ANSWER)
    visitor.page.locator("summary").focus()
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.locator("details")).to_have_attribute("open", "")


def test_answers_are_read_aloud(visitor):
    expect(visitor.page.locator(".answers")).to_have_attribute("aria-live", "polite")


def test_nothing_jumps_while_the_page_is_used(visitor):
    """What moves by itself counts, what moves within half a second of a click does not: https://web.dev/cls"""
    visitor.page.evaluate("""() => {
        window.shift = 0;
        const add = (list) => list.getEntries().forEach((entry) => { if (!entry.hadRecentInput) shift += entry.value });
        new PerformanceObserver(add).observe({type: "layout-shift"});
    }""")
    visitor.uploads(file(), file(TEMPLE))
    visitor.reads(STRANGER, 1)
    assert visitor.page.evaluate("shift") < 0.1, "the limit of 'good'"
