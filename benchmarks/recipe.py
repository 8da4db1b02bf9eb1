"""What the recipe `ours` was chosen from: heads on frozen features, by cross-validation.

    python -m benchmarks.recipe --weights FILE [--model mobilenet] [--data isic2017] [--out …]

Only the official training and validation parts are read, never the test part. Their frozen
features in all eight symmetric views are computed once and kept. Each row of `TRIALS` is a way to
train a head on them; every one is trained by the same ten splits (five folds, drawn twice,
stratified, near-duplicates together), all ten at once, and answers about the images of its fold,
as one view and as the mean of eight. The interval of a difference from the first row is Nadeau and
Bengio's, "Inference for the generalization error" (2003): the trainings of a cross-validation
share images, and the usual t-test would take them for independent.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import surroundings, table
from benchmarks.heads import Split, Trial, scores_of, train_heads
from skinml.base.cache import cached_array
from skinml.base.errors import UserError, run_command
from skinml.base.progress import progress_bar
from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.data.pipeline import SYMMETRIES, slices, transform
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.evaluation.metrics import evaluate
from skinml.evaluation.predictions import Predictions
from skinml.models.inference import INFERENCE_BATCH, answer
from skinml.models.weights import weights_digest
from skinml.training import backend

FOLDS = 5
REPEATS = 2
POOLINGS = ("global", "2x2")
FIGURES = ("challenge_auc", "melanoma_auc", "keratosis_auc", "auc_macro", "accuracy")


def known_rows(data: PreparedSet) -> np.ndarray:
    """The rows that a choice may look at: all that are not of the official test part."""
    return np.flatnonzero(data.official_parts != "test")


def frozen_features(config: Config, data: PreparedSet, rows: np.ndarray) -> np.ndarray:
    """The backbone's features of some images: (n, 8 views, 2 poolings, D) float32, kept."""
    import keras

    from skinml.models.classifier import build_classifier

    network = build_classifier(config, len(CLASSES)).features
    maps = network.get_layer("global_pooling").input
    halved = keras.layers.MaxPooling2D(2, padding="same")(maps)
    pooled = [keras.layers.GlobalAveragePooling2D()(features) for features in (maps, halved)]
    both = keras.Model(network.input, keras.layers.Concatenate()(pooled))
    features = answers_of_views("recipe", both, config, data, rows, np.float32)
    return np.array(features).reshape(len(rows), SYMMETRIES, len(POOLINGS), -1)


def answers_of_views(
    name: str, network: Any, config: Config, data: PreparedSet, rows: np.ndarray, dtype: Any
) -> np.ndarray:
    """A network's answers to some images in eight views, image by image: (n · 8, …), kept.

    `name` tells it from other networks that are built of the same `config` and data.
    """
    views = [(row, symmetry) for row in rows for symmetry in range(SYMMETRIES)]

    def fill(answers: np.ndarray, done: int) -> Generator[int]:
        with progress_bar("computing features", len(views)) as advance:
            advance(done)
            for part in slices(len(views), INFERENCE_BATCH):
                if part.stop <= done:
                    continue
                chosen, symmetries = np.array(views[part]).T
                answers[part] = answer(network, transform(data.images[chosen], symmetries))
                advance(part.stop - part.start)
                yield part.stop

    key = f"{name} {' '.join(material(config, data).values())} {len(rows)}"
    return cached_array(key, (len(views), *network.output_shape[1:]), dtype, fill)


def material(config: Config, data: PreparedSet) -> dict[str, str]:
    """What the rows of one table have in common."""
    weights = weights_digest(config.weights) or config.weights
    return {"model": config.model, "weights": weights, "data": data.digest}


def refuse_another(folder: Path, config: Config, data: PreparedSet) -> None:
    """A folder with rows of another network, other weights or data is a `UserError`; else begun."""
    path, wanted = folder / "material.json", material(config, data)
    if path.exists() and (there := json.loads(path.read_text())) != wanted:
        raise UserError(
            f"--out {folder.name}: its rows are of {' '.join(there.values())}; expected a folder "
            f"of {' '.join(wanted.values())}, or a new one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=2) + "\n")


PAPER = Trial()
ONE = Trial(widths=(), epochs=20)

TRIALS: tuple[Trial, ...] = (
    PAPER,
    *(replace(PAPER, epochs=epochs) for epochs in (5, 10, 20)),
    replace(PAPER, epochs=10, dropout=0.5),
    replace(PAPER, epochs=10, label_smoothing=0.1),
    replace(PAPER, epochs=10, mixup=0.2),
    replace(PAPER, epochs=10, ema=0.99),
    replace(PAPER, epochs=10, class_weights="balanced"),
    replace(PAPER, epochs=10, pooling="2x2"),
    replace(PAPER, epochs=10, widths=(256,)),
    *(replace(ONE, epochs=epochs) for epochs in (5, 10, 20, 50)),
    *(replace(ONE, learning_rate=rate) for rate in (3e-4, 3e-3)),
    *(replace(ONE, weight_decay=decay) for decay in (0.0, 0.1, 1.0)),
    *(replace(ONE, batch_size=size) for size in (32, 64)),
    replace(ONE, label_smoothing=0.1),
    *(replace(ONE, mixup=mixup) for mixup in (0.2, 1.0)),
    replace(ONE, class_weights="balanced"),
    replace(ONE, focal=2.0),
    *(replace(ONE, ema=ema) for ema in (0.99, 0.999)),
    replace(ONE, pooling="2x2"),
    replace(ONE, views=1),
    # What looked best, together, and for longer.
    replace(ONE, epochs=100),
    replace(ONE, epochs=50, learning_rate=3e-3),
    replace(ONE, epochs=50, weight_decay=1.0),
    replace(ONE, epochs=50, learning_rate=3e-3, weight_decay=1.0),
    replace(ONE, epochs=50, label_smoothing=0.1),
    replace(ONE, epochs=50, mixup=0.2),
    replace(ONE, epochs=50, ema=0.999),
    replace(ONE, epochs=50, batch_size=32),
    replace(PAPER, epochs=20, widths=(256,)),
    replace(PAPER, epochs=20, label_smoothing=0.1),
    replace(PAPER, epochs=20, weight_decay=1.0),
)
SEEDS = (0, 1, 2)  # of the soft votes


def make_splits(labels: np.ndarray, groups: np.ndarray) -> list[Split]:
    """Each fold of each repeat."""
    from sklearn.model_selection import StratifiedGroupKFold

    return [
        pair
        for repeat in range(REPEATS)
        for pair in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat).split(
            labels, labels, groups
        )
    ]


