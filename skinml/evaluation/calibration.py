"""Scores that mean what they say: temperature scaling, and how well calibrated scores are."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights

# Below that a score is taken for this: its logarithm has to be finite.
_LEAST = 1e-12

# Where the temperature is looked for; a bound that is reached is no answer.
_COLDEST, _HOTTEST = 0.05, 20.0

BINS = 10


def scaled(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Scores at a temperature: softmax(log(scores) / temperature), (N, K) float64.

    Above 1 they come nearer to each other, below 1 they move apart (Guo et al. 2017, arXiv
    1706.04599, section 4.2). No ranking changes within an image.
    """
    logits = np.log(np.maximum(scores, _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def at_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """A predictions table with its scores at a temperature."""
    return replace(predictions, scores=scaled(predictions.scores, temperature))


def log_loss(predictions: Predictions, temperature: float = 1.0) -> float:
    """Mean negative logarithm of the true class's score."""
    scores = scaled(predictions.scores, temperature)
    true = scores[np.arange(len(scores)), predictions.labels]
    return float(-np.log(np.maximum(true, _LEAST)).mean())


class Temperature(NamedTuple):
    """The temperature that fits a part best, and whether it is shown to help.

    `gain` is how much lower the mean log loss is, `gain_low` and `gain_high` its 95 % interval over
    the images, for which the temperature is fitted on one half and the gain taken on the other.
    """

    value: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def helps(self) -> bool:
        return self.gain_low > 0 and 1.01 * _COLDEST < self.value < _HOTTEST / 1.01


def end_of_range(temperature: float) -> str:
    """Where a temperature was looked for, if it lies at an end of that, or is NaN; else nothing."""
    inside = 1.01 * _COLDEST < temperature < _HOTTEST / 1.01
    return "" if inside else f"{_COLDEST:g} to {_HOTTEST:g}"


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature of the lowest log loss on a part (validation), by Brent's method.

    Whether it helps is asked of images that did not choose it: two halves (each class split evenly)
    take turns in fitting and being scored, and the images' gains are resampled. NaN where either
    half is empty.
    """
    halves = np.zeros(len(predictions.labels), bool)
    for label in range(len(predictions.classes)):
        halves[np.flatnonzero(predictions.labels == label)[::2]] = True
    if halves.all() or not halves.any():
        return Temperature(*[float("nan")] * 4)
    gains = np.empty(len(halves))
    for own in (halves, ~halves):
        fitted = _best(_part(predictions, own))
        other = _part(predictions, ~own)
        gains[~own] = _losses(other, 1.0) - _losses(other, fitted)
    draws = bootstrap_weights(len(gains)) @ gains / len(gains)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Temperature(_best(predictions), float(gains.mean()), float(low), float(high))


def _best(predictions: Predictions) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: log_loss(predictions, float(np.exp(log))),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _part(predictions: Predictions, rows: np.ndarray) -> Predictions:
    return Predictions(
        predictions.image_ids[rows],
        predictions.labels[rows],
        predictions.scores[rows],
        predictions.classes,
    )


def _losses(predictions: Predictions, temperature: float) -> np.ndarray:
    scores = scaled(predictions.scores, temperature)
    return -np.log(np.maximum(scores[np.arange(len(scores)), predictions.labels], _LEAST))


class Brier(NamedTuple):
    """The Brier score of one class against the rest and its parts (Murphy 1973, J. Appl. Meteor.).

    `score` = `reliability` - `resolution` + `uncertainty` + `within`; the last is what the scores
    differ within a bin (Stephenson et al. 2008, Weather Forecast. 23:752-757).
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier(positive: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Brier:
    """The Brier score of a class's scores, in bins of equally many images.

    `positive` (N,) bool, `scores` (N,) from 0 to 1.
    """
    events = positive.astype(float)
    order = np.argsort(scores, kind="stable")
    base = events.mean()
    reliability = resolution = within = 0.0
    for part in np.array_split(order, min(bins, len(order))):
        share, forecast = events[part].mean(), scores[part].mean()
        reliability += len(part) * (forecast - share) ** 2
        resolution += len(part) * (share - base) ** 2
        spread = scores[part] - forecast
        within += np.sum(spread**2) - 2 * np.sum(spread * (events[part] - share))
    return Brier(
        float(np.mean((scores - events) ** 2)),
        reliability / len(scores),
        resolution / len(scores),
        float(base * (1 - base)),
        float(within / len(scores)),
    )
