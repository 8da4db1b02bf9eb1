"""The tables of a comparison's report."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from skinml.base.names import short_id
from skinml.compare.comparison import (
    EXPORTED,
    VERDICT_METRICS,
    Comparison,
    Row,
    Test,
    Value,
    Vote,
)
from skinml.compare.document import Block, Cell, Table
from skinml.compare.paired import ALPHA, format_p
from skinml.compare.published.table import paper_values
from skinml.compare.runs import CellName
from skinml.evaluation.classes import of_class, told_classes
from skinml.evaluation.metrics import AVERAGES, Metric, metric_title, metrics_of

# The columns of the paper's Table III.
TABLE_III = tuple(row for row in AVERAGES if row.paper)


def scale_of(metric: Metric) -> tuple[float, int]:
    """What the paper's table multiplies a figure by, and how many decimals it prints."""
    return (100, 2) if metric.percent else (1, 4)


def class_columns(classes: tuple[str, ...]) -> dict[str, str]:
    """The columns of sensitivity and specificity: metric → heading."""
    names = [
        of_class(kind, label)
        for kind in ("sensitivity", "specificity")
        for label in told_classes(classes)
    ]
    return {name: metrics_of(classes)[name].heading for name in names}


def further_columns(classes: tuple[str, ...]) -> dict[str, str]:
    """The other columns beside those of Table III, areas under ROC curves first."""
    own = class_columns(classes)
    return {
        name: row.heading
        for name, row in metrics_of(classes).items()
        if row.heading and not row.paper and name not in own
    }


_COSTS = {
    "parameters_millions": ("parameters M", 2),
    "model_size_mb": ("size MB", 1),
    "latency_ms": ("latency ms", 1),
    "training_seconds": ("training min", 1),
}


_EXPORTED = dict(
    zip(EXPORTED, (("LiteRT MB", 1), ("LiteRT ms", 1), ("LiteRT AUC change", 4)), strict=True)
)


_OF_A_RUN = {"accuracy": "accuracy", "auc_macro": "AUC macro", "challenge_auc": "chall. AUC"}


def number(value: float, decimals: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{decimals}f}"


def signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−") if math.isfinite(value) else "–"


def papers_values(comparison: Comparison) -> dict[CellName, dict[str, float]]:
    """The paper's Table III, which images of other data sets have nothing to do with."""
    return paper_values() if is_papers(comparison) else {}


def is_papers(comparison: Comparison) -> bool:
    """Whether the images are of the paper's data set."""
    return comparison.selection.runs[0].tags["data"] == "isic2017"


def _value_cell(value: Value, factor: float, decimals: int, bold: bool) -> Cell:
    ends = [number(factor * end, _fewer(factor, decimals)) for end in (value.low, value.high)]
    note = "–".join(ends) if math.isfinite(value.low) else ""
    if value.sd_seeds is not None:
        note += f"{' ' if note else ''}±{number(factor * value.sd_seeds, decimals)}"
    return Cell(number(factor * value.value, decimals), note, bold)


def _fewer(factor: float, decimals: int) -> int:
    """At most three digits, one less than the paper prints: nobody can use more of a spread."""
    return max(decimals - 1, 3 if factor == 1 else 1)


def _best(rows: Sequence[Row], figure: Callable[[Row], float], lower: bool) -> set[CellName]:
    """The cells to set in bold in a column: the best of those that have more than one answer.

    None where fewer than two of them have a figure: it is the best of nothing.
    """
    figures = {row.cell: figure(row) for row in rows if not row.one_class}
    finite = {cell: value for cell, value in figures.items() if math.isfinite(value)}
    if len(finite) < 2:
        return set()
    best = (min if lower else max)(finite.values())
    return {cell for cell, value in finite.items() if value == best}


def _best_value(rows: Sequence[Row], metric: str) -> set[CellName]:
    lower = metrics_of(rows[0].runs[0].predictions.classes)[metric].lower_is_better
    return _best(rows, lambda row: row.values[metric].value, lower)


def _with_votes(comparison: Comparison) -> list[tuple[list[Cell], CellName, Row | Vote]]:
    """What stands in a table of figures: each cell, and below it its vote.

    The cells that name it, its cell, and what has its figures.
    """
    lines: list[tuple[list[Cell], CellName, Row | Vote]] = []
    for row in comparison.rows:
        lines.append((names_of(row), row.cell, row))
        if vote := comparison.votes.get(row.cell):
            lines.append((names_of_vote(row.cell, vote), row.cell, vote))
    return lines


