"""bears.training.corruptions: what goes wrong with photos, the same again from a seed, and worse step by step."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_bear, draw_loaders, draw_shape
from fastai.vision.all import vision_learner

from bears.classifier import Classifier
from bears.novelty import Reference
from bears.training.corruptions import CORRUPTIONS, SEVERITIES, corrupt, robustness
from bears.training.evaluation import outputs
from bears.training.export import portable
from bears.training.learning import DecodedOnce

matplotlib.use("Agg")


@pytest.fixture(scope="module", params=[(96, 96), (240, 160), (90, 200)])
def picture(request):
    return draw_bear(240).resize(request.param)


def pixels(picture) -> np.ndarray:
    return np.asarray(picture, float)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_size_and_type_stay_and_a_seed_gives_the_same_again(picture, name):
    before = pixels(picture)
    behind = draw_shape("square", 1)
    for severity in range(SEVERITIES + 1):
        one, again, another = (corrupt(picture, name, severity, seed, behind) for seed in (1, 1, 2))
        assert one.size == picture.size and one.mode == "RGB"
        assert (pixels(one) == pixels(again)).all()
        assert severity or (pixels(one) == before).all()
    assert (pixels(picture) == before).all(), "the picture itself is left as it was"
    drawn = name not in ("grey", "brightness", "contrast", "defocus_blur", "jpeg_compression", "pixelate")
    assert (pixels(one) != pixels(another)).any() == drawn


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_change_grows_with_severity(name):
    """On the mean over several pictures and seeds."""
    pictures = [draw_shape(shape, seed, 120) for seed in range(4) for shape in ("circle", "square", "triangle")]
    changes = [
        np.mean([
            abs(pixels(corrupt(picture, name, severity, seed, pictures[seed - 1])) - pixels(picture)).mean()
            for seed, picture in enumerate(pictures)
        ])
        for severity in range(SEVERITIES + 1)
    ]  # fmt: skip
    assert changes[0] == 0 and (np.diff(changes) > 0).all(), np.round(changes, 2)


def test_each_does_what_its_name_says():
    bear, ground = draw_bear(200), draw_shape("circle", 1)
    before = pixels(bear)

    def after(name, severity=5):
        return pixels(corrupt(bear, name, severity, 0, ground))

    assert np.ptp(after("grey"), axis=2).max() <= 1 and np.ptp(after("infrared"), axis=2).max() <= 1
    assert after("dark").mean() < 0.5 * before.mean() < before.mean() < after("brightness").mean()
    assert after("contrast").std() < 0.2 * before.std()
    infrared = after("infrared", 3)
    assert infrared[80:120, 80:120].mean() - before[80:120, 80:120].mean() > infrared[:20].mean() - before[:20].mean()
    for blur in ("defocus_blur", "motion_blur", "pixelate"):
        assert abs(np.diff(after(blur), axis=0)).mean() + abs(np.diff(after(blur), axis=1)).mean() < (
            abs(np.diff(before, axis=0)).mean() + abs(np.diff(before, axis=1)).mean()
        )
        assert after(blur).mean() == pytest.approx(before.mean(), rel=0.02), "it takes no light away"
    assert after("gaussian_noise").std() > before.std()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A classifier of drawings that has not learnt much, and its data set."""
    dls, photos = draw_loaders(tmp_path_factory.mktemp("drawings"), 14, 32)
    torch.manual_seed(0)
    learner = vision_learner(dls, "resnet18", pretrained=False, lin_ftrs=[], concat_pool=False)
    train, valid = (outputs(learner.model, dls.test_dl(dl.items, with_labels=True)) for dl in (dls.train, dls.valid))
    reference = Reference.fit(train.features, train.targets, valid.features)
    return Classifier(portable(learner, 0.1, reference, 0.3)), photos


def test_the_report_counts_what_is_wrong_and_doubted(taught, monkeypatch):
    classifier, photos = taught
    photos = photos.iloc[::3]
    opened = DecodedOnce(photos.file, 96)
    found = robustness(classifier, photos, opened)
    table = found.summary()
    assert [*table.index] == [*CORRUPTIONS, "all"] and set(table.photos[:-1]) == {len(photos)}
    counted = found.answers.groupby(["corruption", "severity"]).size()
    assert counted.min() >= len(photos) // SEVERITIES and len(counted) == len(CORRUPTIONS) * SEVERITIES
    assert robustness(classifier, photos, opened).answers.equals(found.answers)
    found.plot()
    assert len([ax for ax in matplotlib.pyplot.gcf().axes if ax.get_title()]) == len(CORRUPTIONS)
    matplotlib.pyplot.close()

    monkeypatch.setattr("bears.training.corruptions.corrupt", lambda picture, *arguments: picture)
    counts = robustness(classifier, photos, opened).answers.groupby("corruption").sum(numeric_only=True)
    answers = [(classifier.classify(file), label) for file, label in zip(photos.file, photos.label, strict=True)]
    assert 0 < sum(answer.label != label for answer, label in answers), "else this says nothing"
    assert (counts.wrong == sum(answer.label != label for answer, label in answers)).all()
    assert (counts.doubted == sum(not answer.recognised for answer, _ in answers)).all()
    assert (counts.covered == sum(label in answer.plausible for answer, label in answers)).all()
    assert (counts.labels == sum(len(answer.plausible) for answer, _ in answers)).all()


def test_shares_are_as_counted_by_hand():
    from bears.training.corruptions import Robustness

    answers = pd.DataFrame({
        "corruption": ["grey"] * 4 + ["dark"] * 2, "severity": 1,
        "wrong": [True, True, False, False, False, True], "doubted": [True, False, True, False, False, True],
        "covered": [True, False, True, True, True, True], "labels": [2, 1, 1, 1, 1, 3],
    })  # fmt: skip
    table = Robustness(answers).summary()
    assert table.loc["grey"].tolist() == [4, "50.0% (15.0% to 85.0%)", "50.0%", "25.0%", "75.0%", "1.25"]
    assert table.loc["dark", "wrong, not doubted"] == "0.0%" and table.loc["all", "photos"] == 6
