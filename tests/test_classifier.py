"""bears.classifier: the right file is opened, and answers as the learner inside it would."""

import hashlib
import io
import os
import random
import shutil
import warnings
import zipfile

import pytest
import torch
import yaml
from conftest import ROOT, assert_portable, draw_bear, draw_shape, encode, run_python
from fastai.learner import load_learner
from PIL import Image
from sklearn.datasets import load_sample_image

from bears.classifier import Answer, Classifier, ExportError, _cropped
from bears.photos import PhotoError, open_photo

EXPORT = ROOT / "export.pkl"


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(EXPORT)


@pytest.fixture(scope="module")
def learner():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_learner(EXPORT)


@pytest.fixture
def export(tmp_path):
    """A copy of the released export and its card, to damage."""
    for file in (EXPORT, EXPORT.with_name("MODEL_CARD.md")):
        shutil.copy(file, tmp_path)
    return tmp_path / "export.pkl"


def write_card(export, **front_matter):
    content = export.read_bytes()
    front_matter = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} | front_matter
    export.with_name("MODEL_CARD.md").write_text(f"---\n{yaml.safe_dump(front_matter)}---\n# Model card\n")


# What it answers


PICTURES = {
    "bear": draw_bear(),
    "dark bear": draw_bear(640, fur="#222222"),
    "wide": draw_bear(500).crop((0, 100, 500, 300)),
    "tall": draw_bear(500).crop((150, 0, 300, 500)),
    "small": draw_shape("circle", 0, size=40),
    "grey": draw_bear(300).convert("L"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_probabilities_are_those_of_predict_at_the_exports_temperature(classifier, learner, tmp_path, name):
    path = tmp_path / "picture.png"
    PICTURES[name].save(path)
    answer = classifier.classify(path)
    if answer.part:
        _cropped(open_photo(path), answer.part).save(path)
    with learner.no_bar():
        label, index, probabilities = learner.predict(path)
    assert answer.label == label
    expected = (probabilities.log() / learner.model.temperature).softmax(0)  # fastai does not know the temperature
    assert answer.probability == pytest.approx(expected[index].item(), abs=1e-4)
    assert list(answer.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_an_answer_covers_the_vocabulary(classifier):
    answer = classifier.classify(draw_bear())
    assert list(answer.probabilities) == classifier.vocab
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert answer.probability == answer.probabilities[answer.label] == max(answer.probabilities.values())


def test_bytes_path_and_picture_give_the_same_answer(classifier, tmp_path):
    content = encode(draw_bear(), "PNG")
    path = tmp_path / "bear.png"
    path.write_bytes(content)
    answers = [classifier.classify(photo) for photo in (content, memoryview(content), path, str(path), draw_bear())]
    assert answers == answers[:1] * 5


def test_a_list_of_photos_gives_the_answers_of_each_in_its_order(classifier):
    photos = [picture.resize((64 + 9 * number, 64)) for number in range(6) for picture in PICTURES.values()]
    answers = classifier.classify(photos)
    assert len(answers) == 36, "more than two batches"
    for answer, photo in zip(answers, photos, strict=True):
        alone = classifier.classify(photo)
        assert (answer.label, answer.recognised) == (alone.label, alone.recognised)
        assert list(answer.probabilities.values()) == pytest.approx(list(alone.probabilities.values()), abs=1e-4)
        assert answer.novelty == pytest.approx(alone.novelty, rel=1e-3)
    assert classifier.classify([]) == []


def test_of_a_list_it_says_which_photo_cannot_be_used(classifier):
    with pytest.raises(PhotoError, match="^Photo 18 of the list: This file is not a picture"):
        classifier.classify([draw_bear(64)] * 17 + [b"Not a bear."])


def test_what_can_be_no_photo_is_a_type_error(classifier):
    for thing in (None, 3.5, [draw_bear(64), None]):
        with pytest.raises(TypeError, match="A photo is"):
            classifier.classify(thing)


def test_the_same_photo_gets_the_same_answer_every_time(classifier):
    assert classifier.classify(draw_bear()) == classifier.classify(draw_bear())


def test_no_picture_no_answer(classifier):
    with pytest.raises(PhotoError, match="not a picture"):
        classifier.classify(b"Not a bear.")


def test_it_keeps_quiet(tmp_path):
    draw_bear().save(tmp_path / "bear.png")
    script = "from bears.classifier import Classifier; Classifier.load('export.pkl').classify({!r})"
    assert run_python(script.format(str(tmp_path / "bear.png"))) == ""


def test_real_bears_are_told_apart(classifier, real_photos):
    """Photos it was mostly trained on: this shows that the release works, MODEL_CARD.md says how well."""
    folders = [folder for folder in sorted((real_photos / "bears").iterdir())]
    assert [folder.name for folder in folders] == classifier.vocab
    for folder in folders:
        photos = random.Random(0).sample(sorted(folder.iterdir()), 40)
        right = [classifier.classify(photo).label == folder.name for photo in photos]
        assert sum(right) >= 34, folder.name


@pytest.mark.parametrize(
    "upright", [draw_bear(), Image.fromarray(load_sample_image("china.jpg"))], ids=["bear", "temple"]
)
def test_a_photo_stored_on_its_side_gets_the_answer_of_the_upright_one(classifier, upright):
    """Its novelty, too: a temple on its side is stranger still."""
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # which tells a viewer to turn it back
    assert classifier.classify(encode(turned, "PNG", exif=exif)) == classifier.classify(upright)
    assert classifier.classify(encode(turned, "PNG")) != classifier.classify(upright)


# What it opens


def test_the_released_export_is_small_enough_to_clone():
    assert EXPORT.stat().st_size <= 32 * 2**20


def test_the_released_export_is_portable():
    assert_portable(EXPORT)


def test_load_learner_needs_fastai_and_timm_but_not_this_package(tmp_path):
    draw_bear().save(tmp_path / "bear.png")
    script = f"""
import sys, warnings
import bears, torchvision  # a matter of how torchvision was installed, not of the export
for name in [name for name in sys.modules if name.startswith("bears")]:
    del sys.modules[name]
sys.modules["bears"] = None  # from here on an import of it fails
warnings.simplefilter("ignore")
from fastai.learner import load_learner
from PIL import Image
learner = load_learner({str(EXPORT)!r})
with learner.no_bar():
    print(learner.predict("bear.png")[0])
"""
    assert run_python(script, tmp_path).strip() == Classifier.load(EXPORT).classify(tmp_path / "bear.png").label


# What it refuses


def test_a_label_may_end_in_what_ends_the_front_matter(export):
    write_card(export, labels=["a---", "b"])
    assert Classifier.load(export).card["labels"] == ["a---", "b"]


def test_a_missing_export(tmp_path):
    with pytest.raises(ExportError, match=r"There is no .*export.pkl.*training.ipynb"):
        Classifier.load(tmp_path / "export.pkl")


def test_a_folder_in_place_of_the_export(tmp_path):
    with pytest.raises(ExportError, match="cannot be read"):
        Classifier.load(tmp_path)


def test_a_truncated_export(export):
    size = export.stat().st_size
    export.write_bytes(export.read_bytes()[: size // 3])
    with pytest.raises(ExportError, match=f"incomplete: {size // 3:,} of {size:,} bytes"):
        Classifier.load(export)


def test_a_git_lfs_pointer(export):
    export.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 19165251\n")
    with pytest.raises(ExportError, match="Git LFS pointer.*git lfs pull"):
        Classifier.load(export)


def test_one_changed_byte(export):
    content = bytearray(export.read_bytes())
    content[len(content) // 2] ^= 1
    export.write_bytes(content)
    with pytest.raises(ExportError, match="SHA-256 differs"):
        Classifier.load(export)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_an_exchanged_export_never_runs(export, tmp_path):
    torch.save(Malice(tmp_path / "ran"), export)
    with pytest.raises(ExportError):
        Classifier.load(export)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ExportError):  # the same file, vouched for
        Classifier.load(export, sha256=hashlib.sha256(export.read_bytes()).hexdigest())
    assert (tmp_path / "ran").exists(), "this test could not fail"


NO_CHECKSUM = ["", "# Model card\n", "---\nlabels: [a]\n---\n", "---\n{\n---\n", "---\nsha256: 0\nbytes: x\n---\n"]


@pytest.mark.parametrize("card", [None, *NO_CHECKSUM])
def test_an_export_without_a_published_checksum(export, card):
    path = export.with_name("MODEL_CARD.md")
    path.unlink() if card is None else path.write_text(card)
    with pytest.raises(ExportError, match="MODEL_CARD.md"):
        Classifier.load(export)


def test_a_checksum_passed_in_stands_for_the_card(export):
    sha256 = hashlib.sha256(export.read_bytes()).hexdigest()
    export.with_name("MODEL_CARD.md").unlink()
    assert isinstance(Classifier.load(export, sha256=sha256.upper()).classify(draw_bear()), Answer)
    with pytest.raises(ExportError, match="SHA-256 differs"):
        Classifier.load(export, sha256="0" * 64)


def made_by_another_timm(content: bytes) -> bytes:
    """The export, with the name of a class that a later version might have moved."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"ctimm.models.efficientnet\n", b"ctimm.models.efficientmet\n"))
    assert changed.getvalue() != content
    return changed.getvalue()


@pytest.mark.parametrize("versions, sentence", [
    ({"timm": "99.0"}, r"made by other versions: timm 99.0 \(here [0-9.]+\)\. Install those"),
    ({}, "not a classifier that fastai can load here"),
])  # fmt: skip
def test_an_export_that_cannot_be_unpickled(export, versions, sentence):
    export.write_bytes(made_by_another_timm(export.read_bytes()))
    write_card(export, versions=versions)
    with pytest.raises(ExportError, match=sentence):
        Classifier.load(export)


@pytest.mark.parametrize("content", [b"", b"not a pickle", {"weights": 1}])
def test_something_else_with_the_right_checksum(export, content):
    export.write_bytes(content) if isinstance(content, bytes) else torch.save(content, export)
    write_card(export)
    with pytest.raises(ExportError, match="not a classifier that fastai can load"):
        Classifier.load(export)
