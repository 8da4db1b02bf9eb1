"""Groups of the test images: figures against other implementations, and what is left unsaid."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.subgroups import (
    LEAST,
    Figure,
    figures_of_groups,
    groups_of,
    write_subgroups,
)

THRESHOLD = 0.3


def table(count: int = 600, classes: tuple[str, ...] = CLASSES, **facts: list[str]) -> Predictions:
    rng = np.random.default_rng(7)
    labels = rng.choice(len(classes), count)
    logits = rng.normal(size=(count, len(classes))) + np.eye(len(classes))[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.arange(count).astype(str)
    columns = {k: np.resize(np.array(values), count) for k, values in facts.items()}
    return Predictions(ids, labels, scores, classes, columns)


def by_name(figures: list[Figure]) -> dict[tuple[str, str, str], Figure]:
    return {(f.attribute, f.group, f.metric): f for f in figures}


def test_values_and_tests_are_those_of_other_libraries() -> None:
    test = table(sex=["female", "male", "male", "female", "male"])
    found = by_name(figures_of_groups(test, "melanoma", THRESHOLD))
    women = test.subgroups["sex"] == "female"
    positive, scores = test.labels == 0, test.scores[:, 0]
    auc = found["sex", "female", "auc"]
    assert auc.own.value == pytest.approx(roc_auc_score(positive[women], scores[women]))
    assert auc.rest.value == pytest.approx(roc_auc_score(positive[~women], scores[~women]))

    called = scores >= THRESHOLD
    own, rest = called[women & positive], called[~women & positive]
    sensitivity = found["sex", "female", "sensitivity"]
    counts = (int(own.sum()), len(own), int(rest.sum()), len(rest))
    assert sensitivity.own[:3] == pytest.approx(
        (own.mean(), *proportion_confint(*counts[:2], method="wilson"))
    )
    assert sensitivity.difference[1:3] == pytest.approx(
        confint_proportions_2indep(*counts, method="newcomb")
    )
    tables = [[own.sum(), (~own).sum()], [rest.sum(), (~rest).sum()]]
    square = stats.chi2_contingency(tables, correction=False).statistic
    total = len(own) + len(rest)
    assert sensitivity.p == pytest.approx(stats.chi2.sf(square * (total - 1) / total, 1))

    off = scores - positive
    calibration = found["sex", "female", "calibration"]
    assert calibration.p == pytest.approx(
        stats.ttest_ind(off[women], off[~women], equal_var=False).pvalue
    )
    ends = stats.ttest_1samp(off[women], 0).confidence_interval()
    assert calibration.own[1:3] == pytest.approx((ends.low, ends.high))


def test_an_auc_has_the_interval_of_its_logit() -> None:
    """DeLong's variance from its definition, by all pairs."""
    test = table(group=["a", "b", "b"])
    found = by_name(figures_of_groups(test, "melanoma", THRESHOLD))["group", "a", "auc"]
    rows = test.subgroups["group"] == "a"
    positive, scores = test.labels[rows] == 0, test.scores[rows, 0]
    wins = (scores[positive][:, None] > scores[~positive][None]).astype(float)
    error = math.sqrt(
        wins.mean(axis=1).var(ddof=1) / positive.sum()
        + wins.mean(axis=0).var(ddof=1) / (~positive).sum()
    )
    value = wins.mean()
    reach = stats.norm.ppf(0.975) * error / (value * (1 - value))
    ends = 1 / (1 + np.exp(-(math.log(value / (1 - value)) + reach * np.array([-1, 1]))))
    assert found.own[:3] == pytest.approx((value, *ends))


def test_two_groups_are_one_test_in_holms_correction() -> None:
    test = table(sex=["female", "male"], site=["back", "arm", "leg"])
    figures = figures_of_groups(test, "melanoma", THRESHOLD)
    sex = [f for f in figures if f.attribute == "sex" and f.group == "female"]
    site = [f for f in figures if f.attribute == "site"]
    expected = multipletests([f.p for f in (*sex, *site)], method="holm")[1]
    assert [f.p_holm for f in (*sex, *site)] == pytest.approx(list(expected))
    men = by_name(figures)["sex", "male", "auc"]
    women = by_name(figures)["sex", "female", "auc"]
    assert men.p_holm == women.p_holm and men.difference.value == -women.difference.value


