"""app.ipynb and bears.serving.page: a visit, from the first look to the answer, and what visitors do to a page."""

import base64
import functools
import hashlib
import json
import re
import shutil
import sys
import threading
import time
import warnings
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
import torch
from browsing import ANSWER, STRANGER, Visitor, file, running, serve
from conftest import ROOT, draw_bear, encode
from fastai.learner import load_learner
from machine import free_port
from PIL import Image
from playwright.sync_api import expect
from sklearn.datasets import load_sample_image

from bears.classifier import Answer, Classifier
from bears.photos import MAX_BYTES, PhotoError, open_photo
from bears.serving.page import Row, Rows, about, bars, complaints, listed, otherwise, thumbnail
from bears.serving.uploads import MOST

TEMPLE = encode(Image.fromarray(load_sample_image("china.jpg")), "JPEG")


# Its parts


def test_bars_show_every_label_the_largest_first():
    html = bars(Answer("b&w", 0.9994, {"a": 0.0001, "b&w": 0.9994, "c": 0.0005}))
    assert re.findall("<dt>(.*?)</dt>", html) == ["b&amp;w", "c", "a"]
    assert re.findall('percent">(.*?) %', html) == ["&gt; 99.9", "&lt; 0.1", "&lt; 0.1"]
    assert re.findall('percent">(.*?) %', bars(Answer("a", 0.6, {"a": 0.6, "b": 0.4}))) == ["60.0", "40.0"]


def test_it_says_between_which_labels_it_cannot_tell():
    probabilities = {"a": 0.4, "b": 0.3, "c": 0.3}

    def said(plausible):
        return otherwise(Answer("a", 0.4, probabilities, plausible=plausible))

    assert said(None) == said(("a",)) == ""
    assert said(("a", "b")) == ". I cannot rule out b."
    assert said(("a", "b", "c")) == ". I cannot rule out b or c."


def test_about_says_what_the_card_says():
    card = {"labels": ["a", "<b>"], "held_out": {"photos": 209, "wrong": 4, "error_interval": [0.0075, 0.0482]}}
    html = about(card)
    assert "a or &lt;b&gt;" in html and "209 photos" in html and "1.9% (95 % interval 0.8% to 4.8%)" in html
    assert "did not recognise" not in html and "5 of them it did not" in about(
        card | {"held_out": card["held_out"] | {"doubted": 5}}
    )
    assert "in the server&#x27;s memory only" in about({}), "a card that says nothing"


