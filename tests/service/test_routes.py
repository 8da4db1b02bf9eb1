"""Every route of the server, by every way of asking: only what is in the table, only one's own.

The routes come from the server's own tables, so that one that a new version of MLflow brings
fails here until somebody has decided: into `routes.TABLE`, or into `CLOSED`. No attack is here:
what another's object is asked for is asked as MLflow documents it, and what is asked in unusual
ways concerns one's own.
"""

import http.client
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from skinml.service import routes
from skinml.service.native import Native
from tests.conftest import surroundings
from tests.service.conftest import needs_service
from tests.service.test_service import API, Team, own_run

pytestmark = [pytest.mark.slow, needs_service, pytest.mark.timeout(1800)]

# What this service does not use, and does not answer.
CLOSED = {
    "traces and what judges them": r"/v1/traces|{api}/(get-trace-artifact|get-online-trace-details"
    r"|unified-traces|traces|scorers?|issues|label-schemas|review-queues|genai|datasets)(/.*)?",
    "prompts": r"{api}/(prompt-optimization/.*|runs/create-promptlab-run)",
    "calls to addresses that a user names": r"/gateway/.*|{api}/(gateway/.*|gateway-proxy"
    r"|webhooks)(/.*)?",
    "jobs, and programs on the server": r"/ajax-api/3\.0/jobs.*|{api}/(jobs|assistant|demo"
    r"|mcp-servers)(/.*)?",
    "workspaces, which are off": r"{api}/workspaces(/.*)?",
    "accounts by a form of MLflow's own": r"/signup|/api/2\.0/mlflow/users/create-ui",
    "uploads into a run that is named beside its path": r"{api}/upload-artifact",
    "uploads in parts and addresses that are signed, which a folder has not": r"/(ajax-)?api/2\.0/"
    r"mlflow-artifacts/(mpu|presigned)/.*|{api}/artifacts/presigned-.*",
    "the same files under another name": r"/build/.*",
    "telemetry, which is off": r"{api}/ui-telemetry",
    "GraphQL by an address, whose body MLflow reads all the same": r"GET /graphql",
    "misspelt by MLflow, and not implemented": r"/(ajax-)?api/2\.0mlflow/.*",
}  # fmt: skip

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# The server's routes, and the root fields of its GraphQL, as JSON.
_ASK_SERVER = """
import json, os, sys
os.environ |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "x", "_MLFLOW_SGI_NAME": "uvicorn",
    "MLFLOW_AUTH_CONFIG_PATH": sys.argv[1] + "/auth.ini", "prometheus_multiproc_dir": sys.argv[1],
    "MLFLOW_AUTH_ADMIN_PASSWORD": "twelve letters", "PROMETHEUS_MULTIPROC_DIR": sys.argv[1],
    "_MLFLOW_SERVER_FILE_STORE": "sqlite:///" + sys.argv[1] + "/runs.db"}
with open(sys.argv[1] + "/auth.ini", "w") as file:
    file.write("[mlflow]\\ndefault_permission = NO_PERMISSIONS\\nadmin_username = admin\\n"
        "database_uri = sqlite:///" + sys.argv[1] + "/users.db\\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\\n")
import mlflow.server
from fastapi.routing import iter_route_contexts
from mlflow.server import auth
from mlflow.server.graphql.graphql_schema_extensions import schema
from starlette.routing import Mount
app = auth.create_app()
found = [(sorted(r.methods), re) for r in mlflow.server.app.url_map.iter_rules() for re in [r.rule]]
for route in iter_route_contexts(app.routes):
    if not isinstance(route.original_route, Mount):
        found.append((sorted(route.methods), route.path))
graphql = [*schema.graphql_schema.query_type.fields]
print(json.dumps({"routes": found, "graphql": graphql}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tables of MLflow's own application: (verbs, path) of each route, fields of GraphQL."""
    folder = tmp_path_factory.mktemp("tables")
    words = [sys.executable, "-W", "ignore", "-c", _ASK_SERVER, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    # The metrics are served only where they are asked for, as in docker-compose.yml.
    told["routes"].append((["GET"], "/metrics"))
    return told


def as_ours(path: str) -> str:
    """The path of a route as the table writes it: a file's whole path is <path>."""
    path = re.sub(r"<path:\w+>|{\w+:path}", "<path>", path)
    return re.sub(r"{(\w+)}", r"<\1>", path)


def closed(verb: str, path: str) -> bool:
    """Whether somebody has decided that a path is not answered to a verb."""
    api = r"/(ajax-)?api/[23]\.0/mlflow"
    return any(
        re.fullmatch(pattern.replace("{api}", api), asked)
        for pattern in CLOSED.values()
        for asked in (path, f"{verb} {path}")
    )


def test_every_route_of_the_server_has_been_decided_on(server: Any) -> None:
    ours = {(route.method, route.path) for route in routes.routes()}
    theirs = {
        (verb, as_ours(path))
        for verbs, path in server["routes"]
        for verb in verbs
        if verb not in ("HEAD", "OPTIONS")
    }
    undecided = sorted(f"{verb} {path}" for verb, path in theirs - ours if not closed(verb, path))
    assert not undecided, "new routes of MLflow: into routes.TABLE, or into CLOSED"
    assert sorted(ours - theirs) == [], "the table names what the server has not"
    assert set(routes.GRAPHQL_FIELDS) | {"test"} == set(server["graphql"])


# --- With a service -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def team(place: Path) -> Iterator[Team]:
    """The service, of which bob has something of every kind and mallory an account."""
    with surroundings(place) as monkeypatch:
        monkeypatch.setenv("MLFLOW_WORKERS", "1")
        with Native(place / "data").up() as native:
            team = Team(native)
            for name in ("bob", "mallory"):
                team.add(name)
            yield team


# In the name of everything that bob has, so that it is found in whatever tells of it.
MARK = "bobs-own"


@pytest.fixture(scope="module")
def names(team: Team) -> dict[str, Any]:
    """What bob has, by the names under which MLflow's interfaces ask for it."""
    run, target = own_run(team, "bob", MARK)
    experiment = target.split("/")[-3]

    def made(method: str, path: str, body: Any) -> Any:
        status, answer = team.ask("bob", method, path, body)
        assert status == 200, (path, answer)
        return answer

    named = {"run_id": run, "key": MARK, "value": "1"}
    for kind in ("set-tag", "log-parameter"):
        made("POST", f"{API}/runs/{kind}", named)
    made("POST", f"{API}/runs/log-metric", named | {"value": 1.0, "timestamp": 1})
    made("PUT", f"{target}/{MARK}.txt", {})
    logged = {"experiment_id": experiment, "name": MARK, "source_run_id": run}
    model = made("POST", f"{API}/logged-models", logged)["model"]["info"]["model_id"]
    tag = {"tags": [{"key": MARK, "value": "1"}]}
    made("PATCH", f"{API}/logged-models/{model}/tags", tag)
    made("POST", f"{API}/registered-models/create", {"name": MARK})
    source = f"mlflow-artifacts:/{experiment}/{run}/artifacts"
    made("POST", f"{API}/model-versions/create", {"name": MARK, "source": source, "run_id": run})
    alias = {"name": MARK, "alias": MARK, "version": "1"}
    made("POST", f"{API}/registered-models/alias", alias)
    return {
        "experiment_id": experiment, "experiment_ids": [experiment], "experiment_name": MARK,
        "run_id": run, "run_uuid": run, "run_ids": [run], "model_id": model, "name": MARK,
        "version": "1", "alias": MARK, "username": "bob", "key": MARK, "tag_key": MARK,
        "metric_key": MARK, "path": f"{MARK}.txt", "artifact_path": f"{experiment}/{run}/artifacts",
        "artifact_file_path": f"{MARK}.txt", "new_name": "taken", "value": "2", "metrics": [],
        "params": [], "tags": [], "datasets": [], "models": [], "status": "FAILED",
        "description": "x", "stage": "Archived", "source": source, "resource_type": "experiment",
        "resource_id": experiment, "permission": "MANAGE", "password": "long enough 123",
        "is_admin": True, "model_json": "{}", "role_id": "1",
        "operationName": "Q", "variables": {}, "query": "query Q " + RUN.replace("$i", f'"{run}"'),
    }  # fmt: skip


def fill(path: str, names: dict[str, Any]) -> str:
    """The path of a route with what bob has for its variables."""
    artifact = f"{names['artifact_path']}/{MARK}.txt"
    path = as_ours(path).replace("<path>", artifact)
    return re.sub(r"<(\w+)>", lambda found: str(names.get(found[1], names["run_id"])), path)


def keys_of_bodies() -> dict[tuple[str, str], list[str]]:
    """The keys that MLflow documents for the JSON of its interfaces, by verb and path."""
    from mlflow.protos import databricks_pb2, model_registry_pb2, service_pb2

    found = {}
    for module, name in (
        (service_pb2, "MlflowService"),
        (model_registry_pb2, "ModelRegistryService"),
    ):
        module_: Any = module
        for method in module_.DESCRIPTOR.services_by_name[name].methods:
            options: Any = method.GetOptions()
            for endpoint in options.Extensions[databricks_pb2.rpc].endpoints:
                path = re.sub(r"{(\w+)}", r"<\1>", endpoint.path)
                keys = [field.name for field in method.input_type.fields]
                for api in ("api", "ajax-api"):
                    version = f"{endpoint.since.major}.0"
                    found[endpoint.method, f"/{api}/{version}{path}"] = keys
    return found


class Asker:
    """One connection, over which a user asks many things."""

    def __init__(self, team: Team, user: str | None) -> None:
        port = team.native.ports["mlflow", 5000]
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Authorization": f"Basic {team.token(user)}"} if user else {}

    def close(self) -> None:
        self._connection.close()

    def __call__(
        self, verb: str, path: str, body: str | None = None, kind: str | None = None
    ) -> tuple[int, str]:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        self._connection.request(verb, path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read().decode(errors="replace")


# What a page of MLflow asks for in GraphQL.
RUN = "{mlflowGetRun(input: {runId: $i}) {run {info {runName}}}}"

JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def ways(
    verb: str, path: str, names: dict[str, Any], keys: list[str] | None
) -> dict[str, tuple[str, str | None, str | None]]:
    """A request's path, body and type, by the ways in which MLflow's interfaces are told names."""
    found = routes.find(verb, path)
    taken = sorted(found[0].query | found[0].keys) if found else []
    given = {name: names[name] for name in keys or taken or names if name in names}
    query = urlencode(given, doseq=True)
    return {
        "path": (path, None, None),
        "query": (f"{path}?{query}", None, None),
        "body": (path, json.dumps(given), JSON),
        "form": (path, query, FORM),
    }


def everything(team: Team) -> dict[str, Any]:
    """The rows of every table, and the files among the artifacts."""
    import psycopg
    from psycopg import sql

    native = team.native
    rows: dict[str, Any] = {}
    with psycopg.connect(
        host="127.0.0.1", port=native.ports["postgres", 5432], dbname="mlflow", user="mlflow",
        password=native.variables["MLFLOW_DB_PASSWORD"],
    ) as connection:  # fmt: skip
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'auth')"
        ).fetchall()
        for table in tables:
            ask = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(*table))
            rows[".".join(table)] = connection.execute(ask).fetchall()
    artifacts = native.data / "volumes/artifacts/artifacts"
    rows["files"] = sorted(
        (str(path.relative_to(artifacts)), path.read_bytes() if path.is_file() else b"")
        for path in artifacts.rglob("*")
    )
    return rows


