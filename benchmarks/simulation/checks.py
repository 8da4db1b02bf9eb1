"""What a study is and what it judges: a figure, where it is expected and where it was found."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.simulation.population import Design
from benchmarks.simulation.settings import Settings
from skinml.compare.paired import (
    ALPHA,
)
from skinml.evaluation.statistics import CONFIDENCE

BOOTSTRAPPED = (
    "accuracy",
    "f1_weighted",
    "auc_weighted",
    "auc_macro",
    "melanoma_auc",
    "keratosis_auc",
    "challenge_auc",
)


@dataclass(frozen=True)
class Check:
    """One figure, where it is expected and where it was found.

    `error` is the Monte Carlo standard error, NaN where there is none. A figure that is only
    reported, not judged, has no `low` and `high`.
    """

    section: str
    group: str
    name: str
    observed: float
    low: float | None = None
    high: float | None = None
    theory: float | None = None
    error: float = math.nan
    kind: str = "share"
    # Of a check of power: what there is to find, and its standard error.
    difference: float | None = None
    standard_error: float | None = None

    @property
    def judged(self) -> bool:
        return self.low is not None or self.high is not None

    @property
    def passed(self) -> bool:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        # A NaN is in no range.
        return not self.judged or bool(low <= self.observed <= high)

    def row(self) -> dict[str, Any]:
        """All that is known of it, None where there is no number."""
        found = {**asdict(self), "passed": self.passed}
        return {name: None if value != value else value for name, value in found.items()}


Outcomes = dict[str, np.ndarray]


class Study(NamedTuple):
    """One simulation: what it needs to know beforehand, one batch of draws, and its judgement."""

    section: str
    prepare: Callable[[Settings], Any]
    simulate: Callable[[np.random.Generator, int, Any], Outcomes]
    judge: Callable[[Outcomes, Any, Settings], list[Check]]


def given(value: Any) -> Callable[[Settings], Any]:
    return lambda _: value


def share_of(
    section: str,
    group: str,
    name: str,
    hits: np.ndarray,
    low: float | None = None,
    high: float | None = None,
    theory: float | None = None,
) -> Check:
    share = float(hits.mean())
    # Of the share that is expected, where one is: 0 hits have an error too.
    spread = theory if theory is not None else share
    error = math.sqrt(spread * (1 - spread) / len(hits))
    low = None if low is None else max(0.0, low)
    high = None if high is None else min(1.0, high)
    return Check(section, group, name, share, low, high, theory, error)


def coverage_check(
    group: str,
    name: str,
    intervals: np.ndarray,
    truth: float,
    design: Design,
    settings: Settings,
    section: str = "coverage",
) -> Check:
    covered = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    slack = settings.slack(CONFIDENCE)
    # Fixed shares of the classes take away a part of the chance that the intervals allow for.
    high = None if design.stratified else 0.97 + slack
    return share_of(section, group, name, covered, 0.93 - slack, high, CONFIDENCE)


def rejected(group: str) -> Callable[[Outcomes, Any, Settings], list[Check]]:
    """Judge p-values whose null holds: 3 to 7 % of them lie below 5 %."""

    def judge(outcomes: Outcomes, _: Any, settings: Settings) -> list[Check]:
        slack = settings.slack(ALPHA)
        low, high = 0.03 - slack, 0.07 + slack
        return [
            share_of("size", group, name, p_values < ALPHA, low, high, ALPHA)
            for name, p_values in outcomes.items()
        ]

    return judge
