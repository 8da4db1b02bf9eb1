"""A run's journal → MLflow: the only module that writes to a run there.

Whatever is written may be written again and counts once: parameters that stand are left alone, a
metric's row (key, step, value, time) that is there adds nothing, a file replaces itself, and a run
is looked for by its journal's id before it is made.
"""

import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.errors import UserError, first_line
from skinml.files import check_inside, file_name, file_sha256
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import Record
from skinml.tracking.store import check_active, experiment_of, is_gone

if TYPE_CHECKING:
    from mlflow.entities import Run

# Tags of a run: the journal that it comes from, the number of that journal's last record that the
# server holds, and why it ended. (What shows that it goes on: skinml.tracking.lease.)
JOURNAL = "skinml.journal"
ACKNOWLEDGED = "skinml.acknowledged"
REASON = "skinml.reason"

# Tag of a run whose models the server did not take: why.
LEFT_OUT = "skinml.left_out"

# Tag of a run that another one has taken the place of: nothing is sent to it any more.
SUPERSEDED = "skinml.superseded"

# Why a run is closed whose process had no time to say so itself.
GONE = "its process is gone, without a word"

# The kinds of records of which many go in one request.
BATCHED = ("metrics", "params", "tags")

# MLflow takes at most 1,000 metrics, parameters and tags a request, 100 of the latter two each.
_METRICS, _OTHERS = 800, 90

# Logs a folder's network to a run and registers it: (folder, run, register) → URIs by name.
LogModels = Callable[[RunFolder, "Run", bool], dict[str, str]]


def find_or_make_run(header: Record, server: str, destination: dict[str, str]) -> "Run":
    """The run of a journal whose first record is `header`: attached to, found, else made.

    `destination` is what the environment says now, which goes before what it said then; ids count
    on their own `server` alone.
    """
    from mlflow import MlflowClient, MlflowException

    client, then = MlflowClient(), header.fields
    attached = then["attached"] if then["server"] == server else ""
    if attached:
        try:
            run = client.get_run(attached)
        except MlflowException as error:
            if not is_gone(error):
                raise
        else:
            # Curves of two trainings would lie over each other.
            if run.data.tags.get(JOURNAL, then["journal"]) != then["journal"]:
                raise UserError(
                    f"run {attached} is that of another folder, in which alone it goes on; "
                    "expected that folder under output_dir on this machine, or no --run-id"
                )
            return run
    experiment = _experiment(then, server, destination)
    found = _runs_of(then["journal"], experiment)
    if found:
        return found[0]
    made = client.create_run(
        experiment,
        start_time=then["time"],
        run_name=then["name"],
        tags={
            **then["source"],
            JOURNAL: then["journal"],
            # From the first moment: a run whose process is gone can be told from one that goes on.
            "process": then["process"],
            **_parent(then, server, destination),
        },
    )
    return client.get_run(made.info.run_id)


def drop_doubles(run: "Run", journal: str) -> None:
    """Delete other runs of a journal, empty ones.

    A server that was slow to answer may have made one that nobody has heard of.
    """
    from mlflow import MlflowClient

    for other in _runs_of(journal, run.info.experiment_id):
        if other.info.run_id != run.info.run_id and ACKNOWLEDGED not in other.data.tags:
            MlflowClient().delete_run(other.info.run_id)


def _runs_of(journal: str, experiment: str) -> "list[Run]":
    """The runs of a journal, the fullest first."""
    from mlflow import MlflowClient

    found = MlflowClient().search_runs([experiment], f"tags.`{JOURNAL}` = '{journal}'")
    return sorted(found, key=lambda run: -int(run.data.tags.get(ACKNOWLEDGED, -1)))


def _experiment(then: dict[str, Any], server: str, now: dict[str, str]) -> str:
    """The id of the experiment that a run belongs to, which is made where there is none."""
    from mlflow import MlflowClient, MlflowException

    client = MlflowClient()
    given, name = now["experiment_id"], now["experiment"]
    # What a sweep gives to its cells: an id means nothing on another server.
    if not (given or name) and then["server"] == server:
        given = str(then["experiment_id"])
    if given:
        # `mlflow run` says where by the id, whatever the name says.
        experiment_of(given, "" if now["attached"] else name)
        return given
    name = now["experiment"] or then["experiment"] or then["default_experiment"]
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            # Another run has just made it.
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    check_active(found)
    return str(found.experiment_id)


def _parent(then: dict[str, Any], server: str, now: dict[str, str]) -> dict[str, str]:
    parent = now["parent"] or (then["parent"] if then["server"] == server else "")
    return {"mlflow.parentRunId": parent} if parent else {}


def prepare_experiment(uri: str, experiment_id: str) -> None:
    """Give an experiment, of which a run has just begun, its layout, note and saved views."""
    _open_as_model_training(uri, experiment_id)
    _install_views(experiment_id)


