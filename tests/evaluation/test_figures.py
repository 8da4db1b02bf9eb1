"""Figures: each row of `FIGURES` draws whatever a run can bring, and says what the numbers say."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.evaluation.calibration import at_temperature, fit_temperature
from skinml.evaluation.drawing import drawing
from skinml.evaluation.figures import FIGURES, FigureData, draw_figures
from skinml.evaluation.metrics import CALIBRATION_BINS, point_metrics
from skinml.evaluation.operating_point import RULES, Rule, Scored
from skinml.evaluation.predictions import Predictions

TITLE = "mobilenetv2, batch size 16 (isic2017, challenge protocol)"


def _predictions(counts: tuple[int, ...], strength: float = 1.0) -> Predictions:
    """Scores that are right more often than not, the more so the higher the strength."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    logits = 1.5 * rng.normal(size=(len(labels), 3)) + strength * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        np.array([f"ISIC_{i:07d}" for i in range(len(labels))]), labels, scores, CLASSES
    )


def _history(frozen: int, finetune: int) -> list[dict[str, float | str]]:
    steps = ["frozen"] * frozen + ["finetune"] * finetune
    return [
        {
            "epoch": epoch,
            "step": step,
            **{f"{part}_loss": 1 / epoch for part in ("train", "val")},
            **{f"{part}_accuracy": 1 - 0.4 / epoch for part in ("train", "val")},
            **{f"{part}_auc_macro": 1 - 0.3 / epoch for part in ("train", "val")},
            "learning_rate": 1e-3 if step == "frozen" else 3.2e-5,
            "seconds": 2.0,
            "images_per_second": 1000.0,
        }
        for epoch, step in enumerate(steps, start=1)
    ]


def _images_of(indices: np.ndarray) -> np.ndarray:
    """Images of one shade each, which is the index."""
    return np.tile(indices.astype(np.uint8)[:, None, None, None], (1, 224, 224, 3))


ORDINARY = FigureData(TITLE, _predictions((15, 50, 25)), _history(3, 7), 8, _images_of)
_FEW = _predictions((3, 5, 4))

# What is odd about the predictions, and about the history: each figure looks at one of them only.
CASES = {
    "ordinary": ORDINARY,
    "class absent, no epochs": FigureData(TITLE, _predictions((6, 14, 0)), [], 0, _images_of),
    "one class only, one epoch": FigureData(
        TITLE, _predictions((0, 9, 0)), _history(1, 0), 1, _images_of
    ),
    "one image, frozen only": FigureData(
        TITLE, _predictions((1, 0, 0)), _history(4, 0), 2, _images_of
    ),
    "no mistakes, fine-tuning only": FigureData(
        TITLE, replace(_FEW, scores=np.eye(3)[_FEW.labels]), _history(0, 4), 4, _images_of
    ),
    "all wrong, only the last epoch fine-tuned": FigureData(
        TITLE, replace(_FEW, scores=np.eye(3)[_FEW.labels - 1]), _history(40, 1), 41, _images_of
    ),
    "all scores equal, validation not measured": FigureData(
        TITLE,
        replace(_FEW, scores=np.full((12, 3), 1 / 3)),
        [{**row, "val_auc_macro": float("nan")} for row in _history(2, 2)],
        0,
        _images_of,
    ),
    "no title": replace(ORDINARY, title=""),
}


def draw_ordinary(folder: str) -> None:
    """What another process draws, to be compared."""
    draw_figures(ORDINARY, Path(folder))


@pytest.fixture
def draw() -> Callable[..., Figure]:
    """Draw a row of `FIGURES` in its style and lay it out."""

    def drawn(name: str, data: FigureData = ORDINARY) -> Figure:
        with drawing():
            figure = FIGURES[name](data)
            figure.draw_without_rendering()
        return figure

    return drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `draw_figures` for ordinary data."""
    path = tmp_path_factory.mktemp("figures") / "made" / "by it"
    before = dict(rcParams)
    assert draw_figures(ORDINARY, path) == [path / f"{name}.png" for name in FIGURES]
    assert dict(rcParams) == before
    return path


def _texts(figure: Figure) -> list[list[str]]:
    """The texts of each of a figure's axes, in the order of drawing."""
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def _points(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FIGURES)
def test_draws_whatever_a_run_brings(name: str, case: str, draw: Callable[..., Figure]) -> None:
    figure = draw(name, CASES[case])
    # Nothing is cut off: a text beyond the edge would be.
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


