"""How good a classifier is: error with its interval, per-class figures, calibration, novelty."""

from dataclasses import dataclass
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastprogress.fastprogress import progress_bar
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score
from torch import nn

from bears.classifier import Answer
from bears.novelty import KEEP, forward, pooled
from bears.plausible import least_sure, plausible

BINS = 15  # of the reliability diagram and the ECE, as in Guo et al.
RESAMPLES = 1000  # of the bootstrap
DOUBT = 0.15  # how far the logarithm of the temperature is thought to lie from 0 before a photo has said anything
ENOUGH = 5  # mistakes; with fewer there is too little to make answers surer by
COVERAGE = (1.0, 0.99, 0.95, 0.9, 0.8)
SEPARATION = [("auroc", "AUROC", ".4f"), ("fpr", "FPR at 95 % kept", ".2%"), ("recognised", "recognised", ".2%")]


class Outputs(NamedTuple):
    """What a model makes of photos, on the CPU."""

    features: torch.Tensor  # (photos, channels), see `bears.novelty.forward`
    logits: torch.Tensor  # (photos, labels)
    targets: torch.Tensor  # (photos,) indices into the vocabulary; empty for photos without a label


@torch.inference_mode()
def outputs(model: nn.Module, dl) -> Outputs:
    """Of all photos of a DataLoader of fastai's."""
    model.eval()
    features, logits, targets = [], [], []
    for photos, *labels in progress_bar(dl, leave=False):  # plain tensors: fastai's own refuse to be mixed
        activations, answers = forward(model, photos.as_subclass(torch.Tensor))
        features.append(pooled(activations).cpu().float())
        logits.append(answers.cpu().float())
        targets += [label.cpu().as_subclass(torch.Tensor) for label in labels]
    return Outputs(torch.cat(features), torch.cat(logits), torch.cat(targets) if targets else torch.empty(0).long())


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


def log_probabilities(answers: list[Answer]) -> torch.Tensor:
    """(photos, labels) of what a classifier said, for functions that take logits: of these the softmax is the same."""
    rows = torch.tensor([[*answer.probabilities.values()] for answer in answers], dtype=torch.double)
    return rows.clamp_min(1e-12).log()


def wilson(count: int, of: int) -> tuple[float, float]:
    interval = binomtest(count, of).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(logits: torch.Tensor, targets: torch.Tensor, vocab: list[str], temperature: float = 1.0) -> Scores:
    """Scores of (photos, labels) logits, divided by `temperature`, against (photos,) indices into `vocab`."""
    logits, targets = logits.double() / temperature, targets.long()
    probabilities = logits.softmax(1)
    confidence, predicted = (column.numpy() for column in probabilities.max(1))
    truth = targets.numpy()
    right = predicted == truth
    wrong, of = int((~right).sum()), len(truth)

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
        wilson(wrong, of),
        F.nll_loss(logits.log_softmax(1), targets).item(),
        (probabilities - F.one_hot(targets, len(vocab))).square().sum(1).mean().item(),
        float((gaps * reliability.photos).sum() / of),
        pd.DataFrame(confusion_matrix(truth, predicted, labels=indices), list(vocab), list(vocab)),
        pd.DataFrame({"precision": precision, "recall": recall, "photos": photos}, list(vocab)),
        reliability,
    )


@dataclass(frozen=True)
class NoveltyScores:
    """What `evaluate_novelty` finds."""

    doubted: int  # photos of the labels that are not recognised
    of: int
    interval: tuple[float, float]  # of their share, 95 %, Wilson
    coverage: pd.DataFrame  # error among the least novel, and among the most probable, photos of the labels
    strangers: pd.DataFrame  # of each group: photos; auroc, fpr and recognised, each with _low and _high

    def summary(self) -> pd.DataFrame:
        """`strangers`, for reading."""
        table = self.strangers
        texts = {"photos": table.photos}
        for column, name, digits in SEPARATION:
            rows = table[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False)
            texts[name] = [f"{value:{digits}} ({low:{digits}} to {high:{digits}})" for value, low, high in rows]
        return pd.DataFrame(texts, index=table.index)

    def __str__(self) -> str:
        low, high = self.interval
        share = self.doubted / self.of
        return f"{share:.2%} doubted ({self.doubted} of {self.of}; 95 % interval {low:.2%} to {high:.2%})"


def evaluate_novelty(
    novelty: np.ndarray, logits: torch.Tensor, targets: torch.Tensor, strangers: dict[str, np.ndarray]
) -> NoveltyScores:
    """Scores of the (photos,) `novelty` of photos of the labels, beside that of each group of strangers.

    `logits` (photos, labels) and `targets` (photos,) are for the error among those that are answered. Photos of the
    labels are the positive class: FPR is the share of strangers who pass where 95 % of the photos of the labels do.
    Intervals are 95 %: Wilson's for shares at the limit, percentiles of the bootstrap, with both sides drawn anew, for
    the others.
    """
    doubted, of = int((novelty > 1).sum()), len(novelty)
    confidence, predicted = (column.numpy() for column in logits.double().softmax(1).max(1))
    wrong = predicted != targets.numpy()
    coverage = {}
    for share in COVERAGE:
        count = round(share * of)
        least_novel, most_probable = (np.argsort(order, kind="stable")[:count] for order in (novelty, -confidence))
        coverage[f"{share:.0%}"] = [count, wrong[least_novel].mean(), wrong[most_probable].mean()]
    groups = {name: _against(novelty, theirs) for name, theirs in strangers.items()}
    columns = ["photos", *(column + end for column, *_ in SEPARATION for end in ("", "_low", "_high"))]
    return NoveltyScores(
        doubted,
        of,
        wilson(doubted, of),
        pd.DataFrame.from_dict(coverage, "index", columns=["photos", "least novel", "most probable"]),
        pd.DataFrame.from_dict(groups, "index", columns=columns),
    )


