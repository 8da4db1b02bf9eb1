"""What the runs of one comparable set show: values with their spread, tests, a verdict.

Two statements are kept apart. One is about the networks as trained: intervals and tests over the
test images, which pair all networks. The other is about configurations, which other seeds train
anew: tests over seeds and images together, for which it takes some runs with the same seeds. A
configuration wins only where both are shown, in the same direction, for the same runs.

A cell's figures are means within each split, averaged over the splits, so that cells that have
unequal numbers of seeds a split are not told apart by how hard the splits are.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skinml.comparison.paired import (
    ALPHA,
    LEAST_SEEDS,
    TESTED,
    Estimate,
    combine,
    difference,
    estimate,
    holm,
    mean,
    probability_of_best,
    ranks,
    seeds_and_images,
    smallest_detectable,
    swap_test,
)
from skinml.comparison.published import PAPER_TABLE
from skinml.comparison.runs import CellName, RunRecord, Selection
from skinml.errors import UserError
from skinml.evaluation.metrics import METRICS, evaluate
from skinml.evaluation.predictions import OneClass, Predictions
from skinml.evaluation.statistics import (
    CONFIDENCE,
    LEAST_OF_A_CLASS,
    RESAMPLES,
    bootstrap_weights,
    carriers_of,
    percentile_interval,
    resampled,
)
from skinml.progress import progress_bar

# The metrics in which all pairs are tested and a verdict is given: what Table III compares by.
VERDICT_METRICS = ("accuracy", "auc_weighted")

# Every metric of the table, all with intervals.
REPORTED = (
    "accuracy",
    "precision_weighted",
    "f1_weighted",
    "auc_weighted",
    "auc_macro",
    "sensitivity_melanoma",
    "sensitivity_seborrheic_keratosis",
    "sensitivity_nevus",
    "specificity_melanoma",
    "specificity_seborrheic_keratosis",
    "specificity_nevus",
    "melanoma_auc",
    "keratosis_auc",
    "challenge_auc",
    "calibration_error",
)

# The mark of a cell whose network answers one class for nearly every image.
ONE_CLASS_MARK = "†"

# What a run measured beside its predictions.
COSTS = ("parameters_millions", "model_size_mb", "latency_ms", "training_seconds", "best_epoch")


@dataclass(frozen=True)
class Value:
    """A figure of a cell: the mean over its runs and how far it would move.

    `low` and `high` over test images (95 %, bootstrap; NaN where no interval is known to be right);
    `sd_seeds` over seeds within a split and `sd_splits` over the means of splits, in which the
    seeds have a part too; None with fewer than two.
    """

    value: float
    low: float
    high: float
    sd_seeds: float | None
    sd_splits: float | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds that a network takes for one image on one device.

    They do not depend on the batch size of the training: so the runs of a network measure one and
    the same thing, and what they differ by is noise. `median`, `low` and `high` (the smallest and
    largest) of what `runs` runs measured, each of them a median of its own.
    """

    median: float
    low: float
    high: float
    runs: int
    device: str


@dataclass(frozen=True)
class Row:
    """A cell of the table; `by_run` has the metrics of each of its runs.

    `costs` are means over its runs, but the latency, which is that of its network.
    """

    cell: CellName
    runs: tuple[RunRecord, ...]
    by_run: tuple[dict[str, float], ...]
    values: dict[str, Value]
    costs: dict[str, float]
    latency: Latency | None

    @cached_property
    def one_class(self) -> tuple[OneClass, ...]:
        """The answer of each run whose network gives nearly every image the same one."""
        return tuple(found for run in self.runs if (found := run.predictions.one_class))

    @property
    def mark(self) -> str:
        """What follows the cell's name wherever it stands: nothing, or that it is of one class."""
        return f" {ONE_CLASS_MARK}" if self.one_class else ""

    @property
    def one_answer(self) -> str:
        """What it answers, in words, where its networks give nearly every image one class."""
        if len(self.runs) == 1:
            return "".join(found.answer for found in self.one_class)
        runs = f"in {len(self.one_class)} of {len(self.runs)} runs"
        return f"one class to nearly every image {runs}" if self.one_class else ""


