"""Random small comparisons whose verdicts may not contradict what they rest on.

Ties, few images of a class, copied runs, missing seeds, networks of one answer and cells that were
not trained alike: what people quote has to hold for all of them.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from skinml.compare import comparison as compared
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.output import numbers, write
from skinml.compare.paired import ALPHA
from skinml.compare.repeats import LEAST_SEEDS
from skinml.compare.report import make_report
from skinml.compare.runs import CellName, RunRecord
from skinml.compare.selection import select
from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions

# The same examples every time, none of them shrunk: it takes long, and they are small already.
thorough = partial(
    settings, deadline=None, derandomize=True, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

CELLS = (
    CellName("mobilenet", 16),
    CellName("mobilenet", 32),
    CellName("mobilenetv2", 16),
    CellName("nasnetmobile", 16),
)

# What networks may be like: their skill, or None for one that answers nevus to every image.
SKILLS = (0.0, 0.3, 0.3, 1.0, 2.5, 9.0, None)


def network(
    labels: np.ndarray, skill: float | None, seed: Sequence[int], decimals: int | None
) -> Predictions:
    """Scores of a network; `decimals` rounds them, which gives ties."""
    rng = np.random.default_rng(seed)
    if skill is None:
        logits = np.tile([0.0, 6.0, 0.0], (len(labels), 1))
    else:
        logits = rng.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:
        scores = scores.round(decimals)
    ids = np.array([f"ISIC_{number:07d}" for number in range(len(labels))])
    return Predictions(ids, labels, scores, CLASSES)


def record(cell: CellName, seed: int, table: Predictions, epochs: int = 40) -> RunRecord:
    config = Config(
        model=cell.model, batch_size=cell.batch_size, seed=seed, weights="none",
        epochs_finetune=epochs,
    )  # fmt: skip
    tags = {
        "model": cell.model, "batch_size": str(cell.batch_size), "seed": str(seed),
        "data": "isic2017", "protocol": config.protocol, "split": "seed=0",
        "weights_kind": "random", "data_digest": "0" * 16, "training_digest": "1" * 16,
    }  # fmt: skip
    params = {name: str(value) for name, value in config.as_dict().items()}
    return RunRecord(f"{cell}-s{seed}", seed, params, tags, {"best_epoch": 1.0}, lambda: table)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """A small comparison; each choice is one that has misled a verdict before."""
    counts = [draw(st.sampled_from((0, 1, 3, 12, 25))) for _ in range(3)]
    labels = np.repeat(np.arange(3), counts) if sum(counts) > 1 else np.array([0, 1])
    decimals = draw(st.sampled_from((None, None, 1, 2)))
    base, most = draw(st.integers(0, 999)), draw(st.sampled_from((1, 2, 3, 5, 6)))
    cells = CELLS[: draw(st.integers(2, len(CELLS)))]
    unlike = draw(st.integers(0, 4)) == 0
    runs: list[RunRecord] = []
    for number, cell in enumerate(cells):
        skill = draw(st.sampled_from(SKILLS))
        first = draw(st.sampled_from((0, 0, 0, 1, 6)))
        # Whose networks these are: of its own seeds, copies of one, or the first cell's in another
        # order.
        kind = draw(st.sampled_from(("own", "own", "own", "copies", "permuted")))
        of_first = [run.predictions for run in runs if run.cell == cells[0]]
        for index in range(draw(st.sampled_from((most, most, max(1, most - 1))))):
            table = network(
                labels, skill, [base, number, 0 if kind == "copies" else index], decimals
            )
            if kind == "permuted" and of_first:
                table = of_first[(index + 1) % len(of_first)]
            epochs = 4 if unlike and number == 0 else 40
            runs.append(record(cell, first + index, table, epochs))
    return analyse(select(runs), resamples=40)


def own_tests(found: Comparison, metric: str, winner: CellName) -> list[compared.Test]:
    """The tests of a winner's metric that it is part of, all as from the winner."""
    name = str(winner)
    return [t for t in found.pairs if t.metric == metric and name in (t.first, t.second)]


@thorough(max_examples=40)
@given(comparisons())
def test_no_verdict_contradicts_what_it_rests_on(found: Comparison) -> None:
    by_cell = {row.cell: row for row in found.rows}
    for metric, standing in found.standings.items():
        assert ("no winner" in standing.verdict) == (standing.winner is None)
        if standing.winner is None:
            continue
        top = by_cell[standing.winner]
        assert not top.one_class and not found.selection.differences
        tests = own_tests(found, metric, standing.winner)
        assert len(tests) == len(found.rows) - 1 - sum(len(g) - 1 for g in standing.alike)
        assert standing.winner not in [cell for group in standing.alike for cell in group]
        for test in tests:
            sign = 1 if test.first == str(standing.winner) else -1
            assert sign * test.difference > 0
            assert test.p_images_holm < ALPHA and test.p_seeds_holm < ALPHA
            assert test.p_images <= test.p_images_holm and test.p_seeds <= test.p_seeds_holm
            assert test.pairs >= test.seeds >= LEAST_SEEDS
            other = by_cell[next(c for c in by_cell if str(c) == (
                test.second if sign == 1 else test.first))]  # fmt: skip
            assert top.values[metric].value > other.values[metric].value
            assert shared_mean(found, metric, standing.winner, other.cell) > 0
            # So many networks there are of each, copies left out.
            for row in (top, other):
                tables = {run.predictions.scores.tobytes() for run in row.runs}
                assert row.one_class or len(tables) >= LEAST_SEEDS


