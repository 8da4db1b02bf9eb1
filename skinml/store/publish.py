"""A run's journal → MLflow: each kind of record, as it is sent.

Whatever is written may be written again and counts once: parameters that stand are left alone, a
metric's row (key, step, value, time) that is there adds nothing, a file replaces itself, and a run
is looked for by its journal's id before it is made.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.base.errors import first_line
from skinml.base.files import check_inside, file_name, file_sha256
from skinml.store.runs import (
    ACKNOWLEDGED,
    JOURNAL,
    REASON,
    Batch,
    close_run,
    is_generated,
    set_tags,
)
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import Record

if TYPE_CHECKING:
    from mlflow.entities import Run

# The kinds of records of which many go in one request.
BATCHED = ("metrics", "params", "tags")

# The most pixels of an image that is sent: a figure of ours has some two million.
_MOST_PIXELS = 50_000_000


# Logs a folder's network to a run and registers it: (folder, run, register) → URIs by name.
LogModels = Callable[[RunFolder, "Run", bool], dict[str, str]]


def prepare_experiment(
    uri: str, experiment_id: str, params: Mapping[str, str] | None = None
) -> None:
    """Give an experiment, of which a run has just begun, its layout, note and saved views.

    `params` are those of the run.
    """
    _open_as_model_training(uri, experiment_id)
    _install_views(experiment_id, params)


@cache
def _open_as_model_training(uri: str, experiment_id: str) -> None:
    """Keep the experiment's pages out of the UI's layout for generative AI, its default."""
    from mlflow import MlflowClient

    kind = "mlflow.experimentKind"
    client = MlflowClient()
    if kind not in client.get_experiment(experiment_id).tags:
        client.set_experiment_tag(experiment_id, kind, "custom_model_development")


def _install_views(experiment_id: str, params: Mapping[str, str] | None) -> None:
    """Give an experiment its note and saved views; a warning where that fails."""
    from skinml.store.views import install_views

    try:
        install_views(experiment_id, params)
    except Exception as error:  # Whatever it is: a training does not fail for want of a view.
        print(
            f"skinml: warning: the experiment has no saved views: {first_line(error)[:200]}",
            file=sys.stderr,
        )


def send(
    folder: RunFolder,
    records: Sequence[Record],
    run: "Run",
    log_models: LogModels,
    tags: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write records to their run, in order, and the number of the last to its tags, with `tags`.

    That number comes last: a server restored from whatever moment has all that it names. Returns
    the URIs of models that were logged.
    """
    uris: dict[str, str] = {}
    batch = Batch(run.info.run_id, run.data.params)
    for record in records:
        if record.kind in BATCHED:
            batch.add(record)
            continue
        batch.flush()
        if record.kind == "model":
            if _is_intact(folder, record):
                uris |= log_models(folder, run, record.fields["register"])
        else:
            _SENDERS[record.kind](folder, record, run)
    batch.tags |= {**(tags or {}), ACKNOWLEDGED: str(records[-1].sequence)}
    batch.flush()
    return uris


def _send_run(folder: RunFolder, record: Record, run: "Run") -> None:
    """A process begins, or goes on, with the run."""
    from mlflow import MlflowClient

    tags = {JOURNAL: record.fields["journal"], "process": record.fields["process"]}
    if is_generated(run.data.tags.get("mlflow.runName", "")):
        tags["mlflow.runName"] = record.fields["name"]
    if run.info.status != "RUNNING":
        if REASON in run.data.tags:
            MlflowClient().delete_tag(run.info.run_id, REASON)  # An earlier end's.
        MlflowClient().update_run(run.info.run_id, "RUNNING")
    set_tags(run.info.run_id, tags)


def _send_dataset(folder: RunFolder, record: Record, run: "Run") -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = record.fields
    entity = Dataset(
        name=dataset["name"],
        digest=dataset["digest"],
        source_type="local",
        source=json.dumps({"uri": dataset["source"]}),
        profile=json.dumps(dataset["counts"]),
    )
    context = InputTag("mlflow.data.context", "training, validation and test")
    MlflowClient().log_inputs(run.info.run_id, [DatasetInput(entity, [context])])


def _send_artifact(folder: RunFolder, record: Record, run: "Run") -> None:
    from mlflow import MlflowClient

    if _is_intact(folder, record):
        path, target = folder.path / record.fields["file"], record.fields["path"]
        MlflowClient().log_artifact(run.info.run_id, str(path), target or None)


def _send_image(folder: RunFolder, record: Record, run: "Run") -> None:
    """A picture under the names that `MlflowClient.log_image` gives it.

    That one makes up a part of the name each time: sent twice, a picture would be there twice.
    """
    from mlflow import MlflowClient
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    if not _is_intact(folder, record):
        return
    said = record.fields
    key = file_name(str(said["key"]))
    name = f"{key}+step+{said['step']}+timestamp+{said['time']}+{said['sha256'][:32]}"
    with tempfile.TemporaryDirectory() as temporary:
        try:
            # A PNG of our figures; a picture of somebody else may be larger than the memory.
            with Image.open(folder.path / said["file"], formats=["PNG"]) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    raise ValueError(f"{picture.width}×{picture.height} pixels")
                plain = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(
                f"skinml: warning: {folder.path / said['file']} is not sent as an image: "
                f"{first_line(error)}",
                file=sys.stderr,
            )
            return
        plain.save(Path(temporary, f"{name}.png"))
        compress_image_size(plain).save(Path(temporary, f"{name}+compressed.webp"))
        MlflowClient().log_artifacts(run.info.run_id, temporary, "images")
    # Without it the UI does not look for any.
    set_tags(run.info.run_id, {"mlflow.loggedImages": "True"})


def _send_end(folder: RunFolder, record: Record, run: "Run") -> None:
    said = record.fields
    close_run(run, said["status"], said["reason"], said["time"])


_SENDERS: dict[str, Callable[[RunFolder, Record, "Run"], None]] = {
    "run": _send_run,
    "dataset": _send_dataset,
    "artifact": _send_artifact,
    "image": _send_image,
    "end": _send_end,
}


def _is_intact(folder: RunFolder, record: Record) -> bool:
    """Whether a file is as it was when it was noted; a warning where it is not.

    Another content under its name would be a wrong value, which is worse than none.
    """
    name = str(record.fields["file"])
    path = folder.path / name
    try:
        # A folder of somebody else may name, or link to, what is not in it.
        found = file_sha256(check_inside(folder.path, name))
    except FileNotFoundError as error:
        found = str(error.strerror)
    except OSError as error:
        why = error.strerror or "unreadable"
        print(f"skinml: warning: {path} is not sent: {why}", file=sys.stderr)
        return False
    if found == record.fields["sha256"]:
        return True
    print(
        f"skinml: warning: {path} is not sent: it has changed since it was noted "
        f"(SHA-256 {record.fields['sha256'][:16]}, now {found[:16]})",
        file=sys.stderr,
    )
    return False
