"""bears.training.weather: training photos get bad weather, no other photo does, and a seed gives it again."""

import numpy as np
import pytest
import torch
from conftest import draw_bear, draw_folder, draw_shape
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    PILImage,
    RandTransform,
    Resize,
    TensorImage,
    aug_transforms,
    set_seed,
    vision_learner,
)
from torch.nn import functional as F

from bears.classifier import Classifier
from bears.training.export import export
from bears.training.layouts import photo_files
from bears.training.weather import WEATHER, Weather, shrunk

SIDE = 96


def tensor(picture) -> torch.Tensor:
    return torch.tensor(np.asarray(picture.resize((SIDE, SIDE)))).permute(2, 0, 1).float() / 255


@pytest.fixture
def bear():
    return tensor(draw_bear(240))


@pytest.mark.parametrize("size", [(96, 96), (64, 130), (3, 5)])
@pytest.mark.parametrize("happen", WEATHER, ids=lambda function: function.__name__)
def test_each_changes_a_photo_and_keeps_its_shape(happen, size, bear):
    photo = F.interpolate(bear[None], size, mode="area")[0]
    before = photo.clone()
    changes = []
    for seed in range(20):
        torch.manual_seed(seed)
        after = happen(photo)
        assert after.shape == photo.shape and after.dtype == photo.dtype and after.isfinite().all()
        torch.manual_seed(seed)
        assert torch.equal(happen(photo), after), "the same again from a seed"
        changes.append((after - photo).abs().mean())
    assert min(size) < SIDE or np.median(changes) > 0.005, "one sees something of it"
    assert torch.equal(photo, before), "the photo itself is left as it was"


def test_what_is_shrunk_is_still_there_and_the_rest_is_another_photos():
    dark, bright = torch.full((3, SIDE, SIDE), 0.1), torch.full((3, SIDE, SIDE), 0.9)
    for seed in range(20):
        torch.manual_seed(seed)
        shares = (shrunk(dark, bright) < 0.5).float().mean()
        assert 0.33**2 * 0.6 < shares < 0.75**2
    assert bright.min() == 0.9


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("drawings"), 12)


class Storm(RandTransform):
    """For single photos of the training, from somebody's notebook."""

    def encodes(self, photo: PILImage):
        return photo


def loaders(folder, **arguments):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=photo_files,
        get_y=lambda path: path.parent.name,
        **{"item_tfms": Resize(SIDE)} | arguments,
    )
    set_seed(0)
    return block.dataloaders(folder, bs=8, num_workers=0)


def test_training_photos_alone_are_touched(drawings):
    fair, foul = loaders(drawings), loaders(drawings, batch_tfms=[Weather(share=1, small=0)])
    plain, changed = ([photo for batch, _ in dls.valid for photo in batch] for dls in (fair, foul))
    assert all(torch.equal(one, other) for one, other in zip(plain, changed, strict=True))
    plain, changed = ([photo for (batch,) in dls.test_dl(dls.train.items) for photo in batch] for dls in (fair, foul))
    assert all(torch.equal(one, other) for one, other in zip(plain, changed, strict=True)), "not when they are asked"

    before, after, again = (
        loaders(drawings, batch_tfms=batch_tfms).train.one_batch()[0]
        for batch_tfms in (None, [Weather(1)], [Weather(1)])
    )
    assert sum(not torch.allclose(one, other, atol=1e-4) for one, other in zip(before, after, strict=True)) >= 7
    assert torch.equal(after, again)


@pytest.mark.parametrize(("share", "small", "expected"), [(0, 0, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (1, 1, 1)])
def test_so_many_are_touched_as_was_asked(share, small, expected):
    photos = torch.stack([tensor(draw_shape("circle", seed)) for seed in range(8)])
    transform, touched = Weather(share, small), []
    torch.manual_seed(0)
    for _ in range(25):
        after = transform.encodes(TensorImage(photos))
        assert after.min() >= 0 and after.max() <= 1
        touched += [not torch.equal(one, other) for one, other in zip(photos, after, strict=True)]
    assert np.mean(touched) == pytest.approx(expected, abs=0.12)


@pytest.mark.filterwarnings("ignore:load_learner:UserWarning")
def test_an_export_knows_nothing_of_it(drawings, tmp_path):
    dls = loaders(drawings, item_tfms=[Resize(SIDE), Storm()], batch_tfms=[*aug_transforms(), Weather()])
    learner = vision_learner(dls, "resnet18", pretrained=False, lin_ftrs=[])
    export(learner, tmp_path / "export.pkl")
    content = (tmp_path / "export.pkl").read_bytes().lower()
    assert b"weather" not in content and b"storm" not in content
    learner.model.eval()
    photo = photo_files(drawings)[0]
    with learner.no_bar(), learner.no_logging():
        expected = learner.predict(photo)[2].tolist()
    answer = Classifier.load(tmp_path / "export.pkl").classify(photo)
    assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)
