"""A comparison → the document that a person reads."""

import math
from collections import Counter
from collections.abc import Callable, Container, Sequence
from functools import partial

from skinml.comparison.analysis import (
    COSTS,
    ONE_CLASS_MARK,
    VERDICT_METRICS,
    Comparison,
    Row,
    Test,
    Value,
    format_p,
    metric_title,
    paper_values,
)
from skinml.comparison.document import (
    Block,
    Cell,
    Code,
    Details,
    Document,
    Heading,
    Items,
    Picture,
    Table,
    Text,
)
from skinml.comparison.figures import captions
from skinml.comparison.paired import ALPHA, LEAST_SEEDS
from skinml.comparison.runs import CellName, Selection, command_for
from skinml.evaluation.predictions import ONE_CLASS_SHARE
from skinml.evaluation.statistics import LEAST_OF_A_CLASS

# The columns of the paper's Table III: metric → heading, factor, decimals, the paper's field.
TABLE_III = {
    "accuracy": ("accuracy %", 100, 2, "accuracy"),
    "precision_weighted": ("precision %", 100, 2, "precision"),
    "f1_weighted": ("F1", 1, 4, "f1"),
    "auc_weighted": ("AUC", 1, 4, "auc"),
}

_BY_CLASS = {
    "sensitivity_melanoma": "sens. mel.",
    "sensitivity_seborrheic_keratosis": "sens. seb. k.",
    "sensitivity_nevus": "sens. nevus",
    "specificity_melanoma": "spec. mel.",
    "specificity_seborrheic_keratosis": "spec. seb. k.",
    "specificity_nevus": "spec. nevus",
}
_AUCS = {
    "auc_macro": "AUC macro",
    "melanoma_auc": "mel. AUC",
    "keratosis_auc": "seb. k. AUC",
    "challenge_auc": "challenge AUC",
    "calibration_error": "calibr. error",
}
_LOWER_IS_BETTER = {"calibration_error", *COSTS} - {"best_epoch"}

_COSTS = {
    "parameters_millions": ("parameters M", 2),
    "model_size_mb": ("size MB", 1),
    "latency_ms": ("latency ms", 1),
    "training_seconds": ("training min", 1),
}


_OF_A_RUN = {"accuracy": "accuracy", "auc_macro": "AUC macro", "challenge_auc": "chall. AUC"}


_GLOSSARY = (
    "Network as trained: one run's weights. Configuration: network and batch size, trained anew "
    "with each seed.",
    "95 % interval over images: where the figure of these networks would lie with other test "
    "images of the same kind, 95 times in 100.",
    "p over images: how often a difference as large or larger would be seen on such images if the "
    "networks as trained were equally good.",
    "p over images and runs: the same if the configurations were equally good, with other images "
    f"and trained anew. It takes {LEAST_SEEDS} pairs of runs with the same seeds; a pooled "
    "question has pairs of several networks or batch sizes.",
    "Holm: the p-value corrected for the number of tests of one metric in one table.",
    "McNemar's test, exact swaps: exact tests of accuracy on the same images, of single runs and "
    "of means over runs. DeLong's test: of AUCs on the same images.",
    "No winner: the highest value is not shown to be higher than each other one. Shown means both "
    f"p-values below {ALPHA:g} after Holm's correction, in runs of the same seeds trained alike.",
    "Share of resamples: in how much of the redrawn test sets a cell has the highest value. Other "
    "seeds are not in it; it is no probability of being the better configuration.",
    "AUC: the probability that an image of the class gets a higher score than one of the others.",
    "Challenge AUC: the mean of the AUCs for melanoma and for seborrheic keratosis. Calibration "
    "error: the mean gap of stated and observed frequency of being right.",
)


_DEMO = "Generated demo images: these figures say nothing about skin lesions."


