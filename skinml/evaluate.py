"""Test a registered model on another data set: `python -m skinml.evaluate MODEL_URI --data PATH`.

An external test: pictures from elsewhere, with classes that need not be the model's own. It is a
run of its own, which names the model, and never stands among the runs that it is compared with.
"""

import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.base.errors import Problems, UserError, run_command
from skinml.base.files import require_place, whole_folder
from skinml.base.progress import progress_bar, status_line
from skinml.config import AUTO, Parser, test_views_of
from skinml.data.datasets import DATASETS, classes_said, find_dataset
from skinml.data.isic2017 import NOTICE
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.evaluation.figures import FIGURES, FigureData, draw_figures
from skinml.evaluation.headline import headline_figures, headline_table
from skinml.evaluation.predictions import Predictions, write_predictions
from skinml.evaluation.results import evaluate_table
from skinml.export.source import Source, open_source
from skinml.models.inference import INFERENCE_BATCH, infer
from skinml.models.saved import load_saved
from skinml.store.external import log_external, version_of

PREFIX = "external"


class Mapped(NamedTuple):
    """The pictures that can be asked about: their rows, and the model's class of each (n,) int64.

    `left_out` counts the others by their class, which the model does not have.
    """

    rows: np.ndarray
    labels: np.ndarray
    left_out: dict[str, int]


def read_map(path: Path, theirs: tuple[str, ...], ours: tuple[str, ...]) -> dict[str, str]:
    """The model's class of each class of a data set, by a CSV table with the columns data,model.

    All that is wrong with it is told in one `UserError`.
    """
    problems = Problems()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--map {path}: cannot be read ({error}); expected a CSV table") from None
    if header != ["data", "model"]:
        problems.add("wrong columns", f"{','.join(header)}, expected data,model")
    found: dict[str, str] = {}
    for line, row in enumerate(rows if not problems else [], start=2):
        where = f"line {line}: {','.join(row)}"
        if len(row) != 2:
            problems.add("lines without two classes", where)
        elif row[0] not in theirs:
            problems.add("classes that the data set has not", f"{where}; it has {_list(theirs)}")
        elif row[1] not in ours:
            problems.add("classes that the model has not", f"{where}; it has {_list(ours)}")
        elif row[0] in found:
            problems.add("classes mapped twice", where)
        else:
            found[row[0]] = row[1]
    problems.raise_if_any(f"--map {path}", "remedy: mend these lines; a class may be left out")
    return found


def _list(classes: tuple[str, ...]) -> str:
    return ", ".join(classes)


def map_classes(data: PreparedSet, classes: tuple[str, ...], mapping: Mapping[str, str]) -> Mapped:
    """Which pictures have a class of the model; a `UserError` where fewer than two classes do."""
    index = [classes.index(mapping[c]) if c in mapping else -1 for c in data.classes]
    labels = np.array(index, dtype=np.int64)[data.labels]
    rows = np.flatnonzero(labels >= 0)
    if len(set(labels[rows].tolist())) < 2:
        raise UserError(
            f"of the classes {_list(data.classes)} fewer than two with pictures are classes of the "
            f"model ({_list(classes)}); expected equal names, or --map FILE with the columns "
            "data,model"
        )
    others = Counter(data.classes[label] for label in data.labels[labels < 0])
    return Mapped(rows, labels[rows], dict(sorted(others.items())))


def evaluate(
    source: Source, data: PreparedSet, mapped: Mapped, classes: tuple[str, ...]
) -> Predictions:
    """The model's scores of the pictures that have a class of its own."""
    with status_line(f"loading {source.uri}"):
        model = load_saved(source.file)
    views = test_views_of(source.params)
    with progress_bar("predicting", len(mapped.rows)) as advance:
        batch = INFERENCE_BATCH // views
        scores = infer(model, data.images, mapped.rows, advance, batch).astype(np.float64)
    if scores.shape[1] != len(classes):
        raise UserError(
            f"{source.uri} gives {scores.shape[1]} scores, and its run names {len(classes)} "
            "classes; expected a model as skinml logs it"
        )
    facts = {name: values[mapped.rows] for name, values in data.subgroups.items()}
    return Predictions(data.image_ids[mapped.rows], mapped.labels, scores, classes, facts)


