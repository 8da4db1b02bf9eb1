"""The threshold on a class's score, against scikit-learn's ROC curve and by counting."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from skinml.evaluation.operating_point import SENSITIVITY, rates_at, threshold_at


def sample(seed: int, count: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; of few digits, so that many scores are equal."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    scores = np.clip(rng.normal(np.where(positive, 0.6, 0.4), 0.2), 0, 1).round(digits)
    return positive, scores


@pytest.mark.parametrize("sensitivity", [0.01, 0.5, 0.82, 0.89, 0.95, 1.0])
@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_first_of_the_roc_curve_that_is_sensitive_enough(
    seed: int, digits: int, sensitivity: float
) -> None:
    positive, scores = sample(seed, 150, digits)
    false, true, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    first = int(np.argmax(true >= sensitivity))
    threshold = threshold_at(sensitivity, positive, scores)
    assert threshold == thresholds[first]
    assert rates_at(threshold, positive, scores) == pytest.approx((true[first], 1 - false[first]))


@pytest.mark.parametrize("count", [1, 2, 7, 50, 100])
def test_a_share_that_can_be_had_exactly_is_not_exceeded(count: int) -> None:
    """Of k of n positive images, whatever k / n is in binary digits."""
    scores = np.arange(count, dtype=float)
    positive = np.ones(count, bool)
    for found in range(1, count + 1):
        threshold = threshold_at(float(Fraction(found, count)), positive, scores)
        assert (scores >= threshold).sum() == found


def test_the_challenges_lowest_sensitivity_of_fifty_is_forty_one() -> None:
    scores = np.linspace(0, 1, 50)
    threshold = threshold_at(SENSITIVITY, np.ones(50, bool), scores)
    assert (scores >= threshold).sum() == 41


def test_rates_count_the_images_on_the_threshold_as_found() -> None:
    positive = np.array([True, True, False, False, False])
    scores = np.array([0.5, 0.4, 0.5, 0.1, 0.2])
    assert rates_at(0.5, positive, scores) == (1 / 2, 2 / 3)


def test_what_is_undefined_is_no_number() -> None:
    scores = np.array([0.1, 0.9])
    assert math.isnan(threshold_at(0.82, np.array([False, False]), scores))
    assert all(map(math.isnan, rates_at(math.nan, np.array([True, False]), scores)))
    sensitivity, specificity = rates_at(0.5, np.array([False, False]), scores)
    assert math.isnan(sensitivity) and specificity == 0.5
    sensitivity, specificity = rates_at(0.5, np.array([True, True]), scores)
    assert sensitivity == 0.5 and math.isnan(specificity)
