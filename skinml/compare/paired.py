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
from functools import cached_property

import numpy as np

from skinml.data.datasets import challenge_tasks
from skinml.evaluation.metrics import Counts, evaluate, metrics_of
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.testing import auc_influence

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


class Influences:
    """What each image of a predictions table contributes to the errors of its metrics.

    The contributions to the AUCs of the classes are computed once for all metrics made of them.
    """

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self.classes = predictions.classes
        self.one_hot = np.eye(len(predictions.classes))[predictions.labels]
        self.right = (predictions.predicted == predictions.labels).astype(float)

    @cached_property
    def auc(self) -> np.ndarray:
        """The contribution of each image to the one-vs-rest AUC of each class: (N, K)."""
        return np.stack(
            [
                auc_influence(self.predictions.labels == k, scores)
                for k, scores in enumerate(self.predictions.scores.T)
            ],
            axis=1,
        )


def _accuracy(seen: Influences) -> np.ndarray:
    count = len(seen.right)
    if count < 2:
        return np.full(count, np.nan)  # One image has no spread.
    return (seen.right - seen.right.mean()) / math.sqrt(count * (count - 1))


def _balanced_accuracy(seen: Influences) -> np.ndarray:
    """The mean of the classes' sensitivities, each of which is a share of the class's images."""
    counts = seen.one_hot.sum(axis=0)
    if counts.min() < 2:
        return np.full(len(seen.right), np.nan)
    by_class = (seen.right @ seen.one_hot) / counts
    off = seen.one_hot * (seen.right[:, None] - by_class)
    return np.asarray((off / np.sqrt(counts * (counts - 1))).mean(axis=1))


def _auc_macro(seen: Influences) -> np.ndarray:
    return np.asarray(seen.auc.mean(axis=1))


def _auc_weighted(seen: Influences) -> np.ndarray:
    """The weights, shares of the classes among the images, vary with the images as well."""
    shares = seen.one_hot.mean(axis=0)
    count = len(seen.one_hot)
    values = Counts(seen.predictions, np.ones((1, count))).auc[0]
    return np.asarray(seen.auc @ shares + (seen.one_hot - shares) @ values / count)


def _challenge_auc(seen: Influences) -> np.ndarray:
    tasks = [seen.classes.index(label) for label in challenge_tasks(seen.classes).values()]
    return np.asarray(seen.auc[:, tasks].mean(axis=1))


def _class_auc(task: str) -> Callable[[Influences], np.ndarray]:
    return lambda seen: seen.auc[:, seen.classes.index(task)]


# The metrics that differences are tested in, each with the contribution of an image to its error;
# those of a challenge where its classes are the table's (`tested`).
TESTED: dict[str, Callable[[Influences], np.ndarray]] = {
    "accuracy": _accuracy,
    "sensitivity_macro": _balanced_accuracy,
    "auc_weighted": _auc_weighted,
    "auc_macro": _auc_macro,
    "melanoma_auc": _class_auc("melanoma"),
    "keratosis_auc": _class_auc("seborrheic_keratosis"),
    "challenge_auc": _challenge_auc,
}


def tested(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics of `TESTED` that a table with these classes has."""
    return tuple(name for name in TESTED if name in metrics_of(classes))


def estimates(predictions: Predictions, metrics: Sequence[str] = ()) -> dict[str, Estimate]:
    """One network's metrics of `TESTED`, all or those named, each with its error over the images.

    As fast for all of them as for one AUC.
    """
    seen, names = Influences(predictions), tuple(metrics or tested(predictions.classes))
    values = evaluate(predictions, names=names)
    return {name: Estimate(float(values[name][0]), TESTED[name](seen)) for name in names}


def estimate(predictions: Predictions, metric: str) -> Estimate:
    """One network's value of a metric of `TESTED` and its error, over the images of a table."""
    return estimates(predictions, (metric,))[metric]


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


def format_p(p: float) -> str:
    """A p-value as papers print it, such as ".012"; a dash where it cannot be computed."""
    if np.isnan(p):
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


def p_equals(p: float) -> str:
    """A p-value within a sentence, such as "p = .012"."""
    text = format_p(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
