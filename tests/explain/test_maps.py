"""Class activation maps: what they add up to, and where they are, on both frameworks."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.explain.maps import METHODS, Explainer
from skinml.models.classifier import Classifier, build_classifier, with_views
from skinml.models.saved import load_saved


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def network(**options: str) -> Classifier:
    keras.utils.set_random_seed(3)
    values = {"model": "tiny", "weights": "none", "head": "one", **options}
    return build_classifier(Config(**values), 3)  # type: ignore[arg-type]


def logits_of(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """But for their biases, which no part of a picture has a share in."""
    features = classifier.features.predict_on_batch(pixels)
    return features @ np.asarray(classifier.head.layers[-1].kernel)


@pytest.mark.parametrize("pooling", ["global", "2x2"])
def test_the_cells_add_up_to_the_score(
    tiny_backbone: str, pixels: np.ndarray, pooling: str
) -> None:
    """Under a head without hidden layers a map leaves nothing of the score out, and adds none.

    Grad-CAM's does so under global pooling alone.
    """
    classifier = network(pooling=pooling)
    explainer = Explainer(classifier.model)
    features = explainer.features(pixels)
    logits = logits_of(classifier, pixels)
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    for label in range(3):
        # The gradient of the log odds weighs the other logits by their shares among them.
        others = np.delete(np.arange(3), label)
        weights = shares[:, others] / shares[:, others].sum(axis=1, keepdims=True)
        expected = logits[:, label] - (weights * logits[:, others]).sum(axis=1)
        found = explainer.evidence(features)[:, label].sum(axis=(1, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    cells = explainer.evidence(features, "grad-cam").sum(axis=(2, 3))
    same = np.allclose(cells, logits, rtol=1e-3, atol=1e-5)
    assert same == (pooling == "global")


def test_a_map_is_where_the_class_is_seen(tiny_backbone: str) -> None:
    """A network of one filter, which answers to white: its map is the white corner."""
    classifier = network()
    kernel, bias = np.zeros((7, 7, 3, 8), np.float32), np.zeros(8, np.float32)
    kernel[..., 0] = 1 / 147
    classifier.backbone.get_layer("conv").set_weights([kernel, bias])
    dense = np.zeros((8, 3), np.float32)
    dense[0, 1] = 5
    classifier.head.set_weights([dense, np.zeros(3, np.float32)])
    pixels = np.zeros((2, 224, 224, 3), np.uint8)
    pixels[0, :48, 160:] = 255
    maps = Explainer(classifier.model).maps(pixels, np.array([0, 1]))
    assert maps.shape == (2, 3, 14, 14) and maps.dtype == np.uint8
    assert maps[0, 1, :3, 10:].min() == maps[0, 1].max() == 255
    rest = maps[0, 1].copy()
    rest[:4, 9:] = 0
    assert rest.max() == 0
    # Nothing speaks for another class, and in a black picture nothing for any.
    assert maps[0, [0, 2]].max() == maps[1].max() == 0


def test_a_saved_network_and_one_of_eight_views_have_the_same_maps(
    tiny_backbone: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    """With views the map is of the picture as it is, by the same weights."""
    model = network(head="three").model
    expected = Explainer(model).maps(pixels, np.arange(3))
    for views in (1, 8):
        path = tmp_path / f"{views}.keras"
        with_views(model, views).save(path)
        np.testing.assert_array_equal(
            Explainer(load_saved(path)).maps(pixels, np.arange(3)), expected
        )


def test_a_network_without_a_feature_map_is_refused() -> None:
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    with pytest.raises(UserError, match="no convolutional feature map"):
        Explainer(keras.Sequential([keras.Input((224, 224, 3)), *layers]))


_JAX = """
import sys
import numpy as np
import keras
from pathlib import Path
from skinml.explain.maps import METHODS, Explainer
from skinml.models.saved import load_saved

assert keras.backend.backend() == "jax"
explainer = Explainer(load_saved(Path(sys.argv[1])))
features = np.load(sys.argv[2])
np.save(sys.argv[3], [explainer.evidence(features, method) for method in METHODS])
"""


@pytest.mark.slow
def test_jax_draws_the_same_maps(tiny_backbone: str, pixels: np.ndarray, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("network.keras", "features.npy", "maps.npy")]
    model = network(head="three").model
    model.save(paths[0])
    explainer = Explainer(model)
    features = explainer.features(pixels)
    np.save(paths[1], features)
    expected = np.array([explainer.evidence(features, method) for method in METHODS])
    environment = {"KERAS_BACKEND": "jax", "PATH": "", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _JAX, *map(str, paths)], check=True, env=environment)
    np.testing.assert_allclose(
        np.load(paths[2]), expected, rtol=1e-3, atol=1e-5 * abs(expected).max()
    )
