"""bears.training.export: what was trained opens without this package, answers the same, and says what it is."""

import errno
import hashlib

import pandas as pd
import pytest
import torch
from conftest import assert_portable, draw_folder, draw_loaders, draw_shape
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.mixup import MixUp
from fastai.callback.training import BnFreeze
from fastai.learner import Learner, load_learner
from fastai.tabular.all import TabularDataLoaders, tabular_learner
from fastai.vision.all import (
    BCEWithLogitsLossFlat,
    CategoryBlock,
    CrossEntropyLossFlat,
    DataBlock,
    DataLoader,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    LabelSmoothingCrossEntropyFlat,
    MaskBlock,
    MultiCategoryBlock,
    PILImageBW,
    PILMask,
    RegressionBlock,
    Resize,
    error_rate,
    resnet18,
    vision_learner,
)
from PIL import Image
from torch import nn

from bears.classifier import Classifier, ExportError
from bears.novelty import Reference
from bears.photos import open_photo
from bears.training import TrainingError
from bears.training.evaluation import outputs
from bears.training.export import _folded, export, portable
from bears.training.layouts import photo_files
from bears.training.learning import pretrained, pretrained_layer

pytestmark = pytest.mark.filterwarnings("ignore:load_learner:UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learner as training.ipynb makes it, and its data set; untrained, which is enough here."""
    dls, photos = draw_loaders(tmp_path_factory.mktemp("drawings"), 12, 64)
    arch = "tf_efficientnet_lite0"
    cbs = [ChannelsLast(), BnFreeze(), MixUp()]
    learner = vision_learner(dls, arch, metrics=error_rate, lin_ftrs=[], cbs=cbs, **pretrained(arch))
    return learner, photos


def test_an_export_leaves_behind_what_a_notebook_defined(tmp_path):
    draw_folder(tmp_path / "drawings", 10)
    bears = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=photo_files,
        get_x=lambda path: open_photo(path),
        get_y=lambda path: path.parent.name.upper(),
        item_tfms=Resize(32),
    )
    dls = bears.dataloaders(tmp_path / "drawings", path=tmp_path, bs=8, num_workers=0)
    learner = vision_learner(dls, resnet18, pretrained=False, metrics=error_rate, model_dir="/somewhere/else")

    export(learner, tmp_path / "new" / "shapes.pkl")

    assert_portable(tmp_path / "new" / "shapes.pkl")
    classifier = Classifier.load(tmp_path / "new" / "shapes.pkl")
    assert classifier.vocab == ["CIRCLE", "SQUARE", "TRIANGLE"]
    learner.model.eval()
    with learner.no_bar(), learner.no_logging():
        for photo in photo_files(tmp_path / "drawings")[::10]:
            expected = learner.predict(photo)[2].tolist()
            assert list(classifier.classify(photo).probabilities.values()) == pytest.approx(expected, abs=1e-4)


def test_an_export_holds_neither_the_photos_nor_what_only_training_needs(trained, tmp_path):
    learner, photos = trained
    export(learner, tmp_path / "export.pkl")
    assert_portable(tmp_path / "export.pkl")
    assert (tmp_path / "export.pkl").stat().st_size < 20 * 2**20
    released = load_learner(tmp_path / "export.pkl")
    assert {"MixUp", "BnFreeze", "ChannelsLast"}.isdisjoint(type(callback).__name__ for callback in released.cbs)


def test_batch_norms_are_folded_away_and_the_answers_stay(trained, tmp_path):
    learner, photos = trained
    export(learner, tmp_path / "export.pkl")
    released = load_learner(tmp_path / "export.pkl").model
    assert not [module for module in released.modules() if isinstance(module, nn.BatchNorm2d)]
    classifier = Classifier.load(tmp_path / "export.pkl")
    with learner.no_bar(), learner.no_logging():
        expected, _ = learner.get_preds(dl=learner.dls.test_dl(photos))
    for file, probabilities in zip(photos.file, expected.tolist(), strict=True):
        answer = list(classifier.classify(file).probabilities.values())
        assert answer == pytest.approx(probabilities, abs=1e-3)


def test_a_model_whose_order_misleads_is_left_as_it_was():
    """The batch norm stands behind the convolution, but comes before it."""

    class Twisted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.bn.running_mean += 5

        def forward(self, x):
            return self.conv(self.bn(x))

    model = Twisted().eval()
    assert _folded(model, (8, 8)) is model