def make_report(comparison: Comparison, all_pairs: bool = False) -> Document:
    """The whole report of a comparison.

    The pairs that are not shown to differ are folded; formats that cannot fold have them only with
    `all_pairs`.
    """
    selection = comparison.selection
    several = len(comparison.rows) > 1
    demo = selection.runs[0].tags["data"] == "demo"
    verdicts = [standing.verdict for standing in comparison.standings.values()]
    pictures = captions(comparison)

    def picture(name: str) -> list[Block]:
        return [Picture(name, pictures.pop(name))] if name in pictures else []

    blocks: list[Block] = [
        *([Text(_DEMO, strong=True)] if demo else []),
        *(Text(verdict, strong=True) for verdict in verdicts if several),
        *_one_class(comparison),
        Text(_test_set(comparison)),
        _table_iii(comparison),
        *picture("intervals"),
        Text(
            "Below each figure: its 95 % interval over the test images (bootstrap; Wilson's for a "
            f"figure of 0 or 1; none where fewer than {LEAST_OF_A_CLASS} images carry it)"
            + (", ± standard deviation over seeds. " if _any_sd(comparison) else ". ")
            + ("" if demo else "Beside it the paper's, with the difference below. ")
            + (
                "The best value of a column is in bold; whether it differs from the others is a "
                "question of the tests below. "
                if several
                else ""
            )
            + "Precision, F1 and AUC are averages weighted by class."
        ),
        *_missing(comparison),
        Heading("What stands behind the table"),
        Items(tuple(_caveats(comparison))),
        Heading("By class"),
        _plain_table(comparison, "Sensitivity and specificity", _BY_CLASS),
        *picture("confusion_matrices"),
        _plain_table(comparison, "Areas under the ROC curve, calibration", _AUCS),
        *picture("roc_curves"),
        Heading("Cost"),
        _cost_table(comparison),
        *picture("pareto"),
        *_how_latency(comparison),
        *(_all_averages(comparison) if several else ()),
        *_planned(comparison),
        *([Heading("Who is best?"), _standings_table(comparison)] if several else ()),
        *picture("ranks"),
        *([Items(tuple(_detectable(comparison)))] if several else ()),
        *([Heading("All pairs"), *_pairs(comparison, all_pairs)] if several else ()),
        *_further(pictures),
        Heading("Runs"),
        Details(
            "Initial weights, epochs (frozen + fine-tuning) and the one kept, figures of each run",
            (_runs_table(comparison),),
        ),
        Details("Glossary", (Items(_GLOSSARY),), instead="--format html has it"),
    ]
    first = selection.runs[0]
    kind = "generated demo images" if demo else "ISIC 2017"
    count = len(comparison.rows)
    what = f"Comparison of {count} configurations" if count > 1 else str(comparison.rows[0].cell)
    return Document(f"{what} on {kind}, {first.tags['protocol']} protocol", blocks)


def _further(pictures: dict[str, str]) -> list[Block]:
    """Figures that have no table to stand beside."""
    found = [Picture(name, caption) for name, caption in pictures.items()]
    return [Heading("Further figures"), *found] if found else []


def _planned(comparison: Comparison) -> list[Block]:
    """The paper's own questions, as far as there are cells to answer them."""
    tables = [
        _tests_table(f"{question.capitalize()}, pooled over the rest", tests)
        for question, tests in comparison.planned.items()
        if tests
    ]
    return [Heading("The paper's own questions"), *tables] if tables else []


def _one_class(comparison: Comparison) -> list[Block]:
    """Which configurations have no more than one answer, said before anyone reads their figures."""
    cells: dict[str, list[CellName]] = {}
    for row in comparison.rows:
        if row.one_answer:
            cells.setdefault(row.one_answer, []).append(row.cell)
    if not cells:
        return []
    count, of = sum(map(len, cells.values())), len(comparison.rows)
    verb = "answers" if count == 1 else "answer"
    told = "; ".join(f"{_cells(own)}: {answer}" for answer, own in cells.items())
    return [
        Text(
            f"{count} of {of} configurations {verb} one class for more than "
            f"{100 * ONE_CLASS_SHARE:.0f} % of the images ({told}). They are marked "
            f"{ONE_CLASS_MARK} and never set in bold.",
            strong=True,
        )
    ]


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{100 * end:.2f}" for end in (min(values), max(values)))
    return " to ".join(ends)


