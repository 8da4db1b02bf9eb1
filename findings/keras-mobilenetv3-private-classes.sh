#!/usr/bin/env bash
# Guess: a network of keras.applications, saved as .keras, names public layers alone, so that a list
# of these is enough to tell it from a file that would run something else.
# Keras 3.15.1: MobileNetV3's hard swish is written with operators, and its file names the operations
# Add and Multiply of the private module keras.src.ops.numpy; the other mobile networks do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax venv/bin/python - <<'PYTHON'
import json
import zipfile

import keras


def named(value):
    if isinstance(value, dict):
        if "class_name" in value:
            yield f"{value.get('module')}.{value['class_name']}"
        for part in value.values():
            yield from named(part)
    elif isinstance(value, list):
        for part in value:
            yield from named(part)


found = {}
for name in ("MobileNet", "MobileNetV2", "NASNetMobile", "EfficientNetB0", "MobileNetV3Small"):
    network = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    network.save("network.keras")
    with zipfile.ZipFile("network.keras") as archive:
        recipe = json.loads(archive.read("config.json"))
    found[name] = sorted(c for c in set(named(recipe)) if c.startswith("keras.src.ops"))
print(f"Keras {keras.__version__}")
for name, classes in found.items():
    print(f"{name:<17} {', '.join(classes) or 'none'}")
private = found.pop("MobileNetV3Small")
assert private == ["keras.src.ops.numpy.Add", "keras.src.ops.numpy.Multiply"], "this has changed"
assert not any(found.values()), "this has changed"
PYTHON
