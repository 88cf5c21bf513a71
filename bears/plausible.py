"""Which labels cannot be ruled out: a conformal prediction set.

A classifier that is right 98 times in 100 covers the truth in 95 of 100 with one label each time, and a set that only
promises that says nothing. So the promise is made for the photos it is least sure of, a fifth: of those, too, 95 in 100
have their label in the set. (Conformal prediction within one group: Vovk, Conditional Validity of Inductive Conformal
Predictors, 2012.) What it asks of a label is one number, the *floor*: a label that is less probable is ruled out.
"""

import math

from torch import Tensor

COVER = 0.95  # the share of unsure answers in whose set the right label is
UNSURE = 0.2  # the share of photos that are the least sure ones


def conformal_floor(probabilities: Tensor, targets: Tensor, cover: float = COVER, unsure: float = UNSURE) -> float:
    """The probability below which a label is ruled out: at most 1 - `cover`.

    `probabilities` (photos, labels) and `targets` (photos,) are of photos that had no part in the training. With fewer
    than 19 unsure ones the least probable right label among them has to do, and covers less: see `cover_reached`.
    """
    some = least_sure(probabilities, unsure)
    right = probabilities[some, targets[some]].sort().values
    beyond = max(1, math.floor((1 - cover) * (len(right) + 1) + 1e-9))
    return min(right[beyond - 1].item(), 1 - cover)


def cover_reached(photos: int, cover: float = COVER, unsure: float = UNSURE) -> float:
    """What `conformal_floor` promises with so many photos, 0 to 1: `cover`, or less if there are too few."""
    return min(cover, 1 - 1 / (_unsure(photos, unsure) + 1))


def least_sure(probabilities: Tensor, share: float = UNSURE) -> Tensor:
    """Indices of the photos, of (photos, labels), whose largest probability is among the smallest."""
    return probabilities.amax(1).argsort()[: _unsure(len(probabilities), share)]


def plausible(probabilities: Tensor, floor: float) -> Tensor:
    """(photos, labels), bool: which labels cannot be ruled out; the most probable one never is."""
    return (probabilities >= floor) | (probabilities == probabilities.amax(1, keepdim=True))


def _unsure(photos: int, share: float) -> int:
    return max(1, math.ceil(share * photos))
