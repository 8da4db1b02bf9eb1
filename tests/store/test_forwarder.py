"""Nothing is lost on the way to MLflow: real processes, a real server, and what goes wrong.

The writer is a run without a network to train: the journal, the forwarder and the end of a run are
those of `skinml.run`.
"""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from benchmarks.faults.processes import acknowledged, forwarders
from skinml.base.errors import UserError
from skinml.run.tracked import track
from skinml.store.model_files import fetch
from skinml.sync import main as sync_main
from skinml.sync import sync
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT, ForwarderProcess
from skinml.tracking.journal import Journal, read_journal
from skinml.tracking.record import record_epoch, record_start
from skinml.training.history import Row
from tests.conftest import surroundings
from tests.tracking.proxy import Proxy, faulty
from tests.waiting import PATIENCE, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals"),
]

ROOT = Path(__file__).parents[2]
CURVES = ("loss", "accuracy", "auc_macro")


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Epochs one after another until the file `go` is there, then the results and the end.
WRITER = """
import sys, time
from pathlib import Path
from skinml.base.errors import UserError, run_command
from skinml.base.signals import stop_no_more, stop_on_signals
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT, ForwarderProcess
from skinml.run.tracked import track

def main():
    stop_on_signals()
    folder, pause, limit = RunFolder(Path(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])
    started = time.monotonic()
    with track(folder, folder.read_description(), drain_limit=limit, load=False) as run:
        try:
            run.raise_if_refused()
            print("begins after", time.monotonic() - started, flush=True)
            epoch = 0
            while not (folder.path / "go").exists():
                epoch += 1
                values = {f"{part}_{name}": epoch / 7 for part in ("train", "val")
                          for name in ("loss", "accuracy", "auc_macro")}
                row = {"epoch": epoch, "step": "finetune", **values, "learning_rate": 1e-3,
                       "seconds": pause, "images_per_second": 9.0,
                       "time": 1_700_000_000_000 + epoch}
                run.log_epoch(row)
                folder.append_epoch(row)
                time.sleep(pause)
            folder.finish()
            run.log_results()
        except BaseException:
            stop_no_more()
            raise
    assert not {"mlflow", "tensorflow", "keras", "pandas"} & set(sys.modules)
    return 0 if folder.published else UNSENT

sys.exit(run_command(main))
"""


class Writer:
    """A run in a process of its own, that goes on until it is told to end."""

    def __init__(self, folder: RunFolder, uri: str, pause: float, limit: float) -> None:
        self.folder = folder
        self.log = folder.path / "writer.log"
        script = folder.path / "writer.py"
        script.write_text(WRITER)
        variables = {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            # Of a run that is killed the forwarder has two thirds of it to send the rest.
            "SKINML_LEASE_TERM": str(2 * PATIENCE),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(folder.path), str(pause), str(limit)],
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdout=log,
                stderr=log,
                # Tests in the background of a shell's script inherit that Ctrl-C is ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def until(self, condition: Callable[[], Any]) -> Any:
        return wait_for(condition, self.log.read_text)

    def begins(self) -> None:
        wait_for(lambda: "begins" in self.log.read_text(), self.log.read_text, self.process)

    def wait(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it goes on: {self.log.read_text()}")

    def end(self) -> int:
        (self.folder.path / "go").touch()
        return self.wait()

    @property
    def epochs(self) -> int:
        return len(self.folder.read_history())

    def sent(self) -> int:
        return acknowledged(self.folder)

    def sends_more(self) -> None:
        reached = self.sent()
        self.until(lambda: self.sent() > reached)

    def forwarders(self) -> list[psutil.Process]:
        return forwarders(self.folder)


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server over SQLite."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with (
        surroundings(folder),
        _load(ROOT / "docs" / "screenshots.py").mlflow_server(
            f"sqlite:///{folder}/mlflow.db"
        ) as address,
    ):
        yield address


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with faulty(server) as proxy:
        yield proxy


