"""What a picture itself shows: hair, marks of a ruler or pen, dark corners, a large lesion, blur.

Simple detectors whose errors on pictures looked at by eye are stated (results/subgroups): enough to
ask whether a network fails on ruled pictures, not to sort pictures by. They see what the network
sees, 224×224 pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from skinml.data.images import IMAGE_SIZE
from skinml.evaluation.subgroups import PICTURE

# Grey levels (of 255) that a hair, or the line of a scale, is darker than what lies around it.
_HAIR_DEPTH, _LINE_DEPTH = 14, 7
# The widest of either, in pixels; a closing of this size fills it.
_THICKEST = 7
# A hair is straight for so many pixels, in one of so many directions, and covers no lesion: what
# lies around it is nearly as bright as the skin. Hairs are told of from this share of the pixels.
_HAIR_LENGTH, _HAIR_DIRECTIONS, _OF_SKIN, _HAIRY = 15, 16, 0.75, 0.02
# A scale is straight for so many. Where lines run in most directions they are hair or a network.
_LINE_LENGTH, _LINE_DIRECTIONS, _MOST_DIRECTIONS = 64, 60, 45
# Its strokes come every so many pixels, or at twice that, with so much of what varies beside it.
_STROKES, _OF_STROKES, _BESIDE = ((4.7, 6.2), (8.5, 10.5)), 0.45, (-6, -5, -4, -3, 3, 4, 5, 6)
# Blue of a pen: levels above the picture's own tint, and the share of the pixels.
_BLUER, _INK = 30, 0.0025
# Corners of so many pixels are dark below this share of the skin's brightness.
_CORNER, _DARK = 6, 0.5
# A lesion, which is what Otsu's threshold parts from the rest, covers so much of the picture.
_LARGE = 0.25
# The variance of the Laplacian (Pech-Pacheco et al., ICPR 2000, 3:314-317) of what is not sharp.
_BLURRED = 25.0


class Appearance(NamedTuple):
    """What a picture shows, each by one detector."""

    hair: bool
    marks: bool
    dark_corners: bool
    large_lesion: bool
    blur: bool


def appearance(pixels: np.ndarray) -> Appearance:
    """What a picture shows, of its pixels, uint8 (224, 224, 3)."""
    from scipy import ndimage

    colours = pixels.astype(np.float32)
    # Rec. 601, as Pillow has it.
    gray = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    bright = float(np.percentile(gray, 75))
    around = ndimage.grey_closing(gray, size=(_THICKEST, _THICKEST))
    depth = around - gray
    inside = ~_frame(gray < 0.35 * bright)
    hairs = (depth > _HAIR_DEPTH) & inside & (around > _OF_SKIN * bright)
    return Appearance(
        hair=float(_straight_parts(hairs).mean()) >= _HAIRY,
        marks=_has_scale(depth, inside) or _has_ink(colours, gray < 0.9 * bright, inside),
        dark_corners=_dark_corners(gray, bright) >= 2,
        large_lesion=_lesion_share(around, inside) >= _LARGE,
        blur=float(ndimage.laplace(gray)[8:-8, 8:-8].var()) < _BLURRED,
    )


def appearances(images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of what pictures show, "yes" or "no" (N,) str each, as `Predictions.subgroups`."""
    seen = [appearance(pixels) for pixels in images]
    return {
        f"{PICTURE}{name}": np.array(["yes" if getattr(one, name) else "no" for one in seen])
        for name in Appearance._fields
    }


