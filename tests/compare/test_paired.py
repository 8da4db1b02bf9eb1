"""Paired comparisons against independent implementations, and the rules that they must keep."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.power import NormalIndPower

from skinml.compare.paired import (
    ALPHA,
    POWER,
    TESTED,
    Estimate,
    auc_influence,
    combine,
    difference,
    estimate,
    mean,
    probability_of_best,
    ranks,
    smallest_detectable,
    swap_test,
)
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.testing import holm

COUNTS = (30, 90, 45)
MELANOMA, NEVUS, KERATOSIS = range(3)
every_metric = pytest.mark.parametrize("metric", TESTED)


def made_up(
    rng: np.random.Generator, counts: Sequence[int] | np.ndarray = COUNTS, decimals: int = 9
) -> Predictions:
    """A network that is right more often than not; few decimals make ties."""
    labels = np.repeat(np.arange(3), counts)
    scores = rng.dirichlet(np.ones(3), size=len(labels)) + 0.4 * np.eye(3)[labels]
    scores = scores.round(decimals)
    return Predictions(
        np.arange(len(labels)).astype(str),
        labels,
        scores / scores.sum(axis=1, keepdims=True),
        CLASSES,
    )


def answering(labels: np.ndarray, right: np.ndarray) -> Predictions:
    """A network that is right in just these images."""
    answers = np.where(right, labels, (labels + 1) % 3)
    return Predictions(np.arange(len(labels)).astype(str), labels, np.eye(3)[answers], CLASSES)


def delong(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's covariance of the AUCs of the columns of `scores`, as the paper writes it.

    DeLong et al. 1988, equations 2 to 6, one pair of images at a time: (M, M).
    """
    of_positives, of_negatives, theta = [], [], []
    for column in scores.T:
        wins = [
            [1.0 if x > y else 0.5 if x == y else 0.0 for y in column[~positive]]
            for x in column[positive]
        ]
        of_positives.append([sum(row) / len(row) for row in wins])
        of_negatives.append([sum(row) / len(row) for row in zip(*wins, strict=True)])
        theta.append(sum(of_positives[-1]) / len(wins))
    covariance = np.zeros((len(theta), len(theta)))
    for parts in (of_positives, of_negatives):
        for r, s in itertools.product(range(len(theta)), repeat=2):
            products = [
                (a - theta[r]) * (b - theta[s]) for a, b in zip(parts[r], parts[s], strict=True)
            ]
            covariance[r, s] += sum(products) / (len(products) - 1) / len(products)
    return covariance


# Estimates


@every_metric
def test_an_estimate_has_the_value_that_is_reported_everywhere(
    rng: np.random.Generator, metric: str
) -> None:
    table = made_up(rng)
    assert estimate(table, metric).value == evaluate(table, names=(metric,))[metric][0]


@pytest.mark.parametrize("decimals", [9, 1], ids=["no ties", "many ties"])
def test_the_influence_of_an_auc_gives_delongs_variances_and_covariance(
    rng: np.random.Generator, decimals: int
) -> None:
    """The rank form, and the pairing of two networks, against the paper's double loop."""
    for _ in range(10):
        counts = rng.integers(2, 30, size=3)
        first, second = made_up(rng, counts, decimals), made_up(rng, counts, decimals)
        positive = first.labels == NEVUS
        scores = np.stack([table.scores[:, NEVUS] for table in (first, second)], axis=1)
        own = np.stack([auc_influence(positive, column) for column in scores.T])
        np.testing.assert_allclose(own @ own.T, delong(positive, scores), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("metric", "label"), [("melanoma_auc", MELANOMA), ("keratosis_auc", KERATOSIS)]
)
def test_the_difference_of_two_aucs_is_tested_as_delong_does(
    rng: np.random.Generator, metric: str, label: int
) -> None:
    """Value by scikit-learn, variance by the double loop, p-value and interval by hand."""
    first, second = made_up(rng), made_up(rng, decimals=1)
    positive = first.labels == label
    scores = np.stack([table.scores[:, label] for table in (first, second)], axis=1)
    value = roc_auc_score(positive, scores[:, 0]) - roc_auc_score(positive, scores[:, 1])
    covariance = delong(positive, scores)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = difference(estimate(first, metric), estimate(second, metric))
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.p_value() == pytest.approx(2 * stats.norm.sf(abs(value) / error), rel=1e-9)
    assert found.interval() == pytest.approx(stats.norm.interval(0.95, value, error), abs=1e-12)


