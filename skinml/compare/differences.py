"""Which differences are tested, and their tests: all pairs of cells, the paper's own questions."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from skinml.compare.comparison import Row, Test
from skinml.compare.evidence import Evidence
from skinml.compare.paired import Estimate, swap_test
from skinml.compare.runs import CellName
from skinml.evaluation.statistics import LEAST_OF_A_CLASS, carriers_of
from skinml.evaluation.testing import holm

Contrast = tuple[tuple[str, str], list[tuple[Row, Row]]]

Kind = tuple[tuple[int, int], ...]


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


def planned_tests(
    metric: str,
    contrasts: Sequence[Contrast],
    evidence: Evidence,
    groups: Sequence[Sequence[Row]],
) -> list[Test]:
    """Test planned contrasts, those of the same cells as one, and of cells that are alike as none.

    `groups` are the cells that the metric cannot tell apart (`group_alike`).
    """
    number = {row.cell: place for place, group in enumerate(groups) for row in group}
    kinds: dict[Kind, Contrast] = {}
    orders = []
    for names, cells in contrasts:
        kind = _kind(cells, number)
        flipped = _kind([(b, a) for a, b in cells], number)
        orders.append((min(kind, flipped), kind > flipped))
        # Each is tested in one direction, whichever it is asked in first.
        ahead = [(b, a) for a, b in cells] if kind > flipped else cells
        kinds.setdefault(min(kind, flipped), (names, ahead))
    found: dict[Kind, Test] = {}
    for kind, contrast in kinds.items():
        if all(a == b for a, b in kind):
            [test] = contrast_tests(metric, [contrast], evidence)
            if abs(test.difference) < 1e-12:
                found[kind] = test
    rest = [kind for kind in kinds if kind not in found]
    tests = contrast_tests(metric, [kinds[kind] for kind in rest], evidence)
    found |= dict(zip(rest, tests, strict=True))
    return [
        _named(found[kind], names, backward)
        for (kind, backward), (names, _) in zip(orders, contrasts, strict=True)
    ]


def _kind(cells: Sequence[tuple[Row, Row]], number: Mapping[CellName, int]) -> Kind:
    """What a contrast is of: the groups of cells on both sides, whatever its order of networks."""
    return tuple(sorted((number[a.cell], number[b.cell]) for a, b in cells))


def _named(test: Test, names: tuple[str, str], backward: bool) -> Test:
    """A test under the names of one contrast that it is of, in its direction."""
    first, second = names
    if not backward:
        return replace(test, first=first, second=second)
    return replace(
        test, first=first, second=second, difference=-test.difference, low=-test.high,
        high=-test.low,
    )  # fmt: skip


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