def shared_mean(found: Comparison, metric: str, first: CellName, second: CellName) -> float:
    """The mean difference of two cells in the runs of the seeds that both have."""
    values = {
        row.cell: {run.repetition: own[metric] for run, own in zip(row.runs, row.by_run,
                                                                   strict=True)}
        for row in found.rows
    }  # fmt: skip
    shared = values[first].keys() & values[second].keys()
    return float(np.mean([values[first][key] - values[second][key] for key in shared]))


@thorough(max_examples=15)
@given(comparisons())
def test_what_cannot_be_computed_is_never_printed_as_a_number(found: Comparison) -> None:
    document = make_report(found, all_pairs=True)
    kinds = ("markdown", "html", "latex", "text", "csv", "json")
    reports = {kind: write(document, partial(numbers, found), kind, None) for kind in kinds}
    for kind, text in reports.items():
        assert not re.search(r"(?<![a-z])(nan|inf)(?![a-z])", text, re.IGNORECASE), kind
    told = json.loads(reports["json"])
    for kept, test in zip(told["pairs"], found.pairs, strict=True):
        for field in ("difference", "low", "high", "p_images", "p_images_holm", "p_seeds_holm"):
            assert (kept[field] is None) == bool(np.isnan(getattr(test, field))), field
    assert len(list(csv.reader(io.StringIO(reports["csv"])))) == len(found.rows) + 1
    # A p-value that does not exist shows nothing: no difference is called shown by it.
    for test in found.pairs:
        assert not (np.isnan(test.p_images) and test.p_images_holm < ALPHA)


@thorough(max_examples=15)
@given(comparisons())
def test_cells_are_called_alike_only_where_they_have_one_value(found: Comparison) -> None:
    for metric, standing in found.standings.items():
        for group in standing.alike:
            values = [row.values[metric].value for row in found.rows if row.cell in group]
            assert np.isfinite(values).all() and np.ptp(values) < 1e-9


def skilled(labels: np.ndarray, skill: float, seeds: Sequence[int]) -> list[Predictions]:
    return [network(labels, skill, [int(skill), seed], None) for seed in seeds]


LABELS = np.repeat(np.arange(3), (30, 60, 30))


def of_tables(*networks: Sequence[Predictions]) -> Comparison:
    """A comparison of cells whose runs, of the seeds from 0 up, are these tables."""
    runs = [
        record(cell, seed, table)
        for cell, tables in zip(CELLS, networks, strict=False)
        for seed, table in enumerate(tables)
    ]
    return analyse(select(runs), resamples=40)


def test_three_networks_of_each_make_a_winner() -> None:
    """So that the tests above have winners to doubt."""
    found = of_tables(skilled(LABELS, 4, range(3)), skilled(LABELS, 0, range(3)))
    assert {standing.winner for standing in found.standings.values()} == {CELLS[0]}


def test_copies_of_one_network_do_not_make_a_winner() -> None:
    """One network copied under four seeds, beside four of another configuration."""
    copies = skilled(LABELS, 4, [0]) * 4
    for networks in ((copies, skilled(LABELS, 0, range(4))),
                     (skilled(LABELS, 4, range(4)), skilled(LABELS, 0, [0]) * 4)):  # fmt: skip
        found = of_tables(*networks)
        for standing in found.standings.values():
            assert standing.winner is None and "1 run of each" in standing.verdict
        assert all(np.isnan(test.p_seeds) and test.pairs == 1 for test in found.pairs)


def test_the_same_networks_in_another_order_are_a_tie() -> None:
    """Their means may differ in the last digit, which must not make one the highest."""
    ours = skilled(LABELS, 1, range(6))
    for shift in range(1, 6):
        found = of_tables(ours, ours[shift:] + ours[:shift], skilled(LABELS, 0, range(6)))
        for standing in found.standings.values():
            assert standing.winner is None and standing.alike == (CELLS[:2],)
            assert "mobilenet-16, mobilenet-32 have the highest value" in standing.verdict


def test_figures_that_cannot_be_computed_are_not_alike() -> None:
    """Without a melanoma no cell has a weighted AUC: nothing is known of how they rank."""
    few = LABELS[LABELS > 0]
    found = of_tables(skilled(few, 1, [0]), skilled(few, 2, [0]))
    assert found.standings["auc_weighted"].alike == ()