def test_an_accuracy_has_the_binomial_error(rng: np.random.Generator) -> None:
    table = made_up(rng)
    share = np.mean(table.predicted == table.labels)
    expected = math.sqrt(share * (1 - share) / (len(table.labels) - 1))
    assert estimate(table, "accuracy").standard_error == pytest.approx(expected, rel=1e-12)


def test_a_difference_of_accuracies_is_a_paired_t_statistic(rng: np.random.Generator) -> None:
    """Both networks see the same images: SciPy's statistic for pairs, not for two samples."""
    first, second = made_up(rng), made_up(rng)
    right = [(table.predicted == table.labels).astype(float) for table in (first, second)]
    found = difference(estimate(first, "accuracy"), estimate(second, "accuracy"))
    expected = stats.ttest_rel(*right).statistic
    assert found.value / found.standard_error == pytest.approx(expected, rel=1e-9)


@every_metric
def test_standard_errors_agree_with_the_jackknife(rng: np.random.Generator, metric: str) -> None:
    """Leaving out one image at a time needs no formula; the two agree but for terms in 1 / N.

    The only check of the means over classes, whose weights may vary with the images.
    """
    table = made_up(rng, (60, 180, 80))
    count = len(table.labels)
    values = evaluate(table, np.ones((count, count)) - np.eye(count), (metric,))[metric]
    expected = math.sqrt((count - 1) / count * np.sum((values - values.mean()) ** 2))
    assert estimate(table, metric).standard_error == pytest.approx(expected, rel=0.02)


@every_metric
def test_a_network_does_not_differ_from_itself(rng: np.random.Generator, metric: str) -> None:
    """Nothing differs: not even 0 / 0."""
    found = estimate(made_up(rng), metric)
    same = difference(found, found)
    assert (same.value, same.standard_error, same.p_value()) == (0, 0, 1)
    assert same.interval() == (0, 0)


@every_metric
def test_swapping_two_networks_changes_only_the_sign(rng: np.random.Generator, metric: str) -> None:
    first, second = estimate(made_up(rng), metric), estimate(made_up(rng), metric)
    one, other = difference(first, second), difference(second, first)
    assert one.value == -other.value
    assert one.standard_error == other.standard_error
    assert one.p_value() == other.p_value()
    assert one.interval() == tuple(-end for end in reversed(other.interval()))


@every_metric
def test_ties_are_worth_a_half_and_a_network_of_ties_alone_knows_nothing(
    rng: np.random.Generator, metric: str
) -> None:
    labels = made_up(rng).labels
    table = Predictions(labels.astype(str), labels, np.full((len(labels), 3), 1 / 3), CLASSES)
    found = estimate(table, metric)
    if metric == "accuracy":
        # A tie of scores is an answer, the first class.
        assert found.value == np.mean(labels == 0)
    elif metric == "sensitivity_macro":
        assert found.value == pytest.approx(1 / 3)
    else:
        assert found.value == pytest.approx(0.5, abs=1e-15)
        assert found.standard_error == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("images", [0, 1])
def test_a_class_of_fewer_than_two_images_has_no_error_of_its_auc(
    rng: np.random.Generator, images: int
) -> None:
    """DeLong's variance divides by n - 1: NaN, in every metric that the class is part of."""
    table = made_up(rng, (images, 20, 15))
    errors = {metric: estimate(table, metric).standard_error for metric in TESTED}
    of_class = set(TESTED) - {"accuracy", "keratosis_auc"}
    assert {metric for metric, error in errors.items() if np.isnan(error)} == of_class
    undefined = estimate(table, "melanoma_auc")
    assert np.isnan(undefined.p_value()) and np.isnan(undefined.interval()).all()


@pytest.mark.filterwarnings("error")
def test_one_image_has_no_error_and_no_warning() -> None:
    one = Predictions(np.array(["a"]), np.array([1]), np.array([[0.2, 0.5, 0.3]]), CLASSES)
    found = estimate(one, "accuracy")
    assert found.value == 1 and np.isnan(found.influence).all()


def test_two_images_of_a_class_are_enough(rng: np.random.Generator) -> None:
    found = estimate(made_up(rng, (2, 20, 15)), "melanoma_auc")
    assert np.isfinite(found.standard_error) and found.standard_error > 0


# Combinations of estimates


