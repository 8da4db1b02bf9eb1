"""What an exported network costs and loses: every format and precision, beside Keras.

    python -m benchmarks.export RUN… [--part test validation] [--json] [--out FOLDER]
    python -m benchmarks.export --networks [--weights NAME=FILE…] [--only NAME…] [--jax]

A RUN is a model's URI or a finished run's folder, whose own predictions tables are then Keras's
side; the pictures of the 8-bit ranges are those of the training part. With --networks each backbone
is asked, whether anybody trained it or not: published weights where --weights names some, random
ones else, a logistic regression on its own features of 600 training images as its head, and the
official validation images. With random weights that says what converts and how a file stands to
Keras, and little of what a trained network would lose.

Latency and memory are measured in processes of their own. Last comes Keras's compiled call beside
the float32 files, one thread, in turn (target: at most half its time), and with --jax the same
`.keras` file on JAX, beside what the files answer.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from skinml.base.errors import UserError, first_line
from skinml.export.convert import PRECISIONS, TARGETS

# Keras's compiled call takes at least so many times as long as a float32 file.
TARGET = 2.0

# Training images that a head is fitted on, and that settle an untrained network's normalisation.
FITTED, SETTLED = 600, 64

# One process a file: opened, and asked 60 times in so many threads.
_PROBE = """
import json, sys
from pathlib import Path
import numpy as np
from skinml.evaluation.scoring import measure_latency
path, threads = Path(sys.argv[1]), int(sys.argv[2])
if path.suffix == ".keras":
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from skinml.models.saved import load_saved
    model = load_saved(path)
    compiled = tf.function(lambda pixels: model(pixels, training=False))
    call = lambda pixels: compiled(tf.constant(pixels)).numpy()
else:
    from skinml.models.exported import open_exported
    call = open_exported(path, 3, threads).predict_on_batch
image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
taken = measure_latency(call, image).median
# Not ru_maxrss: that of the process which started this one counts there too.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([taken, int(status["VmHWM"].split()[0]) / 1024]))
"""

# A `.keras` file on JAX: its scores of pictures.
_ON_JAX = """
import sys
from pathlib import Path
import numpy as np
from skinml.models.saved import load_saved
pixels, scores = sys.argv[2:]
np.save(scores, load_saved(Path(sys.argv[1])).predict_on_batch(np.load(pixels)))
"""


def main() -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = _parser().parse_args()
    around = surroundings()
    rows: list[dict[str, Any]] = []
    for row in networks(options) if options.networks else trained(options):
        print(" ".join(cells(row)), file=sys.stderr, flush=True)
        rows.append(row)
        if options.out:  # What takes an hour is kept as it gets done.
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "rows.json").write_text(json.dumps(rows, indent=2) + "\n")
    files = [row for row in rows if "format" in row]
    heading = [
        *("network", "format", "precision", "MB", "macro AUC", "difference (95 % interval)"),
        *("same answers", "largest", "ms, 1 thread", "2 threads", "MB of memory", ""),
    ]
    text = table(heading, [cells(row) for row in files])
    if beside := [cells(row, options.to) for row in rows if "keras_ms" in row]:
        heading = ["network", "Keras, ms", *(f"{to}, ms" for to in options.to)]
        heading += [f"Keras / {to}" for to in options.to]
        heading += [f"target {TARGET:g}, best of them", "MB of memory, Keras", "JAX: largest"]
        text += "\n\n" + table(heading, beside)
    report(options, {**around, "rows": rows}, text)
    if options.out:
        (options.out / "rows.json").unlink()


def _parser() -> Any:
    made = parser(__doc__, repeats=3)
    made.add_argument("runs", nargs="*", help="a model's URI or a finished run's folder")
    made.add_argument(
        "--part", nargs="+", choices=("test", "validation"), default=["test"], help="of a RUN"
    )
    made.add_argument("--networks", action="store_true", help="all backbones, with fitted heads")
    made.add_argument("--only", nargs="+", default=[], help="of --networks these alone")
    made.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help="of --networks")
    made.add_argument("--jax", action="store_true", help="of --networks: ask them on JAX as well")
    made.add_argument("--data-dir", default="auto", help="where the pictures are")
    made.add_argument("--to", nargs="+", choices=TARGETS, default=TARGETS, help="default: both")
    made.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    return made


def trained(options: Any) -> Iterator[dict[str, Any]]:
    """A row for each format, precision and part of trained networks' images."""
    from skinml.export.convert import convert
    from skinml.export.source import open_pictures, open_source
    from skinml.models.saved import load_saved

    for uri in options.runs:
        with open_source(uri) as source:
            pictures = open_pictures(source, options.data_dir)
            model, name = load_saved(source.file), source.params["model"]
            expected = {part: of_keras(uri, model, pictures, part) for part in options.part}
            contents = {}
            for to, precision in itertools.product(options.to, options.precision):
                row: dict[str, Any] = {"network": name, "format": to, "precision": precision}
                started = time.perf_counter()
                try:
                    calibration = pictures.calibration() if precision == "int8" else None
                    content = convert(model, to, precision, calibration)
                    costs = {"seconds": time.perf_counter() - started} | measured(content, to)
                    for part, keras in expected.items():
                        images = pictures.data.images[pictures.rows(part)]
                        found = verified(content, to, images, keras, part)
                        yield row | {"part": part, "verification": found} | costs
                        costs = {}
                except Exception as error:  # What a converter raises is anybody's guess.
                    yield row | {"failed": first_line(error)[:120]}
                    continue
                if precision == "float32":
                    contents[to] = content
            if contents and options.repeats:
                yield {"network": name} | beside_keras(source.file, contents, options.repeats)


