"""Where each cell stands by a metric, and which one wins, or why none does."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skinml.compare.comparison import Row, Standing, Test
from skinml.compare.paired import (
    ALPHA,
    Estimate,
    difference,
    p_equals,
    probability_of_best,
    ranks,
    smallest_detectable,
)
from skinml.compare.repeats import LEAST_SEEDS
from skinml.compare.runs import CellName
from skinml.evaluation.metrics import metric_title
from skinml.evaluation.statistics import CONFIDENCE


def standing_of(
    metric: str,
    rows: Sequence[Row],
    draws: np.ndarray,
    of_cell: dict[CellName, Estimate],
    groups: Sequence[Sequence[Row]],
    tests: Sequence[Test],
    unlike: Sequence[str],
) -> Standing:
    cells = [row.cell for row in rows]
    # A resample that lacks a class says nothing of a rank.
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    if draws.shape[1]:
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(ranks(draws), tails, axis=1, method="nearest")
        best = probability_of_best(draws)
    else:
        low = high = best = np.full(len(cells), np.nan)
    errors = [
        error
        for a, b in itertools.combinations(groups, 2)
        if (error := difference(of_cell[a[0].cell], of_cell[b[0].cell]).standard_error) > 0
    ]
    typical = float(np.median(errors)) if errors else np.nan
    winner, verdict = find_verdict(metric, groups, tests, unlike)
    return Standing(
        metric,
        dict(zip(cells, map(float, best), strict=True)),
        dict(zip(cells, map(float, low), strict=True)),
        dict(zip(cells, map(float, high), strict=True)),
        tuple(tuple(row.cell for row in group) for group in groups if len(group) > 1),
        smallest_detectable(typical),
        smallest_detectable(typical, max(len(tests), 1)),
        verdict,
        winner,
    )


def highest_rows(metric: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of the highest value; none where it can be computed of none."""
    finite = [row for row in rows if np.isfinite(row.values[metric].value)]
    highest = max((row.values[metric].value for row in finite), default=0.0)
    # Means of the same figures in another order differ in the last digit, and in nothing else.
    return [row for row in finite if highest - row.values[metric].value < 1e-12]


def find_verdict(
    metric: str, groups: Sequence[Sequence[Row]], tests: Sequence[Test], unlike: Sequence[str]
) -> tuple[CellName | None, str]:
    """Who wins by a metric, and why, or why nobody does.

    A configuration wins where it was trained like all others, alone has the highest value, and is
    shown to be better than each other one both as trained (over images) and over seeds and images,
    in runs with the same seeds.
    """
    finite = [group for group in groups if np.isfinite(group[0].values[metric].value)]
    if sum(map(len, finite)) < 2:
        few = "there is one configuration" if sum(map(len, groups)) < 2 else (
            "it can be computed of fewer than two of the configurations"
        )  # fmt: skip
        return None, f"{metric_title(metric)}: no winner, as {few}."
    best = highest_rows(metric, [row for group in finite for row in group])
    [top, *equals] = best
    if equals:
        names = ", ".join(str(row.cell) for row in best)
        which = "they cannot be told apart" if len(finite) == 1 else "none is above the others"
        value = f"{top.values[metric].value:.3f}"
        why = f"no winner. {names} have the highest value, {value}: {which}."
        return None, f"{metric_title(metric)}: {why}"
    # A test of cells that answer alike is one of all of them.
    named = {str(group[0].cell): "/".join(str(row.cell) for row in group) for group in groups}
    name = str(top.cell)
    seen = [seen_from(name, test) for test in tests if name in (test.first, test.second)]
    own = [replace(test, second=named[test.second]) for test in seen]
    wins, why = _wins(top, metric, own, unlike, sum(map(len, groups)) - 1)
    return top.cell if wins else None, f"{metric_title(metric)}: {why}"


