"""The figure of a published table: its accuracies with their intervals."""

from pathlib import Path

import numpy as np

from skinml.compare.published.check import CheckedTable
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import COLUMN, GREY, drawing, save


def draw_intervals(checked: CheckedTable, path: Path) -> Path:
    """Draw every row with its Wilson interval, the best on top, as PNG and, beside it, PDF.

    Returns the PNG's path; the folder is made. The same report gives the same bytes.
    """
    from matplotlib.figure import Figure

    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    ranked = checked.ranked
    shares = 100 * np.array([[c.right / checked.n, c.low, c.high] for c in ranked])
    places = np.arange(len(ranked))
    with drawing():
        figure = Figure(figsize=(COLUMN, 1.5 + 0.24 * len(ranked)), layout="constrained")
        figure.suptitle(f"Published accuracies, 95 % Wilson intervals (n = {checked.n})")
        figure.supxlabel(NOTICE, fontsize=6, color=GREY)
        axes = figure.add_subplot()
        if checked.split:
            majority = 100 * checked.split.majority
            label = f"always “nevus”: {majority:.1f} %"
            axes.axvline(majority, color=GREY, linewidth=0.8, linestyle=":", label=label)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
        axes.hlines(places, shares[:, 1], shares[:, 2], color=GREY, linewidth=1)
        axes.plot(shares[:, 0], places, color="black", linestyle="none", marker="o", markersize=4)
        axes.set_yticks(places, [c.row.name for c in ranked])
        axes.set(xlabel="accuracy, %", ylim=(len(ranked) - 0.5, -0.5))
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(places, [f"{s:.2f} ({low:.1f}–{high:.1f})" for s, low, high in shares])
        beside.spines[:].set_visible(False)
        for side in (axes, beside):
            side.tick_params(axis="y", length=0)
        save(figure, path)
    return path
