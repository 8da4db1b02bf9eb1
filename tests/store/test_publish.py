"""A run's journal → MLflow, on a real SQLite store, without TensorFlow."""

import json
import shutil
import sqlite3
import time
import tracemalloc
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient, MlflowException
from mlflow.entities import DatasetInput
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from skinml.base.errors import UserError
from skinml.base.processes import process_name
from skinml.store.forwarder import send_rest
from skinml.store.forwarding import Forwarder
from skinml.store.publish import send
from skinml.store.runs import GONE
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import Journal, Record, read_journal
from skinml.tracking.record import (
    curve_metrics,
    header,
    read_noted,
    record_end,
    record_epoch,
    record_folder,
    record_results,
    record_start,
)
from tests.conftest import noted
from tests.waiting import wait_for

DESCRIPTION = Description(
    "mobilenetv2-16-seed3",
    {"model": "mobilenetv2"},
    {"data": "isic2017"},
    {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}},
)
DEMO = replace(DESCRIPTION, tags={"data": "demo"})


def _send_all(folder: RunFolder) -> str:
    """What a forwarder does, in this process; the run's id."""
    forwarder = Forwarder(folder)
    while forwarder.step():
        pass
    return forwarder.state.run_id


def _publish(folder: RunFolder) -> str:
    record_folder(folder)
    return _send_all(folder)


def _new_run(store: MlflowClient, **options: Any) -> str:
    return str(store.create_run("0", **options).info.run_id)


def _send(store: MlflowClient, run_id: str, folder: RunFolder, *records: Record) -> None:
    send(folder, records, store.get_run(run_id), lambda *_: {})


def _metrics(number: int, row: dict[str, Any]) -> Record:
    values = curve_metrics(row)
    return Record(
        number, "metrics", {"step": row["epoch"], "time": row["time"], "values": values}, 0
    )


@pytest.fixture
def started(tmp_path: Path) -> RunFolder:
    """The folder of a run that has begun, and whose process has written no more."""
    return _started(tmp_path / "started", DESCRIPTION)


def _started(path: Path, description: Description) -> RunFolder:
    folder = RunFolder(path)
    folder.figures.mkdir(parents=True)
    folder.write_description(description)
    journal = Journal(folder.journal)
    record_start(journal, description)
    journal.close()
    return folder


def _inputs(store: MlflowClient, run_id: str) -> list[DatasetInput]:
    inputs = store.get_run(run_id).inputs
    assert inputs is not None
    return inputs.dataset_inputs


