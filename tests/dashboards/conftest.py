"""A PostgreSQL full of runs, and a Prometheus that has scraped a server over it: both real."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.base.processes import free_port
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.metrics import headline, metrics_of
from skinml.service import postgres
from skinml.tracking.folder import Description, RunFolder
from tests.conftest import surroundings
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]

OWNER, READER, EXPORTER = "mlflow", "grafana", "exporter"
PASSWORDS = {OWNER: "owner-of-tables", READER: "only-for-reading", EXPORTER: "only-for-looking"}
ADMIN_PASSWORD, METRICS_PASSWORD = "admin-of-the-test", "metrics-of-the-test"

MODELS, BATCH_SIZES = ("mobilenet", "mobilenetv2", "nasnetmobile"), (16, 32, 64)
SPLIT = "paper test=0.15 val=0.2 seed=0"
# Classes of somebody's own.
OWN = ("Basaliom, groß", "melanoma", 'nævus "rare"', "νεύρωμα")
HOUR = 3_600_000
EPOCHS = 3


# The dashboards


@dataclass(frozen=True)
class Query:
    """A query of a committed dashboard or alert, and where it stands."""

    where: str
    panel: dict[str, Any]
    target: dict[str, Any]

    @property
    def is_sql(self) -> bool:
        return "rawSql" in self.target


def dashboards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by their uid."""
    paths = sorted((ROOT / "dashboards" / "grafana").glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {dashboard["uid"]: dashboard for dashboard in found}


def panel_queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(f"{dashboard['title']}: {panel['title']} {target['refId']}", panel, target)
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def grafana_rules() -> list[dict[str, Any]]:
    """The alert rules that Grafana evaluates."""
    path = ROOT / "deploy" / "grafana" / "provisioning" / "alerting" / "rules.json"
    groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


# Components


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt-get install {package}, as .ci/run does")
    return found


@contextlib.contextmanager
def process(
    command: Sequence[str],
    ready: Callable[[], bool],
    stop: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    **variables: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the end of the block, and has become ready before its start."""
    with tempfile.TemporaryFile() as log:
        # In a process group of its own: the workers of a server outlive one that is killed alone.
        running = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            cwd="/" if user else None,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:

            def said() -> str:
                log.seek(0)
                return f"{command[0]}: {log.read().decode()[-3000:]}"

            wait_for(ready, said, running)
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, stop)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


# PostgreSQL


@dataclass(frozen=True)
class Postgres:
    """A cluster with a database `mlflow` of the role `mlflow`."""

    programs: Path
    folder: Path
    port: int

    def uri(self, role: str, driver: str = "postgresql") -> str:
        return f"{driver}://{role}:{PASSWORDS[role]}@127.0.0.1:{self.port}/mlflow"

    def connect(self, role: str) -> Any:
        import psycopg

        return psycopg.connect(self.uri(role), autocommit=True)

    def psql(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What psql does as the superuser, over the socket."""
        return subprocess.run(
            [str(self.programs / "psql"), "--no-psqlrc", "--host", str(self.folder), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PGPORT": str(self.port),
                "PGUSER": "postgres",
                "PGDATABASE": "mlflow",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def make_readers(self, **passwords: str) -> subprocess.CompletedProcess[str]:
        return self.psql(
            "--file", str(ROOT / "deploy" / "postgres" / "grafana-reader.sql"), **passwords
        )


READER_PASSWORDS = {
    "GRAFANA_DB_PASSWORD": PASSWORDS[READER],
    "EXPORTER_DB_PASSWORD": PASSWORDS[EXPORTER],
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    """A PostgreSQL as the service makes it, empty but for its database and MLflow's role."""
    try:
        programs, user = postgres.programs(), postgres.server_user()
    except UserError as error:
        pytest.skip(str(error))
    # Not below pytest's folder, which is closed to the user that PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="skinml-pg-") as name:
        folder, port = Path(name), free_port()
        postgres.own(folder, user)
        variables = {
            "PGDATA": str(folder / "data"),
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "superuser-of-the-test",
            "POSTGRES_DB": "mlflow",
            "POSTGRES_INITDB_ARGS": "--auth-local=trust --auth-host=scram-sha-256 --no-sync"
            " --encoding=UTF8",
            "MLFLOW_DB_PASSWORD": PASSWORDS[OWNER],
        }
        roles = ROOT / "deploy" / "postgres" / "roles.sh"
        postgres.initialise(programs, variables, roles, user)
        settings = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            # The test ends before the power does.
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        made = Postgres(programs, folder, port)
        command = [str(programs / "postgres"), "-D", variables["PGDATA"], *options]

        def ready() -> bool:
            return made.psql("--command=SELECT 1").returncode == 0

        # SIGINT does not wait for connections to close.
        with process(command, ready, stop=signal.SIGINT, user=user):
            yield made


# Runs


def description(
    model: str, batch_size: int, seed: int = 0, split: str = SPLIT, epochs: str = "auto"
) -> Description:
    name = f"{model}-{batch_size}-seed{seed}"
    config = {"model": model, "batch_size": str(batch_size), "seed": str(seed)}
    steps = {"epochs_frozen": epochs, "epochs_finetune": "10"}
    if epochs == "auto":
        steps["effective_epochs_frozen"] = "50"
    return Description(
        name,
        {**config, **steps, "protocol": "paper"},
        {
            **config,
            "kind": "training",
            "data": "isic2017",
            "split": split,
            "config_digest": f"digest-{name}",
            "data_digest": "0123",
        },
        {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}},
    )


def epoch_row(epoch: int, score: float, at: int) -> dict[str, Any]:
    numbers = {
        f"{part}_{curve}": score * epoch / 10
        for part in ("train", "val")
        for curve in ("loss", "accuracy", "auc_macro")
    }
    return {
        "epoch": epoch,
        "step": "frozen",
        **numbers,
        "learning_rate": 1e-3,
        "seconds": 20.0 + epoch,
        "images_per_second": 40.0,
        "time": at,
    }


def finished_folder(
    parent: Path, made: Description, score: float, classes: tuple[str, ...] = CLASSES
) -> RunFolder:
    """The folder of a finished run, written by hand: no network is in it."""
    from PIL import Image

    folder = RunFolder(parent / f"{made.name}-{score}")
    folder.figures.mkdir(parents=True)
    folder.write_description(made)
    started = int(time.time() * 1000) - HOUR
    for epoch in range(1, EPOCHS + 1):
        folder.append_epoch(epoch_row(epoch, score, started + 60_000 * epoch))
    metrics = {
        f"{part}_{metric}": score for part in ("val", "test") for metric in metrics_of(classes)
    }
    for metric in headline(classes):
        metrics |= {
            f"test_{metric}_ci_low": score - 0.05,
            f"test_{metric}_ci_high": score + 0.05,
        }
    folder.write_metrics(metrics)
    Image.new("RGB", (8, 8), "white").save(folder.figures / "roc.png")
    folder.write_text("note.md", "a note\n")
    folder.finish()
    return folder


def log_finished(
    parent: Path, made: Description, score: float, classes: tuple[str, ...] = CLASSES
) -> str:
    from skinml.sync import sync

    return sync(finished_folder(parent, made, score, classes).path)


def new_folder(parent: Path, made: Description) -> RunFolder:
    folder = RunFolder(parent / f"{made.name}-{time.time_ns()}")
    folder.figures.mkdir(parents=True)
    folder.write_description(made)
    return folder


class _StubbedGpu:
    """What a GPU is read with, on a machine that has none."""

    NVMLError = OSError

    class _Numbers:
        used, total, gpu = 20e9, 80e9, 87

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._Numbers

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._Numbers

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 300_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000


@dataclass(frozen=True)
class Filled:
    """A database of runs: the experiment of most of them, and ids of runs by what they are."""

    postgres: Postgres
    experiment: str
    runs: dict[str, str]


@pytest.fixture(scope="module")
def filled(cluster: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Runs of every kind, logged as skinml logs them; one goes on while the tests look at it."""
    import mlflow

    from skinml.run.tracked import track
    from skinml.store.sweeps import SweepRun
    from skinml.sync import sync
    from skinml.tracking.record import PARENT_RUN_VARIABLE

    folder = tmp_path_factory.mktemp("filled")
    runs: dict[str, str] = {}
    with surroundings(folder) as monkeypatch, contextlib.ExitStack() as stack:
        uri = cluster.uri(OWNER, "postgresql+psycopg")
        for name, value in {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_EXPERIMENT_NAME": "skinml",
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.3",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        monkeypatch.setitem(sys.modules, "pynvml", _StubbedGpu())
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("skinml", str(folder / "artifacts"))
        client.create_experiment("empty")

        grid = [(model, size) for model in MODELS for size in BATCH_SIZES]
        # An older run of a cell, a run of another split, and a deleted one: not in the table.
        log_finished(folder, description(*grid[0]), 0.99)
        log_finished(folder, description(*grid[0], split="challenge"), 0.98)
        log_finished(folder, description(*grid[0], split="of my own"), 0.96, OWN)
        deleted = log_finished(folder, description(*grid[1], seed=9), 0.97)

        # A sweep found one cell done, has finished seven, failed in one.
        runs["done before"] = log_finished(folder, description(*grid[0]), 0.9)
        sweep = SweepRun.open("key", "sweep-key", {"data": "isic2017", "cells": "9"}, experiment)
        sweep.keep_done_before([runs["done before"]])
        runs["sweep"] = sweep.id
        monkeypatch.setenv(PARENT_RUN_VARIABLE, sweep.id)
        for number, cell in enumerate(grid[1:8], 1):
            log_finished(folder, description(*cell), 0.9 - number / 50)
        failing = description(*grid[8])
        failed = new_folder(folder, failing)
        with (
            contextlib.suppress(MemoryError),
            track(failed, failing, offline=True, load=False),
        ):
            raise MemoryError("no memory left for a test")
        runs["failed"] = sync(failed.path)
        client.delete_run(deleted)

        # Nothing for four hours but, perhaps, the machine's load.
        now = int(time.time() * 1000)
        for name, at in (("silent", now - 4 * HOUR), ("never", now - 5 * HOUR)):
            tags = {"kind": "training", "model": "mobilenet", "batch_size": "16", "seed": "7"}
            silent = client.create_run(experiment, at, tags, run_name=f"{name}-run")
            runs[name] = silent.info.run_id
        client.log_metric(runs["silent"], "epoch/val_loss", 0.5, now - 4 * HOUR, 1)
        client.log_metric(runs["silent"], "system/cpu_utilization_percentage", 1.0, now, 1)

        # The last cell again: it trains now.
        going = description(*grid[8], seed=1)
        run = stack.enter_context(track(new_folder(folder, going), going))
        for epoch in (1, 2, 3):
            run.log_epoch(epoch_row(epoch, 0.8, now - 60_000 * (EPOCHS - epoch)))
        assert run.forwarder
        run.forwarder.raise_if_refused(PATIENCE)
        runs["running"] = run.forwarder.state().run_id
        monkeypatch.delenv(PARENT_RUN_VARIABLE)

        made = cluster.make_readers(**READER_PASSWORDS)
        assert made.returncode == 0, made.stderr
        _wait_for_load(cluster, runs["running"])
        yield Filled(cluster, str(experiment), runs)


def _wait_for_load(cluster: Postgres, run_id: str) -> None:
    """Until the running run has logged the load of its machine."""
    with cluster.connect(OWNER) as connection:

        def has_load() -> bool:
            [[count]] = connection.execute(
                "SELECT count(DISTINCT key) FROM metrics WHERE run_uuid = %s"
                " AND key ~ 'system/(gpu_1_utilization|cpu_utilization)_percentage'",
                [run_id],
            ).fetchall()
            return bool(count == 2)

        wait_for(has_load, lambda: "the run logs no system metrics")
