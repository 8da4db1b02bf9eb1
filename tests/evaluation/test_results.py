"""The figures of a run from its predictions tables: what is chosen, and on which part."""

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.calibration import fit_temperature
from skinml.evaluation.operating_point import (
    RULES,
    Rule,
    Scored,
    operating_points,
    rules_from,
)
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.results import chosen_on_validation, evaluate_tables


def table(melanoma: list[float], others: list[float]) -> Predictions:
    """Melanoma scores of melanomas, and of nevi."""
    scores = np.array([*melanoma, *others])
    index, nevus = CLASSES.index("melanoma"), CLASSES.index("nevus")
    labels = np.array([index] * len(melanoma) + [nevus] * len(others))
    columns = np.zeros((len(scores), len(CLASSES)))
    columns[:, index], columns[:, nevus] = scores, 1 - scores
    return Predictions(np.arange(len(scores)).astype(str), labels, columns, CLASSES)


VALIDATION = table([0.1, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.05, 0.32])
TEST = table([0.2, 0.3, 0.4, 0.9], [0.1, 0.25, 0.31])


def test_melanomas_threshold_is_chosen_on_validation_and_used_on_test() -> None:
    """Nine of ten are needed for 82 %: from .3 on. Of the test images three of four are, too."""
    metrics = evaluate_tables({"validation": VALIDATION, "test": TEST})
    assert metrics["melanoma_threshold"] == 0.3
    assert metrics["val_sensitivity_melanoma_at_threshold"] == 0.9
    assert metrics["val_specificity_melanoma_at_threshold"] == 0.5
    assert metrics["test_sensitivity_melanoma_at_threshold"] == 0.75
    assert metrics["test_specificity_melanoma_at_threshold"] == pytest.approx(2 / 3)


def test_the_test_part_does_not_move_the_threshold() -> None:
    other = table([0.01, 0.02], [0.99])
    metrics = evaluate_tables({"validation": VALIDATION, "test": other})
    assert metrics["melanoma_threshold"] == 0.3


def test_without_a_validation_part_nothing_is_chosen() -> None:
    assert not [name for name in evaluate_tables({"test": TEST}) if "threshold" in name]


def drawn(seed: int, count: int, sharpness: float = 1.0, classes: tuple[str, ...] = CLASSES) -> Any:
    """Labels that are drawn from scores, which are then sharper by a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, len(classes))) * 1.5
    labels = np.array([rng.choice(len(classes), p=row) for row in softmax(logits, axis=1)])
    ids = np.arange(count).astype(str)
    return Predictions(ids, labels, softmax(logits * sharpness, axis=1), classes)


def test_each_operating_point_has_its_rates_intervals_and_counts() -> None:
    validation, test = drawn(1, 150), drawn(2, 200)
    metrics = evaluate_tables({"validation": validation, "test": test})
    chosen_on, tested_on = (Scored.of(part, "melanoma") for part in (validation, test))
    for point in operating_points(chosen_on, tested_on):
        group = f"operating_point/{point.rule.key}"
        called = test.scores[:, 0] >= metrics[f"{group}/threshold"]
        own = test.labels == 0
        assert metrics[f"{group}/test_true_positives"] == (called & own).sum()
        assert metrics[f"{group}/test_false_positives"] == (called & ~own).sum()
        assert metrics[f"{group}/test_sensitivity"] == called[own].mean()
        for name in ("threshold", "test_sensitivity", "test_specificity"):
            found = [metrics[f"{group}/{name}_ci_{end}"] for end in ("low", "high")]
            assert found == list(point.intervals[name.removeprefix("test_")])
    groups = {name.split("/")[1] for name in metrics if name.startswith("operating_point/")}
    assert groups == {rule.key for rule in RULES}
    assert metrics["melanoma_threshold"] == metrics["operating_point/sensitivity_0.82/threshold"]


def test_the_point_that_a_person_names_is_the_run_s_own() -> None:
    named = Rule("specificity", 0.75)
    tables = {"validation": drawn(1, 150), "test": drawn(2, 200)}
    metrics = evaluate_tables(tables, named)
    threshold = metrics["operating_point/specificity_0.75/threshold"]
    assert metrics["melanoma_threshold"] == threshold
    rate = metrics["operating_point/specificity_0.75/test_specificity"]
    assert metrics["test_specificity_melanoma_at_threshold"] == rate
    assert metrics["val_specificity_melanoma_at_threshold"] >= 0.75
    chosen = chosen_on_validation(metrics, CLASSES, {"operating_point": named.name})
    assert list(chosen.points) == [rule.name for rule in rules_from(named)]
    assert chosen.points[named.name].threshold == threshold
    assert chosen.points["youden"].low == metrics["operating_point/youden/threshold_ci_low"]


def test_a_point_that_no_score_reaches_is_left_out() -> None:
    """The highest score is a nevus's: at no threshold is the specificity 1."""
    validation = table([0.5, 0.6], [0.1, 0.9])
    named = Rule("specificity", 1.0)
    metrics = evaluate_tables({"validation": validation, "test": TEST}, named)
    assert np.isnan(metrics["melanoma_threshold"])
    assert not [name for name in metrics if "/specificity_1/" in name]


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("benign", "malignant")])
def test_of_classes_without_a_melanoma_two_have_points(classes: tuple[str, ...]) -> None:
    tables = {"validation": drawn(1, 150, classes=classes), "test": drawn(2, 200, classes=classes)}
    metrics = evaluate_tables(tables)
    chosen = chosen_on_validation(metrics, classes, {})
    assert bool(chosen.points) == any("/" in name for name in metrics) == (len(classes) == 2)
    assert chosen.label == ("malignant" if len(classes) == 2 else "")


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_a_temperature_is_kept_where_it_helps_on_validation(sharpness: float) -> None:
    tables = {"validation": drawn(1, 300, sharpness), "test": drawn(2, 400, sharpness)}
    metrics = evaluate_tables(tables)
    found = fit_temperature(tables["validation"])
    assert metrics["temperature_gain"] == found.gain
    chosen = chosen_on_validation(metrics, CLASSES, {})
    if sharpness == 1.0:
        assert chosen.temperature is None and "temperature" not in metrics
        return
    assert chosen.temperature == metrics["temperature"] == found.value
    assert metrics["test_log_loss_calibrated"] < metrics["test_log_loss"]
    assert metrics["test_calibration_error_calibrated"] < metrics["test_calibration_error"]


def test_too_few_images_for_two_halves_fit_no_temperature() -> None:
    single = table([0.4], [0.2])
    assert np.isnan(evaluate_tables({"validation": single})["temperature_gain"])
