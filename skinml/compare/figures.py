"""The figures of a comparison, a row each in `FIGURES`: all cells side by side."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from skinml.compare.comparison import VERDICT_METRICS, Comparison, Row
from skinml.compare.published.table import paper_values
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.classes import against_the_rest
from skinml.evaluation.drawing import (
    CAVEAT,
    GREY,
    PAGE,
    class_colours,
    class_lines,
    drawing,
    ink,
    save,
    spaced,
)
from skinml.evaluation.metrics import auc, metric_title, metrics_of, roc_curve
from skinml.evaluation.predictions import Predictions
from skinml.explain.drawing import overlaid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of more classes neither a legend nor figures in cells can be read in a small panel.
_MOST_ENTRIES = 10

# A network is told by its marker: colours are the classes'.
_MARKERS = "osD^vP*X"


def _sheet(heading: str, width: float, height: float, rows: int = 1, columns: int = 1) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if heading:
        figure.suptitle(heading, linespacing=1.4)
    figure.supxlabel(NOTICE, fontsize=6, color=GREY)
    figure.subplots(rows, columns, squeeze=False)
    return figure


def _grid(comparison: Comparison, heading: str, height: float) -> "tuple[Figure, list[Axes]]":
    """A panel for each cell: a row a network, a column a batch size where the grid is full."""
    rows = comparison.rows
    columns = min(3, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = _sheet(heading, PAGE, 0.9 + height * lines, lines, columns)
    for axes in figure.axes[len(rows) :]:
        axes.set_axis_off()
    return figure, figure.axes


def _label_below(panels: "list[Axes]", label: str) -> None:
    """Name the horizontal axis, and its ticks, below the last panel of each column.

    After `label_outer`, which knows the grid's last row alone: it may end in panels that are off.
    """
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for axes in [axes for axes in panels if axes.axison][-columns:]:
        axes.set_xlabel(label)
        axes.tick_params(axis="x", labelbottom=True)


def _first(row: Row) -> Predictions:
    return row.runs[0].predictions


def _title(row: Row) -> str:
    more = f", seed {row.runs[0].tags['seed']} of {len(row.runs)}" if len(row.runs) > 1 else ""
    return f"{row.cell}{row.mark}{more}"


def _explained(comparison: Comparison, heading: str) -> str:
    """A heading that says what a hollow marker means, where there is one."""
    if not any(row.one_class for row in comparison.rows):
        return heading
    return f"{heading}\nhollow: answers one class to nearly every image"


def _fill(row: Row) -> str:
    """The inside of a cell's marker."""
    return "white" if row.one_class else "black"


def _roc(comparison: Comparison) -> "Figure":
    """One-vs-rest ROC curves of every cell, on one scale."""
    figure, panels = _grid(
        comparison, "ROC curves, each class against the rest (AUC in brackets)", 2.55
    )
    for row, axes in zip(comparison.rows, panels, strict=False):
        table = _first(row)
        colours, lines = class_colours(table.classes), class_lines(table.classes)
        for label in against_the_rest(table.classes):
            index = table.classes.index(label)
            positive, scores = table.labels == index, table.scores[:, index]
            if not 0 < positive.sum() < len(positive):
                continue
            x, y = roc_curve(positive, scores)
            (area,) = auc(positive, scores, np.ones((1, len(scores))))
            entry = f"{spaced(label)} ({area:.3f})"
            axes.plot(x, y, color=colours[label], linestyle=lines[label], linewidth=1, label=entry)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", title=_title(row))
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        if len(table.classes) <= _MOST_ENTRIES:
            size = 6 if len(table.classes) <= 5 else 4
            axes.legend(loc="lower right", fontsize=size, handlelength=1.2)
        axes.label_outer()
    figure.supylabel("sensitivity", fontsize=9)
    _label_below(panels, "1 − specificity")
    return figure


