"""An attempt at a cell: one at a time in a folder, whatever became of whoever began it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.sweep.engines.attempt import Attempt, AttemptOutcome, Order
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.forwarder_process import UNSENT
from skinml.tracking.journal import Journal
from skinml.tracking.record import record_end, record_start
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks and signals")

HOLD = "import sys; sys.stdin.read()"
# Holds on when whoever started it is gone, as a training does while it closes its run.
STUBBORN = "import time; print('here', flush=True); time.sleep(60)"
IDENTITY = {"config_digest": "c", "data_digest": "d", "training_digest": "e"}


def order(folder: Path, code: str, **more: frozenset[str]) -> Order:
    config = Config(weights="none", output_dir=str(folder))
    return Order("a", config, folder, ["-c", code], IDENTITY, {}, **more)


def outcome_of(attempt: Attempt) -> AttemptOutcome:
    def outcome() -> AttemptOutcome | None:
        attempt.look()
        return attempt.outcome

    found = wait_for(outcome, attempt.log.read_text)
    assert found
    return found


def run_folder(given: Order, name: str, status: str = "", **tags: str) -> RunFolder:
    """A run's folder as a kill, or an end of that status, leaves it."""
    folder = RunFolder(given.folder / name)
    folder.figures.mkdir(parents=True)
    dataset = {"name": "demo", "digest": "d", "source": "demo", "counts": {}}
    described = Description(name, given.options, {**IDENTITY, "data": "demo", **tags}, dataset)
    folder.write_description(described)
    journal = Journal(folder.journal)
    record_start(journal, described)
    if status:
        record_end(journal, status)
    journal.close()
    return folder


def test_a_second_attempt_waits_for_the_process_of_the_first(tmp_path: Path) -> None:
    first = Attempt(order(tmp_path, HOLD))
    second = Attempt(order(tmp_path, "pass"))
    assert second.look().waits and not second.has_ended
    first.kill()
    outcome_of(first)
    assert outcome_of(second).reason == "ended without a finished run in MLflow"


def test_the_lock_outlives_who_took_it_as_long_as_the_training_lives(tmp_path: Path) -> None:
    """A worker that is killed leaves a training that has not noticed yet."""
    starter = (
        "import sys, time; from pathlib import Path\n"
        "from tests.sweep.engines.test_attempt import *\n"
        "a = Attempt(order(Path(sys.argv[1]), STUBBORN))\n"
        "print(a._process.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[3]
    worker = subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert worker.stdout
    training = int(worker.stdout.readline())
    try:
        worker.kill()
        worker.wait()
        worker.stdout.close()
        second = Attempt(order(tmp_path, "pass"))
        time.sleep(0.3)
        assert second.look().waits
    finally:
        os.kill(training, signal.SIGKILL)
    outcome_of(second)


@pytest.mark.parametrize(
    ("code", "patient", "status", "reason"),
    [
        ("import sys; sys.exit('no luck')", True, "failed", "no luck"),
        ("import os; os.kill(os.getpid(), 9)", False, "failed", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 9)", True, "lost", "killed by SIGKILL"),
        ("import sys; sys.exit(143)", True, "lost", "stopped by SIGTERM"),
        (f"import sys; sys.exit({UNSENT})", False, "failed", "trained, but MLflow lacks some"),
        ("pass", True, "failed", "ended without a finished run in MLflow"),
    ],
)
def test_what_ended_it_decides_whether_it_is_tried_again(
    tmp_path: Path, code: str, patient: bool, status: str, reason: str
) -> None:
    outcome = outcome_of(Attempt(order(tmp_path, code), patient=patient))
    assert outcome.status == status and outcome.reason.startswith(reason)


ARGUMENTS = "import sys; print(sys.argv[1:])"


def given_to(attempt: Attempt) -> str:
    outcome_of(attempt)
    [line] = attempt.log.read_text().splitlines()
    return line


def test_it_goes_on_with_the_newest_run_of_its_own(tmp_path: Path) -> None:
    given = order(tmp_path, ARGUMENTS)
    run_folder(given, "1")
    own = run_folder(given, "2", "KILLED")
    run_folder(given, "3", training_digest="another")
    assert f"--resume={own.path}" in given_to(Attempt(given))
    assert "--resume" not in given_to(Attempt(given, fresh=True))
    # Begun by an earlier version, which lacked one of today's options.
    description = own.read_description()
    del description.params["operating_point"]
    own.write_description(description)
    assert f"--resume={own.path}" in given_to(Attempt(given))
    passed = order(tmp_path, ARGUMENTS, passed_over=frozenset({"1", "2"}))
    assert "--resume" not in given_to(Attempt(passed))


def test_half_a_row_of_an_interrupted_run_keeps_nothing_from_going_on(tmp_path: Path) -> None:
    """As a full disk leaves it: it ended the whole sweep, again by each further start."""
    given = order(tmp_path, HOLD)
    own = run_folder(given, "1")
    for epoch in (1, 2):
        own.append_epoch({"epoch": epoch, "step": "frozen", "time": 1000 * epoch, "val_loss": 0.5})
    history = own.path / "history.csv"
    history.write_bytes(history.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"history\.csv: cannot be read"):
        own.read_history()
    attempt = Attempt(given)
    try:
        look = attempt.look()
        assert attempt.run_folder and attempt.run_folder.path == own.path
        assert look.begun and look.row is None
    finally:
        attempt.kill()
        outcome_of(attempt)


def test_a_run_that_was_superseded_is_not_gone_on_with(tmp_path: Path) -> None:
    given = order(tmp_path, ARGUMENTS)
    own = run_folder(given, "1")
    asked: list[RunFolder | None] = []

    def claim(folder: RunFolder | None) -> bool:
        asked.append(folder)
        return folder is None

    assert "--resume" not in given_to(Attempt(given, claim=claim))
    assert [folder.path if folder else None for folder in asked] == [own.path, None]


def test_where_it_may_not_begin_the_lock_is_free_again(tmp_path: Path) -> None:
    def refuse(folder: RunFolder | None) -> bool:
        raise RuntimeError("done elsewhere")

    with pytest.raises(RuntimeError):
        Attempt(order(tmp_path, "pass"), claim=refuse)
    again = Attempt(order(tmp_path, "pass"))
    assert not again.look().waits
    outcome_of(again)


def test_the_log_is_passed_on_whole(tmp_path: Path) -> None:
    attempt = Attempt(order(tmp_path, "print('x' * 150_000)"))
    outcome_of(attempt)
    pieces = list(iter(attempt.new_text, b""))
    assert b"".join(pieces) == b"x" * 150_000 + b"\n" and len(pieces) == 3


def ask(attempt: Attempt) -> None:
    attempt.end(0.3)


@pytest.mark.parametrize("act", [Attempt.kill, ask])
def test_it_ends_even_what_does_not_want_to(tmp_path: Path, act: Callable[[Attempt], None]) -> None:
    code = f"import signal; signal.signal(15, signal.SIG_IGN); {STUBBORN}"
    attempt = Attempt(order(tmp_path, code), patient=True)
    wait_for(lambda: "here" in attempt.log.read_text())
    act(attempt)
    assert outcome_of(attempt).reason.startswith("killed by SIGKILL")
