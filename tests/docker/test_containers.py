"""What docs/service.md promises, in containers and through the proxy.

In order: each test goes on from where the last one left the service.
"""

import hashlib
import http.client
import io
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from skinml.service import compose
from tests.docker.conftest import CORE, PROJECT, ROOT, Project, free_port
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.timeout(3600)

STEPS = 50
SIZE = 50_000_000


def new_user(project: Project, name: str) -> str:
    """Make a user as docs/service.md says; its password."""
    said = project.make("user", f"NAME={name}")
    return str(re.findall(r"MLFLOW_TRACKING_PASSWORD=(\S+)", said)[0])


class Outside:
    """A user on the machine: name, password, and the proxy's own authority."""

    def __init__(self, project: Project) -> None:
        self.port = int(compose.read_env(project.folder / ".env")["SKINML_PORT"])
        self.authority = project.folder / "root.crt"
        where = "proxy:/certificates/caddy/pki/authorities/local/root.crt"
        project.compose("cp", where, str(self.authority))
        self.password = new_user(project, "alice")
        self.environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"https://localhost:{self.port}",
            "MLFLOW_TRACKING_USERNAME": "alice",
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.authority),
            "PYTHONPATH": str(ROOT),
        }

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        password: str | None = None,
        headers: Mapping[str, str] | None = None,
        user: str = "alice",
    ) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = http.client.HTTPSConnection(
            "localhost", self.port, context=context, timeout=PATIENCE
        )
        token = b64encode(f"{user}:{password or self.password}".encode()).decode()
        signed = {"Authorization": f"Basic {token}", **(headers or {})}
        try:
            connection.request(method, path, body, signed)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def python(self, code: str, *words: str) -> str:
        """What a program with MLflow's client prints, in a process of its own as a user has it."""
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def outside(project: Project) -> Outside:
    return Outside(project)


# --- Starting -------------------------------------------------------------------------------------


def test_without_secrets_nothing_starts(project: Project) -> None:
    said = project.compose("up", "--detach", fails=True)
    assert "is missing in .env - make secrets writes it" in said


# The minor version before the service's, with the packages of its image.
PREVIOUS = """
FROM python:3.11.13-slim-trixie AS previous
RUN python -m venv /opt/pip \\
    && /opt/pip/bin/pip install --quiet --no-deps --target /opt/previous mlflow==3.16.1
FROM skinml-mlflow:3.17.2
COPY --from=previous /opt/previous /opt/previous
ENV PYTHONPATH=/opt/previous
"""

FILL = """
import mlflow
from mlflow.entities import Metric
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as Users
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
address = "postgresql+psycopg://mlflow@postgres:5432/mlflow"
runs, users = SqlAlchemyStore(address, "mlflow-artifacts:/"), Users()
run = runs.create_run(runs.create_experiment("previous"), "dave", 0, [], "previous").info.run_id
runs.log_batch(run, [Metric("loss", 1 / (step + 1), 0, step) for step in range(200)], [], [])
users.init_db(f"{address}?options=-csearch_path=auth")
users.create_user("dave", "password-of-dave")
print(mlflow.__version__, run)
"""


@pytest.fixture(scope="session")
def previous(project: Project) -> str:
    """Has the previous MLflow make the database and log a run, whose id this is."""
    project.make("secrets")
    project.set(SKINML_PORT=str(free_port()), GRAFANA_PORT=str(free_port()), MLFLOW_WORKERS="2")
    project.compose("build", "migrate")
    image = "skinml-test-previous"
    project.run("docker", "build", "--quiet", "--tag", image, "-", text_input=PREVIOUS)
    project.compose("up", "--detach", "--wait", "postgres")
    secret = f"PGPASSWORD={project.secrets['MLFLOW_DB_PASSWORD']}"
    words = ("docker", "run", "--rm", "--network", f"{PROJECT}_database", "--env", secret, image)
    version, run = project.run(*words, "python", "-W", "ignore", "-c", FILL).split()[-2:]
    assert version == "3.16.1"
    return run


def test_up_brings_everything_up_healthy(project: Project, previous: str) -> None:
    project.make("up")
    project.wait_healthy()
    assert project.container("migrate")["State"]["ExitCode"] == 0


