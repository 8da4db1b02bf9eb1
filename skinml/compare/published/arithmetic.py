"""What follows from printed accuracies alone: whole numbers of images, test sizes, p-values."""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skinml.compare.paired import ALPHA, POWER
from skinml.data.isic2017 import CLASSES, OFFICIAL_PARTS


class Split(NamedTuple):
    """A test part that an experiment on ISIC 2017 may have used."""

    name: str
    images: int
    # What always answering "nevus" scores there, 0 to 1.
    majority: float


def _splits() -> tuple[Split, ...]:
    by_part = {official.part: official.counts for official in OFFICIAL_PARTS}
    nevus = CLASSES.index("nevus")

    def share(*parts: str) -> float:
        counts = np.sum([by_part[part] for part in parts], axis=0)
        return float(counts[nevus] / counts.sum())

    pooled = sum(map(sum, by_part.values()))
    everything = share(*by_part)
    return (
        Split(f"20 % of the {pooled} pooled images", pooled * 20 // 100, everything),
        Split(f"15 % of the {pooled}, rounded down", pooled * 15 // 100, everything),
        Split(f"15 % of the {pooled}, rounded up", -(-pooled * 15 // 100), everything),
        Split("the official test part", sum(by_part["test"]), share("test")),
        Split("the official validation part", sum(by_part["validation"]), share("validation")),
    )


SPLITS = _splits()


# No test on ISIC 2017 can be larger than the whole set.
LARGEST = sum(sum(official.counts) for official in OFFICIAL_PARTS)


def correct_counts(
    accuracy: Decimal, decimals: int, n: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The fewest and the most right answers of `n` that print as `accuracy` %.

    All k with 100 k / n rounded to `decimals` equal to `accuracy`, where a tie may have been
    rounded up or to even. `n` is any shape of whole numbers from 1; returns two int64 arrays of
    that shape, the first above the second where there is no such k.
    """
    images = np.asarray(n, dtype=np.int64)
    scale, printed = 10 ** (2 + decimals), int(accuracy.scaleb(decimals).to_integral_value())
    # In whole numbers: (printed - 1/2) n / scale <= k <= (printed + 1/2) n / scale.
    fewest = -(-(2 * printed - 1) * images // (2 * scale))
    most, rest = np.divmod((2 * printed + 1) * images, 2 * scale)
    # The upper tie goes down only where the last digit is even.
    most = most - ((rest == 0) & bool(printed % 2))
    return np.maximum(fewest, 0), np.minimum(most, images)


def possible_test_sizes(
    accuracies: Sequence[Decimal], decimals: int, up_to: int = LARGEST
) -> list[int]:
    """Every test size from 1 to `up_to` that allows all printed accuracies, smallest first.

    The GRIM test (Brown & Heathers 2017, doi:10.1177/1948550616673876) turned round: an accuracy
    is a whole number of images right of n, and few n have one that rounds to each printed figure.
    """
    sizes = np.arange(1, up_to + 1)
    fits = np.ones(len(sizes), dtype=bool)
    for accuracy in accuracies:
        fewest, most = correct_counts(accuracy, decimals, sizes)
        fits &= fewest <= most
    return sizes[fits].tolist()


def mcnemar_range(right: int, right_too: int, n: int) -> tuple[float, float]:
    """The least and the greatest exact McNemar p-value that two counts of `n` images allow.

    With b images that only one network has right and c that only the other has, b - c is the
    lead, and the two-sided p-value is that of b successes in b + c fair coins (McNemar 1947). It
    grows with c, which runs from 0 (least disagreement) to what fits into n images.
    """
    from scipy.stats import binomtest

    lead = abs(right - right_too)
    most = min(right, right_too, n - right, n - right_too)

    def p_value(c: int) -> float:
        return float(binomtest(c, lead + 2 * c).pvalue) if lead + c else 1.0

    return p_value(0), p_value(most)


def two_proportions(right: int, right_too: int, n: int) -> tuple[float, float]:
    """Two independent shares of `n` compared by the z-test with pooled variance: z, two-sided p.

    z² is Pearson's chi-squared of the 2×2 table without continuity correction.
    """
    from statsmodels.stats.proportion import proportions_ztest

    if right == right_too:
        # Also where both are all right or all wrong, which leaves no variance.
        return 0.0, 1.0
    z, p = proportions_ztest([right, right_too], [n, n])
    return float(z), float(p)


def detectable_difference(share: float, n: int, alpha: float = ALPHA) -> float | None:
    """The smallest drop from `share` that `two_proportions` finds with 80 % power.

    Both shares are measured on `n` images of their own; None where no drop is large enough.
    """
    from scipy.optimize import brentq
    from statsmodels.stats.proportion import power_proportions_2indep

    def lack(drop: float) -> float:
        power = power_proportions_2indep(drop, share - drop, n, alpha=alpha, return_results=False)
        return float(power) - POWER

    smallest, largest = 1e-6 * share, (1 - 1e-9) * share
    if not share or lack(largest) < 0:
        return None
    return float(brentq(lack, smallest, largest))


def in_common(levels: Mapping[str, Collection[str]]) -> tuple[list[str], list[str]]:
    """What all levels of a factor have of the other, and the levels that are left out of that.

    Means over other cells than each other's would tell the cells apart, and not the levels. A level
    that shares nothing with those of more cells is left out, as no mean of it can be held against
    theirs.
    """
    first, *others = sorted(levels, key=lambda level: -len(levels[level]))
    common, left_out = list(levels[first]), []
    for level in others:
        both = [name for name in common if name in levels[level]]
        if both:
            common = both
        else:
            left_out.append(level)
    return common, left_out
