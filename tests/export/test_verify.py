"""What is said about an export's cost: the figures, their paired interval, the limit."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions
from skinml.export.__main__ import _refusal
from skinml.export.made import Made
from skinml.export.verify import verify

COUNTS = (60, 180, 60)


def table(spread: float, rng: np.random.Generator) -> Predictions:
    """Scores that point to the class, the more the smaller `spread` is."""
    labels = np.repeat(np.arange(3), COUNTS)
    logits = 2.0 * np.eye(3)[labels] + rng.normal(scale=spread, size=(len(labels), 3))
    shares = np.exp(logits)
    ids = np.array([f"image{number}" for number in range(len(labels))])
    return Predictions(ids, labels, shares / shares.sum(axis=1, keepdims=True), CLASSES)


def changed(kept: Predictions, noise: float, rng: np.random.Generator) -> Predictions:
    shares = kept.scores * np.exp(rng.normal(scale=noise, size=kept.scores.shape))
    return Predictions(
        kept.image_ids, kept.labels, shares / shares.sum(axis=1, keepdims=True), CLASSES
    )


def test_the_figures_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    keras = table(1.5, rng)
    exported = changed(keras, 0.5, rng)
    found = verify(keras, exported)
    for one, name in ((keras, "keras"), (exported, "exported")):
        aucs = [roc_auc_score(one.labels == k, one.scores[:, k]) for k in range(len(CLASSES))]
        assert getattr(found.figures["auc_macro"], name) == pytest.approx(np.mean(aucs))
        assert getattr(found.figures["melanoma_auc"], name) == pytest.approx(aucs[0])
        called = one.scores[one.labels == 0, 0] >= found.threshold
        sensitivity = found.figures["sensitivity_melanoma_at_threshold"]
        assert getattr(sensitivity, name) == pytest.approx(called.mean())
    assert found.figures["sensitivity_melanoma_at_threshold"].keras == pytest.approx(50 / 60)
    same = keras.scores.argmax(axis=1) == exported.scores.argmax(axis=1)
    assert found.same == pytest.approx(same.mean())
    assert found.largest == pytest.approx(np.abs(keras.scores - exported.scores).max())


def test_the_interval_is_that_of_the_pairs(rng: np.random.Generator) -> None:
    """Two AUCs of the same images move together: their difference is known far better."""
    keras = table(1.5, rng)
    found = verify(keras, changed(keras, 0.1, rng)).figures["auc_macro"]
    assert found.low <= found.difference <= found.high
    own = verify(keras, table(1.5, rng)).figures["auc_macro"]
    assert found.high - found.low < (own.high - own.low) / 3


def test_the_same_scores_lose_nothing(rng: np.random.Generator) -> None:
    keras = table(1.5, rng)
    found = verify(keras, keras)
    assert not found.loses_more_than(0.0)
    assert all(figure[2:] == (0.0, 0.0) for figure in found.figures.values())
    assert found.same == 1 and found.largest == 0


def test_a_rounding_does_not_move_the_operating_point(rng: np.random.Generator) -> None:
    """The threshold is the score of an image, which another runtime gives a digit less."""
    keras = table(1.0, rng)
    lower = Predictions(keras.image_ids, keras.labels, keras.scores - 1e-7, CLASSES)
    assert verify(keras, lower).figures["sensitivity_melanoma_at_threshold"].difference == 0


def test_what_may_have_lost_too_much_is_told(rng: np.random.Generator) -> None:
    keras = table(1.0, rng)
    assert verify(keras, changed(keras, 2.0, rng)).loses_more_than(0.01)
    assert not verify(keras, changed(keras, 0.02, rng)).loses_more_than(0.01)


def test_a_refusal_says_what_was_found(rng: np.random.Generator) -> None:
    keras = table(1.5, rng)
    found = verify(keras, changed(keras, 1.5, rng))
    told = _refusal(Made("litert", "int8", b"", found, 1.0))
    macro = found.figures["auc_macro"]
    assert f"the macro AUC is {macro.exported:.4f} instead of {macro.keras:.4f}" in told
    assert f"({macro.low:+.4f} to {macro.high:+.4f})" in told
    rows = np.arange(0, len(keras.labels), 20)
    few = Predictions(keras.image_ids[rows], keras.labels[rows], keras.scores[rows], CLASSES)
    told = _refusal(Made("litert", "int8", b"", verify(few, changed(few, 0.1, rng)), 1.0))
    assert "15 validation images are too few" in told and "nan" not in told


def test_of_too_few_images_nothing_is_claimed(rng: np.random.Generator) -> None:
    """Nine images bear no interval: an export that answers otherwise is not waved through."""
    some = table(1.0, rng)
    rows = np.array([0, 1, 2, 100, 101, 102, 290, 291, 292])
    few = Predictions(some.image_ids[rows], some.labels[rows], some.scores[rows], CLASSES)
    found = verify(few, changed(few, 0.1, rng))
    assert np.isnan(found.figures["auc_macro"].low)
    assert found.loses_more_than(0.01)
    assert found.as_dict()["figures"]["auc_macro"]["low"] is None
    assert not verify(few, few).loses_more_than(0.01)


def test_a_network_that_sees_nothing_is_told(rng: np.random.Generator) -> None:
    """Its exported file agrees with it in everything, whatever became of its weights."""
    seeing = table(1.5, rng)
    blind = replace(seeing, scores=np.full_like(seeing.scores, 1 / 3))
    assert "say nothing" in list(verify(blind, blind).lines())[-1]
    assert not [line for line in verify(seeing, seeing).lines() if "say nothing" in line]
