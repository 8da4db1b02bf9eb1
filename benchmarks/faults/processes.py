"""Processes of the campaign: their surroundings, and folders for the runs that they make."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import LOG, STATE, Description, RunFolder

if TYPE_CHECKING:
    import psutil

ROOT = Path(__file__).parents[2]

# Seconds after which something is taken to hang; what passes waits for none of them.
HANGS = 600.0


def environment(**variables: str) -> dict[str, str]:
    """The variables of a child: this repository's code, and nobody's MLflow but the given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # In the client of 3.17.2 its threads trip over each other.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        **variables,
    }


def make_folder(path: Path, chance: random.Random) -> RunFolder:
    """The folder of a run that begins: with the files of its end, but for the epochs."""
    from PIL import Image

    (path / "figures").mkdir(parents=True)
    folder = RunFolder(path.resolve())
    params = {f"param_{n}": chance.randbytes(chance.randrange(1, 20)).hex() for n in range(60)}
    tags = {"kind": "training", "data": "isic2017", "split": "challenge", "model": "mobilenetv2"}
    dataset = {"name": "isic2017", "digest": "0" * 16, "source": "prepared", "counts": {}}
    folder.write_description(Description("mobilenetv2-16-seed0", params, tags, dataset))
    for name in ("confusion_matrix", "roc_curves"):
        noise = Image.frombytes("RGB", (40, 30), chance.randbytes(40 * 30 * 3))
        noise.save(folder.figures / f"{name}.png")
        (folder.figures / f"{name}.pdf").write_bytes(b"%PDF-1.4" + chance.randbytes(2000))
    for part in ("validation", "test"):
        folder.predictions(part).write_text(f"image_id,label\n{chance.random()},nevus\n")
    folder.write_text("classification_report.txt", f"{chance.random()}\n")
    folder.write_text("model_summary.txt", f"┌── {chance.random()}\n")
    folder.write_text("note.md", f"**mobilenetv2**, {chance.random()}\n")
    folder.write_metrics(
        {f"test_{n}": chance.random() for n in range(80)} | {"test_auc": float("nan")}
    )
    return folder


class RunWriter:
    """A process of `benchmarks.faults.run_writer`, and what it says."""

    def __init__(
        self,
        folder: RunFolder,
        *options: str,
        uri: str = "",
        log: Path | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        """`uri` is its server, `log` by default beside its folder, `variables` further ones."""
        self.folder = folder
        self.log = log or folder.path.with_suffix(".writer.log")
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.run_writer", str(folder.path), *options],
                env=environment(
                    MLFLOW_TRACKING_URI=uri,
                    MLFLOW_HTTP_REQUEST_TIMEOUT="5",
                    **(variables or {}),
                ),
                stdout=file,
                stderr=file,
            )

    def begins(self) -> None:
        wait_until(lambda: "begins" in self.text(), "a writer begins")

    def text(self) -> str:
        return self.log.read_text()

    def said(self) -> str:
        """The end of what it, and its forwarder, said to a person."""
        lines = [line for line in self.text().splitlines() if not line.isdecimal()]
        log = self.folder.path / LOG
        lines += log.read_text().splitlines()[-5:] if log.exists() else []
        return " | ".join(lines)[-600:]

    def told(self) -> int:
        """The last epoch that it told to be on the disk."""
        return max((int(line) for line in self.text().splitlines() if line.isdecimal()), default=0)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(HANGS)

    def end(self) -> int:
        """Have it note its results and end; its exit code."""
        (self.folder.path / "go").touch()
        return self.wait()

    def kill(self) -> None:
        """End it and its forwarder, whatever they do."""
        self.process.kill()
        self.process.wait()
        for forwarder in forwarders(self.folder):
            forwarder.kill()


def forwarders(folder: RunFolder) -> "list[psutil.Process]":
    """The forwarders of a run's folder that live."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "skinml.store.forwarder" in words and str(folder.path) in words:
            found.append(process)
    return found


def start_forwarder(folder: RunFolder, uri: str) -> "subprocess.Popen[bytes]":
    """A forwarder, as a run starts one."""
    with (folder.path / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "skinml.store.forwarder", str(folder.path)],
            env=environment(MLFLOW_TRACKING_URI=uri),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def run_sync(folder: RunFolder, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`python -m skinml.sync` of a folder, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "skinml.sync", str(folder.path)],
        env=environment(**variables),
        capture_output=True,
        text=True,
    )


def acknowledged(folder: RunFolder) -> int:
    """The number of the last record that a server has acknowledged."""
    return Acknowledged.load(folder.path / STATE).sequence


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; a `TimeoutError` that names it where it does not come."""
    deadline = time.monotonic() + HANGS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {HANGS:.0f} s: {what}")
        time.sleep(0.05)
