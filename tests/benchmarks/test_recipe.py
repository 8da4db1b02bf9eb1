"""The search for a recipe: its heads learn, its splits are clean, its intervals wide enough."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.heads import Trial, scores_of, train_heads
from benchmarks.recipe import half_width, make_splits, refuse_another
from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.prepared import PreparedSet


def test_a_head_tells_classes_apart_that_its_features_tell_apart(
    rng: np.random.Generator,
) -> None:
    """With everything that a trial can switch on, one head a split."""
    trial = Trial(
        widths=(8,), epochs=20, batch_size=8, learning_rate=1e-2, label_smoothing=0.1, mixup=0.2,
        class_weights="balanced", focal=2.0, ema=0.9,
    )  # fmt: skip
    labels = np.arange(90) % 3
    features = rng.normal(0, 0.3, (90, 8, 5)).astype(np.float32)
    features[np.arange(90), :, labels] += 2
    splits = make_splits(labels, np.arange(90))
    heads = train_heads(trial, features, labels, splits)
    for head, (train, validation) in zip(heads, splits, strict=True):
        assert not np.isin(validation, train).any()
        scores = scores_of(head, features[validation])
        np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)
        assert (scores.mean(axis=1).argmax(axis=1) == labels[validation]).mean() > 0.9


def test_near_duplicates_are_never_on_both_sides_of_a_split() -> None:
    labels, groups = np.arange(60) % 3, np.arange(60) // 6
    for train, validation in make_splits(labels, groups):
        assert not set(groups[train]) & set(groups[validation])


def test_the_interval_of_a_cross_validation_counts_what_its_trainings_share() -> None:
    """Nadeau and Bengio 2003, section 4: variance × (1/J + n_validation/n_training), t with J-1."""
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.0, 0.2, 0.1, 0.3, 0.2, 0.2])
    expected = 2.262 * np.sqrt(values.var(ddof=1) * (1 / 10 + 1 / 4))
    assert half_width(values) == pytest.approx(expected, rel=1e-3)


def test_a_table_has_the_rows_of_one_network(tmp_path: Path, toy_set: PreparedSet) -> None:
    """Else what is there of another one would count as done, and stand beside it."""
    random, known = Config(model="mobilenet", weights="none"), Config(model="mobilenet")
    refuse_another(tmp_path / "new", random, toy_set)
    refuse_another(tmp_path / "new", random, toy_set)
    for other in (known, Config(model="mobilenetv2", weights="none")):
        with pytest.raises(UserError, match=r"rows are of mobilenet none [0-9a-f]+; expected a"):
            refuse_another(tmp_path / "new", other, toy_set)
