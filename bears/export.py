"""A Learner in, export.pkl and its MODEL_CARD.md out."""

import contextlib
import copy
import hashlib
import io
import itertools
import os
import pkgutil
import platform
import tempfile
import types
import warnings
from pathlib import Path, PurePath

import bears.torchvision_ops  # noqa: F401  before fastai

# isort: split
import cloudpickle
import pandas as pd
import torch
import yaml
from fastai.learner import Learner, defaults, load_learner
from fasttransform import Pipeline
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bears.classifier import CARD, installed_versions
from bears.dataset import TrainingError, counts
from bears.evaluation import Scores


def export(
    learner: Learner,
    path: str | os.PathLike = "export.pkl",
    temperature: float = 1.0,  # what logits are to be divided by, see `bears.evaluation.fit_temperature`
    photos: pd.DataFrame | None = None,  # the data set with its split, for the card's counts
    scores: Scores | None = None,  # on the test photos, after the temperature, for the card
    uncalibrated: Scores | None = None,  # and before
    files: tuple[str | os.PathLike, ...] = (),  # what the data set came from, for the card's hashes
    recipe: str = "",  # how it was trained, for the card
    minutes: float | None = None,  # how long that took
) -> None:
    """Write `learner` to `path` for `load_learner`, and MODEL_CARD.md beside it with its checksum and its scores.

    As `Learner.export`, but the file opens on every operating system and without this package: it refers to nothing
    that was defined in a notebook and to no path, and of the training set it keeps only the labels. Batch norms are
    folded into the convolutions before them, for a quarter off the time of an answer; `model.temperature` is a tensor.
    """
    path = Path(path)
    size = tuple(learner.dls.valid.one_batch()[0].shape[-2:])
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="load_learner", category=UserWarning)  # it is our own file
        file = Path(scratch, "export.pkl").resolve()  # an absolute path, so it is not taken to be under learner.path
        learner.export(file, pickle_module=_portable_pickle)
        released = load_learner(file)  # a copy, on the CPU, to strip
    _strip(released)
    released.model = _folded(released.model, size).to(memory_format=torch.channels_last)
    released.model.register_buffer("temperature", torch.tensor(float(temperature)))
    content = io.BytesIO()
    torch.save(released, content, pickle_module=_portable_pickle, pickle_protocol=2)
    card = _card(
        path.name, content.getvalue(), learner, size, photos, scores, uncalibrated, files, recipe, minutes, temperature
    )
    _replace({path: content.getvalue(), path.with_name(CARD): card.encode()})


def _replace(contents: dict[Path, bytes]) -> None:
    """Write all of the files, or none: an export and its card belong together."""
    parts = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts[path].write_bytes(content)
    except OSError as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise TrainingError(f"{path} cannot be written: {error.strerror}. The one before, if any, is kept.") from error
    for path, part in parts.items():
        part.replace(path)


def _strip(released: Learner) -> None:
    """Take out what inference does not need and other machines do not have."""
    released.path = released.dls.path = Path(".")
    released.remove_cbs(released.cbs.filter(lambda callback: type(callback) not in defaults.callbacks))
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


def _folded(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """`model` for inference, without batch norms where they directly follow a convolution; else as it was."""
    model = model.eval()
    folded = _fold(copy.deepcopy(model))
    photo = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # the order of definition need not be the order of computation: compare
        same = torch.allclose(model(photo), folded(photo), rtol=1e-2, atol=1e-2)
    return folded if same else model


def _fold(module: nn.Module) -> nn.Module:
    children = list(module.named_children())
    for (name, first), (next_name, second) in itertools.pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(first, second))
            # timm's batch norms have the activation in them
            setattr(module, next_name, getattr(second, "act", nn.Identity()))
    for _, child in module.named_children():
        _fold(child)
    return module


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

`{file}` names what is on a photo: {labels}. It is a fastai image classifier ({arch}, {size} pixels).

## Intended use

