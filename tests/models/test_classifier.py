"""The network: raw pixels in, the paper's head, initial weights from where the user says."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from skinml.config import Config
from skinml.errors import UserError
from skinml.models.backbones import BACKBONES
from skinml.models.classifier import Classifier, batch_norm_layers, build_classifier, unfreeze
from skinml.models.saved import check_saved, load_saved
from skinml.models.weights import check_weights, weights_digest, weights_kind


def tiny(**options: Any) -> Classifier:
    values: dict[str, Any] = {"model": "tiny", "weights": "none", "dense_units": "7,6,5"}
    return build_classifier(Config(**values | options), 3)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def call(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def test_raw_pixels_in_and_softmax_scores_out(tiny_backbone: str, pixels: np.ndarray) -> None:
    model = tiny().model
    [image] = model.inputs
    assert (image.dtype, image.shape) == ("uint8", (None, 224, 224, 3))
    scores = call(model, pixels)
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_the_model_is_its_features_followed_by_its_head(
    tiny_backbone: str, pixels: np.ndarray
) -> None:
    classifier = tiny()
    features = call(classifier.features, pixels)
    np.testing.assert_array_equal(
        call(classifier.head, features), call(classifier.model, pixels), strict=True
    )


def test_preprocessing_is_in_the_model(tiny_backbone: str, pixels: np.ndarray) -> None:
    classifier = tiny()
    by_hand = call(classifier.backbone, pixels / np.float32(127.5) - 1).mean(axis=(1, 2))
    np.testing.assert_allclose(call(classifier.features, pixels), by_hand, atol=1e-5)


def test_2x2_pooling_takes_maxima_before_the_global_average(
    tiny_backbone: str, pixels: np.ndarray
) -> None:
    classifier = tiny(pooling="2x2")
    maps = call(classifier.backbone, pixels / np.float32(127.5) - 1)
    maxima = maps.reshape(2, 7, 2, 7, 2, 8).max(axis=(2, 4))
    np.testing.assert_allclose(
        call(classifier.features, pixels), maxima.mean(axis=(1, 2)), atol=1e-5
    )


@pytest.mark.parametrize("pooling", ["global", "2x2"])
def test_the_head_is_three_dense_layers_with_dropout_and_a_softmax(
    tiny_backbone: str, pooling: str
) -> None:
    classifier = tiny(pooling=pooling, dropout=0.3)
    assert classifier.head.input_shape == (None, 8)
    layers = classifier.head.layers
    assert [type(layer).__name__ for layer in layers] == 3 * ["Dense", "Dropout"] + ["Dense"]
    assert [layer.units for layer in layers[::2]] == [7, 6, 5, 3]
    assert [layer.activation.__name__ for layer in layers[::2]] == 3 * ["relu"] + ["softmax"]
    assert [layer.rate for layer in layers[1::2]] == 3 * [0.3]


def test_unfreeze_settles_batch_normalisation(tiny_backbone: str) -> None:
    classifier = tiny()
    [norm] = batch_norm_layers(classifier)
    classifier.backbone.trainable = False
    unfreeze(classifier, "frozen")
    assert (norm.trainable, norm.momentum) == (False, 0.999)
    assert len(classifier.backbone.trainable_weights) == 2  # of the convolution
    unfreeze(classifier, "trained")
    assert (norm.trainable, norm.momentum) == (True, 0.9)
    assert len(classifier.backbone.trainable_weights) == 4


# Initial weights


def test_a_weights_file_of_the_backbone_is_loaded(tiny_backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.weights.h5"
    first = tiny().backbone
    first.save_weights(path)
    second = tiny(weights=str(path)).backbone
    for ours, theirs in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = tiny().backbone
    assert not np.array_equal(other.get_weights()[0], first.get_weights()[0])


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        tiny(weights=str(path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_weights_of_another_network_are_refused(tiny_backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    other.save_weights(path)
    assert "does not fit tiny" in refusal(path)


@pytest.mark.parametrize("name", ["garbage.weights.h5", "garbage.h5", "garbage.txt"])
def test_a_file_that_holds_no_weights_is_refused(
    tiny_backbone: str, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("no weights at all\n" * 100)
    refusal(path)


def test_a_missing_weights_file_is_refused(tiny_backbone: str, tmp_path: Path) -> None:
    path = tmp_path / "missing.weights.h5"
    refusal(path)
    with pytest.raises(UserError, match=r"no such file; expected"):
        check_weights(str(path))


def test_where_weights_came_from_is_told_by_kind_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a.weights.h5"
    path.write_bytes(b"one")
    assert [weights_kind(w) for w in ("imagenet", "none", str(path))] == [
        "imagenet",
        "random",
        "file",
    ]
    first = weights_digest(str(path))
    copy = path.rename(tmp_path / "b.weights.h5")
    assert weights_digest(str(copy)) == first != ""
    copy.write_bytes(b"two")
    assert weights_digest(str(copy)) != first
    assert weights_digest("imagenet") == weights_digest("none") == ""
    for weights in ("imagenet", "none", str(copy)):
        check_weights(weights)


def failing(error: Exception) -> Any:
    def constructor(**options: Any) -> keras.Model:
        raise error

    return constructor


@pytest.mark.parametrize(
    "error",
    [
        Exception("URL fetch failure on http://example.org/w.h5: None -- Name not known"),
        ConnectionResetError("the peer is gone"),
    ],
    ids=["keras", "socket"],
)
def test_a_failed_download_names_the_alternatives(
    tiny_backbone: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(keras.applications, "Tiny", failing(error))
    with pytest.raises(UserError, match=r"weights=PATH .* weights=none") as caught:
        tiny(weights="imagenet")
    assert "\n" not in str(caught.value)
    assert str(error) in str(caught.value)


def test_a_defect_in_the_network_is_not_taken_for_a_failed_download(
    tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.applications, "Tiny", failing(ValueError("bad shape")))
    with pytest.raises(ValueError, match="bad shape"):
        tiny(weights="imagenet")


# The real networks


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_builds_answers_and_is_loaded_where_it_was_saved(
    name: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    classifier = build_classifier(Config(model=name, weights="none"), 3)
    assert len(batch_norm_layers(classifier)) > 5
    scores = call(classifier.model, pixels[:1])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    # Of random weights only traces of the input arrive at the scores: look before the head.
    first, second = (call(classifier.features, pixels[i : i + 1]) for i in range(2))
    assert not np.array_equal(first, second)
    # `predict` and the model server load no recipe that names more than they know.
    classifier.model.save(tmp_path / "model.keras")
    check_saved(tmp_path / "model.keras")


@pytest.mark.slow
def test_a_saved_network_gives_the_same_scores(tmp_path: Path, pixels: np.ndarray) -> None:
    classifier = build_classifier(Config(model="mobilenetv3small", weights="none"), 3)
    # Random features are so small that any head would answer a third three times.
    weights = classifier.head.get_weights()
    scale = 10 / np.ptp(call(classifier.features, pixels), axis=0).max()
    classifier.head.set_weights([scale * weights[0], *weights[1:]])
    scores = call(classifier.model, pixels)
    assert np.ptp(scores) > 0.01
    path = tmp_path / "model.keras"
    classifier.model.save(path)
    np.testing.assert_array_equal(call(load_saved(path), pixels), scores)
