"""Score predictions as the ISIC 2017 challenge did: `python -m skinml.score FILE --labels CSV`.

One file, as it is one command: reading, scoring and writing. The figures are those of the
challenge's own program (arXiv 1710.05006; `scoreP3.py` of
https://github.com/ImageMarkup/isic-challenge-scoring). The challenge ranked by the mean AUC.
"""

import csv
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from skinml.base.errors import Problems, run_command
from skinml.base.files import read_table
from skinml.base.progress import make_console
from skinml.base.text import csv_cell, markdown_code, markdown_text
from skinml.config import Parser
from skinml.data import demo
from skinml.data.isic2017 import CHALLENGE_TASKS, CSV_COLUMNS, HOMEPAGE, NOTICE, OFFICIAL_PARTS
from skinml.data.official import read_ground_truth
from skinml.evaluation.metrics import auc
from skinml.evaluation.statistics import (
    CONFIDENCE,
    LEAST_OF_A_CLASS,
    RESAMPLES,
    bootstrap_weights,
    percentile_interval,
)

# A score above it, not at it, was a positive answer.
THRESHOLD = 0.5

# The challenge reported the specificity at each of these sensitivities.
SENSITIVITIES = (0.82, 0.89, 0.95)

# SHA-256 of "id class\n" of the official test images in the order of their ids: whatever the
# spelling of the file, the same ids with the same classes.
OFFICIAL_TEST_DIGEST = "2a318d66d48f068ecf790a14093a0b2ce7c0176d38e166bf84feea28edeb6871"

_PICTURE = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_LISTED = 5
_EXPECTED = (
    f"expected: {', '.join(CSV_COLUMNS)}, separated by commas (with or without this header, scores "
    "from 0 to 1), or a predictions table of skinml; one line for each image of the labels; the "
    f"official labels are at {HOMEPAGE}"
)
_LABELS = (
    f"{', '.join(CSV_COLUMNS)}, 0 or 1 in the last two, never 1 in both, as in the official "
    f"{OFFICIAL_PARTS[-1].ground_truth} ({HOMEPAGE})"
)
_LETTERS = 120


class Layout(NamedTuple):
    """Where a file of predictions holds what: its width and the columns of both scores."""

    width: int
    scores: tuple[int, ...]
    # The column of the true class, which only skinml's own predictions tables have.
    label: int | None = None


SUBMISSION = Layout(len(CSV_COLUMNS), tuple(map(CSV_COLUMNS.index, CHALLENGE_TASKS)))


class Value(NamedTuple):
    """One figure of one task (or of the mean of both), the AUCs with a 95 % interval."""

    task: str
    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Score:
    """What the challenge would have said of one file of predictions."""

    predictions: str
    labels: str
    images: int
    positives: dict[str, int]
    official_test: bool
    labels_are: str
    values: list[Value]


def score_file(predictions: Path, labels: Path) -> Score:
    """Score a file of predictions against a ground truth in the official layout.

    `predictions` holds image id, melanoma score and keratosis score, or is a predictions table of
    skinml; the order of its rows is of no account. All that is wrong with either file is told in
    one `UserError`.
    """
    problems = Problems(_LISTED, _LETTERS)
    classes = read_ground_truth(labels, problems)
    for task in CHALLENGE_TASKS if classes else ():
        positives = sum(label == task for label in classes.values())
        if positives in (0, len(classes)):
            problems.add(
                "tasks whose labels have a single class",
                f"{labels.name}: {positives} of {len(classes)} images are {task}, which leaves "
                "no AUC",
            )
    subject, remedy = f"{predictions} cannot be scored", _EXPECTED
    if problems:
        subject += f", as {labels} is no ground truth of the challenge"
        remedy = f"expected of --labels: {_LABELS}{_maybe_swapped(predictions)}"
    if not classes:
        # Without an id to compare with, nothing else can be said of the predictions.
        _read_rows(predictions, problems)
        problems.raise_if_any(subject, remedy)
    scores = _read_scores(predictions, classes, problems)
    problems.raise_if_any(subject, remedy + _maybe_another_part(predictions, classes, scores))
    # In the order of the ids, so that the resamples are the same for the same images.
    ids = sorted(classes)
    truth = np.array([classes[image_id] for image_id in ids])
    official = _digest(classes) == OFFICIAL_TEST_DIGEST
    return Score(
        str(predictions),
        str(labels),
        len(ids),
        {task: int((truth == task).sum()) for task in CHALLENGE_TASKS},
        official,
        _describe(classes, official),
        _values(truth, np.array([scores[image_id] for image_id in ids])),
    )


