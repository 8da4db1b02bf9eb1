"""What the tracking service bears: load, beside plain `mlflow server`, and disasters under load.

    python benchmarks/service.py load [--clients 1,8,32] [--seconds 120] [--rounds 2] [--out DIR]
    python benchmarks/service.py faults [--clients 8] [--rounds 3] [--out DIR]

The service is run natively from docker-compose.yml (skinml/service/native.py), behind its proxy,
with TLS and users; plain is `mlflow server` with its defaults (SQLite, no users, no TLS). Both are
used by MLflow's own client: each client logs the curves of a run as fast as it is let (100 points a
call), and after every 10 such calls a file of 10 MB; two readers ask what the UI asks for its
pages, one page a second each; `python -m skinml.compare` runs once in each measurement over nine
runs. Afterwards the database and the files are compared with what was acknowledged, one by one.

`faults` kills and restarts parts of the service under that load, then loses all of it and restores
a backup that was made in the midst.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil

from skinml.base.processes import free_port
from skinml.base.progress import progress_bar
from skinml.base.provenance import git_state
from skinml.service import compose
from skinml.service.native import Native
from skinml.service.user import make_user

ROOT = Path(__file__).parents[1]
NINE_RUNS = ROOT / "results" / "nine-runs" / "runs"

CURVES, STEPS_PER_CALL, CALLS_PER_FILE = 20, 5, 10
POINTS_PER_CALL = CURVES * STEPS_PER_CALL
FILE_BYTES = 10_000_000
READERS = 2
EXPERIMENT = "load"

LOGGED = ("log_batch", "log_artifact")
PAGES = ("experiments", "runs", "run", "curve")


# --- Clients, in processes of their own -----------------------------------------------------------


@dataclass
class Diary:
    """What one client was told: for each call when, in seconds since the epoch, and how long."""

    number: int
    run_id: str = ""
    acknowledged: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in LOGGED}
    )
    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def timed(self, name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        answer = call()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        if name in self.acknowledged:
            self.acknowledged[name].append(time.time())
        return answer


def points_of(client: int, call: int) -> list[tuple[str, int, float]]:
    """Key, step and value of each point of a client's nth call."""
    steps = range(call * STEPS_PER_CALL, (call + 1) * STEPS_PER_CALL)
    return [
        (f"curve_{curve:02d}", step, client + curve / 64 + step / 2**20)
        for step, curve in itertools.product(steps, range(CURVES))
    ]


def file_of(client: int, number: int) -> bytes:
    """A client's nth file: random, so that nothing on the way can make it smaller."""
    block = random.Random(client).randbytes(FILE_BYTES - 8)
    return number.to_bytes(8, "big") + block


