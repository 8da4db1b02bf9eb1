"""Ask a registered model about pictures: `python -m skinml.predict MODEL_URI IMAGE…`.

One file, as it is one command: the model, the pictures, and what is said of each.
"""

import csv
import io
import json
import os
import re
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeVar

import numpy as np

from skinml.base.errors import UserError, run_command
from skinml.base.files import is_stream, read_file, why_no_place, write_out
from skinml.base.processes import usable_cores
from skinml.base.progress import make_console, progress_bar, status_line
from skinml.base.text import csv_cell
from skinml.config import AUTO, Parser
from skinml.data import demo
from skinml.data.images import ImageProblem, decode_image
from skinml.data.isic2017 import NOTICE
from skinml.data.official import MAX_ENTRY_BYTES, is_picture
from skinml.data.pipeline import slices
from skinml.evaluation.answering import HIGHEST, NOTHING, Asked, Way, find_way, read_chosen
from skinml.evaluation.operating_point import read_rule
from skinml.models.exported import FILES, Network, Pool, format_of, is_installed, read_about
from skinml.models.inference import INFERENCE_BATCH
from skinml.models.saved import load_saved
from skinml.store.model_files import (
    DESCRIPTION,
    EXPORTED,
    classes_of,
    download,
    fetch,
    foreign,
    is_of_the_demo,
    keras_file,
    metadata_of,
    read_description,
)

if TYPE_CHECKING:
    from rich.table import Table

Result = TypeVar("Result")

# What answers; auto takes LiteRT where the model has a file for it, else Keras.
RUNTIMES = (AUTO, "litert", "onnx", "keras")

_PICTURES = "pictures of skin lesions, JPEG, PNG, AVIF, TIFF, BMP, HEIC or DICOM"

# models:/skinml-NAME-serving@champion, …/3, or runs:/ID/serving: as `skinml.registry` names them.
_SERVING = re.compile(
    r"(?P<name>models:/[^/@]+)-serving(?P<which>[@/].+)|(?P<run>runs:/.+/)serving"
)


class Loaded(NamedTuple):
    """A network to ask: a Keras model, or an exported file; its classes in the order of its scores.

    `of_the_demo`: whether the demo set trained it; `way`: how its answers come about.
    """

    network: Network
    classes: tuple[str, ...]
    of_the_demo: bool = False
    way: Way = HIGHEST


def load(uri: str, runtime: str = AUTO, callers: int = 1, asked: Asked = NOTHING) -> Loaded:
    """Load a model by its URI, such as models:/skinml-mobilenetv2@champion, or an exported file.

    With `runtime="auto"` the exported file is asked where the model has one, in which case neither
    TensorFlow nor Keras is loaded, nor MLflow where its files can be had without; else Keras.
    `callers` may ask an exported file at once. What is `asked` for and the model does not carry is
    a `UserError`. Nothing that came with a model runs.
    """
    path = Path(uri)
    if kind := format_of(path):
        if runtime not in (AUTO, kind):
            raise UserError(f"--runtime {runtime}: {uri} is for {kind}; expected {kind} or {AUTO}")
        about = read_about(path)
        classes = tuple(about["classes"])
        way = find_way(asked, read_chosen(about, classes), classes, uri)
        network = Pool(path, len(classes), callers)
        return Loaded(network, classes, about.get("data") == "demo", way)
    if runtime == "onnx":
        raise UserError(f"--runtime onnx: expected a file {FILES['onnx']}, got {uri}")
    may_be_exported = runtime == "litert" or (runtime == AUTO and is_installed("litert"))
    # A network that LiteRT has opened keeps its file open where Windows would not delete it.
    with tempfile.TemporaryDirectory(prefix="skinml-model-", ignore_cleanup_errors=True) as name:
        folder = None
        if may_be_exported:
            folder = fetch(uri, (DESCRIPTION, EXPORTED), Path(name, "exported"))
        folder = folder or download(uri, Path(name))
        description = read_description(folder)
        keras = keras_file(uri, folder, description)
        of_the_demo = is_of_the_demo(description)
        try:
            classes = classes_of(description)
        except UserError as error:
            raise foreign(uri, str(error)) from None
        way = find_way(asked, read_chosen(metadata_of(description), classes), classes, uri)
        if may_be_exported and (folder / EXPORTED).is_file():
            network = Pool(folder / EXPORTED, len(classes), callers)
            return Loaded(network, classes, of_the_demo, way)
        if runtime == "litert":
            raise UserError(
                f"--runtime litert: {uri} has no exported file; expected a model that has one, "
                f"--runtime keras, or a file that `python -m skinml.export {uri}` writes"
            )
        try:
            return Loaded(load_saved(keras), classes, of_the_demo, way)
        except UserError as error:
            raise foreign(uri, str(error)) from None


