"""The service as the compose file describes it, run natively: health, users, attacks, disasters."""

import base64
import hashlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skinml.errors import UserError
from skinml.service import backup
from skinml.service.native import Native, main, running_service
from skinml.service.user import call, make_user
from tests.conftest import surroundings
from tests.service.conftest import needs_caddy, needs_service

pytestmark = [pytest.mark.slow, needs_service, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STEPS = 40


class Team:
    """A service, and who uses it."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self.passwords: dict[str, str] = {"admin": native.variables["MLFLOW_AUTH_ADMIN_PASSWORD"]}

    def add(self, name: str) -> None:
        self.passwords[name] = make_user(self.native.address, self.passwords["admin"], name)

    def ask(self, user: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call(self.native.address, user, self.passwords[user], method, path, body)

    def token(self, user: str) -> str:
        return base64.b64encode(f"{user}:{self.passwords[user]}".encode()).decode()

    def sign_in(self, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
        """What a user sets: three variables."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.native.address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", self.passwords[user])


@pytest.fixture(scope="module")
def team(place: Path) -> Iterator[Team]:
    """The service, with alice, who logged runs and a model, and mallory, who may nothing of it."""
    with surroundings(place) as monkeypatch:
        monkeypatch.setenv("SKINML_MAX_BODY", "20MB")
        monkeypatch.setenv("MLFLOW_WORKERS", "1")
        native = Native(place / "data")
        extra = [name for name in ("proxy",) if shutil.which("caddy")]
        if shutil.which("prometheus") and (ROOT / "deploy/prometheus/prometheus.yml").exists():
            extra.append("prometheus")
        try:
            native.start(("postgres", "migrate", "mlflow", "backup", *extra))
            team = Team(native)
            for name in ("alice", "mallory"):
                team.add(name)
            team.sign_in(monkeypatch, "alice")
            with warnings.catch_warnings():
                # Importing mlflow.pyfunc warns of MLflow's own types.
                warnings.simplefilter("ignore")
                log_runs(place)
            yield team
        finally:
            native.stop()


def log_runs(folder: Path) -> None:
    """Two runs with curves, parameters, artifacts of all sizes; a model of two versions."""
    import mlflow

    code = folder / "model.py"
    code.write_text(
        "import mlflow\n\n\nclass Echo(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input: list[str]) -> list[str]:\n"
        "        return model_input\n\n\nmlflow.models.set_model(Echo())\n"
    )
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("alices")
    client.set_experiment_tag(experiment, "mlflow.note.content", "# a note")
    # MLflow remembers the experiment beyond this module otherwise.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", experiment)
        for seed in (1, 2):
            with mlflow.start_run(run_name=f"run-{seed}") as run:
                mlflow.log_params({"seed": seed, "model": "mobilenetv2"})
                for step in range(STEPS):
                    mlflow.log_metrics({"loss": 1 / (step + seed), "acc": step / STEPS}, step=step)
                (folder / "weights.bin").write_bytes(os.urandom(3_000_000))
                (folder / "empty").touch()
                mlflow.log_artifact(str(folder / "weights.bin"), "deep/er")
                mlflow.log_artifact(str(folder / "empty"))
                mlflow.log_text("ä ö ü\n", "text/ümläut.txt")
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(code),
                    pip_requirements=["mlflow"],
                    registered_model_name="alices-model",
                )
            assert client.get_run(run.info.run_id).info.status == "FINISHED"
    client.set_registered_model_alias("alices-model", "champion", "2")


def everything(folder: Path) -> dict[str, Any]:
    """All that a user sees of the service, bytes as digests."""
    import mlflow

    client = mlflow.MlflowClient()
    found: dict[str, Any] = {}
    for experiment in client.search_experiments():
        found[f"experiment {experiment.name}"] = dict(experiment)
        for run in client.search_runs([experiment.experiment_id]):
            found[f"run {run.info.run_id}"] = run.to_dictionary()
            for key in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, key)
                found[f"curve {run.info.run_id} {key}"] = [dict(point) for point in history]
            local = folder / run.info.run_id
            local.mkdir(parents=True)
            client.download_artifacts(run.info.run_id, "", str(local))
            found |= digests(local, "artifact")
        for logged in client.search_logged_models([experiment.experiment_id]):
            found[f"logged model {logged.model_id}"] = logged.to_dictionary()
    for model in client.search_registered_models():
        found[f"registered {model.name}"] = (model.aliases, model.tags, model.creation_timestamp)
        for version in client.search_model_versions(f"name = '{model.name}'"):
            found[f"version {model.name} {version.version}"] = dict(version)
            local = folder / f"{model.name}-{version.version}"
            uri = f"models:/{model.name}/{version.version}"
            mlflow.artifacts.download_artifacts(uri, dst_path=str(local))
            found |= digests(local, "model file")
    return found


