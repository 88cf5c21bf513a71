"""bears.training and training.ipynb: photos become an export.pkl, fast, or a sentence says why not."""

import hashlib
import pickle
import subprocess
import sys

import nbformat
import papermill
import pytest
import timm
import torch
import torchvision
from conftest import ROOT, draw_bear, draw_folder, draw_loaders, draw_shape
from fastai.callback.fp16 import MixedPrecision
from fastai.vision.all import create_body, model_meta, vision_learner
from papermill.exceptions import PapermillExecutionError
from sklearn.datasets import load_sample_image

from bears.classifier import Classifier
from bears.dataset import DELETE, TrainingError, decide, photo_files
from bears.novelty import forward
from bears.photos import open_photo
from bears.training import DecodedOnce, callbacks, pretrained, pretrained_layer


def run_notebook(tmp_path, **parameters) -> nbformat.NotebookNode:
    """training.ipynb, run from top to bottom on a fresh kernel, in its own folder."""
    return papermill.execute_notebook(
        ROOT / "training.ipynb", tmp_path / "run.ipynb", parameters, cwd=tmp_path, progress_bar=False
    )


def outputs(notebook, cell_id: str) -> str:
    """All text in the outputs of one cell."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(texts)


# The weights


def test_the_packaged_weights_recognise_what_imagenet_taught_them():
    """A wrong order of tensors would still load: what they see on a photo of a temple by a lake tells."""
    arch = "tf_efficientnet_lite0"
    model = timm.create_model(arch, pretrained=True, **pretrained(arch)).eval()
    photo = torch.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        logits = model(torch.nn.functional.interpolate(photo, (224, 224), mode="bilinear", antialias=True))
    plausible = {442: "bell cote", 449: "boathouse", 483: "castle", 663: "monastery", 698: "palace", 975: "lakeside"}
    assert set(logits[0].topk(5).indices.tolist()) <= set(plausible)


def test_the_layer_that_was_cut_off_names_what_imagenet_taught(tmp_path):
    dls, _ = draw_loaders(tmp_path, 10, 32)
    arch = "tf_efficientnet_lite0"
    learner = vision_learner(dls, arch, lin_ftrs=[], **pretrained(arch))
    layer = pretrained_layer(learner)
    whole = timm.create_model(arch, pretrained=True, **pretrained(arch)).eval()
    photos = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, _ = forward(learner.model.eval(), photos)
        assert torch.allclose(layer(features), whole(photos), atol=1e-3)

    learner.model[0].model.conv_stem.weight.data *= 2
    assert pretrained_layer(learner) is None, "it does not fit features that are no longer those it was made for"


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "squeezenet1_0"])
def test_torchvisions_networks_have_such_a_layer_or_none(tmp_path, monkeypatch, name):
    arch = getattr(torchvision.models, name)
    torch.manual_seed(0)
    network = arch(weights=None).eval()  # as if downloaded
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: network)
    dls, _ = draw_loaders(tmp_path, 10, 32)
    learner = vision_learner(dls, arch, pretrained=False, lin_ftrs=[])
    body = create_body(network, pretrained=False, cut=model_meta.get(arch, {"cut": None})["cut"])
    learner.model[0].load_state_dict(body.state_dict())
    layer = pretrained_layer(learner)
    assert (layer is network.fc) if name == "resnet18" else layer is None


@pytest.mark.parametrize("arch", ["resnet18", torchvision.models.resnet18])
def test_weights_that_no_package_has_are_downloaded_or_a_sentence_says_why_not(monkeypatch, arch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: asked.append(name))
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: asked.append(name))
    assert pretrained(arch) == {} and asked == ["resnet18"]

    def unreachable(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    with pytest.raises(TrainingError, match="weights of resnet18 could not be downloaded.*lite0"):
        pretrained(arch)


def test_a_network_that_does_not_exist():
    with pytest.raises(TrainingError, match="timm knows no network 'resnet17'"):
        pretrained("resnet17")


# Speed without a difference


def test_a_decoded_photo_is_the_photo_and_comes_from_memory(tmp_path):
    folder = draw_folder(tmp_path, 2)
    files = photo_files(folder)
    opened = DecodedOnce(files, side=96)
    assert opened(files[0]).tobytes() == open_photo(files[0]).tobytes()
    files[0].unlink()
    assert opened(files[0]).size == (96, 96)
    assert len(pickle.dumps(opened)) < 1000, "the pictures are no part of an export"


def test_a_photo_that_does_not_fit_into_memory_is_decoded_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("bears.training.CACHE_BYTES", 3 * 96 * 96 * 3)
    files = photo_files(draw_folder(tmp_path, 2))
    opened = DecodedOnce(files, side=96)
    assert [opened(file).size for file in files] == [(96, 96)] * 6


def test_a_large_photo_is_kept_no_larger_than_needed(tmp_path):
    (tmp_path / "circle").mkdir()
    file = tmp_path / "circle" / "large.png"
    draw_shape("circle", 1, size=500).resize((700, 500)).save(file)
    assert DecodedOnce([file], side=100)(file).size == (140, 100)


def test_keeping_memory_changes_no_result():
    """In a process of its own, because it cannot be undone."""
    code = """
