"""Runs of a small network, one after another in one process, each tracked with its own forwarder.

    python -m benchmarks.faults.trainer EPOCHS

Reads "FOLDER DRAIN_LIMIT" a line a run. Prints "first" at a run's first optimizer step, "last S W"
at its last, S seconds after the first, W of which went to the records of its epochs, and "end N"
with the number of records not sent yet.
"""

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.run.tracked import track
from skinml.tracking.folder import RunFolder
from tests.conftest import add_tiny_backbone

# Images of an epoch, and of its validation.
IMAGES, VALIDATION = 256, 32


def main() -> None:
    from skinml.training import backend

    backend.configure("cpu", 0, 0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        add_tiny_backbone(monkeypatch)
        for line in sys.stdin:
            path, limit = line.split()
            _run(RunFolder(Path(path)), float(limit), monkeypatch)


def _run(folder: RunFolder, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from skinml.config import Config
    from skinml.data.isic2017 import CLASSES
    from skinml.evaluation.metrics import epoch_metrics
    from skinml.models.classifier import build_classifier
    from skinml.training.inputs import TrainingData
    from skinml.training.loop import train
    from skinml.training.steps import Steps

    random = np.random.default_rng(0)
    count = IMAGES + VALIDATION
    data = TrainingData(
        random.integers(0, 256, (count, 224, 224, 3), np.uint8),
        random.integers(0, len(CLASSES), count),
        np.arange(IMAGES),
        np.arange(IMAGES, count),
    )
    config = Config(
        model="tiny", weights="none", dense_units="16,8,8", epochs_frozen=0,
        epochs_finetune=int(sys.argv[1]), device="cpu",
    ).resolved()  # fmt: skip
    times: list[float] = []
    waited: list[float] = []
    epoch = Steps.epoch

    def watched(steps: Steps, groups: Any) -> Iterator[Any]:
        for done in epoch(steps, groups):
            if not times:
                print("first", flush=True)
            times.append(time.perf_counter())
            yield done

    with monkeypatch.context() as patched:
        patched.setattr(Steps, "epoch", watched)
        with track(folder, folder.read_description(), drain_limit=limit) as tracked:

            def on_epoch(row: Any) -> None:
                began = time.perf_counter()
                tracked.log_epoch(row)
                waited.append(time.perf_counter() - began)
                folder.append_epoch(row)

            classifier = build_classifier(config, len(CLASSES))
            tracked.raise_if_refused()
            train(classifier, config, data, epoch_metrics, on_epoch)
            print(f"last {times[-1] - times[0]:.4f} {sum(waited):.4f}", flush=True)
            folder.finish()
            tracked.log_results()
    assert tracked.forwarder
    left = tracked.journal.sequence - tracked.forwarder.state().sequence
    print(f"end {left}", flush=True)
    keras.backend.clear_session()
    gc.collect()


if __name__ == "__main__":
    main()
