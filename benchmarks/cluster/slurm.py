"""The sweep under a real SLURM whose jobs and node are killed, and its controller stopped."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

from benchmarks.cluster.campaign import OFF, Campaign
from benchmarks.cluster.nodes import MARK, own_environment
from benchmarks.cluster.slurm_site import SlurmSite

# `worker` is the job's own process; `terminated` a preemption that is announced by SIGTERM alone.
KINDS = {
    "training": 4,
    "worker": 3,
    "preempted": 3,
    "terminated": 2,
    "node": 2,
    "controller": 1,
}


class SlurmMachine:
    """What a campaign knows of the machine that submits."""

    apart = False

    def __init__(self, folder: Path, site: SlurmSite) -> None:
        self.folder = folder
        self.site = site
        self.head = self
        self._mark = f"{folder}:slurm"

    def marks(self) -> set[str]:
        return {self._mark}

    def popen(
        self, command: Sequence[str], log: IO[bytes], variables: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start the driver, whose jobs inherit its environment."""
        return subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**own_environment(), **variables, **self.site.variables, MARK: self._mark},
            start_new_session=True,
        )  # fmt: skip


class SlurmCampaign(Campaign):
    """As on Ray, by what happens to jobs."""

    cluster: SlurmMachine

    def _kill_something(self) -> None:
        if self._driver_is_due():
            self._kill_driver()
            return
        site, live = self.cluster.site, list(self._watch.live.values())
        [kind] = self._chance.choices(list(KINDS), list(KINDS.values()))
        target = self._chance.choice(live)
        acts: dict[str, Callable[[], object]] = {
            "training": lambda: psutil.Process(target.pid).kill(),
            "worker": lambda: psutil.Process(target.worker).kill(),
            # It wants the whole node for a moment.
            "preempted": lambda: site.ask(
                "sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null",
                "--wrap=sleep 2",
            ),
            "terminated": lambda: site.ask("scancel", "--signal=TERM", f"--name={target.cell}"),
            "node": site.kill_node,
            "controller": site.stop_controller,
        }  # fmt: skip
        starts = {"node": site.start_node, "controller": site.start_controller}
        if kind in starts and self._off:
            return
        hit = {"preempted": live, "node": live, "controller": []}.get(kind, [target])
        self._kill(kind, "", hit, acts[kind])
        if kind in starts:
            self._off.add(kind)
            self._in(OFF, lambda: self._start(kind, starts[kind]))

    def _start(self, kind: str, start: Callable[[], object]) -> None:
        start()
        self._off.discard(kind)
