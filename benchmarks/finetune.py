"""A fine-tuning epoch as the product runs it, beside a bare loop of `train_on_batch`.

    python -m benchmarks.finetune [--models mobilenet,mobilenetv2,nasnetmobile] [--batch_size 16]

*skinml*: whole epochs of `python -m skinml.run` itself, tracked in a SQLite store: from the end of
one epoch to the end of the next, with augmentation, batching, the epoch's metrics, the best
weights, the checkpoint, the run folder and tracking; the validation images' way through the network
is taken off. *Outside the steps* is the share of it after the last step: on a machine whose speed
varies it tells what the epoch's end costs. *Work* is the processor's time for an image over that of
the bare loop, and *system* the share of it that the kernel takes, of both sides: what is slower
without more work has waited, for other processes as well.
*Bare*: as many `train_on_batch` of the same network on one fixed batch of full size, with nothing
around it. They take turns in one process: on a CPU every few steps of an epoch (`--piece`), because
a machine's speed may change by tens of per cent from one minute to the next; on a GPU, whose work
the host runs ahead of, epoch by epoch. Target: 0.97 on a CPU, 0.90 on a GPU.

`--sides folded,skinml`: the steps alone, with frozen batch normalisation folded into the
convolutions before it, beside the product's (benchmarks/folding.py). Target: 1.10.
"""

import argparse
import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import folding, material
from benchmarks.harness import parser, ratio, report, shown, spread, surroundings, table, verdict
from skinml.base.progress import progress_bar
from skinml.config import Config
from skinml.training.history import Row
from skinml.training.loop import train

TARGETS = {"cpu": 0.97, "gpu": 0.90}

# A lent machine may lack it: then tracking ends in the run's journal, without a forwarder.
HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None


class Enough(Exception):
    """All epochs are measured: what follows the training is not needed."""


