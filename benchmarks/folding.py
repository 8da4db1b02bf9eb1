"""Fine-tuning with frozen batch normalisation folded into the convolutions, beside today's build.

    python -m benchmarks.finetune --sides folded,skinml

Both are the product's own steps with its augmentation and prefetching, on the same images in the
same order with the same dropout, from the same weights. They take turns every few steps
(`--piece`), each first in every other one. Beside the speed it tells how far the losses are apart:
that of the first step, and the mean of the steps 6 to 8. With `--nudged` also how far today's build
is from itself there, from weights half of which are moved to the next number up.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

from benchmarks import material
from benchmarks.harness import ratio, shown, spread, table, verdict

SIDES = ("folded", "skinml")

# Steps after each of which losses are compared: one, then until five, then until eight.
COMPARED = (1, 4, 3)

# What is faster by less is not worth a second way of computing the same.
TARGET = 1.10


class Side:
    """One way to train a network, a few steps at a time."""

    def __init__(self, name: str, config: Any, data: Any, execution: Any) -> None:
        import keras

        from benchmarks.folded import folded
        from skinml.models.classifier import build_classifier, unfreeze
        from skinml.training.inputs import finetune_inputs
        from skinml.training.loop import _Stage

        self._config, self._data, self._execution = config, data, execution
        keras.utils.set_random_seed(0)  # Both begin with the same weights.
        classifier = build_classifier(config, 3)
        unfreeze(classifier, config.batch_norm)
        prepared = finetune_inputs(classifier, config, data, 0, 1, execution, lambda *_: None)
        if name == "folded":
            prepared = prepared._replace(network=folded(prepared.network))
        elif name == "nudged":
            _nudge(prepared.network)
        self._inputs = prepared.inputs
        rate = float(config.learning_rate_finetune)
        self._stage = _Stage("finetune", prepared, config, data, execution, rate, 1)
        self._batches: Iterator[Any] = iter(())

    def begin(self, epoch: int) -> None:
        """The images, their order and the dropout of an epoch."""
        from skinml.data.pipeline import plan_epoch
        from skinml.training.inputs import batches_of
        from skinml.training.loop import _seed_dropout

        config, data = self._config, self._data
        _seed_dropout(self._stage.model, config.seed, epoch)
        plan = plan_epoch(len(data.train), config.seed, epoch, config.augmentation)
        self._batches = batches_of(config, data, self._inputs, plan)

    def train(self, steps: int) -> float:
        """The next steps of the epoch; the mean loss of them."""
        from skinml.data.pipeline import prefetch
        from skinml.training.steps import grouped

        some = islice(self._batches, steps)
        loss = float("nan")
        for _, outcome in self._stage._steps.epoch(
            prefetch(grouped(some, self._execution.steps_per_execution))
        ):
            loss = outcome.loss
        return loss


def measure(
    options: argparse.Namespace, name: str, device: Any, advance: Callable[[], None]
) -> dict[str, Any]:
    """One network, both sides in one process; its first epoch compiles and compares the losses."""
    from skinml.training.backend import choose_execution

    config = material.config(
        options,
        model=name,
        batch_size=options.batch_size,
        batch_norm="frozen",
        device=options.device,
    )
    data = material.training_data(options)
    execution = choose_execution(device, data.images.nbytes)
    compared = (*SIDES, "nudged") if options.nudged else SIDES
    sides = {side: Side(side, config, data, execution) for side in compared}
    losses: dict[str, list[float]] = {}
    for side, own in sides.items():
        own.begin(1)
        losses[side] = [own.train(steps) for steps in COMPARED]
    sides.pop("nudged", None)
    advance()
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    steps = -(-options.train // options.batch_size)
    turn = count()
    for repeat in range(options.repeats):
        seconds = dict.fromkeys(SIDES, 0.0)
        for own in sides.values():
            own.begin(repeat + 2)
        for piece in _pieces(steps, options.piece or steps):
            for side in SIDES if next(turn) % 2 == 0 else SIDES[::-1]:
                started = time.perf_counter()
                sides[side].train(piece)
                seconds[side] += time.perf_counter() - started
        for side in SIDES:
            rates[side].append(options.train / seconds[side])
        advance()
    import keras

    keras.backend.clear_session()
    return {
        "images_per_second": {side: spread(own) for side, own in rates.items()},
        "ratio": ratio(rates["folded"], rates["skinml"]),
        "losses": losses,
        "apart": _apart(losses["folded"], losses["skinml"]),
        "apart_nudged": _apart(losses["nudged"], losses["skinml"]) if options.nudged else None,
    }


def _apart(losses: list[float], others: list[float]) -> list[float]:
    return [abs(one / other - 1) for one, other in zip(losses, others, strict=True)]


def _nudge(network: Any) -> None:
    """Move about half of the trained weights by a unit in the last place."""
    import numpy as np
    from keras import ops

    random = np.random.default_rng(6)
    for variable in network.trainable_variables:
        values = ops.convert_to_numpy(variable)
        up = np.nextafter(values, np.float32(np.inf), dtype=np.float32)
        variable.assign(np.where(random.random(values.shape) < 0.5, values, up))


def _pieces(steps: int, piece: int) -> list[int]:
    return [min(piece, steps - done) for done in range(0, steps, piece)]


def shown_table(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, *(shown(own["images_per_second"][side], 1) for side in SIDES),
         shown(own["ratio"], 3), f"≥ {TARGET:.2f}", verdict(own["ratio"]["median"] >= TARGET),
         f"{own['apart'][0]:.0e}", f"{own['apart'][-1]:.2%}",
         f"{own['apart_nudged'][-1]:.2%}" if own["apart_nudged"] else ""]
        for name, own in found.items()
    ]  # fmt: skip
    heading = [
        "images a second", *SIDES, "ratio", "target", "", "first loss apart", "steps 6 to 8",
        "nudged",
    ]  # fmt: skip
    return table(heading, rows)
