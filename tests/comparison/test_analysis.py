"""What a comparison says, held against what is known of made-up networks."""

from pathlib import Path

import numpy as np
import pytest

from skinml.comparison.analysis import (
    VERDICT_METRICS,
    Comparison,
    analyse,
    format_p,
    paper_values,
)
from skinml.comparison.paired import mcnemar
from skinml.comparison.runs import CellName, paper_grid, runs_in_folder, select
from skinml.errors import UserError
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.statistics import bootstrap_intervals
from tests.comparison.conftest import made_up, write_grid, write_run


def comparison_of(folder: Path, resamples: int = 300) -> Comparison:
    return analyse(select(runs_in_folder(folder)), resamples)


@pytest.fixture(scope="module")
def equal(nine: Path) -> Comparison:
    return comparison_of(nine)


def test_networks_of_the_same_skill_have_no_winner(equal: Comparison) -> None:
    for metric in VERDICT_METRICS:
        assert equal.standings[metric].winner is None
        assert "no winner" in equal.standings[metric].verdict


def test_a_far_better_network_wins_but_one_seed_is_not_a_configuration(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path, lambda model, size: 5 if (model, size) == ("mobilenet", 32) else 0.5
    )
    for standing in comparison_of(folder).standings.values():
        assert standing.winner == CellName("mobilenet", 32)
        assert standing.probability_best[CellName("mobilenet", 32)] > 0.99
        assert "1 paired run a cell cannot show" in standing.verdict


def test_a_winner_that_was_trained_otherwise_is_said_to_be_so(tmp_path: Path) -> None:
    for name, skill, epochs in (("mobilenet", 5, 40), ("mobilenetv2", 0.5, 4)):
        table = made_up(skill, [epochs])
        write_run(tmp_path, table, model=name, epochs_finetune=epochs, test_fraction=0.2)
    for standing in comparison_of(tmp_path).standings.values():
        assert standing.winner == CellName("mobilenet", 16)
        assert "not trained like all others (epochs_finetune)" in standing.verdict


def test_enough_seeds_show_that_a_configuration_wins(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path, lambda model, _: 4 if model == "mobilenet" else 0.5,
        seeds=range(7), models=("mobilenet", "mobilenetv2"), sizes=(16,),
    )  # fmt: skip
    found = comparison_of(folder)
    verdict = found.standings["accuracy"].verdict
    assert "over 7 paired runs a cell too" in verdict
    [test] = [test for test in found.pairs if test.metric == "accuracy"]
    assert test.p_seeds == pytest.approx(2 / 2**7)


def test_fewer_seeds_than_can_give_a_p_value_give_none(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, seeds=range(5), models=("mobilenet", "mobilenetv2"), sizes=(16,))
    assert all(test.p_seeds is None for test in comparison_of(folder).pairs)


def test_every_pair_is_tested_once_and_corrected_for_their_number(equal: Comparison) -> None:
    for metric in VERDICT_METRICS:
        tests = [test for test in equal.pairs if test.metric == metric]
        assert len({frozenset((test.first, test.second)) for test in tests}) == 36 == len(tests)
        assert all(test.p_images_holm >= test.p_images for test in tests)
        smallest = min(tests, key=lambda test: test.p_images)
        assert smallest.p_images_holm == pytest.approx(min(1, 36 * smallest.p_images))


def test_single_runs_are_tested_by_mcnemar(equal: Comparison) -> None:
    test = equal.pairs[0]
    tables = {str(row.cell): row.runs[0].predictions for row in equal.rows}
    assert test.method == "McNemar, exact"
    assert test.p_images == mcnemar(tables[test.first], tables[test.second])


def test_the_interval_of_a_single_run_is_the_one_it_was_logged_with(nine: Path) -> None:
    found = analyse(select(runs_in_folder(nine)))
    row = found.rows[0]
    value = row.values["accuracy"]
    assert (value.low, value.high) == bootstrap_intervals(row.runs[0].predictions)["accuracy"]


def test_seeds_are_averaged_and_their_spread_told(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, seeds=(1, 2, 3), models=("mobilenet",), sizes=(16,))
    [row] = comparison_of(folder).rows
    values = [point_metrics(run.predictions)["accuracy"] for run in row.runs]
    assert row.values["accuracy"].value == pytest.approx(np.mean(values))
    assert row.values["accuracy"].sd_seeds == pytest.approx(np.std(values, ddof=1))
    assert row.values["accuracy"].sd_splits is None


def test_the_spread_over_splits_is_told_apart_from_that_over_seeds(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, seeds=(1, 2), splits=(0, 1), models=("mobilenet",), sizes=(16,))
    found = comparison_of(folder)
    [row] = found.rows
    by_split: dict[str, list[float]] = {}
    for run in row.runs:
        by_split.setdefault(run.tags["split"], []).append(
            point_metrics(run.predictions)["accuracy"]
        )
    groups = list(by_split.values())
    within = np.sqrt(np.mean([np.var(group, ddof=1) for group in groups]))
    assert row.values["accuracy"].sd_seeds == pytest.approx(within)
    between = np.std([np.mean(group) for group in groups], ddof=1)
    assert row.values["accuracy"].sd_splits == pytest.approx(between)
    assert found.images == 2 * 165