def log_until(diary: Diary, experiment: str, until: float, insist: bool) -> None:
    """Log curves and files until a time; with `insist` a call that fails is repeated."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient()

    def ask(name: str, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return diary.timed(name, call)
            except Exception as error:
                diary.errors.append(f"{name}: {type(error).__name__}: {error}"[:300])
                # However long the service is away, what is being logged is logged.
                if not insist or time.time() > until + 600:
                    raise
                time.sleep(1)

    def log_file(folder: str, number: int) -> None:
        path = Path(folder) / f"{number:04d}.bin"
        path.write_bytes(file_of(diary.number, number))
        ask("log_artifact", lambda: client.log_artifact(diary.run_id, str(path)))
        path.unlink()

    def log_points(call: int) -> None:
        points = [Metric(key, value, 1 + step, step)
                  for key, step, value in points_of(diary.number, call)]  # fmt: skip
        ask("log_batch", lambda: client.log_batch(diary.run_id, points))

    diary.run_id = ask("create_run", lambda: client.create_run(experiment)).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        for call in itertools.count():
            if time.time() > until:
                break
            log_points(call)
            if call % CALLS_PER_FILE == CALLS_PER_FILE - 1:
                log_file(folder, call // CALLS_PER_FILE)
    ask("set_terminated", lambda: client.set_terminated(diary.run_id))


def run_clients(
    numbers: list[int], experiment: str, seconds: float, insist: bool, gate: Any, results: Any
) -> None:
    """Some clients, a thread each, from the moment that all processes are ready."""
    import mlflow

    mlflow.MlflowClient().get_experiment(experiment)  # imports what a call needs
    diaries = [Diary(number) for number in numbers]
    gate.wait()
    until = time.time() + seconds

    def run(diary: Diary) -> None:
        with contextlib.suppress(Exception):  # it stands in the diary
            log_until(diary, experiment, until, insist)

    threads = [threading.Thread(target=run, args=[diary]) for diary in diaries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(diaries)


def read_until(diary: Diary, experiment: str, until: float) -> None:
    """Ask what the UI's pages ask, one page a second."""
    import requests

    session = requests.Session()
    # A bundle that the environment names would be taken instead of the service's own authority.
    session.trust_env = False
    session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        session.auth = (name, os.environ["MLFLOW_TRACKING_PASSWORD"])
    base = f"{os.environ['MLFLOW_TRACKING_URI']}/ajax-api/2.0/mlflow"
    last: dict[str, Any] = {"id": ""}

    def search_runs() -> Any:
        body: Any = {"experiment_ids": [experiment], "max_results": 100,
                "order_by": ["attributes.start_time DESC"]}  # fmt: skip
        response = session.post(f"{base}/runs/search", json=body, timeout=120)
        if response.ok and (runs := response.json().get("runs")):
            last["id"] = runs[0]["info"]["run_id"]
        return response

    pages: dict[str, Callable[[], Any]] = {
        "experiments": lambda: session.post(
            f"{base}/experiments/search", json={"max_results": 25}, timeout=120
        ),
        "runs": search_runs,
        "run": lambda: session.get(f"{base}/runs/get", params={"run_id": last["id"]}, timeout=120),
        "curve": lambda: session.get(
            f"{base}/metrics/get-history-bulk-interval",
            params={"run_ids": last["id"], "metric_key": "curve_00", "max_results": 320},
            timeout=120,
        ),
    }
    for name in itertools.cycle(PAGES):
        if time.time() > until:
            return
        if name in ("run", "curve") and not last["id"]:
            continue
        try:
            response = diary.timed(name, pages[name])
            if not response.ok:
                diary.errors.append(f"{name}: {response.status_code} {response.text[:200]}")
        except OSError as error:  # of requests, too
            diary.errors.append(f"{name}: {error}"[:300])
        time.sleep(1)


@dataclass
class Load:
    """A load that runs: `finish` waits for its end."""

    started: float
    seconds: float
    readers: list[Diary]
    compare: list[tuple[float, int]]
    _threads: list[threading.Thread]
    _processes: list[Any]
    _results: Any

    def finish(self) -> list[Diary]:
        """The clients' diaries, in order."""
        diaries = [diary for _ in self._processes for diary in self._results.get()]
        for process in self._processes:
            process.join()
        for thread in self._threads:
            thread.join()
        return sorted(diaries, key=lambda diary: diary.number)


def start_load(clients: int, first: int, experiment: str, seconds: float, insist: bool) -> Load:
    """Start clients (numbered from `first`), readers and one comparison, all at once."""
    context = multiprocessing.get_context("spawn")
    results, count = context.Queue(), min(clients, 8)
    gate = context.Barrier(count + 1)
    numbers = [list(range(first, first + clients))[k::count] for k in range(count)]
    processes = [
        context.Process(target=run_clients, args=(own, experiment, seconds, insist, gate, results))
        for own in numbers
    ]
    for process in processes:
        process.start()
    gate.wait()
    started = time.time()
    readers = [Diary(-1 - k) for k in range(READERS)]
    compare: list[tuple[float, int]] = []
    threads = [
        threading.Thread(target=read_until, args=[diary, experiment, started + seconds])
        for diary in readers
    ]
    if not insist:
        threads.append(threading.Thread(target=run_compare, args=[compare, 0.1 * seconds]))
    for thread in threads:
        thread.start()
    return Load(started, seconds, readers, compare, threads, processes, results)


