"""Whether the parts of the variance and their intervals are right."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, coverage_check
from benchmarks.simulation.population import POOLED, STRATIFIED, TRUTH_BLOCK, population
from benchmarks.simulation.seeds import SEEDS, Seeds, repeats_with
from benchmarks.simulation.settings import DRAWS, POWER_METRICS, Settings
from benchmarks.simulation.together import estimates_together
from skinml.compare.repeats import Step
from skinml.evaluation.statistics import CONFIDENCE

# Strengths that stand for all of a normal distribution, and their weights.
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)

# The least cover of their intervals, which take the images' contributions for known: how these
# vary themselves is left out, most of all in what is left when a mean is taken off them.
LEAST = {"images": 0.91, "interaction": 0.85}


def prepare_components(spread: float) -> Callable[[Settings], Any]:
    """The true parts of one run's variance, by metric, from very many images.

    Two networks of each of five strengths see them: what two have in common is the images' part,
    what one has beyond that is its own by chance, and what their true values differ by is the
    seeds'.
    """

    def prepare(settings: Settings) -> Any:
        weights = NODE_WEIGHTS / NODE_WEIGHTS.sum()
        strengths = tuple(np.tile(1 + spread * NODES, 2))
        images = min(settings.truth_images, 4 * TRUTH_BLOCK)
        found: dict[str, list[tuple[float, ...]]] = {metric: [] for metric in POWER_METRICS}
        for tables in population(POOLED, strengths, images, settings.seed, [0] * len(strengths)):
            of_tables = estimates_together(tables)
            scale = len(tables[0].labels) / POOLED.images
            for metric, rows in found.items():
                each = np.array([of[metric].influence for of in of_tables]).reshape(2, 5, -1)
                values = np.array([of[metric].value for of in of_tables]).reshape(2, 5).mean(axis=0)
                shared = scale * float(np.dot(weights @ each[0], weights @ each[1]))
                whole = scale * float((weights @ (each**2).mean(axis=0)).sum())
                seeds = float(weights @ (values - weights @ values) ** 2)
                rows.append((shared, whole - shared, seeds))
        truth = {metric: np.mean(rows, axis=0) for metric, rows in found.items()}
        # The parts are those of a test part with as many images of each class.
        return Seeds(STRATIFIED, spread), truth

    return prepare


def simulate_components(rng: np.random.Generator, draws: int, prepared: Any) -> Outcomes:
    """One configuration: each part with its interval, and what three seeds foretell of six."""
    scene, _ = prepared
    rows: dict[str, list[Any]] = {}
    for _ in range(draws):
        found = estimates_together([table for table, _ in scene.draw(rng)])
        for metric in POWER_METRICS:
            steps = [Step(of[metric], 1.0, "0", frozenset()) for of in found]
            for seeds in SEEDS:
                parts = repeats_with(steps, seeds).components
                for name, part in parts.parts().items():
                    ends = (part.variance, part.low, part.high)
                    rows.setdefault(f"{name} of {seeds} seeds, {metric}", []).append(ends)
        # A stratified part has less chance in it than the standard error allows for.
        pooled = scene._replace(design=POOLED)
        found = estimates_together([table for table, _ in pooled.draw(rng)])
        for metric in POWER_METRICS:
            steps = [Step(of[metric], 1.0, "0", frozenset()) for of in found]
            few, more = repeats_with(steps, 3), repeats_with(steps, 6)
            told = few.components.with_more(seeds=3)
            rows.setdefault(f"foretold, {metric}", []).append((told, more.mean.value))
    return {name: np.array(values) for name, values in rows.items()}


def judge_components(outcomes: Outcomes, prepared: Any, settings: Settings) -> list[Check]:
    scene, truth = prepared
    checks = []
    for name, found in outcomes.items():
        what, metric = name.split(", ")
        if what == "foretold":
            continue
        part, _, seeds, _ = what.split()
        # Of one run; a mean of some has the interaction and the seeds as many times less.
        share = 1 if part == "images" else 1 / int(seeds)
        value = share * truth[metric][("images", "interaction", "seeds").index(part)]
        group = f"95 % intervals of the parts of the variance, {scene.told}"
        check = coverage_check(
            group, name, found[:, 1:], value, scene.design, settings, "components"
        )
        if part in LEAST:
            check = replace(check, low=LEAST[part] - settings.slack(CONFIDENCE))
        checks.append(check)
    for metric in POWER_METRICS:
        told, values = outcomes[f"foretold, {metric}"].T
        error = 1 / math.sqrt(2 * settings.draws)
        ratio = float(np.sqrt(np.mean(told**2)) / values.std(ddof=1))
        reach = 0.1 + 4 * max(0.0, error - 1 / math.sqrt(2 * DRAWS))
        checks.append(
            Check("components", f"standard error of six seeds, foretold by three, over the true "
                  f"one, {scene.told}", metric, ratio, 1 - reach, 1 + reach, 1.0, error, "ratio")
        )  # fmt: skip
    return checks