def _confusion(comparison: Comparison) -> "Figure":
    """Confusion matrices of every cell: shares of the true class, images beneath."""
    figure, panels = _grid(
        comparison, "Confusion matrices: share of the true class (images beneath)", 2.5
    )
    for row, axes in zip(comparison.rows, panels, strict=False):
        table = _first(row)
        k = len(table.classes)
        counts = np.bincount(table.labels * k + table.predicted, minlength=k * k).reshape(k, k)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        ticks = np.arange(k)
        axes.pcolormesh(
            ticks, ticks, shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1
        )
        axes.invert_yaxis()
        scale = min(1.0, 5 / (k + 1))
        for (true, guess), count in np.ndenumerate(counts) if k <= _MOST_ENTRIES else ():
            colour = ink(shares[true, guess])
            share = f"{shares[true, guess]:.2f}"
            axes.text(guess, true - 0.08, share, ha="center", va="center", color=colour,
                      fontsize=8 * scale)  # fmt: skip
            axes.text(guess, true + 0.26, f"{count}", ha="center", va="center", color=colour,
                      fontsize=5.5 * scale)  # fmt: skip
        names = [spaced(label).replace(" ", "\n") for label in table.classes]
        if k > 4:
            names = [spaced(label) for label in table.classes]
        axes.set_xticks(ticks, names, fontsize=6.5 * scale, rotation=90 if k > 4 else 0)
        axes.set_yticks(ticks, names, fontsize=6.5 * scale)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(aspect="equal", title=_title(row))
        axes.label_outer()
    figure.supylabel("true class", fontsize=9)
    _label_below(panels, "predicted class")
    return figure


def pareto_front(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """The points that no other one beats in both, cheapest first: their indices (F,) int64.

    `costs` (n,), less is better; `gains` (n,), more is better.
    """
    front, best = [], -math.inf
    for index in np.lexsort((-gains, costs)):
        if gains[index] > best:
            front.append(index)
            best = gains[index]
    return np.array(front, dtype=np.int64)


def _order_in_model(rows: Sequence[Row]) -> np.ndarray:
    """The place of each cell among those of its network, by batch size, around 0: (C,)."""
    order = []
    for row in rows:
        own = sorted(r.cell.batch_size for r in rows if r.cell.model == row.cell.model)
        order.append(own.index(row.cell.batch_size) - (len(own) - 1) / 2)
    return np.array(order)


def _pareto(comparison: Comparison) -> "Figure":
    """Accuracy against what an answer costs, with the cells that none beats in both.

    A network that answers one class is shown, but stands for nothing that it would be best at.
    """
    heading = (
        "Accuracy against cost (number: batch size, set apart; bar: 95 % interval; "
        "dashed: best for its cost)"
    )
    models = list(dict.fromkeys(row.cell.model for row in comparison.rows))
    # More names in a line than that run out of the page.
    columns = min(4, len(models))
    figure = _sheet("", PAGE, 3.4 + 0.2 * math.ceil(len(models) / columns), 1, 2)
    titles = {
        "latency_ms": f"latency, ms an image, {comparison.device}",
        "model_size_mb": "size of the saved model, MB",
    }
    for axes, (name, title) in zip(figure.axes, titles.items(), strict=True):
        rows = [row for row in comparison.rows if name in row.costs]
        if name == "latency_ms":
            # What was measured on another device has no place on this axis.
            rows = [row for row in rows if row.latency and row.latency.device == comparison.device]
        if not rows:
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"no run has its {name}", ha="center", color=GREY)
            continue
        _draw_front(axes, rows, name, models)
        axes.set_xlabel(title, fontsize=8)
        axes.label_outer(remove_inner_ticks=False)
    # In the legend's title: matplotlib sets a legend outside the axes upon a figure's title.
    legend = figure.legend(
        handles=[
            figure.axes[0].plot([], [], _MARKERS[i], color="black", markersize=6, label=model)[0]
            for i, model in enumerate(models)
        ],
        loc="outside upper center",
        ncols=columns,
        title=_explained(comparison, heading),
        title_fontsize=9,
    )
    legend.get_title().set_multialignment("center")
    return figure


