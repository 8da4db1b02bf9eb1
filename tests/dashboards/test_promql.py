"""Every PromQL query and alert expression, to a Prometheus that scraped a real server."""

import base64
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from skinml.base.processes import free_port
from tests.conftest import surroundings
from tests.dashboards.conftest import (
    EXPORTER,
    OWNER,
    PASSWORDS,
    READER_PASSWORDS,
    ROOT,
    Postgres,
    answers,
    dashboards,
    grafana_rules,
    panel_queries,
    process,
    program,
)
from tests.waiting import PATIENCE, wait_for

RULES = ROOT / "deploy" / "prometheus" / "rules"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
ADMIN, METRICS = ("admin", "admin-of-the-test"), ("metrics", "metrics-of-the-test")
PLAIN = ("somebody", "somebody-of-the-test")

PROM_PANELS = [query for query in panel_queries() if not query.is_sql]

# What the backup service answers, as recorded; its last backup is two days old.
BACKUP = """\
# TYPE skinml_backups gauge
skinml_backups 1
# TYPE skinml_backup_failures_total counter
skinml_backup_failures_total 0
# TYPE skinml_backup_last_success_timestamp_seconds gauge
skinml_backup_last_success_timestamp_seconds {at}
# TYPE skinml_backup_last_duration_seconds gauge
skinml_backup_last_duration_seconds 12.5
# TYPE skinml_backup_last_artifacts_bytes gauge
skinml_backup_last_artifacts_bytes 9650000
# TYPE skinml_backup_last_database_bytes gauge
skinml_backup_last_database_bytes 1234567
# TYPE skinml_backup_last_missing_artifacts gauge
skinml_backup_last_missing_artifacts 0
# TYPE skinml_artifacts_filesystem_size_bytes gauge
skinml_artifacts_filesystem_size_bytes 270553174016
# TYPE skinml_artifacts_filesystem_free_bytes gauge
skinml_artifacts_filesystem_free_bytes 66984243200
# TYPE skinml_backups_filesystem_size_bytes gauge
skinml_backups_filesystem_size_bytes 270553174016
# TYPE skinml_backups_filesystem_free_bytes gauge
skinml_backups_filesystem_free_bytes 66984243200
"""


# The machinery


class BackupService(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(BACKUP.format(at=time.time() - 2 * 86400).encode())

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def backup() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BackupService)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def exporter(cluster: Postgres) -> Iterator[str]:
    """The real postgres_exporter, signed in as the role that the SQL makes for it."""
    command = program("prometheus-postgres-exporter", "prometheus-postgres-exporter")
    address = f"127.0.0.1:{free_port()}"
    with process(
        [command, f"--web.listen-address={address}"],
        lambda: answers(f"http://{address}/metrics"),
        DATA_SOURCE_URI=f"127.0.0.1:{cluster.port}/mlflow?sslmode=disable",
        DATA_SOURCE_USER=EXPORTER,
        DATA_SOURCE_PASS=PASSWORDS[EXPORTER],
    ):
        yield address


