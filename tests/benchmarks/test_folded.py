"""Frozen batch normalisation within the convolutions: the same network, trained the same."""

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from benchmarks import folding
from benchmarks.folded import FoldedConvolution, folded
from skinml.data.prepared import PreparedSet
from skinml.models.saved import load_saved
from skinml.training.backend import PLAIN, Device
from skinml.training.steps import Batch, Steps, Trainee

FOLDED = {"conv", "depthwise", "separable"}


def network(frozen: bool = True) -> keras.Model:
    """Each kind of convolution, and those that cannot be folded, within a graph as ours are."""

    def norm(x: Any, name: str, **options: Any) -> Any:
        layer = layers.BatchNormalization(name=f"{name}_norm", **options)
        x = layer(x)
        layer.trainable = not frozen
        return x

    pixels = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(pixels)
    x = layers.ReLU(6.0)(norm(x, "conv"))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0)(norm(x, "depthwise", scale=False))
    x = layers.SeparableConv2D(12, 3, padding="same", use_bias=False, name="separable")(x)
    x = norm(x, "separable", center=False, epsilon=0.1)
    seen_twice = layers.Conv2D(12, 1, name="seen_twice")(x)
    x = layers.Add()([norm(seen_twice, "seen_twice"), seen_twice, x])
    x = norm(layers.Conv2D(6, 1, activation="relu", name="activated")(x), "activated")
    backbone = keras.Model(pixels, x, name="backbone")

    given = keras.Input((12, 12, 3))
    head = keras.Sequential([keras.Input((6,)), layers.Dense(3, activation="softmax")], name="head")
    model = keras.Model(given, head(layers.GlobalAveragePooling2D()(backbone(given))))
    rng = np.random.default_rng(0)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(5, 12, 12, 3)).astype(np.float32)


def call(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model(images, training=True))


def same_networks() -> tuple[keras.Model, keras.Model]:
    """A network as it is and one folded, each with variables of its own, of the same values."""
    plain, other = network(), network()
    other.set_weights(plain.get_weights())
    return plain, folded(other)


def steps(model: keras.Model, optimizer: keras.optimizers.Optimizer, images: Any) -> list[float]:
    """Train for eight steps on one batch: the loss of each."""
    trainee = Trainee(model.inputs, model.outputs)
    trainee.compile(optimizer, loss="sparse_categorical_crossentropy", jit_compile=False)
    batch = Batch(images, np.arange(len(images)) % 3, np.ones(len(images), np.float32))
    compiled = Steps(trainee, PLAIN)
    return [outcome.loss for _ in range(8) for _, outcome in compiled.epoch([[batch]])]


def test_convolutions_of_each_kind_are_folded_unless_others_see_what_they_give() -> None:
    backbone = folded(network()).get_layer("backbone")
    made = {layer.name for layer in backbone.layers if isinstance(layer, FoldedConvolution)}
    assert made == FOLDED
    left = {layer.name for layer in backbone.layers if isinstance(layer, layers.BatchNormalization)}
    assert left == {"seen_twice_norm", "activated_norm"}


def test_batch_normalisation_that_is_trained_stays() -> None:
    backbone = folded(network(frozen=False)).get_layer("backbone")
    assert not any(isinstance(layer, FoldedConvolution) for layer in backbone.layers)


def test_the_function_is_the_same(images: np.ndarray) -> None:
    model = network()
    np.testing.assert_allclose(call(folded(model), images), call(model, images), rtol=1e-5)
    half = folded(model).get_layer("backbone")
    expected = call(model.get_layer("backbone"), images)
    np.testing.assert_allclose(call(half, images), expected, rtol=1e-5, atol=1e-5)


def test_the_variables_are_those_of_the_network_in_its_order() -> None:
    model = network()
    view = folded(model)
    for kind in ("trainable_variables", "non_trainable_variables"):
        own, theirs = getattr(model, kind), getattr(view, kind)
        if kind == "trainable_variables":
            assert [id(variable) for variable in theirs] == [id(variable) for variable in own]
        else:
            assert {id(variable) for variable in theirs} == {id(variable) for variable in own}


def test_gradients_are_the_same(images: np.ndarray) -> None:
    """One step of plain gradient descent at rate 1 is the gradient."""
    changes = []
    for model in same_networks():
        before = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        trainee = Trainee(model.inputs, model.outputs)
        trainee.compile(keras.optimizers.SGD(1.0), loss="sparse_categorical_crossentropy")
        batch = Batch(images, np.arange(len(images)) % 3, np.ones(len(images), np.float32))
        list(Steps(trainee, PLAIN).epoch([[batch]]))
        after = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        changes.append([new - old for old, new in zip(before, after, strict=True)])
    for plain, other in zip(*changes, strict=True):
        assert np.abs(plain).max() > 0
        np.testing.assert_allclose(other, plain, rtol=1e-4, atol=1e-6)


def test_trainings_stay_together(images: np.ndarray) -> None:
    plain, other = (steps(model, keras.optimizers.Adam(1e-3), images) for model in same_networks())
    assert f"{other[0]:.5f}" == f"{plain[0]:.5f}"
    assert other[-1] == pytest.approx(plain[-1], rel=0.01)
    assert plain[-1] < plain[0]


def test_the_network_itself_is_saved_as_ever(images: np.ndarray, tmp_path: Path) -> None:
    model = network()
    before = [variable.path for variable in model.variables]
    steps(folded(model), keras.optimizers.Adam(1e-3), images)
    model.save(tmp_path / "model.keras")
    again = load_saved(tmp_path / "model.keras")
    assert [variable.path for variable in model.variables] == before
    kinds = [type(layer) for layer in model.get_layer("backbone").layers]
    assert [type(layer) for layer in again.get_layer("backbone").layers] == kinds
    np.testing.assert_array_equal(call(again, images), call(model, images))


def test_the_benchmark_trains_both_sides_alike(tiny_backbone: str, toy_set: PreparedSet) -> None:
    options = argparse.Namespace(
        data="demo", data_dir=str(toy_set.folder), weights="none", train=16, validation=2,
        batch_size=2, repeats=2, piece=3, device="cpu", nudged=True,
    )  # fmt: skip
    advances: list[None] = []
    device = Device(keras.backend.backend(), "cpu", "", 1)
    found = folding.measure(options, tiny_backbone, device, lambda: advances.append(None))
    assert len(advances) == 3
    assert found["ratio"]["low"] > 0
    assert max(found["apart"] + found["apart_nudged"]) < 1e-3
    assert "| tiny " in folding.shown_table({"tiny": found})


def test_nudged_weights_are_a_unit_in_the_last_place_apart() -> None:
    model = network()
    before = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    folding._nudge(model)
    after = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    moved = np.concatenate([(a != b).ravel() for a, b in zip(after, before, strict=True)])
    assert 0.3 < moved.mean() < 0.7
    for new, old in zip(after, before, strict=True):
        np.testing.assert_array_max_ulp(new, old, maxulp=1)
