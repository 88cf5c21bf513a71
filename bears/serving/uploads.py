"""How photos come from a visitor's browser: chosen with a `FileUpload`, dropped onto the page or pasted.

What is handed over at once is a *lot*. uploads.js announces it, and then sends one file after the other, made smaller
and in pieces. Pieces may be lost with a connection, and sent again: each is answered with how much has arrived.

    to the kernel                                 back
    {event: lot, lot, files: [{name, size}], count}   {event: got, lot}
    {event: piece, lot, file, start, of} + buffer     {event: got, lot, file, bytes, gap}
    {event: failed, lot, file}                        {event: got, lot, file, bytes: 0}
    {event: slow, lot, file}                      {event: got, lot, file, bytes: 0}
    {event: note, note}

`lot` is a name that no other lot has, `file` the place of a file in it; `start` and `of` count bytes of what is sent of
the file, and `gap` says that something before this piece is missing. Of a lot whose place another one has taken, and of
a file that needs no more, all is said to be there. There is room for one file that is not complete. A photo is opened
as soon as it is, and only the small picture is kept.
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets

from bears.memory import give_memory_back
from bears.photos import MAX_BYTES, SIDE, check_size
from bears.serving.page import Row, Rows

MOST = 20  # photos at once: each is kept in memory, 6 MB at most, until the next ones come
UNCOUNTED = 1000  # files in a dropped folder, beyond which nobody counts

NOTES = {
    "address": "Your browser hands over only the address of that picture, not the picture. Save it on this device, and "
    "choose the file; or copy the picture, and paste it here.",
    "empty": "There are no photos in that folder.",
    "looking": "Looking for photos in that folder …",
}
UNREADABLE = (
    "Your browser cannot read this. If it is kept in a cloud, download it to this device first; if it was moved or "
    "changed, choose it again."
)


class Uploads(anywidget.AnyWidget):
    """Hands over photos that are chosen with a `FileUpload`, dropped onto the page or pasted.

    Where the visitor's browser runs uploads.js, they are scaled down before they are sent; otherwise they come as the
    FileUpload sends them. On a phone there is a button for the camera.
    """

    _esm = Path(__file__).with_name("uploads.js")
    _css = Path(__file__).with_name("page.css")
    accept = traitlets.Unicode().tag(sync=True)
    side = traitlets.Int(SIDE).tag(sync=True)
    largest = traitlets.Int(MAX_BYTES).tag(sync=True)
    most = traitlets.Int(MOST).tag(sync=True)
    uncounted = traitlets.Int(UNCOUNTED).tag(sync=True)

    def __init__(self, upload: widgets.FileUpload, rows: Rows, handler: Callable[[bytes, Row], None]):
        """Each file gets a row in `rows` at once. `handler` is called with its content and its row when it is there.

        What `handler` raises is said in that row.
        """
        upload.add_class("choose")  # by which uploads.js knows it
        super().__init__(accept=upload.accept)
        self._rows, self._handler = rows, handler
        self._lot, self._file, self._content = None, None, bytearray()
        self.on_msg(self._receive)
        upload.observe(lambda change: self._plain(upload), "value")

    def _receive(self, _, message: object, buffers: list[memoryview] | None) -> None:
        try:
            self._understand(message, buffers or [])
        except Exception:  # a fault of ours, which ipywidgets would swallow
            traceback.print_exc(file=sys.__stderr__)

    def _understand(self, message: object, buffers: list[memoryview]) -> None:
        """What is not of the protocol is ignored: it comes from a page that somebody has changed."""
        match message:
            case {"event": "lot", "lot": str(lot), "files": list(files), "count": int(count)}:
                if lot != self._lot and all(map(_is_file, files)):
                    self._lot = None  # until there are rows for it
                    self._begin([(file["name"], file["size"]) for file in files[:MOST]], count)
                    self._lot = lot
                self.send({"event": "got", "lot": lot})
            case {"event": "piece", "lot": str(lot), "file": int(file), "start": int(start), "of": int(of)}:
                if buffers:
                    self._piece(lot, file, start, of, buffers[0])
            case {"event": "failed", "lot": str(lot), "file": int(file)}:
                if row := self._coming(lot, file):
                    row.warn(UNREADABLE)
                    self._rows.changed()
                self.send({"event": "got", "lot": lot, "file": file, "bytes": 0})
            case {"event": "slow", "lot": str(lot), "file": int(file)}:
                if row := self._coming(lot, file):
                    row.is_slow()
                    self._rows.changed()
                self.send({"event": "got", "lot": lot, "file": file, "bytes": 0})
            case {"event": "note", "note": str(note)} if note in NOTES:
                self._rows.note(NOTES[note])

    def _begin(self, files: list[tuple[str, int]], count: int) -> None:
        self._file, self._content = None, bytearray()
        note = ""
        if count > len(files):
            of = f"these {count}" if count <= UNCOUNTED else f"more than {UNCOUNTED}"
            note = f"Only the first {len(files)} of {of} photos are shown."
        for row, (_, size) in zip(self._rows.begin([name for name, _ in files], note), files, strict=True):
            with row.faults():
                check_size(size)
        self._rows.changed()
        give_memory_back()

    def _coming(self, lot: str, file: int) -> Row | None:
        """The row of a file that is still on its way."""
        if lot != self._lot or not 0 <= file < len(self._rows.rows):
            return None
        row = self._rows.rows[file]
        return row if row.coming else None

    def _piece(self, lot: str, file: int, start: int, of: int, buffer: memoryview) -> None:
        answer = {"event": "got", "lot": lot, "file": file, "bytes": of, "gap": False}
        row = self._coming(lot, file)
        if row is not None and of > MAX_BYTES:  # it has grown since it was announced
            with row.faults():
                check_size(of)
            self._rows.changed()
        if row is None or start < 0 or start + len(buffer) > of or of > MAX_BYTES:
            self.send(answer)
            return
        if file != self._file:
            self._file, self._content = file, bytearray()
        had = len(self._content)
        if start <= had:
            self._content += buffer[had - start :]
        has = len(self._content)
        self.send(answer | {"bytes": has, "gap": start > had})
        if has < of:
            row.arrives(has / of)
            return
        content = bytes(self._content)
        self._file, self._content = None, bytearray()
        self._open(content, row)

    def _open(self, content: bytes, row: Row) -> None:
        with row.faults():
            self._handler(content, row)
        self._rows.changed()
        give_memory_back()

    def _plain(self, upload: widgets.FileUpload) -> None:
        if files := upload.value:
            upload.value = ()  # so that the same file can be chosen again
            self._lot = None
            self._begin([(file.name, file.size) for file in files[:MOST]], len(files))
            for row, file in zip(self._rows.rows, files, strict=False):
                if row.coming:
                    self._open(bytes(file.content), row)


def _is_file(file: object) -> bool:
    match file:
        case {"name": str(), "size": int()}:
            return True
    return False