def find_pictures(given: list[Path]) -> list[Path]:
    """The files that are given and, of each folder, its pictures by name.

    A folder without any, or that nobody may look into, stands for itself, so that it is told with
    the files that are missing.
    """
    paths: list[Path] = []
    for path in given:
        try:
            inside = sorted(p for p in path.iterdir() if is_picture(p)) if path.is_dir() else []
        except OSError:
            inside = []
        paths += inside or [path]
    return paths


def read_picture(path: Path, of_the_demo: bool = False) -> np.ndarray:
    """The pixels of a file as a network sees them; `ImageProblem` where there are none.

    For a model `of_the_demo` any picture that was not generated is one.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # One that nobody may look into says so.
            raise ImageProblem(f"a folder without pictures; expected {_PICTURES}")
        content = read_file(path, MAX_ENTRY_BYTES)
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

    def problem_of(path: Path) -> str:
        try:
            read_picture(path, of_the_demo)
        except ImageProblem as problem:
            return str(problem)
        return ""

    for path, problem in zip(paths, _at_once(problem_of, paths, "reading"), strict=True):
        if problem:
            problems[path] = {"file": str(path), "error": problem}
    return problems


def _at_once(
    work: Callable[[Path], Result], paths: list[Path], doing: str, workers: int = 0
) -> Iterator[Result]:
    """What `work` makes of each path, in their order; as many at once as there are cores."""
    with (
        ThreadPoolExecutor(workers or usable_cores()) as pool,
        progress_bar(doing, len(paths)) as advance,
    ):
        for result in pool.map(work, paths):
            yield result
            advance()


def _refuse_a_photo(content: bytes) -> None:
    """Raise `ImageProblem` for the file of a picture that was not generated."""
    if not demo.is_generated(content):
        raise ImageProblem(
            "not a generated picture, and this model has seen no other: it knows nothing of a "
            "photo; expected a picture of the demo set, or a model trained with data=isic2017"
        )


def predict_files(
    model: Any,
    classes: tuple[str, ...],
    paths: list[Path],
    of_the_demo: bool = False,
    way: Way = HIGHEST,
) -> list[dict[str, Any]]:
    """One answer a file: `file`, then what `way` makes of its scores, or `error`.

    A model `of_the_demo` answers about generated pictures alone: a score for a patient's skin
    would be taken for an answer, whatever is written beside it.
    """

    def answer(path: Path) -> dict[str, Any]:
        answer: dict[str, Any] = {"file": str(path)}
        try:
            scores = model.predict_on_batch(read_picture(path, of_the_demo)[None])[0]
            if len(scores) != len(classes):
                raise UserError(
                    f"the model gives {len(scores)} scores and names {len(classes)} classes; "
                    "expected a score for each: it is not as skinml logged it"
                )
            answer |= way.answer(scores, classes)
        except ImageProblem as problem:
            answer["error"] = str(problem)
        return answer

    return list(_at_once(answer, paths, "predicting", getattr(model, "callers", 1)))


def explain_files(
    loaded: Loaded, answers: list[dict[str, Any]], folder: Path, of_the_demo: bool = False
) -> None:
    """Draw each answer with its picture and the map of its class as a PNG in `folder`.

    A file's is called after it: lesion.jpg has lesion-map.png, another lesion.png lesion-map-2.png.
    """
    from skinml.explain.drawing import draw_answer
    from skinml.explain.maps import Explainer

    explainer = Explainer(loaded.network)
    folder.mkdir(exist_ok=True)
    names: Counter[str] = Counter()
    with progress_bar("drawing maps", len(answers)) as advance:
        for part in slices(len(answers), INFERENCE_BATCH):
            paths = [Path(answer["file"]) for answer in answers[part]]
            pixels = np.stack([read_picture(path, of_the_demo) for path in paths])
            maps = explainer.maps(pixels, np.arange(len(pixels)))
            for answer, path, image, own in zip(answers[part], paths, pixels, maps, strict=True):
                names[path.stem] += 1
                nth = f"-{names[path.stem]}" if names[path.stem] > 1 else ""
                draw_answer(
                    image,
                    own[loaded.classes.index(answer["label"])],
                    answer["label"],
                    {label: answer[label] for label in loaded.classes},
                    path.name,
                    folder / f"{path.stem}-map{nth}.png",
                    demo.MODEL_NOTICE if of_the_demo else "",
                )
                advance()


def write_answers(
    answers: list[dict[str, Any]],
    classes: tuple[str, ...],
    form: str,
    uri: str,
    out: TextIO,
    of_the_demo: bool = False,
    way: Way = HIGHEST,
) -> None:
    """Write answers as `table`, `json` or `csv`; each says that it is not for clinical use."""
    notice = f"{NOTICE} {demo.MODEL_NOTICE}" if of_the_demo else NOTICE
    if form == "json":
        result = {"model": uri, "notice": notice, **way.about(), "predictions": answers}
        out.write(json.dumps(result, indent=2) + "\n")
        return
    if form == "csv":
        columns = ["file", "label", *classes, *way.columns, "error", "notice"]
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: csv_cell(value) for name, value in answer.items()} | {"notice": notice}
            for answer in answers
        )
        return
    answered = [answer for answer in answers if "error" not in answer]
    make_console(out).print(_table(answered, classes, uri, notice, way))


# So many classes have a column each in a table; the scores of more stand in one: 80 columns of a
# terminal would leave each a digit or two.
_MOST_COLUMNS = 4


def _table(
    answered: list[dict[str, Any]], classes: tuple[str, ...], uri: str, notice: str, way: Way
) -> "Table":
    """The answers as a table. Where it is narrow names fold, and no number is cut off."""
    from rich.table import Table
    from rich.text import Text

    caption = Text("\n".join(filter(None, (str(way), notice))))
    table = Table(title=Text(uri), caption=caption, title_justify="left", caption_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    together = len(classes) > _MOST_COLUMNS
    if together:
        table.add_column("scores", overflow="fold")
    for name in () if together else classes:
        heading = Text(name.replace("_", "\n"))
        table.add_column(heading, justify="right", overflow="fold", min_width=len("0.000"))
    if way.point:
        width = len("near +0.000")
        table.add_column("score −\nthreshold", justify="right", no_wrap=True, min_width=width)
    for answer in answered:
        in_order = sorted(classes, key=lambda name: -answer[name]) if together else classes
        scores = [
            Text(
                f"{name.replace('_', ' ')} {answer[name]:.3f}"
                if together
                else f"{answer[name]:.3f}",
                style="bold" if name == answer["label"] else "",
            )
            for name in in_order
        ]
        cells = [Text(", ").join(scores)] if together else scores
        if way.point:
            near = "near " if answer["near"] else ""
            cells.append(Text(f"{near}{answer['margin']:+.3f}"))
        file = Text(Path(answer["file"]).name)
        table.add_row(file, Text(answer["label"].replace("_", " ")), *cells)
    return table


def _refuse_serving(uri: str) -> None:
    if found := _SERVING.fullmatch(uri):
        keras = found["run"] + "model" if found["run"] else found["name"] + found["which"]
        raise UserError(
            f"{uri}: this is the model for `mlflow models serve`; expected the Keras model of the "
            f"same run: {keras}"
        )


def _require_writable(out: Path) -> None:
    # Of a file its folder: it is replaced. Of a link both are those of its target.
    if reason := why_no_place(out):
        raise UserError(f"--out {out}: {reason}; expected a file in a folder that may be written")
    place = out if is_stream(out) else Path(os.path.realpath(out)).parent
    if out.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--out {out}: expected a file in a folder that exists and may be written")


def _check_explain(folder: Path, model: str, runtime: str) -> None:
    """Refuse, before a model is loaded, what cannot have maps or no place for them."""
    if format_of(Path(model)) or runtime not in (AUTO, "keras"):
        raise UserError(
            f"--explain: an exported file has no gradient to draw maps from ({model}, --runtime "
            f"{runtime}); expected a model's URI, and --runtime keras or {AUTO}"
        )
    if reason := why_no_place(folder):
        raise UserError(f"--explain {folder}: {reason}; expected a folder that may be written")
    place = folder if folder.exists() else folder.absolute().parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--explain {folder}: expected a folder to write to, or a place for one")


def _parse(argv: list[str] | None) -> Namespace:
    parser = Parser(
        prog="python -m skinml.predict",
        description="Classify skin-lesion images with a registered model.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "model", help="URI, such as models:/skinml-mobilenetv2@champion, or a file of skinml.export"
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE",
        help=f"{_PICTURES}, of any size, or folders of them",
    )  # fmt: skip
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="write the answers to a file, in the same format, instead of printing them",
    )  # fmt: skip
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default=AUTO,
        help="what answers: the model's exported file, or Keras; auto: that file where it has one",
    )  # fmt: skip
    parser.add_argument(
        "--operating_point", "--operating-point", default="", metavar="NAME",
        help="decide by a threshold that the model's run chose on validation, and say how near the "
        "score lies: sensitivity:0.82, specificity:0.9, youden … (default: the highest score)",
    )  # fmt: skip
    parser.add_argument(
        "--calibrated", action="store_true",
        help="scores at the temperature that the model's run fitted on validation, if it helped",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="FOLDER",
        help="draw each answer with a map of what speaks for it, as a PNG in this folder; it takes "
        "the Keras model, which loads for some seconds",
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    asked = Asked(options.operating_point, options.calibrated)
    # All that can be wrong is told before the seconds that loading a model takes.
    _refuse_serving(options.model)
    if asked.operating_point:
        read_rule(asked.operating_point)
    if options.out:
        _require_writable(options.out)
    runtime = options.runtime
    if options.explain:
        _check_explain(options.explain, options.model, runtime)
        runtime = "keras"
    paths = find_pictures(options.images)
    of_the_demo = "skinml-demo-" in options.model
    problems = find_problems(paths, of_the_demo)
    _tell(problems.values())
    usable = [path for path in paths if path not in problems]
    if not usable:
        what = "pictures of the demo set" if of_the_demo else _PICTURES
        raise UserError(f"no picture to ask {options.model} about; expected {what}")
    with status_line(f"loading {options.model}"):
        loaded = load(options.model, runtime, min(len(usable), usable_cores()), asked)
    of_the_demo = of_the_demo or loaded.of_the_demo
    answered = predict_files(loaded.network, loaded.classes, usable, of_the_demo, loaded.way)
    _tell(answered)
    if options.explain:
        drawn = [answer for answer in answered if "error" not in answer]
        explain_files(loaded, drawn, options.explain, of_the_demo)
        print(f"skinml: maps of {len(drawn)} answers are in {options.explain}", file=sys.stderr)
    in_turn = iter(answered)
    answers = [problems[path] if path in problems else next(in_turn) for path in paths]
    told = answers, loaded.classes, options.format, options.model
    if options.out:
        text = io.StringIO()
        write_answers(*told, text, of_the_demo, loaded.way)
        write_out(options.out, text.getvalue())
        print(f"wrote {options.out}", file=sys.stderr)
    else:
        write_answers(*told, sys.stdout, of_the_demo, loaded.way)
    return 1 if any("error" in answer for answer in answers) else 0


def _tell(answers: Iterable[dict[str, Any]]) -> None:
    for answer in answers:
        if "error" in answer:
            print(f"skinml: {answer['file']}: {answer['error']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
