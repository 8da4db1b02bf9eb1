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

import gc
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from skinml.data.isic2017 import CHALLENGE_TASKS
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions

ALPHA = 0.05
POWER = 0.80


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
        from scipy.stats import norm

        reach = float(norm.ppf(1 - ALPHA / 2)) * self.standard_error
        return self.value - reach, self.value + reach

    def p_value(self) -> float:
        """Two-sided p-value of the value being 0; 1 where nothing differs at all."""
        from scipy.stats import norm

        # Sums of thousands of terms are off by as much: no difference of networks is so small.
        if abs(self.value) < 1e-12:
            return 1.0
        if self.standard_error == 0:
            return 0.0
        return float(2 * norm.sf(abs(self.value) / self.standard_error))


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
    from scipy.stats import rankdata

    count, rest = int(positive.sum()), int((~positive).sum())
    if min(count, rest) < 2:
        return np.full(len(positive), np.nan)
    ranks = rankdata(scores)
    # Shares of the negatives below each positive, and of the positives above each negative.
    won = (ranks[positive] - rankdata(scores[positive])) / rest
    lost = 1 - (ranks[~positive] - rankdata(scores[~positive])) / count
    influence = np.empty(len(positive))
    influence[positive] = (won - won.mean()) / math.sqrt(count * (count - 1))
    influence[~positive] = (lost - lost.mean()) / math.sqrt(rest * (rest - 1))
    return influence


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


def mcnemar(first: Predictions, second: Predictions) -> float:
    """The exact p-value of McNemar's test: equal accuracy of two networks on the same images.

    The images are paired by their ids; a `ValueError` where they are not the same.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    orders = [np.argsort(table.image_ids) for table in (first, second)]
    if not np.array_equal(first.image_ids[orders[0]], second.image_ids[orders[1]]):
        raise ValueError("McNemar's test needs two tables of the same images")
    right = [
        (table.predicted == table.labels)[order]
        for table, order in zip((first, second), orders, strict=True)
    ]
    cells = [[np.sum(right[0] & right[1]), np.sum(right[0] & ~right[1])],
             [np.sum(~right[0] & right[1]), np.sum(~right[0] & ~right[1])]]  # fmt: skip
    return float(test(cells, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method, in the order given."""
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return []
    # It collects garbage at each call, which takes seconds where much lives: spare it what does.
    gc.freeze()
    try:
        adjusted = multipletests(p_values, alpha=ALPHA, method="holm")[1]
    finally:
        gc.unfreeze()
    return [float(p) for p in adjusted]


def pairs_needed(alpha: float = ALPHA) -> int:
    """The fewest pairs of runs whose sign-flip test can reach p <= alpha: 6 for .05."""
    return math.ceil(1 + math.log2(1 / alpha))


def sign_flip(differences: Sequence[float]) -> float | None:
    """The exact two-sided p-value of paired runs differing by chance alone, or None.

    Under the null each difference may as well have the other sign: all 2^n are tried, so that the
    smallest p-value is 2 / 2^n. None where that cannot reach 5 %, or where a difference is NaN.
    Beyond 16 pairs 65,536 random choices of the signs stand for all.
    """
    from scipy.stats import permutation_test

    values = np.asarray(differences, dtype=float)
    if len(values) < pairs_needed() or not np.isfinite(values).all():
        return None
    result = permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**16,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(result.pvalue)


def smallest_detectable(standard_error: float, tests: int = 1) -> float:
    """The true difference that a two-sided 5 % test finds with 80 % power.

    (z(1 - α/2) + z(power)) × standard error, with α divided by the number of `tests`: what the
    first step of Holm's method, Bonferroni's, asks of the largest difference.
    """
    from scipy.stats import norm

    return float((norm.ppf(1 - ALPHA / tests / 2) + norm.ppf(POWER)) * standard_error)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of C networks in each of R resamples, 1 the best, ties shared: (C, R) → (C, R)."""
    from scipy.stats import rankdata

    return rankdata(-values, axis=0)


def probability_of_best(values: np.ndarray) -> np.ndarray:
    """The share of resamples in which each network is the best: (C, R) → (C,), ties shared."""
    best = values == values.max(axis=0)
    return (best / best.sum(axis=0)).mean(axis=1)
