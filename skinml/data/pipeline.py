"""The order, the augmentation and the batches of an epoch: pure functions of (seed, epoch)."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

# The symmetries of the square: rotation by 90° k times for k = 0-3, the same mirrored for 4-7.
SYMMETRIES = 8

T = TypeVar("T")


class EpochPlan(NamedTuple):
    """One epoch over n images.

    `order` (n,) int64: the sequence in which they are visited. All else is of each image, not of
    each position in the order. `symmetries` (n,) int64 in 0-7: its transform. `crops` (n, 4): its
    part that is shown, left, top, width and height as shares of the side; `lights` (n, 6): the
    factors of its saturation, contrast, brightness and of red, green and blue; both None without
    such augmentation. `shares` (n,) in 0.5-1: how much of a mixture it is; None where none is made.
    """

    order: np.ndarray
    symmetries: np.ndarray
    crops: np.ndarray | None = None
    lights: np.ndarray | None = None
    shares: np.ndarray | None = None


def plan_epoch(
    count: int, seed: int, epoch: int, augmentation: str, mixup: float = 0.0
) -> EpochPlan:
    """The plan of one epoch (counted from 1), derived from the seed and the epoch alone.

    A resumed run therefore needs no state to continue exactly where it was.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(count)
    if augmentation == "none":
        plan = EpochPlan(order, np.zeros(count, dtype=np.int64))
    else:
        plan = EpochPlan(order, rng.integers(0, SYMMETRIES, count))
    if augmentation == "crops":
        plan = plan._replace(crops=_draw_crops(count, rng), lights=_draw_lights(count, rng))
    if mixup:
        drawn = rng.beta(mixup, mixup, count)
        plan = plan._replace(shares=np.maximum(drawn, 1 - drawn))
    return plan


def _draw_crops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Three fifths of the area and more, at most half as wide again as high, or the reverse."""
    area, aspect = rng.uniform(0.6, 1, count), np.exp(rng.uniform(-0.2, 0.2, count))
    sides = np.minimum(np.sqrt(area)[:, None] * np.stack([aspect, 1 / aspect], axis=1), 1)
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (1 - sides), sides])


def _draw_lights(count: int, rng: np.random.Generator) -> np.ndarray:
    """A fifth more or less of each, a twentieth of one colour: what dermatoscopes differ by."""
    return np.hstack([rng.uniform(0.8, 1.2, (count, 3)), rng.uniform(0.95, 1.05, (count, 3))])


def vary(images: np.ndarray, crops: np.ndarray, lights: np.ndarray) -> np.ndarray:
    """Show a part of each image (n, H, H, 3) uint8, scaled back, in another light: a new array.

    `crops` and `lights` are those of an `EpochPlan`, a row an image.
    """
    from PIL import Image

    size = images.shape[1]
    result = np.empty_like(images)
    for number, (left, top, width, height) in enumerate(crops * size):
        box = (left, top, left + width, top + height)
        picture = Image.fromarray(images[number])
        crop = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
        saturation, contrast, brightness, *colours = lights[number].astype(np.float32)
        x = np.asarray(crop, np.float32)
        grey = x.mean(axis=2, keepdims=True)
        x = grey + (x - grey) * saturation
        x = ((x - x.mean()) * contrast + x.mean() * brightness) * np.array(colours)
        result[number] = np.clip(np.rint(x), 0, 255)
    return result


def transform(images: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Rotate and mirror each image of (n, H, H, C) by its own symmetry (n,): a new array."""
    result = np.empty_like(images)
    for symmetry in np.unique(symmetries):
        chosen = symmetries == symmetry
        rotated = np.rot90(images[chosen], k=symmetry % 4, axes=(1, 2))
        result[chosen] = rotated[:, :, ::-1] if symmetry >= 4 else rotated
    return result


def slices(count: int, batch_size: int) -> Iterator[slice]:
    """Cut 0..count into consecutive batches, the last one as small as it comes."""
    return (slice(i, min(i + batch_size, count)) for i in range(0, count, batch_size))


def prefetch(batches: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Make the next batches in a thread while the network works on the current one.

    An error in the making is raised here; leaving the loop early stops the thread.
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(kind: str, value: T | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for batch in batches:
                offer("batch", batch)
                if stopped.is_set():
                    return
            offer("end", None)
        except BaseException as error:
            offer("error", error)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