def test_the_database_of_the_previous_mlflow_is_dumped_and_migrated(
    project: Project, outside: "Outside", previous: str
) -> None:
    told = project.compose("logs", "migrate")
    assert told.index("dumped the database to") < told.index("migrated the runs from revision")
    assert "before-migration-" in project.inside("backup", "ls", "/backups")
    password = project.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]
    history = f"/api/2.0/mlflow/metrics/get-history?run_id={previous}&metric_key=loss"
    status, body = outside.ask("GET", history, user="admin", password=password)
    assert status == 200
    points = {point["step"]: point["value"] for point in json.loads(body)["metrics"]}
    assert points == {step: 1 / (step + 1) for step in range(200)}
    # Its user signs in, and may read it no more than before.
    for path, expected in (("/api/2.0/mlflow/users/current", 200), (history, 403)):
        status, _ = outside.ask("GET", path, user="dave", password="password-of-dave")
        assert status == expected


def test_one_image_is_built_and_none_is_left_without_a_name(project: Project) -> None:
    images = {project.container(service)["Image"] for service in ("migrate", "mlflow", "backup")}
    assert len(images) == 1
    left = project.run("docker", "images", "--quiet", "--filter", "dangling=true", "--no-trunc")
    assert not images & set(left.split())


# --- Hardening, as the kernel and the engine see it -----------------------------------------------


@pytest.mark.parametrize("service", sorted(CORE))
def test_a_container_may_do_nothing_that_it_need_not(project: Project, service: str) -> None:
    has_no_rights(project, service)


def has_no_rights(project: Project, service: str) -> None:
    lines = project.inside(service, "cat", "/proc/1/status", "/proc/1/mounts").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    root = next(words for words in map(str.split, lines) if words[1:2] == ["/"])
    assert root[3].split(",")[0] == "ro"


@pytest.mark.parametrize("service", sorted(CORE))
def test_the_limits_of_the_file_are_the_kernels(project: Project, service: str) -> None:
    limits = project.services[service]["deploy"]["resources"]["limits"]
    script = (
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max 2>/dev/null"
        " || cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
    )
    found = project.inside(service, "sh", "-c", script).split()
    assert [int(text) for text in found] == [int(limits["memory"]), int(limits["pids"])]


# In the network namespace of another container: which of these addresses answer? All are asked at
# once: those that do not answer are waited for.
REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def answers(address):
    try:
        socket.create_connection(tuple(address), timeout=5).close()
    except OSError:
        return False
    return True
asked = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(asked)) as pool:
    print(json.dumps([address for address, yes in zip(asked, pool.map(answers, asked)) if yes]))
"""


def test_a_container_reaches_those_on_its_networks_and_nobody_else(project: Project) -> None:
    networks = {name: project.container(name)["NetworkSettings"]["Networks"] for name in CORE}
    ports = {name: [int(port) for port in project.services[name]["expose"]] for name in CORE}
    image = project.container("mlflow")["Image"]
    for here in sorted(CORE):
        asked, expected = [], []
        for there in sorted(CORE - {here}):
            for network, place in networks[there].items():
                for port in ports[there]:
                    asked.append([place["IPAddress"], port])
                    if network in networks[here]:
                        expected.append([place["IPAddress"], port])
        namespace = f"container:{PROJECT}-{here}-1"
        said = project.run(
            *("docker", "run", "--rm", "--network", namespace, "--entrypoint", "python", image),
            *("-c", REACH, json.dumps(asked)),
        )
        found = json.loads(said.splitlines()[-1])
        # The proxy listens for http on 8080 for certificates only, which are its own here.
        optional = [[place["IPAddress"], port] for place in networks["proxy"].values()
                    for port in (8080, 8081)]  # fmt: skip
        assert [a for a in found if a not in optional] == [
            a for a in expected if a not in optional
        ], here


@pytest.mark.parametrize("service", sorted(CORE - {"proxy"}))
def test_only_the_proxy_has_a_way_out(project: Project, service: str) -> None:
    routes = project.inside(service, "cat", "/proc/net/route").splitlines()[1:]
    assert all(line.split()[1] != "00000000" for line in routes)


# --- Users and their work -------------------------------------------------------------------------

LOG = f"""
import hashlib, os, sys, warnings
warnings.simplefilter("ignore")
import mlflow
mlflow.set_experiment("alices")
with mlflow.start_run(run_name=sys.argv[1]) as run:
    mlflow.log_params({{"seed": 1, "model": "mobilenetv2"}})
    for step in range({STEPS}):
        mlflow.log_metrics({{"loss": 1 / (step + 1), "accuracy": step / {STEPS}}}, step=step)
    mlflow.log_artifact(sys.argv[2], "deep")
