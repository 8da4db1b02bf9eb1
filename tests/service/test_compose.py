"""The compose file: its schema, rules of safety, variables; and how it is read."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import compose, docker, pin
from skinml.service.native import Native, seconds

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
ASKED, REQUIRED = compose.asked_variables(FILE)
# Not within the file.
READ_BY_COMPOSE = {"COMPOSE_PROFILES"}

# With every secret and nothing else set: what a user gets who changes nothing.
DEFAULT = compose.read_compose(FILE, dict.fromkeys(REQUIRED, "secret"))
SERVICES: dict[str, Any] = DEFAULT["services"]


# --- The file -------------------------------------------------------------------------------------


def test_the_file_follows_the_compose_specification() -> None:
    from jsonschema.validators import validator_for

    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    validator = validator_for(schema)(schema)
    errors = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in validator.iter_errors(DEFAULT)]
    assert not errors
    # The schema is one that refuses.
    assert list(validator.iter_errors({"services": {"a": {"imagge": "x"}}}))


def test_the_file_is_clean_yaml() -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, "
    rules += "braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}"
    command = [sys.executable, "-m", "yamllint", "--strict", "-d", rules, str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def each_service(rule: Callable[..., None]) -> Callable[..., None]:
    wrapped: Callable[..., None] = pytest.mark.parametrize("name", SERVICES)(rule)
    return wrapped


@each_service
def test_an_image_has_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    version = image.split("@")[0].rpartition(":")[2]
    assert re.search(r"\d+\.\d+", version), image
    assert version != "latest"


@each_service
def test_a_service_may_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & service.keys()
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


@each_service
def test_a_service_has_limits_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= limits.keys()
    if service["restart"] == "no":  # a step, or a command of the user
        assert name in ("migrate", "restore", "train")
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        # A start does not wait for the next check of a service that has long been ready.
        assert seconds(service["healthcheck"]["start_interval"]) <= 2
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


@each_service
def test_only_the_proxy_publishes_and_on_loopback(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) == (name == "proxy")
    assert all(port["host_ip"] == "127.0.0.1" for port in ports)


@each_service
def test_only_the_proxy_and_training_reach_out(name: str) -> None:
    inner = {key for key, network in DEFAULT["networks"].items() if network.get("internal")}
    assert DEFAULT["networks"].keys() - inner == {"edge"}
    assert DEFAULT["networks"]["outside"]["internal"] == "true"
    assert ("edge" in SERVICES[name]["networks"]) == (name in ("proxy", "train"))


@pytest.mark.parametrize("name", ["migrate", "mlflow"])
def test_nothing_is_reported_to_mlflows_makers(name: str) -> None:
    assert SERVICES[name]["environment"]["MLFLOW_DISABLE_TELEMETRY"] == "true"


@each_service
def test_what_is_mounted_from_the_repository_cannot_be_written(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, *rest = volume.split(":")
        if source.startswith("."):
            assert rest[-1] == "ro", volume
        else:
            assert source in DEFAULT["volumes"], volume


def test_no_secret_is_on_a_command_line() -> None:
    secrets = {name: f"secret-of-{name}" for name in REQUIRED}
    for name, service in compose.read_compose(FILE, secrets)["services"].items():
        words = json.dumps([service.get(key) for key in ("command", "entrypoint", "healthcheck")])
        assert "secret-of" not in words, name


@pytest.mark.parametrize("secret", sorted(REQUIRED))
def test_without_a_secret_nothing_starts(secret: str) -> None:
    for missing in ({}, {secret: ""}):
        given = dict.fromkeys(REQUIRED - {secret}, "secret") | missing
        with pytest.raises(UserError, match=rf"^{secret} is missing in \.env"):
            compose.read_compose(FILE, given)


def test_the_secrets_are_those_that_the_example_leaves_empty() -> None:
    example = compose.read_env(EXAMPLE)
    assert all(not example[name] for name in REQUIRED)
    assert {name for name in ASKED if re.search("PASSWORD|SECRET", name)} - REQUIRED == {
        "CLIENT_PASSWORD",  # of a profile: empty is refused by MLflow
        "S3_SECRET_KEY",  # of a profile: the store does not start without
        "SMTP_PASSWORD",  # of somebody else's server, for who wants mail
    }


def test_the_example_names_every_variable_and_no_other() -> None:
    example = compose.read_env(EXAMPLE)
    assert example.keys() == ASKED | READ_BY_COMPOSE
    # Whoever copies it gets what the file does by itself.
    given = {name: value for name, value in example.items() if name not in REQUIRED}
    assert compose.read_compose(FILE, dict.fromkeys(REQUIRED, "secret") | given) == DEFAULT


def test_each_variable_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for block in "\n".join(lines).split("\n\n"):
        if re.search(r"^[A-Z]", block, re.MULTILINE):
            assert block.startswith("#") or lines.index(block.splitlines()[0]) > 0
    for number, line in enumerate(lines):
        if re.match(r"[A-Z0-9_]+=", line) and not lines[number - 1].startswith("#"):
            assert re.match(r"[A-Z0-9_]+=", lines[number - 1]), f"{line} has no comment"


def test_the_images_hold_the_versions_that_are_pinned() -> None:
    mlflow = re.search(r'"mlflow==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert mlflow
    for name in ("mlflow", "train"):
        assert SERVICES[name]["image"].endswith(f":{mlflow[1]}")
        lock = (ROOT / "deploy" / name / "requirements.lock").read_text()
        assert f"mlflow=={mlflow[1]}" in lock
        for block in re.split(r"\n(?=[a-z0-9])", lock):
            if re.match(r"[\w.-]+(\[.*\])?==", block):
                assert "--hash=sha256:" in block, block.splitlines()[0]
        dockerfile = (ROOT / "deploy" / name / "Dockerfile").read_text()
        assert "--require-hashes" in dockerfile
        assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == [SERVICES[name]["user"]]
    proxy = (ROOT / "deploy" / "proxy" / "Dockerfile").read_text()
    version = re.search(r"^FROM caddy:([\d.]+)-alpine", proxy, re.MULTILINE)
    assert version
    assert SERVICES["proxy"]["image"].endswith(f":{version[1]}")


# --- Reading it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET/${SET}", "value/value"),
        ("$$SET $${SET}", "$SET ${SET}"),
        ("${UNSET}", ""),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY-other}", ""),
        ("${SET:-other}", "value"),
        ("${UNSET:-${EMPTY:-${SET}}}x", "valuex"),
        ("${SET:+yes}${UNSET:+no}${EMPTY+set}", "yesset"),
        ("${SET:?needed}", "value"),
        ("${EMPTY?needed}", ""),
        ("${UNSET:-a:b-c?d}", "a:b-c?d"),
    ],
)
def test_variables_are_filled_in_as_compose_does(text: str, expected: str) -> None:
    assert compose.interpolate(text, {"SET": "value", "EMPTY": ""}) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${UNSET:?is needed}", "UNSET is needed"),
        ("${EMPTY:?is needed}", "EMPTY is needed"),
        ("${UNSET?}", "UNSET is not set"),
        ("${SET", "not closed"),
        ("a $ b", "write \\$\\$"),
        ("${SET!x}", "expected one of"),
        ("${1}", "no name"),
    ],
)
def test_what_compose_refuses_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compose.interpolate(text, {"SET": "value", "EMPTY": ""})


def test_an_env_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".env"
    assert compose.make_env(path, EXAMPLE, REQUIRED) == sorted(REQUIRED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = compose.read_env(path)
    assert len({first[name] for name in REQUIRED}) == len(REQUIRED)
    assert all(len(first[name]) >= 32 for name in REQUIRED)
    assert first.keys() == ASKED | READ_BY_COMPOSE
    assert compose.make_env(path, EXAMPLE, REQUIRED) == []
    assert compose.read_env(path) == first
    # A secret that is new in a later version is added, the others stay.
    path.write_text(path.read_text().replace("METRICS_PASSWORD=", "# METRICS_PASSWORD="))
    assert compose.make_env(path, EXAMPLE, REQUIRED) == ["METRICS_PASSWORD"]
    assert compose.read_env(path) | {"METRICS_PASSWORD": ""} == first | {"METRICS_PASSWORD": ""}


def test_an_env_file_is_read_with_quotes_and_comments(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# c\nA=1\n\nexport B='two # words'\nC=\"x\"\nD=y # why\nE=\n")
    assert compose.read_env(path) == {"A": "1", "B": "two # words", "C": "x", "D": "y", "E": ""}
    path.write_text("what is this\n")
    with pytest.raises(UserError, match=r"line 1: 'what is this' is not NAME=value"):
        compose.read_env(path)


# --- What stands for containers -------------------------------------------------------------------


@pytest.fixture
def native(tmp_path: Path) -> Native:
    return Native(tmp_path / "data", port=5999)


def test_the_native_command_is_the_files_with_places_replaced(native: Native) -> None:
    container = SERVICES["mlflow"]["command"]
    ours = native.command("mlflow")
    assert len(ours) == len(container)
    changed = {a: b for a, b in zip(container, ours, strict=True) if a != b}
    assert changed.pop(next(key for key in changed if key.startswith("https://"))).endswith(
        f"https://localhost:{native.ports['proxy', 8443]}"
    )
    assert changed == {
        "0.0.0.0": "127.0.0.1",
        "5000": "5999",
        "/data/artifacts": f"{native.data}/volumes/artifacts/artifacts",
        "/tmp/prometheus": f"{native.folders('mlflow')['/tmp']}/prometheus",
    }


def test_the_native_environment_is_the_files_with_places_replaced(native: Native) -> None:
    environment = native.environment("mlflow")
    port = native.ports["postgres", 5432]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == (
        f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow"
    )
    for name, value in SERVICES["mlflow"]["environment"].items():
        if name not in REQUIRED and "/" not in value and name != "PGPASSWORD":
            assert environment[name] == value
    assert environment["PGPASSWORD"] == native.variables["MLFLOW_DB_PASSWORD"]
    backup = native.environment("backup")
    assert (backup["PGHOST"], backup["PGPORT"]) == ("127.0.0.1", str(port))


def test_what_is_replaced_is_not_replaced_again(native: Native) -> None:
    """The data folder of a test lies below /tmp, which is a path of the container as well."""
    assert native.adapt("mlflow", "/tmp/x /tmpfs /data") == (
        f"{native.folders('mlflow')['/tmp']}/x /tmpfs {native.data}/volumes/artifacts"
    )
    assert native.adapt("mlflow", "150000 x5000 5000.5 :5000") == "150000 x5000 5000.5 :5999"


def test_all_containers_of_a_name_are_the_one_process(native: Native) -> None:
    """As the proxy's settings and Prometheus's ask for them, in containers of Docker's DNS."""
    port = native.ports["mlflow", 5000]
    proxy = native.adapt("proxy", (ROOT / "deploy" / "proxy" / "Caddyfile").read_text())
    assert f"dynamic a 127.0.0.1 {port} {{" in proxy
    scraped = native.adapt("prometheus", (ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert f'static_configs: [{{targets: ["127.0.0.1:{port}"]}}]' in scraped
    assert not re.search(r"dns_sd|(?<!job_name: )\bmlflow\b.*5000", proxy + scraped)


def test_durations() -> None:
    assert [seconds(text) for text in ("1m30s", "500ms", "2h", "5s")] == [90, 0.5, 7200, 5]


# --- Digests --------------------------------------------------------------------------------------


def test_pin_writes_the_digest_of_every_image_that_has_one() -> None:
    asked = []

    def digest_of(name: str) -> str:
        asked.append(name)
        return f"sha256:{len(asked):064x}"

    text = FILE.read_text()
    pinned = pin.pin(text, digest_of)
    from_registry = {s["image"] for s in SERVICES.values() if not s["image"].startswith("skinml-")}
    assert set(asked) == from_registry
    assert pin.pin(pinned, lambda _: "sha256:" + "0" * 64).count("@sha256:" + "0" * 64) == len(
        asked
    )
    assert (
        pin.pin("FROM caddy:2.1 AS x\n", lambda _: "sha256:1") == "FROM caddy:2.1@sha256:1 AS x\n"
    )
    for path in pin.FILES:
        assert (ROOT / path).exists()


def test_pin_needs_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="docker is not here"):
        pin.ask_registry("caddy:2.11.4")


# --- The proxy's settings -------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is missing: apt-get install caddy")
def test_the_proxys_settings_are_valid(tmp_path: Path) -> None:
    command = ["caddy", "validate", "--adapter", "caddyfile", "--config"]
    done = subprocess.run(
        [*command, str(ROOT / "deploy" / "proxy" / "Caddyfile")],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- Docker, as make asks it ----------------------------------------------------------------------

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is missing")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `docker` on the PATH that a piece of shell answers for; what it was told is kept."""

    def install(answers: str) -> Path:
        docker = tmp_path / "docker"
        docker.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in\n{answers}\nesac\n'
        )
        docker.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "asked"

    return install


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--assume-old=.venv/.installed", "SERVICE=docker", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@needs_make
@pytest.mark.parametrize(
    ("fails", "asked"),
    [
        ("nothing", ["run", "stop", "run", "up"]),
        ("*--check", ["run"]),  # what is refused is so while the service runs
        ("*restore*2027", ["run", "stop", "run", "up"]),  # and what fails leaves it running
    ],
)
def test_the_service_runs_after_a_restore_that_did_not_come_about(
    stand_in: Callable[[str], Path], fails: str, asked: list[str]
) -> None:
    told = stand_in(f"{fails}) exit 2;;")
    done = make("restore", "FROM=2027")
    lines = told.read_text().splitlines()
    assert [line.split()[1] for line in lines] == asked, done.stderr
    # Whoever has connections to the database, which is exchanged.
    assert all({"mlflow", "pgbouncer"} < {*line.split()} for line in lines if " stop " in line)
    assert (done.returncode == 0) == (fails == "nothing")


@needs_make
def test_down_stops_the_profiles_as_well(stand_in: Callable[[str], Path]) -> None:
    told = stand_in("")
    assert make("down").returncode == 0
    assert told.read_text() == "compose --profile * down --remove-orphans\n"


ANSWERS = """"compose version"*) echo 2.26.1-4;;
"version"*) echo 26.1.5+dfsg1;;
*config*) echo '{"networks": {"app": {"name": "x_app", "internal": true},';
  echo '"edge": {"name": "x_edge"}}}';;
"network inspect"*x_app) echo true;;
"network inspect"*x_edge) echo false;;"""


@pytest.mark.parametrize(
    ("said", "instead", "reason"),
    [
        ("echo 2.26.1-4", "exit 1", "Docker Compose is not here"),
        ("echo 2.26.1-4", "echo v2.20.1", r"Compose v2.20.1 is too old: 2.20.2 or later is needed"),
        ("echo 26.1.5+dfsg1", "echo 24.0.9", r"Engine 24.0.9 is too old: 25.0 or later is needed"),
        (
            "echo 26.1.5+dfsg1",
            "echo no socket >&2; exit 1",
            r"no Docker engine answers \(no socket",
        ),
    ],
)
def test_a_docker_that_is_too_old_is_refused_before_anything_starts(
    stand_in: Callable[[str], Path], said: str, instead: str, reason: str
) -> None:
    told = stand_in(ANSWERS.replace(said, instead))
    with pytest.raises(UserError, match=reason):
        docker.main()
    assert "down" not in told.read_text()
    assert "config" not in told.read_text()


def test_a_docker_that_does_not_answer_is_not_waited_for(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = stand_in(ANSWERS.replace("echo 26.1.5+dfsg1", "exec sleep 600"))
    monkeypatch.setattr(docker, "_PATIENCE", 2.0)
    with pytest.raises(UserError, match="docker version did not answer within 2 s: restart the"):
        docker.main()
    assert "config" not in told.read_text()


def test_networks_are_made_anew_where_open_and_closed_changed(
    stand_in: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    told = stand_in(ANSWERS)
    docker.main()
    assert "down" not in told.read_text()
    # One that there is not yet is none of them.
    stand_in(
        ANSWERS.replace("x_edge) echo false", "x_edge) exit 1").replace("echo true", "echo false")
    )
    docker.main()
    assert told.read_text().splitlines()[-1] == "compose --profile * down --remove-orphans"
    said = capfd.readouterr().out
    assert "network x_app was open to the outside and is to be closed" in said
    assert "x_edge" not in said


def test_an_image_is_built_by_one_service() -> None:
    builders = [service["image"] for service in SERVICES.values() if "build" in service]
    assert len(builders) == len(set(builders))
    for name, service in SERVICES.items():
        if service["image"].startswith("skinml-"):
            assert service["image"] in builders
            # No registry is asked for what only is here.
            assert "build" in service or service["pull_policy"] == "never", name


# Imports what the image runs, while every package that is here and not in the image's lock is not.
WITHOUT_THE_REST = """
import importlib.metadata, re, sys
lock = open("deploy/mlflow/requirements.lock").read()
locked = {name.lower() for name in re.findall(r"^([\\w.-]+)(?:\\[.*\\])?==", lock, re.MULTILINE)}
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
others = {
    module
    for module, names in importlib.metadata.packages_distributions().items()
    if not {plain(name) for name in names} & (locked | {"skinml", "setuptools"})
}
assert {"scipy", "pyarrow"} <= others and "mlflow" not in others

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Absent())
import mlflow.server.fastapi_app, mlflow.server.auth.db.utils, mlflow.store.db.utils
from skinml.service import app, backup, guard, migrate, signin, ui, user
"""


@pytest.mark.slow
def test_the_images_lock_holds_all_that_the_server_imports() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_THE_REST]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