def of_keras(uri: str, model: Any, pictures: Any, part: str) -> Any:
    """What the Keras model says of a part: its run's own table, where that lies there."""
    from skinml.evaluation.predictions import read_predictions
    from skinml.evaluation.scoring import predict_part

    rows, table = pictures.rows(part), Path(uri, f"predictions_{part}.csv")
    if table.is_file():
        said = read_predictions(table)
        if list(said.image_ids) == list(pictures.data.image_ids[rows]):
            return said
    return predict_part(model, pictures.data, rows, part)


def networks(options: Any) -> Iterator[dict[str, Any]]:
    """A row for each format and precision of each backbone, with a head that was fitted to it."""
    from skinml.backbones import BACKBONES
    from skinml.data.prepare import open_data
    from skinml.data.protocols import assign_parts
    from skinml.evaluation.scoring import predict_part
    from skinml.export.convert import convert
    from skinml.export.source import Pictures

    data = open_data("isic2017", options.data_dir)
    pictures = Pictures(data, assign_parts(data, "challenge"))
    weights = dict(one.split("=", 1) for one in options.weights)
    rows = pictures.rows("validation")
    for name in options.only or BACKBONES:
        model = fitted(name, weights.get(name, "none"), pictures)
        expected = predict_part(model, data, rows, "validation")
        said = {"network": name, "weights": "ImageNet" if name in weights else "random"}
        contents = {}
        for to, precision in itertools.product(options.to, options.precision):
            row = {**said, "format": to, "precision": precision}
            started = time.perf_counter()
            try:
                calibration = pictures.calibration() if precision == "int8" else None
                content = convert(model, to, precision, calibration)
                row |= {"seconds": time.perf_counter() - started}
                row |= {
                    "verification": verified(content, to, data.images[rows], expected, "validation")
                }
                yield row | measured(content, to)
            except Exception as error:
                yield row | {"failed": first_line(error)[:120]}
                continue
            if precision == "float32":
                contents[to] = content
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            model.save(path)
            row = said | beside_keras(path, contents, options.repeats)
            yield row | (on_jax(path, contents, data.images[rows[:16]]) if options.jax else {})


def fitted(name: str, weights: str, pictures: Any) -> Any:
    """A network whose head is a logistic regression on its own features of training images."""
    import keras
    from sklearn.linear_model import LogisticRegression

    from skinml.config import Config
    from skinml.models.classifier import batch_norm_layers, build_classifier
    from skinml.models.inference import infer

    keras.utils.set_random_seed(0)
    data = pictures.data
    config = replace(Config(), model=name, weights=weights, head="one")
    classifier = build_classifier(config, len(data.classes))
    rows = np.random.default_rng(1).permutation(pictures.rows("train"))[:FITTED]
    if weights == "none":
        for layer in batch_norm_layers(classifier):
            layer.momentum = 0.0
        # Once, so that what a layer gives has the spread that it would have after a training:
        # else most of these networks give every picture the same scores.
        classifier.model(data.images[np.sort(rows[:SETTLED])], training=True)
    features = infer(classifier.features, data.images, rows)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    regression = LogisticRegression(C=0.01, max_iter=500)
    regression.fit((features - mean) / deviation, data.labels[rows])
    kernel = (regression.coef_ / deviation).T
    classifier.head.layers[-1].set_weights([kernel, regression.intercept_ - mean @ kernel])
    return classifier.model


def verified(
    content: bytes, to: str, images: np.ndarray, expected: Any, part: str
) -> dict[str, Any]:
    """How a file answers beside Keras, as `skinml.export` measures it."""
    from skinml.export.verify import verify

    answers = replace(expected, scores=asked(content, to, images).astype(np.float64))
    return verify(expected, answers, part).as_dict()


