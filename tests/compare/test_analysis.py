"""What a comparison says, held against what is known of made-up networks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from skinml.base.errors import UserError
from skinml.compare.analysis import analyse
from skinml.compare.claims import claims
from skinml.compare.comparison import VERDICT_METRICS, Comparison
from skinml.compare.paired import format_p
from skinml.compare.published.table import paper_values
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import CellName, paper_grid
from skinml.compare.selection import select
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals
from tests.compare.conftest import made_up, write_grid, write_run


def comparison_of(folder: Path, resamples: int = 300) -> Comparison:
    return analyse(select(runs_in_folder(folder)), resamples)


@pytest.fixture(scope="module")
def equal(nine: Path) -> Comparison:
    return comparison_of(nine)


def test_a_comparison_in_numbers_loads_no_slow_package(nine: Path) -> None:
    """SciPy's and statsmodels' tests take as long to import as the whole rest."""
    probe = (
        "import sys; from skinml.compare.__main__ import main; code = main(sys.argv[1:]); "
        "slow = {'scipy.stats', 'statsmodels', 'sklearn', 'matplotlib', 'pandas'}; "
        "sys.exit(code or ', '.join(slow & sys.modules.keys()) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe, "--from", str(nine), "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["winners"] == {"accuracy": None, "auc_weighted": None}


def test_networks_of_the_same_skill_have_no_winner(equal: Comparison) -> None:
    for metric in VERDICT_METRICS:
        assert equal.standings[metric].winner is None
        assert "no winner" in equal.standings[metric].verdict


def test_one_run_of_each_shows_something_of_trained_networks_alone(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path, lambda model, size: 5 if (model, size) == ("mobilenet", 32) else 0.5
    )
    for standing in comparison_of(folder).standings.values():
        assert standing.winner is None
        assert standing.probability_best[CellName("mobilenet", 32)] > 0.99
        assert "no winner among the configurations. On images like these" in standing.verdict
        assert "trained network mobilenet-32" in standing.verdict
        assert "1 run of each with the same seeds cannot tell; it takes 3" in standing.verdict


def test_networks_that_were_not_trained_alike_have_no_winner(tmp_path: Path) -> None:
    for name, skill, epochs in (("mobilenet", 5, 40), ("mobilenetv2", 0.5, 4)):
        for seed in range(4):
            table = made_up(skill, [epochs, seed])
            write_run(tmp_path, table, model=name, epochs_finetune=epochs, seed=seed)
    for standing in comparison_of(tmp_path).standings.values():
        assert standing.winner is None
        assert "not trained alike (epochs_finetune): nothing follows" in standing.verdict


def test_enough_seeds_show_that_a_configuration_wins(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path, lambda model, _: 4 if model == "mobilenet" else 0.5,
        seeds=range(4), models=("mobilenet", "mobilenetv2"), sizes=(16,),
    )  # fmt: skip
    found = comparison_of(folder)
    for metric, standing in found.standings.items():
        assert standing.winner == CellName("mobilenet", 16)
        assert "over images like these and over 4 trainings of each" in standing.verdict
        [test] = [test for test in found.pairs if test.metric == metric]
        assert 0 < test.p_images <= test.p_seeds < 0.05


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_give_no_test_over_seeds(tmp_path: Path, seeds: int) -> None:
    folder = write_grid(
        tmp_path, seeds=range(seeds), models=("mobilenet", "mobilenetv2"), sizes=(16,)
    )
    assert all(np.isnan([t.p_seeds, t.p_seeds_holm]).all() for t in comparison_of(folder).pairs)


def two_networks(
    folder: Path, first: dict[int, float], second: dict[int, float], **options: Any
) -> Comparison:
    """Seed → skill of the runs of mobilenet and of mobilenetv2."""
    for model, skills in (("mobilenet", first), ("mobilenetv2", second)):
        for seed, skill in skills.items():
            write_run(folder, made_up(skill, [len(model), seed]), model=model, seed=seed, **options)
    return comparison_of(folder)


def test_seeds_that_the_other_lacks_do_not_make_a_winner(tmp_path: Path) -> None:
    """The first is worse in all six seeds that both have, and has five perfect ones beside them."""
    shared = dict.fromkeys(range(6), 0.5)
    found = two_networks(
        tmp_path, shared | dict.fromkeys(range(6, 11), 30.0), dict.fromkeys(range(6), 0.9)
    )
    for standing in found.standings.values():
        assert (
            found.rows[0].values[standing.metric].value
            > found.rows[1].values[standing.metric].value
        )
        assert standing.winner is None
        assert "in the runs with the same seeds it is not above mobilenetv2-16" in standing.verdict
    for test in found.pairs:
        assert test.pairs == 6 and test.difference < 0


def test_a_difference_is_that_of_the_runs_it_is_tested_with(tmp_path: Path) -> None:
    found = two_networks(tmp_path, {0: 1, 1: 2, 2: 3, 9: 9}, {0: 1.5, 1: 1, 2: 1, 8: 0})
    by_seed = [
        {run.tags["seed"]: values for run, values in zip(row.runs, row.by_run, strict=True)}
        for row in found.rows
    ]
    for test in found.pairs:
        steps = [by_seed[0][seed][test.metric] - by_seed[1][seed][test.metric] for seed in "012"]
        assert test.difference == pytest.approx(np.mean(steps))


def test_without_a_shared_seed_nobody_wins(tmp_path: Path) -> None:
    found = two_networks(tmp_path, dict.fromkeys(range(5), 5.0), dict.fromkeys(range(5, 10), 0.5))
    for standing in found.standings.values():
        assert standing.winner is None and "no run of each with the same seeds" in standing.verdict


def test_a_seed_repeated_is_no_further_seed(tmp_path: Path) -> None:
    """Runs with the same predictions count once, and change no p-value."""
    for number in (1, 6):
        for model, skill in (("mobilenet", 2.0), ("mobilenetv2", 1.0)):
            for seed in range(number):
                table = made_up(skill, [len(model)])
                write_run(tmp_path / str(number), table, model=model, seed=seed)
    one, six = (comparison_of(tmp_path / str(number)) for number in (1, 6))
    for alone, repeated in zip(one.pairs, six.pairs, strict=True):
        assert repeated.pairs == 1 and np.isnan(repeated.p_seeds)
        assert repeated.p_images == pytest.approx(alone.p_images, rel=1e-9)
    assert all(standing.winner is None for standing in six.standings.values())


def test_cells_that_answer_alike_are_tested_once(tmp_path: Path) -> None:
    """Five networks that answer nevus are one contrast to a sixth, not five, and no pair of 15."""
    nevus = made_up(1, [1])
    nevus.scores[:] = np.eye(3)[np.full(len(nevus.labels), nevus.classes.index("nevus"))]
    for model in ("mobilenet", "nasnetmobile"):
        for size in (16, 32):
            write_run(tmp_path, nevus, model=model, batch_size=size)
    write_run(tmp_path, made_up(3, [1]), model="mobilenetv2")
    found = comparison_of(tmp_path)
    for metric, standing in found.standings.items():
        [test] = [test for test in found.pairs if test.metric == metric]
        assert test.family == 1 and test.p_images_holm == test.p_images
        assert list(map(len, standing.alike)) == [4]
        assert standing.detectable > 0.01
    alike = comparison_of(write_alike(tmp_path / "all", nevus))
    for standing in alike.standings.values():
        assert standing.winner is None and np.isnan(standing.detectable)
        assert "mobilenet-16, mobilenet-32 have the highest value" in standing.verdict
        assert "they cannot be told apart" in standing.verdict


def test_sentences_name_all_cells_that_answer_alike(tmp_path: Path) -> None:
    """Those of a group are tested once, and none of them is passed over for that."""
    low, middle = made_up(0.2, [1]), made_up(1.5, [1])
    for size, table in ((16, made_up(9, [1])), (32, low), (64, low)):
        write_run(tmp_path, table, model="mobilenet", batch_size=size, test_fraction=0.2)
    verdict = comparison_of(tmp_path).standings["accuracy"].verdict
    assert "is better than mobilenet-32/mobilenet-64 (largest" in verdict
    write_run(tmp_path, middle, model="mobilenetv2", test_fraction=0.2)
    assert "each of the 3 others" in comparison_of(tmp_path).standings["accuracy"].verdict
    write_run(tmp_path, low, model="nasnetmobile", test_fraction=0.2)
    found = comparison_of(tmp_path)
    assert "otherwise, mobilenet-16, mobilenetv2-16 are better" in claims(found)[1]


def test_planned_tests_of_the_same_answers_are_corrected_as_one(tmp_path: Path) -> None:
    """32 is a copy of 64: 16 against either is one test, and 32 against 64 is none."""
    low = made_up(1.0, [1])
    for size, table in ((16, made_up(1.6, [1])), (32, low), (64, low)):
        write_run(tmp_path, table, model="mobilenet", batch_size=size)
    tests = [t for t in comparison_of(tmp_path).planned["batch size"] if t.metric == "accuracy"]
    assert [(t.first[-2:], t.second[-2:]) for t in tests] == [("16", "32"), ("16", "64"),
                                                              ("32", "64")]  # fmt: skip
    assert [t.family for t in tests] == [1, 1, 1] and tests[0].difference > 0
    assert tests[0].p_images_holm == tests[1].p_images_holm == tests[0].p_images < 1
    assert tests[2].p_images_holm == 1 and tests[0].difference == tests[1].difference


def test_a_planned_test_asked_both_ways_round_is_one(tmp_path: Path) -> None:
    """64 is a copy of 16: the differences of 32 from both are one, with the signs turned."""
    high = made_up(1.6, [1])
    for size, table in ((16, high), (32, made_up(1.0, [1])), (64, high)):
        write_run(tmp_path, table, model="mobilenet", batch_size=size)
    tests = [t for t in comparison_of(tmp_path).planned["batch size"] if t.metric == "accuracy"]
    first, _, last = tests
    assert (last.difference, last.low, last.high) == (-first.difference, -first.high, -first.low)
    assert first.family == last.family == 1 and first.difference > 0


def write_alike(folder: Path, table: Predictions) -> Path:
    for size in (16, 32):
        write_run(folder, table, model="mobilenet", batch_size=size)
    return folder


def test_what_too_few_images_carry_is_not_computed(tmp_path: Path) -> None:
    """One melanoma: no p-value of an AUC that it is part of, nor an interval, nor a winner."""
    for model, skill in (("mobilenet", 5.0), ("mobilenetv2", 0.2)):
        for seed in range(4):
            table = made_up(skill, [len(model), seed])
            kept = table.labels != table.classes.index("melanoma")
            kept[np.flatnonzero(~kept)[0]] = True
            few = Predictions(
                table.image_ids[kept], table.labels[kept], table.scores[kept], CLASSES
            )
            write_run(tmp_path, few, model=model, seed=seed)
    found = comparison_of(tmp_path)
    [test] = [test for test in found.pairs if test.metric == "auc_weighted"]
    assert np.isnan([test.p_images, test.p_images_holm, test.p_seeds, test.low, test.high]).all()
    standing = found.standings["auc_weighted"]
    assert standing.winner is None and "too few images carry them" in standing.verdict
    for name in ("auc_weighted", "auc_macro", "melanoma_auc", "sensitivity_melanoma"):
        assert np.isnan(found.rows[0].values[name].low)
    assert np.isfinite(found.rows[0].values["specificity_melanoma"].low)


def test_two_images_show_nothing(tmp_path: Path) -> None:
    for model, right in (("mobilenet", True), ("mobilenetv2", False)):
        for seed in range(2):
            labels = np.array([0, 1])
            answers = labels if right else 1 - labels
            scores = 0.9 * np.eye(3)[answers] + 0.1 / 3
            table = Predictions(np.array(["a", "b"]), labels, scores, CLASSES)
            write_run(tmp_path, table, model=model, seed=seed)
    found = comparison_of(tmp_path)
    assert all(standing.winner is None for standing in found.standings.values())
    [test] = [test for test in found.pairs if test.metric == "accuracy"]
    assert test.p_images == 0.5


def test_a_perfect_classifier_has_the_intervals_of_what_carries_them(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(60, [1]))
    [row] = comparison_of(tmp_path).rows
    images = len(row.runs[0].predictions.labels)
    for name, carriers in {
        "accuracy": images, "precision_weighted": images, "f1_weighted": images,
        "melanoma_auc": 40, "keratosis_auc": 35, "auc_macro": 35, "sensitivity_melanoma": 40,
        "specificity_melanoma": images - 40,
    }.items():  # fmt: skip
        value = row.values[name]
        expected = proportion_confint(carriers, carriers, 0.05, method="wilson")
        assert (value.value, value.low, value.high) == pytest.approx((1, *expected))


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
    right = [(t.predicted == t.labels) for t in (tables[test.first], tables[test.second])]
    counts = [[np.sum(a & b) for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
    assert test.p_images == pytest.approx(mcnemar(counts, exact=True).pvalue, rel=1e-9)


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
        more = type(table)(ids, np.tile(table.labels, 4), np.tile(table.scores, (4, 1)), CLASSES)
        write_run(many, more, model=model)
    small, large = (comparison_of(f).standings["accuracy"].detectable for f in (few, many))
    assert small / large == pytest.approx(2, rel=0.01)


def test_runs_tested_on_different_images_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet")
    table = made_up(1, [2])
    write_run(
        tmp_path, type(table)(table.image_ids[1:], table.labels[1:], table.scores[1:], CLASSES),
        model="mobilenetv2",
    )  # fmt: skip
    with pytest.raises(UserError, match="tested on different images"):
        comparison_of(tmp_path)


def test_runs_that_disagree_on_a_label_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet")
    table = made_up(1, [2])
    labels = table.labels.copy()
    labels[0] = 2
    write_run(
        tmp_path, type(table)(table.image_ids, labels, table.scores, CLASSES), model="mobilenetv2"
    )
    with pytest.raises(UserError, match=f"{table.image_ids[0]} has another label"):
        comparison_of(tmp_path)


def test_a_single_cell_is_no_contest(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]))
    found = comparison_of(tmp_path)
    assert found.pairs == ()
    assert "there is one configuration" in found.standings["accuracy"].verdict


def test_the_order_of_images_in_a_table_does_not_matter(tmp_path: Path) -> None:
    table = made_up(1, [2])
    order = np.random.default_rng(3).permutation(len(table.labels))
    mixed = type(table)(table.image_ids[order], table.labels[order], table.scores[order], CLASSES)
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
    assert f"least clear: {nearest}" in standing.verdict


def two_of_splits(folder: Path, seeds: int, splits: int) -> Comparison:
    """A clearly better network, with so many seeds in each of so many splits."""
    write_grid(
        folder, lambda model, _: 5 if model == "mobilenet" else 0.5, seeds=range(seeds),
        splits=range(splits), models=("mobilenet", "mobilenetv2"), sizes=(16,),
    )  # fmt: skip
    return comparison_of(folder)


def test_one_seed_of_three_splits_is_no_three_seeds(tmp_path: Path) -> None:
    """What is the split in it and what is the seed nobody can tell, and the splits share images."""
    found = two_of_splits(tmp_path, seeds=1, splits=3)
    assert {(test.pairs, test.seeds) for test in found.pairs} == {(3, 1)}
    for standing in found.standings.values():
        assert standing.winner is None
        assert "3 different runs of each in 3 splits cannot tell" in standing.verdict
    assert all(np.isnan(test.p_seeds) for test in found.pairs)


def test_further_seeds_of_several_splits_count_together(tmp_path: Path) -> None:
    """Two seeds in each of two splits: one further seed in each."""
    found = two_of_splits(tmp_path, seeds=2, splits=2)
    assert {(test.pairs, test.seeds) for test in found.pairs} == {(4, 3)}
    for test in found.pairs:
        assert test.components is not None and np.isfinite(test.p_seeds)
        assert list(test.components.parts()) == ["images", "interaction", "seeds", "splits"]


def test_a_mean_of_several_networks_is_not_told_of_one(tmp_path: Path) -> None:
    """One seed makes all of it: better as trained, not shown over seeds, of one difference."""
    for seed, skill in enumerate((9, 0.9, 0.3)):
        write_run(tmp_path, made_up(skill, [1, seed]), model="mobilenet", seed=seed)
        write_run(tmp_path, made_up(0.5, [2, seed]), model="mobilenetv2", seed=seed)
    verdict = analyse(select(runs_in_folder(tmp_path), []), 50).standings["accuracy"].verdict
    assert "the 3 trained networks of mobilenet-16 (0." in verdict
    assert "are on average better than mobilenetv2-16" in verdict
    assert "the images together the one difference is not shown." in verdict
