"""Training steps as compiled calls, on TensorFlow and on JAX: batches in, losses and scores out.

`Model.train_on_batch` would do, at a price: it traces a network three times (once more for the
variables that the first call makes, once more for the last batch, which is smaller), minutes for
NASNetMobile, and it waits for every step's result before the next may begin.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from skinml.training.backend import Execution


class Batch(NamedTuple):
    """What one training step gets.

    `inputs` (n, …): what the network takes; with images on the device (n, 2) int32 instead, the row
    of each and its symmetry. `labels` (n,) int64, of mixtures the shares of the classes (n, K)
    float32; `weights` (n,) float32 of the loss.
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class Outcome(NamedTuple):
    """What steps leave: mean loss of the epoch so far, and the scores (n, K) before each update."""

    loss: float
    scores: np.ndarray


class Trainee(keras.Model):
    """A view of a network whose steps hand out the scores they computed, not only the loss.

    The metrics of the training part are then those of any other part; Keras's running metrics
    would approximate the AUC by buckets.
    """

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "scores": y_pred}


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Groups of `size` batches of one shape, for one execution each; what is left over alone."""
    group: list[Batch] = []
    for batch in batches:
        if group and len(batch.labels) != len(group[0].labels):
            yield from ([single] for single in group)
            group = []
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    yield from ([single] for single in group)


class Steps:
    """The compiled training steps of a compiled `Trainee`.

    `images` (N, H, W, 3) uint8 go to the device and are augmented there, if given.
    """

    def __init__(
        self, model: Trainee, execution: Execution, images: np.ndarray | None = None
    ) -> None:
        # Made in the first step, its variables would have the network traced twice.
        model.optimizer.build(model.trainable_variables)
        on_device = None if images is None else ops.convert_to_tensor(np.asarray(images))
        self._model = model
        self._calls: _TensorFlow | _Jax
        if keras.backend.backend() == "tensorflow":
            self._calls = _TensorFlow(model, on_device, execution.xla)
        else:
            self._calls = _Jax(model, on_device)

    def epoch(self, groups: Iterable[list[Batch]]) -> Iterator[tuple[int, Outcome]]:
        """Train on groups of batches; yields the steps just done and their outcome.

        One execution late, so that the device has its next work while the host looks at the last.
        Only after the end are the network's variables up to date on every backend.
        """
        self._model.reset_metrics()
        self._calls.begin()
        waiting: tuple[int, dict[str, Any]] | None = None
        try:
            for group in groups:
                if len(group) == 1:
                    latest = self._calls.one(*group[0])
                else:
                    latest = self._calls.several(*map(np.stack, zip(*group, strict=True)))
                if waiting:
                    yield _fetch(*waiting)
                waiting = len(group), latest
            if waiting:
                yield _fetch(*waiting)
        finally:
            self._calls.end()


def _fetch(count: int, logs: dict[str, Any]) -> tuple[int, Outcome]:
    scores = np.asarray(ops.convert_to_numpy(logs["scores"]), dtype=np.float64)
    return count, Outcome(float(logs["loss"]), scores.reshape(-1, scores.shape[-1]))


def gather_views(images: Any, views: Any) -> Any:
    """Symmetric views of images that lie on the device, as `pipeline.transform` makes on the host.

    `images` (N, H, H, C); `views` (n, 2), each a row and its symmetry: (n, H, H, C).
    """
    pixels = ops.take(images, views[:, 0], axis=0)
    symmetry = views[:, 1][:, None, None, None]
    # Rotated by 90° is transposed, then turned upside down; by 270° both of the two below.
    quarter = ops.flip(ops.transpose(pixels, (0, 2, 1, 3)), axis=1)
    pixels = ops.where(symmetry % 2 == 1, quarter, pixels)
    pixels = ops.where(symmetry % 4 >= 2, ops.flip(pixels, axis=(1, 2)), pixels)
    return ops.where(symmetry >= 4, ops.flip(pixels, axis=2), pixels)


class _TensorFlow:
    """Each kind of call is traced once, whatever the number of images in a batch."""

    def __init__(self, model: Trainee, images: Any, xla: bool) -> None:
        self._model, self._images, self._xla = model, images, xla
        self._functions: dict[str, Any] = {}

    def begin(self) -> None:
        """Nothing to do: the steps work on the network's variables themselves."""

    def end(self) -> None:
        """Nothing to do."""

    def one(self, *batch: np.ndarray) -> dict[str, Any]:
        return self._function("one", self._step, batch)(*batch)

    def several(self, *batches: np.ndarray) -> dict[str, Any]:
        return self._function("several", self._loop, batches)(*batches)

    def _function(self, name: str, python: Any, arrays: tuple[np.ndarray, ...]) -> Any:
        import tensorflow as tf

        if name not in self._functions:
            # XLA needs every dimension: there the last batch is compiled on its own.
            free = None if self._xla or name == "several" else [
                tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in arrays
            ]  # fmt: skip
            self._functions[name] = tf.function(
                python, input_signature=free, jit_compile=self._xla, autograph=False
            )
        return self._functions[name]

    def _step(self, inputs: Any, labels: Any, weights: Any) -> dict[str, Any]:
        if self._images is not None:
            inputs = gather_views(self._images, inputs)
        logs = self._model.train_step((inputs, labels, weights))
        return {"loss": logs["loss"], "scores": logs["scores"]}

    def _loop(self, inputs: Any, labels: Any, weights: Any) -> dict[str, Any]:
        import tensorflow as tf

        count = inputs.shape[0]

        def body(number: Any, loss: Any, scores: Any) -> tuple[Any, Any, Any]:
            logs = self._step(inputs[number], labels[number], weights[number])
            return number + 1, logs["loss"], scores.write(number, logs["scores"])

        empty = tf.TensorArray(tf.float32, size=count)
        _, loss, scores = tf.while_loop(
            lambda number, *_: number < count, body, (0, tf.constant(0.0), empty)
        )
        return {"loss": loss, "scores": scores.stack()}


class _Jax:
    """The network's state is handed from call to call, and put into its variables at the end."""

    def __init__(self, model: Trainee, images: Any) -> None:
        import jax

        self._model, self._images = model, images
        self._state: list[list[Any]] = []

        def step(images: Any, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
            inputs, labels, weights = batch
            if images is not None:
                inputs = gather_views(images, inputs)
            logs, state = model.train_step(state, (inputs, labels, weights))
            return list(map(list, state)), {"loss": logs["loss"], "scores": logs["scores"]}

        def loop(images: Any, state: Any, batches: Any) -> tuple[Any, dict[str, Any]]:
            state, logs = jax.lax.scan(partial(step, images), state, batches)
            return state, {"loss": logs["loss"][-1], "scores": logs["scores"]}

        # Without donation there would be two copies of the state while a step runs.
        self._step = jax.jit(step, donate_argnums=1)
        self._loop = jax.jit(loop, donate_argnums=1)

    def _variables(self) -> list[list[Any]]:
        model = self._model
        return [
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        ]

    def begin(self) -> None:
        self._state = [[variable.value for variable in part] for part in self._variables()]

    def end(self) -> None:
        for part, values in zip(self._variables(), self._state, strict=True):
            for variable, value in zip(part, values, strict=True):
                variable.assign(value)
        self._state = []

    def one(self, *batch: np.ndarray) -> dict[str, Any]:
        self._state, logs = self._step(self._images, self._state, batch)
        return logs

    def several(self, *batches: np.ndarray) -> dict[str, Any]:
        self._state, logs = self._loop(self._images, self._state, batches)
        return logs
