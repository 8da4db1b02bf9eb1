"""What test images, seeds and splits each add to the error of a mean over repeated runs.

The model is one of random effects: a run's figure is the configuration's, plus what its split does
(other training images), what its seed does within the split, what the test images do to all runs
alike, and what this one run makes of them by chance (the interaction of images and seeds). The
images' parts follow from each image's contribution (`paired.Estimate`), the others from the spread
of the runs, by moments (Searle, Casella & McCulloch, Variance Components, 1992, chapters 3 and 4;
for readers and cases, here seeds and images: Gallas, Bandos, Samuelson & Wagner, Communications in
Statistics 2009, 38:2586-2603).

Seeds are nested in splits: a seed's number means nothing in another split, where images and order
are others. One seed in each of three splits is therefore no repetition: what is seed in it and what
is split nobody can tell. Splits of one pool share most of their training images, so that the mean
over splits varies more than splits that were drawn apart would let expect: by the share of test to
training images (Nadeau & Bengio, Machine Learning 2003, 52:239-281).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from skinml.compare.paired import ALPHA, Estimate, combine

# With as many seeds the test over seeds and images errs in 3 to 7 % of comparisons without a
# difference, whatever the seeds' share of the chance; with two it errs in up to 8 % (simulated).
LEAST_SEEDS = 3

PARTS = ("images", "interaction", "seeds", "splits")


@dataclass(frozen=True)
class Part:
    """One origin's part in the variance of a mean, in squares of the metric's unit.

    `low` and `high` are its 95 % interval. NaN is what the runs cannot tell.
    """

    variance: float
    low: float
    high: float

    def times(self, factor: float) -> "Part":
        return Part(self.variance * factor, self.low * factor, self.high * factor)


UNKNOWN = Part(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Components:
    """Where the chance in a mean over runs comes from: the parts of its variance.

    `images`: other test images, alike for all runs; `interaction`: what each run makes of them by
    chance; `seeds`: other seeds; `splits`: other splits. Where no split has two runs, `images`
    holds the interaction too, and seeds are unknown, or part of `splits` where there are several.
    """

    images: Part
    interaction: Part
    seeds: Part
    splits: Part
    runs: int
    of_splits: int
    test_images: int

    def parts(self) -> dict[str, Part]:
        """Those parts that are known, by name."""
        named = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in named.items() if math.isfinite(part.variance)}

    @property
    def standard_error(self) -> float:
        """Of the mean, over all that is known; NaN where the images' part is not."""
        if math.isnan(self.images.variance):
            return math.nan
        return math.sqrt(sum(part.variance for part in self.parts().values()))

    def with_more(self, seeds: int = 0, images: int = 0) -> float:
        """The standard error expected with so many more seeds of each split, or test images."""
        if math.isnan(self.images.variance):
            return math.nan
        seeds_factor = self.runs / (self.runs + seeds * self.of_splits)
        images_factor = self.test_images / (self.test_images + images)
        factors = {
            "images": images_factor,
            "interaction": images_factor * seeds_factor,
            "seeds": seeds_factor,
            "splits": 1.0,
        }
        return math.sqrt(sum(part.variance * factors[name] for name, part in self.parts().items()))