@pytest.mark.parametrize("name", FIGURES)
def test_files(name: str, folder: Path) -> None:
    with Image.open(folder / f"{name}.png") as image:
        assert 800 <= image.width <= 1500
        assert 600 <= image.height <= 2000
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    pdf = (folder / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf


@pytest.mark.slow
def test_same_data_same_bytes(folder: Path, tmp_path: Path) -> None:
    command = "import runpy, sys; runpy.run_path(sys.argv[1])['draw_ordinary'](sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", command, __file__, str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf"))
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_imports_nothing_heavy() -> None:
    heavy = "{'matplotlib', 'sklearn', 'scipy', 'pandas', 'mlflow', 'keras', 'tensorflow'}"
    command = f"import sys, skinml.evaluation.figures; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_confusion_matrix_counts(draw: Callable[..., Figure]) -> None:
    predictions = ORDINARY.predictions
    expected = confusion_matrix(predictions.labels, predictions.predicted)
    (texts,) = _texts(draw("confusion_matrix"))
    assert texts == [str(count) for count in expected.ravel()]

    (texts,) = _texts(draw("confusion_matrix_normalised"))
    shares = expected / expected.sum(axis=1, keepdims=True)
    assert texts[::2] == [f"{share:.2f}" for share in shares.ravel()]
    assert texts[1::2] == [str(count) for count in expected.ravel()]


def test_confusion_matrix_rows_are_true_classes(draw: Callable[..., Figure]) -> None:
    (axes,) = draw("confusion_matrix").axes
    counts = np.bincount(ORDINARY.predictions.labels)
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == [
        f"{name} (n = {n})"
        for name, n in zip(("melanoma", "nevus", "seborrheic keratosis"), counts, strict=True)
    ]
    assert axes.yaxis.get_inverted()  # the first row is on top
    for index, text in enumerate(axes.texts):
        assert text.get_position() == (index % 3, index // 3)


def test_confusion_matrix_without_a_class(draw: Callable[..., Figure]) -> None:
    (texts,) = _texts(draw("confusion_matrix_normalised", CASES["class absent, no epochs"]))
    assert texts[-6:] == ["–", "0"] * 3


def test_roc_areas(draw: Callable[..., Figure]) -> None:
    labels, scores = ORDINARY.predictions.labels, ORDINARY.predictions.scores
    areas = [roc_auc_score(labels == k, scores[:, k]) for k in range(3)]
    areas.append(np.mean(areas))
    figure = draw("roc")
    for entry, line, area in zip(_legend(figure), figure.axes[0].lines, areas, strict=False):
        value, low, high = map(float, re.findall(r"\d\.\d{3}", entry))
        assert value == pytest.approx(area, abs=5e-4)
        assert low < value < high
        # The curve drawn is the one that the legend speaks of, the mean curve too.
        x, y = _points(line)
        assert np.diff(x) @ (y[1:] + y[:-1]) / 2 == pytest.approx(area)


def test_roc_without_a_class(draw: Callable[..., Figure]) -> None:
    entries = _legend(draw("roc", CASES["class absent, no epochs"]))
    assert [entry.endswith("undefined, class absent") for entry in entries] == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_roc_of_too_few_images_has_areas_without_intervals(draw: Callable[..., Figure]) -> None:
    data = FigureData(TITLE, _predictions((4, 60, 30)), [], 0, _images_of)
    melanoma, nevus, keratosis, macro, _ = _legend(draw("roc", data))
    for entry in (melanoma, macro):
        assert re.fullmatch(r".+: \d\.\d{3} \(too few images for an interval\)", entry)
    for entry in (nevus, keratosis):
        assert len(re.findall(r"\d\.\d{3}", entry)) == 3


def test_precision_recall_areas(draw: Callable[..., Figure]) -> None:
    labels, scores = ORDINARY.predictions.labels, ORDINARY.predictions.scores
    figure = draw("precision_recall")
    curves = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-pre"]
    for index, (entry, line) in enumerate(zip(_legend(figure), curves, strict=True)):
        average = average_precision_score(labels == index, scores[:, index])
        value, prevalence = map(float, re.findall(r"\d\.\d{3}", entry))
        assert value == pytest.approx(average, abs=5e-4)
        assert prevalence == pytest.approx((labels == index).mean(), abs=5e-4)
        recall, precision = _points(line)
        assert np.diff(recall) @ precision[1:] == pytest.approx(average)


@pytest.mark.parametrize("name", ["roc", "precision_recall"])
def test_a_class_keeps_its_colour(name: str, draw: Callable[..., Figure]) -> None:
    colours = [
        {
            str(line.get_label()).split(":")[0]: line.get_color()
            for line in draw(name, case).axes[0].lines
        }
        for case in (ORDINARY, CASES["class absent, no epochs"])
    ]
    for label in CLASSES:
        spaced = label.replace("_", " ")
        assert colours[0][spaced] == colours[1][spaced]
    assert len({colours[0][label.replace("_", " ")] for label in CLASSES}) == 3


def test_reliability(draw: Callable[..., Figure]) -> None:
    predictions = ORDINARY.predictions
    figure = draw("reliability")
    above, beneath = figure.axes
    images = np.array([bar.get_height() for bar in beneath.containers[0]])
    assert len(images) == CALIBRATION_BINS
    assert images.sum() == len(predictions.labels)
    (points,) = (line for line in above.lines if line.get_marker() == "o")
    confidence, share = _points(points)
    weights = images[images > 0] / images.sum()
    error = point_metrics(predictions)["calibration_error"]
    assert weights @ np.abs(share - confidence) == pytest.approx(error)
    assert f"calibration error {error:.3f}" in _legend(figure)[1]


def test_reliability_at_a_temperature_that_helps(draw: Callable[..., Figure]) -> None:
    """Too sure by far: at a temperature the error is smaller, and no point is where it was."""
    before = _predictions((150, 500, 250), strength=1.5)
    sharp = np.maximum(before.scores, 1e-12) ** 4
    overconfident = replace(before, scores=sharp / sharp.sum(axis=1, keepdims=True))
    figure = draw("reliability", replace(ORDINARY, predictions=overconfident))
    assert len(_legend(figure)) == 2  # without a validation part there is no temperature
    whole = replace(ORDINARY, predictions=overconfident, validation=overconfident)
    entries = _legend(draw("reliability", whole))
    errors = [float(re.findall(r"calibration error ([\d.]+)", entry)[0]) for entry in entries[1:]]
    assert "at temperature" in entries[2] and errors[1] < errors[0] / 2
    honest = at_temperature(before, fit_temperature(before).value)
    calm = replace(whole, predictions=honest, validation=honest)
    assert len(_legend(draw("reliability", calm))) == 2


@pytest.mark.parametrize("first", [RULES[0], Rule("youden"), Rule("specificity", 0.7)])
def test_roc_marks_the_run_s_own_operating_point(draw: Callable[..., Figure], first: Rule) -> None:
    predictions, validation = ORDINARY.predictions, _predictions((30, 60, 30))
    figure = draw("roc", replace(ORDINARY, validation=validation, first=first))
    *_, others, own = figure.axes[0].lines
    label = f"melanoma, at the threshold for {first.title}"
    assert own.get_label() == label and label in _legend(figure)
    (threshold,) = Scored.of(validation, "melanoma").choose(first)
    rates = Scored.of(predictions, "melanoma").rates(threshold)
    assert [list(values) for values in _points(own)] == [
        [1 - rates.specificity],
        [rates.sensitivity],
    ]
    assert len(others.get_xdata()) == len({rule.name for rule in RULES} - {first.name})


def _vertical_lines(figure: Figure) -> list[list[float]]:
    """Where each of a figure's axes has vertical lines."""
    return [
        [float(x[0]) for x, _ in map(_points, axes.lines) if len(x) == 2 and x[0] == x[1]]
        for axes in figure.axes
    ]


def test_learning_curves_boundary(draw: Callable[..., Figure]) -> None:
    figure = draw("learning_curves")
    assert _vertical_lines(figure) == [[3.5]] * 4
    assert _texts(figure) == [["fine-tuning from epoch 4"], [], [], []]


@pytest.mark.parametrize(
    "case", [case for case in CASES if re.search(r"frozen only|tuning only|one epoch", case)]
)
def test_learning_curves_of_one_step_have_no_boundary(
    case: str, draw: Callable[..., Figure]
) -> None:
    figure = draw("learning_curves", CASES[case])
    assert _vertical_lines(figure) == [[]] * 4
    assert figure.axes[-1].get_xlabel().endswith("only)")


def test_learning_curves_values(draw: Callable[..., Figure]) -> None:
    figure = draw("learning_curves")
    keys = ("loss", "accuracy", "auc_macro")
    for axes, key in zip(figure.axes, keys, strict=False):
        training, validation, best, *_ = axes.lines
        for line, part in ((training, "train"), (validation, "val")):
            epochs, values = _points(line)
            assert list(epochs) == list(range(1, 11))
            assert list(values) == [row[f"{part}_{key}"] for row in ORDINARY.history]
        ((epoch,), (value,)) = _points(best)
        assert (epoch, value) == (8, ORDINARY.history[7][f"val_{key}"])
    assert figure.axes[3].get_yscale() == "log"
    assert _legend(figure) == ["training", "validation", "weights kept (epoch 8)"]


def _shown(figure: Figure) -> list[int]:
    """The indices of the images in a page of mistakes (see `_images_of`)."""
    return [
        int(np.asarray(axes.images[0].get_array())[0, 0, 0]) for axes in figure.axes if axes.images
    ]


def test_mistakes_are_the_most_confident_wrong_ones(draw: Callable[..., Figure]) -> None:
    predictions = ORDINARY.predictions
    confidence = predictions.scores.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    assert len(wrong) > 20
    expected = sorted(wrong, key=lambda index: -confidence[index])[:20]

    figure = draw("mistakes")
    assert _shown(figure) == expected
    for texts, index in zip(_texts(figure), expected, strict=True):
        true = CLASSES[predictions.labels[index]].replace("_", " ")
        guess = CLASSES[predictions.predicted[index]].replace("_", " ")
        assert texts == [
            f"true: {true}",
            f"pred.: {guess}",
            f"score {confidence[index]:.3f} · ISIC_{index:07d}",
        ]
    assert figure.get_suptitle().startswith(f"The 20 most confident of {len(wrong)} mistakes\n")


def test_mistakes_are_outlined_where_their_maps_are_high(draw: Callable[..., Figure]) -> None:
    maps = np.zeros((90, 7, 7), np.uint8)
    maps[:, 2:5, 1:3] = 255
    maps[:, :, 6] = 40  # Below half of the largest.
    maps[_shown(draw("mistakes"))[0]] = 0  # Nothing speaks for what was predicted.
    figure = draw("mistakes", replace(ORDINARY, maps_of=lambda some: maps[some]))
    blank, *others = [axes for axes in figure.axes if axes.images]
    assert not blank.collections
    for axes in others:
        halo, line = axes.collections
        assert halo.get_linewidth()[0] > line.get_linewidth()[0]
        (x0, y0), (x1, y1) = line.get_datalim(axes.transData).get_points()
        # Cells of 32 pixels; half of the way to the next one.
        assert (x0, x1) == pytest.approx((32, 96), abs=2)
        assert (y0, y1) == pytest.approx((64, 160), abs=2)
    assert "no explanation of a diagnosis" in figure.get_supxlabel()
    assert figure.get_supxlabel().endswith(NOTICE)


def test_few_mistakes_are_all_shown(draw: Callable[..., Figure]) -> None:
    figure = draw("mistakes", CASES["all wrong, only the last epoch fine-tuned"])
    assert _shown(figure) == list(range(12))  # equally confident: in the table's order
    assert figure.get_suptitle().startswith("All mistakes (12)")


def test_no_mistakes_ask_for_no_images(draw: Callable[..., Figure]) -> None:
    def refuse(indices: np.ndarray) -> np.ndarray:
        raise AssertionError(indices)

    figure = draw("mistakes", replace(CASES["no mistakes, fine-tuning only"], images_of=refuse))
    assert _texts(figure) == [["every image of this part got its true class"]]


@pytest.mark.parametrize("case", CASES)
def test_mistakes_carry_the_warning(case: str, draw: Callable[..., Figure]) -> None:
    footer = draw("mistakes", CASES[case]).get_supxlabel()
    assert footer == NOTICE


@pytest.mark.parametrize("prevalence", [None, 0.02])
def test_a_decision_curve_is_of_the_prevalence_that_it_names(prevalence: float | None) -> None:
    """Acting on everything gains the share of melanomas, less the others by the odds."""
    with drawing():
        figure = FIGURES["decision_curve"](replace(ORDINARY, prevalence=prevalence))
    share = 15 / 90 if prevalence is None else prevalence
    (everybody,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    odds = 0.01 / 0.99
    assert everybody.get_ydata()[0] == pytest.approx(share - (1 - share) * odds)
    assert f"prevalence of {100 * share:.1f} %" in figure.legends[0].get_title().get_text()
