"""A sweep on a Ray cluster that is killed all the time, beside one that is not.

    python -m benchmarks.cluster [--seed N] [--kill-every S] [--unshared] [--out FOLDER]

First the cells are trained one after the other, then the same cells on a cluster of three nodes
whose trainings, workers and nodes are killed at random, and its driver twice; then some of them
under a SLURM of one node, which preempts, requeues and kills their jobs; then a few through
submitit's local and debug executors, each interrupted once. In the end every cell has to
have finished once, with the sequential sweep's results to the last bit. Stopped or killed, the same
command goes on. As root each node has a network, processes and a host name of its own.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cluster.campaign import Campaign, interrupt_once, python
from benchmarks.cluster.figures import draw_timeline
from benchmarks.cluster.judging import Kept, Verdict, costs, judge, read_store
from benchmarks.cluster.nodes import (
    ADDRESS,
    INSIDE,
    MARK,
    Cluster,
    enter_network,
    kill_all,
    make_network,
    namespaces_work,
    own_environment,
)
from benchmarks.cluster.slurm import SlurmCampaign, SlurmMachine
from benchmarks.cluster.slurm_site import missing, slurm_site
from benchmarks.harness import report, spread, surroundings, table, verdict
from skinml.base.errors import UserError, run_command
from skinml.base.processes import free_port

# Of the demo set's three parts; its own 336 images would take an hour more.
IMAGES = {"train": 60, "validation": 18, "test": 24}

# The cells that go through submitit: so many of the first ones.
SUBMITTED = 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--seed", type=int, default=0, help="of the kills (default: %(default)s)")
    made.add_argument("--kill-every", type=float, default=10.0, metavar="S",
                      help="seconds between kills, on average (default: %(default)s)")  # fmt: skip
    made.add_argument("--unshared", action="store_true",
                      help="two nodes do not see the driver's storage (needs root)")  # fmt: skip
    made.add_argument("--models", default="mobilenetv3small")
    made.add_argument("--batch_sizes", default="16,32,64")
    made.add_argument("--seeds", default="0,1,2")
    made.add_argument("--split_seeds", default="0,1,2")
    made.add_argument("--epochs", type=int, default=6, help="(default: %(default)s)")
    made.add_argument("--limit", type=float, default=90.0,
                      help="minutes for the cluster's part (default: %(default)s)")  # fmt: skip
    made.add_argument("--only", default="sequential,ray,slurm,submitit", metavar="PART,…",
                      help="(default: %(default)s)")  # fmt: skip
    made.add_argument("--plain", action="store_true",
                      help="nodes are processes on loopback alone, even as root")  # fmt: skip
    made.add_argument("--work", type=Path, help="folder for all that is trained (default: one in "
                      "the system's temporary folder); removed once all of it holds")  # fmt: skip
    made.add_argument("--keep", action="store_true", help="do not remove it")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    made.add_argument("--out", type=Path, help="folder that receives result.json and the plot")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    apart = not options.plain and namespaces_work()
    if options.unshared and not apart:
        raise UserError("--unshared: needs namespaces, that is Linux and root; run it as root")
    if apart and INSIDE not in os.environ:
        enter_network(["benchmarks.cluster", *(sys.argv[1:] if argv is None else argv)])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    name = f"skinml-cluster-{options.seed}" + ("-unshared" if options.unshared else "")
    work = (options.work or Path(tempfile.gettempdir()) / name).absolute()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    if apart:
        make_network()
    proof = Proof(options, work, apart)
    around = _surroundings()
    result = proof.run()
    result = {"surroundings": around, "options": _shown_options(options), **result}
    holds = all(part["holds"] for part in result["parts"].values())
    result["holds"] = holds
    events = result.pop("events")
    draw = None
    if any(event["event"] == "attempt" for event in events):
        what = "one of the nodes" if options.unshared else "all nodes"
        title = (
            f"{result['parts']['ray']['cells']} cells on three nodes, killed at random; "
            f"{what} see{'s' if options.unshared else ''} the driver's storage"
        )
        draw = lambda path: draw_timeline(path, events, title)  # noqa: E731
    report(options, result, text_of(result), draw)
    if holds and not options.keep:
        shutil.rmtree(work, ignore_errors=True)
    else:
        print(f"cluster: all of it is kept in {work}", file=sys.stderr)
    return 0 if holds else 1


class Proof:
    """The parts, each in a folder below `work`."""

    def __init__(self, options: argparse.Namespace, work: Path, apart: bool) -> None:
        self.options = options
        self.work = work
        self.apart = apart
        self.grid = {
            "models": options.models,
            "batch_sizes": options.batch_sizes,
            "seeds": options.seeds,
            "split_seeds": options.split_seeds,
        }
        # What only the driver's machine has.
        self.driver = work / "driver"
        self.driver.mkdir(exist_ok=True)

    @property
    def cells(self) -> int:
        return self._count(self.grid)

    @staticmethod
    def _count(grid: dict[str, str]) -> int:
        return math.prod(len(values.split(",")) for values in grid.values())

    def run(self) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        events: list[dict[str, Any]] = []
        self._data()
        if "sequential" in self.options.only:
            parts["sequential"] = self._once("sequential", self._sequential)
        if "ray" in self.options.only:
            parts["ray"], events = self._ray()
        if "slurm" in self.options.only:
            if absent := missing():
                raise UserError(f"--only: {absent}; or leave slurm out")
            parts["slurm"] = self._once("slurm", self._slurm)
        if "submitit" in self.options.only:
            for executor in ("local", "debug"):
                parts[f"submitit {executor}"] = self._submitit(executor)
        return {"parts": parts, "events": events}

    def _once(self, name: str, part: Any) -> dict[str, Any]:
        """What a part told when it was done, by an earlier start perhaps."""
        kept = self.work / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(part()))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def _data(self) -> None:
        from skinml.data import demo

        if not (self.driver / "data").exists():
            demo.generate(self.driver / "data", counts=IMAGES)

    def command(self, *more: str, **grid: str) -> list[str]:
        """That of a sweep, but for its engine."""
        options = {**self.grid, **grid, "data": "demo", "data_dir": str(self.driver / "data")}
        options |= {"weights": "none", "epochs_finetune": str(self.options.epochs)}
        options |= {"threads": "1", "device": "cpu"}
        words = [f"--{name}={value}" for name, value in options.items()]
        return python("-m", "skinml.sweep", *words, *more)

    def variables(self, **more: str) -> dict[str, str]:
        return {**own_environment(), "SKINML_CACHE_DIR": str(self.driver / "cache"), **more}

    # One after the other

    def _sequential(self) -> dict[str, Any]:
        folder = self.work / "sequential"
        folder.mkdir(exist_ok=True)
        _say(f"{self.cells} cells one after the other")
        begun = time.time()
        with (folder / "sweep.log").open("ab") as log:
            code = subprocess.run(
                self.command("--engine=local", "--jobs=1"),
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
                env=self.variables(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"),
            ).returncode  # fmt: skip
        if code:
            raise UserError(f"the sequential sweep ended with {code}: see {folder}/sweep.log")
        runs = read_store(folder / "mlflow.db")
        judged = judge(runs, runs)
        if not judged.holds or judged.cells != self.cells:
            raise UserError(f"the sequential sweep is no reference: {judged}"[:500])
        return {"seconds": time.time() - begun, "cells": self.cells, "holds": True}

    def _verdict(self, runs: list[Kept], cells: int) -> Verdict:
        """The runs of so many of the cells, beside those of the sequential sweep."""
        reference = read_store(self.work / "sequential" / "mlflow.db")
        if cells < self.cells:
            digests = {run.digest for run in runs}
            reference = [run for run in reference if run.digest in digests]
        return judge(reference, runs)

    # On a cluster

    def _ray(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        options = self.options
        hidden = [self.driver] if options.unshared else []
        cluster = Cluster(self.work, self.apart, hidden)
        database = self.work / "server" / "mlflow.db"
        host = ADDRESS.format(1) if self.apart else "127.0.0.1"
        command = self.command("--engine=ray", f"--address={cluster.address}",
                               f"--output_dir={self.driver}/runs")  # fmt: skip
        variables = {"SKINML_CACHE_DIR": str(self.driver / "cache")}
        campaign = Campaign(
            cluster, command, variables, database, self.cells, options.epochs, options.kill_every,
            random.Random(options.seed), _say,
        )  # fmt: skip
        code = 0
        if not campaign.is_over:
            try:
                with mlflow_server(self.work / "server", host) as uri:
                    variables["MLFLOW_TRACKING_URI"] = uri
                    cluster.start()
                    _say(
                        f"{self.cells} cells on three nodes, killed every {options.kill_every:g} s"
                    )
                    try:
                        code = campaign.run(options.limit * 60)
                    finally:
                        campaign.end()
            finally:
                cluster.stop()
        artifacts = self.work / "server" / "artifacts"
        return self._judged(campaign, database, code, self.cells, artifacts), campaign.events

    def _judged(
        self,
        campaign: Campaign,
        database: Path,
        code: int,
        cells: int,
        artifacts: Path | None = None,
    ) -> dict[str, Any]:
        """What a campaign came to, beside the sequential sweep."""
        judged = self._verdict(read_store(database, artifacts), cells)
        kills = [event for event in campaign.events if event["event"] == "kill"]
        rows = costs(kills, campaign.final_epochs())
        hosts = Counter(event["node"] for event in campaign.events if event["event"] == "attempt")
        again = [row["again"] for row in rows if row["again"]]
        # Where the storage is shared, no epoch that was told may be trained again.
        kept = not again or (self.options.unshared and isinstance(campaign.cluster, Cluster))
        return {
            "seconds": campaign.seconds,
            "code": code,
            "kills": campaign.kills(),
            "attempts": sum(hosts.values()),
            "attempts_by_node": dict(sorted(hosts.items())),
            "driver_starts": sum(e["event"] == "driver started" for e in campaign.events),
            "hits": len(rows),
            "again": again,
            "under_way": sum(row["under_way"] for row in rows),
            "lost_seconds": [round(r["lost_seconds"], 2) for r in rows if r["under_way"]],
            **_flat(judged),
            "holds": judged.holds and judged.cells == cells and code == 0 and kept,
        }

    # Under SLURM

    def _slurm(self) -> dict[str, Any]:
        options, folder = self.options, self.work / "slurm"
        # The site that knew an earlier start's jobs is gone.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        database = folder / "mlflow.db"
        few = {**self.grid, "seeds": self.grid["seeds"].split(",")[0]}
        cells = self._count(few)
        command = self.command("--engine=slurm", f"--output_dir={folder}/driver/runs", **few)
        variables = self.variables(MLFLOW_TRACKING_URI=f"sqlite:///{database}")
        # Sockets need a short path.
        with tempfile.TemporaryDirectory(prefix="slurm-") as name, slurm_site(Path(name)) as site:
            campaign = SlurmCampaign(
                SlurmMachine(folder, site), command, variables, database, cells, options.epochs,
                options.kill_every, random.Random(options.seed), _say,
            )  # fmt: skip
            _say(f"{cells} cells under SLURM, interrupted every {options.kill_every:g} s")
            try:
                code = campaign.run(options.limit * 60)
            finally:
                campaign.end()
                kill_all(campaign.cluster.marks())
        return self._judged(campaign, database, code, cells)

    # Through submitit

    def _submitit(self, executor: str) -> dict[str, Any]:
        return self._once(f"submitit-{executor}", lambda: self._submit(executor))

    def _submit(self, executor: str) -> dict[str, Any]:
        folder = self.work / f"submitit-{executor}"
        folder.mkdir(exist_ok=True)
        few = {name: values.split(",")[0] for name, values in self.grid.items()}
        few["batch_sizes"] = ",".join(self.grid["batch_sizes"].split(",")[:SUBMITTED])
        # The debug executor runs a job in the driver, which no SLURM would signal.
        signum = signal.SIGUSR2 if executor == "local" else signal.SIGTERM
        _say(f"submitit's {executor} executor, interrupted by {signum.name}")
        mark = f"{folder}:{executor}"
        variables = self.variables(
            MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db", **{MARK: mark}
        )
        begun = time.time()
        code, sent = interrupt_once(
            self.command("--engine=slurm", f"--executor={executor}", **few),
            variables, mark, folder / "sweep.log", signum, executor == "local",
        )  # fmt: skip
        count = self._count(few)
        judged = self._verdict(read_store(folder / "mlflow.db"), count)
        return {
            "seconds": time.time() - begun,
            "code": code,
            "interrupted": signum.name if sent else "",
            **_flat(judged),
            "holds": judged.holds and code == 0 and sent and judged.cells == count,
        }


def _flat(judged: Verdict) -> dict[str, Any]:
    """A verdict without its long lists."""
    values = asdict(judged)
    for name in ("differing", "differing_tables"):
        values[name], values[f"{name}_first"] = len(values[name]), values[name][:5]
    return {**values, "holds": judged.holds}


@contextmanager
def mlflow_server(folder: Path, host: str) -> Iterator[str]:
    """A tracking server on SQLite; yields its address."""
    from urllib.error import URLError
    from urllib.request import urlopen

    folder.mkdir(exist_ok=True)
    port = free_port()
    uri = f"http://{host}:{port}"
    command = python(
        "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"
    )
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    command += ["--allowed-hosts", f"{host}:*"]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**own_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{uri}/health", timeout=2).close()
                break
            except (URLError, OSError):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise UserError(f"no tracking server: see {folder}/server.log") from None
                time.sleep(1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _surroundings() -> dict[str, Any]:
    import importlib.metadata

    around = surroundings()
    around["command"] = around["command"].replace("benchmarks.__main__", "benchmarks.cluster")
    around["versions"] |= {name: importlib.metadata.version(name) for name in ("ray", "submitit")}
    return around


def _shown_options(options: argparse.Namespace) -> dict[str, Any]:
    left_out = ("work", "out", "json", "keep")
    return {name: value for name, value in vars(options).items() if name not in left_out}


def text_of(result: dict[str, Any]) -> str:
    """The report: what had to hold, and what the kills cost."""
    parts = result["parts"]
    rows = []
    for name, part in parts.items():
        if name == "sequential":
            rows.append([name, str(part["cells"]), "", "", "", "", f"{part['seconds'] / 60:.1f}",
                         "reference"])  # fmt: skip
            continue
        wrong = len(part["missing"]) + len(part["doubled"]) + part["unknown"]
        rows.append(
            [
                name,
                f"{part['once']} of {part['cells']}",
                str(wrong),
                str(part["running"]),
                f"{part['differing']} of {part['values']:,}",
                f"{part['differing_tables']} of {part['tables']}",
                f"{part['seconds'] / 60:.1f}",
                "holds" if part["holds"] else "does not hold",
            ]
        )
    text = table(
        ["sweep", "finished once", "missing or doubled", "left RUNNING",
         "metric values that differ", "prediction tables that differ", "minutes", ""],
        rows,
    )  # fmt: skip
    for name, title in (("ray", "on the Ray cluster"), ("slurm", "under SLURM")):
        if part := parts.get(name):
            unshared = result["options"]["unshared"] and name == "ray"
            text += "\n\n" + _costs_text(part, title, unshared)
    return text


def _costs_text(part: dict[str, Any], title: str, unshared: bool) -> str:
    lines = [[f"kills: {kind}", str(count), "", ""] for kind, count in part["kills"].items()]
    lines.append(["attempts at cells", str(part["attempts"]), "", ""])
    again = part["again"]
    target = ["", ""] if unshared else ["0", verdict(not again)]
    lines.append(
        [
            "ended epochs that were trained again",
            f"{sum(again)} in {part['hits']} attempts",
            *target,
        ]
    )
    lost = part["lost_seconds"]
    if lost:
        values = spread(lost)
        lines.append(
            [
                "seconds of an epoch under way, lost",
                f"{values['median']:.1f} ({values['low']:.1f} to {values['high']:.1f}), "
                f"{part['under_way']} times",
                "",
                "",
            ]
        )
    return table([title, "", "target", ""], lines)


def _say(text: str) -> None:
    print(f"cluster: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
