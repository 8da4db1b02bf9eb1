"""Cells as SLURM's jobs: submitit's own executors for real, and the script that SLURM would get.

What sbatch takes is checked against sbatch(1); the commands of `slurm` stand for a SLURM that keeps
a job pending for ever. A real one: test_slurm_site.py.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pytest import MonkeyPatch

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.sweep.engines.attempt import Order, Progress
from skinml.sweep.engines.node import SweepSource
from skinml.sweep.engines.slurm import (
    ANSWER,
    ANSWER_AGAIN,
    PATIENCE,
    REQUEUES_IN_VAIN,
    CellJob,
    InVain,
    Scancel,
    SlurmEngine,
    slurm_parameters,
)
from tests.sweep.engines.conftest import Start, assert_each_finished_once, cell_runs

# A skip of each test, not of the module: in CI that is a failure.
pytestmark = [
    pytest.mark.skipif(
        not find_spec("submitit"), reason="no submitit here: pip install 'skinml[slurm]'"
    ),
    pytest.mark.skipif(os.name == "nt", reason="SLURM is not for Windows"),
]

# Long options of sbatch(1), SLURM 22.05, that a script of ours may hold.
OF_SBATCH = {
    "account", "comment", "constraint", "cpus-per-task", "error", "exclude", "exclusive", "gpus",
    "gres", "job-name", "mem", "nodelist", "nodes", "open-mode", "output", "partition", "qos",
    "requeue", "signal", "time",
}  # fmt: skip


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A PATH with commands that look like SLURM's; returns where the submitted script is kept."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "sbatch": f'cp "$1" {tmp_path}/submitted.sh; echo "Submitted batch job 4711"',
        "srun": "exit 1",
        "sacct": 'echo "JobID|State|NodeList"; echo "4711|PENDING|"',
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
    }
    for name, text in commands.items():
        stand_in(tmp_path / "submitted.sh", name, text)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "submitted.sh"


def stand_in(slurm: Path, name: str, text: str) -> Path:
    """Put a shell script in the place of one of SLURM's commands."""
    path = slurm.parent / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def options_of(script: str) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    assert len(found) == script.count("#SBATCH")
    return dict(found)


def test_the_script_says_what_sbatch_documents(slurm: Path, tmp_path: Path) -> None:
    given = {"partition": "gpu", "gres": "gpu:1", "cpus_per_task": "4", "time": "1-00:30:00"}
    engine: Any = SlurmEngine(tmp_path / "sweep", given)
    engine._set_parameters("mobilenet-16-seed0-split0")
    job = engine._executor.submit(print, 1)
    assert job.job_id == "4711"
    options = options_of(slurm.read_text())
    assert options.keys() <= OF_SBATCH
    assert options["job-name"] == "mobilenet-16-seed0-split0"
    assert options["time"] == str(24 * 60 + 30)
    assert (options["partition"], options["gres"], options["cpus-per-task"]) == (
        "gpu",
        "gpu:1",
        "4",
    )
    # SLURM's name without SIG, @ seconds before the end; no B:, so that the job's steps get it.
    name, seconds = options["signal"].split("@")
    assert name == "USR2" and int(seconds) > PATIENCE
    assert options["open-mode"] == "append", "a job that is requeued would empty its log"
    assert options["requeue"] == ""
    assert "wckey" not in options, "submitit's own name would be refused where such keys are kept"
    # It is found by the name of the job, which SLURM puts in.
    assert options["output"].endswith("%j/%j_0_log.out") or "%j" in options["output"]


def test_a_job_has_a_time_limit_even_if_nobody_says_one() -> None:
    assert slurm_parameters({}, "a")["timeout_min"] == 24 * 60


def test_where_a_site_keeps_no_accounts_its_queue_tells(slurm: Path, tmp_path: Path) -> None:
    """Otherwise a job that dies without a result would be waited for until the end of days."""
    queue = slurm.parent / "queue"
    stand_in(slurm, "sacct", "exit 1")
    stand_in(slurm, "squeue", f"cat {queue}")
    queue.write_text("JOBID|STATE|NODELIST\n4711|RUNNING|vm\n4712|PENDING|\n")
    engine: Any = SlurmEngine(tmp_path / "sweep")
    job = engine._executor.submit(print, 1)
    assert (job.done(force_check=True), job.state) == (False, "RUNNING")
    for listed, state in (("4711|FAILED|vm\n", "FAILED"), ("", "FORGOTTEN")):
        job.watcher.clear()
        job.watcher.register_job(job.job_id)
        queue.write_text(f"JOBID|STATE|NODELIST\n{listed}")
        assert (job.done(force_check=True), job.state) == (True, state)


