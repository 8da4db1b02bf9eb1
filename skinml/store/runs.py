"""Runs in MLflow: found or made, tagged, given figures, closed."""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError
from skinml.store.access import check_active, experiment_of, is_gone
from skinml.tracking.journal import Record

if TYPE_CHECKING:
    from mlflow.entities import Run


# Tags of a run: the journal that it comes from, the number of that journal's last record that the
# server holds, and why it ended. (What shows that it goes on: skinml.store.lease.)
JOURNAL = "skinml.journal"
ACKNOWLEDGED = "skinml.acknowledged"
REASON = "skinml.reason"

# Tag of a run whose models the server did not take: why.
LEFT_OUT = "skinml.left_out"

# Tag of a run that another one has taken the place of: nothing is sent to it any more.
SUPERSEDED = "skinml.superseded"

# Why a run is closed whose process had no time to say so itself.
GONE = "its process is gone, without a word"

# MLflow takes at most 1,000 metrics, parameters and tags a request, 100 of the latter two each.
_METRICS, _OTHERS = 800, 90


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


def acknowledged(run: "Run") -> int:
    """The number of the last record that the server says to hold; -1 where it says none."""
    text = run.data.tags.get(ACKNOWLEDGED, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


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
    return sorted(found, key=lambda run: -acknowledged(run))


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


class Batch:
    """Metrics, parameters and tags on their way to a run, in as few requests as may be."""

    def __init__(self, run_id: str, standing: Mapping[str, str] | None = None) -> None:
        """`standing` are the parameters that the run has already, and keeps as they are."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._run_id = run_id
        self._standing = standing or {}
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
            self._params |= {key: text for key, text in values.items() if key not in self._standing}
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
                self._run_id,
                self._metrics[:_METRICS],
                params[:_OTHERS],
                tags[:_OTHERS] if last else [],
            )
            self._metrics, params = self._metrics[_METRICS:], params[_OTHERS:]
            tags = tags[_OTHERS:] if last else tags
        self._params, self.tags = {}, {}


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set some tags of a run in one request."""
    batch = Batch(run_id)
    batch.tags |= tags
    batch.flush()


def drop_tag(run: "Run", key: str) -> None:
    """Delete a tag of a run, if it has it."""
    from mlflow import MlflowClient, MlflowException

    if key in run.data.tags:
        try:
            MlflowClient().delete_tag(run.info.run_id, key)
        except MlflowException as error:
            if not is_gone(error):
                raise


def log_file(run_id: str, file: Path, folder: str) -> None:
    """Log a file to a finished run, into a folder of its artifacts."""
    from mlflow import MlflowClient

    MlflowClient().log_artifact(run_id, str(file), folder)


def log_figures(run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Log final metrics to a finished run once more, and the tags that say how they came about."""
    values = {"values": dict(metrics), "step": 0, "time": int(time.time() * 1000)}
    batch = Batch(run_id)
    batch.add(Record(0, "metrics", values, 0))
    batch.tags |= tags
    batch.flush()


def close_run(run: "Run", status: str, reason: str, at: int = 0) -> None:
    """End a run as FINISHED, FAILED or KILLED, at a time in ms since 1970 (now), and say why."""
    from mlflow import MlflowClient

    if reason:
        set_tags(run.info.run_id, {REASON: reason})
    else:
        drop_tag(run, REASON)  # An earlier end's.
    MlflowClient().set_terminated(run.info.run_id, status, at or int(time.time() * 1000))


def is_generated(name: str) -> bool:
    """Whether MLflow made up the name, such as "dapper-crow-512": such a name we improve on.

    By MLflow's own words, as a person may well call a run "final-model-2".
    """
    from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

    words = re.fullmatch(r"([a-z]+)-([a-z]+)-\d{1,4}", name)
    return bool(words and words[1] in _GENERATOR_PREDICATES and words[2] in _GENERATOR_NOUNS)
