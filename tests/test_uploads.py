"""bears.serving.uploads and uploads.js: every file arrives or fails by itself, whatever else a browser does."""

import gc
import re
import shutil
import subprocess
import time
import tracemalloc
import weakref

import ipywidgets as widgets
import pytest
from browsing import ANSWER, Link, Visitor, file, needs, serve
from conftest import ROOT, draw_bear, encode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import expect

from bears.photos import MAX_BYTES, open_photo
from bears.serving.page import Rows
from bears.serving.uploads import MOST, NOTES, UNREADABLE, Uploads


def test_uploads_js_by_itself():
    """Its own tests are in uploads.test.js: a file that fails, pieces that are lost, lots that overtake each other."""
    node = needs("node, to test uploads.js", shutil.which("node"))
    run = subprocess.run(
        [node, "--test", ROOT / "tests" / "uploads.test.js"], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout
    assert int(re.search(r"^\W+pass (\d+)", run.stdout, re.M).group(1)) >= 20


# The kernel's side, told what a browser may tell it


class Page:
    """`Uploads` without a browser. `tells` it something, and returns what it answers."""

    def __init__(self, handler=lambda content, row: row.show(open_photo(content))):
        self.rows = Rows()
        self.uploads = Uploads(widgets.FileUpload(), self.rows, handler)
        self.uploads.send = lambda message: self.answers.append(message)

    def tells(self, event, *buffers, **message):
        self.answers = []
        self.uploads._receive(None, {"event": event, **message}, [memoryview(buffer) for buffer in buffers])
        return self.answers[0] if self.answers else None

    def announces(self, lot, *names, size=10_000):
        return self.tells("lot", lot=lot, files=[{"name": name, "size": size} for name in names], count=len(names))

    def sends(self, lot, file, content):
        return self.tells("piece", content, lot=lot, file=file, start=0, of=len(content))

    def says(self, number=0):
        *_, column = self.rows.rows[number].children
        return column.children[1].value

    @property
    def photos(self):
        return [row.photo and row.photo.size for row in self.rows.rows]


PHOTO = encode(draw_bear(96), "JPEG")
OTHER = encode(draw_bear(64), "JPEG")


def test_a_row_is_there_as_soon_as_its_name_is():
    page = Page()
    assert page.announces("one", "a.jpg", "b.jpg") == {"event": "got", "lot": "one"}
    assert [page.says(0), page.says(1)] == ["On its way …"] * 2
    assert not page.rows.ready


def test_a_photo_arrives_in_pieces_and_the_row_says_how_much_there_is():
    page = Page()
    page.announces("one", "a.jpg")
    half = len(PHOTO) // 2
    answer = page.tells("piece", PHOTO[:half], lot="one", file=0, start=0, of=len(PHOTO))
    assert answer == {"event": "got", "lot": "one", "file": 0, "bytes": half, "gap": False}
    assert page.says() == "On its way … 50%"
    page.tells("piece", PHOTO[half:], lot="one", file=0, start=half, of=len(PHOTO))
    assert page.photos == [(96, 96)]
    assert page.rows.ready


def test_pieces_that_come_twice_overlap_or_come_before_their_turn_do_no_harm():
    page = Page()
    page.announces("one", "a.jpg")

    def piece(start, end):
        return page.tells("piece", PHOTO[start:end], lot="one", file=0, start=start, of=len(PHOTO))

    assert piece(0, 1000)["bytes"] == 1000
    assert piece(0, 1000)["bytes"] == 1000
    assert piece(2000, 3000) == {"event": "got", "lot": "one", "file": 0, "bytes": 1000, "gap": True}
    assert piece(500, 1500)["bytes"] == 1500
    assert piece(1500, None)["bytes"] == len(PHOTO)
    assert page.photos == [(96, 96)]
    assert piece(1500, None)["bytes"] == len(PHOTO), "it needs no more"
    assert page.photos == [(96, 96)]


def test_a_new_lot_takes_the_place_of_one_that_never_ends_and_gets_nothing_of_it():
    page = Page()
    page.announces("one", "a.jpg", "b.jpg")
    page.tells("piece", PHOTO[:500], lot="one", file=0, start=0, of=len(PHOTO))
    page.announces("two", "c.jpg")
    answer = page.tells("piece", PHOTO[500:], lot="one", file=0, start=500, of=len(PHOTO))
    assert answer["bytes"] == len(PHOTO), "nothing more is wanted of it"
    assert page.photos == [None]
    page.sends("two", 0, OTHER)
    assert page.photos == [(64, 64)]


def test_a_lot_that_is_announced_twice_is_one_lot():
    page = Page()
    page.announces("one", "a.jpg")
    page.sends("one", 0, PHOTO)
    assert page.announces("one", "a.jpg") == {"event": "got", "lot": "one"}
    assert page.photos == [(96, 96)]


def test_what_a_browser_cannot_read_says_so_in_its_row_alone():
    page = Page()
    page.announces("one", "a.jpg", "b.jpg")
    assert page.tells("failed", lot="one", file=0)["file"] == 0
    assert page.says() == UNREADABLE
    page.sends("one", 1, PHOTO)
    assert page.photos == [None, (96, 96)] and page.rows.ready
    assert page.tells("failed", lot="one", file=1) is not None
    assert page.photos == [None, (96, 96)], "it had arrived"


def test_a_slow_file_is_not_waited_for_and_counts_when_it_comes():
    page = Page()
    page.announces("one", "cloud.jpg", "b.jpg")
    page.tells("slow", lot="one", file=0)
    page.sends("one", 1, PHOTO)
    assert page.rows.ready
    page.sends("one", 0, OTHER)
    assert page.photos == [(64, 64), (96, 96)]


def test_that_a_file_is_slow_is_answered():
    page = Page()
    page.announces("one", "cloud.jpg")
    answer = {"event": "got", "lot": "one", "file": 0, "bytes": 0}
    assert page.tells("slow", lot="one", file=0) == page.tells("slow", lot="one", file=0) == answer


def test_a_name_that_is_no_text_is_shown_as_well_as_can_be():
    page = Page()
    page.announces("one", "old.jpg")
    page.announces("two", "a\ud800.jpg")
    page.sends("two", 0, PHOTO)
    assert page.photos == [(96, 96)]
    *_, column = page.rows.rows[0].children
    assert column.children[0].value == "a?.jpg"


def test_a_lot_that_cannot_have_rows_does_not_get_those_of_the_one_before(monkeypatch):
    page = Page()
    page.announces("one", "old.jpg")

    def fails(*_):
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(page.rows, "begin", fails)
        assert page.announces("two", "new.jpg") is None, "so that it is announced again"
    page.sends("two", 0, PHOTO)
    assert page.photos == [None]
    page.announces("two", "new.jpg")
    page.sends("two", 0, PHOTO)
    assert page.photos == [(96, 96)]


@pytest.mark.parametrize("classified", [True, False])
def test_of_the_lots_before_nothing_is_kept(classified):
    page = Page()

    def lot(name):
        page.announces(name, *["a.jpg"] * 3)
        for number in range(3):
            page.sends(name, number, PHOTO)
        for row in page.rows.waiting() if classified else ():
            row.say("Prediction: teddy", "<p>bars</p>")
        return weakref.ref(page.rows.rows[0])

    first = lot("one")
    widgets_of_one_lot = len(widgets.widget._instances)
    for name in ("two", "three"):
        lot(name)
    gc.collect()
    assert len(widgets.widget._instances) == widgets_of_one_lot
    assert first() is None


@pytest.mark.parametrize("size, sentence", [(0, "empty"), (MAX_BYTES + 1, "larger than 64 MB")])
def test_a_size_that_cannot_be_is_refused_before_anything_arrives(size, sentence):
    page = Page()
    page.announces("one", "a.jpg", size=size)
    assert sentence in page.says()
    assert page.sends("one", 0, PHOTO)["bytes"] == len(PHOTO), "nothing more is wanted of it"
    assert page.photos == [None]


def test_of_a_file_that_claims_to_be_larger_than_it_said_nothing_is_kept():
    page = Page()
    page.announces("one", "a.jpg")
    answer = page.tells("piece", PHOTO, lot="one", file=0, start=0, of=MAX_BYTES + 1)
    assert answer["bytes"] == MAX_BYTES + 1, "nothing more is wanted of it"
    assert "larger than 64 MB" in page.says()


def test_of_too_many_the_first_are_shown_and_it_says_so():
    page = Page()
    files = [{"name": "a.jpg", "size": 9}] * (MOST + 3)
    for count, said in ((MOST + 3, f"these {MOST + 3}"), (1001, "more than 1000")):
        page.tells("lot", lot=said, files=files, count=count)
        assert len(page.rows.rows) == MOST
        assert page.rows.children[1].value == f"Only the first {MOST} of {said} photos are shown."


def test_a_note_leaves_the_rows():
    page = Page()
    page.announces("one", "a.jpg")
    page.tells("note", note="address")
    assert page.rows.children[1].value == NOTES["address"] and len(page.rows.rows) == 1


def test_a_fault_of_ours_goes_to_the_log_and_the_next_photo_is_taken(capfd):
    def handler(content, row):
        assert content != OTHER, "a fault of ours"
        row.show(open_photo(content))

    page = Page(handler)
    page.announces("one", "a.jpg", "b.jpg")
    page.sends("one", 0, OTHER)
    page.sends("one", 1, PHOTO)
    assert page.says().startswith("Something went wrong here")
    assert page.photos == [None, (96, 96)]
    assert "a fault of ours" in capfd.readouterr().err


TEXT = st.text(st.characters(exclude_categories=[]))  # halves of surrogate pairs, too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NUMBERS = st.integers(-2, MAX_BYTES + 2) | st.integers(0, 3000) | JSON
MESSAGES = JSON | st.fixed_dictionaries(
    {"event": st.sampled_from(["lot", "piece", "failed", "slow", "note", "end"]) | JSON},
    optional={
        "lot": st.sampled_from(["one", "two"]) | JSON,
        "file": st.integers(-2, 3) | JSON,
        "start": NUMBERS,
        "of": NUMBERS,
        "count": NUMBERS,
        "note": st.sampled_from([*NOTES]) | JSON,
        "files": st.lists(st.fixed_dictionaries({"name": TEXT | JSON, "size": NUMBERS}), max_size=3) | JSON,
    },
)


@given(st.lists(st.tuples(MESSAGES, st.lists(st.binary(max_size=2000), max_size=2)), max_size=20))
def test_messages_of_any_kind_in_any_order_raise_nothing_and_the_page_goes_on(messages):
    page = Page()
    page.answers = []
    for message, buffers in messages:  # what `_receive` would write to the log is raised here
        page.uploads._understand(message, [memoryview(buffer) for buffer in buffers])
    assert len(page.rows.rows) <= 3
    page.announces("last", "a.jpg")
    page.sends("last", 0, PHOTO)
    assert page.photos == [(96, 96)]


def test_of_twenty_large_photos_only_small_pictures_are_kept():
    """A hundred MB in all, of which one file at a time is there."""
    large = PHOTO + bytes(5 * 2**20)  # what follows the end of a JPEG is ignored
    page = Page()
    page.announces("one", *["a.jpg"] * MOST, size=len(large))
    tracemalloc.start()
    for number in range(MOST):
        for start in range(0, len(large), 2**20):
            page.tells("piece", large[start : start + 2**20], lot="one", file=number, start=start, of=len(large))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page.photos == [(96, 96)] * MOST
    assert peak < 5 * len(large) and kept < len(large)


def test_nothing_of_a_file_that_is_never_complete_outlives_the_next_one():
    page = Page()
    page.announces("one", "a.jpg", "b.jpg", size=MAX_BYTES)
    tracemalloc.start()
    for number in [0, 1] * 20:
        page.tells("piece", bytes(2**20), lot="one", file=number, start=0, of=MAX_BYTES)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 * 2**20


# In a browser


def moving(size: int) -> bytes:
    """A GIF of that many bytes: it is sent as it is."""
    content = encode(draw_bear(200), "GIF", save_all=True, append_images=[draw_bear(200).rotate(9)])
    return content + bytes(size - len(content))


@pytest.fixture
def drops(visitor):
    """Drops files and folders of this computer onto the page, as a desktop does."""
    session = visitor.page.context.new_cdp_session(visitor.page)

    def drops(*paths, **data):
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1, **data}
        for type in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": type, "x": 300, "y": 300, "data": data})

    return drops


