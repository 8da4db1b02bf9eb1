"""Every figure of one run, a row each in `FIGURES`, drawn as PNG for the screen and PDF for papers.

matplotlib is imported where it is used, so that importing this is fast.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import (
    CLASS_COLOURS,
    COLUMN,
    GREY,
    PAGE,
    drawing,
    ink,
    save,
    spaced,
)
from skinml.evaluation.metrics import CALIBRATION_BINS, evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureData:
    """All that the figures of one run are drawn from.

    `predictions` are the test part's; `history` holds one row an epoch (0 rows are fine);
    `best_epoch` is the epoch whose weights were kept, 0 where nothing was trained; `images_of`
    turns indices into `predictions` into uint8 images (n, height, width, 3).
    """

    title: str
    predictions: Predictions
    history: list[dict[str, float | str]]
    best_epoch: int
    images_of: Callable[[np.ndarray], np.ndarray]


_MOST_MISTAKES = 20
_MISTAKES_A_ROW = 5

_STEPS = {"frozen": "frozen base", "finetune": "fine-tuning"}


def _sheet(
    data: FigureData, heading: str, width: float, height: float, *, of_test: bool = True
) -> "Figure":
    """An empty figure headed by what it shows and of which run; `of_test`: of its test part."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # matplotlib's own wrapping is unknown to its layout; 9 point sets about 13 letters an inch.
    # A title too long for one line breaks at its parenthesis first.
    letters = int(13 * width)
    shown = f"test part, {len(data.predictions.labels):,} images" if of_test else ""
    whole = ", ".join(filter(None, (data.title, shown)))
    parts = whole.replace(" (", "\n(") if len(whole) > letters else whole
    title = "\n".join(textwrap.fill(part, letters) for part in parts.splitlines())
    figure.suptitle(f"{heading}\n{title}", linespacing=1.4)
    return figure


def _say(figure: "Figure", text: str) -> None:
    """Fill a figure that has nothing to show with the reason."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)


def _confusion(predictions: Predictions) -> np.ndarray:
    """Images of each true class (row) and predicted class (column): (K, K) int64."""
    k = len(predictions.classes)
    cell = predictions.labels * k + predictions.predicted
    return np.bincount(cell, minlength=k * k).reshape(k, k)


def _matrix(
    figure: "Figure", classes: tuple[str, ...], counts: np.ndarray, shades: np.ndarray
) -> "Axes":
    """Axes of a confusion matrix with its cells shaded (0 to 1), all but their text."""
    axes = figure.add_subplot()
    ticks = np.arange(len(classes))
    axes.pcolormesh(
        ticks, ticks, shades, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=2
    )
    axes.invert_yaxis()
    names = [spaced(label).replace(" ", "\n") for label in classes]
    axes.set_xticks(ticks, names)
    axes.set_yticks(
        ticks, [f"{name}\n(n = {n})" for name, n in zip(names, counts.sum(axis=1), strict=True)]
    )
    axes.set(aspect="equal", xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def _confusion_matrix(data: FigureData) -> "Figure":
    """How many images of each true class got each predicted class."""
    counts = _confusion(data.predictions)
    figure = _sheet(data, "Confusion matrix (images)", COLUMN, 4.3)
    shades = counts / max(counts.max(), 1)
    axes = _matrix(figure, data.predictions.classes, counts, shades)
    for (row, column), count in np.ndenumerate(counts):
        colour = ink(shades[row, column])
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=12)
    return figure


def _confusion_matrix_normalised(data: FigureData) -> "Figure":
    """The share of each true class's images that got each predicted class, counts beneath."""
    counts = _confusion(data.predictions)
    figure = _sheet(data, "Confusion matrix (share of the true class)", COLUMN, 4.3)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = _matrix(figure, data.predictions.classes, counts, shares)
    for (row, column), count in np.ndenumerate(counts):
        colour = ink(shares[row, column])
        # A share of a class without images is no number.
        share = f"{shares[row, column]:.2f}" if counts[row].any() else "–"
        axes.text(column, row - 0.06, share, ha="center", va="center", color=colour, fontsize=12)
        axes.text(column, row + 0.2, f"{count}", ha="center", va="center", color=colour, fontsize=7)
    return figure


