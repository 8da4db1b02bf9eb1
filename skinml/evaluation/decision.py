"""What an answer is worth: net benefit, the cost of mistakes, and answering only where it is sure.

All of it is about one class against the rest, at a prevalence that is given: a test set is no
clinic, where melanomas are rarer.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from skinml.evaluation.operating_point import Scored
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights, percentile_interval, wilson_interval

# As many resamples at once stay in a processor's cache.
_BLOCK = 100

# Of one image set, or of each of its resamples.
_Rate = TypeVar("_Rate", float, np.ndarray)


class Worth(NamedTuple):
    """A figure with its 95 % interval over the test images."""

    value: float
    low: float
    high: float


def net_benefit(
    sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float, odds: float
) -> np.ndarray:
    """Net benefit of calling some patients, in true positives per patient.

    `odds` is what an unneeded excision weighs beside a melanoma that is found: p / (1 - p) of the
    probability p from which a patient would have it excised (Vickers & Elkin, Med. Decis. Making
    2006, 26:565-574). 0 is the benefit of calling nobody.
    """
    return sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * odds


def expected_cost(sensitivity: _Rate, specificity: _Rate, prevalence: float, ratio: float) -> _Rate:
    """Expected cost a patient, in unneeded excisions; a missed melanoma costs `ratio` of them."""
    return ratio * prevalence * (1 - sensitivity) + (1 - prevalence) * (1 - specificity)


class Decision(NamedTuple):
    """The net benefit at one threshold probability: of the network, and of excising everything."""

    probability: float
    network: Worth
    everybody: float


def decision_curve(
    test: Scored, probabilities: Iterable[float], prevalence: float | None = None
) -> list[Decision]:
    """Net benefit over threshold probabilities: a patient is called whose score reaches it.

    `prevalence` None is that of the test images. The score has to be a probability at that
    prevalence, else the curve shows what it costs that it is none.
    """
    share = float(test.positive.mean()) if prevalence is None else prevalence
    weights = bootstrap_weights(len(test.scores))
    carriers = min(int(test.positive.sum()), int((~test.positive).sum()))
    once = np.ones((1, len(test.scores)))
    curve = []
    for probability in probabilities:
        odds = probability / (1 - probability)
        value, draws = (
            net_benefit(*test.shares(np.full(len(w), probability), w), share, odds)
            for w in (once, weights)
        )
        ends = percentile_interval(draws, carriers)
        everybody = share - (1 - share) * odds
        curve.append(Decision(probability, Worth(float(value[0]), *ends), everybody))
    return curve


class Price(NamedTuple):
    """The threshold that costs least on validation for one ratio, and what it costs on test.

    `cost`, `nobody` and `everybody` are in unneeded excisions per 1,000 patients: of the network,
    of excising nothing and of excising everything.
    """

    ratio: float
    threshold: float
    sensitivity: float
    specificity: float
    cost: Worth
    nobody: float
    everybody: float


def price_list(
    validation: Scored, test: Scored, ratios: Iterable[float], prevalence: float
) -> list[Price]:
    """Costs per 1,000 patients where a missed melanoma costs `ratio` unneeded excisions.

    The threshold is chosen on validation, at the same prevalence. The interval holds the chance of
    both parts: each resample of the test images has the threshold that one of the validation
    images chose. Empty where a part lacks the class, or every other: there nothing can be counted.
    """
    parts = (validation, test)
    carriers = min(int(np.sum(side)) for part in parts for side in (part.positive, ~part.positive))
    if not carriers:
        return []
    ratios = tuple(ratios)
    weights = bootstrap_weights(len(test.scores))
    # A seed of its own: that a picture was drawn on one part has no bearing on the other.
    chosen = _cheapest(
        validation, bootstrap_weights(len(validation.scores), seed=1), prevalence, ratios
    )
    own = _cheapest(validation, np.ones((1, len(validation.scores))), prevalence, ratios)[:, 0]
    prices = []
    for ratio, threshold, redrawn in zip(ratios, own.tolist(), chosen, strict=True):
        rates = test.rates(threshold)
        cost = expected_cost(rates.sensitivity, rates.specificity, prevalence, ratio)
        draws = expected_cost(*test.redrawn(redrawn, weights), prevalence, ratio)
        low, high = percentile_interval(draws, carriers, is_share=False)
        prices.append(
            Price(
                ratio,
                threshold,
                rates.sensitivity,
                rates.specificity,
                Worth(1000 * float(cost), 1000 * low, 1000 * high),
                1000 * ratio * prevalence,
                1000 * (1 - prevalence),
            )
        )
    return prices


def _cheapest(
    part: Scored, weights: np.ndarray, prevalence: float, ratios: tuple[float, ...]
) -> np.ndarray:
    """The threshold that costs least for each ratio in each resample: (ratios, R) float64.

    `weights` (R, N). NaN in a resample that lacks the class, or every other.
    """
    blocks = []
    for start in range(0, len(weights), _BLOCK):
        own, others = part.called(weights[start : start + _BLOCK])
        with np.errstate(invalid="ignore"):
            found, spared = own / own[:, -1:], 1 - others / others[:, -1:]
        defined = (own[:, -1] > 0) & (others[:, -1] > 0)
        costs = (expected_cost(found, spared, prevalence, ratio) for ratio in ratios)
        best = np.stack([np.argmin(cost, axis=1) for cost in costs])
        blocks.append(np.where(defined, part.thresholds[best], np.nan))
    return np.concatenate(blocks, axis=1)


class Answered(NamedTuple):
    """What a network does on the images that it is surest of."""

    share: float
    images: int
    accuracy: Worth
    sensitivity: float
    positives: int


def answered(
    predictions: Predictions, label: str, shares: Iterable[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
) -> list[Answered]:
    """Accuracy, and the sensitivity for one class, if only a share of the images is answered.

    Answered are those with the highest score of the predicted class (El-Yaniv & Wiener, JMLR 2010,
    11:1605-1641), equal ones in the table's order. `positives` is how many answered images are of
    the class: an image that is put aside has to be seen by somebody.
    """
    own = predictions.classes.index(label)
    surest = np.argsort(-predictions.scores.max(axis=1), kind="stable")
    rows = []
    for share in shares:
        kept = surest[: max(1, round(share * len(surest)))]
        right = predictions.predicted[kept] == predictions.labels[kept]
        positive = predictions.labels[kept] == own
        found = float(right[positive].mean()) if positive.any() else float("nan")
        accuracy = Worth(float(right.mean()), *wilson_interval(int(right.sum()), len(kept)))
        rows.append(Answered(share, len(kept), accuracy, found, int(positive.sum())))
    return rows
