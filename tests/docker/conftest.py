"""The service in containers of its own: a compose project beside whatever else the engine runs."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from skinml.service import compose
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROJECT = "skinml-test"

# `make test-docker` runs these; `make test` does not.
collect_ignore_glob = [] if os.environ.get("SKINML_TEST_DOCKER") else ["test_*.py"]

CORE = {
    "postgres", "mlflow", "proxy", "prometheus", "postgres-exporter", "grafana", "backup",
}  # fmt: skip


class Project:
    """A copy of the checkout with an .env of its own, and the commands that a user has there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "COMPOSE_PROJECT_NAME": PROJECT}
        self.times: dict[str, float] = {}
        names = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(names, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(ROOT / ".venv")

    # --- Commands

    def run(self, *command: str, fails: bool = False, text_input: str = "") -> str:
        """What a command says on both outputs; the test fails if it does not end as expected."""
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            input=text_input,
        )
        self.times[" ".join(command)] = time.monotonic() - began
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}"
        return str(done.stdout)

    def make(self, *words: str, fails: bool = False) -> str:
        return self.run("make", *words, "--assume-old=.venv/.installed", fails=fails)

    def compose(self, *words: str, fails: bool = False) -> str:
        return self.run("docker", "compose", "--profile", "*", *words, fails=fails)

    def inside(self, service: str, *command: str) -> str:
        # Not by `docker compose exec`, which reads the project first: a second each time.
        return self.run("docker", "exec", f"{PROJECT}-{service}-1", *command)

    # --- What there is

    @cached_property
    def services(self) -> dict[str, Any]:
        """The services as Compose reads them, those of all profiles."""
        found: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))["services"]
        return found

    def container(self, service: str, number: int = 1) -> dict[str, Any]:
        name = f"{PROJECT}-{service}-{number}"
        found: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", name))
        return found[0]

    def wait_healthy(self, *services: str) -> None:
        def healthy() -> bool:
            # A service without a number is its first container.
            asked = [service.partition(" ") for service in services or sorted(CORE)]
            states = [self.container(name, int(n or 1))["State"] for name, _, n in asked]
            return all(state.get("Health", {}).get("Status") == "healthy" for state in states)

        wait_for(healthy, lambda: self.compose("ps", "--all"), pause=0.5)

    @property
    def secrets(self) -> dict[str, str]:
        _, required = compose.asked_variables(self.folder / "docker-compose.yml")
        return {name: compose.read_env(self.folder / ".env")[name] for name in required}

    def set(self, **variables: str) -> None:
        path = self.folder / ".env"
        text = path.read_text()
        for name, value in variables.items():
            text, found = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
            assert found == 1, name
        path.write_text(text)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def versions() -> list[str]:
    """What the service was run with, a line of a table each: engine, and images with stand-ins."""

    def ask(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    lines = [
        f"| Docker Engine | {ask('docker', 'version', '--format', '{{.Server.Version}}')} | |",
        f"| Docker Compose | {ask('docker', 'compose', 'version', '--short')} | |",
    ]
    standins = dict(
        line.removeprefix("test-docker: STAND-IN for ").split(": ", 1)
        for line in os.environ.get("SKINML_STANDINS_FOUND", "").splitlines()
    )
    for image in ask(
        "docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"
    ).splitlines():
        name, size = image.split()
        if name in standins or name.startswith("skinml-mlflow:"):
            lines.append(f"| `{name}` | {size} | {standins.get(name, '')} |")
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write what was run, with what and for how long, to the folder OUT of `make test-docker`."""
    out = os.environ.get("SKINML_TEST_DOCKER_OUT")
    if not out:
        return
    reports = [
        report
        for kind in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if getattr(report, "when", "") == "call" or kind == "skipped"
    ]
    load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
    text = [
        "# The service in containers",
        "",
        "Written by `make test-docker`. Load of the machine at the end: "
        f"{load} on {os.cpu_count()} cores.",
        "",
        "| | version or size | stand-in |",
        "| --- | --- | --- |",
        *versions(),
        "",
        "| test | | seconds |",
        "| --- | --- | --- |",
        *(f"| {r.nodeid.split('::')[-1]} | {r.outcome} | {r.duration:.1f} |" for r in reports),
        "",
    ]
    (ROOT / out).mkdir(parents=True, exist_ok=True)
    (ROOT / out / "result.md").write_text("\n".join(text))


@pytest.fixture(scope="session")
def project(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("checkout"))
    try:
        yield project
    finally:
        if request.session.testsfailed:
            print(project.compose("ps", "--all"), project.compose("logs", "--tail", "30"))
        took = {name: round(took) for name, took in project.times.items() if name[:4] == "make"}
        print("\nseconds of the last call of each:", json.dumps(took))
        project.compose("down", "--volumes", "--remove-orphans")
