"""How a network does on groups of the test images, each against the rest of them.

Groups come from what is known of the images (`Predictions.subgroups`): age, sex, site, skin type,
any other column of a table, and what the picture itself shows (`skinml.evaluation.appearance`).

Of each group: the AUC of the class that is sought, sensitivity and specificity at one threshold
that the groups share, and the mean score less the share of the class (calibration in the large).
An AUC has DeLong's interval on the scale of its logit (Qin & Hotilovac, Stat. Methods Med. Res.
2008, 17:207-221), whose test keeps its size in small groups where the plain one does not; a rate
Wilson's (J. Am. Stat. Assoc. 1927, 22:209-212); a mean Student's. Differences have intervals made
of both (Newcombe, Stat. Med. 1998, 17:873-890), and tests: of the logits; of rates the chi-squared
test with N - 1 (Campbell, Stat. Med. 2007, 26:3661-3675); of means Welch's. All images count as
independent of each other.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.base.names import identifier
from skinml.evaluation.classes import sought
from skinml.evaluation.metrics import auc
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import CONFIDENCE
from skinml.evaluation.testing import auc_influence, holm

# Of fewer images of the class, or of the others, nothing is said: with 10, tests of AUCs near .95
# err in up to 14 % instead of 5; with 20 in 4 to 6 (results/subgroups/simulation).
LEAST = 20

# What a picture shows is told by columns that begin so.
PICTURE = "picture_"

# What the columns of data sets are called → what they say; of these every value is a group.
_KNOWN = {
    **dict.fromkeys(("age", "age_approx", "age_approximate"), "age"),
    **dict.fromkeys(("sex", "gender"), "sex"),
    **dict.fromkeys(
        ("site", "localization", "anatom_site_general", "anatomical_site", "region"), "site"
    ),
    **dict.fromkeys(
        ("skin_type", "fitspatrick", "fitzpatrick", "fitzpatrick_skin_type"), "skin type"
    ),
}
_NOT_KNOWN = {"", "unknown", "nan", "na", "n/a", "none", "null", "?"}

# Ages are in years, of most data sets rounded to five.
_BANDS = ((-math.inf, 40.0), (40.0, 55.0), (55.0, 70.0), (70.0, math.inf))


class Group(NamedTuple):
    """Some of the images: `rows` (N,) bool; `known` (N,) bool are they and those beside them.

    An image of which nobody knows whether it belongs to the group is in neither.
    """

    attribute: str
    name: str
    rows: np.ndarray
    known: np.ndarray

    @property
    def rest(self) -> np.ndarray:
        return self.known & ~self.rows


class Value(NamedTuple):
    """A figure with its 95 % interval; NaN where `images` are too few to say."""

    value: float
    low: float
    high: float
    images: int


class Figure(NamedTuple):
    """One figure of one group beside that of the rest.

    `images` are those that it rests on: of the class for a sensitivity, the others for a
    specificity, the fewer of both for an AUC. `p_holm` is corrected for all tests of a table.
    """

    attribute: str
    group: str
    metric: str
    own: Value
    rest: Value
    difference: Value
    p: float
    p_holm: float


METRICS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calibration": "score − share",
    "accuracy": "accuracy",
}


def groups_of(subgroups: Mapping[str, np.ndarray]) -> list[Group]:
    """The groups of images by columns of what is known of them, (N,) str each by its name.

    Of a column that is not known by its name, values that fewer than `LEAST` images have are no
    groups: most likely it names patients, or measures something.
    """
    groups: list[Group] = []
    for column, values in subgroups.items():
        attribute = _attribute(column)
        cleaned = np.char.lower(np.char.strip(values.astype(str)))
        named = _bands(cleaned) if attribute == "age" else cleaned
        known = ~np.isin(named, list(_NOT_KNOWN))
        counts = Counter(named[known].tolist())
        free = attribute not in _KNOWN.values() and not column.startswith(PICTURE)
        names = [name for name, count in counts.items() if count >= LEAST or not free]
        if len(counts) < 2:
            continue
        if attribute == "age":
            ordered = [_band_name(*band) for band in _BANDS if _band_name(*band) in names]
        else:
            # What a picture shows before what it does not.
            ordered = sorted(names, key=lambda name: (name != "yes", -counts[name], name))
        groups += [Group(attribute, name, named == name, known) for name in ordered]
    return groups


def _attribute(column: str) -> str:
    if column.startswith(PICTURE):
        return f"picture: {column.removeprefix(PICTURE).replace('_', ' ')}"
    return _KNOWN.get(column.lower(), column.replace("_", " "))


def _bands(ages: np.ndarray) -> np.ndarray:
    def band(text: str) -> str:
        try:
            age = float(text)
        except ValueError:
            return ""
        return next((_band_name(*b) for b in _BANDS if b[0] <= age < b[1]), "")

    return np.array([band(text) for text in ages.tolist()], dtype=str)


def _band_name(low: float, high: float) -> str:
    if math.isinf(low):
        return f"under {high:g}"
    return f"{low:g} and over" if math.isinf(high) else f"{low:g} to {high - 1:g}"


def figures_of_groups(
    test: Predictions, label: str | None, threshold: float = math.nan
) -> list[Figure]:
    """Every figure of every group of a predictions table, with Holm's correction over all tests.

    `label` is the class that is sought and `threshold` on its score calls an image that; a NaN
    calls none, and there are no rates. Without a class there is the accuracy alone. Where two
    groups are all that there are, their difference is one test.
    """
    found: list[Figure] = []
    keys: list[tuple[str, frozenset[bytes]]] = []
    for group in groups_of(test.subgroups):
        for metric, own, rest, difference, p in _figures(test, label, threshold, group):
            found.append(
                Figure(group.attribute, group.name, metric, own, rest, difference, p, math.nan)
            )
            keys.append((metric, frozenset((group.rows.tobytes(), group.rest.tobytes()))))
    tests = {k: f.p for k, f in zip(keys, found, strict=True) if not math.isnan(f.p)}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True)) if tests else {}
    return [
        figure._replace(p_holm=adjusted.get(key, math.nan))
        for key, figure in zip(keys, found, strict=True)
    ]


def figures_of_run(test: Predictions, metrics: Mapping[str, float]) -> list[Figure]:
    """The figures of every group, at the one threshold that a run's metrics hold."""
    label = sought(test.classes)
    threshold = metrics.get(f"{identifier(label)}_threshold", math.nan) if label else math.nan
    return figures_of_groups(test, label, threshold)


