"""What a run writes into its journal, and in which words; nothing here knows MLflow or a network.

run       a process begins with the run: its journal's id, name, experiment, parent, process
params    values: name → text
tags      values: name → text
dataset   name, digest, source, counts
metrics   step, time (ms since 1970), values: name → number
artifact  file (relative to the run's folder), sha256, path (folder among the artifacts)
image     file, sha256, key, step, time: a PNG for the image grid of MLflow's UI
model     file, sha256, register: the network, to be logged as two models
end       status, reason, time: the process is done with the run

A journal may be somebody else's: `read_records` refuses a record with other fields or types.
"""

import getpass
import hashlib
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skinml.base.address import without_user_info
from skinml.base.errors import UserError, excerpt
from skinml.base.files import file_sha256
from skinml.base.processes import process_name
from skinml.tracking.folder import (
    CARD,
    FINISHED,
    HISTORY,
    NOTE,
    PICTURES,
    REPORT,
    RUN,
    SUBGROUPS,
    Description,
    RunFolder,
)
from skinml.tracking.journal import Journal, Record, read_journal
from skinml.training.history import Row

# How a run may end.
ENDS = ("FINISHED", "FAILED", "KILLED")

# Set by a sweep for the processes of its cells.
PARENT_RUN_VARIABLE = "SKINML_PARENT_RUN_ID"

REASON_LENGTH = 500

# What the names of metrics of the machine's load begin with: MLflow's own has them so.
LOAD = "system/"

_CURVES = ("loss", "accuracy", "auc_macro")
# Of an epoch's row those that its curves are made of.
_COLUMNS = (
    *(f"{part}_{name}" for part in ("train", "val") for name in _CURVES),
    *("learning_rate", "seconds", "images_per_second"),
)

_WHOLE_FOLDER = "expected a whole folder of a finished run: copy it again from where it was made"


def curve_metrics(row: Row) -> dict[str, float]:
    """The metrics of one epoch under the names that their curves have in MLflow."""
    return {f"epoch/{name}": float(row[name]) for name in _COLUMNS}


def default_experiment(data: str) -> str:
    """The experiment of a data set, where $MLFLOW_EXPERIMENT_NAME names no other."""
    return "skinml" if data == "isic2017" else f"skinml-{data}"


def server_digest(uri: str) -> str:
    """What a tracking server is known by in a run's folder, whoever its user is."""
    return hashlib.sha256(without_user_info(uri).encode()).hexdigest()[:16]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    # What MLflow, and its database, take for a step or a time.
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(number, float) or _is_whole(number) for number in value.values()
    )


# The fields of each kind of record: what each has to be, in words, and whether it is.
_Check = tuple[str, Callable[[Any], bool]]
_TEXT: _Check = ("a text", _is_text)
_WHOLE: _Check = ("a whole number", _is_whole)
_FILE: _Check = ("the name of a file", _is_file)
_FIELDS: dict[str, dict[str, _Check]] = {
    "run": {
        "journal": ("an id of letters, digits, - and _",
                    lambda value: _is_text(value) and bool(re.fullmatch(r"[\w-]{1,64}", value))),
        **dict.fromkeys(("name", "process", "server", "experiment", "default_experiment",
                         "attached", "parent"), _TEXT),
        "experiment_id": _TEXT,
        "time": _WHOLE,
        "source": ("texts by name", _are_texts),
    },
    "params": {"values": ("texts by name", _are_texts)},
    "tags": {"values": ("texts by name", _are_texts)},
    "dataset": {
        **dict.fromkeys(("name", "digest", "source"), _TEXT),
        "counts": ("counts by name", lambda value: isinstance(value, dict)),
    },
    "metrics": {"step": _WHOLE, "time": _WHOLE, "values": ("numbers by name", _are_numbers)},
    "artifact": {"file": _FILE, "sha256": _TEXT, "path": _TEXT},
    "image": {"file": _FILE, "sha256": _TEXT, "key": _TEXT, "step": _WHOLE, "time": _WHOLE},
    "model": {
        "file": _FILE,
        "sha256": _TEXT,
        "register": ("true or false", lambda value: isinstance(value, bool)),
    },
    "end": {
        "status": (f"one of {', '.join(ENDS)}", lambda value: value in ENDS),
        "reason": _TEXT,
        "time": _WHOLE,
    },
}  # fmt: skip


