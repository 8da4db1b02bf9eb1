"""A run and its forwarder: what an earlier process left says nothing of the server of today."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.base.locks import exclusive
from skinml.run.tracked import track
from skinml.store.forwarding import Forwarder
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import LOCK, RunFolder
from skinml.tracking.forwarder_process import ForwarderProcess
from skinml.tracking.journal import Journal
from skinml.tracking.record import read_noted, record_start, server_digest

ROOT = Path(__file__).parents[2]

# A forwarder that clears an earlier refusal, as ours does, and then what a test has it do.
STAND_IN = """
import sys, time
from pathlib import Path
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.forwarder_process import NOT_TAKEN, READY
path = Path(sys.argv[1]) / "forward.json"
state = Acknowledged.load(path)
state.refused = ""
state.save(path)
print(READY, flush=True)
{does}
time.sleep(600)
"""

TAKES = "state.sequence += 1; state.save(path)"
REFUSES = "state.refused = 'cannot start a run'; state.save(path)"
IS_AWAY = "print(NOT_TAKEN, flush=True)"

Start = Callable[..., ForwarderProcess]


@pytest.fixture
def folder(finished_folder: RunFolder) -> RunFolder:
    """The folder of a run of which a server has six records of six."""
    Acknowledged("", "a" * 32, 6, 600).save(finished_folder.path / "forward.json")
    return finished_folder


@pytest.fixture
def start(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    started: list[ForwarderProcess] = []

    def start(does: str, noted: int = 6) -> ForwarderProcess:
        def process(self: ForwarderProcess) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-c", STAND_IN.format(does=does), str(folder.path)]
            variables = {**os.environ, "PYTHONPATH": str(ROOT)}
            with (folder.path / "forward.log").open("ab") as log:
                return subprocess.Popen(command, env=variables, stdout=log)

        monkeypatch.setattr(ForwarderProcess, "_start", process)
        started.append(ForwarderProcess(folder, noted))
        return started[-1]

    yield start
    for forwarder in started:
        forwarder.stop()


def leave_refused(folder: RunFolder) -> None:
    path = folder.path / "forward.json"
    state = Acknowledged.load(path)
    state.refused = "an earlier password was wrong"
    state.save(path)


def test_what_an_earlier_process_was_told_stops_no_later_one(
    folder: RunFolder, start: Start
) -> None:
    """It was refused again though the password had been mended."""
    leave_refused(folder)
    start(TAKES).raise_if_refused(60)


def test_a_run_that_goes_on_is_refused_before_it_trains(folder: RunFolder, start: Start) -> None:
    """It trained, since an earlier process had been given a run."""
    forwarder = start(REFUSES)
    with pytest.raises(UserError, match="cannot start a run"):
        forwarder.raise_if_refused(60)


def test_a_server_that_is_away_is_waited_for_no_longer_than_that(
    folder: RunFolder, start: Start
) -> None:
    leave_refused(folder)
    start(IS_AWAY).raise_if_refused(600)  # It said so.
    begun = time.monotonic()
    start("").raise_if_refused(0.5)
    assert time.monotonic() - begun < 60


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_a_forwarder_of_before_that_still_sends_is_not_waited_for(
    folder: RunFolder, start: Start
) -> None:
    """The new one never says that it is ready, and what that one was told is not its answer."""
    leave_refused(folder)
    with exclusive(folder.path / LOCK, None):
        forwarder = start("", noted=6)
        forwarder._has_said = lambda words: False  # type: ignore[method-assign]
        begun = time.monotonic()
        forwarder.raise_if_refused(0.5)
        assert time.monotonic() - begun < 60
        # What it had sent of this process before it was looked at counts, too.
        Acknowledged("", "a" * 32, 7, 700).save(folder.path / "forward.json")
        again = start("", noted=6)
        again._has_said = lambda words: False  # type: ignore[method-assign]
        again.raise_if_refused(600)


def test_a_forwarder_clears_what_any_server_has_refused(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another address the refusal of the server of before stood in the folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    Acknowledged(server_digest("http://127.0.0.1:8"), "a" * 32, 6, 600, refused="by that").save(
        folder.path / "forward.json"
    )
    Forwarder(folder, live=True)
    assert Acknowledged.load(folder.path / "forward.json").refused == ""


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_that_is_refused_says_what_is_left_of_it(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained: bool,
) -> None:
    """It ended in silence. Of one that did not train the error says all."""
    (folder.path / "forward.json").unlink()
    # One that touches nothing: what it was told is written below.
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(ForwarderProcess, "_start", lambda _: subprocess.Popen(sleeps))

    def train() -> None:
        with track(folder, folder.read_description(), load=False, drain_limit=0):
            Acknowledged("", refused="no right to that: http://x").save(
                folder.path / "forward.json"
            )
            if not trained:
                raise UserError("no right to that: http://x")

    if trained:
        train()
    else:
        with pytest.raises(UserError):
            train()
    said = capsys.readouterr().err
    count = read_noted(folder.journal).sequence
    left = f"{count} of {count} records are not in MLflow yet (no right to that: http://x); send"
    assert (left in said) is trained


def test_a_folder_whose_state_is_ahead_of_its_journal_is_sent_anew(folder: RunFolder) -> None:
    """After a power cut: the journal's last records were not on the disk, and their receipt was."""
    journal = Journal(folder.journal)
    record_start(journal, folder.read_description())
    journal.close()
    known = read_noted(folder.journal)
    path = folder.path / "forward.json"
    for ahead in (False, True):
        reached = known.sequence + 3 * ahead
        Acknowledged("s", "a" * 32, reached, 600, uris={"results": "there"}).save(path)
        with track(folder, folder.read_description(), offline=True, load=False, known=known):
            state = Acknowledged.load(path)
        assert (state.sequence, state.offset) == ((0, 0) if ahead else (reached, 600))
        assert (state.server, state.run_id) == ("s", "a" * 32)
        known = read_noted(folder.journal)