def test_nobody_reaches_what_is_not_theirs_by_any_route(
    team: Team, names: dict[str, Any], server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every path of the server, with every verb, as nobody and as a plain user, every way."""
    keys = keys_of_bodies()
    paths = sorted({as_ours(path) for _, path in server["routes"]})
    before, wrong, asked = everything(team), list[str](), Counter[str]()
    for user, pattern in itertools.product((None, "mallory"), paths):
        with closing(Asker(team, user)) as ask:
            path = quote(fill(pattern, names))
            for verb in VERBS:
                found = routes.find(verb, path)
                for way, request in ways(verb, path, names, keys.get((verb, pattern))).items():
                    status, answer = ask(verb, *request)
                    asked[user or "nobody"] += 1
                    if user is None:
                        # Open is what tells nothing of anybody.
                        fine = status == 401 or (found and found[0].kind == "open")
                    else:
                        # Lists leave out what is another's, GraphQL answers null.
                        fine = 400 <= status < 500 or (found and status == 200)
                        fine = fine and names["run_id"] not in without(answer, request)
                    if not fine or MARK in without(answer, request):
                        wrong.append(f"{user} {verb} {path} {way}: {status} {answer[:120]}")
    assert not wrong, "\n".join(wrong)
    assert everything(team) == before
    with capsys.disabled():
        count = len(paths) * len(VERBS)
        print(f"\n{len(paths)} paths × {len(VERBS)} verbs = {count}; × 4 ways: {dict(asked)}")


def without(answer: str, request: tuple[str, str | None, str | None]) -> str:
    """An answer without what it repeats of the request, in a message of an error."""
    return "" if '"error_code"' in answer else answer


def test_what_is_ones_own_is_named_in_its_place_alone(
    team: Team, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every interface of the table, told its object twice or elsewhere by whom it belongs to."""
    keys = keys_of_bodies()
    before, wrong, asked = everything(team), list[str](), 0
    for route in routes.routes():
        if route.kind == "open":
            continue
        path = quote(fill(route.path, names))
        taken = keys.get((route.method, route.path)) or sorted(route.query | route.keys)
        given = {name: names[name] for name in taken if name in names} or {"name": MARK}
        name = next(iter(given))
        query, body = urlencode(given, doseq=True), json.dumps(given)
        unusual: dict[str, tuple[str, str | None, str | None]] = {
            "in query and body": (f"{path}?{query}", body, JSON),
            "in query and form": (f"{path}?{query}", query, FORM),
            "unknown in the query": (f"{path}?{query}&another=1", None, None),
            "upwards": (f"{path}/../{path.rpartition('/')[2]}", None, None),
        }
        if route.query - route.several:
            twice = sorted(route.query - route.several)[0]
            value = urlencode({twice: names.get(twice, "1")})
            unusual["twice in the query"] = (f"{path}?{value}&{value}", None, None)
        if route.body.startswith("json"):
            first = f"{json.dumps(name)}: {json.dumps(given[name])}"
            unusual |= {
                "in the query of what reads the body": (f"{path}?{query}", None, None),
                "twice in the body": (path, f"{{{first}, {body[1:]}", JSON),
                "as text": (path, body, "text/plain"),
                "as a form": (path, query, FORM),
                "without a type": (path, body, None),
                "a list": (path, f"[{body}]", JSON),
                "JSON within JSON": (path, json.dumps(body), JSON),
                "under another name": (path, body.replace('{"', '{"aName": 1, "', 1), JSON),
            }
        for way, request in unusual.items():
            with closing(Asker(team, "bob")) as ask:
                status, answer = ask(route.method, *request)
            asked += 1
            if status != 400:
                wrong.append(f"{route.method} {path} {way}: {status} {answer[:120]}")
    assert not wrong, "\n".join(wrong)
    assert everything(team) == before
    with capsys.disabled():
        print(f"\n{len(routes.routes())} interfaces, {asked} requests that name what is one's own")


@pytest.mark.parametrize(
    "query",
    [
        "{", "", "{__schema {types {name}}}", "{mlflowGetRun {run {info {runName}}}}",
        "{test(inputString: \"\") {output}}", "mutation {testMutation(inputString: \"\") {output}}",
        f"query A {RUN} query Q {RUN}", f"{{a: {RUN[1:-1]} b: {RUN[1:-1]}}}",
        f"{{...on Query {RUN}}}", f"{{...f}} fragment f on Query {RUN}",
    ],
)  # fmt: skip
def test_graphql_answers_for_one_thing_that_mlflow_checks(
    team: Team, names: dict[str, Any], query: str
) -> None:
    asked = {"query": query.replace("$i", f'"{names["run_id"]}"')}
    assert team.ask("bob", "POST", "/graphql", asked)[0] in (400, 404)
    assert team.ask("bob", "POST", "/graphql", {"query": names["query"]})[0] == 200


def test_a_search_is_short(team: Team, names: dict[str, Any]) -> None:
    """200 keys to sort by took 39 s, 100 clauses 14 s, in which the others waited."""
    path, where = f"{API}/runs/search", {"experiment_ids": [names["experiment_id"]]}
    keys = [f"metrics.m{number}" for number in range(routes.MOST_SORT_KEYS + 1)]
    clauses = [f"tags.`and {number}` = 'and'" for number in range(routes.MOST_CLAUSES + 1)]
    for end, status in ((-1, 200), (None, 400)):
        for part in ({"order_by": keys[:end]}, {"filter": " AND ".join(clauses[:end])}):
            answer = team.ask("bob", "POST", path, where | part)
            assert answer[0] == status, answer
    query = urlencode({"order_by": [f"name {key}" for key in keys]}, doseq=True)
    assert team.ask("bob", "GET", f"{API}/registered-models/search?{query}")[0] == 400


def test_a_model_that_is_deleted_leaves_no_grant_to_whoever_takes_its_name(team: Team) -> None:
    name = {"name": "given-away"}
    assert team.ask("bob", "POST", f"{API}/registered-models/create", name)[0] == 200
    grant = {"username": "mallory", "resource_type": "registered_model"}
    grant |= {"resource_id": name["name"], "permission": "MANAGE"}
    assert team.ask("bob", "POST", "/api/3.0/mlflow/users/permissions/grant", grant)[0] == 200
    # Not done, and so not half done.
    for path, body in ((f"?name={name['name']}", None), ("", []), ("", "given-away")):
        answer = team.ask("bob", "DELETE", f"{API}/registered-models/delete{path}", body)
        assert answer[0] == 400, answer
    assert team.ask("mallory", "GET", f"{API}/registered-models/get?name=given-away")[0] == 200
    assert team.ask("bob", "DELETE", f"{API}/registered-models/delete", name)[0] == 200
    assert team.ask("bob", "POST", f"{API}/registered-models/create", name)[0] == 200
    assert team.ask("mallory", "GET", f"{API}/registered-models/get?name=given-away")[0] == 403


def test_a_connection_that_is_refused_serves_the_next_request(team: Team) -> None:
    port = team.native.ports["mlflow", 5000]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(2):
            connection.request("POST", f"{API}/runs/search", b"{}", {"Content-Type": JSON})
            response = connection.getresponse()
            assert response.read().startswith(b"You are not authenticated")
            assert response.status == 401
