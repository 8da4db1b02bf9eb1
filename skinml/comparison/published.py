"""What a published table of accuracies can carry: its test size, intervals, differences, verdict.

Everything here follows from printed accuracies alone. How two networks answered the same image is
not in such a table, so its tests are unpaired, and what a paired test could have said is given as
a range.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skinml.comparison.document import (
    Block,
    Cell,
    Document,
    Heading,
    Items,
    Picture,
    Table,
    Text,
    to_markdown,
)
from skinml.comparison.paired import ALPHA, POWER, holm
from skinml.data.isic2017 import CLASSES, NOTICE, OFFICIAL_PARTS
from skinml.errors import UserError
from skinml.evaluation.drawing import COLUMN, GREY, drawing, save

# Further decimals come from a computer's memory, not from rounding: the last ones are its noise.
_MOST_DECIMALS = 8

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)", re.ASCII)
_LISTED = 5


class Split(NamedTuple):
    """A test part that an experiment on ISIC 2017 may have used."""

    name: str
    images: int
    # What always answering "nevus" scores there, 0 to 1.
    majority: float


def _splits() -> tuple[Split, ...]:
    by_part = {official.part: official.counts for official in OFFICIAL_PARTS}
    nevus = CLASSES.index("nevus")

    def share(*parts: str) -> float:
        counts = np.sum([by_part[part] for part in parts], axis=0)
        return float(counts[nevus] / counts.sum())

    pooled = sum(map(sum, by_part.values()))
    everything = share(*by_part)
    return (
        Split(f"20 % of the {pooled} pooled images", pooled * 20 // 100, everything),
        Split(f"15 % of the {pooled}, rounded down", pooled * 15 // 100, everything),
        Split(f"15 % of the {pooled}, rounded up", -(-pooled * 15 // 100), everything),
        Split("the official test part", sum(by_part["test"]), share("test")),
        Split("the official validation part", sum(by_part["validation"]), share("validation")),
    )


SPLITS = _splits()
# No test on ISIC 2017 can be larger than the whole set.
LARGEST = sum(sum(official.counts) for official in OFFICIAL_PARTS)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    `accuracy` is in % as printed: its exponent is the number of decimals. `precision` is in %,
    `f1` and `auc` are from 0 to 1. `test_size` is the number of test images, where it was stated.
    """

    model: str
    batch_size: int | None
    accuracy: Decimal
    precision: float | None = None
    f1: float | None = None
    auc: float | None = None
    test_size: int | None = None

    @property
    def name(self) -> str:
        return self.model if self.batch_size is None else f"{self.model}-{self.batch_size}"

    @property
    def decimals(self) -> int:
        return -int(self.accuracy.as_tuple().exponent)


# Table III of arXiv 2110.12270.
PAPER_TABLE = tuple(
    PublishedRow(model, batch_size, Decimal(accuracy), precision, f1, auc)
    for model, batch_size, accuracy, precision, f1, auc in (
        ("MobileNet", 16, "80.36", 79.38, 0.7934, 0.9050),
        ("MobileNet", 32, "80.73", 80.72, 0.8057, 0.8936),
        ("MobileNet", 64, "77.64", 76.26, 0.7567, 0.8883),
        ("MobileNetV2", 16, "81.45", 81.28, 0.8114, 0.9035),
        ("MobileNetV2", 32, "78.55", 78.85, 0.7806, 0.8977),
        ("MobileNetV2", 64, "80.91", 80.19, 0.8035, 0.9023),
        ("NASNetMobile", 16, "82.00", 81.77, 0.8038, 0.8832),
        ("NASNetMobile", 32, "79.64", 79.38, 0.7823, 0.8816),
        ("NASNetMobile", 64, "77.45", 77.94, 0.7510, 0.8684),
    )
)


