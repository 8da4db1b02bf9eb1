"""What a report says of where the uncertainty comes from, and what would make it smaller."""

import math
from statistics import median_low

from skinml.compare.comparison import VERDICT_METRICS, Comparison
from skinml.compare.document import Block, Cell, Details, Heading, Items, Table, Text
from skinml.compare.repeats import PARTS, Components, Part
from skinml.evaluation.metrics import metric_title

MORE_IMAGES = 100

# The parts as a reader calls them.
_NAMES = {
    "images": "images",
    "interaction": "images × seeds",
    "seeds": "seeds",
    "splits": "splits",
}

_METHOD = (
    "Each part is the standard error that it alone would give, with its 95 % interval; the squares "
    "of the parts add up. Images: other test images, alike for all runs; images × seeds: what each "
    "run makes of them by chance; seeds and splits: other ones. Random effects by moments (Searle, "
    "Casella & McCulloch 1992), the images by their contributions to the metric (DeLong's "
    "placements; Gallas et al. 2009), intervals by the chi-squared distribution; splits share "
    "training images (Nadeau & Bengio 2003). Without two seeds of a split the first part holds the "
    "second, and that of the seeds is unknown."
)


def uncertainty(comparison: Comparison) -> list[Block]:
    """A sentence a metric, and the parts of every figure and of the differences, folded."""
    sentences = [
        sentence for metric in VERDICT_METRICS if (sentence := _sentence(comparison, metric))
    ]
    tables = [table for metric in VERDICT_METRICS for table in _tables(comparison, metric)]
    return [
        Heading("Where the uncertainty comes from"),
        *([Items(tuple(sentences))] if sentences else []),
        Details(
            "The standard error of each configuration's figure, by its origin",
            (Text(_METHOD), *tables),
            instead="--format html has it",
        ),
    ]


def _sentence(comparison: Comparison, metric: str) -> str:
    """What a typical standard error consists of, and what would lower it.

    Of the differences of pairs; of the figure itself where there is but one configuration.
    """
    named = [
        (f"the difference of {test.first} and {test.second}", test.components)
        for test in comparison.pairs
        if test.metric == metric and test.components
    ] or [(f"the figure of {row.cell}", row.components[metric]) for row in comparison.rows[:1]]
    by_error = {
        found.standard_error: (name, found) for name, found in named if found.standard_error > 0
    }
    if not by_error:
        return ""
    name, found = by_error[median_low(by_error)]
    median = ", the median of the pairs" if len(by_error) > 1 else ""
    text = (
        f"{metric_title(metric)}: {name} has a standard error of {found.standard_error:.3f}{median}"
    )
    images = f"with {MORE_IMAGES} more test images, {found.with_more(images=MORE_IMAGES):.3f}"
    if found.runs == found.of_splits:
        known = "images" + (" and splits" if found.of_splits > 1 else "")
        return (
            f"{text}. This is over other {known} alone: what another seed would change is not "
            f"known without a second run of each on one split. It is expected to become, {images}."
        )
    parts = ", ".join(
        f"{_NAMES[name]} {100 * part.variance / found.standard_error**2:.0f} %"
        + (f" ({_told(part)})" if name in ("seeds", "splits") else "")
        for name, part in found.parts().items()
    )
    return (
        f"{text}. Of its square, {parts}. It is expected to become, with one more seed of each, "
        f"{found.with_more(seeds=1):.3f}; {images}."
    )


def _told(part: Part) -> str:
    """A part in words, where few runs say what it is."""
    value, low, high = (_figure(math.sqrt(each)) for each in (part.variance, part.low, part.high))
    return f"{value} alone, 95 % CI {low}–{high}"


def _tables(comparison: Comparison, metric: str) -> list[Table]:
    known = [row for row in comparison.rows if row.components[metric].standard_error > 0]
    if not known:
        return []
    names = [name for name in PARTS if any(name in row.components[metric].parts() for row in known)]
    several = any(row.components[metric].runs > row.components[metric].of_splits for row in known)
    columns = ["model", "batch", "standard error", *(_NAMES[name] for name in names)]
    columns += ["one more seed"] if several else []
    rows = []
    for row in known:
        found = row.components[metric]
        parts = found.parts()
        cells = [Cell(row.cell.model), Cell(f"{row.cell.batch_size}{row.mark}")]
        cells.append(Cell(_figure(found.standard_error)))
        cells += [_part(parts[name]) if name in parts else Cell("–") for name in names]
        if several:
            cells.append(Cell(_with_a_seed(found)))
        cells.append(Cell(_figure(found.with_more(images=MORE_IMAGES))))
        rows.append(cells)
    title = f"{metric_title(metric)}: standard error of each figure, and where it comes from"
    return [Table(title, (*columns, f"{MORE_IMAGES} more images"), rows, labels=2)]


def _with_a_seed(found: Components) -> str:
    return _figure(found.with_more(seeds=1)) if found.runs > found.of_splits else "–"


def _part(part: Part) -> Cell:
    """A part as a standard error, with its interval where one is known."""
    ends = [part.low, part.high]
    known = all(map(math.isfinite, ends))
    return Cell(
        _figure(math.sqrt(part.variance)),
        "–".join(_figure(math.sqrt(end)) for end in ends) if known else "",
    )


def _figure(value: float) -> str:
    return f"{value:.3f}"
