"""The figures of a run: a pure function of its predictions tables."""

from collections.abc import Mapping

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.operating_point import SENSITIVITY, rates_at, threshold_at
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals

# The parts that a run is evaluated on, by what its metrics are called.
PREFIXES = {"validation": "val", "test": "test"}


def evaluate_tables(tables: Mapping[str, Predictions]) -> dict[str, float]:
    """Every metric of a run's predictions tables (part → table), the headline ones with intervals.

    Named "test_accuracy", "test_accuracy_ci_low", …; NaN where a metric is undefined. With the
    table of the validation part also the threshold on the melanoma score at which it finds
    `SENSITIVITY` of its melanomas, and what that threshold does on each part.
    """
    metrics: dict[str, float] = {}
    for part, table in tables.items():
        prefix = PREFIXES[part]
        metrics |= {f"{prefix}_{name}": value for name, value in point_metrics(table).items()}
        for name, (low, high) in bootstrap_intervals(table).items():
            metrics |= {f"{prefix}_{name}_ci_low": low, f"{prefix}_{name}_ci_high": high}
    if "validation" in tables:
        metrics |= _melanoma_at_threshold(tables)
    return metrics


def _melanoma_at_threshold(tables: Mapping[str, Predictions]) -> dict[str, float]:
    index = CLASSES.index("melanoma")
    seen = {part: (table.labels == index, table.scores[:, index]) for part, table in tables.items()}
    threshold = threshold_at(SENSITIVITY, *seen["validation"])
    metrics = {"melanoma_threshold": threshold}
    for part, (positive, scores) in seen.items():
        rates = rates_at(threshold, positive, scores)
        for name, rate in zip(("sensitivity", "specificity"), rates, strict=True):
            metrics[f"{PREFIXES[part]}_{name}_melanoma_at_threshold"] = rate
    return metrics
