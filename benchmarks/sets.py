"""Every command on a folder of one's own and on each built-in layout, from pictures to answers.

    python -m benchmarks.sets [--out FOLDER]

Generated pictures: a table of four classes of one's own with groups (lesions), then a small set in
each layout of docs/data.md. Each step is the command that a person types, in a process of its own,
with a real network (MobileNetV3Small from random weights, so its figures say nothing): trained,
killed with SIGKILL after its first epoch, and resumed; a sweep of two cells, of which that run is
one; compared; listed; asked; served, and asked over HTTP. One's own are looked at first, and the
model is tested on pictures from elsewhere. A step fails if its exit code is not 0 or if what it
says lacks what is expected.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import parser, report, surroundings, table

CLASSES = ("Basaliom, groß", "melanoma", 'nævus "rare"', "νεύρωμα")

# What makes a training of a minute of it.
FAST = [
    *("--weights", "none", "--dense_units", "16,8,8", "--device", "cpu", "--epochs_frozen", "0"),
]
PARTS = ["--test_fraction", "0.25", "--validation_fraction", "0.3"]
# Of a small set in a published layout, which has three lesions of each class: one for each part.
THIRDS = ["--test_fraction", "0.34", "--validation_fraction", "0.5"]
NETWORK = "mobilenetv3small"
# Of a step, on a machine that does other things too.
PATIENCE = 900


class Failed(Exception):
    """A step did not do what it should."""


def run(place: Path, arguments: list[str], *expected: str, environment: Mapping[str, str]) -> str:
    """A module of skinml with arguments; what it said, which must hold `expected`."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=place, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
    )  # fmt: skip
    lacking = [text for text in expected if text not in done.stdout]
    if done.returncode or lacking:
        raise Failed(f"exit code {done.returncode}, lacks {lacking}: {done.stdout[-2000:]}")
    return done.stdout


def epochs_of(place: Path) -> int:
    """How many epochs the runs of a folder have noted."""
    return sum(
        len(path.read_text().splitlines()) - 1 for path in (place / "runs").glob("*/history.csv")
    )


def killed(place: Path, arguments: list[str], environment: Mapping[str, str]) -> str:
    """A training that is killed with SIGKILL after its first epoch; its folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=place, env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    patience = time.monotonic() + PATIENCE
    while epochs_of(place) < 1:
        if process.poll() is not None or time.monotonic() > patience:
            process.kill()
            raise Failed(f"no epoch before it ended with {process.returncode}")
        time.sleep(0.05)
    process.kill()
    process.wait()
    [folder] = (place / "runs").iterdir()
    if (folder / "FINISHED").exists():
        raise Failed("it was finished before it was killed")
    return str(folder)


def served(place: Path, model: str, picture: Path, environment: Mapping[str, str]) -> str:
    """MLflow's own server of a model, asked for one picture over HTTP; what it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager"]
    command += ["local", "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        command, cwd=place, env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    image = base64.b64encode(picture.read_bytes()).decode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": [{"image": image}]}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        patience = time.monotonic() + PATIENCE
        while time.monotonic() < patience and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(asked, timeout=120) as answer:
                return str(answer.read().decode())
            time.sleep(1)
        raise Failed(f"no answer from {model}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()


def steps_of(
    place: Path,
    environment: Mapping[str, str],
    data: list[str],
    name: str,
    classes: Sequence[str],
    picture: Path,
) -> dict[str, Callable[[], Any]]:
    """From a training to an answer over HTTP: what every set goes through, in this order.

    `data` are the parameters that name the set and its parts, `name` is what its runs and models
    are called by, `picture` one that is asked about.
    """
    place.mkdir(exist_ok=True)
    folder = [""]
    one = f"skinml-{name}-{NETWORK}"
    training = [*data, "--model", NETWORK, "--batch_size", "8", "--epochs_finetune", "2", *FAST]
    cells = ["--models", NETWORK, "--batch_sizes", "8,16", "--epochs_finetune", "2", *FAST]

    def do(*arguments: str, expected: tuple[str, ...] = ()) -> str:
        return run(place, list(arguments), *expected, environment=environment)

    def kill() -> None:
        folder[0] = killed(place, ["skinml.run", *training], environment)

    def answered(told: str) -> None:
        [answer] = json.loads(told[told.index("{") :])["predictions"]
        if set(classes) - answer.keys():
            raise Failed(f"the answer lacks classes: {answer}")

    def ask() -> None:
        answered(do("skinml.predict", f"models:/{one}@champion", str(picture), "--format", "json"))

    return {
        "run, killed after an epoch": kill,
        "run --resume": lambda: do("skinml.run", "--resume", folder[0]),
        "sweep of two cells": lambda: do("skinml.sweep", *data, *cells),
        "compare": lambda: do(
            "skinml.compare", "--experiment", f"skinml-{name}", expected=(NETWORK,)
        ),
        "registry list": lambda: do("skinml.registry", "list", expected=(one, "champion")),
        "predict": ask,
        "serve over HTTP": lambda: answered(
            served(place, f"models:/{one}-serving@champion", picture, environment)
        ),
    }


def own_steps(place: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], Any]]:
    """The commands of docs/data.md on a table of one's own."""
    from tests.run.test_own import write_pictures

    clinic = write_pictures(place / "clinic", CLASSES, 20)
    elsewhere = write_pictures(place / "elsewhere", (*CLASSES[:2], "wart"), 6, seed=1)
    picture = clinic.parent / "new" / "0-0.jpg"
    name, data = "own-pictures", ["--data", str(clinic)]
    model = f"models:/skinml-{name}-{NETWORK}@champion"

    def do(*arguments: str, expected: tuple[str, ...]) -> str:
        return run(place, list(arguments), *expected, environment=environment)

    return {
        "prepare --dry-run": lambda: do(
            "skinml.data.prepare", *data, "--dry-run",
            expected=("80 pictures of 4 classes", "40 groups of up to 2 pictures"),
        ),
        **steps_of(place / name, environment, [*data, *PARTS], name, CLASSES, picture),
        "evaluate on other pictures": lambda: do(
            "skinml.evaluate", model, "--data", str(elsewhere),
            expected=("12 images", "6 wart", "logged as run"),
        ),
    }  # fmt: skip