def _maybe_swapped(predictions: Path) -> str:
    """A hint where the file given as predictions is a ground truth itself."""
    problems = Problems()
    if not read_ground_truth(predictions, problems) or problems:
        return ""
    return f"; {predictions} is one: are the two files swapped?"


def _maybe_another_part(
    predictions: Path, classes: dict[str, str], scores: dict[str, tuple[float, ...]]
) -> str:
    """A hint where a predictions table of skinml is of other images than the labels."""
    # Read without an error before this: no score comes from a file that cannot be.
    if not scores or scores.keys() == classes.keys():
        return ""
    with predictions.open(encoding="utf-8-sig") as lines:
        if not lines.readline().startswith("image_id,label,"):
            return ""
    return (
        "; a run of the `paper` protocol was tested on a part of its own: train with "
        "--protocol challenge for the official test part (`python -m skinml.compare` shows the "
        "challenge's AUCs of any run on its own test part)"
    )


def _digest(classes: dict[str, str]) -> str:
    text = "".join(f"{image_id} {classes[image_id]}\n" for image_id in sorted(classes))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(classes: dict[str, str], official: bool) -> str:
    """A sentence on what the labels are, and so on what the figures can be compared with."""
    images = sum(OFFICIAL_PARTS[-1].counts)
    if official:
        return f"the {images} official test images of ISIC 2017 part 3, same ids and same classes"
    if any(image_id.startswith(demo.ID_PREFIX) for image_id in classes):
        return "generated demo images: no figure of them says anything about skin"
    different = "with other ids or classes" if len(classes) == images else f"{len(classes)} others"
    return (
        f"not the {images} official test images but {different}: not comparable with the "
        "challenge's figures"
    )


def _read_scores(
    path: Path, classes: dict[str, str], problems: Problems
) -> dict[str, tuple[float, ...]]:
    """The scores of each image in the order of CHALLENGE_TASKS; complete if nothing is wrong."""
    rows = _read_rows(path, problems)
    if not rows:
        return {}
    layout, has_header = _layout(rows[0], classes, problems)
    if layout is None:
        return {}
    scores: dict[str, tuple[float, ...]] = {}
    lines: dict[str, int] = {}
    for line, row in rows[has_header:]:
        image_id = _image_id(row[0], classes)
        known = image_id in classes
        if len(row) != layout.width:
            problems.add(
                "wrong number of columns",
                f"line {line}: {','.join(row)} has {len(row)}, expected {layout.width}",
            )
            if known:
                # Named once: it is not missing as well.
                lines.setdefault(image_id, line)
            continue
        if not image_id:
            problems.add("lines without an image id", f"line {line}: {','.join(row)}")
        elif classes and not known:
            problems.add("unknown ids (not in the labels)", f"{image_id} (line {line})")
        elif image_id in lines:
            problems.add("doubled ids", f"{image_id} (lines {lines[image_id]} and {line})")
        lines.setdefault(image_id, line)
        if layout.label is not None and known and row[layout.label].strip() != classes[image_id]:
            problems.add(
                "classes that differ from the labels",
                f"{image_id} (line {line}): {row[layout.label]}, in the labels {classes[image_id]}",
            )
        scores[image_id] = tuple(
            _score(row[column], f"{image_id} (line {line}), {task}", problems)
            for task, column in zip(CHALLENGE_TASKS, layout.scores, strict=True)
        )
    for image_id in sorted(classes.keys() - lines.keys()):
        problems.add("missing ids (in the labels only)", image_id)
    return scores


def _read_rows(path: Path, problems: Problems) -> list[tuple[int, list[str]]]:
    """The rows of a CSV that are not empty, each with its line number."""
    try:
        rows = [(line, row) for line, row in read_table(path) if any(map(str.strip, row))]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        bad = error.object[error.start]
        problems.add("undecodable bytes", f"line {line}: byte 0x{bad:02x}, expected UTF-8 text")
        return []
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        problems.add("unreadable predictions", reason or str(error))
        return []
    if not rows:
        problems.add("empty predictions", "no line with a score")
    return rows


