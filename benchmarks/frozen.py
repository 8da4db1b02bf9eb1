"""The frozen step at 10, 50 and 150 epochs beside plain `model.fit` of the frozen network.

    python -m benchmarks.frozen [--model mobilenetv2] [--weights FILE] [--data isic2017] [--out …]

*Plain* is what Keras's own guide to transfer learning does: the backbone not trainable and called
in inference mode, `fit` over batches that are augmented on the fly, here with the very same order
and symmetries, validated after each epoch. It is measured for 10 epochs; what stands for 50 and 150
is extrapolated from these, and marked so. *skinml* is the product's frozen step, from nothing in
the cache, validated and with a checkpoint after each epoch, measured in full. Tracing is in the
times of both. Targets: 6 times as fast at 50 epochs, 15 times at 150, an extra epoch for at most
1/30 of a plain one, and the same validation AUC after 10 epochs, within its bootstrap interval.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import material
from benchmarks.harness import (
    in_turn,
    parser,
    ratio,
    report,
    shown,
    spread,
    surroundings,
    table,
    verdict,
)
from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.data.pipeline import plan_epoch, slices, transform
from skinml.evaluation.metrics import epoch_metrics
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.statistics import bootstrap_intervals
from skinml.training import backend
from skinml.training.checkpoint import save_checkpoint
from skinml.training.history import Row
from skinml.training.inputs import TrainingData

MEASURED = 10
LENGTHS = (10, 50, 150)
TARGETS = {50: 6.0, 150: 15.0}
TARGET_EXTRA = 1 / 30


class Plain:
    """Plain `fit`: seconds of each epoch, and the scores of the validation images at the end."""

    def __init__(self, config: Config, data: TrainingData) -> None:
        import keras

        from skinml.models.classifier import build_classifier
        from skinml.training.loop import _optimizer

        class Augmented(keras.utils.PyDataset):
            """Batches of the training images, each with its symmetry of this epoch."""

            def __init__(self) -> None:
                super().__init__()
                self.epoch = 1
                self.parts = list(slices(len(data.train), config.batch_size))

            def __len__(self) -> int:
                return len(self.parts)

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                plan = plan_epoch(len(data.train), config.seed, self.epoch, config.augmentation)
                rows = plan.order[self.parts[index]]
                images = data.images[data.train[rows]]
                return transform(images, plan.symmetries[rows]), data.labels[data.train[rows]]

            def on_epoch_end(self) -> None:
                self.epoch += 1

        classifier = build_classifier(config, 3)
        classifier.backbone.trainable = False
        # Called in inference mode, and its layers not trainable: nothing of it changes.
        inputs = keras.Input(classifier.model.input_shape[1:], dtype="uint8")
        outputs = classifier.head(classifier.features(inputs, training=False))
        model = keras.Model(inputs, outputs)
        updates = int(config.epochs_frozen) * len(Augmented())
        model.compile(
            optimizer=_optimizer(config, config.learning_rate_frozen, updates),
            loss="sparse_categorical_crossentropy",
        )
        times = [time.perf_counter()]

        class Clock(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                times.append(time.perf_counter())

        images, labels = data.images[data.validation], data.labels[data.validation]
        model.fit(
            Augmented(),
            epochs=MEASURED,
            validation_data=(images, labels),
            validation_batch_size=config.batch_size,
            callbacks=[Clock()],
            verbose=0,
        )
        self.epochs = np.diff(times).tolist()
        self.scores = model.predict(images, batch_size=config.batch_size, verbose=0)

    def seconds(self, epochs: int) -> float:
        """Of so many epochs: the measured ones, and beyond them as many of the median one."""
        return sum(self.epochs) + (epochs - MEASURED) * float(np.median(self.epochs[1:]))


def ours(config: Config, data: TrainingData) -> tuple[float, list[Row]]:
    """Seconds of the product's frozen step, validation and checkpoints too, and its history."""
    from skinml.models.classifier import build_classifier
    from skinml.training.loop import train

    classifier = build_classifier(config, 3)
    history: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(
            classifier,
            config,
            data,
            epoch_metrics,
            history.append,
            save=lambda state: save_checkpoint(Path(folder), state),
        )
        return time.perf_counter() - started, history


