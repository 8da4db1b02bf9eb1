"""Other classes than three: two, many, and names with every sign that a person may type."""

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from sklearn import metrics as sk

from skinml.base.names import identifier
from skinml.data.datasets import class_problems
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.classes import against_the_rest, sought
from skinml.evaluation.drawing import drawing, spaced
from skinml.evaluation.figures import FIGURES, FigureData
from skinml.evaluation.metrics import headline, metrics_of, point_metrics
from skinml.evaluation.operating_point import SENSITIVITY
from skinml.evaluation.predictions import Predictions, read_predictions, write_predictions
from skinml.evaluation.results import evaluate_tables
from skinml.evaluation.statistics import bootstrap_intervals, carriers_of

# Those of tests/data/test_own.py, as a table has them.
ODD = ("Basalzellkarzinom, groß", 'nævus "atypical" & 100 %', "μ|melanoma", "νευρίνωμα_$x$")
TWO = ("benign", "malignant")


def table(classes: tuple[str, ...], count: int = 240, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    k = len(classes)
    labels = np.r_[np.arange(k), rng.integers(k, size=count - k)]
    logits = rng.normal(size=(count, k)) + 1.5 * np.eye(k)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(np.array([f"i{n}" for n in range(count)]), labels, scores, classes)


def test_two_classes_have_each_figure_once() -> None:
    """One ROC curve's area, one operating point: what the other class would say is the same."""
    two = table(TWO)
    names = set(metrics_of(TWO))
    assert not {name for name in names if "benign" in name}
    assert {f"{kind}_malignant" for kind in ("sensitivity", "specificity", "auc")} <= names
    assert "challenge_auc" not in headline(TWO)
    values = point_metrics(two)
    expected = sk.roc_auc_score(two.labels, two.scores[:, 1])
    for name in ("auc_malignant", "auc_macro", "auc_weighted"):
        assert values[name] == pytest.approx(expected, abs=1e-12)
    positive = two.labels == 1
    found = two.predicted[positive] == 1
    assert values["sensitivity_malignant"] == pytest.approx(found.mean())
    assert carriers_of("auc_malignant", two) == min(positive.sum(), (~positive).sum())
    assert set(bootstrap_intervals(two, resamples=200)) == set(headline(TWO))


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (TWO, "malignant"),
        (("melanoma", "other"), "melanoma"),
        (("bcc", "melanoma", "nevus", "scc"), "melanoma"),
        (("a", "b", "c"), None),
    ],
)
def test_the_operating_point_is_of_the_class_that_is_sought(
    classes: tuple[str, ...], label: str | None
) -> None:
    assert sought(classes) == label
    tables = {"validation": table(classes), "test": table(classes, seed=1)}
    metrics = evaluate_tables(tables)
    at_threshold = {name for name in metrics if "threshold" in name}
    if label is None:
        assert not at_threshold
        return
    assert metrics[f"val_sensitivity_{label}_at_threshold"] >= SENSITIVITY
    validation, index = tables["validation"], classes.index(label)
    called = validation.scores[:, index] >= metrics[f"{label}_threshold"]
    rate = (~called)[validation.labels != index].mean()
    assert metrics[f"val_specificity_{label}_at_threshold"] == pytest.approx(rate)


def test_the_classes_of_isic_2017_keep_their_metrics() -> None:
    assert headline(CLASSES)[-3:] == ("melanoma_auc", "keratosis_auc", "challenge_auc")
    assert sought(CLASSES) == "melanoma"
    assert "sensitivity_seborrheic_keratosis" in metrics_of(CLASSES)


@pytest.mark.parametrize("classes", [TWO, ODD, tuple(f"class {n:02}" for n in range(50))])
def test_a_table_keeps_its_classes_whatever_their_names(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    assert not class_problems(classes)
    written = table(classes)
    write_predictions(written, tmp_path / "table.csv")
    read = read_predictions(tmp_path / "table.csv")
    assert read.classes == classes
    np.testing.assert_array_equal(read.labels, written.labels)
    values = point_metrics(read)
    assert math.isfinite(values["auc_macro"])
    # MLflow's rule for the name of a metric.
    assert all(name.replace("_", "").isalnum() and len(name) <= 250 for name in values)


def test_names_are_sanitised_by_one_rule() -> None:
    assert [identifier(name) for name in ODD] == [
        "Basalzellkarzinom_groß", "nævus_atypical_100", "μ_melanoma", "νευρίνωμα_x"
    ]  # fmt: skip
    assert all(identifier(name) == name for name in CLASSES)
    # Composed and decomposed letters are one name.
    assert identifier("e\u0301") == identifier("\u00e9")


# What is drawn of the classes; the other figures know none.
BY_CLASS = ("confusion_matrix", "confusion_matrix_normalised", "roc", "precision_recall")


@pytest.mark.parametrize(
    "classes", [TWO, ODD, tuple(f"class {n:02}" for n in range(50))], ids=["two", "odd", "fifty"]
)
def test_every_figure_is_drawn_without_a_warning(classes: tuple[str, ...]) -> None:
    data = FigureData(
        "a network", table(classes, 120), [], 0, lambda i: np.zeros((len(i), 9, 9, 3), np.uint8)
    )
    with drawing(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in BY_CLASS:
            figure = FIGURES[name](data)
            figure.set_dpi(50)
            figure.canvas.draw()
            shown = "".join(text.get_text() for text in figure.findobj(Text))
            told = against_the_rest(classes) if name not in BY_CLASS[:2] else classes
            for label in told:
                assert spaced(label).replace(" ", "") in re.sub(r"\s", "", shown)


def test_a_table_keeps_what_is_known_of_subgroups(tmp_path: Path) -> None:
    written = table(ODD)
    facts = {"age": np.arange(240).astype(str), "skin type, Fitzpatrick": np.full(240, "II")}
    write_predictions(replace(written, subgroups=facts), tmp_path / "table.csv")
    read = read_predictions(tmp_path / "table.csv")
    assert read.classes == ODD
    np.testing.assert_allclose(read.scores, written.scores, rtol=1e-8)
    assert {name: values.tolist() for name, values in read.subgroups.items()} == {
        name: values.tolist() for name, values in facts.items()
    }
