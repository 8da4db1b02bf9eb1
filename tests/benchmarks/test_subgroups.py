"""The tables of shortcuts: an AUC among one age against all its pairs, the judgements by eye."""

import csv

import numpy as np
import pytest

from benchmarks.subgroups import RESULTS, border, cross_validated, within_age
from skinml.data.prepared import PreparedSet
from skinml.evaluation.appearance import Appearance


def test_the_auc_among_one_age_is_that_of_all_its_pairs(rng: np.random.Generator) -> None:
    ages = rng.choice(["30", "50", "70"], 80)
    # Melanomas are older, and so is whoever has a high score: among one age there is nothing.
    positive = rng.random(80) < ages.astype(float) / 100
    scores = ages.astype(float) + rng.normal(size=80)
    pairs = [
        scores[a] > scores[b]
        for a in np.flatnonzero(positive)
        for b in np.flatnonzero(~positive)
        if ages[a] == ages[b]
    ]
    value, low, high = within_age(positive, scores, ages)
    assert value == pytest.approx(np.mean(pairs))
    assert low < value < high


def test_no_score_comes_from_a_model_that_saw_the_image_or_its_group(
    rng: np.random.Generator,
) -> None:
    """A feature that names the group tells nothing of groups that were not seen."""
    groups = np.repeat(np.arange(100), 2)
    positive = np.repeat(rng.random(100) < 0.4, 2)
    features = np.eye(100)[groups]
    scores = cross_validated(features, positive, groups)
    assert abs(scores[positive].mean() - scores[~positive].mean()) < 0.2


def test_the_border_does_not_see_the_middle(toy_set: PreparedSet) -> None:
    images = np.array(toy_set.images[:2])
    before = border(images)
    images[:, 16:-16, 16:-16] = 0
    np.testing.assert_array_equal(border(images), before)
    assert before.shape == (2, 168)


def test_the_judgements_are_of_a_hundred_pictures_by_every_detector() -> None:
    with (RESULTS / "subgroups" / "judged.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image_id"] for row in rows}) == len(rows) == 100
    assert set(rows[0]) == {"image_id", *Appearance._fields}
    assert {row[name] for row in rows for name in Appearance._fields} == {"yes", "no"}
