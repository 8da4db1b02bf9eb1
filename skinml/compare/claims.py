"""What a comparison says of the paper's two claims, and what it cannot say.

The claims are those of arXiv 2110.12270, sections IV and V: batch size 16 does better than 64, and
NASNetMobile at 16 is the best of the nine.
"""

from collections.abc import Sequence

import numpy as np

from skinml.compare.caveats import name_cells
from skinml.compare.comparison import VERDICT_METRICS, Comparison, Row, Test
from skinml.compare.evidence import shares_of
from skinml.compare.paired import ALPHA, p_equals
from skinml.compare.repeats import LEAST_SEEDS
from skinml.compare.runs import CellName, paper_grid
from skinml.compare.settings import runs_compared, unlike
from skinml.compare.standing import seen_from
from skinml.compare.tables import is_papers
from skinml.evaluation.metrics import metric_title

SMALL, LARGE = 16, 64
BEST = CellName("nasnetmobile", 16)


def claims(comparison: Comparison) -> list[str]:
    """A sentence or two for each claim; none where the paper's protocol or its images are not.

    They are judged among the paper's own cells, as what it did not have says nothing of it.
    """
    protocol = comparison.selection.runs[0].tags["protocol"]
    if not is_papers(comparison) or protocol != "paper" or len(comparison.rows) < 2:
        return []
    judged = comparison.papers or comparison
    if not set(paper_grid()) & {row.cell for row in judged.rows}:
        return []
    among = " (among the paper's own configurations)" if comparison.papers else ""
    return [
        f"The paper says that batch size {SMALL} does better than {LARGE}{among}: "
        f"{_smaller(judged)}",
        f"The paper says that {BEST} is the best{among}: {_best(judged)}",
    ]


def _smaller(comparison: Comparison) -> str:
    names = (f"batch size {SMALL}", f"batch size {LARGE}")
    tests = [
        test
        for test in comparison.planned["batch size"]
        if (test.first, test.second) == names and test.metric in VERDICT_METRICS
    ]
    rows = {row.cell: row for row in comparison.rows}
    both = [
        (rows[cell], rows[other])
        for cell in rows
        if cell.batch_size == SMALL and (other := CellName(cell.model, LARGE)) in rows
    ]
    if not tests or not both:
        return "nothing can be said, as no network was trained with both."
    mute = [row.cell for pair in both for row in pair if row.one_class]
    if len(mute) == 2 * len(both):
        return "nothing can be said, as all these networks answer one class to nearly every image."
    models = ", ".join(first.cell.model for first, _ in both)
    apart = unlike([(first.runs, second.runs) for first, second in both])
    told = "; ".join(_told(test, apart) for test in tests)
    with_mute = f" {name_cells(mute)} answer one class to nearly every image." if mute else ""
    text = f"{told} (of {models}).{_of_each(both)}{_repetitions(both, tests)}"
    return f"{text}{_limits(tests, apart)}{with_mute}"


def _of_each(both: Sequence[tuple[Row, Row]]) -> str:
    """The difference of each network, where several are pooled: one may make all of it.

    Of the same paired runs as the pooled one, which is their mean.
    """
    if len(both) < 2:
        return ""
    told = []
    for metric in VERDICT_METRICS:
        each = ", ".join(f"{a.cell.model} {_paired_difference(a, b, metric):+.3f}" for a, b in both)
        told.append(f"by {_title(metric)} {each}")
    return f" Of each: {'; '.join(told)}.".replace("-", "−")


def _repetitions(both: Sequence[tuple[Row, Row]], tests: Sequence[Test]) -> str:
    """What a test over images and runs took for repetitions, where networks stand in for seeds."""
    seeds = [len(runs_compared(first.runs, second.runs)[0]) for first, second in both]
    if min(seeds) >= LEAST_SEEDS or any(test.seeds < LEAST_SEEDS for test in tests):
        return ""
    each = min(seeds) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return f" The repetitions are {len(both)} networks, {each} seed{'' if each == 1 else 's'} each."


def _paired_difference(a: Row, b: Row, metric: str) -> float:
    means = []
    for row, runs in zip((a, b), runs_compared(a.runs, b.runs), strict=True):
        values = [row.by_run[row.runs.index(run)][metric] for run in runs]
        means.append(float(np.average(values, weights=shares_of(runs))))
    return means[0] - means[1]


def _best(comparison: Comparison) -> str:
    row = next((row for row in comparison.rows if row.cell == BEST), None)
    if row is None:
        return "nothing can be said, as it was not trained here."
    if len(comparison.rows) < 2:
        return f"nothing can be said, as no other of the paper's was trained here.{_weights(row)}"
    if row.one_class:
        return f"nothing can be said, as it answers {row.one_answer} here.{_weights(row)}"
    told, own_tests = [], []
    for metric in VERDICT_METRICS:
        title = _title(metric)
        alike = {str(group[0]): group for group in comparison.standings[metric].alike}
        # Cells that answer alike are tested under the name of their first.
        name = next((first for first, group in alike.items() if BEST in group), str(BEST))
        own = [
            seen_from(name, test)
            for test in comparison.pairs
            if test.metric == metric and name in (test.first, test.second)
        ]
        own_tests += own
        better = [
            str(cell)
            for test in own
            if test.p_images_holm < ALPHA and test.difference < 0
            for cell in alike.get(test.second, (test.second,))
        ]
        if comparison.standings[metric].winner == BEST:
            told.append(f"shown by {title}")
        elif better:
            told.append(
                f"by {title} these trained networks say otherwise, {', '.join(better)} "
                f"{'is' if len(better) == 1 else 'are'} better"
            )
        else:
            told.append(f"not shown by {title}")
    others = [other for other in comparison.rows if other.cell != BEST]
    apart = unlike([(row.runs, other.runs) for other in others])
    return f"{'; '.join(told)}.{_limits(own_tests, apart)}{_weights(row)}"


def _told(test: Test, apart: Sequence[str]) -> str:
    """What a difference of the two batch sizes shows, with its figures.

    `apart` are settings in which its two sides differ.
    """
    over_images = test.p_images_holm < ALPHA
    over_seeds = test.p_seeds_holm < ALPHA and not apart
    if not over_images:
        shown = "not shown"
    elif test.difference < 0:
        shown = "the other way round" if over_seeds else "the other way round in these networks"
    else:
        shown = "shown" if over_seeds else "shown of these networks alone"
    ends = ""
    if np.isfinite(test.low):
        ends = f", 95 % CI {test.low:+.3f} to {test.high:+.3f}"
    figures = f"{test.difference:+.3f}{ends}".replace("-", "−")
    p = f", adjusted {p_equals(test.p_images_holm)}" if np.isfinite(test.p_images_holm) else ""
    return f"by {_title(test.metric)} {shown} ({figures}{p})"


def _title(metric: str) -> str:
    """A metric's title within a sentence."""
    return metric_title(metric).replace("Accuracy", "accuracy")


def _limits(tests: Sequence[Test], apart: Sequence[str]) -> str:
    """Why no more follows: too few seeds, or settings in which the two sides differ."""
    why = []
    if any(test.seeds < LEAST_SEEDS for test in tests):
        why.append(f"that takes {LEAST_SEEDS} pairs of runs that differ")
    if apart:
        why.append(f"they were not trained alike ({', '.join(apart)})")
    return f" Of other trainings nothing follows: {', and '.join(why)}." if why else ""


def _weights(row: Row) -> str:
    if any(run.params.get("weights") == "none" for run in row.runs):
        return " It began with random weights, the paper's with ImageNet's."
    return ""
