"""export.pkl and a photo in, an `Answer` out. On the CPU, with only what serving needs imported.

>>> answer = Classifier.load("export.pkl").classify("photo.jpg")
>>> answer.label, answer.probability, answer.recognised
('grizzly', 0.9987, True)
"""

import hashlib
import io
import math
import os
import platform
import re
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from fastai.data.transforms import ToTensor
from fastai.learner import Learner, load_learner
from fastai.vision.core import PILImage
from PIL import Image

from bears.files import stamp
from bears.memory import give_memory_back
from bears.novelty import Reference, forward, pooled
from bears.photos import PhotoError, open_photo
from bears.plausible import plausible
from bears.second_look import Box, part

CARD = "MODEL_CARD.md"  # stands beside export.pkl; its front matter states the checksum and the versions

# What an export's pickle is made of: their classes are named in it and must be found again.
VERSIONED = (
    *("torch", "torchvision", "fastai", "fastcore", "fasttransform"),
    *("plum-dispatch", "cloudpickle", "numpy", "timm", "pillow"),
)

FIT = (
    "It has to answer a photo with one probability for each label, which together make 1. Train it with "
    "blocks=(ImageBlock, CategoryBlock) and the loss function that fastai chooses for them."
)

BATCH = 16  # photos in one forward pass


class ExportError(Exception):
    """Why an export.pkl cannot be served, and what to do about it."""


@dataclass(frozen=True)
class Answer:
    """What the classifier makes of one photo."""

    label: str  # the most probable one
    probability: float  # its probability, 0 to 1
    probabilities: dict[str, float]  # of every label of the vocabulary, in its order; they sum to 1
    novelty: float | None = None  # how far the photo lies from all it was taught, see `bears.novelty`; None: unknown
    recognised: bool | None = None  # False: it is too far, above 1, for the rest to be trusted; None: unknown
    plausible: tuple[str, ...] | None = None  # what cannot be ruled out, see `bears.plausible`, the most probable first
    part: Box | None = None  # what all this was seen in, see `bears.second_look`; None: the whole photo