def _any_sd(comparison: Comparison) -> bool:
    return any(row.values["accuracy"].sd_seeds is not None for row in comparison.rows)


def _test_set(comparison: Comparison) -> str:
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in comparison.class_counts.items()
    )
    most = max(comparison.class_counts.values()) / comparison.images
    splits = sorted({run.tags["split"] for run in comparison.selection.runs})
    return (
        f"Test part: {comparison.images} images ({counts}) of split {', '.join(splits)}; always "
        f"answering the commonest class would be {100 * most:.1f} % right. Data digest "
        f"{comparison.selection.runs[0].tags['data_digest']}."
    )


def _number(value: float, decimals: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{decimals}f}"


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−") if math.isfinite(value) else "–"


def _all_averages(comparison: Comparison) -> list[Block]:
    return [
        Heading("Averages, as the paper discusses them"),
        _averages(comparison, "By model", lambda cell: cell.model),
        _averages(comparison, "By batch size", lambda cell: f"batch size {cell.batch_size}"),
        Text("The paper's averages are over the same cells."),
    ]


def _published(comparison: Comparison) -> dict[CellName, dict[str, float]]:
    """The paper's Table III, which generated images have nothing to do with."""
    demo = comparison.selection.runs[0].tags["data"] == "demo"
    return {} if demo else paper_values()


def _value_cell(value: Value, factor: float, decimals: int, bold: bool) -> Cell:
    ends = [_number(factor * end, _fewer(factor, decimals)) for end in (value.low, value.high)]
    note = "–".join(ends) if math.isfinite(value.low) else ""
    if value.sd_seeds is not None:
        note += f"{' ' if note else ''}±{_number(factor * value.sd_seeds, decimals)}"
    return Cell(_number(factor * value.value, decimals), note, bold)


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
    return _best(rows, lambda row: row.values[metric].value, metric in _LOWER_IS_BETTER)


def _names(row: Row) -> list[Cell]:
    return [Cell(row.cell.model), Cell(f"{row.cell.batch_size}{row.mark}")]


def _table_iii(comparison: Comparison) -> Table:
    published = _published(comparison)
    columns = ["model", "batch"]
    for title, *_ in TABLE_III.values():
        columns += [title, "paper"] if published else [title]
    best = {metric: _best_value(comparison.rows, metric) for metric in TABLE_III}
    rows = []
    cells = [*(row.cell for row in comparison.rows), *comparison.selection.missing]
    by_cell = {row.cell: row for row in comparison.rows}
    for cell in cells:
        row = by_cell.get(cell)
        line = _names(row) if row else [Cell(cell.model), Cell(str(cell.batch_size))]
        paper = published.get(cell, {})
        for metric, (_, factor, decimals, name) in TABLE_III.items():
            printed = paper.get(name)
            gap = ""
            if row:
                value = row.values[metric]
                line.append(_value_cell(value, factor, decimals, cell in best[metric]))
                if printed:
                    gap = _signed(factor * value.value - printed, _fewer(factor, decimals))
            else:
                line.append(Cell("missing"))
            if published:
                line.append(Cell(_number(printed, decimals), gap) if printed else Cell("–"))
        rows.append(line)
    return Table("Results in the form of the paper's Table III", tuple(columns), rows, labels=2)


def _plain_table(comparison: Comparison, title: str, metrics: dict[str, str]) -> Table:
    best = {metric: _best_value(comparison.rows, metric) for metric in metrics}
    rows = [
        [
            *_names(row),
            *(
                _value_cell(row.values[metric], 1, 3, row.cell in best[metric])
                for metric in metrics
            ),
        ]
        for row in comparison.rows
    ]
    return Table(title, ("model", "batch", *metrics.values()), rows, labels=2)


def _cost(row: Row, name: str) -> float:
    return row.costs.get(name, math.nan)


