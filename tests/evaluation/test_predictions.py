"""The predictions table: what is written comes back, and what is not a table is refused."""

from pathlib import Path

import numpy as np
import pytest

from skinml.data.isic2017 import CLASSES
from skinml.errors import UserError
from skinml.evaluation.predictions import Predictions, read_predictions, write_predictions

HEADER = f"image_id,label,{','.join(CLASSES)}"


def test_float32_scores_come_back_exactly(tmp_path: Path, rng: np.random.Generator) -> None:
    """Also the smallest ones, that a fixed number of decimals would round to 0."""
    scores = rng.dirichlet((0.05, 0.05, 0.05), size=500).astype(np.float32)
    scores[:2] = [[1e-38, 1e-45, 1], [1 - 2.0**-24, 2.0**-24, 0]]
    ids = np.array(["ISIC_0000000", 'a, "quoted" name', *(f"ISIC_{i:07d}" for i in range(2, 500))])
    written = Predictions(ids, rng.integers(3, size=500), scores.astype(float))
    write_predictions(written, tmp_path / "table.csv")
    read = read_predictions(tmp_path / "table.csv")
    assert read.classes == CLASSES
    assert read.image_ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(read.labels, written.labels)
    np.testing.assert_array_equal(read.scores.astype(np.float32), scores)
    assert read.scores.dtype == np.float64 and read.labels.dtype == np.int64


def test_a_table_without_images(tmp_path: Path) -> None:
    nothing = Predictions(np.array([], str), np.array([], np.int64), np.zeros((0, 3)))
    write_predictions(nothing, tmp_path / "table.csv")
    read = read_predictions(tmp_path / "table.csv")
    assert read.scores.shape == (0, 3) and read.labels.shape == (0,)


def answering(nevi: int, others: int) -> Predictions:
    """A network's table that names nevus for some images and melanoma for others."""
    predicted = [CLASSES.index("nevus")] * nevi + [CLASSES.index("melanoma")] * others
    count = nevi + others
    scores = 0.1 + 0.7 * np.eye(3)[predicted] if count else np.zeros((0, 3))
    return Predictions(np.arange(count).astype(str), np.zeros(count, np.int64), scores)


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
        Predictions(np.arange(ids).astype(str), np.zeros(labels, int), np.zeros(scores))


def test_a_tie_goes_to_the_first_class() -> None:
    scores = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3] * 3])
    table = Predictions(np.array(["a", "b", "c"]), np.zeros(3, int), scores)
    assert table.predicted.tolist() == [0, 1, 0]
