"""How soon a serving model is ready, how fast it answers, and in how much memory.

    python -m benchmarks.serving NEW_URI OLD_URI PICTURE [--repeats 3] [--json] [--out FOLDER]

`mlflow models serve` of two serving models in turn, such as one with an exported file and one with
the Keras model: seconds until it is healthy, the first and the second request, and the memory of
all its processes after them. Targets: ready four times sooner, a quarter of the memory. With them
takes its turn a model that does nothing at all: what is left of MLflow, whatever it serves.

Where other work slows the machine, the processor time until ready says more than the clock. Memory
is the sum over the processes of `mlflow models serve`, the command itself and its server, of
what each shares with others in equal parts (PSS on Linux, else RSS, which counts that twice).
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import (
    in_turn,
    parser,
    ratio,
    report,
    shown,
    spread,
    surroundings,
    table,
    verdict,
)
from skinml.base.processes import free_port

READY, CPU = "ready, s", "processor until ready, s"
FIRST, SECOND, MEMORY = "first request, ms", "second request, ms", "memory, MB"
TARGET = 4.0
PATIENCE = 600.0

# Logged as code, as the serving model is.
_NOTHING = """
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

class Nothing(PythonModel):
    def predict(self, context, model_input, params=None):
        return [0] * len(model_input)

set_model(Nothing())
"""


def main() -> None:
    made = parser(__doc__, repeats=3)
    made.add_argument("new", help="URI of a serving model")
    made.add_argument("old", help="URI of the one that it is compared with")
    made.add_argument("picture", type=Path, help="what both are asked about")
    options = made.parse_args()
    around = surroundings()
    body = request(options.picture)
    sides = ("new", "old", "nothing")
    found: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        uris = {"new": options.new, "old": options.old, "nothing": nothing(Path(folder))}

        def serve(side: str) -> float:
            for name, value in measure(uris[side], body).items():
                found[side][name].append(value)
            return found[side][READY][-1]

        in_turn("serving", {side: partial(serve, side) for side in sides}, options.repeats)
    rows = []
    ratios: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for name in (READY, CPU, FIRST, SECOND, MEMORY):
        for side in ("new", "nothing"):
            ratios[side][name] = ratio(found["old"][name], found[side][name])
        met = verdict(ratios["new"][name]["median"] >= TARGET) if name in (READY, MEMORY) else ""
        taken = [shown(spread(found[side][name]), 1) for side in sides]
        of_old = [shown(ratios[side][name], 1) for side in ("new", "nothing")]
        rows.append([name, *taken, *of_old, met])
    heading = ["", *sides, "old / new", "old / nothing", f"target {TARGET:g}"]
    report(options, {**around, "measured": found, "ratios": ratios}, table(heading, rows))


def nothing(folder: Path) -> str:
    """A model that does nothing, and the folder of it."""
    import mlflow.pyfunc

    code, model = folder / "nothing.py", folder / "model"
    code.write_text(_NOTHING)
    mlflow.pyfunc.save_model(str(model), python_model=str(code), pip_requirements=[])
    return str(model)


def measure(uri: str, body: bytes) -> dict[str, float]:
    """One server, from its start to its end."""
    with served(uri) as server:
        first, second = ask(server.port, body)[1], ask(server.port, body)[1]
        memory = sum(map(memory_of, server.processes())) / 2**20
    return {READY: server.ready, CPU: server.cpu, FIRST: first, SECOND: second, MEMORY: memory}


class Server(NamedTuple):
    """A server that answers: its process, its port, and the seconds until it did.

    `cpu` are those in which a processor worked for it.
    """

    pid: int
    port: int
    ready: float
    cpu: float

    def processes(self) -> list[Any]:
        return family(self.pid)


def family(pid: int) -> list[Any]:
    """A process and all below it."""
    import psutil

    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


@contextmanager
def served(uri: str) -> Iterator[Server]:
    """`mlflow models serve` of a model, from its first answer to its end."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PATH": path}
        )
        try:
            while not healthy(port):
                if server.poll() is not None or time.perf_counter() - started > PATIENCE:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace")[-2000:])
                time.sleep(0.02)
            ready = time.perf_counter() - started
            taken = [process.cpu_times() for process in family(server.pid)]
            cpu = sum(times.user + times.system for times in taken)
            yield Server(server.pid, port, ready, cpu)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def memory_of(process: Any) -> int:
    """Bytes that a process holds, and its part of those that it shares."""
    found = process.memory_full_info()
    return int(getattr(found, "pss", found.rss))


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=60) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def request(picture: Path) -> bytes:
    """The body of a request about one picture."""
    image = base64.b64encode(picture.read_bytes()).decode()
    return json.dumps({"dataframe_records": [{"image": image}]}).encode()


def ask(port: int, body: bytes) -> tuple[Any, float]:
    """What a server answers, and the milliseconds that it takes."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
        content = response.read()
    return json.loads(content), 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
