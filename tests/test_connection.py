"""frontend/connection.js: a page that has lost its kernel says so, and one that has not says nothing."""

import shutil
import time

import psutil
import pytest
from browsing import ANSWER, Link, Visitor, file, serve
from playwright.sync_api import expect

GONE = "This page has lost its connection to the server."
TRYING = f"{GONE} It goes on trying, and what is on it stays."
ENDED = f"{GONE} What is on it stays, but it cannot classify any more."


@pytest.fixture
def link(url):
    with Link(url) as link:
        yield link


@pytest.fixture
def remote(browser, link):
    """Somebody whose connection to the page is the link."""
    visitor = Visitor(browser, link.url)
    yield visitor
    visitor.leaves()


def test_two_seconds_without_a_connection_are_not_worth_a_word(remote, link):
    alert = remote.page.get_by_role("alert")
    link.breaks()
    remote.page.evaluate("window.dispatchEvent(new Event('online'))")  # whatever the system says
    time.sleep(2)
    link.mends()
    for _ in range(80):
        time.sleep(0.1)
        assert alert.count() == 0
    remote.uploads(file())
    remote.reads(ANSWER)


def test_a_longer_interruption_is_said_until_it_is_over(remote, link, screenshot):
    alert = remote.page.get_by_role("alert")
    link.breaks()
    expect(alert).to_contain_text(TRYING)
    screenshot(remote)
    link.mends()
    remote.page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(alert).to_have_count(0)
    remote.uploads(file())
    remote.reads(ANSWER)


def test_a_connection_that_is_open_and_dead_is_noticed(remote, link):
    """As behind a router that has forgotten it: nothing arrives, and nobody says so."""
    alert = remote.page.get_by_role("alert")
    link.held = True
    remote.page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(alert).to_contain_text(TRYING)
    link.held = False
    expect(alert).to_have_count(0)
    remote.uploads(file())
    remote.reads(ANSWER)


def test_a_kernel_that_has_much_to_do_is_not_called_lost(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with open(folder / "bears" / "classifier.py", "a") as module:
        module.write("\nimport time\nquick = Classifier.classify\n")
        module.write("Classifier.classify = lambda self, photo: (time.sleep(8), quick(self, photo))[1]\n")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        visitor.page.evaluate("""() => {
            new MutationObserver(() => (window.seen ||= document.querySelector(".gone")))
                .observe(document.body, {childList: true});
        }""")
        visitor.uploads(file())
        visitor.reads(ANSWER)
        assert visitor.page.evaluate("window.seen") is None
        visitor.leaves()


@pytest.mark.parametrize("how", ["refused", "opened, and nothing passes"])
def test_where_websockets_are_blocked_the_page_says_so_and_goes_on_trying(browser, link, screenshot, how):
    link.websockets, link.mute = how != "refused", how != "refused"
    page = browser.new_page()
    page.goto(link.url)
    expect(page.get_by_role("status")).to_contain_text("holds back what this page needs", timeout=20_000)
    screenshot(page)
    link.websockets, link.mute = True, False
    expect(page.locator(".choose")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("status")).to_be_hidden()
    page.close()


def test_what_a_proxy_does_not_find_for_a_moment_is_not_the_end(remote, link):
    address = f"**/api/kernels/{remote.kernel}"
    remote.page.route(address, lambda route: route.fulfill(status=404, body="404 page not found"))
    link.breaks()
    expect(remote.page.get_by_role("alert")).to_contain_text(TRYING)
    remote.page.unroute(address)
    link.mends()
    expect(remote.page.get_by_role("alert")).to_have_count(0)


def test_when_the_kernel_has_ended_the_page_says_so_and_offers_to_reload(newcomer, screenshot):
    visitor = newcomer
    visitor.loses_its_kernel()
    expect(visitor.page.get_by_role("alert")).to_contain_text(ENDED)
    screenshot(visitor)
    visitor.page.get_by_role("button", name="Reload").click()
    expect(visitor.page.get_by_role("alert")).to_have_count(0)
    visitor.uploads(file())
    visitor.reads(ANSWER)


def test_a_page_is_not_reloaded_before_its_server_is_back(remote, link):
    page = remote.page
    address = f"**/api/kernels/{remote.kernel}"
    page.route(address, lambda route: route.fulfill(status=502))  # as a proxy would say
    link.breaks()
    expect(page.get_by_role("alert")).to_contain_text(GONE)
    page.get_by_role("button", name="Reload").click()
    waiting = page.get_by_role("button", name="Waiting for the server")
    expect(waiting).to_be_disabled()
    time.sleep(3)
    expect(waiting).to_be_disabled()
    link.mends()
    page.unroute(address)
    expect(page.get_by_role("alert")).to_have_count(0)
    remote.uploads(file())
    remote.reads(ANSWER)


def test_after_half_a_minute_a_page_can_be_reloaded_without_its_server(remote, link):
    page = remote.page
    link.breaks()
    expect(page.get_by_role("alert")).to_contain_text(GONE)
    page.route(f"**/api/kernels/{remote.kernel}", lambda route: None)  # neither an answer nor an error, as in a tunnel
    page.clock.install()
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("button", name="Waiting for the server")).to_be_disabled()
    page.clock.fast_forward(31_000)
    link.mends()
    page.get_by_role("button", name="Reload anyway").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_when_the_server_ends_the_page_says_so(browser, project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
    expect(visitor.page.get_by_role("alert")).to_contain_text(GONE)
    visitor.page.context.close()


def test_when_the_kernel_is_killed_and_started_anew_the_page_says_so(browser, project, tmp_path):
    """The new one knows nothing of this page."""
    folder = shutil.copytree(project, tmp_path / "project")
    with serve(folder) as url:
        visitor = Visitor(browser, url)
        (server,) = [process for process in psutil.process_iter(["cwd", "name", "cmdline"])
                     if process.info["cwd"] == str(folder) and "voila" in process.info["cmdline"]]  # fmt: skip
        kernels = [process for process in server.children(recursive=True) if process.name() == "jupyter-kernel"]
        for kernel in kernels:  # and the one that was preheated for the next visitor
            kernel.kill()
        expect(visitor.page.get_by_role("alert")).to_contain_text(ENDED)
        visitor.page.context.close()
