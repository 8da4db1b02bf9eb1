"""Whether the intervals of operating points hold what all images would give."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, coverage_check
from benchmarks.simulation.coverage import RESAMPLES
from benchmarks.simulation.population import Design, one_part, population, resample_weights
from benchmarks.simulation.settings import Settings
from skinml.compare.paired import difference
from skinml.compare.points import MATCHED, redrawn_sensitivity
from skinml.data.isic2017 import CLASSES
from skinml.evaluation import operating_point
from skinml.evaluation.operating_point import RULES, Rule, Scored, read_rule
from skinml.evaluation.statistics import CONFIDENCE

SOUGHT = "melanoma"

# With fewer images beyond a threshold nobody knows how far out it may be: intervals are too long.
FEW = 4

# Of some dozens of melanomas they are a little too long even for scores that are uniform, where a
# plain loop finds 96.5 to 97.3 %; of ten times as many 95 %.
TOO_OFTEN = 0.98

RATES = ("threshold", "sensitivity", "specificity")


def prepare_points(validation: int, test: Design) -> Callable[[Settings], Any]:
    """The thresholds that all images would choose, and what they do on all: by rule and rate."""

    def prepare(settings: Settings) -> Any:
        blocks = population(test, (1.0,), settings.truth_images, settings.seed)
        tables = [tables[0] for tables in blocks]
        own = CLASSES.index(SOUGHT)
        scored = Scored(
            np.concatenate([table.labels == own for table in tables]),
            np.concatenate([table.scores[:, own] for table in tables]),
        )
        truth: dict[str, float] = {}
        for rule in RULES:
            (threshold,) = scored.choose(rule)
            rates = scored.rates(threshold)
            values = (threshold, rates.sensitivity, rates.specificity)
            truth |= {f"{rule.name}, {rate}": v for rate, v in zip(RATES, values, strict=True)}
        return test._replace(images=validation), test, truth

    return prepare


def simulate_points(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    validation, test, truth = prepared
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in truth}
    # Parts of one size have the same resamples: drawn once.
    weights = partial(_weights, RESAMPLES)
    with mock.patch.object(operating_point, "bootstrap_weights", weights):
        for _ in range(draws):
            parts = [one_part(design, (1.0,), rng)[0] for design in (validation, test)]
            scored = [Scored.of(part, SOUGHT) for part in parts]
            found = {
                f"{point.rule.name}, {rate}": ends
                for point in operating_point.operating_points(scored[0], scored[1])
                for rate, ends in point.intervals.items()
            }
            for name in truth:
                # Without a melanoma there is no threshold.
                rows[name].append(found.get(name, (np.nan, np.nan)))
    return {name: np.array(values) for name, values in rows.items()}


def simulate_matched(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    """P-values of two equal networks' sensitivities at thresholds for one specificity."""
    validation, test = prepared
    # Both parts are drawn again together, as a comparison draws them.
    weights = resample_weights(validation.images + test.images, RESAMPLES)
    on_validation, on_test = np.split(weights, [validation.images], axis=1)
    found = []
    for _ in range(draws):
        chosen_on, tested_on = (one_part(d, (1.0, 1.0), rng) for d in (validation, test))
        one, other = (
            redrawn_sensitivity(
                Scored.of(first, SOUGHT), Scored.of(second, SOUGHT), on_validation, on_test
            )
            for first, second in zip(chosen_on, tested_on, strict=True)
        )
        found.append(difference(one, other).p_value())
    return {f"sensitivity, {MATCHED.name}, {validation.images} to choose by": np.array(found)}


def _weights(usual: int, count: int, resamples: int = 0, seed: int = 0) -> np.ndarray:
    return resample_weights(count, resamples or usual, seed)


def judge_points(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    validation, test, truth = prepared
    group = f"thresholds chosen on {validation.images} images, tested on {test.images}"
    checks = []
    for name, found in outcomes.items():
        check = coverage_check(group, name, found, truth[name], test, settings, "points")
        rule = read_rule(name.partition(",")[0])
        high = TOO_OFTEN + settings.slack(CONFIDENCE) if _beyond(rule, validation) >= FEW else None
        checks.append(replace(check, high=high and min(1.0, high)))
    return checks


def _beyond(rule: Rule, validation: Design) -> float:
    """How many images of a part are expected beyond a threshold that is chosen for a share."""
    own = validation.shares[CLASSES.index(SOUGHT)]
    share = own if rule.kind == "sensitivity" else 1 - own
    return 0.0 if rule.kind == "youden" else validation.images * share * (1 - rule.least)
