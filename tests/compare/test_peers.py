"""Figures and tests held against those of independent programs, stored with their versions.

`peers/compute.py` made `peers/figures.json`, from a table of many tied scores.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.compare.paired import difference, estimate, swap_test
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import percentile_interval
from skinml.evaluation.testing import holm
from tests.compare.peers.compute import CLASSES, P_VALUES, tables

STORED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("peers").joinpath("figures.json").read_text()
)
SKLEARN, MLXTEND, STATSMODELS, MLSTATKIT, R = STORED.values()

# Class 0 and 2 of the table have an AUC that differences are tested in.
BINARY = {0: "melanoma_auc", 2: "keratosis_auc"}


@pytest.fixture(scope="module")
def networks() -> dict[str, Predictions]:
    labels, first, second = tables()
    ids = np.array([f"ISIC_{number:07d}" for number in range(len(labels))])
    found = {
        "first": Predictions(ids, labels, first, CLASSES),
        "second": Predictions(ids, labels, second, CLASSES),
    }
    assert found["first"].classes == CLASSES
    assert len(np.unique(first)) < first.size / 2, "the scores are meant to be tied"
    return found


def test_the_peers_are_named_with_their_versions() -> None:
    assert list(STORED) == [
        "scikit-learn 1.9.1", "mlxtend 0.25.0", "statsmodels 0.15.0", "MLstatkit 0.1.91",
        "pROC 1.18.0, R 4.2.2",
    ]  # fmt: skip


@pytest.mark.parametrize("side", ["first", "second"])
def test_metrics_are_those_of_scikit_learn(networks: dict[str, Predictions], side: str) -> None:
    found = evaluate(networks[side], names=tuple(SKLEARN[side]))
    assert {name: value for name, [value] in found.items()} == pytest.approx(
        SKLEARN[side], rel=1e-14
    )


@pytest.mark.parametrize("k", BINARY)
@pytest.mark.parametrize("side", ["first", "second"])
def test_an_auc_and_its_variance_are_those_of_proc(
    networks: dict[str, Predictions], side: str, k: int
) -> None:
    found = estimate(networks[side], BINARY[k])
    assert found.value == pytest.approx(R[f"auc_{side}_{k}"], rel=1e-14)
    assert found.standard_error**2 == pytest.approx(R[f"variance_{side}_{k}"], rel=1e-12)


@pytest.mark.parametrize("k", BINARY)
@pytest.mark.parametrize("peer", [MLSTATKIT, R], ids=["MLstatkit", "pROC"])
def test_the_paired_test_of_two_aucs_is_delongs(
    networks: dict[str, Predictions], peer: dict[str, float], k: int
) -> None:
    step = difference(*(estimate(table, BINARY[k]) for table in networks.values()))
    # MLstatkit gives the second less the first.
    statistic = abs(step.value / step.standard_error)
    assert statistic == pytest.approx(abs(peer[f"z_{k}"]), rel=1e-12)
    assert step.p_value() == pytest.approx(peer[f"p_{k}"], rel=1e-12)


def test_mcnemars_test_is_the_peers(networks: dict[str, Predictions]) -> None:
    first, second = (1.0 * (table.predicted == table.labels) for table in networks.values())
    found = swap_test(first - second)
    for peer in (MLXTEND["mcnemar_p"], STATSMODELS["mcnemar_p"], R["binom_p"]):
        assert found == pytest.approx(peer, rel=1e-12)


def test_holms_method_is_that_of_r() -> None:
    expected = [R[f"holm_{number}"] for number in range(len(P_VALUES))]
    assert holm(P_VALUES) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("share", "images", "stored"), [(1.0, 14, "wilson_14_of_14"), (0.0, 95, "wilson_0_of_95")]
)
def test_the_ends_of_the_scale_have_wilsons_interval(
    share: float, images: int, stored: str
) -> None:
    found = percentile_interval(np.full(50, share), images)
    assert found == pytest.approx(STATSMODELS[stored], rel=1e-12, abs=1e-15)
