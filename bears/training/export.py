"""A Learner in, export.pkl out, with its MODEL_CARD.md."""

import contextlib
import copy
import io
import itertools
import os
import pkgutil
import tempfile
import types
import warnings
from pathlib import Path, PurePath

import cloudpickle
import torch
from fastai.learner import Learner, defaults, load_learner
from fasttransform import Pipeline
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bears.classifier import CARD, Classifier, ExportError, unfit
from bears.files import write_whole
from bears.novelty import Reference
from bears.training import TrainingError
from bears.training.card import Report, model_card


def export(
    learner: Learner,
    path: str | os.PathLike = "export.pkl",
    temperature: float = 1.0,  # what logits are to be divided by, see `bears.training.evaluation.fit_temperature`
    reference: Reference | None = None,  # what novelty is measured against, see `bears.novelty`
    floor: float | None = None,  # the probability below which a label is ruled out, see `bears.plausible`
    report: Report | None = None,  # what the card is to say of the training and its results
) -> None:
    """Write what `portable` makes to `path`, for `load_learner`, and MODEL_CARD.md beside it: checksum and scores.

    Raises `TrainingError` when `learner` is none that `Classifier` can serve, or the disk is full.
    """
    path = Path(path)
    released = portable(learner, temperature, reference, floor)
    buffer = io.BytesIO()
    torch.save(released, buffer, pickle_module=_portable_pickle, pickle_protocol=2)
    content = buffer.getvalue()
    card = model_card(
        path.name, content, learner, _size(learner), temperature, reference is not None, report or Report()
    )
    try:
        write_whole({path: content, path.with_name(CARD): card.encode()})  # they belong together
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}. The one before, if any, is kept.") from error


def portable(
    learner: Learner, temperature: float = 1.0, reference: Reference | None = None, floor: float | None = None
) -> Learner:
    """A copy of `learner` for `Classifier`, on the CPU: what `export` writes, and so what visitors will get.

    As `Learner.export` makes it, but it opens on every operating system and without this package: it refers to nothing
    that was defined in a notebook and to no path, and of the training set it keeps the labels and the reference. Batch
    norms are folded into the convolutions before them, for a quarter off the time of an answer. Temperature, reference
    and floor become tensors of the model.

    Raises `TrainingError` when `learner` is none that `Classifier` can serve.
    """
    if reason := unfit(learner):
        raise TrainingError(f"This learner cannot be served: {reason}")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="load_learner", category=UserWarning)  # it is our own file
        file = Path(scratch, "export.pkl").resolve()  # an absolute path, so it is not taken to be under learner.path
        try:
            learner.export(file, pickle_module=_portable_pickle)
            Classifier(load_learner(file))
        except ExportError as error:
            raise TrainingError(f"This learner cannot be served: {error}") from error
        released = load_learner(file)  # a copy, on the CPU, to strip
    _strip(released)
    released.model = _folded(released.model, _size(learner)).to(memory_format=torch.channels_last)
    released.model.register_buffer("temperature", torch.tensor(float(temperature)))
    if floor is not None:
        released.model.register_buffer("floor", torch.tensor(float(floor)))
    if reference is not None:
        reference.store(released.model)
    return released


def _size(learner: Learner) -> tuple[int, int]:
    """Height and width of what it looks at, pixels."""
    return tuple(learner.dls.valid.one_batch()[0].shape[-2:])


def _strip(released: Learner) -> None:
    """Take out what inference does not need and other machines do not have."""
    released.path = released.dls.path = Path(".")
    released.model_dir = "models"  # fastai's default
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
        # What only training photos go through, such as weather, no answer needs.
        for name in "after_item", "after_batch":
            steps = getattr(loader, name)
            kept = [step for step in steps.fs if step.split_idx != 0]
            setattr(loader, name, Pipeline(kept, split_idx=steps.split_idx))
        for part in loader, loader.dataset, inputs, targets:
            vars(part).pop("__stored_args__", None)
    # fastcore before 2.2.21 keeps arguments a second time; of `Learner` the path and ImageNet's weights are among them
    vars(released).pop("__stored_args__", None)
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