def test_of_few_images_nothing_is_said() -> None:
    test = table(sex=["male", "female"])
    test.subgroups["sex"][:] = "male"
    melanomas = np.flatnonzero(test.labels == 0)
    others = np.flatnonzero(test.labels != 0)
    test.subgroups["sex"][melanomas[: LEAST - 1]] = "female"
    test.subgroups["sex"][others[:LEAST]] = "female"
    found = by_name(figures_of_groups(test, "melanoma", THRESHOLD))
    for metric, said in (("auc", False), ("sensitivity", False), ("specificity", True)):
        figure = found["sex", "female", metric]
        assert math.isnan(figure.own.value) != said
        assert math.isnan(figure.p) != said
    assert found["sex", "female", "sensitivity"].own.images == LEAST - 1
    assert not math.isnan(found["sex", "male", "sensitivity"].own.value)


def test_who_is_not_known_is_in_no_group() -> None:
    values = ["30", "unknown", "", "39.5", "40", "55.0", "69", "70", "nan", "85"]
    groups = groups_of({"age_approximate": np.array(values)})
    assert [(g.name, int(g.rows.sum()), int(g.rest.sum())) for g in groups] == [
        ("under 40", 2, 5), ("40 to 54", 1, 6), ("55 to 69", 2, 5), ("70 and over", 2, 5),
    ]  # fmt: skip


def test_columns_of_data_sets_have_one_name_and_measurements_none() -> None:
    count = 100
    columns = {
        "gender": ["FEMALE", "MALE"],
        "fitspatrick": ["1", "2", "3"],
        "patient": [str(n) for n in range(count)],
        "clinic": ["A"] * 60 + ["B"] * 39 + ["C"],
        "camera": ["one"],
        "picture_hair": ["no"] * 99 + ["yes"],
    }
    groups = groups_of({k: np.resize(np.array(v), count) for k, v in columns.items()})
    names: dict[str, list[str]] = {}
    for group in groups:
        names.setdefault(group.attribute, []).append(group.name)
    assert names == {
        "sex": ["female", "male"],
        "skin type": ["1", "2", "3"],
        "clinic": ["a", "b"],
        "picture: hair": ["yes", "no"],
    }


@pytest.mark.parametrize("classes", [("benign", "malignant"), ("a", "b", "c", "d")])
def test_other_classes(classes: tuple[str, ...]) -> None:
    """Of two the second is sought; of several without a melanoma there is the accuracy."""
    label = "malignant" if len(classes) == 2 else None
    figures = figures_of_groups(table(classes=classes, sex=["f", "m"]), label, THRESHOLD)
    expected = {"auc", "sensitivity", "specificity", "calibration"} if label else {"accuracy"}
    assert {f.metric for f in figures} == expected
    assert not any(math.isnan(f.p) for f in figures)


def test_a_perfect_network_has_no_error_to_test_by() -> None:
    test = table(sex=["f", "m"])
    test.scores[:] = np.eye(3)[test.labels]
    found = by_name(figures_of_groups(test, "melanoma", 0.5))
    auc = found["sex", "f", "auc"]
    assert auc.own.value == auc.own.high == 1 and 0.9 < auc.own.low < 1
    assert math.isnan(auc.p)
    assert found["sex", "f", "sensitivity"].p == 1


def test_the_table_is_written_whole(tmp_path: Path) -> None:
    figures = figures_of_groups(table(sex=["f", "m", "m", "m"]), "melanoma")
    assert {f.metric for f in figures} == {"auc", "calibration"}  # No threshold, no rates.
    write_subgroups(figures, tmp_path / "subgroups.csv")
    with (tmp_path / "subgroups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["group"], r["metric"]) for r in rows] == [(f.group, f.metric) for f in figures]
    assert float(rows[0]["value"]) == pytest.approx(figures[0].own.value, rel=1e-5)
    assert float(rows[0]["p_holm"]) == pytest.approx(figures[0].p_holm, rel=1e-5)
