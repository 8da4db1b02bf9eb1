"""Draws of all studies, on several processes."""

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.simulation.checks import Check, Outcomes
from benchmarks.simulation.references import references
from benchmarks.simulation.settings import Settings
from benchmarks.simulation.studies import STUDIES
from skinml.base.progress import progress_bar

# Draws of one task. The random numbers of a task follow from its number, so this is part of them.
CHUNK = 50


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
