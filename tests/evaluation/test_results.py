"""The figures of a run from its predictions tables: what is chosen, and on which part."""

import numpy as np
import pytest

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.results import evaluate_tables


def table(melanoma: list[float], others: list[float]) -> Predictions:
    """Melanoma scores of melanomas, and of nevi."""
    scores = np.array([*melanoma, *others])
    index, nevus = CLASSES.index("melanoma"), CLASSES.index("nevus")
    labels = np.array([index] * len(melanoma) + [nevus] * len(others))
    columns = np.zeros((len(scores), len(CLASSES)))
    columns[:, index], columns[:, nevus] = scores, 1 - scores
    return Predictions(np.arange(len(scores)).astype(str), labels, columns)


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
