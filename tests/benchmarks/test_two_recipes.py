"""Two recipes beside each other: every figure follows from the committed predictions tables."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from benchmarks.two_recipes import cells_of, main, mean_of
from skinml.base.errors import UserError
from skinml.compare import paired
from skinml.evaluation.predictions import read_predictions

RESULTS = Path(__file__).parents[2] / "results"
FIRST, SECOND = RESULTS / "nine-runs", RESULTS / "real-table-ours"


def test_a_row_has_the_figures_of_both_and_their_paired_difference() -> None:
    cells = {cell.name: cell for cell in cells_of(FIRST, SECOND)}
    cell = cells["mobilenet-16"]
    tables = [
        read_predictions(run / "predictions_test.csv")
        for run in (
            FIRST / "runs" / "mobilenet-16-seed1-split0",
            SECOND / "mobilenet-16-seed1",
        )
    ]
    for k, table in enumerate(tables):
        right = accuracy_score(table.labels, table.predicted)
        assert cell.figures["accuracy"][k].value == pytest.approx(right)
        area = roc_auc_score(table.labels, table.scores, multi_class="ovr", average="weighted")
        assert cell.figures["auc_weighted"][k].value == pytest.approx(area)
    # Of 0, 1 and -1, as only images count that one answers rightly and the other does not.
    changes = np.subtract(*[(t.predicted == t.labels).astype(float) for t in reversed(tables)])
    change = paired.difference(*reversed(cell.figures["accuracy"]))
    assert change.value == pytest.approx(changes.mean())
    assert change.standard_error == pytest.approx(changes.std(ddof=1) / np.sqrt(len(changes)))


def test_the_last_row_is_the_mean_of_the_others_and_all_their_minutes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = cells_of(FIRST, SECOND)
    whole = mean_of(cells)
    values = [cell.figures["auc_weighted"][1].value for cell in cells]
    assert whole.figures["auc_weighted"][1].value == pytest.approx(np.mean(values))
    assert whole.minutes[0] == pytest.approx(sum(cell.minutes[0] for cell in cells))
    assert main([str(FIRST), str(SECOND)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"| mean of the {len(cells)}")
    assert f"→ {np.mean(values):.3f}" in last


def test_runs_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(UserError, match="no cell of one seed is in both"):
        cells_of(FIRST, RESULTS / "challenge-each-network")
    with pytest.raises(UserError, match="other test images"):
        cells_of(SECOND, RESULTS / "challenge-mobilenet-16")
