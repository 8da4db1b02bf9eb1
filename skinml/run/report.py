"""The report of one run: all that is known of it, as one HTML file that a mail can carry."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from skinml.compare.document import (
    Block,
    Cell,
    Document,
    Heading,
    Items,
    Link,
    Picture,
    Table,
    Text,
)
from skinml.compare.formats.html import to_html
from skinml.data.datasets import title_of
from skinml.evaluation.calibration import (
    Temperature,
    brier,
    end_of_range,
    fit_temperature,
    scaled,
)
from skinml.evaluation.classes import against_the_rest, of_class, sought
from skinml.evaluation.decision import answered, price_list
from skinml.evaluation.drawing import spaced
from skinml.evaluation.headline import headline_figures
from skinml.evaluation.operating_point import (
    OperatingPoint,
    Rates,
    Rule,
    Scored,
    operating_points,
    rule_of,
    rules_from,
)
from skinml.evaluation.predictions import Predictions
from skinml.run.subgroups import subgroup_blocks
from skinml.run.trained import trained_blocks
from skinml.tracking.folder import PICTURES, Description

# What a missed melanoma costs, in unneeded excisions.
RATIOS = (5.0, 10.0, 20.0, 50.0)

_PICTURES = {
    "confusion_matrix_normalised": "Confusion matrix, as shares of the true class",
    "roc": "ROC curves, each class against the rest; marks: operating points",
    "precision_recall": "Precision-recall curves",
    "decision_curve": "Net benefit of excising by a score",
    "reliability": "How often the predicted class is right, by its score",
    "answered": "Accuracy if only the surest images are answered",
    "learning_curves": "Learning curves",
    "mistakes": "The mistakes that the network was surest of",
}


_NO_THRESHOLD = (
    "No threshold is chosen on one class's score, and no cost is counted: none of the classes is "
    "called melanoma, and which of several must not be missed only you know."
)


def make_report(
    description: Description,
    metrics: Mapping[str, float],
    tables: Mapping[str, Predictions],
    figures: frozenset[str] = frozenset(),
    prevalence: float | None = None,
    pictures: bool = False,
) -> Document:
    """The report of a run from its predictions tables (part → table).

    `figures` are the stems of those that are drawn. `prevalence` is the share of melanomas among
    the patients that costs are counted for, by default that of the test part. Without a validation
    table there is nothing that a threshold was chosen on, and that section is left out. `pictures`
    is whether the page of the pictures lies beside the report.
    """
    test, validation = tables["test"], tables.get("validation")
    params = description.params
    blocks: list[Block] = [*_verdict(metrics, test)]
    blocks += [
        Heading("How good it is"),
        _headline(metrics, test.classes),
        _by_class(metrics, test),
    ]
    blocks += _pictures(figures, "confusion_matrix_normalised", "roc", "precision_recall")
    label = sought(test.classes)
    if validation and label:
        rules = rules_from(rule_of(params))
        blocks += _thresholds(label, rules, validation, test, figures, prevalence)
        blocks += _calibration(label, validation, test, figures)
    elif validation:
        blocks += [Heading("At a threshold"), Text(_NO_THRESHOLD)]
    blocks += _where_sure(test, figures)
    blocks += subgroup_blocks(test, metrics)
    if "mistakes" in figures or pictures:
        blocks += [Heading("Its mistakes"), *_pictures(figures, "mistakes")]
    if pictures:
        blocks.append(
            Link(
                f"{PICTURES}#right=wrong",
                "All test pictures with their maps and scores, to filter and sort",
                f"the file {PICTURES} that lies beside this one",
            )
        )
    blocks += [Heading("What was trained"), *trained_blocks(description, test.classes)]
    blocks += _pictures(figures, "learning_curves")
    blocks += [
        Heading("What it is not for"),
        Items(limits(description.tags.get("data", ""), len(test.classes))),
    ]
    title = f"{description.name}: {params.get('model', '')}, batch size {params.get('batch_size')}"
    return Document(title, blocks)


def figures_title(description: Description) -> str:
    """What the figures of a run are headed by."""
    params = description.params
    return (
        f"{params.get('model')}, batch size {params.get('batch_size')}, seed {params.get('seed')}\n"
        f"{description.tags.get('data')}, {params.get('protocol')} protocol"
    )


def write_html(document: Document, figures: Path, path: Path) -> None:
    """Write a report as one HTML file, with the figures of a folder inside."""
    path.write_text(to_html(document, figures), encoding="utf-8")


def _pictures(figures: frozenset[str], *names: str) -> list[Block]:
    return [Picture(name, _PICTURES[name]) for name in names if name in figures]


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _range(ends: tuple[float, float], digits: int = 3) -> str:
    low, high = ends
    return "too few images" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def _verdict(metrics: Mapping[str, float], test: Predictions) -> Iterator[Block]:
    counts = np.bincount(test.labels, minlength=len(test.classes))
    commonest = spaced(test.classes[int(counts.argmax())])
    low, high = (metrics.get(f"test_auc_macro_ci_{end}", math.nan) for end in ("low", "high"))
    yield Text(
        f"On {len(test.labels):,} test images: macro AUC {_number(metrics['test_auc_macro'])} "
        f"(95 % interval {_range((low, high))}), accuracy {_number(metrics['test_accuracy'])}; "
        f"always answering “{commonest}” has an accuracy of {counts.max() / len(test.labels):.3f}.",
        strong=True,
    )
    if test.one_class:
        yield Text(f"This network {test.one_class}: it tells nothing apart.", strong=True)


def _headline(metrics: Mapping[str, float], classes: tuple[str, ...]) -> Table:
    rows = [
        [Cell(f.metric.title, f.metric.note), Cell(f.shown(3)), Cell(f.interval(3))]
        for f in headline_figures(metrics, "test", classes)
    ]
    return Table("On the test images", ("metric", "value", "95 % interval"), rows)


def _by_class(metrics: Mapping[str, float], test: Predictions) -> Table:
    rows = []
    for label in against_the_rest(test.classes):
        names = ("sensitivity", "specificity", "precision", "auc")
        values = [metrics.get(f"test_{of_class(name, label)}", math.nan) for name in names]
        images = int(np.sum(test.labels == test.classes.index(label)))
        rows.append([Cell(spaced(label)), Cell(str(images)), *map(Cell, map(_number, values))])
    columns = ("answer", "images", "sensitivity", "specificity", "precision", "AUC")
    return Table("Each class, where its score is the highest", columns, rows)


def _rate(rate: float, count: int, of: int, ends: tuple[float, float] | None = None) -> Cell:
    """A rate with what it counts, and its interval."""
    told = f"{count} of {of}"
    return Cell(_number(rate), f"{told}; {_range(ends)}" if ends else told)


def _rates(rates: Rates, intervals: Mapping[str, tuple[float, float]]) -> list[Cell]:
    found, spared = rates.true_positives, rates.true_negatives
    positives, negatives = found + rates.false_negatives, spared + rates.false_positives
    return [
        _rate(rates.sensitivity, found, positives, intervals.get("sensitivity")),
        _rate(rates.specificity, spared, negatives, intervals.get("specificity")),
    ]


def _thresholds(
    label: str,
    rules: tuple[Rule, ...],
    chosen_on: Predictions,
    tested_on: Predictions,
    figures: frozenset[str],
    prevalence: float | None,
) -> Iterator[Block]:
    validation, test = Scored.of(chosen_on, label), Scored.of(tested_on, label)
    name = spaced(label)
    yield Heading("At a threshold")
    yield Text(
        f"An image is called {name} whose {name} score is at least the threshold. Each was "
        "chosen on the validation images; the test images say what it does on others. The "
        "intervals hold both chances: of the test images, and of the validation images that chose."
    )
    points = operating_points(validation, test, rules)
    rows = [
        [Cell(point.rule.title), _threshold(point), *_rates(point.validation, {}),
         *_rates(point.test, point.intervals)]
        for point in points
    ]  # fmt: skip
    columns = ("chosen for", "threshold", "validation sensitivity", "validation specificity",
               "test sensitivity", "test specificity")  # fmt: skip
    yield Table(f"Operating points for {name}", columns, rows)
    yield from _costs(name, validation, test, prevalence)
    yield from _pictures(figures, "decision_curve")


def _costs(
    name: str, validation: Scored, test: Scored, prevalence: float | None
) -> Iterator[Block]:
    for said, part in (("validation", validation), ("test", test)):
        if not part.positive.any() or part.positive.all():
            yield Text(f"No cost is counted: the {said} part has {name} images alone, or none.")
            return
    share = float(test.positive.mean()) if prevalence is None else prevalence
    said = "as in the test part, which is no clinic" if prevalence is None else "as asked for"
    yield Text(
        f"If a missed {name} costs as much as so many unneeded excisions: the threshold that "
        "cost least on validation, and its cost on test, in unneeded excisions per 1,000 patients. "
        f"{100 * share:.1f} % of the patients have a {name}, {said}."
    )
    prices = price_list(validation, test, RATIOS, share)
    yield Table(
        f"What mistakes cost, at a prevalence of {100 * share:.1f} %",
        ("missed : unneeded", "threshold", "sensitivity", "specificity", "cost", "excise nothing",
         "excise everything"),
        [
            [Cell(f"{price.ratio:g} : 1"), _cheapest(price.threshold),
             Cell(_number(price.sensitivity)), Cell(_number(price.specificity)),
             Cell(f"{price.cost.value:.0f}", _range(price.cost[1:], 0)),
             Cell(f"{price.nobody:.0f}"), Cell(f"{price.everybody:.0f}")]
            for price in prices
        ],
    )  # fmt: skip


def _cheapest(threshold: float) -> Cell:
    if math.isinf(threshold):
        return Cell("none", "to call nothing costs least")
    return Cell(_number(threshold, 4))


def _threshold(point: OperatingPoint) -> Cell:
    if math.isinf(point.threshold):
        return Cell("none", "no score is high enough")
    return Cell(_number(point.threshold, 4), _range(point.intervals["threshold"], 4))


def _calibration(
    label: str, validation: Predictions, test: Predictions, figures: frozenset[str]
) -> Iterator[Block]:
    found = fit_temperature(validation)
    yield Heading("Whether its scores are probabilities")
    yield Text(_of_temperature(found))
    own = test.classes.index(label)
    shown = [("as they are", test.scores)]
    if not end_of_range(found.value):
        after = scaled(test.scores, found.value)
        shown.append((f"at temperature {found.value:.2f}", after))
    rows = []
    for name, scores in shown:
        parts = brier(test.labels == own, scores[:, own])
        rows.append([Cell(name), *(Cell(f"{part:.4f}") for part in parts)])
    name = spaced(label)
    yield Table(
        f"Brier score of the {name} scores on test, and its parts (lower is better but for the "
        "resolution)",
        ("scores", "Brier score", "reliability", "resolution", "uncertainty", "within bins"),
        rows,
    )
    yield from _pictures(figures, "reliability")


def _of_temperature(found: Temperature) -> str:
    if math.isnan(found.value):
        return "There are too few validation images to fit a temperature on."
    change = f"{-found.gain:+.3f} ({-found.gain_high:+.3f} to {-found.gain_low:+.3f})"
    images = f"on validation images that did not choose it the log loss changes by {change}."
    if ends := end_of_range(found.value):
        return (
            f"The best temperature ({found.value:.2f}) lies at the end of the range that was "
            f"looked at ({ends}), which is no answer: {images} The model is left without one."
        )
    if not found.helps:
        return (
            f"A temperature ({found.value:.2f} fits best) is not shown to make the scores better: "
            f"{images} The model is left without one."
        )
    return (
        f"A temperature of {found.value:.2f} makes the scores better ones: {images} It changes no "
        "answer, only how sure it sounds. The model carries it (predict --calibrated); all other "
        "figures are of the scores as they are."
    )


def _where_sure(test: Predictions, figures: frozenset[str]) -> Iterator[Block]:
    label = sought(test.classes) or test.classes[-1]
    name = spaced(label)
    yield Heading("Answering only where it is sure")
    yield Table(
        "The images of the highest scores alone, the others left to a person",
        ("answered", "images", "accuracy", f"{name} sensitivity", f"{name} among them"),
        [
            [Cell(f"{100 * row.share:.0f} %"), Cell(str(row.images)),
             Cell(_number(row.accuracy.value), _range(row.accuracy[1:])),
             Cell(_number(row.sensitivity)), Cell(str(row.positives))]
            for row in answered(test, label)
        ],
    )  # fmt: skip
    yield from _pictures(figures, "answered")


def limits(data: str, classes: int) -> tuple[str, ...]:
    """What a network is not for, by the name of its data set and the number of its classes."""
    demo = ("It was trained on generated pictures, and says nothing about skin.",)
    return (
        *(demo if data == "demo" else ()),
        "It is research software: no answer of it is a diagnosis, none may decide a treatment.",
        *(
            (
                "ISIC 2017 holds dermoscopic images of clinical centres internationally (arXiv "
                "1710.05006). Of no patient is the skin type recorded: how it serves dark skin is "
                "not known, nor what it does with other cameras.",
            )
            if data in ("isic2017", "demo")
            else (
                f"It was trained on {title_of(data)} alone: what it does with pictures of other "
                "patients and cameras is not known.",
            )
        ),
        f"It knows {_COUNTS.get(classes, classes)} diagnoses and answers with one of them for any "
        "picture.",
        "The intervals are over test images alone: another training seed moves the figures, too.",
    )


_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
