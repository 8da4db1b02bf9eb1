"""MLflow → finished runs: what is read back for a comparison."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError, first_line
from skinml.store.access import ask, check_store, experiment_of, store_is_needed
from skinml.store.sweeps import DONE_BEFORE
from skinml.tracking.record import default_experiment

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 100


def given_experiment() -> str:
    """The experiment that the environment names for runs; empty where it names none.

    By $MLFLOW_EXPERIMENT_ID or $MLFLOW_EXPERIMENT_NAME; both, of different ones, are a `UserError`.
    `mlflow run` always sets the id, that of `Default` where nobody has chosen one.
    """
    given = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    in_project = "MLFLOW_RUN_ID" in os.environ
    if not given or (in_project and given == "0"):
        return name
    with store_is_needed():
        return ask(partial(experiment_of, given, "" if in_project else name))


def experiment_to_read() -> str:
    """The experiment that is read where none is named: that of the environment, else `skinml`.

    Where there is none, the one into which `mlflow run` puts its runs unless told another,
    `Default`, if it has a training run.
    """
    from mlflow import MlflowClient, MlflowException, get_tracking_uri

    check_store(get_tracking_uri())
    if named := given_experiment():
        return named
    usual = default_experiment("isic2017")
    with store_is_needed():
        if ask(lambda: MlflowClient().get_experiment_by_name(usual)) is not None:
            return usual
    # Not everybody may read it.
    with suppress(MlflowException, UserError):
        other = MlflowClient().get_experiment_by_name("Default")
        if other is not None and is_finished_run(other.experiment_id, {}):
            print(f"skinml: no experiment {usual!r}: reading 'Default'", file=sys.stderr)
            return "Default"
    return usual


def experiment_to_log() -> str:
    """The experiment that a comparison of folders is logged in: the environment's, else `skinml`.

    A store that does not answer is a `UserError`: before the comparison is computed.
    """
    from mlflow import MlflowClient, get_tracking_uri

    check_store(get_tracking_uri(), may_be_new=True)
    with store_is_needed():
        ask(lambda: MlflowClient().search_experiments(max_results=1))
    return given_experiment() or default_experiment("isic2017")


def experiment_id(name: str) -> str:
    """The id of an experiment by its name, else `UserError` that names those there are."""
    from mlflow import MlflowClient, get_tracking_uri

    check_store(get_tracking_uri())
    with store_is_needed():
        experiment = ask(lambda: MlflowClient().get_experiment_by_name(name))
        if experiment is not None:
            return str(experiment.experiment_id)
        names = [found.name for found in MlflowClient().search_experiments(max_results=20)]
    others = f"one of {', '.join(names)}" if names else "one that you may read; there is none"
    raise UserError(
        f"experiment={name!r}: not at {get_tracking_uri()}; expected {others} "
        "(--experiment, MLFLOW_TRACKING_URI)"
    )


def experiment_ids() -> list[str]:
    """The ids of all experiments that one may read."""
    from mlflow import MlflowClient

    client, found, token = MlflowClient(), list[str](), None
    while True:
        page: Any = ask(partial(client.search_experiments, page_token=token))
        found += [str(experiment.experiment_id) for experiment in page]
        token = page.token
        if not token:
            return found


def finished_runs(experiment: str, filters: dict[str, str], sweep: str = "") -> "Iterator[Run]":
    """The finished training runs of an experiment, newest first, read page by page.

    `filters` are tags that a run must have. With the id of a `sweep`'s run only the runs below it,
    and then those that it found done. A caller that has seen enough stops reading, so that
    a store of many thousand runs costs no more than the pages looked at.
    """
    conditions = _conditions(filters)
    if not sweep:
        yield from _search(experiment, conditions)
        return
    yield from _search(experiment, [*conditions, f"tags.`mlflow.parentRunId` = '{sweep}'"])
    # Any id is looked for in a search: one that is no run's finds nothing, and raises nothing.
    listed = ""
    for own in _search(experiment, [f"attributes.run_id = '{sweep}'"]):
        listed = own.data.tags.get(DONE_BEFORE, "")
    if listed:
        # A tag of whatever origin: what is no id has no place in a question.
        ids = [run_id for run_id in listed.split(",") if re.fullmatch(r"[\w-]+", run_id)]
        done = ", ".join(f"'{run_id}'" for run_id in ids or [""])
        for run in _search(experiment, [*conditions, f"attributes.run_id IN ({done})"]):
            if run.data.tags.get("mlflow.parentRunId") != sweep:
                yield run


def is_finished_run(experiment: str, filters: dict[str, str]) -> bool:
    """Whether any finished training run of an experiment has these tags: reads one at most."""
    return any(True for _ in _search(experiment, _conditions(filters), 1))


def _conditions(filters: dict[str, str]) -> list[str]:
    """What a finished training run with these tags is searched by."""
    conditions = ["attributes.status = 'FINISHED'", "tags.kind = 'training'"]
    for name, value in filters.items():
        if "'" in value and '"' in value:
            raise UserError(f"tag {name}={value}: expected a value without both kinds of quotes")
        quote = '"' if "'" in value else "'"
        conditions.append(f"tags.`{name}` = {quote}{value}{quote}")
    return conditions


def _search(experiment: str, conditions: list[str], page_size: int = 0) -> "Iterator[Run]":
    from mlflow import MlflowClient

    client, token = MlflowClient(), None
    while True:
        with store_is_needed():
            page: Any = ask(
                partial(
                    client.search_runs,
                    [experiment],
                    " and ".join(conditions),
                    max_results=page_size or PAGE,
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            )
        yield from page
        token = page.token
        if not token:
            return


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder: how far a download into it is."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # It has just got another name.
            size += path.stat().st_size
    return size


def download(run_id: str, name: str, folder: Path) -> Path:
    """Bring one artifact of a run into a folder; one that is not there is a `UserError`."""
    from mlflow import MlflowException, artifacts

    try:
        # Quietly: nine bars for nine small tables would hide the table that is asked for.
        return Path(
            ask(
                lambda: artifacts.download_artifacts(
                    run_id=run_id, artifact_path=name, dst_path=str(folder)
                ),
                progress=lambda: size_of(folder),
            )
        )
    except (MlflowException, OSError) as error:
        raise UserError(
            f"run {run_id}: {name} cannot be read ({first_line(error)}); expected the "
            "artifacts of a finished run"
        ) from None
