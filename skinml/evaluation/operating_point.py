"""A threshold on the score of one class: chosen on one part of the images, used on another."""

import numpy as np

# The lowest of the sensitivities at which the ISIC 2017 challenge reported the specificity: that of
# dermatologists in its predecessor (arXiv 1710.05006).
SENSITIVITY = 0.82


def threshold_at(sensitivity: float, positive: np.ndarray, scores: np.ndarray) -> float:
    """The highest threshold at which at least this share of the positive images is found.

    An image is found whose score is at least the threshold. `positive` (N,) bool, `scores` (N,);
    `sensitivity` above 0, at most 1. NaN where no image is positive.
    """
    found = np.sort(scores[positive])[::-1]
    shares = np.arange(1, len(found) + 1) / len(found)
    return float(found[np.argmax(shares >= sensitivity)]) if len(found) else float("nan")


def rates_at(threshold: float, positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Sensitivity and specificity of a threshold: TP / (TP + FN), TN / (TN + FP).

    `positive` (N,) bool, `scores` (N,). NaN where there is no such image, or no threshold.
    """
    if np.isnan(threshold):
        return float("nan"), float("nan")
    called = scores >= threshold
    return _share(called[positive]), _share(~called[~positive])


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")