def test_labels_are_listed_as_one_would_say_them():
    assert [listed(labels) for labels in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
    assert listed("abcdef") == "a, b, c, d, e or f"
    assert listed("abcdefg") == "a, b, c, d, e or one of 2 others"


@pytest.mark.parametrize("count, shown", [(1, 1), (5, 5), (6, 6), (7, 5), (120, 5)])
def test_of_many_labels_five_bars_are_shown_and_the_others_folded(count, shown):
    """Of six, all: to hide one saves nothing."""
    labels = [f"<{number}>" for number in range(count)]
    html = bars(Answer("<0>", 0.5, {label: 1 / (2 + number) for number, label in enumerate(labels)}))
    first, *rest = html.split("<details>")
    assert re.findall("<dt>(.*?)</dt>", first) == [escape(label) for label in labels[:shown]]
    assert len(rest) == (count > shown)
    if rest:
        assert rest[0].startswith(f"<summary>{count - shown} more labels</summary>")
        assert re.findall("<dt>(.*?)</dt>", rest[0]) == [escape(label) for label in labels[shown:]]


def test_about_names_all_of_many_labels_where_one_asks_for_them():
    labels = [f"<{number}>" for number in range(120)]
    html = about({"labels": labels})
    short, *folded = html.split("<details>")[1:]
    assert "&lt;4&gt; or one of 115 others." in short and "&lt;5&gt;" not in short
    (all_of_them,) = folded
    assert all_of_them.startswith("<summary>All 120 labels</summary>")
    assert all(escape(label) in all_of_them for label in labels)
    assert about({"labels": labels[:6]}).count("<details>") == 1


LIMIT = {"VOILA_BASE_URL": "/", "BEARS_LARGEST_MESSAGE": str(MAX_BYTES)}


@pytest.mark.parametrize("environment, count", [
    ({}, 0),  # JupyterLab, nbconvert
    (LIMIT | {"BEARS_LARGEST_MESSAGE": "134217728"}, 0),
    (LIMIT, 1),  # a photo of that size comes in a message that is larger
    (LIMIT | {"BEARS_LARGEST_MESSAGE": "0"}, 1),
    ({"VOILA_BASE_URL": "/"}, 1),
])  # fmt: skip
def test_it_complains_where_voila_takes_no_large_messages(monkeypatch, environment, count):
    for name in LIMIT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert len(complaints()) == count


def test_a_thumbnail_is_small_and_has_a_text():
    html = thumbnail(draw_bear(), 'a "bear" <b>.jpg').data
    assert 'alt="a &quot;bear&quot; &lt;b&gt;.jpg"' in html
    assert len(base64.b64decode(re.search('base64,([^"]+)', html).group(1))) < 30_000


def test_what_a_row_keeps_of_a_photo_is_small():
    for size in ((6000, 4000), (9000, 460), (500, 9000)):
        row = Row("panorama.jpg")
        row.show(open_photo(encode(Image.new("RGB", size, "#8a5a2b"), "JPEG")))
        assert 3 * row.photo.width * row.photo.height <= 6.3e6
        assert row.photo.width / row.photo.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_rows_are_ready_when_there_is_a_photo_and_nothing_to_wait_for():
    rows = Rows()
    one, slow, other = rows.begin(["one.jpg", "slow.jpg", "other.jpg"])
    rows.changed()
    assert not rows.ready
    one.show(draw_bear(64))
    rows.changed()
    assert not rows.ready, "the others are on their way"
    slow.is_slow()
    other.warn("It is damaged.")
    rows.changed()
    assert rows.ready, "the slow one is not waited for"
    assert [row for row in rows.waiting()] == [one]
    assert not rows.ready
    one.say("A bear.")
    slow.show(draw_bear(64))
    rows.changed()
    assert rows.ready and [row for row in rows.waiting()] == [slow]


def test_a_fault_with_one_photo_is_said_in_its_row_and_stops_no_other(capfd):
    rows = Rows()
    for row, error in zip(
        rows.begin(["a", "b"]), (PhotoError("It is <b>damaged</b>."), ValueError("ours")), strict=True
    ):
        with row.faults():
            raise error
        assert not row.coming and row.photo is None
    assert "ours" in capfd.readouterr().err
    first, second = (row.children[0].children[1].value for row in rows.rows)
    assert first == "It is <b>damaged</b>." and second.startswith("Something went wrong here")


# A visit


def test_nothing_is_chosen_yet(newcomer):
    expect(newcomer.classify).to_be_disabled()
    expect(newcomer.rows).to_have_count(0)
    expect(newcomer.page.get_by_text("Is it black, grizzly or teddy?")).to_be_visible()


def test_a_photo_is_shown_at_once_and_gets_its_answer_with_the_button(visitor, screenshot):
    visitor.chooses(file())
    thumbnail = visitor.rows.locator("img")
    expect(thumbnail).to_be_visible()
    expect(thumbnail).to_have_attribute("alt", "bear.jpg")
    expect(visitor.says()).to_have_text("")
    expect(visitor.classify).to_be_enabled()
    visitor.classify.click()
    label, probability = ANSWER.match(visitor.reads(ANSWER)).groups()
    expected = Classifier.load(ROOT / "export.pkl").classify(file()["buffer"])
    assert (label, probability) == (expected.label, f"{expected.probability:.4f}")
    ranked = sorted(expected.probabilities, key=lambda label: -expected.probabilities[label])
    assert visitor.rows.locator("dt").all_inner_texts() == ranked
    expect(visitor.classify).to_be_disabled()
    screenshot(visitor)


def test_a_bear_is_told_from_a_temple(visitor, screenshot):
    visitor.uploads(file(TEMPLE, "temple.jpg"))
    label = STRANGER.match(visitor.reads(STRANGER)).group(1)
    assert label == Classifier.load(ROOT / "export.pkl").classify(TEMPLE).label
    assert "robability" not in visitor.rows.inner_text() and "%" not in visitor.rows.inner_text()
    expect(visitor.says()).to_have_class(re.compile("notice"))
    screenshot(visitor)
    visitor.uploads(file())
    visitor.reads(ANSWER)
    expect(visitor.says()).not_to_have_class(re.compile("notice"))


def test_a_second_photo_takes_the_place_of_the_first_even_if_it_is_the_same(visitor):
    visitor.uploads(file())
    first = visitor.reads(ANSWER)
    for _ in range(2):
        visitor.uploads(file())
        assert visitor.reads(ANSWER) == first
        expect(visitor.rows).to_have_count(1)


def test_several_photos_get_one_row_each(visitor, screenshot):
    moving = encode(draw_bear(200), "GIF", save_all=True, append_images=[draw_bear(200).rotate(9)])
    visitor.chooses(
        file(), file(b"not a bear", "notes.txt", "text/plain"), file(TEMPLE), file(moving, "a.gif", "image/gif")
    )
    visitor.reads(re.compile("^This file is not a picture I can read"), 1)
    expect(visitor.rows.locator("img")).to_have_count(3)
    visitor.classify.click()
    for number, answer in (0, ANSWER), (2, STRANGER), (3, ANSWER):
        visitor.reads(answer, number)
    expect(visitor.rows.nth(3)).to_contain_text("Moving; only its first picture counts.")
    screenshot(visitor)


def test_while_it_works_the_button_says_so_and_a_bar_shows_how_far_it_is(visitor):
    visitor.chooses(*[file()] * MOST)
    expect(visitor.page.locator(".widget-hprogress")).not_to_be_visible()
    visitor.page.evaluate("""() => {
        window.seen = [];
        const look = () => seen.push([
            document.querySelector(".classify").textContent,
            getComputedStyle(document.querySelector(".widget-hprogress")).visibility]);
        new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true});
    }""")
    visitor.classify.click()
    visitor.reads(ANSWER, MOST - 1)
    expect(visitor.classify).to_have_text("Classify")
    assert ["Classifying …", "visible"] in visitor.page.evaluate("seen")
    expect(visitor.page.locator(".widget-hprogress")).not_to_be_visible()


def test_of_too_many_photos_the_first_are_taken_and_it_says_so(visitor):
    with visitor.page.expect_file_chooser() as chooser:
        visitor.choose.click()
    chooser.value.set_files([file()] * (MOST + 3))
    expect(visitor.rows).to_have_count(MOST, timeout=30_000)
    expect(visitor.page.get_by_text(f"Only the first {MOST} of these {MOST + 3} photos are shown.")).to_be_visible()


@pytest.mark.parametrize("content, sentence", [
    (b"This is not a bear.", re.compile("^This file is not a picture I can read")),
    (b"", "This file is empty. Please choose a photo."),
    (encode(draw_bear(), "JPEG")[:5000], re.compile("^This picture is damaged or incomplete")),
], ids=["text", "empty", "truncated"])  # fmt: skip
def test_what_is_not_a_photo_gets_a_sentence_and_the_page_goes_on(visitor, screenshot, content, sentence):
    visitor.chooses(file(content, "notes.txt", "text/plain"))
    visitor.reads(sentence)
    expect(visitor.rows.locator("img")).to_have_count(0)
    expect(visitor.classify).to_be_disabled()
    screenshot(visitor)
    visitor.uploads(file())
    visitor.reads(ANSWER)


@pytest.mark.parametrize("old", [False, True], ids=["uploads.js", "without it"])
def test_uploads_of_64_megabytes_arrive_and_larger_ones_are_refused(browser, url, tmp_path, old):
    """From a file: Playwright takes no more than 50 MB any other way."""
    visitor = Visitor(browser, url, old=old)
    photo = encode(draw_bear(), "JPEG")
    for size, sentence in ((MAX_BYTES, ANSWER), (MAX_BYTES + 1, re.compile("^This file is larger than 64 MB"))):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(photo + bytes(size - len(photo)))  # what follows the end of a JPEG is ignored
        visitor.chooses(path)
        if sentence == ANSWER:
            expect(visitor.classify).to_be_enabled()
            visitor.classify.click()
        visitor.reads(sentence)
    visitor.leaves()


def test_the_name_of_a_file_is_never_more_than_text(visitor):
    visitor.page.on("dialog", lambda dialog: pytest.fail("the name was run"))
    for name in (
        '<img src=x onerror="alert(1)">.jpg',
        "\"><script>alert('1')</script>",
        "$\\LaTeX$" + "x" * 300 + ".jpg",
    ):
        visitor.uploads(file(name=name))
        visitor.reads(ANSWER)
        assert visitor.rows.locator(".file").inner_text() == name
        assert visitor.rows.locator("script").count() == 0 and visitor.rows.locator("img").count() == 1


def test_real_bears_of_each_kind_are_named_and_other_things_are_not(visitor, real_photos):
    for folder in sorted((real_photos / "bears").iterdir()):
        visitor.uploads(*sorted(folder.iterdir())[:5])
        expect(visitor.classify).to_have_text("Classify")
        labels = [re.split("[:;] ", visitor.reads(re.compile("Prediction|Closest"), number))[1] for number in range(5)]
        assert labels.count(folder.name) >= 4, labels
    visitor.uploads(*sorted((real_photos / "not_bears").iterdir())[::100])
    for number in range(5):
        visitor.reads(STRANGER, number)


def test_files_people_really_have_are_answered(visitor, real_photos):
    originals = sorted((real_photos / "originals").iterdir())
    visitor.uploads(*originals)
    for number in range(len(originals)):
        visitor.reads(re.compile("^(Prediction|This does not look)"), number)


# Other ways to hand over a photo


TRANSFER = """([bytes, name, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
    const make = {
        drop: () => new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}),
        over: () => new DragEvent("dragover", {dataTransfer: transfer, bubbles: true, cancelable: true}),
        paste: () => new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}),
    };
    window.hand = (what) => document.body.dispatchEvent(make[what]());
}"""


def test_a_photo_can_be_dropped(visitor, screenshot):
    visitor.page.evaluate(TRANSFER, [list(file()["buffer"]), "dropped.jpg", "image/jpeg"])
    visitor.page.evaluate("hand('over')")
    expect(visitor.page.locator("body.dropping")).to_have_count(1)
    screenshot(visitor)
    visitor.page.evaluate("hand('drop')")
    expect(visitor.page.locator("body.dropping")).to_have_count(0)
    expect(visitor.page.get_by_alt_text("dropped.jpg")).to_be_visible()
    visitor.classify.click()
    visitor.reads(ANSWER)


def test_a_photo_can_be_pasted(visitor):
    visitor.page.evaluate(TRANSFER, [list(file()["buffer"]), "pasted.png", "image/png"])
    visitor.page.evaluate("hand('paste')")
    expect(visitor.page.get_by_alt_text("pasted.png")).to_be_visible()
    visitor.classify.click()
    visitor.reads(ANSWER)


def test_on_a_phone_there_is_a_button_for_the_camera(browser, url, screenshot):
    visitor = Visitor(browser, url, 360, 740, has_touch=True, is_mobile=True)
    expect(visitor.page.get_by_text("or drop them")).to_have_count(0)
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.get_by_role("button", name="Take a photo").tap()
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(file())
    visitor.classify.tap()
    visitor.reads(ANSWER)
    screenshot(visitor)
    visitor.leaves()


def large_photo() -> bytes:
    """12 megapixels, 4 MB."""
    grain = np.random.default_rng(0).integers(-14, 15, (3000, 4000, 1))
    photo = np.asarray(draw_bear().resize((3000, 3000)).crop((-500, 0, 3500, 3000)), np.int16)
    return encode(Image.fromarray(np.uint8(np.clip(photo + grain, 0, 255))), "JPEG", quality=92)


def test_a_large_photo_is_made_smaller_before_it_is_sent(visitor):
    photo, before = large_photo(), visitor.sent
    assert len(photo) > 4_000_000
    visitor.chooses(file(photo))
    assert visitor.sent - before < 400_000
    visitor.classify.click()
    label, probability = ANSWER.match(visitor.reads(ANSWER)).groups()
    expected = Classifier.load(ROOT / "export.pkl").classify(photo)
    assert label == expected.label and float(probability) == pytest.approx(expected.probability, abs=0.05)


def test_a_large_photo_on_its_side_arrives_upright(visitor):
    turned, exif = draw_bear(2400).crop((0, 0, 2400, 1600)).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    visitor.chooses(file(encode(turned, "JPEG", exif=exif, quality=100)))
    shape = visitor.rows.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert shape[0] > 1.4 * shape[1]


def test_without_uploads_js_the_plain_upload_works(browser, url):
    visitor = Visitor(browser, url, old=True)
    expect(visitor.page.locator(".hint")).to_have_count(0)
    for _ in range(2):  # the same file twice
        visitor.uploads(file(), file(TEMPLE))
        visitor.reads(ANSWER, 0)
        visitor.reads(STRANGER, 1)
    visitor.leaves()


def test_two_tabs_answer_each_their_own_photo(visitor, newcomer):
    one, other = visitor, newcomer
    one.chooses(file())
    other.chooses(file(TEMPLE))
    one.classify.click()
    other.classify.click()
    one.reads(ANSWER)
    other.reads(STRANGER)


# What the server gives away


def test_the_page_shows_no_code(url):
    page = requests.get(url, timeout=60)
    assert page.status_code == 200 and "Bear classifier" in page.text
    assert "Classifier.load" not in page.text and "on_click" not in page.text


@pytest.mark.parametrize("path", ["app.ipynb", "export.pkl", "bears/photos.py", "voila.json", "photos/private.jpg"])
def test_no_file_of_the_project_is_served(project, url, path):
    (project / "photos").mkdir(exist_ok=True)
    (project / "photos" / "private.jpg").write_bytes(encode(draw_bear(), "JPEG"))
    assert (project / path).exists()
    assert requests.get(f"{url}voila/files/{path}", timeout=60).status_code in (403, 404)


# When something is wrong on our side


def with_another_model(project, tmp_path, change):
    """A copy of the project, with an export to whose model `change` was applied."""
    folder = shutil.copytree(project, tmp_path / "project")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = load_learner(ROOT / "export.pkl")
    change(learner.model)
    torch.save(learner, folder / "export.pkl")
    sha256 = hashlib.sha256((folder / "export.pkl").read_bytes()).hexdigest()
    (folder / "MODEL_CARD.md").write_text(f"---\nsha256: {sha256}\n---\n")
    return folder


def test_an_export_that_does_not_know_novelty_serves_and_says_so(browser, project, tmp_path):
    def forget(model):
        for name in [name for name, _ in model.named_buffers() if name.startswith("novelty_")]:
            delattr(model, name)

    with serve(with_another_model(project, tmp_path, forget)) as url:
        visitor = Visitor(browser, url)
        expect(visitor.page.get_by_text("Whatever is on the photo, this classifier names one")).to_be_visible()
        visitor.uploads(file(TEMPLE))
        visitor.reads(ANSWER)
        visitor.leaves()


def test_where_it_cannot_tell_it_says_between_which(browser, project, tmp_path, screenshot):
    def doubt(model):
        model.register_buffer("floor", torch.tensor(1e-9))
        model.novelty_limits *= 100  # all is recognised

    with serve(with_another_model(project, tmp_path, doubt)) as url:
        visitor = Visitor(browser, url)
        visitor.uploads(file())
        answer = visitor.reads(ANSWER)
        first, second, third = re.findall("<dt>(.*?)</dt>", visitor.page.content())
        assert answer.startswith(f"Prediction: {first}; ")
        assert answer.endswith(f". I cannot rule out {second} or {third}.")
        screenshot(visitor)
        visitor.leaves()


def test_a_broken_export_is_explained_in_the_page(browser, project, tmp_path, screenshot):
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "export.pkl").write_bytes(b"cut short")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        expect(visitor.page.get_by_text("export.pkl is incomplete: 9 of")).to_be_visible()
        expect(visitor.choose).to_be_disabled()
        visitor.page.evaluate(TRANSFER, [list(file()["buffer"]), "dropped.jpg", "image/jpeg"])
        visitor.page.evaluate("hand('drop')")
        time.sleep(1)
        expect(visitor.rows).to_have_count(0)
        expect(visitor.classify).to_be_disabled()
        assert "Traceback" not in visitor.page.content()
        screenshot(visitor)
        visitor.leaves()


