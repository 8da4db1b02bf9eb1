"""The compose file: its schema, rules of safety, variables; and how it is read."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skinml.errors import UserError
from skinml.service import compose, pin
from skinml.service.native import Native, seconds

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
ASKED, REQUIRED = compose.asked_variables(FILE)

# With every secret and nothing else set: what a user gets who changes nothing.
DEFAULT = compose.read_compose(FILE, dict.fromkeys(REQUIRED, "secret"))
SERVICES: dict[str, Any] = DEFAULT["services"]


# --- The file -------------------------------------------------------------------------------------


def test_the_file_follows_the_compose_specification() -> None:
    import jsonschema

    schema = json.loads((ROOT / "tests" / "service" / "compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
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
    assert example.keys() == ASKED
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
    assert first.keys() == ASKED
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


@pytest.mark.skipif(not shutil.which("make"), reason="make is missing")
@pytest.mark.parametrize("status", [0, 2])
def test_the_service_runs_after_a_restore_that_was_refused(tmp_path: Path, status: int) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$2" >> {tmp_path}/asked\n[ "$2" != run ] || exit {status}\n'
    )
    docker.chmod(0o755)
    done = subprocess.run(
        ["make", "--assume-old=.venv/.installed", "restore", "SERVICE=docker", "FROM=2027"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "asked").read_text().split() == ["stop", "run", "up"], done.stderr
    assert (done.returncode == 0) == (status == 0)
