"""The predictions table: what is written comes back, and what is not a table is refused."""

from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions, read_predictions, write_predictions

HEADER = f"image_id,label,{','.join(CLASSES)}"


def test_float32_scores_come_back_exactly(tmp_path: Path, rng: np.random.Generator) -> None:
    """Also the smallest ones, that a fixed number of decimals would round to 0."""
    scores = rng.dirichlet((0.05, 0.05, 0.05), size=500).astype(np.float32)
    scores[:2] = [[1e-38, 1e-45, 1], [1 - 2.0**-24, 2.0**-24, 0]]
    ids = np.array(["ISIC_0000000", 'a, "quoted" name', *(f"ISIC_{i:07d}" for i in range(2, 500))])
    written = Predictions(ids, rng.integers(3, size=500), scores.astype(float), CLASSES)
    write_predictions(written, tmp_path / "table.csv")
    read = read_predictions(tmp_path / "table.csv")
    assert read.classes == CLASSES
    assert read.image_ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(read.labels, written.labels)
    np.testing.assert_array_equal(read.scores.astype(np.float32), scores)
    assert read.scores.dtype == np.float64 and read.labels.dtype == np.int64


def refused(path: Path, text: str) -> str:
    """The one line in which a table of this text is refused."""
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_the_columns_of_the_classes_go_by_their_names(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """In another order they gave the AUCs and sensitivities of other classes, without a word."""
    scores = rng.dirichlet(np.ones(3), size=60)
    written = Predictions(np.arange(60).astype(str), rng.integers(3, size=60), scores, CLASSES)
    write_predictions(written, tmp_path / "table.csv")
    rows = [line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines()]
    mixed = "".join(",".join([*row[:2], row[3], row[2], row[4]]) + "\n" for row in rows)
    assert mixed.splitlines()[0].endswith(",".join([CLASSES[1], CLASSES[0], CLASSES[2]]))
    (tmp_path / "mixed.csv").write_text(mixed)
    first, second = (read_predictions(tmp_path / f"{name}.csv") for name in ("table", "mixed"))
    assert first.classes == second.classes == CLASSES
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize(
    "names", ["melanoma,nevus,nevus", "melanoma,nevus,nevus!", "melanoma,macro,nevus", "a,b, c"]
)
def test_classes_that_no_data_set_may_have_are_refused_by_name(tmp_path: Path, names: str) -> None:
    told = refused(tmp_path / "table.csv", f"image_id,label,{names}\nISIC_1,nevus,0,1,0\n")
    assert f"its columns of scores are {names.replace(',', ', ')}; expected the name of" in told


def test_a_table_without_images_is_refused(tmp_path: Path) -> None:
    assert "holds no image" in refused(tmp_path / "table.csv", f"{HEADER}\n")


def test_an_image_that_stands_there_twice_is_named(tmp_path: Path) -> None:
    rows = "ISIC_0,nevus,0.1,0.2,0.7\nISIC_1,nevus,0.1,0.2,0.7\nISIC_0,nevus,0.1,0.2,0.7\n"
    told = refused(tmp_path / "table.csv", f"{HEADER}\n{rows}")
    assert told == ": image ISIC_0 stands in the lines 2 and 4; expected each image once"


@pytest.mark.parametrize(
    ("scores", "total"),
    [("2.5,-1,0.3", "1.8"), ("1,1,1", "3"), ("0.2,0.3,0.4", "0.9"), ("1.2,-0.1,-0.1", "1")],
)
def test_scores_that_are_no_probabilities_are_refused(
    tmp_path: Path, scores: str, total: str
) -> None:
    """Logits give a calibration error above 1, and a log loss of nothing."""
    told = refused(tmp_path / "table.csv", f"{HEADER}\nISIC_1,nevus,{scores}\n")
    assert f"line 2: 'ISIC_1,nevus,{scores}': the scores have the sum {total}; expected" in told


@pytest.mark.parametrize("decimals", [1, 2, 3, 6])
def test_rounded_probabilities_are_taken(
    tmp_path: Path, rng: np.random.Generator, decimals: int
) -> None:
    scores = rng.dirichlet(np.ones(3), size=500).round(decimals)
    scores[:, 2] = (
        (1 - scores[:, 0] - scores[:, 1]).round(decimals) if decimals == 1 else scores[:, 2]
    )
    scores = scores[(scores >= 0).all(axis=1)]
    ids = np.arange(len(scores)).astype(str)
    write_predictions(
        Predictions(ids, np.zeros(len(ids), int), scores, CLASSES), tmp_path / "table.csv"
    )
    np.testing.assert_array_equal(read_predictions(tmp_path / "table.csv").scores, scores)


def answering(nevi: int, others: int) -> Predictions:
    """A network's table that names nevus for some images and melanoma for others."""
    predicted = [CLASSES.index("nevus")] * nevi + [CLASSES.index("melanoma")] * others
    count = nevi + others
    scores = 0.1 + 0.7 * np.eye(3)[predicted] if count else np.zeros((0, 3))
    return Predictions(np.arange(count).astype(str), np.zeros(count, np.int64), scores, CLASSES)


@pytest.mark.parametrize(
    ("nevi", "others", "said"),
    [
        (550, 0, "answers “nevus” to every image"),
        (523, 27, "answers “nevus” to 95.1 % of the images"),
        (1999, 1, "answers “nevus” to 99.9 % of the images"),
        (522, 28, None),
        (19, 1, None),
        (0, 0, None),
    ],
)
def test_a_network_that_answers_one_class_is_told_by_its_share(
    nevi: int, others: int, said: str | None
) -> None:
    """More than 95 % of the images: no less, and never rounded up to all of them."""
    found = answering(nevi, others).one_class
    assert (str(found) if found else None) == said
    assert found is None or found.share == nevi / (nevi + others)


@pytest.mark.parametrize(
    "row",
    [
        "ISIC_1,mole,0.2,0.3,0.5",
        "ISIC_1,2,0.2,0.3,0.5",
        "ISIC_1,melanoma,0.2,0.3",
        "ISIC_1,melanoma,0.2,0.3,0.5,0.1",
        "ISIC_1,melanoma,0.2,0.3,half",
        "ISIC_1,melanoma,0.2,nan,0.5",
        "ISIC_1,melanoma,0.2,inf,0.5",
        "ISIC_1,melanoma,0.2,,0.5",
        "ISIC_1",
        "",
    ],
)
def test_a_malformed_row_is_refused_with_its_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}\nISIC_0,nevus,0.1,0.2,0.7\n{row}\nISIC_2,nevus,0.1,0.2,0.7\n")
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: {row!r}") and "\n" not in message
    assert all(name in message for name in CLASSES)


@pytest.mark.parametrize(
    "text", ["", "\n", "image_id,label\n", "id,label,melanoma,nevus\n", f"{HEADER[9:]}\n"]
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="first line") as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "labels", "scores"), [(4, 3, (4, 3)), (4, 4, (3, 3)), (4, 4, (4, 2)), (3, 4, (4, 3))]
)
def test_shapes_that_do_not_match_are_refused(
    ids: int, labels: int, scores: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        Predictions(np.arange(ids).astype(str), np.zeros(labels, int), np.zeros(scores), CLASSES)


def test_a_tie_goes_to_the_first_class() -> None:
    scores = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3] * 3])
    table = Predictions(np.array(["a", "b", "c"]), np.zeros(3, int), scores, CLASSES)
    assert table.predicted.tolist() == [0, 1, 0]