def read_published(path: Path) -> list[PublishedRow]:
    """Read a published table from a CSV; everything wrong with it is told in one `UserError`.

    Columns: `name`, or `model` with or without `batch_size`; `accuracy_percent`, or `accuracy`,
    which is in % if all its values are above 1 and a fraction if none is; optionally `n`, the
    number of test images. Others are ignored. Write the accuracies as they were printed: their
    decimals are evidence. All of a column count as printed with as many as its longest, since
    spreadsheets drop a last 0.
    """
    header, lines = _read_csv(path)
    identity = "model" if "model" in header else "name"
    column = "accuracy_percent" if "accuracy_percent" in header else "accuracy"
    if missing := [name for name in (identity, column) if name not in header]:
        raise UserError(
            f"{path}: no column {' and no column '.join(missing)} in its first line "
            f"({','.join(header)}); expected name (or model, batch_size), accuracy_percent (or "
            "accuracy) and, where it is known, n"
        )
    problems: list[str] = []
    rows: list[PublishedRow] = []
    line_of: dict[str, int] = {}
    accuracies = _accuracies(lines, column, problems)
    for line, cells in lines:
        if not cells[identity]:
            problems.append(f"line {line}: no {identity}")
        batch_size = _whole(cells.get("batch_size", ""), f"line {line}: batch_size", problems)
        test_size = _whole(cells.get("n", ""), f"line {line}: n", problems)
        if line not in accuracies:
            continue
        batch_size = batch_size if identity == "model" else None
        row = PublishedRow(cells[identity], batch_size, accuracies[line], test_size=test_size)
        if row.name in line_of:
            problems.append(
                f"line {line}: {row.name} is in line {line_of[row.name]} too, expected a name or "
                "a batch_size of its own"
            )
        line_of.setdefault(row.name, line)
        rows.append(row)
    if problems:
        more = f"; … and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise UserError(f"{path}: {'; '.join(problems[:_LISTED])}{more}")
    return rows


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV, and of each line that is not empty its number and cells by name."""
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}; expected UTF-8 text") from None
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected a CSV of published accuracies") from None
    if len(rows) < 2:
        raise UserError(f"{path}: no row of figures in it, expected a header and a line a model")
    header = [name.casefold() for name in rows[0][1]]
    if doubled := sorted({name for name in header if name and header.count(name) > 1}):
        raise UserError(f"{path}: column {', '.join(doubled)} twice, expected each once")
    if uneven := [line for line, row in rows if len(row) != len(header)]:
        raise UserError(
            f"{path}: line {', '.join(map(str, uneven[:_LISTED]))}"
            f"{', …' * (len(uneven) > _LISTED)}: expected {len(header)} columns as in its first "
            "line, separated by commas"
        )
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]


def _accuracies(
    lines: list[tuple[int, dict[str, str]]], column: str, problems: list[str]
) -> dict[int, Decimal]:
    """The accuracy of each line in %, all with the decimals of the longest."""
    values: dict[int, Decimal] = {}
    for line, cells in lines:
        text = cells[column]
        if not _NUMBER.fullmatch(text):
            problems.append(f"line {line}: {column} {text!r}, expected a number such as 80.36")
        elif not 0 <= Decimal(text) <= 100:
            problems.append(f"line {line}: {column} {text}, expected 0 to 100 % or 0 to 1")
        else:
            values[line] = Decimal(text)
    small = [line for line, value in values.items() if 0 < value <= 1]
    if column == "accuracy_percent" or len(small) < sum(value > 0 for value in values.values()):
        problems += [
            f"line {line}: {column} {values[line]} looks like a fraction, expected % as elsewhere"
            for line in small
        ]
    elif small:
        values = {line: value.scaleb(2) for line, value in values.items()}
    longest = max((-int(v.as_tuple().exponent) for v in values.values()), default=0)
    unit = Decimal(1).scaleb(-min(longest, _MOST_DECIMALS))
    return {line: value.quantize(unit) for line, value in values.items()}


def _whole(text: str, where: str, problems: list[str]) -> int | None:
    """A whole number of at least 1, None where there is no text."""
    if text and not (text.isascii() and text.isdecimal() and int(text)):
        problems.append(f"{where} {text!r}, expected a whole number of at least 1")
        return None
    return int(text) if text else None


def correct_counts(
    accuracy: Decimal, decimals: int, n: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The fewest and the most right answers of `n` that print as `accuracy` %.

    All k with 100 k / n rounded to `decimals` equal to `accuracy`, where a tie may have been
    rounded up or to even. `n` is any shape of whole numbers from 1; returns two int64 arrays of
    that shape, the first above the second where there is no such k.
    """
    images = np.asarray(n, dtype=np.int64)
    scale, printed = 10 ** (2 + decimals), int(accuracy.scaleb(decimals).to_integral_value())
    # In whole numbers: (printed - 1/2) n / scale <= k <= (printed + 1/2) n / scale.
    fewest = -(-(2 * printed - 1) * images // (2 * scale))
    most, rest = np.divmod((2 * printed + 1) * images, 2 * scale)
    # The upper tie goes down only where the last digit is even.
    most = most - ((rest == 0) & bool(printed % 2))
    return np.maximum(fewest, 0), np.minimum(most, images)


def possible_test_sizes(
    accuracies: Sequence[Decimal], decimals: int, up_to: int = LARGEST
) -> list[int]:
    """Every test size from 1 to `up_to` that allows all printed accuracies, smallest first.

    The GRIM test (Brown & Heathers 2017, doi:10.1177/1948550616673876) turned round: an accuracy
    is a whole number of images right of n, and few n have one that rounds to each printed figure.
    """
    sizes = np.arange(1, up_to + 1)
    fits = np.ones(len(sizes), dtype=bool)
    for accuracy in accuracies:
        fewest, most = correct_counts(accuracy, decimals, sizes)
        fits &= fewest <= most
    return sizes[fits].tolist()


def mcnemar_range(right: int, right_too: int, n: int) -> tuple[float, float]:
    """The least and the greatest exact McNemar p-value that two counts of `n` images allow.

    With b images that only one network has right and c that only the other has, b - c is the
    lead, and the two-sided p-value is that of b successes in b + c fair coins (McNemar 1947). It
    grows with c, which runs from 0 (least disagreement) to what fits into n images.
    """
    from scipy.stats import binomtest

    lead = abs(right - right_too)
    most = min(right, right_too, n - right, n - right_too)

    def p_value(c: int) -> float:
        return float(binomtest(c, lead + 2 * c).pvalue) if lead + c else 1.0

    return p_value(0), p_value(most)


def two_proportions(right: int, right_too: int, n: int) -> tuple[float, float]:
    """Two independent shares of `n` compared by the z-test with pooled variance: z, two-sided p.

    z² is Pearson's chi-squared of the 2×2 table without continuity correction.
    """
    from statsmodels.stats.proportion import proportions_ztest

    if right == right_too:
        # Also where both are all right or all wrong, which leaves no variance.
        return 0.0, 1.0
    z, p = proportions_ztest([right, right_too], [n, n])
    return float(z), float(p)


def detectable_difference(share: float, n: int, alpha: float = ALPHA) -> float | None:
    """The smallest drop from `share` that `two_proportions` finds with 80 % power.

    Both shares are measured on `n` images of their own; None where no drop is large enough.
    """
    from scipy.optimize import brentq
    from statsmodels.stats.proportion import power_proportions_2indep

    def lack(drop: float) -> float:
        power = power_proportions_2indep(drop, share - drop, n, alpha=alpha, return_results=False)
        return float(power) - POWER

    smallest, largest = 1e-6 * share, (1 - 1e-9) * share
    if not share or lack(largest) < 0:
        return None
    return float(brentq(lack, smallest, largest))


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
class PublishedReport:
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
        over = f"after Holm's correction over {_number(len(self.pairs), 'pair')} (unpaired)"
        if self.has_winner:
            return f"{leader} is the winner of this test: better than each other row {over}."
        if 0 < self.beaten == len(self.leads):
            return (
                f"No winner: by the printed figures {leader} is better than each other row {over}, "
                "but not by all the figures that they may have been rounded from."
            )
        lead = self.ranked[0].right - second.right
        first = (
            f"{leader} leads {second.row.name} by {_number(lead, 'image')} of {self.n} "
            f"({_p_is(closest.p)})"
            if lead
            else f"{leader} and {second.row.name} share the first place"
        )
        beaten = f"{self.beaten or 'none'} of the {_number(len(self.leads), 'other row')}"
        return f"No winner: {first}, and {beaten} {_is(self.beaten)} beaten {over}."

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

    def markdown(self) -> str:
        return to_markdown(self.document())

    def document(self) -> Document:
        """The report as blocks, which `skinml.comparison.document` writes in every format."""
        return Document(
            f"What {_number(len(self.counted), 'published accuracy')} can carry",
            [
                Heading("What the figures say of the test"),
                *self._test(),
                Heading("Intervals"),
                *self._intervals(),
                Picture("intervals", "Accuracies with 95 % intervals, the highest on top"),
                Heading("Differences"),
                *self._differences(),
                Heading("Verdict"),
                Text(self.verdict(), strong=True),
            ],
        )

    def _test(self) -> list[Block]:
        others = [size for size in self.possible if size != self.n]
        up_to = f"up to {max(LARGEST, self.n)}"
        also = f"{len(others)} other sizes {up_to} do so too: {_some(others)}."
        size = _number(self.n, "image")
        source = (
            f"The figures say that the test had {size}: the smallest size that allows them all."
            if self.inferred
            else f"The test had {size}, as stated, which allows all the figures."
        )
        return [
            Text(f"{source} {also if others else f'No other size {up_to} does.'}"),
            Table(
                "Possible test parts of ISIC 2017",
                ("part", "images", "allows the figures"),
                [
                    [
                        Cell(split.name),
                        Cell(str(split.images)),
                        Cell("yes" if split.images in self.possible else "no"),
                    ]
                    for split in SPLITS
                ],
            ),
        ]

    def _intervals(self) -> list[Block]:
        rows = []
        for row, right, fewest, most, low, high in self.ranked:
            around = f" ({fewest}–{most})" if fewest < most else ""
            interval = f"{100 * low:.1f}–{100 * high:.1f}"
            cells = (row.name, f"{row.accuracy:f}", f"{right}{around}", interval)
            rows.append([Cell(text) for text in cells])
        remarks = [
            "An interval says how far a figure would move with other test images. What another "
            "seed of the training would do is not in it."
        ]
        if any(counted.fewest < counted.most for counted in self.counted):
            remarks.append(
                "The decimals leave the images in brackets open; the middle of them is used."
            )
        if self.split:
            above = sum(counted.low > self.split.majority for counted in self.counted)
            remarks.append(
                f"If this is {self.split.name}, always answering “nevus” would score "
                f"{100 * self.split.majority:.1f} %: {above or 'none'} of the "
                f"{len(self.counted)} intervals {'lies' if above < 2 else 'lie'} above it."
            )
        for factor, means in self.averages.items():
            listed = ", ".join(f"{level}: {mean:.2f}" for level, mean in means.items())
            remarks.append(f"Average accuracy in % by {factor}: {listed}.")
        return [
            Table(
                "Wilson intervals, 95 %",
                ("row", "accuracy %", f"right of {self.n}", "interval %"),
                rows,
            ),
            Items(tuple(remarks)),
        ]

    def _differences(self) -> list[Block]:
        if not self.leads:
            return [Text("There is one row: nothing to compare.")]
        apart = sum(pair.p < ALPHA for pair in self.pairs)
        kept = sum(pair.p_holm < ALPHA for pair in self.pairs)
        closest = min(self.pairs, key=lambda pair: pair.p)
        leader = self.ranked[0].row.name
        remarks = [
            f"Of {_number(len(self.pairs), 'pair')}, {apart or 'none'} "
            f"{'differs' if apart < 2 else 'differ'} at p < .05, {kept or 'none'} after Holm's "
            f"correction; the smallest: {_p_is(closest.p)} ({closest.first} and "
            f"{closest.second}). The test is that of two proportions (z, pooled variance, "
            "two-sided), as if each row had been measured on images of its own.",
        ]
        if self.detectable is not None:
            remarks.append(
                f"A row must lie {100 * self.detectable:.1f} points "
                f"({_number(round(self.detectable * self.n), 'image')}) below {leader} for a "
                f"single such test to find it with {100 * POWER:.0f} % power."
            )
        blocks: list[Block] = [Items(tuple(remarks)), *self._against_leader()]
        if self.planned:
            columns = ("comparison", "points", "p", f"p (Holm, {len(self.planned)})")
            rows = [
                (f"{d.first} less {d.second}", f"{d.points:+.2f}", _p(d.p), _p(d.p_holm))
                for d in self.planned
            ]
            blocks += [
                Table(
                    "Planned comparisons, pooled over the other factor",
                    columns,
                    [[Cell(text) for text in row] for row in rows],
                ),
                Text(
                    "Pooled, every image counts once for each row of a group, and its answers are "
                    "not independent: these p-values are approximate."
                ),
            ]
        return blocks

    def _against_leader(self) -> list[Block]:
        leader, rows = self.ranked[0], []
        ranges = [self.paired_range(other) for other, _ in self.leads]
        for (other, pair), (least, greatest) in zip(self.leads, ranges, strict=True):
            cells = (
                other.row.name,
                str(leader.right - other.right),
                f"{pair.points:.2f}",
                _p(pair.p),
                _p(pair.p_holm),
                f"{_p(least)} to {_p(greatest)}",
            )
            rows.append([Cell(text) for text in cells])
        never = sum(least >= ALPHA for least, _ in ranges)
        always = sum(greatest < ALPHA for _, greatest in ranges)
        undecided = len(ranges) - never - always
        kinds = (
            (never, "cannot be significant whatever the answers were"),
            (always, "must be significant"),
            (undecided, "may be significant or not"),
        )
        found = ", ".join(f"{count} {what}" for count, what in kinds if count)
        return [
            Table(
                f"{leader.row.name} against each other row",
                ("row", "images", "points", "p", f"p (Holm, {len(self.pairs)})", "p if paired"),
                rows,
            ),
            Text(
                "If all rows answered the same images, the right test is a paired one, McNemar's, "
                "and it needs the number of images on which two rows disagree, which a table of "
                "accuracies does not hold. The last column is the range of its exact p-value, "
                "uncorrected, from the least disagreement that the two counts allow to the most. "
                f"Of {_number(len(ranges), 'pair')}, {found}."
                + " A difference that is not shown here may be there all the same."
                * bool(undecided)
            ),
        ]


def check_published(rows: Sequence[PublishedRow], n: int | None = None) -> PublishedReport:
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
    return PublishedReport(
        size,
        not sizes,
        possible,
        counted,
        _corrected(
            [(a.row.name, b.row.name, a.right, b.right, size) for a, b in combinations(counted, 2)]
        ),
        _corrected([*_by_batch_size(counted, size), *_by_model(counted, size)]),
        _averages(rows),
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
    return f"one of the {len(sizes)} sizes that allow all accuracies ({_some(sizes)})"


def _count(row: PublishedRow, decimals: int, n: int) -> Counted:
    from statsmodels.stats.proportion import proportion_confint

    fewest, most = (int(bound) for bound in correct_counts(row.accuracy, decimals, n))
    right = (fewest + most) // 2
    low, high = proportion_confint(right, n, ALPHA, method="wilson")
    return Counted(row, right, fewest, most, float(low), float(high))


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


def _averages(rows: Sequence[PublishedRow]) -> dict[str, dict[str, float]]:
    """Mean printed accuracy of each model and of each batch size; empty without batch sizes."""
    groups: dict[str, dict[str, list[Decimal]]] = {}
    for row in rows:
        if row.batch_size is not None:
            for factor, level in (("model", row.model), ("batch size", str(row.batch_size))):
                groups.setdefault(factor, {}).setdefault(level, []).append(row.accuracy)
    return {
        factor: {level: float(sum(values) / len(values)) for level, values in levels.items()}
        for factor, levels in groups.items()
    }


def _p(p: float) -> str:
    """A p-value as papers print it."""
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


def _p_is(p: float) -> str:
    return f"p {_p(p)}" if p < 0.001 else f"p = {_p(p)}"


def _number(count: int, of: str) -> str:
    plural = f"{of[:-1]}ies" if of.endswith("y") else f"{of}s"
    return f"{count} {of if count == 1 else plural}"


def _is(count: int) -> str:
    return "is" if count < 2 else "are"


def _some(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:_LISTED])) + ", …" * (len(sizes) > _LISTED)


