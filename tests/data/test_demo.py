"""What the demo data set promises: the official layout, the same bytes again, a fair task."""

import csv
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinml.base.errors import UserError
from skinml.data import demo
from skinml.data.isic2017 import CLASSES, CSV_COLUMNS, OFFICIAL_PARTS, OfficialPart
from skinml.data.prepare import open_data

COUNTS = {"train": 12, "validation": 6, "test": 6}
SIZE = (96, 72)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "isic2017"
    demo.generate(folder, counts=COUNTS, size=SIZE)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ground_truth(folder: Path, official: OfficialPart) -> list[list[str]]:
    with (folder / official.ground_truth).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def class_of(melanoma: str, keratosis: str) -> str:
    columns = {("1.0", "0.0"): "melanoma", ("0.0", "1.0"): "seborrheic_keratosis"}
    return columns.get((melanoma, keratosis), "nevus")


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs(
    made: Path, tmp_path: Path
) -> None:
    for jobs in (1, 3):
        again = tmp_path / f"jobs{jobs}"
        demo.generate(again, counts=COUNTS, size=SIZE, jobs=jobs)
        assert contents(again) == contents(made)


def test_another_seed_gives_other_pictures(made: Path, tmp_path: Path) -> None:
    demo.generate(tmp_path / "other", seed=1, counts=COUNTS, size=SIZE)
    ours, others = contents(made), contents(tmp_path / "other")
    assert ours.keys() == others.keys()
    assert not [name for name in ours if name.endswith(".jpg") and ours[name] == others[name]]


def test_no_two_pictures_are_the_same(made: Path) -> None:
    # A stream of random numbers that serves two images, or two parts, would leak between parts.
    pictures = [data for name, data in contents(made).items() if name.endswith(".jpg")]
    assert len(set(pictures)) == sum(COUNTS.values())


def test_layout_is_the_official_one(made: Path) -> None:
    expected = {"DEMO_DATA.txt"}
    for official in OFFICIAL_PARTS:
        expected |= {official.image_folder, official.ground_truth}
    assert {path.name for path in made.iterdir()} == expected

    seen: set[str] = set()
    for official in OFFICIAL_PARTS:
        header, *rows = ground_truth(made, official)
        assert tuple(header) == CSV_COLUMNS
        assert {value for row in rows for value in row[1:]} == {"0.0", "1.0"}
        ids = [row[0] for row in rows]
        assert {path.name for path in (made / official.image_folder).iterdir()} == {
            f"{image_id}.jpg" for image_id in ids
        }
        assert len(ids) == COUNTS[official.part]
        assert not seen.intersection(ids)
        seen.update(ids)
        with Image.open(made / official.image_folder / f"{ids[0]}.jpg") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", SIZE)
    # The range that the real data set leaves free.
    assert min(seen) == "ISIC_9000000"


def test_of_two_first_commands_one_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer's two terminals: the second ended with a folder that is not empty."""
    generate = demo.generate
    begun: list[Path] = []

    def slowly(folder: Path) -> None:
        begun.append(folder)
        time.sleep(0.5)
        generate(folder, counts={"train": 3, "validation": 3, "test": 3}, size=(32, 24))

    monkeypatch.setattr(demo, "generate", slowly)
    with ThreadPoolExecutor(2) as pool:
        sets = list(pool.map(open_data, ["demo", "demo"]))
    assert len(begun) == 1
    assert sets[0].digest == sets[1].digest and len(sets[0]) == 9
    assert not list(begun[0].parent.glob(".demo-*"))


def test_notice_says_that_nobody_is_pictured(made: Path) -> None:
    assert "no patients" in (made / "DEMO_DATA.txt").read_text(encoding="utf-8")


def test_a_picture_carries_in_its_file_what_it_is(made: Path, tmp_path: Path) -> None:
    pictures = list(made.rglob("*.jpg"))
    assert all(demo.is_generated(path.read_bytes()) for path in pictures)
    with Image.open(pictures[0]) as picture:
        assert b"shows no patient" in picture.info["comment"]
        Image.fromarray(np.asarray(picture)).save(tmp_path / "other.jpg")
    assert not demo.is_generated((tmp_path / "other.jpg").read_bytes())


def test_examples_are_the_last_pictures_of_each_class_in_a_table(
    made: Path, tmp_path: Path
) -> None:
    table = tmp_path / "predictions_test.csv"
    table.write_text(
        "image_id,label,melanoma,nevus,seborrheic_keratosis\n"
        "ISIC_9000020,nevus,0,1,0\nISIC_9000003,seborrheic_keratosis,0,0,1\n"
        "ISIC_9000007,nevus,0,1,0\nISIC_9000013,melanoma,1,0,0\n"
    )
    found = demo.examples(made, table)
    assert [path.stem for path in found] == ["ISIC_9000013", "ISIC_9000007", "ISIC_9000003"]
    assert all(path.is_file() for path in found)


