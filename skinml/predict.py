"""Ask a registered model about pictures: `python -m skinml.predict MODEL_URI IMAGE…`."""

import csv
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skinml.config import Parser
from skinml.data import demo
from skinml.data.images import ImageProblem, decode_image
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.data.official import is_picture
from skinml.errors import UserError, first_line, run_command
from skinml.files import write_whole
from skinml.models.saved import load_saved
from skinml.progress import make_console, progress_bar, status_line
from skinml.tracking.read import size_of
from skinml.tracking.store import ask, check_store

_PICTURES = "pictures of skin lesions, JPEG or PNG"

# models:/skinml-NAME-serving@champion, …/3, or runs:/ID/serving: as `skinml.registry` names them.
_SERVING = re.compile(
    r"(?P<name>models:/[^/@]+)-serving(?P<which>[@/].+)|(?P<run>runs:/.+/)serving"
)


def load(uri: str) -> Any:
    """Load a logged Keras model by its URI, such as models:/skinml-mobilenetv2@champion.

    Whoever may register a model chooses what is in it: a pickle, a loader, code of its own, which
    MLflow would run. So only what skinml logs itself is loaded, and nothing of it runs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is a status line
    import mlflow

    with tempfile.TemporaryDirectory(prefix="skinml-model-") as name:
        if uri.startswith(("models:", "runs:", "mlflow-artifacts:")):
            check_store(mlflow.get_tracking_uri())
        try:
            folder = Path(
                ask(
                    lambda: mlflow.artifacts.download_artifacts(uri, dst_path=name),
                    progress=lambda: size_of(Path(name)),
                )
            )
            description = (folder / "MLmodel").read_text(encoding="utf-8")
        except (mlflow.MlflowException, OSError, ValueError) as error:
            raise UserError(
                f"{uri}: cannot load this model from {mlflow.get_tracking_uri()} "
                f"({first_line(error)}); expected a URI such as "
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


def find_pictures(given: list[Path]) -> list[Path]:
    """The files that are given and, of each folder, its pictures by name.

    A folder without any stands for itself, so that it is told with the files that are missing.
    """
    paths: list[Path] = []
    for path in given:
        inside = sorted(p for p in path.iterdir() if is_picture(p)) if path.is_dir() else []
        paths += inside or [path]
    return paths


def read_picture(path: Path, of_the_demo: bool = False) -> np.ndarray:
    """The pixels of a file as a network sees them; `ImageProblem` where there are none.

    For a model `of_the_demo` any picture that was not generated is one.
    """
    if path.is_dir():
        raise ImageProblem(f"a folder without pictures; expected {_PICTURES}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageProblem(error.strerror or str(error)) from None
    pixels = decode_image(content)
    if of_the_demo:
        _refuse_a_photo(content)
    return pixels


def find_problems(paths: list[Path], of_the_demo: bool = False) -> dict[Path, dict[str, Any]]:
    """An answer for each file that cannot be used: `file` and `error`.

    Reads and decodes all of them, and keeps no pixels: ten thousand pictures have 1.5 GB.
    """
    problems: dict[Path, dict[str, Any]] = {}
    with progress_bar("reading", len(paths)) as advance:
        for path in paths:
            try:
                read_picture(path, of_the_demo)
            except ImageProblem as problem:
                problems[path] = {"file": str(path), "error": str(problem)}
            advance()
    return problems


def is_of_the_demo(uri: str) -> bool:
    """Whether the model of a URI was trained on generated pictures, by its MLmodel."""
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
                scores = model.predict_on_batch(read_picture(path, of_the_demo)[None])[0]
                answer["label"] = CLASSES[int(np.argmax(scores))]
                answer |= {name: float(value) for name, value in zip(CLASSES, scores, strict=True)}
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
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(uri), caption=Text(notice), title_justify="left", caption_justify="left"
    )
    table.add_column("file", overflow="fold")
    table.add_column("class", no_wrap=True)
    for name in CLASSES:
        table.add_column(name.replace("_", "\n"), justify="right")
    for answer in answered:
        scores = [
            f"[bold]{answer[name]:.3f}[/]" if name == answer["label"] else f"{answer[name]:.3f}"
            for name in CLASSES
        ]
        file = Text(Path(answer["file"]).name)
        table.add_row(file, answer["label"].replace("_", " "), *scores)
    make_console(out).print(table)


def _refuse_serving(uri: str) -> None:
    if found := _SERVING.fullmatch(uri):
        keras = found["run"] + "model" if found["run"] else found["name"] + found["which"]
        raise UserError(
            f"{uri}: this is the model for `mlflow models serve`; expected the Keras model of the "
            f"same run: {keras}"
        )


def _require_writable(out: Path) -> None:
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: expected a file in a folder that exists and may be written")


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.predict",
        description="Classify skin-lesion images with a registered model.",
        epilog=NOTICE,
    )
    parser.add_argument("model", help="URI, such as models:/skinml-mobilenetv2@champion")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE",
        help="pictures of skin lesions (JPEG or PNG) of any size, or folders of them",
    )  # fmt: skip
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="write the answers to a file, in the same format, instead of printing them",
    )  # fmt: skip
    options = parser.parse_args(argv)
    # All that can be wrong is told before the seconds that loading a model takes.
    _refuse_serving(options.model)
    if options.out:
        _require_writable(options.out)
    paths = find_pictures(options.images)
    of_the_demo = "skinml-demo-" in options.model
    problems = find_problems(paths, of_the_demo)
    _tell(problems.values())
    usable = [path for path in paths if path not in problems]
    if not usable:
        what = "pictures of the demo set" if of_the_demo else _PICTURES
        raise UserError(f"no picture to ask {options.model} about; expected {what}")
    with status_line(f"loading {options.model}"):
        model = load(options.model)
    of_the_demo = of_the_demo or is_of_the_demo(options.model)
    answered = predict_files(model, usable, of_the_demo)
    _tell(answered)
    in_turn = iter(answered)
    answers = [problems[path] if path in problems else next(in_turn) for path in paths]
    if options.out:
        text = io.StringIO()
        write_answers(answers, options.format, options.model, text, of_the_demo)
        try:
            write_whole(options.out, text.getvalue())
        except OSError as error:
            raise UserError(
                f"--out {options.out}: cannot be written ({error.strerror}); what was there is as "
                "it was: free some space, or give another file"
            ) from None
        print(f"wrote {options.out}", file=sys.stderr)
    else:
        write_answers(answers, options.format, options.model, sys.stdout, of_the_demo)
    return 1 if any("error" in answer for answer in answers) else 0


def _tell(answers: Iterable[dict[str, Any]]) -> None:
    for answer in answers:
        if "error" in answer:
            print(f"skinml: {answer['file']}: {answer['error']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