@pytest.fixture
def folder(finished_folder: RunFolder) -> RunFolder:
    """The folder of a run that begins: with the files of its end, but for the epochs."""
    (finished_folder.path / "FINISHED").unlink()
    (finished_folder.path / "history.csv").unlink()
    return finished_folder


@pytest.fixture
def write(folder: RunFolder, proxy: Proxy) -> Iterator[Callable[..., Writer]]:
    """Starts writers whose server is behind the proxy."""
    started: list[Writer] = []

    def write(pause: float = 0.05, limit: float = 10 * PATIENCE, uri: str = "") -> Writer:
        started.append(Writer(folder, uri or proxy.address, pause, limit))
        return started[-1]

    yield write
    for writer in started:
        writer.process.kill()
        writer.process.wait()
        for forwarder in writer.forwarders():
            forwarder.kill()


@pytest.mark.parametrize("behind", [0, 12])
def test_it_gives_way_to_its_training_and_no_further(behind: int) -> None:
    """Where the training has been put behind others already, as by Ray, that is enough."""
    own = min(os.getpriority(os.PRIO_PROCESS, 0) + behind, 19)
    code = (
        f"import os; os.nice({behind})\nfrom skinml.store.forwarder import give_way\ngive_way()\n"
    )
    code += "print(os.getpriority(os.PRIO_PROCESS, 0))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(said.stdout) == max(own, 5)


def test_a_model_s_files_come_from_a_server_without_mlflow(server: str, tmp_path: Path) -> None:
    """What predict needs of a champion is fetched in less time than importing MLflow takes."""
    client = MlflowClient(server)
    experiment = client.create_experiment("models")
    logged = client.create_logged_model(experiment, "model")
    files = {"MLmodel": "flavors: {}", "data/model.tflite": "network"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    client.log_model_artifacts(logged.model_id, str(tmp_path))
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model("lesions")
    source = f"models:/{logged.model_id}"
    version = client.create_model_version("lesions", source, model_id=logged.model_id)
    client.set_registered_model_alias("lesions", "champion", version.version)
    for uri in ("models:/lesions@champion", "models:/lesions/1", source):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
            folder = fetch(uri, tuple(files), tmp_path / "into")
            lacking = fetch(uri, ("MLmodel", "data/other"), tmp_path / "into")
        assert folder is not None and lacking is None
        assert {name: (folder / name).read_text() for name in files} == files


def epoch_row(epoch: int) -> Row:
    """The row of an epoch as the writer makes it."""
    names = [f"{part}_{name}" for part in ("train", "val") for name in CURVES]
    row: Row = {"epoch": epoch, "step": "finetune", **dict.fromkeys(names, epoch / 7)}
    last = {"learning_rate": 1e-3, "seconds": 0.1, "images_per_second": 9.0}
    return {**row, **last, "time": 1_700_000_000_000 + epoch}


def run_of(folder: RunFolder, server: str, status: str = "FINISHED") -> Any:
    """The only run of a folder on the server, which has all of the journal, once."""
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("skinml")
    assert experiment is not None
    journal = next(read_journal(folder.journal)).fields["journal"]
    [run] = client.search_runs([experiment.experiment_id], f"tags.`skinml.journal` = '{journal}'")
    assert run.info.status == status
    # Of the journal: a kill may come between it and the history.
    noted = [r.fields for r in read_journal(folder.journal) if r.kind == "metrics"]
    epochs = [said["step"] for said in noted if "epoch/train_loss" in said["values"]]
    for name in ("train_loss", "val_auc_macro", "images_per_second"):
        points = client.get_metric_history(run.info.run_id, f"epoch/{name}")
        assert [point.step for point in points] == epochs, name
        assert len({point.timestamp for point in points}) == len(epochs)
    assert run.data.metrics["epoch/val_loss"] == int(epochs[-1]) / 7
    assert run.data.params == folder.read_description().params
    if status == "FINISHED":
        assert run.data.metrics["test_accuracy"] == 0.75
        files = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"figures", "history.csv", "predictions_test.csv"} <= files
        assert len(client.list_artifacts(run.info.run_id, "images")) == 4
    return run


