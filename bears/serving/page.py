"""What the page has beyond the book's widgets: other ways to hand over a photo, bars, and what the card says.

Whatever comes from a visitor or from the card is text here, never HTML.
"""

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets
from IPython.display import HTML
from PIL import Image, ImageOps

from bears.classifier import Answer
from bears.memory import give_memory_back
from bears.photos import MAX_BYTES, SIDE, check_size, open_photo
from bears.serving import LARGEST_MESSAGE

MOST = 20  # photos at once: each is kept in memory, 6 MB at most, until the next ones come
LONGEST = 4 * SIDE  # pixels; nothing but a panorama is as long after `open_photo`
THUMBNAIL = 256  # pixels
SHOWN = 5  # labels of which one reads without asking for more
HEARTBEAT = 15  # seconds between two questions to the server whether it is still there


@dataclass(frozen=True)
class Upload:
    """A file that a visitor handed over."""

    name: str
    size: int  # bytes, before the browser made it smaller
    content: bytes  # nothing, if it is too large to be sent

    def open(self) -> Image.Image:
        """As `open_photo`, which says what is wrong with it, too; a panorama is made smaller."""
        check_size(self.size)
        photo = open_photo(self.content)
        return photo if max(photo.size) <= LONGEST else ImageOps.contain(photo, (LONGEST, LONGEST))


class Uploads(anywidget.AnyWidget):
    """Hands over photos that are chosen with a `FileUpload`, dropped onto the page or pasted.

    Where the visitor's browser runs uploads.js, they are scaled down before they are sent; otherwise they come as the
    FileUpload sends them. On a phone there is a button for the camera.
    """

    _esm = Path(__file__).with_name("uploads.js")
    accept = traitlets.Unicode().tag(sync=True)
    side = traitlets.Int(SIDE).tag(sync=True)
    largest = traitlets.Int(MAX_BYTES).tag(sync=True)
    most = traitlets.Int(MOST).tag(sync=True)
    heartbeat = traitlets.Int(HEARTBEAT).tag(sync=True)

    def __init__(self, upload: widgets.FileUpload, handler: Callable[[list[Upload], int], None]):
        """`handler` is called with the files that came together, `MOST` of them at most, and how many there were."""
        upload.add_class("choose")  # by which uploads.js knows it
        super().__init__(accept=upload.accept)
        self._handler, self._arrived = handler, []
        self.on_msg(self._receive)
        upload.observe(lambda change: self._plain(upload), "value")

    def _receive(self, _, message: dict, buffers: list[memoryview]) -> None:
        if message.get("event") == "photo" and len(self._arrived) < MOST:
            content = bytes(buffers[0]) if buffers else b""
            self._arrived.append(Upload(str(message["name"]), int(message["size"]), content))
        elif message.get("event") == "ping":
            self.send({"event": "pong"})
        elif message.get("event") == "end":
            arrived, self._arrived = self._arrived, []
            self._handler(arrived, int(message["count"]))
            give_memory_back()

    def _plain(self, upload: widgets.FileUpload) -> None:
        if files := upload.value:
            upload.value = ()  # so that the same file can be chosen again
            self._handler([Upload(file.name, file.size, bytes(file.content)) for file in files[:MOST]], len(files))
            give_memory_back()


def complaints() -> list[widgets.HTML]:
    """What is wrong with how the page is served, for the top of it: nothing, if Voilà runs with voila.json.

    From another folder, Voilà starts without a word, and loses messages of more than 10 MB.
    """
    if "VOILA_BASE_URL" not in os.environ or int(os.environ.get(LARGEST_MESSAGE, 0)) > MAX_BYTES:
        return []  # in JupyterLab, or as it should be
    complaint = widgets.HTML(
        "<strong>Large photos get lost on their way to this page, because Voilà does not run with the settings in its "
        "voila.json. Start it in the folder of the page: <code>voila app.ipynb</code></strong>"
    )
    complaint.add_class("notice")
    return [complaint]


def thumbnail(photo: Image.Image, name: str) -> HTML:
    """For an `Output`; with a text for those who do not see it, which `display(photo)` would not have."""
    content = io.BytesIO()
    ImageOps.contain(photo, (THUMBNAIL, THUMBNAIL)).save(content, "JPEG", quality=85)
    data = base64.b64encode(content.getvalue()).decode()
    return HTML(f'<img alt="{escape(name) or "the photo"}" src="data:image/jpeg;base64,{data}">')


def bars(answer: Answer) -> str:
    """HTML: the probability of every label, the largest first; all but the first few folded, if there are many."""
    rows = []
    for label, probability in sorted(answer.probabilities.items(), key=lambda item: -item[1]):
        bar = f'<div style="width: {probability:.1%}"></div>'
        percent = "> 99.9" if probability > 0.999 else "< 0.1" if probability < 0.001 else f"{100 * probability:.1f}"
        rows.append(f'<dt>{escape(label)}</dt><dd class="bar">{bar}</dd><dd class="percent">{escape(percent)} %</dd>')
    shown = _shown(rows)
    html = f'<dl class="bars">{"".join(rows[:shown])}</dl>'
    if rest := rows[shown:]:
        html += _folded(f"{len(rest)} more labels", f'<dl class="bars">{"".join(rest)}</dl>')
    return html


def _shown(labels: list) -> int:
    """How many of them to show; one alone is not worth hiding."""
    return SHOWN if len(labels) > SHOWN + 1 else len(labels)


def _folded(summary: str, html: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def about(card: dict) -> str:
    """HTML: what the front matter of MODEL_CARD.md says of the classifier, folded."""
    labels = card.get("labels") or []
    lines = [f"It was taught to tell {listed(labels)}."] if labels else []
    if held_out := card.get("held_out"):
        low, high = held_out["error_interval"]
        lines.append(
            f"Of {held_out['photos']:,} photos kept aside for a test it took {held_out['wrong']:,} for something else, "
            f"{held_out['wrong'] / held_out['photos']:.1%} (95 % interval {low:.1%} to {high:.1%})."
        )
        if "doubted" in held_out:
            lines.append(f"{held_out['doubted']:,} of them it did not recognise, although it should have.")
    lines += [
        "It can be wrong, and sure of it: with photos of another kind than those it was taught with, and with what is "
        "small, hidden or in the dark. It is no ground for a decision that matters.",
        "Your photos are kept in the server's memory only, and are gone when this page is closed, or ten minutes later "
        "if your device cannot tell the server.",
    ]
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if _shown(labels) < len(labels):
        paragraphs += _folded(f"All {len(labels)} labels", f"<p>{escape(', '.join(map(str, labels)))}</p>")
    return _folded("About this classifier", paragraphs)


def listed(labels: list[str]) -> str:
    """'black, grizzly or teddy'; of many, 'ant, bat, bee, bug, cat or one of 115 others'"""
    *most, last = map(str, labels)
    if (shown := _shown(labels)) < len(labels):
        most, last = most[:shown], f"one of {len(labels) - shown} others"
    return f"{', '.join(most)} or {last}" if most else last