def _cost_table(comparison: Comparison) -> Table:
    # Latencies of two devices say nothing of two networks.
    own = [
        row for row in comparison.rows if row.latency and row.latency.device == comparison.device
    ]
    best = {
        name: _best(
            own if name == "latency_ms" else comparison.rows, partial(_cost, name=name), True
        )
        for name in _COSTS
    }
    rows = []
    for row in comparison.rows:
        line = _names(row)
        for name, (_, decimals) in _COSTS.items():
            value = _cost(row, name) / (60 if name == "training_seconds" else 1)
            note = _latency_note(row, comparison.device) if name == "latency_ms" else ""
            line.append(Cell(_number(value, decimals), note, row.cell in best[name]))
        rows.append(line)
    return Table(
        "Cost of the networks as built here",
        ("model", "batch", *(title for title, _ in _COSTS.values())),
        rows,
        labels=2,
    )


def _latency_note(row: Row, usual: str) -> str:
    """Over how many runs a latency is the median, their ends, and the device if it is another."""
    latency = row.latency
    if latency is None:
        return ""
    decimals = _COSTS["latency_ms"][1]
    ends = [_number(end, decimals) for end in (latency.low, latency.high)]
    runs = f"{'–'.join(ends)}, {latency.runs} runs" if latency.runs > 1 else "1 run"
    return runs if latency.device == usual else f"{runs}, {latency.device}"


def _how_latency(comparison: Comparison) -> list[Block]:
    if not comparison.device:
        return []
    return [
        Text(
            f"Latency: one image at a time on {comparison.device}. It does not depend on the batch "
            "size of the training, so each network has one: the median of what its runs "
            "measured; below it their smallest and largest."
        )
    ]


def _averages(comparison: Comparison, title: str, key: Callable[[CellName], str]) -> Table:
    groups: dict[str, list[Row]] = {}
    for row in comparison.rows:
        groups.setdefault(key(row.cell), []).append(row)
    papers = _published(comparison)
    published: dict[str, list[dict[str, float]]] = {}
    for row in comparison.rows:
        if row.cell in papers:
            published.setdefault(key(row.cell), []).append(papers[row.cell])
    rows = []
    for name, members in groups.items():
        line = [Cell(name), Cell(str(len(members)))]
        for metric, (_, factor, decimals, attribute) in TABLE_III.items():
            own = [factor * row.values[metric].value for row in members]
            line.append(Cell(_number(sum(own) / len(own), decimals)))
            printed = [paper[attribute] for paper in published.get(name, [])]
            mean = _number(sum(printed) / len(printed), decimals) if printed else "–"
            line += [Cell(mean)] if papers else []
        rows.append(line)
    columns = ["", "cells"]
    for heading, *_ in TABLE_III.values():
        columns += [heading, "paper"] if papers else [heading]
    return Table(title, tuple(columns), rows)


def _p_cell(p: float, note: str) -> Cell:
    return Cell(format_p(p), note if math.isfinite(p) else "", bold=p < ALPHA)


def _tests_table(title: str, tests: Sequence[Test]) -> Table:
    """Differences with their tests; a column says the metric where there are several."""
    several = len({test.metric for test in tests}) > 1
    columns = ("difference", "value", "p, images", "Holm", "images and runs, Holm")
    rows = []
    for test in tests:
        interval = f"{_signed(test.low, 3)} to {_signed(test.high, 3)}"
        line = [
            Cell(test.first, f"minus {test.second}"),
            Cell(_signed(test.difference, 4), interval if math.isfinite(test.low) else ""),
            Cell(format_p(test.p_images), test.method),
            _p_cell(test.p_images_holm, ""),
            _p_cell(test.p_seeds_holm, f"{test.pairs} pairs of runs" if test.pairs > 1 else ""),
        ]
        rows.append([Cell(metric_title(test.metric)), *line] if several else line)
    if several:
        return Table(title, ("metric", *columns), rows, labels=2)
    return Table(title, columns, rows)


