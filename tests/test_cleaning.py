"""bears.training.cleaning: no mark is ever lost."""

import pytest
import torch
from conftest import draw_folder, draw_loaders
from fastai.vision.all import error_rate, resnet18, vision_learner

from bears.training.cleaning import KEEP, Cleaner
from bears.training.dataset import DELETE, check_photos, decide, read_decisions, split


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    dls, _ = draw_loaders(tmp_path_factory.mktemp("drawings"), 14, 32)
    torch.manual_seed(0)
    return vision_learner(dls, resnet18, pretrained=False, metrics=error_rate)


def marks(cleaner) -> list:
    return [card.children[1] for card in cleaner.carousel.children]


def test_marks_are_there_again_after_label_and_split_were_switched(learner, tmp_path):
    cleaner = Cleaner(learner, tmp_path / "cleaning.csv")
    assert len(marks(cleaner)) > 5 and {mark.value for mark in marks(cleaner)} == {KEEP}
    marks(cleaner)[2].value = DELETE
    cleaner.reason.value = "has corners"
    marks(cleaner)[4].value = "square"
    cleaner.label.value = "triangle"
    marks(cleaner)[0].value = "circle"
    cleaner.split.value = "valid"
    cleaner.label.value, cleaner.split.value = "circle", "train"
    assert [mark.value for mark in marks(cleaner)][:5] == [KEEP, KEEP, DELETE, KEEP, "square"]
    decisions = read_decisions(tmp_path / "cleaning.csv").values()
    assert sorted((row["from"], row["to"], row["reason"]) for row in decisions) == [
        ("circle", DELETE, "by eye"),
        ("circle", "square", "has corners"),
        ("triangle", "circle", "has corners"),
    ]

    another = Cleaner(learner, tmp_path / "cleaning.csv")
    assert [mark.value for mark in marks(another)][:5] == [KEEP, KEEP, DELETE, KEEP, "square"]
    marks(another)[2].value = KEEP
    assert len(read_decisions(tmp_path / "cleaning.csv")) == 2


def test_keep_keeps_the_label_a_photo_stands_under(tmp_path):
    """Which after a decision is not the one of its folder; and what that was can be chosen again."""
    folder, cleaning = draw_folder(tmp_path / "the same", 14), tmp_path / "cleaning.csv"
    first, _ = check_photos(folder)
    first = split(first.assign(group=first.sha256), 42)
    moved = first[(first.label == "circle") & (first.split == "train")].iloc[0]
    decide(cleaning, moved.sha256, "circle", "square", "has corners")
    dls, photos = draw_loaders(tmp_path / "drawings", 14, 32, cleaning=cleaning)
    cleaner = Cleaner(vision_learner(dls, resnet18, pretrained=False), cleaning)
    (photo,) = cleaner.photos[cleaner.photos.sha256 == moved.sha256].itertuples()
    assert (photo.label, photo.given) == ("square", "circle")
    before = read_decisions(cleaning)
    mark = cleaner._card(photo, before[moved.sha256]).children[1]
    assert mark.value == KEEP and "circle" in mark.options and "square" not in mark.options
    mark.value = DELETE
    assert read_decisions(cleaning)[moved.sha256]["to"] == DELETE
    mark.value = KEEP
    assert read_decisions(cleaning) == before, "with its reason"
    mark.value = "circle"
    assert read_decisions(cleaning) == {}


def test_the_hardest_photos_come_first_and_those_of_the_test_never(learner, tmp_path):
    cleaner = Cleaner(learner, tmp_path / "cleaning.csv", max_n=4)
    assert len(marks(cleaner)) == 4
    assert set(cleaner.photos.split) == {"train", "valid"}
    assert len(cleaner.photos) == len(learner.dls.train_ds) + len(learner.dls.valid_ds)
    losses = cleaner.photos[(cleaner.photos.label == "circle") & (cleaner.photos.split == "train")].loss
    assert losses.nunique() > 3 and losses.max() > losses.min()


def test_a_mark_that_cannot_be_written_is_not_lost_in_silence(learner, tmp_path, monkeypatch):
    def full(contents):
        raise OSError("No space left on device")

    cleaner = Cleaner(learner, tmp_path / "cleaning.csv")
    monkeypatch.setattr("bears.training.dataset.write_whole", full)
    marks(cleaner)[0].value = DELETE
    assert cleaner.status.value == "NOT written: No space left on device"
