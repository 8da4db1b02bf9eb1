"""Every figure of one run, a row each in `FIGURES`, drawn as PNG for the screen and PDF for papers.

One file, a function a figure: what they share (sheets, colours, how classes are told) is seen at
once. matplotlib is imported where it is used, so that importing this is fast.
"""

import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skinml.data.isic2017 import NOTICE
from skinml.evaluation.calibration import at_temperature, fit_temperature
from skinml.evaluation.classes import against_the_rest, of_class, sought
from skinml.evaluation.decision import answered, decision_curve
from skinml.evaluation.drawing import (
    CAVEAT,
    COLUMN,
    GREY,
    PAGE,
    class_colours,
    class_lines,
    drawing,
    ink,
    save,
    spaced,
)
from skinml.evaluation.metrics import CALIBRATION_BINS, evaluate, roc_curve
from skinml.evaluation.operating_point import RULES, Rule, Scored, rules_from
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureData:
    """All that the figures of one run are drawn from.

    `predictions` are the test part's; `history` holds one row an epoch (0 rows are fine);
    `best_epoch` is the epoch whose weights were kept, 0 where nothing was trained; `images_of`
    turns indices into `predictions` into uint8 images (n, height, width, 3). `validation` are the
    predictions that thresholds are chosen on, if they are at hand, `first` the run's own rule.
    `maps_of` turns indices into class activation maps of the predicted class (n, h, w) uint8.
    `prevalence` is the share of melanomas that benefits are counted at, None that of the test part.
    """

    title: str
    predictions: Predictions
    history: list[dict[str, float | str]]
    best_epoch: int
    images_of: Callable[[np.ndarray], np.ndarray]
    validation: Predictions | None = None
    first: Rule = RULES[0]
    maps_of: Callable[[np.ndarray], np.ndarray] | None = None
    prevalence: float | None = None


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


# Of so many classes a cell of a matrix on one page still holds a figure that can be read.
_READABLE_CLASSES = 20


def _matrix(
    data: FigureData, heading: str, counts: np.ndarray, shades: np.ndarray
) -> "tuple[Figure, Axes, float]":
    """A confusion matrix with its cells shaded (0 to 1), all but their text; the text's scale."""
    classes = data.predictions.classes
    room = max(1.0, len(classes) / 4)
    width, height = min(COLUMN * room, PAGE), min(4.3 * room, PAGE)
    figure = _sheet(data, heading, width, height)
    axes = figure.add_subplot()
    ticks = np.arange(len(classes))
    axes.pcolormesh(
        ticks, ticks, shades, cmap="Blues", vmin=0, vmax=1, edgecolors="white",
        linewidth=2 if room == 1 else 0.5,
    )  # fmt: skip
    axes.invert_yaxis()
    whole = [spaced(label) for label in classes]
    if len(classes) > _READABLE_CLASSES:
        axes.set_xticks(ticks, whole, rotation=90, fontsize=4)
        axes.set_yticks(ticks, whole, fontsize=4)
    else:
        names = [_wrapped(name) for name in whole]
        rotated = {} if room == 1 else {"rotation": 90}
        axes.set_xticks(ticks, names, **rotated)
        axes.set_yticks(
            ticks, [f"{name}\n(n = {n})" for name, n in zip(names, counts.sum(axis=1), strict=True)]
        )
    axes.set(aspect="equal", xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes, min(1.0, 6.5 / (len(classes) + 2.5))


def _wrapped(name: str) -> str:
    """A class's name in lines: a word each, of longer names as much as fits beside a cell."""
    return name.replace(" ", "\n") if name.count(" ") < 3 else textwrap.fill(name, 16)


def _confusion_matrix(data: FigureData) -> "Figure":
    """How many images of each true class got each predicted class."""
    counts = _confusion(data.predictions)
    shades = counts / max(counts.max(), 1)
    figure, axes, scale = _matrix(data, "Confusion matrix (images)", counts, shades)
    for (row, column), count in np.ndenumerate(counts):
        if len(counts) > _READABLE_CLASSES and not count:
            continue
        colour = ink(shades[row, column])
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour,
                  fontsize=12 * scale)  # fmt: skip
    return figure


