"""Whom networks serve, and what tells a class without looking at the lesion.

    python -m benchmarks.subgroups --data_dir FOLDER --out results/subgroups

Three tables: how well age, sex or a picture's border alone predict a class (a network as good may
have learned no more); the committed runs by groups of their test images, with the AUC among
patients of one age; how often the detectors of `skinml.evaluation.appearance` err, by pictures that
were looked at by eye. Needs the files of ISIC 2017; there is no network in it.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from skinml.base.errors import UserError, run_command
from skinml.compare.document import Document
from skinml.compare.formats.markdown import to_markdown
from skinml.config import AUTO
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.evaluation.appearance import Appearance, appearances
from skinml.evaluation.metrics import auc
from skinml.evaluation.predictions import Predictions, read_predictions
from skinml.evaluation.results import evaluate_tables
from skinml.evaluation.statistics import bootstrap_weights, percentile_interval
from skinml.evaluation.subgroups import figures_of_run, write_subgroups
from skinml.run.subgroups import subgroup_blocks

RESULTS = Path(__file__).parents[1] / "results"

# Committed runs that have a table by groups each, with the threshold that their validation table
# gave. Of the official test part no age is known; the paper's protocol pools all images.
RUNS = (
    "nine-runs/runs/mobilenet-16-seed1-split0",
    *(f"challenge-mobilenetv2-16/seed{seed}" for seed in (1, 2, 3)),
)

FOLDS = 10
_BORDER, _PIECES = 16, 7


class Shortcut(NamedTuple):
    """How well something tells a class from the others, cross-validated."""

    known: str
    label: str
    images: int
    positives: int
    auc: float
    low: float
    high: float


def border(images: np.ndarray) -> np.ndarray:
    """Mean and spread of the colours of a frame of 16 pixels, in 28 pieces: (N, 168) float64."""
    count, side, width = len(images), images.shape[1], images.shape[1] // _PIECES
    pieces = []
    for start in range(0, side, width):
        along, ends = slice(start, start + width), (slice(0, _BORDER), slice(-_BORDER, None))
        pieces += [images[:, along, end] for end in ends] + [images[:, end, along] for end in ends]
    flat = [piece.reshape(count, -1, 3).astype(np.float32) for piece in pieces]
    return np.concatenate([np.hstack([p.mean(axis=1), p.std(axis=1)]) for p in flat], axis=1)


def one_of(values: np.ndarray) -> np.ndarray:
    """A column for each value of a text: (N, V) float64."""
    return (values[:, None] == np.unique(values)).astype(float)


def known_values(values: np.ndarray) -> np.ndarray:
    return ~np.isin(values, ["", "unknown"])


def cross_validated(
    features: np.ndarray, positive: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Scores of logistic regressions that have not seen the image, nor one of its group: (N,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(len(positive))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for seen, rows in folds.split(features, positive, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        model.fit(features[seen], positive[seen])
        scores[rows] = model.decision_function(features[rows])
    return scores


def with_interval(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """An AUC with its 95 % interval over the images."""
    value = float(auc(positive, scores, np.ones((1, len(scores))))[0])
    draws = auc(positive, scores, bootstrap_weights(len(scores)))
    carriers = min(int(positive.sum()), int((~positive).sum()))
    return value, *percentile_interval(draws, carriers)


def shortcuts(data: PreparedSet, shown: Mapping[str, np.ndarray]) -> list[Shortcut]:
    """What is known beside the lesion, on the training and validation part, for each class."""
    pool = np.isin(data.official_parts, ["train", "validation"])
    ages, sexes = data.subgroups["age_approximate"], data.subgroups["sex"]
    aged, sexed = known_values(ages), known_values(sexes)
    looks = np.column_stack([values == "yes" for values in shown.values()]).astype(float)
    frame = border(data.images[:])
    materials = {
        "age": (aged, one_of(ages)),
        "sex": (sexed, one_of(sexes)),
        "age and sex": (aged & sexed, np.hstack([one_of(ages), one_of(sexes)])),
        "the border of the picture": (np.ones(len(data), bool), frame),
        "the border, of pictures with a known age": (aged, frame),
        "hair, marks, corners, blur": (
            np.ones(len(data), bool),
            looks[:, [name != "large_lesion" for name in Appearance._fields]],
        ),
    }
    found = []
    for known, (there, features) in materials.items():
        rows = np.flatnonzero(pool & there)
        for index, label in enumerate(data.classes):
            positive = data.labels[rows] == index
            scores = cross_validated(features[rows], positive, data.near_groups[rows])
            found.append(
                Shortcut(known, label, len(rows), int(positive.sum()),
                         *with_interval(positive, scores))
            )  # fmt: skip
    return found


class OfAge(NamedTuple):
    """A network's melanoma AUC, and what is left of it among patients of one age.

    `within` counts only pairs of a melanoma and another lesion of patients of the same age, in
    years as the data set has them; `by_age` is that of the age itself.
    """

    run: str
    images: int
    melanomas: int
    all: tuple[float, float, float]
    within: tuple[float, float, float]
    by_age: tuple[float, float, float]


def within_age(
    positive: np.ndarray, scores: np.ndarray, ages: np.ndarray
) -> tuple[float, float, float]:
    """The share of right pairs among those of one age, with its interval over the images."""
    weights = np.vstack([np.ones((1, len(scores))), bootstrap_weights(len(scores))])
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for age in np.unique(ages):
        rows = ages == age
        own = weights[:, rows & positive].sum(axis=1) * weights[:, rows & ~positive].sum(axis=1)
        value = auc(positive[rows], scores[rows], weights[:, rows])
        right += np.where(own > 0, own * np.nan_to_num(value), 0)
        pairs += own
    draws = right / pairs
    carriers = min(int(positive.sum()), int((~positive).sum()))
    return float(draws[0]), *percentile_interval(draws[1:], carriers)


def of_age(name: str, test: Predictions) -> OfAge:
    ages = test.subgroups["age_approximate"]
    rows = known_values(ages)
    own = test.classes.index("melanoma")
    positive, scores = (test.labels == own)[rows], test.scores[rows, own]
    years = ages[rows].astype(float)
    return OfAge(
        name, int(rows.sum()), int(positive.sum()), with_interval(positive, scores),
        within_age(positive, scores, ages[rows]), with_interval(positive, years),
    )  # fmt: skip


def committed(data: PreparedSet, shown: Mapping[str, np.ndarray], path: Path) -> Predictions:
    """The test table of a committed run with what is known of its images."""
    table = read_predictions(path)
    row = {image_id: number for number, image_id in enumerate(data.image_ids)}
    rows = np.array([row[image_id] for image_id in table.image_ids])
    facts = {name: values[rows] for name, values in {**data.subgroups, **shown}.items()}
    return replace(table, subgroups={name: v for name, v in facts.items() if known_values(v).any()})


class Errors(NamedTuple):
    """A detector held against the eye: it found `found` of `shown`, and `false` of the `others`."""

    name: str
    shown: int
    found: int
    others: int
    false: int


def errors(data: PreparedSet, seen: Mapping[str, np.ndarray], path: Path) -> list[Errors]:
    """The detectors' errors on the pictures of a table of judgements."""
    with path.open(newline="") as file:
        judged = list(csv.DictReader(file))
    row = {image_id: number for number, image_id in enumerate(data.image_ids)}
    rows = np.array([row[line["image_id"]] for line in judged])
    found = []
    for name in Appearance._fields:
        eye = np.array([line[name] == "yes" for line in judged])
        detector = seen[f"picture_{name}"][rows] == "yes"
        found.append(
            Errors(name, int(eye.sum()), int((eye & detector).sum()), int((~eye).sum()),
                   int((~eye & detector).sum()))
        )  # fmt: skip
    return found


