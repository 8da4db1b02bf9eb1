"""What a split promises: exact sizes, stratified, repeatable, no identical images apart."""

from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import Problems, UserError
from skinml.data.isic2017 import CLASSES, OFFICIAL_PARTS, PARTS, OfficialPart
from skinml.data.official import read_ground_truth
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts, images_seen_in_training

# Beside the checkout where there is one, and only then.
OFFICIAL_FILES = Path(__file__).resolve().parents[3] / "shared" / "isic2017"


def made(
    labels: np.ndarray,
    pixels: np.ndarray | None = None,
    parts: np.ndarray | None = None,
    lesions: np.ndarray | None = None,
) -> PreparedSet:
    """A set without pictures; equal numbers in `pixels` stand for identical pixels.

    Equal numbers in `lesions`, where given, stand for near-duplicates.
    """
    count = len(labels)
    pixels = np.arange(count) if pixels is None else pixels
    _, first, group = np.unique(
        pixels if lesions is None else lesions, return_index=True, return_inverse=True
    )
    return PreparedSet(
        folder=Path("nowhere"),
        images=np.empty((count, 0), dtype=np.uint8),
        image_ids=np.array([f"ISIC_{index:07}" for index in range(count)]),
        labels=labels,
        official_parts=np.array([PARTS[i % 3] for i in range(count)]) if parts is None else parts,
        pixels_sha256=np.array([f"{number:08}" for number in pixels]),
        classes=CLASSES,
        near_duplicate_group=np.array([f"ISIC_{index:07}" for index in first[group]]),
    )


@pytest.fixture(scope="module")
def isic() -> PreparedSet:
    """As many images of each class in each part as the real set has: 2750."""
    labels = [np.repeat(np.arange(3), official.counts) for official in OFFICIAL_PARTS]
    parts = [np.repeat(official.part, sum(official.counts)) for official in OFFICIAL_PARTS]
    order = np.random.default_rng(0).permutation(2750)
    return made(np.concatenate(labels)[order], parts=np.concatenate(parts)[order])


@pytest.mark.parametrize(
    ("test", "validation", "sizes"),
    [(0.15, 0.20, (412, 468)), (0.20, 0.20, (550, 440)), (0.10, 0.25, (275, 619))],
)
def test_fractions_give_exactly_the_rounded_sizes(
    isic: PreparedSet, test: float, validation: float, sizes: tuple[int, int]
) -> None:
    """412 is the test of the paper's Table I, 550 the one that its published figures imply."""
    for seed in range(3):
        parts = assign_parts(isic, "paper", test, validation, seed)
        assert ((parts == "test").sum(), (parts == "validation").sum()) == sizes
        assert sizes == (round(2750 * test), round((2750 - sizes[0]) * validation))
        assert set(parts) == set(PARTS)


def test_parts_are_stratified(isic: PreparedSet) -> None:
    """Each class is within one image of its share in every part."""
    parts = assign_parts(isic, "paper")
    rest = parts != "test"
    for part, pool, fraction in (("test", parts != "", 0.15), ("validation", rest, 0.20)):
        for label in range(3):
            share = ((isic.labels == label) & pool).sum() * fraction
            assert abs(((isic.labels == label) & (parts == part)).sum() - share) < 1


def test_split_is_a_function_of_its_arguments(isic: PreparedSet) -> None:
    first = assign_parts(isic, "paper", split_seed=4)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    np.testing.assert_array_equal(first, assign_parts(isic, "paper", split_seed=4))


def test_split_seed_draws_other_images(isic: PreparedSet) -> None:
    first, other = (assign_parts(isic, "paper", split_seed=seed) == "test" for seed in (0, 1))
    # By chance 15 % of one test part are in the other.
    assert (first & other).sum() < 0.3 * first.sum()


def test_test_part_does_not_depend_on_the_validation_fraction(isic: PreparedSet) -> None:
    tests = [assign_parts(isic, "paper", 0.15, share) == "test" for share in (0.1, 0.2, 0.5)]
    np.testing.assert_array_equal(tests[0], tests[1])
    np.testing.assert_array_equal(tests[0], tests[2])


