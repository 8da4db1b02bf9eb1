"""A Ray cluster: a task a cell, which trains it in a process of its own and tells how far it is.

The task is a generator: what it yields reaches the driver while it runs. Ray starts none of them
again by itself: that is for the sweep, which looks first whether the cell is done. Both sides stand
in this one file, the driver's and the task's, as they agree on what is yielded.
"""

import logging
import math
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from skinml.base.errors import UserError
from skinml.sweep.cells import CellState
from skinml.sweep.engines.attempt import AttemptOutcome, Order, Progress, new_log
from skinml.sweep.engines.engine import show
from skinml.sweep.engines.node import (
    Missing,
    SweepSource,
    Unclaimed,
    carry_out,
    cores_here,
    make_ready,
)

# Seconds between two looks at a process, and that one has to end when it is asked to.
POLL, PATIENCE = 0.25, 15.0

# How long the driver waits for something that has been told, whose machine may be gone.
FETCH_LIMIT = 60.0

# How long a machine may take to answer at all.
CONNECT_LIMIT = 10.0

# How long the cluster's head may be away, and between two looks for it. After 60 s Ray ends the
# process that asks: a sweep could not even close its run.
HEAD_LIMIT, HEAD_LOOK = 20.0, 1.0

# Seconds between two looks at how much the cluster has: nodes come and go, but not that often.
ROOM_LOOK = 2.0

# The smallest share of a CPU or GPU that Ray knows.
SMALLEST = 1e-4

# Bytes of a file that are sent at a time.
PIECE = 64 * 2**20

