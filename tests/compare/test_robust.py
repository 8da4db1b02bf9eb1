"""Whether a verdict holds by other metrics, other test images and another kept epoch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.compare.__main__ import main
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.reading import runs_in_folder
from skinml.compare.robust import (
    CANNOT,
    DIFFERS,
    HOLDS,
    METRICS,
    OWN,
    REVERSED,
    check_robustness,
    summaries,
)
from skinml.compare.runs import CellName
from skinml.compare.selection import select
from skinml.data.duplicates import NEAR_DUPLICATES
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions
from tests.compare.conftest import made_up, write_run

FIRST, SECOND = CellName("mobilenet", 16), CellName("mobilenetv2", 16)


def write_two(folder: Path, skills: tuple[float, float], near: int = 0, **options: Any) -> Path:
    """Three seeds of each of two networks; so many test images have a near-duplicate."""
    for model, skill in zip(("mobilenet", "mobilenetv2"), skills, strict=True):
        for seed in range(3):
            table = made_up(skill, [len(model), seed])
            known = [group[0] for group in NEAR_DUPLICATES[:near]]
            ids = np.array([*known, *(f"ISIC_9{n:06d}" for n in range(near, len(table.labels)))])
            write_run(folder, replace(table, image_ids=ids), model=model, seed=seed,
                      started=seed + 10 * len(options), **options)  # fmt: skip
    return folder


def compared(folder: Path) -> Comparison:
    return analyse(select(runs_in_folder(folder), [FIRST, SECOND]), resamples=40)


def test_a_clear_winner_wins_by_every_metric_and_part(tmp_path: Path) -> None:
    comparison = compared(write_two(tmp_path, (5, 0.5), near=4))
    found = check_robustness(comparison)
    assert {each.finding.metric for each in found.analyses} == set(METRICS)
    assert {each.images for each in found.analyses} == {"all 165", "161, no near-duplicates"}
    assert [each.against for each in found.analyses].count(OWN) == 2
    assert {each.against for each in found.analyses} == {HOLDS, OWN}
    assert {each.finding.winner for each in found.analyses} == {FIRST}
    assert summaries(comparison, found) == [
        "Accuracy, mobilenet-16 wins: holds in 3 of 3 other analyses.",
        "AUC (weighted), mobilenet-16 wins: holds in 5 of 5 other analyses.",
    ]


def test_the_reports_own_analysis_is_among_them(tmp_path: Path) -> None:
    """The same code with fewer metrics: winner and words are those of the report."""
    comparison = compared(write_two(tmp_path, (1.2, 1.0)))
    found = check_robustness(comparison)
    for metric, standing in comparison.standings.items():
        [own] = [each for each in found.analyses if each.finding.metric == metric]
        assert own.finding.verdict == standing.verdict and own.against == OWN


def test_what_the_tables_cannot_tell_is_said(tmp_path: Path) -> None:
    found = check_robustness(compared(write_two(tmp_path, (2, 1))))
    assert len(found.analyses) == len(METRICS)
    assert sorted(text.split(":")[0] for text in found.left_out) == [
        "kept epoch by validation accuracy",
        "kept epoch by validation loss",
        "kept epoch the last",
        "without near-duplicates",
    ]


def test_runs_that_kept_another_epoch_are_asked_too(tmp_path: Path) -> None:
    """The report is of those by macro AUC, where the first wins; by accuracy the other one does."""
    write_two(tmp_path / "loss", (0.5, 5), monitor="accuracy")
    write_two(tmp_path / "auc", (5, 0.5), monitor="auc_macro", register=False)
    comparison = compared(tmp_path)
    assert {run.setting("monitor") for run in comparison.selection.runs} == {"auc_macro"}
    found = check_robustness(comparison)
    by_rule = {rule: {e.against for e in found.analyses if e.rule == rule}
               for rule in ("auc_macro", "accuracy")}  # fmt: skip
    assert by_rule == {"auc_macro": {HOLDS, OWN}, "accuracy": {REVERSED}}
    told = "by Accuracy, test images all 165, epoch kept by accuracy (mobilenetv2-16 wins)"
    assert any(told in text for text in summaries(comparison, found))


def test_runs_of_another_recipe_are_none_of_another_kept_epoch(tmp_path: Path) -> None:
    """Their head, epochs and views differ too: what they say is not of the rule."""
    write_two(tmp_path / "ours", (0.5, 5), recipe="ours")
    write_two(tmp_path / "paper", (5, 0.5), recipe="paper", register=False)
    comparison = compared(tmp_path)
    assert {run.setting("monitor") for run in comparison.selection.runs} == {"auc_macro"}
    assert {run.setting("monitor") for run in comparison.selection.same_test_set} > {"auc_macro"}
    found = check_robustness(comparison)
    assert {each.rule for each in found.analyses} == {"auc_macro"}
    assert any(text.startswith("kept epoch the last: no such runs") for text in found.left_out)


def test_a_winner_that_other_metrics_do_not_show_is_told(tmp_path: Path) -> None:
    """Better by many nevi, worse in the classes that are few: not by balanced accuracy."""
    for model in ("mobilenet", "mobilenetv2"):
        for seed in range(3):
            table = made_up(1.5, [len(model), seed])
            scores = table.scores * ([1, 30, 1] if model == "mobilenet" else [1, 1, 1])
            table = Predictions(table.image_ids, table.labels, scores, CLASSES)
            write_run(tmp_path, table, model=model, seed=seed)
    comparison = compared(tmp_path)
    found = check_robustness(comparison)
    balanced = next(e for e in found.analyses if e.finding.metric == "sensitivity_macro")
    assert balanced.finding.winner == SECOND and balanced.against == DIFFERS


@pytest.mark.parametrize(
    ("seeds", "own", "why"), [(1, {}, "it takes 3 pairs"), (3, {"epochs_finetune": 9}, "alike")]
)
def test_where_no_analysis_could_name_a_winner_no_verdict_is_said_to_hold(
    tmp_path: Path, seeds: int, own: dict[str, int], why: str
) -> None:
    """It would hold of any figures at all: what stays the same of these networks is told."""
    for model, skill in (("mobilenet", 5), ("mobilenetv2", 0.5)):
        for seed in range(seeds):
            write_run(tmp_path, made_up(skill, [len(model), seed]), model=model, seed=seed,
                      **(own if model == "mobilenet" else {}))  # fmt: skip
    comparison = compared(tmp_path)
    found = check_robustness(comparison)
    assert {each.against for each in found.analyses} == {CANNOT, OWN}
    told, _ = summaries(comparison, found)
    assert "no analysis could have named a winner, as" in told and why in told
    assert "holds in" not in told
    assert "is of the same cell (mobilenet-16) in 3 of the 3 analyses beside the report's" in told
    assert told.endswith("and the same differences are shown over images in 3.")


@pytest.mark.parametrize("form", ["terminal", "json", "markdown", "latex"])
def test_every_report_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    folder = write_two(tmp_path, (5, 0.5))
    arguments = ["--from", str(folder), "--grid", "none", "--robust", "--format", form]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    if form == "json":
        rows = json.loads(text)["robustness"]
        assert [row["metric"] for row in rows] == list(METRICS)
        assert {row["winner"] for row in rows} == {"mobilenet-16"}
    else:
        assert "Does the verdict hold?" in text and "holds in 1 of 1 other analyses" in text
        assert "Not done, kept epoch by validation loss" in text.replace("\n  ", " ")


def test_the_known_near_duplicates_are_groups_of_ids_of_their_own() -> None:
    ids = [image for group in NEAR_DUPLICATES for image in group]
    assert len(NEAR_DUPLICATES) == 22 and len(ids) == len(set(ids)) == 44
    assert all(image.startswith("ISIC_") and len(image) == 12 for image in ids)
