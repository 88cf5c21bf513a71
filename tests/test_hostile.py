"""What a hostile visitor may try: nothing is given away, nothing runs, and nobody else's page suffers."""

import asyncio
import http.client
import re
import shutil
import socket
import uuid
from contextlib import ExitStack, contextmanager
from itertools import product
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
import requests
from browsing import ANSWER, serve
from conftest import draw_bear, encode
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClosedError, websocket_connect
from visitors import PROTOCOL, classify_voila, open_voila, visit_voila

BEAR = encode(draw_bear(), "JPEG")
MEMORY = 400  # MB that any of these may take of the server, however long it goes on

# Addresses

PLACES = [
    "/voila/templates/",
    "/voila/templates/bears/",
    "/voila/templates/bears/static/",
    "/voila/static/",
    "/voila/files/",
    "/voila/labextensions/",
    "/voila/api/themes/",
    "/voila/query/",
    "/api/kernels/",
    "/",
]
ODD = [
    "..",
    "%2e%2e/conf.json",
    "../conf.json",
    "..%2fconf.json",
    "%2e%2e%2f%2e%2e%2fvoila.json",
    "%252e%252e/conf.json",
    "..%252fconf.json",
    "..\\..\\voila.json",
    "%2e%2e/" * 9 + "etc/passwd",
    "%2fetc%2fpasswd",
    "..%5cconf.json",
    "static/",
    "static/frontend.css/x",
    "frontend.css%00",
    "%00",
    "%ff%fe",
    "%zz",
    "%0d%0aX:%20y",
    "~root/",
    "missing",
    "x" * 300,
    "x" * 5000,
    "x%2f" * 1000,
    "%F0%9F%90%BB",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("place", PLACES)
def test_an_odd_address_is_not_found(url, place, method):
    """Asked for as it is: requests and browsers would tidy it first."""
    for odd in ODD:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request(method, place + odd)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert 300 <= answer.status < 500, (place + odd, answer.status)
        assert not [word for word in (b'"base_template"', b"root:", b"Traceback") if word in content], place + odd


@pytest.mark.parametrize("name, value", product(["template", "theme"], ["missing", "..%2f..", "%00"]))
def test_a_visitor_cannot_ask_for_another_look(url, name, value):
    """Voilà would otherwise look for a template that is not there, and never answer."""
    page = requests.get(f"{url}?{name}={value}", timeout=120)
    assert page.status_code == 200 and 'id="rendered_cells"' in page.text and "light-dark(" in page.text


def test_what_the_page_needs_is_found(url):
    script = requests.get(f"{url}voila/templates/bears/static/frontend.js.gz", timeout=60)
    assert script.status_code == 200 and script.content.startswith(b"\x1f\x8b")
    assert requests.head(f"{url}voila/templates/bears/static/frontend.css", timeout=60).status_code == 200


@pytest.mark.parametrize("path", ["training.ipynb", "voila/render/training.ipynb", "app.ipynb", "export.pkl", "tree"])
def test_other_notebooks_and_files_are_not_given_away(url, path):
    assert requests.get(f"{url}{path}", timeout=60).status_code in (403, 404)


def test_where_the_page_fails_a_visitor_sees_none_of_its_insides(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    notebook = nbformat.read(folder / "app.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("secret = 'honey'; 1 / 0"))
    nbformat.write(notebook, folder / "app.ipynb")
    with serve(folder, "--VoilaConfiguration.preheat_kernel=False") as url:
        page = requests.get(url, timeout=60).text
    assert 'id="rendered_cells"' in page
    assert not [word for word in ("honey", "ZeroDivisionError", "Traceback", str(folder)) if word in page]


# Kernels


JUPYTERS = {
    "shell": [
        *("execute_request", "inspect_request", "complete_request", "history_request", "is_complete_request"),
        *("connect_request", "input_request", "create_subshell_request", "usage_request"),
    ],
    "control": ["interrupt_request", "debug_request", "create_subshell_request", "list_subshell_request"],
    "stdin": ["input_reply"],
}


def test_no_message_runs_code(url, project):
    """Of Jupyter's messages, those of widgets pass, and who is there; the worst that could happen is another one."""
    owned = project / "owned"
    code = f"open({str(owned)!r}, 'w')"
    content = {
        "code": code, "silent": False, "store_history": True, "user_expressions": {"x": code}, "allow_stdin": True,
        "stop_on_error": False, "cursor_pos": 1, "detail_level": 0, "hist_access_type": "tail", "n": 1, "value": code,
        "command": "evaluate", "arguments": {"expression": code}, "type": "request", "seq": 1,
    }  # fmt: skip

    async def try_all():
        kernel = await open_voila(url)
        sent = {}
        for channel, kinds in JUPYTERS.items():
            for kind in kinds:
                sent[await kernel.send(kind, content, channel=channel)] = kind
        last = await kernel.send("kernel_info_request", {})
        answered, kind = set(), None
        while kind != "kernel_info_reply":
            kind, _, parent = await kernel.receive_with_parent()
            answered.add(parent.get("msg_id"))
        answer = await classify_voila(kernel, BEAR)
        await kernel.close()
        return {kind for message, kind in sent.items() if message in answered}, last in answered, answer

    answered, is_there, answer = asyncio.run(try_all())
    assert not answered and is_there and re.match(ANSWER, answer)
    assert not owned.exists()


def test_another_origin_gets_no_connection(url):
    async def connect():
        kernel = await open_voila(url)
        address = url.replace("http", "ws", 1) + f"api/kernels/{kernel.id}/channels"
        request = HTTPRequest(address, headers={"Origin": "https://evil.example"})
        with pytest.raises(HTTPClientError, match="403"):
            await websocket_connect(request, subprotocols=[PROTOCOL])
        post = requests.post(
            f"{url}voila/api/shutdown/{kernel.id}", headers={"Origin": "https://evil.example"}, timeout=60
        )
        answer = await classify_voila(kernel, BEAR)
        await kernel.close()
        return post.status_code, answer

    status, answer = asyncio.run(connect())
    assert status in (403, 404) and re.match(ANSWER, answer)


@pytest.mark.parametrize("stranger", [{}, {"visitor": "x" * 22}], ids=["without a cookie", "with one of their own"])
def test_a_kernel_is_only_for_who_got_it(url, stranger):
    """Even if its address has been seen, in a proxy's log for example."""
    mine = requests.Session()
    kernel = re.search(r'"kernelId": ?"([^"]+)"', mine.get(url, timeout=60).text)[1]
    (cookie,) = [cookie for cookie in mine.cookies if cookie.name == "visitor"]
    assert cookie.has_nonstandard_attr("HttpOnly") and len(cookie.value) > 20
    api, leaving = f"{url}api/kernels/{kernel}", f"{url}voila/api/shutdown/{kernel}"

    async def connect(cookies):
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        request = HTTPRequest(f"{api.replace('http', 'ws', 1)}/channels", headers=headers)
        connection = await websocket_connect(request, subprotocols=[PROTOCOL])
        connection.close()
        while await connection.read_message() is not None:
            pass

    asyncio.run(connect(dict(mine.cookies)))
    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(connect(stranger))
    assert requests.get(api, cookies=stranger, timeout=60).status_code == 403
    assert requests.delete(api, cookies=stranger, timeout=60).status_code == 403
    assert requests.post(leaving, cookies=stranger, timeout=60).status_code == 403
    asyncio.run(connect(dict(mine.cookies)))
    assert mine.get(api, timeout=60).status_code == 200
    assert mine.post(leaving, timeout=60).status_code == 204


@pytest.mark.parametrize("kernel", ["00000000-0000-4000-8000-000000000000", "../kernels", "x"])
def test_a_kernel_that_is_not_there_is_not_found(url, kernel):
    assert requests.get(f"{url}api/kernels/{kernel}", timeout=60).status_code in (403, 404)
    assert requests.post(f"{url}voila/api/shutdown/{kernel}", timeout=60).status_code in (403, 404, 405)


def test_the_list_of_kernels_is_nobodys(url):
    assert requests.get(f"{url}api/kernels", timeout=60).status_code in (403, 404)
    assert requests.post(f"{url}api/kernels", timeout=60).status_code in (403, 404, 405)
    assert requests.get(f"{url}api/sessions", timeout=60).status_code in (403, 404)


# Load. While it lasts, another visitor is inside and a new one comes


async def many_small_messages(kernel):
    for _ in range(10_000):  # as well as 100,000, which take half a minute
        await kernel.send("comm_msg", {"comm_id": "nobody", "data": {"method": "custom", "content": {}}})


async def a_message_of_90_megabytes(kernel):
    await kernel.send("comm_msg", {"comm_id": "nobody", "data": {}}, buffers=[bytes(90_000_000)])
    await kernel.widgets()


async def a_message_that_is_too_large(kernel):
    with pytest.raises((ConnectionError, WebSocketClosedError)):
        await kernel.send("comm_msg", {"comm_id": "nobody", "data": {}}, buffers=[bytes(129 * 2**20)])
        await kernel.receive()
        await kernel.receive()


async def messages_that_are_none(kernel):
    for message in b"", b"x" * 1000, b"\xff" * 8 + bytes(100), b"{", b"[]", b'{"header": 1}':
        await kernel.connection.write_message(message, binary=True)
        await kernel.connection.write_message(message.decode("latin-1"))


async def messages_to_widgets_of_another_shape(kernel):
    widgets = await kernel.widgets()
    for id in widgets:
        for data in (
            {"method": "update", "state": {"children": ["IPY_MODEL_nobody"], "value": {"a": [1]}, "layout": None}},
            {"method": "update", "state": {"value": "x" * 1_000_000}, "buffer_paths": [["value", 9, "content"]]},
            {"method": "custom", "content": {"event": "piece", "lot": [], "file": -1, "start": 1e99, "of": "x"}},
            {"method": "request_state"}, {"method": "nothing"}, [], "text", None,
        ):  # fmt: skip
            await kernel.send("comm_msg", {"comm_id": id, "data": data})
    for comm in "jupyter.widget", "jupyter.widget.control", "nobody":
        await kernel.send("comm_open", {"comm_id": comm, "target_name": comm, "data": {"state": {"_model_name": "x"}}})


async def everything_asked_for_and_nothing_read(kernel):
    control = uuid.uuid4().hex
    opening = {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}}
    await kernel.send("comm_open", opening, {"version": "1.0.0"})
    for _ in range(2000):
        await kernel.send("comm_msg", {"comm_id": control, "data": {"method": "request_states"}})


@pytest.mark.parametrize(
    "attack",
    [
        many_small_messages,
        a_message_of_90_megabytes,
        a_message_that_is_too_large,
        messages_that_are_none,
        messages_to_widgets_of_another_shape,
        everything_asked_for_and_nothing_read,
    ],
    ids=lambda attack: attack.__name__,
)
def test_what_a_page_may_be_sent_hurts_nobody_else(url, project, attack):
    async def all_at_once():
        attacker, guest = await open_voila(url), await open_voila(url)
        attacking = asyncio.create_task(attack(attacker))
        answers = [await classify_voila(guest, BEAR), await visit_voila(url, BEAR)]
        await attacking
        answers.append(await classify_voila(guest, BEAR))
        await guest.close()
        await attacker.close()
        return answers

    with bounded(project):
        assert all(re.match(ANSWER, answer) for answer in asyncio.run(all_at_once()))


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 2**20,
        b"POST /voila/api/shutdown/x HTTP/1.1\r\nHost: here\r\nContent-Length: 90000000\r\n\r\n" + bytes(2**22),
        b"GET /voila/templates/bears/static/frontend.js.gz HTTP/1.1\r\nHost: here\r\n\r\n" * 50,
    ],
    ids=["nothing", "half a line", "a megabyte of headers", "a large body", "what is never read"],
)
def test_connections_that_do_not_get_on_hurt_nobody(url, project, beginning):
    address = urlsplit(url)
    with bounded(project), ExitStack() as connections:
        for _ in range(100):
            connection = connections.enter_context(socket.create_connection((address.hostname, address.port)))
            connection.setblocking(False)
            try:
                connection.send(beginning)
            except OSError:  # it is not taken, which is right
                pass
        assert re.match(ANSWER, asyncio.run(visit_voila(url, BEAR)))


@contextmanager
def bounded(project):
    """The server itself takes no more than so much memory for it."""
    (server,) = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(project) and "voila" in (process.info["cmdline"] or [])
    ]
    before = server.memory_info().rss
    yield
    assert server.memory_info().rss < before + MEMORY * 1e6
