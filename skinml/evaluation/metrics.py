"""Every number that is computed from a predictions table, a row each: `Metric`.

All that is said of a metric stands in its row; runs, reports, dashboards and tests read it there.
It is computed from `Counts`: labels, scores and a matrix of weights, one row of weights a resample.
So a value and its bootstrap distribution come from the same vectorised code: weights of one give
the value, multinomial counts give the resamples.

Formulas: Table II of the paper (arXiv 2110.12270) for accuracy, sensitivity, precision,
specificity and F1; Hanley & McNeil 1982 (the Mann-Whitney form) for the AUC; Guo et al. 2017
(arXiv 1706.04599, eq. 3, 15 bins) for the calibration error.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from skinml.data.datasets import challenge_tasks
from skinml.evaluation.classes import of_class, shortened, told_classes
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


def roc_curve(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the ROC curve, one for each distinct score, from (0, 0) to (1, 1).

    `positive` (N,) bool with both kinds, `scores` (N,) float. Returns 1 − specificity and
    sensitivity, both in 0..1 and rising.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[ends]
    alarms = ends + 1 - hits
    return np.append(0, alarms) / np.sum(~positive), np.append(0, hits) / np.sum(positive)


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


def _mean_auc(indices: list[int]) -> Callable[[Counts], np.ndarray]:
    """Mean AUC of a challenge's binary tasks (arXiv 1710.05006): (R,)."""
    return lambda counts: counts.auc[:, indices].mean(axis=1)


Carriers = Callable[[np.ndarray], int]
"""How many images a figure rests on at least, by the images of each class (K,)."""


def _every_image(images: np.ndarray) -> int:
    return int(images.sum())


def _rarest_class(images: np.ndarray) -> int:
    return int(images.min())


def _fewer_of_each(images: np.ndarray) -> int:
    """The fewest images of a class, or of all the others: what the AUCs of all classes rest on."""
    return int(np.minimum(images, images.sum() - images).min())


def _fewer_of(*indices: int) -> Carriers:
    """The same of some classes."""
    return lambda images: int(min(min(images[k], images.sum() - images[k]) for k in indices))


def _images_of(index: int) -> Carriers:
    return lambda images: int(images[index])


def _images_beside(index: int) -> Carriers:
    return lambda images: int(images.sum() - images[index])


@dataclass(frozen=True)
class Metric:
    """A number that is computed from a predictions table, and all that is said of it anywhere.

    `name` is that of its logged values ("test_NAME"); `compute` gives its value for each row of
    weights, (R,) float64 within `range`. `title` names it to a reader, `note` says what the title
    does not. `heading` is that of its column in a comparison; without one it has none. A run has an
    interval of each `headline` metric and shows it in its report, note, card and in the MLflow UI.
    `carriers` counts the images that the value rests on; `bootstrap` says whether a bootstrap
    interval is known to be right. `paper` is its field in the paper's Table III, in % where
    `percent`. `dashboard` is that of its column in Grafana.
    """

    name: str
    compute: Callable[[Counts], np.ndarray]
    title: str
    heading: str = ""
    note: str = ""
    range: tuple[float, float] = (0, 1)
    lower_is_better: bool = False
    headline: bool = False
    bootstrap: bool = True
    carriers: Carriers = _every_image
    paper: str = ""
    percent: bool = False
    dashboard: str = ""


# The accuracy, and averages over the classes.
AVERAGES = (
    Metric(
        "accuracy", _accuracy, "Accuracy", heading="accuracy %", headline=True,
        paper="accuracy", percent=True, dashboard="Accuracy",
    ),
    Metric("sensitivity_weighted", _weighted(_sensitivity), "Sensitivity (weighted)"),
    Metric("specificity_weighted", _weighted(_specificity), "Specificity (weighted)"),
    Metric(
        "precision_weighted", _weighted(_precision), "Precision (weighted)",
        heading="precision %", headline=True, paper="precision", percent=True,
        dashboard="Precision",
    ),
    Metric(
        "f1_weighted", _weighted(_f1), "F1 (weighted)", heading="F1", headline=True, paper="f1",
        dashboard="F1",
    ),
    Metric(
        "auc_weighted", _weighted(_auc), "AUC (weighted)", heading="AUC", headline=True,
        carriers=_fewer_of_each, paper="auc", dashboard="AUC",
    ),
    Metric(
        "sensitivity_macro", _macro(_sensitivity), "Balanced accuracy", carriers=_rarest_class
    ),
    Metric("specificity_macro", _macro(_specificity), "Specificity (macro)"),
    Metric("precision_macro", _macro(_precision), "Precision (macro)"),
    Metric("f1_macro", _macro(_f1), "F1 (macro)"),
    Metric(
        "auc_macro", _macro(_auc), "AUC (macro)", heading="AUC macro", headline=True,
        carriers=_fewer_of_each,
    ),
)  # fmt: skip

