"""A map over its picture, as every figure and page draws it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import (
    CAVEAT,
    COLUMN,
    GREY,
    PAGE,
    PALETTE,
    class_colours,
    drawing,
    save,
    spaced,
)
from skinml.explain.check import CENTRE, OCCLUSION, RANDOM, SAME, Correlations, Deletion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib's, readable by the colour-blind, of which skin has no tone but the darkest.
_COLOURS = "viridis"

# How much of the picture the highest value of a map covers.
_OPACITY = 0.62


def scale(steps: int = 16) -> list[list[int]]:
    """The colours of a map's values in equal steps, RGB 0-255."""
    from matplotlib import colormaps

    colours = colormaps[_COLOURS](np.linspace(0, 1, steps))[:, :3]
    return np.round(255 * colours).astype(int).tolist()


def overlaid(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) uint8 with a map (7, 7) uint8 over it, its cells run into each other."""
    from matplotlib import colormaps
    from PIL import Image

    height, width = image.shape[:2]
    wide = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
    share = np.asarray(wide, dtype=np.float64)[..., None] / 255
    colours = 255 * colormaps[_COLOURS](share[..., 0])[..., :3]
    opacity = _OPACITY * share
    return np.round((1 - opacity) * image + opacity * colours).astype(np.uint8)


# Of more classes those with the highest scores.
_BARS = 6


def draw_answer(
    image: np.ndarray,
    values: np.ndarray,
    label: str,
    scores: Mapping[str, float],
    name: str,
    path: Path,
    further: str = "",
) -> None:
    """Draw a picture, the map (7, 7) uint8 of its answer over it, and its scores, as a PNG.

    `label` is the answer, `scores` are by class, in their order; `further` is said below.
    """
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(PAGE, 3.2), layout="constrained")
        figure.suptitle(f"{label.replace('_', ' ')}\n{name[:100]}", parse_math=False)
        plain, over, bars = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
        for axes, shown, title in (
            (plain, image, "the picture as the network sees it"),
            (over, overlaid(image, values), f"what speaks for {spaced(label)}"),
        ):
            axes.imshow(shown)
            axes.set_axis_off()
            axes.set_title(title, fontsize=7.5)
        _draw_scores(bars, scores)
        figure.supxlabel(f"{CAVEAT} {further}\n{NOTICE}", fontsize=7, color=GREY)
        figure.savefig(path, dpi=200, metadata={"Software": None})


def _draw_scores(axes: "Axes", scores: Mapping[str, float]) -> None:
    shown = sorted(scores, key=lambda label: -scores[label])[:_BARS]
    if len(scores) <= _BARS:
        shown = list(scores)
    colours = class_colours(list(scores))
    for place, label in enumerate(shown):
        axes.barh(place, scores[label], 0.35, color=colours[label])
        axes.text(0, place - 0.27, f"{spaced(label)}  {scores[label]:.3f}", fontsize=7.5)
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.7), yticks=[], xlabel="score")
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set_visible(True)


def draw_check(
    alike: Mapping[tuple[str, str], Correlations],
    fallen: Mapping[str, Deletion],
    title: str,
    folder: Path,
) -> None:
    """Draw both checks of maps into a folder: randomisation and deletion, as PNG and PDF."""
    with drawing():
        save(_randomisation(alike, title), folder / "randomisation.png")
        save(_deletion(fallen, title), folder / "deletion.png")


def _sheet(heading: str, title: str, height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    figure.suptitle(f"{heading}\n{spaced(title)}", linespacing=1.4)
    figure.supxlabel(CAVEAT, fontsize=7, color=GREY)
    return figure


def _randomisation(alike: Mapping[tuple[str, str], Correlations], title: str) -> "Figure":
    """The rank correlation with each randomised network's maps, by how much is randomised."""
    figure = _sheet("Maps of the trained network and of randomised ones", title, 4.2)
    axes = figure.add_subplot()
    stages = list(dict.fromkeys(stage for stage, _ in alike))
    methods = list(dict.fromkeys(method for _, method in alike))
    for number, method in enumerate(methods):
        colour = PALETTE[number]
        places = np.arange(len(stages)) + 0.18 * (number - (len(methods) - 1) / 2)
        rows = [alike[stage, method] for stage in stages]
        axes.plot(places, [row.mean for row in rows], "o", color=colour, label=method)
        for place, row in zip(places, rows, strict=True):
            dots = np.full(len(row.of_networks), place)
            axes.plot(dots, row.of_networks, "_", color=colour, markersize=7, alpha=0.7)
    axes.axhline(SAME, color="black", linewidth=0.8, linestyle="--")
    axes.text(
        len(stages) - 0.65, SAME, "the same, from here on", ha="right", va="bottom", fontsize=7
    )
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    names = [stage.replace(" and ", "\nand ") for stage in stages]
    axes.set_xticks(np.arange(len(stages)), names)
    axes.set(ylim=(-1.02, 1.02), ylabel="rank correlation of their cells", xlabel="randomised")
    axes.legend(loc="lower left", ncols=len(methods))
    return figure


def _deletion(fallen: Mapping[str, Deletion], title: str) -> "Figure":
    """The score of the answer over the share of the cells that are painted over."""
    figure = _sheet("The answer's score as cells are painted over", title, 4.6)
    axes = figure.add_subplot()
    for number, (order, row) in enumerate(fallen.items()):
        plain = {CENTRE: ("black", ":"), RANDOM: ("black", "--"), OCCLUSION: (GREY, "-")}
        colour, line = plain.get(order, (PALETTE[number % len(PALETTE)], "-"))
        label = f"{order}: {row.area:.3f}"
        axes.plot(row.shares, row.scores, color=colour, linestyle=line, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="share of the cells", ylabel="score, mean")
    axes.legend(loc="lower left", title="order of the cells: area", ncols=2)
    return figure
