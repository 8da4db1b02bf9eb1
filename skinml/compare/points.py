"""What each cell does at thresholds chosen on validation, and whether two cells differ there.

Each run has thresholds of its own, chosen on its validation part, and is looked at on its test
part. Other validation images would have chosen others: so both parts have to be drawn again.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from skinml.compare.comparison import Points, Rate, Row, Test
from skinml.compare.differences import group_alike
from skinml.compare.document import Block, Cell, Details, Heading, Table, Text
from skinml.compare.evidence import Evidence, Images, shares_of
from skinml.compare.paired import ALPHA, Estimate
from skinml.compare.runs import RunRecord
from skinml.compare.tables import names_of, number, tests_table
from skinml.evaluation.classes import sought
from skinml.evaluation.drawing import spaced
from skinml.evaluation.operating_point import RULES, Rule, Scored
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import (
    LEAST_OF_A_CLASS,
    RESAMPLES,
    bootstrap_weights,
    percentile_interval,
)
from skinml.evaluation.testing import holm

# At which thresholds two networks' sensitivities are held against each other.
MATCHED = Rule("specificity", 0.9)


def find_points(rows: Sequence[Row], images: Images, resamples: int = RESAMPLES) -> Points:
    """The rates of each cell at the operating points, and the tests of all pairs at `MATCHED`.

    An interval over a single run is that of the run's own report (`operating_points`), one over
    several counts the chance of their validation parts as if it were the same in all: it is not too
    short. Without the validation table of some run there is nothing, and a reason.
    """
    runs = [run for row in rows for run in row.runs]
    label = sought(runs[0].predictions.classes)
    if label is None:
        return Points("", without="none of the classes is called melanoma")
    seen = {run: _Seen(run.validation, run, label) for run in runs if run.validation}
    if len(seen) < len(runs):
        lack = f"{len(runs) - len(seen)} of {len(runs)} runs have no validation table"
        return Points(label, without=f"{lack}, on which thresholds are chosen")
    weights = bootstrap_weights(len(images.ids), resamples)
    of_test = {run: images.of_run(run, weights) for run in runs}
    rates = {
        row.cell: {
            rule.name: _rates(rule, [(seen[run], of_test[run]) for run in row.runs], row.runs)
            for rule in RULES
        }
        for row in rows
    }
    tests = _tests(rows, images, seen, resamples) if len(rows) > 1 else ()
    return Points(label, rates, tests)


class _Seen:
    """The scores of the class that is sought, of one run: on validation and on test."""

    def __init__(self, validation: Predictions, run: RunRecord, label: str) -> None:
        self.ids = [*map(str, validation.image_ids)], [*map(str, run.predictions.image_ids)]
        self.validation = Scored.of(validation, label)
        self.test = Scored.of(run.predictions, label)
        positive = self.validation.positive
        # How many images a threshold rests on, then with the test images of either kind.
        self.least = min(int(positive.sum()), int((~positive).sum()))
        own = self.test.positive
        self.carriers = (min(self.least, int(own.sum())), min(self.least, int((~own).sum())))

    def value(self, rule: Rule) -> tuple[float, float]:
        """Sensitivity and specificity on test at the threshold of a rule."""
        found = self.test.rates(threshold := float(self.validation.choose(rule)[0]))
        if math.isnan(threshold):
            return math.nan, math.nan
        return found.sensitivity, found.specificity


def _rates(
    rule: Rule, seen: Sequence[tuple[_Seen, np.ndarray]], runs: Sequence[RunRecord]
) -> tuple[Rate, Rate]:
    """Sensitivity and specificity of a cell's runs at one operating point, as a mean."""
    shares, drawn = shares_of(runs), []
    for one, weights in seen:
        if one.least:
            chosen = one.validation.drawn(rule, len(weights), seed=1)
            drawn.append(one.test.redrawn(chosen, weights))
        else:
            drawn.append((np.full(len(weights), np.nan), np.full(len(weights), np.nan)))
    values = np.average([one.value(rule) for one, _ in seen], axis=0, weights=shares)
    draws = np.average(np.array(drawn), axis=0, weights=shares)
    carriers = np.min([one.carriers for one, _ in seen], axis=0)
    rates = [
        Rate(float(value), *percentile_interval(draw, int(count)))
        for value, draw, count in zip(values, draws, carriers, strict=True)
    ]
    return rates[0], rates[1]