@dataclass(frozen=True)
class Test:
    """A difference, first minus second, and what is shown of it.

    It is that of the runs with the same seed and split, `pairs` of them that differ from each
    other, as a mean; of all runs where there is no such pair. `low`, `high`, `p_images` and
    `p_images_holm` are over test images, `p_seeds` and `p_seeds_holm` over seeds and images
    together. What cannot be computed is NaN. Holm's method corrects for all tests of the metric and
    question, `family` of them. `method` names the test over images.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_images: float
    p_images_holm: float
    method: str
    p_seeds: float
    p_seeds_holm: float
    pairs: int
    family: int


@dataclass(frozen=True)
class Standing:
    """Where each cell stands by a metric when the test images are drawn again.

    `probability_best`, `rank_low` and `rank_high` (95 %) by cell, of the networks as trained.
    `alike` are groups of cells that the metric cannot tell apart, as they give the same answers: a
    group is tested once, under the name of its first. `detectable` is the smallest difference of
    two groups that the test set would have shown with 80 % power, `detectable_all` the same among
    all pairs (the first step of Holm's method); NaN where no two differ.
    """

    metric: str
    probability_best: dict[CellName, float]
    rank_low: dict[CellName, float]
    rank_high: dict[CellName, float]
    alike: tuple[tuple[CellName, ...], ...]
    detectable: float
    detectable_all: float
    verdict: str
    winner: CellName | None


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says, computed from predictions tables."""

    selection: Selection
    rows: tuple[Row, ...]
    images: int
    class_counts: dict[str, int]
    pairs: tuple[Test, ...]
    planned: dict[str, tuple[Test, ...]]
    standings: dict[str, Standing]

    @property
    def device(self) -> str:
        """The device that most of the latencies here were measured on; "" without any."""
        often = Counter(row.latency.device for row in self.rows if row.latency)
        return often.most_common(1)[0][0] if often else ""

    @property
    def seeds(self) -> int:
        """The fewest seeds of a cell."""
        return min(len({run.tags["seed"] for run in row.runs}) for row in self.rows)


def analyse(selection: Selection, resamples: int = RESAMPLES) -> Comparison:
    """Compare the cells of a selection. Tables that do not fit each other are a `UserError`."""
    images = _Images(selection.runs)
    weights = bootstrap_weights(len(images.ids), resamples)
    rows, draws, estimates = [], [], {}
    latencies = _latencies(selection.runs)
    with progress_bar("comparing", len(selection.runs)) as advance:
        for cell, runs in selection.cells.items():
            points, redrawn = [], []
            for run in runs:
                point = evaluate(run.predictions, names=REPORTED)
                points.append({name: float(value) for name, (value,) in point.items()})
                where = images.rows(run)
                # A copy of all weights takes as long as the figures do.
                own = (
                    weights if np.array_equal(where, range(len(images.ids))) else weights[:, where]
                )
                redrawn.append(resampled(run.predictions, own, REPORTED))
                estimates[run] = {
                    metric: images.spread(run, estimate(run.predictions, metric))
                    for metric in TESTED
                }
                advance(text=str(cell))
            shares = _shares(runs)
            mean_draws = {
                name: np.average([draw[name] for draw in redrawn], axis=0, weights=shares)
                for name in REPORTED
            }
            draws.append(mean_draws)
            latency = latencies.get(runs[0].network)
            rows.append(_row(cell, runs, points, mean_draws, latency))
    of_cell = {
        metric: {
            row.cell: combine([estimates[run][metric] for run in row.runs], _shares(row.runs))
            for row in rows
        }
        for metric in TESTED
    }
    evidence = _Evidence(images, estimates)
    groups = {metric: _alike(rows, of_cell[metric]) for metric in VERDICT_METRICS}
    pairs = tuple(
        test
        for metric in VERDICT_METRICS
        for test in _tests(
            metric,
            [
                ((str(a[0].cell), str(b[0].cell)), [(a[0], b[0])])
                for a, b in itertools.combinations(groups[metric], 2)
            ],
            evidence,
        )
    )
    planned = {
        question: tuple(
            test for metric in VERDICT_METRICS for test in _tests(metric, contrasts, evidence)
        )
        for question, contrasts in _planned(rows).items()
    }
    standings = {
        metric: _standing(
            metric,
            rows,
            np.array([draw[metric] for draw in draws]),
            of_cell[metric],
            groups[metric],
            [test for test in pairs if test.metric == metric],
            tuple(selection.differences),
        )
        for metric in VERDICT_METRICS
    }
    return Comparison(
        selection, tuple(rows), len(images.ids), images.class_counts, pairs, planned, standings
    )


class _Images:
    """The test images of all runs, which pair them: one order, one label each."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._index: dict[str, int] = {}
        self._rows: dict[RunRecord, np.ndarray] = {}
        labels: list[int] = []
        of_split: dict[str, tuple[RunRecord, set[str]]] = {}
        for run in runs:
            table = run.predictions
            ids = set(map(str, table.image_ids))
            first, expected = of_split.setdefault(run.tags["split"], (run, ids))
            if ids != expected or len(ids) != len(table.image_ids):
                raise UserError(
                    f"runs {first.run_id} and {run.run_id} of split {run.tags['split']!r} were "
                    f"tested on different images ({len(expected)} and {len(ids)}); expected the "
                    "same ones: train one of them again"
                )
            for image_id, label in zip(table.image_ids, table.labels, strict=True):
                index = self._index.setdefault(str(image_id), len(labels))
                if index == len(labels):
                    labels.append(int(label))
                elif labels[index] != label:
                    raise UserError(
                        f"run {run.run_id}: image {image_id} has another label than in run "
                        f"{first.run_id}; expected tables of one data set"
                    )
        self.ids = list(self._index)
        classes = runs[0].predictions.classes
        counts = np.bincount(labels, minlength=len(classes))
        self.class_counts = {name: int(n) for name, n in zip(classes, counts, strict=True)}

    def rows(self, run: RunRecord) -> np.ndarray:
        """Where the images of a run's table stand among all: (n,) int64."""
        if run not in self._rows:
            ids = run.predictions.image_ids
            self._rows[run] = np.array([self._index[str(image_id)] for image_id in ids])
        return self._rows[run]

    def spread(self, run: RunRecord, estimate: Estimate) -> Estimate:
        """A run's estimate over all images: those it was not tested on contribute nothing."""
        influence = np.zeros(len(self._index))
        influence[self.rows(run)] = estimate.influence
        return Estimate(estimate.value, influence)

    def key(self, run: RunRecord) -> bytes:
        """What two runs have in common where one is a copy of the other: their scores, by image."""
        return run.predictions.scores[np.argsort(self.rows(run))].tobytes()

    def right(self, run: RunRecord) -> np.ndarray:
        """Whether a run's answer is right, by image: (N,) float64; 0 where it was not asked."""
        table, answers = run.predictions, np.zeros(len(self._index))
        answers[self.rows(run)] = table.predicted == table.labels
        return answers


def _shares(runs: Sequence[RunRecord]) -> list[float]:
    """The weight of each run in its cell's mean: splits count alike, and the runs of one split."""
    counts = Counter(run.tags["split"] for run in runs)
    return [1 / len(counts) / counts[run.tags["split"]] for run in runs]


# Its resamples lie above the truth, as noise adds to it: the percentile interval of a small one
# holds it nowhere near 95 times in 100 (simulated).
_WITHOUT_INTERVAL = ("calibration_error",)


def _interval(name: str, draws: np.ndarray, table: Predictions) -> tuple[float, float]:
    """The 95 % interval of a cell's figure over the images, from its resamples."""
    if name in _WITHOUT_INTERVAL:
        return np.nan, np.nan
    return percentile_interval(draws, carriers_of(name, table))


def _row(
    cell: CellName,
    runs: tuple[RunRecord, ...],
    points: list[dict[str, float]],
    draws: dict[str, np.ndarray],
    latency: Latency | None,
) -> Row:
    values = {}
    for name in REPORTED:
        by_split: dict[str, list[float]] = {}
        for run, point in zip(runs, points, strict=True):
            by_split.setdefault(run.tags["split"], []).append(point[name])
        low, high = _interval(name, draws[name], runs[0].predictions)
        values[name] = Value(
            float(np.average([point[name] for point in points], weights=_shares(runs))),
            low,
            high,
            _pooled_sd(list(by_split.values())),
            _sd([float(np.mean(group)) for group in by_split.values()]),
        )
    costs = {
        name: float(np.mean([run.metrics[name] for run in runs]))
        for name in COSTS
        if name != "latency_ms" and all(name in run.metrics for run in runs)
    }
    if latency:
        costs["latency_ms"] = latency.median
    return Row(cell, runs, tuple(points), values, costs, latency)


def _latencies(runs: Sequence[RunRecord]) -> dict[tuple[str, ...], Latency]:
    """The latency of each network, measured on one device, by `RunRecord.network`.

    The device is the one that most of all runs were measured on; a network that was not measured
    there has that of its own.
    """
    measured: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for run in runs:
        if "latency_ms" in run.metrics:
            by_device = measured.setdefault(run.network, {})
            by_device.setdefault(run.device, []).append(run.metrics["latency_ms"])
    often = Counter(run.device for run in runs if "latency_ms" in run.metrics)
    found = {}
    for network, by_device in measured.items():
        device = next(name for name, _ in often.most_common() if name in by_device)
        values = by_device[device]
        found[network] = Latency(
            float(np.median(values)), min(values), max(values), len(values), device
        )
    return found


def _sd(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _pooled_sd(groups: list[list[float]]) -> float | None:
    """The standard deviation within groups; None where no group has two members."""
    free = sum(len(group) - 1 for group in groups)
    if not free:
        return None
    squares = sum(float(np.sum((np.array(group) - np.mean(group)) ** 2)) for group in groups)
    return float(np.sqrt(squares / free))


Contrast = tuple[tuple[str, str], list[tuple[Row, Row]]]


def _planned(rows: Sequence[Row]) -> dict[str, list[Contrast]]:
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


@dataclass(frozen=True)
class _Evidence:
    """What tests are made of: the images, and each run's estimates by metric."""

    images: _Images
    estimates: dict[RunRecord, dict[str, Estimate]]

    def paired(self, a: Row, b: Row) -> list[tuple[RunRecord, RunRecord]]:
        """The runs of two cells with the same seed and split."""
        others = {run.repetition: run for run in b.runs}
        return [(run, others[run.repetition]) for run in a.runs if run.repetition in others]

    def differences(
        self, metric: str, cells: Sequence[tuple[Row, Row]]
    ) -> tuple[Estimate, list[Estimate], list[float], np.ndarray]:
        """The mean difference over pairs of cells, and what it is the mean of.

        The mean; the differences of paired runs and their shares, those that share a network or
        have identical answers as one; how much more often the first is right, by image (N,).
        """
        whole, right = [], []
        units: list[tuple[set[bytes], list[Estimate], list[float]]] = []
        for a, b in cells:
            pairs = self.paired(a, b)
            first, second = (
                ([x for x, _ in pairs], [y for _, y in pairs]) if pairs else (a.runs, b.runs)
            )
            sides = [(first, 1), (second, -1)]
            runs = [(run, sign * share) for side, sign in sides
                    for run, share in zip(side, _shares(side), strict=True)]  # fmt: skip
            whole.append(
                combine([self.estimates[r][metric] for r, _ in runs], [w for _, w in runs])
            )
            weights = np.array([weight for _, weight in runs])
            right.append(weights @ np.array([self.images.right(run) for run, _ in runs]))
            for (x, y), share in zip(pairs, _shares(first), strict=False):
                step = difference(self.estimates[x][metric], self.estimates[y][metric])
                # A seed that gives the same answers as another is no second experiment, and a copy
                # of a network is no second network.
                marks = {step.influence.round(12).tobytes(), self.images.key(x), self.images.key(y)}
                steps, shares = [step], [share / len(cells)]
                for unit in [unit for unit in units if unit[0] & marks]:
                    units.remove(unit)
                    marks |= unit[0]
                    steps, shares = unit[1] + steps, unit[2] + shares
                units.append((marks, steps, shares))
        return (
            mean(whole),
            [combine(steps, np.array(shares) / sum(shares)) for _, steps, shares in units],
            [sum(shares) for _, _, shares in units],
            np.mean(right, axis=0),
        )


def _alike(rows: Sequence[Row], of_cell: dict[CellName, Estimate]) -> list[list[Row]]:
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


def _tests(metric: str, contrasts: Sequence[Contrast], evidence: _Evidence) -> list[Test]:
    """Test one family of contrasts, corrected for their number."""
    found = []
    run = next(iter(evidence.estimates))
    enough = carriers_of(metric, run.predictions) >= LEAST_OF_A_CLASS
    for names, cells in contrasts:
        whole, steps, shares, right = evidence.differences(metric, cells)
        if metric == "accuracy":
            p = swap_test(right)
            single = len(cells) == 1 and np.isin(right, (-1, 0, 1)).all()
            method = "McNemar, exact" if single else "exact swaps"
        else:
            p, method = whole.p_value() if enough else np.nan, "DeLong"
        # Seeds add to the chance that lies in the images, and take nothing from it.
        over_seeds = seeds_and_images(steps, shares)
        over_seeds = max(p, over_seeds) if np.isfinite([p, over_seeds]).all() else np.nan
        ends = whole.interval() if enough and whole.standard_error else (np.nan, np.nan)
        found.append((names, whole.value, ends, p, method, over_seeds, len(steps)))
    images, seeds = holm([row[3] for row in found]), holm([row[5] for row in found])
    return [
        Test(metric, *names, value, *ends, p, p_holm, method, p_seeds, p_seeds_holm, pairs,
             len(found))
        for (names, value, ends, p, method, p_seeds, pairs), p_holm, p_seeds_holm
        in zip(found, images, seeds, strict=True)
    ]  # fmt: skip


def _standing(
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
    winner, verdict = _verdict(metric, groups, tests, unlike)
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


def _verdict(
    metric: str, groups: Sequence[Sequence[Row]], tests: Sequence[Test], unlike: Sequence[str]
) -> tuple[CellName | None, str]:
    """Who wins by a metric, and why, or why nobody does.

    A configuration wins where it was trained like all others, alone has the highest value, and is
    shown to be better than each other one both as trained (over images) and over seeds and images,
    in runs with the same seeds.
    """
    name = metric_title(metric)
    finite = [group for group in groups if np.isfinite(group[0].values[metric].value)]
    if sum(map(len, finite)) < 2:
        few = "there is one configuration" if sum(map(len, groups)) < 2 else (
            "it can be computed of fewer than two of the configurations"
        )  # fmt: skip
        return None, f"{name}: no winner, as {few}."
    highest = max(group[0].values[metric].value for group in finite)
    # Means of the same figures in another order differ in the last digit, and in nothing else.
    best = [row for group in finite if highest - group[0].values[metric].value < 1e-12
            for row in group]  # fmt: skip
    if len(best) > 1:
        names = ", ".join(str(row.cell) for row in best)
        which = "they cannot be told apart" if len(finite) == 1 else "none is above the others"
        return None, f"{name}: no winner. {names} have the highest value, {highest:.3f}: {which}."
    [top] = best
    own = [
        _from(str(top.cell), test) for test in tests if str(top.cell) in (test.first, test.second)
    ]
    figure, others = f"{top.cell} ({highest:.3f})", f"each of the {len(own)} others"
    if len(own) == 1:
        others = own[0].second
    if top.one_class:
        return (
            None,
            f"{name}: no winner. {figure} has the highest value, and answers {top.one_answer}.",
        )
    open_ = [test for test in own if not (test.p_images_holm < ALPHA and test.difference > 0)]
    if open_:
        return None, f"{name}: no winner. {figure} has the highest value; {_not_shown(open_, own)}."
    weakest = max(own, key=lambda test: test.p_images_holm)
    as_trained = (
        f"On images like these the trained network {figure} is better than {others} "
        f"(largest adjusted {_p_equals(weakest.p_images_holm)})"
    )
    if unlike:
        return None, (
            f"{name}: no winner. {as_trained}, but the networks were not trained alike "
            f"({', '.join(unlike)}): nothing follows for the configurations."
        )
    pairs = min(test.pairs for test in own)
    if pairs < LEAST_SEEDS:
        count = {0: "no run", 1: "1 run"}.get(pairs, f"{pairs} different runs")
        return None, (
            f"{name}: no winner among the configurations. {as_trained}. Whether another seed would "
            f"show the same, {count} of each with the same seeds cannot tell; it takes "
            f"{LEAST_SEEDS}."
        )
    missed = [test for test in own if not test.p_seeds_holm < ALPHA]
    if missed:
        return None, (
            f"{name}: no winner among the configurations. {as_trained}, but over {pairs} seeds and "
            f"the images together {len(missed)} of the {len(own)} differences are not shown."
        )
    weakest = max(own, key=lambda test: test.p_seeds_holm)
    return top.cell, (
        f"{name}: {figure} is better than {others}, over images like these and over "
        f"{pairs} trainings of each (largest adjusted {_p_equals(weakest.p_seeds_holm)})."
    )


def _from(name: str, test: Test) -> Test:
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
    facts = f"{least.difference:.3f}{interval}, adjusted {_p_equals(least.p_images_holm)}"
    if len(own) == 1:
        return f"the difference from {least.second} cannot be told from chance ({facts})"
    return (
        f"{len(open_)} of its {len(own)} differences from the others cannot be told from chance "
        f"(least clear: {least.second}, {facts})"
    )


def paper_values() -> dict[CellName, dict[str, float]]:
    """The paper's Table III by cell: accuracy and precision in %, f1 and auc from 0 to 1."""
    values = {}
    for row in PAPER_TABLE:
        assert row.batch_size is not None
        figures = {"accuracy": row.accuracy, "precision": row.precision, "f1": row.f1,
                   "auc": row.auc}  # fmt: skip
        values[CellName(row.model.lower(), row.batch_size)] = {
            name: float(figure) for name, figure in figures.items() if figure is not None
        }
    return values


def metric_title(metric: str) -> str:
    """A metric's name as a reader writes it."""
    titles = {
        "accuracy": "Accuracy",
        "precision_weighted": "Precision (weighted)",
        "f1_weighted": "F1 (weighted)",
        "auc_weighted": "AUC (weighted)",
        "auc_macro": "AUC (macro)",
        "melanoma_auc": "Melanoma AUC",
        "keratosis_auc": "Keratosis AUC",
        "challenge_auc": "Challenge AUC",
        "calibration_error": "Calibration error",
    }
    assert metric in METRICS
    return titles.get(metric, metric.replace("_", " ").capitalize())


def _p_equals(p: float) -> str:
    text = format_p(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def format_p(p: float) -> str:
    """A p-value as papers print it; a dash where it cannot be computed."""
    if np.isnan(p):
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"
