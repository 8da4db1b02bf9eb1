#!/usr/bin/env bash
# Guess: `quantize_dynamic(..., per_channel=True)` gives each channel of a weight its own scale, so that
# a depthwise convolution, whose channels differ in size by orders, keeps them all in 8 bits.
# ONNX Runtime 1.32.0: a matrix product gets a scale a column; a convolution gets one scale for all its
# channels, whatever `per_channel` says, and nothing is said of it. Channels below half a step become
# zeros. `quantize_static` with the same option gives a convolution a scale a channel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

logging.disable(logging.WARNING)
CHANNELS = 32
rng = np.random.default_rng(0)
# A depthwise 3x3 convolution, then a mean over the places, then three columns of a matrix.
sizes = np.geomspace(1, 1000, CHANNELS, dtype="float32")
kernel = (rng.normal(size=(CHANNELS, 1, 3, 3)) * sizes[:, None, None, None]).astype("float32")
matrix = (rng.normal(size=(CHANNELS, 3)) / sizes[:, None]).astype("float32")
graph = helper.make_graph(
    [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], group=CHANNELS, kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("MatMul", ["features", "matrix"], ["scores"]),
    ],
    "network",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS, 16, 16])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
    [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")],
)
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(made, full_check=True)
onnx.save(made, "network.onnx")
image = rng.normal(size=(1, CHANNELS, 16, 16)).astype("float32")


class Images(CalibrationDataReader):
    left = [{"image": image}]

    def get_next(self):
        return self.left.pop() if self.left else None


def described(path):
    values = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    zeros = values["kernel_quantized"] == values["kernel_zero_point"].reshape(-1, 1, 1, 1)
    lost = int(zeros.all(axis=(1, 2, 3)).sum())
    return values["kernel_scale"].size, values["matrix_scale"].size, lost


found = {}
for per_channel in (False, True):
    quantize_dynamic("network.onnx", "dynamic.onnx", per_channel=per_channel)
    found[f"quantize_dynamic, per_channel={per_channel}"] = described("dynamic.onnx")
quantize_static("network.onnx", "static.onnx", Images(), per_channel=True)
found["quantize_static, per_channel=True"] = described("static.onnx")
print(f"ONNX Runtime {onnxruntime.__version__}; a depthwise convolution of {CHANNELS} channels, a matrix of 3 columns")
print(f"{'':<37}{'scales of the convolution':>27}{'of the matrix':>15}{'channels all zero':>19}")
for name, (convolution, columns, lost) in found.items():
    print(f"{name:<37}{convolution:>27}{columns:>15}{lost:>19}")
expected = [(1, 1), (1, 3), (CHANNELS, 3)]
assert [one[:2] for one in found.values()] == expected, "this has changed"
assert [one[2] > 0 for one in found.values()] == [True, True, False], "this has changed"
PYTHON
