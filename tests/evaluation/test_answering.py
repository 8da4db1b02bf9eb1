"""How a model answers: by a threshold that it carries, calibrated, or by the highest score."""

import json
import math
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import softmax

from skinml.base.errors import UserError
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.answering import HIGHEST, Asked, Chosen, Point, Way, find_way, read_chosen

YOUDEN = Point(0.2, 0.1, 0.4, 0.75, 0.8)
CHOSEN = Chosen("melanoma", {"sensitivity:0.9": Point(0.05), "youden": YOUDEN}, 2.0)

# Melanoma, nevus, keratosis: scores of some images.
SCORES = softmax(np.random.default_rng(0).normal(size=(200, 3)) * 2, axis=1)


def test_the_highest_score_decides_unless_something_else_is_asked() -> None:
    way = find_way(Asked(), CHOSEN, CLASSES, "a model")
    assert way == HIGHEST and str(way) == "" and way.about() == {}
    for scores in SCORES:
        answer = way.answer(scores, CLASSES)
        assert answer["label"] == CLASSES[int(scores.argmax())]
        assert [answer[name] for name in CLASSES] == scores.tolist()
        assert list(answer) == ["label", *CLASSES]


def test_from_the_threshold_on_it_is_a_melanoma_else_the_likeliest_other() -> None:
    way = find_way(Asked("youden"), CHOSEN, CLASSES, "a model")
    for melanoma, nevus, keratosis in SCORES:
        answer = way.answer(np.array([melanoma, nevus, keratosis]), CLASSES)
        other = "nevus" if nevus > keratosis else "seborrheic_keratosis"
        assert answer["label"] == ("melanoma" if melanoma >= 0.2 else other)
        assert answer["margin"] == pytest.approx(melanoma - 0.2)
        assert answer["near"] == (0.1 <= melanoma <= 0.4)
    on_it = way.answer(np.array([0.2, 0.7, 0.1]), CLASSES)
    assert on_it["label"] == "melanoma" and on_it["margin"] == 0


def test_calibration_changes_no_answer_and_no_order_of_an_image_s_classes() -> None:
    for asked in (Asked(calibrated=True), Asked("youden", calibrated=True)):
        way = find_way(asked, CHOSEN, CLASSES, "a model")
        plain = find_way(asked._replace(calibrated=False), CHOSEN, CLASSES, "a model")
        for scores in SCORES:
            warm, raw = (each.answer(scores, CLASSES) for each in (way, plain))
            values = np.array([warm[name] for name in CLASSES])
            assert values == pytest.approx(softmax(np.log(scores) / 2))
            assert (values.argsort() == scores.argsort()).all()
            assert {k: v for k, v in warm.items() if k not in CLASSES} == {
                k: v for k, v in raw.items() if k not in CLASSES
            }


def test_what_is_not_known_is_not_told() -> None:
    """Few images carry no interval, and then nothing is near."""
    way = find_way(Asked("sensitivity:0.9"), CHOSEN, CLASSES, "a model")
    assert way.answer(SCORES[0], CLASSES)["near"] is None
    assert "Near" not in str(way) and "test" not in str(way)
    told = json.dumps(way.about(), allow_nan=False)
    assert json.loads(told)["operating_point"]["low"] is None


@pytest.mark.parametrize("chosen", [CHOSEN, Chosen("melanoma", {"youden": YOUDEN}), Chosen()])
def test_metadata_hold_what_was_chosen(chosen: Chosen) -> None:
    said = chosen.metadata()
    json.dumps(said, allow_nan=False)
    read = read_chosen(yaml.safe_load(yaml.safe_dump(said)), CLASSES)
    assert str(read) == str(chosen)  # NaN is not itself.
    assert list(read.points) == list(chosen.points)


@pytest.mark.parametrize(
    "said",
    [
        {"operating_points": "youden", "temperature": "warm"},
        {"operating_points": {"class": "mole", "points": [{"name": "youden", "threshold": 0.2}]}},
        {"operating_points": {"class": "melanoma", "points": {"youden": 0.2}}},
        {"operating_points": {"class": "melanoma", "points": [7, {"name": 7, "threshold": 0.2}]}},
        {"operating_points": {"class": "melanoma", "points": [{"name": "youden"}]}},
        {"operating_points": {"class": ["melanoma"]}, "temperature": -1},
        {"operating_points": {"class": "melanoma", "points": [{"name": "a", "threshold": 7}]}},
        {"temperature": True},
        {"temperature": math.inf},
    ],
)
def test_metadata_of_somebody_else_hold_nothing(said: dict[str, Any]) -> None:
    assert read_chosen(said, CLASSES) == Chosen()


@pytest.mark.parametrize(
    ("asked", "chosen", "classes", "told"),
    [
        (Asked("sensitivity:0.5"), CHOSEN, CLASSES,
         "--operating_point sensitivity:0.5: m has sensitivity:0.9, youden; expected one of "),
        (Asked("youden"), Chosen(), CLASSES, "m: has no operating points: it was made before "),
        (Asked("youden"), Chosen(), ("a", "b", "c"),
         "m: has no operating points: none of its 3 classes is called melanoma; leave out "),
        (Asked("recall"), CHOSEN, CLASSES, "operating_point='recall': expected sensitivity:NUM"),
        (Asked(calibrated=True), Chosen(), CLASSES, "m: has no temperature, since none was shown "),
    ],
)  # fmt: skip
def test_what_a_model_does_not_carry_is_one_line(
    asked: Asked, chosen: Chosen, classes: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_way(asked, chosen, classes, "m")
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


def test_words_for_a_person() -> None:
    assert str(Way("youden", "melanoma", YOUDEN, 2.0)) == (
        "Class by youden: melanoma from a score of 0.2000 on, chosen on validation. Near: within "
        "0.1000 to 0.4000, where other validation images could have put it. On the test images: "
        "sensitivity 0.750, specificity 0.800. Scores calibrated by a temperature of 2.00; the "
        "threshold is on the scores before it."
    )
