"""bears.evaluation: figures as other implementations and textbooks have them."""

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from bears.evaluation import evaluate, fit_temperature, plot_reliability

matplotlib.use("Agg")
VOCAB = ["black", "grizzly", "teddy"]


@pytest.fixture
def overconfident() -> tuple[torch.Tensor, torch.Tensor]:
    """3,000 answers whose logits are three times as large as they should be."""
    rng = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(3000, 3, generator=rng)
    targets = torch.multinomial(honest.softmax(1), 1, generator=rng)[:, 0]
    return 3 * honest, targets


def test_the_interval_is_wilsons():
    logits = torch.eye(3)[torch.zeros(200, dtype=int)]
    targets = torch.tensor([1] * 4 + [0] * 196)
    scores = evaluate(logits, targets, VOCAB)
    assert (scores.wrong, scores.of, scores.error) == (4, 200, 0.02)
    n, p, z = 200, 0.02, 1.959964
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert scores.interval == pytest.approx(expected, abs=1e-6)
    assert "2.00% error (4 of 200" in str(scores)


def test_without_an_error_the_interval_still_has_a_width():
    scores = evaluate(torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20), VOCAB)
    assert scores.error == 0 and scores.interval[0] == pytest.approx(0, abs=1e-12) and 0.05 < scores.interval[1] < 0.07


def test_figures_agree_with_other_ways_to_compute_them(overconfident):
    logits, targets = overconfident
    scores = evaluate(logits, targets, VOCAB)
    probabilities = np.exp(logits.double().numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    truth = targets.numpy()
    assert scores.nll == pytest.approx(log_loss(truth, probabilities), rel=1e-6)
    assert scores.brier == pytest.approx(((probabilities - np.eye(3)[truth]) ** 2).sum(1).mean(), rel=1e-6)

    ece = 0.0
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15) | (low > 0.93) & (confidence == 1)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert scores.ece == pytest.approx(ece, abs=1e-9)


def test_rows_are_the_truth_and_columns_the_answers():
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1])]
    scores = evaluate(logits, torch.tensor([0, 1, 1, 1]), VOCAB)
    assert scores.confusion.loc["grizzly", "black"] == 1 and scores.confusion.loc["black", "grizzly"] == 0
    assert scores.per_class.loc["grizzly"].tolist() == [1.0, pytest.approx(2 / 3), 3]
    assert scores.per_class.loc["teddy"].tolist() == [0, 0, 0], "no photo of it, and no answer"


def test_the_temperature_is_found_and_changes_no_answer(overconfident):
    logits, targets = overconfident
    temperature = fit_temperature(logits, targets)
    assert temperature == pytest.approx(3, rel=0.1)
    before, after = evaluate(logits, targets, VOCAB), evaluate(logits, targets, VOCAB, temperature)
    assert after.wrong == before.wrong
    assert after.nll < before.nll and after.brier < before.brier and after.ece < before.ece / 3


def test_without_a_mistake_the_temperature_stays_in_bounds():
    assert 0.05 <= fit_temperature(torch.eye(3).repeat(9, 1), torch.arange(3).repeat(9)) < 0.06


def test_the_diagram_has_a_bar_for_each_bin_that_has_photos(overconfident):
    scores = evaluate(*overconfident, VOCAB)
    plot_reliability(before=scores, after=scores)
    axes = matplotlib.pyplot.gcf().axes
    assert [len(ax.patches) for ax in axes] == [len(scores.reliability)] * 2
    matplotlib.pyplot.close("all")
