"""bears.novelty: a photo that lies far from all that was taught is told, and no other."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT, draw_bear, draw_shape
from fastai.learner import load_learner
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image
from torch import nn

from bears.classifier import Classifier
from bears.novelty import KEEP, MOST, NEIGHBOURS, Reference, confidence_reached, conformal_limit, forward, pooled
from bears.training.dataset import check_photos, split


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(ROOT / "export.pkl")


def blobs(count: int, channels: int = 32, labels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in one cloud for each label, and the labels."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % labels
    centres = 4 * torch.eye(labels, channels)
    return centres[targets] + torch.rand(count, channels, generator=rng), targets


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(32, 20)


# The scores


def plainly(features, taught, targets, weight, bias):
    """Look and kind of each photo, written out, in double precision."""

    def kinds(features):
        logits = features @ weight.T + bias
        exponentials = np.exp(logits - logits.max())
        return exponentials / exponentials.sum()

    means = [np.mean([kinds(x) for x in taught[targets == label]], axis=0) for label in np.unique(targets)]
    for x in features:
        distances = sorted(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in taught)
        # the Hellinger distance is the Euclidean one between the square roots, over the square root of two
        hellinger = [np.linalg.norm(np.sqrt(kinds(x)) - np.sqrt(mean)) / np.sqrt(2) for mean in means]
        yield np.mean(distances[:NEIGHBOURS]), min(hellinger) ** 2


def test_distances_agree_with_a_plain_computation_in_double_precision(layer):
    taught, targets = blobs(60)
    strange = torch.cat([blobs(20, seed=1)[0], 3 * torch.randn(20, 32, generator=torch.Generator().manual_seed(2))])
    reference = Reference.fit(taught, targets, blobs(40, seed=3)[0], layer)
    double = [x.detach().double().numpy() for x in (strange, taught, targets, layer.weight, layer.bias)]
    expected = np.array(list(plainly(*double)))
    assert reference.distances(strange).numpy() == pytest.approx(expected, abs=2e-3)  # half precision is kept
    limits = reference.limits.double().numpy()
    assert reference.novelty(strange).numpy() == pytest.approx((expected / limits).max(1), abs=2e-2)


def test_its_units_are_distances_of_taught_photos_from_the_others(layer):
    """From themselves they are nothing. What validation adds is the same factor for look and kind."""
    taught, targets = blobs(60)
    double = [x.detach().double().numpy() for x in (taught, targets, layer.weight, layer.bias)]
    kinds = [kind for _, kind in plainly(double[0], *double)]
    looks = []
    for index, photo in enumerate(double[0]):
        others = np.delete(double[0], index, axis=0)
        looks.append(next(plainly([photo], others, np.delete(double[1], index), *double[2:]))[0])
    limits = Reference.fit(taught, targets, blobs(40, seed=3)[0], layer).limits.numpy()
    expected = np.quantile(looks, KEEP) / np.quantile(kinds, KEEP)
    assert limits[0] / limits[1] == pytest.approx(expected, rel=0.02)


def test_an_identical_photo_is_nothing_new(layer):
    photo, _ = blobs(1)
    reference = Reference.fit(photo.repeat(12, 1), torch.zeros(12), blobs(40, seed=3)[0], layer)
    assert reference.distances(photo).numpy() == pytest.approx(0, abs=1e-3)
    assert reference.novelty(photo).item() == pytest.approx(0, abs=1e-2)


def test_where_all_photos_look_nearly_the_same_another_one_is_novel():
    """What tells them apart is lost in half precision."""
    generator = torch.Generator().manual_seed(0)
    train, valid = (torch.tensor([0.53, 0.47, 0.47]) + 0.006 * torch.randn(99, 3, generator=generator) for _ in "12")
    reference = Reference.fit(train, torch.arange(99) % 3, valid)
    assert reference.novelty(valid).isfinite().all()
    assert 1 < reference.novelty(torch.tensor([[0.0, 1.0, 0.0]])).item() < float("inf")


def test_what_looks_alike_but_is_of_another_kind_is_novel():
    """The last layer of before tells apart what lies close together."""
    taught, targets = blobs(90)
    layer = nn.Linear(32, 2)
    layer.weight.data = torch.zeros(2, 32)
    layer.weight.data[1, 31] = 80.0  # another kind begins at 1.1 of a channel that says nothing of the labels
    layer.bias.data = torch.tensor([0.0, -88.0])
    valid, _ = blobs(90, seed=1)
    alike = valid.clone()
    alike[:, 31] = 1.3
    with_layer = Reference.fit(taught, targets, valid, layer)
    without = Reference.fit(taught, targets, valid)
    assert (without.novelty(alike) > 1).float().mean() < 0.5
    assert (with_layer.novelty(alike) > 1).all()


def test_without_the_layer_only_the_look_counts(layer):
    taught, targets = blobs(60)
    reference = Reference.fit(taught, targets, blobs(40, seed=1)[0])
    novelty = reference.novelty(taught)
    assert novelty.isfinite().all()
    assert torch.allclose(novelty, reference.distances(taught)[:, 0] / reference.limits[0])


def test_a_large_training_set_is_condensed():
    taught, targets = blobs(MOST + 500)
    reference = Reference.fit(taught, targets, blobs(100, seed=1)[0])
    assert reference.photos.shape == (MOST, 32)
    whole = blobs(100, seed=2)[0]
    assert (reference.novelty(whole) <= 1).float().mean() > 0.85


# The limit


def test_the_limit_keeps_the_stated_share_of_validation_photos(layer):
    taught, targets = blobs(90)
    valid, _ = blobs(200, seed=1)
    kept = (Reference.fit(taught, targets, valid, layer).novelty(valid) <= 1).float().mean().item()
    assert KEEP <= kept < 0.99


def test_the_limit_keeps_the_stated_share_of_new_photos_nine_times_out_of_ten():
    rng = np.random.default_rng(0)
    kept = [conformal_limit(torch.tensor(rng.random(150))) for _ in range(2000)]  # of uniform scores, the share below
    assert np.mean(np.array(kept) >= KEEP) == pytest.approx(0.9, abs=0.05)
    assert np.mean(np.array(kept) >= KEEP) >= 0.89, "binomial steps err on the side of keeping"


@pytest.mark.parametrize("count", [1, 4, 44])
def test_of_few_validation_photos_all_are_kept(count):
    novelty = torch.rand(count)
    assert conformal_limit(novelty) == novelty.max().item()


@pytest.mark.parametrize("photos", [3, 6, 20, 44, 45, 150, 1000])
def test_the_confidence_that_is_stated_is_how_often_enough_are_kept(photos):
    """Of uniform scores the share below a limit is the limit."""
    rng = np.random.default_rng(photos)
    kept = [conformal_limit(torch.tensor(rng.random(photos))) >= KEEP for _ in range(4000)]
    assert confidence_reached(photos) == pytest.approx(np.mean(kept), abs=0.025)
    assert (confidence_reached(photos) >= 0.9) == (photos >= 45)


# The export


def test_it_travels_as_tensors_of_the_model(layer):
    model = nn.Sequential(nn.Identity(), nn.Linear(32, 3))
    assert Reference.of(model) is None
    reference = Reference.fit(*blobs(60), blobs(40, seed=1)[0], layer)
    reference.store(model)
    again = Reference.of(model)
    features, _ = blobs(10, seed=2)
    assert torch.equal(again.novelty(features), reference.novelty(features))
    assert model(features).shape == (10, 3), "the model works as before"
    assert {name for name in model.state_dict() if name.startswith("novelty_")} and "bears" not in repr(vars(model))


def test_features_and_logits_come_from_one_pass():
    passes = []
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)))
    model[0].register_forward_hook(lambda *_: passes.append(1))
    batch = torch.rand(2, 3, 5, 5)
    activations, logits = forward(model, batch)
    assert passes == [1]
    assert torch.allclose(model[1][2](pooled(activations)), logits) and torch.allclose(model(batch), logits)


def test_the_release_runs_the_network_once_for_an_answer(classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = Classifier(load_learner(ROOT / "export.pkl"))
    passes = []
    counted._model[0].register_forward_hook(lambda *_: passes.append(1))
    assert counted.classify(draw_bear()) == classifier.classify(draw_bear())
    assert passes == [1]


# The released classifier


def text() -> Image.Image:
    page = Image.new("RGB", (480, 640), "white")
    ImageDraw.Draw(page).multiline_text((20, 20), "a page of text and nothing else\n" * 40, fill="black")
    return page


STRANGERS = {
    "temple": lambda: Image.fromarray(load_sample_image("china.jpg")),
    "flower": lambda: Image.fromarray(load_sample_image("flower.jpg")),
    "portrait": lambda: Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")),
    "noise": lambda: Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)),
    "nothing": lambda: Image.new("RGB", (300, 300), "#8a5a2b"),
    "text": text,
    "triangle": lambda: draw_shape("triangle", 1, size=300),
    "a bear's fur": lambda: draw_bear().crop((180, 300, 300, 380)).resize((480, 320)),
    "pixels of a bear": lambda: draw_bear().resize((8, 8)).resize((240, 240), Image.Resampling.NEAREST),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_not_recognised(classifier, name):
    answer = classifier.classify(STRANGERS[name]())
    assert answer.recognised is False and answer.novelty > 1
    assert answer.label in classifier.vocab, "the closest"


def test_a_bear_is_recognised(classifier):
    answer = classifier.classify(draw_bear())
    assert answer.recognised is True and 0 <= answer.novelty <= 1
    assert answer.label == "teddy"


def test_the_limit_keeps_real_bears_and_lets_no_others_pass(classifier, real_photos):
    photos, _ = check_photos(real_photos / "bears", ROOT / "cleaning.csv")
    bears = split(photos, 42).groupby("split").file
    others = sorted((real_photos / "not_bears").iterdir())[::3]
    groups = {"valid": bears.get_group("valid"), "test": bears.get_group("test"), "others": others}
    recognised = {
        name: np.mean([classifier.classify(file).recognised for file in files]) for name, files in groups.items()
    }
    assert recognised["valid"] >= KEEP and recognised["test"] > 0.92 and recognised["others"] < 0.02
