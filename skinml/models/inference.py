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
    batch_size: int = INFERENCE_BATCH,
) -> np.ndarray:
    """The model's output for some rows of the images: (len(rows), …) of the model's dtype.

    `advance` is told how many more images are done after each batch.
    """
    outputs = []
    for pixels in prefetch(images[rows[part]] for part in slices(len(rows), batch_size)):
        outputs.append(answer(model, pixels, batch_size))
        advance(len(pixels))
    return np.concatenate(outputs)


def answer(model: Any, batch: np.ndarray, batch_size: int = INFERENCE_BATCH) -> np.ndarray:
    """The model's output for a batch of at most `batch_size`.

    A smaller one is filled up with zeros, which nobody sees: another shape would have the whole
    network compiled once more.
    """
    missing = batch_size - len(batch)
    if missing:
        batch = np.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1))
    return model.predict_on_batch(batch)[: batch_size - missing]
