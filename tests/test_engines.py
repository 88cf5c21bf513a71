"""A visit in the other engines: Firefox, and WebKitGTK, which is the nearest to Safari that there is for Linux.

All other files use Chromium, by Playwright. It drives no WebKit but its own build, and no Firefox as old as Debian's
(its channel "moz-firefox" asks for what version 153 does not know). So here it is Selenium.
"""

import contextlib
import functools
import json
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from browsing import ANSWER, STRANGER, needs, running
from conftest import ROOT, draw_bear, encode
from machine import free_port
from PIL import Image
from selenium.webdriver import FirefoxOptions, WebKitGTKOptions
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.file_detector import UselessFileDetector
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from test_page import TEMPLE, TRANSFER

from bears.classifier import Classifier

PHOTO = encode(draw_bear(), "JPEG")

# The engines


class Marionette:
    """Firefox's own protocol, WebDriver's commands as JSON: in place of geckodriver, which is to be had on GitHub only.

    https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html
    """

    NAMES = {  # where it is not what Selenium calls the command
        "clickElement": "ElementClick",
        "close": "CloseWindow",
        "get": "Navigate",
        "quit": "DeleteSession",
        "screenshot": "TakeScreenshot",
        "sendKeysToElement": "ElementSendKeys",
        "w3cExecuteScript": "ExecuteScript",
        "w3cGetCurrentWindowHandle": "GetWindowHandle",
    }

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.stream = self.socket.makefile("rb")
        self._receive()  # its greeting

    def _receive(self):
        length = b"".join(iter(lambda: self.stream.read(1), b":"))
        return json.loads(self.stream.read(int(length)))

    def execute(self, command: str, parameters: dict) -> dict:
        """What Selenium's `RemoteConnection` would give back."""
        name = self.NAMES.get(command, command[0].upper() + command[1:])
        if name == "NewSession":
            parameters = parameters["capabilities"]["alwaysMatch"]
        message = json.dumps([0, 1, f"WebDriver:{name}", parameters]).encode()
        self.socket.sendall(b"%d:%b" % (len(message), message))
        _, _, error, value = self._receive()
        if error:
            return {"status": 500, "value": json.dumps({"value": error})}
        return {"value": value["value"] if isinstance(value, dict) and [*value] == ["value"] else value}

    def close(self):
        self.stream.close()
        self.socket.close()


