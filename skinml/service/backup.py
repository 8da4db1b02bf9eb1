"""Back up the service and restore it: the database and the artifacts as one consistent state.

The database is dumped first, the artifacts are copied afterwards. Artifacts are only ever added:
what a row promises (a finished upload, a model that is READY, a version) was on disk before the row
was written, so it is there when the copying starts. What arrives meanwhile is in the copy without a
row, and harms nobody. The other way round, a row of the dump could promise a file that the copy
missed. What `mlflow gc` deletes in between would be missed too: do not run it during a backup.

A backup is a folder: database.dump (pg_dump's custom format), artifacts/ and manifest.json, written
last, with the rows of every table as counted in the dump's own snapshot and the SHA-256 of every
file. Files that the backup before holds already are hard links to it: each backup is whole, and
costs only what is new. It is under its final name once all of it was read back.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml.config import Parser
from skinml.errors import UserError, run_command
from skinml.files import file_sha256
from skinml.service import postgres

MANIFEST = "manifest.json"
DUMP = "database.dump"
ARTIFACTS = "artifacts"

_CHUNK = 1 << 20
_NAME = re.compile(r"\d{8}T\d{6}Z")


# --- The database ---------------------------------------------------------------------------------


def dump(path: Path, address: str | None = None, snapshot: str | None = None) -> None:
    """Dump a database, that of the PG… variables or of an SQLAlchemy address, to a new file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    words = ["--format=custom", f"--file={partial}"]
    if snapshot:
        words.append(f"--snapshot={snapshot}")
    if address:
        words.append(f"--dbname={re.sub(r'^postgresql[+]psycopg', 'postgresql', address)}")
    _run("pg_dump", *words)
    check_dump(partial)
    _sync(partial)
    partial.replace(path)


def check_dump(path: Path) -> None:
    """Read a dump to its end, every block unpacked."""
    _run("pg_restore", "--file=/dev/null", str(path))


def copy_database(original: str, copy: str) -> None:
    """Copy what a database holds into another that is empty."""
    command = [str(postgres.programs() / "pg_dump"), "--format=custom", "--dbname", original]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
        _run("pg_restore", "--exit-on-error", "--dbname", copy, stdin=source.stdout)
    if source.returncode:
        raise UserError(f"pg_dump of {original} failed, code {source.returncode}")


def count_rows(database: str | None = None, connection: Any = None) -> dict[str, int]:
    """The number of rows of every table of MLflow's two schemas."""
    import psycopg

    if connection is None:
        with psycopg.connect(dbname=database or os.environ["PGDATABASE"]) as own:
            return count_rows(connection=own)
    from psycopg import sql

    tables = connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'auth') "
        "ORDER BY 1, 2"
    ).fetchall()
    counts = {}
    for schema, table in tables:
        question = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
        counts[f"{schema}.{table}"] = connection.execute(question).fetchone()[0]
    return counts


