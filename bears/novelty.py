"""How far a photo lies from everything a classifier was taught.

The classifier's own probabilities cannot say: they only compare its labels with each other. Two distances can, and
both come from the features of the one forward pass:

- *look*: the mean cosine distance from the nearest training photos (Sun et al., Out-of-Distribution Detection with Deep
  Nearest Neighbors, 2022). It tells noise, text and heavy damage from photos.
- *kind*: the squared Hellinger distance between what the pretrained network says of the photo, in the classes that it
  was pretrained on, and what it says on average of the training photos of the nearest label. It tells a polar bear from
  a grizzly: they look much the same, but the network has learnt them apart. (Hendrycks et al., Scaling
  Out-of-Distribution Detection for Real-World Settings, 2022, compare with such averages, too.)

Each counts in units of what is still usual among training photos, and the larger one decides.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn

NEIGHBOURS = 10
KEEP = 0.95  # the share of photos of the labels that is to be recognised
CONFIDENCE = 0.9  # that it is, given the validation photos there are
MOST = 2000  # training photos to keep the features of, 2.5 kB each with 1,280 channels; of more, some at random
PREFIX = "novelty_"  # of the buffers in an exported model


def forward(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """What a fastai model's body makes of photos, for `pooled`, and its head's (photos, labels) logits, in one pass."""
    activations = model[0](batch)
    return activations, model[1](activations)


def pooled(activations: Tensor) -> Tensor:
    """(photos, channels) of (photos, channels, height, width), or of what the body has pooled itself."""
    return activations.mean((2, 3)) if activations.ndim == 4 else activations


@dataclass(frozen=True)
class Reference:
    """What is kept of the training photos: tensors, so that an export with them opens without this package."""

    photos: Tensor  # (photos, channels), float16: features, scaled to length 1
    weight: Tensor  # (classes, channels), float16: the last layer of the pretrained network; if unknown, no classes
    bias: Tensor  # (classes,)
    kinds: Tensor  # (labels, classes): the square root of the mean probabilities of each label's photos
    limits: Tensor  # (2,): look and kind beyond which a photo is not recognised

    @classmethod
    def fit(cls, features: Tensor, targets: Tensor, valid: Tensor, layer: nn.Linear | None = None) -> "Reference":
        """`features` (photos, channels) and `targets` (photos,) of the training photos, features `valid` of others.

        `layer` makes features into the classes that the network was pretrained on; without it, only the look counts.
        """
        weight, bias = torch.empty(0, features.shape[1]), torch.empty(0)
        if layer is not None:
            weight, bias = layer.weight.detach().cpu(), layer.bias.detach().cpu()
        weight = weight.half()
        probabilities = F.linear(features, weight.float(), bias).softmax(1)
        kinds = torch.stack([probabilities[targets == target].mean(0).sqrt() for target in targets.unique()])
        some = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST]
        reference = cls(F.normalize(features[some]).half(), weight, bias, kinds, torch.ones(2))
        # The units come from the training photos, each compared with the others. Then validation photos, which had no
        # part in any of this, say how many of them are too many.
        distances = reference.distances(features[some], skip=1)
        reference = replace(reference, limits=distances.quantile(KEEP, dim=0).clamp_min(1e-6))
        limits = reference.limits * conformal_limit(reference.novelty(valid))
        return replace(reference, limits=limits.clamp_min(1e-6))  # where all photos look the same, it is 0

    def novelty(self, features: Tensor) -> Tensor:
        """(photos,) for (photos, channels) features: 0 is nothing new, and more than 1 is not recognised."""
        return (self.distances(features) / self.limits).amax(1)

    def distances(self, features: Tensor, skip: int = 0) -> Tensor:
        """(photos, 2): look and kind, each 0 to 1 or a little more; `skip` leaves out that many nearest photos."""
        similarities = F.normalize(features) @ self.photos.float().T
        nearest = similarities.topk(min(NEIGHBOURS + skip, len(self.photos)), dim=1).values[:, skip:]
        look = 1 - nearest.mean(1)
        if not len(self.bias):
            return torch.stack([look, torch.zeros_like(look)], 1)
        probabilities = F.linear(features, self.weight.float(), self.bias).softmax(1)
        return torch.stack([look, 1 - (probabilities.sqrt() @ self.kinds.T).amax(1)], 1)

    def store(self, model: nn.Module) -> None:
        """Put it into `model`, as buffers."""
        for field in fields(self):
            model.register_buffer(PREFIX + field.name, getattr(self, field.name))

    @classmethod
    def of(cls, model: nn.Module) -> "Reference | None":
        """What `store` put into `model`; None where it did not, as in an export of other origin."""
        names = [field.name for field in fields(cls)]
        if not all(hasattr(model, PREFIX + name) for name in names):
            return None
        return cls(*(getattr(model, PREFIX + name).float() for name in names))


def conformal_limit(novelty: Tensor, keep: float = KEEP, confidence: float = CONFIDENCE) -> float:
    """The limit within which `keep` of all new photos of the labels stay, with that confidence.

    `novelty` is that of photos that had no part in the fit. The plain 95th percentile of theirs is too low about every
    second time; how much higher to go follows from the binomial distribution (Vovk, Conditional Validity of Inductive
    Conformal Predictors, 2012). Of fewer than 45 photos the largest has to do, with less confidence: see
    `confidence_reached`.
    """
    return novelty.sort(descending=True).values[_beyond(len(novelty), keep, confidence)].item()


def confidence_reached(photos: int, keep: float = KEEP, confidence: float = CONFIDENCE) -> float:
    """That of `conformal_limit` with so many photos, 0 to 1: what was asked for or more, if there are enough."""
    return float(binom.sf(_beyond(photos, keep, confidence), photos, 1 - keep))


def _beyond(photos: int, keep: float, confidence: float) -> int:
    """How many of the photos may lie beyond the limit."""
    return max(int(binom.ppf(1 - confidence, photos, 1 - keep)) - 1, 0)
