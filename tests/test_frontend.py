"""frontend/: the script of the page shows what any notebook may hold, not this one's widgets alone."""

import nbformat
import pytest
from browsing import serve
from playwright.sync_api import expect

CELLS = [
    "# Some *text*",
    """
import ipywidgets as widgets
import traitlets
from IPython.display import HTML, SVG, Image, Markdown, clear_output, display

print("printed <b>")
display(HTML("<p id='html'>HTML <em>is</em> <script>document.title = 'run'</script>HTML</p>"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' id='svg' width='30' height='30'/>"))
display(Image(bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")))
display(Markdown("*marked*"))
1 + 1
""",
    """
slider, echo, button, output = widgets.IntSlider(3), widgets.Label(), widgets.Button(description="Go"), widgets.Output()
widgets.jslink((slider, "value"), (echo, "value"))
with output:
    print("before")


@button.on_click
def go(button):
    with output:
        clear_output()
        print("\\x1b[31mafter\\x1b[0m")
        display(widgets.Label("within"), HTML("<i id='rich'>rich</i>"))
        button.no_such_attribute


widgets.Tab([widgets.VBox([slider, echo, button, output]), widgets.Text("hidden")], titles=["first", "second"])
""",
    """
class Map(widgets.DOMWidget):
    _view_name = traitlets.Unicode("MapView").tag(sync=True)
    _model_name = traitlets.Unicode("MapModel").tag(sync=True)
    _view_module = traitlets.Unicode("leaflet").tag(sync=True)
    _model_module = traitlets.Unicode("leaflet").tag(sync=True)


Map()
""",
    "More text, at the *end*",
]


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A notebook with a bit of everything, in ordinary kernels."""
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernelspec, "title": "Bits & <pieces>"})
    for source in CELLS:
        new = nbformat.v4.new_code_cell if "\n" in source else nbformat.v4.new_markdown_cell
        notebook.cells.append(new(source))
    folder = tmp_path_factory.mktemp("bits")
    nbformat.write(notebook, folder / "app.ipynb")
    kernels = "--VoilaConfiguration.multi_kernel_manager_class=bears.serving.kernels.VisitorKernelManager"
    with serve(folder, "--template=bears", kernels, "--Voila.tornado_settings={'disable_check_xsrf': True}") as url:
        page = browser.new_context().new_page()
        page.goto(url)
        expect(page.locator("#loading")).to_be_hidden()
        yield page
        page.context.close()


def test_text_stands_where_it_stood(page):
    text = page.locator("main").inner_text()
    assert page.locator("h1 em").inner_text() == "text"
    assert text.index("Some") < text.index("printed") < text.index("first") < text.index("More text")


def test_outputs_are_shown_as_the_richest_that_they_offer(page):
    expect(page.get_by_text("printed <b>")).to_be_visible()
    expect(page.locator("#html em")).to_have_text("is")
    assert page.title() == "run", "scripts in HTML run, as in a notebook"
    expect(page.locator("svg#svg")).to_be_visible()
    assert page.locator("main img").first.evaluate("image => image.naturalWidth") == 1
    expect(page.get_by_text("*marked*")).to_be_visible()
    expect(page.get_by_text("2", exact=True)).to_be_visible()


def test_widgets_of_ipywidgets_are_shown_and_linked(page):
    expect(page.get_by_role("tab")).to_have_text(["first", "second"])
    page.get_by_role("slider").press("ArrowRight")
    expect(page.locator(".widget-label", has_text="4").last).to_be_visible()
    page.get_by_text("second").click()
    expect(page.locator("input[type=text]")).to_have_value("hidden")
    page.get_by_text("first").click()


def test_an_output_widget_shows_what_is_printed_and_displayed_in_it(page):
    output = page.locator(".widget-output")
    expect(output).to_have_text("before\n")
    page.get_by_role("button", name="Go").click()
    expect(output.locator("pre").first).to_have_text("after\n")
    expect(output.locator("#rich")).to_be_visible()
    expect(output.locator(".widget-label")).to_have_text("within")
    expect(output).to_contain_text("no_such_attribute")


def test_a_widget_that_it_does_not_know_takes_no_other_with_it(page):
    failed = page.locator(".jupyter-widgets-error-widget")
    expect(failed).to_have_count(1)
    failed.click()
    expect(failed).to_contain_text("This page cannot show leaflet")


@pytest.mark.parametrize("broken", ["delete window.DecompressionStream", "delete window.WebSocket"])
def test_a_browser_that_is_too_old_is_told_so(browser, url, broken):
    page = browser.new_context().new_page()
    page.add_init_script(broken)
    page.goto(url)
    expect(page.get_by_role("status")).to_contain_text("This browser is too old for this page.")
    expect(page.locator("h1")).to_be_visible()
    page.context.close()


def test_a_page_whose_script_does_not_arrive_says_so(browser, url):
    page = browser.new_context().new_page()
    page.route("**/frontend.js.gz*", lambda route: route.abort())
    page.goto(url)
    expect(page.get_by_role("status")).to_have_text("This page could not be started. Please reload it.")
    page.context.close()


def test_without_javascript_the_page_says_that_it_needs_it(browser, url):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(url)
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator("noscript p")).to_contain_text("This page needs JavaScript")
    expect(page.locator("#loading")).to_be_hidden()
    page.context.close()


def test_a_page_whose_kernel_has_ended_says_so(browser, url):
    """As when a browser shows yesterday's tabs again."""
    page = browser.new_context().new_page()
    page.route("**/api/kernels/*/channels*", lambda route: route.abort())
    page.route("**/api/kernels/*", lambda route: route.fulfill(status=404, json={"message": "Kernel does not exist"}))
    page.route_web_socket("**/channels*", lambda socket: socket.close())
    page.goto(url)
    expect(page.get_by_role("status")).to_have_text("This page could not be started. Please reload it.")
    page.context.close()


def test_a_proxy_without_a_server_behind_it_is_not_asked_a_hundred_times_a_second(browser, url):
    """jupyter-server-proxy accepts connections to a server that has ended, and closes them."""
    page = browser.new_context().new_page()
    opened = []

    def proxy(socket):
        opened.append(socket)
        if len(opened) == 1:
            socket.connect_to_server()
        else:
            socket.on_message(lambda message: socket.close(code=1011))

    page.route_web_socket("**/channels*", proxy)
    page.goto(url)
    expect(page.locator("#loading")).to_be_hidden()
    page.route("**/api/kernels/*", lambda route: route.fulfill(status=502))
    opened[0].close(code=1011)
    page.wait_for_timeout(3000)
    assert len(opened) == 2
    page.route("**/api/kernels/*", lambda route: route.fulfill(status=404, json={"message": "Kernel does not exist"}))
    page.wait_for_timeout(9000)
    assert len(opened) in (2, 3), "it goes on until the kernel is known to have ended"
    expect(page.locator(".choose")).to_be_visible()
    page.context.close()