@dataclass(frozen=True)
class Repeats:
    """One figure, or one difference of two configurations, in several runs.

    `estimates` of the same images, `shares` their weights in the mean, of sum 1, `splits` the split
    of each, `tested` on how many of the images each was tested, by default on all. `overlap` is the
    number of test images over that of training images.
    """

    estimates: Sequence[Estimate]
    shares: Sequence[float]
    splits: Sequence[str]
    overlap: float = 0.0
    tested: Sequence[int] = ()

    @property
    def seeds(self) -> int:
        """As how many seeds of a single split these runs count.

        One, and those of each split beyond its first.
        """
        return 1 + self._free if self.estimates else 0

    @property
    def _free(self) -> int:
        return len(self.estimates) - len(set(self.splits))

    @cached_property
    def mean(self) -> Estimate:
        return combine(self.estimates, self.shares)

    @cached_property
    def components(self) -> Components:
        """The parts of the mean's variance. There has to be one run at least."""
        images, interaction, seeds = _of_images(self.mean.influence**2), UNKNOWN, UNKNOWN
        if self._free:
            found, squares = self._moments, self._squares
            own, common = self._by_run
            interaction = _of_images(squares * found.by_image, own, len(self.estimates))
            shared = self.mean.influence**2 - squares * found.by_image
            images = _of_images(shared, common, len(self.estimates))
            seeds = _of_spread(found.spread, found.by_chance, self._free).times(squares)
        # Not those with an influence: where two configurations agree, a difference has none.
        tested = self.tested or [self._influences.shape[1]] * len(self.estimates)
        of_each = [max(tested[run] for run in own) for own in self._members]
        return Components(
            images, interaction, seeds, self._splits, len(self.estimates), len(self._members),
            round(float(np.mean(of_each))),
        )  # fmt: skip

    def p_value(self) -> float:
        """The two-sided p-value of the mean being 0, over other images, seeds and splits.

        What all runs share varies with the images, as far as their contributions say; what each run
        has for itself varies as the runs do, whatever the reason (Obuchowski & Rockette,
        Communications in Statistics 1995, 24:285-308, for readers and cases). The statistic is the
        mean over the standard error of both, and of the splits where there are several. Its p-value
        is the mean of those of the normal distribution, which holds if all chance is in the images,
        and of Student's with the degrees of freedom of the runs or the splits, which hold if all is
        in these, weighted by the parts, as Cochran weighted critical values (Biometrics 1964,
        20:191-195). Hillis' approximate degrees of freedom (Statistics in Medicine 2007,
        26:596-619) err in up to 8.6 % with three seeds where these err in 5.8 % (simulated). NaN
        with fewer than LEAST_SEEDS.
        """
        from scipy.special import ndtr, stdtr

        if self.seeds < LEAST_SEEDS:
            return math.nan
        if abs(self.mean.value) < 1e-12:
            return 1.0
        variances = [self.components.images.variance, self._squares * self._moments.spread]
        free = [math.inf, self._free]
        if len(self._members) > 1:
            variances.append(self._splits.variance)
            free.append(len(self._members) - 1)
        variance = sum(variances)
        if not variance > 0:
            return math.nan
        statistic = -abs(self.mean.value) / math.sqrt(variance)
        p_values = [
            2 * (ndtr(statistic) if math.isinf(df) else stdtr(df, statistic)) for df in free
        ]
        return float(np.dot(p_values, variances) / variance)

    @cached_property
    def _values(self) -> np.ndarray:
        return np.array([each.value for each in self.estimates])

    @cached_property
    def _influences(self) -> np.ndarray:
        return np.array([each.influence for each in self.estimates])

    @cached_property
    def _by_run(self) -> tuple[float, float]:
        """How far interaction and images differ by the run: relative variances of their means.

        A run's interaction is its distance from the mean contributions, its part of the images what
        it has in common with the others: of that each pair of runs has two, hence the 4.
        """
        count = len(self.estimates)
        off = self._influences - self.mean.influence
        own = np.sum(off**2, axis=1)
        shared = self._influences @ self.mean.influence - own / max(1, count - 1)
        return _relative(own), 4 * _relative(shared)

    @cached_property
    def _squares(self) -> float:
        """What the variance of one run is times in that of the mean."""
        return float(np.sum(np.square(self.shares)))

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """The runs of each split."""
        splits = np.array(self.splits)
        return [np.flatnonzero(splits == split) for split in dict.fromkeys(self.splits)]

    @cached_property
    def _within(self) -> list[np.ndarray]:
        """The weights of each split's runs in its own mean."""
        shares = np.array(self.shares)
        return [shares[own] / shares[own].sum() for own in self._members]

    @cached_property
    def _moments(self) -> "_Moments":
        """How the runs of a split vary: in all, and by chance of the images; some are free."""
        free = sum(1 - float(np.sum(weights**2)) for weights in self._within)
        spread, by_image = 0.0, np.zeros(len(self.mean.influence))
        for own, weights in zip(self._members, self._within, strict=True):
            values, seen = self._values[own], self._influences[own]
            spread += float(weights @ (values - weights @ values) ** 2) / free
            by_image += weights @ (seen - weights @ seen) ** 2 / free
        return _Moments(spread, by_image)

    @cached_property
    def _splits(self) -> Part:
        """What other splits add, from the spread of the splits' means beyond images and seeds."""
        count = len(self._members)
        if count < 2:
            return UNKNOWN
        rows = list(zip(self._members, self._within, strict=True))
        means = [weights @ self._values[own] for own, weights in rows]
        seen = [weights @ self._influences[own] for own, weights in rows]
        by_chance = float(np.sum(np.var(seen, axis=0, ddof=1)))
        if self._free:
            of_seed = max(0.0, self._moments.spread - self._moments.by_chance)
            by_chance += of_seed * float(np.mean([np.sum(w**2) for w in self._within]))
        part = _of_spread(float(np.var(means, ddof=1)), by_chance, count - 1)
        return part.times(1 / count + self.overlap)


