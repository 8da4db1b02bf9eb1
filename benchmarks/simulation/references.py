"""Formulas against independent implementations."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.simulation.checks import Check
from benchmarks.simulation.population import POOLED, image_names, one_part
from benchmarks.simulation.settings import Settings
from benchmarks.simulation.size import mcnemar
from benchmarks.simulation.together import estimates_together
from skinml.compare.paired import (
    ALPHA,
    POWER,
    TESTED,
    auc_influence,
    difference,
    estimate,
    estimates,
    smallest_detectable,
)
from skinml.data.isic2017 import CLASSES
from skinml.evaluation import statistics
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights, resampled
from skinml.evaluation.testing import holm

# Sums of a few hundred terms in another order agree to this.
EXACT = 1e-12


def _random_tables(rng: np.random.Generator, count: int = 40) -> Iterator[Predictions]:
    """Small tables of all kinds: unequal classes, every second one full of ties."""
    for index in range(count):
        labels = rng.permutation(np.repeat(np.arange(3), rng.integers(2, 40, size=3)))
        scores = rng.dirichlet(np.ones(3), size=len(labels)) + 0.4 * np.eye(3)[labels]
        scores = scores.round(1 if index % 2 else 9)
        scores /= scores.sum(axis=1, keepdims=True)
        yield Predictions(image_names(len(labels)), labels, scores, CLASSES)


def delong_by_loops(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's covariance of the AUCs of several score columns, pair by pair as in the paper.

    `labels` (N,) bool, `scores` (N, M). DeLong et al. 1988, equations 3 to 6: psi is 1, 1/2 or 0
    for each pair of a positive and a negative. Returns (M, M).
    """
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    psi = np.zeros((scores.shape[1], len(positives), len(negatives)))
    for m, (i, x), (j, y) in itertools.product(
        range(scores.shape[1]), enumerate(positives), enumerate(negatives)
    ):
        a, b = scores[x, m], scores[y, m]
        psi[m, i, j] = 1.0 if a > b else 0.5 if a == b else 0.0
    theta = psi.mean(axis=(1, 2))
    of_positives, of_negatives = psi.mean(axis=2), psi.mean(axis=1)
    covariance = np.zeros((len(theta), len(theta)))
    for values in (of_positives, of_negatives):
        off = values - theta[:, None]
        covariance += off @ off.T / (values.shape[1] - 1) / values.shape[1]
    return covariance


def _aucs(rng: np.random.Generator) -> float:
    from sklearn.metrics import roc_auc_score

    worst = 0.0
    for table in _random_tables(rng):
        truth = np.eye(3)[table.labels]
        found = evaluate(table, names=("auc_macro", "auc_weighted", "melanoma_auc"))
        for name, value in found.items():
            if name == "melanoma_auc":
                expected = roc_auc_score(truth[:, 0], table.scores[:, 0])
            else:
                expected = roc_auc_score(truth, table.scores, average=name.split("_")[1])
            worst = max(worst, abs(value[0] - expected))
    return worst


def _resampled_aucs(rng: np.random.Generator) -> float:
    from sklearn.metrics import roc_auc_score

    worst = 0.0
    for table in _random_tables(rng, 6):
        weights = bootstrap_weights(len(table.labels), 20)
        found = resampled(table, weights, ("keratosis_auc",))["keratosis_auc"]
        for row, value in zip(weights, found, strict=True):
            truth = table.labels == 2
            if 0 < row @ truth < row.sum():
                expected = roc_auc_score(truth, table.scores[:, 2], sample_weight=row)
                worst = max(worst, abs(value - expected))
    return worst


def _delong(rng: np.random.Generator) -> float:
    worst = 0.0
    for table in _random_tables(rng):
        positive = table.labels == 1
        # Two columns as if they were the scores of two networks.
        columns = table.scores[:, [1, 0]]
        own = np.stack([auc_influence(positive, column) for column in columns.T])
        worst = max(worst, float(np.abs(own @ own.T - delong_by_loops(positive, columns)).max()))
    return worst


def _together(rng: np.random.Generator) -> float:
    """What the studies of seeds take for the product's estimates."""
    tables = one_part(POOLED, tuple(np.linspace(0.5, 1.5, 20)), rng)
    worst = 0.0
    for found, table in zip(estimates_together(tables), tables, strict=True):
        for metric, expected in estimates(table, tuple(found)).items():
            off = found[metric].influence - expected.influence
            worst = max(worst, abs(found[metric].value - expected.value), np.abs(off).max())
    return float(worst)


