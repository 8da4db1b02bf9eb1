"""The service without Docker: the compose file's commands, settings and healthchecks on loopback.

Containers become processes, the names of services 127.0.0.1, volumes folders below one data
folder, a container's mounted settings a copy with these replaced. Everything else (commands,
variables, the order of starting, healthchecks, the signal that stops) is read from the file. One
file, as one class starts, watches and stops what it has read.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError, run_command
from skinml.base.locks import exclusive, lock_file
from skinml.base.processes import end_process, free_port, is_dead, process_name
from skinml.config import Parser
from skinml.service import backup_folder, compose, disk, postgres
from skinml.service.keeper import Group, line_of, line_of_gone

ROOT = Path(__file__).parents[2]
FILE = "docker-compose.yml"
DATA_VARIABLE = "SKINML_SERVICE_DIR"
SERVICES = ("postgres", "migrate", "mlflow")

# A dashboard's page or a proxy is not needed for the store; these can be run as well.
RUNNABLE = (*SERVICES, "proxy", "prometheus", "backup")


def data_folder() -> Path:
    """Where the native service keeps its data: $SKINML_SERVICE_DIR, else ./service-data."""
    return Path(os.environ.get(DATA_VARIABLE) or "service-data").resolve()


def seconds(duration: str) -> float:
    """A duration of a compose file (1m30s, 500ms) in seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration)
    return sum(float(number) * units[unit] for number, unit in parts)


