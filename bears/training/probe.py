"""Which labels look wrong, and would more photos help? A linear probe answers both.

That is a logistic regression on the features of the pretrained network, untouched (Alain and Bengio, Understanding
intermediate layers using linear classifier probes, 2016). It learns in less than a second, so it can be asked again and
again about photos that it has not seen, where the fine-tuned network could be asked once.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastprogress.fastprogress import progress_bar
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

CAUTIOUS, KEEN = 1, 10  # inverse strengths of the penalty, on features of length 1: with wrong labels less is better
COMPONENTS = 256  # of the features; with all 1,408 it takes five times as long and knows no more
FOLDS = 5
DRAWS = 5  # of each part of the photos; two, where there are more
WORK = 100_000  # photos times labels
SHARES = (0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.0)  # of the photos that a probe learns from
FITTED = 0.2  # share from which on the error follows a power law
ENOUGH = 5  # mistakes, to say anything
CANDIDATES = 5  # labels at most, of which it is tried what more would help
RESAMPLES = 1000  # of the bootstrap
# The bootstrap draws held-out photos anew, but not those that were learnt from. So intervals are made wider by what
# Nadeau and Bengio (Inference for the Generalization Error, 2003) add to the variance; without, what should be 95 % was
# 87 % in simulations.
WIDER = (1 + FOLDS / (FOLDS - 1)) ** 0.5
SURELY = 1.645  # standard deviations: one side, 95 %


def out_of_fold(features: torch.Tensor, photos: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Probabilities (photos, labels) of each photo, from a probe that has not seen it, nor what looks like it.

    `features` are (photos, channels), in the order of the data set `photos`. A photo whose label nothing else has is
    unknown: its row is NaN.
    """
    x, y = _reduced(features), photos.label.to_numpy()
    labels = np.unique(y)
    found = np.full((len(y), len(labels)), np.nan)
    for train, held_out in progress_bar([*_folds(photos, seed)], leave=False):
        probabilities = _probabilities(x[train], y[train], x[held_out], labels, CAUTIOUS)
        known = np.isin(y[held_out], y[train])
        found[held_out[known]] = probabilities[known]
    return pd.DataFrame(found, index=photos.index, columns=labels)


def _reduced(features: torch.Tensor) -> np.ndarray:
    x = torch.nn.functional.normalize(features.double()).numpy()
    return PCA(min(COMPONENTS, *x.shape), svd_solver="covariance_eigh").fit_transform(x)


