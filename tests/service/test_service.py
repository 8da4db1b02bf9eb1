"""The service as the compose file describes it, run natively: health, users, attacks, disasters."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import backup, backup_folder
from skinml.service.native import Native, main, running_service
from skinml.service.user import call, make_user
from skinml.store.read import experiment_id
from tests.conftest import surroundings
from tests.service.conftest import browsing, needs_caddy, needs_chromium, needs_service
from tests.waiting import PATIENCE, wait_for

pytestmark = [pytest.mark.slow, needs_service]

ROOT = Path(__file__).parents[2]
STEPS = 40
API = "/api/2.0/mlflow"


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

    def proxy(self, inside: int = 8443) -> http.client.HTTPSConnection:
        """A connection as from outside: to the proxy, by its own authority."""
        root = self.native.data / "volumes/proxy/caddy/pki/authorities/local/root.crt"
        context = ssl.create_default_context(cafile=str(root))
        port = self.native.ports["proxy", inside]
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)

    def sign_in(self, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
        """What a user sets: three variables."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.native.address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", self.passwords[user])


@pytest.fixture(scope="module")
def team(place: Path) -> Iterator[Team]:
    """The service: alice logged runs and a model, bob has other things, mallory neither."""
    with surroundings(place) as monkeypatch:
        monkeypatch.setenv("MLFLOW_WORKERS", "1")
        native = Native(place / "data")
        extra = [name for name in ("proxy",) if shutil.which("caddy")]
        if shutil.which("prometheus") and (ROOT / "deploy/prometheus/prometheus.yml").exists():
            extra.append("prometheus")
        try:
            native.start(("postgres", "migrate", "mlflow", "backup", *extra))
            team = Team(native)
            for name in ("alice", "bob", "mallory"):
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
        assert connection.execute("SHOW statement_timeout").fetchone() == ("30s",)
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
        *(
            "/",
            "/metrics",
            "/docs",
            "/gateway/x/mlflow/invocations",
            "/graphql",
            "/signup",
            "/get-artifact?path=x&run_uuid=y",
            "/version",
        ),
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
    # Who guesses too often is told to wait.
    assert set(answers.values()) == {401, 429}
    # Open to everybody: whether it lives, the UI's files, and how MLflow is set up.
    assert call(team.native.address, "", "", "GET", "/health")[0] == 200
    _, told = call(team.native.address, "", "", "GET", "/api/3.0/mlflow/server-info")
    assert told["store_type"] == "SqlStore"
    assert not any(secret in str(told) for secret in team.native.variables.values() if secret)


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


def test_a_client_that_is_refused_is_told_what_would_do(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.sign_in(monkeypatch, "mallory")
    with pytest.raises(UserError, match="expected an experiment that you made or were granted"):
        experiment_id("alices")
    with pytest.raises(UserError, match="expected one that you may read; there is none"):
        experiment_id("nothing")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UserError, match="expected the name and password of a user of it"):
        experiment_id("alices")