def names_of(row: Row) -> list[Cell]:
    """The two cells that name a row."""
    return [Cell(row.cell.model), Cell(f"{row.cell.batch_size}{row.mark}")]


def names_of_vote(cell: CellName, vote: Vote) -> list[Cell]:
    """The same of a cell's vote, with how many networks it is."""
    return [Cell(cell.model), Cell(f"{cell.batch_size} {vote.times}")]


def table_iii(comparison: Comparison) -> Table:
    published = papers_values(comparison)
    columns = ["model", "batch"]
    for metric in TABLE_III:
        columns += [metric.heading, "paper"] if published else [metric.heading]
    best = {metric.name: _best_value(comparison.rows, metric.name) for metric in TABLE_III}
    missing = [
        ([Cell(cell.model), Cell(str(cell.batch_size))], cell, None)
        for cell in comparison.selection.missing
    ]
    rows = []
    for names, cell, found in [*_with_votes(comparison), *missing]:
        line = list(names)
        # The paper has no vote.
        paper = {} if isinstance(found, Vote) else published.get(cell, {})
        for metric in TABLE_III:
            factor, decimals = scale_of(metric)
            printed = paper.get(metric.paper)
            gap = ""
            if found:
                value = found.values[metric.name]
                bold = isinstance(found, Row) and cell in best[metric.name]
                line.append(_value_cell(value, factor, decimals, bold))
                if printed:
                    gap = signed(factor * value.value - printed, _fewer(factor, decimals))
            else:
                line.append(Cell("missing"))
            if published:
                line.append(Cell(number(printed, decimals), gap) if printed else Cell("–"))
        rows.append(line)
    title = "Results in the form of the paper's Table III" if published else "Results"
    return Table(title, tuple(columns), rows, labels=2)


# More columns fit no page and no terminal.
_MOST_COLUMNS = 8


