"""The serving model, logged as code: base64 pictures in, class and scores out.

MLflow copies this file and the package beside the model, and runs it where the model is served.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image
from skinml.data.isic2017 import CLASSES
from skinml.models.saved import load_saved

# An original of ISIC 2017 has up to 7 MB.
MAX_BYTES = 32 * 1024 * 1024


class ServingModel(PythonModel):
    """Answers a column `image` of base64 JPEGs or PNGs of any size.

    A row that is no usable picture rejects the request with its number and the reason.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network and have it answer once, so that the first caller waits no longer.

        What it computes is compiled by its first answer: seconds, in which nobody waits yet.
        """
        self._model = load_saved(Path(context.artifacts["model"]))
        self._notice = context.model_config["notice"]
        picture = io.BytesIO()
        Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)).save(picture, "JPEG")
        image = base64.b64encode(picture.getvalue()).decode()
        self.predict(context, pd.DataFrame({"image": [image]}))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """One row an image: `label`, a score for each class, `notice`."""
        pixels = [_decode(number, text) for number, text in enumerate(model_input["image"])]
        if not pixels:
            raise _refusal("no image in the request; expected at least one row")
        scores = np.concatenate(
            [self._model.predict_on_batch(image[None]) for image in pixels]
        ).astype(float)
        answer = pd.DataFrame(scores, columns=list(CLASSES))
        answer.insert(0, "label", [CLASSES[index] for index in scores.argmax(axis=1)])
        answer["notice"] = self._notice
        return answer


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
