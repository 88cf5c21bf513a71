"""bears.training.probe: wrong labels are found, and what is foretold of more photos comes true, or is not said."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bears.training.probe import learning_curve, out_of_fold

matplotlib.use("Agg")
LABELS = ["black", "grizzly", "teddy"]


def draw(counts: list[int], seed: int, apart: float = 1.0, copies: int = 1) -> tuple[torch.Tensor, pd.DataFrame]:
    """Features of so many photos of each label, from clouds that overlap, and the data set; each with copies."""
    rng = np.random.default_rng(seed)
    middles = apart * np.random.default_rng(0).normal(size=(3, 40))
    label = np.repeat(np.arange(3), counts)
    features = middles[label] + rng.normal(size=(len(label), 40))
    order = rng.permutation(np.repeat(np.arange(len(label)), copies))
    photos = pd.DataFrame({"label": np.array(LABELS)[label[order]], "group": order.astype(str)})
    return torch.tensor(features[order]).float(), photos.set_index(rng.permutation(len(photos)) + 1000)


def own(probabilities: pd.DataFrame, photos: pd.DataFrame) -> np.ndarray:
    return probabilities.to_numpy()[np.arange(len(photos)), probabilities.columns.get_indexer(photos.label)]


# Out of fold


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_are_among_the_first(seed):
    features, photos = draw([100, 60, 140], seed)
    wrong = np.random.default_rng(seed).choice(len(photos), 15, replace=False)
    labels = photos.label.to_numpy().copy()
    labels[wrong] = [LABELS[(LABELS.index(label) + 1) % 3] for label in labels[wrong]]
    photos = photos.assign(label=labels)
    found = out_of_fold(features, photos)
    assert found.index.equals(photos.index) and [*found.columns] == LABELS
    assert np.allclose(found.sum(axis=1), 1)
    first = np.argsort(own(found, photos))[:30]
    assert len({*first} & {*wrong}) >= 14, "of 15"


def test_no_photo_is_asked_about_by_one_that_has_seen_its_look_alike():
    """Of noise with labels drawn at random nothing can be known, unless the same noise was learnt with its label."""
    features, photos = draw([30, 30, 30], 1, apart=0, copies=3)
    grouped = own(out_of_fold(features, photos), photos).mean()
    apart = own(out_of_fold(features, photos.assign(group=np.arange(len(photos)).astype(str))), photos).mean()
    assert grouped < 0.36 < 0.4 < apart, "a third is chance"


def test_of_a_label_that_nothing_else_has_nothing_is_known():
    features, photos = draw([40, 40, 4], 1)
    photos.loc[photos.label == "teddy", "group"] = "all alike"
    found = out_of_fold(features, photos)
    assert found[photos.label == "teddy"].isna().all(axis=None)
    assert found[photos.label != "teddy"].notna().all(axis=None) and (found.teddy.dropna() <= 0.1).all()


def test_two_groups_are_enough():
    features, photos = draw([6, 6, 6], 1)
    photos["group"] = np.where(np.arange(18) % 2, "one", "other")
    assert out_of_fold(features, photos).shape == (18, 3)
    photos["group"] = np.where(photos.label == "black", "one", "other")
    assert out_of_fold(features, photos[["label", "group"]])[photos.label == "black"].isna().all(axis=None)
    assert "Too few" in str(learning_curve(features[:6], photos[:6].assign(label=[*"ababab"], group=[*"xxxyyy"])))


def test_a_fold_without_photos_is_no_trouble_and_no_interval_exceeds_all():
    rng = np.random.default_rng(0)
    for sizes in ([21, 1, 1, 1, 1], [9, 8, 1, 1, 1], [40, 20, 10, 5, 3, 2]):
        group = np.repeat(np.arange(len(sizes)), sizes).astype(str)
        photos = pd.DataFrame({"label": rng.choice(["a", "b"], len(group)), "group": group})
        features = torch.tensor(rng.normal(size=(len(group), 5)))
        assert out_of_fold(features, photos).shape == (len(group), 2)
        curve = learning_curve(features, photos)
        assert max(curve.twice) <= 1 and curve.table.high.max() <= 1


def test_many_labels_of_few_photos_are_no_trouble():
    rng = np.random.default_rng(0)
    label, group = np.repeat(np.arange(60), 6), np.arange(360).astype(str)
    features = torch.tensor(rng.normal(size=(60, 30))[label] + 0.5 * rng.normal(size=(360, 30)))
    photos = pd.DataFrame({"label": [f"kind {number}" for number in label], "group": group})
    assert own(out_of_fold(features, photos), photos).min() >= 0
    assert learning_curve(features, photos).of == 360


# The learning curve


@pytest.fixture(scope="module")
def foretold():
    """Of six draws of 240 photos: their learning curves."""
    return [learning_curve(*draw([80, 80, 80], seed, apart=0.45)) for seed in range(6)]


def errors(photos: int, draws: int = 20) -> float:
    """The error of a logistic regression that has learnt so many photos, on 3,000 others."""
    others, truth = draw([1000, 1000, 1000], 999, apart=0.45)
    others = torch.nn.functional.normalize(others)
    wrong = []
    for seed in range(draws):
        features, taught = draw([photos // 3] * 3, 5000 + seed, apart=0.45)
        probe = LogisticRegression(C=10, max_iter=300).fit(torch.nn.functional.normalize(features), taught.label)
        wrong.append((probe.predict(others) != truth.label.to_numpy()).mean())
    return float(np.mean(wrong))


def test_the_curve_is_what_was_measured_on_others(foretold):
    sizes = foretold[0].table.photos
    assert sizes.iloc[-1] == pytest.approx(192, abs=3) and sizes.iloc[0] == pytest.approx(19, abs=2)
    mean = np.mean([curve.table.error for curve in foretold], axis=0)
    for size, error in zip(sizes.round().astype(int)[[2, 5, 7]], mean[[2, 5, 7]], strict=True):
        assert error == pytest.approx(errors(size), rel=0.25)
    inside = [(curve.table.low <= curve.table.error) & (curve.table.error <= curve.table.high) for curve in foretold]
    assert np.all(inside)


def test_what_is_foretold_of_twice_the_photos_comes_true(foretold):
    truth = errors(2 * 192)
    within = [low <= truth <= high for _, low, high in (curve.twice for curve in foretold)]
    assert sum(within) >= 5, "of 6, with intervals of 95 %"
    assert np.mean([curve.twice[0] for curve in foretold]) == pytest.approx(truth, rel=0.25)
    assert all("Twice the photos would give about" in str(curve) for curve in foretold)


def test_where_nothing_can_be_learnt_it_does_not_promise_that_more_photos_help():
    curves = [learning_curve(*draw([50, 50, 50], seed, apart=0)) for seed in range(3)]
    assert sum(curve.falls for curve in curves) <= 1
    assert sum(curve.helps is not None for curve in curves) <= 1
    text = str(next(curve for curve in curves if not curve.falls))
    assert "which may be chance" in text and "too close to tell" in text


def test_it_names_the_label_of_which_more_would_help_most():
    curves = [learning_curve(*draw([150, 150, 20], seed, apart=0.45)) for seed in range(3)]
    named = [curve.helps for curve in curves]
    assert set(named) <= {"teddy", None} and named.count("teddy") >= 2
    assert "More of teddy would help most." in str(curves[named.index("teddy")])


def test_of_few_mistakes_nothing_is_foretold():
    curve = learning_curve(*draw([30, 30, 30], 1, apart=4))
    assert curve.mistakes < 1
    assert str(curve) == ("Too few to say what more photos would give: about 0 of 90 are taken for something else.")
    curve.plot()
    matplotlib.pyplot.close()


def test_the_forecast_is_drawn(foretold):
    foretold[0].plot()
    (ax,) = matplotlib.pyplot.gcf().axes
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {
        "measured", "95 % interval", "twice the photos"
    }  # fmt: skip
    assert any("%" in tick.get_text() for tick in ax.get_yticklabels())
    matplotlib.pyplot.close()


def test_look_alikes_are_left_out_together():
    """Ten copies of each photo teach no more than one."""
    single, many = (learning_curve(*draw([40, 40, 40], 3, apart=0.6, copies=copies)) for copies in (1, 6))
    assert many.of == 720 and many.table.error.iloc[2] == pytest.approx(single.table.error.iloc[2], abs=0.08)
    assert many.table.high.iloc[-1] - many.table.low.iloc[-1] > 0.8 * np.diff(single.table.iloc[-1][["low", "high"]])[0]