@pytest.mark.parametrize(
    ("state", "done"),
    [("SUSPENDED", False), ("CONFIGURING", False), ("CANCELLED by 1000", True), ("FAILED+", True)],
)
def test_a_job_is_done_when_slurm_says_so(
    slurm: Path, tmp_path: Path, state: str, done: bool
) -> None:
    stand_in(slurm, "sacct", f'echo "JobID|State|NodeList"; echo "4711|{state}|vm"')
    engine: Any = SlurmEngine(tmp_path / "sweep")
    assert engine._executor.submit(print, 1).done(force_check=True) is done


def test_a_preempted_job_is_waited_for_as_long_as_it_may_be_requeued(
    slurm: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    stand_in(slurm, "sacct", 'echo "JobID|State|NodeList"; echo "4711|PREEMPTED|vm"')
    engine: Any = SlurmEngine(tmp_path / "sweep")
    job = engine._executor.submit(print, 1)
    assert not job.done(force_check=True)
    monkeypatch.setattr("skinml.sweep.engines.slurm.AWAY", 0.0)
    assert job.done(force_check=True), "the site cancels what it preempts"


def _order(folder: Path, code: str = "one") -> tuple[Order, SweepSource]:
    order = Order("a-cell", Config(), folder, ["-m", "skinml.run"], {"training_digest": code}, {})
    return order, SweepSource("token", "", folder, {})


def test_a_job_for_other_code_is_cancelled_and_one_for_the_same_is_found_again(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a cell is the same for all code: an old job's result is not the new cell's."""
    engine = SlurmEngine(tmp_path / "sweep")
    order, source = _order(tmp_path / "cell")
    state = SimpleNamespace(cell=SimpleNamespace(name="a-cell"), queued=False)
    engine.start(state, order, source)  # type: ignore[arg-type]
    assert engine._submitted_before(order, source)
    assert "goes on (PENDING)" in capsys.readouterr().err
    rerun = replace(source, done_before=frozenset({"a-run"}))
    other, _ = _order(tmp_path / "cell", code="two")
    for given in ((order, rerun), (other, source)):
        assert engine._submitted_before(*given) is None
        assert "submitted for other code or data" in capsys.readouterr().err
    assert (tmp_path / "cancelled").read_text().split() == ["4711", "4711"]


@pytest.mark.parametrize(
    ("listed", "found"), [("echo 4711 PENDING", True), ("exit 1", True), ("true", False)]
)
def test_a_job_that_the_accounting_does_not_know_yet_is_not_submitted_twice(
    slurm: Path, tmp_path: Path, listed: str, found: bool
) -> None:
    """Accounting lags behind; only what the queue does not have either is gone."""
    engine = SlurmEngine(tmp_path / "sweep")
    order, source = _order(tmp_path / "cell")
    engine.start(SimpleNamespace(queued=False), order, source)  # type: ignore[arg-type]
    stand_in(slurm, "sacct", "echo 'JobID|State|NodeList'")
    stand_in(slurm, "squeue", listed)
    again = SlurmEngine(tmp_path / "sweep")
    assert bool(again._submitted_before(order, source)) is found


def test_what_sbatch_refuses_at_first_is_the_users_error_and_later_waits(
    slurm: Path, tmp_path: Path
) -> None:
    """A partition that is not there; later a limit on the jobs of a user, whose others go on."""
    sbatch = slurm.parent / "bin" / "sbatch"
    works = sbatch.read_text()
    refuses = "echo 'sbatch: error: invalid partition specified: gpus' >&2; exit 1"
    stand_in(slurm, "sbatch", refuses)
    engine = SlurmEngine(tmp_path / "sweep", {"partition": "gpus"})
    given = SimpleNamespace(queued=False), *_order(tmp_path / "cell")
    with pytest.raises(
        UserError, match=r"gpus'}: .*invalid partition.*; expected options"
    ) as caught:
        engine.start(*given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    sbatch.write_text(works)
    engine.start(*given)  # type: ignore[arg-type]
    stand_in(slurm, "sbatch", refuses)
    (tmp_path / "cell" / "slurm-job.json").unlink()
    assert engine.at_once(None) > 1000
    job = engine.start(*given)  # type: ignore[arg-type]
    outcome = job.poll()
    assert outcome and (outcome.status, outcome.counts) == ("lost", False)
    assert engine.at_once(None) == 0, "the next is not tried at once"


@pytest.fixture
def impatient(monkeypatch: MonkeyPatch) -> None:
    """Commands of SLURM have a second to answer, and a wait without limit ends the test."""
    for name in ("ANSWER", "ANSWER_SBATCH"):
        monkeypatch.setattr(f"skinml.sweep.engines.slurm.{name}", 1.0)


HANGS = "exec sleep 60"


@pytest.mark.usefixtures("impatient")
def test_accounting_that_hangs_keeps_what_is_known_and_is_told_once(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal to the driver would wait with it, and the driver never end."""
    engine: Any = SlurmEngine(tmp_path / "sweep")
    job = engine._executor.submit(print, 1)
    assert not job.done(force_check=True)
    stand_in(slurm, "sacct", HANGS)
    begun = time.monotonic()
    for _ in range(2):
        time.sleep(0.01)  # submitit asks once in a millisecond.
        assert not job.done(force_check=True)
    assert time.monotonic() - begun < 30
    assert job.watcher.get_state(job.job_id, mode="cache") == "PENDING"
    assert capsys.readouterr().err.count("sacct does not answer") == 1


@pytest.mark.usefixtures("impatient")
def test_jobs_that_cannot_be_cancelled_in_time_are_named_and_not_waited_for(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = SlurmEngine(tmp_path / "sweep")
    state: Any = SimpleNamespace(cell=SimpleNamespace(name="a-cell"), queued=False)
    job = engine.start(state, *_order(tmp_path / "cell"))
    stand_in(slurm, "scancel", HANGS)
    begun = time.monotonic()
    job.stop()
    assert time.monotonic() - begun < 30
    outcome = job.poll()
    assert outcome and outcome.reason == "stopped"
    told = capsys.readouterr().err
    assert "a-cell: its job 4711 cannot be cancelled, and goes on" in told
    assert "timed out" in told and "expected: scancel 4711" in told
    # Of a job for other code no more is waited for.
    assert engine._submitted_before(*_order(tmp_path / "cell", code="two")) is None
    assert time.monotonic() - begun < 30


def test_of_hundreds_of_jobs_the_first_alone_waits_for_slurm(
    slurm: Path, monkeypatch: MonkeyPatch
) -> None:
    limits: list[float] = []

    def hang(command: list[str], check: bool, timeout: float) -> None:
        limits.append(timeout)
        if len(limits) < 3:
            raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    scancel = Scancel()
    for _ in range(4):
        with suppress(subprocess.TimeoutExpired):
            scancel(SimpleNamespace(job_id="4711"))
    assert limits == [ANSWER, ANSWER_AGAIN, ANSWER_AGAIN, ANSWER]


@pytest.mark.usefixtures("impatient")
def test_an_sbatch_that_hangs_is_ended_and_tried_again_later(slurm: Path, tmp_path: Path) -> None:
    sbatch = slurm.parent / "bin" / "sbatch"
    works = sbatch.read_text()
    stand_in(slurm, "sbatch", HANGS)
    engine = SlurmEngine(tmp_path / "sweep")
    state: Any = SimpleNamespace(queued=False)
    given = state, *_order(tmp_path / "cell")
    with pytest.raises(UserError, match=r"sbatch has not answered within 1 s; expected .*sinfo"):
        engine.start(*given)
    sbatch.write_text(works)
    engine.start(*given)
    stand_in(slurm, "sbatch", HANGS)
    (tmp_path / "cell" / "slurm-job.json").unlink()
    outcome = engine.start(*given).poll()
    assert outcome and outcome.status == "lost" and "sbatch has not answered" in outcome.reason


class _Ended:
    """An attempt of a job that is asked to end before its second epoch has ended."""

    def end(self, patience: float) -> None:
        """It is fast."""

    def look(self) -> Progress:
        return Progress(row={"epoch": 1})


def test_a_job_that_is_requeued_in_vain_gives_up(tmp_path: Path) -> None:
    """A time limit shorter than an epoch: SLURM would requeue it for days."""
    order, source = _order(tmp_path)
    job: Any = CellJob(order, source, "1")
    for _ in range(REQUEUES_IN_VAIN):
        job._attempt = _Ended()
        job = job.checkpoint().function
        assert isinstance(job, CellJob) and job.source.again and job.epoch == 1
    job._attempt = _Ended()
    with pytest.raises(InVain):
        job.checkpoint()


def test_a_site_without_sacct_has_its_queue_asked(slurm: Path, tmp_path: Path) -> None:
    (slurm.parent / "bin" / "sacct").unlink()
    engine: Any = SlurmEngine(tmp_path / "sweep")
    assert type(engine._executor.submit(print, 1).watcher).__name__ == "Queue"


def test_storage_without_locks_is_refused(
    slurm: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr("skinml.sweep.engines.slurm.lock_file", lambda *given: (None, False))
    with pytest.raises(UserError, match="no file locks on this storage; expected"):
        SlurmEngine(tmp_path / "sweep")


def test_a_limit_in_which_no_epoch_would_end_is_refused() -> None:
    with pytest.raises(UserError, match="time=2': expected 5 minutes or more"):
        slurm_parameters({"time": "2"}, "a")
    assert slurm_parameters({"time": "5"}, "a")["timeout_min"] == 5


def test_what_is_submitted_is_for_its_owner_alone(slurm: Path, tmp_path: Path) -> None:
    SlurmEngine(tmp_path / "sweep")
    assert stat.S_IMODE((tmp_path / "sweep" / "slurm").stat().st_mode) == 0o700


def test_without_slurm_the_error_says_so(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match="engine=slurm: no sbatch and srun here; expected"
    ) as caught:
        SlurmEngine(tmp_path / "sweep")
    assert "\n" not in str(caught.value)


def test_without_submitit_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'skinml\[slurm\]'"):
        SlurmEngine(tmp_path / "sweep", executor="local")


@pytest.mark.slow
def test_jobs_of_a_driver_that_was_killed_are_found_again(
    slurm: Path, start: Start, tmp_path: Path
) -> None:
    """They are pending: neither start may submit a cell twice, and a stop cancels them."""
    first = start("--engine=slurm")
    jobs = "runs/sweep-*/mobilenetv2*/slurm-job.json"
    noted = first.until(lambda: [path for path in tmp_path.glob(jobs) if path.read_text()])
    first.process.kill()
    first.process.wait()
    number = json.loads(noted[0].read_text())["number"]
    again = start("--engine=slurm")
    again.until(lambda: again.log.read_text().count("its job 4711 goes on (PENDING)") == 2)
    assert json.loads(noted[0].read_text())["number"] == number
    again.process.send_signal(signal.SIGINT)
    assert again.wait() == 130
    assert (tmp_path / "cancelled").read_text().split() == ["4711", "4711"]


@pytest.mark.slow
def test_a_job_that_is_preempted_or_killed_goes_on_from_its_checkpoint(
    start: Start, go: Path
) -> None:
    """Submitit's local executor, two jobs: one gets the signal that SLURM would send, one dies."""
    sweep = start("--engine=slurm", "--executor=local", "--jobs=2", SKINML_TEST_GO=str(go))
    preempted, _, _, its_job = sweep.until(sweep.epochs)[0]
    os.kill(its_job, signal.SIGUSR2)
    killed, _, _, its_job = sweep.until(
        lambda: [row for row in sweep.epochs() if row[0] != preempted]
    )[0]
    os.kill(its_job, signal.SIGKILL)
    go.touch()
    assert sweep.wait() == 0, sweep.log.read_text()
    assert_each_finished_once()
    for name in (preempted, killed):
        trained = [row for row in sweep.epochs() if row[0] == name]
        assert {epoch for _, epoch, *_ in trained} == {1, 2, 3} and len(trained) <= 4, trained
        assert len({pid for _, _, pid, _ in trained}) == 2, trained
    # One came back by itself, the other was submitted again.
    tried = [line for line in sweep.log.read_text().splitlines() if "it is tried again" in line]
    assert len(tried) == 1 and f"skinml: {killed}-" in tried[0], sweep.log.read_text()
    assert [len(runs) for runs in cell_runs().values()] == [1, 1], "another run was begun"
    assert not [p for p in psutil.Process().children(recursive=True) if "submitit" in p.name()]


@pytest.mark.slow
def test_the_debug_executor_trains_the_same_cells(start: Start) -> None:
    sweep = start("--engine=slurm", "--executor=debug", "--models=mobilenet")
    assert sweep.wait() == 0, sweep.log.read_text()
    assert "it is tried again" not in sweep.log.read_text()
    assert_each_finished_once("mobilenet")
    assert len(sweep.epochs()) == 3
