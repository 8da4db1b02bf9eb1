"""How the cells do on groups of the test images, where their tables say something of them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from skinml.compare.comparison import Row
from skinml.compare.document import Block, Cell, Details, Heading, Table, Text
from skinml.compare.paired import ALPHA
from skinml.compare.runs import RunRecord
from skinml.compare.tables import names_of
from skinml.evaluation.classes import sought
from skinml.evaluation.drawing import spaced
from skinml.evaluation.operating_point import Scored, rule_of
from skinml.evaluation.subgroups import LEAST, METRICS, Figure, figures_of_groups

# The figures that are told, each in a table of its own; the rest are in each run's subgroups.csv.
_TOLD = ("auc", "sensitivity", "specificity", "accuracy")

# A cell's figures of one group by the figure's name, one a run.
_Found = dict[tuple[str, str, str], list[Figure]]


def groups_section(rows: Sequence[Row]) -> Iterator[Block]:
    """The section of a report; nothing where no table says anything of its images."""
    found = [_of_cell(row) for row in rows]
    names = list(dict.fromkeys(key for of_cell in found for key in of_cell))
    if not names:
        return
    label = sought(rows[0].runs[0].predictions.classes)
    yield Heading("Groups of the test images")
    yield Text(
        "Each run on groups of its test images: a mean over a cell's runs, below it the interval "
        f"of its one run, or the lowest and highest of several. Of fewer than {LEAST} images "
        "nothing is said. Bold is what is shown, in every run of a cell, to differ from the rest "
        "of the images after Holm's correction over all of the run's groups. Each run's "
        "subgroups.csv has the numbers and tests."
    )
    for metric in _TOLD:
        keys = [key for key in names if key[2] == metric]
        known = [
            key for key in keys
            if any(not math.isnan(f.own.value) for cell in found for f in cell.get(key, ()))
        ]  # fmt: skip
        if not known:
            continue
        title = f"{spaced(label)}: {METRICS[metric]}" if label else METRICS[metric]
        columns = ("model", "batch", *(f"{attribute}: {spaced(g)}" for attribute, g, _ in known))
        lines = [
            [*names_of(row), *(_cell(of_cell.get(key, [])) for key in known)]
            for row, of_cell in zip(rows, found, strict=True)
        ]
        summary = f"By group, {title}: {_differing(columns, lines, _tested(known, found))}"
        table = Table(title, columns, lines, labels=2)
        yield Details(summary, (table,), instead="--format html has them all")


def _tested(keys: Sequence[tuple[str, str, str]], cells: Sequence[_Found]) -> list[int]:
    """The places of the groups to tell of: of two that are all there are, the first.

    Each of them is the rest of the other, so that one test would be told twice.
    """
    told: dict[tuple[str, ...], int] = {}
    for place, key in enumerate(keys):
        tests = (
            f"{figure.p:.9g} {abs(figure.difference.value):.9g}"
            for of_cell in cells
            for figure in of_cell.get(key, ())
        )
        told.setdefault((key[0], *tests), place)
    return list(told.values())


def _differing(
    columns: Sequence[str], lines: Sequence[Sequence[Cell]], tested: Sequence[int]
) -> str:
    """Which of the groups `tested` are shown to differ, each with the cells in which they do."""
    found = []
    for number, name in ((place + 2, columns[place + 2]) for place in tested):
        if cells := [f"{line[0].text}-{line[1].text}" for line in lines if line[number].bold]:
            found.append(f"{name} ({', '.join(cells)})")
    if not found:
        return "no group is shown to differ from the rest"
    return "shown to differ from the rest: " + "; ".join(found)


def _of_cell(row: Row) -> _Found:
    found: _Found = {}
    for run in row.runs:
        for figure in _of_run(run):
            key = figure.attribute, figure.group, figure.metric
            found.setdefault(key, []).append(figure)
    return found


def _of_run(run: RunRecord) -> list[Figure]:
    """The figures of a run, at the threshold that its own operating point has on validation."""
    label, threshold = sought(run.predictions.classes), math.nan
    if label and run.validation:
        (threshold,) = Scored.of(run.validation, label).choose(rule_of(run.params))
    return figures_of_groups(run.predictions, label, threshold)


def _cell(figures: Sequence[Figure]) -> Cell:
    values = [figure.own.value for figure in figures if not math.isnan(figure.own.value)]
    if not values:
        return Cell("–")
    one = figures[0].own
    ends = (one.low, one.high) if len(values) == len(figures) == 1 else (min(values), max(values))
    shown = all(figure.p_holm < ALPHA for figure in figures)
    return Cell(f"{np.mean(values):.2f}", f"{ends[0]:.2f}–{ends[1]:.2f}", bold=shown)
