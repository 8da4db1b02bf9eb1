"""What maps are worth: whether they depend on what a network has learned, and point at what counts.

A map may look right and show no more than edges, or the middle of the picture. Two checks can fail:

- Randomisation (Adebayo et al. 2018, arXiv 1810.03292): maps of a network whose weights are
  shuffled must differ from those of the trained one.
- Deletion (Petsiuk et al. 2018, arXiv 1806.07421): if the cells that a map marks are painted over,
  the highest first, the score of the class must fall faster than in a random order, and than from
  the middle outwards, where most lesions are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from skinml.base.progress import Advance
from skinml.explain.maps import METHODS, Explainer
from skinml.models.inference import INFERENCE_BATCH, infer

# What is randomised: the head alone, then ever more of what lies below it.
STAGES = ("head", "head and upper half", "all weights")

# How many networks are randomised for each.
NETWORKS = 5

# A mean rank correlation from which on maps count as the same.
SAME = 0.5

# Shares of a picture's cells that are painted over.
SHARES = (0.0, 0.02, 0.04, 0.08, 0.14, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)

OCCLUSION, CENTRE, RANDOM = "occlusion", "centre first", "random"


class Correlations(NamedTuple):
    """Rank correlations of the trained network's maps with those of randomised ones.

    `of_networks`: the mean over pictures of each. `high` is the upper end of the 95 %
    interval of their mean, by Student's t over networks.
    """

    of_networks: np.ndarray
    mean: float
    high: float

    @property
    def passes(self) -> bool:
        return self.high < SAME


class Deletion(NamedTuple):
    """The score of the answer as a picture's cells are painted over in an order.

    `scores` after each of `shares` of the cells: means over pictures. `area` under that curve, and
    how much smaller it is than that of a random order: `gain` with its 95 % interval over pictures.
    """

    shares: tuple[float, ...]
    scores: np.ndarray
    area: float
    gain: float
    low: float
    high: float


def correlations(
    explainer: Explainer, pixels: np.ndarray, seed: int = 0, advance: Advance | None = None
) -> dict[tuple[str, str], Correlations]:
    """How alike the maps of a trained network and of randomised ones are, by stage and method.

    `pixels` (n, 224, 224, 3) uint8; the maps are of the class that the trained network answers.
    The stage "other pictures" has the maps of other pictures by the trained network: so alike are
    maps of which each is of its own. The weights are as they were when this returns.
    """
    from scipy.stats import t

    answers = _scores(explainer, pixels).argmax(axis=1)
    features = _features(explainer, pixels)
    trained = {method: _of(explainer, features, answers, method) for method in METHODS}
    found: dict[tuple[str, str], list[float]] = {}
    for method, maps in trained.items():
        for shift in range(1, NETWORKS + 1):
            others = np.roll(maps, shift, axis=0)
            found.setdefault(("other pictures", method), []).append(_alike(maps, others))
    rng = np.random.default_rng(seed)
    for stage in STAGES:
        for _ in range(NETWORKS):
            with _shuffled(explainer, stage, rng):
                other = features if stage == STAGES[0] else _features(explainer, pixels)
                for method, maps in trained.items():
                    alike = _alike(maps, _of(explainer, other, answers, method))
                    found.setdefault((stage, method), []).append(alike)
            if advance:
                advance()
    spread = t.ppf(0.975, NETWORKS - 1) / np.sqrt(NETWORKS)
    return {
        key: Correlations(np.array(values), float(np.mean(values)),
                          float(np.mean(values) + spread * np.std(values, ddof=1)))
        for key, values in found.items()
    }  # fmt: skip


def deletions(
    explainer: Explainer, pixels: np.ndarray, seed: int = 0, advance: Advance | None = None
) -> dict[str, Deletion]:
    """How fast the score of the answer falls as cells are painted over, by what orders them.

    A cell gets the mean colour of its picture. Beside the methods there are `OCCLUSION`, which
    asks the network what each cell alone would cost, 49 questions a picture; `CENTRE`, from the
    middle outwards; and `RANDOM`, the mean of two random orders.
    """
    height, width, _ = explainer.shape
    scores = _scores(explainer, pixels)
    answers = scores.argmax(axis=1)
    rows = np.arange(len(pixels))
    painted = np.broadcast_to(
        pixels.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8), pixels.shape
    )
    rng = np.random.default_rng(seed)
    features = _features(explainer, pixels)
    evidence = {method: _of(explainer, features, answers, method) for method in METHODS}
    evidence[OCCLUSION] = _occlusion(explainer, pixels, painted, scores, answers, advance)
    away = np.hypot(*(np.mgrid[:height, :width] - (np.array([[[height]], [[width]]]) - 1) / 2))
    evidence[CENTRE] = np.broadcast_to(-away, (len(pixels), height, width))
    for number in range(2):
        evidence[f"{RANDOM} {number}"] = rng.random((len(pixels), height, width))
    curves = {}
    for name, values in evidence.items():
        flat = values.reshape(len(values), -1)
        # Which comes first of equal cells must not be the upper left one.
        ranks = np.lexsort((rng.random(flat.shape), -flat)).argsort(axis=1)
        curve = []
        for share in SHARES:
            cells = (ranks < round(share * height * width)).reshape(values.shape)
            part = np.where(_widened(cells, pixels), painted, pixels)
            curve.append(_scores(explainer, part)[rows, answers])
            if advance:
                advance()
        curves[name] = np.stack(curve, axis=1)
    curves[RANDOM] = np.mean([curves.pop(f"{RANDOM} {number}") for number in range(2)], axis=0)
    areas = {name: np.trapezoid(curve, SHARES, axis=1) for name, curve in curves.items()}
    return {name: _deletion(curves[name], areas[name], areas[RANDOM]) for name in curves}


def steps(explainer: Explainer) -> int:
    """How often `correlations` and `deletions` together call `advance`."""
    height, width, _ = explainer.shape
    return len(STAGES) * NETWORKS + height * width + (len(METHODS) + 4) * len(SHARES)


def _deletion(curve: np.ndarray, area: np.ndarray, by_chance: np.ndarray) -> Deletion:
    gain = by_chance - area
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
    mean = float(gain.mean())
    return Deletion(SHARES, curve.mean(axis=0), float(area.mean()), mean, mean - half, mean + half)


def _features(explainer: Explainer, pixels: np.ndarray) -> np.ndarray:
    rows = np.arange(len(pixels))
    parts = np.array_split(rows, -(-len(rows) // INFERENCE_BATCH))
    return np.concatenate([explainer.features(pixels[part]) for part in parts])


def _scores(explainer: Explainer, pixels: np.ndarray) -> np.ndarray:
    return infer(explainer.network, pixels, np.arange(len(pixels))).astype(np.float64)


def _of(explainer: Explainer, features: np.ndarray, labels: np.ndarray, method: str) -> np.ndarray:
    """The evidence for one class of each picture: (n, h, w)."""
    return explainer.evidence(features, method)[np.arange(len(labels)), labels]


def _alike(maps: np.ndarray, others: np.ndarray) -> float:
    """Spearman's rank correlation of maps (n, h, w) with others, cell by cell: the mean over n.

    That of a map without any differences counts as 0.
    """
    from scipy.stats import rankdata

    one, other = (rankdata(m.reshape(len(m), -1), axis=1) for m in (maps, others))
    one, other = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other))
    norms = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return float(np.mean((one * other).sum(axis=1) / np.where(norms > 0, norms, 1)))


@contextmanager
def _shuffled(explainer: Explainer, stage: str, rng: np.random.Generator) -> Iterator[None]:
    """The network with the numbers of each weight of a stage in another order, and so at random.

    Each layer keeps its scale: with weights as at the start of a training, and the statistics of
    batch normalisation that go with none, an image would be damped to nothing on its way.
    """
    from keras import ops

    below, above = explainer.weights
    share = {STAGES[0]: 0.0, STAGES[1]: 0.5, STAGES[2]: 1.0}[stage]
    chosen = [*below[len(below) - round(share * len(below)) :], *above]
    before = [ops.convert_to_numpy(weight) for weight in chosen]
    try:
        for weight, values in zip(chosen, before, strict=True):
            weight.assign(rng.permutation(values.ravel()).reshape(values.shape))
        yield
    finally:
        for weight, values in zip(chosen, before, strict=True):
            weight.assign(values)


def _occlusion(
    explainer: Explainer,
    pixels: np.ndarray,
    painted: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    advance: Advance | None,
) -> np.ndarray:
    """By how much the log odds of the answer fall if a cell alone is painted over: (n, h, w).

    Zeiler and Fergus 2014, arXiv 1311.2901.
    """
    height, width, _ = explainer.shape
    found = np.empty((len(pixels), height, width))
    whole = _log_odds(scores, labels)
    for row, column in np.ndindex(height, width):
        cells = np.zeros((1, height, width), dtype=bool)
        cells[0, row, column] = True
        part = np.where(_widened(cells, pixels), painted, pixels)
        found[:, row, column] = whole - _log_odds(_scores(explainer, part), labels)
        if advance:
            advance()
    return found


def _log_odds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    score = np.clip(scores[np.arange(len(labels)), labels], 1e-7, 1 - 1e-7)
    return np.log(score) - np.log1p(-score)


def _widened(cells: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Cells (n, h, w) as pixels (n, height, width, 1)."""
    down, across = (np.arange(size) * cells.shape[axis] // size
                    for axis, size in ((1, pixels.shape[1]), (2, pixels.shape[2])))  # fmt: skip
    return cells[:, down][:, :, across][..., None]