def describe(
    source: Source, data_name: str, table: Predictions, mapped: Mapped, metrics: dict[str, float]
) -> str:
    """What the test found, in Markdown."""
    counts = np.bincount(table.labels, minlength=len(table.classes))
    told = ", ".join(
        f"{n} {name.replace('_', ' ')}" for name, n in zip(table.classes, counts, strict=True) if n
    )
    trained_on = find_dataset(source.params["data"]).name
    lines = [
        f"**External test** of {version_of(source.uri)} ({source.params['model']}, trained on "
        f"{trained_on}) on {data_name}: {len(table.labels)} images ({told}).",
        "",
    ]
    if mapped.left_out:
        others = ", ".join(f"{n} {name}" for name, n in mapped.left_out.items())
        lines += [f"Left out, as the model has no such class: {others}.", ""]
    lines += headline_table(headline_figures(metrics, PREFIX, table.classes), "metric", 4)
    further = DATASETS[trained_on].notice if trained_on in DATASETS else ""
    return "\n".join([*lines, "", f"{NOTICE} {further}".rstrip(), ""])


def write_test(
    folder: Path, title: str, data: PreparedSet, table: Predictions, mapped: Mapped,
    metrics: dict[str, float], note: str,
) -> None:  # fmt: skip
    """Write the predictions table, metrics, figures and the note of a test into a folder."""
    write_predictions(table, folder / "predictions_external.csv")
    known = {name: value for name, value in metrics.items() if np.isfinite(value)}
    (folder / "metrics.json").write_text(json.dumps(known, indent=2) + "\n")
    (folder / "note.md").write_text(note, encoding="utf-8")
    drawn = FigureData(title, table, [], 0, lambda some: data.images[mapped.rows[some]])
    # Nothing was trained here.
    draw_figures(drawn, folder / "figures", [name for name in FIGURES if name != "learning_curves"])


def _parser() -> Parser:
    parser = Parser(
        prog="python -m skinml.evaluate",
        description="Test a registered model on another data set than its own.",
        epilog=NOTICE,
    )
    parser.add_argument("model", help="URI, such as models:/skinml-mobilenetv2@champion")
    parser.add_argument(
        "--data", required=True, metavar="NAME|PATH",
        help=f"the other data set: {', '.join(DATASETS)}, or your own pictures by their path",
    )  # fmt: skip
    parser.add_argument("--data_dir", "--data-dir", default=AUTO, help="folder of its files")
    parser.add_argument(
        "--map", type=Path, metavar="FILE",
        help="CSV table with the columns data,model: the model's class of each class of the data "
        "(default: equal names)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="write the test here, a new folder or an empty one, instead of into MLflow",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.out:
        require_place(options.out)
    name = find_dataset(options.data).name
    data = open_data(options.data, options.data_dir)
    with open_source(options.model) as source:
        if not source.run_id and not options.out:
            raise UserError(
                f"{options.model}: no model of a store; expected --out FOLDER for its test"
            )
        classes = classes_said(source.params)
        if data.digest == source.params["data_digest"]:
            raise UserError(
                f"{options.model} was trained on these very pictures ({name}); expected others: "
                "what it does on its own test part is in its run"
            )
        mapping = {c: c for c in data.classes if c in classes}
        if options.map:
            mapping = read_map(options.map, data.classes, classes)
        mapped = map_classes(data, classes, mapping)
        table = evaluate(source, data, mapped, classes)
    metrics = evaluate_table(table, PREFIX)
    note = describe(source, name, table, mapped, metrics)
    title = f"{version_of(source.uri)}\nexternal test on {name}"
    if options.out:
        with whole_folder(options.out) as folder:
            write_test(folder, title, data, table, mapped, metrics, note)
        print(f"{note}\nwritten to {options.out}")
        return 0
    tags = {
        "model": source.params["model"], "model_version": version_of(source.uri),
        "trained_by": source.run_id, "trained_on": find_dataset(source.params["data"]).name,
        "data": name, "data_digest": data.digest, "images": str(len(table.labels)),
        "left_out": json.dumps(mapped.left_out, ensure_ascii=False), "mlflow.note.content": note,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        write_test(Path(scratch), title, data, table, mapped, metrics, note)
        known = {key: value for key, value in metrics.items() if np.isfinite(value)}
        run_id = log_external(Path(scratch), f"external-{name}", source.run_id, tags, known)
    print(f"{note}\nlogged as run {run_id}; `python -m skinml.compare` shows it beside the others")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