@every_metric
def test_means_and_differences_are_linear(rng: np.random.Generator, metric: str) -> None:
    """The mean of differences is the difference of means: one contrast, however it is written."""
    a, b, c, d = (estimate(made_up(rng), metric) for _ in range(4))
    one = mean([difference(a, b), difference(c, d)])
    other = difference(mean([a, c]), mean([b, d]))
    third = combine([a, b, c, d], [0.5, -0.5, 0.5, -0.5])
    for found in (other, third):
        assert found.value == pytest.approx(one.value, abs=1e-14)
        np.testing.assert_allclose(found.influence, one.influence, atol=1e-15)


def test_the_error_of_a_mean_takes_the_shared_images_into_account(
    rng: np.random.Generator,
) -> None:
    """Three runs on the same images are no three samples: the error is that of the mean answer."""
    tables = [made_up(rng) for _ in range(3)]
    found = mean([estimate(table, "accuracy") for table in tables])
    answers = np.mean([table.predicted == table.labels for table in tables], axis=0)
    assert found.value == pytest.approx(answers.mean())
    assert found.standard_error == pytest.approx(stats.sem(answers), rel=1e-12)
    same = mean([estimate(tables[0], "accuracy")] * 3)
    assert same.standard_error == pytest.approx(estimate(tables[0], "accuracy").standard_error)


def test_a_combination_needs_a_weight_for_each_estimate() -> None:
    """A forgotten weight would drop a network without a word."""
    found = Estimate(0.5, np.zeros(4))
    with pytest.raises(ValueError, match="shorter"):
        combine([found, found], [1.0])


def test_the_p_value_and_the_interval_agree_at_the_edge() -> None:
    """The p-value is 5 % just where an end of the interval is 0."""
    influence = np.full(4, 0.01)
    edge = float(stats.norm.isf(ALPHA / 2)) * 0.02
    found = Estimate(edge, influence)
    assert found.p_value() == pytest.approx(ALPHA) and found.interval()[0] == pytest.approx(0)
    assert Estimate(1.01 * edge, influence).p_value() < ALPHA


# Swaps, Holm


def swapped(first: np.ndarray, second: np.ndarray) -> float:
    """The test of two networks' answers, right or wrong, each (N,) bool or a share of runs."""
    return swap_test(first.astype(float) - second.astype(float))


def test_for_one_run_of_each_it_is_mcnemars_exact_test(rng: np.random.Generator) -> None:
    """A binomial test of the images in which one alone is right."""
    for _ in range(20):
        first, second = rng.random((2, 60)) < [[0.8], [0.6]]
        only_first, either = int((first & ~second).sum()), int((first != second).sum())
        p = swapped(first, second)
        assert p == pytest.approx(stats.binomtest(only_first, either).pvalue, abs=1e-12)
        assert p == swapped(second, first)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_all_swaps_are_counted(rng: np.random.Generator, runs: int) -> None:
    """Against every choice of the signs, written out."""
    for _ in range(5):
        right = rng.random((2, runs, 10)) < 0.6
        steps = right.mean(axis=1)[0] - right.mean(axis=1)[1]
        sums = [abs(np.dot(signs, steps)) for signs in itertools.product((1, -1), repeat=10)]
        expected = np.mean(np.array(sums) >= abs(steps.sum()) - 1e-9)
        assert swap_test(steps) == pytest.approx(expected, abs=1e-12)


def test_a_run_repeated_shows_no_more_than_once(rng: np.random.Generator) -> None:
    """Five images tell two networks apart: p = .0625, however often the same answers are given."""
    first, second = np.ones(550), np.ones(550)
    second[:5] = 0
    for runs in (1, 2, 3, 7):
        steps = np.mean([first] * runs, axis=0) - np.mean([second] * runs, axis=0)
        assert swap_test(steps) == pytest.approx(2 / 2**5)


def test_shares_that_are_no_fractions_are_rounded_to_thousandths(rng: np.random.Generator) -> None:
    steps = rng.normal(size=12)
    sums = [abs(np.dot(signs, steps)) for signs in itertools.product((1, -1), repeat=12)]
    assert swap_test(steps) == pytest.approx(np.mean(np.array(sums) >= abs(steps.sum())), abs=0.01)


def test_equal_answers_differ_by_nothing() -> None:
    """Not a division by no images at all."""
    assert swap_test(np.zeros(40)) == 1


