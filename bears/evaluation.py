"""How good a classifier is: error with its interval, per-class figures, calibration. Logits in, figures out."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

BINS = 15  # of the reliability diagram and the ECE, as in Guo et al.


@dataclass(frozen=True)
class Scores:
    """What `evaluate` finds."""

    wrong: int
    of: int
    error: float  # wrong / of
    interval: tuple[float, float]  # of the error, 95 %, Wilson
    nll: float  # nats a photo
    brier: float  # 0 to 2: squared distance between probabilities and truth, summed over the labels
    ece: float  # 0 to 1: how far confidence and accuracy lie apart, mean over 15 bins of equal width
    confusion: pd.DataFrame  # rows: what the photos are; columns: what they were taken for
    per_class: pd.DataFrame  # precision, recall, photos of each label
    reliability: pd.DataFrame  # confidence, accuracy, photos of each bin that has any

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.error:.2%} error ({self.wrong} of {self.of}; 95 % interval {low:.2%} to {high:.2%}), "
            f"NLL {self.nll:.4f}, Brier {self.brier:.4f}, ECE {self.ece:.4f}"
        )


def evaluate(logits: torch.Tensor, targets: torch.Tensor, vocab: list[str], temperature: float = 1.0) -> Scores:
    """Scores of (photos, labels) logits, divided by `temperature`, against (photos,) indices into `vocab`."""
    logits, targets = logits.double() / temperature, targets.long()
    probabilities = logits.softmax(1)
    confidence, predicted = (column.numpy() for column in probabilities.max(1))
    truth = targets.numpy()
    right = predicted == truth
    wrong, of = int((~right).sum()), len(truth)
    interval = binomtest(wrong, of).proportion_ci(0.95, method="wilson")

    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(float), "photos": 1})
    reliability = table.groupby(bins).agg({"confidence": "mean", "accuracy": "mean", "photos": "sum"})
    gaps = (reliability.confidence - reliability.accuracy).abs()

    indices = range(len(vocab))
    precision, recall, _, photos = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0.0)
    return Scores(
        wrong,
        of,
        wrong / of,
        (interval.low, interval.high),
        F.nll_loss(logits.log_softmax(1), targets).item(),
        (probabilities - F.one_hot(targets, len(vocab))).square().sum(1).mean().item(),
        float((gaps * reliability.photos).sum() / of),
        pd.DataFrame(confusion_matrix(truth, predicted, labels=indices), list(vocab), list(vocab)),
        pd.DataFrame({"precision": precision, "recall": recall, "photos": photos}, list(vocab)),
        reliability,
    )


def fit_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """By what to divide logits so that probabilities mean what they say, fitted on validation photos.

    Guo et al., On Calibration of Modern Neural Networks, 2017. Kept between 0.05 and 20: where no photo is wrong, the
    likelihood alone would make every answer certain.
    """
    logits, targets = logits.double(), targets.long()

    def nll(log_temperature: float) -> float:
        return F.cross_entropy(logits / np.exp(log_temperature), targets).item()

    return float(np.exp(minimize_scalar(nll, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def plot_reliability(**scores: Scores) -> None:
    """Reliability diagrams, side by side; on the diagonal, of the answers given with 80 % four in five are right."""
    _, axes = plt.subplots(1, len(scores), figsize=(4 * len(scores), 4), sharey=True, squeeze=False)
    for ax, (name, score) in zip(axes[0], scores.items(), strict=True):
        bins = score.reliability
        ax.plot([0, 1], [0, 1], "--", color="grey")
        ax.bar(bins.confidence, bins.accuracy, width=1 / BINS, alpha=0.5)
        for confidence, accuracy, photos in bins.itertuples(index=False):
            ax.annotate(int(photos), (confidence, accuracy), ha="center", va="bottom", fontsize=7)
        ax.set(title=f"{name}: ECE {score.ece:.3f}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1.08))
    axes[0, 0].set_ylabel("accuracy")
