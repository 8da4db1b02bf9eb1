"""Part 1: forwarders, servers, their workers and the database, killed while runs are tracked."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.kept import compare_kept
from benchmarks.faults.processes import (
    HANGS,
    RunWriter,
    acknowledged,
    environment,
    make_folder,
    run_sync,
    start_forwarder,
    wait_until,
)
from skinml.base.processes import free_port
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT
from skinml.tracking.journal import Record, read_journal

if TYPE_CHECKING:
    from benchmarks.service import Side
    from skinml.service.native import Native

URI = "MLFLOW_TRACKING_URI"

Kill = Callable[[], None]

# Held by the one of two threads that compares: MLflow's client is asked by one at a time.
LOCK = threading.Lock()

# Kills in a case, of each kind.
KILLS = 5

# Of the kills of forwarders this part falls within so many seconds of their start, of which they
# need most for imports; the others so many seconds after their first acknowledgement.
STARTING, START, SENDING = 0.25, 4.0, 1.5

# Seconds within which a server, a worker or the database is killed after it answers again.
SERVER, SERVICE = 3.0, 2.0

# Seconds that a kill waits for a forwarder that starts, or pauses, to send.
PATIENCE = 20.0


class SqliteServer:
    """`mlflow server` on SQLite, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Its workers outlive a parent that is killed alone.
            )
        wait_until(lambda: answers(self.address), f"a server at {self.address} answers")

    def kill(self) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def answers(address: str) -> bool:
    import requests

    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{address}/health", timeout=30).ok
    return False


@contextmanager
def sqlite_server(folder: Path) -> Iterator[SqliteServer]:
    """A server on SQLite in a folder, for as long as it is wanted."""
    folder.mkdir(exist_ok=True)
    server = SqliteServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def as_client(**variables: str) -> Iterator[None]:
    """Let MLflow's client in this process be the one of a server."""
    with mock.patch.dict(os.environ, environment(**variables), clear=True):
        yield


def compare_runs(uri: str, writers: list[RunWriter]) -> Outcome:
    """What the server at an address keeps of some runs that ended, beside their journals."""
    from mlflow import MlflowClient

    outcome = Outcome()
    client = MlflowClient(uri)
    for writer in writers:
        found = compare_kept(client, writer.folder)
        # What was told to be on the disk is in the journal.
        found.lost += max(0, writer.told() - epochs_noted(writer.folder))
        if found.failed:
            found.problems.append(f"{writer.folder.path.name}: {writer.said()}")
        outcome.add(found)
    return outcome


def epochs_noted(folder: RunFolder) -> int:
    """The last epoch in the journal of a folder."""
    return max((r.fields["step"] for r in read_journal(folder.journal) if _is_epoch(r)), default=0)


def _is_epoch(record: Record) -> bool:
    return record.kind == "metrics" and "epoch/train_loss" in record.fields["values"]


# --- The forwarder --------------------------------------------------------------------------------


@contextmanager
def kill_forwarders(scratch: Path) -> Iterator[Run]:
    """Cases of two runs whose forwarders are killed five times each, and once more started."""
    with sqlite_server(scratch / "server") as server, as_client():

        def run(case: Case) -> Outcome:
            outcome = Outcome()
            writers = [
                RunWriter(
                    make_folder(case.folder / str(n), case.chance), "--offline", uri=server.address
                )
                for n in range(2)
            ]
            chances = [random.Random(case.chance.random()) for _ in writers]

            def one(writer: RunWriter, chance: random.Random) -> Outcome:
                return _kill_forwarders(writer.folder, server.address, chance)

            try:
                for writer in writers:
                    writer.begins()
                for found in together(one, writers, chances):
                    outcome.add(found)
                outcome.add(_send_rest(writers, server.address))
            finally:
                for writer in writers:
                    writer.kill()
            return outcome

        yield run


def _kill_forwarders(folder: RunFolder, address: str, chance: random.Random) -> Outcome:
    outcome = Outcome(details={"moments": [], "after_sending": 0})
    for _ in range(KILLS):
        before = acknowledged(folder)
        begun = time.monotonic()
        forwarder = start_forwarder(folder, address)
        if chance.random() < STARTING:
            time.sleep(chance.uniform(0, START))
        else:
            deadline = begun + PATIENCE
            while acknowledged(folder) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, SENDING))
        if forwarder.poll() is not None:
            outcome.problems.append(f"a forwarder ended by itself: {forwarder.returncode}")
        forwarder.kill()
        forwarder.wait()
        outcome.fault("SIGKILL of a forwarder")
        outcome.details["moments"].append(round(time.monotonic() - begun, 3))
        outcome.details["after_sending"] += int(acknowledged(folder) > before)
    return outcome


def _send_rest(writers: list[RunWriter], address: str) -> Outcome:
    """The runs end; a last forwarder, that nobody kills, sends what is left."""
    outcome = Outcome()
    last = [start_forwarder(writer.folder, address) for writer in writers]
    for writer, forwarder in zip(writers, last, strict=True):
        codes = writer.end(), forwarder.wait(HANGS)
        if codes != (0, 0):
            outcome.problems.append(f"exit codes {codes}: {writer.said()}")
    outcome.add(compare_runs(address, writers))
    return outcome