print(run.info.run_id)
"""

EXPECTED = [
    "FINISHED",
    {"seed": "1", "model": "mobilenetv2"},
    {
        "accuracy": [[step, step / STEPS] for step in range(STEPS)],
        "loss": [[step, 1 / (step + 1)] for step in range(STEPS)],
    },
]


@pytest.fixture(scope="session")
def run(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run with curves and a large file: its id, and the file's SHA-256."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(os.urandom(SIZE))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return outside.python(LOG, "first", str(path)).splitlines()[-1].split()[-1], digest


def read(outside: Outside, name: str) -> list[Any]:
    """A run as the server has it: its status, its parameters, and the points of its curves."""

    def ask(path: str) -> dict[str, Any]:
        status, body = outside.ask("GET", f"/api/2.0/mlflow/{path}")
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    found = ask(f"runs/get?run_id={name}")["run"]
    params = {param["key"]: param["value"] for param in found["data"].get("params", [])}
    curves = {}
    for key in sorted(metric["key"] for metric in found["data"]["metrics"]):
        points = ask(f"metrics/get-history?run_id={name}&metric_key={key}")["metrics"]
        curves[key] = [[point["step"], point["value"]] for point in points]
    return [found["info"]["status"], params, curves]


def whole(outside: Outside, run: tuple[str, str]) -> None:
    """Assert that the server holds the run as it was logged, point by point and byte by byte."""
    name, digest = run
    assert read(outside, name) == EXPECTED
    status, body = outside.ask("GET", f"/get-artifact?run_id={name}&path=deep/large.bin")
    assert (status, hashlib.sha256(body).hexdigest()) == (200, digest)


def test_a_run_is_tracked_from_outside_and_read_back(
    outside: Outside, run: tuple[str, str]
) -> None:
    whole(outside, run)


def test_strangers_forgeries_and_too_much_are_refused(project: Project, outside: Outside) -> None:
    assert outside.ask("GET", "/api/2.0/mlflow/users/current")[0] == 200
    assert outside.ask("GET", "/api/2.0/mlflow/users/current", password="wrong")[0] == 401
    assert outside.ask("GET", "/health", headers={"Host": "evil.example.org"})[0] in (403, 421)
    upload = "/api/2.0/mlflow-artifacts/artifacts/1/x.bin"
    assert outside.ask("PUT", upload, headers={"Content-Length": "2000000000"})[0] == 413
    search = "/api/2.0/mlflow/runs/search"
    assert outside.ask("POST", search, headers={"Content-Length": "20000000"})[0] == 413
    assert outside.ask("GET", "/metrics")[0] == 404


def test_prometheus_is_let_in(project: Project) -> None:
    address = "http://127.0.0.1:9090/api/v1/query?query=up"

    def up() -> bool:
        answer = json.loads(project.inside("prometheus", "wget", "-q", "-O", "-", address))
        jobs = {r["metric"]["job"]: r["value"][1] for r in answer["data"]["result"]}
        return jobs.get("mlflow") == "1"

    wait_for(up, pause=1)


# --- Accidents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", sorted(CORE))
def test_a_container_whose_processes_are_killed_is_started_again(
    project: Project, outside: Outside, run: tuple[str, str], service: str
) -> None:
    # The next is killed while this one is coming back.
    kill_processes(project, service)


def test_all_that_were_killed_are_healthy_again(project: Project) -> None:
    project.wait_healthy()


def kill_processes(project: Project, service: str, number: int = 1) -> None:
    """Kill all processes of a container, and wait until it is started again."""

    def started() -> str:
        return str(project.container(service, number)["State"]["StartedAt"])

    before = started()
    # All but the container's first process and this shell, which dies with the container.
    subprocess.run(
        ["docker", "exec", f"{PROJECT}-{service}-{number}", "sh", "-c", "kill -9 -1"],
        capture_output=True,
    )
    wait_for(lambda: started() != before, pause=0.5)


# The processes below the server's own, by their parent.
WORKERS = """
import os, pathlib, signal
for path in pathlib.Path('/proc').glob('[0-9]*'):
    words = (path / 'cmdline').read_bytes().split(b'\\0')
    if any(b'spawn_main' in word for word in words):
        os.kill(int(path.name), signal.SIGKILL)
        print(path.name)
        break
