"""By what a model's answers may be decided: the operating points and the temperature it carries.

They are chosen on the validation part of its run, and lie in the model's metadata and in exported
files. Thresholds are on the scores as the network gives them, which all figures of a run are of:
among more than two classes a temperature may change which of two images has the higher score of a
class, though never which class of an image has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from skinml.base.errors import UserError
from skinml.evaluation.calibration import scaled
from skinml.evaluation.classes import sought
from skinml.evaluation.operating_point import read_rule

# The keys of a model's metadata.
POINTS, TEMPERATURE = "operating_points", "temperature"


class Point(NamedTuple):
    """A threshold, its 95 % interval, and what it did on the test part; NaN where not known."""

    threshold: float
    low: float = math.nan
    high: float = math.nan
    test_sensitivity: float = math.nan
    test_specificity: float = math.nan


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a model on validation.

    `points` are thresholds on the score of the class `label`, by the names of their rules, the
    run's own first; `temperature` is there only where it was shown to help.
    """

    label: str = ""
    points: Mapping[str, Point] = field(default_factory=dict)
    temperature: float | None = None

    def metadata(self) -> dict[str, Any]:
        """As a model's metadata and JSON hold it: no NaN, nothing where there is nothing."""
        points = [
            {"name": name, **{k: v for k, v in point._asdict().items() if math.isfinite(v)}}
            for name, point in self.points.items()
        ]
        found: dict[str, Any] = {POINTS: {"class": self.label, "points": points}} if points else {}
        return found | ({TEMPERATURE: self.temperature} if self.temperature else {})


def read_chosen(metadata: Mapping[str, Any], classes: Sequence[str]) -> Chosen:
    """What a model's metadata say was chosen; what is not as skinml writes it counts as absent."""
    said, label, points = metadata.get(POINTS), "", {}
    if isinstance(said, dict) and said.get("class") in classes:
        listed = said.get("points")
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict) and isinstance(one.get("name"), str):
                point = Point(*(_number(one.get(name)) for name in Point._fields))
                if 0 <= point.threshold <= 1:
                    label, points[one["name"]] = said["class"], point
    temperature = _number(metadata.get(TEMPERATURE))
    return Chosen(label, points, temperature if temperature > 0 else None)


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else math.nan


class Asked(NamedTuple):
    """What a person asks for: the class by an operating point, scores at the temperature."""

    operating_point: str = ""
    calibrated: bool = False


NOTHING = Asked()


@dataclass(frozen=True)
class Way:
    """How answers come about: the class of the highest score, unless something else is asked."""

    name: str = ""
    label: str = ""
    point: Point | None = None
    temperature: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What an answer has beside its class and scores."""
        return ("threshold", "margin", "near") if self.point else ()

    def answer(self, scores: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """The answer about one image, of its scores (K,): label, a score for each class, `columns`.

        `margin` is how far the score lies above the threshold, `near` whether it lies within the
        threshold's interval: other validation images could have answered otherwise.
        """
        label, beside = classes[int(np.argmax(scores))], {}
        if at := self.point:
            own = list(classes).index(self.label)
            score = float(scores[own])
            others = [name for name in classes if name != self.label]
            highest = others[int(np.argmax(np.delete(scores, own)))]
            label = self.label if score >= at.threshold else highest
            near = at.low <= score <= at.high if math.isfinite(at.low) else None
            beside = {"threshold": at.threshold, "margin": score - at.threshold, "near": near}
        if self.temperature:
            scores = scaled(np.asarray(scores, float)[None], self.temperature)[0]
        values = {name: float(value) for name, value in zip(classes, scores, strict=True)}
        return {"label": label, **values, **beside}

    def about(self) -> dict[str, Any]:
        """The same for all answers, as JSON holds it."""
        found: dict[str, Any] = {}
        if self.point:
            known = self.point._asdict().items()
            found["operating_point"] = {
                "name": self.name,
                "class": self.label,
                **{key: value if math.isfinite(value) else None for key, value in known},
            }
        return found | ({"temperature": self.temperature} if self.temperature else {})

    def __str__(self) -> str:
        """In words, for a person; empty where the highest score decides."""
        told = []
        if at := self.point:
            name = self.label.replace("_", " ")
            told.append(
                f"Class by {self.name}: {name} from a score of {at.threshold:.4f} on, chosen on "
                "validation."
            )
            if math.isfinite(at.low):
                told.append(
                    f"Near: within {at.low:.4f} to {at.high:.4f}, where other validation images "
                    "could have put it."
                )
            if math.isfinite(at.test_sensitivity + at.test_specificity):
                told.append(
                    f"On the test images: sensitivity {at.test_sensitivity:.3f}, specificity "
                    f"{at.test_specificity:.3f}."
                )
        if self.temperature:
            raw = "; the threshold is on the scores before it" if self.point else ""
            told.append(f"Scores calibrated by a temperature of {self.temperature:.2f}{raw}.")
        return " ".join(told)


HIGHEST = Way()


def find_way(asked: Asked, chosen: Chosen, classes: Sequence[str], model: str) -> Way:
    """How `model` answers what is asked; what it does not carry is a `UserError`."""
    temperature = chosen.temperature if asked.calibrated else None
    if asked.calibrated and temperature is None:
        raise UserError(
            f"{model}: has no temperature, since none was shown to make its scores better on "
            "validation, or since it was made before models had one; leave out --calibrated"
        )
    if not asked.operating_point:
        return Way(temperature=temperature)
    name = read_rule(asked.operating_point).name
    if not chosen.points:
        why = "it was made before models had any, or validation had too few images"
        if sought(classes) is None:
            why = f"none of its {len(classes)} classes is called melanoma"
        raise UserError(f"{model}: has no operating points: {why}; leave out --operating_point")
    if name not in chosen.points:
        raise UserError(
            f"--operating_point {name}: {model} has {', '.join(chosen.points)}; expected one "
            f"of these, or a model that was trained with operating_point={name}"
        )
    return Way(name, chosen.label, chosen.points[name], temperature)
