"""Paired comparison of networks on the same test images: estimates, differences, tests.

A figure of a trained network is an `Estimate`: its value and what each test image contributes to
its error. Estimates of the same images are added, subtracted and averaged like numbers, and the
standard error of the result follows from the images, paired. So one formula serves two networks,
averages over seeds and splits, and the contrast of all networks of one batch size with all of
another.

For accuracy the standard error is the binomial one, for an AUC that of DeLong, DeLong and
Clarke-Pearson (Biometrics 1988, 44:837-845) in the rank form of Sun and Xu (IEEE Signal Processing
Letters 2014, 21:1389-1393), for a mean of one-vs-rest AUCs the same with the contributions of an
image to each class added up.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skinml.data.isic2017 import CHALLENGE_TASKS
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions

ALPHA = 0.05
POWER = 0.80

# With as many seeds the test over seeds and images errs in 3 to 7 % of comparisons without a
# difference, whatever the seeds' share of the chance; with two it errs in up to 11 % (simulated).
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Estimate:
    """A value, and each image's contribution to its error: `influence` (N,) float64.

    The variance is the sum of the squared contributions. Images are the same, in the same order,
    in all estimates that are combined.
    """

    value: float
    influence: np.ndarray

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(np.sum(self.influence**2)))

    def interval(self) -> tuple[float, float]:
        """The 95 % interval by the normal approximation, meant for differences.

        One network's AUC near 1 of few positive images is covered too rarely by it: 92.5 % of
        2,000 simulated test parts (550 images, 77 of them keratoses). `evaluation.statistics` has
        the bootstrap intervals that single networks are shown with.
        """
        from scipy.special import ndtri

        reach = float(ndtri(1 - ALPHA / 2)) * self.standard_error
        return self.value - reach, self.value + reach

    def p_value(self) -> float:
        """Two-sided p-value of the value being 0, by the normal approximation.

        1 where nothing differs at all, NaN where a difference has no error to be held against.
        """
        from scipy.special import ndtr

        # Sums of thousands of terms are off by as much: no difference of networks is so small.
        if abs(self.value) < 1e-12:
            return 1.0
        if not self.standard_error:
            return math.nan
        return float(2 * ndtr(-abs(self.value) / self.standard_error))


def combine(estimates: Sequence[Estimate], weights: Iterable[float]) -> Estimate:
    """A linear combination of estimates, such as a mean or a difference."""
    parts = list(zip(estimates, weights, strict=True))
    return Estimate(
        sum(weight * estimate.value for estimate, weight in parts),
        np.sum([weight * estimate.influence for estimate, weight in parts], axis=0),
    )


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates of the same images."""
    return combine(estimates, [1 / len(estimates)] * len(estimates))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """The paired difference, first minus second."""
    return combine([first, second], [1, -1])