class Classifier:
    """A fastai image classifier, ready to answer."""

    def __init__(self, learner: Learner, card: dict | None = None):
        """`learner` is what `load_learner` returns: a single-label vision learner on the CPU.

        Raises `ExportError` when it is another one, such as one of several labels a photo, of numbers, masks or texts.
        """
        self.card = card or {}  # the front matter of MODEL_CARD.md
        if reason := unfit(learner):
            raise ExportError(reason)
        self.vocab = [str(label) for label in learner.dls.vocab]
        self._model = learner.model.eval()
        self._activation = learner.loss_func.activation
        self._temperature = getattr(learner.model, "temperature", torch.tensor(1.0))  # of other origin: none
        self._floor = getattr(learner.model, "floor", None)  # None: what is plausible is unknown
        self.reference = Reference.of(learner.model)  # None: novelty is unknown
        self._transforms = learner.dls.valid
        # Where anything is cropped or padded, places in what the network sees are not those of the photo.
        steps = [step for step in self._transforms.after_item.fs if not isinstance(step, ToTensor)]
        self._sees_all = [getattr(step, "method", None) for step in steps] == ["squish"]
        try:
            self._transforms.before_iter()  # the validation transforms: no augmentation
            (look,) = self._looks([Image.new("RGB", (64, 64))])
        except Exception as error:  # other networks fail in as many ways as there are
            raise ExportError(f"it fails on a photo of red, green and blue: {error}. {FIT}") from error
        if look.values.shape != (len(self.vocab),):
            raise ExportError(f"it gives {look.values.numel()} scores for {len(self.vocab)} labels. {FIT}")

    @classmethod
    def load(cls, path: str | os.PathLike = "export.pkl", sha256: str | None = None) -> "Classifier":
        """The classifier that training.ipynb wrote to `path`.

        Unpickling runs whatever code the file holds, so its SHA-256 is compared first: with `sha256`, or else with the
        one that the MODEL_CARD.md beside the file states. Raises `ExportError` when there is no such file, it is
        incomplete or not the published one, it was made by versions that cannot be read here, or is no classifier of
        photos with one label each.

        The last one is kept, and returned again while neither file has changed: kernels that are forked from a process
        that has loaded it share its memory.
        """
        path = Path(path)
        files = (path.absolute(), stamp(path), stamp(path.with_name(CARD)), sha256)
        if cls._last is None or cls._last[0] != files:
            cls._last = files, cls._load(path, sha256)
        return cls._last[1]

    _last = None

    @classmethod
    def _load(cls, path: Path, sha256: str | None) -> "Classifier":
        content = _read_export(path)
        card = {"sha256": sha256} if sha256 else _read_card(path)
        _check_content(path, content, card)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="load_learner", category=UserWarning)  # just checked
                return cls(load_learner(io.BytesIO(content)), card)
        except Exception as error:  # unpickling fails in as many ways as there are classes in the file
            raise ExportError(_why_unreadable(path, card.get("versions", {}), error)) from error

    def classify(self, photo) -> "Answer | list[Answer]":
        """Name what is on `photo`, whatever `bears.photos.open_photo` takes; a list of photos gives a list of answers.

        Raises `bears.photos.PhotoError` when it is not a usable picture, of a list saying which one, and `TypeError`
        when it is nothing of the kind.
        """
        if not isinstance(photo, (list, tuple)):
            (answer,) = self._answers([open_photo(photo)])
            give_memory_back()
            return answer
        answers = []
        for start in range(0, len(photo), BATCH):  # so that a long list of paths needs no more memory than a short one
            some = enumerate(photo[start : start + BATCH], start + 1)
            answers += self._answers([_numbered(number, one) for number, one in some])
            give_memory_back()
        return answers

    def _answers(self, pictures: list[Image.Image]) -> list[Answer]:
        looks = self._looks(pictures)
        again = [index for index, look in enumerate(looks) if look.part]
        closer = self._looks([_cropped(pictures[index], looks[index].part) for index in again]) if again else []
        for index, close in zip(again, closer, strict=True):
            counts = close.novelty <= 1
            looks[index] = close._replace(part=looks[index].part) if counts else looks[index]._replace(part=None)
        return [self._answer(look) for look in looks]

    def _answer(self, look: "_Look") -> Answer:
        probabilities = dict(zip(self.vocab, look.values.tolist(), strict=True))
        label = max(probabilities, key=probabilities.get)
        recognised = None if look.novelty is None else look.novelty <= 1
        return Answer(
            *(label, probabilities[label], probabilities, look.novelty, recognised),
            *(self._plausible(look.values), look.part),
        )

    def _plausible(self, values: torch.Tensor) -> tuple[str, ...] | None:
        if self._floor is None:
            return None
        among = plausible(values[None], self._floor.item())[0]
        return tuple(self.vocab[index] for index in values.argsort(descending=True).tolist() if among[index])

    @torch.inference_mode()
    def _looks(self, pictures: list[Image.Image]) -> "list[_Look]":
        """One for each picture, from one forward pass.

        What `Learner.predict` does, without a DataLoader and a progress bar.
        """
        transforms = self._transforms
        items = [transforms.after_item((PILImage.create(picture),)) for picture in pictures]
        (batch,) = transforms.after_batch(transforms.do_batch(items))  # (photos, 3, height, width)
        batch = batch.as_subclass(torch.Tensor)  # fastai's own class makes every operation slower
        if self.reference is None:
            return [_Look(values) for values in self._probabilities(self._model(batch))]
        activations, logits = forward(self._model, batch)
        novelties = self.reference.novelty(pooled(activations)).tolist()
        parts = [
            part(self._model[1], *seen) if novelty > 1 and self._sees_all else None
            for novelty, *seen in zip(novelties, activations, logits, strict=True)
        ]
        return [*map(_Look, self._probabilities(logits), novelties, parts)]

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return self._activation(logits / self._temperature)


class _Look(NamedTuple):
    """What one forward pass says of one photo."""

    values: torch.Tensor  # (labels,) probabilities
    novelty: float | None = None
    part: Box | None = None  # where to look again; None: it is recognised, or there is no telling where


def _cropped(picture: Image.Image, part: Box) -> Image.Image:
    """With whole pixels, none of them from outside."""
    left, top, right, bottom = (share * length for share, length in zip(part, 2 * picture.size, strict=True))
    width, height = picture.size
    return picture.crop((int(left), int(top), min(math.ceil(right), width), min(math.ceil(bottom), height)))


