"""bears.torchvision_ops: helps where torchvision's operators are missing, and does nothing elsewhere."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_python

# What stands in for torchvision, and what importing it through bears.torchvision_ops then prints.
LOADS = ("", "imported, nothing declared")
LACKS_ITS_OPERATORS = (
    "from torch import library\nlibrary.register_fake('torchvision::nms')(lambda *arguments: None)\n",
    "imported, operators declared",
)
IS_BROKEN_OTHERWISE = ("raise RuntimeError('compiled with different CUDA versions')\n", "different CUDA versions")


@pytest.mark.parametrize("torchvision, outcome", [LOADS, LACKS_ITS_OPERATORS, IS_BROKEN_OTHERWISE])
def test_importing_torchvision(tmp_path, torchvision, outcome):
    (tmp_path / "torchvision.py").write_text(torchvision)
    script = (
        "import bears.torchvision_ops as ops, importlib.util\n"
        "importlib.util.find_spec('torchvision')\n"  # who only asks whether it is there changes nothing
        "import torchvision\n"
        "print('imported,', 'operators declared' if ops.declared else 'nothing declared')"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert outcome in run.stdout + run.stderr
    assert (run.returncode == 0) == outcome.startswith("imported")


def test_a_process_that_needs_no_torch_does_not_import_it():
    """Voilà's own imports bears.serving.kernels."""
    assert run_python("import sys, bears.serving.kernels; print('torch' in sys.modules)") == "False\n"