def asked(content: bytes, to: str, images: np.ndarray) -> np.ndarray:
    """What a file answers about pictures."""
    from skinml.models.exported import FILES, open_exported

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[to])
        path.write_bytes(content)
        return open_exported(path, 3).predict_on_batch(images)


def measured(content: bytes, to: str) -> dict[str, Any]:
    """Size, latency with one and two threads in ms, and peak memory in MB of one process."""
    from skinml.models.exported import FILES

    found: dict[str, Any] = {"mb": len(content) / 1e6}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[to])
        path.write_bytes(content)
        for threads in (1, 2):
            found[f"ms_{threads}"], found["memory_mb"] = probed(path, threads)
    return found


def probed(path: Path, threads: int) -> tuple[float, float]:
    """The median of an answer in ms and the peak memory in MB, of a process of its own."""
    command = [sys.executable, "-c", _PROBE, str(path), str(threads)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(f"{path.name}: {ended.stderr.splitlines()[-1]}")
    taken, memory = json.loads(ended.stdout.splitlines()[-1])
    return taken, memory


def beside_keras(keras: Path, contents: dict[str, bytes], repeats: int) -> dict[str, Any]:
    """Keras's compiled call beside the float32 files: one thread, one picture, in turn."""
    from skinml.models.exported import FILES

    memory = []
    with tempfile.TemporaryDirectory() as folder:
        sides = {"keras": keras}
        for to, content in contents.items():
            sides[to] = Path(folder, FILES[to])
            sides[to].write_bytes(content)

        def taken(side: str) -> float:
            milliseconds, peak = probed(sides[side], 1)
            if side == "keras":
                memory.append(peak)
            return milliseconds

        values = in_turn("latency", {side: partial(taken, side) for side in sides}, repeats)
    return {
        "keras_ms": values["keras"],
        "keras_memory_mb": memory,
        "file_ms": {to: values[to] for to in contents},
        "ratios": {to: ratio(values["keras"], values[to]) for to in contents},
    }


def on_jax(keras: Path, contents: dict[str, bytes], images: np.ndarray) -> dict[str, Any]:
    """How far the float32 files' scores lie from those of the same network on JAX."""
    pixels, scores = keras.with_name("pixels.npy"), keras.with_name("scores.npy")
    np.save(pixels, images)
    command = [sys.executable, "-c", _ON_JAX, str(keras), str(pixels), str(scores)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": "jax"},
    )
    if ended.returncode:
        return {"jax_failed": ended.stderr.splitlines()[-1][:120]}
    there = np.load(scores)
    answers = {to: asked(content, to, images) for to, content in contents.items()}
    return {"jax": {to: float(np.abs(one - there).max()) for to, one in answers.items()}}


def cells(row: dict[str, Any], formats: Sequence[str] = TARGETS) -> list[str]:
    """A row as its table has it; what failed has empty cells."""
    name = row["network"] + (f", {row['weights']}" if "weights" in row else "")
    if "keras_ms" in row:
        best = max((one["median"] for one in row["ratios"].values()), default=0.0)
        jax = ", ".join(f"{to} {value:.1e}" for to, value in row.get("jax", {}).items())
        return [
            *(name, shown(spread(row["keras_ms"]), 1)),
            *(
                shown(spread(row["file_ms"][to]), 1) if to in row["file_ms"] else ""
                for to in formats
            ),
            *(shown(row["ratios"][to], 1) if to in row["ratios"] else "" for to in formats),
            *(verdict(best >= TARGET), f"{max(row['keras_memory_mb']):.0f}"),
            row.get("jax_failed", jax),
        ]
    part = f", {row['part']}" if "part" in row else ""
    start = [name + part, row["format"], row["precision"]]
    if "failed" in row:
        return [*start, *[""] * 8, row["failed"]]

    def of(cost: str, digits: int) -> str:
        return f"{row[cost]:.{digits}f}" if cost in row else ""

    found = row["verification"]
    macro = found["figures"]["auc_macro"]
    difference = macro["exported"] - macro["keras"]
    interval = f"{difference:+.4f} ({macro['low']:+.4f} to {macro['high']:+.4f})"
    return [
        *(*start, of("mb", 1), f"{macro['exported']:.4f}", interval),
        *(f"{found['same']:.1%}", f"{found['largest']:.2g}"),
        *(of("ms_1", 1), of("ms_2", 1), of("memory_mb", 0)),
        "refused" if macro["low"] < -0.01 else "",
    ]


if __name__ == "__main__":
    main()
