"""The serving model, logged as code: base64 pictures in, class and scores out.

MLflow copies this file and the package beside the model, and runs it where the model is served.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from skinml.base.errors import UserError
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image
from skinml.evaluation.answering import Asked, find_way, read_chosen
from skinml.models.exported import Network, Pool
from skinml.models.saved import load_saved

# An original of ISIC 2017 has up to 7 MB.
MAX_BYTES = 32 * 1024 * 1024


class ServingModel(PythonModel):
    """Answers a column `image` of base64 JPEGs or PNGs of any size.

    A row that is no usable picture rejects the request with its number and the reason. The
    parameters `operating_point` and `calibrated` are those of `predict`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network and have it answer once, so that the first caller waits no longer.

        What Keras computes is compiled by its first answer: seconds, in which nobody waits yet.
        """
        self._notice = context.model_config["notice"]
        self._classes = list(context.model_config["classes"])
        self._chosen = read_chosen(context.model_config, self._classes)
        self._model = _open(context.artifacts, len(self._classes))
        picture = io.BytesIO()
        Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)).save(picture, "JPEG")
        image = base64.b64encode(picture.getvalue()).decode()
        self.predict(context, pd.DataFrame({"image": [image]}))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """One row an image: `label`, a score for each class, what was asked for, `notice`."""
        asked = Asked(**(params or {}))
        try:
            way = find_way(asked, self._chosen, self._classes, "this model")
        except UserError as error:
            raise _refusal(str(error)) from None
        pixels = [_decode(number, text) for number, text in enumerate(model_input["image"])]
        if not pixels:
            raise _refusal("no image in the request; expected at least one row")
        scores = [self._model.predict_on_batch(image[None])[0] for image in pixels]
        answer = pd.DataFrame([way.answer(one, self._classes) for one in scores])
        answer["notice"] = self._notice
        return answer


def _open(artifacts: Mapping[str, str], classes: int) -> Network:
    """The exported file, one caller at a time; the Keras model where there is none."""
    if "exported" in artifacts:
        return Pool(Path(artifacts["exported"]), classes, 1)
    return load_saved(Path(artifacts["model"]))


def _decode(number: int, text: object) -> np.ndarray:
    if not isinstance(text, str):
        raise _refusal(f"image {number}: expected base64 text, got {type(text).__name__}")
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise _refusal(f"image {number}: larger than {MAX_BYTES // 2**20} MB")
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _refusal(f"image {number}: not base64 ({error})") from None
    try:
        return decode_image(content)
    except ImageProblem as problem:
        raise _refusal(f"image {number}: {problem}") from None


def _refusal(message: str) -> MlflowException:
    """The caller's mistake, which the server answers with status 400."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ServingModel())
