"""How often groups of images are called different although they are not.

Images are put into groups by chance, in sizes like those of ISIC 2017: the null holds for every
figure of every group.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, share_of
from benchmarks.simulation.population import one_part
from benchmarks.simulation.settings import Settings
from skinml.compare.paired import ALPHA
from skinml.evaluation.subgroups import LEAST, METRICS, figures_of_groups

# The attributes' values, with their shares of the images; "" where it is not known.
_ATTRIBUTES = {
    "age": (("30", "45", "60", "80", ""), (0.28, 0.28, 0.24, 0.12, 0.08)),
    "sex": (("female", "male", ""), (0.43, 0.43, 0.14)),
    "picture_hair": (("yes", "no"), (0.2, 0.8)),
}

# A threshold on the melanoma score that finds about four of five: any would do.
_THRESHOLD = 0.12

_SIZES = {"few": (LEAST, 30), "more": (30, 10**6)}


def simulate_subgroups(rng: np.random.Generator, draws: int, design: Any) -> Outcomes:
    """P-values and whether intervals miss 0, by the figure and what it rests on; else NaN."""
    p_values: dict[str, list[float]] = {}
    missed: dict[str, list[float]] = {}
    smallest: list[float] = []
    for _ in range(draws):
        (table,) = one_part(design, (1.0,), rng)
        facts = {
            name: rng.choice(values, len(table.labels), p=shares)
            for name, (values, shares) in _ATTRIBUTES.items()
        }
        figures = figures_of_groups(replace(table, subgroups=facts), "melanoma", _THRESHOLD)
        adjusted = [figure.p_holm for figure in figures if not math.isnan(figure.p_holm)]
        smallest.append(min(adjusted, default=1.0))
        for metric in METRICS:
            for size, (low, high) in _SIZES.items():
                chosen = [
                    f for f in figures
                    if f.metric == metric and low <= min(f.own.images, f.rest.images) < high
                ]  # fmt: skip
                # One of each draw, so that those of a batch are independent.
                one = chosen[rng.integers(len(chosen))] if chosen else None
                key = f"{metric}, {size}"
                p_values.setdefault(key, []).append(one.p if one else math.nan)
                held = one is not None and one.difference.low <= 0 <= one.difference.high
                known = one is not None and not math.isnan(one.difference.low)
                missed.setdefault(key, []).append(float(not held) if known else math.nan)
    return {
        **{f"p, {name}": np.array(values) for name, values in p_values.items()},
        **{f"missed, {name}": np.array(values) for name, values in missed.items()},
        "smallest": np.array(smallest),
    }


def judge_subgroups(outcomes: Outcomes, design: Any, settings: Settings) -> list[Check]:
    checks = []
    for kind, title in (
        ("p", "tests at 5 % that reject"),
        ("missed", "95 % intervals of a difference of 0 that miss it"),
    ):
        for name, values in outcomes.items():
            known = values[~np.isnan(values)]
            metric, _, size = name.removeprefix(f"{kind}, ").partition(", ")
            if not name.startswith(f"{kind}, ") or not len(known):
                continue
            found = known < ALPHA if kind == "p" else known > 0
            # Of fewer draws that have such a group, as many errors more.
            more = settings.slack(ALPHA) * math.sqrt(len(values) / len(known))
            low, high = _SIZES[size]
            images = f"{low} to {high - 1} images" if size == "few" else f"{low} images or more"
            checks.append(
                share_of(
                    "subgroups", f"{title}, {design.name}", f"{METRICS[metric]}, {images}", found,
                    ALPHA - 0.02 - more, ALPHA + 0.02 + more, ALPHA,
                )
            )  # fmt: skip
    most = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / settings.draws)
    group = f"Holm, any false rejection among all groups, {design.name}"
    return [
        *checks,
        share_of("subgroups", group, "all figures", outcomes["smallest"] < ALPHA, None, most,
                 ALPHA),
    ]  # fmt: skip
