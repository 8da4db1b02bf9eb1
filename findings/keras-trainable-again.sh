#!/usr/bin/env bash
# Guess: `network.trainable = True` makes every layer of a Keras network trainable, so a fine-tuning
# that begins with that line trains the same weights on every backend.
# Keras 3.15.1: on JAX it does. On TensorFlow a network that is trainable already takes no notice: a
# layer that was frozen by itself stays frozen, and the training is another one, without a word.
# `network.trainable = False` before it, or each layer set by itself, gives the same on both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  keras==3.15.1 jax==0.10.2 tensorflow-cpu==2.21.0 numpy==2.4.6
cd "$folder"
cat > ask.py <<'PYTHON'
import json

import keras

pixels = keras.Input((8, 8, 3))
x = keras.layers.Conv2D(4, 3, name="early")(pixels)
x = keras.layers.Conv2D(4, 3, name="late")(x)
network = keras.Model(pixels, x)


def trained():
    return [layer.name for layer in network.layers if layer.trainable_weights]


found = {}
network.get_layer("early").trainable = False
found["one layer frozen"] = trained()
network.trainable = True
found["then network.trainable = True"] = trained()
network.trainable = False
network.trainable = True
found["then False and True again"] = trained()
print(json.dumps(found))
PYTHON
for backend in jax tensorflow; do
  KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python ask.py 2>/dev/null > "$backend.json"
done
venv/bin/python - <<'PYTHON'
import importlib.metadata
import json

print(f"Keras {importlib.metadata.version('keras')}, layers that are trained:")
found = {backend: json.load(open(f"{backend}.json")) for backend in ("jax", "tensorflow")}
for backend, steps in found.items():
    for step, layers in steps.items():
        print(f"{backend:<11}{step:<31}{', '.join(layers)}")
both, late = ["early", "late"], ["late"]
assert list(found["jax"].values()) == [late, both, both], "this has changed"
assert list(found["tensorflow"].values()) == [late, late, both], "this has changed"
PYTHON