To learn from, and to sort photos that each show one of the labels. It is no ground for a decision that matters, such
as how to behave before an animal. Whatever is on a photo, the answer is one of the labels: it does not know what it has
not seen. Expect more errors on photos of other origin than on those below, and on what is small, hidden or in the dark.

## Training data

{data}

## Training

{training}

## Results

{results}

## Use

```python
from bears.classifier import Classifier

Classifier.load("{file}").classify("photo.jpg")
```

Or with fastai and timm alone, which neither compares the checksum first, nor sets a photo upright after its EXIF data,
nor divides the logits by `model.temperature`:

```python
from fastai.learner import load_learner

load_learner("{file}").predict("photo.jpg")
```
"""


def _card(file, content, learner, size, photos, scores, uncalibrated, files, recipe, minutes, temperature) -> str:
    arch = learner.arch if isinstance(learner.arch, str) else learner.arch.__name__
    front_matter = {
        "library_name": "fastai",
        "pipeline_tag": "image-classification",
        "license": "apache-2.0",
        "tags": ["image-classification", "fastai", "timm"],
        "labels": list(learner.dls.vocab),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": installed_versions(),
    }
    results = "They were not measured."
    if scores is not None:
        front_matter["metrics"] = ["accuracy"]
        front_matter["model-index"] = [_model_index(Path(file).stem, scores)]
        results = _results(scores, uncalibrated, temperature)
    data = "Not recorded." if photos is None else _markdown(counts(photos), "photos") + DATA
    if listed := [f"- `{Path(name).name}`: SHA-256 {_sha256(name)}" for name in files if Path(name).exists()]:
        data += "\n\nWhere the photos came from and what was decided about them:\n\n" + "\n".join(listed)
    took = f" It took {minutes:.0f} minutes on {_hardware(learner)}." if minutes is not None else ""
    return CARD_TEMPLATE.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True),
        file=file,
        labels=", ".join(learner.dls.vocab),
        arch=arch,
        size=" × ".join(map(str, size)),
        data=data,
        training=(recipe or "The recipe was not recorded.") + took,
        results=results,
    )


DATA = """

Near-duplicates are in one part only. Validation photos decided on the recipe and the temperature; test photos were
looked at once, at the end. What a person left out or relabelled is so in every part, the test too: on photos as they
are found, expect more errors. All came from one place, so the test says nothing of photos from elsewhere."""


def _results(scores: Scores, uncalibrated: Scores | None, temperature: float) -> str:
    low, high = scores.interval
    lines = [
        f"On the {scores.of:,} test photos, {scores.wrong} are taken for something else: {scores.error:.2%} error, "
        f"95 % interval (Wilson) {low:.2%} to {high:.2%}.",
        _markdown(scores.confusion, "is / taken for"),
        _markdown(scores.per_class.round({"precision": 4, "recall": 4}), "label"),
    ]
    columns = {"calibrated": scores} if uncalibrated is None else {"as trained": uncalibrated, "calibrated": scores}
    calibration = pd.DataFrame({name: [score.nll, score.brier, score.ece] for name, score in columns.items()})
    calibration.index = ["NLL", "Brier score", "ECE, 15 bins"]
    lines += [
        f"How far probabilities can be trusted (the temperature is {temperature:.3f}, fitted on validation):",
        _markdown(calibration.round(4), "less is better"),
    ]
    return "\n\n".join(lines)


def _model_index(name: str, scores: Scores) -> dict:
    """https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": "held-out photos", "type": "imagefolder", "split": "test"},
                "metrics": [{"type": "accuracy", "value": round(1 - scores.error, 4)}],
            }
        ],
    }


def _markdown(table: pd.DataFrame, corner: str) -> str:
    rows = [[corner, *table.columns], ["---"] * (len(table.columns) + 1)]
    rows += [[index, *row] for index, row in zip(table.index, table.astype(object).values.tolist(), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _sha256(file: str | os.PathLike) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _hardware(learner: Learner) -> str:
    if learner.dls.device.type == "cuda":
        return torch.cuda.get_device_name(learner.dls.device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
