"""Heads on frozen features, one for each split of a cross-validation, trained all at once on JAX.

Optimizer, warm-up and cosine decay are those of `skinml.training.loop`: AdamW, whose weight decay
spares the biases. There a head is one of many parts; here ten of them are one compiled loop.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skinml.data.isic2017 import CLASSES
from skinml.data.pipeline import SYMMETRIES
from skinml.training.loop import WARM_UP

# Rows for training and for validation.
Split = tuple[np.ndarray, np.ndarray]

# Of each layer the kernel (…, above, below) and the bias (…, below).
Weights = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Trial:
    """A way to train a head on frozen features; the defaults are the recipe `paper`.

    `widths` of the dense layers, none for a single softmax layer; `mixup` is the parameter of its
    beta distribution (arXiv 1710.09412), here of features, `focal` the exponent of the focal loss
    (arXiv 1708.02002), `ema` the momentum of the weights' moving average; 0 switches each of them
    off.
    """

    widths: tuple[int, ...] = (256, 128, 64)
    pooling: str = "global"
    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: str = "none"
    focal: float = 0.0
    ema: float = 0.0
    views: int = SYMMETRIES

    def __str__(self) -> str:
        """What differs from the paper's recipe."""
        changed: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        if "widths" in changed:
            changed["widths"] = ",".join(map(str, self.widths)) or "none"
        return " ".join(f"{name}={value}" for name, value in changed.items()) or "paper"


def train_heads(
    trial: Trial, features: np.ndarray, labels: np.ndarray, splits: Sequence[Split], seed: int = 0
) -> list[Weights]:
    """Train a head on the training rows of each split; `features` (N, 8, D), `labels` (N,)."""
    steps = min(len(train) for train, _ in splits) // trial.batch_size
    epoch = _epoch(trial, trial.epochs * steps)
    rng = np.random.default_rng(seed)
    weights = _initial(trial, features.shape[-1], len(splits), rng)
    zeros = jax.tree_util.tree_map(jnp.zeros_like, weights)
    state = weights, zeros, zeros, weights, jnp.asarray(0)
    material = (
        jnp.asarray(features),
        jnp.asarray(labels),
        jnp.asarray([_class_weights(trial, labels[train]) for train, _ in splits]),
    )
    shape = len(splits), steps, trial.batch_size
    for number in range(trial.epochs):
        order = [rng.permutation(train)[: steps * trial.batch_size] for train, _ in splits]
        rows = np.reshape(order, shape).swapaxes(0, 1)
        symmetries = rng.integers(0, trial.views, rows.shape)
        key = jax.random.fold_in(jax.random.key(seed), number)
        state = epoch(material, state, rows, symmetries, key)
    averages = jax.tree_util.tree_map(np.asarray, state[3])
    return [[(kernel[n], bias[n]) for kernel, bias in averages] for n in range(len(splits))]


def scores_of(weights: Weights, features: np.ndarray) -> np.ndarray:
    """What a head says of features (…, D): scores (…, K) float64."""
    return np.asarray(jax.nn.softmax(_logits(weights, jnp.asarray(features))), np.float64)


def _initial(trial: Trial, width: int, heads: int, rng: np.random.Generator) -> Weights:
    """Glorot's uniform kernels, as Keras draws them, and biases of zero."""
    weights = []
    for above, below in pairwise([width, *trial.widths, len(CLASSES)]):
        limit = math.sqrt(6 / (above + below))
        drawn = rng.uniform(-limit, limit, (heads, above, below))
        weights.append((jnp.asarray(drawn, jnp.float32), jnp.zeros((heads, below))))
    return weights


def _class_weights(trial: Trial, labels: np.ndarray) -> np.ndarray:
    if trial.class_weights == "none":
        return np.ones(len(CLASSES), np.float32)
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def _logits(weights: Weights, x: Any, dropout: float = 0.0, key: Any = None) -> Any:
    for number, (kernel, bias) in enumerate(weights):
        x = x @ kernel + bias
        if number < len(weights) - 1:
            x = jax.nn.relu(x)
            if dropout:
                kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, x.shape)
                x = jnp.where(kept, x / (1 - dropout), 0)
    return x


def _loss(trial: Trial, weights: Weights, x: Any, targets: Any, factors: Any, key: Any) -> Any:
    logged = jax.nn.log_softmax(_logits(weights, x, trial.dropout, key))
    each = -targets * logged
    if trial.focal:
        each = each * (1 - jnp.exp(logged)) ** trial.focal
    return (each.sum(axis=-1) * factors).mean()


def _learning_rate(trial: Trial, step: Any, updates: int) -> Any:
    warm_up = int(updates * WARM_UP)
    rising = (step + 1) / (warm_up + 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * (step - warm_up) / (updates - warm_up)))
    return trial.learning_rate * jnp.where(step < warm_up, rising, falling)


def _batch(trial: Trial, material: Any, rows: Any, symmetries: Any, key: Any) -> tuple[Any, ...]:
    """Features, targets and loss weights of a batch for each head."""
    features, labels, weights = material
    x, codes = features[rows, symmetries], labels[rows]
    factors = jnp.take_along_axis(weights, codes, axis=1)
    smoothed = trial.label_smoothing
    targets = jax.nn.one_hot(codes, len(CLASSES)) * (1 - smoothed) + smoothed / len(CLASSES)
    if trial.mixup:
        share = jax.random.beta(key, trial.mixup, trial.mixup, (len(rows), 1))
        mixed = share * factors + (1 - share) * factors[:, ::-1]
        # Each of the two labels keeps the weight of its own class.
        told = (share * factors / mixed)[..., None]
        share, factors = share[..., None], mixed
        x = share * x + (1 - share) * x[:, ::-1]
        targets = told * targets + (1 - told) * targets[:, ::-1]
    return x, targets, factors


def _epoch(trial: Trial, updates: int) -> Callable[..., Any]:
    """One epoch as a compiled function; `rows` and `symmetries` (steps, heads, batch)."""
    tree = jax.tree_util.tree_map
    slopes_of = jax.vmap(jax.grad(lambda *given: _loss(trial, *given)))

    def step(material: Any, key: Any, state: Any, chosen: Any) -> Any:
        weights, mean, square, average, number = state
        mixing, dropping = jax.random.split(jax.random.fold_in(key, number))
        rows, symmetries = chosen
        batch = _batch(trial, material, rows, symmetries, mixing)
        slopes = slopes_of(weights, *batch, jax.random.split(dropping, len(batch[0])))
        mean = tree(lambda m, g: 0.9 * m + 0.1 * g, mean, slopes)
        square = tree(lambda s, g: 0.999 * s + 0.001 * g * g, square, slopes)
        first, second = 1 - 0.9 ** (number + 1), 1 - 0.999 ** (number + 1)
        rate = _learning_rate(trial, number, updates)

        def update(value: Any, m: Any, s: Any) -> Any:
            decay = trial.weight_decay if value.ndim == 3 else 0.0  # a kernel's, no bias's
            return value - rate * (m / first / (jnp.sqrt(s / second) + 1e-7) + decay * value)

        weights = tree(update, weights, mean, square)
        kept = jnp.where(number == 0, 0.0, trial.ema)
        average = tree(lambda a, w: kept * a + (1 - kept) * w, average, weights)
        return (weights, mean, square, average, number + 1), None

    @jax.jit
    def epoch(material: Any, state: Any, rows: Any, symmetries: Any, key: Any) -> Any:
        return jax.lax.scan(
            lambda state, chosen: step(material, key, state, chosen), state, (rows, symmetries)
        )[0]

    return epoch
