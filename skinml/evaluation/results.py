"""The figures of a run: a pure function of its predictions tables."""

from collections.abc import Mapping

import numpy as np

from skinml.base.names import identifier
from skinml.evaluation.answering import Chosen, Point
from skinml.evaluation.calibration import at_temperature, fit_temperature
from skinml.evaluation.classes import sought
from skinml.evaluation.metrics import evaluate, point_metrics
from skinml.evaluation.operating_point import (
    RULES,
    Rule,
    Scored,
    operating_points,
    rates_at,
    rule_of,
    rules_from,
)
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals

# The parts that a run is evaluated on, by what its metrics are called.
PREFIXES = {"validation": "val", "test": "test"}

# What the names of the operating points' metrics begin with: a section of MLflow's pages.
GROUP = "operating_point"

# What of a point a model carries, by what its metrics are called.
_OF_THRESHOLD = {
    "threshold": "threshold",
    "low": "threshold_ci_low",
    "high": "threshold_ci_high",
    "test_sensitivity": "test_sensitivity",
    "test_specificity": "test_specificity",
}

# What a temperature changes.
_CALIBRATION = ("calibration_error", "log_loss")


def evaluate_tables(tables: Mapping[str, Predictions], first: Rule = RULES[0]) -> dict[str, float]:
    """Every metric of a run's predictions tables (part → table), the headline ones with intervals.

    Named "test_accuracy", "test_accuracy_ci_low", …; NaN where a metric is undefined. With the
    table of the validation part also what is chosen on it: thresholds on the score of the class
    that is `sought` (the melanomas), `first` among them, and a temperature.
    """
    metrics: dict[str, float] = {}
    for part, table in tables.items():
        metrics |= evaluate_table(table, PREFIXES[part])
    if "validation" in tables:
        metrics |= _at_threshold(tables, first)
        metrics |= _temperature(tables)
    if tables.keys() >= {"validation", "test"}:
        metrics |= _at_points(tables["validation"], tables["test"], rules_from(first))
    return metrics


def evaluate_table(table: Predictions, prefix: str) -> dict[str, float]:
    """Every metric of one table, named with a prefix; the headline ones with intervals."""
    metrics = {f"{prefix}_{name}": value for name, value in point_metrics(table).items()}
    for name, (low, high) in bootstrap_intervals(table).items():
        metrics |= {f"{prefix}_{name}_ci_low": low, f"{prefix}_{name}_ci_high": high}
    return metrics


def _at_threshold(tables: Mapping[str, Predictions], first: Rule) -> dict[str, float]:
    """The threshold of the run's own operating point, and what it does on each part."""
    label = sought(tables["validation"].classes)
    if label is None:
        return {}
    name = identifier(label)
    seen = {part: Scored.of(table, label) for part, table in tables.items()}
    (threshold,) = seen["validation"].choose(first)
    metrics = {f"{name}_threshold": float(threshold) if np.isfinite(threshold) else np.nan}
    for part, scored in seen.items():
        rates = rates_at(threshold, scored.positive, scored.scores)
        for kind, rate in zip(("sensitivity", "specificity"), rates, strict=True):
            metrics[f"{PREFIXES[part]}_{kind}_{name}_at_threshold"] = rate
    return metrics


def _at_points(
    validation: Predictions, test: Predictions, rules: tuple[Rule, ...]
) -> dict[str, float]:
    """Each operating point in a group of its own, as MLflow's pages show it.

    Such as "operating_point/youden/test_sensitivity", with "…_ci_low" and "…_ci_high". A rule that
    no score meets has no threshold, and no group.
    """
    label = sought(validation.classes)
    if label is None:
        return {}
    metrics: dict[str, float] = {}
    for point in operating_points(Scored.of(validation, label), Scored.of(test, label), rules):
        if not np.isfinite(point.threshold):
            continue
        found = {
            "threshold": point.threshold,
            "test_sensitivity": point.test.sensitivity,
            "test_specificity": point.test.specificity,
            "test_true_positives": point.test.true_positives,
            "test_false_positives": point.test.false_positives,
        }
        for name, ends in point.intervals.items():
            whole = name if name == "threshold" else f"test_{name}"
            for end, value in zip(("low", "high"), ends, strict=True):
                if np.isfinite(value):
                    found[f"{whole}_ci_{end}"] = value
        metrics |= {f"{GROUP}/{point.rule.key}/{name}": float(v) for name, v in found.items()}
    return metrics


def _temperature(tables: Mapping[str, Predictions]) -> dict[str, float]:
    """What a temperature gains on validation; where it is shown to help, itself and its effect."""
    found = fit_temperature(tables["validation"])
    metrics = {
        "temperature_gain": found.gain,
        "temperature_gain_ci_low": found.gain_low,
        "temperature_gain_ci_high": found.gain_high,
    }
    if found.helps:
        metrics["temperature"] = found.value
    if found.helps and "test" in tables:
        after = evaluate(at_temperature(tables["test"], found.value), names=_CALIBRATION)
        metrics |= {f"test_{name}_calibrated": float(value) for name, (value,) in after.items()}
    return metrics


def chosen_on_validation(
    metrics: Mapping[str, float], classes: tuple[str, ...], params: Mapping[str, str]
) -> Chosen:
    """What a run's model carries of what was chosen on validation, by the run's metrics."""
    points = {}
    for rule in rules_from(rule_of(params)):
        found = {
            name: metrics.get(f"{GROUP}/{rule.key}/{metric}", np.nan)
            for name, metric in _OF_THRESHOLD.items()
        }
        if np.isfinite(found["threshold"]):
            points[rule.name] = Point(**found)
    return Chosen(sought(classes) or "", points, metrics.get("temperature"))
