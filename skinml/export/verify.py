"""What an export costs: its scores beside the Keras model's, on the same pictures."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from skinml.base.names import identifier
from skinml.data.datasets import challenge_tasks
from skinml.evaluation.classes import of_class, sought
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.operating_point import SENSITIVITY, rates_at, threshold_at
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import (
    LEAST_OF_A_CLASS,
    bootstrap_weights,
    carriers_of,
    percentile_interval,
    resampled,
)

# An export is refused where the macro AUC may have lost more than this: the lower end of the
# difference's 95 % interval.
LOSS = 0.01

_MACRO = "auc_macro"


class Figure(NamedTuple):
    """One figure of both networks, and the 95 % interval of exported − Keras, NaN without one."""

    keras: float
    exported: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.exported - self.keras


class Verification(NamedTuple):
    """An exported file beside its Keras model on `images` pictures of one part.

    `figures` by the metric's name; `same` is the share of pictures with the same answer, `largest`
    the largest difference of a score, `threshold` the operating point on the score of the class
    that is `sought` (melanoma), which is the Keras model's; NaN where none is.
    """

    part: str
    images: int
    figures: dict[str, Figure]
    same: float
    largest: float
    threshold: float
    sought: str | None

    def loses_more_than(self, loss: float) -> bool:
        """Whether the macro AUC may have lost more than that, or nothing can be said of it."""
        macro = self.figures[_MACRO]
        # Too few images for an interval, and nothing that they would show.
        if self.same == 1 and self.largest < 1e-4:
            return False
        return not macro.low >= -loss

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: no NaN."""
        return {
            **self._asdict(),
            "threshold": _known(self.threshold),
            "sought": self.sought,
            "figures": {
                name: {key: _known(value) for key, value in figure._asdict().items()}
                for name, figure in self.figures.items()
            },
        }

    def metrics(self, prefix: str) -> dict[str, float]:
        """As metrics of a run: `prefix` and each figure's name; what is not known is left out."""
        values = {"same_answers": self.same, "largest_difference": self.largest}
        for name, figure in self.figures.items():
            values |= {
                name: figure.exported,
                f"{name}_difference": figure.difference,
                f"{name}_difference_ci_low": figure.low,
                f"{name}_difference_ci_high": figure.high,
            }
        return {f"{prefix}{name}": v for name, v in values.items() if math.isfinite(v)}

    def _title(self, metric: str) -> str:
        label = (self.sought or "").replace("_", " ")
        if metric == _MACRO:
            return "macro AUC"
        return f"sensitivity for {label}" if metric.startswith("sensitivity") else f"{label} AUC"

    def lines(self) -> Iterator[str]:
        """As text for a person, a line a figure."""
        heading = f"{self.images} {self.part} images"
        yield f"{heading:<26}   Keras  exported  difference (95 % interval)"
        for name, figure in self.figures.items():
            known = math.isfinite(figure.low)
            interval = f" ({figure.low:+.4f} to {figure.high:+.4f})" if known else ""
            yield (
                f"{self._title(name):<26}  {figure.keras:.4f}    {figure.exported:.4f}     "
                f"{figure.difference:+.4f}{interval}"
            )
        yield (
            f"same answer to {self.same:.1%} of them, largest difference of a score "
            f"{self.largest:.2g}"
        )
        macro = self.figures[_MACRO]
        if macro.keras == macro.exported == 0.5:
            # Every pair of pictures is tied: only a network that sees nothing comes to just that.
            yield (
                "The Keras model ranks no picture before another (macro AUC 0.5): these figures "
                "say nothing of the export."
            )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def verify(keras: Predictions, exported: Predictions, part: str = "validation") -> Verification:
    """Compare two tables of the same pictures, paired: the same resamples for both."""
    weights = bootstrap_weights(len(keras.labels))
    label = sought(keras.classes)
    names = (_MACRO, *([_auc_of(label, keras.classes)] if label else []))
    point = [evaluate(table, names=names) for table in (keras, exported)]
    draws = [resampled(table, weights, names) for table in (keras, exported)]
    figures = {
        name: Figure(
            float(point[0][name][0]),
            float(point[1][name][0]),
            *_interval(draws[1][name] - draws[0][name], carriers_of(name, keras)),
        )
        for name in names
    }
    threshold = math.nan
    if label:
        index = keras.classes.index(label)
        positive = keras.labels == index
        own_scores = keras.scores[:, index]
        threshold = _between(threshold_at(SENSITIVITY, positive, own_scores), own_scores)
        scores = [table.scores[:, index] for table in (keras, exported)]
        found = [own >= threshold for own in scores]
        rates = [rates_at(threshold, positive, own)[0] for own in scores]
        own = weights[:, positive]
        with np.errstate(invalid="ignore"):
            moved = own @ (found[1][positive].astype(float) - found[0][positive]) / own.sum(axis=1)
        name = f"sensitivity_{identifier(label)}_at_threshold"
        figures[name] = Figure(rates[0], rates[1], *_interval(moved, int(positive.sum())))
    return Verification(
        part,
        len(keras.labels),
        figures,
        float((keras.predicted == exported.predicted).mean()),
        float(np.abs(keras.scores - exported.scores).max()),
        threshold,
        label,
    )


def _auc_of(label: str, classes: tuple[str, ...]) -> str:
    """The metric of a class's AUC: the challenge's own name where it has one."""
    tasks = challenge_tasks(classes).items()
    return next((name for name, task in tasks if task == label), of_class("auc", label))


def _between(threshold: float, scores: np.ndarray) -> float:
    """A threshold with the same answers, halfway to the next lower score.

    It is a score itself, and the exported file's own for that image may be a rounding below.
    """
    return (threshold + float(scores[scores < threshold].max(initial=0.0))) / 2


def _interval(draws: np.ndarray, carriers: int) -> tuple[float, float]:
    """The interval of a difference: where no resample has any it is 0, from 0 to 0."""
    if carriers >= LEAST_OF_A_CLASS and np.nanmax(np.abs(draws), initial=0) < 1e-9:
        return 0.0, 0.0
    return percentile_interval(draws, carriers)