def _folds(photos: pd.DataFrame, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of photos to learn from and of those held out, near-duplicates together."""
    folds = StratifiedGroupKFold(min(FOLDS, photos.group.nunique()), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        for train, held_out in folds.split(np.empty(len(photos)), photos.label.to_numpy(), photos.group.to_numpy()):
            if len(train) and len(held_out):  # of few groups a fold may get none
                yield train, held_out


def _probabilities(x: np.ndarray, y: np.ndarray, of: np.ndarray, labels: np.ndarray, c: float) -> np.ndarray:
    """(photos, labels) of a probe that has learnt `x` and `y`; labels that it has not met get 0."""
    found = np.zeros((len(of), len(labels)))
    met = np.unique(y)
    columns = np.searchsorted(labels, met)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # of many labels each may have few photos
        found[:, columns] = LogisticRegression(C=c, max_iter=300).fit(x, y).predict_proba(of) if len(met) > 1 else 1
    return found


@dataclass(frozen=True)
class LearningCurve:
    """What `learning_curve` finds."""

    table: pd.DataFrame  # photos that a probe learnt from, its error on others, low, high (95 %)
    mistakes: float  # of the probe with the most photos, a mean over the draws
    of: int  # photos
    twice: tuple[float, float, float]  # the error to be expected of twice the photos, and its 95 % interval
    falls: bool  # the error falls with the photos, beyond what chance may do
    helps: str | None  # the label of which more photos help most, where that can be told; all labels count the same

    def __str__(self) -> str:
        now, (error, low, high) = self.table.error.iloc[-1], self.twice
        if self.mistakes < ENOUGH:
            return (
                f"Too few to say what more photos would give: about {self.mistakes:.0f} of {self.of:,} are taken for "
                "something else."
            )
        text = f"Twice the photos would give about {error:.1%} error (95 % interval {low:.1%} to {high:.1%}) "
        text += f"in place of {now:.1%}"
        text += "." if self.falls else ", which may be chance: so far, the error does not clearly fall with the photos."
        if self.helps is None:
            return f"{text} Of which label more would help most is too close to tell."
        return f"{text} More of {self.helps} would help most."

    def plot(self) -> None:
        """Error against photos, on scales on which a power law is a straight line."""
        _, ax = plt.subplots(figsize=(8, 4))
        floor = 0.5 / self.of  # half a mistake: there is no logarithm of none
        error, low, high = (self.table[column].clip(lower=floor) for column in ("error", "low", "high"))
        ax.fill_between(self.table.photos, low, high, alpha=0.2, label="95 % interval")
        ax.plot(self.table.photos, error, marker="o", label="measured")
        if self.mistakes >= ENOUGH:
            most, (error, low, high) = self.table.photos.iloc[-1], self.twice
            ax.errorbar(2 * most, error, [[error - low], [high - error]], fmt="s", capsize=4, label="twice the photos")
        ax.set(xscale="log", yscale="log", xlabel="photos learnt from", ylabel="error on others")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(plt.NullFormatter())
        photos, errors = ax.get_xlim(), ax.get_ylim()
        ax.set_xticks(_round(*photos), [f"{tick:,.0f}" for tick in _round(*photos)])
        ax.set_yticks(_round(*errors), [f"{tick:.1%}" for tick in _round(*errors)])
        ax.legend()


def _round(low: float, high: float) -> list[float]:
    """Round numbers between two others."""
    ticks = [digit * 10.0**power for power in range(-6, 8) for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def learning_curve(features: torch.Tensor, photos: pd.DataFrame, seed: int = 0) -> LearningCurve:
    """How the error of a probe falls with the number of photos that it learns from, and what twice as many would give.

    `features` are (photos, channels), in the order of the data set `photos`. Each photo is held out in one of five
    folds of each draw; from the others several shares are learnt, near-duplicates together. A power law that is fitted
    to the errors gives the forecast (Hestness et al., Deep Learning Scaling is Predictable, Empirically, 2017).
    Intervals are from the bootstrap over photos.
    """
    x, y, groups = _reduced(features), photos.label.to_numpy(), photos.group.to_numpy()
    labels, members = np.unique(y), pd.factorize(groups)[0]
    rng = np.random.default_rng(seed)
    sizes, wrong = np.zeros(len(SHARES)), np.zeros((len(SHARES), len(y)))
    confused, halved = np.zeros(len(labels)), np.zeros((len(labels), len(y)))

    def predicted(learnt: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        return labels[_probabilities(x[learnt], y[learnt], x[held_out], labels, KEEN).argmax(1)]

    draws = DRAWS if len(y) * len(labels) <= WORK else 2
    splits = [fold for draw in range(draws) for fold in _folds(photos, seed + draw)]
    bar = iter(progress_bar(range(2 * len(splits)), leave=False))
    for train, held_out in splits:
        next(bar)
        order = _mixed(train, y, members, rng)
        for row, share in enumerate(SHARES):
            learnt = order[: max(1, round(share * len(order)))]
            taken = predicted(learnt, held_out)
            sizes[row] += len(learnt) / len(splits)
            wrong[row, held_out] += (taken != y[held_out]) / draws
        for column, label in enumerate(labels):
            confused[column] += ((taken != y[held_out]) & ((taken == label) | (y[held_out] == label))).sum()
    candidates = np.argsort(-confused, kind="stable")[:CANDIDATES]
    for train, held_out in splits:
        next(bar)
        for column in candidates:
            taken = predicted(_without_half(train, y == labels[column], members, rng), held_out)
            halved[column, held_out] += (taken != y[held_out]) / draws
    list(bar)

    drawn = _drawn_anew(members, rng)
    errors = wrong @ drawn.T  # (shares, resamples)
    fitted = sizes >= FITTED * sizes[-1]
    twice, exponent = _power_law(sizes[fitted], wrong[fitted].mean(1), len(y))
    many, exponents = _power_law(sizes[fitted], errors[fitted], len(y))
    spread = 1.96 * WIDER * many.std()
    error = wrong.mean(1)
    low, high = (error + WIDER * (np.quantile(errors, [0.025, 0.975], axis=1) - error)).clip(0, 1)
    return LearningCurve(
        pd.DataFrame({"photos": sizes, "error": error, "low": low, "high": high}),
        float(wrong[-1].sum()),
        len(y),
        tuple(float(min(np.exp(twice + shift), 1)) for shift in (0, -spread, spread)),
        bool(exponent + SURELY * WIDER * exponents.std() < 0),
        _first(labels[candidates], halved[candidates] - wrong[-1], drawn * _alike(y)),
    )


def _alike(y: np.ndarray) -> np.ndarray:
    """Weights of photos with which every label counts the same, or of a rare one there would never be need for more."""
    labels, inverse, count = np.unique(y, return_inverse=True, return_counts=True)
    return (len(y) / len(labels) / count)[inverse]


def _first(labels: np.ndarray, rises: np.ndarray, drawn: np.ndarray) -> str | None:
    """The label without half of whose photos the error rises most, if it surely rises, and more than with any other.

    `rises` are (labels, photos), `drawn` (resamples, photos).
    """
    many = rises @ drawn.T
    first = many.mean(1).argmax()
    more = many[first] - np.vstack([np.delete(many, first, axis=0), np.zeros(many.shape[1])])
    return str(labels[first]) if (more.mean(1) > SURELY * WIDER * more.std(1)).all() else None


def _mixed(train: np.ndarray, y: np.ndarray, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photos in an order in which labels take turns, and near-duplicates of one label stay together."""
    table = pd.DataFrame({"photo": train, "label": y[train], "group": members[train], "by": rng.random(len(train))})
    table["by"] = table.groupby("group").by.transform("first")
    table["by"] = table.groupby("label").by.rank(pct=True)
    return table.sort_values(["by", "group"]).photo.to_numpy()


def _without_half(train: np.ndarray, of: np.ndarray, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`train` without half of the photos `of` a label, near-duplicates together."""
    groups = rng.permutation(np.unique(members[train[of[train]]]))
    gone = np.isin(members[train], groups[: len(groups) // 2]) & of[train]
    return train[~gone]


def _drawn_anew(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(resamples, photos) weights of each photo where near-duplicates are drawn together, with replacement."""
    count = members.max() + 1
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, members].astype(float)
    return weights / weights.sum(1, keepdims=True)


def _power_law(photos: np.ndarray, errors: np.ndarray, of: int) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the error with twice the most photos, and the exponent, which is never above 0.

    `errors` are (shares,) or (shares, resamples).
    """
    errors = np.log(np.maximum(errors, 0.5 / of))  # half a mistake
    exponent, offset = np.polyfit(np.log(photos), errors, 1)
    line = offset + exponent * np.log(2 * photos[-1])
    return np.where(exponent < 0, line, errors.mean(0)), exponent
