"""The groups of the test images in a comparison: each run's own figures, or no section at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from skinml.compare.comparison import Row
from skinml.compare.document import Details, Table
from skinml.compare.groups import groups_section
from skinml.compare.reading import runs_in_folder
from skinml.evaluation.operating_point import RULES, Scored
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.subgroups import figures_of_groups
from tests.compare.conftest import made_up, write_run

# 165 images, 40 melanomas first: of the first and the others half each is male.
SEX = np.resize(["female", "male"], 165)


def sections_of(folder: Path) -> list[Details]:
    runs = runs_in_folder(folder)
    cells = sorted({run.cell for run in runs})
    rows = [Row(c, tuple(r for r in runs if r.cell == c), (), {}, {}, None, {}) for c in cells]
    return [block for block in groups_section(rows) if isinstance(block, Details)]


def tables_of(folder: Path) -> dict[str, Table]:
    blocks = sections_of(folder)
    return {t.title: t for block in blocks for t in block.blocks if isinstance(t, Table)}


def of_seed(seed: int) -> Predictions:
    return replace(made_up(1.5, [seed]), subgroups={"sex": SEX})


def test_a_single_run_has_its_own_figures_and_intervals(tmp_path: Path) -> None:
    validation = made_up(1.5, [0, 1], 7)
    write_run(tmp_path, of_seed(0), validation=validation)
    found = tables_of(tmp_path)
    (threshold,) = Scored.of(validation, "melanoma").choose(RULES[0])
    own = {(f.metric, f.group): f.own for f in figures_of_groups(of_seed(0), "melanoma", threshold)}
    assert set(found) == {"melanoma: AUC", "melanoma: sensitivity", "melanoma: specificity"}
    for title, table in found.items():
        assert table.columns[2:] == ("sex: female", "sex: male")
        metric = title.partition(": ")[2].lower()
        for cell, group in zip(table.rows[0][2:], ("female", "male"), strict=True):
            value = own[metric, group]
            assert cell.text == f"{value.value:.2f}"
            assert cell.note == f"{value.low:.2f}–{value.high:.2f}"


def test_several_runs_are_a_mean_with_the_lowest_and_highest(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, of_seed(seed), seed=seed, started=seed)
    [table] = tables_of(tmp_path).values()  # No validation tables: no thresholds.
    values = [figures_of_groups(of_seed(seed), "melanoma")[0].own.value for seed in (0, 1)]
    cell = table.rows[0][2]
    assert cell.text == f"{np.mean(values):.2f}"
    assert cell.note == f"{min(values):.2f}–{max(values):.2f}"


def test_a_folded_table_says_which_groups_differ(tmp_path: Path) -> None:
    """One network tells the melanomas of women apart, and not those of men; another tells both.

    Men are the rest of women: one test, which is told once.
    """
    table = of_seed(0)
    scores = np.where((SEX == "male")[:, None], made_up(0, [9]).scores, made_up(2, [0]).scores)
    write_run(tmp_path / "blind", replace(table, scores=scores))
    [section] = sections_of(tmp_path / "blind")
    assert section.summary == (
        "By group, melanoma: AUC: shown to differ from the rest: sex: female (mobilenetv2-16)"
    )
    write_run(tmp_path / "even", table)
    [section] = sections_of(tmp_path / "even")
    assert section.summary.endswith("AUC: no group is shown to differ from the rest")


def test_without_anything_known_there_is_no_section(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1.5, [0]))
    assert tables_of(tmp_path) == {}
