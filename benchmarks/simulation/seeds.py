"""Tests over seeds and images: how often they reject equal and unequal configurations."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, share_of
from benchmarks.simulation.population import (
    Design,
    at_rows,
    draw_labels,
    draw_networks,
    one_part,
    over_pool,
)
from benchmarks.simulation.settings import POWER_METRICS, Settings
from benchmarks.simulation.together import estimates_together
from skinml.compare.paired import (
    ALPHA,
    difference,
    swap_test,
)
from skinml.compare.repeats import LEAST_SEEDS, Repeats, Step, repeats_of
from skinml.evaluation.predictions import Predictions

SEEDS = (3, 6, 11)


# What is said of a verdict is also held for too few of them.
TOO_FEW = (1, 2)


# Standard deviations of a configuration's strength over its seeds, from none to one that moves the
# accuracy as much as drawing the test images anew does.
SPREADS = (0.0, 0.05, 0.15)


class Seeds(NamedTuple):
    """Two configurations, trained with as many seeds as SEEDS needs, on one test part.

    Their strengths are spread by `spread` over the seeds, of whose variance two runs with the same
    seed have the share `correlated` in common. `copied`: every other run is a copy of the one
    before it.
    """

    design: Design
    spread: float
    strengths: tuple[float, float] = (1.0, 1.0)
    correlated: float = 0.0
    copied: bool = False

    @property
    def told(self) -> str:
        also = ", every run there twice" if self.copied else ""
        also += f", {self.correlated:.0%} of it shared by a pair" if self.correlated else ""
        return f"spread {self.spread:g} over seeds{also}"

    def draw(self, rng: np.random.Generator) -> list[tuple[Predictions, Predictions]]:
        """The paired runs of one test part."""
        count = max(SEEDS)
        shared = math.sqrt(self.correlated) * rng.normal(size=count)
        own = math.sqrt(1 - self.correlated) * rng.normal(size=(2, count))
        each = np.array(self.strengths)[:, None] + self.spread * (shared + own)
        tables = one_part(self.design, tuple(each.ravel()), rng, [0] * count + [1] * count)
        pairs = list(zip(tables[:count], tables[count:], strict=True))
        return [pair for pair in pairs for _ in range(2)] if self.copied else pairs


def _steps(pairs: Sequence[tuple[Predictions, Predictions]]) -> dict[str, list[Step]]:
    """The differences of paired runs by metric, as a comparison makes repetitions of them."""
    steps: dict[str, list[Step]] = {metric: [] for metric in POWER_METRICS}
    found = estimates_together([table for pair in pairs for table in pair])
    for pair, first, second in zip(pairs, found[::2], found[1::2], strict=True):
        marks = frozenset(table.scores.tobytes() for table in pair)
        for metric, own in steps.items():
            own.append(Step(difference(first[metric], second[metric]), 1.0, "0", marks))
    return steps


def repeats_with(steps: Sequence[Step], seeds: int) -> Repeats:
    """The repetitions that the first so many seeds give."""
    return repeats_of([step._replace(share=1 / seeds) for step in steps[:seeds]])


def _over_images(metric: str, pairs: Sequence[tuple[Predictions, Predictions]],
                 repeats: Repeats) -> float:  # fmt: skip
    """The p-value of a verdict's other test, of the networks as trained."""
    if metric != "accuracy":
        return repeats.mean.p_value()
    right = [[table.predicted == table.labels for table in pair] for pair in pairs]
    return swap_test(np.mean([first * 1.0 - second for first, second in right], axis=0))


def simulate_seeds(rng: np.random.Generator, draws: int, scene: Any) -> Outcomes:
    """P-values over seeds and images; then the larger of these and those over images alone.

    The second is what a verdict goes by: NaN, which is never a winner, with too few seeds.
    """
    rows: dict[str, list[float]] = {}
    times = 2 if scene.copied else 1
    for _ in range(draws):
        pairs = scene.draw(rng)
        for metric, steps in _steps(pairs).items():
            for seeds in (*TOO_FEW, *SEEDS):
                repeats = repeats_with(steps, times * seeds)
                p = repeats.p_value()
                both = max(p, _over_images(metric, pairs[: times * seeds], repeats)) if (
                    p < ALPHA) else p  # fmt: skip
                rows.setdefault(f"{seeds} seeds, {metric}", []).append(p)
                rows.setdefault(f"{seeds} seeds, {metric}, a winner", []).append(both)
    return {name: np.array(values) for name, values in rows.items()}


