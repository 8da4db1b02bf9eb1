"""The run folder: everything that a run produces, in plain files, before MLflow sees any of it.

A folder can be published to MLflow while the run goes on, afterwards, or from another machine.

    journal.log               all that MLflow is told, as it comes (skinml.tracking.journal)
    forward.json              what of it MLflow has acknowledged; forward.log, forward.lock beside
    run.json                  parameters, tags and data set, written first
    history.csv               one row an epoch, appended as each ends
    checkpoint-*              where the training stands (skinml.training.checkpoint)
    predictions_*.csv         the predictions tables of validation and test
    metrics.json              every number of the finished run
    figures/                  PNG for screens, PDF for papers
    report.html               all of it for a person, figures inside
    pictures.html             the test pictures with their maps, to filter and look at
    model_card.md             what the network is, and is not, for
    subgroups.csv             how it does on groups of the test images, where something is known
    classification_report.txt, model_summary.txt, note.md
    model.keras               the trained network, written last but one
    model.tflite              the same in LiteRT's format, if it could be exported
    FINISHED                  an empty file, written last
    mlflow_run_id             the MLflow run that holds all of it, once that is so

A run that is gone on with keeps its folder: what it writes once more replaces what was there.
"""

import csv
import json
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from skinml.base.errors import UserError, excerpt
from skinml.base.files import read_json, read_table, sync_folder
from skinml.config import Config
from skinml.training.history import Row

RUN = "run.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
MODEL = "model.keras"
EXPORTED = "model.tflite"
REPORT = "report.html"
PICTURES = "pictures.html"
CARD = "model_card.md"
SUBGROUPS = "subgroups.csv"
NOTE = "note.md"
FINISHED = "FINISHED"
PUBLISHED = "mlflow_run_id"
JOURNAL = "journal.log"
STATE = "forward.json"
LOG = "forward.log"
LOCK = "forward.lock"


@dataclass(frozen=True)
class Description:
    """What is known of a run before it trains.

    `params` and `tags` as MLflow shows them; `dataset` has name, digest, source and the counts of
    each part and class.
    """

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    dataset: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; see the module's docstring for what lies in it."""

    path: Path

    @classmethod
    def create(cls, parent: Path, config: Config) -> "RunFolder":
        """Make a new folder named by time, model, batch size and seed."""
        while True:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            token = secrets.token_hex(2)
            name = f"{stamp}-{config.model}-{config.batch_size}-s{config.seed}-{token}"
            try:
                (parent / name / "figures").mkdir(parents=True)
            except OSError as error:
                # One in 65,536 runs of a configuration and second has another's four digits.
                if isinstance(error, FileExistsError) and (parent / name).is_dir():
                    continue
                raise UserError(
                    f"output_dir={parent}: cannot make the run's folder there ({error.strerror}); "
                    "expected a folder that can be written to"
                ) from None
            return cls((parent / name).resolve())

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder, else `UserError`."""
        if not (path / RUN).is_file():
            raise UserError(f"{path}: no {RUN} in it; expected a folder that a run of skinml made")
        return cls(path.resolve())

    @property
    def finished(self) -> bool:
        return (self.path / FINISHED).is_file()

    @property
    def published(self) -> str:
        """The id of the MLflow run that holds all of it, empty before."""
        marker = self.path / PUBLISHED
        return marker.read_text().strip() if marker.is_file() else ""

    def mark_published(self, run_id: str) -> None:
        (self.path / PUBLISHED).write_text(run_id + "\n")

    def mark_unpublished(self) -> None:
        """Forget that MLflow had all of it: the run goes on."""
        (self.path / PUBLISHED).unlink(missing_ok=True)

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def exported(self) -> Path:
        """Where the network lies that needs no TensorFlow; some runs have none."""
        return self.path / EXPORTED

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def predictions(self, part: str) -> Path:
        """Where the predictions table of a part lies."""
        return self.path / f"predictions_{part}.csv"

    def write_description(self, description: Description) -> None:
        self._write_json(RUN, vars(description))

    def read_description(self) -> Description:
        said = self._read_json(RUN)
        kinds = {"name": str, "params": dict, "tags": dict, "dataset": dict}
        whole = all(isinstance(said.get(name), kind) for name, kind in kinds.items())
        texts = [*said["params"].values(), *said["tags"].values()] if whole else [None]
        if not all(isinstance(value, str) for value in texts):
            raise UserError(
                f"{self.path / RUN}: expected a run's name, params, tags and dataset, as a run of "
                "skinml writes them"
            )
        return Description(**{name: said[name] for name in kinds})

    def write_metrics(self, metrics: dict[str, float]) -> None:
        self._write_json(METRICS, metrics)

    def read_metrics(self) -> dict[str, float]:
        found = self._read_json(METRICS)
        for name, value in found.items():
            if not isinstance(value, int | float) or abs(value) >= 2**1023:
                raise UserError(
                    f"{self.path / METRICS}: {excerpt(name)} is {excerpt(value)}, expected a number"
                )
        return found

    def append_epoch(self, row: Row) -> None:
        """Add one epoch to the history, on disk when this returns."""
        path = self.path / HISTORY
        new = not path.exists()
        with path.open("a", newline="") as file:
            _write_rows(file, [row], new)

    def write_history(self, rows: Sequence[Row]) -> None:
        """Replace the history by that of the epochs which a run goes on after, if any."""
        if not rows:
            (self.path / HISTORY).unlink(missing_ok=True)
            return
        temporary = self.path / f".{HISTORY}.part"
        with temporary.open("w", newline="") as file:
            _write_rows(file, rows, header=True)
        temporary.replace(self.path / HISTORY)

    def read_history(self) -> list[Row]:
        """The epochs so far; numbers are floats, the epoch an int, the step's name a str."""
        try:
            header, *rows = [row for _, row in read_table(self.path / HISTORY) if row] or [[]]
            return [_typed(dict(zip(header, row, strict=True))) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, csv.Error) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{self.path / HISTORY}: cannot be read ({why}); expected a row an epoch, as a run "
                "of skinml writes it"
            ) from None

    def write_text(self, name: str, text: str) -> None:
        # The drawn lines of Keras's summary do not fit every system's own encoding.
        (self.path / name).write_text(text, encoding="utf-8")

    def read_text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def finish(self) -> None:
        """Mark the folder as complete, with all its files on the disk."""
        for path in self.path.rglob("*"):
            if path.is_file():
                with path.open("rb") as file, suppress(OSError):
                    os.fsync(file.fileno())
        (self.path / FINISHED).touch()
        sync_folder(self.path)

    def _write_json(self, name: str, value: Any) -> None:
        temporary = self.path / f".{name}.part"
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.replace(self.path / name)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            found = read_json(self.path / name)
        except ValueError as error:
            raise UserError(f"{self.path / name}: cannot be read ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.path / name}: expected values by name")
        return found


def _write_rows(file: TextIO, rows: Sequence[Row], header: bool) -> None:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    file.flush()


def _typed(row: dict[str, str]) -> Row:
    kinds = {"step": str, "epoch": int, "time": int}
    return {key: kinds.get(key, float)(value) for key, value in row.items()}
