"""bears.training.evaluation: figures as other implementations and textbooks have them."""

import matplotlib
import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import log_loss

from bears.classifier import Answer
from bears.training.evaluation import (
    evaluate,
    evaluate_novelty,
    evaluate_sets,
    fit_temperature,
    log_probabilities,
    outputs,
    plot_novelty,
    plot_reliability,
)

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


def honest_answers(photos: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of which a temperature of 1 is exactly right, 93 % of them with the right answer first."""
    logits = 8 * torch.randn(photos, 3, generator=rng)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


@pytest.mark.parametrize("photos", [4, 10, 30, 100, 1000])
def test_the_temperature_helps_where_it_is_needed_and_does_next_to_no_harm_where_it_is_not(photos):
    """On average over validation sets of that size, on 10,000 other photos."""
    rng = torch.Generator().manual_seed(photos)
    logits, targets = honest_answers(10_000, rng)
    unsure = 0 if photos >= 100 else 0.02  # of fewer, too few are wrong for it to make answers surer
    for scale, most in (0.5, unsure), (1, 0.005), (2, 0):  # not sure enough; right; too sure
        before = evaluate(scale * logits, targets, VOCAB)
        nll, ece = [], []
        for _ in range(30):
            some, labels = honest_answers(photos, rng)
            after = evaluate(scale * logits, targets, VOCAB, fit_temperature(scale * some, labels))
            nll.append(after.nll)
            ece.append(after.ece)
        assert np.mean(nll) - before.nll < most and np.mean(ece) - before.ece < max(most, 0.001)


def test_few_mistakes_make_no_answer_surer():
    for photos in 3, 30, 90, 900:
        logits, targets = 2 * torch.eye(3).repeat(photos // 3, 1), torch.arange(3).repeat(photos // 3)
        assert fit_temperature(logits, targets) == pytest.approx(1, abs=1e-3)
        targets[: min(4, photos // 3)] += 1
        assert fit_temperature(logits, targets % 3) >= 1
    targets[4] += 1
    assert fit_temperature(logits, targets % 3) < 1, "five of nine hundred show that it was too unsure"


def test_the_diagram_has_a_bar_for_each_bin_that_has_photos(overconfident):
    scores = evaluate(*overconfident, VOCAB)
    plot_reliability(before=scores, after=scores)
    axes = matplotlib.pyplot.gcf().axes
    assert [len(ax.patches) for ax in axes] == [len(scores.reliability)] * 2
    matplotlib.pyplot.close("all")


# Novelty


@pytest.fixture
def novelty() -> tuple[np.ndarray, torch.Tensor, torch.Tensor, dict]:
    """Of 200 photos of the labels, the 4 most novel of them wrong; and of strangers, most of whom are more novel."""
    rng = np.random.default_rng(0)
    ours = np.sort(rng.normal(0.5, 0.25, 200))
    targets = torch.zeros(200, dtype=int)
    targets[-4:] = 1
    strangers = {"near": rng.normal(1.2, 0.3, 80), "far": rng.normal(3, 0.3, 150)}
    return ours, torch.tensor([[3.0, 0.0]]).repeat(200, 1), targets, strangers


def test_strangers_are_told_apart_as_other_ways_to_compute_it_say(novelty):
    ours, logits, targets, strangers = novelty
    scores = evaluate_novelty(ours, logits, targets, strangers)
    assert (scores.doubted, scores.of) == ((ours > 1).sum(), 200)
    assert scores.strangers.photos.to_dict() == {"near": 80, "far": 150}
    for name, theirs in strangers.items():
        row = scores.strangers.loc[name]
        assert row.auroc == pytest.approx(mannwhitneyu(theirs, ours).statistic / (len(theirs) * len(ours)))
        limit = next(limit for limit in sorted(ours) if (ours <= limit).mean() >= 0.95)
        assert row.fpr == (theirs <= limit).mean()
        assert row.recognised == (theirs <= 1).mean()
        for column in ("auroc", "fpr", "recognised"):
            assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]
    near, far = (scores.strangers.loc[name] for name in ("near", "far"))
    assert near.auroc_low < near.auroc_high and near.fpr_low < near.fpr_high
    assert far.auroc == 1 and far.fpr == 0 and far.recognised == 0 < far.recognised_high < 0.03


def test_bootstrap_intervals_are_as_wide_as_theory_says():
    """Where the side of the labels is fixed, a share has the standard error of a binomial."""
    ours, theirs = np.zeros(500), np.repeat([0.0, 2.0], [100, 300])
    logits, targets = torch.eye(2)[torch.zeros(500, dtype=int)], torch.zeros(500, dtype=int)
    row = evaluate_novelty(ours, logits, targets, {"strangers": theirs}).strangers.loc["strangers"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert [row.fpr, row.fpr_low, row.fpr_high] == pytest.approx([0.25, 0.25 - half, 0.25 + half], abs=0.01)


def test_the_bootstrap_draws_photos_of_the_labels_anew_too():
    """Where the strangers are all alike, what is uncertain is what the few photos of the labels say."""
    ours, theirs = np.repeat([0.0, 2.0], [20, 20]), np.ones(500)
    logits, targets = torch.eye(2)[torch.zeros(40, dtype=int)], torch.zeros(40, dtype=int)
    row = evaluate_novelty(ours, logits, targets, {"strangers": theirs}).strangers.loc["strangers"]
    half = 1.96 * np.sqrt(0.25 / 40)
    assert [row.auroc, row.auroc_low, row.auroc_high] == pytest.approx([0.5, 0.5 - half, 0.5 + half], abs=0.02)


def test_what_is_least_novel_and_what_is_most_probable_are_different_photos():
    """Here the mistake is nothing new, and unsure."""
    logits = torch.tensor([[0.1, 0.0]] + [[float(n), 0.0] for n in range(1, 10)])
    targets = torch.tensor([1] + [0] * 9)
    coverage = evaluate_novelty(np.linspace(0, 0.9, 10), logits, targets, {}).coverage
    assert coverage.loc["80%"].tolist() == pytest.approx([8, 1 / 8, 0])


def test_the_error_falls_as_the_most_novel_are_not_answered(novelty):
    coverage = evaluate_novelty(*novelty).coverage
    assert coverage.photos.tolist() == [200, 198, 190, 180, 160]
    assert coverage["least novel"].tolist() == pytest.approx([4 / 200, 2 / 198, 0, 0, 0])
    assert coverage.loc["100%", "most probable"] == 4 / 200


def test_without_strangers_the_doubted_are_still_counted(novelty):
    ours, logits, targets, _ = novelty
    scores = evaluate_novelty(ours, logits, targets, {})
    assert len(scores.strangers) == len(scores.summary()) == 0
    assert f"doubted ({(ours > 1).sum()} of 200" in str(scores)


def test_sets_are_counted_among_all_and_among_the_least_sure():
    probabilities = torch.tensor([[0.98, 0.01, 0.01]] * 8 + [[0.5, 0.4, 0.1], [0.6, 0.3, 0.1]]).double()
    targets = torch.tensor([0] * 7 + [1, 1, 2])
    scores = evaluate_sets(probabilities.log(), targets, 0.2)
    assert (scores.several, scores.wrong) == (2, 2) and str(scores).startswith("2 photos with more than one")
    table = scores.table
    assert table.photos.tolist() == [10, 2] and table.labels.tolist() == pytest.approx([1.2, 2.0])
    assert table.covered.tolist() == pytest.approx([0.8, 0.5])
    assert table.loc["all", ["low", "high"]].tolist() == pytest.approx([0.490, 0.943], abs=1e-3)
    softened = evaluate_sets(probabilities.log(), targets, 0.2, temperature=50)
    assert softened.table.labels.tolist() == [3, 3], "as they are after the temperature"


def test_the_plot_shows_every_group_and_the_limit(novelty):
    ours, _, _, strangers = novelty
    plot_novelty(ours, strangers)
    (ax,) = matplotlib.pyplot.gcf().axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "photos of the labels (200)", "near (80)", "far (150)"
    ]  # fmt: skip
    assert [line.get_xdata()[0] for line in ax.lines] == [1]
    matplotlib.pyplot.close("all")


def test_outputs_are_those_of_the_model_in_order():
    torch.manual_seed(0)
    head = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(4, 3)
    )
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), head)
    photos, targets = torch.rand(10, 3, 6, 6), torch.arange(10) % 3
    features, logits, found = outputs(model, [(photos[:6], targets[:6]), (photos[6:], targets[6:])])
    assert torch.equal(found, targets) and features.shape == (10, 4)
    assert torch.allclose(logits, model.eval()(photos), atol=1e-6), "without dropout"
    assert len(outputs(model, [(photos,)]).targets) == 0


def test_answers_are_scored_as_the_logits_they_come_from():
    logits, targets = torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.2, 0.1], [0.0, 0.0, 900.0]]), torch.tensor([0, 2, 0])
    answers = [
        Answer(VOCAB[max(range(3), key=row.__getitem__)], max(row), dict(zip(VOCAB, row, strict=True)))
        for row in (logits / 2).softmax(1).tolist()
    ]
    ours, theirs = evaluate(log_probabilities(answers), targets, VOCAB), evaluate(logits, targets, VOCAB, 2.0)
    assert (ours.wrong, ours.of, ours.brier) == (theirs.wrong, 3, pytest.approx(theirs.brier))
    assert np.isfinite(ours.nll), "where the right label has no probability at all"
    sure = evaluate(log_probabilities(answers[:2]), targets[:2], VOCAB)
    assert sure.nll == pytest.approx(evaluate(logits[:2], targets[:2], VOCAB, 2.0).nll)
