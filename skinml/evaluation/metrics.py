"""Every number that is computed from a predictions table, a row each in `METRICS`.

A metric is a function of `Counts`: labels, scores and a matrix of weights, one row of weights a
resample. So a value and its bootstrap distribution come from the same vectorised code: weights of
one give the value, multinomial counts give the resamples.

Formulas: Table II of the paper (arXiv 2110.12270) for accuracy, sensitivity, precision,
specificity and F1; Hanley & McNeil 1982 (the Mann-Whitney form) for the AUC; Guo et al. 2017
(arXiv 1706.04599, eq. 3, 15 bins) for the calibration error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinml.data.isic2017 import CHALLENGE_TASKS, CLASSES
from skinml.evaluation.predictions import Predictions

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Counts:
    """A predictions table seen through R rows of weights: `weights` (R, N) float64, all >= 0."""

    predictions: Predictions
    weights: np.ndarray

    @cached_property
    def confusion(self) -> np.ndarray:
        """Weighted confusion matrices (R, K, K): rows are true classes, columns predicted ones."""
        k = len(self.predictions.classes)
        cell = self.predictions.labels * k + self.predictions.predicted
        one_hot = np.zeros((len(cell), k * k))
        one_hot[np.arange(len(cell)), cell] = 1
        return (self.weights @ one_hot).reshape(-1, k, k)

    @cached_property
    def total(self) -> np.ndarray:
        return self.weights.sum(axis=1)

    @cached_property
    def prevalence(self) -> np.ndarray:
        """Each class's share of the weighted images: (R, K)."""
        return _ratio(self.confusion.sum(axis=2), self.total[:, None])

    @cached_property
    def auc(self) -> np.ndarray:
        """One-vs-rest AUC of each class: (R, K)."""
        labels, scores = self.predictions.labels, self.predictions.scores
        return np.stack(
            [auc(labels == k, scores[:, k], self.weights) for k in range(scores.shape[1])], axis=1
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Elementwise numerator / denominator, `empty` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, empty, dtype=np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in its Mann-Whitney form, ties counted one half.

    `positive` (N,) bool, `scores` (N,) float, `weights` (R, N) >= 0. Returns (R,) in 0..1, NaN
    where a resample lacks positives or negatives.
    """
    own, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    others = others[np.argsort(scores[others], kind="stable")]
    # Of the negatives from the lowest score up, how many weigh in before each.
    below = np.zeros((len(weights), len(others) + 1))
    np.cumsum(weights[:, others], axis=1, out=below[:, 1:])
    low, high = (np.searchsorted(scores[others], scores[own], side) for side in ("left", "right"))
    won = weights[:, own]
    wins = np.einsum("rp,rp->r", won, below[:, low] + below[:, high]) / 2
    return _ratio(wins, won.sum(axis=1) * below[:, -1])


def _sensitivity(counts: Counts) -> np.ndarray:
    """TP / (TP + FN) of each class: (R, K)."""
    return _ratio(np.diagonal(counts.confusion, axis1=1, axis2=2), counts.confusion.sum(axis=2))


def _precision(counts: Counts) -> np.ndarray:
    """TP / (TP + FP) of each class: (R, K); 0 for a class that was never predicted."""
    hits = np.diagonal(counts.confusion, axis1=1, axis2=2)
    return _ratio(hits, counts.confusion.sum(axis=1), empty=0.0)


def _specificity(counts: Counts) -> np.ndarray:
    """TN / (TN + FP) of each class: (R, K)."""
    predicted = counts.confusion.sum(axis=1)
    hits = np.diagonal(counts.confusion, axis1=1, axis2=2)
    negatives = counts.total[:, None] - counts.confusion.sum(axis=2)
    return _ratio(negatives - (predicted - hits), negatives)


def _f1(counts: Counts) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, which is 2 P S / (P + S) of Table II: (R, K)."""
    hits = np.diagonal(counts.confusion, axis1=1, axis2=2)
    return _ratio(2 * hits, counts.confusion.sum(axis=1) + counts.confusion.sum(axis=2), empty=0.0)


def _class_accuracy(counts: Counts) -> np.ndarray:
    """(TP + TN) / all of each class against the rest, Table II's accuracy: (R, K)."""
    hits = np.diagonal(counts.confusion, axis1=1, axis2=2)
    wrong = counts.confusion.sum(axis=1) + counts.confusion.sum(axis=2) - 2 * hits
    return _ratio(counts.total[:, None] - wrong, counts.total[:, None])


def _auc(counts: Counts) -> np.ndarray:
    return counts.auc


def _accuracy(counts: Counts) -> np.ndarray:
    """Share of the images whose predicted class is the true one: (R,)."""
    return _ratio(np.trace(counts.confusion, axis1=1, axis2=2), counts.total)


def _calibration_error(counts: Counts) -> np.ndarray:
    """Expected calibration error of the predicted class's score, 15 equal bins: (R,)."""
    confidence = counts.predictions.scores.max(axis=1)
    correct = counts.predictions.predicted == counts.predictions.labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    one_hot = np.eye(CALIBRATION_BINS)[bins]
    # |sum of correct - sum of confidence| of a bin is its weight times |accuracy - confidence|.
    gap = np.abs(counts.weights @ (one_hot * (correct - confidence)[:, None]))
    return _ratio(gap.sum(axis=1), counts.total)


def _log_loss(counts: Counts) -> np.ndarray:
    """Mean negative log score of the true class, scores floored at 1e-7 as Keras does: (R,)."""
    predictions = counts.predictions
    true_score = predictions.scores[np.arange(len(predictions.labels)), predictions.labels]
    return _ratio(counts.weights @ -np.log(np.maximum(true_score, 1e-7)), counts.total)


ByClass = Callable[[Counts], np.ndarray]


def _macro(by_class: ByClass) -> Callable[[Counts], np.ndarray]:
    """Unweighted mean over the classes."""
    return lambda counts: by_class(counts).mean(axis=1)


def _weighted(by_class: ByClass) -> Callable[[Counts], np.ndarray]:
    """Mean over the classes, each by its share of the images."""
    return lambda counts: (by_class(counts) * counts.prevalence).sum(axis=1)


def _of_class(by_class: ByClass, index: int) -> Callable[[Counts], np.ndarray]:
    return lambda counts: by_class(counts)[:, index]


def _challenge_auc(counts: Counts) -> np.ndarray:
    """Mean AUC of the challenge's two binary tasks (arXiv 1710.05006): (R,)."""
    return counts.auc[:, [CLASSES.index(task) for task in CHALLENGE_TASKS]].mean(axis=1)


_AVERAGED: dict[str, ByClass] = {
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "precision": _precision,
    "f1": _f1,
    "auc": _auc,
}

METRICS: dict[str, Callable[[Counts], np.ndarray]] = {
    "accuracy": _accuracy,
    **{f"{name}_weighted": _weighted(metric) for name, metric in _AVERAGED.items()},
    **{f"{name}_macro": _macro(metric) for name, metric in _AVERAGED.items()},
    **{
        f"{name}_{label}": _of_class(metric, index)
        for name, metric in {**_AVERAGED, "accuracy": _class_accuracy}.items()
        for index, label in enumerate(CLASSES)
    },
    # The challenge's own names for two of the one-vs-rest AUCs, and what it ranked by.
    "melanoma_auc": _of_class(_auc, CLASSES.index("melanoma")),
    "keratosis_auc": _of_class(_auc, CLASSES.index("seborrheic_keratosis")),
    "challenge_auc": _challenge_auc,
    "calibration_error": _calibration_error,
    "log_loss": _log_loss,
}

# The ones that get an interval in every run: the paper's columns, then the challenge's.
HEADLINE = (
    "accuracy",
    "precision_weighted",
    "f1_weighted",
    "auc_weighted",
    "auc_macro",
    "melanoma_auc",
    "keratosis_auc",
    "challenge_auc",
)


def evaluate(
    predictions: Predictions, weights: np.ndarray | None = None, names: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Compute metrics of a predictions table, all of `METRICS` unless `names` are given.

    `weights` is (R, N), or None for every image once (R = 1). Returns an (R,) float64 array a
    metric; NaN where it is undefined, such as an AUC of a part that lacks the class.
    """
    if weights is None:
        weights = np.ones((1, len(predictions.labels)))
    counts = Counts(predictions, weights)
    return {name: METRICS[name](counts) for name in (names or METRICS)}


def point_metrics(predictions: Predictions) -> dict[str, float]:
    """Every metric of a predictions table as a plain number (NaN where undefined)."""
    return {name: float(values[0]) for name, values in evaluate(predictions).items()}


def epoch_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Loss, accuracy and macro AUC of one epoch, from labels (n,) and scores (n, K)."""
    # Not by way of METRICS: what a training watches does not change with a new row there.
    predictions = Predictions(np.arange(len(labels)).astype(str), labels, scores.astype(float))
    counts = Counts(predictions, np.ones((1, len(labels))))
    watched = {"loss": _log_loss, "accuracy": _accuracy, "auc_macro": _macro(_auc)}
    return {name: float(metric(counts)[0]) for name, metric in watched.items()}
