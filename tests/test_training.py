"""bears.training and training.ipynb: a folder of photos becomes an export.pkl, or a sentence says why not."""

import nbformat
import papermill
import pytest
import timm
import torch
from conftest import ROOT, assert_portable, draw_folder, draw_shape
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    Resize,
    error_rate,
    resnet18,
    vision_learner,
)
from papermill.exceptions import PapermillExecutionError
from sklearn.datasets import load_sample_image

from bears.classifier import Classifier
from bears.photos import open_photo
from bears.training import TrainingError, check_photos, export, photo_files, pretrained


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


# The photos


def test_photos_are_counted_by_label(tmp_path):
    draw_folder(tmp_path, 12)
    (tmp_path / "circle" / ".DS_Store").write_bytes(b"not for us")
    (tmp_path / "manifest.csv").write_text("not in a label's folder")
    assert check_photos(tmp_path) == {"circle": 12, "square": 12, "triangle": 12}
    assert len(photo_files(tmp_path)) == 36


def test_no_photos(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TrainingError, match=rf"There are no photos in {folder}\. Put them in one folder for each"):
            check_photos(folder)


def test_one_label(tmp_path):
    draw_folder(tmp_path, 12, shapes=["circle"])
    with pytest.raises(TrainingError, match="the label 'circle'.*Put photos of another"):
        check_photos(tmp_path)


def test_too_few_photos_of_a_label(tmp_path):
    draw_folder(tmp_path, 12)
    for file in sorted((tmp_path / "square").iterdir())[3:]:
        file.unlink()
    with pytest.raises(TrainingError, match="square: 3.*at least 10"):
        check_photos(tmp_path)


def test_files_that_are_no_photos_are_all_listed_with_the_reason(tmp_path):
    draw_folder(tmp_path, 12)
    (tmp_path / "circle" / "notes.txt").write_text("all mine")
    (tmp_path / "square" / "3.png").write_bytes(b"")
    with pytest.raises(TrainingError) as caught:
        check_photos(tmp_path)
    sentence, *files = str(caught.value).splitlines()
    assert sentence == "Of 37 files, 2 cannot be used. Remove or replace them."
    assert "notes.txt" in files[0] and "not a picture" in files[0]
    assert "3.png" in files[1] and "empty" in files[1]


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


def test_other_architectures_are_left_to_fastai():
    assert pretrained("resnet18") == {}
    assert pretrained(timm.models.resnet18) == {}


# The export


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
    learner = vision_learner(dls, resnet18, pretrained=False, metrics=error_rate)

    export(learner, tmp_path / "new" / "shapes.pkl")

    assert_portable(tmp_path / "new" / "shapes.pkl")
    classifier = Classifier.load(tmp_path / "new" / "shapes.pkl")
    assert classifier.vocab == ["CIRCLE", "SQUARE", "TRIANGLE"]
    learner.model.eval()
    with learner.no_bar(), learner.no_logging():
        for photo in photo_files(tmp_path / "drawings")[::10]:
            expected = learner.predict(photo)[2].tolist()
            assert list(classifier.classify(photo).probabilities.values()) == pytest.approx(expected, abs=1e-4)


# The notebook


def test_the_notebook_learns_three_drawn_shapes(tmp_path):
    draw_folder(tmp_path / "drawings", 40)
    notebook = run_notebook(tmp_path, folder="drawings", image_size=64, epochs=5, export_to="shapes.pkl")
    assert "This should be" in outputs(notebook, "answer")

    classifier = Classifier.load(tmp_path / "shapes.pkl")
    assert classifier.vocab == ["circle", "square", "triangle"]
    fresh = [(shape, draw_shape(shape, seed)) for shape in classifier.vocab for seed in range(1000, 1020)]
    right = [classifier.classify(picture).label == shape for shape, picture in fresh]
    assert sum(right) >= 54, "of 60 drawings it has not seen"

    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "circle, square, triangle" in card and "trained on 96 photos" in card.replace("\n", " ")


def test_the_notebook_stops_with_a_sentence(tmp_path):
    draw_folder(tmp_path / "drawings", 12, shapes=["circle"])
    with pytest.raises(PapermillExecutionError) as caught:
        run_notebook(tmp_path, folder="drawings")
    assert caught.value.ename == "TrainingError"
    assert len(caught.value.traceback) == 1, "the sentence, and no stack of calls"
    assert not (tmp_path / "export.pkl").exists()