def plain_tables(comparison: Comparison, title: str, metrics: dict[str, str]) -> list[Block]:
    """A table of metrics; of very many classes several, each with as many columns as fit."""
    names = list(metrics)
    count = -(-len(names) // _MOST_COLUMNS)
    each = -(-len(names) // count)
    return [
        _plain_table(
            comparison,
            title if count == 1 else f"{title} ({part + 1} of {count})",
            {name: metrics[name] for name in names[part * each : (part + 1) * each]},
        )
        for part in range(count)
    ]


def _plain_table(comparison: Comparison, title: str, metrics: dict[str, str]) -> Table:
    best = {metric: _best_value(comparison.rows, metric) for metric in metrics}
    rows = [
        [
            *names,
            *(
                _value_cell(
                    found.values[metric], 1, 3, isinstance(found, Row) and cell in best[metric]
                )
                for metric in metrics
            ),
        ]
        for names, cell, found in _with_votes(comparison)
    ]
    return Table(title, ("model", "batch", *metrics.values()), rows, labels=2)


def _cost(row: Row, name: str) -> float:
    return row.costs.get(name, math.nan)


def cost_table(comparison: Comparison) -> Table:
    # Latencies of two devices say nothing of two networks.
    own = [
        row for row in comparison.rows if row.latency and row.latency.device == comparison.device
    ]
    # Only where there is any: most runs of before have no exported file.
    exported = {
        name: shown
        for name, shown in _EXPORTED.items()
        if any(name in row.costs for row in comparison.rows)
    }
    costs = _COSTS | exported
    best = {
        name: _best(
            own if name == "latency_ms" else comparison.rows, partial(_cost, name=name), True
        )
        for name in _COSTS
    }
    rows = []
    for row in comparison.rows:
        line = names_of(row)
        for name, (_, decimals) in costs.items():
            value = _cost(row, name) / (60 if name == "training_seconds" else 1)
            note = _latency_note(row, comparison.device) if name == "latency_ms" else ""
            line.append(Cell(number(value, decimals), note, row.cell in best.get(name, ())))
        rows.append(line)
    return Table(
        "Cost of the networks as built here",
        ("model", "batch", *(title for title, _ in costs.values())),
        rows,
        labels=2,
    )


def _latency_note(row: Row, usual: str) -> str:
    """Over how many runs a latency is the median, their ends, and the device if it is another."""
    latency = row.latency
    if latency is None:
        return ""
    decimals = _COSTS["latency_ms"][1]
    ends = [number(end, decimals) for end in (latency.low, latency.high)]
    runs = f"{'–'.join(ends)}, {latency.runs} runs" if latency.runs > 1 else "1 run"
    return runs if latency.device == usual else f"{runs}, {latency.device}"


def _p_cell(p: float, note: str) -> Cell:
    return Cell(format_p(p), note if math.isfinite(p) else "", bold=p < ALPHA)


def tests_table(title: str, tests: Sequence[Test]) -> Table:
    """Differences with their tests; a column says the metric where there are several."""
    several = len({test.metric for test in tests}) > 1
    columns = ("difference", "value", "p, images", "Holm", "images and runs, Holm")
    rows = []
    for test in tests:
        interval = f"{signed(test.low, 3)} to {signed(test.high, 3)}"
        line = [
            Cell(test.first, f"minus {test.second}"),
            Cell(signed(test.difference, 4), interval if math.isfinite(test.low) else ""),
            Cell(format_p(test.p_images), test.method),
            _p_cell(test.p_images_holm, ""),
            _p_cell(test.p_seeds_holm, f"{test.pairs} pairs of runs" if test.pairs > 1 else ""),
        ]
        rows.append([Cell(metric_title(test.metric)), *line] if several else line)
    if several:
        return Table(title, ("metric", *columns), rows, labels=2)
    return Table(title, columns, rows)


def standings_table(comparison: Comparison) -> Table:
    columns = ["model", "batch"]
    for metric in VERDICT_METRICS:
        columns += [f"{metric_title(metric)}: highest in", "rank, 95 %"]
    rows = []
    for row in comparison.rows:
        line = names_of(row)
        for metric in VERDICT_METRICS:
            standing = comparison.standings[metric]
            low, high = standing.rank_low[row.cell], standing.rank_high[row.cell]
            share = standing.probability_best[row.cell]
            line.append(Cell(f"{100 * share:.1f} %" if math.isfinite(share) else "–"))
            line.append(Cell(f"{low:g}–{high:g}" if math.isfinite(low) else "–"))
        rows.append(line)
    return Table(
        "If the test images were drawn again: the share of resamples in which each has the highest "
        "value, and its rank, of the networks as trained",
        tuple(columns),
        rows,
        labels=2,
    )


def common_device(comparison: Comparison) -> str:
    """What kind of device all runs were trained on; empty where they differ, or do not say."""
    kinds = {run.params.get("device_kind", "") for row in comparison.rows for run in row.runs}
    return kinds.pop() if len(kinds) == 1 else ""


def runs_table(comparison: Comparison) -> Table:
    """A row a run; without its cell where its name begins with that, or a device that all share."""
    runs = [run for row in comparison.rows for run in row.runs]
    named = all(run.run_id.startswith(f"{run.cell}-") for run in runs)
    left_out = {"cell"} if named else set()
    if common_device(comparison):
        left_out.add("device")
    rows = []
    shown = {name: t for name, t in _OF_A_RUN.items() if name in comparison.rows[0].values}
    for row in comparison.rows:
        for run, values in zip(row.runs, row.by_run, strict=True):
            epochs = f"{run.setting('epochs_frozen')} + {run.setting('epochs_finetune')}"
            kept = run.metrics.get("best_epoch", math.nan)
            rows.append(
                [
                    Cell(f"{row.cell}{row.mark}"),
                    Cell(short_id(run.run_id)),
                    Cell(run.tags["seed"]),
                    Cell(run.weights_kind),
                    Cell(epochs),
                    Cell(number(kept, 0)),
                    *(Cell(number(values[name], 3)) for name in shown),
                    Cell(run.params.get("device_kind", "?")),
                    Cell(run.params.get("git_commit", "?")[:7]),
                ]
            )
    columns = (
        "cell", "run", "seed", "weights", "epochs", "kept", *shown.values(), "device", "commit",
    )  # fmt: skip
    kept_columns = [number for number, name in enumerate(columns) if name not in left_out]
    return Table(
        "The runs",
        tuple(columns[number] for number in kept_columns),
        [[row[number] for number in kept_columns] for row in rows],
        labels=1 if named else 2,
    )
