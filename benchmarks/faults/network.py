"""Part 3: a server that is away, that answers badly or slowly, a network that is cut."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.kept import compare_kept
from benchmarks.faults.processes import environment, make_folder, run_sync
from benchmarks.faults.servers import URI, as_client, sqlite_server
from skinml.tracking.folder import RunFolder
from tests.tracking.proxy import Proxy, faulty

# Of a run: about ten seconds.
EPOCHS = 60

# What the proxy does, from which part of the time between first and last step until which; until
# 1 + S: until S seconds after the last step; never ending: the rest is sent by `skinml.sync`.
NEVER = 1e9
OUTAGES = {
    "stopped for the whole run": ("refuse", 0.0, NEVER),
    "stopped for its start": ("refuse", 0.0, 0.4),
    "stopped for its end": ("refuse", 0.6, 4.0),
    "answering 500": ("500", 0.1, 0.9),
    "answering 429": ("429", 0.1, 0.9),
    "answering half": ("half", 0.1, 0.9),
    "answering a second late": ("slow", 0.1, 0.9),
    "the network cut": ("hang", 0.1, 0.9),
}


class Trainer:
    """The process of `benchmarks.faults.trainer`, behind a proxy."""

    def __init__(self, proxy: Proxy, log: Path) -> None:
        self._proxy = proxy
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.trainer", str(EPOCHS)],
                env=environment(MLFLOW_TRACKING_URI=proxy.address, MLFLOW_HTTP_REQUEST_TIMEOUT="5"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._log = log
        self.expected = 0.0

    def run(self, folder: RunFolder, outage: str = "") -> tuple[float, float, int]:
        """One run: (seconds from its first step to its last, those for tracking, records left)."""
        mode, begin, end = OUTAGES.get(outage, ("pass", 0.0, NEVER))
        if begin == 0:
            self._proxy.mode = mode
        assert self._process.stdin
        self._process.stdin.write(f"{folder.path} {1 if end == NEVER and outage else 90}\n")
        self._process.stdin.flush()
        self._line("first")
        if begin > 0:
            self._later(begin * self.expected, mode)
        if end < 1:
            self._later(end * self.expected, "pass")
        seconds, waited = map(float, self._line("last").split())
        if 1 < end < NEVER:
            self._later(end - 1, "pass")
        left = int(self._line("end"))
        self._proxy.mode = "pass"
        return seconds, waited, left

    def _later(self, seconds: float, mode: str) -> None:
        def change() -> None:
            self._proxy.mode = mode

        threading.Timer(seconds, change).start()

    def _line(self, word: str) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.startswith(word):
            raise RuntimeError(f"{line!r} instead of {word!r}: {self._log.read_text()[-500:]}")
        return line[len(word) :].strip()

    def close(self) -> None:
        with self._process:  # Closes its pipes, whose end ends it, and waits.
            pass


@contextmanager
def cut_network(scratch: Path) -> Iterator[Run]:
    """Cases of two runs, one of them with an outage: in every other case the first of the two."""
    from mlflow import MlflowClient

    with (
        sqlite_server(scratch / "server") as server,
        faulty(server.address) as proxy,
        as_client(MLFLOW_TRACKING_URI=server.address),
    ):
        trainer = Trainer(proxy, scratch / "trainer.log")
        client = MlflowClient(server.address)

        def one(case: Case, outage: str, outcome: Outcome) -> tuple[float, float]:
            folder = make_folder(
                case.folder / (outage.replace(" ", "-") or "undisturbed"), case.chance
            )
            seconds, waited, left = trainer.run(folder, outage)
            if outage and OUTAGES[outage][2] == NEVER:
                if not left:
                    outcome.problems.append("all was sent though the server was away")
                run_sync(folder, **{URI: server.address}).check_returncode()
            elif left:
                outcome.problems.append(f"{left} records left at the end")
            outcome.add(compare_kept(client, folder))
            return seconds, waited

        def run(case: Case) -> Outcome:
            outcome = Outcome()
            if not trainer.expected:  # Imports and traces, once.
                first = Case(-1, case.folder / "first", case.chance)
                trainer.expected, _ = one(first, "", outcome)
            outage = list(OUTAGES)[case.number % len(OUTAGES)]
            turns = ["", outage] if case.number // len(OUTAGES) % 2 == 0 else [outage, ""]
            times = {turn: one(case, turn, outcome) for turn in turns}
            undisturbed, disturbed = times[""], times[outage]
            trainer.expected = undisturbed[0]
            outcome.fault(f"server {outage}" if "network" not in outage else outage)
            outcome.details = {
                "outage": outage,
                "undisturbed": undisturbed[0],
                "disturbed": disturbed[0],
                "ratio": round(disturbed[0] / undisturbed[0], 4),
                "waited": [
                    round(waited / seconds, 5) for seconds, waited in (undisturbed, disturbed)
                ],
            }
            return outcome

        try:
            yield run
        finally:
            trainer.close()
