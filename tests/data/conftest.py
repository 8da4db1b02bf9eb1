"""What the tests of the data share: nine small images in the official layout."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinml.data.isic2017 import CLASSES, CSV_COLUMNS, OFFICIAL_PARTS

TRAIN, VALIDATION, TEST = OFFICIAL_PARTS
FLAGS = {
    "melanoma": ("1.0", "0.0"),
    "nevus": ("0.0", "0.0"),
    "seborrheic_keratosis": ("0.0", "1.0"),
}


def picture(seed: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).resize((40, 30)).convert(mode).save(stream, kind)
    return stream.getvalue()


def write_table(
    path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = CSV_COLUMNS
) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_official(folder: Path, first_id: int = 0) -> Path:
    """Nine small images in the official layout: one of each class in each part."""
    number = first_id
    for official in OFFICIAL_PARTS:
        (folder / official.image_folder).mkdir(parents=True)
        rows: list[tuple[str, ...]] = []
        for label in CLASSES:
            image_id = f"ISIC_{number:07}"
            (folder / official.image_folder / f"{image_id}.jpg").write_bytes(picture(number))
            rows.append((image_id, *FLAGS[label]))
            number += 1
        write_table(folder / official.ground_truth, rows[::-1])
    return folder


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path / "official")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sets" / "prepared"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_csv(path: Path, header: str, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    for number, row in enumerate(rows):
        if row and row[0] and not (path.parent / row[0]).exists():
            (path.parent / row[0]).write_bytes(picture(number))
    return path


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A table of 24 pictures of two classes: eight lesions of three pictures each."""
    rows = [
        (f"{number}.jpg", "benign" if number < 12 else "malignant", f"L{number // 3}", f"{number}")
        for number in range(24)
    ]
    return write_csv(tmp_path / "table.csv", "image,label,group,age", *rows)