class Native:
    """Some services of a compose file as processes of this machine."""

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        root: Path = ROOT,
        ports: Mapping[str, int] | None = None,
    ) -> None:
        """`port` is where MLflow listens; every other is free, or of a service that runs."""
        self.data = data
        self.root = root
        asked, required = compose.asked_variables(root / FILE)
        self.env_file = data / ".env"
        # Two that start at once in a fresh folder make one file of secrets.
        with exclusive(data / ".env.lock", f"{data}: another start is at work; waiting for it"):
            self.new_secrets = compose.make_env(self.env_file, root / ".env.example", required)
        # Of the caller's environment what the file asks for, as Compose does.
        given = {name: os.environ[name] for name in asked & set(os.environ)}
        variables = compose.read_env(self.env_file) | given
        first: dict[str, Any] = compose.read_compose(root / FILE, variables)["services"]
        known = dict(ports or {}) | ({"mlflow:5000": port} if port else {})
        self.ports = {
            (name, int(inside)): known.get(f"{name}:{inside}") or free_port()
            for name in RUNNABLE
            for inside in first[name].get("expose", [])
        }
        # Where the proxy listens, origins and redirects have to name as well.
        variables["SKINML_PORT"] = str(self.ports["proxy", 8443])
        variables["GRAFANA_PORT"] = str(self.ports["proxy", 8444])
        self.variables = variables
        self.services: dict[str, Any] = compose.read_compose(root / FILE, variables)["services"]
        # What is a tmpfs in a container. The server maps the files of its metrics into memory: on a
        # disk that is full a write to them would end it.
        memory = Path("/dev/shm")
        shared = os.access(memory, os.W_OK)
        self._memory = memory / _short_name(data) if shared else data / "tmp"
        self._lock: int | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Where MLflow answers."""
        return f"http://127.0.0.1:{self.ports['mlflow', 5000]}"

    # --- What stands for containers ----------------------------------------------------------

    def folders(self, name: str) -> dict[str, Path]:
        """What stands for each path that is mounted into a container."""
        service = self.services[name]
        places = {}
        for mount in service.get("tmpfs", []):
            target = mount.split(":")[0]
            places[target] = self._memory / name / target.strip("/")
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith((".", "/")):
                places[target] = self.data / "config" / name / target.strip("/")
            else:
                places[target] = self.data / "volumes" / source
        return places

    def adapt(self, name: str, text: str) -> str:
        """A text of a service with paths, names and ports of containers replaced by ours."""
        replaced = {path: str(folder) for path, folder in self.folders(name).items()}
        alternatives = []
        # All at once, so that nothing is replaced within what was put in.
        for path in sorted(replaced, key=len, reverse=True):
            alternatives.append(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])")
        for (other, inside), port in self.ports.items():
            here = {
                f"{other}:{inside}": f"127.0.0.1:{port}",
                # How Caddy and Prometheus ask for all containers of a name.
                f"dynamic a {other} {inside}": f"dynamic a 127.0.0.1 {port}",
                f"dns_sd_configs: [{{names: [{other}], type: A, port: {inside}}}]": (
                    f'static_configs: [{{targets: ["127.0.0.1:{port}"]}}]'
                ),
            }
            replaced |= here
            alternatives += [rf"(?<![\w.-]){re.escape(words)}(?!\d)" for words in here]
            if other == name:
                replaced[str(inside)] = str(port)
                alternatives.append(rf"(?<![\w.]){inside}(?![\w.])")
        replaced["0.0.0.0"] = "127.0.0.1"
        alternatives.append(r"0\.0\.0\.0")
        return re.sub("|".join(alternatives), lambda found: replaced[found[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a service; of ours only what finds programs and shows messages."""
        kept = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONWARNINGS")
        ours = {key: os.environ[key] for key in kept if key in os.environ}
        programs = os.pathsep.join(
            [str(Path(sys.executable).parent), str(postgres.programs()), ours.get("PATH", "")]
        )
        theirs = {
            key: self.adapt(name, str(value))
            for key, value in (self.services[name].get("environment") or {}).items()
        }
        # A container has these of its own.
        path = os.pathsep.join(p for p in (str(self.root), ours.get("PYTHONPATH")) if p)
        own = {"PATH": programs, "PYTHONPATH": path, "HOME": str(self.data / "tmp" / name)}
        if theirs.get("PGHOST") == "postgres":
            theirs |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres", 5432])}
        return {**ours, **own, **theirs}

    def command(self, name: str) -> list[str]:
        """The command line of a service: entrypoint and command."""
        service = self.services[name]
        whole: list[str] = []
        for part in (service.get("entrypoint") or [], service.get("command") or []):
            whole += shlex.split(part) if isinstance(part, str) else part
        whole = [self.adapt(name, word) for word in whole]
        if name == "postgres":
            # Of the image, which listens everywhere and keeps its socket in a tmpfs.
            folder = self.data / "tmp" / name
            whole += ["-c", "listen_addresses=127.0.0.1"]
            whole += ["-c", f"unix_socket_directories={_socket_folder(folder)}"]
        return whole

    def _prepare(self, name: str) -> None:
        for folder in (self.data / "tmp", self.data / "config", self._memory):
            shutil.rmtree(folder / name, ignore_errors=True)
        (self.data / "tmp" / name).mkdir(parents=True)
        self._memory.mkdir(mode=0o711, exist_ok=True)
        if self._memory.is_symlink() or self._memory.stat().st_uid != os.geteuid():
            raise UserError(f"{self._memory}: is somebody else's; remove it")
        for volume in self.services[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith((".", "/")):
                self._copy_adapted(name, self.root / source, self.folders(name)[target])
        for path, folder in self.folders(name).items():
            if not folder.is_relative_to(self.data / "config"):
                folder.mkdir(parents=True, exist_ok=True)
                if folder.parent == self.data / "volumes":
                    folder.chmod(0o700)
            # The images make these, so that a volume belongs to the user.
            if path == "/data":
                (folder / "artifacts").mkdir(exist_ok=True)

    def _copy_adapted(self, name: str, source: Path, target: Path) -> None:
        if source.is_dir():
            for path in source.iterdir():
                self._copy_adapted(name, path, target / path.name)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self.adapt(name, source.read_text()))

    # --- Running ---------------------------------------------------------------------------------

    @contextmanager
    def up(self, names: Iterable[str] = SERVICES) -> Iterator["Native"]:
        """Services of the file for the time of a block; see `start` and `stop`."""
        try:
            self.start(names)
            yield self
        finally:
            self.stop()

    def start(self, names: Iterable[str] = SERVICES) -> None:
        """Start services in the file's order, each once what it waits for is healthy."""
        if self._keeper is None:
            self._begin()
        for name in self._in_order(names):
            if name not in self.running:
                self._start(name)

    def _begin(self) -> None:
        self._lock, taken = lock_file(self.data / "service.lock", None)
        if taken:
            self._refuse_a_second()
        self._refuse_a_full_disk()
        path = os.pathsep.join(p for p in (str(self.root), os.environ.get("PYTHONPATH")) if p)
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "skinml.service.keeper"],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            start_new_session=True,
        )
        ports = {f"{name}:{inside}": port for (name, inside), port in self.ports.items()}
        told = {"process": process_name(), "address": self.address, "ports": ports}
        self._state.write_text(json.dumps(told))

    @property
    def _state(self) -> Path:
        return self.data / "service.json"

    def _refuse_a_second(self) -> None:
        other = running_service(self.data)
        where = f"running at {other['address']}" if other else "starting or ending"
        raise UserError(
            f"{self.data}: a service with this data is {where}; stop it, or name another folder "
            f"with {DATA_VARIABLE}"
        )

    def _refuse_a_full_disk(self) -> None:
        reserve = int(self.environment("mlflow")[disk.RESERVE])
        free = shutil.disk_usage(self.data).free
        if free < reserve:
            raise UserError(
                f"{self.data}: the disk is full, {free / 1e6:,.0f} MB are free; the service keeps "
                f"{reserve / 1e6:,.0f} MB ({disk.RESERVE}): make room, or name a folder elsewhere "
                f"with {DATA_VARIABLE}"
            )

    def _in_order(self, names: Iterable[str]) -> list[str]:
        wanted, ordered = set(names), list[str]()

        def add(name: str) -> None:
            for other in self.services[name].get("depends_on", {}):
                if other in wanted and other not in ordered:
                    add(other)
            if name not in ordered:
                ordered.append(name)

        for name in names:
            if name not in RUNNABLE:
                raise UserError(f"{name}: runs in Docker only; natively {', '.join(RUNNABLE)} do")
            add(name)
        return ordered

    def _start(self, name: str) -> None:
        self._prepare(name)
        environment = self.environment(name)
        user = None
        if name == "postgres":
            user = postgres.server_user()
            _let_through(self.data, user)
            postgres.own(Path(environment["PGDATA"]), user)
            socket_folder = _socket_folder(self.data / "tmp" / name)
            postgres.own(socket_folder, user)
            roles = self.root / "deploy" / "postgres" / "roles.sh"
            postgres.initialise(postgres.programs(), environment, roles, user)
        self._launch(name, environment, user)
        self._wait(name, environment)

    def _launch(self, name: str, environment: Mapping[str, str], user: str | None) -> None:
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = self.command(name)
        program = shutil.which(command[0], path=environment["PATH"])
        if not program:
            raise UserError(f"{command[0]}, which {name} runs, is not here; install it")
        # What is logged names users and what they asked for.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "ab") as out:
            process = subprocess.Popen(
                [program, *command[1:]],
                env=environment,
                cwd="/" if user else self.data / "tmp" / name,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.running[name] = process
        service = self.services[name]
        number = getattr(signal, service.get("stop_signal", "SIGTERM"))
        grace = seconds(service.get("stop_grace_period", "10s"))
        group = Group(process.pid, int(number), grace, process_name(process.pid))
        self._tell_keeper(line_of(group))

    def _tell_keeper(self, line: str) -> None:
        assert self._keeper and self._keeper.stdin
        self._keeper.stdin.write(line)
        self._keeper.stdin.flush()

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.data / "logs" / f"{name}.log"

    def healthy(self, name: str, environment: Mapping[str, str] | None = None) -> bool:
        """Whether the file's own healthcheck of a service passes now."""
        check = self.services[name]["healthcheck"]
        words = [self.adapt(name, word) for word in check["test"]]
        command = words[1:] if words[0] == "CMD" else ["/bin/sh", "-c", *words[1:]]
        try:
            done = subprocess.run(
                command,
                env=dict(environment or self.environment(name)),
                timeout=seconds(check.get("timeout", "30s")),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
        return done.returncode == 0

    def _wait(self, name: str, environment: Mapping[str, str]) -> None:
        process = self.running[name]
        check = self.services[name].get("healthcheck")
        if not check:  # a step that ends, as migrate does
            status = process.wait()
            # Its id is anybody's from here on.
            self._tell_keeper(line_of_gone(process.pid))
            if status != 0:
                raise UserError(f"{name} failed; the end of {self.log(name)}:\n{self._tail(name)}")
            del self.running[name]
            return
        patience = seconds(check.get("start_period", "0s"))
        patience += int(check.get("retries", 3)) * seconds(check.get("interval", "30s"))
        until = time.monotonic() + patience
        while not self.healthy(name, environment):
            if process.poll() is not None:
                raise UserError(f"{name} ended; the end of {self.log(name)}:\n{self._tail(name)}")
            if time.monotonic() > until:
                raise UserError(
                    f"{name} is not healthy after {patience:.0f} s; {self.log(name)}:\n"
                    f"{self._tail(name)}"
                )
            time.sleep(seconds(check.get("start_interval", "1s")))

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-20:])

    def run(self, name: str, *command: str) -> int:
        """Run a command of ours in the surroundings of a service, as `docker compose run` does."""
        self._prepare(name)
        environment = self.environment(name)
        program = shutil.which(command[0], path=environment["PATH"])
        assert program, command[0]
        try:
            return subprocess.run(
                [program, *command[1:]],
                env=environment,
                cwd=self.data / "tmp" / name,
                stdin=subprocess.DEVNULL,
            ).returncode
        finally:
            if name not in self.running:
                shutil.rmtree(self._memory / name, ignore_errors=True)
            with suppress(OSError):
                self._memory.rmdir()  # unless others use it

    def ended(self) -> str | None:
        """The name of a service that ended though nobody stopped it."""
        for name, process in self.running.items():
            if process.poll() is not None:
                return name
        return None

    def stop(self) -> None:
        """Stop every service, last one first; return when all are gone."""
        try:
            self._stop()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)

    def _stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin
        keeper.stdin.close()
        keeper.wait()
        self._state.unlink(missing_ok=True)
        for process in self.running.values():
            process.wait()
        self.running.clear()
        shutil.rmtree(self._memory, ignore_errors=True)