def _draw_front(axes: "Axes", rows: Sequence[Row], cost: str, models: Sequence[str]) -> None:
    """Draw the accuracy of cells against one of their costs, with the front that none beats."""
    costs = np.array([row.costs[cost] for row in rows])
    gains = np.array([100 * row.values["accuracy"].value for row in rows])
    # The cells of one network cost the same: a little apart they can be told from each other.
    apart = (costs.max() - costs.min() or costs.max() or 1) * 0.05
    places = costs + apart * _order_in_model(rows)
    told = np.array([not row.one_class for row in rows])
    front = np.flatnonzero(told)[pareto_front(costs[told], gains[told])]
    if len(front):
        # A step rises where the first of the cells stands that cost as much or more: at its own
        # place it would pass below others of its network that stand further left.
        # On to the right: whatever costs more and lies below it is not better.
        rises = [places[told & (costs >= costs[index])].min() for index in front]
        axes.step(
            [*rises, places.max()], [*gains[front], gains[front[-1]]], where="post",
            color="black", linewidth=0.8, linestyle="--",
        )  # fmt: skip
    for row, x in zip(rows, places, strict=True):
        value = row.values["accuracy"]
        axes.vlines(x, 100 * value.low, 100 * value.high, color=GREY, linewidth=0.8)
        axes.plot(x, 100 * value.value, _MARKERS[models.index(row.cell.model)], markersize=9,
                  markerfacecolor=_fill(row), zorder=3, markeredgewidth=0.7,
                  markeredgecolor="black" if row.one_class else "white")  # fmt: skip
        axes.annotate(str(row.cell.batch_size), (x, 100 * value.value), fontsize=5, zorder=4,
                      color="black" if row.one_class else "white", ha="center",
                      va="center_baseline")  # fmt: skip
    axes.margins(y=0.1)
    axes.set(ylabel="accuracy, %")


def _name_lines(axes: "Axes", rows: Sequence[Row]) -> None:
    """Name the line of each cell, the first on top, with room for whole markers above and below."""
    some = not all(row.from_random for row in rows)
    told = [", random weights" if some and row.from_random else "" for row in rows]
    names = [f"{row.cell}{row.mark}{began}" for row, began in zip(rows, told, strict=True)]
    axes.set_yticks(np.arange(len(rows))[::-1], names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)


def _forest(comparison: Comparison) -> "Figure":
    """Every cell's figure with its interval, beside the paper's."""
    rows = comparison.rows
    repeated = any(row.values[m].sd_seeds is not None for row in rows for m in VERDICT_METRICS)
    band = "; band: ±1 SD over seeds" if repeated else ""
    of_paper = comparison.selection.runs[0].tags["data"] in ("isic2017", "demo")
    told = f" (cross: the paper's{band})" if of_paper else f" ({band[2:]})" if band else ""
    heading = f"95 % bootstrap intervals over the test images{told}"
    figure = _sheet(_explained(comparison, heading), PAGE, 1.1 + 0.27 * len(rows), 1,
                    len(VERDICT_METRICS))  # fmt: skip
    printed = paper_values() if of_paper else {}
    heights = np.arange(len(rows))[::-1]
    for axes, metric in zip(figure.axes, VERDICT_METRICS, strict=True):
        shown = metrics_of(tuple(comparison.class_counts))[metric]
        for row, height in zip(rows, heights, strict=True):
            value = row.values[metric]
            axes.hlines(height, value.low, value.high, color="black", linewidth=1)
            if value.sd_seeds is not None:
                reach = value.sd_seeds
                axes.hlines(height, value.value - reach, value.value + reach, color="black",
                            linewidth=3.5, alpha=0.35)  # fmt: skip
            axes.plot(
                value.value, height, "o", color="black", markersize=4, markerfacecolor=_fill(row)
            )
            if row.cell in printed:
                papers = printed[row.cell][shown.paper] / (100 if shown.percent else 1)
                axes.plot(papers, height, "x", color=GREY, markersize=5)
        _name_lines(axes, rows)
        axes.grid(axis="x", linewidth=0.4, color="#DDDDDD")
        axes.set_axisbelow(True)
        axes.set_xlabel(metric_title(metric))
        axes.label_outer(remove_inner_ticks=False)
    return figure


