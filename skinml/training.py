"""The two steps of training: the head on frozen features, then all layers.

Knows nothing of metrics' definitions, files or MLflow: the caller passes a scoring function and is
told about each epoch.
"""

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from skinml.backend import PLAIN, Execution
from skinml.cache import cached_array
from skinml.checkpoint import Checkpoint
from skinml.config import Config
from skinml.data.pipeline import SYMMETRIES, EpochPlan, plan_epoch, prefetch, slices, transform
from skinml.errors import UserError
from skinml.history import Row
from skinml.models.backbones import BACKBONES
from skinml.models.classifier import Classifier, unfreeze
from skinml.models.inference import INFERENCE_BATCH, answer, infer
from skinml.progress import progress_bar
from skinml.steps import Batch, Steps, Trainee, grouped

WARM_UP = 1 / 20

# Share of the views that a run draws from which on it computes all of them, for other runs too:
# 22 epochs draw 95 %.
NEARLY_ALL = 0.95

# (labels (n,), scores (n, K)) → loss, accuracy, auc_macro.
Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]

# (images whose features are there, images in all) → None.
OnFeatures = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingData:
    """The images a training may see, and which of them are for training and for validation.

    `images` (N, 224, 224, 3) uint8; `labels` (N,) int64; `train` and `validation` are rows of
    both. `digest` stands for the content of `images`; without it no features are kept for later.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    digest: str = ""


@dataclass
class TrainingResult:
    """What a training leaves beside the weights of its best epoch, which the model then holds."""

    history: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    backbone_images: int = 0
    """Images that the frozen step sends through the backbone, an image in eight views eight times,
    validation included; 0 where all of the features were in the cache."""


class _Best:
    """The weights of the best epoch so far by one validation metric; the earlier one in a tie."""

    def __init__(self, monitor: str, before: Checkpoint | None = None) -> None:
        self._key = f"val_{monitor}"
        self._sign = -1 if monitor == "loss" else 1
        self.score = before.best_score if before else -math.inf
        self.weights: list[np.ndarray] = before.best_weights if before else []
        self.epoch = before.best_epoch if before else 0

    def offer(self, row: Row, model: keras.Model) -> None:
        score = self._sign * float(row[self._key])
        if score > self.score or not self.weights:
            self.score = score if math.isfinite(score) else -math.inf
            self.epoch, self.weights = int(row["epoch"]), model.get_weights()

    def restore(self, model: keras.Model) -> None:
        model.set_weights(self.weights)


def train(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    score: Score,
    on_epoch: Callable[[Row], None],
    execution: Execution = PLAIN,
    before: Checkpoint | None = None,
    save: Callable[[Checkpoint], None] | None = None,
    on_features: OnFeatures = lambda done, total: None,
) -> TrainingResult:
    """Train a network as a resolved configuration says; it ends with its best epoch's weights.

    The best by validation of the last step: what two steps of training make is a fine-tuned
    network, and among many noisy epochs of the frozen step one would now and then look better.
    `on_epoch` is told the row of each epoch as it ends. The test part is not in `data`.

    `save` is given each epoch's checkpoint, and only then `on_epoch` its row: what is told is
    never trained again. With such a checkpoint as `before` the training goes on after it, on a
    network of whatever weights, and ends as if it had never stopped. `on_features` is told how
    many images the frozen step has the features of, where it has to compute them.
    """
    result = TrainingResult()
    best = _Best(config.monitor, before)
    reached = 0
    if before:
        reached = before.epoch
        result.history, result.backbone_images = list(before.history), before.backbone_images
        classifier.set_weights(before.weights)
    stages = [
        ("frozen", config.epochs_frozen, config.learning_rate_frozen, _frozen_step),
        ("finetune", config.epochs_finetune, config.learning_rate_finetune, _finetune_step),
    ]
    done = 0
    for name, epochs, learning_rate, prepare in stages:
        epochs = int(epochs)
        if not epochs:
            continue
        if done and done >= reached:
            # Fine-tuning starts from the head that generalised best, not from the one that has
            # learned the training features by heart and leaves no gradient to the backbone.
            best.restore(classifier.model)
            best = _Best(config.monitor)
        if name == "finetune":
            unfreeze(classifier, config.batch_norm)
        if reached >= done + epochs:
            done += epochs
            continue
        prepared = prepare(classifier, config, data, done, epochs, execution, result, on_features)
        # Compiling a view of the network leaves the network itself, which is saved, without an
        # optimizer or a metric of ours.
        model = Trainee(prepared.network.inputs, prepared.network.outputs)
        updates = epochs * math.ceil(len(data.train) / config.batch_size)
        model.compile(
            optimizer=_optimizer(config, float(learning_rate), updates),
            loss="sparse_categorical_crossentropy",
            jit_compile=False,  # `Steps` compiles; this is for Keras's own functions.
        )
        steps = Steps(model, execution, prepared.images)
        first = max(done, reached) + 1
        if before and reached > done:
            for variable, value in zip(model.optimizer.variables, before.optimizer, strict=True):
                variable.assign(value)
        description = "training the head" if name == "frozen" else "fine-tuning"
        with progress_bar(description, updates) as advance:
            passed = (first - done - 1) * math.ceil(len(data.train) / config.batch_size)
            advance(passed, "compiling the network")
            for epoch in range(first, done + epochs + 1):
                text = f"epoch {epoch}/{done + epochs}"
                plan = plan_epoch(len(data.train), config.seed, epoch, config.augmentation)
                scores = []
                started = time.perf_counter()
                _seed_dropout(model, config.seed, epoch)
                batches = _batches(config, data, prepared.inputs, plan)
                for count, outcome in steps.epoch(
                    prefetch(grouped(batches, execution.steps_per_execution))
                ):
                    scores.append(outcome.scores)
                    advance(count, f"{text}  loss {outcome.loss:.3f}{_note(result.history)}")
                seconds = time.perf_counter() - started
                labels = data.labels[data.train[plan.order]]
                train_scores = score(labels, np.concatenate(scores))
                val_scores = score(data.labels[data.validation], prepared.validation())
                row: Row = {
                    "epoch": epoch,
                    "step": name,
                    **{f"train_{key}": value for key, value in train_scores.items()},
                    **{f"val_{key}": value for key, value in val_scores.items()},
                    "learning_rate": _last_learning_rate(model.optimizer),
                    "seconds": seconds,
                    "images_per_second": len(data.train) / seconds,
                    "time": int(time.time() * 1000),
                }
                _refuse_what_is_not_finite(row, config, execution, float(learning_rate))
                best.offer(row, classifier.model)
                result.history.append(row)
                if save:
                    save(_checkpoint(classifier, model.optimizer, best, result))
                on_epoch(row)
        done += epochs
    best.restore(classifier.model)
    result.best_epoch = best.epoch
    return result


def _refuse_what_is_not_finite(
    row: Row, config: Config, execution: Execution, learning_rate: float
) -> None:
    """End a training whose weights or scores are no numbers any more: nothing brings them back."""
    values = {name: float(row[name]) for name in ("train_loss", "val_loss")}
    if all(map(math.isfinite, values.values())):
        return
    told = ", ".join(f"{name} {value}" for name, value in values.items())
    remedies = [] if execution.precision == "float32" else ["--precision float32"]
    remedies.append(f"a learning_rate_{row['step']} below {learning_rate:g}")
    raise UserError(
        f"epoch {row['epoch']} ({row['step']}, {execution.precision}): {told}; expected finite "
        f"losses: train {config.model} anew with {' or '.join(remedies)}"
    )


def _checkpoint(
    classifier: Classifier,
    optimizer: keras.optimizers.Optimizer,
    best: _Best,
    result: TrainingResult,
) -> Checkpoint:
    return Checkpoint(
        list(result.history),
        result.backbone_images,
        best.epoch,
        best.score,
        classifier.model.get_weights(),
        [ops.convert_to_numpy(variable) for variable in optimizer.variables],
        best.weights,
    )


# (rows of the training images (n,), their symmetries (n,)) → the network's inputs (n, …).
Inputs = Callable[[np.ndarray, np.ndarray], np.ndarray]


class _Prepared(NamedTuple):
    """What a step trains: the network, its inputs, and the model's scores of the validation images.

    `images` are those that go to the device, where `inputs` are rows and symmetries of them.
    """

    network: keras.Model
    inputs: Inputs
    validation: Callable[[], np.ndarray]
    images: np.ndarray | None = None


def _batches(
    config: Config, data: TrainingData, inputs: Inputs, plan: EpochPlan
) -> Iterator[Batch]:
    """The batches of one epoch."""
    weights = _class_weights(config, data)
    for part in slices(len(data.train), config.batch_size):
        rows = plan.order[part]
        labels = data.labels[data.train[rows]]
        yield Batch(inputs(rows, plan.symmetries[rows]), labels, weights[labels])


def _frozen_step(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    done: int,
    epochs: int,
    execution: Execution,
    result: TrainingResult,
    on_features: OnFeatures,
) -> _Prepared:
    """The frozen step: the backbone's features are computed once, the head trains on them.

    An image has eight symmetric views at most, so the backbone runs in inference mode at most
    min(8, epochs) times over the training images, whatever the number of epochs. So many epochs
    that nearly every view is drawn compute all of them: then runs of other seeds, batch sizes
    and epochs find them in the cache.
    """
    count = len(data.train)
    needed = np.zeros((count, SYMMETRIES), dtype=bool)
    for epoch in range(done + 1, done + epochs + 1):
        plan = plan_epoch(count, config.seed, epoch, config.augmentation)
        needed[np.arange(count), plan.symmetries] = True
    if needed.mean() > NEARLY_ALL:
        needed[:] = True
    # An image after the other: (its place among those for training, symmetry).
    views = np.argwhere(needed)
    total, images = len(views) + len(data.validation), count + len(data.validation)
    row_of = np.r_[data.train[views[:, 0]], data.validation]
    symmetry_of = np.r_[views[:, 1], np.zeros(len(data.validation), np.int64)]
    # How many images are done where so many views are.
    done_images = np.r_[views[:, 0], np.arange(count, images + 1)]

    def fill(features: np.ndarray, filled: int) -> Generator[int]:
        """The features (total, D) float32: of the training views, then of the validation images."""
        result.backbone_images = total
        before = int(done_images[filled])
        most = needed.sum(axis=1).max()
        many = f" (in {'' if needed.all() else 'up to '}{most} views for training)"
        print(
            f"skinml: the backbone is frozen: its features of {images:,} images"
            f"{many if most > 1 else ''} are computed once for all {epochs} epochs"
            f"{f'; {before:,} images are done already' if before else ''}",
            file=sys.stderr,
        )
        parts = [part for part in slices(total, INFERENCE_BATCH) if part.stop > filled]
        batches = (transform(data.images[row_of[part]], symmetry_of[part]) for part in parts)
        with progress_bar("computing features", images) as advance:
            advance(before)
            for part, pixels in zip(parts, prefetch(batches), strict=True):
                features[part] = answer(classifier.features, pixels)
                advance(int(done_images[part.stop] - done_images[part.start]))
                on_features(int(done_images[part.stop]), images)
                yield part.stop

    shape = total, classifier.features.output_shape[-1]
    if data.digest:
        key = _features_key(classifier, config, data, views, execution)
        features = cached_array(key, shape, np.float32, fill)
    else:
        features = np.empty(shape, np.float32)
        for _ in fill(features, 0):
            pass
    # Where each view's features are; 0 for those that no epoch draws.
    place = np.zeros((count, SYMMETRIES), dtype=np.int64)
    place[views[:, 0], views[:, 1]] = np.arange(len(views))
    validation = np.array(features[len(views) :])
    return _Prepared(
        classifier.head,
        lambda rows, symmetries: features[place[rows, symmetries]],
        lambda: classifier.head.predict_on_batch(validation),
    )


def _finetune_step(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    done: int,
    epochs: int,
    execution: Execution,
    result: TrainingResult,
    on_features: OnFeatures,
) -> _Prepared:
    """Fine-tuning: all layers train on the augmented pixels."""

    def pixels(rows: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        return transform(data.images[data.train[rows]], symmetries)

    def views(rows: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        return np.stack([rows, symmetries], axis=1).astype(np.int32)

    def validation() -> np.ndarray:
        return infer(classifier.model, data.images, data.validation)

    if execution.images_on_device:
        return _Prepared(classifier.model, views, validation, data.images[data.train])
    return _Prepared(classifier.model, pixels, validation)


def _features_key(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    views: np.ndarray,
    execution: Execution,
) -> str:
    """All that the features depend on, to the last bit on one kind of machine."""
    digest = hashlib.sha256()
    arrays = [*classifier.features.get_weights(), data.train, data.validation, views]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    facts = (
        config.model,
        config.pooling,
        data.digest,
        digest.hexdigest(),
        keras.__version__,
        keras.backend.backend(),
        config.device,
        os.cpu_count(),
        config.threads,
        execution.precision,
        # What is no weight and was not always there.
        *(BACKBONES[config.model].channel_scale or ()),
    )
    return "features " + " ".join(map(str, facts))


def _class_weights(config: Config, data: TrainingData) -> np.ndarray:
    """One loss weight a class, mean 1 over the training images: (K,) float32."""
    counts = np.bincount(data.labels[data.train])
    if config.class_weights == "none":
        return np.ones(len(counts), dtype=np.float32)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def _optimizer(config: Config, peak: float, updates: int) -> keras.optimizers.Optimizer:
    rate: Any = peak
    if config.learning_rate_schedule == "cosine":
        warm_up = int(updates * WARM_UP)
        # The first update already moves: a warm-up from exactly zero would waste it.
        rate = keras.optimizers.schedules.CosineDecay(
            peak / (warm_up + 1) if warm_up else peak,
            decay_steps=updates - warm_up,
            warmup_target=peak if warm_up else None,
            warmup_steps=warm_up,
        )
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _last_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the update made last."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # float16 scales the loss
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(int(optimizer.iterations) - 1)
    return float(ops.convert_to_numpy(rate))


def _seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Derive the dropout of an epoch from (seed, epoch), so that no generator state is kept."""
    dropouts = [layer for layer in model._flatten_layers() if hasattr(layer, "seed_generator")]
    for number, layer in enumerate(dropouts):
        words = np.random.SeedSequence([seed, epoch, number]).generate_state(2)
        state = layer.seed_generator.state
        # Halved, since some backends keep the state as signed integers.
        state.assign(ops.convert_to_tensor((words // 2).astype(state.dtype), dtype=state.dtype))


def _note(history: list[Row]) -> str:
    return f"  validation AUC {history[-1]['val_auc_macro']:.3f}" if history else ""
