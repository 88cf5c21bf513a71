"""training.ipynb on Colab and Kaggle, which open a notebook without the project around it.

Their images have torch for their GPU, and the numpy and Pillow that it was built with. What is missing is installed
around these, and they are left alone.
"""

import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from bears.training import TrainingError

LEFT_ALONE = ("torch", "torchvision", "numpy", "pillow")

COLAB = """\
Choose a GPU: Runtime, Change runtime type. Then photos, in one folder for each label, may come from
- your Google Drive: from google.colab import drive; drive.mount("/content/drive")
  and below: folder = "/content/drive/MyDrive/photos"
- this computer: drag a ZIP file into the file browser on the left, then: !unzip -q /content/photos.zip
  and below: folder = "photos"
- the internet: set `labels` and `contact` below.
At the end, to serve it elsewhere, take both files home:
  from google.colab import files; files.download("export.pkl"); files.download("MODEL_CARD.md")"""

KAGGLE = """\
Choose a GPU: Settings, Accelerator. Then photos, in one folder for each label, may come from
- a Kaggle dataset, or a ZIP file of yours: Add Input, and below: folder = "/kaggle/input/NAME"
- the internet, if it is switched on in Settings: set `labels` and `contact` below.
At the end, to serve it elsewhere, take export.pkl and MODEL_CARD.md home: they are under Output, in this project's
folder."""


def install(project: Path = Path(".")) -> None:
    """Install what training needs, leave `LEFT_ALONE` as they are, and say where photos may come from.

    Raises `TrainingError` where pip fails.
    """
    before = _versions()
    held = [f"{name}=={before[name]}" for name in LEFT_ALONE if name in before]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(held))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        pip = subprocess.run([*command, f"{project.resolve()}[train,heic]"], capture_output=True, text=True)
    if pip.returncode:
        print(pip.stdout, pip.stderr, file=sys.stderr)
        raise TrainingError(
            f"pip could not install what training needs around {', '.join(held)}; above is what it says. Is there "
            "internet (on Kaggle: Settings, Internet)?"
        )
    if changed := _changed_in_use(before):
        print(f"Restart the session, then run this notebook again: {', '.join(changed)} changed while in use.\n")
    print(COLAB if "COLAB_RELEASE_TAG" in os.environ else KAGGLE)


def _versions() -> dict[str, str]:
    """Of what is installed, by name; of two with one name, that which is found first."""
    distributions = reversed([*metadata.distributions()])
    return {found.name.lower(): found.version for found in distributions if found.name}


def _changed_in_use(before: dict[str, str]) -> list[str]:
    """Distributions that now have another version than `before`, and of which a module is imported already."""
    after = _versions()
    modules = metadata.packages_distributions()
    in_use = {name.lower() for module in sys.modules.keys() & modules for name in modules[module]}
    return sorted(name for name in in_use & before.keys() if before[name] != after.get(name))