def _standings_table(comparison: Comparison) -> Table:
    columns = ["model", "batch"]
    for metric in VERDICT_METRICS:
        columns += [f"{metric_title(metric)}: highest in", "rank, 95 %"]
    rows = []
    for row in comparison.rows:
        line = _names(row)
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


def _detectable(comparison: Comparison) -> list[str]:
    lines = []
    for metric, standing in comparison.standings.items():
        if not math.isfinite(standing.detectable):
            continue
        lines.append(
            f"{metric_title(metric)}: the smallest difference between two of these networks that "
            f"{comparison.images} images show with 80 % power is {standing.detectable:.3f} in a "
            f"single test, and {standing.detectable_all:.3f} among all pairs with Holm's "
            "correction (for a pair whose standard error is the median of the pairs that differ)."
        )
    return lines


def _pairs(comparison: Comparison, all_pairs: bool) -> list[Block]:
    """Every pair of cells: first those that are shown to differ, then the rest."""
    blocks: list[Block] = []
    for metric in VERDICT_METRICS:
        title = metric_title(metric)
        tests = sorted(
            (test for test in comparison.pairs if test.metric == metric),
            # What cannot be computed comes last.
            key=lambda test: (math.isnan(test.p_images_holm), test.p_images_holm),
        )
        shown = [test for test in tests if test.p_images_holm < ALPHA]
        rest = [test for test in tests if not test.p_images_holm < ALPHA]
        text = f"{title}: {len(shown)} of {len(tests)} differences are shown at 5 %"
        text += " after Holm's correction" if tests else ""
        for group in comparison.standings[metric].alike:
            blocks.append(Text(f"{title}: {_alike(metric, group)}"))
        found = _tests_table(f"{title}: the differences shown", shown)
        blocks.append(Details(text, (found,)) if shown else Text(f"{text}."))
        if rest:
            blocks.append(
                Details(
                    f"{title}: {len(rest)} of {len(tests)} differences are not shown at 5 %",
                    (_tests_table(f"{title}: the differences not shown", rest),),
                    instead="" if all_pairs else "--all-pairs lists them",
                )
            )
    return blocks


def _alike(metric: str, group: Sequence[CellName]) -> str:
    """That cells cannot be told apart by a metric, and why."""
    why = "they are right on the same images" if metric == "accuracy" else (
        "they put the images in the same order"
    )  # fmt: skip
    return f"{_cells(group)} cannot be told apart, as {why}; they are tested once, as {group[0]}."


def _missing(comparison: Comparison) -> list[Block]:
    missing = comparison.selection.missing
    if not missing:
        return []
    runs = comparison.selection.runs
    commands = []
    for model in dict.fromkeys(cell.model for cell in missing):
        own = [run for run in runs if run.tags["model"] == model]
        pattern = (own or runs)[-1]
        commands.append(
            command_for(
                model,
                [cell.batch_size for cell in missing if cell.model == model],
                [run for run in runs if run.cell == pattern.cell],
            )
        )
    return [
        Text(f"{len(missing)} cell{'s are' if len(missing) > 1 else ' is'} missing. To fill:"),
        Code(tuple(commands)),
    ]


