"""Each detector finds what is drawn into a picture, and nothing in a plain one."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from skinml.evaluation.appearance import Appearance, appearance, appearances

Draw = Callable[[ImageDraw.ImageDraw], None]


def skin(draw: Draw | None = None, blurred: float = 0.0) -> np.ndarray:
    """Skin with a small lesion in its middle, its grain that of a photograph."""
    picture = Image.new("RGB", (224, 224), (222, 178, 152))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((92, 92, 132, 132), fill=(120, 70, 50))
    if draw:
        draw(pen)
    # As sharp as a picture is that was scaled down.
    picture = picture.filter(ImageFilter.GaussianBlur(0.9))
    grain = np.random.default_rng(0).normal(0, 2, (224, 224, 1))
    pixels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blurred))
    return np.asarray(image)


def hairs(pen: ImageDraw.ImageDraw) -> None:
    for start in range(0, 220, 25):
        pen.arc((start - 120, -40, start + 120, 260), 300, 60, fill=(60, 40, 30), width=2)


def scale(pen: ImageDraw.ImageDraw) -> None:
    pen.line((60, 195, 165, 195), fill=(60, 50, 45), width=1)
    for number in range(12):
        x = 60 + round(9.5 * number)
        pen.line((x, 188, x, 195), fill=(60, 50, 45), width=1)


def ink(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((20, 20, 50, 40), fill=(90, 60, 160))


def corners(pen: ImageDraw.ImageDraw) -> None:
    pen.polygon([(0, 0), (40, 0), (0, 40)], fill=(10, 10, 10))
    pen.polygon([(223, 223), (183, 223), (223, 183)], fill=(10, 10, 10))


def lesion(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((30, 30, 190, 190), fill=(120, 70, 50))


NOTHING = Appearance(False, False, False, False, False)


@pytest.mark.parametrize(
    ("draw", "shown"),
    [
        (None, NOTHING),
        (hairs, NOTHING._replace(hair=True)),
        (scale, NOTHING._replace(marks=True)),
        (ink, NOTHING._replace(marks=True)),
        (corners, NOTHING._replace(dark_corners=True)),
        (lesion, NOTHING._replace(large_lesion=True)),
    ],
)
def test_what_is_drawn_is_found_and_nothing_else(draw: Draw | None, shown: Appearance) -> None:
    pixels = skin(draw)
    assert appearance(pixels) == shown
    assert appearance(np.rot90(pixels).copy()) == shown


def test_what_is_not_sharp_is_found() -> None:
    assert appearance(skin(blurred=3)) == NOTHING._replace(blur=True)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour_shows_nothing_but_blur(level: int) -> None:
    seen = appearance(np.full((224, 224, 3), level, dtype=np.uint8))
    assert seen == NOTHING._replace(blur=True)


def test_columns_are_those_of_a_predictions_table() -> None:
    columns = appearances([skin(), skin(hairs)])
    assert columns["picture_hair"].tolist() == ["no", "yes"]
    assert set(columns) == {f"picture_{name}" for name in Appearance._fields}
