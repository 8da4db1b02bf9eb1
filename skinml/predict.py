"""Ask a registered model about pictures: `python -m skinml.predict MODEL_URI IMAGE…`."""

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skinml.config import Parser
from skinml.data import demo
from skinml.data.images import ImageProblem, decode_image
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.errors import UserError, run_command
from skinml.models.saved import load_saved
from skinml.progress import progress_bar


def load(uri: str) -> Any:
    """Load a logged Keras model by its URI, such as models:/skinml-mobilenetv2@champion.

    Whoever may register a model chooses what is in it: a pickle, a loader, code of its own, which
    MLflow would run. So only what skinml logs itself is loaded, and nothing of it runs.
    """
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import mlflow

    with tempfile.TemporaryDirectory(prefix="skinml-model-") as name:
        try:
            folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=name))
            description = (folder / "MLmodel").read_text(encoding="utf-8")
        except (mlflow.MlflowException, OSError, ValueError) as error:
            raise UserError(
                f"{uri}: cannot load this model from {mlflow.get_tracking_uri()} "
                f"({str(error).splitlines()[0]}); expected a URI such as "
                "models:/skinml-mobilenetv2@champion, see `python -m skinml.registry list`"
            ) from None
        try:
            _refuse_foreign(description)
            return load_saved(folder / "data" / "model.keras")
        except UserError as error:
            raise UserError(
                f"{uri}: not a Keras model as skinml logs it, and so not loaded: {error}"
            ) from None


def _refuse_foreign(description: str) -> None:
    """Refuse a model that MLflow would load in any way but Keras's, by its file MLmodel."""
    import yaml

    try:
        flavors = yaml.safe_load(description)["flavors"]
        keras, python = flavors.pop("keras"), flavors.pop("python_function")
        loader, code = python["loader_module"], python.get("code")
        where, exported = keras["data"], keras.get("save_exported_model")
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError("its MLmodel has not the flavors keras and python_function") from None
    if flavors:
        raise UserError(f"it has the flavors {', '.join(map(str, flavors))} beside keras")
    if loader != "mlflow.keras":
        raise UserError(f"it is loaded by {loader}, expected mlflow.keras")
    if code or where != "data" or exported:
        raise UserError("it brings code or another format; expected data/model.keras alone")


def is_of_the_demo(uri: str) -> bool:
    """Whether the model of a URI was trained on generated pictures: by its name or its MLmodel."""
    if "skinml-demo-" in uri:
        return True
    from mlflow.models import get_model_info

    return (get_model_info(uri).metadata or {}).get("data") == "demo"


def _refuse_a_photo(content: bytes) -> None:
    """Raise `ImageProblem` for the file of a picture that was not generated."""
    if not demo.is_generated(content):
        raise ImageProblem(
            "not a generated picture, and this model has seen no other: it knows nothing of a "
            "photo; expected a picture of the demo set, or a model trained with data=isic2017"
        )


def predict_files(model: Any, paths: list[Path], of_the_demo: bool = False) -> list[dict[str, Any]]:
    """One answer a file: `file`, then `label` and a score for each class, or `error`.

    A model `of_the_demo` answers about generated pictures alone: a score for a patient's skin
    would be taken for an answer, whatever is written beside it.
    """
    answers = []
    with progress_bar("predicting", len(paths)) as advance:
        for path in paths:
            answer: dict[str, Any] = {"file": str(path)}
            try:
                content = path.read_bytes()
                pixels = decode_image(content)
                if of_the_demo:
                    _refuse_a_photo(content)
                scores = model.predict_on_batch(pixels[None])[0]
                answer["label"] = CLASSES[int(np.argmax(scores))]
                answer |= {name: float(value) for name, value in zip(CLASSES, scores, strict=True)}
            except OSError as error:
                answer["error"] = error.strerror or str(error)
            except ImageProblem as problem:
                answer["error"] = str(problem)
            answers.append(answer)
            advance()
    return answers


def write_answers(
    answers: list[dict[str, Any]], form: str, uri: str, out: TextIO, of_the_demo: bool = False
) -> None:
    """Write answers as `table`, `json` or `csv`; each says that it is not for clinical use."""
    notice = f"{NOTICE} {demo.MODEL_NOTICE}" if of_the_demo else NOTICE
    if form == "json":
        result = {"model": uri, "notice": notice, "predictions": answers}
        out.write(json.dumps(result, indent=2) + "\n")
        return
    answered = [answer for answer in answers if "error" not in answer]
    if form == "csv":
        columns = ["file", "label", *CLASSES, "error", "notice"]
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**answer, "notice": notice} for answer in answers)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(uri), caption=notice, title_justify="left", caption_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("class")
    for name in CLASSES:
        table.add_column(name.replace("_", " "), justify="right")
    for answer in answered:
        scores = [
            f"[bold]{answer[name]:.3f}[/]" if name == answer["label"] else f"{answer[name]:.3f}"
            for name in CLASSES
        ]
        file = Text(Path(answer["file"]).name)
        table.add_row(file, answer["label"].replace("_", " "), *scores)
    Console(file=out).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.predict",
        description="Classify skin-lesion images with a registered model.",
        epilog=NOTICE,
    )
    parser.add_argument("model", help="URI, such as models:/skinml-mobilenetv2@champion")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE",
        help="pictures of skin lesions (JPEG or PNG), of any size",
    )  # fmt: skip
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    options = parser.parse_args(argv)
    if not any(path.is_file() for path in options.images):
        # Before the seconds that loading a model takes.
        shown = ", ".join(map(str, options.images[:3])) + " …" * (len(options.images) > 3)
        raise UserError(f"{shown}: no such file; expected pictures of skin lesions, JPEG or PNG")
    model = load(options.model)
    of_the_demo = is_of_the_demo(options.model)
    answers = predict_files(model, options.images, of_the_demo)
    if options.format != "table" or any("error" not in answer for answer in answers):
        write_answers(answers, options.format, options.model, sys.stdout, of_the_demo)
    unreadable = [answer for answer in answers if "error" in answer]
    for answer in unreadable:
        print(f"skinml: {answer['file']}: {answer['error']}", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