def holm_by_hand(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: the k-th smallest of m is taken m - k + 1 times, and none is below the last."""
    order = np.argsort(p_values, kind="stable")
    steps = [min(1.0, (len(order) - k) * p_values[i]) for k, i in enumerate(order)]
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(steps)
    return list(adjusted)


def test_holm_gives_adjusted_values_in_the_order_it_was_asked(rng: np.random.Generator) -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    for count in (1, 2, 9, 36):
        p_values = list((rng.random(count) ** 3).round(2))
        assert holm(p_values) == pytest.approx(holm_by_hand(p_values), abs=1e-12)


def test_holm_never_makes_a_p_value_smaller_or_larger_than_1(rng: np.random.Generator) -> None:
    p_values = rng.random(36)
    adjusted = np.array(holm(list(p_values)))
    assert (adjusted >= p_values).all() and adjusted.max() <= 1
    assert (np.argsort(adjusted, kind="stable")[:1] == np.argsort(p_values)[:1]).all()


def test_holm_of_nothing_is_nothing() -> None:
    """A comparison of one cell has no pairs."""
    assert holm([]) == []


def test_what_cannot_be_computed_stays_so_and_counts_as_a_test() -> None:
    """Printed as 1 it would say that the networks are equal."""
    found = holm([0.01, math.nan, 0.02])
    assert found[0] == pytest.approx(0.03) and found[2] == pytest.approx(0.04)
    assert math.isnan(found[1])


# Power and standing


@pytest.mark.parametrize("tests", [1, 36])
def test_the_smallest_detectable_difference_has_80_percent_power(tests: int) -> None:
    """By the power of a z-test of one sample of size 1, which is what an estimate is."""
    effect = NormalIndPower().solve_power(nobs1=1, alpha=ALPHA / tests, power=POWER, ratio=0)
    # statsmodels counts rejections on the wrong side too: about one in a million.
    assert smallest_detectable(0.02, tests) == pytest.approx(0.02 * float(effect), rel=1e-4)


def test_ranks_are_shared_by_equal_networks() -> None:
    """The best is 1, in each resample by itself; SciPy ranks the other way round."""
    values = np.array([[0.9, 0.5], [0.8, 0.5], [0.8, 0.7]])
    np.testing.assert_array_equal(ranks(values), [[1, 2.5], [2.5, 2.5], [2.5, 1]])


def test_the_probability_of_being_the_best_is_shared_and_adds_up(
    rng: np.random.Generator,
) -> None:
    values = np.array([[0.9, 0.5, 0.7, 0.6], [0.8, 0.5, 0.7, 0.7], [0.1, 0.2, 0.7, 0.3]])
    np.testing.assert_allclose(
        probability_of_best(values), [(1 + 1 / 2 + 1 / 3) / 4, (3 / 2 + 1 / 3) / 4, 1 / 12]
    )
    assert probability_of_best(rng.random((9, 500))).sum() == pytest.approx(1)


def test_every_tested_metric_is_computed_and_the_classes_are_the_challenges() -> None:
    """`TESTED` names classes by the challenge's words: a new order of CLASSES must not matter."""
    labels = np.repeat(np.arange(3), 4)
    table = Predictions(labels.astype(str), labels, np.eye(3)[labels], CLASSES)
    assert {estimate(table, metric).value for metric in TESTED} == {1.0}
    assert (CLASSES[MELANOMA], CLASSES[KERATOSIS]) == ("melanoma", "seborrheic_keratosis")


def test_a_difference_without_any_spread_is_not_computed_by_its_spread() -> None:
    """One network always right, the other never: the swaps say 2 / 2^40, an error of 0 nothing."""
    labels = np.repeat(np.arange(3), (10, 20, 10))
    right, wrong = np.ones(40, dtype=bool), np.zeros(40, dtype=bool)
    assert swapped(right, wrong) == pytest.approx(2 / 2**40)
    tables = [answering(labels, answers) for answers in (right, wrong)]
    whole = difference(*(estimate(table, "accuracy") for table in tables))
    assert whole.value == 1 and math.isnan(whole.p_value())


def test_rounding_is_not_a_difference(rng: np.random.Generator) -> None:
    """The same three runs in another order."""
    for _ in range(50):
        runs = [estimate(made_up(rng), "auc_weighted") for _ in range(3)]
        assert difference(mean(runs), mean(runs[::-1])).p_value() > ALPHA
