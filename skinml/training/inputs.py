"""What the two steps of training are fed: a frozen backbone's features, or images, in batches."""

import hashlib
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np

from skinml.backbones import BACKBONES
from skinml.base.cache import cached_array
from skinml.base.progress import progress_bar
from skinml.config import Config
from skinml.data.pipeline import (
    SYMMETRIES,
    EpochPlan,
    plan_epoch,
    prefetch,
    slices,
    transform,
    vary,
)
from skinml.models.classifier import Classifier
from skinml.models.inference import INFERENCE_BATCH, answer, infer
from skinml.training.backend import Execution
from skinml.training.steps import Batch

# Share of the views that a run draws from which on it computes all of them, for other runs too:
# 22 epochs draw 95 %.
NEARLY_ALL = 0.95

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


# (rows of the training images (n,), the plan of the epoch) → the network's inputs (n, …).
Inputs = Callable[[np.ndarray, EpochPlan], np.ndarray]


class Prepared(NamedTuple):
    """What a step trains: the network, its inputs, and the model's scores of the validation images.

    `images` are those that go to the device, where `inputs` are rows and symmetries of them.
    `backbone_images` counts what the backbone had to answer for the features; 0 where all of them
    were in the cache.
    """

    network: keras.Model
    inputs: Inputs
    validation: Callable[[], np.ndarray]
    images: np.ndarray | None = None
    backbone_images: int = 0


def frozen_inputs(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    done: int,
    epochs: int,
    execution: Execution,
    on_features: OnFeatures,
) -> Prepared:
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
    filling = _Filling(classifier, data, views, epochs, on_features)
    shape = filling.total, classifier.features.output_shape[-1]
    if data.digest:
        key = _features_key(classifier, config, data, views, execution)
        features = cached_array(key, shape, np.float32, filling)
    else:
        features = np.empty(shape, np.float32)
        for _ in filling(features, 0):
            pass
    # Where each view's features are; 0 for those that no epoch draws.
    place = np.zeros((count, SYMMETRIES), dtype=np.int64)
    place[views[:, 0], views[:, 1]] = np.arange(len(views))
    validation = np.array(features[len(views) :])
    return Prepared(
        classifier.head,
        lambda rows, plan: features[place[rows, plan.symmetries[rows]]],
        lambda: classifier.head.predict_on_batch(validation),
        backbone_images=filling.total if filling.begun else 0,
    )


class _Filling:
    """Computes features (total, D) float32: of the training views, then of the validation images.

    `views` (n, 2) are places among the images for training, each with a symmetry.
    """

    def __init__(
        self,
        classifier: Classifier,
        data: TrainingData,
        views: np.ndarray,
        epochs: int,
        on_features: OnFeatures,
    ) -> None:
        self.total = len(views) + len(data.validation)
        self.begun = False
        self._classifier, self._data, self._views = classifier, data, views
        self._epochs, self._on_features = epochs, on_features

    def __call__(self, features: np.ndarray, filled: int) -> Generator[int]:
        """Fill an array from row `filled` on; yields how many rows stand, block by block."""
        self.begun = True
        data, views = self._data, self._views
        count, images = len(data.train), len(data.train) + len(data.validation)
        row_of = np.r_[data.train[views[:, 0]], data.validation]
        symmetry_of = np.r_[views[:, 1], np.zeros(len(data.validation), np.int64)]
        # How many images are done where so many views are.
        done_images = np.r_[views[:, 0], np.arange(count, images + 1)]
        before = int(done_images[filled])
        self._announce(images, before)
        parts = [part for part in slices(self.total, INFERENCE_BATCH) if part.stop > filled]
        batches = (transform(data.images[row_of[part]], symmetry_of[part]) for part in parts)
        with progress_bar("computing features", images) as advance:
            advance(before)
            for part, pixels in zip(parts, prefetch(batches), strict=True):
                features[part] = answer(self._classifier.features, pixels)
                advance(int(done_images[part.stop] - done_images[part.start]))
                self._on_features(int(done_images[part.stop]), images)
                yield part.stop

    def _announce(self, images: int, before: int) -> None:
        of_each = np.bincount(self._views[:, 0])
        least, most = of_each.min(), of_each.max()
        many = f" (in {'' if least == most else 'up to '}{most} views for training)"
        print(
            f"skinml: the backbone is frozen: its features of {images:,} images"
            f"{many if most > 1 else ''} are computed once for all {self._epochs} epochs"
            f"{f'; {before:,} images are done already' if before else ''}",
            file=sys.stderr,
        )


def finetune_inputs(
    classifier: Classifier,
    config: Config,
    data: TrainingData,
    done: int,
    epochs: int,
    execution: Execution,
    on_features: OnFeatures,
) -> Prepared:
    """Fine-tuning: the network trains on the augmented pixels."""

    def pixels(rows: np.ndarray, plan: EpochPlan) -> np.ndarray:
        images = transform(data.images[data.train[rows]], plan.symmetries[rows])
        if plan.crops is None or plan.lights is None:
            return images
        return vary(images, plan.crops[rows], plan.lights[rows])

    def views(rows: np.ndarray, plan: EpochPlan) -> np.ndarray:
        return np.stack([rows, plan.symmetries[rows]], axis=1).astype(np.int32)

    def validation() -> np.ndarray:
        return infer(classifier.model, data.images, data.validation)

    if execution.images_on_device:
        return Prepared(classifier.model, views, validation, data.images[data.train])
    return Prepared(classifier.model, pixels, validation)


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


def batches_of(
    config: Config, data: TrainingData, inputs: Inputs, plan: EpochPlan
) -> Iterator[Batch]:
    """The batches of one epoch."""
    weights = class_weights(config, data)
    for part in slices(len(data.train), config.batch_size):
        rows = plan.order[part]
        labels = data.labels[data.train[rows]]
        batch = Batch(inputs(rows, plan), labels, weights[labels])
        if plan.shares is not None:
            batch = mixed(batch, plan.shares[rows], len(weights))
        yield batch


def mixed(batch: Batch, shares: np.ndarray, classes: int) -> Batch:
    """Each input of a batch mixed with another one's, its labels as shares of the classes (n, K).

    `shares` (n,) are those of the inputs themselves; the other is that of the mirrored position.
    Each of the two labels keeps the weight of its own class: the loss is the sum of both losses, as
    they are weighted, each times its share.
    """

    def mix(own: np.ndarray, shares: np.ndarray = shares) -> np.ndarray:
        share = shares.reshape(-1, *(1,) * (own.ndim - 1)).astype(np.float32)
        mixture = share * own + (1 - share) * own[::-1]
        return (np.rint(mixture) if own.dtype == np.uint8 else mixture).astype(own.dtype)

    targets = np.eye(classes, dtype=np.float32)[batch.labels]
    weights = mix(batch.weights)
    return Batch(mix(batch.inputs), mix(targets, shares * batch.weights / weights), weights)


def class_weights(config: Config, data: TrainingData) -> np.ndarray:
    """One loss weight a class, mean 1 over the training images: (K,) float32."""
    counts = np.bincount(data.labels[data.train])
    if config.class_weights == "none":
        return np.ones(len(counts), dtype=np.float32)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
