"""A network's answers to many images, in inference mode."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skinml.data.pipeline import slices

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
    for part in slices(len(rows), INFERENCE_BATCH):
        outputs.append(model.predict_on_batch(images[rows[part]]))
        advance(part.stop - part.start)
    return np.concatenate(outputs)
