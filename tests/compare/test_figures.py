"""The figures of a comparison: what they show, and that the same runs give the same picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skinml.compare.analysis import analyse
from skinml.compare.comparison import Answer, Comparison, SamePicture
from skinml.compare.figures import FIGURES, draw_figures, pareto_front
from skinml.compare.reading import runs_in_folder
from skinml.compare.selection import select
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import drawing
from tests.compare.conftest import made_up, write_grid, write_run


@pytest.fixture(scope="module")
def comparison(nine: Path) -> Comparison:
    found = analyse(select(runs_in_folder(nine)), 200)
    values = np.arange(49, dtype=np.uint8).reshape(7, 7)
    answers = {row.cell: Answer("nevus", 0.5, values) for row in found.rows}
    shown = SamePicture("a picture", "melanoma", np.zeros((224, 224, 3), np.uint8), answers)
    return replace(found, pictures=(shown, shown))


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    costs = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    gains = np.array([0.9, 0.5, 0.7, 0.8, 0.9])
    assert pareto_front(costs, gains).tolist() == [1, 3, 0]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_every_cell(comparison: Comparison, name: str) -> None:
    with drawing():
        figure = FIGURES[name][0](comparison)
        figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(text.endswith(NOTICE) for text in texts)
    for row in comparison.rows:
        expected = row.cell.model if name == "pareto" else str(row.cell)
        assert expected in texts


def test_the_same_runs_give_the_same_bytes(comparison: Comparison, tmp_path: Path) -> None:
    first, second = (draw_figures(comparison, tmp_path / name) for name in "ab")
    assert [path.stem for path in first] == list(FIGURES)
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.with_suffix(".pdf").read_bytes() == b.with_suffix(".pdf").read_bytes()


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_other_grids_can_be_drawn_too(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    write_grid(tmp_path / "runs", seeds=seeds, models=("mobilenet",), sizes=(16, 32))
    write_run(tmp_path / "runs", made_up(1, [5]), model="efficientnetb0", test_fraction=0.2)
    found = analyse(select(runs_in_folder(tmp_path / "runs")), 50)
    assert all(path.stat().st_size > 5000 for path in draw_figures(found, tmp_path / "out"))


@pytest.mark.parametrize("name", ["intervals", "pareto"])
def test_a_network_of_one_answer_is_hollow_and_never_on_the_front(
    tmp_path: Path, name: str
) -> None:
    """It is the cheapest and the most accurate of three, as two thirds of the images are nevi."""
    collapsed = made_up(-0.4, [1])
    collapsed.scores[:, collapsed.classes.index("nevus")] += 1
    write_run(tmp_path, collapsed, model="mobilenetv2")
    write_run(tmp_path, made_up(-0.4, [2]), model="mobilenet")
    write_run(tmp_path, made_up(-0.2, [3]), model="nasnetmobile")
    found = analyse(select(runs_in_folder(tmp_path)), 50)
    best = max(found.rows, key=lambda row: row.values["accuracy"].value)
    assert best.one_class and best.costs["latency_ms"] == min(
        r.costs["latency_ms"] for r in found.rows
    )
    with drawing():
        axes = FIGURES[name][0](found).axes[0]
    drawn = [line for line in axes.lines if line.get_marker() not in ("None", "x", "", None)]
    hollow = [line for line in drawn if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1
    front = [line for line in axes.lines if line.get_linestyle() == "--"]
    height = hollow[0].get_ydata()[0]
    assert len(front) == (name == "pareto")
    assert all(height not in line.get_ydata() for line in front)
    # The front goes on to the right of its last cell.
    assert all(len(line.get_xdata()) >= 2 for line in front)


def test_the_cells_of_one_network_stand_at_one_latency(comparison: Comparison) -> None:
    latencies = {row.cell.model: row.costs["latency_ms"] for row in comparison.rows}
    for row in comparison.rows:
        assert row.latency is not None and row.latency.runs == 3
        assert row.costs["latency_ms"] == latencies[row.cell.model]