def _tests(
    rows: Sequence[Row], images: Images, seen: dict[RunRecord, _Seen], resamples: int
) -> tuple[Test, ...]:
    """Tests of each pair of cells: whether one finds more at its threshold for `MATCHED`.

    All images, of validation and test parts alike, are drawn again together, and the threshold of
    each run is chosen anew: the same ones for all runs, so that they are paired. What a run's
    figure moves by stands in the place of its images' contributions (`paired.Estimate`).
    """
    pool = {name: n for n, name in enumerate(sorted({i for s in seen.values() for ids in s.ids
                                                     for i in ids}))}  # fmt: skip
    weights = bootstrap_weights(len(pool), resamples)
    found = {}
    for run, one in seen.items():
        on_validation, on_test = (weights[:, [pool[name] for name in ids]] for ids in one.ids)
        moved = redrawn_sensitivity(one.validation, one.test, on_validation, on_test)
        found[run] = {MATCHED.name: moved}
    evidence = Evidence(images, found)
    groups = group_alike(rows, {row.cell: evidence.of_cell(MATCHED.name, row.runs) for row in rows})
    enough = min(one.carriers[0] for one in seen.values()) >= LEAST_OF_A_CLASS
    pairs = []
    for a, b in itertools.combinations([group[0] for group in groups], 2):
        whole, repeats, _ = evidence.differences(MATCHED.name, [(a, b)])
        p = whole.p_value() if enough else math.nan
        ends = whole.interval() if math.isfinite(p) else (math.nan, math.nan)
        over_runs = repeats.p_value() if math.isfinite(p) else math.nan
        pairs.append((str(a.cell), str(b.cell), whole.value, ends, p, over_runs, repeats))
    of_images, of_runs = holm([pair[4] for pair in pairs]), holm([pair[5] for pair in pairs])
    return tuple(
        Test(f"sensitivity at {MATCHED.name}", first, second, value, *ends, p, p_holm, "bootstrap",
             p_runs, p_runs_holm, len(repeats.estimates), repeats.seeds, len(pairs), None)
        for (first, second, value, ends, p, p_runs, repeats), p_holm, p_runs_holm
        in zip(pairs, of_images, of_runs, strict=True)
    )  # fmt: skip


def redrawn_sensitivity(
    validation: Scored, test: Scored, on_validation: np.ndarray, on_test: np.ndarray
) -> Estimate:
    """A network's sensitivity at its threshold for `MATCHED`, and how resamples move it.

    `on_validation` (R, n) and `on_test` (R, m) are weights of the same R resamples for all networks
    that are held against each other.
    """
    (threshold,) = validation.choose(MATCHED)
    value = math.nan if math.isnan(threshold) else test.rates(threshold).sensitivity
    draws, _ = test.redrawn(validation.rechosen(MATCHED, on_validation), on_test)
    known = np.isfinite(draws)
    if known.any():
        # A resample without a melanoma says nothing.
        draws = np.where(known, draws - draws[known].mean(), 0.0)
    return Estimate(value, draws / math.sqrt(len(draws) - 1))


def points_section(rows: Sequence[Row], points: Points | None, all_pairs: bool) -> Iterator[Block]:
    """The section of a report: both rates at each point, then the pairs that differ."""
    if points is None:
        return
    yield Heading("At a threshold")
    if points.without:
        yield Text(f"No thresholds: {points.without}.")
        return
    name = spaced(points.label)
    yield Text(
        f"An image is called {name} whose {name} score is at least a threshold. Each run has its "
        "own, chosen on its validation images; the figures are of the test images. The intervals "
        "hold the chance of both parts."
    )
    for index, rate in enumerate(("sensitivity", "specificity")):
        yield _rates_table(rows, points, index, f"{name[0].upper()}{name[1:]}: {rate} on test")
    if len(rows) > 1:
        yield from _pairs(rows, points, all_pairs)


def _rates_table(rows: Sequence[Row], points: Points, index: int, title: str) -> Table:
    lines = []
    for row in rows:
        line = names_of(row)
        for rule in RULES:
            rate = points.rates[row.cell][rule.name][index]
            ends = f"{number(rate.low, 2)}–{number(rate.high, 2)}"
            line.append(Cell(number(rate.value, 3), ends if math.isfinite(rate.low) else ""))
        lines.append(line)
    # As in the tables by class, and short enough for one line of a terminal.
    heads = [rule.title.replace("sensitivity", "sens.").replace("specificity", "spec.")
             for rule in RULES]  # fmt: skip
    columns = ("model", "batch", *heads)
    return Table(f"{title}, at the threshold chosen for", columns, lines, labels=2)


def _pairs(rows: Sequence[Row], points: Points, all_pairs: bool) -> Iterator[Block]:
    tests = sorted(points.tests, key=lambda t: (math.isnan(t.p_images_holm), t.p_images_holm))
    shown = [test for test in tests if test.p_images_holm < ALPHA]
    rest = [test for test in tests if not test.p_images_holm < ALPHA]
    reached = [points.rates[row.cell][MATCHED.name][1].value for row in rows]
    title = f"Sensitivity at thresholds for {MATCHED.title}"
    text = f"{title}: {len(shown)} of {len(tests)} differences are shown at 5 %"
    text += " after Holm's correction" if tests else ""
    yield Details(text, (tests_table(f"{title}: shown", shown),)) if shown else Text(f"{text}.")
    if rest:
        yield Details(
            f"{title}: {len(rest)} of {len(tests)} differences are not shown at 5 %",
            (tests_table(f"{title}: not shown", rest),),
            instead="" if all_pairs else "--all-pairs lists them",
        )
    yield Text(
        "These tests draw validation and test images again together and choose each threshold "
        f"anew. The specificity is matched where it was chosen: on test it is {min(reached):.3f} "
        f"to {max(reached):.3f}. So a higher sensitivity may come from a lower specificity, and "
        "a difference that is not shown may be there."
    )