_Made = tuple[str, Value, Value, Value, float]


def _figures(
    test: Predictions, label: str | None, threshold: float, group: Group
) -> Iterator[_Made]:
    parts = group.rows, group.rest
    if label is None:
        right = test.predicted == test.labels
        yield "accuracy", *_of_rates(*(right[rows] for rows in parts))
        return
    own = test.classes.index(label)
    positive, scores = test.labels == own, test.scores[:, own]
    yield "auc", *_of_aucs(*((positive[rows], scores[rows]) for rows in parts))
    if not math.isnan(threshold):
        called = scores >= threshold
        yield "sensitivity", *_of_rates(*(called[rows & positive] for rows in parts))
        yield "specificity", *_of_rates(*(~called[rows & ~positive] for rows in parts))
    yield "calibration", *_of_means(*((scores - positive)[rows] for rows in parts))


_Compared = tuple[Value, Value, Value, float]


def _compared(own: Value, rest: Value, p: float) -> _Compared:
    """Two figures of different images, and their difference by Newcombe's method."""
    below = math.hypot(own.value - own.low, rest.high - rest.value)
    above = math.hypot(own.high - own.value, rest.value - rest.low)
    value = own.value - rest.value
    difference = Value(value, value - below, value + above, min(own.images, rest.images))
    return own, rest, difference, math.nan if math.isnan(value) else p