def test_a_fault_of_ours_gets_a_sentence_and_its_traceback_goes_to_the_log_only(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with open(folder / "bears" / "classifier.py", "a") as module:
        module.write("\nClassifier.classify = lambda self, photo: 1 / 0\n")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        visitor.uploads(file())
        visitor.reads(re.compile("^Something went wrong here"))
        assert "ZeroDivisionError" not in visitor.page.content()
        visitor.leaves()
    assert "ZeroDivisionError" in (folder / "server.log").read_text()


COMPLAINT = "Large photos may get lost on their way to this page"


def test_served_from_another_folder_the_page_says_what_is_wrong(browser, project, tmp_path, screenshot):
    """There Voilà finds no voila.json: it has another template, other kernels and other limits."""
    port = free_port()
    command = [sys.executable, "-m", "voila", str(project / "app.ipynb"), "--no-browser", f"--port={port}"]
    with running(command, tmp_path, port):
        page = browser.new_page()
        local = re.compile(rf"http://127\.0\.0\.1:{port}/")
        page.route(lambda address: not local.match(address), lambda route: route.abort())  # for Voilà's template
        page.goto(f"http://127.0.0.1:{port}/", timeout=120_000)
        complaint = page.locator(".notice", has_text=COMPLAINT)
        expect(complaint).to_be_visible(timeout=120_000)
        expect(complaint).to_contain_text("Start it in the folder of the page: voila app.ipynb")
        screenshot(page)
        page.close()


@pytest.mark.parametrize("option, count", [("--pool_size=1", 0), ("--Voila.tornado_settings={'autoreload': False}", 1)])
def test_an_option_that_takes_the_limit_away_is_noticed_and_another_is_not(browser, project, tmp_path, option, count):
    """An option takes the place of all that voila.json says of the same name."""
    with serve(shutil.copytree(project, tmp_path / "project"), option) as url:
        page = browser.new_page()
        page.goto(url, timeout=120_000)
        expect(page.locator(".choose")).to_be_visible()
        expect(page.get_by_text(COMPLAINT)).to_have_count(count)
        page.close()


# In somebody else's page


@pytest.fixture
def course(tmp_path):
    """The address of a page of another site, with a frame for this one: course(url)."""
    folder = tmp_path / "course"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()

        def course(url=""):
            (folder / "index.html").write_text(f'<h1>Course</h1><iframe src="{url}" width="700" height="500"></iframe>')
            return f"http://localhost:{server.server_port}"  # to a browser, another site than 127.0.0.1

        yield course
        server.shutdown()


def test_in_a_frame_of_another_site_the_page_is_not_shown(browser, url, course):
    page = browser.new_page()
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.goto(course(url))
    expect(page.frame_locator("iframe").locator(".choose")).to_have_count(0)
    page.close()


def test_in_a_frame_of_a_site_that_voila_json_allows_all_works(browser, project, tmp_path, course, screenshot):
    """Also a photo larger than Tornado's own limit: what deploy/README.md adds takes nothing away."""
    folder = shutil.copytree(project, tmp_path / "project")
    settings = json.loads((folder / "voila.json").read_text())
    allowed = f"frame-ancestors 'self' {course()}"
    settings["Voila"]["tornado_settings"]["headers"] = {"Content-Security-Policy": allowed}
    (folder / "voila.json").write_text(json.dumps(settings))
    photo = tmp_path / "large.jpg"
    photo.write_bytes(encode(draw_bear(), "JPEG") + bytes(12 * 2**20))
    with serve(folder) as url:
        page = browser.new_page()
        page.goto(course(url))
        frame = page.frame_locator("iframe")
        with page.expect_file_chooser(timeout=60_000) as chooser:
            frame.locator(".choose").click()
        chooser.value.set_files(photo)
        frame.locator(".classify:enabled").click()
        expect(frame.locator(".says")).to_have_text(ANSWER)
        expect(frame.get_by_text(COMPLAINT)).to_have_count(0)
        screenshot(page)
        page.close()


# Kernels


def test_the_kernel_ends_with_its_page(browser, url):
    visitor = Visitor(browser, url)
    alive, ask = f"{url}api/kernels/{visitor.kernel}", visitor.asks()
    assert ask.get(alive, timeout=60).status_code == 200
    visitor.leaves()
    assert any(time.sleep(0.1) or ask.get(alive, timeout=60).status_code == 404 for _ in range(100))


def test_the_kernel_of_a_page_that_was_lost_is_culled_and_the_preheated_one_is_not(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    impatient = ["--MappingKernelManager.cull_idle_timeout=3", "--MappingKernelManager.cull_interval=1"]
    with serve(folder, *impatient) as url:
        visitor = Visitor(browser, url, blocked="**/voila/api/shutdown/*")
        alive, ask = f"{url}api/kernels/{visitor.kernel}", visitor.asks()
        time.sleep(8)
        assert ask.get(alive, timeout=60).status_code == 200, "a page that is open keeps its kernel"
        visitor.leaves()
        for _ in range(60):
            if ask.get(alive, timeout=60).status_code == 404:
                break
            time.sleep(1)
        else:
            pytest.fail("the kernel is still there a minute after its page was lost")
        time.sleep(5)  # by now the preheated kernel has been idle for longer than the limit, too
        visitor = Visitor(browser, url)
        visitor.uploads(file())
        visitor.reads(ANSWER)
        visitor.leaves()
