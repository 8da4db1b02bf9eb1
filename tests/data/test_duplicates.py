"""Near-duplicates are found whatever was done to them, and other lesions are left alone."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from skinml.data.duplicates import (
    NEAR_BITS,
    joined,
    near_duplicate_groups,
    perceptual_hash,
)
from skinml.data.prepared import PreparedSet


def distance(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def saved_again(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


@pytest.mark.parametrize(
    "change",
    [
        saved_again,
        lambda image: image.resize((150, 150)).resize((224, 224)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: ImageEnhance.Color(image).enhance(0.7),
    ],
    ids=["saved again", "smaller", "darker", "paler"],
)
def test_same_picture_after_a_change_is_near(
    change: Callable[[Image.Image], Image.Image], toy_set: PreparedSet
) -> None:
    near = 0
    for pixels in toy_set.images:
        changed = np.asarray(change(Image.fromarray(pixels)))
        near += distance(perceptual_hash(pixels), perceptual_hash(changed)) <= NEAR_BITS
    # Signs of frequencies that are all but zero flip by chance.
    assert near >= 0.8 * len(toy_set)


def test_other_pictures_are_not_near(toy_set: PreparedSet) -> None:
    assert toy_set.near_duplicates == []
    hashes = [perceptual_hash(pixels) for pixels in toy_set.images]
    assert all(len(text) == 16 for text in hashes)
    assert near_duplicate_groups(hashes).tolist() == list(range(len(toy_set)))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_a_plain_search(seed: int) -> None:
    """Of random hashes with planted neighbours, some of them equal."""
    rng = np.random.default_rng(seed)
    hashes = [int(number) for number in rng.integers(0, 2**63, 60, dtype=np.uint64)]
    for _ in range(60):
        # One to three bits away: some near, some just not.
        changed = hashes[rng.integers(len(hashes))]
        for bit in rng.choice(64, rng.integers(0, 4), replace=False):
            changed ^= 1 << int(bit)
        hashes.append(changed)
    order = rng.permutation(len(hashes))
    hashes = [hashes[place] for place in order]
    # Depth first, from each image in its turn.
    expected: dict[int, int] = {}
    for start in range(len(hashes)):
        waiting = [start]
        while waiting:
            here = waiting.pop()
            if here not in expected:
                expected[here] = start
                waiting += [
                    other
                    for other in range(len(hashes))
                    if (hashes[here] ^ hashes[other]).bit_count() <= NEAR_BITS
                ]
    groups = near_duplicate_groups([f"{number:016x}" for number in hashes])
    assert groups.tolist() == [expected[place] for place in range(len(hashes))]
    assert 60 <= len(set(groups.tolist())) < 115


def test_the_search_does_not_take_time_by_the_square_of_the_images() -> None:
    """As many hashes as all pairs of which would be 20,000 million comparisons."""
    hashes = np.random.default_rng(0).integers(0, 2**63, 200_000, dtype=np.uint64)
    hashes[1::2] = hashes[::2] ^ np.uint64(1 << 40)
    groups = near_duplicate_groups([f"{number:016x}" for number in hashes])
    assert (groups[1::2] == groups[::2]).all()


def test_groups_are_joined_however_far() -> None:
    """0 and 1 by the first, 1 and 2 by the second, 2 and 4 by the first; 3 is alone."""
    first, second = np.array([0, 0, 2, 3, 2]), np.array([0, 1, 1, 3, 4])
    assert joined(first, second).tolist() == [0, 0, 0, 3, 0]


def test_no_image_and_one_image_are_no_groups() -> None:
    assert near_duplicate_groups([]).tolist() == []
    assert near_duplicate_groups(["00000000000000ff"]).tolist() == [0]


def test_identical_images_are_near(toy_set: PreparedSet) -> None:
    """Groups of near-duplicates are unions of groups of identical images."""
    hashes = [perceptual_hash(pixels) for pixels in toy_set.images[[3, 4, 3, 5, 4]]]
    assert near_duplicate_groups(hashes).tolist() == [0, 1, 0, 3, 1]
