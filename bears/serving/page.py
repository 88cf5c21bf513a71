"""What the page has beyond the book's widgets: a row for each photo, bars, and what the card says.

Whatever comes from a visitor or from the card is text here, never HTML.
"""

import base64
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets
import traitlets
from IPython.display import HTML
from PIL import Image, ImageOps

from bears.classifier import Answer, Classifier
from bears.photos import MAX_BYTES, SIDE, PhotoError, remarks
from bears.serving import LARGEST_MESSAGE

LONGEST = 4 * SIDE  # pixels; nothing but a panorama is as long after `open_photo`
THUMBNAIL = 256  # pixels
SHOWN = 5  # labels of which one reads without asking for more


class Row(widgets.HBox):
    """What the page shows of a file: an `Output` with its thumbnail, its name, a `Label` with what it is, and bars."""

    def __init__(self, name: str):
        self.coming = True  # its content is on its way, as far as one knows
        self.slow = False  # but nobody is to wait for it
        self.photo = None  # the picture, while it has no answer
        self._name = name = name.encode("utf-8", "replace").decode()  # Windows' names are not always text
        self._file = widgets.HTML(escape(name))  # a Label would make mathematics of a name with $ in it
        self._says, self._more = widgets.Label("On its way …"), widgets.HTML()
        self._file.add_class("file")  # see page.css
        self._says.add_class("says").add_class("coming")
        super().__init__([widgets.VBox([self._file, self._says, self._more])], _dom_classes=("answer",))

    def arrives(self, share: float) -> None:
        """Say how much of it is here, 0 to 1."""
        self._says.value = f"On its way … {share:.0%}"

    def is_slow(self) -> None:
        self.slow, self._says.value = True, "Your device is still reading this file …"

    def show(self, photo: Image.Image) -> None:
        """Show its thumbnail, and keep it, a panorama made smaller, until there is something to `say`."""
        self.photo = photo if max(photo.size) <= LONGEST else ImageOps.contain(photo, (LONGEST, LONGEST))
        out_pl = widgets.Output()
        out_pl.append_display_data(thumbnail(self.photo, self._name))
        self.children = [out_pl, *self.children]
        self._file.value += "".join(f"<br>{escape(remark)}" for remark in remarks(photo))
        self._settle("")

    def say(self, sentence: str, html: str = "") -> None:
        """The answer: one sentence, and more below it."""
        self._settle(sentence)
        self.photo, self._more.value = None, html

    def warn(self, sentence: str) -> None:
        """Why there is no answer, or none to be trusted."""
        self.say(sentence)
        self._says.add_class("notice")

    def _settle(self, sentence: str) -> None:
        self.coming = False
        self._says.remove_class("coming")
        self._says.value = sentence

    def close(self) -> None:
        """Let go of it and all it holds: ipywidgets keeps every widget until it is told that."""
        self.photo = None
        for part in list(_inside(self)):
            part.close()
        super().close()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Whatever goes wrong with this file is said in its row, and stops no other."""
        try:
            yield
        except PhotoError as error:  # says what is wrong with it
            self.warn(str(error))
        except Exception:  # a fault of ours: without this, Voilà would show nothing at all
            traceback.print_exc(file=sys.__stderr__)  # for the server's log, not for the page
            self.warn("Something went wrong here; the photo is not to blame. Please choose it again.")


class Rows(widgets.VBox):
    """A row for each file of those that were handed over last, and how far the page is with them."""

    ready = traitlets.Bool(False, help="whether there are photos without an answer, and none to wait for")

    def __init__(self):
        self._note = widgets.Label()
        self._progress = widgets.IntProgress(layout={"visibility": "hidden"})
        self._answers = widgets.VBox()
        self._answers.add_class("answers")
        super().__init__([self._progress, self._note, self._answers])

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._answers.children

    def begin(self, names: list[str], note: str = "") -> tuple[Row, ...]:
        """New rows in place of the old ones."""
        old = self.rows
        self._answers.children = [Row(name) for name in names]
        for row in old:
            row.close()
        self.note(note)
        return self.rows

    def note(self, sentence: str) -> None:
        """Above all rows."""
        self._note.value = sentence

    def changed(self) -> None:
        """One of the rows did."""
        waited_for = any(row.coming and not row.slow for row in self.rows)
        self.ready = not waited_for and any(row.photo for row in self.rows)

    def waiting(self) -> Iterator[Row]:
        """Each row whose photo has no answer yet; meanwhile a bar shows how far it is."""
        self.ready = False
        rows = [row for row in self.rows if row.photo]
        self._progress.max, self._progress.value = len(rows), 0
        self._progress.layout.visibility = "visible" if len(rows) > 1 else "hidden"
        for row in rows:
            yield row
            self._progress.value += 1
        self._progress.layout.visibility = "hidden"


def _inside(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    for part in (*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)):
        if part is not None:
            yield from _inside(part)
            yield part


def complaints() -> list[widgets.HTML]:
    """What is wrong with how the page is served, for the top of it: nothing, if Voilà runs with voila.json.

    From another folder, Voilà starts without a word, and loses messages of more than 10 MB. uploads.js sends none that
    is so large, but where it does not run, a photo comes as one message.
    """
    if "VOILA_BASE_URL" not in os.environ or int(os.environ.get(LARGEST_MESSAGE, 0)) > MAX_BYTES:
        return []  # in JupyterLab, or as it should be
    complaint = widgets.HTML(
        "<strong>Large photos may get lost on their way to this page, because Voilà does not run with the settings in "
        "its voila.json. Start it in the folder of the page: <code>voila app.ipynb</code></strong>"
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


def question(classifier: Classifier) -> str:
    """What the page asks: 'Is it black, grizzly or teddy?'"""
    asked = f"Is it {listed(classifier.vocab)}?"
    if classifier.reference is None:  # an export of other origin
        asked += " (Whatever is on the photo, this classifier names one of these.)"
    return asked


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


def otherwise(answer: Answer) -> str:
    """'. I cannot rule out black.', to follow a prediction; nothing where no other label is plausible."""
    others = (answer.plausible or ())[1:]
    return f". I cannot rule out {listed(others)}." if others else ""


def listed(labels: list[str]) -> str:
    """'black, grizzly or teddy'; of many, 'ant, bat, bee, bug, cat or one of 115 others'"""
    *most, last = map(str, labels)
    if (shown := _shown(labels)) < len(labels):
        most, last = most[:shown], f"one of {len(labels) - shown} others"
    return f"{', '.join(most)} or {last}" if most else last