"""


def test_a_worker_that_is_killed_is_replaced(project: Project, outside: Outside) -> None:
    before = project.container("mlflow")["State"]["StartedAt"]
    assert project.inside("mlflow", "python", "-c", WORKERS).strip().isdigit()
    wait_for(lambda: outside.ask("GET", "/api/2.0/mlflow/users/current")[0] == 200)
    project.wait_healthy("mlflow")
    assert project.container("mlflow")["State"]["StartedAt"] == before


# Fills the container's memory, after making every other process the one that the kernel ends first.
HOG = """
import os, pathlib
for path in pathlib.Path('/proc').glob('[0-9]*'):
    if int(path.name) not in (1, os.getpid()):
        (path / 'oom_score_adj').write_text('1000')
blocks = []
while True:
    blocks.append(bytearray(os.urandom(1 << 20)) * 20)
"""


def test_at_its_memory_limit_the_server_is_restarted(project: Project) -> None:
    before = project.container("mlflow")["State"]["StartedAt"]
    subprocess.run(
        ["docker", "exec", f"{PROJECT}-mlflow-1", "python", "-c", HOG], capture_output=True
    )
    wait_for(lambda: project.container("mlflow")["State"]["StartedAt"] != before, pause=0.5)
    project.wait_healthy()


def test_nothing_was_lost(outside: Outside, run: tuple[str, str]) -> None:
    whole(outside, run)


# --- Backup and restore ---------------------------------------------------------------------------


def test_a_backup_comes_by_the_clock(project: Project) -> None:
    listed = project.make("backups")
    # Every minute of the next hour: it does not matter how long the service takes to start.
    now = datetime.now(UTC)
    times = [f"{now + timedelta(minutes=minute):%H:%M}" for minute in range(60)]
    project.set(BACKUP_AT=",".join(times))
    project.make("up")
    wait_for(lambda: project.make("backups") != listed, pause=3)
    assert "2 runs" in project.make("backups")


def test_a_backup_that_is_stopped_is_no_failure(project: Project) -> None:
    project.compose("stop", "backup")
    assert project.container("backup")["State"]["ExitCode"] == 0
    project.set(BACKUP_AT="02:30")
    project.make("up")


def test_a_migration_is_rehearsed(project: Project) -> None:
    said = project.make("rehearse")
    assert "nothing to migrate" in said
    assert "XDG_RUNTIME_DIR" not in said


def test_a_backup_is_made_by_hand(project: Project) -> None:
    before = project.make("backups")
    project.make("backup")
    assert newest(project) not in before


def newest(project: Project) -> str:
    return re.findall(r"^(\d{8}T\d{6}Z):", project.make("backups"), re.MULTILINE)[-1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("FROM=",), "no backup is named"),
        (("FROM=2027",), "no backup"),
        ((), "the service is not empty"),
    ],
)
def test_a_restore_is_refused_while_the_service_runs_on(
    project: Project, words: tuple[str, ...], reason: str
) -> None:
    before = [project.container(service)["State"]["StartedAt"] for service in sorted(CORE)]
    said = project.make("restore", *(words or (f"FROM={newest(project)}",)), fails=True)
    assert reason in said
    assert before == [project.container(s)["State"]["StartedAt"] for s in sorted(CORE)]


def test_a_restore_brings_back_what_was_there(
    project: Project, outside: Outside, run: tuple[str, str]
) -> None:
    name = newest(project)
    outside.python(LOG, "later", str(project.folder / "LICENSE"))
    said = project.make("restore", f"FROM={name}", "REPLACE=1")
    assert f"restored {name}" in said
    assert "XDG_RUNTIME_DIR" not in said
    project.wait_healthy()
    whole(outside, run)
    _, body = outside.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run[0]}")
    experiment = json.loads(body)["run"]["info"]["experiment_id"]
    status, body = outside.ask(
        "POST",
        "/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": [experiment]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert status == 200
    assert [r["info"]["run_name"] for r in json.loads(body)["runs"]] == ["first"]


def test_compare_reads_the_runs_of_the_service(outside: Outside) -> None:
    outside.python("from benchmarks.service import log_nine_runs; log_nine_runs()")
    compare = "import sys; from skinml.compare.__main__ import main; sys.exit(main(sys.argv[1:]))"
    table = outside.python(compare, "--experiment", "skinml", "--format", "csv").splitlines()
    assert {"mobilenet", "mobilenetv2", "nasnetmobile"} <= {row.split(",")[0] for row in table}


def test_a_chart_finds_the_servers_application(project: Project) -> None:
    """As docs/kubernetes.md has it, where nobody can say another command than mlflow server's."""
    code = "from mlflow.server import _find_app; print(_find_app('skinml-service'))"
    assert "skinml.service.app:create_app" in project.inside("mlflow", "python", "-c", code)


