"""Folders of runs → MLflow: each once, with its final status, finished ones and others."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from skinml import doctor, sync
from skinml.base.errors import UserError, run_command
from skinml.base.files import file_sha256
from skinml.run.tracked import track
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.forwarder_process import READY
from skinml.tracking.journal import Journal, read_journal
from skinml.tracking.record import read_noted
from tests.conftest import noted
from tests.sweeps import ROOT
from tests.waiting import wait_for


def runs(store: MlflowClient, name: str = "skinml") -> list[tuple[str, str]]:
    """Id and status of every run of an experiment."""
    experiment = store.get_experiment_by_name(name)
    assert experiment is not None
    found = store.search_runs([experiment.experiment_id])
    return [(run.info.run_id, run.info.status) for run in found]


def test_a_folder_is_published_once(store: MlflowClient, finished_folder: RunFolder) -> None:
    run_id = sync.sync(finished_folder.path)
    assert sync.sync(finished_folder.path) == run_id
    assert runs(store) == [(run_id, "FINISHED")]
    run = store.get_run(run_id)
    assert run.data.metrics["test_accuracy"] == 0.75
    assert run.data.metrics["epoch/val_loss"] == 2 / 7
    assert run.data.params["seed"] == "3"
    assert run.info.start_time <= run.info.end_time
    assert not any(key.startswith("system/") for key in run.data.metrics)


def test_an_offline_run_is_published_as_it_was(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    noted(finished_folder)
    assert not finished_folder.published
    run_id = sync.sync(finished_folder.path)
    assert runs(store) == [(run_id, "FINISHED")]
    assert finished_folder.published == run_id


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("out of memory\nand a traceback"), "FAILED", "out of memory"),
        (ValueError("x" * 9000), "FAILED", "x" * 500),
        (RuntimeError(), "FAILED", "RuntimeError"),
        (KeyboardInterrupt(), "KILLED", "stopped by Ctrl-C"),
        (SystemExit(143), "KILLED", "stopped by SIGTERM"),
    ],
)
def test_a_run_that_ended_early_says_so(
    error: BaseException,
    status: str,
    reason: str,
    store: MlflowClient,
    finished_folder: RunFolder,
) -> None:
    noted(finished_folder, error)
    run = store.get_run(sync.sync(finished_folder.path))
    assert run.info.status == status and run.info.end_time
    assert run.data.tags["skinml.reason"] == reason
    assert run.data.metrics["epoch/val_loss"] == 2 / 7


def test_a_copy_is_the_same_run(
    store: MlflowClient, finished_folder: RunFolder, tmp_path: Path
) -> None:
    """Synced from another machine, before or after the folder itself."""
    noted(finished_folder)
    before = shutil.copytree(finished_folder.path, tmp_path / "before")
    run_id = sync.sync(finished_folder.path)
    after = shutil.copytree(finished_folder.path, tmp_path / "after")
    assert sync.sync(before) == sync.sync(after) == run_id
    assert runs(store) == [(run_id, "FINISHED")]


def test_another_server_gets_all_of_it(
    store: MlflowClient,
    finished_folder: RunFolder,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = sync.sync(finished_folder.path)
    shutil.copy(empty_store, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    second = sync.sync(finished_folder.path)
    assert second != first
    there, here = MlflowClient(uri).get_run(second), store.get_run(first)
    assert there.data.metrics == here.data.metrics and there.data.params == here.data.params


def test_a_killed_run_is_closed_with_the_reason(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """Of a process that got SIGKILL its journal is left, without an end."""
    noted(finished_folder)
    path = finished_folder.journal
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:6]) + b"0123 half")
    run = store.get_run(sync.sync(finished_folder.path))
    assert run.info.status == "KILLED"
    assert run.data.tags["skinml.reason"] == "its process is gone, without a word"
    assert run.data.metrics["epoch/val_loss"] == 2 / 7
    assert not finished_folder.published


def test_a_journal_behind_its_receipts_is_sent_anew_and_counts_once(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    """After a power cut, which keeps the receipt of records that were not on the disk."""
    noted(finished_folder)
    run_id = sync.sync(finished_folder.path)
    before = store.get_metric_history(run_id, "epoch/val_loss")
    path = finished_folder.journal
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-9]))
    known, said = read_noted(path), finished_folder.read_description()
    with track(finished_folder, said, offline=True, load=False, known=known) as run:
        run.note_tags({"after": "the cut"})
    assert sync.sync(finished_folder.path) == run_id
    assert store.get_run(run_id).data.tags["after"] == "the cut"
    assert len(before) == 2 and store.get_metric_history(run_id, "epoch/val_loss") == before
    assert runs(store) == [(run_id, "FINISHED")]


def test_a_run_that_goes_on_is_left_to_itself(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    noted(finished_folder)
    journal = Journal(finished_folder.journal)
    with pytest.raises(UserError, match="its run goes on"):
        sync.sync(finished_folder.path)
    journal.close()
    assert store.get_run(sync.sync(finished_folder.path)).info.status == "FINISHED"


def test_an_unfinished_folder_without_a_journal_is_refused(
    finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished_folder.path / "FINISHED").unlink()
    monkeypatch.setattr(sync, "send_rest", lambda *_: pytest.fail("something is sent"))
    with pytest.raises(UserError, match="did not finish"):
        sync.sync(finished_folder.path)


def test_what_was_published_before_there_were_journals_is_left(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    finished_folder.mark_published("f" * 32)
    assert sync.sync(finished_folder.path) == "f" * 32
    assert store.get_experiment_by_name("skinml") is None


def test_a_server_that_is_away_is_one_line_and_nothing_is_lost(
    finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"22 records are not sent \(.*refused\)") as caught:
            sync.sync(finished_folder.path, limit=3)
        assert 3 <= time.monotonic() - begun < 30, "MLflow's own take 4 minutes"
        assert "\n" not in str(caught.value)
    assert sync.sync(finished_folder.path)


@pytest.mark.usefixtures("no_question_outlives_its_test")
@pytest.mark.parametrize("kind", ["http://{}", "postgresql+psycopg://{}/db"])
def test_the_limit_holds_where_a_server_never_answers(
    kind: str,
    finished_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MLflow's own retries take 4 minutes, and each of them two."""
    noted(finished_folder)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = kind.format(f"127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"22 records are not sent \(no answer within 4 s\)"):
            sync.sync(finished_folder.path, limit=4)
        assert 4 <= time.monotonic() - begun < 30, "MLflow's own take 100 s and more"
    assert f"skinml: waiting for {address}: 4 s at most\n" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="doctor knows processes by /proc")
