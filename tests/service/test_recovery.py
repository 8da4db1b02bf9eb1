"""Migrations and restores of a real database, and what is there when one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import backup, backup_folder, database, restore
from skinml.service.migrate import settle_readers
from skinml.service.native import Native, main
from tests.conftest import surroundings
from tests.service.conftest import needs_service
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, needs_service]

ROOT = Path(__file__).parents[2]

# MLflow 2.22's: before logged models, spans, secrets, workspaces.
OLD = "0584bdc529eb"
RUNS = 300


class Service:
    """A service whose database runs, as its superuser sees it."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self.artifacts = native.data / "volumes" / "artifacts" / "artifacts"
        self.backups = native.data / "volumes" / "backups"

    def connect(self, role: str = "postgres", database: str = "mlflow", **options: Any) -> Any:
        import psycopg

        secrets = {"postgres": "POSTGRES_PASSWORD", "mlflow": "MLFLOW_DB_PASSWORD"}
        return psycopg.connect(
            host="127.0.0.1",
            port=self.native.ports["postgres", 5432],
            dbname=database,
            user=role,
            password=self.native.variables[secrets.get(role, f"{role.upper()}_DB_PASSWORD")],
            autocommit=True,
            **options,
        )

    def ask(self, question: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        with self.connect(database=database) as connection:
            cursor = connection.execute(question)
            return cursor.fetchall() if cursor.description else []

    def databases(self) -> set[str]:
        return {name for (name,) in self.ask("SELECT datname FROM pg_database", "postgres")}

    def revision(self) -> str:
        [(revision,)] = self.ask("SELECT version_num FROM public.alembic_version")
        return str(revision)

    def rows(self) -> dict[str, int]:
        with self.connect() as connection:
            counts = database.count_rows(connection=connection)
        return {name: count for name, count in counts.items() if "alembic" not in name and count}

    def rights(self) -> dict[str, set[str]]:
        """Who may do what with the database, its schemas and its tables."""
        found = self.ask(
            "SELECT 'database', unnest(datacl)::text FROM pg_database WHERE datname = 'mlflow'"
            " UNION ALL SELECT 'schema ' || nspname,"
            " unnest(coalesce(nspacl, acldefault('n', nspowner)))::text FROM pg_namespace"
            " WHERE nspname IN ('public', 'auth') UNION ALL SELECT oid::regclass::text,"
            " unnest(coalesce(relacl, acldefault('r', relowner)))::text FROM pg_class"
            " WHERE relnamespace::regnamespace::text IN ('public', 'auth') AND relkind = 'r'"
        )
        rights: dict[str, set[str]] = {}
        for name, right in found:
            rights.setdefault(name, set()).add(right)
        return rights

    def migrate(self, *words: str) -> int:
        name = "restore" if words else "migrate"
        return self.native.run(name, "python", "-m", "skinml.service.migrate", *words)

    def make_old(self) -> None:
        """Tables of an older MLflow, with rows."""
        import sqlalchemy
        from alembic import command
        from mlflow.store.db.utils import _get_alembic_config
        from mlflow.store.tracking.dbmodels.initial_models import Base

        port = self.native.ports["postgres", 5432]
        engine = sqlalchemy.create_engine(
            f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow",
            connect_args={"password": self.native.variables["MLFLOW_DB_PASSWORD"]},
        )
        Base.metadata.create_all(engine)
        config = _get_alembic_config("")
        with warnings.catch_warnings(), engine.connect() as connection:
            warnings.simplefilter("ignore")  # of MLflow's own tables
            config.attributes["connection"] = connection
            command.upgrade(config, OLD)
        engine.dispose()
        with self.connect("mlflow") as connection:
            connection.execute(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
                " VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active'),"
                " (1, 'old', 'mlflow-artifacts:/1', 'active')"
            )
            connection.execute(
                "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage,"
                " experiment_id) SELECT md5(n::text), 'run-' || n, 'FINISHED', n, 'active', 1"
                f" FROM generate_series(1, {RUNS}) AS n"
            )
            connection.execute(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
                " SELECT 'loss', 1.0 / step, step, run_uuid, step, false FROM runs,"
                " generate_series(1, 20) AS step"
            )
            connection.execute(
                "INSERT INTO params (key, value, run_uuid) SELECT 'seed', '1', run_uuid FROM runs"
            )
            connection.execute("INSERT INTO registered_models (name) VALUES ('old-model')")
            connection.execute(
                "INSERT INTO model_versions (name, version, current_stage, status)"
                " VALUES ('old-model', 1, 'None', 'READY')"
            )


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[Service]:
    """PostgreSQL alone, and in this process the variables that a restore has."""
    with surroundings(place) as monkeypatch, Native(place / "data").up(("postgres",)) as native:
        native._prepare("restore")
        for name, value in native.environment("restore").items():
            if name.startswith(("PG", "SKINML_")):
                monkeypatch.setenv(name, value)
        for name in ("POSTGRES_PASSWORD", "GRAFANA_DB_PASSWORD", "EXPORTER_DB_PASSWORD"):
            monkeypatch.setenv(name, native.variables[name])
        yield Service(native)


# --- Migrating a database that is not new ---------------------------------------------------------


@pytest.fixture(scope="module")
def old(service: Service) -> dict[str, int]:
    """The rows of a database of an older MLflow."""
    service.make_old()
    return service.rows()


def test_a_rehearsal_tells_what_would_be_and_changes_nothing(
    service: Service, old: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert service.migrate("--rehearse") == 0
    told = capfd.readouterr().out
    assert f"migrated the runs from revision {OLD} to " in told
    assert "s on a copy, which is dropped now" in told
    # What is not told kept its number of rows.
    assert "public.runs" not in told and "public.metrics" not in told
    assert service.databases() == {"mlflow", "postgres", "template0", "template1"}
    assert (service.revision(), service.rows()) == (OLD, old)
    assert not list(service.backups.glob("*.dump"))


def test_a_migration_that_is_killed_leaves_the_old_database_and_its_dump(
    service: Service, old: dict[str, int]
) -> None:
    command = [sys.executable, "-m", "skinml.service.migrate"]
    service.native._prepare("migrate")
    with service.connect() as holder, service.connect() as watcher:
        # One of its last steps but a few waits for this.
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE registered_models IN ACCESS SHARE MODE")
        process = subprocess.Popen(
            command, env=service.native.environment("migrate"), stdout=subprocess.DEVNULL
        )
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mlflow'"
            " AND wait_event_type = 'Lock'"
        )
        wait_for(lambda: watcher.execute(waiting).fetchone() != (0,), process=process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        holder.execute("ROLLBACK")
        gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mlflow'"
        wait_for(lambda: watcher.execute(gone).fetchone() == (0,))
    assert (service.revision(), service.rows()) == (OLD, old)
    [dump] = service.backups.glob("before-migration-*.dump")
    database.check_dump(dump)
    dump.unlink()


def test_a_migration_dumps_first_and_keeps_every_row_and_can_be_gone_back_from(
    service: Service, old: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    service.artifacts.mkdir(parents=True, exist_ok=True)
    (service.artifacts / "kept.txt").write_text("kept")
    assert service.migrate() == 0
    told = capfd.readouterr().out
    dumped, migrated, *_ = told.splitlines()
    assert dumped.startswith("dumped the database to ")
    assert migrated.startswith(f"migrated the runs from revision {OLD} to ")
    new, head = service.rows(), service.revision()
    assert head != OLD
    assert {name: new[name] for name in old} == old
    # The readers' grants, on tables that were made anew on the way.
    with service.connect("grafana") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (RUNS,)

    # Back: the name of the dump is enough. Artifacts stay; what was there is kept.
    [dump] = service.backups.glob("before-migration-*.dump")
    words = ("python", "-m", "skinml.service.backup", "restore", dump.name)
    assert service.native.run("restore", *words) == 2
    assert "the service is not empty" in capfd.readouterr().err
    assert service.native.run("restore", *words, "--replace") == 0
    assert "what was there before is kept: database mlflow_before_" in capfd.readouterr().out
    assert (service.revision(), service.rows()) == (OLD, old)
    assert (service.artifacts / "kept.txt").read_text() == "kept"
    [aside] = (name for name in service.databases() if name.startswith("mlflow_before_"))
    assert service.ask("SELECT version_num FROM public.alembic_version", aside) == [(head,)]
    service.ask(f"DROP DATABASE {aside}", "postgres")


# --- Restoring over what is there -----------------------------------------------------------------


def change(service: Service, state: str) -> None:
    """Bring database and artifacts to a state of that name."""
    with service.connect() as connection:
        connection.execute("UPDATE experiments SET name = %s WHERE experiment_id = 1", [state])
    service.artifacts.mkdir(parents=True, exist_ok=True)
    (service.artifacts / "1").mkdir(exist_ok=True)
    (service.artifacts / "1" / "state.txt").write_text(state)


def states(service: Service, database: str = "mlflow", folder: str = "artifacts") -> set[str]:
    """The states of database and artifacts: one where they fit."""
    [(name,)] = service.ask("SELECT name FROM experiments WHERE experiment_id = 1", database)
    return {name, (service.artifacts.with_name(folder) / "1" / "state.txt").read_text()}


def remove_kept(service: Service) -> None:
    import shutil

    for name in service.databases():
        if name.startswith("mlflow_before_"):
            service.ask(f"DROP DATABASE {name}", "postgres")
    for path in service.artifacts.parent.glob("artifacts.before-*"):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def saved(service: Service) -> Path:
    """A backup of the state `saved`."""
    if not service.ask("SELECT to_regclass('experiments')")[0][0]:
        service.make_old()
    port = service.native.ports["postgres", 5432]
    settle_readers(ROOT / "deploy/postgres", f"postgresql://postgres@127.0.0.1:{port}/mlflow")
    change(service, "saved")
    return backup.create(service.backups, service.artifacts)


def test_what_was_there_is_kept_and_the_rights_are_the_same(service: Service, saved: Path) -> None:
    change(service, "later")
    (service.artifacts / "1" / "new.txt").write_text("new")
    rights = service.rights()
    assert rights["database"] == {
        "postgres=CTc/postgres",
        "mlflow=Tc/postgres",
        "grafana=c/postgres",
        "exporter=c/postgres",
    }
    # While the server runs: what would be refused is refused, and nothing else happens.
    with service.connect("mlflow"):
        with pytest.raises(UserError, match="the service is not empty"):
            restore.check_restore(saved, service.artifacts)
        restore.check_restore(saved, service.artifacts, replace=True)
        with pytest.raises(UserError, match="the MLflow server is running"):
            restore.restore(saved, service.artifacts, replace=True)
    # A dashboard looks on, and neither stops the restore nor is asked.
    with service.connect("grafana"):
        with pytest.raises(UserError, match="the service is not empty"):
            restore.restore(saved, service.artifacts)
        assert states(service) == {"later"}
        told = restore.restore(saved, service.artifacts, replace=True)
    assert states(service) == {"saved"}
    assert not (service.artifacts / "1" / "new.txt").exists()
    assert service.rights() == rights
    [aside] = (name for name in service.databases() if name.startswith("mlflow_before_"))
    [beside] = service.artifacts.parent.glob("artifacts.before-*")
    assert told == f"what was there before is kept: database {aside}, artifacts {beside.name}"
    assert states(service, aside, beside.name) == {"later"}
    assert (beside / "1" / "new.txt").exists()
    assert service.databases() == {"mlflow", "postgres", "template0", "template1", aside}
    assert {path.name for path in service.artifacts.parent.iterdir()} == {
        "artifacts",
        beside.name,
    }
    remove_kept(service)


def test_a_damaged_dump_changes_nothing(service: Service, saved: Path, tmp_path: Path) -> None:
    change(service, "later")
    dump = tmp_path / "cut.dump"
    dump.write_bytes((saved / "database.dump").read_bytes()[:-5000])
    with pytest.raises(UserError, match="pg_restore failed"):
        restore.restore(dump, service.artifacts, replace=True)
    assert states(service) == {"later"}
    assert service.databases() == {"mlflow", "postgres", "template0", "template1"}


# A program that restores and kills itself: after the n-th time that something happened.
KILLED = """
import os, signal, sys
from pathlib import Path
from skinml.service import restore
what, times, name, artifacts = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
owner = Path if what == "rename" else restore
original = getattr(owner, what)
def counted(*arguments, **options):
    global times
    result = original(*arguments, **options)
    times -= 1
    if times == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, what, counted)
restore.restore(Path(name), artifacts, replace=True)
"""


@pytest.mark.parametrize(
    ("what", "times", "state"),
    [
        ("copy_rights", 1, "later"),  # an empty database beside
        ("_bring", 1, "later"),  # a full one, and all artifacts
        ("rename", 1, "saved"),  # the note
        ("_exchange", 1, "saved"),  # the databases
        ("rename", 2, "saved"),  # no folder of artifacts at all
        ("rename", 3, "saved"),  # both folders
    ],
)
def test_a_restore_that_is_killed_has_happened_or_not(
    what: str, times: int, state: str, service: Service, saved: Path
) -> None:
    change(service, "later")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, str(times), str(saved), str(service.artifacts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    note = service.artifacts.with_name("artifacts.restore.json")
    if note.exists():
        assert json.loads(note.read_text())["database"] == "mlflow"
        with pytest.raises(UserError, match="a restore was interrupted; start the service"):
            backup.create(service.backups, service.artifacts)
        if not service.artifacts.exists():
            service.artifacts.mkdir()  # as a start does
    # What the next start does, before the server.
    restore.settle(service.artifacts)
    assert states(service) == {state}
    if state == "saved":
        [aside] = (name for name in service.databases() if name.startswith("mlflow_before_"))
        [beside] = service.artifacts.parent.glob("artifacts.before-*")
        assert states(service, aside, beside.name) == {"later"}
        assert "mlflow_restoring" not in service.databases()
    remove_kept(service)
    # The restore of the next test meets what this one left behind.


def test_a_start_finishes_a_restore_that_was_killed(
    service: Service, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(service, "later")
    subprocess.run(
        [sys.executable, "-c", KILLED, "rename", "1", str(saved), str(service.artifacts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert states(service) == {"later"}
    assert service.migrate() == 0
    assert "finished a restore that was interrupted; what was" in capfd.readouterr().out
    assert states(service) == {"saved"}
    assert "mlflow_restoring" not in service.databases()
    assert not list(service.artifacts.parent.glob("artifacts.restor*"))
    remove_kept(service)


def test_two_restores_do_not_meet(service: Service, saved: Path) -> None:
    with (
        restore.alone(service.artifacts),
        pytest.raises(UserError, match="another restore is at work"),
    ):
        restore.restore(saved, service.artifacts, replace=True)


def test_a_stopped_service_is_backed_up_and_restored_as_it_is(
    service: Service, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No step `migrate` on the way: an older version could not start over a newer schema."""
    restore.restore(saved, service.artifacts, replace=True)
    assert service.revision() == OLD
    service.native.stop()
    data = ["--data", str(service.native.data)]
    assert main([*data, "backup"]) == 0
    newest = backup_folder.whole_backups(service.backups)[-1]
    assert newest != saved
    rows = backup_folder.read_manifest(newest)["rows"]
    assert rows["public.runs"] == RUNS and "public.logged_models" not in rows
    assert main([*data, "restore", saved.name, "--replace"]) == 0
    assert "restored" in capfd.readouterr().out
