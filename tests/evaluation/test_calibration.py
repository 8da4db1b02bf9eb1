"""Temperature scaling and the Brier score, against their definitions."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as reference_log_loss

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.calibration import brier, fit_temperature, log_loss, scaled
from skinml.evaluation.metrics import auc
from skinml.evaluation.predictions import Predictions


def table(overconfidence: float, count: int = 4000, seed: int = 0) -> Predictions:
    """Labels drawn from scores, which are then sharpened by a temperature of 1/overconfidence."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 3)) * 1.5
    honest = softmax(logits, axis=1)
    labels = np.array([rng.choice(3, p=row) for row in honest])
    ids = np.arange(count).astype(str)
    return Predictions(ids, labels, softmax(logits * overconfidence, axis=1), CLASSES)


@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_scores_overconfident_is_found(overconfidence: float) -> None:
    found = fit_temperature(table(overconfidence))
    assert found.value == pytest.approx(overconfidence, rel=0.1)
    assert found.helps == (overconfidence != 1.0)


def test_it_is_not_said_to_help_where_it_does_not() -> None:
    """Of 40 well calibrated tables of 150 images each hardly any gains."""
    helped = sum(fit_temperature(table(1.0, 150, seed)).helps for seed in range(40))
    assert helped <= 2


def test_no_ranking_of_the_classes_changes_and_a_pair_of_classes_keeps_its_order() -> None:
    scores = table(1.0, 200).scores
    for temperature in (0.3, 5.0):
        warm = scaled(scores, temperature)
        assert (np.argsort(warm, axis=1) == np.argsort(scores, axis=1)).all()
        assert warm.sum(axis=1) == pytest.approx(1)


def test_with_two_classes_no_auc_changes() -> None:
    rng = np.random.default_rng(1)
    own = rng.random(300)
    positive = rng.random(300) < own
    scores, once = np.stack([own, 1 - own], axis=1), np.ones((1, 300))
    warm = scaled(scores, 4.0)
    assert auc(positive, warm[:, 0], once) == auc(positive, own, once)


def test_log_loss_is_scikit_learns() -> None:
    predictions = table(2.0, 500)
    expected = reference_log_loss(predictions.labels, predictions.scores)
    assert log_loss(predictions) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_brier_score_and_its_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(333)
    positive = rng.random(333) < scores**2
    found = brier(positive, scores)
    assert found.score == pytest.approx(brier_score_loss(positive, scores))
    total = found.reliability - found.resolution + found.uncertainty + found.within
    assert total == pytest.approx(found.score)
    assert found.uncertainty == pytest.approx(positive.mean() * (1 - positive.mean()))
    assert found.reliability > 0.01  # such scores are too high


def test_scores_that_never_differ_within_a_bin_leave_nothing_within() -> None:
    scores = np.repeat([0.1, 0.9], 50)
    positive = np.tile([True, False], 50)
    assert brier(positive, scores, bins=2).within == pytest.approx(0)
