"""Bring the database to what the server's version expects: a dump first, then the change.

Runs at every start before the server; changes nothing where nothing is to be changed. With
--rehearse the change is made to a copy, which is dropped afterwards.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError, run_command
from skinml.config import Parser
from skinml.service import database, postgres, restore

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


# How long PostgreSQL works at most on one statement of the server.
STATEMENT_SECONDS = 30


def migrate(store: str, auth: str, dumps: Path | None) -> list[str]:
    """Migrate the runs' schema and the users' schema; returns what was done, a line each.

    Before anything changes in a database that holds runs, it is dumped to the folder `dumps`.
    """
    from mlflow.server.auth.db import utils as auth_schema
    from mlflow.store.db import utils as schema

    done = []
    with _engine(store) as engine:
        head = schema._get_latest_schema_revision()
        empty = schema._is_empty_database(engine)
        found = schema._get_schema_version(engine)
        if empty:
            schema._initialize_tables(engine)
            done.append(f"made the tables, revision {head}")
        elif found != head:
            if dumps is not None:
                dump = dumps / f"before-migration-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
                database.dump(dump.with_suffix(".dump"), store)
                done.append(f"dumped the database to {dump.with_suffix('.dump')}")
            schema._upgrade_db(engine)  # what `mlflow db upgrade` calls
            done.append(f"migrated the runs from revision {found} to {head}")
        done += _keep_artifacts_in_place(engine)
    with _engine(auth) as engine:
        auth_schema.migrate_if_needed(engine, "head")
    return done


def _keep_artifacts_in_place(engine: "Engine") -> list[str]:
    """Let the database refuse an experiment whose artifacts would lie anywhere but in its folder.

    MLflow 3.17.2 takes a location from whoever makes an experiment, and then writes what is
    uploaded to it: with file:///… a plain user writes wherever the server may, with another
    experiment's folder into that.
    """
    import sqlalchemy

    text = sqlalchemy.text
    with engine.begin() as connection:
        if connection.execute(
            text("SELECT 1 FROM pg_constraint WHERE conname = 'skinml_artifacts_in_place'")
        ).first():
            return []
        proper = (
            "COALESCE(artifact_location, '') IN ('', 'mlflow-artifacts:/' || experiment_id::text)"
        )
        others = connection.execute(
            text(f"SELECT count(*) FROM experiments WHERE NOT {proper}")
        ).scalar()
        if others:
            return [
                f"WARNING: {others} experiments have artifacts elsewhere, so that the rule against "
                "it is not set; docs/service.md says what that means"
            ]
        connection.execute(
            text(
                f"ALTER TABLE experiments ADD CONSTRAINT skinml_artifacts_in_place CHECK ({proper})"
            )
        )
        return ["artifacts stay in their experiment's folder from now on"]


def settle_users(auth: str, passwords: dict[str, str]) -> list[str]:
    """Make the service's own users, `admin` among them, with the passwords that .env gives them.

    At every start: so .env is what counts, also after a restore on another machine, and a password
    that is lost is set by writing a new one there. All are admins: `metrics`, as whom Prometheus
    signs in, because MLflow 3.17.2 shows /metrics to nobody else.
    """
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(auth)
    done = []
    for name, password in passwords.items():
        if len(password) < 12:
            raise UserError(f"the password of {name} has {len(password)} letters; 12 are needed")
        if not store.has_user(name):
            store.create_user(name, password, is_admin=True)
            done.append(f"made the user {name}")
        elif not store.authenticate_user(name, password):
            store.update_user(name, password=password)
            done.append(f"set the password of {name} to that of .env")
    return done


def settle_readers(folder: Path, superuser: str) -> list[str]:
    """Give the roles that look at the tables their rights anew: a migration may make a table anew.

    `grafana-reader.sql` names them and the tables, from psql's own variables.
    """
    script = folder / "grafana-reader.sql"
    if not script.exists():
        return []
    done = subprocess.run(
        [str(postgres.programs() / "psql"), "--no-psqlrc", "--file", str(script), superuser],
        env={**os.environ, "PGPASSWORD": os.environ["POSTGRES_PASSWORD"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{script} failed: {done.stderr.strip()[-1500:]}")
    return ["set the rights of the roles that read"]


def rehearse(store: str, auth: str) -> list[str]:
    """Migrate a copy of the database, as its superuser, and drop the copy.

    Returns what would be done, and how many rows each table that changed had before and after.
    """
    import psycopg
    from psycopg import sql
    from sqlalchemy.engine import make_url

    copy = "mlflow_rehearsal"
    original = os.environ["PGDATABASE"]
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(copy))
        )
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(copy)))
    try:
        began = time.monotonic()
        database.copy_database(original, copy)
        before = database.count_rows(copy)
        addresses = [
            make_url(address)
            .set(username=os.environ["PGUSER"], database=copy)
            .render_as_string(hide_password=False)
            for address in (store, auth)
        ]
        done = migrate(addresses[0], addresses[1], None)
        after = database.count_rows(copy)
        changed = [
            f"{table}: {before.get(table, 0)} rows before, {after.get(table, 0)} after"
            for table in sorted(before.keys() | after.keys())
            if before.get(table, 0) != after.get(table, 0) and "alembic" not in table
        ]
        took = f"took {time.monotonic() - began:.1f} s on a copy, which is dropped now"
        return [*(done or ["nothing to migrate"]), *changed, took]
    finally:
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(copy))
            )


def limit_statements(superuser: str, seconds: int) -> None:
    """Have PostgreSQL end a statement of the server's role after so long; 0: never.

    One search held the others up for 39 s. Sessions that there are keep what they have.
    """
    import psycopg
    from psycopg import sql

    limit = sql.SQL("ALTER ROLE mlflow SET statement_timeout = {}")
    with psycopg.connect(superuser, password=os.environ["POSTGRES_PASSWORD"]) as connection:
        connection.execute(limit.format(sql.Literal(f"{seconds}s")))


@contextmanager
def _engine(address: str) -> Iterator["Engine"]:
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry

    engine: Any = create_sqlalchemy_engine_with_retry(address)
    try:
        yield engine
    finally:
        engine.dispose()


def auth_address() -> str:
    """The address of the users' schema, from the file that MLFLOW_AUTH_CONFIG_PATH names."""
    import configparser

    config = configparser.ConfigParser()
    path = os.environ["MLFLOW_AUTH_CONFIG_PATH"]
    if not config.read(path):
        raise UserError(f"MLFLOW_AUTH_CONFIG_PATH={path}: no such file")
    return config["mlflow"]["database_uri"]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.service.migrate", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on a copy of the database")
    options = parser.parse_args(argv)
    store, auth = os.environ["MLFLOW_BACKEND_STORE_URI"], auth_address()
    if options.rehearse:
        done = rehearse(store, auth)
    else:
        artifacts = Path(os.environ["SKINML_ARTIFACTS"])
        superuser, password = os.environ["SKINML_SUPERUSER"], os.environ["POSTGRES_PASSWORD"]
        # Without a note nothing is exchanged, and a start may meet a backup.
        unfinished = restore.restore_note(artifacts).exists()
        with restore.alone(artifacts, shared=not unfinished):
            finished = restore.settle(artifacts, superuser, password)
        done = [f"finished a restore that was interrupted; {finished}"] if finished else []
        limit_statements(superuser, 0)  # of a migration, and of the dump before it
        done += migrate(store, auth, Path(os.environ["SKINML_BACKUPS"]))
        passwords = {
            "admin": os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"],
            "metrics": os.environ["METRICS_PASSWORD"],
        }
        done += settle_users(auth, passwords)
        folder = Path(os.environ["SKINML_SQL"])
        done += settle_readers(folder, superuser)
        limit_statements(superuser, STATEMENT_SECONDS)
    print("\n".join(done) or "nothing to migrate")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