def _confusion_matrix_normalised(data: FigureData) -> "Figure":
    """The share of each true class's images that got each predicted class, counts beneath."""
    counts = _confusion(data.predictions)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heading = "Confusion matrix (share of the true class)"
    figure, axes, scale = _matrix(data, heading, counts, shares)
    for (row, column), count in np.ndenumerate(counts):
        if len(counts) > _READABLE_CLASSES and not count:
            continue
        colour = ink(shares[row, column])
        # A share of a class without images is no number.
        share = f"{shares[row, column]:.2f}" if counts[row].any() else "–"
        axes.text(column, row - 0.06, share, ha="center", va="center", color=colour,
                  fontsize=12 * scale)  # fmt: skip
        axes.text(column, row + 0.2, f"{count}", ha="center", va="center", color=colour,
                  fontsize=7 * scale)  # fmt: skip
    return figure


def _unit_square(figure: "Figure", xlabel: str, ylabel: str) -> "Axes":
    """Axes of two shares, each from 0 to 1."""
    axes = figure.add_subplot()
    # A hair of room, so that a curve along the frame is not cut in half.
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    return axes


# As many curves leave room for a square above their legend.
_CURVES = 4


def _curves_sheet(data: FigureData, heading: str, height: float) -> "tuple[Figure, int]":
    """A figure of a curve for each class, and how many columns its legend has."""
    count = len(data.predictions.classes)
    columns = 1 if count <= 2 * _CURVES else 2
    more = max(0, -(-count // columns) - _CURVES)
    return _sheet(data, heading, COLUMN if columns == 1 else PAGE, height + 0.18 * more), columns


def _other(classes: tuple[str, ...], shown: tuple[str, ...]) -> str:
    """Of two classes the one whose curve is not shown."""
    return next((label for label in classes if label not in shown), "the rest")


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The vertical mean of ROC curves; the area under it is the mean of their areas."""
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    # A curve jumps at some of its points: take each from just before it and from just after it.
    sides = np.stack([grid - 1e-9, grid + 1e-9], axis=1).ravel()
    return np.repeat(grid, 2), np.mean([np.interp(sides, x, y) for x, y in curves], axis=0)


def _roc(data: FigureData) -> "Figure":
    """One-vs-rest ROC curves with their areas and how sure these are."""
    predictions = data.predictions
    shown = against_the_rest(predictions.classes)
    binary = len(shown) == 1
    heading = f"ROC curve, {spaced(shown[0])} against {spaced(_other(predictions.classes, shown))}"
    if not binary:
        heading = "ROC curves, each class against the rest"
    figure, columns = _curves_sheet(data, heading, 5.6)
    axes = _unit_square(figure, "1 − specificity", "sensitivity")
    names = tuple(of_class("auc", label) for label in shown)
    asked = names if binary else (*names, "auc_macro")
    areas = {
        name: area
        for name, (area,) in evaluate(predictions, names=asked).items()
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
    colours, lines = class_colours(predictions.classes), class_lines(predictions.classes)
    for label, name in zip(shown, names, strict=True):
        index = predictions.classes.index(label)
        x = y = np.empty(0)
        if name in areas:
            x, y = roc_curve(predictions.labels == index, predictions.scores[:, index])
            curves.append((x, y))
        axes.plot(
            x, y, color=colours[label], linestyle=lines[label], label=entry(spaced(label), name)
        )
    if not binary:
        x, y = _mean_curve(curves) if "auc_macro" in areas else (np.empty(0), np.empty(0))
        axes.plot(x, y, color="black", linestyle="--", label=entry("macro average", "auc_macro"))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="chance: 0.5")
    _mark_points(axes, data)
    title = "AUC (95 % bootstrap interval)"
    figure.legend(loc="outside lower center", title=title, ncols=columns)
    return figure


def _mark_points(axes: "Axes", data: FigureData) -> None:
    """Where thresholds chosen on validation lie on the test's curve of the class that is sought."""
    label = sought(data.predictions.classes)
    if data.validation is None or label is None:
        return
    test, validation = (Scored.of(t, label) for t in (data.predictions, data.validation))
    own, *others = rules_from(data.first)
    colour, name = class_colours(data.predictions.classes)[label], spaced(label)
    for rules, face, told in (
        (others, "white", "at other thresholds chosen on validation"),
        ([own], colour, f"at the threshold for {own.title}"),
    ):
        thresholds = [float(validation.choose(rule)[0]) for rule in rules]
        rates = [test.rates(threshold) for threshold in thresholds if np.isfinite(threshold)]
        axes.plot(
            [1 - rate.specificity for rate in rates],
            [rate.sensitivity for rate in rates],
            linestyle="none",
            marker="o",
            markersize=5,
            markerfacecolor=face,
            markeredgecolor=colour,
            label=f"{name}, {told}",
        )


def _precision_recall(data: FigureData) -> "Figure":
    """One-vs-rest precision-recall curves with their average precision and prevalence."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    predictions = data.predictions
    shown = against_the_rest(predictions.classes)
    rest = "the rest" if len(shown) > 1 else spaced(_other(predictions.classes, shown))
    which = "curves, each class" if len(shown) > 1 else f"curve, {spaced(shown[0])}"
    figure, columns = _curves_sheet(data, f"Precision-recall {which} against {rest}", 5.4)
    axes = _unit_square(figure, "recall (sensitivity)", "precision")
    colours, lines = class_colours(predictions.classes), class_lines(predictions.classes)
    for label in shown:
        index = predictions.classes.index(label)
        positive, scores = predictions.labels == index, predictions.scores[:, index]
        colour, entry = colours[label], f"{spaced(label)}: undefined, class absent"
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
        axes.plot(
            recall, precision, color=colour, linestyle=lines[label], drawstyle="steps-pre",
            label=entry,
        )  # fmt: skip
    title = "average precision (prevalence, dotted)"
    figure.legend(loc="outside lower center", title=title, ncols=columns)
    return figure


class _Bins(NamedTuple):
    """The images of a table by the score of their predicted class, of the bins that have any."""

    means: np.ndarray
    images: np.ndarray
    hits: np.ndarray
    counts: np.ndarray
    """Images of every bin, empty ones too."""

    @classmethod
    def of(cls, predictions: Predictions) -> "_Bins":
        confidence = predictions.scores.max(axis=1)
        correct = predictions.predicted == predictions.labels
        bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        counts = np.bincount(bins, minlength=CALIBRATION_BINS)
        filled = np.flatnonzero(counts)
        hits = np.bincount(bins[correct], minlength=CALIBRATION_BINS)[filled]
        means = np.bincount(bins, weights=confidence)[filled] / counts[filled]
        return cls(means, counts[filled], hits, counts)

    def intervals(self) -> np.ndarray:
        """Wilson's 95 % interval of each share of hits: (2, bins)."""
        pairs = zip(self.hits.tolist(), self.images.tolist(), strict=True)
        return np.array([wilson_interval(hits, images) for hits, images in pairs]).T


def _reliability(data: FigureData) -> "Figure":
    """Whether the predicted class is right as often as its score says, before a temperature too."""
    shown = [("observed, 95 % intervals", data.predictions, "black", "black")]
    temperature = fit_temperature(data.validation) if data.validation else None
    if temperature and temperature.helps:
        after = at_temperature(data.predictions, temperature.value)
        shown.append((f"at temperature {temperature.value:.2f}", after, GREY, "white"))
    figure = _sheet(data, "Reliability of the predicted class's score", COLUMN, 5.2)
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="perfect")
    for name, table, line, face in shown:
        bins = _Bins.of(table)
        (error,) = evaluate(table, names=("calibration_error",))["calibration_error"]
        above.vlines(bins.means, *bins.intervals(), color=GREY, linewidth=1)
        above.plot(
            bins.means, bins.hits / bins.images, color=line, linestyle="none", marker="o",
            markersize=4, markerfacecolor=face, label=f"{name}\n(calibration error {error:.3f})",
        )  # fmt: skip
    # The highest of K scores is 1/K or more: nothing is to be seen further left.
    above.set(xlim=(1 / len(data.predictions.classes) - 0.02, 1.01), ylim=(-0.02, 1.02))
    above.set_ylabel("share correct")
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    counts = _Bins.of(data.predictions).counts
    beneath.bar(centres, counts, width=0.9 / CALIBRATION_BINS, color=GREY)
    beneath.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    told = "images" if len(shown) == 1 else "images\n(observed)"
    beneath.set(xlabel="confidence (score of the predicted class)", ylabel=told)
    figure.align_ylabels()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _decision_curve(data: FigureData) -> "Figure":
    """Net benefit over the probability of a melanoma from which one would have it excised.

    Of two classes without a melanoma it is that of the second.
    """
    predictions, label = data.predictions, sought(data.predictions.classes)
    if label is None:
        figure = _sheet(data, "Decision curve", COLUMN, 4.6)
        _say(figure, "no class is called melanoma")
        return figure
    name = spaced(label)
    figure = _sheet(data, f"Decision curve: excise by the {name} score", COLUMN, 4.6)
    test = Scored.of(predictions, label)
    if not test.positive.any() or test.positive.all():
        _say(figure, f"undefined: the part has {name} images alone, or none")
        return figure
    curve = decision_curve(test, np.linspace(0.01, 0.6, 60), data.prevalence)
    x = [point.probability for point in curve]
    colour = class_colours(predictions.classes)[label]
    axes = figure.add_subplot()
    low, high = ([getattr(point.network, end) for point in curve] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, [p.network.value for p in curve], color=colour, label="by the network (95 %)")
    everybody = [point.everybody for point in curve]
    axes.plot(x, everybody, color="black", linestyle="--", label="act on everything")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":", label="act on nothing")
    share = test.positive.mean() if data.prevalence is None else data.prevalence
    said = "that of the test part" if data.prevalence is None else "as asked for"
    axes.set(
        xlim=(0, 0.6),
        ylim=(-0.25 * share, 1.1 * share),
        xlabel=f"probability of a {name} from which one would excise",
        ylabel=f"net benefit ({name}s found per patient)",
    )
    prevalence = f"at a prevalence of {100 * share:.1f} %, {said}"
    figure.legend(loc="outside lower center", ncols=3, title=prevalence, title_fontsize=8)
    return figure


