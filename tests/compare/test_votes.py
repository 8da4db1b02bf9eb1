"""The soft vote of a cell's seeds: what it is, what it gains, and that it is no configuration."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skinml.compare.__main__ import main
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.reading import runs_in_folder
from skinml.compare.report import make_report
from skinml.compare.selection import select
from skinml.compare.tables import table_iii
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.predictions import Predictions
from tests.compare.conftest import made_up, write_grid, write_run


def comparison_of(folder: Path) -> Comparison:
    return analyse(select(runs_in_folder(folder), grid=[]), resamples=200)


def shuffled(table: Predictions) -> Predictions:
    """The same table with its images in another order."""
    order = np.random.default_rng(0).permutation(len(table.labels))
    return replace(
        table,
        image_ids=table.image_ids[order], labels=table.labels[order], scores=table.scores[order],
    )  # fmt: skip


def test_it_has_the_figures_of_the_mean_of_the_scores_whatever_a_tables_order(
    tmp_path: Path,
) -> None:
    tables = [made_up(1.0, [seed]) for seed in range(3)]
    for seed, table in enumerate(tables):
        write_run(tmp_path, shuffled(table) if seed == 1 else table, seed=seed)
    [vote] = comparison_of(tmp_path).votes.values()
    mean = replace(tables[0], scores=np.mean([table.scores for table in tables], axis=0))
    expected = point_metrics(mean)
    assert vote.networks == (3, 3) and vote.times == "×3"
    for name, value in vote.values.items():
        assert value.value == pytest.approx(expected[name], abs=1e-7), name
    assert vote.values["accuracy"].low < expected["accuracy"] < vote.values["accuracy"].high
    single = np.mean([point_metrics(table)["auc_weighted"] for table in tables])
    gain = vote.gains["auc_weighted"]
    assert gain.value == pytest.approx(expected["auc_weighted"] - single, abs=1e-7)
    # The networks' errors are independent here: their mean is shown to be better.
    assert gain.interval()[0] > 0


def test_the_interval_of_a_gain_is_that_of_the_images(tmp_path: Path) -> None:
    """Against images that are drawn again in a plain loop."""
    tables = [made_up(1.0, [seed]) for seed in range(3)]
    for seed, table in enumerate(tables):
        write_run(tmp_path, table, seed=seed)
    [vote] = comparison_of(tmp_path).votes.values()
    scores = np.mean([table.scores for table in tables], axis=0)
    labels, rng, draws = tables[0].labels, np.random.default_rng(1), []
    right = (scores.argmax(axis=1) == labels).astype(float)
    single = np.mean([table.predicted == table.labels for table in tables], axis=0)
    for _ in range(2000):
        drawn = rng.integers(len(labels), size=len(labels))
        draws.append((right - single)[drawn].mean())
    assert vote.gains["accuracy"].standard_error == pytest.approx(np.std(draws), rel=0.1)


def test_splits_count_alike(tmp_path: Path) -> None:
    means = []
    for split, seeds in ((0, (0, 1)), (1, (0, 1, 2))):
        tables = [made_up(1.0, [seed], split) for seed in seeds]
        for seed, table in zip(seeds, tables, strict=True):
            write_run(tmp_path, table, seed=seed, split_seed=split, test_fraction=0.2)
        mean = replace(tables[0], scores=np.mean([table.scores for table in tables], axis=0))
        means.append(point_metrics(mean)["accuracy"])
    [vote] = comparison_of(tmp_path).votes.values()
    assert vote.times == "×2–3"
    assert vote.values["accuracy"].value == pytest.approx(np.mean(means))


@pytest.mark.parametrize("what", ["one seed", "a copy", "a split with one seed"])
def test_fewer_than_two_networks_of_a_split_do_not_vote(what: str, tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1.0, [0]), seed=0, test_fraction=0.2)
    if what == "a copy":
        write_run(tmp_path, made_up(1.0, [0]), seed=1, test_fraction=0.2)
    if what == "a split with one seed":
        write_run(tmp_path, made_up(1.0, [1]), seed=1, test_fraction=0.2)
        write_run(tmp_path, made_up(1.0, [0], 1), seed=0, split_seed=1, test_fraction=0.2)
    comparison = comparison_of(tmp_path)
    assert comparison.votes == {}
    assert "soft vote" not in str(make_report(comparison))


def test_a_report_has_it_as_a_row_that_is_held_against_no_other(tmp_path: Path) -> None:
    write_grid(tmp_path, seeds=(0, 1, 2), models=("mobilenet",), sizes=(16, 32))
    comparison = comparison_of(tmp_path)
    rows = table_iii(comparison).rows
    assert [row[1].text for row in rows] == ["16", "16 ×3", "32", "32 ×3"]
    # Higher than the best of its column, and not in bold: it is three networks.
    assert float(rows[1][2].text) > float(rows[0][2].text)
    assert not any(cell.bold for row in rows[1::2] for cell in row)
    assert any(cell.bold for row in rows[::2] for cell in row)
    assert {test.first for test in comparison.pairs} <= {"mobilenet-16", "mobilenet-32"}
    assert "A row with ×3 is a soft vote" in str(make_report(comparison))


def test_json_has_its_figures_and_its_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_grid(tmp_path, seeds=(0, 1), models=("mobilenet",), sizes=(16,))
    assert main(["--from", str(tmp_path), "--grid", "none", "--format", "json"]) == 0
    [cell] = json.loads(capsys.readouterr().out)["cells"]
    vote = cell["vote"]
    assert vote["networks"] == [2, 2]
    assert vote["metrics"]["accuracy"]["low"] < vote["metrics"]["accuracy"]["value"]
    assert vote["gains"]["accuracy"]["low"] < vote["gains"]["accuracy"]["high"]