def test_a_file_that_is_gone_before_it_is_read_says_so_and_the_others_are_answered(visitor, tmp_path):
    large, gone, bear = (tmp_path / name for name in ("large.gif", "gone.jpg", "bear.jpg"))
    large.write_bytes(moving(20 * 2**20))
    for path in (gone, bear):
        path.write_bytes(file()["buffer"])
    visitor.chooses(large, gone, bear)
    gone.unlink()  # while the large one is on its way
    visitor.reads(UNREADABLE, 1)
    expect(visitor.classify).to_be_enabled()
    visitor.classify.click()
    visitor.reads(ANSWER, 2)
    visitor.uploads(file())
    visitor.reads(ANSWER)


def test_a_dropped_folder_gives_its_photos(visitor, drops, tmp_path, screenshot):
    (tmp_path / "trip" / "day 2").mkdir(parents=True)
    for name in ("2.jpg", "10.jpg", "day 2/no-type", ".hidden.jpg"):
        (tmp_path / "trip" / name).write_bytes(file()["buffer"])
    (tmp_path / "trip" / "film.mp4").write_bytes(b"no photo")
    drops(tmp_path / "trip")
    expect(visitor.rows.locator(".file")).to_have_text(["2.jpg", "10.jpg", "no-type"])
    expect(visitor.classify).to_be_enabled()
    visitor.classify.click()
    for number in range(3):
        visitor.reads(ANSWER, number)