def read_records(path: Path) -> Iterator[Record]:
    """The records of a journal, each of a kind and with the types that a run writes.

    Another one is a `UserError` that names the file and the record.
    """
    for record in read_journal(path):
        known = _FIELDS.get(record.kind)
        if known is None:
            raise _odd(path, record, f"expected one of the kinds {', '.join(_FIELDS)}")
        for name, (expected, holds) in known.items():
            if name not in record.fields:
                raise _odd(path, record, f"it has no {name}, expected {expected}")
            if not holds(value := record.fields[name]):
                raise _odd(path, record, f"its {name} is {excerpt(value)}, expected {expected}")
        yield record


def _odd(path: Path, record: Record, why: str) -> UserError:
    return UserError(f"{path}, record {record.sequence} ({excerpt(record.kind)}): {why}")


def is_load(record: Record) -> bool:
    """Whether a record is a sample of the machine's load."""
    return record.kind == "metrics" and all(
        name.startswith(LOAD) for name in record.fields["values"]
    )


def header(folder: RunFolder) -> Record | None:
    """The first record of a folder's journal that begins the run; None where there is none."""
    return next((r for r in read_records(folder.journal) if r.kind == "run"), None)


@dataclass
class Noted:
    """What a journal holds already of a run that is gone on with."""

    header: Record | None = None
    """The first record of a process's begin."""
    sequence: int = 0
    """The number of the last record."""
    kinds: set[str] = field(default_factory=set)
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The fields of the record of each epoch's curves."""
    load_samples: int = 0
    ended: str = ""
    """The status that the run ended with; empty where its process did not say so."""


def read_noted(path: Path) -> Noted:
    """What a journal holds; nothing where there is none yet."""
    noted = Noted()
    for record in read_records(path) if path.exists() else ():
        noted.sequence = record.sequence
        noted.kinds.add(record.kind)
        noted.ended = record.fields["status"] if record.kind == "end" else ""
        if record.kind == "run":
            noted.header = noted.header or record
        elif record.kind == "metrics":
            names = record.fields["values"]
            if "epoch/train_loss" in names:
                noted.epochs.setdefault(record.fields["step"], record.fields)
            elif is_load(record):
                noted.load_samples = record.fields["step"] + 1
    return noted


def record_start(
    journal: Journal, description: Description, known: Noted | None = None, at: int = 0
) -> None:
    """Begin a run, or go on with the one that `known` is noted of.

    `at` is in milliseconds since 1970, by default now.
    """
    known = known or Noted()
    journal.append(
        "run",
        journal=known.header.fields["journal"] if known.header else uuid.uuid4().hex,
        name=description.name,
        process=process_name(),
        time=at or int(time.time() * 1000),
        source=_source(description),
        **destination(description),
    )
    # A process that was killed may have noted the first of these and no more.
    if "params" not in known.kinds:
        journal.append("params", values=description.params)
    if "dataset" not in known.kinds:
        journal.append("tags", values=description.tags)
        journal.append("dataset", **description.dataset)
    journal.sync()


def destination(description: Description) -> dict[str, str]:
    """Where a run belongs in MLflow, as this process's environment has it.

    `attached` is the run that `mlflow run` made for it; ids are those of `server` alone.
    """
    given = os.environ.get
    return {
        "server": server_digest(given("MLFLOW_TRACKING_URI", "")),
        "experiment": given("MLFLOW_EXPERIMENT_NAME", ""),
        "experiment_id": given("MLFLOW_EXPERIMENT_ID", ""),
        "default_experiment": default_experiment(description.tags.get("data", "")),
        "attached": given("MLFLOW_RUN_ID", ""),
        "parent": given(PARENT_RUN_VARIABLE, ""),
    }


def author() -> dict[str, str]:
    """The tag by which MLflow tells who made a run: the user of this machine.

    Its own default is the name that one has at the server, which may be a token.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"  # An id without a name, in a container for instance.
    return {"mlflow.user": user}


def _program() -> str:
    """The program as one starts it: `skinml.run`, of which only a path is known here."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        path = path.parent
    return f"skinml.{path.stem}" if path.parent.name == "skinml" else path.name


def _source(description: Description) -> dict[str, str]:
    """The tags by which MLflow tells who made a run, and with what."""
    tags = {
        **author(),
        "mlflow.source.name": _program(),
        "mlflow.source.type": "LOCAL",
    }
    commit = description.params.get("git_commit", "unknown")
    return tags if commit == "unknown" else tags | {"mlflow.source.git.commit": commit}