def _of_rates(own: np.ndarray, rest: np.ndarray) -> _Compared:
    """Shares of two sets of images, (n,) bool each."""
    from scipy.special import ndtr

    first, second = _rate(own), _rate(rest)
    count = len(own) + len(rest)
    if not count:
        return _compared(first, second, math.nan)
    common = (own.sum() + rest.sum()) / count
    spread = common * (1 - common) * sum(1 / max(1, len(part)) for part in (own, rest))
    if not spread:  # All right, or all wrong: nothing differs.
        return _compared(first, second, 1.0)
    error = math.sqrt(spread * count / (count - 1))
    return _compared(first, second, float(2 * ndtr(-abs(first.value - second.value) / error)))


def _rate(right: np.ndarray) -> Value:
    count = len(right)
    if count < LEAST:
        return _too_few(count)
    share, square = float(right.mean()), _quantile() ** 2
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = math.sqrt(square * (share * (1 - share) + square / (4 * count)) / count)
    reach /= 1 + square / count
    # Rounding must not put an end beyond the value.
    return Value(share, min(middle - reach, share), max(middle + reach, share), count)


def _of_aucs(own: tuple[np.ndarray, np.ndarray], rest: tuple[np.ndarray, np.ndarray]) -> _Compared:
    """AUCs of two sets of images, each a pair of (n,) bool positive and (n,) scores."""
    from scipy.special import logit, ndtr

    (first, error), (second, other) = _auc(*own), _auc(*rest)
    # No error is known of an AUC of 0 or 1.
    if not (error and other):
        return _compared(first, second, math.nan)
    z = (logit(first.value) - logit(second.value)) / math.hypot(error, other)
    return _compared(first, second, float(2 * ndtr(-abs(z))))


def _auc(positive: np.ndarray, scores: np.ndarray) -> tuple[Value, float]:
    """An AUC and the standard error of its logit, 0 where none is known."""
    from scipy.special import expit, logit

    carriers = min(int(positive.sum()), int((~positive).sum()))
    if carriers < LEAST:
        return _too_few(carriers), 0.0
    value = float(auc(positive, scores, np.ones((1, len(scores))))[0])
    error = math.sqrt(float(np.sum(auc_influence(positive, scores) ** 2)))
    if not error or not 0 < value < 1:
        # As of a share of as many images (`percentile_interval`).
        ends = _rate(np.full(carriers, value >= 0.5))
        return Value(value, min(ends.low, value), max(ends.high, value), carriers), 0.0
    error /= value * (1 - value)
    low, high = expit(logit(value) + _quantile() * error * np.array([-1, 1]))
    return Value(value, float(low), float(high), carriers), error


def _of_means(own: np.ndarray, rest: np.ndarray) -> _Compared:
    """Means of two sets of numbers, (n,) each."""
    from scipy.special import stdtr

    first, second = _mean(own), _mean(rest)
    squares = [part.var(ddof=1) / len(part) if len(part) > 1 else 0.0 for part in (own, rest)]
    if not all(squares):
        return _compared(first, second, math.nan)
    parts = sum(s**2 / (len(part) - 1) for s, part in zip(squares, (own, rest), strict=True))
    t = (first.value - second.value) / math.sqrt(sum(squares))
    return _compared(first, second, float(2 * stdtr(sum(squares) ** 2 / parts, -abs(t))))


def _mean(values: np.ndarray) -> Value:
    from scipy.special import stdtrit

    count = len(values)
    if count < LEAST:
        return _too_few(count)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / math.sqrt(count))
    value = float(values.mean())
    return Value(value, value - reach, value + reach, count)


def _too_few(images: int) -> Value:
    return Value(math.nan, math.nan, math.nan, images)


def _quantile() -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + CONFIDENCE) / 2))


_COLUMNS = ("attribute", "group", "metric", "images", "value", "low", "high", "rest_images", "rest",
            "rest_low", "rest_high", "difference", "difference_low", "difference_high", "p",
            "p_holm")  # fmt: skip


def write_subgroups(figures: Sequence[Figure], path: Path) -> None:
    """Write figures of groups as CSV, a line each; empty where there are too few images."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for figure in figures:
            own, rest, difference = figure.own, figure.rest, figure.difference
            numbers = (
                own.images, *own[:3], rest.images, *rest[:3], *difference[:3], figure.p,
                figure.p_holm,
            )  # fmt: skip
            told = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            writer.writerow((figure.attribute, figure.group, figure.metric, *told))