def _paired_t(rng: np.random.Generator) -> float:
    from scipy.stats import ttest_rel

    worst = 0.0
    tables = list(_random_tables(rng))
    for table in tables:
        other = Predictions(table.image_ids, table.labels, table.scores[:, [0, 2, 1]], CLASSES)
        right = [(t.predicted == t.labels).astype(float) for t in (table, other)]
        whole = difference(estimate(table, "accuracy"), estimate(other, "accuracy"))
        expected = ttest_rel(*right).statistic
        worst = max(worst, abs(whole.value / whole.standard_error - expected))
    return worst


def _jackknife(rng: np.random.Generator) -> float:
    """The standard errors of all metrics against leaving one image out, relative."""
    worst = 0.0
    [table] = one_part(POOLED, (1.0,), rng)
    count = len(table.labels)
    without = np.ones((count, count)) - np.eye(count)
    for metric, values in evaluate(table, without, tuple(TESTED)).items():
        expected = math.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
        worst = max(worst, abs(estimate(table, metric).standard_error / expected - 1))
    return worst


def _scipy_bootstrap(rng: np.random.Generator) -> float:
    """Interval ends against SciPy's percentile bootstrap, in standard errors."""
    from scipy.stats import bootstrap

    [table] = one_part(POOLED, (1.0,), rng)
    of_image = {
        "accuracy": (table.predicted == table.labels).astype(float),
        "log_loss": -np.log(table.scores[np.arange(len(table.labels)), table.labels]),
    }
    worst = 0.0
    for name, found in statistics.bootstrap_intervals(table, tuple(of_image), 9999).items():
        expected = bootstrap(
            (of_image[name],), np.mean, n_resamples=9999, method="percentile", batch=500, rng=rng
        )
        ends = np.subtract(found, expected.confidence_interval)
        worst = max(worst, float(np.abs(ends).max() / expected.standard_error))
    return worst


def _mcnemar_reference(rng: np.random.Generator) -> float:
    from scipy.stats import binomtest

    worst = 0.0
    for table in _random_tables(rng):
        other = Predictions(table.image_ids, table.labels, rng.permutation(table.scores), CLASSES)
        first, second = (t.predicted == t.labels for t in (table, other))
        discordant = int((first != second).sum())
        expected = binomtest(int((first & ~second).sum()), discordant).pvalue if discordant else 1.0
        worst = max(worst, abs(mcnemar(table, other) - expected))
    return worst


def holm_by_steps(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: the k-th smallest of m p-values times m - k + 1, never below the one before."""
    adjusted, before = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        before = max(before, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = before
    return adjusted


def _holm_reference(rng: np.random.Generator) -> float:
    worst = 0.0
    for count in range(1, 40):
        p_values = list((rng.random(count) ** 3).round(2))
        found = holm(p_values)
        off = np.subtract(found, holm_by_steps(p_values))
        worst = max(worst, float(np.abs(off).max()))
    return worst


def _detectable_reference(_: np.random.Generator) -> float:
    """Against statsmodels' power of a z-test, which counts the wrong tail too; relative."""
    from statsmodels.stats.power import NormalIndPower

    expected = NormalIndPower().solve_power(nobs1=1, alpha=ALPHA, power=POWER, ratio=0)
    return abs(smallest_detectable(0.0123) / (0.0123 * float(expected)) - 1)


REFERENCES: tuple[tuple[str, Callable[[np.random.Generator], float], float], ...] = (
    ("AUCs, one class and both means: scikit-learn", _aucs, EXACT),
    ("AUC of a resample: scikit-learn with weights", _resampled_aucs, EXACT),
    ("DeLong's covariance: the paper's double loop", _delong, EXACT),
    ("many networks at once: the product's one by one", _together, EXACT),
    ("paired z of accuracy: the statistic of scipy.stats.ttest_rel", _paired_t, 1e-9),
    ("standard errors: the jackknife over 550 images, relative", _jackknife, 0.02),
    # Each of the four quantiles has a Monte Carlo error of 0.027 standard errors.
    ("bootstrap: scipy.stats.bootstrap, in standard errors", _scipy_bootstrap, 0.15),
    ("McNemar, exact: scipy.stats.binomtest", _mcnemar_reference, EXACT),
    ("Holm: his steps one by one", _holm_reference, EXACT),
    ("smallest detectable: statsmodels' power of a z-test, relative", _detectable_reference, 1e-4),
)


def references(settings: Settings) -> list[Check]:
    """The largest deviation of each formula from an independent implementation."""
    return [
        Check("references", "largest deviation", name,
              compare(np.random.default_rng([settings.seed, index])), None, tolerance,
              kind="deviation")
        for index, (name, compare, tolerance) in enumerate(REFERENCES)
    ]  # fmt: skip