@cache
def _open_as_model_training(uri: str, experiment_id: str) -> None:
    """Keep the experiment's pages out of the UI's layout for generative AI, its default."""
    from mlflow import MlflowClient

    kind = "mlflow.experimentKind"
    client = MlflowClient()
    if kind not in client.get_experiment(experiment_id).tags:
        client.set_experiment_tag(experiment_id, kind, "custom_model_development")


def _install_views(experiment_id: str) -> None:
    """Give an experiment its note and saved views; a warning where that fails."""
    from skinml.tracking.views import install_views

    try:
        install_views(experiment_id)
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
    batch = _Batch(run)
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


class _Batch:
    """Metrics, parameters and tags on their way to a run, in as few requests as may be."""

    def __init__(self, run: "Run") -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._run = run
        self._metrics: list[Any] = []
        self._params: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def add(self, record: Record) -> None:
        from mlflow.entities import Metric

        values = record.fields["values"]
        if record.kind == "metrics":
            step, at = record.fields["step"], record.fields["time"]
            # An undefined number is left out: MLflow could not show it.
            self._metrics += [
                Metric(key, float(value), at, step)
                for key, value in values.items()
                if math.isfinite(value)
            ]
        elif record.kind == "params":
            # `mlflow run` has logged the declared parameters in the user's spelling already, and
            # the same parameter with another spelling ("1e-3", "0.001") would reject the batch.
            standing = self._run.data.params
            self._params |= {key: text for key, text in values.items() if key not in standing}
        else:
            self.tags |= values

    def flush(self) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(*item) for item in self._params.items()]
        tags = [RunTag(*item) for item in self.tags.items()]
        # What fits goes in one request, of which the server writes the tags last.
        while self._metrics or params or tags:
            last = len(self._metrics) <= _METRICS and len(params) <= _OTHERS
            self._client.log_batch(
                self._run.info.run_id,
                self._metrics[:_METRICS],
                params[:_OTHERS],
                tags[:_OTHERS] if last else [],
            )
            self._metrics, params = self._metrics[_METRICS:], params[_OTHERS:]
            tags = tags[_OTHERS:] if last else tags
        self._params, self.tags = {}, {}


def drop_tag(run: "Run", key: str) -> None:
    """Delete a tag of a run, if it has it."""
    from mlflow import MlflowClient, MlflowException

    if key in run.data.tags:
        try:
            MlflowClient().delete_tag(run.info.run_id, key)
        except MlflowException as error:
            if not is_gone(error):
                raise


def set_tags(run: "Run", tags: dict[str, str]) -> None:
    """Set some tags of a run in one request."""
    batch = _Batch(run)
    batch.tags |= tags
    batch.flush()


def log_figures(run: "Run", metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Log final metrics to a finished run once more, and the tags that say how they came about."""
    values = {"values": dict(metrics), "step": 0, "time": int(time.time() * 1000)}
    batch = _Batch(run)
    batch.add(Record(0, "metrics", values, 0))
    batch.tags |= tags
    batch.flush()


def _send_run(folder: RunFolder, record: Record, run: "Run") -> None:
    """A process begins, or goes on, with the run."""
    from mlflow import MlflowClient

    tags = {JOURNAL: record.fields["journal"], "process": record.fields["process"]}
    if is_generated(run.data.tags.get("mlflow.runName", "")):
        tags["mlflow.runName"] = record.fields["name"]
    if run.info.status != "RUNNING":
        if REASON in run.data.tags:
            MlflowClient().delete_tag(run.info.run_id, REASON)  # That of an earlier end.
        MlflowClient().update_run(run.info.run_id, "RUNNING")
    set_tags(run, tags)


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
        with Image.open(folder.path / said["file"]) as picture:
            plain = picture.convert("RGB")
        plain.save(Path(temporary, f"{name}.png"))
        compress_image_size(plain).save(Path(temporary, f"{name}+compressed.webp"))
        MlflowClient().log_artifacts(run.info.run_id, temporary, "images")
    # Without it the UI does not look for any.
    set_tags(run, {"mlflow.loggedImages": "True"})


def _send_end(folder: RunFolder, record: Record, run: "Run") -> None:
    said = record.fields
    close_run(run, said["status"], said["reason"], said["time"])


def close_run(run: "Run", status: str, reason: str, at: int = 0) -> None:
    """End a run as FINISHED, FAILED or KILLED, at a time in ms since 1970 (now), and say why."""
    from mlflow import MlflowClient

    if reason:
        set_tags(run, {REASON: reason})
    else:
        drop_tag(run, REASON)  # That of an earlier end.
    MlflowClient().set_terminated(run.info.run_id, status, at or int(time.time() * 1000))


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


def is_generated(name: str) -> bool:
    """Whether MLflow made up the name, such as "dapper-crow-512": such a name we improve on.

    By MLflow's own words, as a person may well call a run "final-model-2".
    """
    from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

    words = re.fullmatch(r"([a-z]+)-([a-z]+)-\d{1,4}", name)
    return bool(words and words[1] in _GENERATOR_PREDICATES and words[2] in _GENERATOR_NOUNS)
