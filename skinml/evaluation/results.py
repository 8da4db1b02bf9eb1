"""The figures of a run: a pure function of its predictions tables."""

from collections.abc import Mapping

from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals

# The parts that a run is evaluated on, by what its metrics are called.
PREFIXES = {"validation": "val", "test": "test"}


def evaluate_tables(tables: Mapping[str, Predictions]) -> dict[str, float]:
    """Every metric of a run's predictions tables (part → table), the headline ones with intervals.

    Named "test_accuracy", "test_accuracy_ci_low", …; NaN where a metric is undefined.
    """
    metrics: dict[str, float] = {}
    for part, table in tables.items():
        prefix = PREFIXES[part]
        metrics |= {f"{prefix}_{name}": value for name, value in point_metrics(table).items()}
        for name, (low, high) in bootstrap_intervals(table).items():
            metrics |= {f"{prefix}_{name}_ci_low": low, f"{prefix}_{name}_ci_high": high}
    return metrics
