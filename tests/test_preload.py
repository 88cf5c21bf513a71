"""bears.serving.preload: the classifier that visitors' kernels share is the one in export.pkl."""

import gc
import shutil
import weakref

import pytest
from conftest import ROOT, draw_bear

from bears.classifier import Classifier
from bears.serving import preload


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("export.pkl", "MODEL_CARD.md"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preload, "_warm", None)
    monkeypatch.setattr(Classifier, "_last", None)
    return tmp_path


def test_the_classifier_is_loaded_once(folder):
    preload.preload()
    first = Classifier.load("export.pkl")
    preload.preload()
    assert Classifier.load("export.pkl") is first


@pytest.mark.parametrize("name", ["export.pkl", "MODEL_CARD.md"])
def test_a_new_file_is_loaded_and_the_one_before_forgotten(folder, name):
    preload.preload()
    before = weakref.ref(Classifier.load("export.pkl"))
    gc.freeze()
    shutil.copy(folder / name, folder / "new")
    (folder / "new").replace(folder / name)
    preload.preload()
    assert before() is None
    assert Classifier.load("export.pkl").classify(draw_bear()).label


def test_a_missing_export_is_left_to_the_page_to_complain_of(folder):
    (folder / "export.pkl").unlink()
    preload.preload()