def together(
    call: Callable[..., Outcome], first: Sequence[Any], second: Sequence[Any]
) -> list[Outcome]:
    """Call a function for each pair of arguments at the same time; raises what a call raised."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        return list(pool.map(call, first, second))


# --- Servers --------------------------------------------------------------------------------------


@contextmanager
def service() -> "Iterator[tuple[Side, Native]]":
    """The service without Docker on PostgreSQL; this process is a client of it."""
    from benchmarks.service import service_side

    with service_side(proxy=False) as side:
        assert side.native
        credentials = {key: value for key, value in side.variables.items() if key != URI}
        with as_client(**credentials):
            yield side, side.native


@contextmanager
def kill_servers(scratch: Path) -> Iterator[Run]:
    """Cases of a server on SQLite and one on PostgreSQL, each killed five times, each with a run.

    Killed are all processes of a server at once; it is started again a second later.
    """
    from benchmarks.service import FAULTS

    with sqlite_server(scratch / "server") as server, service() as (side, native):

        def kill_sqlite() -> None:
            server.kill()
            time.sleep(1)
            server.start()

        def kill_postgresql() -> None:
            FAULTS["the server: SIGKILL"](native)

        sides = (
            ("SIGKILL of a server on SQLite", {URI: server.address}, kill_sqlite),
            ("SIGKILL of a server on PostgreSQL", side.variables, kill_postgresql),
        )

        def run(case: Case) -> Outcome:
            chances = [random.Random(case.chance.random()) for _ in sides]

            def one(own: tuple[str, dict[str, str], Kill], chance: random.Random) -> Outcome:
                kind, variables, kill = own
                folder = make_folder(case.folder / kind.split()[-1], chance)
                return disturb(folder, variables, [(kind, kill)] * KILLS, chance, SERVER)

            outcome = Outcome()
            for found in together(one, sides, chances):
                outcome.add(found)
            return outcome

        yield run


@contextmanager
def kill_service(scratch: Path) -> Iterator[Run]:
    """Cases of the service on PostgreSQL: workers and database killed five times each.

    Every other kill of the database takes one of its connections' processes, whereupon it ends
    the others and recovers; the rest take all of it, and start it again a second later.
    """
    from benchmarks.service import FAULTS

    with service() as (side, native):

        def run(case: Case) -> Outcome:
            random.seed(case.chance.random())  # Which worker, which connection.
            names = ["a worker of the server: SIGKILL"] * KILLS
            names += list(islice(cycle(DATABASE), KILLS))
            case.chance.shuffle(names)
            kills: list[tuple[str, Kill]] = [
                (_kind(name), partial(insist, partial(FAULTS[name], native), side.variables))
                for name in names
            ]
            folder = make_folder(case.folder / "run", case.chance)
            return disturb(folder, side.variables, kills, case.chance, SERVICE)

        yield run


# Both of the disasters of benchmarks/service.py.
DATABASE = ("the database: SIGKILL", "a connection of the database: SIGKILL")


def _kind(name: str) -> str:
    return "SIGKILL of the database" if name in DATABASE else "SIGKILL of a server's worker"


def insist(kill: Kill, variables: dict[str, str]) -> None:
    """Kill what may be gone for a moment: a worker that starts, a connection that nobody needs.

    Longer than the two minutes for which uvicorn waits for the answer of a worker that was killed
    before it could give one; until then it starts none again.
    """
    import psutil
    import psycopg
    import requests

    user = variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]
    page = f"{variables[URI]}/api/2.0/mlflow/experiments/get-by-name?experiment_name=skinml"
    deadline = time.monotonic() + HANGS
    while True:
        try:
            return kill()
        except (LookupError, psycopg.OperationalError, psutil.Error, ProcessLookupError):
            if time.monotonic() > deadline:
                raise
            with contextlib.suppress(requests.RequestException):  # Asks the database.
                requests.get(page, auth=user, timeout=5)
            time.sleep(0.2)


def disturb(
    folder: RunFolder,
    variables: dict[str, str],
    kills: list[tuple[str, Kill]],
    chance: random.Random,
    within: float,
) -> Outcome:
    """A run with its own forwarder, while what it is sent to is killed again and again."""
    outcome = Outcome(details={"after_sending": 0})
    given = dict(variables)
    address = given.pop(URI)
    writer = RunWriter(folder, "--drain-limit", "150", uri=address, variables=given)
    try:
        writer.begins()
        for kind, kill in kills:
            before = acknowledged(folder)
            # After a pause a forwarder takes its time: every other kill waits until it sends.
            if chance.random() < 0.5:
                deadline = time.monotonic() + PATIENCE
                while acknowledged(folder) == before and time.monotonic() < deadline:
                    time.sleep(0.05)
            time.sleep(chance.uniform(0, within))
            outcome.details["after_sending"] += int(acknowledged(folder) > before)
            kill()
            outcome.fault(kind)
        code = writer.end()
        if code == UNSENT:  # A slow machine: what is left is sent as a person would.
            code = run_sync(folder, **variables).returncode
            outcome.details["synced"] = 1
        if code != 0:
            outcome.problems.append(f"exit code {code}: {writer.said()}")
    finally:
        writer.kill()
    with LOCK:
        outcome.add(compare_runs(address, [writer]))
    return outcome