# --- The model server ---------------------------------------------------------------------------

# A model that answers pictures, as the serving model of a training does, without its network.
SIZES = """
import base64, io
import mlflow
from PIL import Image

class Sizes(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        pictures = (base64.b64decode(text) for text in model_input["image"])
        return [list(Image.open(io.BytesIO(picture)).size) for picture in pictures]

mlflow.models.set_model(Sizes())
"""

REGISTER = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow
mlflow.set_experiment("alices")
with mlflow.start_run():
    mlflow.pyfunc.log_model(name="model", python_model=sys.argv[1], pip_requirements=["pillow"],
                            registered_model_name=sys.argv[2])
mlflow.MlflowClient().set_registered_model_alias(sys.argv[2], "champion", "1")
"""


def test_the_model_server_answers_users_and_nobody_else(
    project: Project, outside: Outside, tmp_path: Path
) -> None:
    image = project.services["serve"]["image"]
    if not project.run("docker", "images", "--quiet", image):
        pytest.skip(f"{image} is not here: docker compose --profile train build makes it (7 GB)")
    code = tmp_path / "model.py"
    code.write_text(SIZES)
    outside.python(REGISTER, str(code), compose.read_env(project.folder / ".env")["SERVE_MODEL"])
    said = project.make("user", "NAME=serving", "CAN=READ")
    password = re.findall(r"MLFLOW_TRACKING_PASSWORD=(\S+)", said)[0]
    project.set(CLIENT_USERNAME="serving", CLIENT_PASSWORD=password)
    project.compose("up", "--detach", "--wait", "serve")
    has_no_rights(project, "serve")
    picture = io.BytesIO()
    Image.new("RGB", (40, 30)).save(picture, "PNG")
    rows = [{"image": b64encode(picture.getvalue()).decode()}]
    body = json.dumps({"dataframe_records": rows}).encode()
    ask = partial(outside.ask, "POST", "/serve/invocations", body)
    headers = {"Content-Type": "application/json"}
    status, answer = ask(headers=headers)
    assert (status, json.loads(answer)) == (200, {"predictions": [[40, 30]]})
    assert ask(headers=headers, password="wrong")[0] == 401
    project.compose("rm", "--stop", "--force", "serve")


# --- Secrets --------------------------------------------------------------------------------------


def test_no_secret_is_in_images_logs_or_process_lists(project: Project) -> None:
    image = project.container("mlflow")["Image"]
    texts = {
        "logs": project.compose("logs", "--no-color"),
        "processes": project.compose("top"),
        "image": project.run("docker", "history", "--no-trunc", image)
        + project.run("docker", "image", "inspect", image),
    }
    for name, secret in project.secrets.items():
        for where, text in texts.items():
            assert secret not in text, f"{name} in {where}"


# --- Stopping, and starting otherwise -------------------------------------------------------------


def test_down_and_up_keep_everything(
    project: Project, outside: Outside, run: tuple[str, str]
) -> None:
    # One of a profile, which would keep the networks in use.
    project.compose("run", "--detach", "restore", "sleep", "3600")
    project.make("down")
    assert project.run("docker", "ps", "--quiet", "--filter", f"name={PROJECT}-") == ""
    project.make("up")
    whole(outside, run)


def is_closed(project: Project) -> bool:
    network = f"{PROJECT}_outside"
    found = project.run("docker", "network", "inspect", "-f", "{{.Internal}}", network)
    return found.strip() == "true"


def test_a_network_is_opened_by_the_next_up(project: Project, outside: Outside) -> None:
    project.set(OUTSIDE_CLOSED="false")
    assert f"network {PROJECT}_outside was closed" in project.make("up")
    assert not is_closed(project)
    assert outside.ask("GET", "/api/2.0/mlflow/users/current")[0] == 200


# --- Several servers: the profile scale -----------------------------------------------------------

# Sends points one by one until it is ended, and prints the step of each that was acknowledged.
SEND = """
import itertools, sys, warnings
warnings.simplefilter("ignore")
import mlflow
client = mlflow.MlflowClient()
run = client.create_run(client.get_experiment_by_name("alices").experiment_id).info.run_id
print(run, flush=True)
for step in itertools.count():
    client.log_metric(run, "loss", step / 8, step=step)
    print(step, flush=True)