@contextlib.contextmanager
def firefox(folder: Path):
    path = needs("Firefox: apt-get install firefox-esr", shutil.which("firefox-esr") or shutil.which("firefox"))
    port = free_port()
    (folder / "user.js").write_text(f'user_pref("marionette.port", {port});')
    command = [path, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    with running(command, folder, port, HOME=str(folder)), contextlib.closing(Marionette(port)) as marionette:
        yield marionette, FirefoxOptions()


@contextlib.contextmanager
def webkit(folder: Path):
    path = needs("WebKitGTK: apt-get install webkit2gtk-driver", shutil.which("WebKitWebDriver"))
    xvfb = needs("a screen: apt-get install xvfb", shutil.which("Xvfb"))
    port, options = free_port(), WebKitGTKOptions()
    options.add_argument("--automation")
    command = [xvfb, "-displayfd", "1", "-screen", "0", "1280x1024x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as screen:
        try:
            display = f":{screen.stdout.readline().strip()}"
            places = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "DISPLAY": display, "GDK_BACKEND": "x11"}
            with running([path, f"--port={port}"], folder, port, **places):
                yield f"http://127.0.0.1:{port}", options
        finally:
            screen.terminate()


@pytest.fixture(scope="module", params=[firefox, webkit], ids=lambda engine: engine.__name__)
def engine(request):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with request.param(Path(folder)) as (at, options):
            options.page_load_strategy = "eager"  # so that a visitor hears of errors from early on
            with WebDriver(at, options=options, file_detector=UselessFileDetector()) as driver:
                yield driver


# Its visitors


class Visitor:
    """Somebody with the page open, in a window of their own."""

    def __init__(self, driver: WebDriver, url: str):
        self.driver = driver
        self.first = self.driver.current_window_handle
        self.driver.switch_to.new_window("window")
        self.window = self.driver.current_window_handle
        self.driver.get(url)
        self.run("""
            window.errors = [];
            addEventListener("error", (event) => errors.push(event.message));
            addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
        """)
        self.until("return document.querySelector('.choose')")

    def run(self, script: str, *values):
        self.driver.switch_to.window(self.window)
        return self.driver.execute_script(script, *values)

    def until(self, script: str, *values):
        """What the script returns, as soon as it is anything."""
        return WebDriverWait(self.driver, 120, 0.1).until(lambda _: self.run(script, *values), script)

    def clicks(self, selector: str):
        self.until("return !document.querySelector(arguments[0]).disabled", selector)
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def chooses(self, *files: Path):
        """With the page's own chooser, caught as it is to open: no engine's driver can use one outside the document."""
        self.run("""
            document.querySelectorAll(".answer").forEach((row) => (row.dataset.old = "true"));
            window.chooser = null;
            HTMLInputElement.prototype.click = function () {
                if (!navigator.userActivation.isActive) return; // nor would a chooser open
                this.hidden = true;
                document.body.append(window.chooser = this);
            };
        """)
        self.clicks(".choose")
        self.until("return window.chooser").send_keys("\n".join(map(str, files)))
        self.until("return document.querySelectorAll('.answer:not([data-old])').length === arguments[0]", len(files))

    def sees(self, name: str) -> list[int]:
        """Width and height of a photo's thumbnail."""
        return self.until(
            "const image = document.querySelector(`.answer img[alt='${arguments[0]}']`);"
            "return image?.naturalWidth && [image.naturalWidth, image.naturalHeight]",
            name,
        )

    def reads(self, sentence: re.Pattern) -> tuple[str, ...]:
        """The groups of it, once it stands beside the photo."""
        said = self.until(
            "const said = document.querySelector('.answer .says')?.innerText ?? '';"
            "return new RegExp(arguments[0]).test(said) && said",
            sentence.pattern,
        )
        return sentence.match(said).groups()

    def screenshot(self, path: Path):
        self.driver.switch_to.window(self.window)
        self.driver.save_screenshot(str(path))

    def leaves(self):
        errors = self.run("return errors")
        self.driver.close()
        self.driver.switch_to.window(self.first)
        assert errors == []


@pytest.fixture
def visits(engine, url):
    """Opens the page for one visitor more."""
    with contextlib.ExitStack() as stack:

        def visit():
            visitor = Visitor(engine, url)
            stack.callback(visitor.leaves)
            return visitor

        yield visit


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "bear.jpg"
    path.write_bytes(PHOTO)
    return path


@functools.cache
def expected(content: bytes) -> tuple[str, str]:
    answer = Classifier.load(ROOT / "export.pkl").classify(content)
    return answer.label, f"{answer.probability:.4f}"


def test_a_photo_is_chosen_shown_and_classified(visits, photo, screenshot):
    visitor = visits()
    visitor.chooses(photo)
    visitor.sees("bear.jpg")
    visitor.clicks(".classify")
    assert visitor.reads(ANSWER) == expected(PHOTO)
    screenshot(visitor)


def test_a_photo_can_be_dropped(visits):
    visitor = visits()
    visitor.run(f"({TRANSFER})(arguments[0]); hand('over'); hand('drop')", [[*PHOTO], "dropped.jpg", "image/jpeg"])
    visitor.sees("dropped.jpg")
    visitor.clicks(".classify")
    assert visitor.reads(ANSWER) == expected(PHOTO)


def test_what_is_not_a_photo_gets_a_sentence_and_the_page_goes_on(visits, photo, tmp_path):
    visitor = visits()
    (tmp_path / "notes.txt").write_text("This is not a bear.")
    visitor.chooses(tmp_path / "notes.txt")
    visitor.reads(re.compile("^This file is not a picture I can read"))
    visitor.chooses(photo)
    visitor.clicks(".classify")
    visitor.reads(ANSWER)


def test_a_large_photo_is_made_smaller_before_it_is_sent_and_arrives_upright(visits, tmp_path):
    turned, exif = draw_bear(2400).crop((0, 0, 2400, 1600)).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    large = encode(turned, "JPEG", exif=exif, quality=100)
    (tmp_path / "large.jpg").write_bytes(large)
    visitor = visits()
    visitor.run("""
        window.sent = 0;
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) {
            window.sent += data.byteLength ?? data.length;
            send.call(this, data);
        };
    """)
    visitor.chooses(tmp_path / "large.jpg")
    width, height = visitor.sees("large.jpg")
    assert width > 1.4 * height
    assert len(PHOTO) / 2 < visitor.run("return window.sent") < len(large) / 2


def test_two_windows_answer_each_their_own_photo(visits, photo, tmp_path):
    (tmp_path / "temple.jpg").write_bytes(TEMPLE)
    one, other = visits(), visits()
    one.chooses(photo)
    other.chooses(tmp_path / "temple.jpg")
    one.clicks(".classify")
    other.clicks(".classify")
    assert one.reads(ANSWER) == expected(PHOTO)
    assert other.reads(STRANGER) == expected(TEMPLE)[:1]
