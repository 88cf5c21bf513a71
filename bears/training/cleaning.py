"""The book's cleaner, with a memory: every mark is written to cleaning.csv the moment it is made.

cleaner.js shows one screen of photos in rows, and says what a person does:

    {event: mark, photos: [sha256], to, reason}
                                          `to` is a label, `KEEP`, `DELETE`, or null for what was guessed of each
    {event: undo}                         answered with {event: at, photo: sha256}, where there is something to undo
    {event: screen, screen}

`marks` has what is written; {event: done} says that it has changed as far as it will.
"""

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd
import traitlets

from bears.photos import PhotoError, open_photo
from bears.training import TrainingError
from bears.training.dataset import DECISION, DELETE, read_decisions, write_decisions

KEEP = "<Keep>"
ROW = 5  # photos side by side
ROWS = 4  # on a screen
LIKELY = 9  # labels that can be reached with one key


class Cleaner(anywidget.AnyWidget):
    """The photos whose labels are most surely wrong first; say what each is, with the keyboard or the mouse.

    Whatever is decided is in the file `cleaning` at once, with the reason. The photos themselves are left as they are:
    `check_photos` applies the decisions in the next run. What was decided in earlier runs comes last. Near-duplicates
    with different labels lie side by side.
    """

    _esm = Path(__file__).with_name("cleaner.js")
    _css = Path(__file__).with_name("cleaner.css")
    vocab = traitlets.List(traitlets.Unicode()).tag(sync=True)
    screen = traitlets.Int(0).tag(sync=True)
    screens = traitlets.Int(0).tag(sync=True)
    rows = traitlets.List().tag(sync=True)  # of lists of photos, see `_show`
    marks = traitlets.Dict().tag(sync=True)  # sha256: what is decided, of the photos on this screen
    status = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        photos: pd.DataFrame,  # a data set
        probabilities: pd.DataFrame,  # (photos, labels) of each, see `bears.training.probe.out_of_fold`
        cleaning: str | os.PathLike = "cleaning.csv",
    ):
        super().__init__(vocab=[*probabilities.columns])
        self.cleaning = Path(cleaning)
        self._probabilities = probabilities.to_numpy()
        self._photos = photos.reset_index(drop=True)
        self._at = {sha256: number for number, sha256 in enumerate(self._photos.sha256)}
        self._before = []  # decisions that can be taken back to, the last at the end
        own = self._probabilities[np.arange(len(photos)), probabilities.columns.get_indexer(photos.label)]
        rows = [*_rows(_units(self._photos, own, read_decisions(self.cleaning)))]
        self._screens = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        self.screens = len(self._screens)
        self._show(0)
        self.on_msg(self._receive)

    @property
    def order(self) -> list[str]:
        """The SHA-256 of all photos, in the order in which they are shown."""
        return [self._photos.sha256[number] for screen in self._screens for row in screen for number in row]

    def _show(self, screen: int) -> None:
        with self.hold_sync():  # or the screen would be drawn with the marks of the last one
            self.screen = min(max(screen, 0), len(self._screens) - 1)
            self.rows = [[self._card(number) for number in row] for row in self._screens[self.screen]]
            self._tell()

    def _card(self, number: int) -> dict:
        photo, probabilities = self._photos.loc[number], self._probabilities[number]
        known = not np.isnan(probabilities).any()
        likely = np.argsort(-probabilities)[:LIKELY] if known else range(min(LIKELY, len(self.vocab)))
        return {
            "sha256": photo.sha256,
            "name": photo.file.name,
            "label": photo.label,
            "guess": self._guess(number),
            "sure": float(probabilities.max()) if known else None,
            "likely": [self.vocab[label] for label in likely],
            "picture": _thumbnail(photo.file),
        }

    def _guess(self, number: int) -> str:
        probabilities = self._probabilities[number]
        guess = self.vocab[probabilities.argmax()] if not np.isnan(probabilities).any() else KEEP
        return KEEP if guess == self._photos.label[number] else guess

    def _tell(self, status: str = "") -> None:
        """Of the photos on this screen, what is decided."""
        decisions = read_decisions(self.cleaning)
        shown = [card["sha256"] for row in self.rows for card in row]
        labels = dict(zip(self._photos.sha256, self._photos.label, strict=True))
        marks = {sha256: decisions[sha256]["to"] for sha256 in shown if sha256 in decisions}
        self.marks = {sha256: KEEP if to == labels[sha256] else to for sha256, to in marks.items()}
        self.status = status or f"{len(decisions):,} decisions in {self.cleaning}"

    def _receive(self, _, message: object, buffers: list) -> None:
        try:
            self._understand(message)
        except (OSError, TrainingError, UnicodeError) as error:  # an error in a callback would go unseen
            self.status = f"NOT written: {error}"
        self.send({"event": "done"})

    def _understand(self, message: object) -> None:
        match message:
            case {"event": "mark", "photos": list(photos), "to": to, "reason": str(reason)}:
                if to in (None, KEEP, DELETE, *self.vocab):
                    self._mark([photo for photo in photos if isinstance(photo, str) and photo in self._at], to, reason)
            case {"event": "undo"}:
                self._undo()
            case {"event": "screen", "screen": int(screen)}:
                self._show(screen)

    def _mark(self, photos: list[str], to: str | None, reason: str) -> None:
        before, after = read_decisions(self.cleaning), {}
        for sha256 in photos:
            photo, decision = self._photos.loc[self._at[sha256]], before.get(sha256)
            meant = self._guess(self._at[sha256]) if to is None else to
            meant = photo.label if meant == KEEP else meant  # to keep a photo is to keep the label it stands under
            if decision is None or decision["to"] != meant:
                row = (sha256, photo.given, meant, reason.strip() or "by eye")
                after[sha256] = dict(zip(DECISION, row, strict=True))
        if after:
            write_decisions(self.cleaning, after)
            self._before.append({sha256: before.get(sha256) for sha256 in after})
        self._tell()

    def _undo(self) -> None:
        if not self._before:
            self.status = "There is nothing to take back."
            return
        write_decisions(self.cleaning, self._before[-1])
        first = self._at[next(iter(self._before.pop()))]
        (there,) = (at for at, rows in enumerate(self._screens) if any(first in row for row in rows))
        self._show(there) if there != self.screen else self._tell()
        self.send({"event": "at", "photo": self._photos.sha256[first]})