def _answered(data: FigureData) -> "Figure":
    """Accuracy if only the images that the network is surest of are answered."""
    figure = _sheet(data, "Answering only the surest images", COLUMN, 4.2)
    predictions = data.predictions
    label = sought(predictions.classes)
    axes = figure.add_subplot()
    shares = np.linspace(0.1, 1, 46)
    rows = answered(predictions, label or predictions.classes[0], shares)
    low, high = ([getattr(row.accuracy, end) for row in rows] for end in ("low", "high"))
    axes.fill_between(shares, low, high, color=GREY, alpha=0.3, linewidth=0)
    axes.plot(shares, [row.accuracy.value for row in rows], color="black", label="accuracy (95 %)")
    if label := sought(predictions.classes):
        found = np.array([row.sensitivity for row in answered(predictions, label, shares)])
        colour = class_colours(predictions.classes)[label]
        axes.plot(shares, found, color=colour, label=f"{spaced(label)} sensitivity among them")
    axes.set(xlim=(0.1, 1), ylim=(0, 1.01), xlabel="share of the images that are answered")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _learning_curves(data: FigureData) -> "Figure":
    """Loss, accuracy, macro AUC and learning rate over the epochs of both training steps."""
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

    rate_panel.plot(
        epochs, column("learning_rate"), color="black", drawstyle="steps-mid", marker=marker
    )
    _scale_rates(rate_panel, column("learning_rate"))
    rate_panel.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5), xlabel="epoch")
    _mark_steps(panels, epochs, steps)
    if len(set(steps)) == 1:
        rate_panel.set_xlabel(f"epoch ({_STEPS[steps[0]]} only)")
    figure.align_ylabels()
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _scale_rates(axes: "Axes", rates: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    # More than a decade even for a constant rate, so that a power of ten is on the axis.
    axes.set(yscale="log", ylim=(rates.min() / 4, rates.max() * 4), ylabel="learning\nrate")
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _mark_steps(panels: "Sequence[Axes]", epochs: np.ndarray, steps: Sequence[str]) -> None:
    """Draw a line where a training step ends, and name the next one above the first panel."""
    for before in range(len(steps) - 1):
        if steps[before] != steps[before + 1]:
            boundary = (epochs[before] + epochs[before + 1]) / 2
            for axes in panels:
                axes.axvline(boundary, color=GREY, linewidth=0.8, linestyle="--")
            panels[0].text(
                boundary,
                1.03,
                f"{_STEPS[steps[before + 1]]} from epoch {epochs[before + 1]:.0f}",
                # Towards the middle, where there is room.
                ha="left" if boundary < epochs.mean() else "right",
                fontsize=8,
                transform=panels[0].get_xaxis_transform(),
            )


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
    mapped = data.maps_of is not None and len(shown) > 0
    about_maps = f"outlined: where most speaks for what was predicted. {CAVEAT}\n"
    figure.supxlabel(f"{about_maps if mapped else ''}{NOTICE}", fontsize=7, color=GREY)
    if not len(shown):
        _say(figure, "every image of this part got its true class")
        return figure

    colours = class_colours(predictions.classes)
    grid = figure.subplots(rows, _MISTAKES_A_ROW, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, index, image in zip(grid, shown, data.images_of(shown), strict=False):
        true = predictions.classes[predictions.labels[index]]
        guess = predictions.classes[predicted[index]]
        axes.imshow(image)
        for line, (text, size, colour) in enumerate(
            (
                (f"true: {spaced(true)}", 6.5, colours[true]),
                (f"pred.: {spaced(guess)}", 6.5, colours[guess]),
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
    if data.maps_of is not None:
        for axes, values in zip(grid, data.maps_of(shown), strict=False):
            _outline(axes, values)
    return figure


def _outline(axes: "Axes", values: np.ndarray) -> None:
    """A line around where a map (h, w) uint8 has more than half of its largest value.

    It leaves the picture to be seen, which colours over it would not at this size.
    """
    from PIL import Image

    (image,) = axes.images
    size = image.get_array().shape[1::-1]
    wide = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    if wide.max() > wide.min():
        for colour, width in (("black", 1.8), ("white", 0.9)):
            axes.contour(wide, levels=[wide.max() / 2], colors=colour, linewidths=width)


FIGURES: dict[str, Callable[[FigureData], "Figure"]] = {
    "confusion_matrix": _confusion_matrix,
    "confusion_matrix_normalised": _confusion_matrix_normalised,
    "roc": _roc,
    "precision_recall": _precision_recall,
    "reliability": _reliability,
    "decision_curve": _decision_curve,
    "answered": _answered,
    "learning_curves": _learning_curves,
    "mistakes": _mistakes,
}


def draw_figures(
    data: FigureData, folder: Path, names: Collection[str] = FIGURES.keys()
) -> list[Path]:
    """Draw rows of `FIGURES`, all by default, as NAME.png and NAME.pdf; return the PNGs' paths.

    The same data give the same bytes, and matplotlib's settings are left as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with drawing():
        for name in names:
            paths.append(folder / f"{name}.png")
            save(FIGURES[name](data), paths[-1])
    return paths
