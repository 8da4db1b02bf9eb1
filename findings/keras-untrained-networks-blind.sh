#!/usr/bin/env bash
# Guess: a network with random weights gives other scores to other pictures, so that it will do to
# test an export, a port or a server: the same scores on both sides mean the same network.
# Keras 3.15.1: MobileNet and MobileNetV2 of keras.applications with weights=None give black, white
# and noise the same scores, to the last bit of float32. With so small weights and batch
# normalisation that has seen nothing each layer shrinks what it is given, and the softmax sees
# zeros: a file that ignores its input, reads it as BGR or forgets to scale it passes such a test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax venv/bin/python - <<'PYTHON'
import keras
import numpy as np

shape = (1, 96, 96, 3)
noise = np.random.default_rng(0).integers(0, 256, shape)
pictures = np.concatenate([np.zeros(shape), np.full(shape, 255), noise]).astype("float32")
print(f"Keras {keras.__version__}")
for name in ("MobileNet", "MobileNetV2"):
    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, name)(weights=None, input_shape=shape[1:], classes=3)
    scores = network.predict_on_batch(pictures / 127.5 - 1)
    for picture, own in zip(("black", "white", "noise"), np.asarray(scores)):
        print(f"{name:<12} {picture}  {own}")
    assert np.ptp(scores, axis=0).max() < 1e-6, "this has changed"
PYTHON