"""
SERVERS = (1, 2)


@pytest.fixture(scope="session")
def scaled(project: Project, outside: Outside) -> Project:
    project.set(
        COMPOSE_PROFILES="scale", MLFLOW_CONTAINERS=str(len(SERVERS)), MLFLOW_POOLER="pgbouncer"
    )
    project.set(OUTSIDE_CLOSED="true")  # a test before this opened it
    project.make("up")
    project.wait_healthy(*sorted(CORE), "pgbouncer", *(f"mlflow {n}" for n in SERVERS))
    return project


def test_a_network_is_closed_by_the_next_up(scaled: Project) -> None:
    assert is_closed(scaled)


def test_the_pooler_may_do_nothing_that_it_need_not(scaled: Project) -> None:
    has_no_rights(scaled, "pgbouncer")
    assert scaled.secrets["MLFLOW_DB_PASSWORD"] not in scaled.compose("top", "pgbouncer")


def test_every_server_asks_the_database_through_the_pooler(
    scaled: Project, outside: Outside, run: tuple[str, str]
) -> None:
    whole(outside, run)
    network = scaled.container("pgbouncer")["NetworkSettings"]["Networks"]
    query = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE usename = 'mlflow'"
    ask = f'PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U postgres -d mlflow -Atc "{query}"'
    found = scaled.inside("postgres", "sh", "-c", ask).split()
    assert found == [place["IPAddress"] for place in network.values()]


def test_whatever_server_answers_knows_the_users_and_what_they_may(
    scaled: Project, outside: Outside, run: tuple[str, str]
) -> None:
    password = new_user(scaled, "carol")
    path = f"/api/2.0/mlflow/runs/get?run_id={run[0]}"
    told = {outside.ask("GET", path, password=password, user="carol")[0] for _ in range(20)}
    assert told == {403}
    assert {outside.ask("GET", path)[0] for _ in range(20)} == {200}


def test_prometheus_asks_each_server_and_each_had_its_part(scaled: Project) -> None:
    query = 'count(sum by (instance) (mlflow_http_request_total{job="mlflow",method="GET"}) > 0)'
    address = f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}"

    def count() -> int:
        answer = json.loads(scaled.inside("prometheus", "wget", "-q", "-O", "-", address))
        return sum(int(row["value"][1]) for row in answer["data"]["result"])

    wait_for(lambda: count() == len(SERVERS), pause=1)


def test_any_server_is_killed_while_values_are_sent_and_none_is_lost(
    scaled: Project, outside: Outside
) -> None:
    sending = subprocess.Popen(
        [sys.executable, "-c", SEND], env=outside.environment, stdout=subprocess.PIPE, text=True
    )
    told: list[str] = []

    def note() -> None:
        assert sending.stdout
        told.extend(line.strip() for line in sending.stdout)

    reader = threading.Thread(target=note)
    reader.start()

    def goes_on() -> None:
        before = len(told)
        wait_for(lambda: len(told) > before + 20, process=sending)

    try:
        goes_on()
        for number in SERVERS:
            kill_processes(scaled, "mlflow", number)
            # With the other one alone.
            goes_on()
            scaled.wait_healthy(f"mlflow {number}")
            goes_on()
    finally:
        sending.kill()
        reader.join()
        sending.communicate()
    name, *acknowledged = told
    curves = read(outside, name)[2]
    steps = [int(step) for step in acknowledged]
    # Of the point that was under way when the sender was ended it does not matter.
    assert curves["loss"][: len(steps)] == [[step, step / 8] for step in steps]
    assert len(curves["loss"]) - len(steps) in (0, 1)
