"""Net benefit, costs and abstaining, against plain loops and by counting."""

import numpy as np
import pytest

from skinml.evaluation.decision import answered, decision_curve, price_list
from skinml.evaluation.operating_point import Scored
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights


def sample(seed: int, count: int = 300) -> Scored:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.2
    return Scored(positive, np.clip(rng.normal(np.where(positive, 0.6, 0.3), 0.15), 0, 1))


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.5])
def test_net_benefit_is_what_vickers_and_elkin_count(probability: float) -> None:
    """True positives less false ones by the odds, both per patient of the test set."""
    test = sample(0)
    called = test.scores >= probability
    expected = 0.0
    for is_called, is_positive in zip(called, test.positive, strict=True):
        if is_called:
            expected += 1 if is_positive else -probability / (1 - probability)
    (point,) = decision_curve(test, [probability])
    assert point.network.value == pytest.approx(expected / len(called))
    assert point.network.low < point.network.value < point.network.high
    share = test.positive.mean()
    odds = probability / (1 - probability)
    assert point.everybody == pytest.approx(share - (1 - share) * odds)


def test_a_rarer_disease_leaves_less_to_be_gained() -> None:
    (here,), (clinic,) = (decision_curve(sample(1), [0.3], p) for p in (None, 0.02))
    assert clinic.network.value < here.network.value


def test_the_cheapest_threshold_of_validation_is_found() -> None:
    validation, test = sample(2), sample(3)
    (price,) = price_list(validation, test, [10.0], prevalence=0.1)

    def cost(part: Scored, threshold: float) -> float:
        called = part.scores >= threshold
        missed = np.mean(~called[part.positive]) * 0.1 * 10
        return float(missed + np.mean(called[~part.positive]) * 0.9)

    every = [cost(validation, t) for t in (*validation.scores, np.inf)]
    assert cost(validation, price.threshold) == pytest.approx(min(every))
    assert price.cost.value == pytest.approx(1000 * cost(test, price.threshold))
    assert (price.nobody, price.everybody) == pytest.approx((1000, 900))


def test_the_dearer_a_missed_melanoma_the_lower_the_threshold() -> None:
    prices = price_list(sample(4), sample(5), [1.0, 5.0, 50.0], prevalence=0.1)
    thresholds = [price.threshold for price in prices]
    assert thresholds == sorted(thresholds, reverse=True)


def test_the_interval_of_a_cost_holds_the_choice_of_the_threshold() -> None:
    """Against a plain loop over both parts drawn anew; at a fixed threshold it is too narrow."""
    validation, test = sample(6, 60), sample(7, 200)
    (price,) = price_list(validation, test, [10.0], prevalence=0.2)

    def drawn(part: Scored, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        counts = bootstrap_weights(len(part.scores), seed=seed).astype(int)
        return [(np.repeat(part.positive, n), np.repeat(part.scores, n)) for n in counts]

    def cost(positive: np.ndarray, scores: np.ndarray, threshold: np.ndarray) -> np.ndarray:
        called = scores >= threshold[:, None]
        missed, needless = (called[:, side].mean(axis=1) for side in (positive, ~positive))
        return 1000 * (10 * 0.2 * (1 - missed) + 0.8 * needless)

    thresholds = np.append(np.inf, np.unique(validation.scores)[::-1])
    anew, fixed = [], []
    for chosen_on, tested_on in zip(drawn(validation, 1), drawn(test, 0), strict=True):
        threshold = thresholds[[np.argmin(cost(*chosen_on, thresholds).round(9))]]
        anew.append(cost(*tested_on, threshold)[0])
        fixed.append(cost(*tested_on, np.array([price.threshold]))[0])
    low, high = np.quantile(anew, [0.025, 0.975])
    assert (price.cost.low, price.cost.high) == pytest.approx((low, high), abs=3)
    assert high - low > 1.2 * np.diff(np.quantile(fixed, [0.025, 0.975]))[0]


@pytest.mark.parametrize("present", [True, False])
def test_no_cost_is_invented_where_validation_has_one_class_alone(present: bool) -> None:
    """It was chosen never to call anything, at a cost that had no spread."""
    validation = Scored(np.full(50, present), sample(8, 50).scores)
    assert price_list(validation, sample(9), [10.0], prevalence=0.2) == []
    assert price_list(sample(9), validation, [10.0], prevalence=0.2) == []


def test_only_the_surest_are_answered() -> None:
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.2, 0.8]])
    table = Predictions(np.array(list("abcd")), np.array([0, 0, 1, 1]), scores, ("x", "y"))
    whole, half = answered(table, "x", (1.0, 0.5))
    assert (whole.images, whole.accuracy.value, whole.sensitivity) == (4, 0.75, 0.5)
    assert (half.images, half.accuracy.value, half.sensitivity, half.positives) == (2, 1, 1, 1)
    assert half.accuracy.low == pytest.approx(0.342, abs=1e-3)  # Wilson's, of 2 of 2
