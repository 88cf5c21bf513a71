"""bears.plausible: which labels cannot be ruled out, and that the promise is kept."""

import numpy as np
import pytest
import torch

from bears.plausible import COVER, UNSURE, conformal_floor, cover_reached, least_sure, plausible


def draw(photos: int, seed: int, sharpness: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of a classifier that is too sure of itself, and the truth, for so many photos."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(photos, 3)) * sharpness
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = [rng.choice(3, p=row) for row in honest]
    return torch.tensor(1.6 * logits).softmax(1), torch.tensor(truth)


def test_of_the_least_sure_photos_nearly_all_have_their_label_in_the_set():
    """As a promise on the mean over draws: of new photos among the least sure ones, 95 %."""
    covered, plain = [], []
    for seed in range(60):
        floor = conformal_floor(*draw(200, seed))
        probabilities, truth = draw(2000, 1000 + seed)
        some = least_sure(probabilities)
        assert len(some) == 400
        sets = plausible(probabilities[some], floor)
        covered.append(sets[range(400), truth[some]].float().mean())
        plain.append((probabilities[some].argmax(1) == truth[some]).float().mean())
    assert np.mean(plain) < 0.85, "where one label would not do"
    assert np.mean(covered) >= COVER


def test_a_set_holds_the_best_label_and_all_that_reach_the_floor():
    probabilities = torch.tensor([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.34, 0.33, 0.33]])
    assert plausible(probabilities, 0.05).tolist() == [
        [True, True, False], [True, True, True], [True, False, False], [True, True, True],
    ]  # fmt: skip
    assert plausible(probabilities, 0.95).sum(1).tolist() == [1, 1, 1, 1], "none is empty"


def test_the_floor_is_counted_among_the_least_sure():
    """By hand: of 100 photos the 20 least sure, of which one in 20 may have a right label that is less probable."""
    best = torch.cat([torch.linspace(0.9, 0.96, 20), torch.full((80,), 0.99)])
    probabilities, truth = torch.stack([best, 1 - best], 1), torch.zeros(100).long()
    assert conformal_floor(probabilities, truth) == pytest.approx(1 - COVER), "there are no mistakes"
    truth[50] = 1
    assert conformal_floor(probabilities, truth) == pytest.approx(1 - COVER), "it was sure of this one"
    truth[19] = 1
    assert conformal_floor(probabilities, truth) == pytest.approx(0.04)
    truth[18] = 1
    assert conformal_floor(probabilities, truth, cover=0.9) == pytest.approx(1 - best[18].item()), "two may lie below"


@pytest.mark.parametrize(("photos", "promised"), [(200, 0.95), (95, 0.95), (50, 10 / 11), (3, 0.5), (1, 0.5)])
def test_few_photos_promise_less(photos, promised):
    assert cover_reached(photos) == pytest.approx(promised)
    probabilities, truth = draw(photos, 0)
    assert 0 <= conformal_floor(probabilities, truth) <= 1 - COVER
    assert len(least_sure(probabilities)) == max(1, -(-photos * UNSURE // 1))
