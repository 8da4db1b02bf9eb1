"""The predictions table: the contract between a trained network and all that is said about it."""

import csv
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.data.isic2017 import CLASSES
from skinml.errors import UserError

# The largest table that is read, in bytes: a line has some 60.
_LARGEST = 64 * 2**20

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
    one softmax score a class, rows summing to 1.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...] = CLASSES

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

    Nine significant digits give every float32 back exactly.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image_id", "label", *predictions.classes))
        for image_id, label, scores in zip(
            predictions.image_ids, predictions.labels, predictions.scores, strict=True
        ):
            writer.writerow(
                (image_id, predictions.classes[label], *(f"{score:.9g}" for score in scores))
            )


def read_predictions(path: Path) -> Predictions:
    """Read a table that `write_predictions` wrote; one that is malformed is a `UserError`.

    The columns of the classes are found by their names, in whatever order they stand. Refused are
    other names, an image that stands there twice, and scores that are no probabilities: outside 0
    to 1, or of a sum that rounding does not explain.
    """
    try:
        status = path.stat()
        # A pipe would be waited for.
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a regular file")
        if status.st_size > _LARGEST:
            raise OSError(None, f"{status.st_size} bytes, expected at most {_LARGEST}")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        # csv.Error: a field of more than 128 kB, or with a NUL.
        why = error if isinstance(error, csv.Error) else getattr(error, "strerror", None)
        raise UserError(
            f"{path}: cannot be read ({why or 'no text'}); expected a predictions table of skinml"
        ) from None
    if not rows or rows[0][:2] != ["image_id", "label"] or len(rows[0]) < 4:
        raise UserError(
            f"{path}: its first line is {_line(rows[0]) if rows else 'empty'}, expected "
            "image_id,label and a column for each class; is this a predictions table of skinml?"
        )
    names = rows[0][2:]
    if sorted(names) != sorted(CLASSES):
        raise UserError(
            f"{path}: its columns of scores are {', '.join(names)[:200]}; expected each of "
            f"{', '.join(CLASSES)} once"
        )
    if len(rows) == 1:
        raise UserError(f"{path}: holds no image; expected a line for each image of a part")
    columns = [2 + names.index(name) for name in CLASSES]
    lines: dict[str, int] = {}
    labels, scores = [], []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}: {_line(row)}"
        try:
            labels.append(CLASSES.index(row[1]))
            scores.append([float(row[column]) for column in columns])
            if len(row) != len(rows[0]) or not np.isfinite(scores[-1]).all():
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{where} is not an image id, one of {', '.join(CLASSES)} and {len(CLASSES)} "
                "finite scores"
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
    )


def _line(row: list[str]) -> str:
    """A line as a message quotes it."""
    text = ",".join(row)
    return repr(text if len(text) <= 200 else text[:199] + "…")


# Scores of two decimals, each off by up to half a hundredth.
_ROUNDING = 0.005


def _are_probabilities(scores: list[float]) -> bool:
    in_range = min(scores) >= 0 and max(scores) <= 1 + _ROUNDING
    return in_range and abs(sum(scores) - 1) <= len(scores) * _ROUNDING
