"""Cells on a real Ray cluster of two nodes, in processes of their own, with token authentication.

All of it listens on the loopback interface alone. Ray itself would make 127.0.0.1 the machine's
outward address, and listen everywhere: `NODE` starts it as a machine without a network would.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.sweep.engines.conftest import (
    Start,
    assert_each_finished_once,
    cell_runs,
    environment,
    sweep_runs,
)
from tests.sweeps import ROOT
from tests.waiting import PATIENCE, wait_for

# A skip of each test, not of the module: in CI that is a failure.
pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="no ray here: pip install 'skinml[ray]'"),
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="nodes are found by Linux's /proc"),
]

NODE = """
import sys
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
sys.argv[0] = "ray"
main()
"""

# A driver whose one task does not hear that it is to end.
DEAF = """
import sys, time
from pathlib import Path
from skinml.config import Config
from skinml.sweep import stopping
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.attempt import Progress
from skinml.sweep.engines.ray_cluster import Head, RayJob, connect
ray = connect(sys.argv[1])

@ray.remote(max_retries=0)
def deaf():
    yield Progress(begun=True)
    while True:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass

cell = Cell(Config(output_dir=sys.argv[2]), {})
job = RayJob(CellState(cell, "running"), deaf.remote, print, Head(sys.argv[1]))
while not job.state.begun:
    job.poll()
