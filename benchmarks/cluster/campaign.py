"""The sweep on a cluster whose workers, trainings, nodes and driver are killed at random."""

import csv
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.judging import count_finished
from benchmarks.cluster.nodes import Node, Training, Watch, kill_all

# Of the kills at random; `cut` is the network cable of a node, pulled and put back.
KINDS = {"training": 5, "worker": 5, "node": 3, "cut": 1}

# Seconds that a node stays off, that a cable stays out, that the driver stays dead.
OFF, OUT, DEAD = (3.0, 10.0), (8.0, 20.0), 3.0

# The driver is killed when so many of the cells are done.
DRIVER_KILLS = (0.25, 0.6)

# How often a driver that ends with failed cells is started again, as a person would.
STARTS = 6

TICK = 0.5

EVENTS = "events.jsonl"


class Campaign:
    """A sweep and its kills, noted as lines of EVENTS; those of an earlier start count."""

    def __init__(
        self,
        cluster: Any,
        command: Sequence[str],
        variables: dict[str, str],
        database: Path,
        cells: int,
        epochs: int,
        kill_every: float,
        chance: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self.cluster = cluster
        self._command = list(command)
        self._variables = variables
        self._database = database
        self._cells = cells
        self._epochs = epochs
        self._kill_every = kill_every
        self._chance = chance
        self._say = say
        self._watch = Watch(cluster.marks())
        self._path = cluster.folder / EVENTS
        self.events: list[dict[str, Any]] = []
        if self._path.exists():
            whole = self._path.read_text().rpartition("\n")[0]
            self.events = [json.loads(line) for line in whole.splitlines()]
        self._driver: subprocess.Popen[bytes] | None = None
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._off: set[str] = set()
        self._lock = threading.Lock()

    def run(self, limit: float) -> int:
        """Until the sweep has ended by itself; returns its exit code, -1 beyond the limit."""
        deadline = time.monotonic() + limit
        self._start_driver()
        next_kill = time.monotonic() + self._pause()
        told = 0.0
        while True:
            for training in self._watch.look():
                self._note("attempt", **asdict(training))
            now = time.monotonic()
            code = self._driver.poll() if self._driver else None
            if code is not None:
                self._driver = None
                self._note("driver ended", code=code)
                if code == 0 or self._count("driver ended") > STARTS:
                    return code
                self._later.append((now + DEAD, self._start_driver))
            for due in [one for one in self._later if one[0] <= now]:
                self._later.remove(due)
                due[1]()
            if now > deadline:
                return -1
            if now > next_kill and self._watch.live:
                self._kill_something()
                next_kill = now + self._pause()
            if now - told > 60:
                told = now
                done = count_finished(self._database)
                self._say(f"{done} of {self._cells} cells done, {self._count('kill')} kills")
            time.sleep(TICK)

    @property
    def is_over(self) -> bool:
        """Whether the sweep has ended well, perhaps in an earlier start."""
        ends = [event for event in self.events if event["event"] == "driver ended"]
        return bool(ends) and ends[-1]["code"] == 0

    @property
    def seconds(self) -> float:
        """From the first start of the driver, pauses between this command's starts included."""
        return float(self.events[-1]["time"] - self.events[0]["time"]) if self.events else 0.0

    def end(self) -> None:
        """Note what still lives, and end the driver."""
        for training in self._watch.live.values():
            self._note("attempt", **asdict(training) | {"end": time.time()})
        if self._driver:
            self._driver.kill()

    def _pause(self) -> float:
        return self._chance.uniform(0.5, 1.5) * self._kill_every

    def _count(self, what: str, **values: str) -> int:
        return sum(
            event["event"] == what and values.items() <= event.items() for event in self.events
        )

    def _note(self, what: str, **values: Any) -> None:
        event = {"event": what, "time": time.time(), **values}
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
            self.events.append(event)

    # The driver

    def _start_driver(self) -> None:
        number = self._count("driver started") + 1
        with (self.cluster.folder / f"driver-{number}.log").open("ab") as log:
            self._driver = self.cluster.head.popen(self._command, log, self._variables)
        self._note("driver started")

    def _driver_process(self) -> psutil.Process | None:
        """The sweep itself, below what put it on its node."""
        if not self._driver:
            return None
        with suppress(psutil.Error):
            top = psutil.Process(self._driver.pid)
            for process in (top, *top.children(recursive=True)):
                if process.cmdline()[:3] == self._command[:3]:
                    return process
        return None

    # Kills

    def _kill_something(self) -> None:
        if self._driver_is_due():
            self._kill_driver()
            return
        kinds = {k: w for k, w in KINDS.items() if k != "cut" or self.cluster.apart}
        [kind] = self._chance.choices(list(kinds), list(kinds.values()))
        if kind in ("training", "worker"):
            target = self._chance.choice(list(self._watch.live.values()))
            pid = target.pid if kind == "training" else target.worker
            self._kill(kind, target.node, [target], lambda: psutil.Process(pid).kill())
            return
        able = [n for n in self.cluster.nodes if not n.is_head and n.name not in self._off]
        if not able:
            return
        node = self._chance.choice(able)
        hit = [t for t in self._watch.live.values() if t.node == node.name]
        self._off.add(node.name)
        if kind == "node":
            self._kill(kind, node.name, hit, node.kill)
            self._in(OFF, lambda: self._up(node, Node.start))
        else:
            self._kill(kind, node.name, hit, lambda: node.cut(True))
            self._in(OUT, lambda: self._connect(node))

    def _driver_is_due(self) -> bool:
        kills = self._count("kill", kind="driver")
        done = count_finished(self._database) / self._cells
        return kills < len(DRIVER_KILLS) and done >= DRIVER_KILLS[kills]

    def _kill_driver(self) -> None:
        if process := self._driver_process():
            self._kill("driver", "", list(self._watch.live.values()), process.kill)

    def _in(self, seconds: tuple[float, float], act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self._chance.uniform(*seconds), act))

    def _kill(
        self, kind: str, node: str, trainings: Sequence[Training], act: Callable[[], object]
    ) -> None:
        hit = [self._so_far(training) for training in trainings]
        # What ended in this moment cannot be killed any more.
        with suppress(psutil.Error, RuntimeError):
            act()
            self._note("kill", kind=kind, node=node, hit=hit, epochs=self._epochs)

    def _connect(self, node: Node) -> None:
        node.cut(False)
        self._later.append((time.monotonic() + OUT[0], lambda: self._up(node, self._join)))

    def _up(self, node: Node, start: Callable[[Node], None]) -> None:
        """Beside the kills, which go on meanwhile."""

        def up() -> None:
            try:
                start(node)
            except (RuntimeError, OSError, psutil.Error, subprocess.SubprocessError) as error:
                # A cluster that is busy takes its time: once more, from the beginning.
                self._note("node failed", node=node.name, why=str(error)[-300:])
                node.kill()
                again = time.monotonic() + OFF[1]
                self._later.append((again, lambda: self._up(node, Node.start)))
                return
            self._off.discard(node.name)
            self._note("node up", node=node.name)

        threading.Thread(target=up, daemon=True).start()

    @staticmethod
    def _join(node: Node) -> None:
        """A node that was taken for dead ends Ray's processes as soon as it hears of it."""
        if not node.has_ray:
            node.join()

    def _so_far(self, training: Training) -> dict[str, Any]:
        """How far a training is: when its cell's epochs ended, and how many of them it trained."""
        told = epochs_of(self.run_folders(training.cell))
        own = sum(moment / 1000 >= training.begin for moment in told)
        return {"cell": training.cell, "pid": training.pid, "told": told, "own": own}

    def run_folders(self, cell: str) -> list[Path]:
        """All run folders of a cell, on whatever node, oldest first."""
        driver = self.cluster.folder.glob(f"driver/runs/sweep-*/{cell}/*/history.csv")
        nodes = self.cluster.folder.glob(f"nodes/*/cache/sweeps/*/{cell}/*/history.csv")
        return sorted((path.parent for path in (*driver, *nodes)), key=lambda path: path.name)

    def final_epochs(self) -> dict[str, list[int]]:
        """When the epochs of each cell's finished run ended."""
        cells = {e["cell"] for e in self.events if e["event"] == "attempt"}
        found = {}
        for cell in sorted(cells):
            done = [path for path in self.run_folders(cell) if (path / "FINISHED").exists()]
            found[cell] = epochs_of(done[-1:])
        return found

    def kills(self) -> dict[str, int]:
        return dict(Counter(e["kind"] for e in self.events if e["event"] == "kill"))