def _artifacts(store: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    return [entry.path for entry in store.list_artifacts(run_id, path)]


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
    run_id = _publish(finished_folder)
    description = finished_folder.read_description()
    entity = store.get_run(run_id)

    assert entity.data.params == description.params
    assert description.tags.items() <= entity.data.tags.items()
    assert entity.data.tags["mlflow.note.content"] == finished_folder.read_text("note.md")

    (given,) = _inputs(store, run_id)
    assert (given.dataset.name, given.dataset.digest) == ("isic2017", "0123456789abcdef")
    assert json.loads(given.dataset.profile or "") == description.dataset["counts"]
    assert json.loads(given.dataset.source) == {"uri": "prepared-isic2017"}
    assert [tag.key for tag in given.tags] == ["mlflow.data.context"]

    # An undefined number is left out: MLflow could not show it, and refuses models with one.
    results = {k: v for k, v in entity.data.metrics.items() if not k.startswith("epoch/")}
    assert results == {"val_auc_macro": 0.8125, "test_accuracy": 0.75}

    assert set(_artifacts(store, run_id)) == {
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
    assert _artifacts(store, run_id, "figures") == [
        f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png")
    ]
    # What the UI's image grid reads: the key and step stand in the name.
    pictures = [path for path in _artifacts(store, run_id, "images") if path.endswith(".png")]
    assert [path.split("+")[:3] for path in pictures] == [
        [f"images/{name}", "step", "0"] for name in names
    ]


def test_curves_are_on_steps_from_1_at_their_own_times(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run_id = _publish(finished_folder)
    rows = finished_folder.read_history()
    names = {
        *(
            f"{part}_{name}"
            for part in ("train", "val")
            for name in ("loss", "accuracy", "auc_macro")
        ),
        *("learning_rate", "seconds", "images_per_second"),
    }
    curves = {key for key in store.get_run(run_id).data.metrics if key.startswith("epoch/")}
    assert curves == {f"epoch/{name}" for name in names}
    for name in names:
        history = store.get_metric_history(run_id, f"epoch/{name}")
        assert [(point.step, point.timestamp, point.value) for point in history] == [
            (epoch, 1_700_000_000_000 + 60_000 * epoch, rows[epoch - 1][name]) for epoch in (1, 2)
        ]


def test_more_epochs_than_one_request_may_hold(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """150 epochs of 9 curves, 250 parameters and tags are more than MLflow takes at once."""
    run_id = _new_run(store)
    (row, _) = finished_folder.read_history()
    many = {f"name-{number}": "x" for number in range(250)}
    records = [_metrics(epoch, {**row, "epoch": epoch}) for epoch in range(1, 151)]
    records.append(Record(151, "params", {"values": many}, 0))
    records.append(Record(152, "tags", {"values": many}, 0))
    _send(store, run_id, finished_folder, *records)
    for name in ("epoch/train_loss", "epoch/images_per_second"):
        history = store.get_metric_history(run_id, name)
        assert [point.step for point in history] == list(range(1, 151))
    data = store.get_run(run_id).data
    assert data.params == many
    assert data.tags.items() >= many.items()
    assert data.tags["skinml.acknowledged"] == "152"


def test_an_undefined_point_of_a_curve_is_left_out(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run_id = _new_run(store)
    (row, _) = finished_folder.read_history()
    undefined = {**row, "val_auc_macro": float("nan"), "train_loss": float("inf")}
    _send(store, run_id, finished_folder, _metrics(1, undefined))
    left_out = {"epoch/val_auc_macro", "epoch/train_loss"}
    assert set(store.get_run(run_id).data.metrics) == set(curve_metrics(row)) - left_out


def _everything(store: MlflowClient, run_id: str) -> tuple[Any, ...]:
    run = store.get_run(run_id)
    files = [_artifacts(store, run_id, path) for path in (None, "figures", "images")]
    return (
        _rows(store, run_id),
        run.data.params,
        run.data.tags,
        files,
        run.info.status,
        run.info.end_time,
        len(_inputs(store, run_id)),
    )


def test_sending_all_of_it_again_adds_nothing(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """A forwarder that lost what it knew, before and after the run's end."""
    record_folder(finished_folder)
    forwarder = Forwarder(finished_folder)
    assert forwarder.step()
    (finished_folder.path / "forward.json").unlink()
    run_id = _send_all(finished_folder)
    assert forwarder.state.run_id == run_id, "the run was made twice"
    once = _everything(store, run_id)
    (finished_folder.path / "forward.json").write_text("{half")
    assert _send_all(finished_folder) == run_id
    assert _everything(store, run_id) == once
    assert len(store.search_runs([store.get_run(run_id).info.experiment_id])) == 1


def test_a_double_that_a_slow_server_made_goes(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """Its answer was lost, and it was not there yet when it was looked for."""
    record_folder(finished_folder)
    forwarder = Forwarder(finished_folder)
    forwarder.step()
    run = store.get_run(forwarder.state.run_id)
    tags = {"skinml.journal": run.data.tags["skinml.journal"]}
    double = store.create_run(run.info.experiment_id, tags=tags).info.run_id
    _send_all(finished_folder)
    [left] = store.search_runs([run.info.experiment_id])
    assert left.info.run_id == run.info.run_id
    assert store.get_run(double).info.lifecycle_stage == "deleted"


def test_parameters_of_mlflow_run_in_another_spelling_do_not_conflict(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run_id = _new_run(store)
    store.log_param(run_id, "learning_rate_frozen", "1e-3")
    params = finished_folder.read_description().params
    _send(store, run_id, finished_folder, Record(1, "params", {"values": params}, 0))
    found = store.get_run(run_id).data.params
    assert found == {"model": "mobilenetv2", "learning_rate_frozen": "1e-3", "seed": "3"}


def _begin(folder: RunFolder) -> Record:
    return next(read_journal(folder.journal))


def test_a_generated_name_gives_way(store: MlflowClient, started: RunFolder) -> None:
    from mlflow.utils.name_utils import _generate_random_name

    names = {_generate_random_name() for _ in range(3)} | {"dapper-crow-512", "able-hog-1000"}
    for name in names:
        run_id = _new_run(store, run_name=name)
        _send(store, run_id, started, _begin(started))
        assert store.get_run(run_id).info.run_name == DESCRIPTION.name


@pytest.mark.parametrize("name", ["final-model-2", "dapper-crow-512b", "Dapper-crow-5", "mine"])
def test_a_persons_name_stays(name: str, store: MlflowClient, started: RunFolder) -> None:
    run_id = _new_run(store, run_name=name)
    _send(store, run_id, started, _begin(started))
    assert store.get_run(run_id).info.run_name == name


@pytest.mark.parametrize(
    ("description", "experiment"), [(DESCRIPTION, "skinml"), (DEMO, "skinml-demo")]
)
def test_a_run_is_running_in_its_experiment_until_its_end(
    description: Description, experiment: str, store: MlflowClient, tmp_path: Path
) -> None:
    folder = _started(tmp_path / "run", description)
    run = store.get_run(_send_all(folder))
    assert run.info.status == "RUNNING" and run.info.run_name == description.name
    found = store.get_experiment_by_name(experiment)
    assert found and found.experiment_id == run.info.experiment_id
    journal = Journal(folder.journal)
    record_end(journal, "FINISHED")
    journal.close()
    _send_all(folder)
    run = store.get_run(run.info.run_id)
    assert run.info.status == "FINISHED" and run.info.end_time
    assert "skinml.reason" not in run.data.tags
    assert run.data.tags["mlflow.user"] and run.data.tags["mlflow.source.type"] == "LOCAL"


def test_attaches_to_the_run_that_mlflow_run_made(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    experiment = store.create_experiment("theirs")
    made = store.create_run(experiment, run_name="dapper-crow-512").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    assert _send_all(_started(tmp_path / "run", DESCRIPTION)) == made
    run = store.get_run(made)
    assert run.info.status == "RUNNING" and run.info.run_name == DESCRIPTION.name
    assert store.get_experiment_by_name("skinml") is None


def test_the_end_of_an_attempt_that_was_gone_on_from_is_not_the_runs(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """A sweep takes a folder with FINISHED and this mark for one whose run MLflow has."""
    folder = noted(finished_folder, KeyboardInterrupt())
    known = read_noted(folder.journal)
    assert known.ended == "KILLED"
    journal = Journal(folder.journal)
    record_start(journal, folder.read_description(), known)
    forwarder = Forwarder(folder)
    while forwarder.step():
        assert folder.published == ""
    run_id = forwarder.state.run_id
    assert store.get_run(run_id).info.status == "RUNNING"
    # The forwarder of the attempt of before looked at the journal just before that record came.
    folder.mark_published(run_id)
    record_epoch(journal, {**folder.read_history()[0], "epoch": 3})
    _send_all(folder)
    assert folder.published == ""
    record_end(journal, "FINISHED")
    journal.close()
    assert _send_all(folder) == run_id == folder.published
    assert store.get_run(run_id).info.status == "FINISHED"


# A server that has lost what it had


def _lose(store: MlflowClient, folder: RunFolder, tmp_path: Path, steps: int) -> str:
    """Send a folder to a store, which is then what it was after so many steps; the run's id."""
    import sqlite3

    record_folder(folder)
    forwarder = Forwarder(folder)
    backup = sqlite3.connect(tmp_path / "backup.db")
    live = sqlite3.connect(tmp_path / "mlflow.db")
    for _ in range(steps):
        forwarder.step()
    live.backup(backup)
    while forwarder.step():
        pass
    backup.backup(live)
    backup.close()
    live.close()
    return forwarder.state.run_id


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_older_database_gets_again_what_it_has_lost(
    store: MlflowClient,
    finished_folder: RunFolder,
    tmp_path: Path,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The backup is of before the run was made, or of its middle."""
    monkeypatch.setattr("skinml.store.forwarding.PIECE", 100)
    store.create_experiment("skinml")
    before = _lose(store, finished_folder, tmp_path, steps)
    forwarder = Forwarder(finished_folder)
    forwarder.verify()
    while forwarder.step():
        pass
    assert "all of it is sent again" in capsys.readouterr().err
    run = store.get_run(forwarder.state.run_id)
    assert (run.info.run_id == before) == (steps > 0), "a run is made only where there is none"
    assert run.info.status == "FINISHED"
    assert [
        point.step for point in store.get_metric_history(run.info.run_id, "epoch/val_loss")
    ] == [
        1,
        2,
    ]
    assert run.data.metrics["test_accuracy"] == 0.75
    assert finished_folder.published == run.info.run_id


def test_a_restored_database_is_noticed_before_anything_new_is_sent(
    store: MlflowClient, started: RunFolder, tmp_path: Path, finished_folder: RunFolder
) -> None:
    """Sent first, the next epoch would say that the server holds all before it."""
    import sqlite3

    rows = finished_folder.read_history()
    journal = Journal(started.journal)
    forwarder = Forwarder(started)
    while forwarder.step():
        pass
    backup, live = sqlite3.connect(tmp_path / "b.db"), sqlite3.connect(tmp_path / "mlflow.db")
    live.backup(backup)
    record_epoch(journal, rows[0])
    assert forwarder.step()
    backup.backup(live)
    record_epoch(journal, rows[1])
    while forwarder.step():
        pass
    journal.close()
    history = store.get_metric_history(forwarder.state.run_id, "epoch/val_loss")
    assert [point.step for point in history] == [1, 2]
    backup.close()
    live.close()


# The lease


def test_the_lease_moves_and_a_run_that_was_taken_for_dead_opens_itself(
    store: MlflowClient, started: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder = Forwarder(started, live=True)
    forwarder.step()
    run_id = forwarder.state.run_id
    journal = Journal(started.journal)
    for count in ("1", "2"):
        forwarder.renew()
        run = store.get_run(run_id)
        assert (run.info.status, run.data.tags["skinml.lease"]) == ("RUNNING", count)
    store.set_tag(run_id, "skinml.reason", "its lease did not move")
    store.set_terminated(run_id, "KILLED")
    Forwarder(started, live=True).renew()
    run = store.get_run(run_id)
    assert (run.info.status, run.data.tags["skinml.lease"]) == ("RUNNING", "3")
    assert "skinml.reason" not in run.data.tags
    assert f"run {run_id} was closed while it goes on: it is open again" in capsys.readouterr().err

    journal.close()
    store.set_terminated(run_id, "KILLED")
    forwarder.renew()
    assert store.get_run(run_id).info.status == "KILLED", "its process is gone"


def test_the_lease_names_the_process_that_goes_on_even_where_all_is_sent_again(
    store: MlflowClient, started: RunFolder
) -> None:
    """The first one's name, sent after the second one's, would make a live run a dead one."""
    journal = Journal(started.journal)
    record_start(journal, DESCRIPTION, read_noted(started.journal))
    [first, second] = [r for r in read_journal(started.journal) if r.kind == "run"]
    lines = started.journal.read_bytes().splitlines(keepends=True)
    journal.close()
    assert first.fields["process"] == second.fields["process"] == process_name()
    body = lines[0][9:].replace(process_name().encode(), b"elsewhere 1 2.0").rstrip(b"\n")
    lines[0] = b"%08x %s\n" % (zlib.crc32(body), body)
    started.journal.write_bytes(b"".join(lines))
    assert header(started).fields["process"] == "elsewhere 1 2.0"  # type: ignore[union-attr]
    for _ in range(2):
        forwarder = Forwarder(started, live=True)
        forwarder.step()
        tags = store.get_run(forwarder.state.run_id).data.tags
        assert tags["process"] == process_name()
        (started.path / "forward.json").unlink()
    store.set_tag(forwarder.state.run_id, "process", "elsewhere 1 2.0")
    forwarder.renew()
    tags = store.get_run(forwarder.state.run_id).data.tags
    assert tags["process"] == process_name()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], set[str]]]:
    """The names of the metrics and tags of each batch that is sent."""
    sent: list[tuple[set[str], set[str]]] = []
    log_batch = MlflowClient.log_batch

    def noting(client: MlflowClient, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        log_batch(client, run_id, metrics, params, tags)
        sent.append(({metric.key for metric in metrics}, {tag.key for tag in tags}))

    monkeypatch.setattr(MlflowClient, "log_batch", noting)
    return sent


def _caught_up(folder: RunFolder) -> Forwarder:
    """The forwarder of a live run that has sent all there is, and has just renewed the lease."""
    forwarder = Forwarder(folder, live=True)
    while forwarder.step(alive=True):
        pass
    forwarder.renew()
    return forwarder


def test_samples_of_the_load_go_with_the_next_epoch_or_renewal(
    store: MlflowClient,
    started: RunFolder,
    finished_folder: RunFolder,
    batches: list[tuple[set[str], set[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request for each would be a good part of what tracking costs a server."""
    forwarder = _caught_up(started)
    journal = Journal(started.journal)
    for number in range(2):
        journal.append("metrics", step=number, time=1, values={"system/load": 0.5 + number})
    batches.clear()
    assert not forwarder.step(alive=True)
    assert not batches
    row = finished_folder.read_history()[0]
    record_epoch(journal, row)
    assert forwarder.step(alive=True)
    [(metrics, tags)] = batches
    assert metrics == {"system/load", *curve_metrics(row)}
    assert tags == {"skinml.acknowledged"}

    journal.append("metrics", step=2, time=1, values={"system/load": 2.5})
    assert not forwarder.step(alive=True)
    now = time.monotonic()
    monkeypatch.setattr("skinml.store.forwarding.time.monotonic", lambda: now + 31)
    batches.clear()
    assert forwarder.step(alive=True)
    assert not forwarder.is_due
    assert batches == [({"system/load"}, {"skinml.acknowledged", "skinml.lease", "process"})]
    assert store.get_run(forwarder.state.run_id).data.tags["skinml.lease"] == "2"
    history = store.get_metric_history(forwarder.state.run_id, "system/load")
    assert [metric.value for metric in history] == [0.5, 1.5, 2.5]
    journal.close()


def test_samples_of_the_load_do_not_keep_the_end_of_a_run_waiting(
    store: MlflowClient, started: RunFolder
) -> None:
    """The end goes by itself, after them."""
    forwarder = _caught_up(started)
    journal = Journal(started.journal)
    journal.append("metrics", step=0, time=1, values={"system/load": 0.5})
    record_end(journal, "FINISHED")
    journal.close()
    assert forwarder.step(alive=True) and forwarder.step(alive=True)
    assert forwarder.unsent == 0
    assert store.get_run(forwarder.state.run_id).info.status == "FINISHED"


def test_samples_of_the_load_do_not_wait_for_a_process_that_is_gone(
    store: MlflowClient, started: RunFolder
) -> None:
    forwarder = _caught_up(started)
    journal = Journal(started.journal)
    journal.append("metrics", step=0, time=1, values={"system/load": 0.5})
    journal.close()
    assert not forwarder.step(alive=True)
    assert forwarder.step(alive=forwarder.is_alive())
    assert forwarder.unsent == 0
    assert store.get_run(forwarder.state.run_id).data.metrics == {"system/load": 0.5}


def test_the_lease_moves_while_something_is_sent_that_takes_long(
    store: MlflowClient, finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network on a slow line: longer than a term."""
    finished = finished_folder
    monkeypatch.setenv("SKINML_LEASE_TERM", "0.3")
    finished.model.write_bytes(b"a network")
    journal = Journal(finished.journal)
    record_start(journal, DESCRIPTION)
    record_results(journal, finished)
    counts = []

    def slowly(folder: RunFolder, run: Any, register: bool) -> dict[str, str]:
        def moved() -> bool:
            return int(store.get_run(run.info.run_id).data.tags.get("skinml.lease", 0)) >= 2

        counts.append(wait_for(moved))
        return {}

    monkeypatch.setattr("skinml.store.forwarding.log_models", slowly)
    forwarder = Forwarder(finished, live=True)
    while forwarder.step():
        pass
    assert len(counts) == 1
    journal.close()


def test_models_that_a_server_does_not_take_do_not_keep_a_run_open(
    store: MlflowClient, finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registered model of another user: 403 is told once more, and the rest is sent."""
    finished_folder.model.write_bytes(b"a network")
    record_folder(finished_folder)

    def refused(*_: object) -> dict[str, str]:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    def taken(*_: object) -> dict[str, str]:
        return {"model": "models:/m-1", "serving": "models:/m-2"}

    monkeypatch.setattr("skinml.store.forwarding.log_models", refused)
    forwarder = Forwarder(finished_folder)
    with pytest.raises(MlflowException, match="Permission denied"):
        while forwarder.step():
            pass
    while forwarder.step():
        pass
    run = store.get_run(forwarder.state.run_id)
    assert run.info.status == "FINISHED" and finished_folder.published
    assert "Permission denied" in run.data.tags["skinml.left_out"]
    assert Forwarder(finished_folder).state.left_out == run.data.tags["skinml.left_out"]

    monkeypatch.setattr("skinml.store.forwarding.log_models", taken)
    assert send_rest(finished_folder, 0) == run.info.run_id
    run = store.get_run(run.info.run_id)
    assert run.info.status == "FINISHED" and "skinml.left_out" not in run.data.tags
    assert Forwarder(finished_folder).state.uris["serving"] == "models:/m-2"


def test_a_run_whose_process_is_gone_is_closed_with_the_reason(
    store: MlflowClient, started: RunFolder
) -> None:
    run_id = _send_all(started)
    Forwarder(started).close_gone()
    run = store.get_run(run_id)
    assert (run.info.status, run.data.tags["skinml.reason"]) == ("KILLED", GONE)
    # Gone on with, by a process of later, and then done.
    journal = Journal(started.journal)
    record_start(journal, DESCRIPTION, read_noted(started.journal))
    journal.close()
    assert _send_all(started) == run_id
    assert store.get_run(run_id).info.status == "RUNNING"
    journal = Journal(started.journal)
    record_end(journal, "FINISHED")
    journal.close()
    _send_all(started)
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED" and "skinml.reason" not in run.data.tags


def test_a_run_of_another_folder_is_not_taken_over(
    store: MlflowClient, started: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow run --run-id` where the run's folder is not: two trainings in one set of curves."""
    run_id = _send_all(started)
    before = _rows(store, run_id), store.get_run(run_id).data.tags
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    other = _started(tmp_path / "other", DESCRIPTION)
    with pytest.raises(UserError, match=f"run {run_id} is that of another folder"):
        Forwarder(other).step()
    refused = json.loads((other.path / "forward.json").read_text())["refused"]
    assert "expected that folder under output_dir" in refused, "its process is not told"
    assert (_rows(store, run_id), store.get_run(run_id).data.tags) == before


def test_what_is_known_of_another_server_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "forward.json"
    Acknowledged("here", "f" * 32, 7, 700).save(path)
    assert Acknowledged.load(path, "here").sequence == 7
    assert Acknowledged.load(path, "there") == Acknowledged("there")
    for text in ("", "{", "[]", '{"other": 1}'):
        path.write_text(text)
        assert Acknowledged.load(path, "here") == Acknowledged("here")


def test_a_damaged_state_acknowledges_nothing(tmp_path: Path) -> None:
    """Any of its bits: at a wrong offset the forwarder would leave records out."""
    path = tmp_path / "forward.json"
    state = Acknowledged("here", "f" * 32, 7, 700, uris={"model": "models:/m/1"})
    state.save(path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert Acknowledged.load(path, "here") == Acknowledged("here"), f"bit {bit}"


def test_an_experiment_that_is_not_there_is_told_as_a_refusal(
    store: MlflowClient, started: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it trains: no server that comes back will have it."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "999")
    _is_refused(started, "MLFLOW_EXPERIMENT_ID=999: not at sqlite")


def _is_refused(folder: RunFolder, text: str) -> None:
    """A run is refused for good, which its process is told before it trains."""
    with pytest.raises((UserError, MlflowException)):
        _send_all(folder)
    refused = json.loads((folder.path / "forward.json").read_text())["refused"]
    assert text in refused and ("; expected " in refused or "; restore it" in refused)
    assert "\n" not in refused


def test_a_deleted_experiments_id_is_refused(
    store: MlflowClient, started: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = store.create_experiment("mine")
    store.delete_experiment(found)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", found)
    _is_refused(started, "experiment 'mine' is deleted; restore it (`mlflow experiments restore")


def test_an_experiments_id_and_name_that_disagree_are_refused(
    store: MlflowClient, started: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow does; but `mlflow run` sets the id for a run that it has made."""
    mine, other = store.create_experiment("mine"), store.create_experiment("other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    for name in ("other", "none of these"):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        _is_refused(started, f"is the experiment 'mine', MLFLOW_EXPERIMENT_NAME='{name}' another")
    assert store.search_runs([mine, other]) == []
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert store.get_run(_send_all(started)).info.experiment_id == mine
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    another = _started(started.path.with_name("another"), DESCRIPTION)
    assert store.get_run(_send_all(another)).info.experiment_id == mine


def test_a_database_of_another_version_is_refused(
    empty_store: Path, started: RunFolder, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()
    _is_refused(started, "(Detected out-of-date database schema (found version ffffffffffff")
    assert "mlflow db upgrade" in (started.path / "forward.json").read_text()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("htp://me:secret@server", "got unsupported URI 'htp://server'"),
        ("sqlite:mlflow.db", "Could not parse SQLAlchemy URL"),
        ("mysql://me:secret@server/db", "No module named"),
        ("http:/server:5000", "Invalid url: http:/server:5000"),
    ],
)
def test_an_address_that_is_none_is_refused(
    address: str, text: str, started: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(Exception, match=r"."):
        _send_all(started)
    refused = json.loads((started.path / "forward.json").read_text())["refused"]
    assert text in refused and "secret" not in refused


def test_an_earlier_refusal_is_forgotten(store: MlflowClient, started: RunFolder) -> None:
    """A run that goes on with a mended address is not stopped by what was said before."""
    experiment = store.create_experiment("skinml")
    store.delete_experiment(experiment)
    _is_refused(started, "is deleted")
    Forwarder(started)
    assert json.loads((started.path / "forward.json").read_text())["refused"] == ""


def test_an_experiment_that_is_deleted_is_a_users_error(
    store: MlflowClient, started: RunFolder
) -> None:
    store.delete_experiment(store.create_experiment("skinml"))
    with pytest.raises(UserError, match="experiment 'skinml' is deleted; restore it"):
        _send_all(started)


def test_a_server_that_is_away_for_a_day_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the run's process, which writes, nor in the forwarder's, which tries to send.

    Ten seconds between two samples of the machine's load are 8,640 a day.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = RunFolder(tmp_path)
    folder.write_description(DESCRIPTION)
    journal = Journal(folder.journal)
    record_start(journal, DESCRIPTION)
    forwarder = Forwarder(folder, live=True)
    with pytest.raises(MlflowException):  # Imports what it needs.
        forwarder.step()
    values = {f"system/number_{number}": number / 7 for number in range(12)}
    tracemalloc.start()
    try:
        for step in range(8640):
            journal.append("metrics", step=step, time=step * 10_000, values=values)
        for _ in range(3):
            with pytest.raises(MlflowException):
                forwarder.step()
        assert forwarder.unsent == journal.sequence > 8640
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        journal.close()
    assert folder.journal.stat().st_size > 3e6
    assert peak < 1.5e6, f"{peak:,} bytes"