def _layout(
    first: tuple[int, list[str]], classes: dict[str, str], problems: Problems
) -> tuple[Layout | None, bool]:
    """The layout of a file by its first row, and whether that row is a header."""
    line, row = first
    names = tuple(re.sub(r"[\s-]+", "_", field.strip().casefold()) for field in row)
    if names == CSV_COLUMNS:
        return SUBMISSION, True
    if names[:2] == ("image_id", "label") and all(names.count(t) == 1 for t in CHALLENGE_TASKS):
        return Layout(len(names), tuple(map(names.index, CHALLENGE_TASKS)), 1), True
    # A line in one piece is separated by something else than commas, each line to be named.
    data = _image_id(row[0], classes) in classes or any(map(_is_number, row[1:]))
    if data or len(row) == 1:
        return SUBMISSION, False
    # The challenge skipped any header and went by position: with these names that may be wrong.
    problems.add(
        "header with other names, or in another order",
        f"line {line}: {','.join(row)}, expected {','.join(CSV_COLUMNS)} or none",
    )
    return (SUBMISSION if len(row) == SUBMISSION.width else None), True


def _image_id(text: str, classes: dict[str, str]) -> str:
    """An id as the labels spell it: the name of its picture stands for it."""
    text = text.strip()
    bare = _PICTURE.sub("", text)
    return bare if text not in classes and bare in classes else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    # Python's own digit groups: 0_5 is a slip, not a five.
    return "_" not in text


def _score(text: str, where: str, problems: Problems) -> float:
    """A score from 0 to 1; NaN, and told to `problems`, where the text is none."""
    value = float(text) if _is_number(text) else None
    if value is None:
        problems.add("scores that are no number", f"{where}: {text!r}")
    elif math.isnan(value):
        problems.add("scores that are NaN", where)
    elif math.isinf(value):
        problems.add("infinite scores", where)
    elif not 0 <= value <= 1:
        problems.add("scores outside 0 to 1", f"{where}: {text.strip()}")
    else:
        return value
    return math.nan


def _values(truth: np.ndarray, scores: np.ndarray) -> list[Value]:
    """The challenge's figures of classes (N,) str and scores (N, 2) float64."""
    weights = bootstrap_weights(len(truth))
    once = np.ones((1, len(truth)))
    values = []
    point, resampled, carriers = [], [], list[int]()
    for task, column in zip(CHALLENGE_TASKS, scores.T, strict=True):
        positive = truth == task
        point.append(auc(positive, column, once))
        resampled.append(auc(positive, column, weights))
        carriers.append(min(int(positive.sum()), int((~positive).sum())))
        values.append(_with_interval(task, point[-1], resampled[-1], carriers[-1]))
        values += [Value(task, name, v) for name, v in _at_thresholds(positive, column).items()]
    mean = np.mean(point, axis=0), np.mean(resampled, axis=0)
    return [*values, _with_interval("mean", *mean, min(carriers))]


def _with_interval(task: str, point: np.ndarray, resampled: np.ndarray, carriers: int) -> Value:
    """An AUC (1,) with the interval of its resamples (R,), where enough images carry it."""
    low, high = percentile_interval(resampled, carriers)
    known = math.isfinite(low)
    return Value(task, "auc", float(point[0]), low if known else None, high if known else None)