def test_every_part_has_every_class_as_often_as_announced(made: Path) -> None:
    for official in OFFICIAL_PARTS:
        rows = ground_truth(made, official)[1:]
        found = Counter(class_of(*row[1:]) for row in rows)
        assert found == demo.class_counts(official.part, COUNTS[official.part])
        assert set(found) == set(CLASSES)


@pytest.mark.parametrize("official", OFFICIAL_PARTS, ids=lambda official: official.part)
def test_class_shares_are_the_published_ones(official: OfficialPart) -> None:
    total = sum(official.counts)
    assert tuple(demo.class_counts(official.part, total).values()) == official.counts
    assert set(demo.class_counts(official.part, len(CLASSES)).values()) == {1}


def test_folder_that_holds_something_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="full") as caught:
        demo.generate(tmp_path / "full", counts=COUNTS, size=SIZE)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"full/thesis.txt": b"precious"}


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    demo.generate(tmp_path / "empty", counts=dict.fromkeys(COUNTS, 3), size=SIZE)
    assert (tmp_path / "empty" / "DEMO_DATA.txt").exists()


def test_failure_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_picture = demo.draw_picture
    drawn: list[str] = []

    def fail_at_the_fifteenth(
        label: str, rng: np.random.Generator, size: tuple[int, int]
    ) -> Image.Image:
        drawn.append(label)
        if len(drawn) == 15:
            raise OSError("disk full")
        return draw_picture(label, rng, size)

    monkeypatch.setattr(demo, "draw_picture", fail_at_the_fifteenth)
    with pytest.raises(OSError, match="disk full"):
        demo.generate(tmp_path / "demo", counts=COUNTS, size=SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("counts", "seed"),
    [
        ({"train": 12}, 0),
        ({**COUNTS, "holdout": 6}, 0),
        ({**COUNTS, "test": 2}, 0),
        (COUNTS, -1),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(
    tmp_path: Path, counts: dict[str, int], seed: int
) -> None:
    with pytest.raises(UserError):
        demo.generate(tmp_path / "demo", seed=seed, counts=counts, size=SIZE)
    assert not list(tmp_path.iterdir())


def test_unwritable_place_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be created"):
        demo.generate(tmp_path / "file" / "demo", counts=COUNTS, size=SIZE)


def test_command_prints_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "DEFAULT_COUNTS", dict.fromkeys(COUNTS, 3))
    assert demo.main([str(tmp_path / "demo"), "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "train: 3 images (1 melanoma, 1 nevus, 1 seborrheic_keratosis)" in printed
    assert "seed 4" in (tmp_path / "demo" / "DEMO_DATA.txt").read_text(encoding="utf-8")


def cross_validated(features: npt.NDArray[np.float64], labels: list[str]) -> float:
    """Balanced accuracy of a plain linear classifier on images it was not fitted to."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    return float(balanced_accuracy_score(labels, cross_val_predict(model, features, labels, cv=5)))


def lesion_features(image: Image.Image) -> npt.NDArray[np.float64]:
    """The spread of the colours over the lesion, and the energy of its detail at two scales."""
    middle = np.asarray(image, np.float64)[30:-30, 60:-60]
    skin = np.percentile(middle, 75, axis=(0, 1))
    absorbance = np.log((skin + 1) / (middle + 1))
    darkness = absorbance.sum(axis=2)
    lesion = darkness > 0.35 * np.percentile(darkness, 98)
    pixels = absorbance[lesion]
    contrasts = pixels[:, [2, 1]] - pixels[:, [0, 0]]
    fine = darkness[1:-1, 1:-1] * 2 - darkness[:-2, 1:-1] - darkness[2:, 1:-1]
    coarse = darkness[6:-6, 6:-6] * 2 - darkness[:-12, 6:-6] - darkness[12:, 6:-6]
    return np.concatenate(
        [
            np.percentile(pixels, [5, 50, 95], axis=0).ravel(),
            np.percentile(contrasts, [5, 50, 95], axis=0).ravel(),
            np.percentile(fine[lesion[1:-1, 1:-1]], [2, 10, 90, 98]),
            np.percentile(coarse[lesion[6:-6, 6:-6]], [2, 10, 90, 98]),
        ]
    )


def test_classes_can_be_learned_but_not_from_the_mean_colour() -> None:
    labels = list(CLASSES) * 50
    images = [
        demo.draw_picture(label, np.random.default_rng([0, index]), (288, 216))
        for index, label in enumerate(labels)
    ]
    lesions = cross_validated(np.array([lesion_features(image) for image in images]), labels)
    mean_colours = cross_validated(
        np.array([np.asarray(image).mean(axis=(0, 1)) for image in images]), labels
    )
    # Chance is 1/3.
    assert mean_colours < 0.5
    assert 0.6 < lesions < 0.95
    assert lesions > mean_colours + 0.15