def test_the_planned_comparison_of_batch_sizes_is_their_mean_difference(equal: Comparison) -> None:
    accuracy = {row.cell: row.values["accuracy"].value for row in equal.rows}
    tests = [test for test in equal.planned["batch size"] if test.metric == "accuracy"]
    assert [(test.first, test.second) for test in tests] == [
        ("batch size 16", "batch size 32"),
        ("batch size 16", "batch size 64"),
        ("batch size 32", "batch size 64"),
    ]
    models = {cell.model for cell in accuracy}
    expected = np.mean([accuracy[CellName(m, 16)] - accuracy[CellName(m, 64)] for m in models])
    assert tests[1].difference == pytest.approx(expected)
    assert tests[1].low < expected < tests[1].high and tests[1].pairs == 3


def test_a_planned_comparison_uses_only_the_networks_that_have_both(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet", "mobilenetv2"), sizes=(16,))
    write_grid(tmp_path / "more", models=("mobilenet",), sizes=(64,))
    tests = comparison_of(tmp_path).planned["batch size"]
    assert {test.pairs for test in tests} == {1}


def test_the_probabilities_of_being_the_best_add_up(equal: Comparison) -> None:
    for standing in equal.standings.values():
        assert sum(standing.probability_best.values()) == pytest.approx(1)
        for cell in paper_grid():
            assert 1 <= standing.rank_low[cell] <= standing.rank_high[cell] <= 9


def test_the_detectable_difference_shrinks_with_the_images(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for model in ("mobilenet", "mobilenetv2"):
        table = made_up(1, [len(model)])
        write_run(few, table, model=model)
        ids = np.concatenate([[f"{name}_{k}" for name in table.image_ids] for k in range(4)])
        more = type(table)(ids, np.tile(table.labels, 4), np.tile(table.scores, (4, 1)))
        write_run(many, more, model=model)
    small, large = (comparison_of(f).standings["accuracy"].detectable for f in (few, many))
    assert small / large == pytest.approx(2, rel=0.01)


def test_runs_tested_on_different_images_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet")
    table = made_up(1, [2])
    write_run(
        tmp_path, type(table)(table.image_ids[1:], table.labels[1:], table.scores[1:]),
        model="mobilenetv2",
    )  # fmt: skip
    with pytest.raises(UserError, match="tested on different images"):
        comparison_of(tmp_path)


def test_runs_that_disagree_on_a_label_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet")
    table = made_up(1, [2])
    labels = table.labels.copy()
    labels[0] = 2
    write_run(tmp_path, type(table)(table.image_ids, labels, table.scores), model="mobilenetv2")
    with pytest.raises(UserError, match=f"{table.image_ids[0]} has another label"):
        comparison_of(tmp_path)


def test_a_single_cell_is_no_contest(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]))
    found = comparison_of(tmp_path)
    assert found.pairs == () and "not two cells" in found.standings["accuracy"].verdict


def test_the_order_of_images_in_a_table_does_not_matter(tmp_path: Path) -> None:
    table = made_up(1, [2])
    order = np.random.default_rng(3).permutation(len(table.labels))
    mixed = type(table)(table.image_ids[order], table.labels[order], table.scores[order])
    results = []
    for number, second in enumerate((table, mixed)):
        folder = tmp_path / str(number)
        write_run(folder, made_up(1, [1]), model="mobilenet")
        write_run(folder, second, model="mobilenetv2")
        results.append(comparison_of(folder))
    assert [t.p_images for t in results[0].pairs] == pytest.approx(
        [t.p_images for t in results[1].pairs]
    )
    assert results[0].rows[1].values["auc_macro"].low == pytest.approx(
        results[1].rows[1].values["auc_macro"].low
    )


def test_the_papers_table_is_found_by_cell() -> None:
    values = paper_values()
    assert list(values) == paper_grid()
    assert values[CellName("nasnetmobile", 16)]["accuracy"] == 82.0


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1"), (0.04, ".040"), (0.0004, "< .001"), (0.9996, "1")]
)
def test_p_values_are_printed_as_papers_do(p: float, text: str) -> None:
    assert format_p(p) == text


def test_cells_with_unequal_seeds_a_split_are_not_told_apart_by_the_splits(tmp_path: Path) -> None:
    """The same networks: one mostly tested on an easy split, the other on a hard one."""
    for model, easy, hard in (("mobilenet", 3, 1), ("mobilenetv2", 1, 3)):
        for split, seeds, skill in ((0, easy, 3.0), (1, hard, 0.3)):
            for seed in range(seeds):
                write_run(
                    tmp_path, made_up(skill, [seed, split, len(model)], split), model=model,
                    seed=seed, split_seed=split, test_fraction=0.2,
                )  # fmt: skip
    [test] = [test for test in comparison_of(tmp_path).pairs if test.metric == "accuracy"]
    assert abs(test.difference) < 0.05 and test.p_images > 0.05


def test_the_neighbour_that_is_named_is_the_nearest(equal: Comparison) -> None:
    standing = equal.standings["accuracy"]
    values = {str(row.cell): row.values["accuracy"].value for row in equal.rows}
    best = max(values, key=lambda cell: values[cell])
    own = {
        (set(pair) - {best}).pop(): test
        for test in equal.pairs
        if test.metric == "accuracy" and best in (pair := (test.first, test.second))
    }
    nearest = max(own, key=lambda c: (own[c].p_images_holm, own[c].p_images))
    assert f"nearest to equal: {nearest}" in standing.verdict
