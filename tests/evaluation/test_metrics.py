"""Every row of `metrics_of` against an independent reference: scikit-learn, or a plain loop."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from skinml.data.isic2017 import CHALLENGE_TASKS, CLASSES
from skinml.evaluation.metrics import (
    CALIBRATION_BINS,
    auc,
    evaluate,
    headline,
    metrics_of,
    point_metrics,
    roc_curve,
)
from skinml.evaluation.predictions import Predictions


def _table(counts: tuple[int, ...], strength: float = 1.0, decimals: int = 9) -> Predictions:
    """Scores that are right more often than not; few decimals make ties."""
    rng = np.random.default_rng(len(counts) + sum(counts))
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    logits = 1.5 * rng.normal(size=(len(labels), 3)) + strength * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores[:, :2] = scores[:, :2].round(decimals)
    scores[:, 2] = 1 - scores[:, 0] - scores[:, 1]
    return Predictions(np.arange(len(labels)).astype(str), labels, scores.clip(0, 1), CLASSES)


# Unequal classes; scores full of ties; a class that no image is predicted as; nothing right.
_FEW = _table((3, 5, 4))
TABLES = {
    "ordinary": _table((31, 97, 52)),
    "ties": _table((20, 40, 30), decimals=1),
    "never predicted": Predictions(
        _FEW.image_ids,
        _FEW.labels,
        np.array([[0.0, 0.6, 0.4]] * 6 + [[0.1, 0.2, 0.7]] * 6),
        CLASSES,
    ),
    "all wrong": Predictions(_FEW.image_ids, _FEW.labels, np.eye(3)[_FEW.labels - 1], CLASSES),
    "all right": Predictions(_FEW.image_ids, _FEW.labels, np.eye(3)[_FEW.labels], CLASSES),
}
ABSENT = _table((0, 14, 9))

Reference = Callable[[Predictions], float]


def _by_class(table: Predictions) -> dict[str, np.ndarray]:
    """Three values of each metric that is computed class by class."""
    truth, predicted = table.labels, table.predicted
    names = list(range(3))
    (tn, fp), (fn, tp) = sk.multilabel_confusion_matrix(truth, predicted, labels=names).T.swapaxes(
        0, 1
    )
    common = {"labels": names, "average": None, "zero_division": 0.0}
    return {
        "sensitivity": sk.recall_score(truth, predicted, **common),
        "precision": sk.precision_score(truth, predicted, **common),
        "f1": sk.f1_score(truth, predicted, **common),
        "specificity": tn / (tn + fp),
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "auc": np.array([sk.roc_auc_score(truth == k, table.scores[:, k]) for k in names]),
    }


def _averaged(name: str, average: str) -> Reference:
    sklearns = {"sensitivity": sk.recall_score, "precision": sk.precision_score, "f1": sk.f1_score}

    def reference(table: Predictions) -> float:
        if name in sklearns:
            return sklearns[name](table.labels, table.predicted, average=average, zero_division=0.0)
        if name == "auc":
            # scikit-learn wants rows that sum to 1, and ranks one column a class.
            truth = np.eye(3)[table.labels]
            return sk.roc_auc_score(truth, table.scores, average=average)
        weights = None if average == "macro" else np.bincount(table.labels, minlength=3)
        return float(np.average(_by_class(table)[name], weights=weights))

    return reference


def _of_class(name: str, index: int) -> Reference:
    return lambda table: float(_by_class(table)[name][index])


def _calibration_error(table: Predictions) -> float:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(CALIBRATION_BINS)]
    for label, scores in zip(table.labels, table.scores, strict=True):
        confidence = max(scores)
        index = min(int(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins[index].append((confidence, list(scores).index(confidence) == label))
    gaps = [
        abs(sum(right for _, right in entries) - sum(score for score, _ in entries))
        for entries in bins
    ]
    return sum(gaps) / len(table.labels)


def _log_loss(table: Predictions) -> float:
    # scikit-learn's own floor is smaller, and it would divide by the new sum.
    per_image = [
        -math.log(max(scores[label], 1e-7))
        for label, scores in zip(table.labels, table.scores, strict=True)
    ]
    return math.fsum(per_image) / len(per_image)


_NAMES = ("sensitivity", "specificity", "precision", "f1", "auc")
_MELANOMA, _KERATOSIS = (CLASSES.index(task) for task in CHALLENGE_TASKS)

REFERENCES: dict[str, Reference] = {
    "accuracy": lambda table: sk.accuracy_score(table.labels, table.predicted),
    **{
        f"{name}_{kind}": _averaged(name, kind) for name in _NAMES for kind in ("macro", "weighted")
    },
    **{
        f"{name}_{label}": _of_class(name, index)
        for name in (*_NAMES, "accuracy")
        for index, label in enumerate(CLASSES)
    },
    "melanoma_auc": _of_class("auc", _MELANOMA),
    "keratosis_auc": _of_class("auc", _KERATOSIS),
    "challenge_auc": lambda table: float(_by_class(table)["auc"][[_MELANOMA, _KERATOSIS]].mean()),
    "calibration_error": _calibration_error,
    "log_loss": _log_loss,
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("name", metrics_of(CLASSES))
def test_agrees_with_the_reference(name: str, case: str) -> None:
    table = TABLES[case]
    value = point_metrics(table)[name]
    assert value == pytest.approx(REFERENCES[name](table), abs=1e-12)
    low, high = metrics_of(CLASSES)[name].range
    assert low <= value <= high


def test_log_loss_is_scikit_learns_where_no_score_is_floored() -> None:
    table = TABLES["ordinary"]
    assert table.scores.min() > 1e-7
    rows = table.scores / table.scores.sum(axis=1, keepdims=True)
    expected = sk.log_loss(table.labels, rows, labels=range(3))
    assert point_metrics(table)["log_loss"] == pytest.approx(expected)


def test_weighted_sensitivity_is_the_accuracy() -> None:
    """An identity of the definitions, which the paper's equal columns show too."""
    values = point_metrics(TABLES["ordinary"])
    assert values["sensitivity_weighted"] == pytest.approx(values["accuracy"], abs=1e-15)


