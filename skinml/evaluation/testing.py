"""What tests are made of: what each image adds to the error of an AUC, and Holm's correction."""

import math
from collections.abc import Sequence

import numpy as np


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