def _socket_folder(folder: Path) -> Path:
    """The folder of a server's socket, whose path has at most 107 letters with the socket's."""
    if len(str(folder)) < 80:
        return folder
    import tempfile

    return Path(tempfile.gettempdir()) / _short_name(folder)


def _short_name(folder: Path) -> str:
    return f"skinml-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _let_through(folder: Path, user: str | None) -> None:
    """Where another user runs the server, it must reach its folder: pass, not list."""
    if user is None:
        return
    folder.chmod(0o711)
    (folder / "volumes").chmod(0o711)
    (folder / "tmp").chmod(0o711)
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            raise UserError(
                f"{folder}: {user}, who runs PostgreSQL since it refuses root, cannot pass through "
                f"{parent}; name a folder elsewhere with {DATA_VARIABLE}, or do not run as root"
            )


def running_service(data: Path) -> dict[str, Any] | None:
    """What a running service of a data folder tells of itself: process, address, ports."""
    try:
        state: dict[str, Any] = json.loads((data / "service.json").read_text())
    except (OSError, ValueError):
        return None
    return None if is_dead(state["process"]) else state


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.service.native",
        description="The tracking service without Docker: PostgreSQL and MLflow on this machine.",
    )
    parser.add_argument("--data", type=Path, help=f"its folder (${DATA_VARIABLE}, ./service-data)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    serve = commands.add_parser("serve", help="start it, and stop it with Ctrl-C")
    serve.add_argument("--port", type=_port, default=5000, help="where MLflow listens (5000)")
    serve.add_argument(
        "--also", nargs="*", default=[], choices=RUNNABLE[3:], help="further services of the file"
    )
    commands.add_parser("stop", help="stop the one that runs from the folder")
    commands.add_parser("backup", help="write a backup, whether it runs or not")
    commands.add_parser("backups", help="list the backups")
    restore = commands.add_parser("restore", help="restore a backup; it must not run")
    restore.add_argument("backup", help="the name of a backup or of a dump, or its path")
    restore.add_argument("--replace", action="store_true", help="though it is not empty")
    commands.add_parser("rehearse", help="migrate a copy of the database, and drop the copy")
    options = parser.parse_args(argv)
    data = (options.data or data_folder()).resolve()
    if options.command == "serve":
        return _serve(data, options)
    if options.command == "stop":
        return _stop(data)
    if options.command == "restore":
        return _restore(data, options)
    if not (data / "volumes").is_dir():
        raise UserError(
            f"{data}: no service has its data there; `make serve` starts one, {DATA_VARIABLE} "
            "names another folder"
        )
    state = running_service(data)
    native = Native(data, ports=state["ports"] if state else None)
    if options.command == "backups":  # needs no database
        return native.run("backup", *_BACKUP, "list")
    command = {
        "backup": (*_BACKUP, "create"),
        "rehearse": ("python", "-m", "skinml.service.migrate", "--rehearse"),
    }[options.command]
    if state:
        return native.run("backup", *command)
    # Without the step `migrate`: what is to be rehearsed, or gone back from, must not happen here.
    with _ended_by_signals(), native.up(("postgres",)):
        return native.run("backup", *command)


_BACKUP = ("python", "-m", "skinml.service.backup")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 1 to 65535 (PORT=…)")
    return int(text)


def _restore(data: Path, options: argparse.Namespace) -> int:
    state = running_service(data)
    if state:
        raise UserError(
            f"{data}: the service is running at {state['address']}; stop it first (make stop), and "
            "start it again after the restore"
        )
    # Before anything starts: the name may be mistyped.
    folder = backup_folder.find(options.backup, data / "volumes" / "backups").resolve()
    replace = ("--replace",) if options.replace else ()
    with _ended_by_signals(), Native(data).up(("postgres",)) as native:
        return native.run("restore", *_BACKUP, "restore", str(folder), *replace)


def _stop(data: Path) -> int:
    state = running_service(data)
    if not state:
        raise UserError(
            f"{data}: no native service is running there; {DATA_VARIABLE} names another folder"
        )
    # Patience for the database's last checkpoint, beyond the grace of every service.
    end_process(state["process"], 180)
    print(f"stopped {state['address']}")
    return 0


def _serve(data: Path, options: argparse.Namespace) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            raise UserError(
                f"--port {options.port}: {error.strerror}; name another (PORT=…)"
            ) from None
    service = Native(data, options.port)
    print(f"starting; logs in {data / 'logs'}", flush=True)
    with _ended_by_signals(), service.up((*SERVICES, *options.also)):
        print(
            f"MLflow answers at {service.address} (stop with Ctrl-C). In another terminal:\n"
            f"  make user NAME=you SERVICE=native   makes a user and shows its password once\n"
            f"  grep ADMIN_PASSWORD {service.env_file}   shows that of the user admin",
            flush=True,
        )
        if "proxy" in options.also:
            print(f"the proxy: https://localhost:{service.ports['proxy', 8443]}", flush=True)
        while not (name := service.ended()):
            time.sleep(0.5)
        raise UserError(f"{name} ended, so all were stopped; why: {service.log(name)}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end us as Ctrl-C does: all is stopped on the way out."""
    # SIGINT too: a shell has the jobs of its background ignore it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    yield


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_command(main))
