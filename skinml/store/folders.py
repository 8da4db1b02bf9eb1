"""Folders → MLflow: what a command has made, such as a comparison, as a run of its own."""

import os
from pathlib import Path

from skinml.tracking.record import author


def log_folder(
    folder: Path, name: str, experiment: str, tags: dict[str, str], metrics: dict[str, float]
) -> str:
    """Log the files of a folder, with tags and metrics, as a run; returns the run's id.

    In the run that `mlflow run` has made for this command, where it is one of those.
    """
    import mlflow

    made = "MLFLOW_RUN_ID" in os.environ
    if not made:
        mlflow.set_experiment(experiment)
    run_name = None if made else name
    with mlflow.start_run(run_name=run_name, tags={**author(), **tags}) as run:
        mlflow.log_artifacts(str(folder))
        mlflow.log_metrics(metrics)
    return str(run.info.run_id)
