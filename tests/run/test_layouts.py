"""A run on a small set in the layout of each data set by name, from its files to a champion."""

import json
import shutil
from pathlib import Path

import pytest

from skinml.data.datasets import DATASETS
from skinml.evaluation.predictions import read_predictions
from skinml.tracking.folder import RunFolder
from tests.conftest import surroundings
from tests.data.test_archive_sets import LAYOUTS
from tests.run.test_own import FAST

# Of the three lesions of each class one for each part.
THIRDS = ["--test_fraction", "0.34", "--validation_fraction", "0.5"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", ["ham10000", "isic2019", "pad-ufes-20"])
def test_a_run_on_a_published_layout(
    layout: str, tiny_backbone: str, empty_store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from skinml.run.__main__ import main as run

    name, make = LAYOUTS[layout]
    make(tmp_path / "files")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with surroundings(tmp_path):
        given = ["--data", name, "--data_dir", str(tmp_path / "files"), "--model", tiny_backbone]
        # The exported network is that of any other data (tests/run/test_end_to_end.py).
        assert not run([*given, *FAST, *THIRDS, "--export", "false"])
        version = MlflowClient().get_model_version_by_alias(f"skinml-{name}-tiny", "champion")
        shown = MlflowClient().get_experiment_by_name(f"skinml-{name}")
    [path] = (tmp_path / "runs").iterdir()
    folder = RunFolder.open(path)
    classes = DATASETS[name].classes
    assert json.loads(folder.read_description().params["classes"]) == list(classes)
    assert read_predictions(folder.predictions("test")).classes == classes
    assert version.tags["data"] == name
    # Its views have a column for each class.
    assert shown is not None
    view = json.loads(shown.tags["mlflow.sharedViewState.skinml-results-table"])
    columns = json.loads(view["state"])["selectedColumns"]
    assert {f"metrics.`test_auc_{label}`" for label in classes} < set(columns)
    assert not any("keratosis_auc" in column for column in columns)