stopping.PATIENCE = 2.0
stopping.Stop([job]).end_jobs()
print(job.state.status, job.poll().reason)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _lives(process: psutil.Process) -> bool:
    try:
        # Of another start than the one that was seen: not running.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Cluster:
    """Ray's processes of this test module: a head without CPUs, and nodes of one CPU each."""

    def __init__(self, folder: Path) -> None:
        port, clients = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.folder = folder
        self._seen: set[psutil.Process] = set()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("0123456789abcdef" * 4)
        self.variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # As where Ray takes a machine to have no cluster: 127.0.0.1 stays what it is.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # A node that is gone is noticed sooner.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
            # Behind everything else that a machine does, which is Ray's default, a cell of a busy
            # one takes many minutes for its imports.
            "RAY_worker_niceness": "0",
            "SKINML_LEASE_TERM": "20",
            "SKINML_TEST_EPOCH": "0.4",
            "PYTHONPATH": str(ROOT),
        }
        self._ray("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
                  f"--ray-client-server-port={clients}", f"--temp-dir={folder}/s")  # fmt: skip

    def add_node(self) -> int:
        """Start a node; returns the process of its raylet."""
        before = set(self.raylets())
        self._ray(f"--address={self.address}", "--num-cpus=1")
        [new] = set(self.raylets()) - before
        return new

    def _ray(self, *arguments: str) -> None:
        # Which store a cell is tracked in, its node learns from the driver alone.
        told = environment(self.folder)
        own = {name: value for name, value in told.items() if not name.startswith("MLFLOW_")}
        done = subprocess.run(
            [sys.executable, "-c", NODE, "start", *arguments, "--object-store-memory=100000000"],
            env={**own, **self.variables, "SKINML_TEST_CLUSTER": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> list[psutil.Process]:
        """All that belongs to it, by a variable that children inherit."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("SKINML_TEST_CLUSTER") == str(self.folder):
                    # Ray's agents write over their environment, and may outlive their raylet.
                    self._seen.update((process, *process.children()))
            except (psutil.Error, OSError):
                continue
        return [process for process in self._seen if _lives(process)]

    def raylets(self) -> list[int]:
        return [process.pid for process in self._named("raylet")]

    def head(self) -> psutil.Process:
        [process] = self._named("gcs_server")
        return process

    def _named(self, name: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            # One that has ended meanwhile has no name.
            with suppress(psutil.Error):
                if process.name() == name:
                    found.append(process)
        return found

    def stop(self) -> None:
        deadline = time.monotonic() + 60
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                try:
                    process.kill()
                except psutil.Error:
                    continue
            psutil.wait_procs(left, 5)
        assert not left, left


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets need a path that is shorter than that of pytest's folders.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        made = None
        try:
            made = Cluster(Path(os.path.realpath(folder)))
            made.add_node()
            made.add_node()
            yield made
        finally:
            if made is not None:
                made.stop()


def test_nothing_of_the_cluster_listens_beyond_loopback(cluster: Cluster) -> None:
    """What the page says of one machine, and these tests keep to."""
    listening = set()
    for process in cluster.processes():
        # Some of them have ended meanwhile.
        with suppress(psutil.Error):
            listening |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening == {"127.0.0.1"}


def test_cells_are_trained_on_the_cluster_and_their_logs_are_here(
    cluster: Cluster, start: Start, go: Path, tmp_path: Path
) -> None:
    """The store's password goes to each machine by Ray's own channel, not by a log or argument."""
    secret = "a-pass-word-that-no-log-may-hold"
    variables = cluster.variables | {"MLFLOW_TRACKING_PASSWORD": secret}
    sweep = start(
        "--engine=ray", f"--address={cluster.address}", **variables, SKINML_TEST_GO=str(go)
    )
    _, _, pid, _ = sweep.until(sweep.epochs)[0]
    assert psutil.Process(pid).environ()["MLFLOW_TRACKING_PASSWORD"] == secret
    seen = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    go.touch()
    assert sweep.wait() == 0, sweep.log.read_text()
    assert_each_finished_once()
    assert sorted(row[:2] for row in sweep.epochs()) == [
        (name, epoch) for name in ("mobilenet-16", "mobilenetv2-16") for epoch in (1, 2, 3)
    ]
    assert len(list(tmp_path.glob("runs/sweep-*/*/log-*.txt"))) == 2
    assert "2 of 2 done" in sweep.log.read_text()

    assert not any(secret in words for words in seen)
    files = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert len(files) > 10, "Ray's logs lie elsewhere"
    files += [path for path in sweep.log.parent.rglob("*") if path.is_file()]
    telling = [str(path) for path in files if secret.encode() in path.read_bytes()]
    assert not telling

    # Given again, it finds them done.
    again = start("--engine=ray", f"--address={cluster.address}", **variables)
    assert again.wait() == 0
    assert len(again.epochs()) == 6
    assert "2 of 2 done (2 before)" in again.log.read_text()


def test_a_driver_that_is_killed_and_started_again_doubles_nothing(
    cluster: Cluster, start: Start, go: Path
) -> None:
    variables = cluster.variables | {"SKINML_TEST_GO": str(go)}
    sweep = start("--engine=ray", f"--address={cluster.address}", **variables)
    sweep.until(sweep.epochs)
    sweep.process.kill()
    sweep.process.wait()
    again = start("--engine=ray", f"--address={cluster.address}", **variables)
    again.until(lambda: again.has_said(" started on "))
    go.touch()
    assert again.wait() == 0, again.log.read_text()
    assert_each_finished_once()
    for name in ("mobilenet-16", "mobilenetv2-16"):
        trained = [epoch for cell, epoch, *_ in again.epochs() if cell == name]
        assert set(trained) == {1, 2, 3} and len(trained) <= 4, again.epochs()


def test_a_sweep_that_is_stopped_stops_its_cells_on_the_cluster(
    cluster: Cluster, start: Start, go: Path
) -> None:
    """As on one machine: nothing trains on, no run is left open, and it goes on later."""
    variables = cluster.variables | {"SKINML_TEST_GO": str(go)}
    sweep = start("--engine=ray", f"--address={cluster.address}", **variables)
    trainings = sweep.until(
        lambda: {pid for _, _, pid, _ in sweep.epochs()} if len(sweep.epochs()) > 1 else None
    )
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.wait() == 130, sweep.log.read_text()
    assert "what is done stays done" in sweep.log.read_text()
    psutil.wait_procs(
        [psutil.Process(pid) for pid in trainings if psutil.pid_exists(pid)], PATIENCE
    )
    assert not any(map(psutil.pid_exists, trainings))
    assert [run.info.status for run in sweep_runs()] == ["KILLED"]
    statuses = {run.info.status for runs in cell_runs().values() for run in runs}
    assert statuses <= {"KILLED", "FINISHED"}, statuses

    go.touch()
    again = start("--engine=ray", f"--address={cluster.address}", **variables)
    assert again.wait() == 0, again.log.read_text()
    assert_each_finished_once()


def test_a_task_that_does_not_hear_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Ray would wait for its end first, and the driver with it."""
    done = subprocess.run(
        [sys.executable, "-c", DEAF, cluster.address, str(tmp_path)],
        env=environment(tmp_path) | cluster.variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["stopped stopped"], done.stdout + done.stderr


def test_a_mistake_is_one_line(cluster: Cluster, start: Start) -> None:
    """Of the command, or the token: side by side, each as a sweep of other cells."""
    token = "docs/cluster.md"
    mistakes: list[tuple[str, dict[str, str], str]] = [
        ("--cpus=64", {}, "cpus=64, gpus=0: no node of the cluster has as many"),
        ("--gpus=1", {}, "cpus=1, gpus=1: no node of the cluster has as many"),
        ("--cpus=1.5", {}, "cpus=1.5: expected a whole number, or a share from 0.0001 to 1"),
        ("--address=127.0.0.1:9", {}, "address='127.0.0.1:9': nobody answers ("),
        ("--address=local", {}, "address='local': not host:port; expected a running Ray cluster"),
        ("--address=ray://127.0.0.1:9", {}, "a Ray Client cannot follow"),
        ("--jobs=1", {"RAY_AUTH_TOKEN": "f" * 64}, token),
        ("--jobs=1", {"RAY_AUTH_MODE": "disabled"}, token),
        ("--jobs=1", {"RAY_AUTH_TOKEN_PATH": "/nowhere/auth_token"}, token),
    ]
    sweeps = [
        start("--engine=ray", f"--address={cluster.address}", more, f"--seeds={seed}",
              **cluster.variables | change)
        for seed, (more, change, _) in enumerate(mistakes)
    ]  # fmt: skip
    for sweep, (_, _, message) in zip(sweeps, mistakes, strict=True):
        assert sweep.wait() == 2, sweep.log.read_text()
        errors = [line for line in sweep.log.read_text().splitlines() if "skinml: error:" in line]
        assert len(errors) == 1 and message in errors[0], sweep.log.read_text()
        assert not sweep.epochs()


def test_a_worker_and_a_node_that_die_cost_one_epoch_at_most(
    cluster: Cluster, start: Start, go: Path
) -> None:
    sweep = start("--engine=ray", f"--address={cluster.address}",
                  **cluster.variables | {"SKINML_TEST_GO": str(go)})  # fmt: skip
    name, _, _, worker = sweep.until(sweep.epochs)[0]
    os.kill(worker, signal.SIGKILL)
    other, _, training, worker = sweep.until(
        lambda: [row for row in sweep.epochs() if row[0] != name]
    )[0]
    raylet = psutil.Process(worker).ppid()
    assert raylet in cluster.raylets()
    process = psutil.Process(training)
    os.kill(raylet, signal.SIGKILL)
    # A training outlives its node for a moment, in which it could end.
    wait_for(lambda: not _lives(process))
    go.touch()
    assert sweep.wait() == 0, sweep.log.read_text()
    text = sweep.log.read_text()
    assert f"{name}-seed0-split0: its worker died: it is tried again" in text, text
    assert text.count("it is tried again") == 2 and f"{other}-seed0-split0: its " in text, text
    # Ray's own words would stand in the midst of the table, and on stdout.
    assert "raylet" not in text, text
    assert_each_finished_once()
    for cell in (name, other):
        trained = [epoch for one, epoch, *_ in sweep.epochs() if one == cell]
        assert set(trained) == {1, 2, 3} and len(trained) <= 4, sweep.epochs()
    # The same runs went on.
    assert [len(runs) for runs in cell_runs().values()] == [1, 1]


def test_a_head_that_dies_ends_the_sweep_with_a_line(cluster: Cluster, start: Start) -> None:
    """The last one here: nothing is left of the cluster. Its other node has died above."""
    sweep = start("--engine=ray", f"--address={cluster.address}",
                  **cluster.variables | {"SKINML_TEST_EPOCH": "600"})  # fmt: skip
    sweep.until(lambda: " started on " in sweep.log.read_text())
    cluster.head().kill()
    assert sweep.wait() == 2, sweep.log.read_text()
    errors = [line for line in sweep.log.read_text().splitlines() if "skinml: error:" in line]
    assert len(errors) == 1 and "go on with the same command" in errors[0], errors
    assert cluster.address in errors[0]
    [run] = sweep_runs()
    assert run.info.status == "FAILED", "the sweep's own run is left open"
