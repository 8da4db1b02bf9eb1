"""Back up the service and restore it: the database and the artifacts as one consistent state.

The database is dumped first, the artifacts are copied afterwards. Artifacts are only ever added:
what a row promises (a finished upload, a model that is READY, a version) was on disk before the row
was written, so it is there when the copying starts. What arrives meanwhile is in the copy without a
row, and harms nobody. The other way round, a row of the dump could promise a file that the copy
missed. What `mlflow gc` deletes in between would be missed too: do not run it during a backup.
What a backup is stands in `skinml.service.backup_folder`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError, excerpt, run_command
from skinml.base.files import file_sha256
from skinml.config import Parser
from skinml.service.backup_folder import (
    ARTIFACTS,
    DUMP,
    MANIFEST,
    Entry,
    copy_file,
    find,
    free_name,
    known_entries,
    link_same,
    newest_backup,
    read_manifest,
    remove_backup,
    verify,
    walk_files,
    whole_backups,
)
from skinml.service.database import count_rows, dump, sync_path, told_in_one_line
from skinml.service.restore import alone, check_restore, restore, restore_note


def create(backups: Path, artifacts: Path, keep: int = 14) -> Path:
    """Write a backup, and remove the oldest beyond `keep`; returns its folder."""
    backups.mkdir(parents=True, exist_ok=True)
    # No restore exchanges the artifacts while they are copied, nor reads a backup that is removed.
    with _lock(backups), alone(artifacts, shared=True):
        if restore_note(artifacts).exists():
            raise UserError(
                f"{artifacts}: a restore was interrupted; start the service, which finishes it"
            )
        for left in backups.glob(".*.partial"):  # of a backup that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        previous = newest_backup(backups)
        began = time.time()
        name = free_name(backups)
        partial = backups / f".{name}.partial"
        partial.mkdir(mode=0o700)
        server, rows, promised = _save_database(partial / DUMP)
        files, linked = _copy_artifacts(artifacts, partial / ARTIFACTS, previous)
        folders = {str(parent) for path in files for parent in Path(path).parents}
        manifest = {
            "name": name,
            "began": began,
            "seconds": round(time.time() - began, 2),
            "server": server,
            "rows": rows,
            "missing": sorted(promised - folders - files.keys()),
            "database": {"sha256": file_sha256(partial / DUMP)},
            "artifacts": {path: vars(entry) for path, entry in sorted(files.items())},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        verify(partial, linked)
        sync_path(partial / MANIFEST)
        sync_path(partial)
        final = backups / name
        partial.rename(final)
        sync_path(backups)
        for old in whole_backups(backups)[:-keep]:
            remove_backup(old)
    return final


def _save_database(path: Path) -> tuple[str, dict[str, int], set[str]]:
    """Dump the database; returns its server, and rows and promised folders of the same moment."""
    import psycopg

    with told_in_one_line(), psycopg.connect() as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        row = connection.execute("SELECT pg_export_snapshot(), version()").fetchone()
        assert row
        dump(path, snapshot=row[0])
        return row[1], count_rows(connection=connection), _promised(connection)


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


def _copy_artifacts(
    source: Path, target: Path, previous: Path | None
) -> tuple[dict[str, Entry], set[str]]:
    """Bring every file of the service into a new backup, as a link where the last one has it.

    Returns what they are, and the names of the links: those were read, and are what they were.
    """
    known = known_entries(previous)
    target.mkdir(parents=True, mode=0o700)
    files: dict[str, Entry] = {}
    linked = set()
    damaged = []
    for path in walk_files(source):
        name = path.relative_to(source).as_posix()
        try:
            status = path.stat()
            old = known.get(name)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (
                old
                and previous
                and (old.size, old.mtime_ns) == (status.st_size, status.st_mtime_ns)
            ):
                same = link_same(previous / ARTIFACTS / name, target / name, old.sha256)
                if same:
                    files[name] = old
                    linked.add(name)
                    continue
                if same is False:
                    damaged.append(name)
            files[name] = _copy_anew(path, target / name, status)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and str(error.filename) == str(path):
                continue  # deleted meanwhile in the service; any other file that is gone is not
            raise UserError(
                f"{path}: not copied into the backup ({error.strerror}: {error.filename}); mend "
                "the disk, its space or the permissions, then repeat"
            ) from None
    if damaged:
        told = f"{len(damaged)} damaged or lost, {damaged[0]} among them"
        print(f"skinml: {previous}: {told}; copied anew", file=sys.stderr, flush=True)
    return files, linked


def _copy_anew(path: Path, copy: Path, status: os.stat_result) -> Entry:
    digest = copy_file(path, copy)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    return Entry(digest, copy.stat().st_size, status.st_mtime_ns)


@contextmanager
def _lock(backups: Path) -> Iterator[None]:
    import fcntl

    with (backups / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{backups}: another backup is being written; wait for it") from None
        yield


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
    whole = whole_backups(backups)
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
    """Write backups at the times of the day, and answer Prometheus, until SIGTERM.

    A backup that is being written then is given up; the next one removes what it left.
    """
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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


def _list(backups: Path) -> int:
    """Print a line for each backup; 1 where one is damaged."""
    damaged = 0
    for folder in (found := whole_backups(backups)):
        try:
            print(_told(folder))
        except (UserError, KeyError, TypeError, AttributeError):
            damaged += 1
            print(f"{folder.name}: DAMAGED, its {MANIFEST} cannot be read; restore another")
    if not found:
        print(f"no backup in {backups}")
    return 1 if damaged else 0


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
    command.add_argument(
        "--check", action="store_true", help="only say whether it would be refused; nothing changes"
    )
    return _main(parser.parse_args(argv))


def _kept() -> int:
    """How many backups stay, from BACKUP_KEEP."""
    text = os.environ.get("BACKUP_KEEP") or "14"
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(
            f"BACKUP_KEEP={excerpt(text)}: expected how many backups stay, 1 or more; write 14"
        )
    return number


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
    if options.command == "list":
        return _list(backups)
    elif options.command == "create":
        print(_told(create(backups, artifacts, _kept())))
    elif options.command == "schedule":
        listen = os.environ["SKINML_METRICS_LISTEN"]
        schedule(backups, artifacts, _kept(), os.environ["BACKUP_AT"], listen)
    else:
        folder = find(options.backup, backups)
        with told_in_one_line():
            if options.check:
                check_restore(folder, artifacts, options.replace)
                print(f"{folder.name} can be restored")
                return 0
            kept = restore(folder, artifacts, options.replace)
        what = f"the database of {folder.name}" if folder.is_file() else _told(folder)
        print(f"restored {what}; {kept}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
