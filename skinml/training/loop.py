"""The two steps of training: the head on frozen features, then fine-tuning.

Knows nothing of metrics' definitions, files or MLflow: the caller passes a scoring function and is
told about each epoch.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from skinml.base.errors import UserError
from skinml.base.progress import Advance, progress_bar
from skinml.config import Config
from skinml.data.pipeline import EpochPlan, plan_epoch, prefetch
from skinml.models.classifier import Classifier, unfreeze
from skinml.training.backend import PLAIN, Execution
from skinml.training.checkpoint import Checkpoint
from skinml.training.history import Row
from skinml.training.inputs import (
    OnFeatures,
    Prepared,
    TrainingData,
    batches_of,
    finetune_inputs,
    frozen_inputs,
)
from skinml.training.steps import Steps, Trainee, grouped

WARM_UP = 1 / 20


# (labels (n,), scores (n, K)) → loss, accuracy, auc_macro.
Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]


@dataclass
class TrainingResult:
    """What a training leaves beside the weights of its best epoch, which the model then holds."""

    history: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    backbone_images: int = 0
    """Images that the frozen step sends through the backbone, an image in eight views eight times,
    validation included; 0 where all of the features were in the cache."""


class _Best:
    """The weights of the best epoch so far by one validation metric; the earlier one in a tie.

    With "last" in place of a metric each epoch is better than those before it.
    """

    def __init__(self, monitor: str, before: Checkpoint | None = None) -> None:
        self._last = monitor == "last"
        self._key = f"val_{monitor}"
        self._sign = -1 if monitor == "loss" else 1
        self.score = before.best_score if before else -math.inf
        self.weights: list[np.ndarray] = before.best_weights if before else []
        self.epoch = before.best_epoch if before else 0

    def offer(self, row: Row, weights: list[np.ndarray]) -> None:
        score = float(row["epoch"]) if self._last else self._sign * float(row[self._key])
        if score > self.score or not self.weights:
            self.score = score if math.isfinite(score) else -math.inf
            self.epoch, self.weights = int(row["epoch"]), weights

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

    That is one of the last step: what two steps of training make is a fine-tuned network, and
    among many noisy epochs of the frozen step one would now and then look better.
    `on_epoch` is told the row of each epoch as it ends. The test part is not in `data`.
    `save` is given each epoch's checkpoint, and only then `on_epoch` its row: what is told is
    never trained again. With such a checkpoint as `before` the training goes on after it, on a
    network of whatever weights, and ends as if it had never stopped. `on_features` is told how
    many images the frozen step has the features of, where it has to compute them.
    """
    result = TrainingResult()
    best = _Best(config.monitor, before)
    reached = before.epoch if before else 0
    if before:
        result.history, result.backbone_images = list(before.history), before.backbone_images
        classifier.set_weights(before.weights)
    stages = [
        ("frozen", int(config.epochs_frozen), config.learning_rate_frozen, frozen_inputs),
        ("finetune", int(config.epochs_finetune), config.learning_rate_finetune, finetune_inputs),
    ]
    done = 0
    for name, epochs, learning_rate, prepare in stages:
        if not epochs:
            continue
        if done and done >= reached:
            # Fine-tuning starts from the head that generalised best, not from the one that has
            # learned the training features by heart and leaves no gradient to the backbone.
            best.restore(classifier.model)
            best = _Best(config.monitor)
        if name == "finetune":
            unfreeze(classifier, config.batch_norm, config.finetune_layers)
        if reached < done + epochs:
            prepared = prepare(classifier, config, data, done, epochs, execution, on_features)
            result.backbone_images = prepared.backbone_images or result.backbone_images
            stage = _Stage(name, prepared, config, data, execution, float(learning_rate), epochs)
            if before and reached > done:
                stage.resume(before.optimizer)
            rows = stage.epochs(done, max(done, reached), classifier, score, result.history)
            with closing(rows):
                for row, weights in rows:
                    best.offer(row, weights)
                    result.history.append(row)
                    if save:
                        save(_checkpoint(classifier, stage.model.optimizer, best, result))
                    on_epoch(row)
        done += epochs
    best.restore(classifier.model)
    result.best_epoch = best.epoch
    return result


