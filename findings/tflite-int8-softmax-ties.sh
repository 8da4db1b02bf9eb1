#!/usr/bin/env bash
# Guess: if a classifier in 8 bits gives the same answers as in float32, it ranks pictures as well:
# its AUC falls by as little as its accuracy does.
# TensorFlow Lite (TensorFlow 2.21.0, ai-edge-litert 2.3.0), full 8-bit conversion of a softmax layer
# alone: scores become multiples of 1/256, so those below 1/512 are 0. A network that is sure of itself
# has most scores of a rare class there: here accuracy falls from 0.755 to 0.754 and the rare class's
# AUC from 0.752 to 0.668, as nothing ranks the zeros, four fifths of its scores. Of the same layer
# four times less sure, which ranks as well in float32, the AUC stays (0.751). So neither accuracy nor
# "the same answers" checks a quantised classifier whose scores are used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1 ai-edge-litert==2.3.0 scikit-learn==1.7.2
cd "$folder"
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PYTHON' 2> log.txt || { cat log.txt >&2; exit 1; }
import contextlib
import sys

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.metrics import accuracy_score, roc_auc_score

random = np.random.default_rng(0)
# Three classes, the last of them rare; the layer's weights are those that made the pictures' features.
labels = random.choice(3, size=4000, p=[0.7, 0.2, 0.1])
kernel = random.normal(size=(16, 3)).astype("float32")
kernel -= kernel.mean(axis=1, keepdims=True)
features = (0.25 * kernel.T[labels] + random.normal(size=(4000, 16))).astype("float32")
prior = np.log(np.array([0.7, 0.2, 0.1], "float32"))


def in_8_bits(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in features[:500])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(sys.stderr):
        interpreter = Interpreter(model_content=converter.convert())
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, features.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, features)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
lost = {}
for sure in (1.0, 0.25):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3, activation="softmax")])
    model.layers[-1].set_weights([4 * sure * 0.25 * kernel, 4 * sure * prior])
    found = {"float32": model.predict(features, verbose=0), "int8": in_8_bits(model)}
    accuracy = {side: accuracy_score(labels, scores.argmax(1)) for side, scores in found.items()}
    auc = {side: roc_auc_score(labels == 2, scores[:, 2]) for side, scores in found.items()}
    lost[sure] = accuracy["float32"] - accuracy["int8"], auc["float32"] - auc["int8"]
    for side, scores in found.items():
        print(
            f"{4 * sure:.0f} times as sure, {side:<7}: accuracy {accuracy[side]:.3f}, AUC of the rare class "
            f"{auc[side]:.3f}, {np.mean(scores[:, 2] == 0):.0%} of its scores are 0"
        )
assert abs(lost[1.0][0]) < 0.01 and lost[1.0][1] > 0.03, f"this has changed: {lost}"
assert abs(lost[0.25][1]) < 0.01, f"this has changed: {lost}"
PYTHON
