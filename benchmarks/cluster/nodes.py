"""Machines of a cluster on one machine: a network, host name, processes and memory of their own.

A node is a set of Linux namespaces, which needs root; where that is not to be had, it is a group of
processes on the loopback interface. Everything that a node runs inherits the variable `MARK`: only
what carries it is ever looked at or killed.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from skinml.base.processes import free_port

ROOT = Path(__file__).parent.parent.parent

# Not named as skinml's own variables, which a driver hands on to every node.
MARK = "PROOF_NODE"

# Set in the process that has a network of its own.
INSIDE = "SKINML_PROOF_NETWORK"

BRIDGE, ADDRESS = "skinml0", "10.77.0.{}"

# The first process of a node: it reaps what is left to it. Other nodes' memory (Ray's objects) and
# sockets are not seen, nor what is to be hidden.
INIT = """
hostname "$1"; shift
mount --bind "$1" /etc/hosts; shift
for folder; do mount -t tmpfs none "$folder" || exit 1; done
ip link set lo up
echo ready
trap : TERM
while :; do sleep 3600 & wait $!; done
"""

# A lease that is renewed more often than a person's needs to be, and a node's death noticed sooner.
SHORTER = {
    "SKINML_LEASE_TERM": "15",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


def namespaces_work() -> bool:
    """Whether a process may have namespaces of its own here."""
    if sys.platform != "linux":
        return False
    command = ["unshare", "--net", "--pid", "--uts", "--ipc", "--mount", "--fork", "--mount-proc"]
    with suppress(OSError):
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return False


def enter_network(arguments: Sequence[str]) -> None:
    """Go on as a process with a network and processes of its own; all of them die with it."""
    # The shell is their first process, and reaps.
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    command += ["bash", "-c", '"$@"; exit $?', "bash", sys.executable, "-m", *arguments]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def make_network() -> None:
    for line in (
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"addr add {ADDRESS.format(1)}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ):
        _ip(line)


def _ip(line: str) -> None:
    done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {line}: {done.stderr.strip()}")


class Node:
    """One machine. `core` is the one that it has, `hidden` are folders that it does not see."""

    def __init__(
        self, cluster: "Cluster", number: int, core: int, hidden: Sequence[Path] = ()
    ) -> None:
        self.name = f"node{number}"
        self.address = ADDRESS.format(10 + number) if cluster.apart else "127.0.0.1"
        self.folder = cluster.folder / "nodes" / self.name
        self.starts = 0
        self._cluster = cluster
        self._number = number
        self._core = core
        self._hidden = list(hidden)
        self._holder: subprocess.Popen[str] | None = None
        self._init = 0
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_head(self) -> bool:
        return self._number == 0

    def start(self) -> None:
        """Boot it, and let it join the cluster."""
        self.starts += 1
        if self._cluster.apart:
            self._boot()
        self.join()

    def join(self) -> None:
        """Start Ray on it."""
        words = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        words += ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
        if self._cluster.apart:
            words += [f"--node-ip-address={self.address}"]
        if self.is_head:
            words += ["--head", f"--port={self._cluster.port}", "--include-dashboard=false"]
            words += [f"--ray-client-server-port={free_port()}"]
            words += [f"--temp-dir={self._cluster.ray}"]
        else:
            words += [f"--address={self._cluster.address}"]
        log = self.folder / "ray-start.log"
        with log.open("a") as file:
            process = self.popen(words, file)
            code = process.wait(120)
        if code:
            raise RuntimeError(f"{self.name} does not start: {log.read_text()[-2000:]}")

    def popen(
        self, words: Sequence[str], log: object, variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a command on it."""
        if self._cluster.apart:
            words = ["nsenter", "-t", str(self._init), "-a", "--wd=" + str(self.folder), *words]
        if hasattr(os, "sched_setaffinity"):
            words = ["taskset", "-c", str(self._core), *words]
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**self._cluster.variables, **self._own(), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill(self) -> None:
        """All of it at once, as when its power goes."""
        if self._holder:
            # The first process of a namespace takes all others with it.
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
            self._holder.wait()
            self._holder = None
        kill_all(self._cluster.marks(self))

    def cut(self, off: bool) -> None:
        """Pull its network cable, or put it back."""
        _ip(f"link set v{self._number} {'down' if off else 'up'}")

    @property
    def has_ray(self) -> bool:
        """Whether its raylet lives."""
        return any(_name(p) == "raylet" for p in processes(self._cluster.marks(self)))

    def _own(self) -> dict[str, str]:
        return {MARK: self._cluster.mark(self), "SKINML_CACHE_DIR": str(self.folder / "cache")}

    def _boot(self) -> None:
        command = ["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork"]
        command += ["--mount-proc", "--kill-child", "bash", "-c", INIT, "init", self.name]
        command += [str(self._cluster.hosts), "/dev/shm", str(self._cluster.ray)]
        command += map(str, self._hidden)
        self._holder = subprocess.Popen(
            command,
            env={**os.environ, **self._own()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name} does not boot")
        [init] = psutil.Process(self._holder.pid).children()
        self._init = init.pid
        with suppress(RuntimeError):  # That of before goes with its namespace, in its own time.
            _ip(f"link del v{self._number}")
        _ip(f"link add v{self._number} type veth peer name eth0 netns {self._init}")
        _ip(f"link set v{self._number} master {BRIDGE} up")
        for line in (f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            subprocess.run(
                ["nsenter", "-t", str(self._init), "-n", "ip", *line.split()], check=True
            )


class Cluster:
    """Three nodes of Ray, one CPU each; the first is the head.

    `hidden` are folders that only the head sees.
    """

    def __init__(self, folder: Path, apart: bool, hidden: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.apart = apart
        # Ray's sockets need a short path.
        self.ray = folder / "ray"
        self.hosts = folder / "hosts"
        self.port = free_port()
        for needed in (self.ray, *hidden):
            needed.mkdir(parents=True, exist_ok=True)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self.nodes = [
            Node(self, number, cores[number % len(cores)], hidden if number else ())
            for number in range(3)
        ]
        self.hosts.write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{node.address} {node.name}\n" for node in self.nodes)
        )
        self.variables = {
            **own_environment(),
            **SHORTER,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        if not apart:
            self.variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{self.port}"

    def mark(self, node: Node) -> str:
        return f"{self.folder}:{node.name}"

    def marks(self, node: Node | None = None) -> set[str]:
        return {self.mark(node) for node in ([node] if node else self.nodes)}

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()


def processes(marks: set[str]) -> Iterator[psutil.Process]:
    """All that carries one of these marks."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) in marks:
                yield process


def own_environment() -> dict[str, str]:
    """This process's environment without a person's settings, which would change what is shown."""
    others = {
        k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SKINML_", "RAY_"))
    }
    return {**others, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def kill_all(marks: set[str], patience: float = 30) -> None:
    deadline = time.monotonic() + patience
    while (left := list(processes(marks))) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, 2)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


@dataclass
class Training:
    """A process that trains a cell; `worker` is the one that has started it."""

    cell: str
    node: str
    pid: int
    worker: int
    begin: float
    end: float = 0.0


class Watch:
    """Which cells train where, by looking at the processes."""

    def __init__(self, marks: set[str]) -> None:
        self._marks = marks
        self._known: dict[int, float] = {}
        self.live: dict[int, Training] = {}

    def look(self) -> list[Training]:
        """Those that have ended since the last look."""
        now, there = time.time(), set(psutil.pids())
        ended = [self.live.pop(pid) for pid in list(self.live) if not _lives(pid)]
        for one in ended:
            one.end = now
        for pid in set(self._known) - there:
            del self._known[pid]
        for pid in there:
            # What was forked a moment ago is not yet what it will be.
            if self._known.get(pid, now) < now - 3:
                continue
            self._known.setdefault(pid, now)
            if pid not in self.live and (training := self._training(pid)):
                self.live[pid] = training
        return ended

    def _training(self, pid: int) -> Training | None:
        try:
            process = psutil.Process(pid)
            words = process.cmdline()
            if words[1:3] != ["-m", "skinml.run"]:
                return None
            mark = process.environ().get(MARK, "")
            if mark not in self._marks or process.status() == psutil.STATUS_ZOMBIE:
                return None
            [folder] = [w.partition("=")[2] for w in words if w.startswith("--output_dir=")]
            node = mark.rpartition(":")[2]
            return Training(Path(folder).name, node, pid, process.ppid(), process.create_time())
        except (psutil.Error, OSError, ValueError):
            return None


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
