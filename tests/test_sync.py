"""Folders of offline runs → MLflow: each once, finished ones only."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from skinml import sync
from skinml.errors import UserError, run_command
from skinml.tracking.folder import RunFolder


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """The folders whose models would have been logged, which takes TensorFlow."""
    calls: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        sync, "log_models", lambda folder, register: calls.append((folder.path, register))
    )
    return calls


def test_a_folder_is_published_once(
    store: MlflowClient, finished_folder: RunFolder, logged: list[tuple[Path, bool]]
) -> None:
    run_id = sync.sync(finished_folder.path)
    assert sync.sync(finished_folder.path) == run_id
    assert logged == [(finished_folder.path, True)]
    experiment = store.get_experiment_by_name("skinml")
    assert experiment is not None
    (run,) = store.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert run.data.metrics["test_accuracy"] == 0.75
    assert run.data.metrics["epoch/val_loss"] == 2 / 7
    assert run.data.params["seed"] == "3"


def test_the_load_of_the_publishing_machine_is_not_the_runs(
    store: MlflowClient,
    finished_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    seen: list[str] = []
    monkeypatch.setattr(
        sync, "log_models", lambda *_: seen.extend(thread.name for thread in threading.enumerate())
    )
    sync.sync(finished_folder.path)
    assert seen and "SystemMetricsMonitor" not in seen


def test_a_publication_that_failed_is_repeated(
    store: MlflowClient, finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed one is marked as such, and the folder does not keep its id."""

    def fail(folder: RunFolder, register: bool) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(sync, "log_models", fail)
    with pytest.raises(RuntimeError):
        sync.sync(finished_folder.path)
    monkeypatch.setattr(sync, "log_models", lambda folder, register: {})
    run_id = sync.sync(finished_folder.path, register=False)
    experiment = store.get_experiment_by_name("skinml")
    assert experiment is not None
    runs = store.search_runs([experiment.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    assert store.get_run(run_id).info.status == "FINISHED"


def test_an_unfinished_folder_is_refused_before_mlflow_sees_it(
    finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished_folder.path / "FINISHED").unlink()
    monkeypatch.setattr(sync, "open_run", lambda *_, **__: pytest.fail("a run was opened"))
    with pytest.raises(UserError, match="did not finish"):
        sync.sync(finished_folder.path)


def test_the_command_names_the_run_of_each_folder(
    store: MlflowClient,
    finished_folder: RunFolder,
    logged: list[tuple[Path, bool]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(lambda: sync.main([str(finished_folder.path), str(tmp_path)])) == 2
    out, err = capsys.readouterr()
    run_id = finished_folder.read_text("mlflow_run_id").strip()
    assert out == f"{finished_folder.path}: run {run_id}\n"
    assert err.splitlines()[-1].startswith(f"skinml: error: {tmp_path}: no run.json")
