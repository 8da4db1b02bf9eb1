"""What an exported network costs and loses: every format and precision, beside Keras.

    python -m benchmarks.export RUN… [--json] [--out FOLDER]     trained networks, test images
    python -m benchmarks.export --networks [--json] [--out FOLDER]   all backbones, random weights

A RUN is a model's URI or a finished run's folder. AUC and answers are those of the test part, the
pictures of the 8-bit ranges those of the training part. Latency and memory are measured in
processes of their own. Random weights say nothing of a loss: they show what converts, and whether
the file answers as Keras does, after batch normalisation has seen real pictures once.
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
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import parser, report, surroundings, table
from skinml.base.errors import UserError, first_line
from skinml.export.convert import PRECISIONS, TARGETS

# One process a file: opened, and asked 60 times in so many threads.
_PROBE = """
import json, sys
from pathlib import Path
import numpy as np
from skinml.evaluation.scoring import measure_latency
from skinml.models.exported import open_exported
network = open_exported(Path(sys.argv[1]), 3, int(sys.argv[2]))
image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
taken = measure_latency(network.predict_on_batch, image).median
# Not ru_maxrss: that of the process which started this one counts there too.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([taken, int(status["VmHWM"].split()[0]) / 1024]))
"""


def main() -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    made = parser(__doc__, repeats=1)
    made.add_argument("runs", nargs="*", help="a model's URI or a finished run's folder")
    made.add_argument("--networks", action="store_true", help="all backbones, random weights")
    made.add_argument("--only", nargs="+", default=[], help="of --networks these alone")
    made.add_argument("--to", nargs="+", choices=TARGETS, default=TARGETS, help="default: both")
    options = made.parse_args()
    around = surroundings()
    rows: list[dict[str, Any]] = []
    for row in (
        networks(options.only, options.to)
        if options.networks
        else trained(options.runs, options.to)
    ):
        print(" ".join(shown(row)), file=sys.stderr, flush=True)
        rows.append(row)
    heading = [
        *("network", "format", "precision", "MB", "macro AUC", "difference (95 % interval)"),
        *("same answers", "largest", "ms, 1 thread", "2 threads", "MB of memory", ""),
    ]
    text = table(heading, [shown(row) for row in rows])
    report(options, {**around, "rows": rows}, text)


def trained(runs: list[str], formats: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each format and precision of trained networks, on their test images."""
    from skinml.export.made import make
    from skinml.export.source import open_pictures, open_source

    for uri in runs:
        with open_source(uri) as source:
            pictures = open_pictures(source)
            for to, precision in itertools.product(formats, PRECISIONS):
                name = source.params["model"]
                row: dict[str, Any] = {"network": name, "format": to, "precision": precision}
                started = time.perf_counter()
                try:
                    one = make(source, pictures, to, precision, allow_loss=True, part="test")
                except Exception as error:  # What a converter raises is anybody's guess.
                    yield row | {"failed": first_line(error)[:120]}
                    continue
                row |= {"seconds": time.perf_counter() - started}
                row |= {"verification": one.verification.as_dict()}
                yield row | measured(one.content, to)


def networks(only: list[str], formats: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each backbone and format, with weights that nobody trained."""
    import keras

    from skinml.backbones import BACKBONES
    from skinml.config import Config
    from skinml.data.isic2017 import CLASSES
    from skinml.data.prepare import open_data
    from skinml.export.convert import convert
    from skinml.models.classifier import batch_norm_layers, build_classifier

    images = np.asarray(open_data("isic2017").images[:64])
    for name in only or BACKBONES:
        keras.utils.set_random_seed(0)
        config = replace(Config(), model=name, weights="none")
        classifier = build_classifier(config, len(CLASSES))
        for layer in batch_norm_layers(classifier):
            layer.momentum = 0.0
        # Once, so that what a layer gives has the spread that it would have after a training.
        classifier.model(images[:32], training=True)
        expected = np.concatenate([classifier.model.predict_on_batch(i[None]) for i in images[32:]])
        for to, precision in itertools.product(formats, PRECISIONS):
            row = {"network": name, "format": to, "precision": precision}
            started = time.perf_counter()
            try:
                content = convert(classifier.model, to, precision, images[:32])
                row |= answers(content, to, images[32:], expected)
            except Exception as error:
                yield row | {"failed": first_line(error)[:120]}
                continue
            yield row | {"seconds": time.perf_counter() - started} | measured(content, to)


def answers(content: bytes, to: str, images: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """How a file answers beside Keras, and how far Keras's own answers lie apart."""
    from skinml.models.exported import FILES, open_exported

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[to])
        path.write_bytes(content)
        scores = open_exported(path, expected.shape[1]).predict_on_batch(images)
    return {
        "same": float((scores.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "largest": float(np.abs(scores - expected).max()),
        "spread": float(expected.std(axis=0).max()),
    }


def measured(content: bytes, to: str) -> dict[str, Any]:
    """Size, latency with one and two threads in ms, and peak memory in MB of one process."""
    from skinml.models.exported import FILES

    found: dict[str, Any] = {"mb": len(content) / 1e6}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[to])
        path.write_bytes(content)
        for threads in (1, 2):
            command = [sys.executable, "-c", _PROBE, str(path), str(threads)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise UserError(f"{path.name}: {ended.stderr.splitlines()[-1]}")
            found[f"ms_{threads}"], found["memory_mb"] = json.loads(ended.stdout)
    return found


def shown(row: dict[str, Any]) -> list[str]:
    """A row as its table has it."""
    start = [row["network"], row["format"], row["precision"]]
    if "failed" in row:
        return [*start, *[""] * 8, row["failed"]]
    cost = [f"{row['ms_1']:.1f}", f"{row['ms_2']:.1f}", f"{row['memory_mb']:.0f}"]
    if "verification" not in row:
        same, largest = f"{row['same']:.1%}", f"{row['largest']:.2g} of {row['spread']:.2g}"
        return [*start, f"{row['mb']:.1f}", "", "", same, largest, *cost, ""]
    found = row["verification"]
    macro = found["figures"]["auc_macro"]
    difference = macro["exported"] - macro["keras"]
    interval = f"{difference:+.4f} ({macro['low']:+.4f} to {macro['high']:+.4f})"
    verdict = "refused" if macro["low"] < -0.01 else ""
    auc, same, largest = macro["exported"], found["same"], found["largest"]
    return [
        *start,
        f"{row['mb']:.1f}",
        f"{auc:.4f}",
        interval,
        f"{same:.1%}",
        f"{largest:.2g}",
        *cost,
        verdict,
    ]


if __name__ == "__main__":
    main()
