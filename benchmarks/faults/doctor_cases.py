"""Does doctor close a run that lives, or leave one that is dead? Mixed cases of real processes.

    python -m benchmarks.faults.doctor_cases [--cases 220] [--seed 0] [--term 6] [--out FILE.json]

Batches of 44 runs on a SQLite store: eight of them trainings without a network, with a journal
and a forwarder of their own; the others a process that sleeps, and a lease that is moved for it or
not. Some are "elsewhere": of another host's name, so that their lease alone tells. Once all stand,
`python -m skinml.doctor --fix` is run, and each run is held against what it should be.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.processes import HANGS
from skinml.base.processes import process_name
from skinml.store.lease import LEASE, TERM_VARIABLE, open_runs, renew
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import STATE, Description, RunFolder

ROOT = Path(__file__).parents[2]
BATCH, REAL = 44, 8

# A training without a network, on a host of this name ("-": this one), until the file `go` is
# there. The file `shift` sets its clock.
WRITER = """
import platform, sys, time
from pathlib import Path

path, host, now = Path(sys.argv[1]), sys.argv[2], time.time
if host != "-":
    platform.node = lambda: host

def shifted():
    try:
        return now() + float((path / "shift").read_text())
    except (OSError, ValueError):
        return now()

time.time = shifted
from skinml.base.errors import run_command
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT
from skinml.run.tracked import track

def main():
    folder, epoch = RunFolder(path), 0
    with track(folder, folder.read_description(), drain_limit=600, load=False) as run:
        while not (path / "go").exists():
            epoch += 1
            values = {f"{part}_{name}": epoch / 7 for part in ("train", "val")
                      for name in ("loss", "accuracy", "auc_macro")}
            row = {"epoch": epoch, "step": "finetune", **values, "learning_rate": 1e-3,
                   "seconds": 0.2, "images_per_second": 9.0, "time": int(time.time() * 1000)}
            run.log_epoch(row)
            folder.append_epoch(row)
            time.sleep(0.2)
    return 0 if folder.published else UNSENT

sys.exit(run_command(main))
"""


@dataclass
class Training:
    """A real run: a process with a journal, and its forwarder."""

    folder: RunFolder
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, parent: Path, host: str = "-") -> "Training":
        path = Path(tempfile.mkdtemp(dir=parent)).resolve()
        folder = RunFolder(path)
        dataset = {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}}
        tags = {"data": "isic2017", "kind": "training"}
        folder.write_description(Description(path.name, {"model": "none"}, tags, dataset))
        with (path / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), host], cwd=ROOT, stdout=log, stderr=log
            )
        return cls(folder, process)

    def state(self) -> Acknowledged:
        return Acknowledged.load(self.folder.path / STATE)

    def begins(self) -> str:
        """Wait until some epochs are in MLflow; the id of its run."""
        deadline = time.monotonic() + HANGS
        while self.state().sequence < 6:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError((self.folder.path / "log.txt").read_text())
            time.sleep(0.05)
        return self.state().run_id

    def forwarders(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [])[2:]
            == ["skinml.store.forwarder", str(self.folder.path)]
        ]

    def stop_forwarders(self) -> None:
        """SIGSTOP, but not amid a transaction: SQLite would be locked for everyone."""
        store = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
        while True:
            stopped = self.forwarders()
            for forwarder in stopped:
                forwarder.suspend()
            try:
                with closing(sqlite3.connect(store, timeout=0.5, isolation_level=None)) as database:
                    database.execute("BEGIN EXCLUSIVE")
                    database.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                for forwarder in stopped:
                    forwarder.resume()
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        # A stopped process first: it could start another forwarder.
        self.kill()
        for forwarder in self.forwarders():
            with suppress(psutil.Error):
                forwarder.kill()
                forwarder.wait(HANGS)

    def finish(self) -> int:
        (self.folder.path / "go").touch()
        return self.process.wait(HANGS)


@dataclass
class Case:
    """A run, and the status that it should have after doctor's visit."""

    kind: str
    run_id: str
    expected: str

    @property
    def lives(self) -> bool:
        return self.expected == "RUNNING"