def test_no_kind_of_object_is_open_to_others(team: Team) -> None:
    """Traces, logged models, prompts, data sets, scorers and so on, each of bob's own."""
    v3, ajax2, ajax3 = "/api/3.0/mlflow", "/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow"
    run, target = own_run(team, "bob", "all-kinds")
    experiment = target.split("/")[-3]
    here = {"experiment_id": experiment}

    def made(path: str, body: Any) -> Any:
        status, answer = team.ask("bob", "POST", path, body)
        assert status == 200, (path, answer)
        return answer

    model = made(f"{API}/logged-models", here | {"name": "m"})["model"]["info"]["model_id"]
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    made(f"{API}/registered-models/create", {"name": "bobs-prompt", "tags": prompt})
    # What the service does not answer at all can only be asked for.
    trace, location = f"tr-{run}", {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": here}
    info = {"trace_id": trace, "trace_location": location, "state": "OK"}
    info["request_time"] = "2024-01-01T00:00:00Z"
    data, scorer = "d-1", here | {"name": "s", "serialized_scorer": "{}"}
    made(f"{API}/runs/log-metric", {"run_id": run, "key": "loss", "value": 1, "timestamp": 1})
    mine, own = own_run(team, "mallory", "mallorys-own")
    own = own.split("/")[-3]
    event = {"entity": "REGISTERED_MODEL", "action": "CREATED"}
    hook = {"name": "w", "url": "http://127.0.0.1:9/", "events": [event]}
    parts = "/api/2.0/mlflow-artifacts"
    file = f"{experiment}/{run}/artifacts/f"
    assert not refused(
        team,
        [
            *(("POST", f"{API}/experiments/{verb}", here) for verb in ("delete", "restore")),
            ("POST", f"{API}/experiments/update", here | {"new_name": "x"}),
            ("POST", f"{API}/runs/restore", {"run_id": run}),
            ("POST", f"{API}/runs/update", {"run_id": run, "status": "FAILED"}),
            ("POST", f"{API}/runs/delete-tag", {"run_id": run, "key": "mlflow.runName"}),
            ("POST", f"{API}/runs/log-inputs", {"run_id": run, "datasets": []}),
            ("POST", f"{API}/runs/outputs", {"run_id": run, "models": []}),
            ("GET", f"{ajax2}/metrics/get-history-bulk?run_id={run}&metric_key=loss", None),
            ("GET", f"{ajax2}/metrics/get-history-bulk-interval?run_ids={run}&metric_key=l", None),
            ("POST", f"{ajax2}/experiments/search-datasets", {"experiment_ids": [experiment]}),
            ("POST", f"{ajax2}/upload-artifact?run_uuid={run}&path=x.txt", {}),
            ("HEAD", f"{API}/runs/get?run_id={run}", None),
            ("HEAD", f"{parts}/artifacts/{file}", None),
            # Logged models
            ("GET", f"{API}/logged-models/{model}", None),
            ("DELETE", f"{API}/logged-models/{model}", None),
            ("PATCH", f"{API}/logged-models/{model}", {"status": "LOGGED_MODEL_READY"}),
            ("PATCH", f"{API}/logged-models/{model}/tags", {"tags": []}),
            ("GET", f"{API}/logged-models/{model}/artifacts/directories", None),
            ("GET", f"{ajax2}/logged-models/{model}/artifacts/files?artifact_file_path=x", None),
            ("POST", f"{API}/logged-models", here | {"name": "x"}),
            ("POST", f"{API}/logged-models", {"experiment_id": own, "source_run_id": run}),
            # The registry
            ("POST", f"{API}/registered-models/rename", {"name": "alices-model", "new_name": "x"}),
            ("POST", f"{API}/registered-models/set-tag", {"name": "alices-model", "key": "a"}),
            ("GET", f"{API}/registered-models/alias?name=alices-model&alias=champion", None),
            ("DELETE", f"{API}/registered-models/alias?name=alices-model&alias=champion", None),
            ("POST", f"{API}/model-versions/create", {"name": "alices-model", "source": "x"}),
            ("POST", f"{API}/model-versions/create", {"name": "x", "run_id": run, "source": "x"}),
            ("GET", f"{API}/registered-models/get?name=bobs-prompt", None),
            ("DELETE", f"{API}/registered-models/delete", {"name": "bobs-prompt"}),
            # Traces
            ("GET", f"{v3}/traces/{trace}", None),
            ("GET", f"{v3}/traces/get?trace_id={trace}", None),
            ("POST", f"{v3}/traces/search", {"locations": [location]}),
            ("PATCH", f"{v3}/traces/{trace}/tags", {"key": "a", "value": "b"}),
            ("POST", f"{v3}/traces/delete-traces", here | {"request_ids": [trace]}),
            ("GET", f"{ajax3}/get-trace-artifact?request_id={trace}", None),
            ("POST", f"{v3}/traces", {"trace": {"trace_info": info | {"trace_id": "tr-x"}}}),
            ("POST", f"{API}/traces/link-to-run", {"trace_ids": [trace], "run_id": mine}),
            ("POST", f"{v3}/traces/{trace}/assessments", {"assessment": {}}),
            ("POST", "/v1/traces", {}),
            # Data sets, scorers
            ("GET", f"{v3}/datasets/{data}", None),
            ("DELETE", f"{v3}/datasets/{data}", None),
            ("POST", f"{v3}/datasets/search", {}),
            ("GET", f"{v3}/datasets/{data}/records", None),
            ("POST", f"{v3}/datasets/{data}/add-experiments", {"experiment_ids": [own]}),
            ("GET", f"{v3}/scorers/list?experiment_id={experiment}", None),
            ("GET", f"{v3}/scorers/get?experiment_id={experiment}&name=s", None),
            ("DELETE", f"{v3}/scorers/delete", here | {"name": "s"}),
            ("POST", f"{v3}/scorers/register", scorer),
            ("POST", f"{ajax3}/scorer/invoke", scorer | {"trace_ids": [trace]}),
            # What calls out or runs something
            ("POST", f"{API}/webhooks", hook),
            ("GET", f"{API}/webhooks", None),
            ("POST", f"{API}/webhooks/x/test", {}),
            ("POST", f"{v3}/workspaces", {"name": "w"}),
            ("DELETE", f"{v3}/workspaces/default", None),
            ("GET", "/ajax-api/3.0/jobs/x", None),
            ("POST", f"{ajax3}/issues/invoke", here),
            ("POST", f"{ajax3}/genai/evaluate/invoke", here),
            ("POST", f"{ajax3}/demo/delete", {}),
            # Uploads in parts, addresses signed by the server
            ("POST", f"{parts}/mpu/create/{file}", {"path": "f", "num_parts": 1}),
            ("POST", f"{parts}/mpu/create/{own}/../{file}", {"path": "f", "num_parts": 1}),
            ("POST", f"{parts}/mpu/complete/{file}", {"path": "f", "upload_id": "1"}),
            ("POST", f"{parts}/mpu/abort/{file}", {"path": "f", "upload_id": "1"}),
            ("GET", f"{parts}/presigned/{file}", None),
            # Rights
            ("GET", f"{v3}/roles/list", None),
            ("GET", f"{v3}/users/permissions/list?username=bob", None),
            ("GET", "/openapi.json", None),
        ],
    )
    ask = {"query": ""}
    for field in (
        "{mlflowGetRun(input: {runId: $i}) {run {info {runName}}}}",
        "{mlflowGetExperiment(input: {experimentId: $e}) {experiment {name}}}",
        "{mlflowListArtifacts(input: {runId: $i}) {files {path}}}",
        "{mlflowSearchRuns(input: {experimentIds: [$e]}) {runs {info {runName}}}}",
    ):
        ask["query"] = "query " + field.replace("$i", f'"{run}"').replace("$e", f'"{experiment}"')
        _, answer = team.ask("mallory", "POST", "/graphql", ask)
        nothing = {field[1:].split("(")[0]: None}
        assert answer["data"] == nothing, answer
        _, answer = team.ask("bob", "POST", "/graphql", ask)
        assert answer["data"] and answer["data"] != nothing, answer
    listed = team.ask(
        "mallory", "POST", f"{API}/logged-models/search", {"experiment_ids": [experiment]}
    )
    assert listed == (200, {})
    assert team.ask("bob", "GET", f"{API}/runs/get?run_id={run}")[0] == 200


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
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
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
    token = team.token("alice")

    def ask(
        method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, Any]:
        with closing(team.proxy()) as connection:
            sent = {"Authorization": f"Basic {token}"} | (headers or {})
            connection.request(method, path, body, sent)
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
    # What fits arrives whole.
    target = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/run/artifacts"
    content = os.urandom(15_000_000)
    assert ask("PUT", f"{target}/fits.bin", content)[0] == 200
    assert ask("GET", f"{target}/fits.bin")[1] == content


@needs_caddy
def test_links_from_grafana_lead_to_mlflow(team: Team) -> None:
    with closing(team.proxy(8444)) as connection:
        connection.request("GET", "/mlflow/")
        response = connection.getresponse()
    mlflow = team.native.ports["proxy", 8443]
    assert response.status == 302
    assert response.headers["Location"] == f"https://localhost:{mlflow}/"


class Watch:
    """What the server and the proxy take of memory and disk during a block, in MB, at most."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self._over = threading.Event()
        self._before = self._memory()
        self.memory = self.stored = 0.0

    def _memory(self) -> dict[str, float]:
        import psutil

        found = {}
        for name in ("mlflow", "proxy"):
            process = psutil.Process(self._native.running[name].pid)
            family = [process, *process.children(recursive=True)]
            found[name] = sum(member.memory_info().rss for member in family) / 1e6
        return found

    def kept(self) -> float:
        """What uploads have left on disk, finished or not."""
        size = 0
        for volume in ("artifacts", "scratch"):
            for path in (self._native.data / "volumes" / volume).rglob("*"):
                with contextlib.suppress(OSError):
                    size += path.stat().st_size if path.is_file() else 0
        return size / 1e6

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for name, size in self._memory().items():
                self.memory = max(self.memory, size - self._before[name])

    def __enter__(self) -> "Watch":
        self._first = self.kept()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._over.set()
        self._thread.join()
        until = time.monotonic() + 20
        while (left := self.kept() - self._first) > 0 and time.monotonic() < until:
            time.sleep(0.2)  # what is unfinished is removed once the server has noticed
        self.stored = left


def send_zeros(
    team: Team, user: str | None, method: str, path: str, megabytes: int, announced: bool
) -> tuple[int | None, int]:
    """Stream zeros through the proxy; the status, None if cut off, and the megabytes sent."""
    block, sent = bytes(1_000_000), 0
    with closing(team.proxy()) as connection:
        connection.putrequest(method, path)
        if user:
            connection.putheader("Authorization", f"Basic {team.token(user)}")
        connection.putheader("Content-Type", "application/json")
        if announced:
            connection.putheader("Content-Length", str(megabytes * len(block)))
        else:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        try:
            while sent < megabytes:
                connection.send(block if announced else b"f4240\r\n" + block + b"\r\n")
                sent += 1
            connection.send(b"" if announced else b"0\r\n\r\n")
        except OSError:
            pass  # the answer is there before all is sent
        try:
            return connection.getresponse().status, sent
        except (OSError, http.client.HTTPException):
            return None, sent


@needs_caddy
def test_two_gigabytes_are_refused_and_nothing_is_left_of_them(team: Team) -> None:
    _, answer = team.ask("mallory", "POST", f"{API}/experiments/create", {"name": "large"})
    target = f"/api/2.0/mlflow-artifacts/artifacts/{answer['experiment_id']}/run/artifacts/large"
    with Watch(team.native) as watch:
        status, sent = send_zeros(team, "mallory", "PUT", target, 2000, announced=True)
        assert status in (413, None)
        assert sent < 50  # before it is read
        status, sent = send_zeros(team, "mallory", "PUT", target, 2000, announced=False)
        assert status in (413, 502, None)
        assert sent < 1100
    assert watch.memory < 200
    assert watch.stored == 0


@needs_caddy
def test_nobody_fills_the_servers_memory_without_a_password(team: Team) -> None:
    path = f"{API}/runs/log-batch"
    with Watch(team.native) as watch:
        for user in (None, "mallory"):
            status, sent = send_zeros(team, user, "POST", path, 900, announced=True)
            assert status in (413, None) and sent < 50
        for announced in (True, False):
            # 502: the proxy, where the service has closed the connection to it first.
            assert send_zeros(team, None, "POST", path, 10, announced)[0] in (401, 502, None)
            assert send_zeros(team, "mallory", "POST", path, 10, announced)[0] == 400
        status, _ = send_zeros(team, None, "GET", path, 10, announced=False)
        assert status in (413, None)
        assert send_zeros(team, "mallory", "POST", path, 40, announced=False)[0] in (413, None)
        # An upload is asked for its user before it is read.
        target = "/api/2.0/mlflow-artifacts/artifacts/1/x"
        assert send_zeros(team, None, "PUT", target, 900, announced=True)[0] in (401, 502, None)
    assert watch.memory < 300
    assert watch.stored == 0


@needs_caddy
@pytest.mark.parametrize("where", ["direct", "proxy"])
def test_what_nobody_uses_is_shut(team: Team, where: str) -> None:
    """MLflow's gateway calls addresses that a user names, its assistant runs programs."""
    v3, ajax = "/api/3.0/mlflow", "/ajax-api/3.0/mlflow"
    secret = {"secret_name": "s", "provider": "openai", "secret_value": {"api_key": "x"}}
    requests: list[tuple[str, str, Any]] = [
        ("POST", f"{v3}/gateway/secrets/create", secret),
        ("POST", f"{ajax}/gateway/secrets/create", secret),
        ("GET", f"{v3}/gateway/secrets/list", None),
        ("POST", f"{v3}/gateway/endpoints/create", {"name": "e"}),
        ("POST", "/gateway/e/mlflow/invocations", {}),
        ("GET", f"{ajax}/assistant/config", None),
        ("PUT", f"{ajax}/assistant/config", {"providers": {}}),
        ("POST", f"{ajax}/assistant/message", {"message": "run ls"}),
        ("PUT", "/ajax-api//3.0/mlflow/%61ssistant/config", {"providers": {}}),
        ("POST", f"{ajax}/demo/generate", {}),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy", {"gateway_path": "http://127.0.0.1:9/"}),
    ]
    token = {"Authorization": f"Basic {team.token('mallory')}", "Content-Type": "application/json"}
    port = team.native.ports["mlflow", 5000]
    for method, path, body in requests:
        direct = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with closing(team.proxy() if where == "proxy" else direct) as connection:
            connection.request(method, path, json.dumps(body), token)
            assert connection.getresponse().status in (400, 404), path


# A page that acts for whoever looks at it.
SCRIPT = """
try { top.document.title = 'NAME' } catch (error) {}
fetch('/ajax-api/2.0/mlflow/experiments/create', {
  method: 'POST', credentials: 'include', headers: {'Content-Type': 'application/json'},
  body: JSON.stringify({name: 'NAME'})})
"""


@needs_caddy
def test_a_file_of_a_user_is_no_page_of_mlflow(team: Team) -> None:
    run, target = own_run(team, "mallory", "pages")
    token = {"Authorization": f"Basic {team.token('mallory')}"}
    for name in ("a.html", "a.svg", "a.xhtml", "a.xml", "a.js", "a.png", "a.pdf"):
        with closing(team.proxy()) as connection:
            connection.request("PUT", f"{target}/{name}", "<script>1</script>", token)
            assert connection.getresponse().status == 200
        for path in (
            f"/get-artifact?run_uuid={run}&path={name}",
            f"{target}/{name}",
            f"{target.replace('/api/', '/ajax-api/')}/{name}",
        ):
            with closing(team.proxy()) as connection:
                connection.request("GET", path, headers=token)
                response = connection.getresponse()
                assert response.status == 200
                headers = response.headers
            assert headers["Content-Disposition"].startswith("attachment"), path
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"] == "sandbox"
            assert headers["X-Frame-Options"] == "DENY"


def own_run(team: Team, user: str, name: str) -> tuple[str, str]:
    """A run in an experiment of a user's own: its id, and the address of its artifacts."""
    _, answer = team.ask(user, "POST", f"{API}/experiments/create", {"name": name})
    experiment = answer["experiment_id"]
    _, answer = team.ask(user, "POST", f"{API}/runs/create", {"experiment_id": experiment})
    run = answer["run"]["info"]["run_id"]
    return run, f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts"


@needs_caddy
@needs_chromium
def test_scripts_in_files_and_notes_do_not_run_for_who_looks_at_them(team: Team) -> None:
    """What a colleague left, looked at in MLflow's own pages through the proxy."""
    import io

    from PIL import Image

    run, target = own_run(team, "bob", "looked-at")
    experiment = target.split("/")[-3]
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "PNG")
    page_of = "<html><body><h1>a report</h1><script>{}</script></body></html>"
    drawing = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>{}</script></svg>"
    )
    files = {
        "evil.html": page_of.format(SCRIPT.replace("NAME", "pwned-html")).encode(),
        "evil.svg": drawing.format(SCRIPT.replace("NAME", "pwned-svg")).encode(),
        "picture.png": picture.getvalue(),
    }
    token = {"Authorization": f"Basic {team.token('bob')}"}
    for name, content in files.items():
        with closing(team.proxy()) as connection:
            connection.request("PUT", f"{target}/{name}", content, token)
            assert connection.getresponse().status == 200
    script = SCRIPT.replace("NAME", "pwned-note").replace('"', "'").replace("\n", " ")
    note = (
        f'<img src="x" onerror="{script}"><script>{script}</script> [a](javascript:alert(1)) seen'
    )
    body = {"run_id": run, "key": "mlflow.note.content", "value": note}
    assert team.ask("bob", "POST", f"{API}/runs/set-tag", body)[0] == 200
    base = f"https://localhost:{team.native.ports['proxy', 8443]}"
    with browsing.chromium() as browser:
        context = browser.new_context(
            ignore_https_errors=True,
            http_credentials={"username": "bob", "password": team.passwords["bob"]},
        )
        where = f"{base}/#/experiments/{experiment}/runs/{run}"

        def look_at(path: str) -> Any:
            page = context.new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(where + path)
            return page

        pages = [look_at(path) for path in ("", *(f"/artifacts/{name}" for name in files))]
        pages[0].get_by_text("seen").first.wait_for()
        # A script of a report runs, but in a frame that has no origin and so no credentials.
        frame = pages[1].locator("iframe")
        pages[1].frame_locator("iframe").get_by_text("a report").wait_for()
        assert frame.get_attribute("sandbox") == "allow-scripts"
        pages[2].get_by_text("evil.svg").first.wait_for()
        wide = "[...document.images].some(image => image.naturalWidth === 40)"
        pages[3].wait_for_function(wide)
        for name in ("evil.html", "evil.svg"):
            with pages[0].expect_download():
                pages[0].evaluate(f"location.assign('/get-artifact?run_uuid={run}&path={name}')")
        pages[0].wait_for_timeout(2_000)
        assert not any("pwned" in page.title() for page in pages)
    _, answer = team.ask("bob", "POST", f"{API}/experiments/search", {"max_results": 99})
    assert "pwned" not in str(answer)


