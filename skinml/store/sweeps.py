"""The run that stands for a sweep in MLflow, above the runs of its cells."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.processes import process_lives, process_name
from skinml.store.access import (
    ask,
    check_active,
    check_store,
    experiment_of,
    is_gone,
    store_is_needed,
)
from skinml.store.lease import OPEN, PROCESS, close_dead, renew, reopen
from skinml.store.runs import GONE, REASON, SUPERSEDED, close_run, is_generated, set_tags
from skinml.tracking.record import REASON_LENGTH, author, default_experiment

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND = "sweep"

# MLflow cuts a tag's value at 8,000 characters.
NOTE_LENGTH = 7900

# The runs of cells that a sweep found done, with commas.
DONE_BEFORE = "skinml.done_before"


def find_experiment(data: str, create: bool = False) -> str | None:
    """The id of the experiment that a sweep over `data` belongs to; None where there is none yet.

    That of $MLFLOW_EXPERIMENT_ID (set by `mlflow run`) or $MLFLOW_EXPERIMENT_NAME, else the data
    set's own. Only `create` writes to MLflow. A server that does not answer is a `UserError`.
    """
    from mlflow import get_tracking_uri

    uri = get_tracking_uri()
    store = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if store and not store.exists() and not create:
        return None  # To look into it would make it.
    check_store(uri, may_be_new=True)
    with store_is_needed():
        return ask(partial(_find_experiment, default_experiment(data), create))


def _find_experiment(usual: str, create: bool) -> str | None:
    from mlflow import MlflowClient

    client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        # `mlflow run` says where by the id, whatever the name says.
        experiment_of(given, "" if os.environ.get("MLFLOW_RUN_ID") else name)
        return given
    found = client.get_experiment_by_name(name or usual)
    if found is None:
        return str(client.create_experiment(name or usual)) if create else None
    check_active(found)
    return str(found.experiment_id)


def runs_with(experiment: str, tags: dict[str, str], status: str = "") -> "list[Run]":
    """The runs of an experiment that have all these tags (and this status), newest first."""
    from mlflow import MlflowClient

    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    if status:
        conditions.append(f"attributes.status = '{status}'")
    client, found, token = MlflowClient(), list[Any](), None
    while True:
        page: Any = client.search_runs(
            [experiment],
            " and ".join(conditions),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found


@dataclass(frozen=True)
class SweepRun:
    """The run of a sweep: `id` stays through all its starts.

    `attached` is the run that `mlflow run` made for this start, where an earlier start has made
    the sweep's own; empty otherwise.
    """

    id: str
    experiment: str
    attached: str = ""

    @classmethod
    def open(cls, key: str, name: str, tags: dict[str, str], experiment: str) -> "SweepRun":
        """Go on with the sweep run of a key, else make one, or take the one `mlflow run` made."""
        from mlflow import MlflowClient
        from mlflow.tracking.context.registry import resolve_tags

        client = MlflowClient()
        tags = {**tags, "kind": KIND, "sweep_key": key, "process": process_name()}
        given = os.environ.get("MLFLOW_RUN_ID", "")
        earlier = [
            run.info.run_id
            for run in runs_with(experiment, {"kind": KIND, "sweep_key": key})
            if run.info.run_id != given
        ]
        if earlier:
            # The oldest, should a person have copied one.
            sweep = cls(earlier[-1], experiment, given)
            client.update_run(sweep.id, "RUNNING")
            if given:
                set_tags(given, {"kind": KIND, "process": tags["process"], "continues": sweep.id})
                link = run_link(experiment, sweep.id)
                set_tags(given, {"mlflow.note.content": f"Went on with the sweep of run {link}."})
                _rename(given, name)
        elif given:
            sweep = cls(given, experiment)
            _rename(given, name)
        else:
            made = client.create_run(experiment, run_name=name, tags=resolve_tags(author()))
            sweep = cls(made.info.run_id, experiment)
        set_tags(sweep.id, tags)
        return sweep

    @property
    def own_runs(self) -> tuple[str, ...]:
        return (self.id, self.attached) if self.attached else (self.id,)

    def experiment_name(self) -> str:
        from mlflow import MlflowClient

        return str(MlflowClient().get_experiment(self.experiment).name)

    def children(self, status: str = "") -> "list[Run]":
        """The runs of its cells, and of starts that went on with it; newest first."""
        return [
            run
            for tag in ("mlflow.parentRunId", "continues")
            for run in runs_with(self.experiment, {tag: self.id}, status)
            if run.info.run_id not in self.own_runs
        ]

    def close_dead(self) -> list[str]:
        """Close RUNNING runs below it whose process is certainly gone; returns their ids.

        SIGKILL, a lack of memory and a power cut leave no process the time to do so itself.
        """
        return [
            run.info.run_id
            for run in self.children("RUNNING")
            if process_lives(run.data.tags.get(PROCESS, "")) is False and close_dead(run, GONE)
        ]

    def renew(self) -> None:
        """Move its lease on; one that was closed by mistake is opened again."""
        from mlflow import MlflowClient

        for run_id in self.own_runs:
            run = MlflowClient().get_run(run_id)
            if run.info.status not in OPEN:
                reopen(run)
            renew(run, process_name())

    def keep_done_before(self, run_ids: Sequence[str]) -> None:
        """Note the runs of cells that were done already, which are not below this run.

        `compare --sweep` reads them. A tag has room for the first 240.
        """
        set_tags(self.id, {DONE_BEFORE: ",".join(run_ids)[: 240 * 33 - 1]})

    def write_note(self, text: str) -> None:
        """Show a text in Markdown on the sweep's page, at most NOTE_LENGTH characters."""
        set_tags(self.id, {"mlflow.note.content": text[:NOTE_LENGTH]})

    def close(self, status: str, reason: str = "") -> None:
        """End it as FINISHED, FAILED or KILLED, and with it the run of `mlflow run`."""
        from mlflow import MlflowClient

        client = MlflowClient()
        for run_id in self.own_runs:
            if reason:
                set_tags(run_id, {REASON: reason})
            elif REASON in client.get_run(run_id).data.tags:
                client.delete_tag(run_id, REASON)  # An earlier start's.
            client.set_terminated(run_id, status)


