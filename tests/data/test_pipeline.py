"""What an epoch's order, augmentation and batches promise: repeatable, complete, exact."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from skinml.data.pipeline import SYMMETRIES, plan_epoch, prefetch, slices, transform, vary
from tests.waiting import PATIENCE


def all_of(image: np.ndarray) -> list[bytes]:
    """The image under each of the eight symmetries."""
    images = np.repeat(image[None], SYMMETRIES, axis=0)
    return [result.tobytes() for result in transform(images, np.arange(SYMMETRIES))]


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)


def test_symmetries_are_distinct_and_the_first_is_the_identity(picture: np.ndarray) -> None:
    results = all_of(picture)
    assert len(set(results)) == SYMMETRIES == 8
    assert results[0] == picture.tobytes()


def test_symmetries_are_a_group(picture: np.ndarray) -> None:
    """Any two in a row are again one of the eight, and each has an inverse."""
    results = set(all_of(picture))
    for first in all_of(picture):
        again = np.frombuffer(first, dtype=np.uint8).reshape(picture.shape)
        assert set(all_of(again)) == results


def test_transform_moves_pixels_and_changes_none(picture: np.ndarray) -> None:
    before = picture.copy()
    colours = sorted(map(tuple, picture.reshape(-1, 3).tolist()))
    for symmetry in range(SYMMETRIES):
        moved = transform(picture[None], np.array([symmetry]))[0]
        assert moved.dtype == np.uint8
        assert sorted(map(tuple, moved.reshape(-1, 3).tolist())) == colours
    np.testing.assert_array_equal(picture, before)


def test_each_image_is_moved_by_its_own_symmetry(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (20, 5, 5, 3), dtype=np.uint8)
    symmetries = rng.integers(0, SYMMETRIES, 20)
    together = transform(images, symmetries)
    for index in range(20):
        assert together[index].tobytes() == all_of(images[index])[symmetries[index]]


def test_plan_is_a_function_of_count_seed_and_epoch() -> None:
    """A resumed run continues exactly where it was."""
    plan = plan_epoch(100, seed=3, epoch=5, augmentation="dihedral")
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = plan_epoch(100, seed=3, epoch=5, augmentation="dihedral")
    np.testing.assert_array_equal(plan.order, again.order)
    np.testing.assert_array_equal(plan.symmetries, again.symmetries)
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        other = plan_epoch(100, seed, epoch, "dihedral")
        assert (plan.order != other.order).any()
        assert (plan.symmetries != other.symmetries).any()


def test_plan_visits_every_image_once_and_uses_every_symmetry() -> None:
    plan = plan_epoch(500, seed=0, epoch=1, augmentation="dihedral")
    np.testing.assert_array_equal(np.sort(plan.order), np.arange(500))
    assert (plan.order != np.arange(500)).any()
    assert set(plan.symmetries.tolist()) == set(range(SYMMETRIES))


def test_no_augmentation_is_the_identity_in_the_same_order() -> None:
    plain = plan_epoch(50, seed=2, epoch=1, augmentation="none")
    assert plain.symmetries.shape == (50,)
    assert not plain.symmetries.any()
    np.testing.assert_array_equal(plain.order, plan_epoch(50, 2, 1, "dihedral").order)


def test_crops_mixtures_and_light_are_drawn_beside_the_same_order_and_symmetries() -> None:
    plain, plan = plan_epoch(500, 2, 1, "dihedral"), plan_epoch(500, 2, 1, "crops", mixup=0.4)
    np.testing.assert_array_equal(plain.order, plan.order)
    np.testing.assert_array_equal(plain.symmetries, plan.symmetries)
    assert (plain.crops, plain.lights, plain.shares) == (None, None, None)
    assert plan.crops is not None and plan.lights is not None and plan.shares is not None
    start, sides = plan.crops[:, :2], plan.crops[:, 2:]
    assert start.min() >= 0 and (start + sides).max() <= 1 + 1e-12
    area, aspect = sides.prod(axis=1), sides[:, 0] / sides[:, 1]
    # A side is no longer than the image: the widest are cut.
    assert 0.5 < area.min() < 0.65 < 0.95 < area.max() <= 1
    assert 0.66 < aspect.min() < 0.75 < 1.35 < aspect.max() < 1.5
    assert 0.8 <= plan.lights.min() < 0.81 < 1.19 < plan.lights.max() <= 1.2
    assert 0.5 <= plan.shares.min() < 0.55 < 0.99 < plan.shares.max() <= 1
    again = plan_epoch(500, 2, 1, "crops", mixup=0.4)
    for one, other in zip(plan, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_crop_shows_a_part_of_the_image_scaled_back_in_the_light_that_is_asked_for() -> None:
    whole, plain = np.array([[0.0, 0.0, 1.0, 1.0]]), np.ones((1, 6))
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, 4:] = (200, 100, 60)
    np.testing.assert_array_equal(vary(image, whole, plain), image)
    right = vary(image, np.array([[0.75, 0.0, 0.25, 1.0]]), plain)
    assert right.shape == image.shape and (right == (200, 100, 60)).all()
    for column, factor, expected in (
        (0, 0.5, (160, 110, 90)),  # towards its grey, 120
        (1, 0.5, (160, 110, 90)),  # towards the mean of the picture
        (2, 1.1, (212, 112, 72)),  # that mean, 120, a tenth brighter
        (3, 0.9, (180, 100, 60)),
    ):
        light = plain.copy()
        light[0, column] = factor
        assert vary(right, whole, light)[0, 0, 0].tolist() == list(expected)


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (8, 4), (9, 4), (3, 1)])
def test_slices_cover_everything_once_in_order(count: int, size: int) -> None:
    cut = list(slices(count, size))
    assert [index for part in cut for index in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start == size for part in cut[:-1])
    assert all(0 < part.stop - part.start <= size for part in cut)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_keeps_the_order_and_ends() -> None:
    assert list(prefetch(range(50), depth=3)) == list(range(50))
    assert list(prefetch([])) == []
    assert not prefetch_threads()


def test_prefetch_works_ahead_in_another_thread_but_only_so_far() -> None:
    made: list[int] = []
    makers = set()
    third = threading.Event()

    def batches() -> Iterator[int]:
        for number in range(100):
            makers.add(threading.current_thread().name)
            made.append(number)
            if number == 3:
                third.set()
            yield number

    stream = prefetch(batches(), depth=2)
    assert next(stream) == 0
    # One given, two waiting, one in the maker's hands.
    assert third.wait(PATIENCE)
    assert len(made) <= 4
    assert makers == {"prefetch"}
    stream.close()  # type: ignore[attr-defined]


def test_prefetch_raises_the_makers_error_after_what_came_before() -> None:
    def batches() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("bad batch")

    seen = []
    with pytest.raises(ValueError, match="bad batch"):
        for batch in prefetch(batches()):
            seen.append(batch)
    assert seen == [1, 2]
    assert not prefetch_threads()


def test_prefetch_stops_its_thread_when_the_consumer_leaves_early() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    stream = prefetch(endless())
    assert next(stream) == 0
    assert prefetch_threads()
    stream.close()  # type: ignore[attr-defined]
    assert not prefetch_threads()
    assert len(made) <= 5
