"""What a published table can carry: its test size, intervals, differences, verdict.

Everything here follows from printed accuracies alone. How two networks answered the same image is
not in such a table, so its tests are unpaired, and what a paired test could have said is given as
a range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

from skinml.base.errors import UserError
from skinml.compare.paired import ALPHA, p_equals
from skinml.compare.published.arithmetic import (
    LARGEST,
    SPLITS,
    Split,
    correct_counts,
    detectable_difference,
    in_common,
    mcnemar_range,
    possible_test_sizes,
    two_proportions,
)
from skinml.compare.published.table import LISTED, PublishedRow
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.statistics import wilson_interval
from skinml.evaluation.testing import holm


class Counted(NamedTuple):
    """One row of a table with what its test size makes of it."""

    row: PublishedRow
    right: int
    # What the rounding leaves open: the fewest and the most images right.
    fewest: int
    most: int
    # Wilson's 95 % interval (Wilson 1927), 0 to 1.
    low: float
    high: float


class Difference(NamedTuple):
    """Two rows, or two groups of rows, compared as if measured on different images.

    `points` is first less second in percentage points; `p_holm` is corrected over all differences
    of the same kind.
    """

    first: str
    second: str
    points: float
    z: float
    p: float
    p_holm: float

    def turned(self) -> "Difference":
        return Difference(self.second, self.first, -self.points, -self.z, self.p, self.p_holm)


@dataclass(frozen=True)
class CheckedTable:
    """All that a published table says of its test, its differences and its winner.

    `counted` is in the table's order. `possible` are all test sizes that its figures allow, from 1
    to the size of the data set (to `n` where that is more).
    """

    n: int
    inferred: bool
    possible: list[int]
    counted: list[Counted]
    pairs: list[Difference]
    planned: list[Difference]
    averages: dict[str, dict[str, float]]
    averaged_over: dict[str, list[str]]

    @cached_property
    def ranked(self) -> list[Counted]:
        """The rows from the best on, ties in the table's order."""
        return sorted(self.counted, key=lambda counted: -counted.right)

    @property
    def split(self) -> Split | None:
        """The known test part of this size, if any."""
        return next((split for split in SPLITS if split.images == self.n), None)

    @cached_property
    def leads(self) -> list[tuple[Counted, Difference]]:
        """Every other row from the best on, with the leader's difference from it."""
        leader, *others = self.ranked
        pairs = {(pair.first, pair.second): pair for pair in self.pairs}
        pairs |= {(pair.second, pair.first): pair.turned() for pair in self.pairs}
        return [(other, pairs[leader.row.name, other.row.name]) for other in others]

    @property
    def beaten(self) -> int:
        """How many other rows the leader beats after Holm's correction over all pairs."""
        return sum(pair.p_holm < ALPHA for _, pair in self.leads)

    @property
    def has_winner(self) -> bool:
        return 0 < self.beaten == len(self.leads) and self.certain

    @cached_property
    def certain(self) -> bool:
        """Whether the leader wins with the fewest images right that its printed figure allows.

        The others have the most that theirs allow: a winner must not come from the rounding.
        """
        leader, *others = self.ranked
        samples = [
            (leader.row.name, other.row.name, leader.fewest, other.most, self.n) for other in others
        ]
        samples += [
            (a.row.name, b.row.name, a.right, b.right, self.n) for a, b in combinations(others, 2)
        ]
        worst = _corrected(samples)[: len(others)]
        return all(pair.points > 0 and pair.p_holm < ALPHA for pair in worst)

    @cached_property
    def detectable(self) -> float | None:
        """How far below the leader a row must lie to be found different with 80 % power, 0 to 1."""
        return detectable_difference(self.ranked[0].right / self.n, self.n)

    def paired_range(self, other: Counted) -> tuple[float, float]:
        """The McNemar p-values that leader and `other` could have."""
        return mcnemar_range(self.ranked[0].right, other.right, self.n)

    def verdict(self) -> str:
        """One sentence: the winner, or that there is none and why."""
        if not self.leads:
            return "No winner: a single row has nothing to win against."
        leader, (second, closest) = self.ranked[0].row.name, self.leads[0]
        over = f"after Holm's correction over {plural(len(self.pairs), 'pair')} (unpaired)"
        if self.has_winner:
            return f"{leader} is the winner of this test: better than each other row {over}."
        if 0 < self.beaten == len(self.leads):
            return (
                f"No winner: by the printed figures {leader} is better than each other row {over}, "
                "but not by all the figures that they may have been rounded from."
            )
        lead = self.ranked[0].right - second.right
        first = (
            f"{leader} leads {second.row.name} by {plural(lead, 'image')} of {self.n} "
            f"({p_equals(closest.p)})"
            if lead
            else f"{leader} and {second.row.name} share the first place"
        )
        beaten = f"{self.beaten or 'none'} of the {plural(len(self.leads), 'other row')}"
        return (
            f"No winner: {first}, and {beaten} {'is' if self.beaten < 2 else 'are'} beaten {over}."
        )

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: shares and p-values from 0 to 1, accuracies in %, n in images."""
        return {
            "notice": NOTICE,
            "verdict": self.verdict(),
            "has_winner": self.has_winner,
            "leader": self.ranked[0].row.name,
            "n": self.n,
            "n_inferred": self.inferred,
            "possible_test_sizes": self.possible,
            "splits": [s._asdict() | {"fits": s.images in self.possible} for s in SPLITS],
            "majority_class": self.split.majority if self.split else None,
            "rows": [
                {
                    "name": row.name,
                    "model": row.model,
                    "batch_size": row.batch_size,
                    "accuracy_percent": float(row.accuracy),
                    "precision_percent": row.precision,
                    "f1": row.f1,
                    "auc": row.auc,
                    "right": right,
                    "right_fewest": fewest,
                    "right_most": most,
                    "ci_low": low,
                    "ci_high": high,
                }
                for row, right, fewest, most, low, high in self.counted
            ],
            "averages_percent": self.averages,
            "averaged_over": self.averaged_over,
            "test": "two proportions, z with pooled variance, two-sided, unpaired",
            "pairs": [pair._asdict() for pair in self.pairs],
            "planned": [difference._asdict() for difference in self.planned],
            "leader_paired": [
                {"against": other.row.name, "p_least": least, "p_greatest": greatest}
                for other, _ in self.leads
                for least, greatest in [self.paired_range(other)]
            ],
            "detectable_difference": self.detectable,
        }


def check_published(rows: Sequence[PublishedRow], n: int | None = None) -> CheckedTable:
    """Say what a published table of accuracies can carry.

    `n` is the number of test images. Without it the table's own `test_size` counts; without that
    the smallest size which allows all accuracies, if it is the size of a known test part of ISIC
    2017 (`SPLITS`). A size that the figures do not allow, and figures that do not tell their size,
    are a `UserError`.
    """
    if not rows:
        raise UserError("published table: no rows, expected at least one accuracy")
    accuracies = [row.accuracy for row in rows]
    decimals = max(row.decimals for row in rows)
    stated = {row.test_size for row in rows} | {n}
    sizes = sorted(size for size in stated if size is not None)
    if len(sizes) > 1:
        raise UserError(
            f"n={', '.join(map(str, sizes))}: expected one test size for all rows; check rows of "
            "different tests in tables of their own"
        )
    possible = possible_test_sizes(accuracies, decimals, max([LARGEST, *sizes]))
    size = sizes[0] if sizes else _infer(possible)
    counted = [_count(row, decimals, size) for row in rows]
    if wrong := [c for c in counted if c.fewest > c.most]:
        printed = ", ".join(f"{c.row.accuracy:f} ({c.row.name})" for c in wrong)
        raise UserError(
            f"n={size}: no whole number of {size} images makes {printed} %; expected "
            f"{_described(possible)}, since each accuracy must be one; a mean over several runs or "
            "folds need not be, and cannot be checked"
        )
    return CheckedTable(
        size,
        not sizes,
        possible,
        counted,
        _corrected(
            [(a.row.name, b.row.name, a.right, b.right, size) for a, b in combinations(counted, 2)]
        ),
        _corrected([*_by_batch_size(counted, size), *_by_model(counted, size)]),
        *_averages(rows),
    )


def _infer(possible: list[int]) -> int:
    if possible and possible[0] in {split.images for split in SPLITS}:
        return possible[0]
    raise UserError(
        f"the accuracies do not tell the size of their test: expected {_described(possible)}; give "
        "the number of test images (--n, or a column n), and every decimal that was printed"
    )


def _described(sizes: list[int]) -> str:
    if not sizes:
        return f"a size that allows all accuracies, but up to {LARGEST} there is none"
    if len(sizes) == 1:
        return f"{sizes[0]}, the only size that allows all accuracies"
    return f"one of the {len(sizes)} sizes that allow all accuracies ({some_of(sizes)})"


def _count(row: PublishedRow, decimals: int, n: int) -> Counted:
    fewest, most = (int(bound) for bound in correct_counts(row.accuracy, decimals, n))
    right = (fewest + most) // 2
    return Counted(row, right, fewest, most, *wilson_interval(right, n))


# Names, images right, and how many images each of the two had.
_Sample = tuple[str, str, int, int, int]


def _corrected(samples: list[_Sample]) -> list[Difference]:
    """Test each pair of samples, and correct for their number."""
    tests = [two_proportions(*sample[2:]) for sample in samples]
    corrected = holm([p for _, p in tests])
    return [
        Difference(first, second, 100 * (right - right_too) / n, z, p, p_holm)
        for (first, second, right, right_too, n), (z, p), p_holm in zip(
            samples, tests, corrected, strict=True
        )
    ]


def _by_batch_size(counted: list[Counted], n: int) -> list[_Sample]:
    right: dict[str, dict[str, int]] = {}
    for c in counted:
        if c.row.batch_size is not None:
            right.setdefault(f"batch size {c.row.batch_size}", {})[c.row.model] = c.right
    return _pooled(right, n)


def _by_model(counted: list[Counted], n: int) -> list[_Sample]:
    right: dict[str, dict[str, int]] = {}
    for c in counted:
        if c.row.batch_size is not None:
            right.setdefault(c.row.model, {})[str(c.row.batch_size)] = c.right
    return _pooled(right, n)


def _pooled(right: dict[str, dict[str, int]], n: int) -> list[_Sample]:
    """Each pair of levels of a factor, pooled over the levels of the other that both have."""
    samples = []
    for first, second in combinations(right, 2):
        shared = right[first].keys() & right[second].keys()
        # With a single one there is nothing to pool: that pair is among the others already.
        if len(shared) > 1:
            one, other = (sum(right[level][key] for key in shared) for level in (first, second))
            samples.append((first, second, one, other, n * len(shared)))
    return samples


def _averages(
    rows: Sequence[PublishedRow],
) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """Mean printed accuracy of each model and of each batch size, and what each is the mean over.

    Over what all levels have in common; nothing where no two have, nor without batch sizes.
    """
    groups: dict[str, dict[str, dict[str, Decimal]]] = {"model": {}, "batch size": {}}
    for row in rows:
        if row.batch_size is not None:
            size = str(row.batch_size)
            groups["model"].setdefault(row.model, {})[size] = row.accuracy
            groups["batch size"].setdefault(size, {})[row.model] = row.accuracy
    means, over = {}, {}
    for factor, levels in groups.items():
        common, left_out = in_common(levels) if levels else ([], [])
        if len(levels) - len(left_out) < min(len(levels), 2) or not common:
            continue
        over[factor] = common
        means[factor] = {
            level: float(sum(values[name] for name in common) / len(common))
            for level, values in levels.items()
            if level not in left_out
        }
    return means, over


def plural(count: int, of: str) -> str:
    several = f"{of[:-1]}ies" if of.endswith("y") else f"{of}s"
    return f"{count} {of if count == 1 else several}"


def some_of(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:LISTED])) + ", …" * (len(sizes) > LISTED)
