"""A threshold on the score of one class: chosen on one part of the images, used on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skinml.base.errors import UserError
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights, percentile_interval

# The lowest of the sensitivities at which the ISIC 2017 challenge reported the specificity: that of
# dermatologists in its predecessor (arXiv 1710.05006).
SENSITIVITY = 0.82

_BLOCK = 100


class Rule(NamedTuple):
    """How a threshold is chosen: for at least this sensitivity or specificity, or by Youden.

    `kind` is "sensitivity" (the highest threshold that reaches `least`), "specificity" (the lowest
    one) or "youden": the highest sum of both (Youden, Cancer 1950, 3:32-35), the higher threshold
    of two that tie.
    """

    kind: str
    least: float = float("nan")

    @property
    def name(self) -> str:
        """As a person asks for it, such as "sensitivity:0.82"."""
        return self.kind if self.kind == "youden" else f"{self.kind}:{self.least:g}"

    @property
    def key(self) -> str:
        """As a part of a metric's name, such as "sensitivity_0.82"."""
        return self.name.replace(":", "_")

    @property
    def title(self) -> str:
        """As a reader reads it, such as "sensitivity ≥ 0.82"."""
        return "Youden point" if self.kind == "youden" else f"{self.kind} ≥ {self.least:g}"


# Those that the challenge reported the specificity at, a specificity of our own, and Youden's.
RULES = (
    Rule("sensitivity", SENSITIVITY),
    Rule("sensitivity", 0.89),
    Rule("sensitivity", 0.95),
    Rule("specificity", 0.9),
    Rule("youden"),
)


def read_rule(text: str) -> Rule:
    """The rule that a text names: "sensitivity:0.9", "specificity:0.9" or "youden"."""
    kind, colon, number = text.partition(":")
    if text == "youden":
        return Rule("youden")
    try:
        least = float(number) if colon else float("nan")
    except ValueError:
        least = float("nan")
    if kind not in ("sensitivity", "specificity") or not 0 < least <= 1:
        raise UserError(
            f"operating_point={text!r}: expected sensitivity:NUMBER or specificity:NUMBER, above 0 "
            "and at most 1, or youden"
        )
    return Rule(kind, least)


def rule_of(params: Mapping[str, str]) -> Rule:
    """The rule that a run reports first, by its parameters; runs of before it was one have none."""
    return read_rule(params["operating_point"]) if "operating_point" in params else RULES[0]


def rules_from(first: Rule) -> tuple[Rule, ...]:
    """All rules that a run reports, the one that it was asked for before the others."""
    return (first, *(rule for rule in RULES if rule.name != first.name))


