"""The report on a published table, as blocks."""

from skinml.compare.document import Block, Cell, Document, Heading, Items, Picture, Table, Text
from skinml.compare.paired import ALPHA, POWER, format_p, p_equals
from skinml.compare.published.arithmetic import LARGEST, SPLITS
from skinml.compare.published.check import CheckedTable, plural, some_of


def make_document(checked: CheckedTable) -> Document:
    """The report as blocks, which `skinml.compare.formats` write."""
    return Document(
        f"What {plural(len(checked.counted), 'published accuracy')} can carry",
        [
            Heading("What the figures say of the test"),
            *_test(checked),
            Heading("Intervals"),
            *_intervals(checked),
            Picture("intervals", "Accuracies with 95 % intervals, the highest on top"),
            Heading("Differences"),
            *_differences(checked),
            Heading("Verdict"),
            Text(checked.verdict(), strong=True),
        ],
    )


def _test(checked: CheckedTable) -> list[Block]:
    others = [size for size in checked.possible if size != checked.n]
    up_to = f"up to {max(LARGEST, checked.n)}"
    also = f"{len(others)} other sizes {up_to} do so too: {some_of(others)}."
    size = plural(checked.n, "image")
    source = (
        f"The figures say that the test had {size}: the smallest size that allows them all."
        if checked.inferred
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
                    Cell("yes" if split.images in checked.possible else "no"),
                ]
                for split in SPLITS
            ],
        ),
    ]


def _intervals(checked: CheckedTable) -> list[Block]:
    rows = []
    for row, right, fewest, most, low, high in checked.ranked:
        around = f" ({fewest}–{most})" if fewest < most else ""
        interval = f"{100 * low:.1f}–{100 * high:.1f}"
        cells = (row.name, f"{row.accuracy:f}", f"{right}{around}", interval)
        rows.append([Cell(text) for text in cells])
    remarks = [
        "An interval says how far a figure would move with other test images. What another "
        "seed of the training would do is not in it."
    ]
    if any(counted.fewest < counted.most for counted in checked.counted):
        remarks.append(
            "The decimals leave the images in brackets open; the middle of them is used."
        )
    if checked.split:
        above = sum(counted.low > checked.split.majority for counted in checked.counted)
        remarks.append(
            f"If this is {checked.split.name}, always answering “nevus” would score "
            f"{100 * checked.split.majority:.1f} %: {above or 'none'} of the "
            f"{len(checked.counted)} intervals {'lies' if above < 2 else 'lie'} above it."
        )
    for factor, means in checked.averages.items():
        listed = ", ".join(f"{level}: {mean:.2f}" for level, mean in means.items())
        over = ", ".join(checked.averaged_over[factor])
        remarks.append(f"Average accuracy in % by {factor}, over {over}: {listed}.")
    return [
        Table(
            "Wilson intervals, 95 %",
            ("row", "accuracy %", f"right of {checked.n}", "interval %"),
            rows,
        ),
        Items(tuple(remarks)),
    ]


def _differences(checked: CheckedTable) -> list[Block]:
    if not checked.leads:
        return [Text("There is one row: nothing to compare.")]
    apart = sum(pair.p < ALPHA for pair in checked.pairs)
    kept = sum(pair.p_holm < ALPHA for pair in checked.pairs)
    closest = min(checked.pairs, key=lambda pair: pair.p)
    leader = checked.ranked[0].row.name
    remarks = [
        f"Of {plural(len(checked.pairs), 'pair')}, {apart or 'none'} "
        f"{'differs' if apart < 2 else 'differ'} at p < .05, {kept or 'none'} after Holm's "
        f"correction; the smallest: {p_equals(closest.p)} ({closest.first} and "
        f"{closest.second}). The test is that of two proportions (z, pooled variance, "
        "two-sided), as if each row had been measured on images of its own.",
    ]
    if checked.detectable is not None:
        remarks.append(
            f"A row must lie {100 * checked.detectable:.1f} points "
            f"({plural(round(checked.detectable * checked.n), 'image')}) below {leader} for a "
            f"single such test to find it with {100 * POWER:.0f} % power."
        )
    blocks: list[Block] = [Items(tuple(remarks)), *_against_leader(checked)]
    if checked.planned:
        columns = ("comparison", "points", "p", f"p (Holm, {len(checked.planned)})")
        rows = [
            (
                f"{d.first} less {d.second}",
                f"{d.points:+.2f}",
                format_p(d.p),
                format_p(d.p_holm),
            )
            for d in checked.planned
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


def _against_leader(checked: CheckedTable) -> list[Block]:
    leader, rows = checked.ranked[0], []
    ranges = [checked.paired_range(other) for other, _ in checked.leads]
    for (other, pair), (least, greatest) in zip(checked.leads, ranges, strict=True):
        cells = (
            other.row.name,
            str(leader.right - other.right),
            f"{pair.points:.2f}",
            format_p(pair.p),
            format_p(pair.p_holm),
            f"{format_p(least)} to {format_p(greatest)}",
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
            ("row", "images", "points", "p", f"p (Holm, {len(checked.pairs)})", "p if paired"),
            rows,
        ),
        Text(
            "If all rows answered the same images, the right test is a paired one, McNemar's, "
            "and it needs the number of images on which two rows disagree, which a table of "
            "accuracies does not hold. The last column is the range of its exact p-value, "
            "uncorrected, from the least disagreement that the two counts allow to the most. "
            f"Of {plural(len(ranges), 'pair')}, {found}."
            + " A difference that is not shown here may be there all the same."
            * bool(undecided)
        ),
    ]
