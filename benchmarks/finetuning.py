"""What fine-tuning adds to a trained head, and which: by cross-validation without the test part.

    python -m benchmarks.finetuning --weights FILE --trial after=LAYER,epochs=10 … --out FOLDER

Only the official training and validation parts are read. The five folds, near-duplicates together,
are those of the first draw in `benchmarks.recipe`. Each way to fine-tune starts from the same head,
which is that of the recipe `ours`, trained on the frozen features of the fold's other images; its
step is `skinml.training`'s own. The network of its last epoch answers about the images of the fold,
as one view and as the mean of eight. Where the first layers stay frozen, what they answer is
computed once and kept in half precision. FOLDER/folds.csv has a row a way and fold, and what is in
it is not made again.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import surroundings, table
from benchmarks.heads import Split, train_heads
from benchmarks.heads import Trial as Head
from benchmarks.recipe import (
    FIGURES,
    answers_of_views,
    figures,
    frozen_features,
    half_width,
    known_rows,
    make_splits,
    refuse_another,
    write_rows,
)
from skinml.base.errors import UserError, run_command
from skinml.base.progress import progress_bar
from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.data.pipeline import SYMMETRIES, EpochPlan, prefetch, slices, transform, vary
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.models.inference import INFERENCE_BATCH, answer
from skinml.training import backend

FOLDS = 5
ALL = "all"
# Shares of what fine-tuning changed that are kept of each weight (arXiv 2109.01903).
BLENDS = (1.0, 0.5)

# (places among the known images (n,), their symmetries (n,)) → what the network is given (n, …).
Inputs = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """A way to fine-tune: layers behind `after` (all of them: "all"); no epoch is the head alone.

    The other fields are those of `Config`.
    """

    after: str = ALL
    epochs: int = 10
    learning_rate: float = 1e-4
    batch_norm: str = "frozen"
    label_smoothing: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    focal: float = 0.0
    augmentation: str = "dihedral"

    def __str__(self) -> str:
        if not self.epochs:
            return "the head alone"
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {
            name: value
            for name, value in named.items()
            if name in ("after", "epochs", "learning_rate") or value != getattr(Trial, name)
        }
        return " ".join(f"{name}={value}" for name, value in kept.items())

    @classmethod
    def of(cls, text: str) -> "Trial":
        """The trial that is spelled so: `after=conv_pw_11_relu,epochs=10`."""
        given = dict(pair.split("=") for pair in text.split(","))
        return cls(**{name: type(getattr(cls, name))(value) for name, value in given.items()})


class Task(NamedTuple):
    """A trial on one fold, and what it begins with: the weights of the head of that fold.

    `config` says the network, its weights and the data, the same for all trials.
    """

    trial: Trial
    fold: int
    head: tuple[np.ndarray, ...]
    config: Config


def config_of(trial: Trial, config: Config) -> Config:
    """The configuration of a trial, by one that says the network, its weights and the data."""
    return replace(
        config,
        recipe="ours",
        protocol="challenge",
        epochs_finetune=max(trial.epochs, 1),
        learning_rate_finetune=trial.learning_rate,
        batch_norm=trial.batch_norm,
        label_smoothing=trial.label_smoothing,
        ema=trial.ema,
        mixup=trial.mixup,
        focal=trial.focal,
        augmentation=trial.augmentation,
    ).resolved()


def folds_of(data: PreparedSet) -> list[Split]:
    """Places among the known images: for training and for validation, a pair a fold."""
    rows = known_rows(data)
    return make_splits(data.labels[rows], data.near_groups[rows])[:FOLDS]


@cache
def kept_maps(config: Config, after: str) -> np.ndarray:
    """What a layer of the initial backbone answers: (n · 8, …) float16, image by image."""
    import keras

    from skinml.models.classifier import build_classifier

    data = open_data(config.data, config.data_dir)
    rows = known_rows(data)
    whole = build_classifier(config, len(CLASSES))
    part = keras.Model(whole.backbone.input, whole.backbone.get_layer(after).output)
    pixels = keras.Input(whole.model.input_shape[1:], dtype="uint8")
    lower = keras.Model(pixels, part(whole.model.get_layer("preprocessing")(pixels)))
    return answers_of_views(f"maps {after}", lower, config, data, rows, np.float16)


def network_of(config: Config, after: str, head: tuple[np.ndarray, ...]) -> Any:
    """The classifier whose part behind a layer is to be fine-tuned, with a trained head."""
    import keras

    from skinml.models.classifier import Classifier, build_classifier, unfreeze

    whole = build_classifier(config, len(CLASSES))
    whole.head.set_weights(list(head))
    if after != ALL:
        upper = keras.Model(whole.backbone.get_layer(after).output, whole.backbone.output)
        pooled = keras.layers.GlobalAveragePooling2D()(upper.output)
        model = keras.Model(upper.input, whole.head(pooled))
        whole = Classifier(model, model, whole.head, upper)
    unfreeze(whole, config.batch_norm)
    return whole


def fine_tune(task: Task) -> list[dict[str, str]]:
    """The rows of a trial on a fold, one a share of `BLENDS`."""
    trial, fold, head, plain = task
    data = open_data(plain.data, plain.data_dir)
    rows = known_rows(data)
    config = config_of(trial, plain)
    maps = None if trial.after == ALL else kept_maps(plain, trial.after)

    def inputs(places: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        if maps is None:
            return transform(data.images[rows[places]], symmetries)
        return np.asarray(maps[places * SYMMETRIES + symmetries], np.float32)

    classifier = network_of(config, trial.after, head)
    split, labels = folds_of(data)[fold], data.labels[rows]
    before = kept = classifier.model.get_weights()
    started = time.perf_counter()
    if trial.epochs:
        kept = trained(trial, classifier, config, inputs, split, labels)
    seconds = time.perf_counter() - started
    found = []
    for share in BLENDS if trial.epochs else BLENDS[:1]:
        pairs = zip(before, kept, strict=True)
        classifier.model.set_weights([(1 - share) * old + share * new for old, new in pairs])
        scores = scores_of(classifier.model, inputs, split[1])
        one = figures([scores[:, 0]], labels, [split])[0]
        eight = figures([scores.mean(axis=1)], labels, [split])[0]
        values = {"one_view": one[0], **dict(zip(FIGURES, eight, strict=True))}
        name = str(trial) if share == 1 else f"{trial} blend={share}"
        found.append(
            {"trial": name, "fold": str(fold)}
            | {key: f"{value:.4f}" for key, value in values.items()}
            | {"seconds": f"{seconds:.0f}"}
        )
    return found


def trained(
    trial: Trial, classifier: Any, config: Config, inputs: Inputs, split: Split, labels: np.ndarray
) -> list[np.ndarray]:
    """The weights that a trial ends with."""
    from skinml.evaluation.metrics import epoch_metrics
    from skinml.training.backend import PLAIN
    from skinml.training.inputs import Prepared, TrainingData
    from skinml.training.loop import _Stage

    train, validation = split

    def shown(places: np.ndarray, plan: EpochPlan) -> np.ndarray:
        given = inputs(train[places], plan.symmetries[places])
        if plan.crops is None or plan.lights is None:
            return given
        return vary(given, plan.crops[places], plan.lights[places])

    # The last epoch's are taken, whatever validation says: it is not asked in between.
    unknown = np.full((len(validation), len(CLASSES)), 1 / len(CLASSES))
    prepared = Prepared(classifier.model, shown, lambda: unknown)
    known = TrainingData(np.empty(0), labels, train, validation)
    rate = trial.learning_rate
    stage = _Stage("finetune", prepared, config, known, PLAIN, rate, trial.epochs)
    *_, (_, weights) = stage.epochs(0, 0, classifier, epoch_metrics, [])
    return weights


def scores_of(network: Any, inputs: Inputs, places: np.ndarray) -> np.ndarray:
    """What a network says of some images in each view: (n, 8, K) float64."""
    views = np.array([(place, view) for place in places for view in range(SYMMETRIES)])
    batches = (inputs(*views[part].T) for part in slices(len(views), INFERENCE_BATCH))
    found = np.concatenate([answer(network, batch) for batch in prefetch(batches)])
    return found.reshape(len(places), SYMMETRIES, -1).astype(np.float64)


def begin(cores: Any) -> None:
    """Make a process of the pool ready, on cores of its own."""
    os.sched_setaffinity(0, cores.get())
    backend.configure("cpu", 0, 0)


def rows_of(
    trials: list[Trial], config: Config, jobs: int, there: set[tuple[str, str]], folds: int
) -> Iterator[dict[str, str]]:
    """The rows of all trials and folds that are not `there`, as they are done."""
    wanted = [(t, f) for t in trials for f in range(folds) if (str(t), str(f)) not in there]
    if not wanted:
        return
    data = open_data(config.data, config.data_dir)
    rows = known_rows(data)
    backend.configure("cpu", 0, 0)
    features = frozen_features(config, data, rows)[:, :, 0]
    one_layer = Head(widths=(), epochs=50)
    heads = train_heads(one_layer, features, data.labels[rows], folds_of(data))
    tasks = [Task(t, f, heads[f][0], config) for t, f in wanted]
    for after in sorted({t.after for t, _ in wanted} - {ALL}):
        kept_maps(config, after)
    context = get_context("spawn")  # TensorFlow does not survive a fork.
    cores, usable = context.Queue(), sorted(os.sched_getaffinity(0))
    for job in range(jobs):
        cores.put(usable[job::jobs])
    with (
        ProcessPoolExecutor(jobs, context, begin, (cores,)) as pool,
        progress_bar("fine-tuning", len(tasks)) as advance,
    ):
        advance(0)
        for done in as_completed([pool.submit(fine_tune, task) for task in tasks]):
            yield from done.result()
            advance(1)


def summary(rows: list[dict[str, str]]) -> str:
    """A line a trial, beside the head alone on the same folds."""
    by_trial: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], {})[row["fold"]] = row
    reference = by_trial[str(Trial(epochs=0))]
    lines = []
    for name, of_fold in by_trial.items():
        shared = sorted(of_fold.keys() & reference.keys())

        def column(key: str, of: dict[str, dict[str, str]], on: list[str] = shared) -> np.ndarray:
            return np.array([float(of[fold][key]) for fold in on])

        change = column(FIGURES[0], of_fold) - column(FIGURES[0], reference)
        width = f" ± {half_width(change):.4f}" if len(shared) == FOLDS else ""
        lines.append(
            [
                name,
                str(len(shared)),
                *(f"{column(key, of_fold).mean():.4f}" for key in ("one_view", *FIGURES)),
                f"{change.mean():+.4f}{width}",
                f"{column('seconds', of_fold).mean():.0f}",
            ]
        )
    heading = ["fine-tuning", "folds", "1 view", "8 views", "melanoma", "keratosis", "macro AUC"]
    return table([*heading, "accuracy", "8 views − the head alone", "s a fold"], lines)


def main() -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--model", default="mobilenet")
    made.add_argument("--weights", default="imagenet", help="as of `python -m skinml.run`")
    made.add_argument("--data", choices=("demo", "isic2017"), default="isic2017")
    made.add_argument("--data_dir", default="auto", help="as of `python -m skinml.run`")
    made.add_argument("--trial", type=Trial.of, action="append", default=[], help="may be repeated")
    made.add_argument("--folds", type=int, default=FOLDS, help="the first of the five, for a look")
    made.add_argument("--jobs", type=int, default=2, help="at once, each on a share of the cores")
    made.add_argument("--out", type=Path, required=True, help="folder of folds.csv")
    options = made.parse_args()
    trials = [Trial(epochs=0), *options.trial]
    if odd := [str(t) for t in trials if t.after != ALL and t.augmentation == "crops"]:
        raise UserError(f"--trial {odd[0]}: crops are of pixels; expected after=all")
    config = Config(
        model=options.model, weights=options.weights, data=options.data, data_dir=options.data_dir
    )
    refuse_another(options.out, config, open_data(config.data, config.data_dir))
    path = options.out / "folds.csv"
    known: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            known = list(csv.DictReader(file))
    there = {(row["trial"], row["fold"]) for row in known}
    for row in rows_of(trials, config, options.jobs, there, options.folds):
        known.append(row)
        write_rows(path, known)
    (options.out / "surroundings.json").write_text(json.dumps(surroundings(), indent=2) + "\n")
    print(summary(known))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