def judge_seeds(outcomes: Outcomes, scene: Any, settings: Settings) -> list[Check]:
    """3 to 7 % of the tests reject; a verdict, which needs another test too, errs no oftener."""
    group = f"two equal configurations, {scene.told}, {scene.design.name}"
    slack = settings.slack(ALPHA)
    checks = []
    for name, p_values in outcomes.items():
        low: float | None = 0.03 - slack
        high = 0.07 + slack
        if int(name.split()[0]) < LEAST_SEEDS:
            low, high = None, 0.0
        elif name.endswith("a winner"):
            low = None
        theory = ALPHA if low else None
        checks.append(share_of("size", group, name, p_values < ALPHA, low, high, theory))
    return sorted(checks, key=lambda check: check.name.endswith("a winner"))


# Three splits of the pool at the paper's shares: 550 test images, 1,760 to train with.
SPLITS = 3


OVERLAP = 550 / 1760


def simulate_runs_of_splits(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    """Two seeds of each configuration in each of three splits of one pool.

    Splits move a configuration's strength as seeds do; those of one pool have the share in common
    that Nadeau and Bengio's correction says: test images to all of test and training.
    """
    design, spread = prepared
    rows: dict[str, list[float]] = {metric: [] for metric in POWER_METRICS}
    pool, common = sum(design.counts), OVERLAP / (1 + OVERLAP)
    for _ in range(draws):
        labels = draw_labels(design, rng, pool)
        of_pool = math.sqrt(common) * rng.normal(size=(1, 1, 2))
        of_split = math.sqrt(1 - common) * rng.normal(size=(SPLITS, 1, 2))
        strengths = 1 + spread * (of_pool + of_split + rng.normal(size=(SPLITS, 2, 2)))
        tables = draw_networks(design, labels, strengths.ravel(), rng, [0, 1] * (2 * SPLITS))
        steps: dict[str, list[Step]] = {metric: [] for metric in POWER_METRICS}
        for split in range(SPLITS):
            part = rng.choice(pool, design.images, replace=False)
            own = at_rows(tables[4 * split : 4 * split + 4], part)
            found = estimates_together(own)
            for metric, (first, second) in itertools.product(steps, ((0, 1), (2, 3))):
                step = difference(found[first][metric], found[second][metric])
                share, marks = 1 / (2 * SPLITS), frozenset([bytes([split, first])])
                steps[metric].append(Step(over_pool(pool, part, step), share, str(split), marks))
        for metric, p_values in rows.items():
            p_values.append(repeats_of(steps[metric], OVERLAP).p_value())
    return {metric: np.array(values) for metric, values in rows.items()}


def judge_runs_of_splits(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    """With two degrees of freedom for the splits it may only err less often."""
    group = f"two equal configurations, two seeds in three splits, spread {prepared[1]:g} over both"
    high = 0.07 + settings.slack(ALPHA)
    return [
        share_of("size", group, name, p_values < ALPHA, None, high, ALPHA)
        for name, p_values in outcomes.items()
    ]


# What a weaker configuration has of the strength of the other, to be found with seeds.
WEAKER_SEEDS = 0.85


def truncated(repeats: Repeats) -> float:
    """The test over seeds and images that was there before this one, for its power.

    Its standard error has the seeds' part beyond the images', none where that is negative; the
    p-value is the mean of the normal's and Student's, weighted by these two parts.
    """
    from scipy.special import ndtr, stdtr

    parts = repeats.components
    images, seeds = repeats.mean.standard_error**2, parts.seeds.variance
    statistic = -abs(repeats.mean.value) / math.sqrt(images + seeds)
    by_part = 2 * ndtr(statistic), 2 * stdtr(len(repeats.estimates) - 1, statistic)
    p = float(np.dot(by_part, (images, seeds)) / (images + seeds))
    return max(p, repeats.mean.p_value())


def simulate_power_of_seeds(rng: np.random.Generator, draws: int, scene: Any) -> Outcomes:
    """The test over seeds and images, and beside it the tests that were there before."""
    rows: dict[str, list[float]] = {}
    for _ in range(draws):
        for metric, steps in _steps(scene.draw(rng)).items():
            for seeds in SEEDS:
                repeats = repeats_with(steps, seeds)
                ways = {
                    "seeds and images": repeats.p_value(),
                    "the same with truncated parts": truncated(repeats),
                    "sign flips": sign_flip([step.value for step in repeats.estimates]),
                }
                for way, p in ways.items():
                    rows.setdefault(f"{seeds} seeds, {metric}, {way}", []).append(p)
    return {name: np.array(values) for name, values in rows.items()}


def sign_flip(differences: Sequence[float]) -> float:
    """The exact sign-flip test of paired runs: which of the 2^n signs are as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    return float(np.mean(np.abs(signs @ differences) >= abs(sum(differences)) - 1e-12))


def judge_power_of_seeds(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    """Reported, not judged: what a comparison finds, and what the tests before it found."""
    group = f"a configuration of {WEAKER_SEEDS} of the strength, {prepared.told}"
    return [
        share_of("seeds", group, name, p_values < ALPHA, None, None, None)
        for name, p_values in outcomes.items()
    ]
