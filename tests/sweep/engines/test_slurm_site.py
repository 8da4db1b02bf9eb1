"""Sweeps on a real SLURM of one node with two CPUs, which interrupts jobs as a site does."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.cluster.slurm_site import SlurmSite, missing, slurm_site
from tests.sweep.engines.conftest import Start, assert_each_finished_once, cell_runs, sweep_runs
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(
        not find_spec("submitit"), reason="no submitit here: pip install 'skinml[slurm]'"
    ),
]

CELLS = ("mobilenet-16", "mobilenetv2-16")


@pytest.fixture(scope="module")
def site() -> Iterator[SlurmSite]:
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, slurm_site(Path(name)) as site:
        yield site


def test_an_interrupted_job_costs_an_epoch_at_most_and_a_dead_driver_nothing(
    site: SlurmSite, start: Start, go: Path
) -> None:
    """A preemption with and without the signal asked for, and a driver that is killed."""
    variables = {**site.variables, "SKINML_TEST_GO": str(go)}
    sweep = start("--engine=slurm", **variables)
    sweep.until(lambda: {name for name, *_ in sweep.epochs()} == set(CELLS))
    first, second = (f"{name}-seed0-split0" for name in CELLS)
    assert site.jobs() == {first: "RUNNING", second: "RUNNING"}
    # A site that sends no signal but SIGTERM: the job would be killed a minute later.
    site.ask("scancel", "--signal=TERM", f"--name={first}")
    sweep.until(lambda: site.jobs()[first] == "PENDING")
    site.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    sweep.until(lambda: site.jobs()[second] == "PENDING")
    sweep.process.kill()
    sweep.process.wait()
    again = start("--engine=slurm", **variables)
    again.until(lambda: again.has_said("goes on (", 2))
    go.touch()
    assert again.wait() == 0, again.log.read_text()
    assert_each_finished_once()
    assert [len(runs) for runs in cell_runs().values()] == [1, 1], "another run was begun"
    for name in CELLS:
        trained = [row for row in again.epochs() if row[0] == name]
        assert {epoch for _, epoch, *_ in trained} == {1, 2, 3} and len(trained) <= 4, trained
        assert len({pid for _, _, pid, _ in trained}) == 2, trained
    assert site.jobs() == {}


def test_without_accounts_a_job_that_dies_is_noticed(start: Start, go: Path) -> None:
    """Small sites keep none: their queue is asked instead."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as name,
        slurm_site(Path(name), accounts=False) as site,
    ):
        sweep = start("--engine=slurm", **site.variables, SKINML_TEST_GO=str(go))
        cell, _, _, job = sweep.until(sweep.epochs)[0]
        os.kill(job, signal.SIGKILL)
        go.touch()
        assert sweep.wait() == 0, sweep.log.read_text()
        assert f"{cell}-seed0-split0: its job" in sweep.log.read_text(), sweep.log.read_text()
    assert_each_finished_once()


def test_a_job_that_is_requeued_goes_on_and_is_cancelled_with_its_sweep(
    site: SlurmSite, start: Start
) -> None:
    """A requeued job's SIGTERM ends its training: that is no result, and no attempt of the cell."""
    sweep = start("--engine=slurm", **site.variables, SKINML_TEST_SLOW="mobilenet")
    sweep.until(lambda: "mobilenetv2-16-seed0-split0 done" in sweep.log.read_text())
    # The job of the cell that is done takes a moment to complete.
    sweep.until(lambda: len(site.jobs()) == 1)
    [name] = site.jobs()
    number = site.ask("squeue", "--noheader", "--format=%i", f"--name={name}").strip()
    for state in ("PENDING", "RUNNING"):
        if state == "PENDING":
            site.ask("scontrol", "requeue", number)
        sweep.until(lambda: site.jobs() == {name: state})  # noqa: B023
    time.sleep(2)
    assert "tried again" not in sweep.log.read_text(), sweep.log.read_text()
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.wait() == 130
    wait_for(lambda: site.jobs() == {}, site.jobs)
    assert [run.info.status for run in sweep_runs()] == ["KILLED"]