@pytest.mark.parametrize("case", [*TABLES, "absent class"])
def test_integer_weights_are_repeated_images(case: str, rng: np.random.Generator) -> None:
    """What makes rows of weights a bootstrap: also where images are left out altogether."""
    table = {**TABLES, "absent class": ABSENT}[case]
    weights = rng.poisson(1.0, size=(5, len(table.labels))).astype(float)
    weights[0] = 1
    weighted = evaluate(table, weights)
    for row, counts in enumerate(weights.astype(int)):
        repeated = Predictions(
            np.arange(counts.sum()).astype(str),
            table.labels.repeat(counts),
            table.scores.repeat(counts, axis=0),
            CLASSES,
        )
        expected = point_metrics(repeated)
        for name in metrics_of(CLASSES):
            assert weighted[name].shape == (5,)
            assert weighted[name][row] == pytest.approx(expected[name], abs=1e-12, nan_ok=True)


def test_an_absent_class_has_no_auc_and_hides_no_other_number() -> None:
    values = point_metrics(ABSENT)
    absent = CLASSES[0]
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {
        *(f"{name}_{kind}" for name in ("auc", "sensitivity") for kind in ("macro", "weighted")),
        f"auc_{absent}",
        f"sensitivity_{absent}",
        f"{absent}_auc",
        "challenge_auc",
    }


def test_one_class_alone_is_no_exception() -> None:
    values = point_metrics(_table((0, 6, 0)))
    assert all(math.isnan(values[f"auc_{label}"]) for label in CLASSES)
    assert math.isnan(values[f"specificity_{CLASSES[1]}"])


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5, 0.5], [0, 0.5, 0.5, 1]])
def test_auc_counts_a_tie_one_half(scores: list[float]) -> None:
    positive = np.array([False, True, False, True])
    expected = np.mean(
        [(p > n) + (p == n) / 2 for p in np.array(scores)[positive] for n in (scores[0], scores[2])]
    )
    assert auc(positive, np.array(scores), np.ones((1, 4)))[0] == pytest.approx(expected)


def test_the_roc_curve_is_scikit_learns(rng: np.random.Generator) -> None:
    """Also where scores tie, and of every point, those on a straight line too."""
    positive, scores = rng.random(200) < 0.3, rng.random(200).round(1)
    x, y, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    found = roc_curve(positive, scores)
    np.testing.assert_allclose(found, (x, y), rtol=1e-12)


def test_auc_turns_round_with_the_scores(rng: np.random.Generator) -> None:
    positive, scores = rng.random(60) < 0.3, rng.random(60).round(1)
    weights = rng.poisson(2.0, size=(3, 60)).astype(float)
    there, back = auc(positive, scores, weights), auc(positive, -scores, weights)
    np.testing.assert_allclose(there + back, 1, atol=1e-12)


def test_only_the_named_metrics_are_computed() -> None:
    assert tuple(evaluate(_FEW, names=headline(CLASSES))) == headline(CLASSES)
