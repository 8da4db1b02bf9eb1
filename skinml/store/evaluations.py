"""Evaluations of finished runs, computed anew where other code has made their figures."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.evaluation.operating_point import rule_of
from skinml.evaluation.predictions import read_predictions
from skinml.evaluation.results import PREFIXES, evaluate_tables
from skinml.store.access import store_is_needed
from skinml.store.read import download
from skinml.store.runs import log_figures
from skinml.training.code_digest import evaluation_digest

if TYPE_CHECKING:
    from mlflow.entities import Run


def is_outdated(run: "Run") -> bool:
    """Whether other code than today's has computed the figures of a finished run."""
    return run.data.tags.get("evaluation_digest") != evaluation_digest()


def evaluate_anew(run_id: str) -> dict[str, float]:
    """Compute a finished run's metrics from its predictions tables, and log them to it.

    No training and no model is needed. Tables that cannot be read are a `UserError`; the run is
    then as it was.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        tables = {
            part: read_predictions(download(run_id, f"predictions_{part}.csv", Path(folder)))
            for part in PREFIXES
        }
    with store_is_needed():
        rule = rule_of(MlflowClient().get_run(run_id).data.params)
        metrics = evaluate_tables(tables, rule)
        log_figures(run_id, metrics, {"evaluation_digest": evaluation_digest()})
    return metrics
