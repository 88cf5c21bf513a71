"""The released export opens in every other Python of this machine that fastai is installed in, and answers as here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, draw_bear, run_python

from bears.classifier import Classifier

SCRIPT = """
import json
from bears.classifier import Classifier
answer = Classifier.load("export.pkl").classify({path!r})
print(json.dumps([answer.probabilities, answer.novelty]))
"""


def with_fastai(version: str) -> Path | None:
    """The one in .venv-3.x here, or one on the path."""
    there = shutil.which(f"python{version}")
    for python in (ROOT / f".venv-{version}" / "bin" / "python", there and Path(there)):
        if python and python.exists():
            look = (
                "import importlib.util as util, sys; sys.exit(not all(map(util.find_spec, ('fastai', 'timm', 'yaml'))))"
            )
            if subprocess.run([python, "-c", look], capture_output=True).returncode == 0:
                return python
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_released_export_opens_and_answers_as_here(tmp_path, version):
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("it runs all the other tests")
    python = with_fastai(version)
    if python is None:
        pytest.skip(f"there is no Python {version} with fastai here; DEVELOP.md says how to make one")
    path = tmp_path / "bear.png"
    draw_bear().save(path)
    probabilities, novelty = json.loads(run_python(SCRIPT.format(path=str(path)), python=python).splitlines()[-1])
    expected = Classifier.load(ROOT / "export.pkl").classify(path)
    assert probabilities == pytest.approx(expected.probabilities, abs=1e-3)
    assert novelty == pytest.approx(expected.novelty, abs=1e-2)
