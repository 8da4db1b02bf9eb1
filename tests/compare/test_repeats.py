"""Repeated runs: the parts of their chance, the test over them, and what counts as a repetition."""

import math

import numpy as np
import pytest
from scipy import stats

from skinml.compare.paired import ALPHA, Estimate
from skinml.compare.repeats import PARTS, Repeats, Step, repeats_of

IMAGES = 400


def drawn(
    rng: np.random.Generator, seeds: int, of_seeds: float, splits: int = 1, of_splits: float = 0.0
) -> Repeats:
    """Differences of equal configurations: chance of images, each run, seeds and splits.

    Each split has `seeds` runs and the same test images.
    """
    shared = rng.normal(size=IMAGES)
    steps = []
    for split in range(splits):
        shift = of_splits * rng.normal()
        for _ in range(seeds):
            each = (shared + 0.5 * rng.normal(size=IMAGES)) / IMAGES
            value = float(each.sum() + shift + of_seeds * rng.normal())
            steps.append((Estimate(value, each - each.mean()), str(split)))
    share = 1 / len(steps)
    return Repeats([step for step, _ in steps], [share] * len(steps), [name for _, name in steps])


def test_the_parts_are_found(rng: np.random.Generator) -> None:
    """On average over many comparisons: what images and seeds do to the mean of four runs."""
    seeds, of_seeds = 4, 0.06
    found = [drawn(rng, seeds, of_seeds).components for _ in range(600)]
    expected = {
        "images": 1 / IMAGES,
        "interaction": 0.25 / seeds / IMAGES,
        "seeds": of_seeds**2 / seeds,
    }
    for name, value in expected.items():
        variances = [getattr(each, name).variance for each in found]
        assert np.mean(variances) == pytest.approx(value, rel=0.15 if name == "seeds" else 0.03)
    assert all(math.isnan(each.splits.variance) for each in found)


def test_the_part_of_splits_is_found(rng: np.random.Generator) -> None:
    """With no overlap of their training images, what they do to the mean of three splits."""
    found = [drawn(rng, 2, 0.02, splits=3, of_splits=0.1).components for _ in range(600)]
    variances = [each.splits.variance for each in found]
    assert np.mean(variances) == pytest.approx(0.1**2 / 3, rel=0.15)


def test_the_intervals_of_the_parts_cover_the_truth(rng: np.random.Generator) -> None:
    """93 to 97 %, of which the simulation makes sure with networks; wider here for fewer draws."""
    seeds, of_seeds, draws = 4, 0.06, 500
    truth = {
        "images": 1 / IMAGES,
        "interaction": 0.25 / seeds / IMAGES,
        "seeds": of_seeds**2 / seeds,
    }
    found = [drawn(rng, seeds, of_seeds).components for _ in range(draws)]
    for name, value in truth.items():
        parts = [getattr(each, name) for each in found]
        covered = np.mean([part.low <= value <= part.high for part in parts])
        assert 0.91 < covered < 0.985, name


def test_without_any_spread_it_is_the_test_over_images(rng: np.random.Generator) -> None:
    """Runs that do not differ at all add no chance."""
    [one] = drawn(rng, 1, 0).estimates
    same = Repeats([one] * 3, [1 / 3] * 3, ["0"] * 3)
    assert same.components.seeds.variance == 0
    assert same.p_value() == pytest.approx(one.p_value(), rel=1e-9)


def test_without_a_part_of_the_images_it_is_students_test() -> None:
    values = [0.03, 0.01, 0.05, 0.02]
    steps = [Estimate(value, np.zeros(10)) for value in values]
    expected = stats.ttest_1samp(values, 0).pvalue
    assert Repeats(steps, [0.25] * 4, ["0"] * 4).p_value() == pytest.approx(expected, rel=1e-9)


def test_splits_alone_are_tested_as_nadeau_and_bengio_do() -> None:
    """Their corrected resampled t-test, where neither images nor seeds add anything."""
    values, overlap = [0.03, 0.01, 0.05], 0.25
    repeats = Repeats(
        [Estimate(value, np.zeros(10)) for value in values for _ in range(2)], [1 / 6] * 6,
        ["0", "0", "1", "1", "2", "2"], overlap,
    )  # fmt: skip
    error = math.sqrt((1 / 3 + overlap) * np.var(values, ddof=1))
    expected = 2 * stats.t.sf(np.mean(values) / error, 2)
    assert repeats.p_value() == pytest.approx(expected, rel=1e-9)
    assert repeats.components.standard_error == pytest.approx(error)