def draw_intervals(report: PublishedReport, path: Path) -> Path:
    """Draw every row with its Wilson interval, the best on top, as PNG and, beside it, PDF.

    Returns the PNG's path; the folder is made. The same report gives the same bytes.
    """
    from matplotlib.figure import Figure

    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    ranked = report.ranked
    shares = 100 * np.array([[c.right / report.n, c.low, c.high] for c in ranked])
    places = np.arange(len(ranked))
    with drawing():
        figure = Figure(figsize=(COLUMN, 1.5 + 0.24 * len(ranked)), layout="constrained")
        figure.suptitle(f"Published accuracies, 95 % Wilson intervals (n = {report.n})")
        figure.supxlabel(NOTICE, fontsize=6, color=GREY)
        axes = figure.add_subplot()
        if report.split:
            majority = 100 * report.split.majority
            label = f"always “nevus”: {majority:.1f} %"
            axes.axvline(majority, color=GREY, linewidth=0.8, linestyle=":", label=label)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
        axes.hlines(places, shares[:, 1], shares[:, 2], color=GREY, linewidth=1)
        axes.plot(shares[:, 0], places, color="black", linestyle="none", marker="o", markersize=4)
        axes.set_yticks(places, [c.row.name for c in ranked])
        axes.set(xlabel="accuracy, %", ylim=(len(ranked) - 0.5, -0.5))
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(places, [f"{s:.2f} ({low:.1f}–{high:.1f})" for s, low, high in shares])
        beside.spines[:].set_visible(False)
        for side in (axes, beside):
            side.tick_params(axis="y", length=0)
        save(figure, path)
    return path