def supersede(
    experiment: str, sweep: str, identity: dict[str, str], keep: Collection[str] = (),
    done_before: Collection[str] = (),
) -> bool:  # fmt: skip
    """Close a cell's runs below a sweep for good, but for those to `keep`; whether one is finished.

    Of machines that cannot see each other none knows whether the other's process has died. First
    the run is marked, then looked at: its forwarder looks at the mark before it says that the run
    is finished, and one that did so between the two is undone by `undo_superseded`.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    for run in runs_with(experiment, {**identity, "mlflow.parentRunId": sweep}):
        if run.info.run_id in (*keep, *done_before) or SUPERSEDED in run.data.tags:
            continue
        if run.info.status != "FINISHED":
            set_tags(run.info.run_id, {SUPERSEDED: "true"})
            run = client.get_run(run.info.run_id)
        if run.info.status == "FINISHED":
            if SUPERSEDED in run.data.tags:
                client.delete_tag(run.info.run_id, SUPERSEDED)
            return True
        close_run(run, "KILLED", "another attempt at its cell has taken its place")
    return False


def is_superseded(run_id: str) -> bool:
    """Whether another run has taken the place of this one."""
    from mlflow import MlflowClient, MlflowException

    try:
        return SUPERSEDED in MlflowClient().get_run(run_id).data.tags
    except MlflowException as error:
        if is_gone(error):
            return False
        raise


def undo_superseded(experiment: str, sweep: str) -> None:
    """Close runs below a sweep that finished in the instant in which they were superseded."""
    tags = {SUPERSEDED: "true", "mlflow.parentRunId": sweep}
    for run in runs_with(experiment, tags, "FINISHED"):
        close_run(run, "KILLED", "another attempt at its cell has taken its place")


def environment_manager(run_id: str) -> str:
    """What `mlflow run` was told to make the environment of a run with (`--env-manager`)."""
    from mlflow import MlflowClient

    return str(MlflowClient().get_run(run_id).data.tags.get("mlflow.project.env", "local"))


def run_link(experiment: str, run_id: str) -> str:
    """A link to a run for a note in MLflow's UI, in Markdown."""
    return f"[{run_id[:8]}](#/experiments/{experiment}/runs/{run_id})"


def reason_of(runs: "Sequence[Run]") -> str:
    """Why the newest of some runs did not finish; empty where there is none, or it goes on."""
    for run in runs:
        if run.info.status in ("FAILED", "KILLED"):
            reason = str(run.data.tags.get(REASON) or run.info.status.lower())
            return " ".join(reason[:REASON_LENGTH].split())
    return ""


def _rename(run_id: str, name: str) -> None:
    """Give a run a name, unless a person has chosen one."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if is_generated(client.get_run(run_id).data.tags.get("mlflow.runName", "")):
        client.update_run(run_id, name=name)