def as_noted(row: Row, fields: dict[str, Any]) -> Row:
    """An epoch's row with the time and speed that its record's `fields` have: measured once."""
    speed = {name: fields["values"][f"epoch/{name}"] for name in ("seconds", "images_per_second")}
    return {**row, **speed, "time": fields["time"]}


def record_epoch(journal: Journal, row: Row) -> None:
    """Note the curves of an epoch, at its own time; on the disk when this returns."""
    journal.append(
        "metrics", step=int(row["epoch"]), time=int(row["time"]), values=curve_metrics(row)
    )
    journal.sync()


def record_results(journal: Journal, folder: RunFolder, register: bool = True) -> None:
    """Note the numbers, figures, tables, texts and the network of a finished folder."""
    finished = int((folder.path / FINISHED).stat().st_mtime * 1000)
    journal.append("metrics", step=0, time=finished, values=folder.read_metrics())
    for path in sorted(folder.figures.glob("*.png")):
        # As a keyed image it also stands in the UI's image grid, across runs.
        image = {**_file(folder, path), "key": path.stem, "step": 0, "time": finished}
        journal.append("image", **image)
    for path, target in _artifacts(folder):
        journal.append("artifact", **_file(folder, path), path=target)
    journal.append("tags", values={"mlflow.note.content": folder.read_text(NOTE)})
    if folder.model.exists():
        journal.append("model", **_file(folder, folder.model), register=register)
    journal.sync()


def record_end(journal: Journal, status: str, reason: str = "", at: int = 0) -> None:
    """Note how a run ended: FINISHED, FAILED or KILLED, why, when (ms since 1970; now)."""
    at = at or int(time.time() * 1000)
    journal.append("end", status=status, reason=reason[:REASON_LENGTH], time=at)
    journal.sync()


def record_folder(folder: RunFolder) -> None:
    """Write the journal of a finished folder that has none.

    A folder in which something lacks, or cannot be read, is a `UserError`, and stays as it is.
    """
    # Under another name until it is whole.
    part = folder.journal.with_name("journal.part")
    part.unlink(missing_ok=True)
    journal = Journal(part)
    try:
        try:
            _record_all(journal, folder)
        finally:
            journal.close()
        part.replace(folder.journal)
    finally:
        part.unlink(missing_ok=True)


def _record_all(journal: Journal, folder: RunFolder) -> None:
    try:
        description, rows = folder.read_description(), folder.read_history()
        _require_columns(folder, rows)
        begun = int((folder.path / RUN).stat().st_mtime * 1000)
        record_start(journal, description, at=begun)
        for row in rows:
            record_epoch(journal, row)
        record_results(journal, folder, description.params.get("register", "True") == "True")
        record_end(journal, "FINISHED", at=int((folder.path / FINISHED).stat().st_mtime * 1000))
    except OSError as error:
        what = error.filename or folder.path
        raise UserError(f"{what}: cannot be read ({error.strerror}); {_WHOLE_FOLDER}") from None
    except UnicodeDecodeError:
        raise UserError(f"{folder.path / NOTE}: is no text in UTF-8; {_WHOLE_FOLDER}") from None


def _require_columns(folder: RunFolder, rows: Sequence[Row]) -> None:
    for row in rows:
        if lacking := [name for name in ("epoch", "time", *_COLUMNS) if name not in row]:
            raise UserError(
                f"{folder.path / HISTORY}: has no column {', '.join(lacking)}; {_WHOLE_FOLDER}"
            )


def _artifacts(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """The files of a folder that MLflow keeps, and the folder of each there."""
    for path in sorted(folder.figures.iterdir()):
        yield path, "figures"
    tables = ("predictions_*.csv", "*.txt", "run.json", "metrics.json", "history.csv")
    for pattern in (REPORT, PICTURES, CARD, SUBGROUPS, *tables):
        for path in sorted(folder.path.glob(pattern)):
            yield path, ""


def _file(folder: RunFolder, path: Path) -> dict[str, Any]:
    """What a record says of a file: on the disk before the record is."""
    with path.open("rb") as file, suppress(OSError):
        os.fsync(file.fileno())
    return {"file": path.relative_to(folder.path).as_posix(), "sha256": file_sha256(path)}
