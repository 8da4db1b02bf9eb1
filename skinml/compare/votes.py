"""The soft vote of a cell's seeds: the mean of their scores, a row of its own in a report.

It is as many networks as it has seeds: it takes no part in the tests of configurations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from skinml.compare.comparison import VERDICT_METRICS, Row, Value, Vote
from skinml.compare.document import Block, Cell, Details, Table
from skinml.compare.evidence import Evidence, Images, interval_over_images
from skinml.compare.paired import Estimate, difference, estimates, mean, tested
from skinml.compare.runs import CellName, RunRecord
from skinml.compare.tables import names_of_vote, signed
from skinml.evaluation.metrics import evaluate, metric_title
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import resampled


def gain_metrics(classes: tuple[str, ...]) -> tuple[str, ...]:
    """In which figures a vote is held against its networks, as far as the classes have them."""
    return tuple(name for name in (*VERDICT_METRICS, "challenge_auc") if name in tested(classes))


def find_votes(
    rows: Sequence[Row], evidence: Evidence, weights: np.ndarray
) -> dict[CellName, Vote]:
    """The vote of each cell that has two networks or more on each of its splits.

    `evidence` has the estimates of each run by `gain_metrics`; `weights` (R, N) are how often each
    of R bootstrap resamples has each image.
    """
    found = {}
    for row in rows:
        splits = _networks(row, evidence.images)
        if min(map(len, splits)) > 1:
            found[row.cell] = _vote(tuple(row.values), splits, evidence, weights)
    return found


def _networks(row: Row, images: Images) -> list[list[RunRecord]]:
    """The runs of a cell by split, without those that answer as another one does: its copies."""
    by_split: dict[str, dict[bytes, RunRecord]] = {}
    for run in row.runs:
        by_split.setdefault(run.tags["split"], {}).setdefault(images.key(run), run)
    return [list(networks.values()) for networks in by_split.values()]


def _vote(
    names: tuple[str, ...],
    splits: Sequence[Sequence[RunRecord]],
    evidence: Evidence,
    weights: np.ndarray,
) -> Vote:
    images = evidence.images
    tables = [soft_vote(runs, images) for runs in splits]
    figures = [evaluate(table, names=names) for table in tables]
    draws = [
        resampled(table, images.of_run(runs[0], weights), names)
        for table, runs in zip(tables, splits, strict=True)
    ]
    values = {}
    for name in names:
        value = float(np.mean([figure[name] for figure in figures]))
        of_all = np.mean([draw[name] for draw in draws], axis=0)
        values[name] = Value(value, *interval_over_images(name, of_all, tables[0]), None, None)
    gains = [_gains(table, runs, evidence) for table, runs in zip(tables, splits, strict=True)]
    counts = [len(runs) for runs in splits]
    return Vote(
        (min(counts), max(counts)),
        values,
        {name: mean([gain[name] for gain in gains]) for name in gains[0]},
    )


def _gains(
    table: Predictions, runs: Sequence[RunRecord], evidence: Evidence
) -> dict[str, Estimate]:
    """The figures of a vote less the means of its networks', over all images."""
    return {
        name: difference(
            evidence.images.spread(runs[0], own),
            mean([evidence.estimates[run][name] for run in runs]),
        )
        for name, own in estimates(table, gain_metrics(table.classes)).items()
    }


def soft_vote(runs: Sequence[RunRecord], images: Images) -> Predictions:
    """The mean of the scores of runs on the same images, in the order of the first one's table."""
    table = runs[0].predictions
    total = np.zeros((len(images.ids), len(table.classes)))
    for run in runs:
        total[images.rows(run)] += run.predictions.scores
    return replace(table, scores=total[images.rows(runs[0])] / len(runs))


def how_votes(votes: Mapping[CellName, Vote]) -> str:
    """What a row of a vote is, behind a table that has one."""
    times = max(votes.values(), key=lambda vote: vote.networks[1]).times
    return (
        f"A row with {times} is a soft vote: the mean of the scores of that many networks of a "
        "cell, which differ in their seed. It has as many times the size, the time for an answer "
        "and the training of the row above it, and is held against no other row."
    )


def gains_of_votes(votes: Mapping[CellName, Vote]) -> list[Block]:
    """What each vote gains over the mean of its networks, folded; nothing without a vote."""
    if not votes:
        return []
    names = list(next(iter(votes.values())).gains)
    lines = []
    for cell, vote in votes.items():
        line = names_of_vote(cell, vote)
        for name in names:
            gain = vote.gains[name]
            low, high = gain.interval()
            line.append(Cell(signed(gain.value, 3), f"{signed(low, 3)} to {signed(high, 3)}"))
        lines.append(line)
    title = "Its figure less their mean, and the 95 % interval of that over the images"
    columns = ("model", "batch", *map(metric_title, names))
    return [
        Details(
            "What a soft vote gains over its networks", (Table(title, columns, lines, labels=2),)
        )
    ]
