"""The bootstrap: its draws, and that its intervals cover what they promise."""

import numpy as np
import pytest
from scipy import stats

from skinml.data.isic2017 import CLASSES
from skinml.evaluation import statistics
from skinml.evaluation.metrics import headline, point_metrics
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import (
    CONFIDENCE,
    bootstrap_intervals,
    bootstrap_weights,
    percentile_interval,
)


def _drawn(rng: np.random.Generator, counts: tuple[int, ...], strength: float = 1.5) -> Predictions:
    labels = np.repeat(np.arange(3), counts)
    logits = rng.normal(size=(len(labels), 3)) + strength * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(np.arange(len(labels)).astype(str), labels, scores, CLASSES)


def test_each_resample_draws_as_many_images_as_there_are() -> None:
    weights = bootstrap_weights(25, 500)
    assert weights.shape == (500, 25) and (weights == weights.round()).all() and weights.min() == 0
    assert (weights.sum(axis=1) == 25).all()


def test_each_image_is_drawn_as_often_as_any_other() -> None:
    weights = bootstrap_weights(20, 20_000)
    # The mean of 20,000 counts of variance below 1 is known to 0.007.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.04)
    np.testing.assert_allclose(weights.var(axis=0), 19 / 20, atol=0.06)


def test_the_seed_decides_the_resamples() -> None:
    np.testing.assert_array_equal(bootstrap_weights(40, 9), bootstrap_weights(40, 9))
    assert (bootstrap_weights(40, 9) != bootstrap_weights(40, 9, seed=1)).any()


def test_a_network_that_knows_one_answer_has_an_uncertain_accuracy() -> None:
    """Its accuracy is the share of one class, which is a matter of chance in a test part."""
    labels = np.repeat([0, 1], [30, 70])
    table = Predictions(labels.astype(str), labels, np.tile([0.1, 0.8, 0.1], (100, 1)), CLASSES)
    low, high = bootstrap_intervals(table, ("accuracy",))["accuracy"]
    expected = stats.binomtest(70, 100).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_resamples_that_lack_a_class_do_not_hide_an_interval(rng: np.random.Generator) -> None:
    low, high = percentile_interval(np.array([np.nan, *rng.uniform(size=500)]), 20)
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("melanomas", [1, 9, 10])
def test_too_few_images_of_a_class_give_no_interval(
    rng: np.random.Generator, melanomas: int
) -> None:
    """One melanoma's AUC moves with the other images alone: an interval of it is far too narrow."""
    found = bootstrap_intervals(_drawn(rng, (melanomas, 200, 150), 0.0))
    carried_by_melanomas = {"auc_weighted", "auc_macro", "melanoma_auc", "challenge_auc"}
    assert set(headline(CLASSES)) - set(found) == (
        carried_by_melanomas if melanomas < 10 else set()
    )


@pytest.mark.parametrize("metric", ["accuracy", "melanoma_auc", "precision_weighted"])
def test_a_perfect_network_has_a_spread_too(metric: str) -> None:
    labels = np.repeat([0, 1, 2], [12, 100, 60])
    table = Predictions(labels.astype(str), labels, np.eye(3)[labels], CLASSES)
    carriers = 12 if metric == "melanoma_auc" else len(labels)
    expected = stats.binomtest(carriers, carriers).proportion_ci(method="wilson")
    [found] = bootstrap_intervals(table, (metric,)).values()
    assert found == pytest.approx((expected.low, 1.0))


def test_only_a_share_has_an_interval_at_its_end() -> None:
    """A chance-corrected figure that is 0 in every resample is at no end of its scale."""
    draws = np.zeros(500)
    assert percentile_interval(draws, 40)[1] > 0
    assert np.isnan(percentile_interval(draws, 40, is_share=False)).all()


def test_intervals_contain_the_value_and_shrink_with_more_images(rng: np.random.Generator) -> None:
    few = _drawn(rng, (12, 40, 25))
    many = Predictions(
        np.tile(few.image_ids, 4), np.tile(few.labels, 4), np.tile(few.scores, (4, 1)), CLASSES
    )
    values, widths = point_metrics(few), []
    for table in (few, many):
        intervals = bootstrap_intervals(table)
        assert tuple(intervals) == headline(CLASSES)
        assert all(low < values[name] < high for name, (low, high) in intervals.items())
        widths.append([high - low for low, high in intervals.values()])
    # Four times the same images: half the width.
    np.testing.assert_allclose(np.divide(widths[0], widths[1]), 2, rtol=0.15)


def test_the_same_table_has_the_same_intervals(rng: np.random.Generator) -> None:
    table = _drawn(rng, (12, 40, 25))
    assert bootstrap_intervals(table) == bootstrap_intervals(table)


def test_an_undefined_metric_has_no_interval(rng: np.random.Generator) -> None:
    intervals = bootstrap_intervals(_drawn(rng, (0, 20, 15)), resamples=50)
    assert tuple(intervals) == ("accuracy", "precision_weighted", "f1_weighted", "keratosis_auc")


def test_it_resamples_as_scipy_does(rng: np.random.Generator) -> None:
    table = _drawn(rng, (25, 80, 45), strength=1.0)
    low, high = bootstrap_intervals(table, ("accuracy",))["accuracy"]
    expected = stats.bootstrap(
        ((table.predicted == table.labels).astype(float),),
        np.mean,
        n_resamples=2000,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    ).confidence_interval
    # One image of 150 is 0.0067: both ends agree to one image and a half.
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_intervals_cover_the_true_value_as_often_as_they_say(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 test parts of one population of known accuracy: 95 %, less what percentiles lack."""
    truth = point_metrics(_drawn(rng, (25_000, 80_000, 45_000)))["accuracy"]
    parts = [_drawn(rng, (25, 80, 45)) for _ in range(300)]
    # All have the same size, so the same resamples: draw them once.
    weights = bootstrap_weights(150)
    monkeypatch.setattr(statistics, "bootstrap_weights", lambda *_: weights)
    covered = 0
    for part in parts:
        low, high = bootstrap_intervals(part, ("accuracy",))["accuracy"]
        covered += low <= truth <= high
    assert 0.90 <= covered / len(parts) <= 0.99