def test_the_temperature_travels_as_a_tensor_and_softens_the_answer(trained, tmp_path):
    learner, photos = trained
    sure, soft = tmp_path / "sure" / "export.pkl", tmp_path / "soft" / "export.pkl"
    export(learner, sure)
    export(learner, soft, temperature=2.5)
    assert load_learner(soft).model.temperature.item() == 2.5
    picture = draw_shape("circle", 1)
    one, other = (Classifier.load(path).classify(picture) for path in (sure, soft))
    expected = torch.softmax(torch.tensor(list(one.probabilities.values())).log() / 2.5, 0)
    assert list(other.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert one.label == other.label


def test_the_reference_travels_as_tensors_and_says_what_is_strange(trained, tmp_path):
    learner, photos = trained
    taught = outputs(learner.model, learner.dls.test_dl(photos[photos.split == "train"], with_labels=True))
    valid = outputs(learner.model, learner.dls.valid)
    reference = Reference.fit(taught.features, taught.targets, valid.features, pretrained_layer(learner))
    export(learner, tmp_path / "export.pkl", reference=reference)
    assert_portable(tmp_path / "export.pkl")
    assert (tmp_path / "export.pkl").stat().st_size < 25 * 2**20
    classifier = Classifier.load(tmp_path / "export.pkl")
    for file, expected in zip(learner.dls.valid.items.file, reference.novelty(valid.features).tolist(), strict=True):
        answer = classifier.classify(file)
        assert answer.novelty == pytest.approx(expected, abs=2e-2)  # batch norms are folded
        assert answer.recognised == (answer.novelty <= 1)
    assert classifier.classify(Image.new("RGB", (96, 96), "white")).recognised is False
    # and with fastai alone
    with learner.no_bar(), learner.no_logging():
        assert load_learner(tmp_path / "export.pkl").predict(file)[0] == answer.label


def test_what_is_measured_before_the_export_is_what_visitors_get(trained, tmp_path):
    learner, _ = trained
    valid = outputs(learner.model, learner.dls.valid)
    reference = Reference.fit(valid.features, valid.targets.long(), valid.features)
    arguments = (1.5, reference, 0.1)
    export(learner, tmp_path / "export.pkl", *arguments)
    before, after = Classifier(portable(learner, *arguments)), Classifier.load(tmp_path / "export.pkl")
    pictures = [draw_shape(shape, 1) for shape in ("circle", "square", "triangle")]
    assert before.classify(pictures) == after.classify(pictures)


def test_an_export_without_a_reference_serves_and_its_novelty_is_unknown(trained, tmp_path):
    learner, _ = trained
    export(learner, tmp_path / "export.pkl")
    classifier = Classifier.load(tmp_path / "export.pkl")
    answer = classifier.classify(draw_shape("circle", 1))
    assert classifier.reference is answer.novelty is answer.recognised is None
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_the_floor_travels_as_a_tensor_and_says_what_is_plausible(trained, tmp_path):
    learner, _ = trained
    export(learner, tmp_path / "low" / "export.pkl", floor=0.0)
    export(learner, tmp_path / "high" / "export.pkl", floor=0.999)
    export(learner, tmp_path / "none" / "export.pkl")
    low, high, none = (
        Classifier.load(tmp_path / name / "export.pkl").classify(draw_shape("circle", 1))
        for name in ("low", "high", "none")
    )
    assert low.plausible == tuple(sorted(low.probabilities, key=low.probabilities.get, reverse=True))
    assert high.plausible == (high.label,) and none.plausible is None
    exactly = min(low.probabilities.values())
    export(learner, tmp_path / "exact" / "export.pkl", floor=exactly + 1e-4)
    exact = Classifier.load(tmp_path / "exact" / "export.pkl").classify(draw_shape("circle", 1))
    assert exact.plausible == low.plausible[:2]


PHOTO, FOUR = Image.new("RGB", (32, 32)), range(4)  # of which two are for validation


def label(number):
    return f"label {number % 2}"


def photo_learner(*targets, get_y=label, inputs=(ImageBlock,), loss_func=None, n_out=None, n_in=3):
    """A learner with photos in, as such, and something else out."""
    block = DataBlock(
        blocks=(*inputs, *targets),
        get_x=[lambda _: PHOTO] * len(inputs),
        get_y=get_y,
        n_inp=len(inputs),
        splitter=IndexSplitter([2, 3]),
        item_tfms=Resize(32),
    )
    dls = block.dataloaders(FOUR, bs=2, num_workers=0)
    return vision_learner(dls, resnet18, pretrained=False, loss_func=loss_func, n_out=n_out, n_in=n_in)


def of_numbers():
    table = pd.DataFrame({"weight": [1.0, 2.0] * 4, "kind": ["a", "b"] * 4})
    return tabular_learner(TabularDataLoaders.from_df(table, cont_names=["weight"], y_names="kind", bs=2))


def of_loaders_of_torch():
    loader = DataLoader([(torch.rand(3, 32, 32), number % 2) for number in FOUR], bs=2)
    return Learner(DataLoaders(loader, loader), nn.Flatten(), loss_func=CrossEntropyLossFlat())


def mask(_):
    return PILMask.create(Image.new("L", (32, 32)))


UNFIT = {  # and what is said of it
    "several labels": (
        lambda: photo_learner(MultiCategoryBlock, get_y=lambda number: [label(number)]),
        "its loss function, BCEWithLogitsLossFlat, weighs each label by itself",
    ),
    "two labels": (
        lambda: photo_learner(
            CategoryBlock, CategoryBlock, get_y=[label, label], loss_func=CrossEntropyLossFlat(), n_out=2
        ),
        "it gives a photo 2 labels of different kinds",
    ),
    "a number": (
        lambda: photo_learner(RegressionBlock, get_y=lambda number: 1.5 * number, n_out=1),
        "such as a number",
    ),
    "a mask": (
        lambda: photo_learner(MaskBlock(["a", "b"]), get_y=mask, loss_func=CrossEntropyLossFlat(axis=1)),
        "or a mask",
    ),
    "scores of a plain loss": (
        lambda: photo_learner(CategoryBlock, loss_func=nn.CrossEntropyLoss()),
        "its loss function, CrossEntropyLoss, does not say how scores become probabilities",
    ),
    "each label by itself": (
        lambda: photo_learner(CategoryBlock, loss_func=BCEWithLogitsLossFlat()),
        "a photo may have several or none",
    ),
    "two photos": (
        lambda: photo_learner(CategoryBlock, inputs=(ImageBlock, ImageBlock)),
        "it looks at 2 things at once",
    ),
    "grey photos": (
        lambda: photo_learner(CategoryBlock, inputs=(ImageBlock(PILImageBW),), n_in=1),
        "it fails on a photo of red, green and blue: .* to have 1 channels, but got 3",
    ),
    "scores without a label": (lambda: photo_learner(CategoryBlock, n_out=3), "it gives 3 scores for 2 labels"),
    "a table": (of_numbers, "its data is not made of photos and labels"),
    "loaders of torch": (of_loaders_of_torch, "its data is not made of photos and labels"),
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # fastai's table
@pytest.mark.parametrize("kind", UNFIT)
def test_a_learner_that_the_page_cannot_serve_is_not_exported_and_not_loaded(kind, tmp_path):
    make, reason = UNFIT[kind]
    learner = make()
    path = tmp_path / "export.pkl"
    with pytest.raises(TrainingError, match=rf"^This learner cannot be served: .*{reason}.* Train it with blocks="):
        export(learner, path)
    assert list(tmp_path.iterdir()) == []
    if kind == "loaders of torch":  # which fastai cannot export, either
        return
    learner.export(path.absolute())
    with pytest.raises(ExportError, match=rf"export.pkl cannot be served: .*{reason}.* Train it with blocks="):
        Classifier.load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_learner_of_fastais_own_making_is_served(tmp_path):
    """As the book makes it, and exported by fastai, with another loss than usual."""
    learner = photo_learner(CategoryBlock, loss_func=LabelSmoothingCrossEntropyFlat())
    path = tmp_path / "export.pkl"
    learner.export(path.absolute())
    answer = Classifier.load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest()).classify(PHOTO)
    assert list(answer.probabilities) == ["label 0", "label 1"]


def test_a_full_disk_leaves_the_export_of_before(trained, tmp_path, monkeypatch):
    learner, photos = trained
    export(learner, tmp_path / "export.pkl")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(contents):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bears.training.export.write_whole", full)
    with pytest.raises(TrainingError, match="cannot be written: No space left on device"):
        export(learner, tmp_path / "export.pkl", temperature=2.0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
