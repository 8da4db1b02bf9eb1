"""A Keras model → the content of a LiteRT or ONNX file, in the precision that is asked for.

Both are made by TensorFlow's own graph of the network, for one picture at a time: pixels uint8
(1, 224, 224, 3), raw RGB 0-255, to scores float32 (1, K). What scales the pixels stays in float.
"""

import contextlib
import functools
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.errors import UserError
from skinml.data.images import IMAGE_SIZE

TARGETS = ("litert", "onnx")
PRECISIONS = ("float32", "float16", "dynamic", "int8")

# What an 8-bit network computes in float all the same: its softmax, whose scores would be multiples
# of 1/256, half of a sure network's none at all, so that nothing ranks them; and so many of its
# first convolutions, whose few channels have ranges of their own. Measured in results/export.
_FLOAT_CONVOLUTIONS = 8

# The newest set of ONNX's operations that tf2onnx writes by its own tests.
_OPSET = 18


def convert(model: Any, to: str, precision: str, calibration: np.ndarray | None = None) -> bytes:
    """Convert a Keras model, on TensorFlow as Keras's backend; what cannot be is a `UserError`.

    `precision`: float16 halves the weights, `dynamic` keeps them in 8 bits and computes what it can
    in 8 bits, `int8` computes in 8 bits with ranges found on the pictures of `calibration`
    (N, 224, 224, 3), uint8.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={keras.backend.backend()}: an export needs TensorFlow's graph of the "
            "network; expected KERAS_BACKEND=tensorflow (a model trained on JAX is loaded there)"
        )
    makers: dict[str, Callable[..., bytes]] = {"litert": _litert, "onnx": _onnx}
    try:
        with _quiet():
            return makers[to](model, precision, calibration)
    except ImportError as error:
        raise UserError(
            f"--to {to} --precision {precision}: {error.name or error} is not installed; expected "
            "`pip install 'skinml[export]'`"
        ) from None


def _image() -> Any:
    """What TensorFlow is told of the one picture that an exported network takes."""
    import tensorflow as tf

    return tf.TensorSpec((1, IMAGE_SIZE, IMAGE_SIZE, 3), tf.uint8, name="image")


def _litert(model: Any, precision: str, calibration: np.ndarray | None) -> bytes:
    import tensorflow as tf

    function = tf.function(functools.partial(model, training=False), input_signature=[_image()])
    traced = function.get_concrete_function()
    # Not by way of a SavedModel, as Keras's own export: it takes five times as long to the same
    # network. The converter has one of its own in between, without the weights, unless told so.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], model)
    converter.experimental_lower_to_saved_model = False
    return _with_signature(_converted(converter, precision, calibration))


def _converted(converter: Any, precision: str, calibration: np.ndarray | None) -> bytes:
    import tensorflow as tf

    # Nothing but the operations of the plain runtime: no TensorFlow beside it.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        from tensorflow.lite.python.convert import mlir_quantize

        assert calibration is not None
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        # The float network with the ranges in it, so that what stays in float can be said of it.
        converter._experimental_calibrate_only = True
        ranged = converter.convert()
        steps = _steps(ranged)
        kept = _first_convolutions(steps) | _behind_the_softmax(steps)
        return bytes(mlir_quantize(ranged, denylisted_ops={"SOFTMAX"}, denylisted_nodes=kept))
    return bytes(converter.convert())


def _with_signature(content: bytes) -> bytes:
    """A LiteRT network whose input and output have the names that Keras's own export gives them."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools.flatbuffer_utils import (
        convert_bytearray_to_object,
        convert_object_to_bytearray,
    )

    network = convert_bytearray_to_object(content)
    graph, signature = network.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    for name, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        told = schema.TensorMapT()
        told.name = b"image" if name == "inputs" else b"output_0"
        (told.tensorIndex,) = map(int, tensors)
        setattr(signature, name, [told])
    network.signatureDefs = [signature]
    return bytes(convert_object_to_bytearray(network))


def _first_convolutions(steps: Sequence[tuple[str, int]]) -> set[str]:
    """The names of what the first convolutions of a LiteRT network give."""
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    kinds = {BuiltinOperator.CONV_2D, BuiltinOperator.DEPTHWISE_CONV_2D}
    found = [name for name, kind in steps if kind in kinds]
    return set(found[:_FLOAT_CONVOLUTIONS])


def _behind_the_softmax(steps: Sequence[tuple[str, int]]) -> set[str]:
    """The names of what is made of the scores: the mean over views, if there are several.

    In 8 bits it would have steps of 1/256 again, and nothing between 0 and the first.
    """
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    kinds = [kind for _, kind in steps]
    return {name for name, _ in steps[kinds.index(BuiltinOperator.SOFTMAX) + 1 :]}


def _steps(content: bytes) -> list[tuple[str, int]]:
    """The operations of a LiteRT network in their order: the name of what each gives, its kind."""
    from tensorflow.lite.tools.flatbuffer_utils import convert_bytearray_to_object

    network = convert_bytearray_to_object(content)
    graph = network.subgraphs[0]
    return [
        (
            graph.tensors[step.outputs[0]].name.decode(),
            network.operatorCodes[step.opcodeIndex].builtinCode,
        )
        for step in graph.operators
    ]


def _onnx(model: Any, precision: str, calibration: np.ndarray | None) -> bytes:
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(functools.partial(model, training=False), input_signature=[_image()])
    # As one graph of constants: tf2onnx would take for inputs what is no variable of the model,
    # such as the mean of a Normalization layer.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    made, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[tensor.name for tensor in frozen.inputs],
        output_names=[tensor.name for tensor in frozen.outputs],
        opset=_OPSET,
    )
    if precision == "float32":
        return made.SerializeToString()
    from onnxruntime.quantization import (
        QuantType,
        quant_pre_process,
        quantize_dynamic,
        quantize_static,
    )

    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(made, keep_io_types=True).SerializeToString()
    with tempfile.TemporaryDirectory() as name:
        source, ready, target = (Path(name, f"{step}.onnx") for step in ("0", "1", "2"))
        source.write_bytes(made.SerializeToString())
        # Without symbolic shapes, which take a further package: an image has one size.
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        if precision == "dynamic":
            quantize_dynamic(str(ready), str(target), weight_type=QuantType.QUInt8)
        else:
            assert calibration is not None
            input_name = made.graph.input[0].name
            reader = _Reader({input_name: image[None]} for image in calibration)
            quantize_static(
                str(ready), str(target), reader, per_channel=True, nodes_to_exclude=_floats(ready)
            )
        return target.read_bytes()


def _floats(path: Path) -> list[str]:
    """The names of an ONNX network's nodes that stay in float."""
    import onnx

    nodes = onnx.load(path).graph.node
    first = [node.name for node in nodes if node.op_type == "Conv"][:_FLOAT_CONVOLUTIONS]
    return [*first, *(node.name for node in nodes if node.op_type == "Softmax")]


class _Reader:
    """The calibration pictures as ONNX Runtime asks for them."""

    def __init__(self, images: Iterator[dict[str, np.ndarray]]) -> None:
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._images

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converters say about themselves."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
