"""What tests are made of: the test images of all runs, and each run's estimates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skinml.base.errors import UserError
from skinml.compare.comparison import Row
from skinml.compare.paired import Estimate, combine, difference, estimates, mean
from skinml.compare.repeats import Repeats, Step, repeats_of
from skinml.compare.runs import RunRecord
from skinml.evaluation.metrics import metrics_of
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import interval_of


class Images:
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

    def of_run(self, run: RunRecord, weights: np.ndarray) -> np.ndarray:
        """Weights of all images (R, N) → those of a run's table (R, n), in its order."""
        rows = self.rows(run)
        # A copy of all weights takes as long as figures of them do.
        return weights if np.array_equal(rows, range(len(self.ids))) else weights[:, rows]

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


@dataclass(frozen=True)
class Evidence:
    """What tests are made of: the images, and each run's estimates by metric."""

    images: Images
    estimates: dict[RunRecord, dict[str, Estimate]]

    def add(self, run: RunRecord, metrics: Sequence[str]) -> None:
        self.estimates[run] = {
            metric: self.images.spread(run, found)
            for metric, found in estimates(run.predictions, metrics).items()
        }

    def of_cell(self, metric: str, runs: Sequence[RunRecord]) -> Estimate:
        """A cell's figure."""
        return combine([self.estimates[run][metric] for run in runs], shares_of(runs))

    def repeats(self, metric: str, runs: Sequence[RunRecord]) -> Repeats:
        """A cell's figure as the mean of its runs, copies of one network as one run."""
        steps = [
            Step(self.estimates[run][metric], share, run.tags["split"],
                 frozenset([self.images.key(run)]), len(run.predictions.labels))
            for run, share in zip(runs, shares_of(runs), strict=True)
        ]  # fmt: skip
        return repeats_of(steps, _overlap(runs))

    def paired(self, a: Row, b: Row) -> list[tuple[RunRecord, RunRecord]]:
        """The runs of two cells with the same seed and split."""
        others = {run.repetition: run for run in b.runs}
        return [(run, others[run.repetition]) for run in a.runs if run.repetition in others]

    def differences(
        self, metric: str, cells: Sequence[tuple[Row, Row]]
    ) -> tuple[Estimate, Repeats, np.ndarray]:
        """The mean difference over pairs of cells, and what it is the mean of.

        The mean; the differences of paired runs, those that share a network or have identical
        answers as one; how much more often the first is right, by image (N,).
        """
        whole, right = [], []
        steps: list[Step] = []
        for a, b in cells:
            pairs = self.paired(a, b)
            first, second = (
                ([x for x, _ in pairs], [y for _, y in pairs]) if pairs else (a.runs, b.runs)
            )
            sides = [(first, 1), (second, -1)]
            runs = [(run, sign * share) for side, sign in sides
                    for run, share in zip(side, shares_of(side), strict=True)]  # fmt: skip
            whole.append(
                combine([self.estimates[r][metric] for r, _ in runs], [w for _, w in runs])
            )
            weights = np.array([weight for _, weight in runs])
            right.append(weights @ np.array([self.images.right(run) for run, _ in runs]))
            for (x, y), share in zip(pairs, shares_of(first), strict=False):
                step = difference(self.estimates[x][metric], self.estimates[y][metric])
                # A seed that gives the same answers as another is no second experiment, and a copy
                # of a network is no second network.
                marks = (step.influence.round(12).tobytes(), self.images.key(x), self.images.key(y))
                images = len(x.predictions.labels)
                split = x.tags["split"]
                steps.append(Step(step, share / len(cells), split, frozenset(marks), images))
        overlap = _overlap([run for pair in cells for row in pair for run in row.runs])
        return mean(whole), repeats_of(steps, overlap), np.mean(right, axis=0)


def interval_over_images(name: str, draws: np.ndarray, table: Predictions) -> tuple[float, float]:
    """The 95 % interval of a cell's figure from its resamples (R,); NaN where none is right."""
    if not metrics_of(table.classes)[name].bootstrap:
        return np.nan, np.nan
    return interval_of(name, draws, table)


def shares_of(runs: Sequence[RunRecord]) -> list[float]:
    """The weight of each run in its cell's mean: splits count alike, and the runs of one split."""
    counts = Counter(run.tags["split"] for run in runs)
    return [1 / len(counts) / counts[run.tags["split"]] for run in runs]


def _overlap(runs: Sequence[RunRecord]) -> float:
    """Test images over training images, of runs whose splits are drawn from one pool."""
    known = [run.params for run in runs if run.params.get("images_train", "").isdecimal()]
    ratios = [
        int(params["images_test"]) / int(params["images_train"])
        for params in known
        if params.get("images_test", "").isdecimal() and int(params["images_train"])
    ]
    # The default's: 0.15 of all images to 0.8 of the rest.
    return float(np.mean(ratios)) if ratios else 0.15 / 0.68