@pytest.mark.skipif(not shutil.which("prometheus"), reason="apt-get install prometheus")
def test_metrics_are_for_the_services_own_user(team: Team) -> None:
    secret = team.native.variables["METRICS_PASSWORD"]
    status, text = call(team.native.address, "metrics", secret, "GET", "/metrics")
    assert status == 200
    assert "mlflow_http_request_duration_seconds_bucket" in text
    # As Prometheus asks a container: by its address. Nothing else is answered to such a name.
    token = base64.b64encode(f"metrics:{secret}".encode()).decode()
    by_address = {"Authorization": f"Basic {token}", "Host": "172.18.0.3:5000"}
    address = team.native.address.removeprefix("http://")
    for path, headers, expected in (
        ("/metrics", by_address, 200),
        ("/metrics", {"Host": by_address["Host"]}, 401),
        (f"{API}/experiments/search?max_results=1", by_address, 403),
    ):
        with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == expected, path


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

    # Other tests have guessed passwords: it waits until the service takes one again.
    with pytest.raises(UserError, match=r"the password of admin in \.env is not the service's"):
        make_user(address, "wrong", "dave")


# --- Disasters ------------------------------------------------------------------------------------


def test_a_damaged_backup_is_not_restored(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = team.native
    assert native.run("backup", "python", "-m", "skinml.service.backup", "create") == 0
    (whole,) = backup_folder.whole_backups(native.data / "volumes/backups")[-1:]
    assert backup_folder.verify(whole) > 6_000_000
    for damage in ("flip", "lose", "add", "dump", "manifest", "outside", "link", "list"):
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
        elif damage == "manifest":
            (copy / "manifest.json").write_text("{")
        elif damage == "link":
            outside = victim.rename(tmp_path / "outside.bin")
            victim.symlink_to(outside)
        else:
            told = json.loads((copy / "manifest.json").read_text())
            named = told["artifacts"]
            name = victim.relative_to(copy / "artifacts").as_posix()
            # A whole file with its own digest, but none of the backup's.
            shutil.copy2(victim, copy / "beside.bin")
            told["artifacts"] = {**named, "../beside.bin": named[name]}
            if damage == "list":
                told["artifacts"] = [*named]
            (copy / "manifest.json").write_text(json.dumps(told))
        with pytest.raises(UserError, match=r"damaged|no backup"):
            backup_folder.verify(copy)
    # By whoever has a copy, on a machine without the service and its variables.
    monkeypatch.delenv("SKINML_BACKUPS", raising=False)
    assert backup.main(["verify", str(whole)]) == 0
    with pytest.raises(UserError, match="SKINML_BACKUPS and SKINML_ARTIFACTS are not set"):
        backup.main(["list"])


def test_a_restore_replaces_nothing_by_itself(
    team: Team, capfd: pytest.CaptureFixture[str]
) -> None:
    native = team.native
    backups = native.data / "volumes/backups"
    if not backup_folder.whole_backups(backups):
        native.run("backup", "python", "-m", "skinml.service.backup", "create")
    name = backup_folder.whole_backups(backups)[-1].name
    words = ("python", "-m", "skinml.service.backup", "restore", name)
    assert native.run("restore", *words) == 2
    assert "the MLflow server is running" in capfd.readouterr().err


def test_a_second_backup_costs_only_what_is_new(team: Team) -> None:
    native = team.native
    words = ("python", "-m", "skinml.service.backup", "create")
    assert native.run("backup", *words) == 0
    assert native.run("backup", *words) == 0
    *_, before, after = backup_folder.whole_backups(native.data / "volumes/backups")
    shared = next(after.rglob("weights.bin"))
    assert shared.stat().st_ino == (before / shared.relative_to(after)).stat().st_ino
    assert before.name < after.name


def test_a_restore_waits_for_the_service_to_stop(team: Team) -> None:
    with pytest.raises(UserError, match=r"the service is running at .*stop it first \(make stop\)"):
        main(["--data", str(team.native.data), "restore", "any"])


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
    latest = backup_folder.whole_backups(old.data / "volumes/backups")[-1]
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
        "from skinml.base.errors import run_command\n"
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
    process.wait(PATIENCE)
    process.stdout.close()
    wait_for(lambda: processes_of(data) == [], lambda: processes_of(data))
    log = (data / "logs/postgres.log").read_text()
    assert "database system is shut down" in log
    assert running_service(data) is None


def test_of_two_that_start_at_one_instant_one_runs(place: Path) -> None:
    data = place / "twice"
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from skinml.base.errors import run_command\n"
        "from skinml.service.native import Native, _ended_by_signals\n"
        "def serve():\n"
        "    with _ended_by_signals(), Native(Path(sys.argv[1])).up(['postgres']):\n"
        "        print('up', flush=True)\n        time.sleep(600)\n"
        "sys.exit(run_command(serve))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(data)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        while all(process.poll() is None for process in started):
            time.sleep(0.1)
        other, winner = sorted(started, key=lambda process: process.poll() is None)
        told = other.communicate()[1]
        assert other.returncode == 2
        assert "a service with this data is" in told and "Traceback" not in told
        assert winner.stdout
        assert winner.stdout.readline() == "up\n"
        assert running_service(data)
    finally:
        for process in started:
            process.terminate()
            process.communicate()


# --- What a person mistypes, or does too early ----------------------------------------------------


@pytest.mark.parametrize("command", ["stop", "backup", "backups", "rehearse"])
def test_what_needs_a_service_makes_none(place: Path, command: str) -> None:
    with pytest.raises(UserError, match=r"nothing: no (native )?service .* names another folder"):
        main(["--data", str(place / "nothing"), command])
    assert not (place / "nothing").exists()


def test_backups_are_listed_without_a_database(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "stopped/volumes").mkdir(parents=True)
    assert main(["--data", str(place / "stopped"), "backups"]) == 0
    assert capfd.readouterr().out.startswith("no backup in ")
    assert not (place / "stopped/logs").exists()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", ""])
def test_a_port_that_is_none_is_refused(place: Path, port: str) -> None:
    with pytest.raises(UserError, match="is no port; expected 1 to 65535"):
        main(["--data", str(place / "nothing"), "serve", f"--port={port}"])


def test_a_taken_port_is_refused(place: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; name another"):
            main(["--data", str(place / "nothing"), "serve", f"--port={port}"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "no backup is named; write FROM=…"), ("2027", r"2027: no backup.*`make backups` lists")],
)
def test_a_restore_of_no_backup_starts_nothing(place: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["--data", str(place / "nothing"), "restore", name])
    assert not (place / "nothing").exists()


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a/b", "a\n"])
def test_a_name_that_cannot_sign_in_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"is no name; write NAME=…"):
        make_user("http://127.0.0.1:1", "x", name)
