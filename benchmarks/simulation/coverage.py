"""Whether 95 % intervals hold the true value in 95 % of test parts."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.simulation.checks import BOOTSTRAPPED, Check, Outcomes, coverage_check
from benchmarks.simulation.population import Design, one_part, resample_weights, true_values
from benchmarks.simulation.settings import DRAWS, Settings
from skinml.compare.paired import (
    TESTED,
    Estimate,
    difference,
    estimates,
)
from skinml.evaluation import statistics

# Half of what a comparison uses, to halve the hour: they blur a quantile by 0.06 standard errors.
RESAMPLES = 1000


WEAKER = 0.85


def _intervals(found: Estimate) -> tuple[float, float, float, float]:
    return found.value, found.standard_error, *found.interval()


def simulate_normal(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    rows: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(draws):
        first, second = one_part(design, (1.0, WEAKER), rng)
        found = [estimates(table, tuple(TESTED)) for table in (first, second)]
        for metric in TESTED:
            one, other = (of[metric] for of in found)
            rows.setdefault(f"{metric}, one network", []).append(_intervals(one))
            rows.setdefault(f"{metric}, difference", []).append(_intervals(difference(one, other)))
    return {name: np.array(values) for name, values in rows.items()}


def prepare_normal(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        truth = true_values(
            design, (1.0, WEAKER), tuple(TESTED), settings.truth_images, settings.seed
        )
        of = {f"{name}, one network": values[0] for name, values in truth.items()}
        of |= {f"{name}, difference": values[0] - values[1] for name, values in truth.items()}
        return design, of

    return prepare


def judge_normal(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, truth = prepared
    group = f"normal and DeLong intervals, {design.name}"
    # A comparison gives one network bootstrap intervals and takes these for differences alone.
    checks = [
        coverage_check(group, name, found[:, 2:], truth[name], design, settings)
        for name, found in outcomes.items()
        if name.endswith(", difference")
    ]
    # The spread of n values is known to 1 / sqrt(2 n) of itself.
    error = 1 / math.sqrt(2 * settings.draws)
    reach = 0.05 + 4 * max(0.0, error - 1 / math.sqrt(2 * DRAWS))
    upper = None if design.stratified else 1 + reach
    return checks + [
        Check("coverage", f"mean standard error over true spread, {design.name}", name,
              float(found[:, 1].mean() / found[:, 0].std(ddof=1)), 1 - reach, upper, 1.0, error,
              "ratio")
        for name, found in outcomes.items()
    ]  # fmt: skip


def prepare_bootstrap(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        truth = true_values(design, (1.0,), BOOTSTRAPPED, settings.truth_images, settings.seed)
        return design, {name: values[0] for name, values in truth.items()}

    return prepare


def simulate_bootstrap(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in BOOTSTRAPPED}
    # Parts of one size have the same resamples: drawn once.
    with mock.patch.object(statistics, "bootstrap_weights", resample_weights):
        for _ in range(draws):
            [table] = one_part(design, (1.0,), rng)
            found = statistics.bootstrap_intervals(table, BOOTSTRAPPED, RESAMPLES)
            for name in BOOTSTRAPPED:
                rows[name].append(found[name])
    return {name: np.array(values) for name, values in rows.items()}


def judge_bootstrap(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, truth = prepared
    group = f"percentile bootstrap, {design.name}"
    return [
        coverage_check(group, name, found, truth[name], design, settings)
        for name, found in outcomes.items()
    ]
