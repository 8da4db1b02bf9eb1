"""The population that test parts are drawn from: images and networks of known strength.

A network's truth is measured on very many images.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from benchmarks.simulation.settings import Settings
from benchmarks.simulation.together import estimates_together
from skinml.compare.paired import (
    Estimate,
    difference,
)
from skinml.data.isic2017 import CLASSES, OFFICIAL_PARTS
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_weights

TRUTH_BLOCK = 100_000


# A network of a wanted gap is sought on fewer: what its gap then is, is measured on all.
SEARCH_IMAGES = 50_000


# Distance of a class's own feature from zero in standard deviations, in CLASSES' order, so that
# the AUCs are those of the first real run (results/README.md): .78, .83 and .91.
SEPARATION = np.array([0.85, 1.0, 1.75])


# Share of the variance of a feature that all networks see alike (an image's difficulty), and the
# share that networks of one architecture have in common besides, where there are several.
SHARED = 0.70


OF_FAMILY = 0.15


class Design(NamedTuple):
    """How a test part is drawn: `images` of them, classes in the shares of `counts`.

    Each image is drawn by itself, as the bootstrap and the standard errors assume; `stratified`
    parts have exactly those shares, as those of the paper's protocol do.
    """

    name: str
    images: int
    counts: tuple[int, ...]
    stratified: bool = False

    @property
    def shares(self) -> np.ndarray:
        return np.array(self.counts) / sum(self.counts)


_POOLED = tuple(map(sum, zip(*(part.counts for part in OFFICIAL_PARTS), strict=True)))


POOLED = Design("550 images", 550, _POOLED)


OFFICIAL = Design("600 images", 600, OFFICIAL_PARTS[-1].counts)


STRATIFIED = Design("550 images, stratified", 550, _POOLED, stratified=True)


def draw_labels(design: Design, rng: np.random.Generator, images: int | None = None) -> np.ndarray:
    """The classes of the images of one test part: (N,) int64."""
    count = images or design.images
    if not design.stratified:
        return rng.choice(len(CLASSES), size=count, p=design.shares)
    # The largest class takes what rounding leaves.
    per_class = np.round(design.shares * count).astype(int)
    per_class[design.shares.argmax()] += count - per_class.sum()
    return np.repeat(np.arange(len(CLASSES)), per_class)


def draw_networks(
    design: Design,
    labels: np.ndarray,
    strengths: Sequence[float],
    rng: np.random.Generator,
    families: Sequence[int] | None = None,
) -> list[Predictions]:
    """Predictions tables of networks that see the same images, each with noise of its own.

    Each class has one normal feature of variance 1, whose mean is its `SEPARATION` times the
    network's strength in images of that class and 0 elsewhere; the scores are the posterior
    probabilities for a strength of 1. `SHARED` of a feature's variance is common to all networks,
    `OF_FAMILY` to those with the same number in `families`.
    """
    shape = (len(labels), len(CLASSES))
    own = 1 - SHARED - (OF_FAMILY if families else 0)
    difficulty = math.sqrt(SHARED) * rng.normal(size=shape)
    of_family = {
        family: math.sqrt(OF_FAMILY) * rng.normal(size=shape)
        for family in sorted(set(families or ()))
    }
    ids, signal = image_names(len(labels)), np.diag(SEPARATION)[labels]
    tables = []
    for index, strength in enumerate(strengths):
        feature = strength * signal + difficulty + math.sqrt(own) * rng.normal(size=shape)
        if families:
            feature += of_family[families[index]]
        logits = SEPARATION * feature - SEPARATION**2 / 2 + np.log(design.shares)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        tables.append(Predictions(ids, labels, scores / scores.sum(axis=1, keepdims=True), CLASSES))
    return tables


@cache
def image_names(count: int) -> np.ndarray:
    return np.arange(count).astype(str)


def one_part(
    design: Design,
    strengths: Sequence[float],
    rng: np.random.Generator,
    families: Sequence[int] | None = None,
) -> list[Predictions]:
    return draw_networks(design, draw_labels(design, rng), strengths, rng, families)


def population(
    design: Design,
    strengths: Sequence[float],
    images: int,
    seed: int,
    families: Sequence[int] | None = None,
) -> Iterator[list[Predictions]]:
    """Very many images in blocks. The same images and noise for all strengths of one length."""
    rng = np.random.default_rng([seed, zlib.crc32(b"truth")])
    exact = design._replace(stratified=True)
    for _ in range(math.ceil(images / TRUTH_BLOCK)):
        labels = draw_labels(exact, rng, min(images, TRUTH_BLOCK))
        yield draw_networks(exact, labels, strengths, rng, families)


def true_values(
    design: Design, strengths: Sequence[float], names: tuple[str, ...], images: int, seed: int
) -> dict[str, np.ndarray]:
    """The metrics of networks over the whole population: name → (networks,)."""
    blocks = []
    for tables in population(design, strengths, images, seed):
        found = [evaluate(table, names=names) for table in tables]
        blocks.append([[of[name][0] for of in found] for name in names])
    return dict(zip(names, np.mean(blocks, axis=0), strict=True))


class Gap(NamedTuple):
    """A weaker network: its strength, how far it truly is behind, and that difference's error.

    The error is the true standard error in a test part of the design.
    """

    strength: float
    difference: float
    error: float


def gap(design: Design, strength: float, metric: str, seed: int, images: int) -> Gap:
    """The true difference of a network of strength 1 and a weaker one."""
    found = []
    for first, second in population(design, (1.0, strength), images, seed):
        one, other = (found_of[metric] for found_of in estimates_together([first, second]))
        whole = difference(one, other)
        of_one_part = whole.standard_error**2 * len(first.labels) / design.images
        found.append((whole.value, of_one_part))
    value, variance = np.mean(found, axis=0)
    return Gap(strength, float(value), math.sqrt(variance))


def gap_of(design: Design, metric: str, wanted: Callable[[Gap], float], settings: Settings) -> Gap:
    """The network that is behind by `wanted`, a function of the gap itself."""
    from scipy.optimize import brentq

    def miss(strength: float) -> float:
        found = gap(design, strength, metric, settings.seed, SEARCH_IMAGES)
        return found.difference - wanted(found)

    strength = float(brentq(miss, 0.05, 1.0, xtol=1e-3))
    return gap(design, strength, metric, settings.seed, settings.gap_images)


def constant(value: float, _: Any) -> float:
    return value


def at_rows(tables: list[Predictions], rows: np.ndarray) -> list[Predictions]:
    return [Predictions(t.image_ids[rows], t.labels[rows], t.scores[rows], CLASSES) for t in tables]


def over_pool(pool: int, rows: np.ndarray, found: Estimate) -> Estimate:
    """An estimate over all images: those that it was not made from contribute nothing."""
    influence = np.zeros(pool)
    influence[rows] = found.influence
    return Estimate(found.value, influence)


@cache
def resample_weights(count: int, resamples: int, seed: int = 0) -> np.ndarray:
    return bootstrap_weights(count, resamples, seed)
