"""However steps are executed, augmented on the device or several at once, they are the same."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from skinml.config import Config
from skinml.data.pipeline import SYMMETRIES, transform
from skinml.data.prepared import PreparedSet
from skinml.evaluation.metrics import epoch_metrics
from skinml.models.classifier import Classifier, build_classifier, in_float32
from skinml.training import backend
from skinml.training.backend import PLAIN, Execution
from skinml.training.inputs import TrainingData
from skinml.training.loop import train
from skinml.training.steps import Batch, Steps, Trainee, gather_views, grouped


@pytest.fixture
def plain() -> Iterator[None]:
    """A test that changes Keras's policy leaves no trace of it."""
    yield
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.clear_session()


def test_views_on_the_device_are_those_of_the_host() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    rows = np.repeat(np.arange(5), SYMMETRIES)
    symmetries = np.tile(np.arange(SYMMETRIES), 5)
    views = np.stack([rows, symmetries], axis=1).astype(np.int32)
    made = ops.convert_to_numpy(gather_views(ops.convert_to_tensor(images), views))
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, transform(images[rows], symmetries))


def trained(
    name: str, data: PreparedSet, execution: Execution, **options: Any
) -> tuple[Classifier, list[dict[str, Any]]]:
    """A network trained for some epochs, the last batch of each smaller than the others."""
    values: dict[str, Any] = {
        "model": name,
        "weights": "none",
        "batch_size": 5,
        "dense_units": "16,8,8",
        "epochs_frozen": 2,
        "epochs_finetune": 2,
        "batch_norm": "trained",
    }
    config = Config(**values | options).resolved()
    backend.configure("cpu", 0, config.seed)
    classifier = build_classifier(config, 3)
    parts = data.official_parts
    rows = [np.flatnonzero(parts == part) for part in ("train", "validation")]
    told: list[Any] = []
    train(
        classifier,
        config,
        TrainingData(data.images, data.labels, rows[0], rows[1]),
        epoch_metrics,
        told.append,
        execution,
    )
    measured = ("seconds", "images_per_second", "time")
    return classifier, [{k: v for k, v in row.items() if k not in measured} for row in told]


@pytest.mark.parametrize(
    "execution",
    [
        PLAIN._replace(images_on_device=True),
        PLAIN._replace(steps_per_execution=3),
        PLAIN._replace(steps_per_execution=2, images_on_device=True),
    ],
    ids=str,
)
def test_another_execution_is_the_same_training(
    tiny_backbone: str, toy_set: PreparedSet, plain: None, execution: Execution
) -> None:
    expected, history = trained(tiny_backbone, toy_set, PLAIN)
    classifier, same_history = trained(tiny_backbone, toy_set, execution)
    assert len(same_history) == len(history) == 4
    for row, same in zip(history, same_history, strict=True):
        assert same.pop("step") == row.pop("step")
        assert same == pytest.approx(row, rel=1e-4, abs=1e-5)
    scores, same_scores = (
        trained.model.predict_on_batch(toy_set.images[:16]) for trained in (expected, classifier)
    )
    np.testing.assert_allclose(same_scores, scores, rtol=1e-3)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_weights_that_go_on_in_float32(
    tiny_backbone: str, toy_set: PreparedSet, plain: None, precision: str
) -> None:
    keras.mixed_precision.set_global_policy(precision)
    execution = PLAIN._replace(precision=precision)
    classifier, history = trained(tiny_backbone, toy_set, execution)
    assert all(np.isfinite(row["train_loss"]) and row["learning_rate"] > 0 for row in history)
    assert classifier.features.compute_dtype == precision.removeprefix("mixed_")
    config = Config(model=tiny_backbone, weights="none", dense_units="16,8,8")
    single = in_float32(classifier, config)
    assert {layer.compute_dtype for layer in single.model._flatten_layers()} == {"float32"}
    half, full = (c.model.predict_on_batch(toy_set.images[:8]) for c in (classifier, single))
    assert full.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


def test_float32_is_not_made_anew(tiny_backbone: str, plain: None) -> None:
    config = Config(model=tiny_backbone, weights="none")
    classifier = build_classifier(config, 3)
    assert in_float32(classifier, config) is classifier


def tiny_trainee(traces: list[int]) -> Trainee:
    class Counting(Trainee):
        def train_step(self, *data: Any) -> Any:
            traces.append(1)
            return super().train_step(*data)

    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax")(inputs)
    model = Counting(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    return model


def batches(*sizes: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [
        Batch(
            rng.normal(size=(size, 4)).astype(np.float32),
            rng.integers(0, 3, size),
            np.ones(size, np.float32),
        )
        for size in sizes
    ]


def test_a_network_is_traced_once_whatever_the_batches() -> None:
    """Tracing NASNetMobile takes minutes; Keras's own train_on_batch does it three times."""
    traces: list[int] = []
    steps = Steps(tiny_trainee(traces), PLAIN)
    for _ in range(3):
        outcomes = list(steps.epoch(grouped(batches(5, 5, 5, 2, 1), 1)))
        assert [len(outcome.scores) for _, outcome in outcomes] == [5, 5, 5, 2, 1]
    assert len(traces) == 1


def test_steps_give_the_scores_of_before_each_update_and_the_mean_loss() -> None:
    model = tiny_trainee([])
    [batch, other] = batches(4, 4)
    before = model.predict_on_batch(batch.inputs)
    (_, first), (_, second) = Steps(model, PLAIN).epoch([[batch], [other]])
    np.testing.assert_allclose(first.scores, before, rtol=1e-6)
    losses = [
        -np.log(outcome.scores[np.arange(4), part.labels]).mean()
        for outcome, part in ((first, batch), (second, other))
    ]
    assert first.loss == pytest.approx(losses[0], rel=1e-5)
    assert second.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert not np.allclose(model.predict_on_batch(batch.inputs), before)


def test_groups_hold_batches_of_one_size_and_leave_the_rest_alone() -> None:
    def sizes(*given: int) -> list[list[int]]:
        return [[len(batch.labels) for batch in group] for group in grouped(batches(*given), 3)]

    assert sizes(5, 5, 5, 5, 5, 5) == [[5, 5, 5], [5, 5, 5]]
    assert sizes(5, 5, 5, 5, 2) == [[5, 5, 5], [5], [2]]
    assert sizes(5, 5, 2) == [[5], [5], [2]]
    assert sizes() == []


JAX = """
import numpy as np, keras
from tests.training.test_steps import batches, tiny_trainee
from skinml.training.backend import PLAIN
from skinml.data.pipeline import transform
from skinml.training.steps import Steps, gather_views, grouped
assert keras.backend.backend() == "jax"
images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
views = np.stack([np.arange(8), np.arange(8)], axis=1).astype(np.int32)
assert np.array_equal(gather_views(images, views), transform(images, np.arange(8)))
weights = []
for size in (1, 3):
    keras.utils.set_random_seed(0)
    model = tiny_trainee([])
    steps = Steps(model, PLAIN._replace(steps_per_execution=size))
    for _ in range(2):
        done = [len(o.scores) for _, o in steps.epoch(grouped(batches(5, 5, 5, 5, 2), size))]
        assert sum(done) == 22, done
    weights.append(model.get_weights())
for one, several in zip(*weights):
    np.testing.assert_allclose(one, several, rtol=1e-5, atol=1e-6)
assert int(model.optimizer.iterations) == 10
"""


@pytest.mark.slow
def test_on_jax_too() -> None:
    from tests.training.test_backend import in_a_process

    result = in_a_process(JAX, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