def _caveats(comparison: Comparison) -> list[str]:
    """What a reader must know to believe the table no more than it deserves."""
    selection = comparison.selection
    runs = selection.runs
    first = runs[0]
    lines = []
    seeds = comparison.seeds
    uneven = len({len(row.runs) for row in comparison.rows}) > 1
    lines.append(
        f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {'at least ' if uneven else ''}{seeds} "
        f"seed{'s' if seeds > 1 else ''} of each configuration. Intervals and p-values over images "
        "are about these networks as trained."
    )
    if comparison.pairs:
        lines.append(
            "P-values over images and runs are about the configurations, trained anew and tested "
            f"on other images. They take {LEAST_SEEDS} pairs of runs with the same seeds, of which "
            "the difference is then the mean. Holm's correction is over all tests of one metric "
            "in one table; cells that answer alike are tested once."
        )
    spread = [row.values["accuracy"].sd_seeds for row in comparison.rows]
    known = [sd for sd in spread if sd is not None]
    if known:
        lines.append(
            f"Spread of the accuracy over seeds: standard deviation {_range(known)} "
            "points within a cell."
        )
    between = [sd for row in comparison.rows if (sd := row.values["accuracy"].sd_splits)]
    if between:
        lines.append(
            f"Spread of the accuracy over splits: standard deviation {_range(between)} points."
        )
    lines += _settings_that_differ(selection)
    if first.tags["protocol"] == "challenge":
        lines.append("The paper tested on a pooled split, not on the official parts used here.")
    elif (images := len(first.predictions.labels)) != 550:
        lines.append(f"The paper's figures allow a test of 550 images; here there are {images}.")
    else:
        lines.append("As many test images as the paper's figures imply, but not the same ones.")
    dirty = sorted({str(run.cell) for run in runs if run.params.get("git_clean") == "false"})
    if dirty:
        lines.append(f"Trained from a source tree with uncommitted changes: {', '.join(dirty)}.")
    across = sorted({run.params.get("duplicate_groups_across_parts", "0") for run in runs})
    if across not in ([], ["0"]):
        lines.append(
            f"{'/'.join(across)} groups of identical images lie in more than one part of the split."
        )
    seen = sorted({run.params.get("test_images_seen_in_training", "0") for run in runs}, key=int)
    if seen not in ([], ["0"]):
        lines.append(f"{'/'.join(seen)} test images have a near-duplicate in the training part.")
    if selection.left_out:
        lines.append(f"Left out: {'; '.join(selection.left_out)}.")
    lines += [f"{sentence}." for sentence in selection.code]
    return lines


def _settings_that_differ(selection: Selection) -> list[str]:
    """One sentence for all settings that divide the cells in the same way."""
    by_division: dict[tuple[tuple[CellName, ...], ...], dict[str, list[str]]] = {}
    for setting, values in selection.differences.items():
        settings = by_division.setdefault(tuple(values.values()), {})
        settings[setting] = list(values)
    lines = []
    for division, settings in by_division.items():
        # The seeds of one cell may differ as well.
        often = Counter(cell for cells in division for cell in cells)
        split = {cell for cell, count in often.items() if count > 1}
        told = "; ".join(
            f"{_cells(cells, split)} with "
            + ", ".join(f"{name} {values[number]}" for name, values in settings.items())
            for number, cells in enumerate(division)
        )
        lines.append(
            f"Not all runs were trained alike: {told}. A difference between them may come from "
            "that."
        )
    return lines


def _cells(cells: Sequence[CellName], in_part: Container[CellName] = ()) -> str:
    """Cells in few words, a network's batch sizes together; `in_part` are those meant so."""
    models: dict[tuple[str, bool], list[str]] = {}
    for cell in cells:
        models.setdefault((cell.model, cell in in_part), []).append(str(cell.batch_size))
    return ", ".join(
        f"{'some runs of ' if part else ''}{model}-{'/'.join(sizes)}"
        for (model, part), sizes in models.items()
    )


def _runs_table(comparison: Comparison) -> Table:
    rows = []
    for row in comparison.rows:
        for run, values in zip(row.runs, row.by_run, strict=True):
            epochs = f"{run.setting('epochs_frozen')} + {run.setting('epochs_finetune')}"
            kept = run.metrics.get("best_epoch", math.nan)
            rows.append(
                [
                    Cell(f"{row.cell}{row.mark}"),
                    Cell(run.run_id[:8]),
                    Cell(run.tags["seed"]),
                    Cell(run.tags.get("weights_kind", "?")),
                    Cell(epochs),
                    Cell(_number(kept, 0)),
                    *(Cell(_number(values[name], 3)) for name in _OF_A_RUN),
                    Cell(run.params.get("device_kind", "?")),
                    Cell(run.params.get("git_commit", "?")[:7]),
                ]
            )
    columns = (
        "cell", "run", "seed", "weights", "epochs", "kept", *_OF_A_RUN.values(), "device", "commit",
    )  # fmt: skip
    return Table("The runs", columns, rows, labels=2)