def _frame(dark: np.ndarray) -> np.ndarray:
    """What is black at the edge of a picture, and near it: (H, W) bool."""
    from scipy import ndimage

    labels, _ = ndimage.label(ndimage.binary_opening(dark, np.ones((9, 9))))
    edge = np.unique([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    frame = np.isin(labels, edge[edge > 0])
    return np.asarray(ndimage.binary_dilation(frame, np.ones((3, 3)), iterations=6))


def _steps(direction: float, lengths: Iterable[float]) -> list[tuple[int, int]]:
    rows, columns = np.sin(direction), np.cos(direction)
    return list(dict.fromkeys((round(n * rows), round(n * columns)) for n in lengths))


def _moved(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A mask moved up and left, nothing coming in from beyond its edge."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    moved[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)] = mask[
        max(0, rows) : height - max(0, -rows), max(0, columns) : width - max(0, -columns)
    ]
    return moved


def _straight_parts(mask: np.ndarray) -> np.ndarray:
    """What of a mask lies on a straight piece of `_HAIR_LENGTH`: its opening by lines."""
    half = _HAIR_LENGTH // 2
    found = np.zeros_like(mask)
    for direction in np.arange(_HAIR_DIRECTIONS) * np.pi / _HAIR_DIRECTIONS:
        steps = _steps(direction, range(-half, half + 1))
        middles = mask
        for rows, columns in steps:
            middles = middles & _moved(mask, rows, columns)
        if middles.any():
            for rows, columns in steps:
                found |= _moved(middles, -rows, -columns)
    return found


def _has_scale(depth: np.ndarray, inside: np.ndarray) -> bool:
    """Whether a long straight line has strokes beside it, at the distance of a printed scale's."""
    from scipy import ndimage

    mask = ndimage.binary_dilation(depth > _LINE_DEPTH, np.ones((2, 2))) & inside
    lines: list[tuple[float, np.ndarray]] = []
    for direction in np.arange(_LINE_DIRECTIONS) * np.pi / _LINE_DIRECTIONS:
        starts = mask
        # Twice as long with each step.
        for length in (1, 2, 4, 8, 16, _LINE_LENGTH // 2):
            ((rows, columns),) = _steps(direction, [length])
            starts = starts & _moved(starts, rows, columns)
        if starts.any():
            lines.append((direction, np.argwhere(starts)))
    if len(lines) > _MOST_DIRECTIONS:
        return False
    return any(
        _has_strokes(depth, direction, starts[number])
        for direction, starts in lines
        for number in np.linspace(0, len(starts) - 1, min(4, len(starts))).astype(int)
    )


def _has_strokes(depth: np.ndarray, direction: float, start: np.ndarray) -> bool:
    along = np.arange(-10, _LINE_LENGTH + 20)
    # The line as a whole may lie a little beside one of its pixels: several distances are tried.
    offsets = np.array(_BESIDE)[:, None]
    rows = np.rint(start[0] + along * np.sin(direction) + offsets * np.cos(direction)).astype(int)
    columns = np.rint(start[1] + along * np.cos(direction) - offsets * np.sin(direction))
    columns = columns.astype(int)
    within = (rows >= 0) & (rows < IMAGE_SIZE) & (columns >= 0) & (columns < IMAGE_SIZE)
    last = IMAGE_SIZE - 1
    profiles = np.where(within, depth[rows.clip(0, last), columns.clip(0, last)], 0)
    profiles = profiles - profiles.mean(axis=1, keepdims=True)
    points = 256
    power = np.abs(np.fft.rfft(profiles * np.hanning(len(along)), points)) ** 2
    periods = points / np.maximum(np.arange(power.shape[1]), 1)
    whole = power.sum(axis=1)
    peaks = np.argmax(np.where((periods > 4.7) & (periods < 14), power, 0), axis=1)
    for profile, peak, spectrum, total in zip(profiles, peaks, power, whole, strict=True):
        share = spectrum[max(0, peak - 3) : peak + 4].sum() / total if total else 0.0
        regular = any(low <= periods[peak] <= high for low, high in _STROKES)
        if regular and share >= _OF_STROKES and profile.std() > 1.5:
            return True
    return False


def _has_ink(colours: np.ndarray, darker: np.ndarray, inside: np.ndarray) -> bool:
    red, green, blue = np.moveaxis(colours, -1, 0)
    tint = blue - (red + green) / 2
    ink = (tint - np.median(tint) > _BLUER) & (blue > green + 15) & darker & inside
    return float(ink.mean()) >= _INK


def _lesion_share(gray: np.ndarray, inside: np.ndarray) -> float:
    """The share of the picture that is dark in one piece with its middle."""
    from scipy import ndimage

    labels, _ = ndimage.label(gray < _otsu(gray[inside]))
    third = slice(IMAGE_SIZE // 3, 2 * IMAGE_SIZE // 3)
    middle = np.unique(labels[third, third])
    return float(np.isin(labels, middle[middle > 0]).mean())


def _otsu(levels: np.ndarray) -> float:
    """The grey level that parts two kinds of pixels best (Otsu, IEEE Trans. SMC 1979, 9:62-66)."""
    counts, edges = np.histogram(levels, 256, (0, 256))
    below = np.cumsum(counts)
    mass = np.cumsum(counts * edges[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (mass[-1] * below - below[-1] * mass) ** 2 / (below * (below[-1] - below))
    return float(edges[np.nanargmax(apart) + 1]) if len(np.unique(levels)) > 1 else 0.0


def _dark_corners(gray: np.ndarray, bright: float) -> int:
    ends = slice(0, _CORNER), slice(-_CORNER, None)
    medians = [float(np.median(gray[rows, columns])) for rows in ends for columns in ends]
    return sum(median < _DARK * bright for median in medians)
