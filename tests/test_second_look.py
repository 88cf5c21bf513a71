"""bears.second_look: where an answer came from, and that a closer look counts if it finds something familiar."""

import pytest
import torch
from conftest import draw_loaders
from fastai.learner import Learner
from fastai.vision.all import AdaptiveConcatPool2d, CropPad, CrossEntropyLossFlat
from PIL import Image
from torch import nn

from bears.classifier import Classifier, _cropped
from bears.novelty import Reference
from bears.second_look import LEAST, MARGIN, part
from bears.training.export import portable

GREY, RED, GREEN = (128, 128, 128), (255, 0, 0), (0, 255, 0)


def linear_head(weight: torch.Tensor) -> nn.Sequential:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.float(), torch.zeros(len(weight))
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), layer).eval()


# Where the answer came from


def spoken_for(rows: slice, columns: slice) -> torch.Tensor:
    """Activations (2, 10, 20) in which those places speak for the first of two labels, and no other does."""
    activations = torch.zeros(2, 10, 20)
    activations[0, rows, columns] = 1
    return activations


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(3, 7), slice(6, 14), (0.27, 0.27, 0.73, 0.73)),  # of 0.4, 15 % more: 0.46, about the same middle
        (slice(0, 4), slice(12, 20), (0.54, 0.0, 1.0, 0.46)),  # in a corner, from there
        (slice(5, 6), slice(10, 11), (0.375, 0.4, 0.675, 0.7)),  # a single place: 0.3
        (slice(0, 10), slice(0, 8), (0.0, 0.0, 0.46, 1.0)),  # from above to below, and not more
    ],
)
@torch.inference_mode()
def test_the_part_holds_what_spoke_for_the_answer(rows, columns, expected):
    assert (MARGIN, LEAST) == (0.15, 0.3), "what the figures above are worked out with"
    head, activations = linear_head(torch.eye(2)), spoken_for(rows, columns)
    assert part(head, activations, head(activations[None])[0]) == pytest.approx(expected)
    turned = activations.flip(0)  # for the other label
    assert part(head, turned, head(turned[None])[0]) == pytest.approx(expected)


@torch.inference_mode()
def test_where_places_cannot_be_told_there_is_no_part():
    everywhere = torch.ones(2, 10, 20)
    head = linear_head(torch.eye(2))
    assert part(head, everywhere, head(everywhere[None])[0]) is None, "all say the same"
    features = torch.tensor([1.0, 0.0])
    assert part(nn.Linear(2, 2), features, features) is None, "the body has pooled them"
    some = spoken_for(slice(3, 7), slice(6, 14))
    pools_two_ways = nn.Sequential(AdaptiveConcatPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    assert part(pools_two_ways, some, pools_two_ways(some[None])[0]) is None, "a maximum is no mean over places"
    wide = spoken_for(slice(0, 10), slice(0, 19))
    assert part(head, wide, head(wide[None])[0]) is None, "with its margin it is everything"


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(2 * 10 * 20, 2)),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.InstanceNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
)
@torch.inference_mode()
def test_heads_that_need_more_than_one_place_have_no_part(head):
    some = spoken_for(slice(3, 7), slice(6, 14))
    assert part(head, some, head(some[None])[0]) is None


# What it is for


def classifier_of_colours(folder, taught: float = 0.45, method: str = "squish") -> Classifier:
    """What it sees is the mean colour; it was taught three colours that lie so far from grey, 0 to 0.5."""
    return Classifier(learner_of_colours(draw_loaders(folder, 10, 64, method)[0], taught))


def learner_of_colours(dls, taught: float = 0.45) -> Learner:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), linear_head(20 * torch.eye(3)))
    generator = torch.Generator().manual_seed(0)
    colours = (0.5 + taught * (2 * torch.eye(3) - 1)).repeat(40, 1)
    train, valid = (colours + 0.2 * taught * torch.randn(colours.shape, generator=generator) for _ in range(2))
    Reference.fit(train, torch.arange(3).repeat(40), valid).store(model)
    return Learner(dls, model, loss_func=CrossEntropyLossFlat())