class Turns:
    """Stands in for `training.train`: after each epoch of it the bare loop gets its turn."""

    def __init__(
        self,
        options: argparse.Namespace,
        advance: Callable[[], None],
    ) -> None:
        self._images, self._validation = options.train, options.validation
        self._repeats, self._wait_in = options.repeats, options.wait_in
        self._batch_size, self._piece = options.batch_size, options.piece
        self._advance = advance
        self._original = train
        self._measuring = False
        self.product: list[float] = []
        self.bare: list[float] = []
        self.outside: list[float] = []
        self.work: dict[str, list[float]] = {"skinml": [], "bare": []}
        self.system: dict[str, list[float]] = {"skinml": [], "bare": []}

    def train(
        self,
        classifier: Any,
        config: Config,
        data: Any,
        score: Any,
        on_epoch: Any,
        execution: Any,
        *checkpoints: Any,
    ) -> None:
        from skinml.training import inputs
        from skinml.training import loop as training

        # The options' number of images, whatever the protocol's split gives.
        rows = np.resize(np.concatenate([data.train, data.validation]), self._images)
        few = inputs.TrainingData(
            data.images, data.labels, rows, data.validation[: self._validation]
        )
        validating = 0.0
        infer = inputs.infer

        def timed(*given: Any) -> np.ndarray:
            nonlocal validating
            started = time.perf_counter()
            scores = infer(*given)
            validating += time.perf_counter() - started
            return scores

        loop = self._bare_loop(config, few, execution)
        turn = _Turn()

        def pieces(steps: Any, groups: Any) -> Iterator[Any]:
            """An epoch's steps; after each piece of them the bare loop has as many."""
            for number, outcome in enumerate(epoch(steps, groups), 1):
                yield outcome
                if self._measuring and self._piece and number % self._piece == 0:
                    turn.give(loop, self._piece)

        def on_epoch_then_bare(row: Row) -> None:
            nonlocal validating
            on_epoch(row)
            seconds = turn.product() - validating
            if self._measuring:
                self.product.append(self._images / seconds)
                in_steps = float(row["seconds"]) - turn.bare.seconds
                self.outside.append(1 - in_steps / seconds)
                turn.give(loop, self._steps - turn.given)
                self.bare.append(self._steps * self._batch_size / turn.bare.seconds)
                self._note_work("skinml", turn.own, self._images)
                self._note_work("bare", turn.bare, self._steps * self._batch_size)
            elif self._wait_in:  # The first epoch has compiled.
                wait_for_go(self._wait_in)
            self._measuring = True
            self._advance()
            if len(self.product) == self._repeats:
                raise Enough
            validating = 0.0
            turn.begin()

        epoch = training.Steps.epoch
        with (
            mock.patch.object(inputs, "infer", timed),
            mock.patch.object(training.Steps, "epoch", pieces),
        ):
            self._original(
                classifier, config, few, score, on_epoch_then_bare, execution, *checkpoints
            )

    @property
    def _steps(self) -> int:
        return -(-self._images // self._batch_size)

    def _note_work(self, side: str, used: "_Used", images: int) -> None:
        """What of the processor a side has used in an epoch; validation is in it."""
        self.work[side].append((used.user + used.system) / images)
        self.system[side].append(used.system / (used.user + used.system))

    def _bare_loop(self, config: Config, data: Any, execution: Any) -> Callable[[int], None]:
        """The usual loop of so many steps over a network of its own, already traced."""
        import keras

        from skinml.models.classifier import build_classifier, unfreeze
        from skinml.training.loop import _optimizer

        classifier = build_classifier(config, 3)
        unfreeze(classifier, config.batch_norm)
        model = keras.Model(classifier.model.inputs, classifier.model.outputs)
        model.compile(
            optimizer=_optimizer(config, float(config.learning_rate_finetune), 1000),
            loss="sparse_categorical_crossentropy",
            jit_compile=execution.xla,
        )
        rows = np.resize(data.train, config.batch_size)
        batch = np.asarray(data.images[rows]), data.labels[rows]
        for _ in range(2):
            model.train_on_batch(*batch)

        def loop(steps: int) -> None:
            for _ in range(steps):
                model.train_on_batch(*batch)

        return loop


@dataclass
class _Used:
    """Seconds by the clock, and of the processor."""

    seconds: float = 0.0
    user: float = 0.0
    system: float = 0.0

    @classmethod
    def now(cls) -> "_Used":
        times = os.times()
        return cls(time.perf_counter(), times.user, times.system)

    def add(self, since: "_Used", until: "_Used") -> None:
        self.seconds += until.seconds - since.seconds
        self.user += until.user - since.user
        self.system += until.system - since.system


class _Turn:
    """What each side has used since `begin`: what the bare loop was not given is the product's."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.own, self.bare, self.given = _Used(), _Used(), 0
        self._since = _Used.now()

    def product(self) -> float:
        """Seconds of the product until now."""
        now = _Used.now()
        self.own.add(self._since, now)
        self._since = now
        return self.own.seconds

    def give(self, loop: Callable[[int], None], steps: int) -> None:
        """Let the bare loop have its turn."""
        self.product()
        loop(steps)
        now = _Used.now()
        self.bare.add(self._since, now)
        self._since = now
        self.given += steps


def wait_for_go(folder: Path) -> None:
    """Say in a folder that all is compiled, and wait there for the file `go`."""
    (folder / "compiled").touch()
    while not (folder / "go").exists():
        time.sleep(0.1)


def measure(options: argparse.Namespace, name: str, advance: Callable[[], None]) -> dict[str, Any]:
    """One network; the product's whole run, in a store and an output folder of its own."""
    from skinml.run.end_to_end import run
    from skinml.training import loop as training

    turns = Turns(options, advance)
    with tempfile.TemporaryDirectory() as scratch:
        config = material.config(
            options,
            model=name,
            batch_size=options.batch_size,
            epochs_frozen=0,
            epochs_finetune=options.repeats + 1,
            output_dir=scratch,
            device=options.device,
        )
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db"}
        with (
            mock.patch.dict(os.environ, store),
            mock.patch.object(training, "train", turns.train),
            contextlib.suppress(Enough),
        ):
            run(config, offline=not HAS_MLFLOW)
    import keras

    keras.backend.clear_session()
    return {
        "images_per_second": {"skinml": spread(turns.product), "bare": spread(turns.bare)},
        "ratio": ratio(turns.product, turns.bare),
        "outside_the_steps": spread(turns.outside),
        "work": ratio(turns.work["skinml"], turns.work["bare"]),
        "system": {side: spread(values) for side, values in turns.system.items()},
    }


def main() -> None:
    options_parser = parser(__doc__, repeats=5)
    options_parser.add_argument("--models", default="mobilenet,mobilenetv2,nasnetmobile")
    options_parser.add_argument("--batch_size", type=int, default=16)
    sides = "skinml,bare", ",".join(folding.SIDES)
    options_parser.add_argument("--sides", choices=sides, default=sides[0], help="what is compared")
    options_parser.add_argument(
        "--nudged", action="store_true", help="compare losses with those of weights a bit apart too"
    )
    options_parser.add_argument(
        "--piece",
        type=int,
        help="steps between two turns (default: 5 on a CPU, 0, whole epochs, on a GPU)",
    )
    options_parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    options_parser.add_argument(
        "--wait_in",
        type=Path,
        help="folder in which to say `compiled`, and to wait for `go` before measuring: several "
        "networks compile side by side and are measured one after the other",
    )
    material.add_options(options_parser, train=480, validation=16)
    options = options_parser.parse_args()
    fewest = sum(folding.COMPARED) * options.batch_size
    if options.sides != sides[0] and options.train < fewest:
        options_parser.error(
            f"--train {options.train}: {options.sides} needs {fewest} or more (eight batches)"
        )
    around = surroundings()
    models = options.models.split(",")
    from skinml.training import backend

    device = backend.configure(options.device)
    if options.piece is None:
        options.piece = 5 if device.kind == "cpu" else 0
    with progress_bar("fine-tuning", len(models) * (options.repeats + 1)) as advance:
        if options.sides == sides[0]:
            target = TARGETS[device.kind]
            found = {name: measure(options, name, advance) for name in models}
            text = shown_table(found, target)
        else:
            target = folding.TARGET
            found = {name: folding.measure(options, name, device, advance) for name in models}
            text = folding.shown_table(found)
    result = {
        **around,
        "device": device._asdict(),
        "batch_size": options.batch_size,
        "images": options.train,
        "piece": options.piece,
        "forwarder": HAS_MLFLOW,
        "networks": found,
    }
    against = options.sides.partition(",")[2]
    report(options, result, text, lambda path: draw(path, found, target, against))


def shown_table(found: dict[str, dict[str, Any]], target: float) -> str:
    rows = [
        [name, *(shown(own["images_per_second"][side], 1) for side in ("skinml", "bare")),
         shown(own["ratio"], 3), f"≥ {target}", verdict(own["ratio"]["median"] >= target),
         f"{own['outside_the_steps']['median']:.1%}", shown(own["work"]),
         " and ".join(f"{own['system'][side]['median']:.1%}" for side in ("skinml", "bare"))]
        for name, own in found.items()
    ]  # fmt: skip
    heading = [
        "images a second", "skinml, all of it", "bare train_on_batch", "ratio", "target", "",
        "outside the steps", "work", "system",
    ]  # fmt: skip
    return table(heading, rows)


def draw(path: Path, found: dict[str, dict[str, Any]], target: float, against: str) -> None:
    """The ratio of each network with its spread, and the target."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import COLUMN, GREY, drawing, save

    other = {"bare": "the bare loop's"}.get(against, "today's build's")
    with drawing():
        figure = Figure(figsize=(COLUMN, 0.9 + 0.4 * len(found)), layout="constrained")
        axes = figure.subplots()
        for place, own in enumerate(found.values()):
            middle = own["ratio"]
            axes.plot([middle["low"], middle["high"]], [place, place], color="black")
            axes.plot(middle["median"], place, "o", color="black")
        axes.axvline(target, color=GREY, linestyle="--")
        label = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(
            target, -0.7, f"target {target}", color=GREY, ha="center", va="center", bbox=label
        )
        axes.margins(x=0.15)
        axes.set_yticks(range(len(found)), list(found))
        axes.set(ylim=(len(found) - 0.5, -1), xlabel=f"images a second over {other}")
        save(figure, path)


if __name__ == "__main__":
    main()
