"""How often tests reject although nothing differs."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, share_of
from benchmarks.simulation.population import (
    POOLED,
    Design,
    at_rows,
    draw_labels,
    draw_networks,
    gap_of,
    one_part,
    over_pool,
    population,
)
from benchmarks.simulation.settings import POWER_METRICS, Settings
from skinml.compare.paired import (
    ALPHA,
    TESTED,
    difference,
    estimate,
    estimates,
    mean,
    swap_test,
)
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.testing import holm

NETWORKS = 9


def simulate_size(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    p_values = []
    for _ in range(draws):
        first, second = (estimates(table) for table in one_part(design, (1.0, 1.0), rng))
        p_values.append([difference(first[metric], second[metric]).p_value() for metric in TESTED])
    return dict(zip(TESTED, np.array(p_values).T, strict=True))


# Three networks at two batch sizes: the networks differ, the batch sizes do not.
_CONTRAST = ((1.0, 1.0, 0.9, 0.9, 0.8, 0.8), (0, 0, 1, 1, 2, 2))


def simulate_contrast(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    rows: dict[str, list[float]] = {metric: [] for metric in POWER_METRICS}
    for _ in range(draws):
        tables = one_part(design, _CONTRAST[0], rng, _CONTRAST[1])
        for metric, p_values in rows.items():
            found = [estimate(table, metric) for table in tables]
            pairs = zip(found[::2], found[1::2], strict=True)
            p_values.append(mean([difference(a, b) for a, b in pairs]).p_value())
    return {metric: np.array(values) for metric, values in rows.items()}


def simulate_splits(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    """Two networks, each the mean over three overlapping test parts of one pool of images."""
    rows: dict[str, list[float]] = {metric: [] for metric in POWER_METRICS}
    pool = sum(design.counts)
    for _ in range(draws):
        labels = draw_labels(design, rng, pool)
        parts = [rng.choice(pool, design.images, replace=False) for _ in range(3)]
        of_split = [at_rows(draw_networks(design, labels, (1.0, 1.0), rng), part) for part in parts]
        for metric, p_values in rows.items():
            found = [
                mean([over_pool(pool, part, estimate(tables[network], metric))
                      for part, tables in zip(parts, of_split, strict=True)])
                for network in range(2)
            ]  # fmt: skip
            p_values.append(difference(*found).p_value())
    return {metric: np.array(values) for metric, values in rows.items()}


def prepare_mcnemar(design: Design) -> Callable[[Settings], Any]:
    def prepare(settings: Settings) -> Any:
        shares = [
            np.mean((a.predicted == a.labels) != (b.predicted == b.labels))
            for a, b in population(design, (1.0, 1.0), settings.truth_images, settings.seed)
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


def simulate_mcnemar(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    design, _ = prepared
    parts = (one_part(design, (1.0, 1.0), rng) for _ in range(draws))
    return {"p": np.array([mcnemar(first, second) for first, second in parts])}


def mcnemar(first: Predictions, second: Predictions) -> float:
    """The product's test of two single runs on the same images."""
    right = [(table.predicted == table.labels).astype(float) for table in (first, second)]
    return swap_test(right[0] - right[1])


def judge_mcnemar(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    design, discordant = prepared
    theory = mcnemar_size(design.images, discordant)
    reach = 4 * math.sqrt(theory * (1 - theory) / settings.draws)
    name = f"accuracy, {design.name}"
    group = "McNemar's test, exact"
    return [
        share_of(
            "size", group, name, outcomes["p"] < ALPHA, theory - reach, theory + reach, theory
        ),
        Check("size", group, f"images in which just one is right, {design.name}", discordant),
    ]


def prepare_holm(settings: Settings) -> Any:
    return gap_of(POOLED, "accuracy", lambda _: 0.06, settings).strength


def simulate_holm(rng: np.random.Generator, draws: int, weaker: Any) -> Outcomes:
    """The smallest adjusted p-value of a true null, for each way of testing all pairs.

    Nine equal networks; then a tenth, worse one in the place of the last of them.
    """
    scenes = {
        "nine equal cells": range(NETWORKS),
        "eight equal, one worse": (*range(NETWORKS - 1), NETWORKS),
    }
    rows: dict[str, list[float]] = {}
    for _ in range(draws):
        tables = one_part(POOLED, (*(1.0,) * NETWORKS, weaker), rng)
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


def judge_holm(outcomes: Outcomes, _: Any, settings: Settings) -> list[Check]:
    high = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / settings.draws)
    return [
        share_of("size", "Holm, any false rejection among 36 pairs", name, p_values < ALPHA, None,
               high, ALPHA)
        for name, p_values in outcomes.items()
    ]  # fmt: skip
