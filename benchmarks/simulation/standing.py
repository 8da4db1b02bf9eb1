"""Whether shares of resamples and intervals of ranks say what they claim."""

import math
from functools import partial
from typing import Any

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes, share_of
from benchmarks.simulation.population import POOLED, constant, gap_of, one_part, resample_weights
from benchmarks.simulation.settings import Settings
from benchmarks.simulation.size import NETWORKS
from skinml.compare.paired import (
    probability_of_best,
    ranks,
)
from skinml.evaluation.statistics import CONFIDENCE, resampled

RESAMPLES_OF_RANKS = 500


GAPS = (0.0, 0.02, 0.05, 0.10)


def prepare_best(settings: Settings) -> Any:
    # All but the first are behind it by the gap.
    return [
        (
            aim,
            gap_of(POOLED, "accuracy", partial(constant, aim), settings).strength if aim else 1.0,
        )
        for aim in GAPS
    ]


def simulate_best(rng: np.random.Generator, draws: int, scenes: Any) -> Outcomes:
    """For each gap: P(best) of all nine, then the low and high ranks of the first."""
    weights = resample_weights(POOLED.images, RESAMPLES_OF_RANKS)
    rows: dict[str, list[np.ndarray]] = {}
    for _ in range(draws):
        for aim, strength in scenes:
            tables = one_part(POOLED, (1.0, *(strength,) * (NETWORKS - 1)), rng)
            values = np.stack(
                [resampled(table, weights, ("accuracy",))["accuracy"] for table in tables]
            )
            tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            low_high = np.quantile(ranks(values)[0], tails, method="nearest")
            rows.setdefault(str(aim), []).append(np.r_[probability_of_best(values), low_high])
    return {name: np.array(values) for name, values in rows.items()}


def judge_best(outcomes: Outcomes, scenes: Any, settings: Settings) -> list[Check]:
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
            share_of(section, "95 % interval of the first network's rank",
                   f"better by {aim:.2f}: contains the true rank {true_rank:g}",
                   (low <= true_rank) & (true_rank <= high), 0.93 - slack, None, CONFIDENCE)
        )  # fmt: skip
    return checks
