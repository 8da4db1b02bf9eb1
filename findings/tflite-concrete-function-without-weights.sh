#!/usr/bin/env bash
# Guess: TensorFlow's converter turns a function of a Keras model into a file that answers as the
# model does, or says why it cannot: `TFLiteConverter.from_concrete_functions` takes the function and
# the model that it belongs to.
# TensorFlow 2.21.0 with Keras 3.15.1: it converts without an error and leaves the weights out. The
# file is a fraction of its size and answers with no numbers, or the same to every picture. By way of
# a SavedModel (`keras.export.ExportArchive`), as Keras's own export does it, it has them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0
cd "$folder"
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PYTHON' 2> log.txt || { cat log.txt >&2; exit 1; }
import functools

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

keras.utils.set_random_seed(0)
layers = [keras.layers.Conv2D(64, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
model = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(3)])
picture = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
spec = tf.TensorSpec((1, 32, 32, 3), tf.float32)
function = tf.function(lambda image: model(image, training=False), input_signature=[spec])
archive = keras.export.ExportArchive()
archive.track(model)
call = functools.partial(model.__call__, training=False)
archive.add_endpoint("serve", call, input_signature=[spec])
archive.write_out("saved", verbose=False)
make = tf.lite.TFLiteConverter
converters = {
    "from_concrete_functions": make.from_concrete_functions([function.get_concrete_function()], model),
    "from_saved_model": make.from_saved_model("saved"),
}
print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}; Keras answers "
      f"{model.predict_on_batch(picture)[0]}")
answers = {}
for name, converter in converters.items():
    content = converter.convert()
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    answers[name] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    print(f"{name:<24} {len(content):>6} bytes  {answers[name]}")
expected = model.predict_on_batch(picture)[0]
assert np.allclose(answers["from_saved_model"], expected, atol=1e-5), "this has changed"
assert not np.allclose(answers["from_concrete_functions"], expected, atol=1e-2), "this has changed"
PYTHON