def _unit_square(figure: "Figure", xlabel: str, ylabel: str) -> "Axes":
    """Axes of two shares, each from 0 to 1."""
    axes = figure.add_subplot()
    # A hair of room, so that a curve along the frame is not cut in half.
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    return axes


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The vertical mean of ROC curves; the area under it is the mean of their areas."""
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    # A curve jumps at some of its points: take each from just before it and from just after it.
    sides = np.stack([grid - 1e-9, grid + 1e-9], axis=1).ravel()
    return np.repeat(grid, 2), np.mean([np.interp(sides, x, y) for x, y in curves], axis=0)


def _roc(data: FigureData) -> "Figure":
    """One-vs-rest ROC curves with their areas and how sure these are."""
    from sklearn.metrics import roc_curve

    predictions = data.predictions
    figure = _sheet(data, "ROC curves, each class against the rest", COLUMN, 5.6)
    axes = _unit_square(figure, "1 − specificity", "sensitivity")
    names = tuple(f"auc_{label}" for label in predictions.classes)
    areas = {
        name: area
        for name, (area,) in evaluate(predictions, names=(*names, "auc_macro")).items()
        if np.isfinite(area)
    }
    intervals = bootstrap_intervals(predictions, tuple(areas))

    def entry(what: str, name: str) -> str:
        if name not in areas:
            return f"{what}: undefined, class absent"
        if name not in intervals:
            return f"{what}: {areas[name]:.3f} (too few images for an interval)"
        low, high = intervals[name]
        return f"{what}: {areas[name]:.3f} ({low:.3f}–{high:.3f})"

    curves = []
    for index, (label, name) in enumerate(zip(predictions.classes, names, strict=True)):
        x = y = np.empty(0)
        if name in areas:
            x, y, _ = roc_curve(predictions.labels == index, predictions.scores[:, index])
            curves.append((x, y))
        axes.plot(x, y, color=CLASS_COLOURS[label], label=entry(spaced(label), name))
    x, y = _mean_curve(curves) if "auc_macro" in areas else (np.empty(0), np.empty(0))
    axes.plot(x, y, color="black", linestyle="--", label=entry("macro average", "auc_macro"))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="chance: 0.5")
    figure.legend(loc="outside lower center", title="AUC (95 % bootstrap interval)")
    return figure


def _precision_recall(data: FigureData) -> "Figure":
    """One-vs-rest precision-recall curves with their average precision and prevalence."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    predictions = data.predictions
    figure = _sheet(data, "Precision-recall curves, each class against the rest", COLUMN, 5.4)
    axes = _unit_square(figure, "recall (sensitivity)", "precision")
    for index, label in enumerate(predictions.classes):
        positive, scores = predictions.labels == index, predictions.scores[:, index]
        colour, entry = CLASS_COLOURS[label], f"{spaced(label)}: undefined, class absent"
        precision = recall = np.empty(0)
        if positive.any():
            precision, recall, _ = precision_recall_curve(positive, scores)
            # Of the thresholds with the same recall, the highest, which comes last.
            recall, best = np.unique(recall[::-1], return_index=True)
            precision = precision[::-1][best]
            # By convention the curve starts at precision 1, which no threshold need reach.
            precision[0] = precision[1]
            average, share = average_precision_score(positive, scores), positive.mean()
            entry = f"{spaced(label)}: {average:.3f} ({share:.3f})"
            axes.axhline(share, color=colour, linewidth=0.8, linestyle=":")
        # Steps, because precision between two thresholds is not on the line between them
        # (Davis & Goadrich 2006); average precision is the area under these steps.
        axes.plot(recall, precision, color=colour, drawstyle="steps-pre", label=entry)
    figure.legend(loc="outside lower center", title="average precision (prevalence, dotted)")
    return figure