def test_of_a_large_folder_twenty_are_taken_and_it_says_so(visitor, drops, tmp_path):
    for number in range(MOST + 5):
        (tmp_path / f"{number}.jpg").write_bytes(file()["buffer"])
    drops(tmp_path)
    expect(visitor.page.get_by_text(f"Only the first {MOST} of these {MOST + 5} photos are shown.")).to_be_visible()
    expect(visitor.rows).to_have_count(MOST)


def test_an_empty_folder_and_a_picture_of_another_page_get_a_sentence(visitor, drops, tmp_path):
    drops(tmp_path)
    expect(visitor.page.get_by_text(NOTES["empty"])).to_be_visible()
    link = {"mimeType": "text/uri-list", "data": "https://example.org/bear.jpg"}
    drops(items=[link])
    expect(visitor.page.get_by_text(NOTES["address"])).to_be_visible()
    expect(visitor.page.locator("body.dropping")).to_have_count(0)


def test_a_folder_that_takes_long_to_look_through_does_not_replace_what_came_after_it(visitor, drops, tmp_path):
    (tmp_path / "old.jpg").write_bytes(file()["buffer"])
    visitor.page.evaluate("""() => {
        const get = DataTransferItem.prototype.webkitGetAsEntry;
        DataTransferItem.prototype.webkitGetAsEntry = function () {
            const reader = get.call(this).createReader();
            const readEntries = (go, fail) =>
                reader.readEntries((some) => setTimeout(() => (window.read = true, go(some)), 3000), fail);
            return {name: "folder", isDirectory: true, createReader: () => ({readEntries})};
        };
        window.mend = () => void (DataTransferItem.prototype.webkitGetAsEntry = get);
    }""")
    drops(tmp_path)
    expect(visitor.page.get_by_text(NOTES["looking"])).to_be_visible()
    visitor.chooses(file(name="new.jpg"))
    expect(visitor.page.get_by_text(NOTES["looking"])).to_have_count(0)
    visitor.page.wait_for_function("window.read")
    time.sleep(4)  # until the folder has said that there are no more
    expect(visitor.rows.locator(".file")).to_have_text(["new.jpg"])
    visitor.page.evaluate("window.mend()")