def unfit(learner: Learner) -> str | None:
    """Why `learner` cannot be served, as far as that is seen before it is tried, and what can; None: nothing is known.

    Such as one of several labels a photo, of numbers, masks or texts.
    """
    reason = _unfit_data(learner) or _unfit_loss(learner)
    return reason and f"{reason}. {FIT}"


def _unfit_data(learner: Learner) -> str | None:
    """What goes in and comes out instead of one photo and one label, if so."""
    items = getattr(getattr(learner.dls.valid, "dataset", None), "tls", ())
    if not items:
        return "its data is not made of photos and labels by fastai's DataBlock or ImageDataLoaders"
    if learner.dls.n_inp != 1:
        return f"it looks at {learner.dls.n_inp} things at once, not at one photo"
    if len(items) != 2:
        return f"it gives a photo {len(items) - 1} labels of different kinds"
    if not getattr(learner.dls, "vocab", None):
        return "it answers with something else than labels, such as a number or a mask"
    return None


def _unfit_loss(learner: Learner) -> str | None:
    """What makes its scores something else than probabilities that sum to 1, if so."""
    loss = f"its loss function, {type(learner.loss_func).__name__},"
    if not hasattr(learner.loss_func, "activation"):
        return f"{loss} does not say how scores become probabilities"
    equal = torch.full((1, len(learner.dls.vocab)), 2.0)
    if abs(learner.loss_func.activation(equal).sum().item() - 1) > 1e-3:  # only a softmax makes 1 of all
        return f"{loss} weighs each label by itself: a photo may have several or none"
    return None


def _numbered(number: int, photo) -> Image.Image:
    try:
        return open_photo(photo)
    except PhotoError as error:
        raise PhotoError(f"Photo {number} of the list: {error}") from error


def installed_versions() -> dict[str, str]:
    """The versions that decide whether an export can be read, Python's minor version first."""
    # torch 2.13.0+cpu and 2.13.0+cu130 read each other's files
    versions = {name: metadata.version(name).split("+")[0] for name in VERSIONED}
    return {"python": ".".join(platform.python_version_tuple()[:2])} | versions


RESTORE = "Restore it (git checkout, or download it again), or run training.ipynb to make a new one."


def _read_export(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ExportError(f"There is no {path}. {RESTORE}") from None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}. {RESTORE}") from error
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ExportError(f"{path} is a Git LFS pointer, not the classifier itself. Run: git lfs pull")
    return content


def _read_card(path: Path) -> dict:
    """The front matter of the card beside the export at `path`; of it, `sha256`, `bytes` and `versions` are checked."""
    card = path.with_name(CARD)
    try:
        front_matter = yaml.safe_load(re.split("^---\n", card.read_text(encoding="utf-8"), maxsplit=2, flags=re.M)[1])
        return front_matter | {
            "sha256": str(front_matter["sha256"]),
            "bytes": int(front_matter.get("bytes", 0)),
            "versions": dict(front_matter.get("versions", {})),
        }
    except FileNotFoundError:
        raise ExportError(
            f"There is no {CARD} beside {path}, so nothing says that this is the file it should be. training.ipynb "
            "writes both. For an export of other origin that you trust, use Classifier.load(path, sha256=...)."
        ) from None
    except (OSError, IndexError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ExportError(f"{card} does not state the SHA-256 of {path}. Restore both files.") from error


def _check_content(path: Path, content: bytes, card: dict) -> None:
    if hashlib.sha256(content).hexdigest() == card["sha256"].lower():
        return
    size = card.get("bytes", 0)
    if len(content) < size:
        raise ExportError(f"{path} is incomplete: {len(content):,} of {size:,} bytes. {RESTORE}")
    raise ExportError(
        f"{path} is not the file that was published: its SHA-256 differs. It was not opened, because a changed file "
        f"could run any code. {RESTORE}"
    )


def _why_unreadable(path: Path, made_by: dict[str, str], error: Exception) -> str:
    here = installed_versions()
    differing = [
        f"{name} {made_by[name]} (here {here[name]})" for name in here if made_by.get(name, here[name]) != here[name]
    ]
    if differing:
        return f"{path} was made by other versions: {', '.join(differing)}. Install those, or run training.ipynb here."
    if isinstance(error, ExportError):
        return f"{path} cannot be served: {error}"
    return f"{path} is not a classifier that fastai can load here. Run training.ipynb to make a new one."