class Rates(NamedTuple):
    """What a threshold does on one part: how many images it calls right and wrong."""

    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int

    @property
    def sensitivity(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        return _share(self.true_negatives, self.true_negatives + self.false_positives)


class Scored:
    """The scores of one class on one part, in an order in which thresholds are looked up fast.

    `positive` (N,) bool: whether an image is of the class; `scores` (N,).
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray) -> None:
        self.positive, self.scores = positive, scores
        order = np.argsort(-scores, kind="stable")
        self._own = positive[order]
        self._order = order
        # Where each run of equal scores ends: an image on the threshold is called.
        ordered = scores[order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
        # First of all the threshold that calls nothing.
        self.thresholds = np.append(np.inf, ordered[self._ends])

    @classmethod
    def of(cls, table: Predictions, label: str) -> "Scored":
        """The scores that a predictions table has of one of its classes."""
        own = table.classes.index(label)
        return cls(table.labels == own, table.scores[:, own])

    def called(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted images called at each threshold: of the class and of the others, (R, M) each.

        `weights` (R, N) float64, as of `bootstrap_weights`.
        """
        drawn = weights[:, self._order]
        zero = np.zeros((len(weights), 1))
        own, others = (
            np.hstack([zero, np.cumsum(drawn * flags, axis=1)[:, self._ends]])
            for flags in (self._own, ~self._own)
        )
        return own, others

    def choose(self, rule: Rule, weights: np.ndarray | None = None) -> np.ndarray:
        """The threshold that a rule chooses in each of R resamples: (R,) float64.

        Infinite where nothing may be called; NaN where the class, or every other, is absent.
        """
        if weights is None:
            weights = np.ones((1, len(self.scores)))
        own, others = self.called(weights)
        positives, negatives = own[:, -1:], others[:, -1:]
        with np.errstate(invalid="ignore"):
            if rule.kind == "sensitivity":
                index = np.argmax(own / positives >= rule.least, axis=1)
                defined = positives[:, 0] > 0
            elif rule.kind == "specificity":
                enough = (negatives - others) / negatives >= rule.least
                index = enough.sum(axis=1) - 1
                defined = negatives[:, 0] > 0
            else:
                # Of whole numbers, so that ties are ties.
                index = np.argmax(own * negatives - others * positives, axis=1)
                defined = (positives > 0)[:, 0] & (negatives > 0)[:, 0]
        return np.where(defined, self.thresholds[index], np.nan)

    def drawn(self, rule: Rule, draws: int, seed: int) -> np.ndarray:
        """Thresholds at which a rule may be met by all images there are: (draws,) float64.

        Youden's are those of bootstrap resamples. Of a share it is known that of n images the
        number beyond the threshold that meets it exactly is binomial, which is how an interval of a
        quantile is made from order statistics (David & Nagaraja 2003, section 7.1): the threshold
        lies between two neighbours, anywhere there. Resamples would never go beyond the images at
        hand: of 30 melanomas all lie above the threshold of a sensitivity of .95 one time in five.
        Scores are from 0 to 1.
        """
        if rule.kind == "youden":
            return self.rechosen(rule, bootstrap_weights(len(self.scores), draws, seed))
        rng = np.random.default_rng(seed)
        of_class = rule.kind == "sensitivity"
        ordered = np.sort(self.scores[self.positive if of_class else ~self.positive])
        beyond = rng.binomial(len(ordered), rule.least, draws)
        ends = np.concatenate([[0.0], ordered, [1.0]])
        below = len(ordered) - beyond if of_class else beyond
        return ends[below] + rng.random(draws) * (ends[below + 1] - ends[below])

    def rates(self, threshold: float) -> Rates:
        """What a threshold does; a NaN calls nothing, see `OperatingPoint`."""
        called = self.scores >= threshold
        return Rates(
            int(np.sum(called & self.positive)),
            int(np.sum(~called & self.positive)),
            int(np.sum(~called & ~self.positive)),
            int(np.sum(called & ~self.positive)),
        )

    def redrawn(self, thresholds: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same as `shares`, in blocks that stay in a processor's cache."""
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(weights), _BLOCK)]
        rates = [self.shares(thresholds[block], weights[block]) for block in blocks]
        found, spared = (np.concatenate(values) for values in zip(*rates, strict=True))
        return found, spared

    def rechosen(self, rule: Rule, weights: np.ndarray) -> np.ndarray:
        """The same as `choose` for many resamples, in such blocks."""
        blocks = range(0, len(weights), _BLOCK)
        return np.concatenate([self.choose(rule, weights[b : b + _BLOCK]) for b in blocks])

    def shares(self, thresholds: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivity and specificity of a threshold of its own in each resample: (R,) each."""
        own, others = self.called(weights)
        # How many of the own thresholds are as high as the given one.
        column = np.searchsorted(-self.thresholds, -thresholds, side="right") - 1
        rows = np.arange(len(weights))
        with np.errstate(invalid="ignore"):
            sensitivity = own[rows, column] / own[:, -1]
            specificity = (others[:, -1] - others[rows, column]) / others[:, -1]
        undefined = np.isnan(thresholds)
        return np.where(undefined, np.nan, sensitivity), np.where(undefined, np.nan, specificity)


@dataclass(frozen=True)
class OperatingPoint:
    """A rule, the threshold that it chose on validation, and what that does on both parts.

    `intervals` maps "threshold", "sensitivity" and "specificity" to 95 % intervals; the latter two
    are the test part's. They hold the chance of both parts: other validation images would have
    chosen another threshold. An interval that too few images carry is (NaN, NaN).
    """

    rule: Rule
    threshold: float
    validation: Rates
    test: Rates
    intervals: dict[str, tuple[float, float]]


def operating_points(
    validation: Scored, test: Scored, rules: tuple[Rule, ...] = RULES
) -> list[OperatingPoint]:
    """Choose thresholds on validation by some rules and report them on test.

    Intervals are percentiles (Efron & Tibshirani 1993, chapter 13) of bootstrap resamples of the
    test images, each at a threshold of its own, as validation leaves it open (`Scored.drawn`).
    A rule for which validation lacks the class, or every other, is left out.
    """
    on_test = bootstrap_weights(len(test.scores))
    own, others = int(test.positive.sum()), int((~test.positive).sum())
    least = min(int(validation.positive.sum()), int((~validation.positive).sum()))
    points = []
    for rule in rules:
        (threshold,) = validation.choose(rule)
        if np.isnan(threshold):
            continue
        chosen = validation.drawn(rule, len(on_test), seed=1)
        found, spared = test.redrawn(chosen, on_test)
        draws = {"threshold": chosen, "sensitivity": found, "specificity": spared}
        carriers = {"threshold": least, "sensitivity": own, "specificity": others}
        points.append(
            OperatingPoint(
                rule,
                float(threshold),
                validation.rates(threshold),
                test.rates(threshold),
                {
                    name: percentile_interval(values, min(least, carriers[name]))
                    for name, values in draws.items()
                },
            )
        )
    return points


def threshold_at(sensitivity: float, positive: np.ndarray, scores: np.ndarray) -> float:
    """The highest threshold at which at least this share of the positive images is found.

    An image is found whose score is at least the threshold. `positive` (N,) bool, `scores` (N,);
    `sensitivity` above 0, at most 1. NaN where no image is positive.
    """
    (threshold,) = Scored(positive, scores).choose(Rule("sensitivity", sensitivity))
    return float(threshold)


def rates_at(threshold: float, positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Sensitivity and specificity of a threshold: TP / (TP + FN), TN / (TN + FP).

    `positive` (N,) bool, `scores` (N,). NaN where there is no such image, or no threshold.
    """
    if np.isnan(threshold):
        return float("nan"), float("nan")
    rates = Scored(positive, scores).rates(threshold)
    return rates.sensitivity, rates.specificity


def _share(count: int, images: int) -> float:
    return count / images if images else float("nan")
