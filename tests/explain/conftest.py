"""A predictions table, its pictures, and a network that nobody has trained."""

from typing import NamedTuple

import keras
import numpy as np
import pytest

from skinml.config import Config
from skinml.data.prepared import PreparedSet
from skinml.evaluation.predictions import Predictions
from skinml.explain.maps import Explainer
from skinml.models.classifier import build_classifier
from tests.conftest import add_tiny_backbone


class Judged(NamedTuple):
    """Pictures that a network was asked about."""

    table: Predictions
    images: np.ndarray
    explainer: Explainer
    maps: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        return np.arange(len(self.images))


# What a data set of somebody may call a class, a picture and a value.
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;$"


@pytest.fixture(scope="session")
def judged(toy_set: PreparedSet) -> Judged:
    """All 45 pictures of the toy set; some names are hostile."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        config = Config(model=add_tiny_backbone(monkeypatch), weights="none", head="one")
        keras.utils.set_random_seed(3)
        explainer = Explainer(build_classifier(config, 3).model)
    rng = np.random.default_rng(5)
    scores = rng.dirichlet([1, 1, 1], len(toy_set))
    ids = [*toy_set.image_ids[:-1], f"last {HOSTILE}"]
    sex = rng.choice(["female", "male", ""], len(toy_set))
    facts = {"sex": sex, "site": np.where(sex == "", HOSTILE, "trunk")}
    classes = ("melanoma", "nevus", f"other {HOSTILE}")
    table = Predictions(np.array(ids), toy_set.labels, scores, classes, facts)
    maps = explainer.maps(toy_set.images, np.arange(len(toy_set)))
    return Judged(table, toy_set.images[:], explainer, maps)
