"""training.ipynb: photos become an export.pkl, or a sentence says why not."""

import hashlib
import re

import nbformat
import papermill
import pytest
import torch
from conftest import ROOT, draw_bear, draw_folder, draw_shape
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from bears.classifier import Classifier
from bears.training.dataset import DELETE, decide


def run_notebook(tmp_path, notebook=ROOT / "training.ipynb", **parameters) -> nbformat.NotebookNode:
    """training.ipynb, run from top to bottom on a fresh kernel, in its own folder."""
    return papermill.execute_notebook(notebook, tmp_path / "run.ipynb", parameters, cwd=tmp_path, progress_bar=False)


def outputs(notebook, cell_id: str) -> str:
    """All text in the outputs of one cell."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    # what is printed may come in pieces, wherever the machine was busy
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") + "\n" for output in cell.outputs)


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
    "runs": 2,
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


def test_the_notebook_leaves_only_what_it_means_to_write(shapes_run):
    for folder, _ in shapes_run:
        given = {"drawings", "strangers", "cleaning.csv"}
        assert {path.name for path in folder.iterdir()} == given | {"run.ipynb", "shapes.pkl", "MODEL_CARD.md"}


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


def test_the_notebook_learns_five_labels_of_any_name_from_a_table(tmp_path):
    (tmp_path / "drawings" / "images").mkdir(parents=True)
    shapes = {"circle": "circle", "square": "square", "triangle": "triangle"}
    rows, parts = ["image;label;split"], ["train"] * 8 + ["val"] * 3 + ["test"] * 3
    for label, shape in (shapes | {"ein Kreis & mehr": "circle", "四角": "square"}).items():
        for number, part in enumerate(parts):
            drawing = draw_shape(shape, f"{label} {number}").rotate(90 * (label not in shapes))
            drawing.save(tmp_path / "drawings" / "images" / f"{len(rows)}.png")
            rows.append(f"{len(rows)};{label};{part}")
    (tmp_path / "drawings" / "labels.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")
    notebook = run_notebook(tmp_path, **SMALL | {"epochs": 1, "head_epochs": 1})
    assert Classifier.load(tmp_path / "shapes.pkl").vocab == sorted([*shapes, "ein Kreis & mehr", "四角"])
    said = outputs(notebook, "split")
    moved = sum(map(int, re.findall(r"than their folder or table says: (\d+)", said)))  # some drawings look alike
    train, valid, test = map(int, re.search(r"all +(\d+) +(\d+) +(\d+) +70", said).groups())
    assert moved <= 5 and abs(train - 40) + abs(valid - 15) + abs(test - 15) <= 2 * moved
    assert "more photos" in outputs(notebook, "enough") or "Twice the photos" in outputs(notebook, "enough")


def test_the_notebook_learns_from_ten_photos_of_each_label_and_says_how_little_that_proves(tmp_path):
    draw_folder(tmp_path / "photos", 10, shapes=["circle", "square"])
    for number, file in enumerate(sorted((tmp_path / "photos").glob("*/*"))):  # no two alike
        with Image.open(file) as image:
            noise = Image.effect_noise((12, 12), 60 + number).resize(image.size).convert("RGB")
            Image.blend(image.convert("RGB"), noise, 0.5).save(file)
    run_notebook(tmp_path, arch="tf_efficientnet_lite0", image_size=64)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "of them wrong: too few mistakes to judge by" in card
    assert re.search(r"with [12]?\d% confidence, given \d validation photos. More validation photos", card)
    assert "Where the photos came from was not recorded." in card
    temperature = float(re.search(r"temperature is ([\d.]+)", card).group(1))
    assert 0.9 < temperature < 1.1


def test_test_photos_are_never_learnt_from_even_if_cells_are_run_out_of_order(tmp_path):
    draw_folder(tmp_path / "drawings", 20)
    notebook = nbformat.read(ROOT / "training.ipynb", 4)
    (number,) = (number for number, cell in enumerate(notebook.cells) if cell.id == "test")
    again = 'Path(folder, "split.csv").unlink()\nphotos = split(photos.assign(group=photos.sha256), seed + 1)'
    notebook.cells.insert(number, nbformat.v4.new_code_cell(again))
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    with pytest.raises(PapermillExecutionError) as caught:
        run_notebook(tmp_path, tmp_path / "changed.ipynb", **SMALL | {"epochs": 1, "head_epochs": 1})
    assert caught.value.ename == "AssertionError" and "test photos were learnt from" in caught.value.evalue
    assert not (tmp_path / "shapes.pkl").exists()


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
