"""What the runs of one comparable set show: values with their spread, tests, a verdict.

Two sources of chance are kept apart. Other test images: intervals and tests over the images, which
pair all networks; they are about the networks as trained. Other seeds and splits: standard
deviations and sign-flip tests over repeated runs; they are about the configurations, on these test
images. A configuration wins only where both show it.

A cell's figures are means within each split, averaged over the splits, so that cells that have
unequal numbers of seeds a split are not told apart by how hard the splits are.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinml.comparison.paired import (
    ALPHA,
    TESTED,
    Estimate,
    combine,
    difference,
    estimate,
    holm,
    mcnemar,
    mean,
    pairs_needed,
    probability_of_best,
    ranks,
    sign_flip,
    smallest_detectable,
)
from skinml.comparison.published import PAPER_TABLE
from skinml.comparison.runs import CellName, RunRecord, Selection
from skinml.errors import UserError
from skinml.evaluation.metrics import METRICS, evaluate
from skinml.evaluation.predictions import OneClass, Predictions
from skinml.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_weights,
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

    `low`, `high`, `p_images` and `p_images_holm` are over test images, `p_seeds` and
    `p_seeds_holm` over paired runs (`pairs` of them; None where too few to reach 5 %). Holm's
    method corrects for all tests of the metric and question, `family` of them. `method` names the
    test over images.
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
    p_seeds: float | None
    p_seeds_holm: float | None
    pairs: int
    family: int


@dataclass(frozen=True)
class Standing:
    """Where each cell stands by a metric when the test images are drawn again.

    `probability_best`, `rank_low` and `rank_high` (95 %) by cell, of the networks as trained.
    `detectable` is the smallest difference of two cells that the test set would have shown with
    80 % power, `detectable_all` the same among all pairs (the first step of Holm's method).
    """

    metric: str
    probability_best: dict[CellName, float]
    rank_low: dict[CellName, float]
    rank_high: dict[CellName, float]
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
                redrawn.append(resampled(run.predictions, weights[:, where], REPORTED))
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
    pairs = tuple(
        test
        for metric in VERDICT_METRICS
        for test in _tests(
            metric,
            [((str(a.cell), str(b.cell)), [(a, b)]) for a, b in itertools.combinations(rows, 2)],
            of_cell[metric],
            estimates,
        )
    )
    planned = {
        question: tuple(
            test
            for metric in VERDICT_METRICS
            for test in _tests(metric, contrasts, of_cell[metric], estimates)
        )
        for question, contrasts in _planned(rows).items()
    }
    standings = {
        metric: _standing(
            metric,
            rows,
            np.array([draw[metric] for draw in draws]),
            of_cell[metric],
            pairs,
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
        return np.array([self._index[str(image_id)] for image_id in run.predictions.image_ids])

    def spread(self, run: RunRecord, estimate: Estimate) -> Estimate:
        """A run's estimate over all images: those it was not tested on contribute nothing."""
        influence = np.zeros(len(self._index))
        influence[self.rows(run)] = estimate.influence
        return Estimate(estimate.value, influence)


def _shares(runs: Sequence[RunRecord]) -> list[float]:
    """The weight of each run in its cell's mean: splits count alike, and the runs of one split."""
    counts = Counter(run.tags["split"] for run in runs)
    return [1 / len(counts) / counts[run.tags["split"]] for run in runs]


# Its resamples lie above the truth, as noise adds to it: the percentile interval of a small one
# holds it nowhere near 95 times in 100 (simulated).
_WITHOUT_INTERVAL = ("calibration_error",)


def _interval(name: str, draws: np.ndarray, table: Predictions) -> tuple[float, float]:
    """The 95 % interval of a cell's figure over the images, from its resamples."""
    finite = draws[np.isfinite(draws)]
    if name in _WITHOUT_INTERVAL or not len(finite):
        return np.nan, np.nan
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(finite, tails)
    if low == high and low in (0, 1):
        return _of_a_sure_thing(name, low, table)
    return float(low), float(high)


def _of_a_sure_thing(name: str, share: float, table: Predictions) -> tuple[float, float]:
    """The interval of a share that no resample can move, as none or all of the images count.

    Wilson's (J. Am. Stat. Assoc. 1927, 22:209-212), of as many images as the share is taken of.
    """
    from statsmodels.stats.proportion import proportion_confint

    kind, _, of_class = name.partition("_")
    count = len(table.labels)
    if kind in ("sensitivity", "specificity"):
        own = int(np.sum(table.labels == table.classes.index(of_class)))
        count = own if kind == "sensitivity" else count - own
    low, high = proportion_confint(share * count, count, 1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


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


def _tests(
    metric: str,
    contrasts: Sequence[Contrast],
    of_cell: dict[CellName, Estimate],
    estimates: dict[RunRecord, dict[str, Estimate]],
) -> list[Test]:
    """Test one family of contrasts, corrected for their number."""
    found = []
    for (first, second), cells in contrasts:
        whole = mean([difference(of_cell[a.cell], of_cell[b.cell]) for a, b in cells])
        exact = metric == "accuracy" and len(cells) == 1 and _single(cells[0])
        if exact:
            [(a, b)] = cells
            p = mcnemar(a.runs[0].predictions, b.runs[0].predictions)
            method = "McNemar, exact"
        else:
            p = whole.p_value()
            method = "paired z" if metric == "accuracy" else "DeLong"
        steps = _paired_runs(cells, metric, estimates)
        low, high = whole.interval()
        found.append((first, second, whole.value, low, high, p, method, steps))
    adjusted = holm([p for *_, p, _, _ in found])
    over_seeds = [sign_flip(steps) for *_, steps in found]
    # One that is not to be had counts as a test that showed nothing.
    corrected = holm([1.0 if p is None else p for p in over_seeds])
    return [
        Test(metric, first, second, value, low, high, p, p_holm, method, p_seeds,
             None if p_seeds is None else p_seeds_holm, len(steps), len(found))
        for (first, second, value, low, high, p, method, steps), p_holm, p_seeds, p_seeds_holm
        in zip(found, adjusted, over_seeds, corrected, strict=True)
    ]  # fmt: skip


def _single(pair: tuple[Row, Row]) -> bool:
    return all(len(row.runs) == 1 for row in pair)


def _paired_runs(
    cells: list[tuple[Row, Row]], metric: str, estimates: dict[RunRecord, dict[str, Estimate]]
) -> list[float]:
    """The differences of runs of the same seed and split, one a pair."""
    steps = []
    for a, b in cells:
        others = {run.repetition: run for run in b.runs}
        steps += [
            estimates[run][metric].value - estimates[others[run.repetition]][metric].value
            for run in a.runs
            if run.repetition in others
        ]
    return steps


def _standing(
    metric: str,
    rows: Sequence[Row],
    draws: np.ndarray,
    of_cell: dict[CellName, Estimate],
    pairs: Sequence[Test],
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
        difference(of_cell[a], of_cell[b]).standard_error
        for a, b in itertools.combinations(cells, 2)
    ]
    typical = float(np.median(errors)) if errors else np.nan
    winner, verdict = _verdict(metric, rows, [test for test in pairs if test.metric == metric])
    if winner is not None and unlike:
        verdict += (
            f" It was not trained like all others ({', '.join(unlike)}): a difference may come "
            "from that, and not from network or batch size."
        )
    return Standing(
        metric,
        dict(zip(cells, map(float, best), strict=True)),
        dict(zip(cells, map(float, low), strict=True)),
        dict(zip(cells, map(float, high), strict=True)),
        smallest_detectable(typical),
        smallest_detectable(typical, max(len(errors), 1)),
        verdict,
        winner,
    )


def _verdict(
    metric: str, rows: Sequence[Row], tests: Sequence[Test]
) -> tuple[CellName | None, str]:
    """Who wins by a metric, in one sentence; nobody unless every difference is shown."""
    name = metric_title(metric)
    finite = [row for row in rows if np.isfinite(row.values[metric].value)]
    if len(finite) < 2:
        return None, f"{name}: no winner, as there are not two cells to compare."
    best = max(finite, key=lambda row: row.values[metric].value)
    own = [test for test in tests if str(best.cell) in (test.first, test.second)]
    open_ = [test for test in own if not test.p_images_holm < ALPHA]
    figure = f"{best.cell} ({best.values[metric].value:.3f})"
    if best.one_class:
        return None, f"{name}: no winner. The highest, {figure}, answers {best.one_answer}."
    if open_:
        # By all three: corrected p-values are often 1 alike.
        closest = max(
            open_, key=lambda test: (test.p_images_holm, test.p_images, -abs(test.difference))
        )
        other = closest.second if closest.first == str(best.cell) else closest.first
        gap = abs(closest.difference)
        which = "any" if len(open_) == len(own) else f"{len(open_)}"
        return None, (
            f"{name}: no winner. The highest, {figure}, is not shown to be better than "
            f"{which} of the {len(own)} others (nearest to equal: {other}, difference "
            f"{gap:.3f}, adjusted {_p_equals(closest.p_images_holm)})."
        )
    weakest = max(own, key=lambda test: test.p_images_holm)
    sentence = (
        f"{name}: {figure} is better than each of the {len(own)} others on these test images "
        f"(largest adjusted {_p_equals(weakest.p_images_holm)})"
    )
    pairs, needed = min(test.pairs for test in own), pairs_needed(ALPHA / own[0].family)
    if pairs < needed:
        runs = "run" if pairs == 1 else "runs"
        return best.cell, (
            f"{sentence}, as trained: {pairs} paired {runs} a cell cannot show that the "
            f"configuration, and not its seed, wins (among {own[0].family} tests {needed} can)."
        )
    shown = sum(test.p_seeds_holm is not None and test.p_seeds_holm < ALPHA for test in own)
    if shown < len(own):
        return None, (
            f"{name}: no winner. {figure} is better than each of the {len(own)} others on these "
            f"test images, but over {pairs} paired runs a cell only {shown} of the differences "
            "are shown."
        )
    return best.cell, f"{sentence}, and over {pairs} paired runs a cell too."


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
    """A p-value as papers print it."""
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"
