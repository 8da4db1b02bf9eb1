"""The estimates of many networks at once: as the product's, in a fifth of its time.

The studies of seeds need 22 networks a draw. `references` holds these against `paired.estimates`.
"""

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.simulation.settings import POWER_METRICS
from skinml.compare.paired import Estimate
from skinml.evaluation.predictions import Predictions


def estimates_together(tables: Sequence[Predictions]) -> list[dict[str, Estimate]]:
    """The POWER_METRICS of networks that have seen the same images, whose scores have no ties."""
    labels = tables[0].labels
    scores = np.stack([table.scores for table in tables])
    count = len(labels)
    right = (scores.argmax(axis=2) == labels).astype(float)
    accuracy = right.mean(axis=1)
    off = (right - accuracy[:, None]) / math.sqrt(count * (count - 1))
    weighted, of_image = np.zeros(len(tables)), np.zeros(right.shape)
    for number in range(scores.shape[2]):
        positive = labels == number
        share = positive.mean()
        auc, influence = _aucs(positive, scores[:, :, number])
        weighted += share * auc
        of_image += share * influence + (positive - share) * auc[:, None] / count
    found = {"accuracy": (accuracy, off), "auc_weighted": (weighted, of_image)}
    assert tuple(found) == POWER_METRICS
    return [
        {
            metric: Estimate(float(values[table]), influences[table])
            for metric, (values, influences) in found.items()
        }
        for table in range(len(tables))
    ]


def _aucs(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The AUCs of M score columns, (M, N) → (M,), and each image's contribution: (M, N)."""
    many, rest = int(positive.sum()), int((~positive).sum())
    order = scores.argsort(axis=1)
    sorted_positive = positive[order]
    # Of each positive the share of negatives below it, of each negative that of positives above.
    below = np.cumsum(~sorted_positive, axis=1) / rest
    above = 1 - np.cumsum(sorted_positive, axis=1) / many
    placements = np.empty(scores.shape)
    np.put_along_axis(placements, order, np.where(sorted_positive, below, above), axis=1)
    auc = placements[:, positive].mean(axis=1)
    size = np.where(positive, many * (many - 1), rest * (rest - 1))
    return auc, (placements - auc[:, None]) / np.sqrt(size)
