"""The run of a sweep in MLflow, on a real SQLite store."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from skinml.base.errors import UserError
from skinml.base.processes import process_name
from skinml.run.tracked import track
from skinml.store.sweeps import (
    NOTE_LENGTH,
    SweepRun,
    find_experiment,
    reason_of,
    run_link,
    runs_with,
)
from skinml.sync import sync
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.record import PARENT_RUN_VARIABLE
from tests.waiting import PATIENCE

KEY = "0123456789abcdef"


@pytest.fixture
def experiment(store: MlflowClient) -> str:
    found = find_experiment("isic2017", create=True)
    assert found
    return found


def open_sweep(experiment: str, key: str = KEY) -> SweepRun:
    return SweepRun.open(key, f"sweep-{key[:8]}", {"data": "isic2017"}, experiment)


def child(store: MlflowClient, sweep: SweepRun, **tags: str) -> str:
    tags = {"mlflow.parentRunId": sweep.id, **tags}
    return str(store.create_run(sweep.experiment, tags=tags).info.run_id)


def ended_process() -> str:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(process.pid)
    process.communicate(b"\n")
    return name


# Where


@pytest.mark.parametrize(("data", "name"), [("isic2017", "skinml"), ("demo", "skinml-demo")])
def test_a_sweep_is_in_the_experiment_of_its_data(
    data: str, name: str, store: MlflowClient
) -> None:
    assert find_experiment(data) is None
    assert store.get_experiment_by_name(name) is None, "looking for it made it"
    found = find_experiment(data, create=True)
    assert found and store.get_experiment(found).name == name
    assert find_experiment(data, create=True) == found == find_experiment(data)


def test_the_experiment_can_be_named_or_given_by_mlflow_run(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mine = find_experiment("demo", create=True)
    assert mine and store.get_experiment(mine).name == "mine"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    assert find_experiment("demo") == mine
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with pytest.raises(UserError, match="is the experiment 'Default', MLFLOW_EXPERIMENT_NAME='mi"):
        find_experiment("demo")
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    assert find_experiment("demo") == "0"


@pytest.mark.parametrize(("deleted", "text"), [(True, "'mine' is deleted"), (False, "ID=999: not")])
def test_an_id_without_an_experiment_is_a_users_error(
    deleted: bool, text: str, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deleted:
        store.delete_experiment(store.create_experiment("mine"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1" if deleted else "999")
    with pytest.raises(UserError, match=text):
        find_experiment("demo", create=True)


def test_looking_does_not_make_a_store(tmp_path: Path) -> None:
    assert find_experiment("demo") is None
    assert not (tmp_path / "mlflow.db").exists()


def test_a_deleted_experiment_is_a_users_error(store: MlflowClient, experiment: str) -> None:
    store.delete_experiment(experiment)
    with pytest.raises(UserError, match="experiment 'skinml' is deleted; restore it"):
        find_experiment("isic2017", create=True)


def test_a_server_that_does_not_answer_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9") as caught:
        find_experiment("isic2017", create=True)
    assert "\n" not in str(caught.value)


# One run for a sweep, however often it is started


def test_a_first_start_makes_the_run(store: MlflowClient, experiment: str) -> None:
    sweep = open_sweep(experiment)
    run = store.get_run(sweep.id)
    assert run.info.status == "RUNNING" and run.info.run_name == "sweep-01234567"
    expected = {"kind": "sweep", "sweep_key": KEY, "data": "isic2017", "process": process_name()}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.user"]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED", "RUNNING"])
def test_another_start_goes_on_with_it(store: MlflowClient, experiment: str, status: str) -> None:
    first = open_sweep(experiment)
    if status != "RUNNING":
        first.close(status, "a reason" * (status != "FINISHED"))
    second = open_sweep(experiment)
    assert second == first
    assert store.get_run(first.id).info.status == "RUNNING"
    second.close("FINISHED")
    run = store.get_run(first.id)
    assert run.info.status == "FINISHED"
    assert "skinml.reason" not in run.data.tags, "the reason of an earlier start"
    assert len(store.search_runs([experiment])) == 1


def test_another_sweep_has_another_run(store: MlflowClient, experiment: str) -> None:
    assert open_sweep(experiment).id != open_sweep(experiment, "f" * 16).id


def project_run(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> str:
    """What `mlflow run` makes and sets before it starts the entry point."""
    made = store.create_run(experiment, run_name=name).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    return str(made)


def test_a_first_start_by_mlflow_run_uses_the_run_it_made(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project_run(store, experiment, monkeypatch, "dapper-crow-512")
    sweep = open_sweep(experiment)
    assert (sweep.id, sweep.attached) == (made, "")
    run = store.get_run(made)
    assert run.info.run_name == "sweep-01234567"
    assert run.data.tags["sweep_key"] == KEY
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert open_sweep(experiment).id == made


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_later_start_by_mlflow_run_goes_on_with_the_first_and_closes_the_new_one(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    first = open_sweep(experiment)
    made = project_run(store, experiment, monkeypatch, "my own name")
    second = open_sweep(experiment)
    assert (second.id, second.attached) == (first.id, made)
    second.close(status, "why" * (status != "FINISHED"))
    new = store.get_run(made)
    assert new.info.status == store.get_run(first.id).info.status == status
    assert new.info.run_name == "my own name"
    assert new.data.tags["continues"] == first.id
    assert "sweep_key" not in new.data.tags, "it would be taken for the sweep's own run"
    assert run_link(experiment, first.id) in new.data.tags["mlflow.note.content"]
    assert (new.data.tags.get("skinml.reason") == "why") == (status != "FINISHED")


# Its cells


def test_a_training_below_it_is_its_child(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What `skinml.run` does with the variable that a sweep gives to its processes."""
    sweep = open_sweep(experiment)
    monkeypatch.setenv(PARENT_RUN_VARIABLE, sweep.id)
    dataset = {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}}
    description = Description("m", {}, {"data": "isic2017"}, dataset)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_description(description)
    with track(folder, description, load=False) as run:
        assert run.forwarder
        run.forwarder.raise_if_refused(PATIENCE)
        [found] = sweep.children("RUNNING")
        assert found.info.run_id == run.forwarder.state().run_id
        assert found.data.tags["process"] == process_name()
        assert sweep.close_dead() == []
    assert sweep.children("RUNNING") == []
    assert [run.info.status for run in sweep.children()] == ["FINISHED"]
    assert sync(folder.path) == found.info.run_id