def auc_influence(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What each image contributes to the error of an AUC: (N,), DeLong's variance as its squares.

    `positive` (N,) bool, `scores` (N,). NaN where either class has fewer than two images.
    """
    count, rest = int(positive.sum()), int((~positive).sum())
    if min(count, rest) < 2:
        return np.full(len(positive), np.nan)
    # Shares of the negatives below each positive, and of the positives above each negative.
    won = _below(scores[positive], scores[~positive]) / rest
    lost = 1 - _below(scores[~positive], scores[positive]) / count
    influence = np.empty(len(positive))
    influence[positive] = (won - won.mean()) / math.sqrt(count * (count - 1))
    influence[~positive] = (lost - lost.mean()) / math.sqrt(rest * (rest - 1))
    return influence


def _below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many of `others` (M,) lie below each of `scores` (N,), ties counted one half: (N,)."""
    ordered = np.sort(others)
    low, high = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return np.asarray((low + high) / 2)


def _accuracy_influence(predictions: Predictions) -> np.ndarray:
    correct = predictions.predicted == predictions.labels
    return (correct - correct.mean()) / math.sqrt(len(correct) * (len(correct) - 1))


def _auc_influences(predictions: Predictions) -> np.ndarray:
    """The contribution of each image to the one-vs-rest AUC of each class: (N, K)."""
    return np.stack(
        [
            auc_influence(predictions.labels == k, predictions.scores[:, k])
            for k in range(len(predictions.classes))
        ],
        axis=1,
    )


def _auc_macro_influence(predictions: Predictions) -> np.ndarray:
    return _auc_influences(predictions).mean(axis=1)


def _auc_weighted_influence(predictions: Predictions) -> np.ndarray:
    """The weights, shares of the classes among the images, vary with the images as well."""
    count = len(predictions.labels)
    one_hot = np.eye(len(predictions.classes))[predictions.labels]
    shares = one_hot.mean(axis=0)
    names = tuple(f"auc_{name}" for name in predictions.classes)
    values = np.array([value[0] for value in evaluate(predictions, names=names).values()])
    return _auc_influences(predictions) @ shares + (one_hot - shares) @ values / count


def _challenge_auc_influence(predictions: Predictions) -> np.ndarray:
    tasks = [predictions.classes.index(task) for task in CHALLENGE_TASKS]
    return _auc_influences(predictions)[:, tasks].mean(axis=1)


def _class_auc_influence(task: str) -> Callable[[Predictions], np.ndarray]:
    return lambda predictions: auc_influence(
        predictions.labels == predictions.classes.index(task),
        predictions.scores[:, predictions.classes.index(task)],
    )


# The metrics that differences are tested in, each with the contribution of an image to its error.
TESTED: dict[str, Callable[[Predictions], np.ndarray]] = {
    "accuracy": _accuracy_influence,
    "auc_weighted": _auc_weighted_influence,
    "auc_macro": _auc_macro_influence,
    "melanoma_auc": _class_auc_influence("melanoma"),
    "keratosis_auc": _class_auc_influence("seborrheic_keratosis"),
    "challenge_auc": _challenge_auc_influence,
}


def estimate(predictions: Predictions, metric: str) -> Estimate:
    """One network's value of a metric of `TESTED` and its error, over the images of a table."""
    [value] = evaluate(predictions, names=(metric,))[metric]
    return Estimate(float(value), TESTED[metric](predictions))


def swap_test(differences: np.ndarray) -> float:
    """The exact two-sided p-value of two networks being equally often right on the same images.

    `differences` (N,) float64: for each image how often the first is right, less how often the
    second is, as shares of their runs. If the two are alike, each image's answers may as well be
    swapped: the p-value is the share of all 2^N swaps whose sum is as far from 0. With one run of
    each it is McNemar's exact test; the same run twice changes nothing.
    """
    steps = np.abs(differences[differences != 0])
    if not len(steps):
        return 1.0
    # In whole numbers of the smallest share that runs can have, else in thousandths.
    unit = next((n for n in range(1, 1000) if _whole(steps * n)), 1000)
    sizes = np.rint(steps * unit).astype(int)
    # The distribution of the sum, from its lowest value up: each image moves it up or down.
    shares = np.ones(1)
    for size in sizes:
        moved = np.zeros(len(shares) + 2 * size)
        moved[: len(shares)] = shares / 2
        moved[2 * size :] += shares / 2
        shares = moved
    sums = np.arange(len(shares)) - sizes.sum()
    observed = abs(int(np.rint(differences.sum() * unit)))
    return float(min(1.0, shares[np.abs(sums) >= observed].sum()))


def _whole(values: np.ndarray) -> bool:
    return bool(np.allclose(values, np.rint(values), rtol=0, atol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method, in the order given.

    One that could not be computed (NaN) stays so, and counts as a test that showed nothing.
    """
    values = np.asarray(p_values, dtype=float)
    known = np.where(np.isnan(values), 1.0, values)
    order = np.argsort(known, kind="stable")
    steps = (len(known) - np.arange(len(known))) * known[order]
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in np.where(np.isnan(values), np.nan, adjusted)]


class Components(NamedTuple):
    """Where the chance in a mean difference comes from: variances, in squares of the metric's unit.

    `images`: other test images, what each network makes of them included. `seeds`: other seeds,
    on top of it; 0 where the runs differ less than the images alone explain.
    """

    images: float
    seeds: float


def components(repeated: Sequence[Estimate], shares: Sequence[float]) -> Components:
    """The variance of a mean over repeated paired runs, by its origin.

    `repeated` are differences of the same two configurations with several seeds, on the same
    images; `shares` their weights in the mean, of sum 1. Two-way random effects by moments (Searle,
    Casella & McCulloch 1992, chapter 4): the spread of the runs holds what seeds do, and what each
    run makes of the images by chance; the latter is known from the images, and taken off.
    """
    weights = np.asarray(shares)
    values = np.array([estimate.value for estimate in repeated])
    influences = np.array([estimate.influence for estimate in repeated])
    whole = weights @ influences
    free = 1 - np.sum(weights**2)
    spread = np.sum(weights * (values - weights @ values) ** 2) / free
    by_chance = np.sum(weights[:, None] * (influences - whole) ** 2) / free
    seeds = float(np.sum(weights**2) * max(0.0, spread - by_chance))
    return Components(float(np.sum(whole**2)), seeds)


def seeds_and_images(repeated: Sequence[Estimate], shares: Sequence[float]) -> float:
    """The two-sided p-value of a mean difference being 0, over other seeds and other images.

    Arguments as for `components`. The statistic is the mean over its standard error by both
    components; its p-value lies between that of the normal distribution, which holds if all chance
    is in the images, and that of Student's with as many degrees of freedom as seeds less one, which
    holds if all is in the seeds: their mean, weighted by the components. NaN with fewer than
    LEAST_SEEDS.
    """
    from scipy.special import ndtr, stdtr

    if len(repeated) < LEAST_SEEDS:
        return math.nan
    value = sum(share * each.value for share, each in zip(shares, repeated, strict=True))
    parts = components(repeated, shares)
    variance = parts.images + parts.seeds
    if abs(value) < 1e-12:
        return 1.0
    if not variance > 0:
        return math.nan
    statistic = abs(value) / math.sqrt(variance)
    by_part = 2 * ndtr(-statistic), 2 * stdtr(len(repeated) - 1, -statistic)
    return float(np.dot(by_part, (parts.images, parts.seeds)) / variance)


def smallest_detectable(standard_error: float, tests: int = 1) -> float:
    """The true difference that a two-sided 5 % test finds with 80 % power.

    (z(1 - α/2) + z(power)) × standard error, with α divided by the number of `tests`: what the
    first step of Holm's method, Bonferroni's, asks of the largest difference.
    """
    from scipy.special import ndtri

    return float((ndtri(1 - ALPHA / tests / 2) + ndtri(POWER)) * standard_error)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of C networks in each of R resamples, 1 the best, ties shared: (C, R) → (C, R)."""
    above = np.sum(values[None] > values[:, None], axis=1)
    equal = np.sum(values[None] == values[:, None], axis=1)
    return np.asarray(above + (equal + 1) / 2)


def probability_of_best(values: np.ndarray) -> np.ndarray:
    """The share of resamples in which each network is the best: (C, R) → (C,), ties shared."""
    best = values == values.max(axis=0)
    return (best / best.sum(axis=0)).mean(axis=1)
