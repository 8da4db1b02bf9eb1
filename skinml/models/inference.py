"""A network's answers to many images, in inference mode."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skinml.data.pipeline import prefetch, slices

# Large enough to keep two cores busy, small enough for their caches; measured on a CPU.
INFERENCE_BATCH = 16


def infer(
    model: Any,
    images: np.ndarray,
    rows: np.ndarray,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """The model's output for some rows of the images: (len(rows), …) of the model's dtype.

    `advance` is told how many more images are done after each batch.
    """
    outputs = []
    for pixels in prefetch(images[rows[part]] for part in slices(len(rows), INFERENCE_BATCH)):
        outputs.append(answer(model, pixels))
        advance(len(pixels))
    return np.concatenate(outputs)


def answer(model: Any, batch: np.ndarray) -> np.ndarray:
    """The model's output for a batch of at most INFERENCE_BATCH.

    A smaller one is filled up with zeros, which nobody sees: another shape would have the whole
    network compiled once more.
    """
    missing = INFERENCE_BATCH - len(batch)
    if missing:
        batch = np.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1))
    return model.predict_on_batch(batch)[: INFERENCE_BATCH - missing]