def epochs_of(folders: Sequence[Path]) -> list[int]:
    """When (ms since 1970) the epochs of the newest of some run folders ended."""
    if not folders:
        return []
    with suppress(OSError, ValueError, KeyError), (folders[-1] / "history.csv").open() as file:
        return [int(row["time"]) for row in csv.DictReader(file)]
    return []


def interrupt_once(
    command: Sequence[str],
    variables: dict[str, str],
    mark: str,
    log: Path,
    signum: int,
    worker: bool,
) -> tuple[int, bool]:
    """Run a sweep on this machine; its first training that has an epoch gets a signal, once.

    With `worker` the process that has started the training. Returns the exit code, and whether
    there was one to interrupt.
    """
    watch, sent = Watch({mark}), False
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=variables, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        while process.poll() is None:
            watch.look()
            for training in watch.live.values():
                folders = sorted(log.parent.glob(f"runs/sweep-*/{training.cell}/*/history.csv"))
                if not sent and len(epochs_of([path.parent for path in folders])) >= 2:
                    target = training.worker if worker else training.pid
                    psutil.Process(target).send_signal(signum)
                    sent = True
            time.sleep(TICK)
    finally:
        process.kill()
        kill_all({mark})
    return process.returncode, sent


def python(*words: str) -> list[str]:
    return [sys.executable, *words]