@pytest.mark.parametrize(
    ("splits", "seeds"), [("a", 1), ("ab", 1), ("abc", 1), ("aab", 2), ("aaa", 3), ("aabb", 3),
                          ("aabbcc", 4)]
)  # fmt: skip
def test_the_first_run_of_a_split_is_no_repetition(splits: str, seeds: int) -> None:
    """One seed in three splits counts as one: what is seed in it and what is split is not known."""
    rng = np.random.default_rng(0)
    steps = [Estimate(float(rng.normal()), rng.normal(size=10)) for _ in splits]
    repeats = Repeats(steps, [1 / len(splits)] * len(splits), list(splits))
    assert repeats.seeds == seeds
    assert math.isnan(repeats.p_value()) == (seeds < 3)


def test_no_run_is_no_repetition() -> None:
    assert Repeats([], [], []).seeds == 0 and math.isnan(Repeats([], [], []).p_value())


def test_what_has_a_mark_in_common_is_one_repetition(rng: np.random.Generator) -> None:
    """Copies of a network, also over a third one that is a copy of two."""
    estimates = drawn(rng, 4, 0.05).estimates
    marks = [{b"a"}, {b"b"}, {b"a", b"b"}, {b"c"}]
    steps = [
        Step(each, 0.25, "0", frozenset(own)) for each, own in zip(estimates, marks, strict=True)
    ]
    found = repeats_of(steps)
    assert found.shares == [0.75, 0.25]
    assert found.estimates[0].value == pytest.approx(np.mean([e.value for e in estimates[:3]]))
    whole = Repeats(estimates, [0.25] * 4, ["0"] * 4)
    assert found.mean.value == pytest.approx(whole.mean.value)


@pytest.mark.parametrize("of_seeds", [0, 0.02, 0.1])
@pytest.mark.parametrize("seeds", [3, 6, 11])
def test_it_errs_as_often_as_it_says(rng: np.random.Generator, seeds: int, of_seeds: float) -> None:
    """3 to 7 %, of which the simulation makes sure with networks."""
    p_values = [drawn(rng, seeds, of_seeds).p_value() for _ in range(1000)]
    assert 0.02 < np.mean(np.array(p_values) < ALPHA) < 0.075


def test_over_splits_it_errs_as_often_as_it_says(rng: np.random.Generator) -> None:
    p_values = [drawn(rng, 2, 0.05, splits=3, of_splits=0.05).p_value() for _ in range(1000)]
    assert 0.01 < np.mean(np.array(p_values) < ALPHA) < 0.08


def test_the_smallest_change_of_a_run_changes_a_p_value_little(rng: np.random.Generator) -> None:
    before = drawn(rng, 4, 0.05)
    first, *others = before.estimates
    moved = [Estimate(first.value + 1e-9, first.influence), *others]
    after = Repeats(moved, before.shares, before.splits)
    assert before.p_value() == pytest.approx(after.p_value(), abs=1e-6)


def test_more_of_what_there_is_makes_the_error_smaller(rng: np.random.Generator) -> None:
    """One run more divides what is each run's own by as many runs, images what is theirs."""
    found = drawn(rng, 3, 0.1).components
    parts = {name: part.variance for name, part in found.parts().items()}
    assert list(parts) == list(PARTS[:3]) and found.test_images == IMAGES
    more = parts["images"] + 0.75 * (parts["interaction"] + parts["seeds"])
    assert found.with_more(seeds=1) == pytest.approx(math.sqrt(more))
    twice = (parts["images"] + parts["interaction"]) / 2 + parts["seeds"]
    assert found.with_more(images=IMAGES) == pytest.approx(math.sqrt(twice))
    assert found.with_more() == pytest.approx(found.standard_error)


def test_images_on_which_two_networks_agree_are_tested_all_the_same() -> None:
    """By their difference, which there is 0, more images would help far more than they do."""
    influence = np.zeros(IMAGES)
    influence[:40] = np.repeat([1, -1], 20) / IMAGES
    found = Repeats([Estimate(0.0, influence)], [1.0], ["0"]).components
    assert found.test_images == IMAGES
    step = Step(Estimate(0.0, influence), 1.0, "0", frozenset([b"a"]), IMAGES // 2)
    assert repeats_of([step]).components.test_images == IMAGES // 2, "of two splits"


def test_of_one_run_only_the_images_are_known(rng: np.random.Generator) -> None:
    [one] = drawn(rng, 1, 0).estimates
    found = Repeats([one], [1.0], ["0"]).components
    assert list(found.parts()) == ["images"]
    assert found.standard_error == pytest.approx(one.standard_error)


def test_what_too_few_images_carry_has_no_error(rng: np.random.Generator) -> None:
    unknown = Estimate(0.5, np.full(10, np.nan))
    found = Repeats([unknown] * 3, [1 / 3] * 3, ["0"] * 3)
    assert math.isnan(found.components.standard_error) and math.isnan(found.p_value())
    assert math.isnan(found.components.with_more(images=100))
