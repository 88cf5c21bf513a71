"""bears.training.card: MODEL_CARD.md says what was measured, and what was not."""

import hashlib

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, draw_loaders
from fastai.vision.all import vision_learner

from bears.classifier import Classifier
from bears.novelty import Reference
from bears.training.card import Report
from bears.training.dataset import check_photos, decide, split
from bears.training.evaluation import evaluate, evaluate_novelty, evaluate_sets, wilson
from bears.training.export import export
from bears.training.learning import origin, pretrained

pytestmark = pytest.mark.filterwarnings("ignore:load_learner:UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learner as training.ipynb makes it, and its data set; untrained, which is enough here."""
    dls, photos = draw_loaders(tmp_path_factory.mktemp("drawings"), 10, 32)
    arch = "tf_efficientnet_lite0"
    return vision_learner(dls, arch, lin_ftrs=[], **pretrained(arch)), photos


@pytest.fixture
def card(trained, tmp_path):
    """Exports with what is known, and reads the card: its front matter and its text."""

    def read(report=None, **arguments):
        export(trained[0], tmp_path / "export.pkl", report=report, **arguments)
        _, front_matter, text = (tmp_path / "MODEL_CARD.md").read_text().split("---\n", 2)
        return yaml.safe_load(front_matter), text

    return read


TARGETS = torch.tensor([0, 1, 1, 2])
LOGITS = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
REFERENCE = Reference.fit(torch.rand(9, 1280), torch.arange(9) % 3, torch.rand(4, 1280))


def test_it_states_what_was_measured(card, trained, tmp_path):
    learner, photos = trained
    decide(tmp_path / "cleaning.csv", "0" * 64, "circle", "square", "")
    scores = evaluate(LOGITS, TARGETS, list(learner.dls.vocab))
    strangers = {"near": np.array([0.4, 2.0, 3.0, 4.0]), "far": np.full(50, 5.0)}
    novelty = evaluate_novelty(np.array([0.1, 0.5, 0.7, 1.5]), LOGITS, TARGETS, strangers)
    front_matter, text = card(
        Report(
            photos=photos,
            files=(tmp_path / "cleaning.csv", tmp_path / "manifest.csv"),
            recipe="One epoch.",
            minutes=3.2,
            scores=scores,
            uncalibrated=scores,
            validation=scores,
            source="All are drawings.",
            novelty=novelty,
            sets=evaluate_sets(LOGITS, TARGETS, 0.2),
        ),
        temperature=1.5,
        reference=REFERENCE,
    )
    assert front_matter["labels"] == ["circle", "square", "triangle"]
    assert front_matter["sha256"] == hashlib.sha256((tmp_path / "export.pkl").read_bytes()).hexdigest()
    (result,) = front_matter["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]
    interval = [round(bound, 4) for bound in scores.interval]
    assert front_matter["held_out"] == {"photos": 4, "wrong": 1, "error_interval": interval, "doubted": 1}
    assert "25.00% error" in text and "| all |" in text and "One epoch. It took 3 minutes" in text
    assert hashlib.sha256((tmp_path / "cleaning.csv").read_bytes()).hexdigest() in text
    assert "manifest.csv" not in text, "there is none"
    assert "All are drawings. Near-duplicates" in text
    assert "fitted on 4 validation photos, 1 of them wrong: too few mistakes to judge by" in text
    assert (
        "95% of new photos of the labels are recognised: with 19% confidence, given 4 validation photos. More" in text
    )
    assert "Of the 4 test photos 1 are doubted: 25.00%" in text
    assert "4 validation photos are too few, and promise 50%." in text
    assert "4 photos with more than one plausible label, 1 of them taken for something else" in text
    assert "| all | 4 | 100.0% (51.0% to 100.0%) | 3.00 |" in text and "| least sure fifth | 1 |" in text
    assert "| near | 4 | 0.8125 (" in text and "| far | 50 | 1.0000 (1.0000 to 1.0000) | 0.00% (" in text


def test_a_second_look_is_told_of_where_there_may_be_one(card, trained):
    report = Report(scores=evaluate(LOGITS, TARGETS, list(trained[0].dls.vocab)))
    assert "second look" in card(report, reference=REFERENCE)[1]
    assert "second look" not in card(report)[1]


def test_it_says_where_near_duplicates_are_in_several_parts(card, trained):
    """As they can be where the split was kept, and a later photo looks like two earlier ones."""
    photos = trained[1].copy()
    assert "in one part only. Validation" in card(Report(photos=photos))[1]
    two = [photos.index[photos.split == part][0] for part in ("train", "test")]
    photos.loc[two, "group"] = "linked"
    assert "in one part only, but for 2 that were in several" in card(Report(photos=photos))[1]


def test_whose_classifier_it_is_they_say(card):
    """And nobody says it for them."""
    front_matter, text = card()
    assert "license" not in front_matter and "has stated no licence" in text
    front_matter, text = card(Report(licence="cc-by-4.0", weights=origin("tf_efficientnet_lite0")))
    assert front_matter["license"] == "cc-by-4.0" and "under the licence cc-by-4.0" in text
    assert "Google's EfficientNet-Lite0" in text and "Apache-2.0" in text and "non-commercial" in text


def test_it_says_what_was_not_measured(card):
    front_matter, text = card()
    assert "model-index" not in front_matter
    for sentence in (
        "Not recorded.",
        "The recipe was not recorded.",
        "They were not measured.",
        "It was not measured.",
        "without a way to tell",
    ):
        assert sentence in text
    assert "Whatever is on a photo, the answer is one of the labels" in text


def test_a_reference_that_was_not_measured(card):
    _, text = card(reference=REFERENCE)
    assert (
        "with what confidence was not recorded. How many are was not measured." in text
        and "Whatever is on a photo" not in text
    )


def test_a_report_without_strangers(card):
    novelty = evaluate_novelty(np.array([0.1, 0.5, 0.7, 1.5]), LOGITS, TARGETS, {})
    _, text = card(Report(novelty=novelty), reference=REFERENCE)
    assert "1 are doubted" in text and "strangers pass, photos that show none of the labels, was not measured" in text


def test_the_released_card_says_what_is_found_when_it_is_measured_again(real_photos):
    """The same photos, split as training.ipynb splits them, and asked about one after the other."""
    front_matter = yaml.safe_load((ROOT / "MODEL_CARD.md").read_text().split("---\n")[1])
    photos, _ = check_photos(real_photos / "bears", ROOT / "cleaning.csv")
    photos = split(photos, 42)
    held_out = photos[photos.split == "test"]
    answers = Classifier.load(ROOT / "export.pkl").classify([*held_out.file])
    wrong = sum(answer.label != label for answer, label in zip(answers, held_out.label, strict=True))
    doubted = sum(not answer.recognised for answer in answers)
    assert front_matter["held_out"] == {
        "photos": len(held_out),
        "wrong": wrong,
        "error_interval": [round(bound, 4) for bound in wilson(wrong, len(held_out))],
        "doubted": doubted,
    }
