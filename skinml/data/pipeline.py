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

    `order` (n,) int64: the sequence in which they are visited. `symmetries` (n,) int64 in 0-7: the
    transform of each image (not of each position in the order).
    """

    order: np.ndarray
    symmetries: np.ndarray


def plan_epoch(count: int, seed: int, epoch: int, augmentation: str) -> EpochPlan:
    """The plan of one epoch (counted from 1), derived from the seed and the epoch alone.

    A resumed run therefore needs no state to continue exactly where it was.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(count)
    if augmentation == "none":
        return EpochPlan(order, np.zeros(count, dtype=np.int64))
    return EpochPlan(order, rng.integers(0, SYMMETRIES, count))


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