def test_only_running_children_whose_process_is_gone_are_closed(
    store: MlflowClient, experiment: str
) -> None:
    sweep = open_sweep(experiment)
    gone = ended_process()
    dead = child(store, sweep, process=gone)
    others = {
        "alive": child(store, sweep, process=process_name()),
        "on another host": child(store, sweep, process="elsewhere 1 2.0"),
        "unknown": child(store, sweep),
        "another sweep's": store.create_run(experiment, tags={"process": gone}).info.run_id,
    }
    finished = child(store, sweep, process=gone)
    store.set_terminated(finished, "FINISHED")
    assert sweep.close_dead() == [dead]
    run = store.get_run(dead)
    assert run.info.status == "KILLED" and run.info.end_time
    assert run.data.tags["skinml.reason"] == "its process is gone, without a word"
    for name, run_id in others.items():
        assert store.get_run(run_id).info.status == "RUNNING", name
    assert store.get_run(finished).info.status == "FINISHED"


def test_a_start_that_went_on_and_died_is_closed_too(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_sweep(experiment)
    made = project_run(store, experiment, monkeypatch, "n")
    second = open_sweep(experiment)
    assert second.close_dead() == [], "its own"
    store.set_tag(made, "process", ended_process())
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert open_sweep(experiment).close_dead() == [made]
    assert store.get_run(first.id).info.status == "RUNNING"


def test_runs_are_found_by_all_their_tags_newest_first_over_many_pages(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search: Any = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **o: search(*a, **o, max_results=2))
    made = []
    for start in range(5):
        tags = {"a.b": "x", "c": str(start % 2)}
        made.append(store.create_run(experiment, start_time=start + 1, tags=tags).info.run_id)
    store.set_terminated(made[2], "FAILED")
    assert [run.info.run_id for run in runs_with(experiment, {"a.b": "x"})] == made[::-1]
    assert [run.info.run_id for run in runs_with(experiment, {"a.b": "x", "c": "0"})] == [
        made[4],
        made[2],
        made[0],
    ]
    [failed] = runs_with(experiment, {"a.b": "x"}, "FAILED")
    assert failed.info.run_id == made[2]


def test_the_reason_is_that_of_the_newest_run_that_ended_badly(
    store: MlflowClient, experiment: str
) -> None:
    for status, tags in (
        ("FAILED", {"skinml.reason": "old"}),
        ("KILLED", {}),
        ("FAILED", {"skinml.reason": "no memory"}),
        ("FINISHED", {}),
    ):
        run_id = store.create_run(experiment, tags=tags | {"k": "v"}).info.run_id
        store.set_terminated(run_id, status)
    runs = sorted(runs_with(experiment, {"k": "v"}), key=lambda run: -run.info.end_time)
    assert reason_of(runs) == "no memory"
    assert reason_of(runs[2:]) == "killed"
    assert reason_of(runs[:1]) == reason_of([]) == ""


def test_a_long_note_is_cut_to_what_mlflow_takes(store: MlflowClient, experiment: str) -> None:
    sweep = open_sweep(experiment)
    sweep.write_note("n" * 20_000)
    assert store.get_run(sweep.id).data.tags["mlflow.note.content"] == "n" * NOTE_LENGTH


def test_reading_writes_nothing(store: MlflowClient, experiment: str, tmp_path: Path) -> None:
    def content() -> list[str]:
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            return list(connection.iterdump())

    sweep = open_sweep(experiment)
    before = content()
    find_experiment("isic2017")
    runs_with(experiment, {"kind": "sweep"})
    sweep.children()
    assert sweep.close_dead() == []
    assert content() == before