def test_what_is_dragged_within_the_page_is_not_dropped_onto_it(visitor):
    visitor.uploads(file())
    visitor.reads(ANSWER)
    visitor.page.evaluate("""() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add("https://example.org/bear.jpg", "text/uri-list");
        const image = document.querySelector(".answer img");
        for (const type of ["dragstart", "dragover", "drop", "dragend"])
            image.dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
    }""")
    time.sleep(1)
    expect(visitor.page.get_by_text(NOTES["address"])).to_have_count(0)
    visitor.reads(ANSWER)


def test_what_moves_is_not_made_smaller_so_that_the_page_can_say_that_it_moves(browser, url):
    """A browser's canvas would make a still picture of it, and nobody would know."""
    frames = [Image.effect_noise((1200, 1200), 60 + frame).convert("RGB") for frame in range(2)]
    formats = ["GIF", "PNG", "WEBP", "AVIF"]
    contents = [encode(frames[0], format, save_all=True, append_images=frames[1:]) for format in formats]
    assert min(map(len, contents)) > 300_000, "smaller ones are sent as they are"
    visitor = Visitor(browser, url)
    names = [(f"moving.{format.lower()}", f"image/{format.lower()}") for format in formats]
    visitor.chooses(*(file(content, *name) for content, name in zip(contents, names, strict=True)))
    for number in range(len(formats)):
        expect(visitor.rows.nth(number)).to_contain_text("Moving; only its first picture counts.")
    visitor.leaves()


