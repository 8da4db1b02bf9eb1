"""No run is left for dead: real processes and stores, what doctor sees of them, what it mends."""

import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from skinml import doctor
from skinml.base.errors import UserError
from skinml.base.processes import is_dead, process_lives, process_name
from skinml.run.tracked import track
from skinml.store.lease import LEASE, clock_stands, lease_term, renewed, watch
from skinml.store.runs import GONE, SUPERSEDED
from skinml.store.sweeps import SweepRun
from skinml.sweep.stopping import end_leftovers
from skinml.sync import sync
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import Journal, read_journal
from tests.conftest import noted, surroundings
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are named so on Linux")

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "faults" / "doctor_cases.py"

# Seconds: a forwarder moves its lease every third of it.
TERM = 12.0


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doctor_cases", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Its dataclasses look for it.
    spec.loader.exec_module(module)
    return module


cases = _load()


@pytest.fixture(autouse=True)
def short_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINML_LEASE_TERM", "0.5")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def world(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Folders for runs of this host and of another, and what is started there ends here."""
    world = cases.World(tmp_path, TERM)
    yield world
    world.end()


Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def visit(world: Any, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Calls doctor: its exit code, and what it found by its name."""

    def visit(*options: str) -> tuple[int, dict[str, dict[str, Any]]]:
        capsys.readouterr()
        code = doctor.main(["--json", "--output-dir", str(world.here), *options])
        found = json.loads(capsys.readouterr().out)
        return code, {item["name"]: item for item in found}

    return visit


def ended_process() -> str:
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(process.pid)
    process.communicate(b"\n")
    return name


def elsewhere(name: str) -> str:
    return f"elsewhere {name.split(' ', 1)[1]}"


# Runs


def test_nothing_is_changed_before_it_is_asked_for(
    world: Any, visit: Doctor, tmp_path: Path
) -> None:
    def content() -> list[str]:
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            return list(connection.iterdump())

    gone = world.run(process=ended_process())
    far = world.run(process=elsewhere(ended_process()))
    alive = world.run(process=process_name())
    before = content()
    code, found = visit()
    assert content() == before
    assert code == doctor.FOUND == 1
    assert {item["kind"] for item in found.values()} == {"dead run"}
    assert set(found) == {gone, far}
    assert found[gone]["why"] == GONE
    assert found[far]["why"].startswith("its lease did not move for 0.5 s, seen from ")
    code, found = visit("--fix")
    assert code == 0 and all(item["mended"] for item in found.values())
    for run_id, item in found.items():
        run = world.client.get_run(run_id)
        assert (run.info.status, run.data.tags["skinml.reason"]) == ("KILLED", item["why"])
        assert run.info.end_time
    assert world.client.get_run(alive).info.status == "RUNNING"
    assert visit("--fix") == (0, {})


def test_nobody_waits_for_what_is_known_at_once(world: Any, visit: Doctor) -> None:
    """Of this host the process itself is looked at, whatever its lease does."""
    world.run(process=process_name())
    world.run(process=ended_process())
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SKINML_LEASE_TERM", "1000")
        assert visit()[0] == 1


def test_one_experiment_or_all(world: Any, visit: Doctor) -> None:
    other = world.client.create_experiment("other")
    tags = {"skinml.lease": "1", "process": ended_process()}
    there = world.client.create_run(other, tags=tags).info.run_id
    here = world.run(process=tags["process"])
    assert set(visit()[1]) == {here, there}
    assert set(visit("--experiment", "other")[1]) == {there}
    with pytest.raises(UserError, match="experiment='another'"):
        visit("--experiment", "another")


def test_a_run_that_shows_life_before_it_is_closed_is_left(world: Any) -> None:
    run_id = world.run(process=elsewhere(ended_process()))
    look = lambda: [world.client.get_run(run_id)]  # noqa: E731
    [finding] = doctor.examine(world.here, look)
    world.client.set_tag(run_id, "skinml.lease", "4")
    doctor.mend(finding)
    assert finding.outcome == "left: it has moved, or has ended"
    assert world.client.get_run(run_id).info.status == "RUNNING"
    [finding] = doctor.examine(world.here, look)
    world.client.set_terminated(run_id, "FINISHED")
    doctor.mend(finding)
    assert world.client.get_run(run_id).info.status == "FINISHED"


def test_runs_without_a_lease_are_listed_and_closed_only_when_old_and_quiet(
    world: Any, visit: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = int((time.time() - 86400) * 1000)
    names = ("old", "logs", "young", "far")
    made: dict[str, str] = {}
    for name in names:
        at = None if name == "young" else day
        tags = {"process": "elsewhere 1 2.0"} if name == "far" else {}
        run = world.client.create_run(world.experiment, start_time=at, tags=tags)
        made[name] = run.info.run_id
    code, found = visit()
    assert code == 0 and set(found) == set(made.values())
    assert {item["kind"] for item in found.values()} == {"run without lease"}
    assert found[made["old"]]["why"] == "open for 24 h 00, without a lease"
    assert found[made["far"]]["why"] == "open for 24 h 00, without a lease, on elsewhere"
    assert visit("--fix")[0] == 0
    assert {world.client.get_run(run_id).info.status for run_id in made.values()} == {"RUNNING"}

    # The same value again, at a later step: it logs, so somebody is there.
    logged = iter(range(1000))

    def log() -> None:
        world.client.log_batch(
            made["logs"], [Metric("m", 1.0, int(time.time() * 1000), next(logged))]
        )

    log()
    with renewed(log):
        code, found = visit("--older-than", "20h", "--fix")
    assert code == 0
    status = {name: world.client.get_run(run_id).info.status for name, run_id in made.items()}
    assert status == {"old": "KILLED", "far": "KILLED", "logs": "RUNNING", "young": "RUNNING"}
    reason = world.client.get_run(made["old"]).data.tags["skinml.reason"]
    assert reason == "open for 24 h 00, without a lease"


def project_run(world: Any, **tags: str) -> str:
    """A run as `mlflow run` makes it before it makes the environment."""
    tags = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": "main", **tags}
    tags = {"mlflow.user": doctor.getpass.getuser(), **tags}
    run_id = world.run(lease=False, **tags)
    names = ("model", "epochs_frozen", "near_duplicates")
    world.client.log_batch(run_id, params=[Param(name, "x") for name in names])
    return str(run_id)


def test_a_run_stuck_since_before_its_environment_was_made(
    world: Any, visit: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = project_run(world)
    of_another = project_run(world, **{"mlflow.user": "another"})
    trains = project_run(world)
    world.sleeper(MLFLOW_RUN_ID=trains)
    # While any `mlflow run` is there it may be this one's.
    script = tmp_path / "bin" / "mlflow"
    script.parent.mkdir()
    script.write_text("import time\ntime.sleep(600)\n")
    maker = subprocess.Popen([sys.executable, "-S", str(script), "run", "."])
    world.sleepers.append(maker)
    code, found = visit("--fix")
    assert code == 0 and {item["kind"] for item in found.values()} == {"run without lease"}
    assert set(found) == {stuck, of_another}
    assert found[stuck]["why"].endswith("made by `mlflow run`")
    assert world.client.get_run(stuck).info.status == "RUNNING"
    maker.kill()
    maker.wait()
    # Another test's may run on this machine.
    monkeypatch.setattr(doctor._Here, "mlflow_runs", False)
    code, found = visit()
    assert code == 1 and found[stuck]["kind"] == "stuck run"
    visit("--fix")
    run = world.client.get_run(stuck)
    assert run.info.status == "KILLED"
    assert run.data.tags["skinml.reason"].startswith("`mlflow run` made it, and is gone")
    assert world.client.get_run(of_another).info.status == "RUNNING"
    assert world.client.get_run(trains).info.status == "RUNNING"


# The watch


def test_an_answer_that_takes_long_begins_the_term_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was away: nobody could renew a lease meanwhile."""
    monkeypatch.setenv("SKINML_LEASE_TERM", "0.9")
    waits, slow_ended = iter((0.0, 0.7)), 0.0

    def undecided() -> bool:
        nonlocal slow_ended
        if wait := next(waits, 0.0):
            time.sleep(wait)
            slow_ended = time.monotonic()
        return True

    watch(undecided, "looking")
    assert time.monotonic() - slow_ended >= 0.9
    decided = iter([False])
    watch(lambda: next(decided), "looking")
    assert list(decided) == [], "nothing is left to wait for: it looks once"


@pytest.mark.parametrize("shift", [3600, -3600])
def test_a_clock_that_is_set_meanwhile_closes_nothing_by_its_age(
    shift: int, world: Any, visit: Doctor
) -> None:
    day = int((time.time() - 86400) * 1000)
    run_id = world.client.create_run(world.experiment, start_time=day).info.run_id
    now, moved = time.time, 0

    def watching(*given: Any) -> None:
        nonlocal moved
        moved = shift
        watch(*given)

    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + moved)
        clock.setattr(doctor, "watch", watching)
        with pytest.raises(UserError, match=rf"was set by \{shift:+} s meanwhile"):
            visit("--older-than", "2h", "--fix")
    assert world.client.get_run(run_id).info.status == "RUNNING"
    with clock_stands():
        pass


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_term_that_is_none_is_the_users_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINML_LEASE_TERM", text)
    with pytest.raises(UserError, match=f"SKINML_LEASE_TERM='{text}': expected seconds"):
        lease_term()


