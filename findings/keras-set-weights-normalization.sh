#!/usr/bin/env bash
# Guess: of two equal Keras models with equal weights the answers are equal.
# Keras 3.15.1: not with a Normalization layer. `set_weights` sets its mean and variance, and it goes
# on computing with constants that were derived from the old ones; a weights file is read rightly.
# EfficientNet has such a layer: a copy made by set_weights(get_weights()) is another network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax venv/bin/python - <<'PYTHON'
import keras
import numpy as np


def network():
    return keras.Sequential([keras.Input((2,)), keras.layers.Normalization()])


adapted, by_arrays, by_file = network(), network(), network()
adapted.layers[0].adapt(np.array([[0.0, 10.0], [2.0, 30.0]]))
adapted.save_weights("adapted.weights.h5")
by_arrays.set_weights(adapted.get_weights())
by_file.load_weights("adapted.weights.h5")
image = np.array([[2.0, 30.0]], dtype="float32")
weights = [np.concatenate([w.ravel() for w in m.get_weights()]) for m in (adapted, by_arrays, by_file)]
answers = [m.predict_on_batch(image)[0].tolist() for m in (adapted, by_arrays, by_file)]
print(f"Keras {keras.__version__}")
for name, own, answer in zip(("adapted", "set_weights", "load_weights"), weights, answers):
    print(f"{name:<13} weights {own.tolist()}  answer {answer}")
assert all(np.array_equal(weights[0], own) for own in weights)
assert answers == [[1.0, 1.0], [2.0, 30.0], [1.0, 1.0]], "this has changed"
PYTHON