def test_where_there_is_no_classifier_a_dropped_photo_does_not_take_the_place_of_the_page(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "export.pkl").unlink()
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        expect(visitor.choose).to_be_disabled()
        prevented = visitor.page.evaluate("""() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["a"], "a.jpg", {type: "image/jpeg"}));
            return ["dragover", "drop"].map(type =>
                !document.body.dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true})));
        }""")
        assert prevented == [True, True]
        expect(visitor.page.locator("body.dropping")).to_have_count(0)
        expect(visitor.rows).to_have_count(0)
        visitor.leaves()


def test_progress_is_not_read_aloud_and_the_answer_is(browser, url):
    with Link(url) as link:
        visitor = Visitor(browser, link.url)
        link.rate = 150_000
        visitor.chooses(file(moving(600_000), "moving.gif", "image/gif"))
        expect(visitor.says()).to_have_attribute("aria-live", "off")
        link.rate = None
        expect(visitor.classify).to_be_enabled()
        expect(visitor.says()).to_have_attribute("aria-live", "polite")
        visitor.leaves()


def test_over_a_slow_connection_the_row_says_how_far_it_is_and_nothing_is_called_lost(browser, url):
    """Twice as long as the page waits before it asks whether its kernel is there."""
    with Link(url) as link:
        visitor = Visitor(browser, link.url)
        visitor.page.evaluate("""() => {
            window.seen = new Set();
            const look = () => document.querySelectorAll(".says, .gone").forEach((it) => seen.add(it.textContent));
            new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
        }""")
        link.rate = 150_000
        visitor.chooses(file(moving(4_500_000), "moving.gif", "image/gif"))
        expect(visitor.rows).to_have_count(1)
        expect(visitor.classify).to_be_enabled(timeout=120_000)
        visitor.classify.click()
        visitor.reads(ANSWER)
        seen = visitor.page.evaluate("[...seen]")
        shares = {int(share) for text in seen for share in re.findall(r"On its way … (\d+)%", text)}
        assert len(shares) > 20
        assert not [text for text in seen if "lost" in text]
        visitor.leaves()


def test_an_upload_goes_on_where_its_connection_broke(browser, url):
    with Link(url) as link:
        visitor = Visitor(browser, link.url)
        link.rate = 1_000_000
        visitor.chooses(file(moving(5_000_000), "moving.gif", "image/gif"))
        expect(visitor.says()).to_contain_text(re.compile(r"[2-5]\d%"))
        link.breaks()
        link.mends()
        expect(visitor.classify).to_be_enabled(timeout=60_000)
        visitor.classify.click()
        visitor.reads(ANSWER)
        visitor.leaves()