def small(colour: tuple[int, int, int], at=(0.6, 0.1), size=(320, 320), share: float = 0.25) -> Image.Image:
    """A square of that colour, with that share of the width and height, on grey."""
    picture = Image.new("RGB", size, GREY)
    left, top = (round(start * length) for start, length in zip(at, size, strict=True))
    picture.paste(colour, (left, top, left + round(share * size[0]), top + round(share * size[1])))
    return picture


def passes(classifier: Classifier, picture: Image.Image) -> int:
    """How often its network runs for that picture, which it does not recognise."""
    seen = []
    hook = classifier._model[0].register_forward_hook(lambda *_: seen.append(1))
    (first,) = classifier._looks([picture])
    assert first.novelty > 1
    seen.clear()
    classifier.classify(picture)
    hook.remove()
    return len(seen)


@pytest.mark.parametrize("size", [(320, 320), (640, 200), (200, 500)])
def test_what_is_small_is_looked_at_again_closer(tmp_path, size):
    classifier = classifier_of_colours(tmp_path / "photos")
    picture = small(RED, (0.625, 0.125), size)
    answer = classifier.classify(picture)
    left, top, right, bottom = answer.part
    assert left <= 0.625 < 0.875 <= right and top <= 0.125 < 0.375 <= bottom, "the square is in it"
    assert right - left < 0.35 and bottom - top < 0.35
    (closer,) = classifier._looks([_cropped(picture, answer.part)])
    assert [*answer.probabilities.values()] == closer.values.tolist() and answer.novelty == closer.novelty
    assert answer.probability > 0.99


def test_of_a_list_only_what_is_not_recognised_is_looked_at_again(tmp_path):
    classifier = classifier_of_colours(tmp_path / "photos")
    seen = []
    classifier._model[0].register_forward_hook(lambda *arguments: seen.append(len(arguments[1][0])))
    whole = Image.new("RGB", (320, 320), RED)
    answers = classifier.classify([small(GREEN), whole, small(RED)])
    assert [answer.part is None for answer in answers] == [False, True, False]
    assert len({answer.label for answer in answers}) == 2 and answers[1].label == answers[2].label
    assert seen == [3, 2], "one more pass, of two photos"
    seen.clear()
    assert classifier.classify(whole).part is None and seen == [1]


def test_the_first_look_stays_where_the_second_finds_nothing_familiar(tmp_path):
    classifier = classifier_of_colours(tmp_path / "photos", taught=0.06)
    seen = []
    classifier._model[0].register_forward_hook(lambda *_: seen.append(1))
    picture = small(RED, share=0.4)
    answer = classifier.classify(picture)
    assert len(seen) == 2
    (first,) = classifier._looks([picture])
    assert answer.part is None and (answer.novelty, answer.recognised) == (first.novelty, False)
    assert [*answer.probabilities.values()] == first.values.tolist()


def test_what_does_not_see_the_whole_photo_does_not_look_again(tmp_path):
    """Where the network sees the middle only, its places are not those of the photo."""
    classifier = classifier_of_colours(tmp_path / "photos", method="crop")
    assert passes(classifier, small(RED)) == 1


def test_a_crop_before_the_squish_is_no_whole_photo_either(tmp_path):
    dls, _ = draw_loaders(tmp_path / "photos", 10, 64)
    learner = learner_of_colours(dls)
    assert passes(Classifier(learner), small(RED)) == 2
    dls.valid.after_item.fs.insert(0, CropPad(200))
    assert passes(Classifier(learner), small(RED)) == 1


def test_a_head_that_flattens_is_served_without_a_second_look(tmp_path):
    dls, _ = draw_loaders(tmp_path / "photos", 10, 64)
    flattens = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    learner = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(8), flattens), loss_func=CrossEntropyLossFlat())
    features = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(portable(learner, reference=Reference.fit(features, torch.arange(30) % 3, features)))
    answers = classifier.classify([small(RED), Image.new("RGB", (64, 64), RED)])
    assert False in [answer.recognised for answer in answers] and {answer.part for answer in answers} == {None}


def test_without_a_reference_there_is_no_second_look(tmp_path):
    """Nothing would say which look to believe."""
    dls, _ = draw_loaders(tmp_path / "photos", 10, 64)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), linear_head(20 * torch.eye(3)))
    classifier = Classifier(Learner(dls, model, loss_func=CrossEntropyLossFlat()))
    assert classifier.classify(small(RED)).part is None
