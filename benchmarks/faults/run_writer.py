"""A run without a network to train: the journal, the forwarder and the end are those of a run.

    python -m benchmarks.faults.run_writer FOLDER [--offline] [--pause S] [--drain-limit S]

Notes epochs, the machine's load and now and then a file until FOLDER/go is there, then the results.
Prints "begins", and the number of each epoch once it is told to be on the disk.
"""

import argparse
import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinml.base.errors import UserError, run_command
from skinml.base.files import file_sha256
from skinml.run.tracked import Tracked, track
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT
from skinml.training.history import Row

CURVES = ("loss", "accuracy", "auc_macro")


def row_of(epoch: int, now: float) -> Row:
    """What an epoch's row holds, at a time in seconds since 1970."""
    values = {
        f"{part}_{name}": (epoch * 7919 + n) % 10007 / 10007
        for part in ("train", "val")
        for n, name in enumerate(CURVES)
    }
    last = {"learning_rate": 1e-3 / epoch, "seconds": 0.1, "images_per_second": 9.0}
    return {"epoch": epoch, "step": "finetune", **values, **last, "time": int(now * 1000)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--drain-limit", type=float, default=60)
    options = parser.parse_args()
    folder = RunFolder(options.folder)
    limit = options.drain_limit
    with track(folder, folder.read_description(), options.offline, limit) as run, _full_disk():
        run.raise_if_refused()
        print("begins", flush=True)
        epoch = 0
        while not (folder.path / "go").exists():
            epoch += 1
            row = row_of(epoch, time.time())
            run.log_epoch(row)
            print(epoch, flush=True)
            folder.append_epoch(row)
            if epoch % 20 == 0:
                _note_file(run, epoch)
            time.sleep(options.pause)
        folder.finish()
        run.log_results()
    return 0 if options.offline or folder.published else UNSENT


@contextmanager
def _full_disk() -> Iterator[None]:
    """As `skinml.run.end_to_end` does, which has TensorFlow imported."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{error.filename}: {error.strerror}; free some space") from None


def _note_file(run: Tracked, epoch: int) -> None:
    path = run.folder.path / f"history_{epoch}.csv"
    path.write_bytes((run.folder.path / "history.csv").read_bytes())
    run.journal.append("artifact", file=path.name, sha256=file_sha256(path), path="histories")
    run.journal.sync()


if __name__ == "__main__":
    sys.exit(run_command(main))
