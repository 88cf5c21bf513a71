"""bears.training.hosted and the first cell of training.ipynb: on Colab and Kaggle, around what is there.

Neither can be had here. pip is played by a program that writes down what it was asked for.
"""

import os
import shutil
import subprocess
import sys
from importlib import metadata

import nbformat
import pytest
from conftest import ROOT

from bears.training import TrainingError, hosted

PIP = """
import json, pathlib, sys
constraints = pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text()
print("no matching distribution")
pathlib.Path({log!r}).open("a").write(json.dumps([sys.argv[-1], constraints.split()]) + "\\n")
sys.exit({code})
"""


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """What was asked of pip; it does nothing, and ends with `pip.code`."""
    module = tmp_path / "pip.py"
    log = tmp_path / "asked"

    def ends_with(code: int):
        module.write_text(PIP.format(log=str(log), code=code))
        return log

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ends_with


@pytest.mark.parametrize(
    "service, words", [("COLAB_RELEASE_TAG", "drive.mount"), ("KAGGLE_KERNEL_RUN_TYPE", "Add Input")]
)
def test_what_training_needs_is_installed_around_what_is_there(pip, tmp_path, monkeypatch, capsys, service, words):
    monkeypatch.setenv(service, "x")
    asked = pip(0)
    hosted.install(ROOT)
    assert f"{ROOT}[train,heic]" in asked.read_text()
    for name in ("torch", "torchvision", "numpy", "pillow"):
        assert f'"{name}=={metadata.version(name)}"' in asked.read_text()
    said = capsys.readouterr().out
    assert words in said and "export.pkl" in said and "MODEL_CARD.md" in said
    assert "Restart" not in said


def test_when_pip_fails_it_says_so(pip, capsys):
    pip(1)
    with pytest.raises(TrainingError, match="could not install.*torch==.*internet"):
        hosted.install(ROOT)
    assert "no matching distribution" in capsys.readouterr().err


def test_a_package_that_changed_while_in_use_asks_for_a_restart(pip, monkeypatch, capsys):
    """pytest is in use here; papermill's command line is not."""
    pip(0)
    now = hosted._versions()
    monkeypatch.setattr(hosted, "_versions", iter([now | {"pytest": "1.0", "papermill": "1.0"}, now]).__next__)
    monkeypatch.delitem(sys.modules, "papermill", raising=False)
    hosted.install(ROOT)
    assert "Restart the session, then run this notebook again: pytest changed while in use." in capsys.readouterr().out


# The first cell

(CELL,) = [cell.source for cell in nbformat.read(ROOT / "training.ipynb", as_version=4).cells if cell.id == "hosted"]
RUN = """
import os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
sys.path.remove({root!r}) if {root!r} in sys.path else None
for _ in range(2):
    shell.run_cell({cell!r}).raise_error()
print("in", os.path.basename(os.getcwd()), "hosted" if "bears.training.hosted" in sys.modules else "not hosted")
"""


def run_cell(folder, cell: str, **environment: str) -> str:
    """What a fresh IPython says that runs the cell twice."""
    command = [sys.executable, "-c", RUN.format(cell=cell, root=str(ROOT))]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_anywhere_else_the_first_cell_does_nothing(tmp_path):
    (tmp_path / "here").mkdir()
    assert run_cell(tmp_path / "here", CELL) == "in here not hosted\n"
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture
def published(tmp_path):
    """The project in a repository, as on GitHub."""
    folder = tmp_path / "published"
    shutil.copytree(ROOT / "bears", folder / "bears")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=b"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "c"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


def test_on_colab_the_first_cell_fetches_the_project_once(pip, published, tmp_path):
    asked = pip(0)
    (tmp_path / "content" / "bears" / "grizzly").mkdir(parents=True)  # the book's folder of photos is not the project
    cell = CELL.replace("https://github.com/OWNER/REPOSITORY", published.as_uri())
    said = run_cell(tmp_path / "content", cell, COLAB_RELEASE_TAG="x")
    assert said.endswith("in bears-project hosted\n"), said
    assert f"{tmp_path / 'content' / 'bears-project'}[train,heic]" in asked.read_text()
    assert (tmp_path / "content" / "bears-project" / "bears" / "photos.py").exists()


def test_an_address_that_is_wrong_gets_a_sentence(tmp_path):
    (tmp_path / "content").mkdir()
    cell = CELL.replace("https://github.com/OWNER/REPOSITORY", (tmp_path / "nowhere").as_uri())
    assert "cannot be fetched: is it right" in run_cell(tmp_path / "content", cell, KAGGLE_KERNEL_RUN_TYPE="x")
