"""Thresholds that each run chose on its validation part, and whether two cells differ there."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.compare.__main__ import main
from skinml.compare.comparison import Points, Row
from skinml.compare.document import Text
from skinml.compare.evidence import Images
from skinml.compare.points import MATCHED, find_points, points_section, redrawn_sensitivity
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import CellName
from skinml.evaluation.operating_point import RULES, Scored, operating_points
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights
from tests.compare.conftest import made_up, write_run

# The images of the validation part: others than those of the test part, 0.
VALIDATION = 7


def tables(skill: float, seed: int) -> dict[str, Any]:
    return {
        "table": made_up(skill, [seed]),
        "validation": made_up(skill, [seed, 1], VALIDATION),
    }


def rows_of(folder: Path) -> tuple[list[Row], Images]:
    """The cells of a folder of runs, with nothing of what a comparison computes beside."""
    runs = runs_in_folder(folder)
    cells = sorted({run.cell for run in runs})
    rows = [Row(c, tuple(r for r in runs if r.cell == c), (), {}, {}, None, {}) for c in cells]
    return rows, Images(runs)


def points_of(folder: Path) -> Points:
    return find_points(*rows_of(folder))


def test_one_run_has_the_figures_and_intervals_of_its_own_report(tmp_path: Path) -> None:
    own = tables(1.5, 0)
    write_run(tmp_path, **own)
    [rates] = points_of(tmp_path).rates.values()
    scored = [Scored.of(own[part], "melanoma") for part in ("validation", "table")]
    for point in operating_points(scored[0], scored[1]):
        found, spared = rates[point.rule.name]
        assert found == (point.test.sensitivity, *point.intervals["sensitivity"])
        assert spared == (point.test.specificity, *point.intervals["specificity"])


def test_a_cell_is_the_mean_of_its_runs_each_at_its_own_threshold(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, **tables(1.5, seed), seed=seed)
    [rates] = points_of(tmp_path).rates.values()
    for rule in RULES:
        each = []
        for seed in (0, 1):
            own = tables(1.5, seed)
            (threshold,) = Scored.of(own["validation"], "melanoma").choose(rule)
            each.append(Scored.of(own["table"], "melanoma").rates(threshold))
        assert rates[rule.name][0].value == pytest.approx(np.mean([e.sensitivity for e in each]))
        assert rates[rule.name][1].value == pytest.approx(np.mean([e.specificity for e in each]))


def test_resamples_are_drawn_images_and_a_threshold_chosen_anew() -> None:
    """Against a plain loop over thresholds, with the images drawn out."""
    own = tables(1.0, 3)
    validation, test = (Scored.of(own[part], "melanoma") for part in ("validation", "table"))
    weights = bootstrap_weights(330, 60, seed=4)
    found = redrawn_sensitivity(validation, test, weights[:, :165], weights[:, 165:])
    draws = []
    for row in weights.astype(int):
        on_validation, on_test = (np.repeat(np.arange(165), n) for n in np.split(row, 2))
        others = validation.scores[on_validation][~validation.positive[on_validation]]
        enough = [t for t in validation.scores if (others < t).mean() >= MATCHED.least - 1e-12]
        lowest = min(enough, default=math.inf)
        draws.append((test.scores[on_test] >= lowest)[test.positive[on_test]].mean())
    moved = found.influence * math.sqrt(59)
    assert moved == pytest.approx(np.array(draws) - np.mean(draws))
    assert found.standard_error == pytest.approx(np.std(draws, ddof=1))


def test_a_better_network_is_shown_and_an_equal_one_is_not(tmp_path: Path) -> None:
    write_run(tmp_path, **tables(3.5, 0), model="mobilenet")
    write_run(tmp_path, **tables(1.0, 1), model="mobilenetv2")
    write_run(tmp_path, **tables(1.0, 2), model="nasnetmobile")
    points = points_of(tmp_path)
    by_pair = {(test.first, test.second): test for test in points.tests}
    better = by_pair["mobilenet-16", "mobilenetv2-16"]
    rates = {str(cell): by_rule[MATCHED.name][0].value for cell, by_rule in points.rates.items()}
    assert better.difference == pytest.approx(rates["mobilenet-16"] - rates["mobilenetv2-16"])
    assert better.p_images_holm < 0.01 and better.low > 0
    equal = by_pair["mobilenetv2-16", "nasnetmobile-16"]
    assert equal.p_images_holm > 0.05 and equal.low < 0 < equal.high
    assert all(test.family == 3 and math.isnan(test.p_seeds) for test in points.tests)


def test_runs_are_paired_by_image_whatever_their_order(tmp_path: Path) -> None:
    one, other = tables(1.2, 0), tables(0.8, 1)
    turned = {
        name: replace(t, image_ids=t.image_ids[::-1], labels=t.labels[::-1], scores=t.scores[::-1])
        for name, t in other.items()
    }
    for folder, second in (("straight", other), ("turned", turned)):
        write_run(tmp_path / folder, **one, model="mobilenet")
        write_run(tmp_path / folder, **second, model="mobilenetv2")
    [straight], [again] = (points_of(tmp_path / name).tests for name in ("straight", "turned"))
    assert straight.p_images == pytest.approx(again.p_images)
    assert straight.difference == again.difference


def test_copies_of_a_network_are_not_tested(tmp_path: Path) -> None:
    for model in ("mobilenet", "mobilenetv2"):
        write_run(tmp_path, **tables(1.0, 0), model=model)
    assert points_of(tmp_path).tests == ()


def test_too_few_melanomas_carry_no_interval_and_no_test(tmp_path: Path) -> None:
    for seed, model in enumerate(("mobilenet", "mobilenetv2")):
        own = tables(1.0, seed)
        few = np.flatnonzero((own["validation"].labels != 0) | (np.arange(165) < 5))
        table = own["validation"]
        own["validation"] = Predictions(
            table.image_ids[few], table.labels[few], table.scores[few], table.classes
        )
        write_run(tmp_path, **own, model=model)
    points = points_of(tmp_path)
    found, _ = points.rates[CellName("mobilenet", 16)][MATCHED.name]
    assert math.isfinite(found.value) and math.isnan(found.low)
    [test] = points.tests
    assert math.isfinite(test.difference) and math.isnan(test.p_images) and math.isnan(test.low)


def test_without_a_validation_table_or_a_melanoma_there_is_a_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "one", **tables(1.0, 0))
    write_run(tmp_path / "one", made_up(1.0, [1]), model="mobilenet")
    rows, images = rows_of(tmp_path / "one")
    points = find_points(rows, images)
    _, told = points_section(rows, points, all_pairs=False)
    assert told == Text(
        "No thresholds: 1 of 2 runs have no validation table, on which thresholds are chosen."
    )
    other = {name: replace(t, classes=("a", "b", "c")) for name, t in tables(1.0, 0).items()}
    write_run(tmp_path / "two", **other)
    assert points_of(tmp_path / "two").without == "none of the classes is called melanoma"


def test_an_exported_comparison_keeps_what_thresholds_are_chosen_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_run(source, **tables(2.0, 0), model="mobilenet")
    write_run(source, **tables(1.0, 1), model="mobilenetv2")
    assert main(["--from", str(source), "--grid", "none", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["--from", str(out / "runs"), "--grid", "none", "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)["operating_points"]
    assert json.loads((out / "comparison.json").read_text())["operating_points"] == again
    assert set(again["cells"]) == {"mobilenet-16", "mobilenetv2-16"}
    text = " ".join((out / "report.md").read_text().split())
    assert "Melanoma: sensitivity on test, at the threshold chosen for" in text
    assert "The specificity is matched where it was chosen: on test it is 0." in text
