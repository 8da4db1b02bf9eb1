"""A backbone with the paper's head on top: raw pixels in, one score a class out."""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from skinml.backbones import BACKBONES, WeightsFile
from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.images import IMAGE_SIZE

# With Keras's usual 0.99 or 0.999 the moving statistics lag hundreds of steps behind the weights,
# and validation sees another network than training does; 0.9 follows within an epoch.
TRAINED_BATCH_NORM_MOMENTUM = 0.9


@dataclass(frozen=True)
class Classifier:
    """One network, seen three ways that share their weights.

    `model`: pixels uint8 (n, 224, 224, 3), raw RGB 0-255 → softmax scores float32 (n, K).
    `features`: the same pixels → pooled features float32 (n, D). `head`: features → scores.
    `backbone` is the part that came with pre-trained weights.
    """

    model: keras.Model
    features: keras.Model
    head: keras.Model
    backbone: keras.Model

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Set all weights, those of `model.get_weights()` of the same network, in their order."""
        self.model.set_weights(weights)
        for layer in self.backbone.layers:
            # It computes with constants that Keras takes from its weights when a file is loaded,
            # and here leaves at what they were.
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()


def build_classifier(config: Config, classes: int) -> Classifier:
    """Build the network of a configuration with its initial weights.

    Preprocessing is the first layer, so a saved model takes raw pixels. Initial weights that
    cannot be had or do not fit are a `UserError`.
    """
    row = BACKBONES[config.model]
    backbone = _backbone(config)
    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    x = pixels
    if row.scale is not None:
        x = keras.layers.Rescaling(row.scale, offset=row.offset, name="preprocessing")(x)
    x = backbone(x)
    if config.pooling == "2x2":
        # Table I's "2D pooling size 2×2". Maximum, since an average of averages would change
        # nothing; padded, since 7×7 features would lose their border otherwise.
        x = keras.layers.MaxPooling2D(2, padding="same", name="pooling_2x2")(x)
    x = keras.layers.GlobalAveragePooling2D(name="global_pooling")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    features = keras.Model(pixels, x, name="features")

    head = keras.Sequential([keras.Input(x.shape[1:])], name="head")
    widths = [] if config.head == "one" else config.dense_widths
    for number, width in enumerate(widths, start=1):
        head.add(keras.layers.Dense(width, activation="relu", name=f"dense_{number}"))
        head.add(keras.layers.Dropout(config.dropout, name=f"dropout_{number}"))
    # float32 whatever the policy: a softmax in half precision loses the small scores.
    head.add(keras.layers.Dense(classes, activation="softmax", dtype="float32", name="scores"))

    model = keras.Model(pixels, head(x), name=config.model)
    return Classifier(model, features, head, backbone)


def _backbone(config: Config) -> keras.Model:
    """The backbone with its initial weights: one architecture, wherever they come from."""
    row = BACKBONES[config.model]
    constructor = getattr(keras.applications, row.application)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    # Never weights="imagenet": for that word Keras builds another EfficientNetB0 than for a file.
    backbone = constructor(weights=None, include_top=False, input_shape=shape)
    if row.channel_scale is not None:
        backbone = _with_channel_scale(backbone, row.channel_scale)
    if config.weights == "imagenet":
        path = _download(row.imagenet, config.model)
        _load_weights(
            backbone,
            path,
            f"weights=imagenet: {path}, which was downloaded once, is damaged or of another "
            f"network than {config.model} without top",
            "delete it, and it is downloaded again",
        )
    elif config.weights != "none":
        path = Path(config.weights).expanduser()
        _load_weights(
            backbone,
            path,
            f"weights={path}: does not fit {config.model} without top at 224×224",
            "expected the file of this very network in Keras's weights format",
        )
    return backbone


def _with_channel_scale(backbone: keras.Model, scale: tuple[float, ...]) -> keras.Model:
    """The same network, with new weights and a factor for each channel after normalisation."""

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            output = keras.layers.Rescaling(list(scale), name="channel_scale")(output)
        return output

    return keras.models.clone_model(backbone, call_function=call)


def _download(file: WeightsFile, model: str) -> Path:
    """The path of published weights in Keras's cache, where they are put unless they are there."""
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cached = cache / "models" / file.name
    # Keras deletes a file whose checksum differs when it cannot fetch another.
    was_there = cached.exists()
    try:
        path = keras.utils.get_file(
            file.name, file.url, cache_dir=cache, cache_subdir="models", file_hash=file.md5
        )
        return Path(path)
    except Exception as error:
        # Keras raises a bare Exception for a failed download: there is nothing narrower to catch.
        reason = " ".join(str(error).split())
        if "corrupted file detected" in reason:
            # It stays in the cache, where the next call finds that out, and fetches another.
            raise UserError(
                f"weights=imagenet: what came from {file.url} is not the published file "
                f"({reason}); try again, without a proxy in between if there is one, or use "
                "weights=PATH with that file"
            ) from None
        if "URL fetch failure" not in reason and not isinstance(error, OSError):
            raise
        bad = f"{cached} was truncated or another file, and " if was_there else ""
        raise UserError(
            f"weights=imagenet: {bad}the download of {model} failed ({reason}); use "
            "weights=PATH with a weights file of the network without top, weights=none to start "
            "from random ones, or try again with a connection"
        ) from None


