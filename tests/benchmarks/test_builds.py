"""The comparison of two builds: its generated runs are those of a complete comparison."""

import sys
from pathlib import Path

import pytest

from benchmarks import builds
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import paper_grid
from skinml.compare.selection import select


def test_the_generated_runs_are_nine_cells_with_three_seeds_each(tmp_path: Path) -> None:
    builds.write_runs(tmp_path)
    selection = select(runs_in_folder(tmp_path))
    assert list(selection.cells) == paper_grid() and not selection.differences
    assert {len(runs) for runs in selection.cells.values()} == {3}
    assert {len(run.predictions.labels) for run in selection.runs} == {550}


def test_a_build_that_fails_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in a second would pass for a fast comparison."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError):
        builds.measured(tmp_path, tmp_path, "json", {str(tmp_path): []})
