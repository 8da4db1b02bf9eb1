"""What a run's report and its card say of groups of the test images."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from skinml.compare.document import Block, Cell, Heading, Items, Table, Text
from skinml.compare.paired import ALPHA, format_p
from skinml.evaluation.classes import sought
from skinml.evaluation.drawing import spaced
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.subgroups import (
    LEAST,
    METRICS,
    PICTURE,
    Figure,
    Value,
    figures_of_run,
    groups_of,
)

_TOO_FEW = "too few to say"


def subgroup_blocks(test: Predictions, metrics: Mapping[str, float]) -> Iterator[Block]:
    """A report's section on groups; nothing where nothing is known of the images."""
    figures = figures_of_run(test, metrics)
    if not figures:
        return
    yield Heading("Whom it serves")
    if all(math.isnan(figure.own.value) for figure in figures):
        yield Text(
            f"Of no group of the test images ({_names(figures)}) there are enough to say anything: "
            f"{LEAST} are needed for every figure."
        )
        return
    yield Text(
        f"The test images by what is known of them. {_known(test)} Δ is the difference to all "
        f"others of which the same is known, p its test before correction.{_calibration(test)}"
    )
    yield _table(test, figures)
    yield Text(
        f"“{_TOO_FEW}” is written where a figure would rest on fewer than {LEAST} images, in the "
        "group or beside it. The intervals and tests are over test images, at the threshold as it "
        "is. Groups differ in more than their name: a group of easy pictures is served well."
        f"{_detectors(test)}"
    )
    yield from _shown(figures)


def _detectors(test: Predictions) -> str:
    if not any(name.startswith(PICTURE) for name in test.subgroups):
        return ""
    return (
        " What a picture shows is told by simple detectors, which err: of 100 pictures of ISIC "
        "2017 looked at by eye they found 13 of 22 with hair, 30 of 50 with marks of a ruler or "
        "pen, 21 of 25 with dark corners, 22 of 32 with a large lesion, and 1 of 4 blurred ones."
    )


def _calibration(test: Predictions) -> str:
    label = sought(test.classes)
    if not label:
        return ""
    name = spaced(label)
    return f" “score − share”: the mean {name} score less the share of {name} among them."


def _names(figures: Sequence[Figure]) -> str:
    return ", ".join(dict.fromkeys(figure.attribute for figure in figures))


def _known(test: Predictions) -> str:
    counts = {group.attribute: int(group.known.sum()) for group in groups_of(test.subgroups)}
    lacking = [
        f"{attribute} of {count} of {len(test.labels)}"
        for attribute, count in counts.items()
        if count < len(test.labels)
    ]
    return f"Known are {', '.join(lacking)}." if lacking else ""


def _table(test: Predictions, figures: Sequence[Figure]) -> Table:
    label = sought(test.classes)
    metrics = tuple(dict.fromkeys(figure.metric for figure in figures))
    found = {(f.attribute, f.group, f.metric): f for f in figures}
    rows, before = [], ""
    for group in groups_of(test.subgroups):
        counts = [int(group.rows.sum())]
        if label:
            of_class = test.labels == test.classes.index(label)
            counts.append(int((group.rows & of_class).sum()))
        attribute = group.attribute if group.attribute != before else ""
        before = group.attribute
        own = (found[group.attribute, group.name, metric] for metric in metrics)
        names = [Cell(attribute), Cell(spaced(group.name))]
        rows.append([*names, *(Cell(str(count)) for count in counts), *map(_cell, own)])
    counted = ("images", spaced(label)) if label else ("images",)
    columns = ("", "group", *counted, *(METRICS[metric] for metric in metrics))
    title = f"Groups of the test images: {spaced(label)}" if label else "Groups of the test images"
    return Table(title, columns, rows, labels=2)


def _cell(figure: Figure) -> Cell:
    if math.isnan(figure.own.value):
        return Cell("–", _TOO_FEW)
    signed = "+" if figure.metric == "calibration" else ""
    text = f"{figure.own.value:{signed}.2f}"
    note = f"{figure.own.low:{signed}.2f} to {figure.own.high:{signed}.2f}"
    if not math.isnan(figure.p):
        note += f"; Δ {figure.difference.value:+.2f}, p {_p(figure.p)}"
    return Cell(text, note, bold=figure.p_holm < ALPHA)


def _p(p: float) -> str:
    return format_p(p).removeprefix("p ")


def _shown(figures: Sequence[Figure]) -> Iterator[Block]:
    """The differences that are left after Holm's correction."""
    # Of two groups that are all there are, the one difference is told once.
    tests = {
        (f.attribute, f.metric, f.p, abs(f.difference.value)): f
        for f in reversed(figures)
        if not math.isnan(f.p)
    }
    if not tests:
        return
    shown = sorted((f for f in tests.values() if f.p_holm < ALPHA), key=lambda f: f.p_holm)
    count = f"the {len(tests)} differences" if len(tests) > 1 else "the one difference"
    if not shown:
        yield Text(
            f"Of {count} tested none is shown after Holm's correction: these images do not tell "
            "whether any group is served worse."
        )
        return
    yield Text(f"Of {count} tested, shown after Holm's correction:")
    yield Items(tuple(map(_sentence, shown)))


def _sentence(figure: Figure) -> str:
    name = f"{figure.attribute}, {spaced(figure.group)}"
    return (
        f"{name}: {METRICS[figure.metric]} {figure.own.value:.2f} beside "
        f"{figure.rest.value:.2f} of the rest, a difference of {_of(figure.difference)}, "
        f"p {_p(figure.p_holm)} after correction."
    )


def _of(value: Value) -> str:
    return f"{value.value:+.2f} ({value.low:+.2f} to {value.high:+.2f})"


def card_lines(test: Predictions, metrics: Mapping[str, float]) -> Iterator[str]:
    """The groups' table of a model card, in Markdown; nothing where nothing is known."""
    figures = figures_of_run(test, metrics)
    if not figures:
        return
    kinds = tuple(dict.fromkeys(figure.metric for figure in figures))
    heads = ("group", "images", *(METRICS[kind] for kind in kinds))
    yield from ("", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}")
    found = {(f.attribute, f.group, f.metric): f.own for f in figures}
    for group in groups_of(test.subgroups):
        cells = [_interval(found[group.attribute, group.name, kind]) for kind in kinds]
        name = f"{group.attribute}: {spaced(group.name)}".replace("|", r"\|")
        yield f"| {name} | {int(np.sum(group.rows))} | {' | '.join(cells)} |"
    told = [block for block in _shown(figures) if isinstance(block, Text | Items)]
    for block in told:
        lines = [block.text] if isinstance(block, Text) else [f"- {item}" for item in block.items]
        yield from ("", *lines)


def _interval(value: Value) -> str:
    if math.isnan(value.value):
        return _TOO_FEW
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
