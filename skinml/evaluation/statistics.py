"""How sure a number is: bootstrap intervals over the images of a predictions table."""

import numpy as np

from skinml.data.isic2017 import CHALLENGE_TASKS
from skinml.evaluation.metrics import HEADLINE, evaluate
from skinml.evaluation.predictions import Predictions

# 2,000 resamples put the Monte Carlo error of a 2.5 % quantile well under the interval's own
# width (Efron & Tibshirani 1993, section 13.3 asks for 1,000 or more).
RESAMPLES = 2000
CONFIDENCE = 0.95

# Of fewer images of a class, or of all the others, nothing is said about an AUC but its value.
LEAST_OF_A_CLASS = 10

_BLOCK = 100


def bootstrap_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `count` images is drawn in each bootstrap resample: (resamples, count).

    All images are drawn alike, whatever their class, since the shares of the classes in a test
    part are a matter of chance too: the accuracy of a network that knows a single answer has a
    spread. The same count and seed give the same float64 counts, so that two networks are paired
    by resample without anything else.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def resampled(
    predictions: Predictions, weights: np.ndarray, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Metrics of a table in each of R resamples, `weights` (R, N): name → (R,) float64.

    As `evaluate`, in blocks that stay in a processor's cache: twice as fast, in little memory.
    """
    blocks = [
        evaluate(predictions, weights[start : start + _BLOCK], names)
        for start in range(0, len(weights), _BLOCK)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentile_interval(draws: np.ndarray, carriers: int) -> tuple[float, float]:
    """The 95 % interval of a figure from its bootstrap resamples, NaN where none can be given.

    `carriers` is the number of images that the figure rests on at least (see `carriers_of`): with
    fewer than LEAST_OF_A_CLASS there is no interval. A figure of 0 or 1 that no resample moves has
    Wilson's interval (J. Am. Stat. Assoc. 1927, 22:209-212) of that many images: for a share of
    them it is the usual one, and for an AUC it is on the safe side, since the variance of an AUC
    of value A is at most A (1 - A) / the smaller class (Birnbaum & Klose, Ann. Math. Stat. 1957,
    28:933-945), that of a share of as many images.
    """
    finite = draws[np.isfinite(draws)]
    if carriers < LEAST_OF_A_CLASS or not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # Sums of many shares are off by as much.
    share = round(float(low), 9)
    if high - low < 1e-9 and share in (0, 1):
        from scipy.special import ndtri

        # What Wilson's formula comes to at the two ends of the scale.
        square = float(ndtri((1 + CONFIDENCE) / 2)) ** 2
        reach = square / (carriers + square)
        return (1 - reach, 1.0) if share else (0.0, reach)
    return float(low), float(high)


def carriers_of(name: str, predictions: Predictions) -> int:
    """How many images a metric of a table rests on at least.

    The class's for a sensitivity, the others' for a specificity, the fewer of the two for an AUC,
    those of the rarest class for a mean of AUCs, all for what counts every image.
    """
    labels, classes = predictions.labels, predictions.classes
    total = len(labels)
    count = {label: int(np.sum(labels == number)) for number, label in enumerate(classes)}
    kind, _, label = name.partition("_")
    if label in count and kind in ("sensitivity", "specificity"):
        return count[label] if kind == "sensitivity" else total - count[label]
    of_auc = {
        "melanoma_auc": ["melanoma"],
        "keratosis_auc": ["seborrheic_keratosis"],
        "challenge_auc": CHALLENGE_TASKS,
        f"auc_{label}": [label],
        "auc_macro": classes,
        "auc_weighted": classes,
    }
    if name in of_auc:
        return min(min(count[label], total - count[label]) for label in of_auc[name])
    return total


def bootstrap_intervals(
    predictions: Predictions,
    names: tuple[str, ...] = HEADLINE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals over images of the named metrics: name → (low, high).

    A metric that is undefined for the table (its class is absent) or that too few images carry is
    left out; so are, for one metric, the few resamples that happen to lack a class. The interval
    says how far the figure would move with other test images; what other training seeds do to it is
    not in it.
    """
    point = evaluate(predictions, names=names)
    weights = bootstrap_weights(len(predictions.labels), resamples, seed)
    return {
        name: ends
        for name, values in resampled(predictions, weights, names).items()
        if np.isfinite(point[name][0])
        and np.isfinite(ends := percentile_interval(values, carriers_of(name, predictions))).all()
    }