def _figure(value: Sequence[float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def _share(count: int, of: int) -> str:
    from scipy.stats import binomtest

    ends = binomtest(count, of).proportion_ci(method="wilson")
    return f"{count} of {of} ({ends.low:.2f} to {ends.high:.2f})"


def text(result: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    by_known: dict[str, list[Shortcut]] = {}
    for one in result["shortcuts"]:
        by_known.setdefault(one.known, []).append(one)
    labels = [one.label.replace("_", " ") for one in next(iter(by_known.values()))]
    tables = [
        harness.table(
            ("known", "images", *labels),
            [(known, f"{ones[0].images:,}", *(_figure(one[4:]) for one in ones))
             for known, ones in by_known.items()],
        ),
        harness.table(
            ("run", "images", "melanomas", "AUC", "among one age", "of the age alone"),
            [(one.run, str(one.images), str(one.melanomas), _figure(one.all), _figure(one.within),
              _figure(one.by_age)) for one in result["of_age"]],
        ),
        harness.table(
            ("detector", "found", "wrongly"),
            [(one.name.replace("_", " "), _share(one.found, one.shown),
              _share(one.false, one.others)) for one in result["errors"]],
        ),
    ]  # fmt: skip
    titles = ("AUC of a class against the others, without the lesion", "Networks' melanoma AUC",
              "Detectors against the eye")  # fmt: skip
    return "\n\n".join(
        f"**{title}**\n\n{table}" for title, table in zip(titles, tables, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__doc__, 1)
    parser.add_argument("--data_dir", default=AUTO, help="as of `python -m skinml.run`")
    options = parser.parse_args(argv)
    data = open_data("isic2017", options.data_dir)
    if "age_approximate" not in data.subgroups:
        raise UserError(
            f"data_dir={options.data_dir}: no metadata there; expected "
            "ISIC-2017_Training_Data_metadata.csv beside the images or among them"
        )
    shown = appearances(data.images)
    result: dict[str, Any] = {
        **harness.surroundings(), "data_digest": data.digest,
        "shortcuts": shortcuts(data, shown), "of_age": [],
        "errors": errors(data, shown, RESULTS / "subgroups" / "judged.csv"),
    }  # fmt: skip
    cells = sorted((RESULTS / "nine-runs").glob("runs/*/predictions_test.csv"))
    all_runs = (*RUNS, *(path.parent.relative_to(RESULTS).as_posix() for path in cells))
    for run in dict.fromkeys(all_runs):
        path, name = RESULTS / run / "predictions_test.csv", run.replace("/runs/", "/")
        test = committed(data, shown, path)
        if "age_approximate" in test.subgroups:
            result["of_age"].append(of_age(name, test))
        if options.out and run in RUNS:
            tables = {
                "validation": read_predictions(path.parent / "predictions_validation.csv"),
                "test": test,
            }
            metrics = evaluate_tables(tables)
            to = options.out / name.replace("/", "-")
            to.mkdir(parents=True, exist_ok=True)
            write_subgroups(figures_of_run(test, metrics), to / "subgroups.csv")
            document = Document(name, list(subgroup_blocks(test, metrics)))
            (to / "subgroups.md").write_text(to_markdown(document), encoding="utf-8")
    told = text(result)
    for key in ("shortcuts", "of_age", "errors"):
        result[key] = [one._asdict() for one in result[key]]
    harness.report(options, result, told)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