class _Stage:
    """One of the two steps, ready to train: what its epochs share."""

    def __init__(
        self,
        name: str,
        prepared: Prepared,
        config: Config,
        data: TrainingData,
        execution: Execution,
        learning_rate: float,
        epochs: int,
    ) -> None:
        self._name, self._prepared = name, prepared
        self._config, self._data, self._execution = config, data, execution
        self._learning_rate, self._count = learning_rate, epochs
        self._updates = math.ceil(len(data.train) / config.batch_size)  # an epoch's
        # Compiling a view of the network leaves the network itself, which is saved, without an
        # optimizer or a metric of ours.
        self.model = Trainee(prepared.network.inputs, prepared.network.outputs)
        self.model.compile(
            optimizer=_optimizer(config, learning_rate, epochs * self._updates),
            loss=_loss(config),
            jit_compile=False,  # `Steps` compiles; this is for Keras's own functions.
        )
        self._steps = Steps(self.model, execution, prepared.images)

    def resume(self, optimizer: list[np.ndarray]) -> None:
        """Go on with the optimizer's variables of a checkpoint."""
        for variable, value in zip(self.model.optimizer.variables, optimizer, strict=True):
            variable.assign(value)

    def epochs(
        self, done: int, reached: int, classifier: Classifier, score: Score, history: list[Row]
    ) -> Generator[tuple[Row, list[np.ndarray]]]:
        """Train the epochs after `reached`: each one's row, and the weights it ends with.

        `done` epochs are those of the step before, `history` holds the rows so far.
        """
        last = done + self._count
        description = "training the head" if self._name == "frozen" else "fine-tuning"
        with progress_bar(description, self._count * self._updates) as advance:
            advance((reached - done) * self._updates, "compiling the network")
            for epoch in range(reached + 1, last + 1):
                texts = f"epoch {epoch}/{last}", _note(history)
                plan, scores, seconds = self._train(epoch, advance, texts)
                row, weights = self._evaluate(epoch, plan, scores, seconds, classifier, score)
                _refuse_what_is_not_finite(row, self._config, self._execution, self._learning_rate)
                yield row, weights

    def _train(
        self, epoch: int, advance: Advance, texts: tuple[str, str]
    ) -> tuple[EpochPlan, np.ndarray, float]:
        """Train one epoch: its plan, the scores (n, K) of its images in that order, its seconds.

        Order, augmentation and dropout derive from (seed, epoch). The two `texts` stand around the
        loss in the progress bar.
        """
        config, data = self._config, self._data
        plan = plan_epoch(len(data.train), config.seed, epoch, config.augmentation, config.mixup)
        scores = []
        started = time.perf_counter()
        _seed_dropout(self.model, config.seed, epoch)
        batches = batches_of(config, data, self._prepared.inputs, plan)
        together = prefetch(grouped(batches, self._execution.steps_per_execution))
        for count, outcome in self._steps.epoch(together):
            scores.append(outcome.scores)
            advance(count, f"{texts[0]}  loss {outcome.loss:.3f}{texts[1]}")
        seconds = time.perf_counter() - started
        return plan, np.concatenate(scores), seconds

    def _evaluate(
        self,
        epoch: int,
        plan: EpochPlan,
        scores: np.ndarray,
        seconds: float,
        classifier: Classifier,
        score: Score,
    ) -> tuple[Row, list[np.ndarray]]:
        """The row of an epoch, and the weights that the validation images were answered with."""
        data = self._data
        train_scores = score(data.labels[data.train[plan.order]], scores)
        with _averaged(self.model):
            val_scores = score(data.labels[data.validation], self._prepared.validation())
            weights = classifier.model.get_weights()
        row: Row = {
            "epoch": epoch,
            "step": self._name,
            **{f"train_{key}": value for key, value in train_scores.items()},
            **{f"val_{key}": value for key, value in val_scores.items()},
            "learning_rate": _last_learning_rate(self.model.optimizer),
            "seconds": seconds,
            "images_per_second": len(data.train) / seconds,
            "time": int(time.time() * 1000),
        }
        return row, weights


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


def _loss(config: Config) -> Any:
    """The loss of a batch: cross-entropy, or what a configuration makes of it."""
    if not (config.label_smoothing or config.mixup or config.focal):
        return "sparse_categorical_crossentropy"

    def of_shares(labels: Any, scores: Any) -> Any:
        targets = labels
        if not config.mixup:
            targets = ops.one_hot(ops.reshape(labels, (-1,)), scores.shape[-1])
        smoothing = {"label_smoothing": config.label_smoothing}
        if not config.focal:
            return keras.losses.categorical_crossentropy(targets, scores, **smoothing)
        return keras.losses.categorical_focal_crossentropy(
            targets, scores, alpha=1.0, gamma=config.focal, **smoothing
        )

    return of_shares


@contextmanager
def _averaged(model: keras.Model) -> Iterator[None]:
    """Within it the weights are their moving average, where the optimizer keeps one."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    weights = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    yield
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)


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
    average: dict[str, Any] = {"use_ema": bool(config.ema), "ema_momentum": config.ema}
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, **average)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, **average)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, **average)
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
