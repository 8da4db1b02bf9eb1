"""The predictions table: the contract between a trained network and all that is said about it."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.base.errors import UserError
from skinml.base.files import read_table
from skinml.data.datasets import class_problems
from skinml.data.prepared import SUBGROUP

# A network that gives more than this share of the images one and the same class tells nothing
# apart, however right it is: two thirds of the images are nevi.
ONE_CLASS_SHARE = 0.95


class OneClass(NamedTuple):
    """The class that a network answers for nearly every image, and for what share of them."""

    label: str
    share: float

    @property
    def answer(self) -> str:
        """In words, such as "“nevus” to 95.1 % of the images"."""
        # Never rounded up to all of them.
        percent = min(100 * self.share, 99.9)
        images = "every image" if self.share == 1 else f"{percent:.1f} % of the images"
        return f"“{self.label.replace('_', ' ')}” to {images}"

    def __str__(self) -> str:
        """A predicate: "answers “nevus” to every image"."""
        return f"answers {self.answer}"


@dataclass(frozen=True)
class Predictions:
    """One network's scores for the images of one part.

    `image_ids` (N,) str; `labels` (N,) int64, indices into `classes`; `scores` (N, K) float64,
    one softmax score a class, rows summing to 1; `subgroups` further facts about each image, (N,)
    str by their name, where its data set has some.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]
    subgroups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.image_ids), len(self.classes))
        if self.scores.shape != expected or self.labels.shape != expected[:1]:
            raise ValueError(
                f"labels {self.labels.shape} and scores {self.scores.shape} of a predictions "
                f"table must be {expected[:1]} and {expected}"
            )

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest score of each image: (N,) int64, the first one in a tie."""
        return self.scores.argmax(axis=1)

    @property
    def one_class(self) -> OneClass | None:
        """The class predicted for more than `ONE_CLASS_SHARE` of the images; None without one."""
        counts = np.bincount(self.predicted, minlength=len(self.classes))
        commonest = int(counts.argmax())
        if counts[commonest] <= ONE_CLASS_SHARE * len(self.labels):
            return None
        return OneClass(self.classes[commonest], counts[commonest] / len(self.labels))


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write a table as CSV: image_id, label (the class's name), one score column a class.

    What is known of subgroups follows in columns that begin with `SUBGROUP`. Nine significant
    digits give every float32 back exactly.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        facts = predictions.subgroups
        names = (SUBGROUP + name for name in facts)
        writer.writerow(("image_id", "label", *predictions.classes, *names))
        for number, (image_id, label, scores) in enumerate(
            zip(predictions.image_ids, predictions.labels, predictions.scores, strict=True)
        ):
            own = (f"{score:.9g}" for score in scores)
            known = (values[number] for values in facts.values())
            writer.writerow((image_id, predictions.classes[label], *own, *known))


def read_predictions(path: Path) -> Predictions:
    """Read a table that `write_predictions` wrote; one that is malformed is a `UserError`.

    Its classes are the columns after image_id and label, in whatever order they stand: read in
    alphabetical order, as every table has them. Refused are a class that stands there twice, an
    image that does, and scores that are no probabilities: outside 0 to 1, or of a sum that rounding
    does not explain.
    """
    try:
        rows = [row for _, row in read_table(path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error if isinstance(error, csv.Error) else getattr(error, "strerror", None)
        raise UserError(
            f"{path}: cannot be read ({why or 'no text'}); expected a predictions table of skinml"
        ) from None
    if not rows or rows[0][:2] != ["image_id", "label"] or len(rows[0]) < 4:
        raise UserError(
            f"{path}: its first line is {_line(rows[0]) if rows else 'empty'}, expected "
            "image_id,label and a column for each class; is this a predictions table of skinml?"
        )
    classes = _classes_of(rows[0], path)
    facts = [name for name in rows[0][2:] if name.startswith(SUBGROUP)]
    if len(rows) == 1:
        raise UserError(f"{path}: holds no image; expected a line for each image of a part")
    columns = [rows[0].index(name, 2) for name in classes]
    lines: dict[str, int] = {}
    labels, scores = [], []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}: {_line(row)}"
        try:
            labels.append(classes.index(row[1]))
            scores.append([float(row[column]) for column in columns])
            if len(row) != len(rows[0]) or not np.isfinite(scores[-1]).all():
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{where} is not an image id, one of {', '.join(classes)[:200]} and "
                f"{len(classes)} finite scores"
            ) from None
        if not _are_probabilities(scores[-1]):
            raise UserError(
                f"{where}: the scores have the sum {sum(scores[-1]):g}; expected probabilities, "
                "from 0 to 1 and of sum 1: apply softmax to the network's output"
            )
        if row[0] in lines:
            raise UserError(
                f"{path}: image {row[0]} stands in the lines {lines[row[0]]} and {number}; "
                "expected each image once"
            )
        lines[row[0]] = number
    return Predictions(
        np.array(list(lines), dtype=str),
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        classes,
        {
            name.removeprefix(SUBGROUP): np.array([row[rows[0].index(name)] for row in rows[1:]])
            for name in facts
        },
    )


def _classes_of(header: list[str], path: Path) -> tuple[str, ...]:
    """The classes that the columns of scores are named after, in alphabetical order."""
    names = [name for name in header[2:] if not name.startswith(SUBGROUP)]
    classes = tuple(sorted(names))
    if problems := class_problems(classes):
        raise UserError(
            f"{path}: its columns of scores are {', '.join(names)[:200]}; expected the name of "
            f"each class once ({problems[0][:200]})"
        )
    return classes


def _line(row: list[str]) -> str:
    """A line as a message quotes it."""
    text = ",".join(row)
    return repr(text if len(text) <= 200 else text[:199] + "…")


# Scores of two decimals, each off by up to half a hundredth.
_ROUNDING = 0.005


def _are_probabilities(scores: list[float]) -> bool:
    in_range = min(scores) >= 0 and max(scores) <= 1 + _ROUNDING
    return in_range and abs(sum(scores) - 1) <= len(scores) * _ROUNDING