def _run(program: str, *words: str, stdin: Any = subprocess.DEVNULL) -> None:
    done = subprocess.run(
        [str(postgres.programs() / program), *words],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{program} failed: {done.stderr.strip()[-1500:]}")


# --- Writing a backup -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file of a backup, by what tells that it has not changed."""

    sha256: str
    size: int
    mtime_ns: int


def create(backups: Path, artifacts: Path, keep: int = 14) -> Path:
    """Write a backup, and remove the oldest beyond `keep`; returns its folder."""
    import psycopg

    backups.mkdir(parents=True, exist_ok=True)
    with _lock(backups):
        if _note(artifacts).exists():
            raise UserError(
                f"{artifacts}: a restore was interrupted; start the service, which finishes it"
            )
        for left in backups.glob(".*.partial"):  # of a backup that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        previous = _newest(backups)
        began = time.time()
        name = _free_name(backups)
        partial = backups / f".{name}.partial"
        partial.mkdir(mode=0o700)
        with psycopg.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            row = connection.execute("SELECT pg_export_snapshot(), version()").fetchone()
            assert row
            dump(partial / DUMP, snapshot=row[0])
            rows = count_rows(connection=connection)
            promised = _promised(connection)
        files = _copy_artifacts(artifacts, partial / ARTIFACTS, previous)
        folders = {str(parent) for path in files for parent in Path(path).parents}
        manifest = {
            "name": name,
            "began": began,
            "seconds": round(time.time() - began, 2),
            "server": row[1],
            "rows": rows,
            "missing": sorted(promised - folders - files.keys()),
            "database": {"sha256": file_sha256(partial / DUMP)},
            "artifacts": {path: vars(entry) for path, entry in sorted(files.items())},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        verify(partial)
        _sync(partial / MANIFEST)
        _sync(partial)
        final = backups / name
        partial.rename(final)
        _sync(backups)
        for old in _all(backups)[:-keep]:
            _remove(old)
    return final


def _promised(connection: Any) -> set[str]:
    """The artifact folders that the models which are READY have, where the service keeps them."""
    found = set()
    for table, condition in (("logged_models", "status = 2"), ("model_versions", "true")):
        column = "artifact_location" if table == "logged_models" else "storage_location"
        known = connection.execute(
            "SELECT 1 FROM information_schema.columns WHERE table_schema = 'public'"
            " AND table_name = %s AND column_name = %s",
            [table, column],
        )
        if not known.fetchone():
            continue  # before its first migration, or of an older MLflow
        for (location,) in connection.execute(f"SELECT {column} FROM {table} WHERE {condition}"):
            if location and location.startswith("mlflow-artifacts:/"):
                found.add(re.sub(r"^mlflow-artifacts:(//[^/]*)?/+", "", location).rstrip("/"))
    return found


def _copy_artifacts(source: Path, target: Path, previous: Path | None) -> dict[str, Entry]:
    known: dict[str, Entry] = {}
    if previous is not None:
        known = _entries(read_manifest(previous))
    target.mkdir(parents=True, mode=0o700)
    files: dict[str, Entry] = {}
    for path in _walk(source):
        name = path.relative_to(source).as_posix()
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            status = path.stat()
            old = known.get(name)
            if (
                old
                and previous
                and (old.size, old.mtime_ns) == (status.st_size, status.st_mtime_ns)
            ):
                os.link(previous / ARTIFACTS / name, copy)
                files[name] = old
                continue
            digest = _copy(path, copy)
        except FileNotFoundError:
            continue  # deleted meanwhile
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        files[name] = Entry(digest, copy.stat().st_size, status.st_mtime_ns)
    return files


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder; a link is neither followed nor kept, MLflow makes none."""
    if not folder.is_dir():
        return
    for root, names, files in os.walk(folder, followlinks=False):
        names.sort()
        for name in sorted(files):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in _walk(folder)}


# --- Reading one ----------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a backup says of itself; a `UserError` where the folder is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        return manifest
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: no backup, it has no readable {MANIFEST}; `make backups` lists those there "
            "are, `make backup` writes one"
        ) from None


def find(name: str, backups: Path) -> Path:
    """A backup by its path, or by its name among the backups; a `UserError` where it is none.

    It is a folder, or the dump that was written before a migration.
    """
    if not name:
        raise UserError("no backup is named; write FROM=…, a name that `make backups` lists")
    path = Path(name) if Path(name).exists() else backups / name
    if not (path.is_file() and path.suffix == ".dump"):
        read_manifest(path)
    return path


def _entries(manifest: dict[str, Any]) -> dict[str, Entry]:
    return {name: Entry(**entry) for name, entry in manifest["artifacts"].items()}


def verify(folder: Path) -> int:
    """Read a backup from end to end; a `UserError` names what is damaged. Returns its bytes.

    A file that the manifest names is one that is found in the backup's own folder, without
    following links: a name that leads elsewhere is none of them.
    """
    manifest = read_manifest(folder)
    try:
        entries = _entries(manifest)
        digest = manifest["database"]["sha256"]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: damaged; take another backup") from None
    wrong = []
    dumped = folder / DUMP
    if not dumped.is_file() or dumped.is_symlink() or file_sha256(dumped) != digest:
        wrong.append(DUMP)
    else:
        check_dump(dumped)
    present = _names(folder / ARTIFACTS)
    for name, entry in entries.items():
        if name not in present or file_sha256(folder / ARTIFACTS / name) != entry.sha256:
            wrong.append(name)
    wrong += sorted(present - entries.keys())
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UserError(f"{folder}: damaged or not of it: {some}; take another backup")
    files = (dumped, *(folder / ARTIFACTS / name for name in entries))
    return sum(path.stat().st_size for path in files)


# --- Restoring ------------------------------------------------------------------------------------


def restore(backup: Path, artifacts: Path, replace: bool = False) -> str:
    """Put the service back to a backup's state; returns a sentence on what was kept beside it.

    All is prepared beside what is there (a second database, a second folder) and checked: rows
    counted, every file's digest. Then a note says that the two are to take the place of what is
    there; it is the moment at which the restore has happened: a restore that was killed later is
    finished by `settle`, at the next start or restore. What is there is replaced only with
    `replace`, and even then kept under another name. The MLflow server must be stopped.

    A dump alone, as `migrate` writes it before a change, is a backup of the database: artifacts
    stay where they are.
    """
    import psycopg
    from psycopg import sql

    manifest = None if backup.is_file() else read_manifest(backup)
    with alone(artifacts):
        settle(artifacts)
        if manifest is None:
            check_dump(backup)
        else:
            verify(backup)
        database = os.environ["PGDATABASE"]
        _refuse_while_served(database)
        occupied = _occupied(artifacts)
        if occupied and not replace:
            raise UserError(
                f"the service is not empty ({occupied}): a restore would replace it; back it up, "
                "then repeat with REPLACE=1 (--replace), which keeps what is there under another "
                "name"
            )
        fresh, incoming = f"{database}_restoring", _beside(artifacts, "restoring")
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            _drop(connection, fresh)
            shutil.rmtree(incoming, ignore_errors=True)
            try:
                create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
                connection.execute(create.format(sql.Identifier(fresh)))
                _copy_rights(connection, database, fresh)
                source = backup if manifest is None else backup / DUMP
                _run("pg_restore", "--exit-on-error", f"--dbname={fresh}", str(source))
                if manifest is not None:
                    rows = count_rows(fresh)
                    if rows != manifest["rows"]:
                        tables = [name for name in rows if rows[name] != manifest["rows"].get(name)]
                        raise UserError(
                            f"{backup}: the database came back otherwise: {', '.join(tables)}"
                        )
                    _bring(backup / ARTIFACTS, incoming, _entries(manifest))
                _refuse_while_served(database)
            except BaseException:
                _drop(connection, fresh)
                shutil.rmtree(incoming, ignore_errors=True)
                raise
            stamp = _free_stamp(connection, database, artifacts)
        swap = {"database": database, "stamp": stamp, "keep": bool(occupied)}
        swap["artifacts"] = manifest is not None
        _write_note(artifacts, swap)
        return settle(artifacts)


def settle(artifacts: Path, superuser: str = "", password: str | None = None) -> str:
    """Finish the restore that a note tells of; nothing happens, and "" is returned, without one.

    Every step may have been done before. Without `superuser`, an address, the PG… variables count.
    """
    import psycopg

    note = _note(artifacts)
    if not note.exists():
        return ""
    swap = json.loads(note.read_text())
    database, stamp = swap["database"], swap["stamp"]
    fresh, aside = f"{database}_restoring", f"{database}_before_{stamp}"
    incoming, beside = _beside(artifacts, "restoring"), _beside(artifacts, f"before-{stamp}")
    with psycopg.connect(
        superuser, dbname="postgres", password=password, autocommit=True
    ) as connection:
        if _exists(connection, fresh):
            _exchange(connection, database, fresh, aside)
        if swap["artifacts"] and incoming.exists():
            if artifacts.exists() and beside.exists():
                artifacts.rmdir()  # made anew, and empty, by a start in between
            elif artifacts.exists():
                artifacts.rename(beside)
            incoming.rename(artifacts)
            _sync(artifacts.parent)
        if not swap["keep"]:
            _drop(connection, aside)
            shutil.rmtree(beside, ignore_errors=True)
    note.unlink()
    if not swap["keep"]:
        return "nothing was there before"
    kept = f"what was there before is kept: database {aside}"
    return f"{kept}, artifacts {beside.name}" if swap["artifacts"] else kept


def _exchange(connection: Any, database: str, fresh: str, aside: str) -> None:
    """Rename a database to `aside` and another to its name: both or none."""
    import psycopg
    from psycopg import sql

    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    for attempt in range(20):
        # Dashboards look at it all the time, and a database in use keeps its name.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)",
            [database, fresh],
        )
        try:
            with connection.transaction():
                for old, new in ((database, aside), (fresh, database)):
                    connection.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
            return
        except psycopg.errors.ObjectInUse:
            if attempt == 19:
                raise


def _beside(artifacts: Path, word: str) -> Path:
    return artifacts.with_name(f"{artifacts.name}.{word}")


def _note(artifacts: Path) -> Path:
    return _beside(artifacts, "restore.json")


def _write_note(artifacts: Path, swap: dict[str, Any]) -> None:
    partial = _beside(artifacts, "restore.partial")
    partial.write_text(json.dumps(swap))
    _sync(partial)
    partial.rename(_note(artifacts))
    _sync(artifacts.parent)


def _free_stamp(connection: Any, database: str, artifacts: Path) -> str:
    """The time, as part of a name that neither a database nor a folder has."""
    moment = datetime.now(UTC)
    while True:
        stamp = moment.strftime("%Y%m%d_%H%M%S")
        taken = _exists(connection, f"{database}_before_{stamp}")
        if not taken and not _beside(artifacts, f"before-{stamp}").exists():
            return stamp
        moment += timedelta(seconds=1)


def _exists(connection: Any, database: str) -> bool:
    question = "SELECT 1 FROM pg_database WHERE datname = %s"
    return connection.execute(question, [database]).fetchone() is not None


def _drop(connection: Any, database: str) -> None:
    from psycopg import sql

    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    connection.execute(drop.format(sql.Identifier(database)))


@contextmanager
def alone(artifacts: Path) -> Iterator[None]:
    """For the time of a block the only one that exchanges the artifacts of a service."""
    import fcntl

    number = os.open(artifacts.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{artifacts}: another restore is at work; wait for it") from None
        yield
    finally:
        os.close(number)


def _copy_rights(connection: Any, original: str, copy: str) -> None:
    """Let every role do with a database what it may with another: no dump holds that."""
    from psycopg import sql

    rights = connection.execute(
        "SELECT grantee::regrole::text, privilege_type, is_grantable, grantee = 0 FROM pg_database,"
        " aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = %s",
        [original],
    ).fetchall()
    target = sql.Identifier(copy)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target))
    for role, right, grantable, public in rights:
        connection.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(right),
                target,
                sql.SQL("PUBLIC") if public else sql.Identifier(role),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )


def _bring(source: Path, target: Path, entries: dict[str, Entry]) -> None:
    target.mkdir(parents=True, mode=0o750)
    present = _names(source)
    for name, entry in entries.items():
        path = target / name
        if name not in present:
            raise UserError(f"{source}: has no file {name!r}; take another backup")
        path.parent.mkdir(parents=True, exist_ok=True)
        if _copy(source / name, path) != entry.sha256:
            raise UserError(f"{source / name} changed while it was read; take another backup")
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _refuse_while_served(database: str) -> None:
    import psycopg

    with psycopg.connect(dbname="postgres") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = 'mlflow'",
            [database],
        ).fetchone()
    if row and row[0]:
        raise UserError(
            f"the MLflow server is running ({row[0]} connections to {database}): stop it first, "
            "`make restore` does so in Docker"
        )


def _occupied(artifacts: Path) -> str:
    """What a service holds beyond what it has when it is new, in words; empty if nothing."""
    rows = count_rows()
    found = []
    for table, usual in (("experiments", 1), ("runs", 0), ("registered_models", 0)):
        if rows.get(f"public.{table}", 0) > usual:
            found.append(f"{rows[f'public.{table}']} {table.replace('_', ' ')}")
    if rows.get("auth.users", 0) > 2:  # admin and metrics
        found.append(f"{rows['auth.users']} users")
    if any(True for _ in _walk(artifacts)):
        found.append(f"files in {artifacts}")
    return ", ".join(found)


# --- Folders --------------------------------------------------------------------------------------


def _all(backups: Path) -> list[Path]:
    """Every whole backup, oldest first."""
    found = [path for path in backups.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(path for path in found if (path / MANIFEST).exists())


def _newest(backups: Path) -> Path | None:
    whole = _all(backups)
    return whole[-1] if whole else None


def _free_name(backups: Path) -> str:
    moment = datetime.now(UTC)
    while (backups / (name := moment.strftime("%Y%m%dT%H%M%SZ"))).exists():
        moment += timedelta(seconds=1)
    return name


def _remove(folder: Path) -> None:
    # First no backup any more, then gone: half a one is never taken for a whole one.
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder)


@contextmanager
def _lock(backups: Path) -> Iterator[None]:
    import fcntl

    with (backups / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{backups}: another backup is being written; wait for it") from None
        yield


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# --- By the clock ---------------------------------------------------------------------------------


def next_time(times: str, now: datetime) -> datetime:
    """The next of some times of the day ("02:30,14:30", UTC) after a moment."""
    candidates = []
    for text in times.split(","):
        found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
        if not found:
            raise UserError(f"BACKUP_AT={times}: {text.strip()!r} is no time; write 02:30,14:30")
        hour, minute = int(found[1]), int(found[2])
        at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        candidates.append(at if at > now else at + timedelta(days=1))
    return min(candidates)


def metrics(backups: Path, artifacts: Path, failed: int) -> str:
    """What Prometheus asks for: the age and size of the last backup, the space of both disks."""
    whole = _all(backups)
    values: dict[str, float] = {"backups": len(whole), "backup_failures_total": failed}
    if whole:
        manifest = read_manifest(whole[-1])
        files = sum(entry["size"] for entry in manifest["artifacts"].values())
        values["backup_last_success_timestamp_seconds"] = manifest["began"]
        values["backup_last_duration_seconds"] = manifest["seconds"]
        values["backup_last_artifacts_bytes"] = files
        values["backup_last_database_bytes"] = (whole[-1] / DUMP).stat().st_size
        values["backup_last_missing_artifacts"] = len(manifest["missing"])
    for name, folder in (("artifacts", artifacts.parent), ("backups", backups)):
        usage = shutil.disk_usage(folder)
        values[f"{name}_filesystem_size_bytes"] = usage.total
        values[f"{name}_filesystem_free_bytes"] = usage.free
    lines = []
    for name, value in values.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE skinml_{name} {kind}", f"skinml_{name} {value:.17g}"]
    return "\n".join(lines) + "\n"


def schedule(backups: Path, artifacts: Path, keep: int, times: str, listen: str) -> None:
    """Write backups at the times of the day, and answer Prometheus; returns never."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    at = next_time(times, datetime.now(UTC))  # a mistake is told at the start
    failed = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, body = 200, metrics(backups, artifacts, failed)
            except (OSError, UserError) as error:
                status, body = 500, str(error)
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: asked every few seconds."""

    host, _, port = listen.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        print(f"the next backup: {at:%Y-%m-%d %H:%M} UTC", flush=True)
        # In short steps: a clock that is set, or a machine that slept, moves the moment.
        while datetime.now(UTC) < at:
            time.sleep(min(30.0, max(0.0, (at - datetime.now(UTC)).total_seconds())))
        try:
            print(_told(create(backups, artifacts, keep)), flush=True)
        except Exception as error:
            # The next one may succeed; the alert on the backup's age tells a person.
            failed += 1
            print(f"skinml: the backup failed: {error}", file=sys.stderr, flush=True)
        at = next_time(times, datetime.now(UTC))


# --- The command ----------------------------------------------------------------------------------


def _told(folder: Path) -> str:
    manifest = read_manifest(folder)
    size = sum(entry["size"] for entry in manifest["artifacts"].values())
    text = (
        f"{folder.name}: {manifest['rows'].get('public.runs', 0)} runs, "
        f"{len(manifest['artifacts'])} files, {size / 1e6:.1f} MB"
    )
    if manifest["missing"]:
        text += f"; MISSING in the service itself: {', '.join(manifest['missing'][:5])}"
    return text


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.service.backup",
        description="Back up the tracking service, or restore it. Meant for `make backup` and so "
        "on: the PG… variables say where the database is.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser("create", help="write a backup now")
    commands.add_parser("list", help="show the backups there are")
    commands.add_parser("schedule", help="write one at every time of BACKUP_AT, for ever")
    for name, text in (("verify", "read one from end to end"), ("restore", "restore one")):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "backup",
            help="its name in the backups' folder, or its path"
            + ("; also a dump from before a migration" if name == "restore" else ""),
        )
    command.add_argument("--replace", action="store_true", help="though the service is not empty")
    return _main(parser.parse_args(argv))


def _main(options: argparse.Namespace) -> int:
    # A copy of a backup is verified anywhere, where no service is.
    if options.command == "verify":
        folder = find(options.backup, Path(os.environ.get("SKINML_BACKUPS", "")))
        print(f"{folder.name} is whole: {verify(folder) / 1e6:.1f} MB")
        return 0
    if not {"SKINML_BACKUPS", "SKINML_ARTIFACTS"} <= os.environ.keys():
        raise UserError(
            "SKINML_BACKUPS and SKINML_ARTIFACTS are not set, which say where a service has its "
            "files; `make backup`, `make backups` and `make restore` set them"
        )
    backups = Path(os.environ["SKINML_BACKUPS"])
    artifacts = Path(os.environ["SKINML_ARTIFACTS"])
    keep = int(os.environ.get("BACKUP_KEEP") or 14)
    if keep < 1:
        raise UserError(f"BACKUP_KEEP={keep}: at least one is kept")
    if options.command == "list":
        print("\n".join(_told(folder) for folder in _all(backups)) or f"no backup in {backups}")
    elif options.command == "create":
        print(_told(create(backups, artifacts, keep)))
    elif options.command == "schedule":
        listen = os.environ["SKINML_METRICS_LISTEN"]
        schedule(backups, artifacts, keep, os.environ["BACKUP_AT"], listen)
    else:
        folder = find(options.backup, backups)
        kept = restore(folder, artifacts, options.replace)
        what = f"the database of {folder.name}" if folder.is_file() else _told(folder)
        print(f"restored {what}; {kept}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
