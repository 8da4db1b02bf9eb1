"""Class activation maps: in which parts of a picture a network finds what speaks for a class.

A class's score is taken apart over the cells of the last convolutional feature map, 7×7 for every
backbone, by its gradient there. What lies above that map is a few layers: one pass of the network
gives the maps of all classes, and no second network is needed.

A map says where, not why: it is no explanation of a diagnosis.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from skinml.base.errors import UserError
from skinml.data.pipeline import slices
from skinml.models.inference import INFERENCE_BATCH, answer


def _cell_by_cell(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return (features * gradient).sum(axis=-1)


def _by_mean_gradient(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return (features * gradient.mean(axis=(1, 2), keepdims=True)).sum(axis=-1)


def _by_positive_gradient(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return (features * np.maximum(gradient, 0)).sum(axis=-1)


class Method(NamedTuple):
    """A way to take a score apart.

    `against_others`: whether the score is the log odds of the class, or its logit alone. `combine`
    makes evidence (n, h, w) of the feature map and the score's gradient there, both (n, h, w, c).
    """

    against_others: bool
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray]


# The first is what is drawn, chosen by results/explain. Softmax does not change where a number is
# added to all logits, so the gradient of one alone is of no meaning (Srinivas and Fleuret 2021,
# arXiv 2006.09128): log odds, log p / (1 − p), leave such a number out.
METHODS = {
    # HiResCAM (Draelos and Carin 2020, arXiv 2011.08891), of the log odds.
    "log-odds": Method(True, _cell_by_cell),
    # Selvaraju et al. 2017, arXiv 1610.02391.
    "grad-cam": Method(False, _by_mean_gradient),
    # Jiang et al. 2021, doi 10.1109/TIP.2021.3089943. It fails the sanity check.
    "layer-cam": Method(False, _by_positive_gradient),
}
DRAWN = next(iter(METHODS))


class Explainer:
    """A trained network, cut at its last convolutional feature map.

    It shares the weights of `model`, a network of `build_classifier`, trained or loaded. Of one
    that answers with the mean of several views `network` is the one that looks at each, and
    explained is its answer to the picture as it is. A network without a convolutional feature map
    is a `UserError`.
    """

    def __init__(self, model: Any) -> None:
        import keras

        try:
            self.network, cut = _find_cut(model)
            self._features = keras.Model(self.network.input, self.network.layers[cut].input)
            *above, head = self.network.layers[cut:]
            *hidden, self._last = head.layers
        except (AttributeError, ValueError, IndexError, StopIteration):
            raise UserError(
                f"{model.name}: has no convolutional feature map below a head of dense layers; "
                "expected a network as skinml trains it"
            ) from None
        self._above = [*above, *hidden]
        # The variables below the cut and above it, from the first layer to the last.
        self.weights = self._features.weights, head.weights

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the last feature map."""
        return tuple(self._features.output.shape[1:])

    def maps(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """The maps that are drawn, of each class: (len(rows), K, h, w) uint8.

        `images` (N, 224, 224, 3) uint8 may be memory-mapped. What speaks for a class runs from 1 to
        255, the map's own largest value; 0 is what does not. `advance` is told how many more
        images are done.
        """
        found = []
        for part in slices(len(rows), INFERENCE_BATCH):
            features = self.features(images[rows[part]])
            found.append(_as_bytes(self.evidence(features)))
            advance(len(features))
        return np.concatenate(found)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """The last feature map of at most `INFERENCE_BATCH` pictures: (n, h, w, c) float32."""
        return answer(self._features, pixels)

    def evidence(self, features: np.ndarray, method: str = DRAWN) -> np.ndarray:
        """What in each cell speaks for a class, or, below 0, against it: (n, K, h, w) float32."""
        against_others, combine = METHODS[method]
        return np.stack(
            [combine(features, slope) for slope in self._gradients(features, against_others)],
            axis=1,
        )

    def _gradients(self, features: np.ndarray, against_others: bool) -> Iterator[np.ndarray]:
        """Of the score of one class after the other."""
        from skinml.training.backend import gradient

        for label in range(self._last.units):

            def score(given: Any, label: int = label) -> Any:
                return self._score(given, label, against_others)

            yield gradient(score, features)

    def _score(self, features: Any, label: int, against_others: bool) -> Any:
        """The logit of a class, or its log odds: (n,)."""
        from keras import ops

        for layer in self._above:
            features = layer(features, training=False)
        logits = ops.matmul(features, self._last.kernel) + self._last.bias
        if not against_others:
            return logits[:, label]
        others = [other for other in range(self._last.units) if other != label]
        return logits[:, label] - ops.logsumexp(ops.take(logits, others, axis=1), axis=1)


def _find_cut(model: Any) -> tuple[Any, int]:
    """The chain of layers that holds the backbone, and the number of the layer after that."""
    number, part = next(
        (n, layer) for n, layer in enumerate(model.layers) if hasattr(layer, "layers")
    )
    # Several views of a picture go through the whole network as one layer.
    return (model, number + 1) if len(part.output.shape) == 4 else _find_cut(part)


def _as_bytes(evidence: np.ndarray) -> np.ndarray:
    """What speaks for a class, as a share of the map's largest: (…, h, w) uint8."""
    positive = np.maximum(evidence, 0)
    largest = positive.max(axis=(-2, -1), keepdims=True)
    return np.ceil(255 * positive / np.where(largest > 0, largest, 1)).astype(np.uint8)