def test_a_forwarder_that_hangs_is_waited_for_with_a_limit_and_doctor_ends_it(
    store: MlflowClient,
    finished_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run that is gone; it waits for no server, but is stopped while it has the lock."""
    noted(finished_folder)
    log, path = finished_folder.path / "forwarder.txt", str(finished_folder.path)
    variables = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with log.open("w") as file:
        command = [sys.executable, "-m", "skinml.store.forwarder", path]
        hanging = subprocess.Popen(command, stderr=file, env=variables, cwd=ROOT)
    try:
        wait_for(lambda: READY in log.read_text(), log.read_text, hanging)
        hanging.send_signal(signal.SIGSTOP)
        assert run_command(lambda: sync.main(["--drain-limit=0.3", path])) == 2
        notice, error = capsys.readouterr().err.splitlines()
        assert notice.endswith("is sending it: waiting for its end, at most 0.3 s")
        remedy = f"python -m skinml.doctor --fix --output-dir {finished_folder.path.parent} "
        assert "another process sends it, for more than 0.3 s; expected" in error
        assert remedy in error
        monkeypatch.setenv("SKINML_LEASE_TERM", "0.5")
        monkeypatch.setattr(doctor, "PATIENCE", 0.2)
        assert doctor.main(remedy.split()[3:]) == 0
        hanging.wait(60)
    finally:
        hanging.kill()
        hanging.wait()
    assert [status for _, status in runs(store)] == ["FINISHED"]


@pytest.mark.parametrize("limit", ["inf", "1e300"])
def test_a_limit_that_never_comes_is_one(
    store: MlflowClient, finished_folder: RunFolder, limit: str
) -> None:
    """No request can be told to wait for that long: it was a traceback."""
    assert sync.main(["--drain-limit", limit, str(finished_folder.path)]) == 0
    assert runs(store) == [(finished_folder.published, "FINISHED")]


def test_a_file_that_has_changed_since_is_told_and_left_out(
    store: MlflowClient, finished_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    noted(finished_folder)
    finished_folder.write_text("model_summary.txt", "something else")
    finished_folder.predictions("test").unlink()
    run_id = sync.sync(finished_folder.path)
    there = {item.path for item in store.list_artifacts(run_id)}
    assert "history.csv" in there
    assert not there & {"model_summary.txt", "predictions_test.csv"}
    assert capsys.readouterr().err.count("is not sent: it has changed") == 2


def test_the_experiment_of_a_run_is_found_again_wherever_it_is_synced(
    store: MlflowClient, finished_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        noted(finished_folder)
    run_id = sync.sync(finished_folder.path)
    assert runs(store, "mine") == [(run_id, "FINISHED")]


def test_demo_runs_are_kept_apart(store: MlflowClient, finished_folder: RunFolder) -> None:
    made: Description = finished_folder.read_description()
    finished_folder.write_description(
        Description(made.name, made.params, made.tags | {"data": "demo"}, made.dataset)
    )
    run_id = sync.sync(finished_folder.path)
    assert runs(store, "skinml-demo") == [(run_id, "FINISHED")]
    assert store.get_experiment_by_name("skinml") is None


def test_a_deleted_run_is_not_made_again(store: MlflowClient, finished_folder: RunFolder) -> None:
    run_id = sync.sync(finished_folder.path)
    store.delete_run(run_id)
    with pytest.raises(UserError, match=f"run {run_id} is deleted; restore it"):
        sync.sync(finished_folder.path)
    store.restore_run(run_id)
    assert sync.sync(finished_folder.path) == run_id


def test_the_command_names_the_run_of_each_folder(
    store: MlflowClient,
    finished_folder: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that cannot be sent keeps none behind it from being sent."""
    assert run_command(lambda: sync.main([str(tmp_path), str(finished_folder.path)])) == 2
    out, err = capsys.readouterr()
    run_id = finished_folder.read_text("mlflow_run_id").strip()
    assert out == f"{finished_folder.path}: run {run_id}\n"
    assert f"skinml: error: {tmp_path}: no run.json" in err


def test_what_was_acknowledged_is_written_down(
    store: MlflowClient, finished_folder: RunFolder
) -> None:
    run_id = sync.sync(finished_folder.path)
    state = json.loads(finished_folder.read_text("forward.json"))
    assert (state["run_id"], state["sequence"], state["ended"]) == (run_id, 22, True)
    assert store.get_run(run_id).data.tags["skinml.acknowledged"] == "22"


@pytest.mark.parametrize("place", ["note.md", "figures/extra.png", "model.keras", "below"])
def test_a_link_in_a_folder_is_refused_by_name(
    store: MlflowClient, finished_folder: RunFolder, tmp_path: Path, place: str
) -> None:
    """The folder may be somebody else's: nothing beside it is sent, and nothing of it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("harmless")
    path = finished_folder.path / place
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "secret" / ("" if place == "below" else "key"))
    with pytest.raises(UserError, match=rf"{path}: is a link"):
        sync.sync(finished_folder.path)
    assert store.get_experiment_by_name("skinml") is None


def test_a_record_that_names_a_file_outside_sends_none(
    store: MlflowClient,
    finished_folder: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    noted(finished_folder)
    key = tmp_path / "key"
    key.write_text("harmless")
    digest = file_sha256(key)
    journal = Journal(finished_folder.journal)
    names = [str(key), os.path.relpath(key, finished_folder.path)]
    for name in names:
        journal.append("artifact", file=name, sha256=digest, path="stolen")
        journal.append("image", file=name, sha256=digest, key="k", step=0, time=0)
    journal.close()
    run_id = sync.sync(finished_folder.path)
    assert capsys.readouterr().err.count("not the name of a file in the folder") == 4
    assert not store.list_artifacts(run_id, "stolen")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("run", "journal", "a' or '1'='1"),
        ("run", "time", "yesterday"),
        ("run", "source", ["me"]),
        ("params", "values", {"model": 1}),
        ("tags", "values", "kind=training"),
        ("dataset", "counts", 3),
        ("metrics", "step", 0.5),
        ("metrics", "values", {"loss": "low"}),
        ("metrics", "values", {"loss": 10**400}),
        ("artifact", "file", None),
        ("image", "key", {"a": 1}),
        ("model", "register", "yes"),
        ("end", "status", "SUCCEEDED"),
        ("end", "time", None),
        ("unknown", "", ""),
    ],
)
def test_a_record_of_another_type_is_told_and_nothing_is_sent(
    store: MlflowClient, finished_folder: RunFolder, kind: str, field: str, value: Any
) -> None:
    """One line that names the file and the record."""
    noted(finished_folder)
    records = list(read_journal(finished_folder.journal))
    finished_folder.journal.unlink()
    journal = Journal(finished_folder.journal)
    for record in records:
        journal.append(record.kind, **record.fields)
    alike = next((r.fields for r in records if r.kind == kind), {})
    number = journal.append(kind, **(alike | ({field: value} if field else {})))
    journal.close()
    with pytest.raises(UserError, match=rf"journal\.log, record {number} \('{kind}'\)") as told:
        sync.sync(finished_folder.path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500
    assert store.get_experiment_by_name("skinml") is None