def figures(scores: list[np.ndarray], labels: np.ndarray, splits: list[Split]) -> np.ndarray:
    """Each of FIGURES of each split, (splits, figures), by the (n, K) scores of its validation."""
    rows = []
    for (_, validation), found in zip(splits, scores, strict=True):
        table = Predictions(validation.astype(str), labels[validation], found, CLASSES)
        rows.append([float(v[0]) for v in evaluate(table, names=FIGURES).values()])
    return np.array(rows)


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean over the splits, by Nadeau and Bengio's correction."""
    from scipy import stats

    share = 1 / (FOLDS - 1)  # images for validation, over those for training
    error = math.sqrt(values.var(ddof=1) * (1 / len(values) + share))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def try_all(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, known: dict[str, dict[str, str]]
) -> Iterator[dict[str, str]]:
    """A row a trial that is not known yet, and one a soft vote of three seeds of the best trial.

    The first trial is made in any case: the others are compared with it, split by split.
    """
    splits = make_splits(labels, groups)

    def scores(trial: Trial, seed: int = 0) -> list[np.ndarray]:
        pooled = features[:, :, POOLINGS.index(trial.pooling)]
        heads = train_heads(trial, pooled, labels, splits, seed)
        return [scores_of(h, pooled[rows]) for h, (_, rows) in zip(heads, splits, strict=True)]

    reference = scores(TRIALS[0])
    first = figures([each[:, 0] for each in reference], labels, splits)
    rows = {}
    for trial in TRIALS:
        row = known.get(str(trial))
        if trial == TRIALS[0]:
            row = _row(str(trial), reference, labels, splits, first)
        rows[trial] = row or _row(str(trial), scores(trial), labels, splits, first)
        yield rows[trial]
    best = max(rows, key=lambda trial: float(rows[trial]["challenge_auc_8_views"]))
    each = [scores(best, seed) for seed in SEEDS]
    mean = [np.mean(of_a_split, axis=0) for of_a_split in zip(*each, strict=True)]
    yield _row(f"{best}; soft vote of {len(SEEDS)} seeds", mean, labels, splits, first)


def _row(
    name: str, scores: list[np.ndarray], labels: np.ndarray, splits: list[Split], first: np.ndarray
) -> dict[str, str]:
    """The figures of a trial by its scores (n, 8, K), beside those of the first, of one view."""
    one = figures([each[:, 0] for each in scores], labels, splits)
    eight = figures([each.mean(axis=1) for each in scores], labels, splits)
    change = eight[:, 0] - first[:, 0]
    row = {
        "challenge_auc_1_view": one[:, 0].mean(),
        "challenge_auc_8_views": eight[:, 0].mean(),
        "half_width": half_width(eight[:, 0]),
        "change": change.mean(),
        "change_half_width": half_width(change),
        **dict(zip(FIGURES[1:], eight[:, 1:].mean(axis=0), strict=True)),
    }
    return {"trial": name} | {key: f"{value:.4f}" for key, value in row.items()}


def as_text(rows: Sequence[dict[str, str]]) -> str:
    heading = ["head", "1 view", "8 views", "8 views − first row, 1 view", "melanoma", "keratosis",
               "macro AUC", "accuracy"]  # fmt: skip
    return table(
        heading,
        [
            [
                row["trial"],
                row["challenge_auc_1_view"],
                f"{row['challenge_auc_8_views']} ± {float(row['half_width']):.3f}",
                f"{float(row['change']):+.4f} ± {row['change_half_width']}",
                *(row[name] for name in FIGURES[1:]),
            ]
            for row in rows
        ],
    )


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of an earlier table.csv by their trial; none where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--model", default="mobilenet")
    made.add_argument("--weights", default="imagenet", help="as of `python -m skinml.run`")
    made.add_argument("--data", choices=("demo", "isic2017"), default="isic2017")
    made.add_argument("--data_dir", default="auto", help="as of `python -m skinml.run`")
    made.add_argument(
        "--out", type=Path, required=True, help="folder of table.csv, gone on with where it is"
    )
    options = made.parse_args()
    backend.configure("cpu", 0, 0)
    data = open_data(options.data, options.data_dir)
    rows = known_rows(data)
    config = Config(model=options.model, weights=options.weights, data=options.data)
    refuse_another(options.out, config, data)
    features = frozen_features(config, data, rows)
    path = options.out / "table.csv"
    known, found = read_rows(path), {}
    for row in try_all(features, data.labels[rows], data.near_groups[rows], known):
        found[row["trial"]] = row
        write_rows(path, list((known | found).values()))
    (options.out / "surroundings.json").write_text(json.dumps(surroundings(), indent=2) + "\n")
    print(as_text(list(found.values())))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