def _units(photos: pd.DataFrame, own: np.ndarray, decisions: dict) -> Iterator[list[int]]:
    """Positions of photos that belong side by side, the most suspicious first, those that are decided last.

    `own` is the probability that each has of its own label; where it is unknown nothing speaks against it.
    """
    labels = photos.groupby("group").label.transform("nunique")
    unit = photos.group.where(labels > 1, photos.sha256)
    table = pd.DataFrame({"unit": unit, "own": np.nan_to_num(own, nan=1), "seen": photos.sha256.isin(decisions)})
    table["first"] = table.groupby("unit").own.transform("min")
    table["seen"] = table.groupby("unit").seen.transform("all")
    for _, unit in table.sort_values(["seen", "first", "unit", "own"]).groupby("unit", sort=False):
        yield [*unit.index]


def _rows(units: Iterator[list[int]]) -> Iterator[list[int]]:
    """Rows of photos, in which a unit is not broken unless it is longer than one."""
    row = []
    for unit in units:
        if row and len(row) + len(unit) > ROW:
            yield row
            row = []
        row = row + unit
        while len(row) > ROW:
            yield row[:ROW]
            row = row[ROW:]
    if row:
        yield row


def _thumbnail(file: Path) -> str:
    """As the address of a picture; empty where the file is gone."""
    try:
        picture = open_photo(file, side=240)
    except (OSError, PhotoError):
        return ""
    picture.thumbnail((320, 240))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