def straddling(data: PreparedSet, parts: np.ndarray) -> list[int]:
    """The groups of identical images that lie in more than one part."""
    return [g for g in np.unique(data.groups) if len(set(parts[data.groups == g])) > 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mixed", [False, True], ids=["one label a group", "labels differ"])
def test_identical_images_are_never_in_two_parts(mixed: bool, seed: int) -> None:
    """A third of the images have one to four twins, also under another label."""
    rng = np.random.default_rng(seed)
    pixels = np.concatenate(
        [np.arange(400), np.repeat(np.arange(400, 470), rng.integers(2, 6, 70))]
    )
    labels = rng.choice(3, len(pixels), p=(0.2, 0.65, 0.15))
    if not mixed:
        labels = labels[np.unique(pixels, return_inverse=True)[1]]
    order = rng.permutation(len(pixels))
    data = made(labels[order], pixels[order])
    assert len(data.duplicates) == 70
    parts = assign_parts(data, "paper", split_seed=seed)
    assert not straddling(data, parts)
    # The single images fill what the groups leave.
    assert (parts == "test").sum() == round(len(data) * 0.15)


def apart(groups: np.ndarray, parts: np.ndarray) -> int:
    """How many groups lie in more than one part."""
    return sum(len(set(parts[groups == number])) > 1 for number in np.unique(groups))


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_stay_together_unless_they_are_ignored(seed: int) -> None:
    """Each choice keeps what it says, and the sizes of the parts are the same in all of them."""
    rng = np.random.default_rng(seed)
    lesions = np.concatenate([np.arange(400), np.repeat(np.arange(400, 460), 3)])
    pixels = np.arange(len(lesions))
    pixels[401::3] = pixels[400::3]  # Of three images of a lesion two are identical.
    data = made(rng.choice(3, len(lesions), p=(0.2, 0.65, 0.15)), pixels, lesions=lesions)
    splits = {
        choice: assign_parts(data, "paper", split_seed=seed, near_duplicates=choice)
        for choice in ("together", "identical", "ignore")
    }
    assert apart(data.near_groups, splits["together"]) == 0
    assert apart(data.groups, splits["identical"]) == 0
    assert apart(data.near_groups, splits["identical"]) > 0
    assert apart(data.groups, splits["ignore"]) > 0
    assert len({tuple(np.sort(parts)) for parts in splits.values()}) == 1
    assert images_seen_in_training(data, splits["together"]) == 0
    assert images_seen_in_training(data, splits["identical"]) > 0
    # The plain split is that of a set in which nothing is alike.
    plain = assign_parts(made(data.labels), "paper", split_seed=seed)
    np.testing.assert_array_equal(splits["ignore"], plain)


def test_images_seen_are_counted_in_the_test_part_alone() -> None:
    data = made(np.arange(9) % 3, lesions=np.array([0, 0, 0, 1, 1, 2, 2, 3, 4]))
    parts = np.array(["train", "test", "test", "validation", "test", "test", "train", "test", "x"])
    assert images_seen_in_training(data, parts) == 3


def test_identical_images_would_be_split_without_their_groups() -> None:
    """The test above can fail: the same draw over ungrouped images does separate twins."""
    labels, pixels = np.arange(300) % 3, np.arange(300) // 2
    grouped, single = made(labels, pixels), made(labels)
    assert not straddling(grouped, assign_parts(grouped, "paper"))
    assert straddling(grouped, assign_parts(single, "paper"))


def test_challenge_keeps_the_official_parts(isic: PreparedSet) -> None:
    for seed, fraction in ((0, 0.15), (9, 0.5)):
        parts = assign_parts(isic, "challenge", fraction, fraction, seed)
        np.testing.assert_array_equal(parts, isic.official_parts)
    counts = isic.part_counts(parts)
    for official in OFFICIAL_PARTS:
        assert tuple(counts[official.part].values()) == official.counts


@pytest.mark.parametrize("protocol", ["paper", "challenge"])
def test_part_without_a_class_is_the_users_mistake(protocol: str) -> None:
    data = made(np.repeat([0, 1], 50))
    with pytest.raises(UserError, match=f"protocol={protocol}.* seborrheic_keratosis") as caught:
        assign_parts(data, protocol)
    assert "\n" not in str(caught.value)


def test_test_part_too_small_for_every_class_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="test part has no image of"):
        assign_parts(made(np.arange(90) % 3), "paper", test_fraction=0.01)


if OFFICIAL_FILES.is_dir():

    @pytest.mark.parametrize("official", OFFICIAL_PARTS, ids=lambda official: official.part)
    def test_official_tables_have_the_published_counts(official: OfficialPart) -> None:
        problems = Problems()
        labels = list(read_ground_truth(OFFICIAL_FILES / official.ground_truth, problems).values())
        problems.raise_if_any(str(OFFICIAL_FILES), "")
        assert tuple(labels.count(name) for name in CLASSES) == official.counts