import sys, torch
from bears.memory import keep_memory
if sys.argv[1] == "keep": keep_memory()
torch.manual_seed(0); torch.set_num_threads(1)
print(torch.nn.Conv2d(3, 64, 3)(torch.rand(8, 3, 128, 128)).double().sum().item())
"""
    one, other = (
        subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True).stdout
        for mode in ("keep", "not")
    )
    assert one == other and one


def test_training_keeps_the_statistics_of_the_pretrained_network(tmp_path):
    dls, _ = draw_loaders(tmp_path, 10, 32)
    arch = "tf_efficientnet_lite0"
    learner = vision_learner(dls, arch, lin_ftrs=[], first_bn=False, cbs=callbacks(), **pretrained(arch))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(1)
    after = learner.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "running" in name} <= same
    assert not [name for name in same if name.endswith("weight")], "all weights have learnt"


def test_half_precision_is_for_gpus():
    kinds = [type(callback) for callback in callbacks(torch.device("cpu"))]
    assert MixedPrecision not in kinds
    assert [type(callback) for callback in callbacks(torch.device("cuda"))] == [*kinds, MixedPrecision]


# The notebook


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory):
    """training.ipynb on drawings of three shapes, with bears for strangers and one decision; twice, in two folders."""
    runs = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("run")
        draw_folder(folder / "drawings", 40)
        (folder / "strangers" / "bears").mkdir(parents=True)
        for number in range(12):
            draw_bear(96).rotate(30 * number).save(folder / "strangers" / "bears" / f"{number}.png")
        decide(folder / "cleaning.csv", _sha256(folder / "drawings" / "circle" / "3.png"), "circle", DELETE, "a test")
        runs.append((folder, run_notebook(folder, **SMALL)))
    return runs


def _sha256(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


SMALL = {
    "folder": "drawings",
    "arch": "tf_efficientnet_lite0",
    "image_size": 64,
    "head_epochs": 3,
    "epochs": 2,
    "batch_size": 16,
    "export_to": "shapes.pkl",
}


def test_the_notebook_learns_three_drawn_shapes(shapes_run):
    (folder, notebook), _ = shapes_run
    assert " right" in outputs(notebook, "answer")
    assert "cleaning: left out, a test" in outputs(notebook, "check")
    classifier = Classifier.load(folder / "shapes.pkl")
    assert classifier.vocab == ["circle", "square", "triangle"]
    fresh = [(shape, draw_shape(shape, seed)) for shape in classifier.vocab for seed in range(1000, 1020)]
    right = [classifier.classify(picture).label == shape for shape, picture in fresh]
    assert sum(right) >= 48, "of 60 drawings it has not seen"
    card = (folder / "MODEL_CARD.md").read_text()
    assert "circle, square, triangle" in card and "| all |" in card and "cleaning.csv" in card


def test_the_notebook_teaches_it_what_it_does_not_know(shapes_run):
    (folder, notebook), _ = shapes_run
    classifier = Classifier.load(folder / "shapes.pkl")
    assert classifier.classify(draw_bear(96)).recognised is False
    fresh = [classifier.classify(draw_shape(shape, seed)) for shape in classifier.vocab for seed in range(1000, 1020)]
    assert sum(answer.recognised for answer in fresh) >= 48, "of 60 drawings it has not seen"
    assert "bears" in outputs(notebook, "novelty") and "doubted" in outputs(notebook, "novelty")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "| bears | 12 | " in card and "are doubted" in card


def test_on_a_cpu_a_second_run_is_the_same(shapes_run):
    (one, first), (other, second) = shapes_run
    for cell in ("split", "per-class", "temperature", "limit", "test", "novelty", "coverage"):
        assert outputs(first, cell) == outputs(second, cell) != ""
    models = [Classifier.load(folder / "shapes.pkl") for folder in (one, other)]
    picture = draw_shape("square", 1234)
    assert models[0].classify(picture) == models[1].classify(picture)


def test_the_notebook_learns_five_labels_of_any_name(tmp_path):
    shapes = ["circle", "square", "triangle"]
    draw_folder(tmp_path / "drawings", 14, shapes)
    draw_folder(tmp_path / "more", 14, ["circle", "square"])
    for shape, label in ("circle", "ein Kreis & mehr"), ("square", "四角"):
        (tmp_path / "more" / shape).rename(tmp_path / "drawings" / label)
        for number, file in enumerate(sorted((tmp_path / "drawings" / label).iterdir())):
            draw_shape(shape, 500 + number).transpose(1).resize((128, 128)).save(file)
    run_notebook(tmp_path, **SMALL | {"epochs": 1, "head_epochs": 1})
    assert Classifier.load(tmp_path / "shapes.pkl").vocab == sorted([*shapes, "ein Kreis & mehr", "四角"])


def test_the_notebook_stops_with_a_sentence(tmp_path):
    draw_folder(tmp_path / "drawings", 12, shapes=["circle"])
    with pytest.raises(PapermillExecutionError) as caught:
        run_notebook(tmp_path, folder="drawings")
    assert caught.value.ename == "TrainingError"
    assert len(caught.value.traceback) == 1, "the sentence, and no stack of calls"
    assert not (tmp_path / "export.pkl").exists()


def test_without_photos_the_notebook_asks_for_an_address_or_photos(tmp_path):
    with pytest.raises(PapermillExecutionError) as caught:
        run_notebook(tmp_path, folder="drawings")
    assert caught.value.ename == "TrainingError" and "put photos of your own" in caught.value.evalue


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_notebook_trains_on_a_gpu(tmp_path):
    draw_folder(tmp_path / "drawings", 40)
    run_notebook(tmp_path, **SMALL)
    assert Classifier.load(tmp_path / "shapes.pkl").vocab == ["circle", "square", "triangle"]
