"""The network: raw pixels in, the paper's head, initial weights from where the user says."""

import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from skinml.backbones import BACKBONES
from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.pipeline import SYMMETRIES, transform
from skinml.explain.maps import Explainer
from skinml.models.classifier import (
    Classifier,
    batch_norm_layers,
    build_classifier,
    in_float32,
    last_stage,
    unfreeze,
    with_views,
)
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


def test_eight_views_are_averaged_in_the_saved_network(
    tiny_backbone: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    """The mean of what the network says of each of the training's own symmetries."""
    plain = tiny().model
    each = [
        call(plain, transform(pixels, np.full(len(pixels), symmetry)))
        for symmetry in range(SYMMETRIES)
    ]
    assert np.ptp(each, axis=0).max() > 1e-3  # or the mean would show nothing
    averaged = with_views(plain, SYMMETRIES)
    assert averaged.count_params() == plain.count_params()
    np.testing.assert_allclose(call(averaged, pixels), np.mean(each, axis=0), atol=1e-6)
    averaged.save(tmp_path / "views.keras")
    loaded = load_saved(tmp_path / "views.keras")
    np.testing.assert_allclose(call(loaded, pixels), np.mean(each, axis=0), atol=1e-6)


def test_one_view_is_the_network_itself(tiny_backbone: str) -> None:
    plain = tiny().model
    assert with_views(plain, 1) is plain


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


PARTS = ("expand", "depthwise", "project")  # of a block of MobileNetV2


@pytest.mark.parametrize(
    ("model", "trained"),
    [
        ("mobilenet", ["conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13"]),
        (
            "mobilenetv2",
            ["block_13_depthwise", "block_13_project"]
            + [f"block_{n}_{part}" for n in (14, 15, 16) for part in PARTS]
            + ["Conv_1"],
        ),
    ],
)
def test_the_last_stage_is_what_works_on_seven_by_seven_features(
    model: str, trained: list[str]
) -> None:
    classifier = build_classifier(Config(model=model, weights="none").resolved(), 3)
    unfreeze(classifier, "frozen", "last_stage")
    layers = [layer for layer in classifier.backbone.layers if layer.trainable_weights]
    assert [layer.name for layer in layers] == trained
    for layer in layers[1:]:
        assert layer.output.shape[1:3] == (7, 7)
    # Where normalisation is trained, it is that of the last stage.
    unfreeze(classifier, "trained", "last_stage")
    behind = last_stage(classifier.backbone)
    norms = batch_norm_layers(classifier)
    assert [n.trainable for n in norms] == [n in behind for n in norms]
    unfreeze(classifier, "trained")
    assert all(norm.trainable for norm in norms)
    assert classifier.backbone.layers[1].trainable_weights


def test_a_channel_s_factor_follows_the_normalisation(
    tiny_backbone: str, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray
) -> None:
    def normalised(input_shape: tuple[int, int, int], **options: Any) -> keras.Model:
        image = keras.Input(input_shape)
        x = keras.layers.Normalization(name="norm")(image)
        return keras.Model(image, keras.layers.AveragePooling2D(32, name="pool")(x))

    monkeypatch.setattr(keras.applications, "Tiny", normalised)
    row = BACKBONES["tiny"]._replace(scale=None, offset=None, channel_scale=(1.0, 2.0, 3.0))
    monkeypatch.setitem(BACKBONES, "tiny", row)
    classifier = tiny()
    _, _, *others = classifier.model.get_weights()
    mean, variance = np.array([100.0, 90, 80]), np.array([4.0, 9, 16])
    classifier.set_weights([mean, variance, *others])
    expected = (pixels.mean(axis=(1, 2)) - mean) / np.sqrt(variance) * [1, 2, 3]
    np.testing.assert_allclose(call(classifier.features, pixels), expected, rtol=1e-4)


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
    def get_file(*arguments: Any, **options: Any) -> str:
        raise error

    return get_file


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
    monkeypatch.setattr(keras.utils, "get_file", failing(error))
    with pytest.raises(UserError, match=r"weights=PATH .* weights=none") as caught:
        tiny(weights="imagenet")
    assert "\n" not in str(caught.value)
    assert str(error) in str(caught.value)


def test_a_defect_is_not_taken_for_a_failed_download(
    tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.utils, "get_file", failing(ValueError("bad shape")))
    with pytest.raises(ValueError, match="bad shape"):
        tiny(weights="imagenet")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Keras keeps the published weights of the tiny network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / BACKBONES["tiny"].imagenet.name
    path.parent.mkdir()
    return path


def save_legacy(model: keras.Model, path: Path) -> None:
    """Save weights in the format of Keras 2, as those are that it publishes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [str(i) for i in range(len(layer.weights))]
            for i, weight in enumerate(layer.get_weights()):
                group[str(i)] = weight


def truncated(path: Path) -> None:
    save_legacy(tiny().backbone, path)
    path.write_bytes(path.read_bytes()[:-200])


def of_another_network(path: Path) -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(2)]
    save_legacy(keras.Sequential(layers), path)


def a_page_of_a_proxy(path: Path) -> None:
    path.write_text("<html>Please log in</html>")


def empty(path: Path) -> None:
    path.touch()


def without_weights(path: Path) -> None:
    h5py.File(path, "w").close()


def test_published_weights_are_taken_from_the_cache(tiny_backbone: str, cached: Path) -> None:
    published = tiny().backbone
    save_legacy(published, cached)
    loaded = tiny(weights="imagenet").backbone
    for ours, theirs in zip(loaded.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "make", [truncated, of_another_network, a_page_of_a_proxy, empty, without_weights]
)
def test_a_bad_file_in_the_cache_is_named_and_no_connection_is_blamed(
    tiny_backbone: str, cached: Path, make: Any
) -> None:
    make(cached)
    with pytest.raises(UserError, match=r"damaged or of another network .*; delete it") as caught:
        tiny(weights="imagenet")
    assert "\n" not in str(caught.value)
    assert str(cached) in str(caught.value)
    assert "connection" not in str(caught.value)


def test_a_file_of_another_checksum_is_named_where_no_other_can_be_had(
    tiny_backbone: str, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras itself looks at the checksum, and fetches the file anew."""
    save_legacy(tiny().backbone, cached)
    file = BACKBONES["tiny"].imagenet._replace(md5="0" * 32)
    monkeypatch.setitem(BACKBONES, "tiny", BACKBONES["tiny"]._replace(imagenet=file))
    failure = urllib.error.URLError("no route to host")
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", failing(failure))
    with pytest.raises(UserError, match="was truncated or another file") as caught:
        tiny(weights="imagenet")
    assert str(cached) in str(caught.value)
    assert "no route to host" in str(caught.value)


def test_what_a_proxy_answers_instead_of_the_weights_is_no_failed_connection(
    tiny_backbone: str, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = BACKBONES["tiny"].imagenet._replace(md5="0" * 32)
    monkeypatch.setitem(BACKBONES, "tiny", BACKBONES["tiny"]._replace(imagenet=file))

    def answer(url: str, path: str, *others: Any) -> None:
        a_page_of_a_proxy(Path(path))

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", answer)
    with pytest.raises(UserError, match="is not the published file") as caught:
        tiny(weights="imagenet")
    assert file.url in str(caught.value)
    assert "connection" not in str(caught.value)


# The real networks


@dataclass
class Real:
    """One of the real networks with random weights, and a file of its backbone's."""

    name: str
    classifier: Classifier
    file: Path
    features: np.ndarray
    """Its answer to an image."""


IMAGE = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)


def take_statistics(classifier: Classifier, images: np.ndarray) -> None:
    """Give batch normalisation the statistics of `images`.

    With any others random weights damp an image layer by layer, in MobileNet to less than float32
    can tell: it would answer the same to all.
    """
    layers = batch_norm_layers(classifier)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    classifier.features(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@pytest.fixture(scope="module", params=BACKBONES)
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    name = request.param
    classifier = build_classifier(Config(model=name, weights="none"), 3)
    # Weights as of a training: with those at the start a network that lost them looks the same.
    rng = np.random.default_rng(1)
    kinds = keras.layers.BatchNormalization, keras.layers.Normalization
    weights = {
        id(weight): rng.uniform(0.5, 1.5, weight.shape)
        for layer in classifier.backbone.layers
        if isinstance(layer, kinds)
        for weight in layer.weights
    }
    classifier.set_weights(
        [weights.get(id(w), keras.ops.convert_to_numpy(w)) for w in classifier.model.weights]
    )
    take_statistics(classifier, rng.integers(0, 256, IMAGE.shape, dtype=np.uint8))
    file = tmp_path_factory.mktemp(name) / "published.weights.h5"
    classifier.backbone.save_weights(file)
    yield Real(name, classifier, file, call(classifier.features, IMAGE))
    keras.backend.clear_session()


@pytest.mark.slow
def test_every_backbone_builds_answers_and_is_loaded_where_it_was_saved(
    real: Real, pixels: np.ndarray, tmp_path: Path
) -> None:
    assert len(batch_norm_layers(real.classifier)) > 5
    scores = call(real.classifier.model, pixels[:1])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    # The head's weights are random: look before it. Noise differs from noise by 0.5 and more.
    assert np.abs(call(real.classifier.features, pixels[1:]) - real.features).max() > 0.1
    # `predict` and the model server load no recipe that names more than they know.
    real.classifier.model.save(tmp_path / "model.keras")
    check_saved(tmp_path / "model.keras")


@pytest.mark.slow
def test_every_backbone_has_maps_of_seven_by_seven(real: Real, rng: np.random.Generator) -> None:
    explainer = Explainer(real.classifier.model)
    assert explainer.shape[:2] == (7, 7)
    maps = explainer.evidence(rng.random((2, *explainer.shape), dtype=np.float32))
    assert maps.shape == (2, 3, 7, 7)
    assert np.isfinite(maps).all() and maps.std(axis=(2, 3)).min() > 0


@pytest.mark.slow
def test_a_name_is_one_architecture_however_its_weights_are_spelled(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the download, a file, in float32 after half precision, saved, and as Keras has it."""

    def get_file(*arguments: Any, **options: Any) -> str:
        asked.append((*arguments[:2], options.get("file_hash")))
        return str(real.file)

    asked: list[tuple[str, str, str | None]] = []
    monkeypatch.setattr(keras.utils, "get_file", get_file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    config = Config(model=real.name)
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        imagenet = in_float32(build_classifier(config, 3), config)
    finally:
        keras.mixed_precision.set_global_policy(before)
    np.testing.assert_array_equal(call(imagenet.features, IMAGE), real.features)
    imagenet.features.save(tmp_path / "saved.keras")
    saved = keras.saving.load_model(tmp_path / "saved.keras", compile=False)
    np.testing.assert_array_equal(call(saved, IMAGE), real.features)
    file = build_classifier(Config(model=real.name, weights=str(real.file)), 3)
    np.testing.assert_array_equal(call(file.features, IMAGE), real.features)

    row = BACKBONES[real.name]
    constructor = getattr(keras.applications, row.application)
    theirs = constructor(weights="imagenet", include_top=False, input_shape=(224, 224, 3))
    inputs = IMAGE.astype(np.float32)
    if row.scale is not None:
        inputs = keras.ops.convert_to_numpy(file.model.get_layer("preprocessing")(IMAGE))
    np.testing.assert_array_equal(call(theirs, inputs), call(file.backbone, inputs))
    # Both ask for the same file.
    assert len(asked) == 2
    assert len(set(asked)) == 1


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
