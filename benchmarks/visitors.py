"""Visitors without a browser: what a page's script would say to its server, for the benchmark and for tests."""

import asyncio
import contextlib
import json
import re
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

PROTOCOL = "v1.kernel.websocket.jupyter.org"
SENTENCE = re.compile(r"(Prediction: |This (does not look like anything|file|picture|is a camera)|Something)[^\"]*")


class Kernel:
    """The kernel of one page, over the websocket that its script would open."""

    def __init__(self, connection, url: str, kernel_id: str):
        self.connection, self.id, self.session = connection, kernel_id, uuid.uuid4().hex
        self._leaving = f"{url}voila/api/shutdown/{kernel_id}"  # to which a page says that it is closed

    @classmethod
    async def connect(cls, url: str, kernel_id: str) -> "Kernel":
        address = url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
        request = HTTPRequest(address, request_timeout=300, connect_timeout=300)
        connection = await websocket_connect(request, subprotocols=[PROTOCOL], max_message_size=2**28)
        return cls(connection, url, kernel_id)

    async def close(self) -> None:
        """Leave, as a page does that is closed."""
        with contextlib.closing(AsyncHTTPClient(force_instance=True)) as http:
            await http.fetch(self._leaving, method="POST", body=b"", raise_error=False, request_timeout=300)
        await self.disconnect()

    async def disconnect(self) -> None:
        """Be gone without a word, as a page whose network is."""
        self.connection.close()
        while await self.connection.read_message() is not None:  # until the server has heard of it
            pass

    async def send(self, kind: str, content: dict, metadata=None, buffers=(), channel="shell") -> str:
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": kind,
            "username": "",
            "session": self.session,
            "date": datetime.now(UTC).isoformat(),
            "version": "5.2",
        }
        parts = [json.dumps(part).encode() for part in (header, {}, metadata or {}, content)]
        packed = serialize_msg_to_ws_v1([*parts, *buffers], channel)
        await self.connection.write_message(packed, binary=True)
        return message_id

    async def receive(self) -> tuple[str, dict]:
        """Type and content of the next message."""
        return (await self.receive_with_parent())[:2]

    async def receive_with_parent(self) -> tuple[str, dict, dict]:
        """The same, and the header of the message that it answers."""
        message = await self.connection.read_message()
        if message is None:
            raise ConnectionError("the server closed the connection")
        _, (header, parent, _, content, *_) = deserialize_msg_from_ws_v1(message)
        return json.loads(header)["msg_type"], json.loads(content), json.loads(parent)

    async def widgets(self) -> dict[str, dict]:
        """The state of every widget, by its ID."""
        control = uuid.uuid4().hex
        opening = {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}}
        await self.send("comm_open", opening, {"version": "1.0.0"})
        await self.send("comm_msg", {"comm_id": control, "data": {"method": "request_states"}})
        while True:
            kind, content = await self.receive()
            if kind == "comm_msg" and content["comm_id"] == control:
                return {id: state["state"] for id, state in content["data"]["states"].items()}


async def open_voila(url: str) -> Kernel:
    """Open the page; where it asks to come again, because it is full for example, come again, as a browser does."""
    with contextlib.closing(AsyncHTTPClient(force_instance=True)) as http:
        while True:
            reply = await http.fetch(url, request_timeout=300, connect_timeout=300, raise_error=False)
            if not (again := re.search(rb'http-equiv="refresh" content="(\d+)"', reply.body or b"")):
                break
            await asyncio.sleep(int(again[1]))
    reply.rethrow()
    kernel_id = re.search(r'"kernelId": ?"([^"]+)"', reply.body.decode())[1]
    return await Kernel.connect(url, kernel_id)


async def classify_voila(kernel: Kernel, photo: bytes) -> str:
    """Hand over a photo, click Classify and return the answer, or why there is none."""
    if not (widgets := await kernel.widgets()):
        raise RuntimeError("the kernel was started anew")
    (upload,) = [id for id, state in widgets.items() if state["_model_name"] == "FileUploadModel"]
    (button,) = [id for id, state in widgets.items() if state.get("description") == "Classify"]
    file = {"name": "bear.jpg", "type": "image/jpeg", "size": len(photo), "last_modified": 0}
    data = {"method": "update", "state": {"value": [file]}, "buffer_paths": [["value", 0, "content"]]}
    await kernel.send("comm_msg", {"comm_id": upload, "data": data}, buffers=[photo])
    await kernel.send("comm_msg", {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}})
    while True:
        kind, content = await kernel.receive()
        if kind == "error":
            raise RuntimeError(content["evalue"])
        if kind == "status" and content["execution_state"] in ("restarting", "autorestarting", "dead"):
            raise RuntimeError("the kernel has died")
        if kind.startswith("comm_") and (answer := SENTENCE.search(json.dumps(content.get("data", {})))):
            return answer[0]


async def visit_voila(url: str, photo: bytes, stay: AsyncExitStack | None = None) -> str:
    """Open the page, classify a photo and return the answer; keep the page open as long as `stay`."""
    kernel = await open_voila(url)
    answer = await classify_voila(kernel, photo)
    if stay is None:
        await kernel.close()
    else:
        stay.push_async_callback(kernel.close)
    return answer


async def visit_gradio(url: str, photo: bytes, stay: AsyncExitStack | None = None) -> str:
    """As `visit_voila`, with Gradio's own HTTP interface."""
    http = AsyncHTTPClient(force_instance=True)
    await http.fetch(url, request_timeout=300)
    boundary = uuid.uuid4().hex
    part = 'Content-Disposition: form-data; name="files"; filename="bear.jpg"\r\nContent-Type: image/jpeg'
    form = f"--{boundary}\r\n{part}\r\n\r\n".encode() + photo + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    upload = await http.fetch(url + "gradio_api/upload", method="POST", body=form, headers=headers, request_timeout=300)
    file = {"path": json.loads(upload.body)[0], "meta": {"_type": "gradio.FileData"}}
    call = await http.fetch(
        url + "gradio_api/call/classify",
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps({"data": [file]}),
        request_timeout=300,
    )
    event = json.loads(call.body)["event_id"]
    reply = await http.fetch(url + f"gradio_api/call/classify/{event}", request_timeout=300)
    if "event: complete" not in reply.body.decode():
        raise RuntimeError(reply.body.decode())
    return reply.body.decode()
