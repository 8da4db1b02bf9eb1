"""A network in an exported file: raw RGB pixels in, scores out, without TensorFlow or Keras.

What the file is (classes, version, what was measured, the notice) lies within it: in a LiteRT file
as the ZIP archive at its end that TensorFlow Lite's metadata keep associated files in (`unzip -p
model.tflite skinml.json`), in an ONNX file as metadata properties.
"""

import io
import json
import queue
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from skinml.base.errors import UserError, first_line
from skinml.base.files import check_regular
from skinml.base.notices import without_stderr
from skinml.data.datasets import class_problems
from skinml.data.images import IMAGE_SIZE

# What an exported file is called, by what it is for.
FILES = {"litert": "model.tflite", "onnx": "model.onnx"}

# Where a LiteRT file holds what it is, and its classes as other programs look for them.
ABOUT, LABELS = "skinml.json", "labels.txt"

_LARGEST_ABOUT = 1_000_000


class Network(Protocol):
    """What answers about pictures, a Keras model as well as an exported file."""

    def predict_on_batch(self, pixels: np.ndarray) -> np.ndarray:
        """Scores float32 (n, K) of pixels uint8 (n, 224, 224, 3), raw RGB 0-255."""


def format_of(path: Path) -> str:
    """What an exported file is for, by its ending: "litert", "onnx", or "" where it is none."""
    return {".tflite": "litert", ".onnx": "onnx"}.get(path.suffix.lower(), "")


def is_installed(kind: str) -> bool:
    """Whether the runtime of exported files of a kind is here."""
    return find_spec({"litert": "ai_edge_litert", "onnx": "onnxruntime"}[kind]) is not None


def open_exported(path: Path, classes: int, threads: int = 1) -> Network:
    """Open an exported file; one that its runtime refuses is a `UserError`.

    So is one that gives another number of scores than there are `classes`: they would be read as
    those of the wrong ones. It answers one caller at a time, in `threads`; see `Pool` for several.
    """
    kinds: dict[str, type[LiteRTNetwork | OnnxNetwork]] = {
        "litert": LiteRTNetwork,
        "onnx": OnnxNetwork,
    }
    kind = kinds.get(format_of(path))
    if kind is None:
        raise UserError(f"{path}: expected an exported file, {' or '.join(FILES.values())}")
    try:
        network = kind(path, threads)
    except ImportError as error:
        raise UserError(
            f"{path}: its runtime is not installed ({first_line(error)}); expected "
            "`pip install 'skinml[export]'`, or the Keras model (--runtime keras)"
        ) from None
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: cannot be opened ({first_line(error)[:200]})") from None
    if network.shapes != ((1, IMAGE_SIZE, IMAGE_SIZE, 3), (1, classes)):
        raise UserError(
            f"{path}: takes and gives {network.shapes}; expected one picture of "
            f"{IMAGE_SIZE}×{IMAGE_SIZE} RGB pixels, uint8, and {classes} scores, one a class"
        )
    return network


class Pool:
    """An exported file opened several times, a thread each: it answers as many callers at once.

    Two pictures at once on two cores are answered sooner than one after the other by both.
    """

    def __init__(self, path: Path, classes: int, callers: int) -> None:
        self.callers = callers
        self._free: queue.SimpleQueue[Network] = queue.SimpleQueue()
        for _ in range(callers):
            self._free.put(open_exported(path, classes))

    def predict_on_batch(self, pixels: np.ndarray) -> np.ndarray:
        network = self._free.get()
        try:
            return network.predict_on_batch(pixels)
        finally:
            self._free.put(network)


class LiteRTNetwork:
    """A `.tflite` file in LiteRT: the operations of TensorFlow Lite alone, none of TensorFlow's."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with without_stderr():  # "Created TensorFlow Lite XNNPACK delegate for CPU"
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        [given], [answered] = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        if given["dtype"] is not np.uint8 or answered["dtype"] is not np.float32:
            raise ValueError("expected pixels as uint8 and scores as float32")
        self._input, self._output = given["index"], answered["index"]
        self.shapes = tuple(map(int, given["shape"])), tuple(map(int, answered["shape"]))

    def predict_on_batch(self, pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([self._answer(image[None]) for image in pixels])

    def _answer(self, image: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input, image)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


class OnnxNetwork:
    """A `.onnx` file in ONNX Runtime, on the processor."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has a class of its own for every mishap.
            raise ValueError(first_line(error)) from None
        [given], [answered] = self._session.get_inputs(), self._session.get_outputs()
        if given.type != "tensor(uint8)" or answered.type != "tensor(float)":
            raise ValueError("expected pixels as uint8 and scores as float32")
        self._name = given.name
        self.shapes = tuple(given.shape), tuple(answered.shape)

    def predict_on_batch(self, pixels: np.ndarray) -> np.ndarray:
        answers = [self._session.run(None, {self._name: image[None]})[0] for image in pixels]
        return np.concatenate(answers)


def with_about(content: bytes, to: str, about: dict[str, Any]) -> bytes:
    """An exported file's content with what it is within it."""
    text = json.dumps(about, indent=2, ensure_ascii=False)
    if to == "onnx":
        import onnx

        model = onnx.load_model_from_string(content)
        onnx.helper.set_model_props(
            model, {"skinml": text, "classes": json.dumps(about["classes"])}
        )
        return model.SerializeToString()
    end = io.BytesIO(content)
    with zipfile.ZipFile(end, "a") as archive:
        for name, inside in ((LABELS, "\n".join(about["classes"]) + "\n"), (ABOUT, text)):
            # A date of its own would make another file of the same network.
            archive.writestr(zipfile.ZipInfo(name), inside)
    return end.getvalue()


def read_about(path: Path) -> dict[str, Any]:
    """What an exported file says it is; a `UserError` where it does not say."""
    try:
        check_regular(path)
        if format_of(path) == "onnx":
            import onnx

            model = onnx.load(path, load_external_data=False)
            text = {item.key: item.value for item in model.metadata_props}["skinml"]
        else:
            with zipfile.ZipFile(path) as archive, archive.open(ABOUT) as file:
                text = file.read(_LARGEST_ABOUT).decode()
        about = json.loads(text)
        if problems := class_problems(about["classes"]):
            raise ValueError("; ".join(problems))
        return dict(about)
    except ImportError as error:
        raise UserError(
            f"{path}: {error.name or error} is not installed, which reads what an ONNX file is; "
            "expected `pip install 'skinml[export]'`, or the address of its Keras model"
        ) from None
    except Exception as error:  # A file of anybody's: protobuf, ZIP and JSON each have their own.
        raise UserError(
            f"{path}: does not say what it is ({first_line(error)[:200]}); expected a file that "
            "`python -m skinml.export` wrote"
        ) from None
