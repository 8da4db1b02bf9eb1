"""A run folder → MLflow, on a real SQLite store, without TensorFlow."""

import json
import os
from dataclasses import replace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput
from mlflow.entities import Run as Entity

from skinml.errors import UserError
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.publish import Run, curve_metrics, open_run

DESCRIPTION = Description(
    "mobilenetv2-16-seed3",
    {"model": "mobilenetv2"},
    {"data": "isic2017"},
    {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}},
)
DEMO = replace(DESCRIPTION, tags={"data": "demo"})


def _publish(run: Run, folder: RunFolder) -> None:
    run.describe(folder.read_description())
    run.log_epochs(folder.read_history())
    run.log_results(folder)


def _new_run(store: MlflowClient, **options: Any) -> Run:
    return Run(store.create_run("0", **options).info.run_id)


def _inputs(store: MlflowClient, run_id: str) -> list[DatasetInput]:
    inputs = store.get_run(run_id).inputs
    assert inputs is not None
    return inputs.dataset_inputs


def _artifacts(store: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    return [entry.path for entry in store.list_artifacts(run_id, path)]


def _the_run(store: MlflowClient, experiment: str) -> Entity:
    """The only run of an experiment."""
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = store.search_runs([found.experiment_id])
    return run


def _rows(store: MlflowClient, run_id: str) -> set[tuple[str, float, int, int]]:
    keys = store.get_run(run_id).data.metrics
    rows = [
        (metric.key, metric.value, metric.timestamp, metric.step)
        for key in keys
        for metric in store.get_metric_history(run_id, key)
    ]
    assert len(rows) == len(set(rows))
    return set(rows)


def test_all_of_a_folder_stands_in_mlflow(store: MlflowClient, finished_folder: RunFolder) -> None:
    run = _new_run(store)
    _publish(run, finished_folder)
    description = finished_folder.read_description()
    entity = store.get_run(run.id)

    assert entity.data.params == description.params
    assert description.tags.items() <= entity.data.tags.items()
    assert entity.data.tags["mlflow.note.content"] == finished_folder.read_text("note.md")

    (given,) = _inputs(store, run.id)
    assert (given.dataset.name, given.dataset.digest) == ("isic2017", "0123456789abcdef")
    assert json.loads(given.dataset.profile or "") == description.dataset["counts"]
    assert json.loads(given.dataset.source) == {"uri": "prepared-isic2017"}
    assert [tag.key for tag in given.tags] == ["mlflow.data.context"]

    # An undefined number is left out: MLflow could not show it, and refuses models with one.
    results = {k: v for k, v in entity.data.metrics.items() if not k.startswith("epoch/")}
    assert results == {"val_auc_macro": 0.8125, "test_accuracy": 0.75}

    assert set(_artifacts(store, run.id)) == {
        "classification_report.txt",
        "figures",
        "history.csv",
        "images",
        "metrics.json",
        "model_summary.txt",
        "predictions_test.csv",
        "predictions_validation.csv",
        "run.json",
    }
    names = ("confusion_matrix", "roc_curves")
    assert _artifacts(store, run.id, "figures") == [
        f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png")
    ]
    # What the UI's image grid reads: the key and step stand in the name.
    pictures = [path for path in _artifacts(store, run.id, "images") if path.endswith(".png")]
    assert [path.split("+")[:3] for path in pictures] == [
        [f"images/{name}", "step", "0"] for name in names
    ]


def test_curves_are_on_steps_from_1_at_their_own_times(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run = _new_run(store)
    rows = finished_folder.read_history()
    run.log_epochs(rows)
    names = {
        *(
            f"{part}_{name}"
            for part in ("train", "val")
            for name in ("loss", "accuracy", "auc_macro")
        ),
        *("learning_rate", "seconds", "images_per_second"),
    }
    assert set(store.get_run(run.id).data.metrics) == {f"epoch/{name}" for name in names}
    for name in names:
        history = store.get_metric_history(run.id, f"epoch/{name}")
        assert [(point.step, point.timestamp, point.value) for point in history] == [
            (epoch, 1_700_000_000_000 + 60_000 * epoch, rows[epoch - 1][name]) for epoch in (1, 2)
        ]


def test_more_epochs_than_one_request_may_hold(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """150 epochs of 9 curves are more than MLflow's 1,000 metrics a request."""
    run = _new_run(store)
    (row, _) = finished_folder.read_history()
    run.log_epochs([{**row, "epoch": epoch} for epoch in range(1, 151)])
    for name in ("epoch/train_loss", "epoch/images_per_second"):
        history = store.get_metric_history(run.id, name)
        assert [point.step for point in history] == list(range(1, 151))


def test_an_undefined_point_of_a_curve_is_left_out(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run = _new_run(store)
    (row, _) = finished_folder.read_history()
    run.log_epochs([{**row, "val_auc_macro": float("nan"), "train_loss": float("inf")}])
    left_out = {"epoch/val_auc_macro", "epoch/train_loss"}
    assert set(store.get_run(run.id).data.metrics) == set(curve_metrics(row)) - left_out


def test_publishing_again_adds_nothing(store: MlflowClient, finished_folder: RunFolder) -> None:
    """A run logs each epoch as it ends, and all of them once more at its end."""
    run = _new_run(store)
    run.log_epochs(finished_folder.read_history()[:1])
    _publish(run, finished_folder)
    rows, inputs = _rows(store, run.id), _inputs(store, run.id)
    _publish(run, finished_folder)
    assert _rows(store, run.id) == rows
    assert len(_inputs(store, run.id)) == len(inputs) == 1


def test_parameters_of_mlflow_run_in_another_spelling_do_not_conflict(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run = _new_run(store)
    store.log_param(run.id, "learning_rate_frozen", "1e-3")
    run.describe(finished_folder.read_description())
    params = store.get_run(run.id).data.params
    assert params == {"model": "mobilenetv2", "learning_rate_frozen": "1e-3", "seed": "3"}


def test_a_generated_name_gives_way(store: MlflowClient) -> None:
    from mlflow.utils.name_utils import _generate_random_name

    names = {_generate_random_name() for _ in range(3)} | {"dapper-crow-512", "able-hog-1000"}
    for name in names:
        run = _new_run(store, run_name=name)
        run.describe(DESCRIPTION)
        assert store.get_run(run.id).info.run_name == DESCRIPTION.name


@pytest.mark.parametrize("name", ["final-model-2", "dapper-crow-512b", "Dapper-crow-5", "mine"])
def test_a_persons_name_stays(name: str, store: MlflowClient) -> None:
    run = _new_run(store, run_name=name)
    run.describe(DESCRIPTION)
    assert store.get_run(run.id).info.run_name == name


@pytest.mark.parametrize(
    ("description", "experiment"), [(DESCRIPTION, "skinml"), (DEMO, "skinml-demo")]
)
def test_a_run_that_goes_well_is_finished_in_its_experiment(
    description: Description, experiment: str, store: MlflowClient
) -> None:
    with open_run(description) as run:
        assert store.get_run(run.id).info.status == "RUNNING"
    entity = _the_run(store, experiment)
    assert entity.info.run_id == run.id and entity.info.run_name == description.name
    assert entity.info.status == "FINISHED" and entity.info.end_time
    assert "skinml.reason" not in entity.data.tags
    assert mlflow.active_run() is None


def test_one_process_keeps_the_demo_out_of_the_real_runs(store: MlflowClient) -> None:
    """`skinml.sync` opens one run after another; MLflow would stay with the first experiment."""
    for description in (DEMO, DESCRIPTION, DEMO):
        with open_run(description, system_metrics=False):
            pass
    for name, count in (("skinml", 1), ("skinml-demo", 2)):
        experiment = store.get_experiment_by_name(name)
        assert experiment is not None
        assert len(store.search_runs([experiment.experiment_id])) == count


def test_the_experiment_can_be_named(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with open_run(DESCRIPTION, system_metrics=False) as run:
        pass
    assert _the_run(store, "mine").info.run_id == run.id
    assert store.get_experiment_by_name("skinml") is None


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("out of memory\nand a traceback"), "FAILED", "out of memory"),
        (ValueError("x" * 9000), "FAILED", "x" * 500),
        (UserError("no such file"), "FAILED", "no such file"),
        (RuntimeError(), "FAILED", "RuntimeError"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(143), "KILLED", "143"),
    ],
)
def test_a_run_that_ends_early_says_so(
    error: BaseException, status: str, reason: str, store: MlflowClient
) -> None:
    """With the machine's load being logged as in a real run: its thread must end too."""
    with pytest.raises(type(error)) as caught, open_run(DESCRIPTION):
        raise error
    assert caught.value is error
    entity = _the_run(store, "skinml")
    assert entity.info.status == status and entity.info.end_time
    assert entity.data.tags["skinml.reason"] == reason
    assert mlflow.active_run() is None
    from mlflow.tracking.fluent import run_id_to_system_metrics_monitor

    assert entity.info.run_id not in run_id_to_system_metrics_monitor


def test_attaches_to_the_run_that_mlflow_run_made(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.create_experiment("theirs")
    made = store.create_run(experiment, run_name="dapper-crow-512").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    with open_run(DESCRIPTION) as run:
        run.describe(DESCRIPTION)
        assert run.id == made
    entity = _the_run(store, "theirs")
    assert entity.info.status == "FINISHED" and entity.info.run_name == DESCRIPTION.name
    assert store.get_experiment_by_name("skinml") is None


def test_the_machines_load_is_logged(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with open_run(DESCRIPTION) as run:
        deadline = time.monotonic() + 20
        while not store.get_run(run.id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "system/cpu_utilization_percentage" in store.get_run(run.id).data.metrics


def test_a_server_that_does_not_answer_is_a_users_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    says = pytest.raises(UserError, match=r"http://127\.0\.0\.1:9.*--offline")
    with says as caught, open_run(DESCRIPTION):
        pytest.fail("a run without a server")
    assert "\n" not in str(caught.value)
    assert "MLFLOW_EXPERIMENT_ID" not in os.environ
