"""What the runs of one comparable set show: values with their spread, tests, a verdict.

Two statements are kept apart. One is about the networks as trained: intervals and tests over the
test images, which pair all networks. The other is about configurations, which other seeds train
anew: tests over seeds and images together, for which it takes some runs with the same seeds. A
configuration wins only where both are shown, in the same direction, for the same runs.

A cell's figures are means within each split, averaged over the splits, so that cells that have
unequal numbers of seeds a split are not told apart by how hard the splits are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skinml.base.errors import UserError
from skinml.base.progress import progress_bar, status_line
from skinml.compare.comparison import (
    COSTS,
    EXPORTED,
    VERDICT_METRICS,
    Comparison,
    Latency,
    Row,
    Test,
    Value,
)
from skinml.compare.differences import (
    group_alike,
    pairwise_tests,
    planned_contrasts,
    planned_tests,
)
from skinml.compare.evidence import Evidence, Images, interval_over_images, shares_of
from skinml.compare.paired import ALPHA
from skinml.compare.points import find_points
from skinml.compare.repeats import Components
from skinml.compare.runs import CellName, RunRecord, paper_grid
from skinml.compare.selection import Selection
from skinml.compare.settings import differences_of
from skinml.compare.standing import (
    find_verdict,
    highest_rows,
    standing_of,
    why_none_can_win,
)
from skinml.compare.votes import find_votes, gain_metrics
from skinml.evaluation.metrics import evaluate, reported
from skinml.evaluation.statistics import (
    RESAMPLES,
    bootstrap_weights,
    resampled,
)


def analyse(selection: Selection, resamples: int = RESAMPLES) -> Comparison:
    """Compare the cells of a selection. Tables that do not fit each other are a `UserError`."""
    names = reported(_classes(selection.runs))
    images = Images(selection.runs)
    evidence = Evidence(images, {})
    weights = bootstrap_weights(len(images.ids), resamples)
    rows, draws = _figures(selection, names, evidence, weights)
    found = _compared(selection, rows, draws, evidence)
    own = [number for number, row in enumerate(rows) if row.cell in paper_grid()]
    papers = None
    if 0 < len(own) < len(rows):
        cells = {rows[number].cell: rows[number].runs for number in own}
        only = replace(selection, cells=cells, differences=differences_of(cells))
        papers = _compared(
            only, [rows[number] for number in own], [draws[number] for number in own], evidence
        )
    with status_line("choosing thresholds"):
        points = find_points(rows, images, resamples)
    return replace(found, points=points, votes=find_votes(rows, evidence, weights), papers=papers)


def _compared(
    selection: Selection,
    rows: Sequence[Row],
    draws: Sequence[dict[str, np.ndarray]],
    evidence: Evidence,
) -> Comparison:
    """The tests of some cells, and where each stands among them."""
    of_cell = {
        metric: {row.cell: evidence.of_cell(metric, row.runs) for row in rows}
        for metric in VERDICT_METRICS
    }
    groups = {metric: group_alike(rows, of_cell[metric]) for metric in VERDICT_METRICS}
    pairs = tuple(
        test
        for metric in VERDICT_METRICS
        for test in pairwise_tests(metric, groups[metric], evidence)
    )
    planned = {
        question: tuple(
            test
            for metric in VERDICT_METRICS
            for test in planned_tests(metric, contrasts, evidence, groups[metric])
        )
        for question, contrasts in planned_contrasts(rows).items()
    }
    standings = {
        metric: standing_of(
            metric,
            rows,
            np.array([draw[metric] for draw in draws]),
            of_cell[metric],
            groups[metric],
            [test for test in pairs if test.metric == metric],
            tuple(selection.differences),
        )
        for metric in VERDICT_METRICS
    }
    images = evidence.images
    return Comparison(
        selection, tuple(rows), len(images.ids), images.class_counts, pairs, planned, standings
    )


def _figures(
    selection: Selection, names: tuple[str, ...], evidence: Evidence, weights: np.ndarray
) -> tuple[list[Row], list[dict[str, np.ndarray]]]:
    """The figures of each cell, and their bootstrap resamples by metric: (R,) each.

    `weights` (R, N) are how often each resample has each image. What tests are made of is added to
    `evidence`.
    """
    images = evidence.images
    compared = gain_metrics(selection.runs[0].predictions.classes)
    rows, draws = [], []
    latencies = _latencies(selection.runs)
    with progress_bar("comparing", len(selection.runs)) as advance:
        for cell, runs in selection.cells.items():
            points, redrawn = [], []
            for run in runs:
                point = evaluate(run.predictions, names=names)
                points.append({name: float(value) for name, (value,) in point.items()})
                redrawn.append(resampled(run.predictions, images.of_run(run, weights), names))
                evidence.add(run, compared)
                advance(text=str(cell))
            shares = shares_of(runs)
            mean_draws = {
                name: np.average([draw[name] for draw in redrawn], axis=0, weights=shares)
                for name in names
            }
            draws.append(mean_draws)
            latency = latencies.get(runs[0].network)
            components = {
                metric: evidence.repeats(metric, runs).components for metric in VERDICT_METRICS
            }
            rows.append(_row(cell, runs, points, mean_draws, latency, components))
    return rows, draws


@dataclass(frozen=True)
class Finding:
    """What a metric says of a selection: which cell has the highest value, and whether one wins.

    `best` are the cells of the highest value, `shown` the pairs (better, worse) whose difference is
    shown over images; `cannot` says why none could have won, and is empty where one could.
    """

    metric: str
    highest: str
    winner: CellName | None
    verdict: str
    best: frozenset[CellName]
    shown: frozenset[tuple[CellName, CellName]]
    cannot: str


def find_verdicts(selection: Selection, metrics: Sequence[str]) -> list[Finding]:
    """The verdict by each of some metrics of `TESTED`, with the tests of a comparison."""
    evidence = Evidence(Images(selection.runs), {})
    for run in selection.runs:
        evidence.add(run, metrics)
    rows = []
    for cell, runs in selection.cells.items():
        values = {
            metric: Value(evidence.of_cell(metric, runs).value, np.nan, np.nan, None, None)
            for metric in metrics
        }
        rows.append(Row(cell, runs, (), values, {}, None, {}))
    found = []
    for metric in metrics:
        groups = group_alike(rows, {row.cell: evidence.of_cell(metric, row.runs) for row in rows})
        tests = pairwise_tests(metric, groups, evidence)
        winner, verdict = find_verdict(metric, groups, tests, tuple(selection.differences))
        best = highest_rows(metric, rows)
        value = f" {best[0].values[metric].value:.3f}" if best else ""
        found.append(
            Finding(
                metric,
                "/".join(str(row.cell) for row in best) + value,
                winner,
                verdict,
                frozenset(row.cell for row in best),
                _shown(tests, groups),
                why_none_can_win(tests, tuple(selection.differences)),
            )
        )
    return found


def _shown(
    tests: Sequence[Test], groups: Sequence[Sequence[Row]]
) -> frozenset[tuple[CellName, CellName]]:
    """The pairs (better, worse) shown over images, those of every cell of a group alike."""
    members = {str(group[0].cell): [row.cell for row in group] for group in groups}
    found = set()
    for test in tests:
        if test.p_images_holm < ALPHA:
            pair = (test.first, test.second) if test.difference > 0 else (test.second, test.first)
            found |= {(a, b) for a in members[pair[0]] for b in members[pair[1]]}
    return frozenset(found)


def _classes(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """The classes of all runs; a `UserError` where they are not the same."""
    first = runs[0]
    for run in runs:
        if run.predictions.classes != first.predictions.classes:
            raise UserError(
                f"runs {first.run_id} and {run.run_id} have the classes "
                f"{', '.join(first.predictions.classes)} and {', '.join(run.predictions.classes)}; "
                "expected tables of one data set"
            )
    return first.predictions.classes


def _row(
    cell: CellName,
    runs: tuple[RunRecord, ...],
    points: list[dict[str, float]],
    draws: dict[str, np.ndarray],
    latency: Latency | None,
    components: dict[str, Components],
) -> Row:
    values = {}
    for name in draws:
        by_split: dict[str, list[float]] = {}
        for run, point in zip(runs, points, strict=True):
            by_split.setdefault(run.tags["split"], []).append(point[name])
        low, high = interval_over_images(name, draws[name], runs[0].predictions)
        values[name] = Value(
            float(np.average([point[name] for point in points], weights=shares_of(runs))),
            low,
            high,
            _pooled_sd(list(by_split.values())),
            _sd([float(np.mean(group)) for group in by_split.values()]),
        )
    costs = {
        name: float(np.mean([run.metrics[name] for run in runs]))
        for name in (*COSTS, *EXPORTED)
        if name != "latency_ms" and all(name in run.metrics for run in runs)
    }
    if latency:
        costs["latency_ms"] = latency.median
    return Row(cell, runs, tuple(points), values, costs, latency, components)


def _latencies(runs: Sequence[RunRecord]) -> dict[tuple[str, ...], Latency]:
    """The latency of each network, measured on one device, by `RunRecord.network`.

    The device is the one that most of all runs were measured on; a network that was not measured
    there has that of its own.
    """
    measured: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for run in runs:
        if "latency_ms" in run.metrics:
            by_device = measured.setdefault(run.network, {})
            by_device.setdefault(run.device, []).append(run.metrics["latency_ms"])
    often = Counter(run.device for run in runs if "latency_ms" in run.metrics)
    found = {}
    for network, by_device in measured.items():
        device = next(name for name, _ in often.most_common() if name in by_device)
        values = by_device[device]
        found[network] = Latency(
            float(np.median(values)), min(values), max(values), len(values), device
        )
    return found


def _sd(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _pooled_sd(groups: list[list[float]]) -> float | None:
    """The standard deviation within groups; None where no group has two members."""
    free = sum(len(group) - 1 for group in groups)
    if not free:
        return None
    squares = sum(float(np.sum((np.array(group) - np.mean(group)) ** 2)) for group in groups)
    return float(np.sqrt(squares / free))