# Other figures of a whole table. In its reports they follow those of the classes.
FURTHER = (
    # Its resamples lie above the truth, as noise adds to it: the percentile interval of a small
    # one holds it nowhere near 95 times in 100 (simulated).
    Metric(
        "calibration_error", _calibration_error, "Calibration error", heading="calibr. error",
        lower_is_better=True, bootstrap=False,
    ),
    Metric("log_loss", _log_loss, "Log loss", range=(0, math.inf), lower_is_better=True),
)  # fmt: skip

# What a table of any classes has.
METRICS = (*AVERAGES, *FURTHER)


@cache
def metrics_of(classes: tuple[str, ...]) -> dict[str, Metric]:
    """Every metric of a predictions table with these classes, by its name.

    Averages, the figures of each class (`of_class` names them), and what the challenge of these
    classes ranked by, in its own words.
    """
    rows = (*AVERAGES, *_of_each_class(classes), *_of_challenge(classes), *FURTHER)
    return {row.name: row for row in rows}


def _of_each_class(classes: tuple[str, ...]) -> Iterator[Metric]:
    """The figures of each class against the rest that are told, kind by kind."""
    # Where there is a challenge, its own words head the AUCs.
    auc_heading = "" if challenge_tasks(classes) else "{} AUC"
    kinds: tuple[tuple[str, ByClass, str, Callable[[int], Carriers]], ...] = (
        ("sensitivity", _sensitivity, "sens. {}", _images_of),
        ("specificity", _specificity, "spec. {}", _images_beside),
        ("precision", _precision, "", lambda index: _every_image),
        ("f1", _f1, "", lambda index: _every_image),
        ("auc", _auc, auc_heading, _fewer_of),
        ("accuracy", _class_accuracy, "", lambda index: _every_image),
    )
    for kind, compute, heading, carriers in kinds:
        for label in told_classes(classes):
            index = classes.index(label)
            yield Metric(
                of_class(kind, label), _of_class(compute, index), f"{kind} ({label})",
                heading=heading.format(shortened(label)), carriers=carriers(index),
            )  # fmt: skip


def _of_challenge(classes: tuple[str, ...]) -> Iterator[Metric]:
    """The AUCs of a challenge's binary tasks, and their mean, by which it ranked."""
    tasks = {name: classes.index(label) for name, label in challenge_tasks(classes).items()}
    for name, index in tasks.items():
        label = classes[index]
        yield Metric(
            name, _of_class(_auc, index), _task_title(name), headline=True,
            heading=f"{shortened(label)} AUC", note=f"{label.replace('_', ' ')} against the rest",
            carriers=_fewer_of(index),
        )  # fmt: skip
    if tasks:
        yield Metric(
            "challenge_auc", _mean_auc(list(tasks.values())), "Challenge AUC", headline=True,
            heading="challenge AUC", note="mean of these two (ISIC 2017 challenge)",
            carriers=_fewer_of(*tasks.values()),
        )  # fmt: skip


def _task_title(name: str) -> str:
    """What a reader calls a challenge's metric, such as "Melanoma AUC"."""
    return f"{name.removesuffix('_auc').capitalize()} AUC"


def metric_title(name: str) -> str:
    """What a reader calls a metric: an average, or one of a challenge."""
    titles = {row.name: row.title for row in METRICS}
    return titles.get(name) or _task_title(name)


def headline(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics that get an interval in every run: the paper's columns, then the challenge's."""
    return tuple(name for name, row in metrics_of(classes).items() if row.headline)


def reported(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics that have a column in a comparison, in the order of the columns."""
    return tuple(name for name, row in metrics_of(classes).items() if row.heading)


def evaluate(
    predictions: Predictions, weights: np.ndarray | None = None, names: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Compute metrics of a predictions table, all of `metrics_of` unless `names` are given.

    `weights` is (R, N), or None for every image once (R = 1). Returns an (R,) float64 array a
    metric; NaN where it is undefined, such as an AUC of a part that lacks the class.
    """
    if weights is None:
        weights = np.ones((1, len(predictions.labels)))
    counts, metrics = Counts(predictions, weights), metrics_of(predictions.classes)
    return {name: metrics[name].compute(counts) for name in (names or metrics)}


def point_metrics(predictions: Predictions) -> dict[str, float]:
    """Every metric of a predictions table as a plain number (NaN where undefined)."""
    return {name: float(values[0]) for name, values in evaluate(predictions).items()}


def epoch_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Loss, accuracy and macro AUC of one epoch, from labels (n,) and scores (n, K)."""
    # Not by way of `metrics_of`: what a training watches does not change with a new row there.
    ids, classes = np.arange(len(labels)).astype(str), tuple(map(str, range(scores.shape[1])))
    predictions = Predictions(ids, labels, scores.astype(float), classes)
    counts = Counts(predictions, np.ones((1, len(labels))))
    watched = {"loss": _log_loss, "accuracy": _accuracy, "auc_macro": _macro(_auc)}
    return {name: float(metric(counts)[0]) for name, metric in watched.items()}