def layout_steps(place: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], Any]]:
    """The same on a small set in each layout of other publishers."""
    from skinml.data.datasets import DATASETS
    from tests.data.test_archive_sets import LAYOUTS, picture

    asked = place / "asked.jpg"
    asked.write_bytes(picture(0))
    steps: dict[str, Callable[[], Any]] = {}
    for number, (layout, (name, make)) in enumerate(LAYOUTS.items()):
        make(place / f"files-{number}")
        data = ["--data", name, "--data_dir", str(place / f"files-{number}"), *THIRDS]
        # Each layout of a set is a place of its own: what one of them left would be found.
        own = {
            **environment,
            "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow-{number}.db",
            "SKINML_CACHE_DIR": str(place / f"cache-{number}"),
        }
        classes = DATASETS[name].classes
        found = steps_of(place / f"layout-{number}", own, data, name, classes, asked)
        steps |= {f"{layout}: {step}": call for step, call in found.items()}
    return steps


def main() -> None:
    options_parser = parser(__doc__, repeats=1)
    options_parser.add_argument("--only", choices=("own", "layouts"), help="one half of it")
    options = options_parser.parse_args()
    around, rows, failed = surroundings(), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        environment = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
            "SKINML_CACHE_DIR": str(place / "cache"),
            "MLFLOW_ARTIFACT_ROOT": str(place / "artifacts"),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # Where MLflow's server finds uvicorn.
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }
        steps: dict[str, Callable[[], Any]] = {}
        if options.only != "layouts":
            steps |= own_steps(place, environment)
        if options.only != "own":
            steps |= layout_steps(place, environment)
        for name, step in steps.items():
            started = time.monotonic()
            try:
                step()
                outcome = "done"
            except (Failed, subprocess.TimeoutExpired, ValueError) as error:
                outcome, failed = "FAILED", failed + 1
                print(f"{name}: {error}", file=sys.stderr)
            rows.append([name, outcome, f"{time.monotonic() - started:.0f}"])
            print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    text = table(["step", "", "seconds"], rows)
    report(options, {**around, "steps": rows}, text)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
