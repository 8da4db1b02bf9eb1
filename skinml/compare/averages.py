"""Means over networks and batch sizes, of the same cells on all sides."""

from skinml.compare.comparison import Comparison, Row
from skinml.compare.document import Block, Cell, Heading, Table, Text
from skinml.compare.published.arithmetic import in_common
from skinml.compare.tables import TABLE_III, number, papers_values, scale_of


def averages_section(comparison: Comparison) -> list[Block]:
    """Means over models and batch sizes, where they are of several cells."""
    published = papers_values(comparison)
    found = [*_averages(comparison, "model"), *_averages(comparison, "batch size")]
    if not found:
        return []
    tables = any(isinstance(block, Table) for block in found)
    return [
        Heading("Averages, as the paper discusses them" if published else "Averages"),
        *found,
        *([Text("The paper's averages are over the same cells.")] if published and tables else []),
    ]


def _averages(comparison: Comparison, factor: str) -> list[Block]:
    """Means by a factor over what all its levels have of the other one, or why there are none."""
    by_size = factor == "batch size"
    levels: dict[str, dict[str, Row]] = {}
    for row in comparison.rows:
        level, partner = (row.cell.model, str(row.cell.batch_size))[:: -1 if by_size else 1]
        levels.setdefault(level, {})[partner] = row
    if all(len(rows) == 1 for rows in levels.values()):
        return []
    common, left_out = in_common(levels)
    other, what = ("network", "networks") if by_size else ("batch size", "batch sizes")
    if len(levels) > 1 and len(levels) - len(left_out) < 2:
        return [Text(f"By {factor}: no averages, as no two have a {other} in common.")]
    if len(common) < 2:
        return [
            Text(
                f"By {factor}: no averages, as {other} {common[0]} is all that "
                f"{', '.join(level for level in levels if level not in left_out)} have in common."
            )
        ]
    names = {level: f"batch size {level}" if by_size else level for level in levels}
    groups = {
        names[level]: [rows[name] for name in common]
        for level, rows in levels.items()
        if level not in left_out
    }
    over = f"over the {what} {', '.join(common)}"
    blocks: list[Block] = [_table(comparison, f"By {factor}, {over}", groups)]
    if left_out:
        told = ", ".join(names[level] for level in left_out)
        blocks.append(Text(f"Left out, with no {other} in common with the others: {told}."))
    return blocks


def _table(comparison: Comparison, title: str, groups: dict[str, list[Row]]) -> Table:
    """Means over the rows of each group, beside those of the paper's figures of the same cells."""
    papers = papers_values(comparison)
    published = {
        name: [papers[row.cell] for row in members if row.cell in papers]
        for name, members in groups.items()
    }
    rows = []
    for name, members in groups.items():
        line = [Cell(name), Cell(str(len(members)))]
        for metric in TABLE_III:
            factor, decimals = scale_of(metric)
            own = [factor * row.values[metric.name].value for row in members]
            line.append(Cell(number(sum(own) / len(own), decimals)))
            printed = [paper[metric.paper] for paper in published[name]]
            mean = number(sum(printed) / len(printed), decimals) if printed else "–"
            line += [Cell(mean)] if papers else []
        rows.append(line)
    columns = ["", "cells"]
    for metric in TABLE_III:
        columns += [metric.heading, "paper"] if papers else [metric.heading]
    return Table(title, tuple(columns), rows)
