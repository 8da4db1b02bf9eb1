"""Which image is for training, validation or test: a pure function of the set and four numbers."""

from collections.abc import Iterable

import numpy as np

from skinml.base.errors import UserError
from skinml.config import Config, is_path
from skinml.data.prepared import PreparedSet


def assign_parts(
    data: PreparedSet,
    protocol: str,
    test_fraction: float = 0.15,
    validation_fraction: float = 0.20,
    split_seed: int = 0,
    near_duplicates: str = "together",
) -> np.ndarray:
    """The part of every image: (N,) str of "train", "validation", "test".

    `challenge` keeps the official parts. `paper` (arXiv 2110.12270, Table I) pools all images and
    draws, stratified by class, `test_fraction` of them for the test and `validation_fraction` of
    the rest for validation. What stays in one part: near-duplicates (`near_duplicates` "together"),
    images with identical pixels ("identical"), or nothing ("ignore", as in the paper); images of
    one named group (a lesion, a patient) always. The test part does not depend on
    `validation_fraction`. A part that lacks a class is a `UserError`.
    """
    if protocol == "challenge":
        if "" in data.official_parts:
            raise UserError(
                "protocol=challenge: these images have no official parts; use protocol=paper, "
                "which draws some, or name the parts in your folder or table"
            )
        parts = data.official_parts.astype("U10")
    else:
        parts = np.full(len(data), "train", dtype="U10")
        rng = np.random.default_rng(split_seed)
        everything = np.ones(len(data), dtype=bool)
        groups = _groups(data, near_duplicates)
        test = _draw(data, groups, everything, test_fraction, rng)
        parts[test] = "test"
        parts[_draw(data, groups, ~test, validation_fraction, rng)] = "validation"
    for part, counts in data.part_counts(parts).items():
        if missing := [name for name, count in counts.items() if not count]:
            raise UserError(
                f"protocol={protocol}: the {part} part has no image of {', '.join(missing)}; "
                "every part needs every class: "
                + (
                    "add pictures to that part"
                    if protocol == "challenge"
                    else "use more images (of more groups, where they have groups; seven of about "
                    "one size are enough at the default fractions) or another fraction"
                )
            )
    return parts


def own_parts_warning(data: str, official_parts: Iterable[str]) -> list[str]:
    """A line that says that `paper` does not keep a person's own parts; none where it takes none.

    `data` is what `data=` was given, `official_parts` has the part of each picture, empty texts for
    none. The parts of a data set by name are no choice of its user's: of these nothing is said.
    """
    if not is_path(data) or not any(official_parts):
        return []
    return [
        "warning: under protocol=paper, the default, your own train/validation/test parts are "
        "pooled and drawn anew; --protocol challenge keeps them"
    ]


def _groups(data: PreparedSet, near_duplicates: str) -> np.ndarray:
    """What is drawn as one, (N,) int64: images of one group share a number."""
    if near_duplicates == "together":
        alike = data.near_groups
    else:
        alike = data.groups if near_duplicates == "identical" else np.arange(len(data))
    return data.together(alike)


def images_seen_in_training(data: PreparedSet, parts: np.ndarray) -> int:
    """How many test images have a near-duplicate, or their very pixels, in the training part."""
    seen = np.isin(data.near_groups, data.near_groups[parts == "train"])
    return int((seen & (parts == "test")).sum())


def _draw(
    data: PreparedSet,
    groups: np.ndarray,
    candidates: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw a fraction of the candidates, stratified, whole groups at a time: (N,) bool."""
    pool = np.flatnonzero(candidates)
    classes = len(data.classes)
    per_class = np.bincount(data.labels[pool], minlength=classes)
    quota = _largest_remainder(per_class * fraction, round(len(pool) * fraction))
    drawn = np.zeros(len(data), dtype=bool)
    # The candidates by group: a search for each group's would take time by their square.
    by_group = pool[np.argsort(groups[pool], kind="stable")]
    numbers, starts = np.unique(groups[by_group], return_index=True)
    members_of = dict(zip(numbers.tolist(), np.split(by_group, starts[1:]), strict=True))
    for first in rng.permutation(numbers):
        members = members_of[int(first)]
        needed = np.bincount(data.labels[members], minlength=classes)
        # A group that would overfill its class is passed over; single images fill the rest.
        if (needed <= quota).all():
            drawn[members] = True
            quota = quota - needed
    return drawn


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `shares` that add up to `total` (Hamilton's method)."""
    whole = np.floor(shares).astype(int)
    order = np.argsort(whole - shares, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def split_of(config: Config) -> tuple[str, float, float, int, str]:
    """What `assign_parts` takes of a configuration, in its order."""
    fractions = config.test_fraction, config.validation_fraction
    return (config.protocol, *fractions, config.split_seed, config.near_duplicates)