def main() -> None:
    options_parser = parser(__doc__, repeats=3)
    options_parser.add_argument("--model", default="mobilenetv2")
    options_parser.add_argument("--batch_size", type=int, default=16)
    material.add_options(options_parser, train=480, validation=120)
    options = options_parser.parse_args()
    around = surroundings()
    configs = {
        epochs: material.config(
            options,
            model=options.model,
            batch_size=options.batch_size,
            epochs_frozen=epochs,
            epochs_finetune=0,
        )
        for epochs in LENGTHS
    }
    backend.configure("cpu" if options.data == "demo" else "auto", 0, 0)
    import keras

    data = material.training_data(options)
    plains: list[Plain] = []
    histories: dict[int, list[Row]] = {}

    def plain() -> float:
        keras.utils.set_random_seed(0)
        plains.append(Plain(configs[MEASURED], data))
        keras.backend.clear_session()
        return plains[-1].seconds(MEASURED)

    def product(epochs: int) -> float:
        keras.utils.set_random_seed(0)
        seconds, histories[epochs] = ours(configs[epochs], data)
        keras.backend.clear_session()
        return seconds

    sides: dict[str, Callable[[], float]] = {
        "plain": plain,
        **{f"{e}": partial(product, e) for e in LENGTHS},
    }
    values = in_turn("frozen step", sides, options.repeats)
    shortest, longest = values[f"{LENGTHS[1]}"], values[f"{LENGTHS[2]}"]
    extra = [(b - a) / (LENGTHS[2] - LENGTHS[1]) for a, b in zip(shortest, longest, strict=True)]
    plain_epochs = [float(np.median(one.epochs[1:])) for one in plains]
    labels = data.labels[data.validation]
    ids = np.array([f"image{number}" for number in range(len(labels))])
    found = Predictions(ids, labels, np.asarray(plains[-1].scores, np.float64), CLASSES)
    low, high = bootstrap_intervals(found)["auc_macro"]
    auc: dict[str, Any] = {
        "plain": epoch_metrics(labels, found.scores)["auc_macro"],
        "plain_ci": [low, high],
        "skinml": float(histories[MEASURED][-1]["val_auc_macro"]),
    }
    seconds: dict[int, dict[str, Any]] = {
        epochs: {
            "plain": spread([one.seconds(epochs) for one in plains]),
            "plain_is": "measured" if epochs <= MEASURED else "extrapolated",
            "skinml": spread(values[f"{epochs}"]),
            "ratio": ratio([one.seconds(epochs) for one in plains], values[f"{epochs}"]),
        }
        for epochs in LENGTHS
    }
    share = ratio(extra, plain_epochs)
    result = {
        **around,
        "model": options.model,
        "batch_size": options.batch_size,
        "images": {"train": len(data.train), "validation": len(data.validation)},
        "seconds": seconds,
        "extra_epoch_seconds": {"plain": spread(plain_epochs), "skinml": spread(extra)},
        "extra_epoch_share": share,
        "validation_auc_macro": auc,
    }
    rows = []
    for epochs, own in seconds.items():
        mark = " (extrapolated)" if own["plain_is"] == "extrapolated" else ""
        target = TARGETS.get(epochs)
        rows.append(
            [f"{epochs} epochs", shown(own["plain"], 1) + mark, shown(own["skinml"], 1),
             shown(own["ratio"], 1), f"≥ {target:g}" if target else "",
             verdict(own["ratio"]["median"] >= target) if target else ""]
        )  # fmt: skip
    rows.append(
        ["an extra epoch", shown(spread(plain_epochs)), shown(spread(extra)),
         f"1/{1 / share['median']:.0f}", "≤ 1/30", verdict(share["median"] <= TARGET_EXTRA)]
    )  # fmt: skip
    rows.append(
        ["validation AUC, 10 epochs", f"{auc['plain']:.3f} ({low:.3f} to {high:.3f})",
         f"{auc['skinml']:.3f}", "", "within", verdict(low <= auc["skinml"] <= high)]
    )  # fmt: skip
    text = table(["seconds", "plain fit", "skinml", "ratio", "target", ""], rows)
    report(options, result, text, partial(draw, seconds=seconds, extra=spread(plain_epochs)))


def draw(path: Path, seconds: dict[int, dict[str, Any]], extra: dict[str, float]) -> None:
    """Seconds over the number of epochs, what is extrapolated dashed."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import COLUMN, GREY, drawing, save

    with drawing():
        figure = Figure(figsize=(COLUMN, 3), layout="constrained")
        axes = figure.subplots()
        lengths = list(seconds)
        plain = [seconds[epochs]["plain"]["median"] for epochs in lengths]
        mine = [seconds[epochs]["skinml"]["median"] for epochs in lengths]
        axes.plot([0, lengths[0]], [0, plain[0]], color=GREY, label="plain fit, measured")
        axes.plot(lengths, plain, "--", color=GREY, label="plain fit, extrapolated")
        axes.plot(lengths, mine, "o-", color="black", label="skinml, measured")
        for epochs, top in zip(lengths[1:], plain[1:], strict=True):
            axes.annotate(
                f"{seconds[epochs]['ratio']['median']:.1f}×", (epochs, top), xytext=(-4, 0),
                textcoords="offset points", ha="right", va="center",
            )  # fmt: skip
        axes.set(xlabel="frozen epochs", ylabel="seconds", xlim=(0, None), ylim=(0, None))
        axes.legend(loc="upper left")
        save(figure, path)


if __name__ == "__main__":
    main()
