"""The real `skinml.run` with a made-up network of three epochs, each followed by its checkpoint.

Of its environment: an epoch takes $SKINML_TEST_EPOCH seconds, the second one waits for the file
$SKINML_TEST_GO, that of the model $SKINML_TEST_SLOW has no end, and $SKINML_TEST_TRACE gets a line
an epoch, written before its checkpoint, so that an epoch which is lost and trained again is there
twice.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.errors import run_command
from skinml.config import Config
from skinml.run import __main__ as run
from skinml.run import end_to_end
from skinml.training import backend
from skinml.training.checkpoint import Checkpoint
from skinml.training.history import Row

EPOCHS = 3


def train(
    config: Config,
    setup: Any,
    on_epoch: Callable[[Row], None],
    ready: Callable[[], None],
    checkpoint: Checkpoint | None,
    save: Callable[[Checkpoint], None],
    on_features: Callable[[int, int], None],
) -> tuple[None, None, float]:
    ready()
    history = list(checkpoint.history) if checkpoint else []
    for epoch in range(len(history) + 1, EPOCHS + 1):
        go = os.environ.get("SKINML_TEST_GO")
        while epoch == 2 and go and not Path(go).exists():
            time.sleep(0.05)
        endless = epoch == 2 and config.model == os.environ.get("SKINML_TEST_SLOW")
        time.sleep(600 if endless else float(os.environ.get("SKINML_TEST_EPOCH", "0.2")))
        if trace := os.environ.get("SKINML_TEST_TRACE"):
            with Path(trace).open("a") as file:
                name = f"{config.model}-{config.batch_size}"
                file.write(f"{name} {epoch} {os.getpid()} {os.getppid()}\n")
        names = ("loss", "accuracy", "auc_macro")
        numbers = {f"{part}_{name}": 0.5 for part in ("train", "val") for name in names}
        row: Row = {
            "epoch": epoch,
            "step": "finetune",
            **numbers,
            "learning_rate": 1e-3,
            "seconds": 0.1,
            "images_per_second": 9.0,
            "time": int(time.time() * 1000),
        }
        history.append(row)
        one = [np.zeros(2, np.float32)]
        save(Checkpoint(history, 0, 1, 0.5, one, one, one))
        on_epoch(row)
    return None, None, 0.1


def evaluate(folder: Any, *others: Any) -> None:
    folder.write_metrics({"test_accuracy": 0.75, "test_auc_macro": 0.875})
    folder.write_text("note.md", "a note")
    folder.finish()


def main() -> int:
    replaced: dict[Any, dict[str, Any]] = {
        backend: {
            "configure": lambda *given: backend.Device("none", "cpu", "none", 1),
            "choose_execution": lambda *given: backend.PLAIN,
        },
        end_to_end: {"_train": train, "evaluate": evaluate},
    }
    for module, values in replaced.items():
        for name, value in values.items():
            assert hasattr(module, name), name
            setattr(module, name, value)
    code = run_command(run.main)
    assert "mlflow" not in sys.modules, "a training waits for no server: its forwarder does"
    return code


if __name__ == "__main__":
    sys.exit(main())