# The driver's own settings that a training needs elsewhere too; where things lie is each machine's.
_PASSED_ON = ("MLFLOW_", "SKINML_", "AWS_")
_OWN = ("SKINML_CACHE_DIR", "SKINML_DATA_DIR", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME")

REMEDY = (
    "expected a running Ray cluster: start one with `ray start --head`, name one with --address or "
    "$RAY_ADDRESS (docs/cluster.md)"
)


@dataclass(frozen=True)
class _Sent:
    """Files for a machine that lacks them: the references of their pieces by what and name."""

    pieces: dict[tuple[str, str], list[Any]]

    def fetch(self, what: str, name: str) -> Iterator[bytes]:
        import ray

        if (what, name) not in self.pieces:
            raise Missing(what)
        for piece in self.pieces[what, name]:
            yield ray.get(piece)


def train_cell(
    order: Order, source: SweepSource, sent: _Sent
) -> Iterator[Progress | AttemptOutcome | Missing]:
    """Train a cell on this machine: yields how far it is, at last what came of it."""
    # Ray sets it to the task's share, which would be other sums than those of one machine.
    if "OMP_NUM_THREADS" not in order.variables:
        os.environ.pop("OMP_NUM_THREADS", None)
    try:
        order, shared = make_ready(order, source, sent.fetch)
    except Missing as missing:
        yield missing
        return
    except UserError as error:
        yield AttemptOutcome("failed", f"{platform.node()}: {error}"[:300])
        return
    with cores_here(order.config.threads) as cores:
        attempt = None
        told = Progress()
        try:
            attempt = carry_out(order, source, cores, shared)
            while True:
                look = replace(attempt.look(), host=platform.node())
                if not shared:
                    look = replace(look, log="", text=attempt.new_text())
                # The seconds alone are no news.
                if replace(look, seconds=0, left=None) != replace(told, seconds=0, left=None):
                    yield look
                    told = replace(look, text=b"")
                if attempt.outcome and not look.text:
                    yield attempt.outcome
                    return
                time.sleep(0 if look.text or attempt.has_ended else POLL)
        except Unclaimed as error:
            yield AttemptOutcome("lost", str(error))
        finally:
            if attempt and attempt.outcome is None:
                attempt.end(PATIENCE)


class Head:
    """The head of a cluster, at `address`, as the driver sees it: whether somebody listens there.

    Ray would ask for a minute in vain, and then end the process without an exception.
    """

    def __init__(self, address: str) -> None:
        self.is_away = self.is_lost = False
        """Not there by now; and for so long that nothing is asked of the cluster any more."""
        self._address = address
        self._looked = self._since = time.monotonic()

    def look(self) -> None:
        """See whether it answers, now and then; raises a `UserError` once, when it is lost."""
        now = time.monotonic()
        if self.is_lost or now - self._looked < HEAD_LOOK:
            return
        try:
            _connect_to(self._address, HEAD_LOOK)
            self.is_away = False
        except OSError as error:
            if not self.is_away:
                self.is_away, self._since = True, now
            if now - self._since > HEAD_LIMIT:
                self.is_lost = True
                raise UserError(
                    f"the head of the Ray cluster, {self._address}, has not answered for "
                    f"{HEAD_LIMIT:.0f} s ({error}); expected a running cluster: start it again, "
                    "then go on with the same command (what is done stays done)"
                ) from None
        finally:
            self._looked = time.monotonic()

    def wait(self) -> None:
        """Wait until it answers."""
        self.look()
        while self.is_away and not self.is_lost:
            time.sleep(HEAD_LOOK / 4)
            self.look()


class RayJob:
    """A cell that a cluster has taken."""

    def __init__(
        self, state: CellState, start: Callable[[], Any], send: Callable[[str], None], head: Head
    ) -> None:
        self.state = state
        self._head = head
        self._begin = start
        self._send = send
        self._outcome: AttemptOutcome | None = None
        self._stopped = False
        self._log = new_log(state.cell.folder)
        self._told = time.monotonic()
        self._task = start()
        state.queued = True

    def poll(self) -> AttemptOutcome | None:
        import ray

        if self._outcome is None:
            self._head.look()
            if self._head.is_lost:
                self._outcome = AttemptOutcome("lost", "the head of its cluster is gone")
        while self._outcome is None:
            # A task that is cancelled is called ready at once, and what comes next of it is then
            # waited for until it has ended: one that does not hear would never be killed.
            awaited = self._task.completed() if self._stopped else self._task
            ready, _ = ray.wait([awaited], timeout=0)
            if not ready:
                break
            try:
                item = ray.get(next(self._task), timeout=FETCH_LIMIT)
            except ray.exceptions.GetTimeoutError as error:
                ray.cancel(self._task)
                self._outcome = self._why(error)
            except StopIteration:
                self._outcome = AttemptOutcome("lost", "ended without a word")
            except Exception as error:
                self._outcome = self._why(error)
            else:
                self._take(item)
        return self._outcome

    def look(self) -> None:
        if self.state.begun or self.state.host:
            now = time.monotonic()
            passed, self._told = now - self._told, now
            self.state.seconds += passed
            if self.state.left is not None:
                self.state.left = max(0.0, self.state.left - passed)

    def stop(self) -> None:
        import ray

        self._stopped = True
        with suppress(Exception):
            ray.cancel(self._task)

    def kill(self) -> None:
        import ray

        self._stopped = True
        with suppress(Exception):
            ray.cancel(self._task, force=True)

    def _take(self, item: Progress | AttemptOutcome | Missing) -> None:
        if isinstance(item, AttemptOutcome):
            self._outcome = item
        elif isinstance(item, Missing):
            # What a machine lacks is put where all can get it, and the cell begins once more.
            if not self._stopped:
                self._send(str(item))
            # Asked again: to send takes a while, in which a signal may end all that there is.
            if self._stopped:
                self._outcome = AttemptOutcome("lost", "stopped")
            else:
                self._task = self._begin()
        else:
            show(self.state, item)
            self._told = time.monotonic()
            if item.text:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("ab") as log:
                    log.write(item.text)
                self.state.log = self._log

    def _why(self, error: Exception) -> AttemptOutcome:
        """What became of a task that ended with an error of Ray's."""
        from ray import exceptions

        if isinstance(error, exceptions.TaskCancelledError) or self._stopped:
            return AttemptOutcome("lost", "stopped")
        if isinstance(error, exceptions.RayTaskError):
            # A defect, with its traceback; but an interrupted task may end with whatever.
            return AttemptOutcome(
                "failed", f"{type(error).__name__}: {str(error).splitlines()[-1]}"[:300]
            )
        text = str(error).strip() or type(error).__name__
        return AttemptOutcome(
            "lost",
            {
                exceptions.NodeDiedError: "its node died",
                exceptions.WorkerCrashedError: "its worker died",
                exceptions.OutOfMemoryError: "its node had no memory left",
            }.get(type(error), text.splitlines()[0][:200]),
            counts=isinstance(error, exceptions.OutOfMemoryError),
        )


class RayEngine:
    """Cells on the Ray cluster at `address`, each with its share of CPUs and GPUs."""

    clustered = True

    def __init__(self, address: str = "", cpus: float = 1.0, gpus: float | None = None) -> None:
        ray = connect(address)
        there = ray.cluster_resources()
        self._cpus = cpus
        self._gpus = float(there.get("GPU", 0) > 0) if gpus is None else gpus
        self._check_room(there)
        self._head = Head(ray.get_runtime_context().gcs_address)
        self._room = 1
        self._looked = -math.inf
        self._pieces: dict[tuple[str, str], list[Any]] = {}
        # Without retries: the sweep sees what was lost.
        self._remote = ray.remote(num_cpus=cpus, max_retries=0)(train_cell)
        print(
            f"skinml: Ray cluster of {len([n for n in ray.nodes() if n['Alive']])} nodes, "
            f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs; a cell gets "
            f"{cpus:g} and {self._gpus:g} of them",
            file=sys.stderr,
        )

    def _check_room(self, there: dict[str, float]) -> None:
        import ray

        for name, value in (("cpus", self._cpus), ("gpus", self._gpus)):
            if not (value == 0 or SMALLEST <= value <= 1 or value == int(value)) or value < 0:
                raise UserError(
                    f"{name}={value:g}: expected a whole number, or a share from {SMALLEST:g} to 1"
                )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = any(
            node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in nodes
        )
        if not fits:
            raise UserError(
                f"cpus={self._cpus:g}, gpus={self._gpus:g}: no node of the cluster has as many for "
                f"one cell (all of them together: {there.get('CPU', 0):g} and "
                f"{there.get('GPU', 0):g}); expected fewer, or a larger node"
            )

    def at_once(self, jobs: int | None) -> int:
        """As many as have room, and some that wait for it: nodes come and go."""
        import ray

        self._head.look()
        if not self._head.is_away and time.monotonic() - self._looked > ROOM_LOOK:
            self._looked = time.monotonic()
            there = ray.cluster_resources()
            rooms = [there.get("CPU", 0) / self._cpus] if self._cpus else []
            rooms += [there.get("GPU", 0) / self._gpus] if self._gpus else []
            self._room = int(min(rooms, default=1)) + 2
        return min(self._room, jobs) if jobs else self._room

    def start(self, state: CellState, order: Order, source: SweepSource | None) -> RayJob:
        import ray

        assert source is not None
        gpus = self._gpus if order.config.device != "cpu" else 0.0
        task = self._remote.options(num_gpus=gpus, name=order.name)
        order = replace(order, variables=_passed_on() | order.variables)
        self._head.wait()
        there = ray.put(source)
        return RayJob(
            state,
            lambda: task.remote(order, there, _Sent(self._pieces)),
            lambda what: self._send(source, what),
            self._head,
        )

    def _send(self, source: SweepSource, what: str) -> None:
        """Put files where every machine of the cluster can get them, once."""
        import ray

        for path in source.paths(what):
            if (what, path.name) not in self._pieces:
                with path.open("rb") as file:
                    self._pieces[what, path.name] = [
                        ray.put(piece) for piece in iter(lambda: file.read(PIECE), b"")
                    ]

    def close(self) -> None:
        import ray

        ray.shutdown()


def connect(address: str) -> Any:
    """Join a running Ray cluster; returns the module. None is started: that is a `UserError`."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine=ray: the package ray is not installed; expected the extra: "
            "pip install 'skinml[ray]'"
        ) from None
    address = address or os.environ.get("RAY_ADDRESS", "") or "auto"
    if address.startswith("ray://"):
        raise UserError(
            f"address={address!r}: a Ray Client cannot follow what its tasks tell; expected the "
            "address of the cluster itself (host:6379) on a machine that has joined it"
        )
    if address != "auto":
        _check_that_somebody_listens(address)
    # What dies, the sweep tells in a line of its own; Ray would print paragraphs to stdout as well,
    # and has no setting for it: this is how its debugger silences it.
    ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(
            address=address,
            namespace="skinml",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"address={address!r}: {said}; {REMEDY}") from None
    return ray


def _check_that_somebody_listens(address: str) -> None:
    """Ray would wait for minutes where nobody answers, and start a cluster for `local`."""
    try:
        _connect_to(address, CONNECT_LIMIT)
    except (OSError, ValueError, OverflowError) as error:
        said = "not host:port" if isinstance(error, ValueError) else f"nobody answers ({error})"
        raise UserError(f"address={address!r}: {said}; {REMEDY}") from None


def _connect_to(address: str, limit: float) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), limit).close()


def _passed_on() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and name not in _OWN
    }