def _wins(
    top: Row, metric: str, tests: Sequence[Test], unlike: Sequence[str], count: int
) -> tuple[bool, str]:
    """Whether the cell of the highest value wins, by its differences from the `count` others."""
    others = tests[0].second if len(tests) == 1 else f"each of the {count} others"
    figure = f"{top.cell} ({top.values[metric].value:.3f})"
    if top.one_class:
        return False, f"no winner. {figure} has the highest value, and answers {top.one_answer}."
    open_ = [test for test in tests if not (test.p_images_holm < ALPHA and test.difference > 0)]
    if open_:
        return False, f"no winner. {figure} has the highest value; {_not_shown(open_, tests)}."
    weakest = max(tests, key=lambda test: test.p_images_holm)
    as_trained = (
        f"On images like these {_networks(top, figure, tests)} better than {others} "
        f"(largest adjusted {p_equals(weakest.p_images_holm)})"
    )
    if unlike:
        return False, (
            f"no winner. {as_trained}, but the networks were not trained alike "
            f"({', '.join(unlike)}): nothing follows for the configurations."
        )
    fewest = min(tests, key=lambda test: (test.seeds, test.pairs))
    if fewest.seeds < LEAST_SEEDS:
        return False, (
            f"no winner among the configurations. {as_trained}. Whether another seed would show "
            f"the same, {_too_few(fewest)}."
        )
    missed = [test for test in tests if not test.p_seeds_holm < ALPHA]
    if missed:
        return False, (
            f"no winner among the configurations. {as_trained}, but over {fewest.pairs} seeds and "
            f"the images together {_missed(len(missed), len(tests))} not shown."
        )
    weakest = max(tests, key=lambda test: test.p_seeds_holm)
    return True, (
        f"{figure} is better than {others}, over images like these and over {fewest.pairs} "
        f"trainings of each (largest adjusted {p_equals(weakest.p_seeds_holm)})."
    )


def _networks(top: Row, figure: str, tests: Sequence[Test]) -> str:
    """The trained networks that the differences are of, as many as take part in each of them."""
    fewest, most = min(test.pairs for test in tests), max(test.pairs for test in tests)
    if len(top.runs) == 1 or most == 1:
        return f"the trained network {figure} is"
    # Without a pair the differences are of all runs.
    count = len(top.runs) if not most else fewest if fewest == most else f"{fewest} to {most}"
    return f"the {count} trained networks of {figure} are on average"


def _missed(missed: int, of: int) -> str:
    if of == 1:
        return "the one difference is"
    return f"{missed} of the {of} differences {'is' if missed == 1 else 'are'}"


def why_none_can_win(tests: Sequence[Test], unlike: Sequence[str]) -> str:
    """Why no configuration could have won whatever the figures were; empty where one could."""
    if not tests:
        return "there is no difference to test"
    why = []
    if unlike:
        why.append(f"the networks were not trained alike ({', '.join(unlike)})")
    names = {name for test in tests for name in (test.first, test.second)}
    fewest = {
        name: min(test.seeds for test in tests if name in (test.first, test.second))
        for name in names
    }
    if max(fewest.values()) < LEAST_SEEDS:
        why.append(
            f"it takes {LEAST_SEEDS} pairs of runs with the same seeds, which no configuration "
            "has with all others"
        )
    return ", and ".join(why)


def _too_few(test: Test) -> str:
    """Why the paired runs of a test say nothing of other seeds."""
    count = {0: "no run", 1: "1 run"}.get(test.pairs, f"{test.pairs} different runs")
    if test.pairs > max(test.seeds, 1):
        return (
            f"{count} of each in {test.pairs - test.seeds + 1} splits cannot tell, as a split's "
            f"first seed is no repetition; it takes {LEAST_SEEDS} seeds of a split, or "
            f"{LEAST_SEEDS - 1} further seeds over all splits"
        )
    return f"{count} of each with the same seeds cannot tell; it takes {LEAST_SEEDS}"


def seen_from(name: str, test: Test) -> Test:
    """A test as the difference of one cell from the other."""
    if test.first == name:
        return test
    return replace(
        test, first=name, second=test.first, difference=-test.difference, low=-test.high,
        high=-test.low,
    )  # fmt: skip


def _not_shown(open_: Sequence[Test], own: Sequence[Test]) -> str:
    """What is not shown of the highest value, with the difference that is least clear."""
    if any(test.difference <= 0 for test in open_):
        others = ", ".join(test.second for test in open_ if test.difference <= 0)
        return f"in the runs with the same seeds it is not above {others}"
    if all(np.isnan(test.p_images) for test in open_):
        return f"{len(open_)} of its differences cannot be tested, as too few images carry them"
    # By all three: corrected p-values are often 1 alike.
    least = max(
        (test for test in open_ if np.isfinite(test.p_images)),
        key=lambda test: (test.p_images_holm, test.p_images, -abs(test.difference)),
    )
    interval = ""
    if np.isfinite(least.low):
        ends = f"{least.low:.3f} to {least.high:.3f}".replace("-", "−")
        interval = f", unadjusted 95 % CI {ends}"
    facts = f"{least.difference:.3f}{interval}, adjusted {p_equals(least.p_images_holm)}"
    if len(own) == 1:
        return f"the difference from {least.second} cannot be told from chance ({facts})"
    return (
        f"{len(open_)} of its {len(own)} differences from the others cannot be told from chance "
        f"(least clear: {least.second}, {facts})"
    )
