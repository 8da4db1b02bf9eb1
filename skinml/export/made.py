"""One export: the converted network with what was measured on it."""

import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skinml import __version__
from skinml.base.errors import UserError, first_line
from skinml.base.progress import progress_bar, status_line
from skinml.config import test_views_of
from skinml.evaluation.answering import Chosen
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.scoring import measure_latency, predict_part
from skinml.export.convert import convert
from skinml.export.source import Pictures, Source
from skinml.export.verify import LOSS, Verification, verify
from skinml.models.exported import FILES, Network, open_exported, with_about
from skinml.models.saved import load_saved
from skinml.tracking.folder import RunFolder


class Made(NamedTuple):
    """The content of an exported file, what it was measured at, and ms a picture in one thread."""

    to: str
    precision: str
    content: bytes
    verification: Verification
    milliseconds: float

    def lines(self) -> Iterator[str]:
        """What a person wants to know of it."""
        yield from self.verification.lines()
        size = len(self.content) / 1e6
        yield f"{size:.1f} MB, {self.milliseconds:.1f} ms a picture in one thread of this machine"

    def metrics(self) -> dict[str, float]:
        """The same as metrics of a run."""
        prefix = f"export_{self.to}_{self.precision}_"
        measured = {"mb": len(self.content) / 1e6, "ms": self.milliseconds}
        return {prefix + name: value for name, value in measured.items()} | (
            self.verification.metrics(prefix)
        )


def make(
    source: Source,
    pictures: Pictures,
    to: str,
    precision: str,
    allow_loss: bool = False,
    part: str = "validation",
) -> Made:
    """Convert a network and measure it beside the Keras model, on one part of its run's images.

    What chooses between exports sees the validation part.
    """
    with status_line(f"loading {source.uri}"):
        model = load_saved(source.file)
    rows = pictures.rows(part)
    views = test_views_of(source.params)
    expected = predict_part(model, pictures.data, rows, part, views)
    calibration = pictures.calibration() if precision == "int8" else None
    with status_line(f"converting {source.uri} to {to}, {precision}"):
        content = convert(model, to, precision, calibration)
    with tempfile.TemporaryDirectory(prefix="skinml-export-") as name:
        file = Path(name, FILES[to])
        file.write_bytes(content)
        network = open_exported(file, len(pictures.data.classes))
        answers = _answers(network, pictures, rows)
        if not np.isfinite(answers.scores).all():
            raise UserError(
                f"--to {to} --precision {precision}: the file's scores are no numbers, so nothing "
                "was written; expected another format or precision"
            )
        found = verify(expected, answers, part)
        image = pictures.data.images[rows[:1]]
        milliseconds = measure_latency(network.predict_on_batch, image).median
    about = about_export(source, to, precision, found)
    if found.loses_more_than(LOSS) and allow_loss:
        few = not math.isfinite(found.figures["auc_macro"].low)
        about["warning"] = "exported with --allow-loss: " + (
            "too few validation images to say what its macro AUC has lost"
            if few
            else f"its macro AUC may have lost more than {LOSS:g}"
        )
    return Made(to, precision, with_about(content, to, about), found, milliseconds)


# A run's own export is checked on so many validation images, and may differ by so much.
EXPORT_CHECKED, EXPORT_DIFFERENCE = 16, 1e-4


def export_run(
    folder: RunFolder,
    params: dict[str, str],
    chosen: Chosen,
    model: Any,
    images: np.ndarray,
    expected: np.ndarray,
) -> dict[str, float]:
    """Write the exported file of a run that ends, float32 for LiteRT; its size and speed.

    `expected` (n, K) are the Keras model's scores of `images` (n, 224, 224, 3). Whatever fails, or
    answers otherwise, is a warning and no file: what has trained for hours is not lost for it.
    """
    part = folder.exported.with_suffix(".part.tflite")
    try:
        content = convert(model, "litert", "float32")
        source = Source(folder.path.name, folder.model, params, "", chosen)
        part.write_bytes(with_about(content, "litert", about_export(source, "litert", "float32")))
        network = open_exported(part, expected.shape[1])
        difference = float(np.abs(network.predict_on_batch(images) - expected).max())
        if not difference <= EXPORT_DIFFERENCE:
            raise UserError(
                f"its scores differ by up to {difference:.2g} from the Keras model's, expected "
                f"{EXPORT_DIFFERENCE:g} at most"
            )
        milliseconds = measure_latency(network.predict_on_batch, images[:1], calls=20).median
        part.replace(folder.exported)
    except Exception as error:  # Whatever it is.
        print(
            f"skinml: warning: no exported file, predict and the serving model take Keras: "
            f"{first_line(error)[:300]}",
            file=sys.stderr,
        )
        return {}
    finally:
        part.unlink(missing_ok=True)
    return {
        "export_litert_float32_mb": folder.exported.stat().st_size / 1e6,
        "export_litert_float32_ms": milliseconds,
        "export_litert_float32_largest_difference": difference,
    }


def about_export(
    source: Source, to: str, precision: str, found: Verification | None = None
) -> dict[str, Any]:
    """What an exported file says: of its network, and what was measured on it."""
    said = source.about() | {"format": to, "precision": precision, "skinml": __version__}
    return said | ({"verified": found.as_dict()} if found else {})


def _answers(network: Network, pictures: Pictures, rows: np.ndarray) -> Predictions:
    data = pictures.data
    scores = []
    with progress_bar("asking the exported file", len(rows)) as advance:
        for row in rows:
            scores.append(network.predict_on_batch(data.images[row][None])[0])
            advance()
    table = np.array(scores, dtype=np.float64)
    return Predictions(data.image_ids[rows], data.labels[rows], table, data.classes)
