"""How sure a number is: bootstrap intervals over the images of a predictions table."""

import numpy as np

from skinml.evaluation.metrics import HEADLINE, evaluate
from skinml.evaluation.predictions import Predictions

# 2,000 resamples put the Monte Carlo error of a 2.5 % quantile well under the interval's own
# width (Efron & Tibshirani 1993, section 13.3 asks for 1,000 or more).
RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_weights(labels: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each bootstrap resample, stratified by class.

    `labels` (N,) int64. Returns (resamples, N) float64 counts. Drawing within the classes keeps
    every class in every resample, so that no AUC is undefined, and its class counts fixed, as the
    test part's are. The same labels and seed give the same resamples: pairing two networks by
    resample needs nothing more.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=resamples
        )
    return weights


def bootstrap_intervals(
    predictions: Predictions,
    names: tuple[str, ...] = HEADLINE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals over images of the named metrics: name → (low, high).

    An undefined metric (its class is absent) is left out. The interval says how far the figure
    would move with other test images; what other training seeds do to it is not in it.
    """
    weights = bootstrap_weights(predictions.labels, resamples, seed)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {
        name: (float(low), float(high))
        for name, values in evaluate(predictions, weights, names).items()
        for low, high in [np.quantile(values, tails)]
        if np.isfinite(low) and np.isfinite(high)
    }