def _at_thresholds(positive: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The challenge's other figures of one task: name → value in 0..1.

    The specificity at a sensitivity is that of the first point which reaches it of scikit-learn's
    ROC curve, as in the challenge's program (`computeSPECMetrics`). That curve leaves out points
    that lie in line with both their neighbours; so with tied scores another threshold may reach the
    sensitivity at a specificity some hundredths higher.

    The average precision of the challenge's program, with a scikit-learn before 0.19, is the area
    below lines that join the points of the curve; today's, a sum of steps, is given beside it.
    """
    from sklearn.metrics import (
        accuracy_score,
        auc,
        average_precision_score,
        precision_recall_curve,
        recall_score,
        roc_curve,
    )

    answer = scores > THRESHOLD
    false_alarms, found, _ = roc_curve(positive, scores)
    precision, recall, _ = precision_recall_curve(positive, scores)
    return {
        "average_precision": float(auc(recall, precision)),
        "average_precision_steps": float(average_precision_score(positive, scores)),
        "accuracy": float(accuracy_score(positive, answer)),
        "sensitivity": float(recall_score(positive, answer)),
        "specificity": float(recall_score(positive, answer, pos_label=False)),
        **{
            f"specificity_at_sensitivity_{sensitivity:g}": float(
                1 - false_alarms[np.argmax(found >= sensitivity)]
            )
            for sensitivity in SENSITIVITIES
        },
    }


_NAMES = {
    "auc": "AUC",
    "auc_ci": "95 % interval",
    "average_precision": "average precision, lines",
    "average_precision_steps": "average precision, steps",
    "accuracy": f"accuracy at {THRESHOLD}",
    "sensitivity": f"sensitivity at {THRESHOLD}",
    "specificity": f"specificity at {THRESHOLD}",
    **{f"specificity_at_sensitivity_{s:g}": f"spec. at sensitivity {s}" for s in SENSITIVITIES},
    "images": "images of the class",
}


def _table(score: Score) -> list[list[str]]:
    """The figures as a reader sees them: a header, a row a figure, a column a task."""
    cells = {("images", task): str(count) for task, count in score.positives.items()}
    for task, metric, value, low, high in score.values:
        cells[metric, task] = f"{value:.3f}"
        if metric == "auc":
            known = low is not None and high is not None
            cells["auc_ci", task] = f"{low:.3f}–{high:.3f}" if known else "too few images"
    tasks = [*CHALLENGE_TASKS, "mean"]
    return [
        ["", *(task.replace("_", " ") for task in tasks)],
        *(
            [name, *(cells.get((metric, task), "") for task in tasks)]
            for metric, name in _NAMES.items()
        ),
    ]


def _remarks(score: Score) -> list[str]:
    return [
        f"{score.images} images; labels: {score.labels_are}.",
        f"Intervals of the AUCs alone: percentile bootstrap over images, {RESAMPLES} resamples, "
        "the same ones for all three; Wilson's for an AUC of 0 or 1; none with fewer than "
        f"{LEAST_OF_A_CLASS} images of a class. What other seeds of the training would do is not "
        "in them.",
        "Average precision: lines between the points of the curve, as the challenge computed it, "
        "and the sum of steps of scikit-learn since 0.19.",
        NOTICE,
    ]


def _write_terminal(score: Score, out: TextIO) -> None:
    from rich.table import Table
    from rich.text import Text

    header, *rows = _table(score)
    table = Table(title=Text(score.predictions), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = make_console(out)
    console.print(table)
    for remark in _remarks(score):
        console.print(Text(remark))


def _write_markdown(score: Score, out: TextIO) -> None:
    header, *rows = _table(score)
    lines = [markdown_code(score.predictions), "", f"| {' | '.join(header)} |"]
    lines.append("| --- |" + " ---: |" * (len(header) - 1))
    lines += [f"| {' | '.join(row)} |" for row in rows]
    out.write(
        "\n".join([*lines, "", *(f"- {markdown_text(remark)}" for remark in _remarks(score))])
        + "\n"
    )


def _write_json(score: Score, out: TextIO) -> None:
    tasks: dict[str, dict[str, float | None]] = {}
    for task, metric, value, low, high in score.values:
        tasks.setdefault(task, {})[metric] = value
        if metric == "auc":
            tasks[task] |= {"auc_ci_low": low, "auc_ci_high": high}
    for task, count in score.positives.items():
        tasks[task]["images_of_the_class"] = count
    document = {
        "notice": NOTICE,
        "predictions": score.predictions,
        "labels": score.labels,
        "images": score.images,
        "official_test": score.official_test,
        "labels_are": score.labels_are,
        "threshold": THRESHOLD,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        **tasks,
    }
    out.write(json.dumps(document, indent=2) + "\n")


def _write_csv(score: Score, out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*Value._fields, "images", "official_test", "labels_are", "notice"])
    about = (score.images, score.official_test, score.labels_are, NOTICE)
    writer.writerows(map(csv_cell, (*value, *about)) for value in score.values)


FORMATS: dict[str, Callable[[Score, TextIO], None]] = {
    "terminal": _write_terminal,
    "json": _write_json,
    "csv": _write_csv,
    "markdown": _write_markdown,
}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.score",
        description="Score a file of predictions as the ISIC 2017 challenge, part 3, did.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS.csv",
        help="image id, melanoma score, keratosis score; or a predictions table of skinml",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="GROUND_TRUTH.csv",
        help=f"ground truth in the official layout, such as {OFFICIAL_PARTS[-1].ground_truth}",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="terminal")
    options = parser.parse_args(argv)
    FORMATS[options.format](score_file(options.predictions, options.labels), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
