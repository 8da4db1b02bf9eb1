"""The figures of a comparison: what they show, and that the same runs give the same picture."""

from dataclasses import replace
from itertools import pairwise
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


@pytest.mark.parametrize("others", ["none", "imagenet"])
def test_a_network_from_random_weights_is_told_beside_others(tmp_path: Path, others: str) -> None:
    """Beside a paper's that began with trained ones it would look like a failed reproduction."""
    write_run(tmp_path, made_up(1, [1]), model="mobilenet", weights=others)
    write_run(tmp_path, made_up(1, [2]), model="nasnetmobile", weights="none")
    found = analyse(select(runs_in_folder(tmp_path)), 50)
    with drawing():
        axes = FIGURES["intervals"][0](found).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    told = ", random weights" if others == "imagenet" else ""
    assert names == ["mobilenet-16", f"nasnetmobile-16{told}"]


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


@pytest.mark.parametrize("name", ["roc_curves", "confusion_matrices"])
def test_the_last_panel_of_each_column_has_its_ticks_and_axis_named(
    comparison: Comparison, name: str
) -> None:
    """Of 7 cells two columns end above a panel that is off."""
    with drawing():
        figure = FIGURES[name][0](replace(comparison, rows=comparison.rows[:7]))
        figure.draw_without_rendering()
    for index, axes in enumerate(figure.axes[:7]):
        told = [label.get_text() for label in axes.get_xticklabels() if label.get_visible()]
        named = bool(axes.get_xlabel() and any(told))
        assert named == (index >= 4), index


@pytest.mark.parametrize("name", ["intervals", "ranks"])
def test_the_frame_leaves_room_for_whole_markers(comparison: Comparison, name: str) -> None:
    """With two cells it cut the crosses, and the bands of the spread, in half."""
    with drawing():
        figure = FIGURES[name][0](replace(comparison, rows=comparison.rows[:2]))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= -0.5 and high >= 1.5


def many(comparison: Comparison, models: int, sizes: tuple[int, ...]) -> Comparison:
    """A comparison of as many cells, whose accuracy is the higher the larger the batch size."""
    rows = []
    for model in range(models):
        for place, size in enumerate(sizes):
            row = comparison.rows[0]
            value = replace(row.values["accuracy"], value=0.5 + 0.02 * model + 0.01 * place)
            cell = replace(row.cell, model=f"a_network_{model}", batch_size=size)
            costs = dict.fromkeys(row.costs, 10.0 + model)
            rows.append(
                replace(row, cell=cell, costs=costs, values={**row.values, "accuracy": value})
            )
    return replace(comparison, rows=tuple(rows))


def test_the_front_passes_below_no_cell(comparison: Comparison) -> None:
    """Cells of one network are drawn apart: the front rises before the first of them."""
    with drawing():
        figure = FIGURES["pareto"][0](many(comparison, 3, (4, 8, 16, 32, 64, 128)))
    for axes in figure.axes:
        (front,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        x, y = front.get_data()
        cells = [line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
        assert len(cells) == 18
        for place, height in cells:
            assert y[np.searchsorted(x, place + 1e-9) - 1] >= height - 1e-9


def test_the_legend_of_many_networks_stays_on_the_page(comparison: Comparison) -> None:
    with drawing():
        figure = FIGURES["pareto"][0](many(comparison, 7, (16,)))
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_ranks_of_many_cells_can_be_read(comparison: Comparison) -> None:
    """40 ticks ran into each other."""
    found = many(comparison, 5, (1, 2, 4, 8, 16, 32, 64, 128))
    ranks = {row.cell: 1.0 for row in found.rows}
    standings = {
        metric: replace(standing, rank_low=ranks, rank_high=ranks, probability_best=ranks)
        for metric, standing in found.standings.items()
    }
    with drawing():
        figure = FIGURES["ranks"][0](replace(found, standings=standings))
        figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
