"""The headline metrics of a tested part, as every page shows them: value and 95 % interval."""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from skinml.evaluation.metrics import Metric, headline, metrics_of


class HeadlineFigure(NamedTuple):
    """A headline metric with its value and interval; NaN where there is none."""

    metric: Metric
    value: float
    low: float
    high: float

    def shown(self, digits: int) -> str:
        """The value, for a table."""
        return f"{self.value:.{digits}f}" if math.isfinite(self.value) else "–"

    def interval(self, digits: int) -> str:
        """The interval, or why there is none."""
        if not math.isfinite(self.value):
            return "class absent"
        if not math.isfinite(self.low):
            return "too few images"
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


def headline_figures(
    metrics: Mapping[str, float], prefix: str, classes: tuple[str, ...]
) -> list[HeadlineFigure]:
    """The headline metrics of tables with some classes, from the logged values of a `prefix`."""

    def logged(name: str) -> float:
        return metrics.get(f"{prefix}_{name}", math.nan)

    return [
        HeadlineFigure(
            metrics_of(classes)[name], *map(logged, (name, f"{name}_ci_low", f"{name}_ci_high"))
        )
        for name in headline(classes)
    ]


def headline_table(
    figures: Sequence[HeadlineFigure],
    heading: str,
    digits: int,
    beneath: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """A table in Markdown, line by line; `beneath` are further lines below that of a metric."""
    yield from (f"| {heading} | value | 95 % interval |", "| --- | --- | --- |")
    for figure in figures:
        name = figure.metric.name
        yield f"| {name} | {figure.shown(digits)} | {figure.interval(digits)} |"
        if name in beneath:
            yield beneath[name]