# Folders


def test_journals_that_were_not_sent_are_listed_and_sent(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    folder = noted(finished_folder)
    count = sum(1 for _ in read_journal(folder.journal))
    code, found = visit()
    assert code == 1 and set(found) == {str(folder.path)}
    item = found[str(folder.path)]
    assert (item["kind"], item["why"]) == ("unsent journal", f"{count} records that MLflow lacks")
    assert item["remedy"] == f"python -m skinml.sync {folder.path}"
    code, found = visit("--fix")
    assert code == 0
    run_id = folder.published
    assert found[str(folder.path)]["outcome"] == f"sent: run {run_id}"
    assert world.client.get_run(run_id).info.status == "FINISHED"
    assert visit() == (0, {})


def test_what_belongs_to_another_server_is_to_know_of_and_not_sent_to_this_one(
    world: Any, visit: Doctor, finished_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not to mend: --fix leaves it, and a cron job would fail for ever."""
    folder = noted(finished_folder)
    doctor.Acknowledged("another").save(folder.path / "forward.json")
    for options in ([], ["--fix"]):
        code, found = visit(*options)
        assert code == 0
        item = found[str(folder.path)]
        assert item["kind"] == "unsent journal" and "another server" in item["why"]
        assert item["remedy"].endswith("with its MLFLOW_TRACKING_URI")
        assert doctor.main(["--output-dir", str(folder.path.parent), *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "1 to know of"
    assert world.client.search_runs([world.experiment]) == []


def test_models_that_were_left_out_are_to_know_of(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    folder = noted(finished_folder)
    sync(folder.path)
    state = doctor.Acknowledged.load(folder.path / "forward.json")
    replace(state, left_out="its models: no interface").save(folder.path / "forward.json")
    code, found = visit("--fix")
    assert code == 0
    item = found[str(folder.path)]
    assert (item["kind"], item["why"]) == (
        "models left out",
        "not in MLflow: its models: no interface",
    )
    assert item["remedy"] == f"python -m skinml.sync {folder.path}"


def test_a_journal_that_is_written_or_cannot_be_read_is_left(
    world: Any, visit: Doctor, finished_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with track(finished_folder, finished_folder.read_description(), offline=True, load=False):
        assert visit() == (0, {})
    broken = world.here / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    (broken / "journal.log").mkdir()
    assert set(visit()[1]) == {str(finished_folder.path)}


def test_an_end_that_was_noted_goes_before_what_is_thought_of_it(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    """A run that is done, but was killed before the server took its last words, is FINISHED."""
    folder = noted(finished_folder)
    [first] = [r for r in read_journal(folder.journal) if r.kind == "run"]
    journal = first.fields["journal"]
    run_id = world.run(process=ended_process(), **{"skinml.journal": journal})
    code, found = visit("--fix")
    assert code == 0 and set(found) == {run_id}
    assert found[run_id]["outcome"] == f"sent: run {run_id}"
    assert world.client.get_run(run_id).info.status == "FINISHED"


def test_a_copy_of_a_folder_says_nothing_of_a_run_that_goes_on_elsewhere(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    """Sent from here, its journal without an end would close the run."""
    folder = noted(finished_folder)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(lines[:5]))
    [first] = [r for r in read_journal(folder.journal) if r.kind == "run"]
    name = elsewhere(process_name())
    run_id = world.run(process=name, **{"skinml.journal": first.fields["journal"]})
    world.moving[run_id], world.term = name, 0.5
    with world.leases():
        assert visit("--fix") == (0, {})
    assert world.client.get_run(run_id).info.status == "RUNNING"
    # Nor where its experiment is not looked at.
    world.client.create_experiment("other")
    doctor.Acknowledged("", run_id).save(folder.path / "forward.json")
    assert visit("--experiment", "other", "--fix") == (0, {})
    assert world.client.get_run(run_id).info.status == "RUNNING"


def test_checkpoints_that_can_be_gone_on_from_are_listed_and_kept(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    folder = noted(finished_folder, ValueError("no memory"))
    visit("--fix")
    assert visit() == (0, {})
    checkpoint = folder.path / "checkpoint-000002"
    checkpoint.write_text("weights")
    assert visit() == (0, {}), "it is finished"
    (folder.path / "FINISHED").unlink()
    code, found = visit("--fix")
    item = found[str(folder.path)]
    assert (code, item["kind"], item["mended"]) == (0, "checkpoint", False)
    assert item["why"] == "not finished, and can be gone on with"
    assert item["remedy"] == f"python -m skinml.run --resume {folder.path}"
    assert checkpoint.exists()


def test_of_a_run_whose_place_another_has_taken_nothing_is_left_to_do(
    world: Any, visit: Doctor, finished_folder: RunFolder
) -> None:
    """Its journal is refused for ever, and so was the advice to go on with it."""
    folder = noted(finished_folder, ValueError("no memory"))
    visit("--fix")
    (folder.path / "FINISHED").unlink()
    (folder.path / "checkpoint-000002").write_text("weights")
    state = doctor.Acknowledged.load(folder.path / "forward.json")
    state.sequence = state.offset = 0
    state.save(folder.path / "forward.json")
    assert set(visit()[1]) == {str(folder.path)}
    world.client.set_tag(state.run_id, SUPERSEDED, "true")
    for options in ([], ["--fix"]):
        assert visit(*options) == (0, {})


# Processes


def test_a_cell_whose_sweep_is_gone_is_ended(
    world: Any, visit: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, else it would end by itself. One that has its sweep is let be."""
    below = world.here / "sweep" / "cell"
    command = [sys.executable, "-m", "skinml.run", "--stop-with-stdin", f"--output_dir={below}"]
    variables = {**os.environ, "SKINML_PARENT_RUN_ID": "f" * 32}
    reader, writer = os.pipe()
    process = subprocess.Popen(command, stdin=reader, env=variables)
    process.send_signal(signal.SIGSTOP)
    world.sleepers.append(process)
    name = process_name(process.pid)
    os.close(reader)
    assert visit("--fix") == (0, {})
    os.close(writer)
    code, found = visit()
    assert code == 1
    assert found[str(process.pid)]["kind"] == "orphaned process"
    assert str(below) in found[str(process.pid)]["why"]
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert visit("--output-dir", str(tmp_path / "another"), "--fix") == (0, {})
    assert process_lives(name)
    code, found = visit("--fix")
    assert code == 0 and found[str(process.pid)]["outcome"] == "ended"
    assert is_dead(name)


# A sweep


def test_a_sweep_does_the_same_for_its_own_cells_before_it_starts(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINML_LEASE_TERM", str(TERM))
    run = SweepRun.open("0" * 16, "sweep", {"data": "isic2017"}, world.experiment)
    below = {"mlflow.parentRunId": run.id}
    gone = world.run(process=ended_process(), **below)
    far = world.run(process=elsewhere(ended_process()), **below)
    name = elsewhere(process_name())
    alive = world.run(process=name, **below)
    not_its_own = world.run(process=ended_process())
    world.moving[alive], world.term = name, TERM
    with world.leases():
        end_leftovers(run, world.here)
    said = capsys.readouterr().err
    assert f"{gone}: {GONE}: closed as KILLED" in said
    assert f"{far}: its lease did not move for {TERM:g} s" in said
    status = [world.client.get_run(i).info.status for i in (gone, far, alive, not_its_own)]
    assert status == ["KILLED", "KILLED", "RUNNING", "RUNNING"]


def test_the_run_of_a_sweep_has_a_lease_too(world: Any) -> None:
    run = SweepRun.open("0" * 16, "sweep", {"data": "isic2017"}, world.experiment)
    with renewed(run.renew):
        wait_for(lambda: world.client.get_run(run.id).data.tags.get("skinml.lease") == "2")
        world.client.set_tag(run.id, "skinml.reason", "taken for dead")
        world.client.set_terminated(run.id, "KILLED")
        wait_for(lambda: world.client.get_run(run.id).info.status == "RUNNING")
    assert world.client.get_run(run.id).data.tags["process"] == process_name()
    run.close("FINISHED")
    time.sleep(0.4)
    found = world.client.get_run(run.id)
    assert found.info.status == "FINISHED" and "skinml.reason" not in found.data.tags


# The command


def test_a_person_is_shown_a_table_and_the_command_that_helps(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(["--output-dir", str(world.here)]) == 0
    assert capsys.readouterr().out == "nothing was left behind\n"
    gone = world.run(process=ended_process())
    assert doctor.main(["--output-dir", str(world.here)]) == 1
    said = capsys.readouterr().out
    [row] = [line for line in said.splitlines() if gone in line]
    assert row.split("  ")[0] == "dead run" and row.rstrip().endswith(GONE)
    assert said.endswith("1 to mend with: python -m skinml.doctor --fix\n")
    assert doctor.main(["--output-dir", str(world.here), "--fix"]) == 0
    assert capsys.readouterr().out.endswith("\n1 mended\n")


@pytest.mark.parametrize("text", ["2", "d", "2 d", "-2d", "2w"])
def test_a_time_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="expected a time such as 2d, 36h"):
        doctor.main([f"--older-than={text}"])


def test_a_store_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    with pytest.raises(UserError, match="no such database"):
        doctor.main([])


# Real trainings


@pytest.mark.slow
def test_of_mixed_cases_no_live_run_is_closed_and_no_dead_one_is_left(
    empty_store: Path, tmp_path: Path
) -> None:
    """Two hundred of them are what `python -m benchmarks.faults.doctor_cases` runs."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with surroundings(tmp_path) as monkeypatch:
        monkeypatch.setenv("SKINML_LEASE_TERM", str(TERM))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        rows = cases.cases(20, 1, TERM, tmp_path)
    assert len(rows) == 20
    assert {row["expected"] for row in rows} >= {"RUNNING", "KILLED"}
    assert [row for row in rows if row["status"] != row["expected"]] == []
    assert not any(row["wrongly_closed"] or row["left_running"] for row in rows)


@pytest.mark.slow
def test_a_run_that_was_only_cut_off_is_closed_and_opens_itself_again(
    world: Any, visit: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host, with a clock that is set by an hour, twice; it loses nothing by it."""
    monkeypatch.setenv("SKINML_LEASE_TERM", str(TERM))
    training = world.training("elsewhere")
    run_id = training.begins()
    wait_for(lambda: LEASE in world.client.get_run(run_id).data.tags)
    [forwarder] = training.forwarders()
    training.stop_forwarders()
    (training.folder.path / "shift").write_text("3600")
    code, found = visit("--fix")
    assert code == 0 and found[run_id]["outcome"] == "closed as KILLED"
    assert world.client.get_run(run_id).info.status == "KILLED"
    (training.folder.path / "shift").write_text("-3600")
    forwarder.resume()
    wait_for(lambda: world.client.get_run(run_id).info.status == "RUNNING")
    assert "skinml.reason" not in world.client.get_run(run_id).data.tags
    assert visit("--fix") == (0, {})
    assert training.finish() == 0
    run = world.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    epochs = [row["epoch"] for row in training.folder.read_history()]
    points = world.client.get_metric_history(run_id, "epoch/val_loss")
    assert sorted(point.step for point in points) == epochs
    times = sorted(int(row["time"]) for row in training.folder.read_history())
    assert times[-1] - times[0] > 7000 * 1000, "its clock was not set"


@pytest.mark.slow
def test_a_forwarder_that_hangs_when_its_run_is_dead_is_ended_and_the_rest_is_sent(
    world: Any, visit: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINML_LEASE_TERM", "3")
    training = world.training()
    run_id = training.begins()
    [forwarder] = training.forwarders()
    name = process_name(forwarder.pid)
    training.stop_forwarders()
    before = len(training.folder.read_history())
    wait_for(lambda: len(training.folder.read_history()) > before + 3)
    training.kill()
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    code, found = visit("--fix")
    assert code == 0
    assert {item["kind"] for item in found.values()} == {"orphaned process", "dead run"}
    assert is_dead(name)
    assert found[run_id]["outcome"] == f"sent: run {run_id}"
    run = world.client.get_run(run_id)
    assert (run.info.status, run.data.tags["skinml.reason"]) == ("KILLED", GONE)
    epochs = [row["epoch"] for row in training.folder.read_history()]
    points = world.client.get_metric_history(run_id, "epoch/val_loss")
    assert [point.step for point in points] == epochs
    assert visit() == (0, {})


def test_a_command_line_of_two_words_is_nobodys_orphan(tmp_path: Path) -> None:
    """Whatever runs on the machine: it ended doctor, and each start of a sweep, by a traceback."""
    shell = subprocess.Popen(["bash", "-m"], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: psutil.Process(shell.pid).cmdline() == ["bash", "-m"])
        assert doctor.examine(tmp_path, list) == []
    finally:
        shell.communicate()


def test_an_odd_folder_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal that is a pipe, and one whose first record says nothing."""
    texts = ("name", "process", "server", "experiment", "experiment_id", "default_experiment")
    begin = dict.fromkeys((*texts, "attached", "parent"), "") | {"time": 1, "source": {}}
    for name in ("empty", "pipe", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        if name == "pipe":
            os.mkfifo(tmp_path / name / "journal.log")
            continue
        journal = Journal(tmp_path / name / "journal.log")
        journal.append("run", **(begin | {"journal": "a"} if name == "good" else {}))
        journal.close()
    assert [left.journal for left in doctor.run_folders(tmp_path)] == ["a"]
    told = capsys.readouterr().err
    assert "journal.log, record 1 ('run'): it has no journal, expected an id" in told
    assert "pipe: not a regular file: left out" in told