class _Moments(NamedTuple):
    """The variance of a split's runs about their mean, and each image's part in it by chance."""

    spread: float
    by_image: np.ndarray

    @property
    def by_chance(self) -> float:
        return float(self.by_image.sum())


class Step(NamedTuple):
    """The figure or difference of one run, its share in the mean, and its split.

    `marks` are what it may have in common with others that are no repetitions of it, such as the
    scores of a network that is a copy; `images` on how many it was tested (0: on all).
    """

    estimate: Estimate
    share: float
    split: str
    marks: frozenset[bytes]
    images: int = 0


def repeats_of(steps: Sequence[Step], overlap: float = 0.0) -> Repeats:
    """Repetitions of one figure, those with a mark in common as one."""
    units: list[tuple[set[bytes], list[Step]]] = []
    for step in steps:
        marks, members = set(step.marks), [step]
        for unit in [unit for unit in units if unit[0] & marks]:
            units.remove(unit)
            marks |= unit[0]
            members = unit[1] + members
        units.append((marks, members))
    shares = [sum(step.share for step in members) for _, members in units]
    return Repeats(
        [
            combine([step.estimate for step in members], [step.share / share for step in members])
            for (_, members), share in zip(units, shares, strict=True)
        ],
        shares,
        [members[0].split for _, members in units],
        overlap,
        [
            max(step.images or len(step.estimate.influence) for step in members)
            for _, members in units
        ],
    )


def _relative(values: np.ndarray) -> float:
    """The variance of the mean of values of runs over its square; 0 where that is none."""
    square = float(np.mean(values)) ** 2
    return float(np.var(values, ddof=1)) / len(values) / square if square > 0 else 0.0


def _of_images(squares: np.ndarray, by_run: float = 0.0, runs: int = 1) -> Part:
    """A variance that is a sum over images, `squares` (N,), and its interval.

    By the spread of its own terms over the images and its relative variance over the runs: on the
    logarithmic scale; on the plain one, from 0 up, where the error is large beside the variance,
    which can be negative by chance, and is 0 then. By Student's distribution, with the degrees of
    freedom of both origins (Satterthwaite, Biometrics Bulletin 1946, 2:110-114): the runs', and
    those of as many images as would say as much if their terms were equal.
    """
    from scipy.special import stdtrit

    found, count = float(squares.sum()), len(squares)
    if math.isnan(found):
        return UNKNOWN
    of_images, of_runs = count * float(np.var(squares, ddof=1)), by_run * found**2
    error = math.sqrt(of_images + of_runs)
    if not error > 0:
        return Part(max(0.0, found), max(0.0, found), max(0.0, found))
    equal = found**2 / float(np.sum(squares**2))
    parts = of_images**2 / max(1.0, equal - 1) + of_runs**2 / max(1, runs - 1)
    reach = float(stdtrit(error**4 / parts, 1 - ALPHA / 2)) * error
    if found > 2 * error:
        factor = math.exp(reach / found)
        return Part(found, found / factor, found * factor)
    return Part(max(0.0, found), max(0.0, found - reach), max(0.0, found + reach))


def _of_spread(spread: float, by_chance: float, free: int) -> Part:
    """What is left of a spread of runs when the part that is known to be chance is taken off.

    The interval is that of a variance with `free` degrees of freedom, by the chi-squared
    distribution, less the known part; it begins at 0 where the runs may not differ at all.
    """
    from scipy.special import chdtri

    ends = (free * spread / chdtri(free, tail) for tail in (ALPHA / 2, 1 - ALPHA / 2))
    return Part(*(max(0.0, float(value) - by_chance) for value in (spread, *ends)))
