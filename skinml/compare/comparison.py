"""What a comparison holds: the figures of each cell, the tests, where each stands."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from skinml.compare.paired import Estimate
from skinml.compare.repeats import Components
from skinml.compare.runs import CellName, RunRecord
from skinml.compare.selection import Selection
from skinml.evaluation.predictions import OneClass

# The metrics in which all pairs are tested and a verdict is given: what Table III compares by.
VERDICT_METRICS = ("accuracy", "auc_weighted")


# The mark of a cell whose network answers one class for nearly every image.
ONE_CLASS_MARK = "†"


# What a run measured beside its predictions.
COSTS = ("parameters_millions", "model_size_mb", "latency_ms", "training_seconds", "best_epoch")


# The same of the exported file, where a run has one; the last where `skinml.export --log` measured.
EXPORTED = tuple(f"export_litert_float32_{name}" for name in ("mb", "ms", "auc_macro_difference"))


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

    `costs` are means over its runs, but the latency, which is that of its network. `components` say
    by metric of VERDICT_METRICS where the chance in its figure comes from.
    """

    cell: CellName
    runs: tuple[RunRecord, ...]
    by_run: tuple[dict[str, float], ...]
    values: dict[str, Value]
    costs: dict[str, float]
    latency: Latency | None
    components: dict[str, Components]

    @cached_property
    def one_class(self) -> tuple[OneClass, ...]:
        """The answer of each run whose network gives nearly every image the same one."""
        return tuple(found for run in self.runs if (found := run.predictions.one_class))

    @property
    def mark(self) -> str:
        """What follows the cell's name wherever it stands: nothing, or that it is of one class."""
        return f" {ONE_CLASS_MARK}" if self.one_class else ""

    @property
    def from_random(self) -> bool:
        """Whether its trainings began with random weights."""
        return all(run.weights_kind == "random" for run in self.runs)

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
    other, as a mean; of all runs where there is no such pair. They count as `seeds` seeds of a
    single split (`Repeats.seeds`). `low`, `high`, `p_images` and `p_images_holm` are over test
    images, `p_seeds` and `p_seeds_holm` over seeds and images together, and splits where there are
    several. What cannot be computed is NaN. Holm's method corrects for all tests of the metric and
    question, `family` of them. `method` names the test over images. `components` is where the
    chance in the difference comes from; None without a pair.
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
    seeds: int
    family: int
    components: Components | None


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
class Vote:
    """The soft vote of a cell: the mean of the scores of networks that differ in their seed alone.

    Where a cell was trained on several splits it is the mean of their votes' figures; `networks`
    are the fewest and the most of a split. `values` are its figures by metric, with intervals over
    the images; `gains` its figures less the means of its networks', paired, over the images.
    """

    networks: tuple[int, int]
    values: dict[str, Value]
    gains: dict[str, Estimate]

    @property
    def times(self) -> str:
        """How many networks it is, as it stands behind a batch size: "×3"."""
        fewest, most = self.networks
        return f"×{most}" if fewest == most else f"×{fewest}–{most}"


class Rate(NamedTuple):
    """A sensitivity or specificity at a threshold, and its 95 % interval, NaN without one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Points:
    """What the cells do at thresholds on the score of `label`, chosen on validation.

    `rates` of each cell: the rule's name → sensitivity and specificity on test. `tests` are those
    of the sensitivity at one of the rules. `without` says why there is nothing.
    """

    label: str
    rates: dict[CellName, dict[str, tuple[Rate, Rate]]] = field(default_factory=dict)
    tests: tuple[Test, ...] = ()
    without: str = ""


class Answer(NamedTuple):
    """What a network answers about a picture, its score, and the map (h, w) uint8 of the answer."""

    label: str
    score: float
    map: np.ndarray


class SamePicture(NamedTuple):
    """A test picture, (224, 224, 3) uint8, its true class, and what each cell answers about it."""

    image_id: str
    label: str
    pixels: np.ndarray
    answers: dict[CellName, Answer]


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says, computed from predictions tables.

    `papers` is the same of the paper's own cells alone, where there are others besides: its tests,
    corrected for their own number, are what the paper's claims are judged by.
    """

    selection: Selection
    rows: tuple[Row, ...]
    images: int
    class_counts: dict[str, int]
    pairs: tuple[Test, ...]
    planned: dict[str, tuple[Test, ...]]
    standings: dict[str, Standing]
    points: Points | None = None
    pictures: tuple[SamePicture, ...] = ()
    votes: dict[CellName, Vote] = field(default_factory=dict)
    papers: "Comparison | None" = None

    @property
    def device(self) -> str:
        """The device that most of the latencies here were measured on; "" without any."""
        often = Counter(row.latency.device for row in self.rows if row.latency)
        return often.most_common(1)[0][0] if often else ""

    @property
    def seeds(self) -> int:
        """The fewest seeds of a cell."""
        return min(len({run.tags["seed"] for run in row.runs}) for row in self.rows)