def _load_weights(backbone: keras.Model, path: Path, problem: str, remedy: str) -> None:
    try:
        with warnings.catch_warnings():
            # Keras only warns of what it cannot place, and leaves those layers at random.
            warnings.simplefilter("error", UserWarning)
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{problem} ({reason}); {remedy}") from None


def in_float32(classifier: Classifier, config: Config) -> Classifier:
    """The same network with the same weights, computing in float32 whatever it was trained in."""
    if keras.mixed_precision.global_policy().name == "float32":
        return classifier
    keras.mixed_precision.set_global_policy("float32")
    classes = classifier.model.output_shape[-1]
    plain = build_classifier(replace(config, weights="none"), classes)
    plain.set_weights(classifier.model.get_weights())
    return plain


def with_views(model: keras.Model, views: int) -> keras.Model:
    """A network that answers with the mean of the scores of an image's eight symmetric views.

    With `views` 1 it is `model` itself. Pixels in and scores out as before, the weights are shared,
    and the symmetries are in the graph: whoever loads the saved network averages as well.
    """
    if views == 1:
        return model
    pixels = model.input
    # The square's symmetries: both diagonals' transposes, each as it is and flipped three ways.
    seen = [pixels, ops.transpose(pixels, (0, 2, 1, 3))]
    seen += [ops.flip(view, axis=1) for view in seen]
    seen += [ops.flip(view, axis=2) for view in seen]
    # One after the other in one batch: a call of the network for each would be traced eight times.
    scores = model(keras.layers.Concatenate(axis=0, name="views")(seen))
    by_view = ops.reshape(scores, (len(seen), -1, scores.shape[-1]))
    return keras.Model(pixels, ops.mean(by_view, axis=0), name=f"{model.name}_views")


def unfreeze(classifier: Classifier, batch_norm: str, layers: str = "all") -> None:
    """Make layers trainable for fine-tuning, and settle what batch normalisation does.

    `layers` are `"all"`, or `"last_stage"`, see there; the others do not change.
    `batch_norm="frozen"` keeps the moving statistics, scale and shift of every such layer:
    `layer.trainable = False` is the only thing that does under Keras 3 (calling with
    training=False does not). `"trained"` updates them, with a momentum that follows.
    """
    backbone = classifier.backbone
    backbone.trainable = True
    trained = backbone.layers if layers == "all" else last_stage(backbone)
    # One by one: on TensorFlow a network that is trainable leaves frozen layers of it as they are.
    for layer in backbone.layers:
        layer.trainable = layer in trained
    for layer in batch_norm_layers(classifier):
        if batch_norm == "frozen":
            layer.trainable = False
        elif layer.trainable:
            layer.momentum = TRAINED_BATCH_NORM_MOMENTUM


def last_stage(backbone: keras.Model) -> list[keras.layers.Layer]:
    """The layers behind the last one whose features are larger than the backbone's own.

    With images of 224×224 those work on 7×7 features: MobileNet's last two blocks, MobileNetV2's
    last four. They hold most of the weights and take little of the time.
    """
    size = backbone.output.shape[1]
    shapes = [layer.output.shape for layer in backbone.layers]
    larger = [n for n, shape in enumerate(shapes) if len(shape) == 4 and shape[1] > size]
    return list(backbone.layers[larger[-1] + 1 :] if larger else backbone.layers)


def batch_norm_layers(classifier: Classifier) -> list[keras.layers.BatchNormalization]:
    return [
        layer
        for layer in classifier.backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
