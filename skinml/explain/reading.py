"""Reads the page of a run's pictures back: which pictures it has, their scores and maps.

The page may come from somebody else's run: nothing of it is taken before it is checked.
"""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skinml.base.errors import UserError, first_line
from skinml.base.files import read_file
from skinml.data.images import IMAGE_SIZE
from skinml.explain.browser import LARGEST

_BEGIN, _END = '<script type="application/json" id="data">', "</script>"
_PICTURES = '"pictures":['

# Characters of what stands before the pictures, and of one picture: an own one has 10,000.
_LONGEST_FRAME, _LONGEST_ENTRY = 200_000, 400_000
_LONGEST_NAME = 1000
_MOST_CELLS = 64


class Shown(NamedTuple):
    """A picture as a page holds it.

    `label` indexes the page's classes; `scores` (K,) float64; `maps` (K, h, w) uint8.
    """

    label: int
    scores: np.ndarray
    maps: np.ndarray
    jpeg: bytes

    @property
    def pixels(self) -> np.ndarray:
        """(224, 224, 3) uint8; a `UserError` where its JPEG is none of that size."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self.jpeg), formats=["JPEG"]) as image:
                if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                    raise ValueError(f"{image.size[0]}×{image.size[1]}")
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"a picture of a page cannot be read ({first_line(error)}); expected a JPEG of "
                f"{IMAGE_SIZE}×{IMAGE_SIZE}"
            ) from None


class Page(NamedTuple):
    """The classes of a page, in the order of its scores, and its pictures by id."""

    classes: tuple[str, ...]
    pictures: dict[str, Shown]


def read_page(path: Path) -> Page:
    """Read the page of a run's pictures; what is none is a `UserError`."""
    try:
        text = read_file(path, LARGEST).decode("utf-8")
        _, begin, rest = text.partition(_BEGIN)
        data, end, _ = rest.partition(_END)
        frame, found, entries = data.partition(_PICTURES)
        if not (begin and end and found and entries.endswith("]}")):
            raise ValueError("no pictures in it")
        if len(frame) > _LONGEST_FRAME:
            raise ValueError(f"{len(frame)} letters before its pictures")
        known = json.loads(frame.rstrip(",") + "}")
        classes, shape = tuple(known["classes"]), tuple(known["shape"])
        if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes: expected two names or more")
        if len(shape) != 2 or not all(
            type(cells) is int and 1 <= cells <= _MOST_CELLS for cells in shape
        ):
            raise ValueError(f"shape: expected two numbers up to {_MOST_CELLS}")
        return Page(classes, dict(_shown(e, len(classes), shape) for e in _entries(entries[:-2])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"{path}: not the page of a run's pictures ({reason}); expected one that skinml.run or "
            "`python -m skinml.explain MODEL --page FILE` wrote"
        ) from None


def _entries(text: str) -> Iterator[dict[str, Any]]:
    """One picture after the other, so that no more than one is held as JSON."""
    decoder = json.JSONDecoder()
    place = 0
    while place < len(text):
        entry, length = decoder.raw_decode(text[place : place + _LONGEST_ENTRY])
        yield entry
        place += length
        if place < len(text) and text[place] != ",":
            raise ValueError("pictures that are not parted by commas")
        place += 1


def _shown(entry: dict[str, Any], classes: int, shape: tuple[int, ...]) -> tuple[str, Shown]:
    name, label, scores = entry["id"], entry["true"], entry["scores"]
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise ValueError("id: expected the name of a picture")
    if type(label) is not int or not 0 <= label < classes:
        raise ValueError(f"true: expected the number of a class, up to {classes - 1}")
    if len(scores) != classes or not all(
        isinstance(score, int | float) and 0 <= score <= 1 for score in scores
    ):
        raise ValueError(f"scores: expected {classes} numbers from 0 to 1")
    maps = np.frombuffer(base64.b64decode(entry["maps"], validate=True), dtype=np.uint8)
    jpeg = base64.b64decode(entry["jpeg"], validate=True)
    return name, Shown(label, np.array(scores, float), maps.reshape(classes, *shape), jpeg)