def run_compare(told: list[tuple[float, int]], delay: float) -> None:
    time.sleep(delay)
    started = time.perf_counter()
    command = [sys.executable, "-m", "skinml.compare", "--experiment", "skinml", "--format", "csv"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    told.append((time.perf_counter() - started, done.returncode))


# --- Servers --------------------------------------------------------------------------------------


@dataclass
class Side:
    """A server under load: how it is reached (variables), and what it keeps, past the server."""

    variables: dict[str, str]
    artifacts: Path
    read: Callable[[str], list[tuple[Any, ...]]]
    processes: Callable[[], list[psutil.Process]]
    native: Native | None = None
    has_postgres: bool = True

    @contextlib.contextmanager
    def as_client(self) -> Iterator[None]:
        """The variables that a client of this server has set."""
        theirs = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        quiet = {
            # The client's own bars and addresses would be most of what one sees.
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            # In the client of 3.17.2 its threads trip over each other: now and then a call fails.
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with mock.patch.dict(os.environ, theirs | self.variables | quiet, clear=True):
            yield


def _family(process: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's user may pass through."""
    with tempfile.TemporaryDirectory(prefix="skinml-load-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextlib.contextmanager
def service_side(workers: int = 0, proxy: bool = True) -> Iterator[Side]:
    """The service of the compose file; `workers` other than the file's default."""
    variables = {"MLFLOW_WORKERS": str(workers)} if workers else {}
    with place() as folder:
        with mock.patch.dict(os.environ, variables):
            native = Native(folder / "data")
        with native.up(("postgres", "migrate", "mlflow", *(["proxy"] if proxy else []))):
            yield side_of(native, proxy)


def side_of(native: Native, proxy: bool = True) -> Side:
    """The service as its user `load` reaches it."""
    password = make_user(native.address, native.variables["MLFLOW_AUTH_ADMIN_PASSWORD"], "load")
    variables = {
        "MLFLOW_TRACKING_URI": native.address,
        "MLFLOW_TRACKING_USERNAME": "load",
        "MLFLOW_TRACKING_PASSWORD": password,
    }
    if proxy:
        authority = native.data / "volumes" / "proxy" / "caddy/pki/authorities/local/root.crt"
        variables["MLFLOW_TRACKING_URI"] = f"https://localhost:{native.ports['proxy', 8443]}"
        variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(authority)

    def processes() -> list[psutil.Process]:
        return [one for running in native.running.values() for one in _family(running.pid)]

    artifacts = native.data / "volumes" / "artifacts" / "artifacts"
    return Side(variables, artifacts, partial(ask_database, native), processes, native)


def ask_database(native: Native, query: str) -> list[tuple[Any, ...]]:
    """The answer of the service's PostgreSQL, as its superuser."""
    theirs = native.environment("backup")
    return ask_postgres(theirs["PGHOST"], int(theirs["PGPORT"]), theirs["PGPASSWORD"], query)


def ask_postgres(host: str, port: int, password: str, query: str) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(
        host=host, port=port, user="postgres", password=password, dbname="mlflow"
    ) as connection:
        return list(connection.execute(query.encode()).fetchall())


@contextlib.contextmanager
def containers_side(containers: int) -> Iterator[Side]:
    """The service in Docker, as root on the machine of its engine; more than one with a pooler.

    Images are built as `make up` does; nothing of the service stays.
    """
    with place() as folder:
        env, ports = folder / ".env", (free_port(), free_port())
        _, required = compose.asked_variables(ROOT / "docker-compose.yml")
        compose.make_env(env, ROOT / ".env.example", required)
        secrets = compose.read_env(env)
        given = {"SKINML_PORT": str(ports[0]), "GRAFANA_PORT": str(ports[1])}
        if containers > 1:
            given |= {
                "COMPOSE_PROFILES": "scale", "MLFLOW_CONTAINERS": str(containers),
                "MLFLOW_POOLER": "pgbouncer",
            }  # fmt: skip

        def docker(*words: str) -> str:
            done = subprocess.run(
                ["docker", *words], cwd=ROOT, env=os.environ | given, check=True, text=True,
                stdout=subprocess.PIPE,
            )  # fmt: skip
            return done.stdout.strip()

        project = ("compose", "--project-name", PROJECT, "--env-file", str(env))
        try:
            docker(*project, "up", "--detach", "--build", "--wait", "proxy")
            said = docker(*project, "exec", "-T", "mlflow", "python", "-m", "skinml.service.user",
                          "load")  # fmt: skip
            authority = folder / "root.crt"
            docker(*project, "cp", "proxy:/certificates/caddy/pki/authorities/local/root.crt",
                   str(authority))  # fmt: skip
            names = docker(*project, "ps", "--quiet").split()
            told = json.loads(docker("inspect", *names))
            [address] = [
                network["IPAddress"]
                for one in told
                if one["Config"]["Labels"]["com.docker.compose.service"] == "postgres"
                for network in one["NetworkSettings"]["Networks"].values()
            ]
            volume = docker("volume", "inspect", f"{PROJECT}_artifacts", "-f", "{{.Mountpoint}}")
            yield Side(
                {
                    "MLFLOW_TRACKING_URI": f"https://localhost:{ports[0]}",
                    "MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority),
                    **dict(line.split("=", 1) for line in said.splitlines() if "=" in line),
                },
                Path(volume, "artifacts"),
                partial(ask_postgres, address, 5432, secrets["POSTGRES_PASSWORD"]),
                lambda: [each for one in told for each in _family(one["State"]["Pid"])],
            )
        finally:
            docker(*project, "--profile", "*", "down", "--volumes", "--remove-orphans")


PROJECT = "skinml-load"


@contextlib.contextmanager
def plain_side() -> Iterator[Side]:
    """`mlflow server` as it comes, in an empty folder."""
    with place() as folder:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(port)],
                cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

        def read(query: str) -> list[tuple[Any, ...]]:
            with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
                return database.execute(query).fetchall()

        try:
            wait_until_healthy(address, server, folder / "log")
            yield Side(
                {"MLFLOW_TRACKING_URI": address}, folder, read, lambda: _family(server.pid),
                has_postgres=False,
            )  # fmt: skip
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_healthy(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    import requests

    until = time.monotonic() + 300
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        time.sleep(0.5)
    raise RuntimeError(f"no server: {log.read_text()[-2000:]}")


SIDES: dict[str, Callable[[], contextlib.AbstractContextManager[Side]]] = {
    "service": service_side,
    "plain": plain_side,
    "service without proxy": lambda: service_side(proxy=False),
    "service, 1 worker": lambda: service_side(workers=1),
    "service, 4 workers": lambda: service_side(workers=4),
    "1 container": lambda: containers_side(1),
    "2 containers": lambda: containers_side(2),
}


def log_nine_runs() -> None:
    """The nine published runs, for the comparison to find."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.create_experiment("skinml")
    for folder in sorted(NINE_RUNS.iterdir()):
        told = json.loads((folder / "run.json").read_text())
        run = client.create_run(experiment, run_name=folder.name, tags=told["tags"])
        finals = json.loads((folder / "metrics.json").read_text())
        now = int(time.time() * 1000)
        entities = mlflow.entities
        client.log_batch(
            run.info.run_id,
            params=[entities.Param(key, str(value)) for key, value in told["params"].items()],
        )
        client.log_batch(
            run.info.run_id,
            metrics=[entities.Metric(k, v, now, 0) for k, v in finals.items() if v is not None],
        )
        client.log_artifact(run.info.run_id, str(folder / "predictions_test.csv"))
        client.set_terminated(run.info.run_id)


# --- What was kept --------------------------------------------------------------------------------


@dataclass
class Kept:
    """What a store holds, beside what its clients were told."""

    points: int = 0
    missing: int = 0
    surplus: int = 0
    doubled: int = 0
    files: int = 0
    missing_files: int = 0
    missing_at: list[float] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        return not (self.missing or self.surplus or self.doubled or self.missing_files)


def compare_kept(
    side: Side, diaries: list[Diary], may_miss: tuple[float, float] = (0.0, 0.0)
) -> Kept:
    """Hold the store against the diaries, point by point and file by file.

    Calls acknowledged within `may_miss` are allowed to be missing. A last call that failed may be
    there or not.
    """
    kept = Kept()
    for diary in diaries:
        rows = side.read(f"SELECT key, step, value FROM metrics WHERE run_uuid = '{diary.run_id}'")
        found = set(rows)
        kept.points += len(rows)
        kept.doubled += len(rows) - len(found)
        told = diary.acknowledged["log_batch"]
        sent = {p for call in range(len(told) + 1) for p in points_of(diary.number, call)}
        surely = {
            p
            for call, when in enumerate(told)
            if not may_miss[0] <= when <= may_miss[1]
            for p in points_of(diary.number, call)
        }
        kept.missing += len(surely - found)
        kept.missing_at += sorted({told[step // STEPS_PER_CALL] for _, step, _ in surely - found})
        kept.surplus += len(found - sent)
        folder = next(side.artifacts.glob(f"**/{diary.run_id}/artifacts"), None)
        for number, when in enumerate(diary.acknowledged["log_artifact"]):
            path = folder / f"{number:04d}.bin" if folder else None
            wanted = hashlib.sha256(file_of(diary.number, number)).digest()
            if path and path.exists() and hashlib.sha256(path.read_bytes()).digest() == wanted:
                kept.files += 1
            elif not may_miss[0] <= when <= may_miss[1]:
                kept.missing_files += 1
        if folder and may_miss == (0.0, 0.0):
            shutil.rmtree(folder)  # a measurement fills some gigabytes
    return kept


class Meter:
    """What a server's processes hold while it is under load."""

    def __init__(self, side: Side) -> None:
        self.memory_mb = 0.0
        self.connections = 0
        self._side, self._ended = side, threading.Event()
        self._thread = threading.Thread(target=self._measure)

    def _measure(self) -> None:
        while not self._ended.wait(5):
            total = 0
            for process in self._side.processes():
                with contextlib.suppress(psutil.Error):
                    # Proportional: what processes share is counted once.
                    total += process.memory_full_info().pss
            self.memory_mb = max(self.memory_mb, total / 1e6)
            if self._side.has_postgres:
                with contextlib.suppress(Exception):
                    (count,) = self._side.read(
                        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mlflow'"
                    )[0]
                    self.connections = max(self.connections, count)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


# --- Load -----------------------------------------------------------------------------------------


@dataclass
class Measurement:
    """One side under one number of clients, once."""

    side: str
    clients: int
    points_per_second: float
    files_mb_per_second: float
    seconds: dict[str, list[float]]
    errors: list[str]
    kept: Kept
    compare_seconds: float
    memory_mb: float
    connections: int


def measure(name: str, side: Side, clients: int, first: int, seconds: float) -> Measurement:
    from mlflow import MlflowClient

    with side.as_client(), Meter(side) as meter:
        client = MlflowClient()
        experiment = client.create_experiment(f"{EXPERIMENT}-{first}")
        load = start_load(clients, first, experiment, seconds, insist=False)
        diaries = load.finish()
    everyone = [*diaries, *load.readers]
    until = load.started + seconds
    counts = {
        call: sum(when <= until for diary in diaries for when in diary.acknowledged[call])
        for call in LOGGED
    }
    pooled: dict[str, list[float]] = {}
    for diary in everyone:
        for call, own in diary.seconds.items():
            kind = "page" if call in PAGES else call
            pooled.setdefault(kind, []).extend(own)
    ((compare_seconds, code),) = load.compare
    errors = [error for diary in everyone for error in diary.errors]
    return Measurement(
        name, clients, counts["log_batch"] * POINTS_PER_CALL / seconds,
        counts["log_artifact"] * FILE_BYTES / 1e6 / seconds, pooled,
        [*errors, *([f"compare: exit code {code}"] if code else [])],
        compare_kept(side, diaries), compare_seconds, meter.memory_mb, meter.connections,
    )  # fmt: skip


def summarise(own: list[Measurement]) -> dict[str, Any]:
    """The measurements of a side with a number of clients: rates, percentiles in ms, counts."""
    row: dict[str, Any] = {"side": own[0].side, "clients": own[0].clients}
    for key in ("points_per_second", "files_mb_per_second", "compare_seconds", "memory_mb"):
        values = [getattr(one, key) for one in own]
        row[key] = float(np.mean(values))
        row[f"{key}_range"] = [min(values), max(values)]
    for kind in (*LOGGED, "page"):
        pooled = np.array([s for one in own for s in one.seconds.get(kind, [])]) * 1000
        row[f"{kind}_calls"] = len(pooled)
        row[f"{kind}_ms"] = (
            dict(zip(("50", "95", "99"), np.percentile(pooled, (50, 95, 99)).tolist(), strict=True))
            if len(pooled) else {}
        )  # fmt: skip
    row["connections"] = max(one.connections for one in own)
    row["errors"] = sum(len(one.errors) for one in own)
    row["first_errors"] = [error for one in own for error in one.errors][:5]
    row["points"] = sum(one.kept.points for one in own)
    row["files"] = sum(one.kept.files for one in own)
    row["exact"] = all(one.kept.is_exact for one in own)
    return row


def measure_load(options: argparse.Namespace) -> int:
    counts, names = [int(c) for c in options.clients.split(",")], options.sides.split(";")
    found: dict[tuple[str, int], list[Measurement]] = {}
    total = options.rounds * len(names) * len(counts)
    with progress_bar("load", total) as advance:
        first = 0
        for number in range(options.rounds):
            # There and back, so that neither side is always the later one.
            for name in names if number % 2 == 0 else names[::-1]:
                with SIDES[name]() as side:
                    with side.as_client():
                        log_nine_runs()
                    for clients in counts:
                        advance(0, text=f"{name}, {clients} clients")
                        one = measure(name, side, clients, first, options.seconds)
                        found.setdefault((name, clients), []).append(one)
                        first += clients
                        advance()
    rows = [summarise(own) for own in found.values()]
    result = {**surroundings(), "seconds": options.seconds, "rounds": options.rounds, "rows": rows}
    text = load_table(rows)
    keep(result, text, options.out, "load", lambda path: draw_load(rows, path))
    print(json.dumps(result, indent=2) if options.json else text)
    return 0 if all(row["exact"] for row in rows) else 1


def load_table(rows: list[dict[str, Any]]) -> str:
    """A table for a terminal: the ratio is that of points per second to the last side's."""
    base = rows[-1]["side"]
    other_rows = {row["clients"]: row for row in rows if row["side"] == base}
    header = ("side", "clients", "points/s", "ratio", "files MB/s", "log_batch ms", "10 MB file ms",
              "page ms", "compare s", "memory MB", "errors", "kept")  # fmt: skip
    lines = [header]
    for row in sorted(rows, key=lambda row: (row["clients"], row["side"] != "service")):
        ratio = row["points_per_second"] / other_rows[row["clients"]]["points_per_second"]
        lines.append((
            row["side"], str(row["clients"]), f"{row['points_per_second']:.0f}", f"{ratio:.2f}",
            f"{row['files_mb_per_second']:.1f}",
            *("/".join(f"{v:.0f}" for v in row[f"{kind}_ms"].values())
              for kind in (*LOGGED, "page")),
            f"{row['compare_seconds']:.0f}", f"{row['memory_mb']:.0f}", str(row["errors"]),
            "exactly" if row["exact"] else "NOT exactly",
        ))  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    body = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines]  # fmt: skip
    return "\n".join([*body, "Times are the 50th/95th/99th percentile.", ""])


def draw_load(rows: list[dict[str, Any]], path: Path) -> None:
    """Points per second, and the times of a call and of a file, over the number of clients."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from skinml.evaluation.drawing import GREY, PAGE, drawing, save

    panels = (("points_per_second", "points logged per second"),
              ("log_batch", "100 points, ms"), ("log_artifact", "a file of 10 MB, ms"))  # fmt: skip
    with drawing():
        figure = Figure(figsize=(PAGE, 3), layout="constrained")
        names = list(dict.fromkeys(row["side"] for row in rows))
        figure.suptitle(f"Under load: {', '.join(names)}")
        for axes, (key, title) in zip(figure.subplots(1, 3), panels, strict=True):
            for name, colour in zip(names, ("black", GREY, "0.5", "0.8"), strict=False):
                own = [row for row in rows if row["side"] == name]
                clients = [row["clients"] for row in own]
                if key == "points_per_second":
                    ends = np.array([row[f"{key}_range"] for row in own]).T
                    middle = np.array([row[key] for row in own])
                    axes.errorbar(clients, middle, np.abs(ends - middle), color=colour, marker="o",
                                  capsize=3, label=name)  # fmt: skip
                    continue
                for percentile, style in (("50", "o-"), ("95", "s--"), ("99", "^:")):
                    axes.plot(clients, [row[f"{key}_ms"].get(percentile, np.nan) for row in own],
                              style, color=colour, label=f"{name}, {percentile} %")  # fmt: skip
            ticks = sorted({row["clients"] for row in rows})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set(xlabel="clients at once", ylabel=title)
            if key == "points_per_second":
                axes.set_ylim(bottom=0)
            else:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        handles, labels = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="x-small")
        save(figure, path)


# --- Disasters ------------------------------------------------------------------------------------


@dataclass
class Disaster:
    """A fault while clients log: what was done, when, and for how long nothing was acknowledged."""

    what: str
    at: float
    silent_seconds: float = 0.0


def _kill_worker(native: Native) -> None:
    """End one of the server's workers; its parent starts another."""
    workers = [
        process
        for process in _family(native.running["mlflow"].pid)[1:]
        if _is_worker(process) and not process.children()
    ]
    if not workers:
        raise LookupError(
            f"no worker among {[one.name() for one in _family(native.running['mlflow'].pid)]}"
        )
    random.choice(workers).kill()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended, and waits to be buried
        return False


def _kill_backend(native: Native) -> None:
    """End one connection's process: PostgreSQL then ends all, and recovers from its log."""
    rows = ask_database(native, "SELECT pid FROM pg_stat_activity WHERE usename = 'mlflow'")
    if not rows:
        raise LookupError("no connection of the server to the database")
    os.kill(random.choice(rows)[0], signal.SIGKILL)


def _end(native: Native, names: tuple[str, ...], number: int) -> None:
    """End services and start them again, as Docker's restart policy does."""
    processes = [native.running.pop(name) for name in names]
    # PostgreSQL's are no group: without their parent they end by themselves, and until then keep
    # another server out of its folder. Docker ends all processes of a container.
    below = [one for process in processes for one in _family(process.pid)[1:]]
    for process in processes:
        os.killpg(process.pid, number)
    for process in processes:
        process.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(alive, timeout=10)
    time.sleep(1)
    native.start(names)


FAULTS: dict[str, Callable[[Native], None]] = {
    "a worker of the server: SIGKILL": _kill_worker,
    "the server: SIGKILL": lambda native: _end(native, ("mlflow",), signal.SIGKILL),
    "the server: restart": lambda native: _end(native, ("mlflow",), signal.SIGTERM),
    "a connection of the database: SIGKILL": _kill_backend,
    "the database: SIGKILL": lambda native: _end(native, ("postgres",), signal.SIGKILL),
    "the database: restart": lambda native: _end(native, ("postgres",), signal.SIGINT),
    "the proxy: SIGKILL": lambda native: _end(native, ("proxy",), signal.SIGKILL),
    "everything: SIGKILL": lambda native: _end(
        native, ("postgres", "mlflow", "proxy"), signal.SIGKILL
    ),
}


def measure_faults(options: argparse.Namespace) -> int:
    from mlflow import MlflowClient

    clients = int(options.clients)
    disasters: list[Disaster] = []
    lost = (0.0, 0.0)
    names = list(FAULTS) * options.rounds
    random.Random(0).shuffle(names)
    with place() as folder, contextlib.ExitStack() as stack:
        native = Native(folder / "data")
        stack.callback(native.stop)
        native.start(("postgres", "migrate", "mlflow", "proxy"))
        side = side_of(native)
        stack.enter_context(side.as_client())
        # A client asks again by itself for minutes: what this measures is what the server kept.
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        experiment = MlflowClient().create_experiment(EXPERIMENT)
        # Longer than it takes: the clients are told to end by the time, not by the last fault.
        load = start_load(clients, 0, experiment, options.seconds, insist=True)
        with progress_bar("faults", len(names) + 1) as advance:
            for name in names:
                time.sleep(options.every)
                disasters.append(Disaster(name, time.time()))
                advance(0, text=name)
                FAULTS[name](native)
                advance()
            time.sleep(options.every)
            advance(0, text="backup, loss of everything, restore")
            native, lost, told = _lose_and_restore(native, options.every)
            stack.callback(native.stop)
            disasters.append(told)
            advance()
        if time.time() > load.started + options.seconds - options.every:
            print("warning: the faults took longer than --seconds; clients ended before the last",
                  file=sys.stderr)  # fmt: skip
        diaries = load.finish()
        side = replace(side, read=partial(ask_database, native))
        kept = compare_kept(side, diaries, may_miss=lost)
    for disaster in disasters:
        disaster.silent_seconds = _silence_after(diaries, disaster.at)
    result = {
        **surroundings(), "clients": clients, "points": kept.points, "files": kept.files,
        "missing": kept.missing, "surplus": kept.surplus, "doubled": kept.doubled,
        "missing_files": kept.missing_files,
        "missing_seconds_after_backup": [round(at - lost[0], 3) for at in kept.missing_at],
        "failed_calls": sum(len(diary.errors) for diary in diaries),
        "acknowledged_after_the_backup": sum(
            lost[0] <= when <= lost[1] for d in diaries for when in d.acknowledged["log_batch"]
        ) * POINTS_PER_CALL,
        "disasters": [
            {"what": d.what, "silent_seconds": round(d.silent_seconds, 1)} for d in disasters
        ],
    }  # fmt: skip
    text = faults_table(result)
    keep(result, text, options.out, "faults", lambda path: draw_faults(diaries, disasters, path))
    print(json.dumps(result, indent=2) if options.json else text)
    return 0 if kept.is_exact else 1


def _lose_and_restore(native: Native, pause: float) -> tuple[Native, tuple[float, float], Disaster]:
    """Back the service up, end and delete all of it, and start what was restored.

    Also returns from when to when what was acknowledged may be missing: it was not in the backup.
    """
    began = time.time()
    if native.run("backup", "python", "-m", "skinml.service.backup", "create"):
        raise RuntimeError("the backup failed")
    (made,) = [path.name for path in (native.data / "volumes" / "backups").glob("2*Z")]
    time.sleep(pause)
    for process in native.running.values():
        os.killpg(process.pid, signal.SIGKILL)
    lost = time.time()
    native.stop()
    for volume in ("postgres", "artifacts", "scratch"):
        shutil.rmtree(native.data / "volumes" / volume)
    subprocess.run(
        [sys.executable, "-m", "skinml.service.native", "--data", str(native.data), "restore",
         made],
        cwd=ROOT, check=True, stdout=sys.stderr,
    )  # fmt: skip
    ports = {f"{name}:{inside}": port for (name, inside), port in native.ports.items()}
    again = Native(native.data, ports=ports)
    # What a client notes until now was told by the service that is gone: answers lie in its socket.
    gone = time.time()
    again.start(("postgres", "migrate", "mlflow", "proxy"))
    return again, (began, gone), Disaster("loss of everything, and restore", lost)


def _silence_after(diaries: list[Diary], when: float) -> float:
    """How long after a moment, or what went on at it, no client was told anything, in seconds.

    The longest pause between two acknowledgements of any client that begins within 5 s.
    """
    told = sorted(at for diary in diaries for own in diary.acknowledged.values() for at in own)
    pauses = [b - a for a, b in itertools.pairwise(told) if when - 1 <= a <= when + 5]
    return max(pauses, default=float("nan"))


def faults_table(result: dict[str, Any]) -> str:
    by_kind: dict[str, list[float]] = {}
    for disaster in result["disasters"]:
        by_kind.setdefault(disaster["what"], []).append(disaster["silent_seconds"])
    width = max(len(what) for what in by_kind)
    lines = [f"{'what':<{width}}  times  longest silence s (median, largest)"]
    lines += [
        f"{what:<{width}}  {len(own):>5}  {np.median(own):>8.1f} {max(own):>8.1f}"
        for what, own in by_kind.items()
    ]
    return "\n".join([
        *lines,
        "",
        f"{result['clients']} clients; {result['points']} points and {result['files']} files "
        f"found; {result['failed_calls']} calls failed and were repeated",
        f"acknowledged and missing: {result['missing']} points, {result['missing_files']} files; "
        f"twice there: {result['doubled']}; there and never sent: {result['surplus']}",
        f"{result['acknowledged_after_the_backup']} points were acknowledged between the backup's "
        "begin and the loss of everything: no backup can hold them",
        "",
    ])  # fmt: skip


def draw_faults(diaries: list[Diary], disasters: list[Disaster], path: Path) -> None:
    """Points acknowledged per second over time, with each disaster."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import GREY, PAGE, drawing, save

    told = np.sort([at for diary in diaries for at in diary.acknowledged["log_batch"]])
    start = told[0]
    kinds = list(dict.fromkeys([*FAULTS, *(disaster.what for disaster in disasters)]))
    with drawing():
        figure = Figure(figsize=(PAGE, 3.6), layout="constrained")
        axes = figure.subplots()
        edges = np.arange(0, told[-1] - start + 2, 2.0)
        rates = np.histogram(told - start, edges)[0] * POINTS_PER_CALL / 2
        axes.fill_between(edges[:-1], rates, step="post", color=GREY, linewidth=0)
        for disaster in disasters:
            at, number = disaster.at - start, kinds.index(disaster.what) + 1
            axes.axvline(at, color="black", linewidth=0.6)
            axes.text(at, 1.01, str(number), transform=axes.get_xaxis_transform(), ha="center",
                      fontsize="x-small")  # fmt: skip
        axes.set(xlabel="seconds", ylabel="points acknowledged per second")
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        axes.set_title(f"{len(diaries)} clients while the service is killed and restored", pad=16)
        names = "\n".join(f"{number}  {kind}" for number, kind in enumerate(kinds, 1))
        axes.text(1.02, 1, names, transform=axes.transAxes, va="top", fontsize="x-small")
        save(figure, path)


# --- Results --------------------------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """Where and of what a measurement is."""
    import mlflow

    commit, clean = git_state()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {"commit": commit, "clean": clean, "machine": machine, "mlflow": mlflow.__version__}


def keep(
    result: dict[str, Any], text: str, folder: Path | None, name: str, draw: Callable[[Path], None]
) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        (folder / f"{name}.txt").write_text(text)
        draw(folder / f"{name}.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    load = commands.add_parser("load", help="beside plain mlflow server")
    load.add_argument("--clients", default="1,8,32")
    load.add_argument("--seconds", type=float, default=120, help="of each measurement")
    load.add_argument("--rounds", type=int, default=2)
    load.add_argument("--sides", default="service;plain", help=f"of {'; '.join(SIDES)}")
    load.set_defaults(run=measure_load)
    faults = commands.add_parser("faults", help="kills, restarts, loss and restore")
    faults.add_argument("--clients", default="8")
    faults.add_argument("--seconds", type=float, default=900, help="how long the clients log")
    faults.add_argument("--every", type=float, default=10, help="seconds between two faults")
    faults.add_argument("--rounds", type=int, default=3, help="how often each fault")
    faults.set_defaults(run=measure_faults)
    for command in (load, faults):
        command.add_argument("--json", action="store_true")
        command.add_argument("--out", type=Path, help="folder for the results and the plot")
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