def digests(folder: Path, kind: str) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        f"{kind} {path.relative_to(folder.parent)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# --- It runs as described -------------------------------------------------------------------------


def test_every_service_is_healthy_by_the_files_own_check(team: Team) -> None:
    assert {"postgres", "mlflow", "backup"} <= team.native.running.keys()
    for name in team.native.running:
        assert team.native.healthy(name), name
    told = running_service(team.native.data)
    assert told
    assert told["address"] == team.native.address


def test_mlflow_runs_with_the_files_command_line(team: Team) -> None:
    import psutil

    words = psutil.Process(team.native.running["mlflow"].pid).cmdline()
    wanted = team.native.command("mlflow")
    assert words[-len(wanted) + 1 :] == wanted[1:]
    assert not any(secret in " ".join(words) for secret in team.passwords.values())


def test_what_is_kept_is_for_the_owner_only(team: Team) -> None:
    assert team.native.env_file.stat().st_mode & 0o077 == 0
    for volume in ("artifacts", "postgres", "backups"):
        folder = team.native.data / "volumes" / volume
        assert folder.stat().st_mode & 0o077 == 0, volume


def test_a_second_service_on_the_same_data_is_refused(team: Team) -> None:
    with pytest.raises(UserError, match="a service with this data is running at http://127"):
        Native(team.native.data).start(("postgres",))


