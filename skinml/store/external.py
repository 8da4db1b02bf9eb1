"""External tests in MLflow: a registered model, asked about pictures of another data set."""

import re
from pathlib import Path
from typing import NamedTuple

from skinml.store.access import ask, store_is_needed
from skinml.store.folders import log_folder
from skinml.store.read import PAGE

KIND = "external"


class ExternalTest(NamedTuple):
    """A finished external test as it was tracked: `tags` are texts, `metrics` the figures."""

    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]


def external_tests(experiment: str) -> list[ExternalTest]:
    """The finished external tests of an experiment (its id), newest first, a page at most."""
    from mlflow import MlflowClient

    with store_is_needed():
        runs = ask(
            lambda: MlflowClient().search_runs(
                [experiment],
                f"attributes.status = 'FINISHED' and tags.kind = '{KIND}'",
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
            )
        )
    return [
        ExternalTest(str(run.info.run_id), dict(run.data.tags), dict(run.data.metrics))
        for run in runs
    ]


def log_external(
    folder: Path, name: str, trained_by: str, tags: dict[str, str], metrics: dict[str, float]
) -> str:
    """Log an external test to the experiment of the run that trained the model; its run's id."""
    from mlflow import MlflowClient

    with store_is_needed():
        client = MlflowClient()
        experiment = client.get_experiment(client.get_run(trained_by).info.experiment_id).name
        return log_folder(folder, name, experiment, {"kind": KIND, **tags}, metrics)


def version_of(uri: str) -> str:
    """The name and version of a registered model by its URI, as a tag has it; else the URI."""
    found = re.fullmatch(r"models:/([^/@]+)/(\d+)", uri)
    return f"{found[1]} version {found[2]}" if found else uri