def test_an_undisturbed_run(write: Callable[..., Writer], server: str) -> None:
    writer = write()
    writer.begins()
    writer.until(lambda: writer.epochs > 20)
    assert writer.end() == 0
    run_of(writer.folder, server)
    assert writer.forwarders() == []
    assert "warning" not in writer.log.read_text()
    left = {path.name for path in writer.folder.path.iterdir() if path.name.startswith(".")}
    assert left == set()


def test_all_that_can_happen_on_the_way(
    write: Callable[..., Writer], server: str, proxy: Proxy
) -> None:
    """In the middle and again while the results are sent: each failure for a while."""
    writer = write()
    writer.begins()
    for mode in ("refuse", "500", "half", "429", "hang", "slow"):
        proxy.mode, before = mode, proxy.requests
        writer.until(lambda: proxy.requests > before)  # noqa: B023
        time.sleep(1)
        proxy.mode = "pass"
        writer.sends_more()
    (writer.folder.path / "go").touch()
    for mode in ("half", "500", "refuse", "half"):
        proxy.mode = mode
        time.sleep(1)
        proxy.mode = "pass"
        time.sleep(0.3)
    assert writer.end() == 0, writer.log.read_text()
    run_of(writer.folder, server)
    text = writer.log.read_text()
    assert "warning: MLflow does not take the records of this run" in text
    assert "MLflow takes the records of this run again" in text


def test_a_server_that_is_away_at_the_start_and_at_the_end(
    write: Callable[..., Writer], server: str, proxy: Proxy
) -> None:
    proxy.mode = "refuse"
    writer = write()
    writer.begins()
    writer.until(lambda: writer.epochs > 10)
    assert writer.sent() == 0
    proxy.mode = "pass"
    writer.until(lambda: writer.sent() > 10)
    proxy.mode = "refuse"
    (writer.folder.path / "go").touch()
    writer.until(lambda: (writer.folder.path / "FINISHED").exists())
    before = proxy.requests
    writer.until(lambda: proxy.requests > before + 2)
    assert writer.process.poll() is None, "it did not wait for the server"
    proxy.mode = "pass"
    assert writer.end() == 0
    run_of(writer.folder, server)