@dataclass
class World:
    """A store, the folders of this host's runs and of another's, and what was started."""

    folder: Path
    term: float
    moving: dict[str, str] = field(default_factory=dict)
    """The runs whose lease is moved for them, and their processes."""
    ending: list[str] = field(default_factory=list)
    """Runs that finish while doctor looks."""
    sleepers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)

    def __post_init__(self) -> None:
        from mlflow import MlflowClient

        self.here, self.elsewhere = self.folder / "runs", self.folder / "elsewhere"
        self.here.mkdir()
        self.elsewhere.mkdir()
        self.client = MlflowClient()
        found = self.client.get_experiment_by_name("skinml")
        self.experiment = found.experiment_id if found else self.client.create_experiment("skinml")

    def sleeper(self, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
        process = subprocess.Popen(command, env={**os.environ, **variables})
        self.sleepers.append(process)
        return process

    def run(self, lease: bool = True, **tags: str) -> str:
        tags = {LEASE: "3", **tags} if lease else tags
        return str(self.client.create_run(self.experiment, tags=tags).info.run_id)

    def training(self, host: str = "-") -> Training:
        parent = self.here if host == "-" else self.elsewhere
        self.trainings.append(Training.start(parent, host))
        return self.trainings[-1]

    @contextmanager
    def leases(self) -> Iterator[None]:
        """Meanwhile move what is to be moved, as forwarders do, and end what is to end."""
        from mlflow import MlflowException

        over = threading.Event()

        def move() -> None:
            begun = time.monotonic()
            while not over.wait(self.term / 3):
                for run_id, process in list(self.moving.items()):
                    with suppress(MlflowException):  # SQLite is locked: the next time.
                        renew(self.client.get_run(run_id), process)
                if time.monotonic() - begun > self.term / 2:
                    while self.ending:
                        self.client.set_terminated(self.ending.pop(), "FINISHED")

        thread = threading.Thread(target=move)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def end(self) -> None:
        for sleeper in self.sleepers:
            sleeper.kill()
            sleeper.wait()
        for training in self.trainings:
            training.kill_all()


# The cases: each makes a run, and says what it should be afterwards.


def _named(world: World, name: str = "") -> str:
    return name or process_name(world.sleeper().pid)


def _elsewhere(name: str) -> str:
    return f"elsewhere {name.split(' ', 1)[1]}"


def _part(name: str, index: int, value: str) -> str:
    """A name of this host with a part of its start (boot, namespace, ticks) replaced."""
    host, pid, start = name.rsplit(" ", 2)
    parts = start.split(":")
    parts[index] = value
    return f"{host} {pid} {':'.join(parts)}"


def cut_off_here(world: World) -> Case:
    return Case("lives here, lease stands", world.run(process=_named(world)), "RUNNING")


def stopped_here(world: World) -> Case:
    process = world.sleeper()
    process.send_signal(signal.SIGSTOP)
    run_id = world.run(process=process_name(process.pid))
    return Case("lives here, stopped, lease stands", run_id, "RUNNING")


def _moved(world: World, kind: str, name: str) -> Case:
    run_id = world.run(process=name)
    world.moving[run_id] = name
    return Case(kind, run_id, "RUNNING")


def lives_elsewhere(world: World) -> Case:
    return _moved(world, "lives elsewhere", _elsewhere(_named(world)))


def lives_in_a_container(world: World) -> Case:
    """Its host has this one's name, its process id means nothing here."""
    name = _part(f"{process_name().rsplit(' ', 2)[0]} 4000000 {_start()}", 1, "1")
    return _moved(world, "lives in a container of this host's name", name)


def _start() -> str:
    return process_name().rsplit(" ", 1)[1]


def named_before_the_clock_was_set(world: World) -> Case:
    """A name of an older skinml: seconds since 1970, an hour off."""
    process = world.sleeper()
    begun = psutil.Process(process.pid).create_time()
    name = f"{process_name(process.pid).rsplit(' ', 1)[0]} {begun - 3600:.2f}"
    return _moved(world, "lives here, of an older skinml, the clock was set", name)


def finishes(world: World) -> Case:
    run_id = world.run(process=_elsewhere(_named(world)))
    world.ending.append(run_id)
    return Case("finishes meanwhile, elsewhere", run_id, "FINISHED")


def another_programs(world: World) -> Case:
    return Case("another program's, no lease", world.run(lease=False), "RUNNING")


def prepares(world: World) -> Case:
    """What `mlflow run` has started, before its journal begins."""
    run_id = world.run(lease=False, **{"mlflow.source.type": "PROJECT"})
    world.sleeper(MLFLOW_RUN_ID=run_id)
    return Case("of mlflow run, before it trains", run_id, "RUNNING")


def dead_here(world: World) -> Case:
    process = world.sleeper()
    name = process_name(process.pid)
    process.kill()
    process.wait()
    return Case("dead here", world.run(process=name), "KILLED")


def zombie(world: World) -> Case:
    process = world.sleeper()
    name = process_name(process.pid)
    process.kill()
    return Case("dead here, a zombie", world.run(process=name), "KILLED")


def id_given_again(world: World) -> Case:
    name = _part(_named(world), 2, "7")
    return Case("dead here, its id is another's", world.run(process=name), "KILLED")


def dead_elsewhere(world: World) -> Case:
    return Case("dead elsewhere", world.run(process=_elsewhere(_named(world))), "KILLED")


def before_a_reboot(world: World) -> Case:
    name = _part(_named(world), 0, "0" * 16)
    return Case("dead, of before a reboot", world.run(process=name), "KILLED")


LIGHT: tuple[Callable[[World], Case], ...] = (
    cut_off_here,
    stopped_here,
    lives_elsewhere,
    lives_in_a_container,
    named_before_the_clock_was_set,
    finishes,
    another_programs,
    prepares,
    dead_here,
    zombie,
    id_given_again,
    dead_elsewhere,
    before_a_reboot,
)

# What is done to a real training once it stands: host, kind, expected status, deed.


def _nothing(training: Training) -> None:
    pass


def _stop(training: Training) -> None:
    training.process.send_signal(signal.SIGSTOP)


def _kill_before_a_stopped_forwarder(training: Training) -> None:
    training.stop_forwarders()
    training.kill()


def _set_clock(training: Training) -> None:
    (training.folder.path / "shift").write_text(random.choice(["3600", "-3600"]))


def _finish(training: Training) -> None:
    training.finish()


HEAVY: tuple[tuple[str, str, str, Callable[[Training], None]], ...] = (
    ("-", "trains here", "RUNNING", _nothing),
    ("-", "trains here, its clock is set by an hour", "RUNNING", _set_clock),
    ("-", "trains here, forwarder stopped", "RUNNING", Training.stop_forwarders),
    ("-", "trains here, itself stopped", "RUNNING", _stop),
    ("-", "training killed here, forwarder lives", "KILLED", Training.kill),
    ("-", "training killed here, forwarder stopped", "KILLED", _kill_before_a_stopped_forwarder),
    ("-", "training and forwarder killed here", "KILLED", Training.kill_all),
    ("-", "training finished here", "FINISHED", _finish),
    ("elsewhere", "trains elsewhere", "RUNNING", _nothing),
    ("elsewhere", "trains elsewhere, its clock is set by an hour", "RUNNING", _set_clock),
    ("elsewhere", "trains elsewhere, itself stopped", "RUNNING", _stop),
    ("elsewhere", "training and forwarder killed elsewhere", "KILLED", Training.kill_all),
)


def doctor(folder: Path, *options: str) -> tuple[int, list[dict[str, Any]], float, str]:
    """Its exit code, what it found, how long it took, what it said."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "skinml.doctor", "--json", "--output-dir", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    found = json.loads(done.stdout) if done.stdout else []
    return done.returncode, found, time.monotonic() - begun, done.stderr


def batch(folder: Path, light: int, real: int, chance: random.Random, term: float) -> list[Any]:
    """Make so many cases of each sort, let doctor mend them; a row each of what came of it."""
    world = World(folder, term)
    try:
        chosen = [chance.choice(HEAVY) for _ in range(real)]
        started = [
            (world.training(host), kind, expected, deed) for host, kind, expected, deed in chosen
        ]
        cases = [chance.choice(LIGHT)(world) for _ in range(light)]
        for training, kind, expected, _ in started:
            cases.append(Case(kind, training.begins(), expected))
        with world.leases():
            for training, *_, deed in started:
                deed(training)
            code, found, seconds, said = doctor(world.here, "--fix")
            if code:
                raise RuntimeError(f"doctor ended with {code}: {said} {found}")
            closed = {item["name"]: item["outcome"] for item in found}
            rows = []
            for case in cases:
                status = world.client.get_run(case.run_id).info.status
                # Closed for a moment alone would be closed as well.
                wrong = case.lives and (
                    status != "RUNNING" or "KILLED" in closed.get(case.run_id, "")
                )
                rows.append(
                    {
                        "kind": case.kind,
                        "expected": case.expected,
                        "status": status,
                        "wrongly_closed": wrong,
                        "left_running": not case.lives and status == "RUNNING",
                        "doctor_seconds": seconds,
                    }
                )
        return rows
    finally:
        world.end()
        # They are none of the next batch's.
        for run in open_runs([world.experiment]):
            world.client.set_terminated(run.info.run_id, "KILLED")


def cases(count: int, seed: int, term: float, folder: Path) -> list[Any]:
    """Mixed cases on the store of $MLFLOW_TRACKING_URI; a row each."""
    chance = random.Random(seed)
    rows: list[Any] = []
    while len(rows) < count:
        size = min(BATCH, count - len(rows))
        real = max(1, round(size * REAL / BATCH))
        place = folder / f"batch-{len(rows)}"
        place.mkdir()
        rows += batch(place, size - real, real, chance, term)
        print(summary(rows), file=sys.stderr, flush=True)
    return rows


def summary(rows: list[Any]) -> str:
    dead = sum(row["expected"] == "KILLED" for row in rows)
    live = sum(row["expected"] == "RUNNING" for row in rows)
    return (
        f"{len(rows)} cases: {live} live, {sum(row['wrongly_closed'] for row in rows)} of them "
        f"closed; {dead} dead, {sum(row['left_running'] for row in rows)} of them left RUNNING; "
        f"{sum(row['status'] != row['expected'] for row in rows)} not as expected; doctor took at "
        f"most {max(row['doctor_seconds'] for row in rows):.1f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=220)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--term", type=float, default=6.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{temporary}/mlflow.db"
        os.environ[TERM_VARIABLE] = str(options.term)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        rows = cases(options.cases, options.seed, options.term, Path(temporary))
    for (kind, status), number in sorted(Counter((r["kind"], r["status"]) for r in rows).items()):
        print(f"{number:4}  {status:9} {kind}")
    print(f"{summary(rows)}; {time.monotonic() - begun:.0f} s in all, term {options.term:g} s")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["status"] != row["expected"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
