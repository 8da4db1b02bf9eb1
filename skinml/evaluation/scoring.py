"""A trained network's scores, as a predictions table, and what one answer costs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skinml.base.progress import progress_bar
from skinml.data.prepared import PreparedSet
from skinml.evaluation.predictions import Predictions
from skinml.models.inference import INFERENCE_BATCH, infer


def predict_part(
    model: Any, data: PreparedSet, rows: np.ndarray, name: str, views: int = 1
) -> Predictions:
    """Score some rows of a prepared set; `name` is what the progress bar calls them.

    `views` is how many of an image the model itself looks at: a batch has fewer images then.
    """
    with progress_bar(f"predicting the {name} part", len(rows)) as advance:
        scores = infer(model, data.images, rows, advance, INFERENCE_BATCH // views)
    scores = scores.astype(np.float64)
    facts = {name: values[rows] for name, values in data.subgroups.items()}
    return Predictions(data.image_ids[rows], data.labels[rows], scores, data.classes, facts)


class Latency(NamedTuple):
    """Milliseconds for one image at batch size 1: median and the middle half of the calls."""

    median: float
    low: float
    high: float
    calls: int


def measure_latency(
    call: Callable[[np.ndarray], np.ndarray], image: np.ndarray, calls: int = 60, warm_up: int = 10
) -> Latency:
    """Time a compiled call on one image (1, 224, 224, 3), after some that do not count."""
    milliseconds = []
    for number in range(warm_up + calls):
        started = time.perf_counter()
        call(image)
        if number >= warm_up:
            milliseconds.append(1000 * (time.perf_counter() - started))
    low, median, high = np.quantile(milliseconds, [0.25, 0.5, 0.75])
    return Latency(float(median), float(low), float(high), calls)