def _wilson(hits: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of a share (Wilson 1927), which holds for few images too."""
    z2 = 1.96**2
    centre = (hits + z2 / 2) / (images + z2)
    half = np.sqrt(z2 * (hits * (images - hits) / images + z2 / 4)) / (images + z2)
    return centre - half, centre + half


def _reliability(data: FigureData) -> "Figure":
    """Whether the predicted class is right as often as its score says."""
    predictions = data.predictions
    confidence = predictions.scores.max(axis=1)
    correct = predictions.predicted == predictions.labels
    (error,) = evaluate(predictions, names=("calibration_error",))["calibration_error"]

    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(images)
    hits = np.bincount(bins, weights=correct, minlength=CALIBRATION_BINS)[filled]
    means = np.bincount(bins, weights=confidence)[filled] / images[filled]

    figure = _sheet(data, "Reliability of the predicted class's score", COLUMN, 5.2)
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="perfect")
    above.vlines(means, *_wilson(hits, images[filled]), color=GREY, linewidth=1)
    above.plot(
        means,
        hits / images[filled],
        color="black",
        linestyle="none",
        marker="o",
        markersize=4,
        label=f"observed, 95 % intervals\n(calibration error {error:.3f})",
    )
    # The highest of K scores is 1/K or more: nothing is to be seen further left.
    above.set(xlim=(1 / len(predictions.classes) - 0.02, 1.01), ylim=(-0.02, 1.02))
    above.set_ylabel("share correct")
    beneath.bar(
        (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS,
        images,
        width=0.9 / CALIBRATION_BINS,
        color=GREY,
    )
    beneath.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    beneath.set(xlabel="confidence (score of the predicted class)", ylabel="images")
    figure.align_ylabels()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _learning_curves(data: FigureData) -> "Figure":
    """Loss, accuracy, macro AUC and learning rate over the epochs of both training steps."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    history = data.history
    figure = _sheet(data, "Learning curves", COLUMN, 6.6 if history else 2, of_test=False)
    if not history:
        _say(figure, "no epochs: this network was not trained")
        return figure

    def column(key: str) -> np.ndarray:
        return np.array([row[key] for row in history], dtype=np.float64)

    epochs, steps = column("epoch"), [str(row["step"]) for row in history]
    panels = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 3, 1.4))
    top, rate_panel = panels[0], panels[-1]

    # Points are worth their ink while they can be told apart; one epoch has nothing else.
    marker = "." if len(history) <= 30 else ""
    best = epochs == data.best_epoch
    for axes, key, label in zip(
        panels, ("loss", "accuracy", "auc_macro"), ("loss", "accuracy", "macro AUC"), strict=False
    ):
        validation = column(f"val_{key}")
        axes.plot(epochs, column(f"train_{key}"), color=GREY, marker=marker, label="training")
        axes.plot(epochs, validation, color="black", marker=marker, label="validation")
        if best.any():
            axes.plot(
                epochs[best],
                validation[best],
                linestyle="none",
                marker="o",
                markersize=8,
                markerfacecolor="none",
                markeredgecolor="black",
                clip_on=False,
                label=f"weights kept (epoch {data.best_epoch})",
            )
        axes.set_ylabel(label)
        axes.margins(y=0.1)

    rates = column("learning_rate")
    rate_panel.plot(epochs, rates, color="black", drawstyle="steps-mid", marker=marker)
    # More than a decade even for a constant rate, so that a power of ten is on the axis.
    rate_panel.set(yscale="log", ylim=(rates.min() / 4, rates.max() * 4), ylabel="learning\nrate")
    rate_panel.yaxis.set_major_locator(LogLocator(numticks=4))
    rate_panel.yaxis.set_minor_locator(NullLocator())
    rate_panel.xaxis.set_major_locator(
        MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    rate_panel.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5), xlabel="epoch")

    for before in range(len(history) - 1):
        if steps[before] != steps[before + 1]:
            boundary = (epochs[before] + epochs[before + 1]) / 2
            for axes in panels:
                axes.axvline(boundary, color=GREY, linewidth=0.8, linestyle="--")
            top.text(
                boundary,
                1.03,
                f"{_STEPS[steps[before + 1]]} from epoch {epochs[before + 1]:.0f}",
                # Towards the middle, where there is room.
                ha="left" if boundary < epochs.mean() else "right",
                fontsize=8,
                transform=top.get_xaxis_transform(),
            )
    if len(set(steps)) == 1:
        rate_panel.set_xlabel(f"epoch ({_STEPS[steps[0]]} only)")
    figure.align_ylabels()
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _mistakes(data: FigureData) -> "Figure":
    """The wrong predictions that the network was surest of, with their images."""
    predictions = data.predictions
    predicted, confidence = predictions.predicted, predictions.scores.max(axis=1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MOST_MISTAKES]

    if len(shown) < len(wrong):
        heading = f"The {len(shown)} most confident of {len(wrong)} mistakes"
    else:
        heading = (
            f"All mistakes ({len(wrong)}), most confident first" if len(wrong) else "No mistakes"
        )
    rows = -(-len(shown) // _MISTAKES_A_ROW)
    figure = _sheet(data, heading, PAGE, 0.8 + 1.85 * max(rows, 1))
    figure.supxlabel(NOTICE, fontsize=7, color=GREY)
    if not len(shown):
        _say(figure, "every image of this part got its true class")
        return figure

    grid = figure.subplots(rows, _MISTAKES_A_ROW, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, index, image in zip(grid, shown, data.images_of(shown), strict=False):
        true = predictions.classes[predictions.labels[index]]
        guess = predictions.classes[predicted[index]]
        axes.imshow(image)
        for line, (text, size, colour) in enumerate(
            (
                (f"true: {spaced(true)}", 6.5, CLASS_COLOURS[true]),
                (f"pred.: {spaced(guess)}", 6.5, CLASS_COLOURS[guess]),
                (f"score {confidence[index]:.3f} · {predictions.image_ids[index]}", 5.5, GREY),
            )
        ):
            axes.annotate(
                text,
                (0.5, 0),
                xycoords="axes fraction",
                xytext=(0, -3 - 9 * line),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=size,
                color=colour,
            )
    return figure


FIGURES: dict[str, Callable[[FigureData], "Figure"]] = {
    "confusion_matrix": _confusion_matrix,
    "confusion_matrix_normalised": _confusion_matrix_normalised,
    "roc": _roc,
    "precision_recall": _precision_recall,
    "reliability": _reliability,
    "learning_curves": _learning_curves,
    "mistakes": _mistakes,
}


def draw_figures(data: FigureData, folder: Path) -> list[Path]:
    """Draw every row of `FIGURES` into a folder as NAME.png and NAME.pdf; return the PNGs' paths.

    The same data give the same bytes, and matplotlib's settings are left as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with drawing():
        for name, draw in FIGURES.items():
            paths.append(folder / f"{name}.png")
            save(draw(data), paths[-1])
    return paths
