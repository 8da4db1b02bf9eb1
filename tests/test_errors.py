"""What a command promises its caller: the exit code, one line for a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.errors import UserError, run_command


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_the_commands_own(
    returned: int | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


def test_users_mistake_is_told_on_stderr_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mistaken() -> None:
        raise UserError("seed=-1: expected at least 0")

    assert run_command(mistaken) == 2
    assert capsys.readouterr() == ("", "skinml: error: seed=-1: expected at least 0\n")


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert run_command(stopped) == 130
    assert capsys.readouterr() == ("", "skinml: stopped by Ctrl-C\n")


def test_defect_keeps_its_traceback() -> None:
    def defective() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        run_command(defective)


@pytest.mark.parametrize("length", [1, 1_000_000], ids=["in the buffer", "beyond the buffer"])
def test_reader_that_left_is_no_error(length: int) -> None:
    """`skinml … | head` ends quietly, whether the pipe breaks while printing or at the end."""
    read, write = os.pipe()
    os.close(read)
    program = (
        "import sys; from skinml.errors import run_command; "
        f"sys.exit(run_command(lambda: print('x' * {length})))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