def test_a_server_that_never_comes_back_and_a_copy_that_is_synced_elsewhere(
    write: Callable[..., Writer],
    server: str,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.mode = "refuse"
    writer = write(limit=2)
    writer.begins()
    writer.until(lambda: writer.epochs > 30)
    assert writer.end() == UNSENT
    assert writer.forwarders() == []
    count = sum(1 for _ in read_journal(writer.folder.journal))
    [line] = [line for line in writer.log.read_text().splitlines() if "not in MLflow yet" in line]
    assert line == (
        f"skinml: {count} of {count} records are not in MLflow yet; send them with: "
        f"python -m skinml.sync {writer.folder.path}"
    )
    copy = RunFolder(shutil.copytree(writer.folder.path, tmp_path / "elsewhere" / "copy"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run_id = sync(copy.path)
    assert run_of(copy, server).info.run_id == run_id
    assert sync(writer.folder.path) == sync(copy.path) == run_id
    run_of(writer.folder, server)


@pytest.mark.parametrize("mode", ["403", "401"])
def test_a_server_that_refuses_the_run_stops_it_before_it_trains(
    write: Callable[..., Writer], proxy: Proxy, mode: str
) -> None:
    proxy.mode = mode
    writer = write()
    assert writer.wait() == 2
    [line] = writer.log.read_text().splitlines()[-1:]
    assert line.startswith(f"skinml: error: cannot start a run at {proxy.address}")
    assert "--offline" in line
    assert writer.epochs == 0 and writer.forwarders() == []


# A forwarder whose imports take until the file `imported` is there, and whom the server refuses.
SLOW = """
import sys, time
from pathlib import Path
from skinml.tracking.forwarder_process import READY
from skinml.tracking.acknowledged import Acknowledged
folder = Path(sys.argv[1])
while not (folder / "imported").exists():
    time.sleep(0.01)
Acknowledged("", refused="cannot start a run").save(folder / "forward.json")
print(READY, flush=True)
time.sleep(600)
"""


def test_the_first_word_is_waited_for_from_when_the_forwarder_can_ask(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine its imports take longer than a server is given."""

    def start(self: ForwarderProcess) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", SLOW, str(folder.path)]
        with (folder.path / "forward.log").open("ab") as log:
            return subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log
            )

    monkeypatch.setattr(ForwarderProcess, "_start", start)
    forwarder = ForwarderProcess(folder)
    threading.Timer(1, (folder.path / "imported").touch).start()
    with pytest.raises(UserError, match="cannot start a run"):
        forwarder.raise_if_refused(0.2)
    forwarder.stop()


@pytest.fixture
def with_model(folder: RunFolder) -> RunFolder:
    """The folder of a run that ends with a network."""
    said = folder.read_description()
    params = said.params | {"version_keras": "3.15.1", "keras_backend": "tensorflow"}
    folder.write_description(replace(said, params=params))
    folder.write_metrics(folder.read_metrics() | {"test_auc_macro": 0.8})
    folder.model.write_bytes(b"a network")
    return folder


def test_a_server_without_an_interface_for_models_gets_all_else_and_the_run_ends(
    with_model: RunFolder,
    write: Callable[..., Writer],
    server: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is told before the training, and the models come once there is one."""
    proxy.unknown = "/api/2.0/mlflow/logged-models"
    writer = write()
    writer.begins()
    before = writer.log.read_text().partition("begins")[0]
    assert "the server has no interface for models (404 at /api/2.0/mlflow/logged-models" in before
    writer.until(lambda: writer.sent() > 10)
    assert writer.end() == 0, writer.log.read_text()
    run = run_of(with_model, server)
    left_out = run.data.tags["skinml.left_out"]
    assert left_out.startswith("its models: the server has no interface for models (404")
    [line] = [line for line in writer.log.read_text().splitlines() if "not in MLflow:" in line]
    assert left_out in line and line.endswith(f"python -m skinml.sync {with_model.path}")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    assert sync_main([str(with_model.path)]) == 0
    assert left_out in capsys.readouterr().err
    proxy.unknown = ""
    assert sync(with_model.path) == run.info.run_id
    run = run_of(with_model, server)
    assert "skinml.left_out" not in run.data.tags
    client = MlflowClient(server)
    models = client.search_logged_models([run.info.experiment_id])
    assert {model.name for model in models} == {"model", "serving"}
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert {v.name for v in versions} == {"skinml-mobilenetv2", "skinml-mobilenetv2-serving"}


def test_a_proxy_that_is_away_for_a_moment_is_not_one_without_models(
    with_model: RunFolder, write: Callable[..., Writer], server: str, proxy: Proxy
) -> None:
    """It may say of everything that it is not there."""
    writer = write()
    writer.begins()
    writer.until(lambda: writer.sent() > 10)
    proxy.mode, before = "404", proxy.requests
    (with_model.path / "go").touch()
    writer.until(lambda: proxy.requests > before + 3)
    proxy.mode = "pass"
    assert writer.end() == 0, writer.log.read_text()
    run = run_of(with_model, server)
    assert "skinml.left_out" not in run.data.tags
    assert len(run.outputs.model_outputs) == 2


def test_a_forwarder_that_is_killed_is_started_again(
    write: Callable[..., Writer], server: str
) -> None:
    writer = write()
    writer.begins()
    for _ in range(2):
        [forwarder] = writer.until(writer.forwarders)
        forwarder.kill()
        writer.sends_more()
    assert writer.end() == 0
    run_of(writer.folder, server)


# A forwarder whose imports are done: it is killed as often as it is forked.
FORKED = """
import os, sys
from pathlib import Path
import mlflow, mlflow.pyfunc
from skinml.store.forwarder import main

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(main([sys.argv[1]]))
    print(child, flush=True)
    os.waitpid(child, 0)
"""


def test_a_forwarder_that_is_killed_at_random_moments_loses_and_doubles_nothing(
    folder: RunFolder, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 times SIGKILL, between a tenth and a second after its start, while epochs are written."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    forks = subprocess.Popen(
        [sys.executable, "-c", FORKED, str(folder.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert forks.stdin and forks.stdout
    chance = random.Random(6)
    assert forks.stdout.readline() == "ready\n"
    reached = 0
    with track(folder, folder.read_description(), offline=True, load=False) as run:
        for epoch in range(1, 121):
            row = epoch_row(epoch)
            run.log_epoch(row)
            folder.append_epoch(row)
            if epoch % 2:
                forks.stdin.write("\n")
                forks.stdin.flush()
                child = int(forks.stdout.readline())
                if epoch % 20 == 1:  # On a busy machine it may take longer until it sends.
                    wait_for(lambda: acknowledged(folder) > reached)  # noqa: B023
                time.sleep(chance.uniform(0.1, 1))
                os.kill(child, signal.SIGKILL)
                reached = acknowledged(folder)
        folder.finish()
        run.log_results()
    forks.stdin.close()
    forks.wait(PATIENCE)
    forks.stdout.close()
    sync(folder.path)
    run_of(folder, server)


def test_a_run_that_is_killed_is_closed_by_its_forwarder(
    write: Callable[..., Writer], server: str
) -> None:
    writer = write()
    writer.begins()
    writer.until(lambda: writer.sent() > 10)
    writer.process.kill()
    writer.process.wait()
    writer.until(lambda: not writer.forwarders())
    run = run_of(writer.folder, server, "KILLED")
    assert run.data.tags["skinml.reason"] == "its process is gone, without a word"
    assert int(run.data.tags["skinml.lease"]) >= 1


def test_a_forwarder_that_begins_after_its_run_was_killed_sends_all_of_it(
    folder: RunFolder, server: str
) -> None:
    """It imports for seconds: a run may be killed before its forwarder has begun."""
    journal = Journal(folder.journal)
    record_start(journal, folder.read_description())
    for epoch in range(1, 201):  # More than goes in one piece.
        record_epoch(journal, epoch_row(epoch))
        folder.append_epoch(epoch_row(epoch))
    journal.close()  # As a kill does: without an end.
    done = subprocess.run(
        [sys.executable, "-m", "skinml.store.forwarder", str(folder.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": server},
        timeout=PATIENCE,
    )
    assert done.returncode == 0
    run_of(folder, server, "KILLED")


@pytest.mark.parametrize(
    ("signum", "code", "reason"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped by Ctrl-C")],
)
def test_a_run_that_is_stopped_says_so(
    write: Callable[..., Writer],
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    signum: int,
    code: int,
    reason: str,
) -> None:
    writer = write()
    writer.begins()
    writer.until(lambda: writer.sent() > 10)
    writer.process.send_signal(signum)
    assert writer.wait() == code
    if "not in MLflow yet" in writer.log.read_text():  # The machine has other work to do.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        sync(writer.folder.path)
    run = run_of(writer.folder, server, "KILLED")
    assert run.data.tags["skinml.reason"] == reason
    assert writer.forwarders() == []


def test_a_run_that_is_stopped_while_the_server_is_away_does_not_wait_for_it(
    write: Callable[..., Writer], server: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as long as one that ends by itself: that would be longer than the test."""
    writer = write(limit=10 * PATIENCE)
    writer.begins()
    writer.until(lambda: writer.sent() > 10)
    proxy.mode = "hang"
    time.sleep(1)
    writer.process.send_signal(signal.SIGTERM)
    assert writer.wait() == 143
    assert "not in MLflow yet" in writer.log.read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    sync(writer.folder.path)
    run_of(writer.folder, server, "KILLED")


def test_a_limit_that_is_none_is_the_users_error(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINML_DRAIN_LIMIT", "soon")
    says = pytest.raises(UserError, match="SKINML_DRAIN_LIMIT='soon': expected seconds")
    with says, track(folder, folder.read_description(), offline=True):
        pytest.fail("it begins")
