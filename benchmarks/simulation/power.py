"""How often a true difference is found."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, share_of
from benchmarks.simulation.population import Design, Gap, constant, gap, gap_of, one_part
from benchmarks.simulation.settings import POWER_METRICS, Settings
from skinml.compare.paired import (
    ALPHA,
    POWER,
    difference,
    estimate,
    smallest_detectable,
)

GRID = (0.0, 0.02, 0.04, 0.06, 0.08)


LEAST = "smallest detectable difference"


def power_in_theory(true_difference: float, error: float) -> float:
    """The share of two-sided 5 % tests that reject, for a normal estimate of known error."""
    from scipy.stats import norm

    shift, edge = true_difference / error, norm.ppf(1 - ALPHA / 2)
    return float(norm.sf(edge - shift) + norm.cdf(-edge - shift))


def targets(metric: str) -> list[float]:
    """The true differences to find. In AUC about half of that in accuracy is found as often."""
    return [aim if metric == "accuracy" else aim / 2 for aim in GRID]


def prepare_power(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        points: list[tuple[str, str, Gap]] = []
        for metric in POWER_METRICS:
            same = gap(design, 1.0, metric, settings.seed, settings.gap_images)
            points.append((metric, "difference 0.00", same._replace(difference=0.0)))
            for aim in targets(metric)[1:]:
                found = gap_of(design, metric, partial(constant, aim), settings)
                points.append((metric, f"difference {aim:.2f}", found))
            least = gap_of(design, metric, lambda g: smallest_detectable(g.error), settings)
            points.append((metric, LEAST, least))
        return design, points

    return prepare


def simulate_power(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, points = prepared
    rows: dict[str, list[float]] = {f"{metric}, {name}": [] for metric, name, _ in points}
    strengths = (1.0, *(point.strength for *_, point in points))
    for _ in range(draws):
        first, *others = one_part(design, strengths, rng)
        best = {metric: estimate(first, metric) for metric in POWER_METRICS}
        for (metric, name, _), table in zip(points, others, strict=True):
            p = difference(best[metric], estimate(table, metric)).p_value()
            rows[f"{metric}, {name}"].append(p)
    return {name: np.array(values) for name, values in rows.items()}


def judge_power(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, points = prepared
    checks = []
    for metric, name, point in points:
        least = name == LEAST
        theory = POWER if least else power_in_theory(point.difference, point.error)
        reach = 0.04 + settings.slack(theory)
        check = share_of(
            "power",
            f"{metric}, {design.name}",
            f"{name}, {point.difference:.4f}" if least else name,
            outcomes[f"{metric}, {name}"] < ALPHA,
            theory - reach,
            theory + reach,
            theory,
        )
        checks.append(replace(check, difference=point.difference, standard_error=point.error))
    return checks
