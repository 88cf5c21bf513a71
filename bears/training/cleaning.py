"""The book's cleaner, with a memory: every mark is written to cleaning.csv the moment it is made."""

import os
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from fastai.learner import Learner

from bears.photos import open_photo
from bears.training import TrainingError
from bears.training.dataset import DELETE, decide, read_decisions

KEEP = "<Keep>"


class Cleaner(widgets.VBox):
    """Photos that the classifier finds hardest first; mark what is no example of its label, or of another one.

    As fastai's `ImageClassifierCleaner`, but a mark is a decision in the file `cleaning` at once. It is there again
    when another label or split was looked at in between, and after the kernel is gone. The photos themselves are left
    as they are: `check_photos` applies the decisions in the next run. The test photos are not shown.
    """

    def __init__(self, learner: Learner, cleaning: str | os.PathLike = "cleaning.csv", max_n: int = 30):
        self.cleaning, self.max_n = Path(cleaning), max_n
        self.vocab = list(learner.dls.vocab)
        self.photos = pd.concat(
            [_with_losses(learner, index).assign(split=name) for index, name in enumerate(("train", "valid"))]
        )
        self.label = widgets.Dropdown(options=self.vocab, description="Label")
        self.split = widgets.Dropdown(options=("train", "valid"), description="Split")
        self.reason = widgets.Text(placeholder="why (goes into the file)", description="Reason")
        self.carousel = widgets.HBox(layout={"overflow": "auto", "width": "100%"})
        for control in (self.label, self.split):
            control.observe(self._show, "value")
        self.status = widgets.Label()
        super().__init__([widgets.HBox([self.label, self.split, self.reason]), self.carousel, self.status])
        self._show()

    def _show(self, change=None) -> None:
        chosen = self.photos[(self.photos.label == self.label.value) & (self.photos.split == self.split.value)]
        decisions = read_decisions(self.cleaning)
        self.carousel.children = [
            self._card(photo, decisions.get(photo.sha256)) for photo in chosen.nlargest(self.max_n, "loss").itertuples()
        ]

    def _card(self, photo, decision: dict | None) -> widgets.VBox:
        """`decision` is that of before, if there is one; to keep a photo is to keep the label it stands under."""
        picture = open_photo(photo.file, side=128)
        picture.thumbnail((256, 128))
        options = [KEEP, DELETE, *(label for label in self.vocab if label != photo.label)]
        marked = decision["to"] if decision and decision["to"] in options else KEEP
        mark = widgets.Dropdown(options=options, value=marked, layout={"width": "max-content"})

        def write(change):
            to = photo.label if change.new == KEEP else change.new
            reason = self.reason.value.strip() or "by eye"
            if decision and decision["to"] == to:
                reason = decision["reason"]  # it is that decision again
            try:
                decide(self.cleaning, photo.sha256, photo.given, None if to == photo.given else to, reason)
                self.status.value = f"{len(read_decisions(self.cleaning))} decisions in {self.cleaning}"
            except (OSError, TrainingError) as error:  # an error in a callback would go unseen
                self.status.value = f"NOT written: {error}"

        mark.observe(write, "value")
        thumbnail = widgets.Image(value=picture._repr_png_(), format="png", layout={"height": "128px", "width": "auto"})
        return widgets.VBox([thumbnail, mark], layout={"flex": "0 0 auto"})


def _with_losses(learner: Learner, index: int) -> pd.DataFrame:
    """The photos of one of the learner's two sets, with the loss of each."""
    loader = learner.dls[index].new(shuffle=False, drop_last=False)
    with learner.no_bar(), learner.no_logging():
        *_, losses = learner.get_preds(dl=loader, with_loss=True)
    return loader.items.assign(loss=losses.numpy())