def test_roles_have_what_they_need_and_no_more(team: Team) -> None:
    native = team.native

    import psycopg

    def connect(role: str, secret: str) -> Any:
        return psycopg.connect(
            host="127.0.0.1",
            port=native.ports["postgres", 5432],
            dbname="mlflow",
            user=role,
            password=native.variables[secret],
        )

    with connect("mlflow", "MLFLOW_DB_PASSWORD") as connection:
        role = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'mlflow'"
        ).fetchone()
        assert role == (False, False, False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect("mlflow", "METRICS_PASSWORD")
    if not (ROOT / "deploy/postgres/grafana-reader.sql").exists():
        return  # the dashboards bring their roles
    with connect("grafana", "GRAFANA_DB_PASSWORD") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        with pytest.raises(psycopg.Error, match="permission denied for schema auth"):
            connection.execute("SELECT * FROM auth.users")


# --- Attacks --------------------------------------------------------------------------------------


def test_without_the_right_password_there_is_nothing(team: Team) -> None:
    paths = (
        *("/", "/metrics", "/graphql", "/signup", "/get-artifact?path=x&run_uuid=y", "/version"),
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/api/2.0/mlflow/users/list",
        "/api/3.0/mlflow/traces/x",
    )
    answers = {}
    for user, password in (("", ""), ("admin", "password1234"), ("nobody", "x"), ("alice", "")):
        for path in paths:
            status, _ = call(team.native.address, user, password, "GET", path)
            answers[user, path] = status
    port = team.native.ports["mlflow", 5000]
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for path in paths:  # no header at all
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            answers["no header", path] = response.status
    assert {key: status for key, status in answers.items() if status != 401} == {}


def refused(team: Team, requests: list[tuple[str, str, Any]]) -> list[str]:
    """What mallory asked for and was not refused."""
    found = []
    for method, path, body in requests:
        status, answer = team.ask("mallory", method, path, body)
        if not 400 <= status < 500:
            found.append(f"{method} {path} {str(body)[:60]}: {status} {str(answer)[:100]}")
    return found


def test_a_plain_user_reaches_nothing_of_another(team: Team) -> None:
    api = "/api/2.0/mlflow"
    _, answer = team.ask("alice", "GET", f"{api}/experiments/get-by-name?experiment_name=alices")
    experiment = answer["experiment"]["experiment_id"]
    _, answer = team.ask("alice", "POST", f"{api}/runs/search", {"experiment_ids": [experiment]})
    run = answer["runs"][0]["info"]["run_id"]
    files = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts"
    grant = {"username": "mallory", "resource_type": "experiment", "resource_id": "*"}
    assert not refused(
        team,
        [
            ("GET", f"{api}/experiments/get?experiment_id={experiment}", None),
            ("GET", f"{api}/runs/get?run_id={run}", None),
            ("GET", f"{api}/metrics/get-history?run_id={run}&metric_key=loss", None),
            ("GET", f"{api}/artifacts/list?run_id={run}", None),
            ("GET", f"/get-artifact?run_uuid={run}&path=empty", None),
            ("GET", f"{files}/deep/er/weights.bin", None),
            ("GET", f"/api/2.0/mlflow-artifacts/artifacts?path={experiment}/{run}", None),
            ("PUT", f"{files}/mine.txt", {}),
            ("DELETE", f"{files}/empty", None),
            ("POST", f"{api}/runs/log-metric", {"run_id": run, "key": "x", "value": 1}),
            ("POST", f"{api}/runs/log-batch", {"run_id": run, "tags": []}),
            ("POST", f"{api}/runs/set-tag", {"run_id": run, "key": "x", "value": "1"}),
            ("POST", f"{api}/runs/delete", {"run_id": run}),
            ("POST", f"{api}/runs/create", {"experiment_id": experiment}),
            ("POST", f"{api}/experiments/delete", {"experiment_id": experiment}),
            ("GET", f"{api}/registered-models/get?name=alices-model", None),
            ("GET", f"{api}/model-versions/get?name=alices-model&version=1", None),
            ("GET", f"{api}/model-versions/get-download-uri?name=alices-model&version=1", None),
            ("GET", "/model-versions/get-artifact?name=alices-model&version=1&path=MLmodel", None),
            (
                "POST",
                f"{api}/registered-models/alias",
                {"name": "alices-model", "alias": "champion", "version": "1"},
            ),
            ("DELETE", f"{api}/registered-models/delete", {"name": "alices-model"}),
            # Rights
            ("POST", f"{api}/users/create", {"username": "x", "password": "long enough 123"}),
            ("PATCH", f"{api}/users/update-admin", {"username": "mallory", "is_admin": True}),
            ("PATCH", f"{api}/users/update-password", {"username": "alice", "password": "y" * 12}),
            ("DELETE", f"{api}/users/delete", {"username": "alice"}),
            ("GET", f"{api}/users/get?username=alice", None),
            ("POST", "/api/3.0/mlflow/users/permissions/grant", {**grant, "permission": "READ"}),
            ("POST", "/api/3.0/mlflow/roles/create", {"workspace": "default", "name": "x"}),
            ("GET", "/metrics", None),
        ],
    )
    # What answers with lists leaves others' out.
    for method, path, body in (
        ("POST", f"{api}/runs/search", {"experiment_ids": [experiment]}),
        ("GET", f"{api}/registered-models/search", None),
        ("GET", f"{api}/model-versions/search", None),
    ):
        assert team.ask("mallory", method, path, body) == (200, {}), path
    _, answer = team.ask("mallory", "POST", f"{api}/experiments/search", {"max_results": 99})
    assert "alices" not in json.dumps(answer)


def test_paths_filters_and_sizes_are_refused(team: Team) -> None:
    api = "/api/2.0/mlflow"
    files = "/api/2.0/mlflow-artifacts/artifacts"
    status, answer = team.ask("mallory", "POST", f"{api}/experiments/create", {"name": "mallorys"})
    assert status == 200
    own = answer["experiment_id"]
    _, answer = team.ask("mallory", "POST", f"{api}/runs/create", {"experiment_id": own})
    run = answer["run"]["info"]["run_id"]
    team.ask("mallory", "POST", f"{api}/registered-models/create", {"name": "mallorys-model"})
    _, answer = team.ask("alice", "GET", f"{api}/experiments/get-by-name?experiment_name=alices")
    other = answer["experiment"]["experiment_id"]
    search = {"experiment_ids": [own]}
    locations = (
        *("file:///etc", "/etc", "file:///data/../etc", f"mlflow-artifacts:/{other}", "s3://x/y"),
        *("mlflow-artifacts:/../../etc", "mlflow-artifacts:/%2e%2e/etc", "http://127.0.0.1/x"),
    )
    sources = ("file:///etc", "/etc/", f"mlflow-artifacts:/{other}", "http://127.0.0.1:9/x")
    assert not refused(
        team,
        [
            # Out of the folder, into another's
            *(("GET", f"{files}/{p}", None) for p in ("../../../etc/passwd", "/etc/passwd")),
            *(
                ("GET", f"{files}/{own}/{up}/{other}", None)
                for up in ("..", "%2e%2e", "%252e%252e")
            ),
            ("PUT", f"{files}/{own}/%2e%2e/{other}/x.txt", {}),
            ("GET", f"{files}?path={own}/../{other}", None),
            ("GET", f"{files}?path=/etc", None),
            ("GET", f"/get-artifact?run_uuid={run}&path=../../../../../etc/passwd", None),
            ("GET", f"/get-artifact?run_uuid={run}&path=%252e%252e%252f", None),
            ("GET", f"{api}/artifacts/list?run_id={run}&path=../../../{other}", None),
            # Artifacts elsewhere
            *(
                ("POST", f"{api}/experiments/create", {"name": f"at {at}", "artifact_location": at})
                for at in locations
            ),
            *(
                ("POST", f"{api}/model-versions/create", {"name": "mallorys-model", "source": at})
                for at in sources
            ),
            # SQL
            ("POST", f"{api}/runs/search", search | {"filter": "metrics.x > 1; DROP TABLE runs"}),
            ("POST", f"{api}/runs/search", search | {"filter": "params.a = '' OR 1=1"}),
            ("POST", f"{api}/runs/search", search | {"filter": "tags.`a` = 'x' UNION SELECT 1"}),
            ("POST", f"{api}/runs/search", search | {"order_by": ["metrics.x; DROP TABLE runs"]}),
            ("GET", f"{api}/registered-models/search?filter=name%3D%27a%27%20OR%201%3D1", None),
            # Sizes
            ("POST", f"{api}/runs/set-tag", {"run_id": run, "key": "x", "value": "a" * 1_000_000}),
            ("POST", f"{api}/runs/set-tag", {"run_id": run, "key": "x" * 1_000_000, "value": ""}),
            (
                "POST",
                f"{api}/runs/log-parameter",
                {"run_id": run, "key": "x", "value": "a" * 1_000_000},
            ),
            (
                "POST",
                f"{api}/experiments/set-experiment-tag",
                {"experiment_id": own, "key": "x", "value": "a" * 1_000_000},
            ),
        ],
    )
    # A value that looks like SQL is a value.
    quoted = search | {"filter": "attributes.run_name = 'x'' OR ''1''=''1'"}
    assert team.ask("mallory", "POST", f"{api}/runs/search", quoted) == (200, {})
    # A backslash is a letter: the file is in the user's own folder.
    assert team.ask("mallory", "PUT", f"{files}/{own}/..%5c..%5cx.txt", {})[0] == 200
    artifacts = team.native.data / "volumes" / "artifacts" / "artifacts"
    stored = [str(path.relative_to(artifacts)) for path in artifacts.rglob("*x.txt")]
    assert stored == [f"{own}/..\\..\\x.txt"]


def test_forged_names_are_refused(team: Team) -> None:
    port = team.native.ports["mlflow", 5000]
    token = "Basic " + team.token("alice")

    def status(method: str, path: str, headers: dict[str, str], body: str | None = None) -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request(method, path, body, {"Authorization": token} | headers)
            response = connection.getresponse()
            response.read()
            return response.status

    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    create, body = "/api/2.0/mlflow/experiments/create", '{"name": "forged"}'
    kind = {"Content-Type": "application/json"}
    assert status("GET", search, {}) == 200
    for host in ("evil.example", f"evil.example:{port}", "169.254.169.254", "mlflow.evil.example"):
        assert status("GET", search, {"Host": host}) == 403, host
    for origin in ("https://evil.example", "null", "https://localhost.evil.example"):
        assert status("POST", create, kind | {"Origin": origin}, body) == 403, origin
    # A form of another site can be sent without asking, but not as JSON.
    assert status("POST", create, {"Content-Type": "text/plain"}, body) == 400


@needs_caddy
def test_the_proxy_ends_tls_and_lets_no_more_through_than_it_should(team: Team) -> None:
    native = team.native
    port = native.ports["proxy", 8443]
    root = native.data / "volumes/proxy/caddy/pki/authorities/local/root.crt"
    context = ssl.create_default_context(cafile=str(root))
    token = team.token("alice")

    def ask(
        method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        with closing(connection):
            sent = {"Authorization": f"Basic {token}"} | (headers or {})
            connection.request(method, path, body, sent, encode_chunked=hasattr(body, "__next__"))
            response = connection.getresponse()
            return response.status, response.read(), response.headers

    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    status, _, headers = ask("GET", search)
    assert status == 200
    assert headers["Strict-Transport-Security"]
    assert headers["Server"] != "Caddy"
    assert ask("GET", search, headers={"Authorization": ""})[0] == 401
    assert ask("GET", "/metrics")[0] == 404
    assert ask("GET", search, headers={"Host": "evil.example"})[0] == 421
    origin = {"Origin": f"https://localhost:{port}", "Content-Type": "application/json"}
    create = "/api/2.0/mlflow/experiments/create"
    status, answer, _ = ask("POST", create, '{"name": "by the proxy"}', origin)
    assert status == 200
    experiment = json.loads(answer)["experiment_id"]
    forged = {"Origin": "https://evil.example", "Content-Type": "application/json"}
    assert ask("POST", create, '{"name": "forged"}', forged)[0] == 403
    # Bodies: what fits arrives whole, what does not is refused, announced or not.
    target = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/run/artifacts"
    content = os.urandom(15_000_000)
    assert ask("PUT", f"{target}/fits.bin", content)[0] == 200
    assert ask("GET", f"{target}/fits.bin")[1] == content
    for number, body in enumerate((bytes(30_000_000), iter([bytes(1_000_000)] * 30))):
        try:
            status = ask("PUT", f"{target}/large{number}.bin", body)[0]
        except (ConnectionError, ssl.SSLError):  # closed while we were sending
            continue
        assert status in (413, 502), status
    stored = native.data / "volumes/artifacts/artifacts" / experiment
    assert [path.name for path in stored.rglob("*.bin")] == ["fits.bin"]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="apt-get install prometheus")
def test_metrics_are_for_the_services_own_user(team: Team) -> None:
    secret = team.native.variables["METRICS_PASSWORD"]
    status, text = call(team.native.address, "metrics", secret, "GET", "/metrics")
    assert status == 200
    assert "mlflow_http_request_duration_seconds_bucket" in text


# --- Users ----------------------------------------------------------------------------------------


def test_a_user_is_made_once_and_gets_a_new_password_when_asked(team: Team) -> None:
    address, admin = team.native.address, team.passwords["admin"]
    first = make_user(address, admin, "carol")
    assert call(address, "carol", first, "GET", "/version")[0] == 200
    with pytest.raises(UserError, match="carol: this user exists; RESET=1"):
        make_user(address, admin, "carol")
    second = make_user(address, admin, "carol", reset=True)
    assert second != first
    assert call(address, "carol", second, "GET", "/version")[0] == 200
    # Not for ever: other workers remember the old one for auth_cache_ttl_seconds.
    search = {"max_results": 99}
    experiments = "/api/2.0/mlflow/experiments/search"
    assert "alices" not in str(call(address, "carol", second, "POST", experiments, search))
    assert make_user(address, admin, "carol", can="READ") == ""
    assert "alices" in str(call(address, "carol", second, "POST", experiments, search))
    with pytest.raises(UserError, match="admin: its password is MLFLOW_AUTH_ADMIN_PASSWORD"):
        make_user(address, admin, "admin", reset=True)
    with pytest.raises(UserError, match=r"the password of admin in \.env is not the service's"):
        make_user(address, "wrong", "dave")


# --- Disasters ------------------------------------------------------------------------------------


def test_a_damaged_backup_is_not_restored(team: Team, tmp_path: Path) -> None:
    native = team.native
    assert native.run("backup", "python", "-m", "skinml.service.backup", "create") == 0
    (whole,) = backup._all(native.data / "volumes/backups")[-1:]
    assert backup.verify(whole) > 6_000_000
    for damage in ("flip", "lose", "add", "dump", "manifest"):
        copy = tmp_path / damage
        shutil.copytree(whole, copy)
        victim = next((copy / "artifacts").rglob("weights.bin"))
        if damage == "flip":
            content = bytearray(victim.read_bytes())
            content[1000] ^= 1
            victim.write_bytes(content)
        elif damage == "lose":
            victim.unlink()
        elif damage == "add":
            (copy / "artifacts" / "planted.txt").write_text("x")
        elif damage == "dump":
            (copy / "database.dump").write_bytes((whole / "database.dump").read_bytes()[:-100])
        else:
            (copy / "manifest.json").write_text("{")
        with pytest.raises(UserError, match=r"damaged or not of it|no backup"):
            backup.verify(copy)


def test_a_restore_replaces_nothing_by_itself(
    team: Team, capfd: pytest.CaptureFixture[str]
) -> None:
    native = team.native
    backups = native.data / "volumes/backups"
    if not backup._all(backups):
        native.run("backup", "python", "-m", "skinml.service.backup", "create")
    name = backup._all(backups)[-1].name
    words = ("python", "-m", "skinml.service.backup", "restore", name)
    assert native.run("restore", *words) == 2
    assert "the MLflow server is running" in capfd.readouterr().err


def test_a_second_backup_costs_only_what_is_new(team: Team) -> None:
    native = team.native
    words = ("python", "-m", "skinml.service.backup", "create")
    assert native.run("backup", *words) == 0
    assert native.run("backup", *words) == 0
    *_, before, after = backup._all(native.data / "volumes/backups")
    shared = next(after.rglob("weights.bin"))
    assert shared.stat().st_ino == (before / shared.relative_to(after)).stat().st_ino
    assert before.name < after.name


def test_all_is_lost_and_restored(
    team: Team, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine, data and secrets gone; what is left is the folder of backups."""
    old = team.native
    team.sign_in(monkeypatch, "alice")
    before = everything(tmp_path / "before")
    assert sum(key.startswith("run ") for key in before) == 2
    assert sum(key.startswith("curve ") for key in before) == 4
    assert sum("weights.bin" in key for key in before) == 2
    assert sum(key.startswith("version ") for key in before) == 2
    assert all(len(v) == STEPS for k, v in before.items() if k.startswith("curve "))
    assert old.run("backup", "python", "-m", "skinml.service.backup", "create") == 0
    latest = backup._all(old.data / "volumes/backups")[-1]
    assert json.loads((latest / "manifest.json").read_text())["missing"] == []
    old.stop()
    assert processes_of(old.data) == []
    kept = place / "kept"
    shutil.copytree(latest, kept / latest.name)
    shutil.rmtree(old.data)

    new = Native(place / "new")
    team.native = new  # the fixture stops the one, this test the other
    assert new.variables["MLFLOW_AUTH_ADMIN_PASSWORD"] != team.passwords["admin"]
    team.passwords["admin"] = new.variables["MLFLOW_AUTH_ADMIN_PASSWORD"]
    try:
        new.start(("postgres", "migrate"))
        restore = ("python", "-m", "skinml.service.backup", "restore", str(kept / latest.name))
        assert new.run("restore", *restore) == 0
        # Not empty any more.
        assert new.run("restore", *restore) == 2
        new.start(("migrate", "mlflow"))
        team.sign_in(monkeypatch, "alice")
        after = everything(tmp_path / "after")
        assert after.keys() == before.keys()
        different = {key for key in before if after[key] != before[key]}
        assert different == set()
        # Users, their passwords and what they may came back too; the admin's is the new one.
        assert "alices" not in str(team.ask("mallory", "GET", "/api/2.0/mlflow/users/current"))
        path = "/api/2.0/mlflow/registered-models/get?name=alices-model"
        assert team.ask("mallory", "GET", path)[0] == 403
        assert team.ask("alice", "GET", path)[0] == 200
        assert team.ask("admin", "GET", path)[0] == 200
        # The service goes on: new rows do not collide with restored ones.
        status, answer = team.ask(
            "alice", "POST", "/api/2.0/mlflow/experiments/create", {"name": "next"}
        )
        assert status == 200, answer
    finally:
        new.stop()


def processes_of(folder: Path) -> list[str]:
    """The processes that have a folder on their command line or among their variables."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.Error:
            continue
        if str(folder) in words and process.pid != os.getpid():
            found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_however_the_runner_ends(place: Path, number: signal.Signals) -> None:
    data = place / f"ends-{number.name}"
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from skinml.errors import run_command\n"
        "from skinml.service.native import Native, _ended_by_signals\n"
        "def serve():\n"
        "    with _ended_by_signals(), Native(Path(sys.argv[1])).up(['postgres']):\n"
        "        print('up', flush=True)\n        time.sleep(600)\n"
        "sys.exit(run_command(serve))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(data)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    assert processes_of(data)
    process.send_signal(number)
    process.wait(60)
    process.stdout.close()
    until = time.monotonic() + 60
    while processes_of(data) and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_of(data) == []
    log = (data / "logs/postgres.log").read_text()
    assert "database system is shut down" in log
    assert running_service(data) is None


def test_what_does_not_run_cannot_be_stopped(place: Path) -> None:
    with pytest.raises(UserError, match="no native service is running there"):
        main(["--data", str(place / "nothing"), "stop"])
