"""How long a whole comparison takes in today's build and in an earlier one, in turn.

    python -m benchmarks.builds [--before COMMIT] [--repeats 5] [--json] [--out FOLDER]

`python -m skinml.compare --from FOLDER` of nine cells with three seeds each, generated tables of
550 images. The earlier build is a worktree of its commit, run by the same Python with the same
libraries. Each call in a process of its own, which is asked for its seconds and those of the
processor: the latter count where the machine has other work. Target: at least twice as fast.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    BEFORE,
    ROOT,
    earlier_build,
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
from skinml.evaluation.predictions import Predictions, write_predictions

TARGET = 2.0
COUNTS = (104, 369, 77)
MODELS = ("mobilenet", "mobilenetv2", "nasnetmobile")


def write_runs(folder: Path) -> None:
    """Nine cells with three seeds each, as `compare --out` exports runs."""
    labels = np.repeat(np.arange(3), COUNTS)
    ids = np.array([f"ISIC_{number:07d}" for number in range(len(labels))])
    shared = np.random.default_rng(0).normal(size=(len(labels), 3))
    for number in range(27):
        cell, seed = divmod(number, 3)
        network, size = divmod(cell, 3)
        config = Config(model=MODELS[network], batch_size=(16, 32, 64)[size], seed=seed,
                        weights="none", test_fraction=0.2)  # fmt: skip
        logits = shared + np.random.default_rng([1, number]).normal(size=shared.shape)
        scores = np.exp(logits + 1.5 * np.eye(3)[labels])
        scores /= scores.sum(axis=1, keepdims=True)
        own = folder / f"{config.model}-{config.batch_size}-seed{seed}"
        own.mkdir()
        tags = {
            "kind": "training", "model": config.model, "batch_size": str(config.batch_size),
            "seed": str(seed), "data": "isic2017", "protocol": "paper",
            "split": "paper test=0.2 val=0.2 seed=0", "weights_kind": "none",
            "data_digest": "0" * 16, "training_digest": "1" * 16,
        }  # fmt: skip
        params = {name: str(value) for name, value in config.as_dict().items()}
        description = {"run_id": own.name, "started": number, "params": params, "tags": tags}
        (own / "run.json").write_text(json.dumps(description))
        (own / "metrics.json").write_text(json.dumps({"latency_ms": 30.0, "best_epoch": 2.0}))
        write_predictions(Predictions(ids, labels, scores, CLASSES), own / "predictions_test.csv")


def measured(build: Path, runs: Path, kind: str, found: dict[str, list[float]]) -> float:
    """Seconds of one comparison; those of the processor are kept in `found`.

    Python looks in the folder it is called in first, so that it is this build's.
    """
    before = os.times()
    ended = subprocess.run(
        [sys.executable, "-m", "skinml.compare", "--from", str(runs), "--format", kind],
        cwd=build, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = os.times()
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    used = after.children_user + after.children_system
    found[str(build)].append(used - before.children_user - before.children_system)
    return after.elapsed - before.elapsed


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--before", default=BEFORE, help="the earlier build (default: %(default)s)")
    options = made.parse_args()
    around = surroundings()
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch)
        write_runs(runs)
        with earlier_build(options.before) as earlier:
            for kind in ("terminal", "html"):
                processor: dict[str, list[float]] = {str(earlier): [], str(ROOT): []}
                sides: dict[str, Callable[[], float]] = {
                    "earlier": partial(measured, earlier, runs, kind, processor),
                    "today": partial(measured, ROOT, runs, kind, processor),
                }
                for side in sides.values():
                    side()  # The files come from the disk once, and are compiled.
                for own in processor.values():
                    own.clear()
                wall = in_turn(f"comparing, {kind}", sides, options.repeats)
                used = {"earlier": processor[str(earlier)], "today": processor[str(ROOT)]}
                for what, values in {"wall": wall, "processor": used}.items():
                    times = ratio(values["earlier"], values["today"])
                    results[f"{kind}, {what}"] = {
                        "seconds": {name: spread(each) for name, each in values.items()},
                        "times_as_fast": times,
                    }
                    rows.append(
                        [kind, what, *(shown(spread(each)) for each in values.values()),
                         shown(times), f">= {TARGET:g}", verdict(times["median"] >= TARGET)]
                    )  # fmt: skip
    heading = ["format", "seconds of", f"{options.before}", "today", "times as fast", "target", ""]
    text = table(heading, rows)
    report(options, {**around, "before": options.before, "results": results}, text)


if __name__ == "__main__":
    main()
