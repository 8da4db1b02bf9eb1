"""The fault campaign: a short round of each part, and that it would notice a loss.

The short rounds of resumed trainings and of doctor are tests/run/test_resume.py and
tests/test_doctor.py, those of killed forwarders and of a bad network are in
tests/store/test_forwarder.py.
"""

import json
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from benchmarks.faults import __main__ as command
from benchmarks.faults import servers, surroundings
from benchmarks.faults.campaign import Case, Outcome, Part, Run
from benchmarks.faults.journal_writer import fields_of
from benchmarks.faults.journals import check_journal, kill_writers
from benchmarks.faults.kept import compare_kept
from benchmarks.faults.processes import RunWriter, make_folder, wait_until
from skinml.base.errors import UserError
from skinml.sync import sync
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import Journal
from tests.service.conftest import needs_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals"),
]


def case_in(folder: Path, number: int = 0) -> Case:
    (folder / "case").mkdir()
    return Case(number, folder / "case", random.Random(0))


def one_case(part: Callable[[Path], Any], folder: Path, number: int = 0) -> Outcome:
    with part(folder) as run:
        outcome: Outcome = run(case_in(folder, number))
    return outcome


# The command


JOURNALS = "journal-kills,journal-cuts,journal-flips"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_journals_survive_and_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--out", str(out), "--only", JOURNALS, "--cases"]
    assert command.main([*asked, "1"]) == 0
    first = lines_of(out)
    assert [line["part"] for line in first] == JOURNALS.split(",")
    assert first[0]["faults"] == {"SIGKILL of a journal writer": 10} and first[0]["checked"] > 50
    assert first[1]["faults"]["cut"] > 100 and first[2]["faults"] == {"flipped bit": 200}
    with (out / "results.jsonl").open("a") as file:
        file.write('{"part": "journal-cuts", "case": 1, "se')  # Killed while it wrote this.
    assert command.main([*asked, "2"]) == 0
    second = lines_of(out)
    assert second[:3] == first
    assert sorted((line["part"], line["case"]) for line in second[3:]) == sorted(
        (part, 1) for part in JOURNALS.split(",")
    )
    report = (out / "report.md").read_text()
    assert "20 × SIGKILL of a journal writer" in report and "--seed 0" in report
    assert (out / "moments.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"--seed 5: .* holds cases of seed 0"):
        command.main([*asked, "2", "--seed", "5"])
    assert lines_of(out) == second


def test_an_unknown_part_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only diskette: expected some of journal-kills"):
        command.main(["--out", str(tmp_path), "--only", "diskette"])


def test_whatever_was_lost_is_told_and_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def broken(scratch: Path) -> Iterator[Run]:
        def run(case: Case) -> Outcome:
            if case.number == 0:
                raise RuntimeError("a crash")
            return Outcome(checked=7, lost=case.number)

        yield run

    monkeypatch.setattr(command, "PARTS", {"broken": Part("broken", 2, broken)})
    assert command.main(["--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "broken, case 0: RuntimeError: a crash" in captured.out
    assert "broken, case 1: 1 lost" in captured.err
    [row] = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert (row["lost"], row["problems"], row["cases"]) == (1, 1, 2)


# That it would notice a loss: journals


# Tells of records that it keeps to itself: the first three, however soon it is killed.
LIAR = """
import os, sys
from pathlib import Path
from benchmarks.faults.journal_writer import fields_of
from skinml.tracking.journal import Journal
journal, seed = Journal(Path(sys.argv[1])), int(sys.argv[2])
number = journal.sequence
kept = number + 3
os.write(1, b"b 0\\n")
while True:
    number += 1
    if number > kept:
        journal.append("metrics", **fields_of(seed, number))
    os.write(1, b"a %d\\n" % number)
"""


def test_a_writer_that_tells_more_than_it_writes_is_found_out(tmp_path: Path) -> None:
    with kill_writers(tmp_path, (sys.executable, "-c", LIAR)) as run:
        outcome = run(case_in(tmp_path))
    assert outcome.lost > 0 and outcome.failed


# Tells all in one breath, as the campaign hears it on a machine that is busy with other work.
AT_ONCE = """
import os, sys, time
from pathlib import Path
from skinml.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
os.write(1, b"b 0\\na 8\\na 9\\n")
time.sleep(600)
"""


def test_what_a_writer_tells_at_once_is_heard(tmp_path: Path) -> None:
    with kill_writers(tmp_path, (sys.executable, "-c", AT_ONCE)) as run:
        outcome = run(case_in(tmp_path))
    assert (outcome.checked, outcome.lost) == (9, 9)


@pytest.mark.parametrize(
    ("numbers", "told", "found"),
    [
        ((1, 2, 3), 3, (0, 0, 0)),
        ((1, 2, 3), 5, (2, 0, 0)),
        ((1, 2, 7), 3, (0, 0, 1)),  # Its third record holds what the seventh should.
    ],
)
def test_a_journal_that_is_not_as_told_is_found_out(
    tmp_path: Path, numbers: tuple[int, ...], told: int, found: tuple[int, int, int]
) -> None:
    path = tmp_path / "journal.log"
    journal = Journal(path)
    for number in numbers:
        journal.append("metrics", **fields_of(4, number))
    journal.close()
    outcome = check_journal(path, 4, told)
    assert (outcome.lost, outcome.doubled, outcome.differing) == found


def test_a_record_that_is_twice_in_a_journal_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    journal = Journal(path)
    journal.append("metrics", **fields_of(4, 1))
    journal.close()
    path.write_bytes(path.read_bytes() * 2)
    outcome = check_journal(path, 4, 1)
    assert outcome.doubled == 1 and outcome.problems


# That it would notice a loss: what a server keeps


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[RunFolder, Path]:
    """The folder of a run that ended, and the store that holds all of it."""
    place = tmp_path_factory.mktemp("tracked")
    store = place / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    writer = RunWriter(make_folder(place / "run", random.Random(1)), "--offline")
    # Of the first epoch's points some are damaged below.
    wait_until(lambda: writer.told() >= 1, "an epoch is noted")
    assert writer.end() == 0, writer.text()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        # MLflow leaves it where a test before has named an experiment.
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        sync(writer.folder.path)
    return writer.folder, store


DAMAGE = {
    "nothing": "",
    "a point": "DELETE FROM metrics WHERE key = 'epoch/val_loss' AND step = 1",
    "a value": "UPDATE metrics SET value = value + 1e-9 WHERE key = 'epoch/val_loss' AND step = 1",
    "a point too many": "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, "
    "is_nan FROM metrics WHERE key = 'epoch/val_loss' AND step = 1",
    "a parameter": "DELETE FROM params WHERE key = 'param_3'",
    "a tag": "UPDATE tags SET value = 'paper' WHERE key = 'split'",
    "the status": "UPDATE runs SET status = 'RUNNING'",
    "the data set": "DELETE FROM inputs",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_a_server_lost_is_found_out(
    what: str, tracked: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    folder, store = tracked
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(store.read_bytes())
    with sqlite3.connect(copy) as database:
        damaged = database.execute(DAMAGE[what]).rowcount
    database.close()
    assert damaged >= 1 or what == "nothing"
    outcome = compare_kept(MlflowClient(f"sqlite:///{copy}"), folder)
    assert outcome.checked > 150
    assert outcome.failed == (what != "nothing"), outcome


def test_a_file_that_a_server_lost_or_changed_is_found_out(
    tracked: tuple[RunFolder, Path],
) -> None:
    folder, store = tracked
    client = MlflowClient(f"sqlite:///{store}")
    [path] = store.parent.glob("mlruns/**/predictions_test.csv")
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\n")
        assert compare_kept(client, folder).differing == 1
        path.unlink()
        assert compare_kept(client, folder).lost == 1
    finally:
        path.write_bytes(content)


def test_a_second_run_of_a_journal_is_found_out(
    tracked: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    folder, store = tracked
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(store.read_bytes())
    client = MlflowClient(f"sqlite:///{copy}")
    run = client.get_run(folder.published)
    tags = {"skinml.journal": run.data.tags["skinml.journal"]}
    client.create_run(run.info.experiment_id, tags=tags, start_time=1)
    assert compare_kept(client, folder).doubled == 1


# A short round of what needs a server


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.SqliteServer]:
    with servers.sqlite_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def one_server(sqlite: servers.SqliteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts take the tests' server instead of starting their own."""
    for module in (servers, surroundings):
        monkeypatch.setattr(module, "sqlite_server", lambda folder: nullcontext(sqlite))


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with servers.service() as found:
        yield found


@needs_service
def test_servers_workers_and_databases_that_are_killed_lose_nothing(
    one_server: None, service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "service", lambda: nullcontext(service))
    monkeypatch.setattr(servers, "KILLS", 1)
    monkeypatch.setattr(servers, "PATIENCE", 0)
    outcome = Outcome()
    for part in (servers.kill_servers, servers.kill_service):
        folder = tmp_path / part.__name__
        folder.mkdir()
        outcome.add(one_case(part, folder))
    assert not outcome.failed, outcome.problems
    assert len(outcome.faults) == 4 and set(outcome.faults.values()) == {1}


@pytest.mark.parametrize("kind", [surroundings.full_disk, surroundings.read_only])
def test_a_disk_that_is_full_or_read_only_is_told_and_loses_nothing(
    one_server: None, sqlite: servers.SqliteServer, tmp_path: Path, kind: Any
) -> None:
    try:
        with surroundings.small_disk(tmp_path / "probe"):
            pass
    except UserError as error:
        pytest.skip(str(error))
    outcome = one_case(surroundings.bad_surroundings, tmp_path, surroundings.KINDS.index(kind))
    assert not outcome.failed, outcome.problems
    assert len(outcome.faults) == 1


def test_a_clock_that_jumps_loses_nothing(one_server: None, tmp_path: Path) -> None:
    outcome = one_case(surroundings.bad_surroundings, tmp_path, 1)
    assert not outcome.failed, outcome.problems
    assert outcome.faults == {"jump of the clock": 2}
