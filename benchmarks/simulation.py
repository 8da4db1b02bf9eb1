"""Check the project's statistics by simulation with known truth: `python benchmarks/simulation.py`.

Test parts are drawn again and again from a population of images and networks whose true figures
are known, and everything that a comparison says of such a part is held against that truth: that
95 % intervals cover it, that tests at 5 % err as often as they say, that power grows as theory
predicts. Formulas are compared with independent implementations besides. A failed check makes the
exit code 1. The same seed and draws give the same figures, whatever the number of jobs.
"""

import csv
import itertools
import json
import math
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
import psutil

from skinml.comparison.analysis import metric_title
from skinml.comparison.paired import (
    ALPHA,
    POWER,
    TESTED,
    Estimate,
    auc_influence,
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
from skinml.config import Parser
from skinml.data.isic2017 import CLASSES, OFFICIAL_PARTS
from skinml.errors import UserError, run_command
from skinml.evaluation import statistics
from skinml.evaluation.drawing import GREY, PAGE, drawing, save
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import CONFIDENCE, bootstrap_weights, resampled
from skinml.progress import progress_bar
from skinml.provenance import git_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 2000
SEED = 20170
# Half of what a comparison uses, to halve the hour: they blur a quantile by 0.06 standard errors.
RESAMPLES = 1000
RESAMPLES_OF_RANKS = 500
# Draws of one task. The random numbers of a task follow from its number, so this is part of them.
CHUNK = 50
# Truth is measured on this many images a draw: its error is then one that moves a coverage or a
# power by less than the Monte Carlo error does.
TRUTH_IMAGES = 500
TRUTH_BLOCK = 100_000
# A network of a wanted gap is sought on fewer: what its gap then is, is measured on all.
SEARCH_IMAGES = 50_000

BOOTSTRAPPED = (
    "accuracy",
    "f1_weighted",
    "auc_weighted",
    "auc_macro",
    "melanoma_auc",
    "keratosis_auc",
    "challenge_auc",
)
POWER_METRICS = ("accuracy", "auc_weighted")
GRID = (0.0, 0.02, 0.04, 0.06, 0.08)
SEEDS = (3, 6, 11)
# Standard deviations of a configuration's strength over its seeds, from none to one that moves the
# accuracy as much as drawing the test images anew does.
SPREADS = (0.0, 0.05, 0.15)
NETWORKS = 9
GAPS = (0.0, 0.02, 0.05, 0.10)

# Distance of a class's own feature from zero in standard deviations, in CLASSES' order, so that
# the AUCs are those of the first real run (results/README.md): .78, .83 and .91.
SEPARATION = np.array([0.85, 1.0, 1.75])
# Share of the variance of a feature that all networks see alike (an image's difficulty), and the
# share that networks of one architecture have in common besides, where there are several.
SHARED = 0.70
OF_FAMILY = 0.15


class Design(NamedTuple):
    """How a test part is drawn: `images` of them, classes in the shares of `counts`.

    Each image is drawn by itself, as the bootstrap and the standard errors assume; `stratified`
    parts have exactly those shares, as those of the paper's protocol do.
    """

    name: str
    images: int
    counts: tuple[int, ...]
    stratified: bool = False

    @property
    def shares(self) -> np.ndarray:
        return np.array(self.counts) / sum(self.counts)


_POOLED = tuple(map(sum, zip(*(part.counts for part in OFFICIAL_PARTS), strict=True)))
POOLED = Design("550 images", 550, _POOLED)
OFFICIAL = Design("600 images", 600, OFFICIAL_PARTS[-1].counts)
STRATIFIED = Design("550 images, stratified", 550, _POOLED, stratified=True)


@dataclass(frozen=True)
class Settings:
    """What a report depends on."""

    draws: int = DRAWS
    seed: int = SEED

    @property
    def truth_images(self) -> int:
        return TRUTH_IMAGES * self.draws

    @property
    def gap_images(self) -> int:
        """More images for the gap of two networks: all of its error moves a theoretical power.

        A power of 65 % by 0.9 points where the gap is measured on 1,000,000 images, beside a Monte
        Carlo error of 1.1 points; on four times as many by half of that.
        """
        return 4 * self.truth_images

    def slack(self, share: float, errors: float = 4.0) -> float:
        """How much wider a band is for fewer draws than `DRAWS`; 0 for as many or more."""
        spread = math.sqrt(share * (1 - share))
        return errors * spread * max(0.0, self.draws**-0.5 - DRAWS**-0.5)


@dataclass(frozen=True)
class Check:
    """One figure, where it is expected and where it was found.

    `error` is the Monte Carlo standard error, NaN where there is none. A figure that is only
    reported, not judged, has no `low` and `high`.
    """

    section: str
    group: str
    name: str
    observed: float
    low: float | None = None
    high: float | None = None
    theory: float | None = None
    error: float = math.nan
    kind: str = "share"
    # Of a check of power: what there is to find, and its standard error.
    difference: float | None = None
    standard_error: float | None = None

    @property
    def judged(self) -> bool:
        return self.low is not None or self.high is not None

    @property
    def passed(self) -> bool:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        # A NaN is in no range.
        return not self.judged or bool(low <= self.observed <= high)

    def row(self) -> dict[str, Any]:
        """All that is known of it, None where there is no number."""
        found = {**asdict(self), "passed": self.passed}
        return {name: None if value != value else value for name, value in found.items()}


Outcomes = dict[str, np.ndarray]


class Study(NamedTuple):
    """One simulation: what it needs to know beforehand, one batch of draws, and its judgement."""

    section: str
    prepare: Callable[[Settings], Any]
    simulate: Callable[[np.random.Generator, int, Any], Outcomes]
    judge: Callable[[Outcomes, Any, Settings], list[Check]]


# The population ------------------------------------------------------------------------------


def draw_labels(design: Design, rng: np.random.Generator, images: int | None = None) -> np.ndarray:
    """The classes of the images of one test part: (N,) int64."""
    count = images or design.images
    if not design.stratified:
        return rng.choice(len(CLASSES), size=count, p=design.shares)
    # The largest class takes what rounding leaves.
    per_class = np.round(design.shares * count).astype(int)
    per_class[design.shares.argmax()] += count - per_class.sum()
    return np.repeat(np.arange(len(CLASSES)), per_class)


def draw_networks(
    design: Design,
    labels: np.ndarray,
    strengths: Sequence[float],
    rng: np.random.Generator,
    families: Sequence[int] | None = None,
) -> list[Predictions]:
    """Predictions tables of networks that see the same images, each with noise of its own.

    Each class has one normal feature of variance 1, whose mean is its `SEPARATION` times the
    network's strength in images of that class and 0 elsewhere; the scores are the posterior
    probabilities for a strength of 1. `SHARED` of a feature's variance is common to all networks,
    `OF_FAMILY` to those with the same number in `families`.
    """
    shape = (len(labels), len(CLASSES))
    own = 1 - SHARED - (OF_FAMILY if families else 0)
    difficulty = math.sqrt(SHARED) * rng.normal(size=shape)
    of_family = {
        family: math.sqrt(OF_FAMILY) * rng.normal(size=shape)
        for family in sorted(set(families or ()))
    }
    ids, signal = _names(len(labels)), np.diag(SEPARATION)[labels]
    tables = []
    for index, strength in enumerate(strengths):
        feature = strength * signal + difficulty + math.sqrt(own) * rng.normal(size=shape)
        if families:
            feature += of_family[families[index]]
        logits = SEPARATION * feature - SEPARATION**2 / 2 + np.log(design.shares)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        tables.append(Predictions(ids, labels, scores / scores.sum(axis=1, keepdims=True)))
    return tables


@cache
def _names(count: int) -> np.ndarray:
    return np.arange(count).astype(str)


def _part(
    design: Design,
    strengths: Sequence[float],
    rng: np.random.Generator,
    families: Sequence[int] | None = None,
) -> list[Predictions]:
    return draw_networks(design, draw_labels(design, rng), strengths, rng, families)


def _population(
    design: Design, strengths: Sequence[float], images: int, seed: int
) -> Iterator[list[Predictions]]:
    """Very many images in blocks. The same images and noise for all strengths of one length."""
    rng = np.random.default_rng([seed, zlib.crc32(b"truth")])
    exact = design._replace(stratified=True)
    for _ in range(math.ceil(images / TRUTH_BLOCK)):
        labels = draw_labels(exact, rng, min(images, TRUTH_BLOCK))
        yield draw_networks(exact, labels, strengths, rng)


def true_values(
    design: Design, strengths: Sequence[float], names: tuple[str, ...], images: int, seed: int
) -> dict[str, np.ndarray]:
    """The metrics of networks over the whole population: name → (networks,)."""
    blocks = [
        [[evaluate(table, names=names)[name][0] for table in tables] for name in names]
        for tables in _population(design, strengths, images, seed)
    ]
    return dict(zip(names, np.mean(blocks, axis=0), strict=True))


class Gap(NamedTuple):
    """A weaker network: its strength, how far it truly is behind, and that difference's error.

    The error is the true standard error in a test part of the design.
    """

    strength: float
    difference: float
    error: float


def gap(design: Design, strength: float, metric: str, seed: int, images: int) -> Gap:
    """The true difference of a network of strength 1 and a weaker one."""
    found = []
    for first, second in _population(design, (1.0, strength), images, seed):
        whole = difference(estimate(first, metric), estimate(second, metric))
        of_one_part = whole.standard_error**2 * len(first.labels) / design.images
        found.append((whole.value, of_one_part))
    value, variance = np.mean(found, axis=0)
    return Gap(strength, float(value), math.sqrt(variance))


def gap_of(design: Design, metric: str, wanted: Callable[[Gap], float], settings: Settings) -> Gap:
    """The network that is behind by `wanted`, a function of the gap itself."""
    from scipy.optimize import brentq

    def miss(strength: float) -> float:
        found = gap(design, strength, metric, settings.seed, SEARCH_IMAGES)
        return found.difference - wanted(found)

    strength = float(brentq(miss, 0.05, 1.0, xtol=1e-3))
    return gap(design, strength, metric, settings.seed, settings.gap_images)


# Coverage ------------------------------------------------------------------------------------

WEAKER = 0.85


def _constant(value: float, _: Any) -> float:
    return value


def _intervals(found: Estimate) -> tuple[float, float, float, float]:
    return found.value, found.standard_error, *found.interval()


def _simulate_normal(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    rows: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(draws):
        first, second = _part(design, (1.0, WEAKER), rng)
        for metric in TESTED:
            one, other = estimate(first, metric), estimate(second, metric)
            rows.setdefault(f"{metric}, one network", []).append(_intervals(one))
            rows.setdefault(f"{metric}, difference", []).append(_intervals(difference(one, other)))
    return {name: np.array(values) for name, values in rows.items()}


def _prepare_normal(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        truth = true_values(
            design, (1.0, WEAKER), tuple(TESTED), settings.truth_images, settings.seed
        )
        of = {f"{name}, one network": values[0] for name, values in truth.items()}
        of |= {f"{name}, difference": values[0] - values[1] for name, values in truth.items()}
        return design, of

    return prepare


def _judge_normal(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, truth = prepared
    group = f"normal and DeLong intervals, {design.name}"
    # A comparison gives one network bootstrap intervals and takes these for differences alone.
    checks = [
        _coverage(group, name, found[:, 2:], truth[name], design, settings)
        for name, found in outcomes.items()
        if name.endswith(", difference")
    ]
    # The spread of n values is known to 1 / sqrt(2 n) of itself.
    error = 1 / math.sqrt(2 * settings.draws)
    reach = 0.05 + 4 * max(0.0, error - 1 / math.sqrt(2 * DRAWS))
    upper = None if design.stratified else 1 + reach
    return checks + [
        Check("coverage", f"mean standard error over true spread, {design.name}", name,
              float(found[:, 1].mean() / found[:, 0].std(ddof=1)), 1 - reach, upper, 1.0, error,
              "ratio")
        for name, found in outcomes.items()
    ]  # fmt: skip


def _coverage(
    group: str,
    name: str,
    intervals: np.ndarray,
    truth: float,
    design: Design,
    settings: Settings,
) -> Check:
    covered = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    slack = settings.slack(CONFIDENCE)
    # Fixed shares of the classes take away a part of the chance that the intervals allow for.
    high = None if design.stratified else 0.97 + slack
    return _share("coverage", group, name, covered, 0.93 - slack, high, CONFIDENCE)


def _share(
    section: str,
    group: str,
    name: str,
    hits: np.ndarray,
    low: float | None = None,
    high: float | None = None,
    theory: float | None = None,
) -> Check:
    share = float(hits.mean())
    # Of the share that is expected, where one is: 0 hits have an error too.
    spread = theory if theory is not None else share
    error = math.sqrt(spread * (1 - spread) / len(hits))
    low = None if low is None else max(0.0, low)
    high = None if high is None else min(1.0, high)
    return Check(section, group, name, share, low, high, theory, error)


def _prepare_bootstrap(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        truth = true_values(design, (1.0,), BOOTSTRAPPED, settings.truth_images, settings.seed)
        return design, {name: values[0] for name, values in truth.items()}

    return prepare


def _simulate_bootstrap(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in BOOTSTRAPPED}
    # Parts of one size have the same resamples: drawn once.
    with mock.patch.object(statistics, "bootstrap_weights", _weights):
        for _ in range(draws):
            [table] = _part(design, (1.0,), rng)
            found = statistics.bootstrap_intervals(table, BOOTSTRAPPED, RESAMPLES)
            for name in BOOTSTRAPPED:
                rows[name].append(found[name])
    return {name: np.array(values) for name, values in rows.items()}


@cache
def _weights(count: int, resamples: int, seed: int = 0) -> np.ndarray:
    return bootstrap_weights(count, resamples, seed)


def _judge_bootstrap(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, truth = prepared
    group = f"percentile bootstrap, {design.name}"
    return [
        _coverage(group, name, found, truth[name], design, settings)
        for name, found in outcomes.items()
    ]


# Size ----------------------------------------------------------------------------------------


def _given(value: Any) -> Callable[[Settings], Any]:
    return lambda _: value


def _simulate_size(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    p_values = [
        [
            difference(estimate(first, metric), estimate(second, metric)).p_value()
            for metric in TESTED
        ]
        for first, second in (_part(design, (1.0, 1.0), rng) for _ in range(draws))
    ]
    return dict(zip(TESTED, np.array(p_values).T, strict=True))


def _rejected(group: str) -> Callable[[Outcomes, Any, Settings], list[Check]]:
    """Judge p-values whose null holds: 3 to 7 % of them lie below 5 %."""

    def judge(outcomes: Outcomes, _: Any, settings: Settings) -> list[Check]:
        slack = settings.slack(ALPHA)
        low, high = 0.03 - slack, 0.07 + slack
        return [
            _share("size", group, name, p_values < ALPHA, low, high, ALPHA)
            for name, p_values in outcomes.items()
        ]

    return judge


# Three networks at two batch sizes: the networks differ, the batch sizes do not.
_CONTRAST = ((1.0, 1.0, 0.9, 0.9, 0.8, 0.8), (0, 0, 1, 1, 2, 2))


def _simulate_contrast(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    rows: dict[str, list[float]] = {metric: [] for metric in POWER_METRICS}
    for _ in range(draws):
        tables = _part(design, _CONTRAST[0], rng, _CONTRAST[1])
        for metric, p_values in rows.items():
            found = [estimate(table, metric) for table in tables]
            pairs = zip(found[::2], found[1::2], strict=True)
            p_values.append(mean([difference(a, b) for a, b in pairs]).p_value())
    return {metric: np.array(values) for metric, values in rows.items()}


def _simulate_splits(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    """Two networks, each the mean over three overlapping test parts of one pool of images."""
    rows: dict[str, list[float]] = {metric: [] for metric in POWER_METRICS}
    pool = sum(design.counts)
    for _ in range(draws):
        labels = draw_labels(design, rng, pool)
        parts = [rng.choice(pool, design.images, replace=False) for _ in range(3)]
        of_split = [_at(draw_networks(design, labels, (1.0, 1.0), rng), part) for part in parts]
        for metric, p_values in rows.items():
            found = [
                mean([_over(pool, part, estimate(tables[network], metric))
                      for part, tables in zip(parts, of_split, strict=True)])
                for network in range(2)
            ]  # fmt: skip
            p_values.append(difference(*found).p_value())
    return {metric: np.array(values) for metric, values in rows.items()}


def _at(tables: list[Predictions], rows: np.ndarray) -> list[Predictions]:
    return [Predictions(t.image_ids[rows], t.labels[rows], t.scores[rows]) for t in tables]


def _over(pool: int, rows: np.ndarray, found: Estimate) -> Estimate:
    """An estimate over all images: those that it was not made from contribute nothing."""
    influence = np.zeros(pool)
    influence[rows] = found.influence
    return Estimate(found.value, influence)


def _runs(
    design: Design, spread: float, strengths: tuple[float, float], rng: np.random.Generator
) -> list[Predictions]:
    """Runs of two configurations, as many of each as SEEDS needs: the first's, then the other's."""
    seeds = max(SEEDS)
    each = np.repeat(strengths, seeds) + spread * rng.normal(size=2 * seeds)
    return _part(design, tuple(each), rng, [0] * seeds + [1] * seeds)


def _steps(tables: list[Predictions], metric: str) -> list[Estimate]:
    """The differences of runs with the same seed."""
    found = [estimate(table, metric) for table in tables]
    half = len(found) // 2
    return [difference(a, b) for a, b in zip(found[:half], found[half:], strict=True)]


def _over_seeds(steps: Sequence[Estimate]) -> float:
    return seeds_and_images(steps, [1 / len(steps)] * len(steps))


def _simulate_seeds(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, spread = prepared
    rows: dict[str, list[float]] = {}
    for _ in range(draws):
        tables = _runs(design, spread, (1.0, 1.0), rng)
        for metric in POWER_METRICS:
            steps = _steps(tables, metric)
            for seeds in SEEDS:
                p = _over_seeds(steps[:seeds])
                rows.setdefault(f"{seeds} seeds, {metric}", []).append(p)
    return {name: np.array(values) for name, values in rows.items()}


# What a weaker configuration has of the strength of the other, to be found with seeds.
WEAKER_SEEDS = 0.85


def _simulate_power_of_seeds(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    """The test over seeds and images, and beside it the sign-flip test over seeds alone."""
    design, spread = prepared
    rows: dict[str, list[float]] = {}
    for _ in range(draws):
        tables = _runs(design, spread, (1.0, WEAKER_SEEDS), rng)
        for metric in POWER_METRICS:
            steps = _steps(tables, metric)
            for seeds in SEEDS:
                ways = {
                    "seeds and images": _over_seeds(steps[:seeds]),
                    "sign flips": sign_flip([step.value for step in steps[:seeds]]),
                }
                for way, p in ways.items():
                    rows.setdefault(f"{seeds} seeds, {metric}, {way}", []).append(p)
    return {name: np.array(values) for name, values in rows.items()}


def sign_flip(differences: Sequence[float]) -> float:
    """The exact sign-flip test of paired runs: which of the 2^n signs are as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    return float(np.mean(np.abs(signs @ differences) >= abs(sum(differences)) - 1e-12))


def _judge_power_of_seeds(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    """Reported, not judged: what a comparison finds, and what the test before it found."""
    group = f"a configuration of {WEAKER_SEEDS} of the strength, spread {prepared[1]:g} over seeds"
    return [
        _share("seeds", group, name, p_values < ALPHA, None, None, None)
        for name, p_values in outcomes.items()
    ]


def _prepare_mcnemar(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        shares = [
            np.mean((a.predicted == a.labels) != (b.predicted == b.labels))
            for a, b in _population(design, (1.0, 1.0), settings.truth_images, settings.seed)
        ]
        return design, float(np.mean(shares))

    return prepare


def mcnemar_size(images: int, discordant: float) -> float:
    """How often an exact McNemar test at 5 % rejects equal networks that differ in some images.

    The number of images in which just one network is right is binomial, and given that number so
    is the number in which it is the first: the p-values of all outcomes below 5 %, added up.
    """
    from scipy.stats import binom

    size = 0.0
    for count in range(images + 1):
        firsts = np.arange(count + 1)
        p = 2 * binom.cdf(np.minimum(firsts, count - firsts), count, 0.5)
        found = binom.pmf(firsts, count, 0.5)[p < ALPHA].sum()
        size += float(binom.pmf(count, images, discordant) * found)
    return size


def _simulate_mcnemar(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    parts = (_part(design, (1.0, 1.0), rng) for _ in range(draws))
    return {"p": np.array([mcnemar(first, second) for first, second in parts])}


def mcnemar(first: Predictions, second: Predictions) -> float:
    """The product's test of two single runs on the same images."""
    right = [(table.predicted == table.labels).astype(float) for table in (first, second)]
    return swap_test(right[0] - right[1])


def _judge_mcnemar(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, discordant = prepared
    theory = mcnemar_size(design.images, discordant)
    reach = 4 * math.sqrt(theory * (1 - theory) / settings.draws)
    name = f"accuracy, {design.name}"
    group = "McNemar's test, exact"
    return [
        _share("size", group, name, outcomes["p"] < ALPHA, theory - reach, theory + reach, theory),
        Check("size", group, f"images in which just one is right, {design.name}", discordant),
    ]


def _prepare_holm(settings: Settings) -> Any:
    return gap_of(POOLED, "accuracy", lambda _: 0.06, settings).strength


def _simulate_holm(rng: np.random.Generator, draws: int, weaker: Any) -> Outcomes:
    """The smallest adjusted p-value of a true null, for each way of testing all pairs.

    Nine equal networks; then a tenth, worse one in the place of the last of them.
    """
    scenes = {
        "nine equal cells": range(NETWORKS),
        "eight equal, one worse": (*range(NETWORKS - 1), NETWORKS),
    }
    rows: dict[str, list[float]] = {}
    for _ in range(draws):
        tables = _part(POOLED, (*(1.0,) * NETWORKS, weaker), rng)
        for way, p_values in _all_pairs(tables).items():
            for scene, members in scenes.items():
                pairs = list(itertools.combinations(members, 2))
                adjusted = holm([p_values[pair] for pair in pairs])
                nulls = (p for p, (_, b) in zip(adjusted, pairs, strict=True) if b < NETWORKS)
                rows.setdefault(f"{scene}, {way}", []).append(min(nulls))
    return {name: np.array(values) for name, values in rows.items()}


def _all_pairs(tables: Sequence[Predictions]) -> dict[str, dict[tuple[int, int], float]]:
    """The p-value of each pair, for each way of testing it."""
    pairs = list(itertools.combinations(range(len(tables)), 2))
    ways = {"accuracy, exact": {(a, b): mcnemar(tables[a], tables[b]) for a, b in pairs}}
    for metric in POWER_METRICS:
        found = [estimate(table, metric) for table in tables]
        ways[metric] = {(a, b): difference(found[a], found[b]).p_value() for a, b in pairs}
    return ways


def _judge_holm(outcomes: Outcomes, _: Any, settings: Settings) -> list[Check]:
    high = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / settings.draws)
    return [
        _share("size", "Holm, any false rejection among 36 pairs", name, p_values < ALPHA, None,
               high, ALPHA)
        for name, p_values in outcomes.items()
    ]  # fmt: skip


# Power ---------------------------------------------------------------------------------------

LEAST = "smallest detectable difference"


def power_in_theory(true_difference: float, error: float) -> float:
    """The share of two-sided 5 % tests that reject, for a normal estimate of known error."""
    from scipy.stats import norm

    shift, edge = true_difference / error, norm.ppf(1 - ALPHA / 2)
    return float(norm.sf(edge - shift) + norm.cdf(-edge - shift))


def _targets(metric: str) -> list[float]:
    """The true differences to find. In AUC about half of that in accuracy is found as often."""
    return [aim if metric == "accuracy" else aim / 2 for aim in GRID]


def _prepare_power(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        points: list[tuple[str, str, Gap]] = []
        for metric in POWER_METRICS:
            same = gap(design, 1.0, metric, settings.seed, settings.gap_images)
            points.append((metric, "difference 0.00", same._replace(difference=0.0)))
            for aim in _targets(metric)[1:]:
                found = gap_of(design, metric, partial(_constant, aim), settings)
                points.append((metric, f"difference {aim:.2f}", found))
            least = gap_of(design, metric, lambda g: smallest_detectable(g.error), settings)
            points.append((metric, LEAST, least))
        return design, points

    return prepare


def _simulate_power(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, points = prepared
    rows: dict[str, list[float]] = {f"{metric}, {name}": [] for metric, name, _ in points}
    strengths = (1.0, *(point.strength for *_, point in points))
    for _ in range(draws):
        first, *others = _part(design, strengths, rng)
        best = {metric: estimate(first, metric) for metric in POWER_METRICS}
        for (metric, name, _), table in zip(points, others, strict=True):
            p = difference(best[metric], estimate(table, metric)).p_value()
            rows[f"{metric}, {name}"].append(p)
    return {name: np.array(values) for name, values in rows.items()}


def _judge_power(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, points = prepared
    checks = []
    for metric, name, point in points:
        least = name == LEAST
        theory = POWER if least else power_in_theory(point.difference, point.error)
        reach = 0.04 + settings.slack(theory)
        check = _share(
            "power",
            f"{metric}, {design.name}",
            f"{name}, {point.difference:.4f}" if least else name,
            outcomes[f"{metric}, {name}"] < ALPHA,
            theory - reach,
            theory + reach,
            theory,
        )
        checks.append(replace(check, difference=point.difference, standard_error=point.error))
    return checks


# Standing ------------------------------------------------------------------------------------


def _prepare_best(settings: Settings) -> Any:
    # All but the first are behind it by the gap.
    return [
        (
            aim,
            gap_of(POOLED, "accuracy", partial(_constant, aim), settings).strength if aim else 1.0,
        )
        for aim in GAPS
    ]


def _simulate_best(rng: np.random.Generator, draws: int, scenes: Any) -> Outcomes:
    """For each gap: P(best) of all nine, then the low and high ranks of the first."""
    weights = _weights(POOLED.images, RESAMPLES_OF_RANKS)
    rows: dict[str, list[np.ndarray]] = {}
    for _ in range(draws):
        for aim, strength in scenes:
            tables = _part(POOLED, (1.0, *(strength,) * (NETWORKS - 1)), rng)
            values = np.stack(
                [resampled(table, weights, ("accuracy",))["accuracy"] for table in tables]
            )
            tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            low_high = np.quantile(ranks(values)[0], tails, method="nearest")
            rows.setdefault(str(aim), []).append(np.r_[probability_of_best(values), low_high])
    return {name: np.array(values) for name, values in rows.items()}


def _judge_best(outcomes: Outcomes, scenes: Any, settings: Settings) -> list[Check]:
    section, slack = "best", settings.slack(CONFIDENCE)
    equal = outcomes["0.0"][:, :NETWORKS]
    means, errors = equal.mean(axis=0), equal.std(axis=0, ddof=1) / math.sqrt(settings.draws)
    worst = int(np.abs((means - 1 / NETWORKS) / errors).argmax())
    reach = 4 * errors[worst]
    group = f"probability of being the best of {NETWORKS}"
    checks = [
        Check(section, group, "equal networks: the mean farthest from 1/9", float(means[worst]),
              1 / NETWORKS - reach, 1 / NETWORKS + reach, 1 / NETWORKS, float(errors[worst])),
        Check(section, group, "equal networks: the highest of the nine, mean",
              float(equal.max(axis=1).mean())),
        Check(section, group, "equal networks: the highest of the nine, 95th percentile",
              float(np.quantile(equal.max(axis=1), 0.95))),
    ]  # fmt: skip
    least = 1 / NETWORKS
    for aim, _ in scenes[1:]:
        values = outcomes[str(aim)][:, 0]
        certain = aim == max(GAPS)
        checks.append(
            Check(section, group, f"one better by {aim:.2f}", float(values.mean()),
                  0.99 if certain else least, None, None,
                  float(values.std(ddof=1) / math.sqrt(settings.draws)))
        )  # fmt: skip
        least = float(values.mean())
    middle = (NETWORKS + 1) / 2
    for aim, _ in scenes:
        low, high = outcomes[str(aim)][:, NETWORKS:].T
        true_rank = 1.0 if aim else middle
        checks.append(
            _share(section, "95 % interval of the first network's rank",
                   f"better by {aim:.2f}: contains the true rank {true_rank:g}",
                   (low <= true_rank) & (true_rank <= high), 0.93 - slack, None, CONFIDENCE)
        )  # fmt: skip
    return checks


# References ----------------------------------------------------------------------------------

# Sums of a few hundred terms in another order agree to this.
EXACT = 1e-12


def _random_tables(rng: np.random.Generator, count: int = 40) -> Iterator[Predictions]:
    """Small tables of all kinds: unequal classes, every second one full of ties."""
    for index in range(count):
        labels = rng.permutation(np.repeat(np.arange(3), rng.integers(2, 40, size=3)))
        scores = rng.dirichlet(np.ones(3), size=len(labels)) + 0.4 * np.eye(3)[labels]
        scores = scores.round(1 if index % 2 else 9)
        scores /= scores.sum(axis=1, keepdims=True)
        yield Predictions(_names(len(labels)), labels, scores)


def delong_by_loops(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong's covariance of the AUCs of several score columns, pair by pair as in the paper.

    `labels` (N,) bool, `scores` (N, M). DeLong et al. 1988, equations 3 to 6: psi is 1, 1/2 or 0
    for each pair of a positive and a negative. Returns (M, M).
    """
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    psi = np.zeros((scores.shape[1], len(positives), len(negatives)))
    for m, (i, x), (j, y) in itertools.product(
        range(scores.shape[1]), enumerate(positives), enumerate(negatives)
    ):
        a, b = scores[x, m], scores[y, m]
        psi[m, i, j] = 1.0 if a > b else 0.5 if a == b else 0.0
    theta = psi.mean(axis=(1, 2))
    of_positives, of_negatives = psi.mean(axis=2), psi.mean(axis=1)
    covariance = np.zeros((len(theta), len(theta)))
    for values in (of_positives, of_negatives):
        off = values - theta[:, None]
        covariance += off @ off.T / (values.shape[1] - 1) / values.shape[1]
    return covariance


def _aucs(rng: np.random.Generator) -> float:
    from sklearn.metrics import roc_auc_score

    worst = 0.0
    for table in _random_tables(rng):
        truth = np.eye(3)[table.labels]
        found = evaluate(table, names=("auc_macro", "auc_weighted", "melanoma_auc"))
        for name, value in found.items():
            if name == "melanoma_auc":
                expected = roc_auc_score(truth[:, 0], table.scores[:, 0])
            else:
                expected = roc_auc_score(truth, table.scores, average=name.split("_")[1])
            worst = max(worst, abs(value[0] - expected))
    return worst


def _resampled_aucs(rng: np.random.Generator) -> float:
    from sklearn.metrics import roc_auc_score

    worst = 0.0
    for table in _random_tables(rng, 6):
        weights = bootstrap_weights(len(table.labels), 20)
        found = resampled(table, weights, ("keratosis_auc",))["keratosis_auc"]
        for row, value in zip(weights, found, strict=True):
            truth = table.labels == 2
            if 0 < row @ truth < row.sum():
                expected = roc_auc_score(truth, table.scores[:, 2], sample_weight=row)
                worst = max(worst, abs(value - expected))
    return worst


def _delong(rng: np.random.Generator) -> float:
    worst = 0.0
    for table in _random_tables(rng):
        positive = table.labels == 1
        # Two columns as if they were the scores of two networks.
        columns = table.scores[:, [1, 0]]
        own = np.stack([auc_influence(positive, column) for column in columns.T])
        worst = max(worst, float(np.abs(own @ own.T - delong_by_loops(positive, columns)).max()))
    return worst


def _paired_t(rng: np.random.Generator) -> float:
    from scipy.stats import ttest_rel

    worst = 0.0
    tables = list(_random_tables(rng))
    for table in tables:
        other = Predictions(table.image_ids, table.labels, table.scores[:, [0, 2, 1]])
        right = [(t.predicted == t.labels).astype(float) for t in (table, other)]
        whole = difference(estimate(table, "accuracy"), estimate(other, "accuracy"))
        expected = ttest_rel(*right).statistic
        worst = max(worst, abs(whole.value / whole.standard_error - expected))
    return worst


def _jackknife(rng: np.random.Generator) -> float:
    """The standard errors of all metrics against leaving one image out, relative."""
    worst = 0.0
    [table] = _part(POOLED, (1.0,), rng)
    count = len(table.labels)
    without = np.ones((count, count)) - np.eye(count)
    for metric, values in evaluate(table, without, tuple(TESTED)).items():
        expected = math.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
        worst = max(worst, abs(estimate(table, metric).standard_error / expected - 1))
    return worst


def _scipy_bootstrap(rng: np.random.Generator) -> float:
    """Interval ends against SciPy's percentile bootstrap, in standard errors."""
    from scipy.stats import bootstrap

    [table] = _part(POOLED, (1.0,), rng)
    of_image = {
        "accuracy": (table.predicted == table.labels).astype(float),
        "log_loss": -np.log(table.scores[np.arange(len(table.labels)), table.labels]),
    }
    worst = 0.0
    for name, found in statistics.bootstrap_intervals(table, tuple(of_image), 9999).items():
        expected = bootstrap(
            (of_image[name],), np.mean, n_resamples=9999, method="percentile", batch=500, rng=rng
        )
        ends = np.subtract(found, expected.confidence_interval)
        worst = max(worst, float(np.abs(ends).max() / expected.standard_error))
    return worst


def _mcnemar_reference(rng: np.random.Generator) -> float:
    from scipy.stats import binomtest

    worst = 0.0
    for table in _random_tables(rng):
        other = Predictions(table.image_ids, table.labels, rng.permutation(table.scores))
        first, second = (t.predicted == t.labels for t in (table, other))
        discordant = int((first != second).sum())
        expected = binomtest(int((first & ~second).sum()), discordant).pvalue if discordant else 1.0
        worst = max(worst, abs(mcnemar(table, other) - expected))
    return worst


def holm_by_steps(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: the k-th smallest of m p-values times m - k + 1, never below the one before."""
    adjusted, before = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        before = max(before, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = before
    return adjusted


def _holm_reference(rng: np.random.Generator) -> float:
    worst = 0.0
    for count in range(1, 40):
        p_values = list((rng.random(count) ** 3).round(2))
        found = holm(p_values)
        off = np.subtract(found, holm_by_steps(p_values))
        worst = max(worst, float(np.abs(off).max()))
    return worst


def _detectable_reference(_: np.random.Generator) -> float:
    """Against statsmodels' power of a z-test, which counts the wrong tail too; relative."""
    from statsmodels.stats.power import NormalIndPower

    expected = NormalIndPower().solve_power(nobs1=1, alpha=ALPHA, power=POWER, ratio=0)
    return abs(smallest_detectable(0.0123) / (0.0123 * float(expected)) - 1)


REFERENCES: tuple[tuple[str, Callable[[np.random.Generator], float], float], ...] = (
    ("AUCs, one class and both means: scikit-learn", _aucs, EXACT),
    ("AUC of a resample: scikit-learn with weights", _resampled_aucs, EXACT),
    ("DeLong's covariance: the paper's double loop", _delong, EXACT),
    ("paired z of accuracy: the statistic of scipy.stats.ttest_rel", _paired_t, 1e-9),
    ("standard errors: the jackknife over 550 images, relative", _jackknife, 0.02),
    # Each of the four quantiles has a Monte Carlo error of 0.027 standard errors.
    ("bootstrap: scipy.stats.bootstrap, in standard errors", _scipy_bootstrap, 0.15),
    ("McNemar, exact: scipy.stats.binomtest", _mcnemar_reference, EXACT),
    ("Holm: his steps one by one", _holm_reference, EXACT),
    ("smallest detectable: statsmodels' power of a z-test, relative", _detectable_reference, 1e-4),
)


def references(settings: Settings) -> list[Check]:
    """The largest deviation of each formula from an independent implementation."""
    return [
        Check("references", "largest deviation", name,
              compare(np.random.default_rng([settings.seed, index])), None, tolerance,
              kind="deviation")
        for index, (name, compare, tolerance) in enumerate(REFERENCES)
    ]  # fmt: skip


# Running -------------------------------------------------------------------------------------

STUDIES: dict[str, Study] = {
    **{
        f"intervals, {design.name}": Study(
            "coverage", _prepare_normal(design), _simulate_normal, _judge_normal
        )
        for design in (POOLED, OFFICIAL, STRATIFIED)
    },
    **{
        f"bootstrap, {design.name}": Study(
            "coverage", _prepare_bootstrap(design), _simulate_bootstrap, _judge_bootstrap
        )
        for design in (POOLED, OFFICIAL)
    },
    **{
        f"paired tests, {design.name}": Study(
            "size", _given(design), _simulate_size, _rejected(f"two equal networks, {design.name}")
        )
        for design in (POOLED, OFFICIAL)
    },
    "batch sizes": Study(
        "size", _given(POOLED), _simulate_contrast,
        _rejected("two equal batch sizes over three networks, 550 images"),
    ),
    "splits": Study(
        "size", _given(POOLED), _simulate_splits,
        _rejected("two equal networks over three splits of 2,750 images"),
    ),
    **{
        f"seeds, spread {spread:g}": Study(
            "size", _given((POOLED, spread)), _simulate_seeds,
            _rejected(f"two equal configurations, spread {spread:g} over seeds, 550 images"),
        )
        for spread in SPREADS
    },
    **{
        f"McNemar, {design.name}": Study(
            "size", _prepare_mcnemar(design), _simulate_mcnemar, _judge_mcnemar
        )
        for design in (POOLED, OFFICIAL)
    },
    "Holm": Study("size", _prepare_holm, _simulate_holm, _judge_holm),
    **{
        f"power, {design.name}": Study(
            "power", _prepare_power(design), _simulate_power, _judge_power
        )
        for design in (POOLED, OFFICIAL)
    },
    **{
        f"power of seeds, spread {spread:g}": Study(
            "seeds", _given((POOLED, spread)), _simulate_power_of_seeds, _judge_power_of_seeds
        )
        for spread in SPREADS[1:]
    },
    "best": Study("best", _prepare_best, _simulate_best, _judge_best),
}  # fmt: skip

# The sections with a figure of dots, and its axis.
FIGURES = {
    "coverage": "intervals that hold the true value (%)",
    "size": "tests that reject although nothing differs (%)",
}

SECTIONS = {
    "coverage": (
        "Coverage of 95 % intervals",
        "The share of intervals that hold the true value: 93 to 97 % are required. Then the mean "
        "of the standard errors over the spread that the estimates truly have: 0.95 to 1.05. The "
        "shares of the classes vary by chance, as the intervals assume; a stratified test part, "
        "like those of the paper's protocol, has less chance in it, and its intervals for one "
        "network may only cover too often. Normal intervals are held to this where a comparison "
        "shows them, for differences; single networks are shown with bootstrap intervals (normal "
        "ones covered only 92.5 % for the keratosis AUC, with 77 keratoses).",
    ),
    "size": (
        "Size of the tests",
        "The share of tests at 5 % that reject although nothing differs: 3 to 7 % are required of "
        "the tests by normal approximation. An exact test of whole numbers cannot reach every "
        "level, so its size is held against its own theory, for McNemar's a sum over the binomial "
        "distribution. Equal configurations have seeds of their own, whose strength is spread as "
        "stated; the test is the one over seeds and images together. Holm's method must err "
        "anywhere in at most 5 %, give or take three Monte Carlo errors.",
    ),
    "power": (
        "Power",
        "The share of tests that find a true difference, against the normal theory with the true "
        "standard error: within 4 points. At the smallest detectable difference (hollow in the "
        "figure) it must be 80 %, within the same.",
    ),
    "seeds": (
        "Power over seeds",
        "How often a weaker configuration is found by runs with the same seeds: by the test over "
        "seeds and images together, and by the sign-flip test over seeds alone, which says nothing "
        "of other images and finds nothing with fewer than six seeds. Reported, not judged.",
    ),
    "best": (
        "Who is the best",
        "Nine networks, accuracy of 550 images, as in a comparison. Equal ones are each the best "
        "in 1/9 of the resamples on average, but the one that happens to lead seems far likelier: "
        "the probability is about these images, not proof. It must grow with the true lead, to 99 "
        "% for 0.10. The interval of a rank must hold the true rank (the shared one, 5, of equal "
        "networks) in 93 % or more.",
    ),
    "references": (
        "Independent references",
        "No simulation: the largest deviation over random tables, half of them full of ties, from "
        "other libraries or plain loops.",
    ),
}


def _chunk(name: str, index: int, draws: int, seed: int, prepared: Any) -> Outcomes:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
    return STUDIES[name].simulate(rng, draws, prepared)


def run(
    sections: Sequence[str], settings: Settings, jobs: int = 1
) -> tuple[list[Check], dict[str, float]]:
    """Run the studies of some sections: the checks, and the seconds that each study took."""
    chosen = {name: study for name, study in STUDIES.items() if study.section in sections}
    sizes = [min(CHUNK, settings.draws - start) for start in range(0, settings.draws, CHUNK)]
    checks, seconds = [], {}
    total = len(chosen) * (len(sizes) + 1) + ("references" in sections)
    with _pool(jobs) as pool, progress_bar("statistics", total) as advance:
        for name, study in chosen.items():
            began = time.monotonic()
            advance(0, name)
            prepared = study.prepare(settings)
            advance()
            arguments = [
                (name, index, size, settings.seed, prepared) for index, size in enumerate(sizes)
            ]
            outcomes = _all(pool, arguments, advance)
            joined = {key: np.concatenate([part[key] for part in outcomes]) for key in outcomes[0]}
            checks += study.judge(joined, prepared, settings)
            seconds[name] = time.monotonic() - began
        if "references" in sections:
            advance(0, "references")
            began = time.monotonic()
            checks += references(settings)
            seconds["references"] = time.monotonic() - began
            advance()
    return checks, seconds


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    if jobs == 1:
        yield None
        return
    # The processes share the cores already.
    with (
        mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
        ProcessPoolExecutor(jobs, get_context("spawn")) as pool,
    ):
        yield pool


def _all(
    pool: ProcessPoolExecutor | None,
    arguments: list[tuple[Any, ...]],
    advance: Callable[[], None],
) -> list[Outcomes]:
    if pool is None:
        outcomes = []
        for each in arguments:
            outcomes.append(_chunk(*each))
            advance()
        return outcomes
    futures = [pool.submit(_chunk, *each) for each in arguments]
    for future in as_completed(futures):
        future.result()
        advance()
    return [future.result() for future in futures]


# The report ----------------------------------------------------------------------------------


def _number(value: float, kind: str) -> str:
    if math.isnan(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.2f} %"
    return f"{value:.3f}" if kind == "ratio" else f"{value:.1e}"


def _title(name: str) -> str:
    """A check's name with its metric as a reader writes it."""
    metric = next((part for part in name.split(", ") if part in (*TESTED, *BOOTSTRAPPED)), None)
    return name.replace(metric, metric_title(metric)) if metric else name


def _expected(check: Check) -> str:
    low, high = (
        None if bound is None else _number(bound, check.kind) for bound in (check.low, check.high)
    )
    if low and high:
        return f"{low.removesuffix(' %')} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else "only reported"


def _verdict(check: Check) -> str:
    return "–" if not check.judged else "pass" if check.passed else "**FAIL**"


def _table(checks: Sequence[Check]) -> list[str]:
    lines = [
        "| what | expected | theory | observed | Monte Carlo error | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for group, members in itertools.groupby(checks, key=lambda check: check.group):
        lines.append(f"| **{_title(group)}** | | | | | |")
        lines += [
            f"| {_title(c.name)} | {_expected(c)} "
            f"| {'–' if c.theory is None else _number(c.theory, c.kind)} "
            f"| {_number(c.observed, c.kind)} | {_number(c.error, c.kind)} | {_verdict(c)} |"
            for c in members
        ]
    return lines


def report(
    checks: Sequence[Check],
    seconds: dict[str, float],
    settings: Settings,
    command: str,
    state: tuple[str, str],
) -> str:
    """The report in Markdown. `state` is that of the source tree when the run began."""
    judged = [check for check in checks if check.judged]
    failed = [check for check in judged if not check.passed]
    commit, clean = state
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy"))
    lines = [
        "# The statistics, checked by simulation",
        "",
        f"{len(judged) - len(failed)} of {len(judged)} checks passed."
        + (" Failed: " + "; ".join(f"{c.group}, {c.name}" for c in failed) + "." if failed else ""),
        "",
        "```",
        command,
        "```",
        "",
        f"- {settings.draws:,} draws of each study, seed {settings.seed}; truth from "
        f"{settings.truth_images:,} images (gaps: {settings.gap_images:,}); bootstrap intervals of "
        f"{RESAMPLES:,} resamples "
        f"(a comparison takes {statistics.RESAMPLES:,}), ranks of {RESAMPLES_OF_RANKS}.",
        f"- Commit {commit}, " + {"true": "clean tree", "false": "changed tree"}.get(
            clean, "state of the tree unknown") + ".",
        f"- {sum(seconds.values()) / 60:.1f} minutes on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, load average {psutil.getloadavg()[2]:.1f} at the end; "
        f"Python {platform.python_version()}, {libraries}.",
        "- Population: test parts of 550 images with the class shares of all of ISIC 2017 "
        f"({', '.join(f'{share:.1%}' for share in POOLED.shares)} {', '.join(CLASSES)}) and of 600 "
        f"with those of the official test part ({', '.join(f'{s:.1%}' for s in OFFICIAL.shares)}). "
        "A network sees one normal feature a class, about as well as the first real run did; "
        f"{SHARED:.0%} of a feature's variance is the image's difficulty, alike for all networks.",
        f"- Fewer draws than {DRAWS:,} widen the expected ranges by what four Monte Carlo errors "
        "grow. All figures: [checks.csv](checks.csv).",
        "",
    ]  # fmt: skip
    for section, (title, text) in SECTIONS.items():
        members = [check for check in checks if check.section == section]
        if not members:
            continue
        lines += [f"## {title}", "", text, ""]
        if section in (*FIGURES, "power"):
            lines += [f"![{title}]({section}.png)", ""]
        lines += [*_table(members), ""]
    lines += ["## Time", "", "| study | seconds |", "| --- | --- |"]
    lines += [f"| {name} | {value:.0f} |" for name, value in seconds.items()]
    return "\n".join(lines) + "\n"


def write_csv(checks: Sequence[Check], path: Path) -> None:
    """Every check with all its numbers, one a row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(checks[0].row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(check.row() for check in checks)


def draw_shares(checks: Sequence[Check], path: Path, label: str) -> None:
    """Dots with two Monte Carlo errors each way, over the range that is required of each."""
    from matplotlib.figure import Figure

    members = [check for check in checks if check.kind == "share" and check.judged]
    groups = [(name, list(of)) for name, of in itertools.groupby(members, key=lambda c: c.group)]
    rows = len(members) + 1.6 * len(groups)
    with drawing():
        figure = Figure(figsize=(PAGE, 0.17 * rows + 0.8), layout="constrained")
        axes = figure.subplots()
        ticks: list[tuple[float, str]] = []
        y = 0.0
        for name, of in groups:
            axes.text(0, y, name, weight="bold", fontsize=8, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            for check in of:
                y += 1
                _dot(axes, check, y)
                ticks.append((y, _title(check.name)))
            y += 1.6
        axes.set_yticks(*zip(*ticks, strict=True), fontsize=7)
        axes.set_ylim(y - 0.8, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        save(figure, path)


def _dot(axes: "Axes", check: Check, y: float) -> None:
    low = check.low if check.low is not None else 0.0
    high = check.high if check.high is not None else 1.0
    axes.barh(y, 100 * (high - low), 0.9, left=100 * low, color="0.9", linewidth=0)
    if check.theory is not None:
        axes.vlines(100 * check.theory, y - 0.45, y + 0.45, color=GREY, linewidth=1)
    axes.errorbar(100 * check.observed, y, xerr=200 * check.error, color="black", marker="o",
                  markersize=3, markerfacecolor="black" if check.passed else "white",
                  linewidth=0.8)  # fmt: skip


def draw_power(checks: Sequence[Check], path: Path) -> None:
    """Observed power against theory: dots with two Monte Carlo errors upon a line."""
    from matplotlib.figure import Figure

    groups = [list(of) for _, of in itertools.groupby(checks, key=lambda check: check.group)]
    with drawing():
        figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
        panels = figure.subplots(2, 2, sharey=True).T.flat
        # One metric a column, one size a row.
        for axes, points in zip(panels, sorted(groups, key=lambda of: of[0].group), strict=True):
            _curve(axes, points)
        panels[0].legend(loc="lower right")
        for axes in panels[:2]:
            axes.set_ylabel("tests that reject (%)")
        save(figure, path)


def _curve(axes: "Axes", points: Sequence[Check]) -> None:
    """One panel. The theory's standard error is interpolated between the points."""
    points = sorted(points, key=lambda check: check.difference or 0.0)
    metric, design = points[0].group.split(", ")
    at = np.array([check.difference for check in points], dtype=float)
    errors = np.array([check.standard_error for check in points], dtype=float)
    fine = np.linspace(0, 1.04 * at.max(), 200)
    theory = [power_in_theory(x, np.interp(x, at, errors)) for x in fine]
    axes.axhline(100 * POWER, color="0.8", linewidth=0.7, zorder=0)
    axes.axhline(100 * ALPHA, color="0.8", linewidth=0.7, zorder=0)
    axes.plot(fine, 100 * np.array(theory), color=GREY, linewidth=1, label="theory")
    for least, label in ((False, "observed"), (True, LEAST)):
        chosen = [check for check in points if check.name.startswith(LEAST) == least]
        axes.errorbar(
            [check.difference for check in chosen],
            [100 * check.observed for check in chosen],
            yerr=[200 * check.error for check in chosen],
            fmt="o", color="black", markersize=4, linewidth=0.8,
            markerfacecolor="white" if least else "black", label=label,
        )  # fmt: skip
    axes.set_title(f"{metric_title(metric)}, {design}", loc="left")
    axes.set_xlabel("true difference")
    axes.set_xticks(_targets(metric))
    axes.set_ylim(0, 102)
    axes.set_yticks([5, 20, 40, 60, 80, 100])


def write(checks: Sequence[Check], text: str, folder: Path) -> None:
    """Write the report, its figures and the CSV into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(checks, folder / "checks.csv")
    for section, axis in FIGURES.items():
        if members := [check for check in checks if check.section == section]:
            draw_shares(members, folder / f"{section}.png", axis)
    if members := [check for check in checks if check.section == "power"]:
        draw_power(members, folder / "power.png")
    (folder / "README.md").write_text(text)


# The command ---------------------------------------------------------------------------------


def _whole(text: str, least: int, name: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if value < least:
        raise UserError(f"{name} {text}: expected a whole number of at least {least}")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python benchmarks/simulation.py",
        description="Check the project's statistics by simulation with known truth.",
    )
    parser.add_argument("--draws", default=str(DRAWS), help="draws a study (default: %(default)s)")
    parser.add_argument("--seed", default=str(SEED), help="default: %(default)s")
    parser.add_argument("--jobs", default="1", help="processes (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", choices=tuple(SECTIONS), help="a section; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=Path("results/statistics"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print all checks as JSON")
    options = parser.parse_args(argv)
    settings = Settings(_whole(options.draws, CHUNK, "--draws"), _whole(options.seed, 0, "--seed"))
    jobs = _whole(options.jobs, 1, "--jobs")
    # Before the run: whoever works in the tree meanwhile changes nothing that is loaded.
    state = git_state()
    checks, seconds = run(tuple(options.only or SECTIONS), settings, jobs)
    only = "".join(f" --only {name}" for name in options.only or ())
    command = (
        f"python benchmarks/simulation.py --draws {settings.draws} --seed {settings.seed} "
        f"--jobs {jobs}{only}"
    )
    write(checks, report(checks, seconds, settings, command, state), options.out)
    failed = [check for check in checks if not check.passed]
    if options.json:
        print(json.dumps([check.row() for check in checks], indent=1))
    else:
        for check in failed:
            found = f"{_number(check.observed, check.kind)}, expected {_expected(check)}"
            print(f"FAIL {check.section}: {check.group}, {check.name}: {found}")
        judged = sum(check.judged for check in checks)
        print(f"{judged - len(failed)} of {judged} checks passed: {options.out / 'README.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    # Python puts a script's folder first in its path, where this file would hide the standard
    # library's `statistics` from every library that imports that.
    sys.path.remove(str(Path(__file__).resolve().parent))
    raise SystemExit(run_command(main))