def _ranks(comparison: Comparison) -> "Figure":
    """Rank intervals of every cell, and in which share of the draws it has the highest value."""
    from matplotlib.ticker import MaxNLocator

    rows = comparison.rows
    figure = _sheet(
        "Rank if test images were drawn again: 95 % interval (number: share of draws on rank 1)",
        PAGE, 1.1 + 0.27 * len(rows), 1, len(VERDICT_METRICS),
    )  # fmt: skip
    heights = np.arange(len(rows))[::-1]
    for axes, metric in zip(figure.axes, VERDICT_METRICS, strict=True):
        standing = comparison.standings[metric]
        for row, height in zip(rows, heights, strict=True):
            low, high = standing.rank_low[row.cell], standing.rank_high[row.cell]
            best = standing.probability_best[row.cell]
            axes.hlines(height, low, high, color="black", linewidth=3, alpha=0.25 + 0.75 * best)
            axes.plot([low, high], [height, height], "|", color="black", markersize=7)
            axes.text(len(rows) + 0.45, height, f"{best:.2f}", ha="left", va="center", fontsize=7)
        axes.set(xlim=(0.7, len(rows) + 0.3), xlabel=f"rank, {metric_title(metric)}")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        _name_lines(axes, rows)
        axes.grid(axis="x", linewidth=0.4, color="#DDDDDD")
        axes.label_outer(remove_inner_ticks=False)
    return figure


def _pictures(comparison: Comparison) -> "Figure":
    """Pictures on which the networks are most divided: a row each, a column a network."""
    cells = [row.cell for row in comparison.rows if row.cell in comparison.pictures[0].answers]
    lines, columns = len(comparison.pictures), 1 + len(cells)
    side = min(1.3, 0.85 * PAGE / columns)
    heading = "The same picture: what speaks for the answer of each network"
    figure = _sheet(heading, PAGE, 0.8 + lines * (side + 0.5), lines, columns)
    figure.supxlabel(f"{CAVEAT}\n{NOTICE}", fontsize=6, color=GREY)
    grid = np.reshape(figure.axes, (lines, columns))
    small = 7 if columns < 7 else 5.5
    for picture, (plain, *panels) in zip(comparison.pictures, grid, strict=True):
        plain.imshow(picture.pixels)
        plain.set_title(
            f"{picture.image_id[:18]}\n{fill(spaced(picture.label), 13)}", fontsize=small
        )
        for cell, axes in zip(cells, panels, strict=True):
            label, score, values = picture.answers[cell]
            right = label == picture.label
            axes.imshow(overlaid(picture.pixels, values))
            answer = fill(f"{'✓' if right else '✗'} {spaced(label)}", 13) + f"\n{score:.2f}"
            axes.set_title(answer, fontsize=small, fontweight="normal" if right else "bold")
        for axes in (plain, *panels):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for name, axes in zip(("the picture", *map(str, cells)), grid[-1], strict=True):
        axes.set_xlabel(name, fontsize=small)
    return figure


FIGURES: dict[str, tuple[Callable[[Comparison], "Figure"], str]] = {
    "intervals": (_forest, "Each cell's figures with 95 % intervals, beside the paper's"),
    "ranks": (_ranks, "Rank intervals, and the share of redrawn test sets with the highest value"),
    "pareto": (_pareto, "Accuracy against latency and size, with the Pareto front"),
    "roc_curves": (_roc, "ROC curves of all cells"),
    "confusion_matrices": (_confusion, "Confusion matrices of all cells"),
    "pictures": (
        _pictures,
        "Test pictures on which the networks are most divided, with the map of each answer",
    ),
}

_OF_SEVERAL = ("ranks", "pareto")


def captions(comparison: Comparison) -> dict[str, str]:
    """What each figure of a comparison shows.

    One configuration has neither rank nor front; pictures are there where they were asked for.
    """
    alone = len(comparison.rows) < 2
    of_paper = comparison.selection.runs[0].tags["data"] in ("isic2017", "demo")
    left_out = (*(_OF_SEVERAL if alone else ()), *(() if comparison.pictures else ("pictures",)))
    return {
        name: caption if of_paper else caption.replace(", beside the paper's", "")
        for name, (_, caption) in FIGURES.items()
        if name not in left_out
    }


def draw_figures(comparison: Comparison, folder: Path, pdf: bool = True) -> list[Path]:
    """Draw a comparison's figures into a folder as PNG and, with `pdf`, PDF.

    Returns the PNGs' paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with drawing():
        for name in captions(comparison):
            paths.append(folder / f"{name}.png")
            save(FIGURES[name][0](comparison), paths[-1], pdf)
    return paths
