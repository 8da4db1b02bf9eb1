"""The service's PostgreSQL database: dumped, copied, counted."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError, first_line
from skinml.service import postgres


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
    run_program("pg_dump", *words)
    check_dump(partial)
    sync_path(partial)
    partial.replace(path)


def check_dump(path: Path) -> None:
    """Read a dump to its end, every block unpacked."""
    run_program("pg_restore", "--file=/dev/null", str(path))


def copy_database(original: str, copy: str) -> None:
    """Copy what a database holds into another that is empty."""
    command = [str(postgres.programs() / "pg_dump"), "--format=custom", "--dbname", original]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
        run_program("pg_restore", "--exit-on-error", "--dbname", copy, stdin=source.stdout)
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


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turn a database that does not answer, or ends meanwhile, into a `UserError`."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise UserError(
            f"the database: {first_line(error)}; expected one that runs where PGHOST and PGPORT "
            "say: start it, or set them"
        ) from None


def run_program(program: str, *words: str, stdin: Any = subprocess.DEVNULL) -> None:
    done = subprocess.run(
        [str(postgres.programs() / program), *words],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{program} failed: {done.stderr.strip()[-1500:]}")


def database_exists(connection: Any, database: str) -> bool:
    question = "SELECT 1 FROM pg_database WHERE datname = %s"
    return connection.execute(question, [database]).fetchone() is not None


def drop_database(connection: Any, database: str) -> None:
    from psycopg import sql

    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    connection.execute(drop.format(sql.Identifier(database)))


def copy_rights(connection: Any, original: str, copy: str) -> None:
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


def sync_path(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
