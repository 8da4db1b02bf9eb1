"""This machine: a process a cell, each with a GPU of its own where there are several."""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence

from skinml.base.processes import cores_of, usable_cores
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.attempt import Attempt, AttemptOutcome, Order
from skinml.sweep.engines.engine import show
from skinml.sweep.engines.node import SweepSource


class LocalJob:
    """A cell that trains here."""

    def __init__(self, state: CellState, attempt: Attempt, release: Callable[[], None]) -> None:
        self.state = state
        self._attempt = attempt
        self._release = release
        self.look()

    def poll(self) -> AttemptOutcome | None:
        if self._attempt.has_ended and self._attempt.outcome is None:
            self.look()
        if self._attempt.outcome:
            self._release()
        return self._attempt.outcome

    def look(self) -> None:
        show(self.state, self._attempt.look())

    def stop(self) -> None:
        self._attempt.ask_to_end()

    def kill(self) -> None:
        self._attempt.kill()


class LocalEngine:
    """`jobs` cells at a time on this machine, one on each of the GPUs `gpus` where there are."""

    clustered = False

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self._gpus = gpus
        self._taken: set[int] = set()

    def at_once(self, jobs: int | None) -> int:
        return jobs or 1

    def start(self, state: CellState, order: Order, source: SweepSource | None = None) -> LocalJob:
        slot = next(slot for slot in itertools.count() if slot not in self._taken)
        variables = {}
        if len(self._gpus) > 1 and order.config.device != "cpu":
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        attempt = Attempt(order, cores_of(slot, order.config.threads), variables)
        self._taken.add(slot)
        return LocalJob(state, attempt, lambda: self._taken.discard(slot))

    def close(self) -> None:
        """Nothing is held."""


def nvidia_gpus() -> int:
    """How many GPUs NVIDIA's driver names; 0 without a driver. No framework is loaded for it."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # No driver, no library, no package: each has an error of its own.
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(variables: Mapping[str, str], count: Callable[[], int] = nvidia_gpus) -> list[str]:
    """The GPUs that a process with these environment variables sees, as CUDA names them."""
    there = [str(index) for index in range(count())]
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not there:
        return there
    # CUDA stops reading at the first name that is none.
    return list(
        itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(",")))
    )


def warn_of_sharing(cells: Sequence[Cell], jobs: int, gpus: Sequence[str]) -> None:
    """Say on stderr where cells at a time share GPUs or cores."""
    at_once = min(jobs, len(cells))
    if at_once == 1 or (gpus and cells[0].config.device != "cpu"):
        if gpus and at_once > len(gpus):
            print(f"skinml: warning: {at_once} jobs share {len(gpus)} GPUs", file=sys.stderr)
        return
    cores = usable_cores()
    threads = max(cell.config.threads for cell in cells) or cores
    if at_once * threads > cores:
        print(
            f"skinml: warning: {at_once} jobs of {threads} threads share {cores} cores; "
            f"--threads {max(1, cores // at_once)} gives each its own, as another configuration: "
            "results repeat to the last bit only at one number of threads",
            file=sys.stderr,
        )
