"""A run folder → MLflow: the only module that writes to MLflow while a run goes on.

Parameters, curves and metrics may be written again: parameters that stand are left alone, and a
metric's row (key, step, value, time) that is already there adds nothing. So a folder can be
published as it grows, and once more in full.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from skinml.history import Row
from skinml.processes import process_name
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.store import refusal

# Set by a sweep for the processes of its cells.
PARENT_RUN_VARIABLE = "SKINML_PARENT_RUN_ID"

_BATCH = 900  # metrics and parameters a request: MLflow takes at most 1,000 of them together.

_CURVES = ("loss", "accuracy", "auc_macro")


def curve_metrics(row: Row) -> dict[str, float]:
    """The metrics of one epoch under the names that their curves have in MLflow."""
    names = [f"{part}_{name}" for part in ("train", "val") for name in _CURVES]
    names += ["learning_rate", "seconds", "images_per_second"]
    return {f"epoch/{name}": float(row[name]) for name in names}


class Run:
    """One run in MLflow that a run folder is published to."""

    def __init__(self, run_id: str) -> None:
        from mlflow import MlflowClient

        self.id = run_id
        self._client = MlflowClient()

    def describe(self, description: Description) -> None:
        """Log parameters, tags and the data set."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        run = self._client.get_run(self.id)
        # `mlflow run` has logged the declared parameters in the user's spelling already, and the
        # same parameter with another spelling ("1e-3", "0.001") would reject the whole batch.
        params = [
            Param(key, value)
            for key, value in description.params.items()
            if key not in run.data.params
        ]
        tags = dict(description.tags)
        if _is_generated(run.data.tags.get("mlflow.runName", "")):
            tags["mlflow.runName"] = description.name
        self._client.log_batch(
            self.id, params=params, tags=[RunTag(key, value) for key, value in tags.items()]
        )
        dataset = description.dataset
        entity = Dataset(
            name=dataset["name"],
            digest=dataset["digest"],
            source_type="local",
            source=json.dumps({"uri": dataset["source"]}),
            profile=json.dumps(dataset["counts"]),
        )
        context = InputTag("mlflow.data.context", "training, validation and test")
        self._client.log_inputs(self.id, [DatasetInput(entity, [context])])

    def log_epochs(self, rows: list[Row]) -> None:
        """Log the curves of some epochs, each at its own time."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, int(row["time"]), int(row["epoch"]))
            for row in rows
            for key, value in curve_metrics(row).items()
            if np.isfinite(value)
        ]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.id, metrics=metrics[start : start + _BATCH])

    def log_results(self, folder: RunFolder) -> None:
        """Log the numbers, figures, tables and texts of a finished folder, models excepted."""
        from mlflow.entities import Metric
        from PIL import Image

        finished = int((folder.path / "FINISHED").stat().st_mtime * 1000)
        metrics = [
            Metric(key, value, finished, 0)
            for key, value in folder.read_metrics().items()
            if np.isfinite(value)
        ]
        self._client.log_batch(self.id, metrics=metrics)
        for path in sorted(folder.figures.glob("*.png")):
            # As a keyed image it also stands in the UI's image grid, across runs.
            with Image.open(path) as picture:
                self._client.log_image(
                    self.id, picture.convert("RGB"), key=path.stem, step=0, synchronous=True
                )
        self._client.log_artifacts(self.id, str(folder.figures), "figures")
        for pattern in ("predictions_*.csv", "*.txt", "run.json", "metrics.json", "history.csv"):
            for path in sorted(folder.path.glob(pattern)):
                self._client.log_artifact(self.id, str(path))
        self._client.set_tag(self.id, "mlflow.note.content", folder.read_text("note.md"))

    def give_reason(self, reason: str) -> None:
        """Say in a tag why the run did not finish."""
        self._client.set_tag(self.id, "skinml.reason", reason[:500])


def default_experiment(data: str) -> str:
    """The experiment of a data set, where $MLFLOW_EXPERIMENT_NAME names no other."""
    return "skinml-demo" if data == "demo" else "skinml"


@contextmanager
def open_run(description: Description, system_metrics: bool = True) -> Iterator[Run]:
    """Open an MLflow run for the duration of a training, with the machine's load as metrics.

    Attaches to the run that `mlflow run` made ($MLFLOW_RUN_ID), else starts one, in the experiment
    of $MLFLOW_EXPERIMENT_NAME or "skinml" ("skinml-demo" for the demo set), below the run of
    $SKINML_PARENT_RUN_ID where that is given. Ends it as FINISHED, as KILLED after an
    interruption, as FAILED after any error, never as RUNNING.
    """
    import mlflow

    attached = bool(os.environ.get("MLFLOW_RUN_ID"))
    try:
        if not attached and not any(
            os.environ.get(name) for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
        ):
            mlflow.set_experiment(default_experiment(description.tags["data"]))
            # MLflow has put the experiment into the environment: the next run chooses for itself.
            os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        active = mlflow.start_run(
            run_name=None if attached else description.name,
            parent_run_id=None if attached else os.environ.get(PARENT_RUN_VARIABLE) or None,
            # From the first moment: a run whose process is gone can be told from one that goes on.
            tags={"process": process_name()},
            log_system_metrics=system_metrics,
        )
    except mlflow.MlflowException as error:
        raise refusal("start a run at", error, "--offline trains without one") from None
    run = Run(active.info.run_id)
    _open_as_model_training(active.info.experiment_id)
    _install_views(mlflow.get_tracking_uri(), active.info.experiment_id)
    try:
        yield run
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        mlflow.end_run("KILLED" if interrupted else "FAILED")
        run.give_reason(_first_line(error))
        raise
    mlflow.end_run("FINISHED")


def _open_as_model_training(experiment_id: str) -> None:
    """Keep the experiment's pages out of the UI's layout for generative AI, its default."""
    from mlflow import MlflowClient

    kind = "mlflow.experimentKind"
    client = MlflowClient()
    if kind not in client.get_experiment(experiment_id).tags:
        client.set_experiment_tag(experiment_id, kind, "custom_model_development")


@cache
def _install_views(tracking_uri: str, experiment_id: str) -> None:
    """Give an experiment its note and saved views, once a process; a warning where that fails."""
    from skinml.tracking.views import install_views

    try:
        install_views(experiment_id)
    except Exception as error:  # Whatever it is: a training does not fail for want of a view.
        print(
            f"skinml: warning: the experiment has no saved views: {_first_line(error)[:200]}",
            file=sys.stderr,
        )


def _is_generated(name: str) -> bool:
    """Whether MLflow made up the name, such as "dapper-crow-512": such a name we improve on.

    By MLflow's own words, as a person may well call a run "final-model-2".
    """
    from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

    words = re.fullmatch(r"([a-z]+)-([a-z]+)-\d{1,4}", name)
    return bool(words and words[1] in _GENERATOR_PREDICATES and words[2] in _GENERATOR_NOUNS)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