def call(
    address: str, path: str, who: tuple[str, str] | None = ADMIN, method: str = "", **body: Any
) -> tuple[int, Any]:
    """Ask MLflow something; status and answer."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://{address}{path}", data, method=method or None)
    if body:
        request.add_header("Content-Type", "application/json")
    if who:
        request.add_header(
            "Authorization", "Basic " + base64.b64encode(":".join(who).encode()).decode()
        )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def mlflow(cluster: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server with users and metrics, on the same PostgreSQL."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "basic_auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = {ADMIN[0]}\n"
        # A password's hash takes a while, several times a request: too long on a busy machine.
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 300\n"
    )
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", host, "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", cluster.uri(OWNER, "postgresql+psycopg")]
    command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    command += ["--expose-prometheus", str(folder / "metrics")]
    with (
        surroundings(folder),
        process(
            command,
            lambda: answers(f"http://{address}/health"),
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
            MLFLOW_AUTH_CONFIG_PATH=str(folder / "basic_auth.ini"),
            MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN[1],
            MLFLOW_FLASK_SERVER_SECRET_KEY="a key of the test",
        ),
    ):
        for name, password in (METRICS, PLAIN):
            status, reply = call(
                address, "/api/2.0/mlflow/users/create", username=name, password=password
            )
            assert status == 200, reply
        status, reply = call(
            address,
            "/api/2.0/mlflow/users/update-admin",
            method="PATCH",
            username=METRICS[0],
            is_admin=True,
        )
        assert status == 200, reply
        made = cluster.make_readers(**READER_PASSWORDS)
        assert made.returncode == 0, made.stderr
        yield address


def traffic(address: str) -> None:
    """Reads, writes, an upload, a download, a mistake and a stranger."""
    api = f"{address}", "/api/2.0/mlflow"
    call(api[0], f"{api[1]}/experiments/search?max_results=10")
    # With a start: the tests of the SQL, which share the database, look for runs long silent.
    now = int(time.time() * 1000)
    status, reply = call(api[0], f"{api[1]}/runs/create", experiment_id="0", start_time=now)
    assert status == 200, reply
    run = json.loads(reply)["run"]["info"]["run_id"]
    call(api[0], f"{api[1]}/runs/log-metric", run_id=run, key="a", value=1.0, timestamp=1, step=0)
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/a.json"
    assert call(api[0], path, method="PUT", some="content")[0] == 200
    assert call(api[0], path)[0] == 200
    assert call(api[0], f"{api[1]}/experiments/get?experiment_id=987654")[0] == 404
    assert call(api[0], f"{api[1]}/experiments/search?max_results=10", who=None)[0] == 401


@pytest.fixture(scope="module")
def prometheus(
    mlflow: str, exporter: str, backup: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A Prometheus with the committed configuration, at other addresses and every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / "*.yml")]
    addresses = {"mlflow": mlflow, "postgres": exporter, "backup": backup}
    for job in config["scrape_configs"]:
        # In containers all those of a name, or one.
        assert job.pop("dns_sd_configs", None) or job.pop("static_configs")
        job["static_configs"] = [{"targets": [addresses[job["job_name"]]]}]
        if "basic_auth" in job:
            (folder / "password").write_text(METRICS[1])
            assert job["basic_auth"]["username"] == METRICS[0]
            job["basic_auth"]["password_file"] = str(folder / "password")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with process(command, lambda: answers(f"http://{address}/-/ready")):
        seen = 'min(sum by (job) (count_over_time(mlflow_http_request_total{status="404"}[1m])))'

        def has_samples() -> bool:
            traffic(mlflow)
            counts = [float(row["value"][1]) for row in instant(address, seen)]
            return bool(counts and min(counts) >= 3 and instant(address, "ALERTS"))

        wait_for(has_samples, pause=1)
        yield address


def api(address: str, path: str, **parameters: str) -> Any:
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(
            f"http://{address}/api/v1/{path}?{query}", timeout=PATIENCE
        ) as reply:
            return json.load(reply)["data"]
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{parameters}: {error.read().decode()}")


def instant(address: str, expression: str) -> list[dict[str, Any]]:
    return api(address, "query", query=expression)["result"]


def as_sent(expression: str, database: str = "(mlflow|postgres)") -> str:
    """What Grafana makes of an expression: four scrapes of 15 s, and the chosen databases."""
    return expression.replace("$__rate_interval", "1m").replace("$database", database)


# The real thing


def test_metrics_are_for_an_admin_only(mlflow: str) -> None:
    """Should a later MLflow let a plain user in, `metrics` need not be an admin any more."""
    assert call(mlflow, "/metrics", who=None)[0] == 401
    assert call(mlflow, "/metrics", who=("metrics", "another-password"))[0] == 401
    assert call(mlflow, "/metrics", who=PLAIN)[0] == 403
    status, text = call(mlflow, "/metrics", who=METRICS)
    assert status == 200 and b"mlflow_http_request_total" in text


def test_every_job_is_scraped(prometheus: str) -> None:
    targets = api(prometheus, "targets")["activeTargets"]
    assert {(t["labels"]["job"], t["health"], t["lastError"]) for t in targets} == {
        ("mlflow", "up", ""),
        ("postgres", "up", ""),
        ("backup", "up", ""),
    }


@pytest.mark.parametrize("query", PROM_PANELS, ids=lambda query: query.where)
def test_a_panel_shows_what_was_scraped(query: Any, prometheus: str) -> None:
    expression = as_sent(query.target["expr"])
    assert "$" not in expression
    if query.target["instant"]:
        found = instant(prometheus, expression)
        values = [row["value"][1] for row in found]
    else:
        now = time.time()
        span = {"start": str(now - 60), "end": str(now), "step": "5"}
        found = api(prometheus, "query_range", query=expression, **span)["result"]
        values = [row["values"][-1][1] for row in found]
    assert found, expression
    assert all(value not in ("NaN", "+Inf", "-Inf") for value in values), values
    legend = query.target["legendFormat"]
    for name in re.findall(r"\{\{\s*(\w+)\s*\}\}", legend):
        assert all(name in row["metric"] for row in found), (name, found[0]["metric"])
    if "{{" not in legend and legend != "__auto":
        assert len(found) == 1, "several curves of one name"


def test_requests_are_told_apart(prometheus: str) -> None:
    rows = instant(prometheus, "sum by (method, status) (mlflow_http_request_total)")
    seen = {(row["metric"]["method"], row["metric"]["status"]) for row in rows}
    assert {("GET", "200"), ("POST", "200"), ("GET", "404"), ("GET", "401")} <= seen
    # Artifacts pass MLflow's counters by. Should a later one count them, the limit of MlflowSlow
    # needs no change, the words of the panels do.
    assert not any(method == "PUT" for method, _ in seen)


def test_a_database_can_be_chosen(prometheus: str) -> None:
    [variable] = dashboards()["skinml-service"]["templating"]["list"]
    series, label = re.fullmatch(
        r"label_values\((.+), (\w+)\)", variable["query"]["query"]
    ).groups()  # type: ignore[union-attr]
    values = api(prometheus, f"label/{label}/values", **{"match[]": series})
    assert values == ["mlflow", "postgres"]


def expressions() -> dict[str, str]:
    """Every expression of the dashboards and of both kinds of alerts."""
    found = {query.where: as_sent(query.target["expr"]) for query in PROM_PANELS}
    found |= {rule["alert"]: rule["expr"] for rule in alert_rules()}
    for rule in grafana_rules():
        for query in rule["data"]:
            if "expr" in query["model"]:
                found[rule["title"]] = query["model"]["expr"]
    return found


def alert_rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("where", expressions())
def test_what_an_expression_names_is_there(where: str, prometheus: str) -> None:
    """A metric or label that is spelled wrongly finds nothing, for ever, and so alerts nobody."""
    expression = expressions()[where]
    api(prometheus, "query", query=expression)
    names = re.findall(r"\b((?:mlflow|pg|skinml)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?", expression)
    assert names
    for name, selectors in names:
        rows = instant(prometheus, name)
        assert rows, f"{name}: nothing has such a metric"
        for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selectors):
            assert any(label in row["metric"] for row in rows), f"{name} has no label {label}"


def test_what_is_wrong_alerts(prometheus: str) -> None:
    """The backup service says that its last backup is two days old."""
    rows = instant(prometheus, "ALERTS")
    assert [(row["metric"]["alertname"], row["metric"]["alertstate"]) for row in rows] == [
        ("BackupTooOld", "pending")
    ]
    [rule] = [
        rule
        for group in api(prometheus, "rules")["groups"]
        for rule in group["rules"]
        if rule["name"] == "BackupTooOld"
    ]
    assert "2d 0h" in rule["alerts"][0]["annotations"]["summary"]
    errors = [
        rule["lastError"]
        for group in api(prometheus, "rules")["groups"]
        for rule in group["rules"]
        if rule.get("lastError")
    ]
    assert errors == []


# Rules and configuration by promtool


def promtool(*words: str | Path) -> str:
    command = [program("promtool", "prometheus"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_one() -> None:
    assert "SUCCESS" in promtool("check", "config", CONFIG)


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", "--lint-fatal", *sorted(RULES.glob("*.yml")))


CASES = [Path(__file__).with_name(name) for name in ("alerts_days.yml", "alerts.yml")]


def test_alerts_fire_when_they_must_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", *CASES)


def test_the_cases_have_every_alert_fire_and_not_fire() -> None:
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]
    [healthy, *ill] = [test["promql_expr_test"] for test in tests]
    assert {case["expr"] for cases in (healthy, *ill) for case in cases} == {
        'ALERTS{alertstate="firing"}'
    }
    assert [sample for case in healthy for sample in case["exp_samples"]] == []
    samples = [sample for cases in ill for case in cases for sample in case["exp_samples"]]
    fired = {re.findall('alertname="([^"]+)"', sample["labels"])[0] for sample in samples}
    assert fired == {rule["alert"] for rule in alert_rules()}


def test_every_alert_says_what_to_do() -> None:
    for rule in alert_rules():
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_limits_of_the_dashboard_are_those_of_the_alerts() -> None:
    limits = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in dashboards()["skinml-service"]["panels"]
        if panel["type"] == "stat"
    }
    by_name = {rule["alert"]: rule["expr"] for rule in alert_rules()}
    assert by_name["BackupTooOld"].endswith(f"> {limits['Since the last backup'] // 3600} * 3600")
    assert by_name["ConnectionsNearLimit"].endswith(f"> {limits['Connections in use']}")
