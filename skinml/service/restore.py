"""Put the service back to a backup's state, or leave it as it was.

What takes the place of what is there is prepared beside it and checked; a note on the disk is the
moment at which the restore has happened. One that was killed later is finished by `settle`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError
from skinml.base.locks import take_lock
from skinml.service.backup_folder import (
    ARTIFACTS,
    DUMP,
    Entry,
    copy_file,
    entries_of,
    names_below,
    read_manifest,
    verify,
    walk_files,
)
from skinml.service.database import (
    check_dump,
    copy_rights,
    count_rows,
    database_exists,
    drop_database,
    run_program,
    sync_path,
)


def check_restore(
    backup: Path, artifacts: Path, replace: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """Refuse the restore of what is damaged, or into a service that is not empty.

    The server may run meanwhile. Returns the backup's manifest, None for a dump alone, and what the
    service holds, in words.
    """
    manifest = None if backup.is_file() else read_manifest(backup)
    if manifest is None:
        check_dump(backup)
    else:
        verify(backup)
    occupied = _occupied(artifacts)
    if occupied and not replace:
        raise UserError(
            f"the service is not empty ({occupied}): a restore would replace it; back it up, "
            "then repeat with REPLACE=1 (--replace), which keeps what is there under another name"
        )
    return manifest, occupied


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

    with alone(artifacts):
        settle(artifacts)
        database = os.environ["PGDATABASE"]
        _refuse_while_served(database)
        manifest, occupied = check_restore(backup, artifacts, replace)
        fresh, incoming = f"{database}_restoring", _beside(artifacts, "restoring")
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            drop_database(connection, fresh)
            shutil.rmtree(incoming, ignore_errors=True)
            try:
                create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
                connection.execute(create.format(sql.Identifier(fresh)))
                copy_rights(connection, database, fresh)
                source = backup if manifest is None else backup / DUMP
                run_program("pg_restore", "--exit-on-error", f"--dbname={fresh}", str(source))
                if manifest is not None:
                    rows = count_rows(fresh)
                    if rows != manifest["rows"]:
                        tables = [name for name in rows if rows[name] != manifest["rows"].get(name)]
                        raise UserError(
                            f"{backup}: the database came back otherwise: {', '.join(tables)}"
                        )
                    _bring(backup / ARTIFACTS, incoming, entries_of(manifest))
                _refuse_while_served(database)
            except BaseException:
                drop_database(connection, fresh)
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

    note = restore_note(artifacts)
    if not note.exists():
        return ""
    swap = json.loads(note.read_text())
    database, stamp = swap["database"], swap["stamp"]
    fresh, aside = f"{database}_restoring", f"{database}_before_{stamp}"
    incoming, beside = _beside(artifacts, "restoring"), _beside(artifacts, f"before-{stamp}")
    with psycopg.connect(
        superuser, dbname="postgres", password=password, autocommit=True
    ) as connection:
        if database_exists(connection, fresh):
            _exchange(connection, database, fresh, aside)
        if swap["artifacts"] and incoming.exists():
            if artifacts.exists() and beside.exists():
                artifacts.rmdir()  # made anew, and empty, by a start in between
            elif artifacts.exists():
                artifacts.rename(beside)
            incoming.rename(artifacts)
            sync_path(artifacts.parent)
        if not swap["keep"]:
            drop_database(connection, aside)
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


def restore_note(artifacts: Path) -> Path:
    return _beside(artifacts, "restore.json")


def _write_note(artifacts: Path, swap: dict[str, Any]) -> None:
    partial = _beside(artifacts, "restore.partial")
    partial.write_text(json.dumps(swap))
    sync_path(partial)
    partial.rename(restore_note(artifacts))
    sync_path(artifacts.parent)


def _free_stamp(connection: Any, database: str, artifacts: Path) -> str:
    """The time, as part of a name that neither a database nor a folder has."""
    moment = datetime.now(UTC)
    while True:
        stamp = moment.strftime("%Y%m%d_%H%M%S")
        taken = database_exists(connection, f"{database}_before_{stamp}")
        if not taken and not _beside(artifacts, f"before-{stamp}").exists():
            return stamp
        moment += timedelta(seconds=1)


@contextmanager
def alone(artifacts: Path, shared: bool = False) -> Iterator[None]:
    """For the time of a block the only one that exchanges the artifacts of a service.

    With `shared` they only stay in their place: for as many at once as need that.
    """
    try:
        number = os.open(artifacts.parent, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"{artifacts}: {error.strerror}: {artifacts.parent}, expected the folder that a "
            "service has its artifacts in; mend SKINML_ARTIFACTS"
        ) from None
    try:
        if take_lock(number, shared=shared) is False:
            other = "a restore is at work" if shared else "another restore is at work, or a backup"
            raise UserError(f"{artifacts}: {other}; wait for it")
        yield
    finally:
        os.close(number)


def _bring(source: Path, target: Path, entries: dict[str, Entry]) -> None:
    target.mkdir(parents=True, mode=0o750)
    present = names_below(source)
    for name, entry in entries.items():
        path = target / name
        if name not in present:
            raise UserError(f"{source}: has no file {name!r}; take another backup")
        path.parent.mkdir(parents=True, exist_ok=True)
        if copy_file(source / name, path) != entry.sha256:
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
    if any(True for _ in walk_files(artifacts)):
        found.append(f"files in {artifacts}")
    return ", ".join(found)