def _against(novelty: np.ndarray, strangers: np.ndarray) -> list[float]:
    """One row of `NoveltyScores.strangers`."""
    rng = np.random.default_rng(0)
    drawn = [
        _separation(rng.choice(novelty, len(novelty)), rng.choice(strangers, len(strangers))) for _ in range(RESAMPLES)
    ]
    (auroc, fpr), (low, high) = _separation(novelty, strangers), np.quantile(drawn, [0.025, 0.975], axis=0)
    passed, of = int((strangers <= 1).sum()), len(strangers)
    return [of, auroc, low[0], high[0], fpr, low[1], high[1], passed / of, *wilson(passed, of)]


def _separation(novelty: np.ndarray, strangers: np.ndarray) -> tuple[float, float]:
    """AUROC, and the false positive rate where 95 % of the photos of the labels are kept."""
    auroc = roc_auc_score(np.repeat([1, 0], [len(novelty), len(strangers)]), -np.concatenate([novelty, strangers]))
    return auroc, float((strangers <= np.quantile(novelty, KEEP, method="higher")).mean())


def fit_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """By what to divide logits so that probabilities mean what they say, fitted on validation photos.

    Guo et al., On Calibration of Modern Neural Networks, 2017, with a normal prior on its logarithm: the fewer photos
    there are, the closer to 1 it stays. Without that, where none of a few photos is wrong every answer would become
    certain. And where fewer than 5 are wrong it is at least 1: no answer becomes surer. tests/test_evaluation.py
    simulates what it gains and costs.
    """
    logits, targets = logits.double(), targets.long()
    least = 0.05 if (logits.argmax(1) != targets).sum() >= ENOUGH else 1.0

    def loss(log_temperature: float) -> float:
        likelihood = F.cross_entropy(logits / np.exp(log_temperature), targets, reduction="sum").item()
        return likelihood + (log_temperature / DOUBT) ** 2 / 2

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(least), np.log(20)), method="bounded").x))


@dataclass(frozen=True)
class SetScores:
    """What `evaluate_sets` finds: how well the sets of labels that cannot be ruled out do."""

    table: pd.DataFrame  # rows: all photos, the least sure; columns: photos, covered (with _low and _high), size
    several: int  # photos with two or more plausible labels
    wrong: int  # of these, how many are taken for something else

    def summary(self) -> pd.DataFrame:
        """`table`, for reading."""
        rows = {
            name: [row.photos, f"{row.covered:.1%} ({row.low:.1%} to {row.high:.1%})", f"{row.labels:.2f}"]
            for name, row in zip(self.table.index, self.table.itertuples(index=False), strict=True)
        }
        return pd.DataFrame.from_dict(rows, "index", columns=["photos", "right label in the set", "labels in a set"])

    def __str__(self) -> str:
        return (
            f"{self.several} photos with more than one plausible label, {self.wrong} of them taken for something else"
        )


def evaluate_sets(logits: torch.Tensor, targets: torch.Tensor, floor: float, temperature: float = 1.0) -> SetScores:
    """Of (photos, labels) logits, divided by `temperature`, against (photos,) targets; see `bears.plausible`."""
    probabilities = (logits.double() / temperature).softmax(1)
    sets = plausible(probabilities, floor)
    covered, sizes = sets[range(len(targets)), targets], sets.sum(1)
    rows = {}
    for name, some in ("all", torch.arange(len(targets))), ("least sure fifth", least_sure(probabilities)):
        count = int(covered[some].sum())
        rows[name] = [len(some), count / len(some), *wilson(count, len(some)), sizes[some].float().mean().item()]
    several = sizes > 1
    return SetScores(
        pd.DataFrame.from_dict(rows, "index", columns=["photos", "covered", "low", "high", "labels"]),
        int(several.sum()),
        int((probabilities.argmax(1) != targets)[several].sum()),
    )


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


def plot_novelty(novelty: np.ndarray, strangers: dict[str, np.ndarray]) -> None:
    """How novelty is distributed among photos of the labels and strangers; right of the line is not recognised."""
    _, ax = plt.subplots(figsize=(8, 4))
    groups = {"photos of the labels": novelty, **strangers}
    bins = np.linspace(0, max(values.max() for values in groups.values()), 50)
    for name, values in groups.items():
        weights = np.full(len(values), 1 / len(values))
        ax.hist(values, bins, weights=weights, alpha=0.5, label=f"{name} ({len(values)})")
    ax.axvline(1, color="black", linestyle="--")
    ax.set(xlabel="novelty", ylabel="share of photos")
    ax.legend()
