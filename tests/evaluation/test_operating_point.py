"""The threshold on a class's score, against scikit-learn's ROC curve and by counting."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, norm, quantile_test
from sklearn.metrics import roc_curve

from skinml.base.errors import UserError
from skinml.evaluation.operating_point import (
    RULES,
    SENSITIVITY,
    Rule,
    Scored,
    operating_points,
    rates_at,
    read_rule,
    threshold_at,
)


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


RULES_OF_ROC = [Rule("specificity", 0.9), Rule("specificity", 0.5), Rule("youden")]


@pytest.mark.parametrize("rule", RULES_OF_ROC, ids=lambda rule: rule.name)
@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("seed", range(5))
def test_other_rules_choose_on_the_roc_curve(seed: int, digits: int, rule: Rule) -> None:
    positive, scores = sample(seed, 150, digits)
    false, true, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    if rule.kind == "youden":
        expected = int(np.argmax((true - false).round(12)))
    else:
        expected = int(np.flatnonzero(1 - false >= rule.least - 1e-12)[-1])
    assert Scored(positive, scores).choose(rule) == thresholds[expected]


def test_a_specificity_that_no_score_reaches_calls_nothing() -> None:
    scored = Scored(np.array([True, False]), np.array([0.5, 0.5]))
    (threshold,) = scored.choose(Rule("specificity", 0.9))
    assert threshold == np.inf
    assert scored.rates(threshold).specificity == 1
    assert scored.rates(threshold).sensitivity == 0


def test_weights_are_repeated_images() -> None:
    """A resample is chosen for, and counted, like the table with its images drawn out."""
    positive, scores = sample(3, 60, 2)
    scored = Scored(positive, scores)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 20).astype(float)
    for rule in RULES:
        for row, threshold in zip(weights, scored.choose(rule, weights), strict=True):
            drawn = np.repeat(np.arange(60), row.astype(int))
            whole = Scored(positive[drawn], scores[drawn])
            # Not the same threshold: images that were not drawn lie between.
            expected = whole.rates(whole.choose(rule)[0])
            assert whole.rates(threshold) == expected
            found, spared = scored.shares(np.array([threshold]), row[None])
            assert (found[0], spared[0]) == (expected.sensitivity, expected.specificity)


def test_the_threshold_of_a_share_is_drawn_as_its_order_statistics_say() -> None:
    """The interval of a quantile that SciPy computes from the same images."""
    rng = np.random.default_rng(5)
    scores = rng.random(80)
    drawn = Scored(np.ones(80, bool), scores).drawn(Rule("sensitivity", 0.7), 20_000, seed=0)
    known = quantile_test(scores, p=0.3).confidence_interval(0.95)
    assert np.mean(drawn <= known.high) > 0.97
    assert np.mean(drawn >= known.low) > 0.97
    assert np.mean((drawn >= known.low) & (drawn <= known.high)) < 0.98


def test_operating_points_count_images_and_have_intervals_of_both_parts() -> None:
    validation, test = (Scored(*sample(seed, 400, 9)) for seed in (1, 2))
    points = operating_points(validation, test)
    assert [point.rule for point in points] == list(RULES)
    for point in points:
        assert sum(point.test) == 400
        assert point.test == test.rates(point.threshold)
        low, high = point.intervals["sensitivity"]
        assert low < point.test.sensitivity < high
        # The test images alone say less than they and the threshold's chance together.
        at = (test.scores >= point.threshold)[test.positive]
        alone = np.sqrt(at.mean() * (1 - at.mean()) / len(at))
        if point.rule.kind != "youden":
            assert high - low > 2 * 1.96 * alone * 0.9


def test_intervals_cover_what_all_images_would_give() -> None:
    """Of binormal scores the rates at the threshold that all images would choose are known."""
    rng = np.random.default_rng(7)

    def part(count: int) -> Scored:
        positive = rng.random(count) < 0.25
        return Scored(positive, norm.cdf(rng.normal(np.where(positive, 1.2, -0.3), 1)))

    rule, rounds = Rule("sensitivity", 0.9), 60
    spared = norm.cdf(norm.isf(0.9, 1.2), -0.3)
    covered = 0
    for _ in range(rounds):
        (point,) = operating_points(part(200), part(300), (rule,))
        low, high = point.intervals["specificity"]
        covered += low <= spared <= high
    assert covered >= binom.ppf(0.001, rounds, 0.93)


@pytest.mark.parametrize("text", ["sensitivity:0.82", "specificity:0.9", "youden"])
def test_a_rule_is_read_as_it_is_named(text: str) -> None:
    assert read_rule(text).name == text


@pytest.mark.parametrize("text", ["", "sensitivity", "sensitivity:0", "recall:0.9", "youden:1"])
def test_no_rule(text: str) -> None:
    with pytest.raises(UserError, match=r"operating_point=.*expected sensitivity:NUMBER"):
        read_rule(text)
