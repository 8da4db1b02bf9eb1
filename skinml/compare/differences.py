"""Which differences are tested, and their tests: all pairs of cells, the paper's own questions."""

import itertools
from collections.abc import Sequence

import numpy as np

from skinml.compare.comparison import Row, Test
from skinml.compare.evidence import Evidence
from skinml.compare.paired import Estimate, swap_test
from skinml.compare.runs import CellName
from skinml.evaluation.statistics import LEAST_OF_A_CLASS, carriers_of
from skinml.evaluation.testing import holm

Contrast = tuple[tuple[str, str], list[tuple[Row, Row]]]


def planned_contrasts(rows: Sequence[Row]) -> dict[str, list[Contrast]]:
    """The paper's own questions, each over all the cells that can answer it.

    Each pair of batch sizes over the networks that have both, and each pair of networks over the
    batch sizes that have both.
    """
    by_name = {row.cell: row for row in rows}
    models = list(dict.fromkeys(row.cell.model for row in rows))
    sizes = sorted({row.cell.batch_size for row in rows})

    def contrast(names: tuple[str, str], cells: list[tuple[CellName, CellName]]) -> list[Contrast]:
        both = [(by_name[a], by_name[b]) for a, b in cells if a in by_name and b in by_name]
        return [(names, both)] if both else []

    return {
        "batch size": [
            found
            for a, b in itertools.combinations(sizes, 2)
            for found in contrast(
                (f"batch size {a}", f"batch size {b}"),
                [(CellName(model, a), CellName(model, b)) for model in models],
            )
        ],
        "model": [
            found
            for a, b in itertools.combinations(models, 2)
            for found in contrast(
                (a, b), [(CellName(a, size), CellName(b, size)) for size in sizes]
            )
        ],
    }


def group_alike(rows: Sequence[Row], of_cell: dict[CellName, Estimate]) -> list[list[Row]]:
    """The cells in groups that a metric cannot tell apart: no image contributes to a difference.

    A cell whose figure or error cannot be computed is a group of its own.
    """
    groups: dict[tuple[bytes, CellName | None], list[Row]] = {}
    for row in rows:
        own = of_cell[row.cell]
        figures = np.r_[own.value, own.influence]
        unknown = None if np.isfinite(figures).all() else row.cell
        # Adding 0 makes one of the two zeros.
        groups.setdefault(((figures.round(12) + 0.0).tobytes(), unknown), []).append(row)
    return list(groups.values())


def pairwise_tests(metric: str, groups: Sequence[Sequence[Row]], evidence: Evidence) -> list[Test]:
    """The tests of each group of cells against each other one."""
    contrasts: list[Contrast] = [
        ((str(a[0].cell), str(b[0].cell)), [(a[0], b[0])])
        for a, b in itertools.combinations(groups, 2)
    ]
    return contrast_tests(metric, contrasts, evidence)


def contrast_tests(metric: str, contrasts: Sequence[Contrast], evidence: Evidence) -> list[Test]:
    """Test one family of contrasts, corrected for their number."""
    found = []
    run = next(iter(evidence.estimates))
    enough = carriers_of(metric, run.predictions) >= LEAST_OF_A_CLASS
    for names, cells in contrasts:
        whole, repeats, right = evidence.differences(metric, cells)
        if metric == "accuracy":
            p = swap_test(right)
            single = len(cells) == 1 and np.isin(right, (-1, 0, 1)).all()
            method = "McNemar, exact" if single else "exact swaps"
        else:
            p = whole.p_value() if enough else np.nan
            method = "normal" if metric == "sensitivity_macro" else "DeLong"
        over_seeds = repeats.p_value() if np.isfinite(p) else np.nan
        ends = whole.interval() if enough and whole.standard_error else (np.nan, np.nan)
        found.append((names, whole.value, ends, p, method, over_seeds, repeats))
    images, seeds = holm([row[3] for row in found]), holm([row[5] for row in found])
    return [
        Test(metric, *names, value, *ends, p, p_holm, method, p_seeds, p_seeds_holm,
             len(repeats.estimates), repeats.seeds, len(found),
             repeats.components if repeats.estimates else None)
        for (names, value, ends, p, method, p_seeds, repeats), p_holm, p_seeds_holm
        in zip(found, images, seeds, strict=True)
    ]  # fmt: skip
