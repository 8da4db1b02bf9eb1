"""Which of MLflow's interfaces this service answers, and where each is told what it concerns.

MLflow 3.17.2 reads what a request concerns in one place and acts on what it says in another: for
some interfaces permission was checked on the query and the deed done by the body. So each
interface has one place here, and a request that names anything elsewhere, twice, or in another
form is refused before MLflow sees it. What is not in the table is not answered at all: traces,
scorers, prompts, issues, labelling, webhooks, jobs, the gateway, MCP, which nothing here uses.
tests/service/test_routes.py holds the table against the routes of the server itself.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

# An interface a line: methods, path, where it is named, what kind it is. Under the heads in
# brackets: the prefixes of the paths. Where:
#   -        in the path alone
#   ?a,b*    these in the query, each once; * several times
#   {}       keys of a JSON object in the body; {a,b} these and no other
#   {}?      the same, or no body
#   bytes    in the path; the body is a file
# Kinds: `open` to everybody; `reads` though it is a POST; `frees` what it takes on the disk.
TABLE = """
[]
GET     /health                                 -           open
GET     /static-files/<path>                    -           open
GET     /                                       -
GET     /version                                -
GET     /metrics                                -
GET     /get-artifact                           ?run_id,run_uuid,path
GET     /model-versions/get-artifact            ?name,version,path
POST    /graphql                                {operationName,query,variables}  reads

[/api/3.0/mlflow /ajax-api/3.0/mlflow]
GET     /server-info                            -           open
GET     /users/current/permissions              -
GET     /users/permissions/list                 ?username
GET     /users/permissions/get                  ?username,resource_type,resource_id
POST    /users/permissions/grant                {}
POST    /users/permissions/revoke               {}
GET     /users/roles/list                       ?username
GET     /roles/get                              ?role_id
GET     /roles/list                             ?workspace*
GET     /roles/users/list                       ?role_id
GET     /roles/permissions/list                 ?role_id
POST    /roles/create                           {}
PATCH   /roles/update                           {}
DELETE  /roles/delete                           {}
POST    /roles/assign                           {}
DELETE  /roles/unassign                         {}
POST    /roles/permissions/add                  {}
PATCH   /roles/permissions/update               {}
DELETE  /roles/permissions/remove               {}

[/ajax-api/3.0/mlflow]
GET     /ui-telemetry                           -

[/api/2.0/mlflow /ajax-api/2.0/mlflow]
GET     /users/current                          -
GET     /users/list                             -
GET     /users/get                              ?username
POST    /users/create                           {}
PATCH   /users/update-password                  {}
PATCH   /users/update-admin                     {}
DELETE  /users/delete                           {}

GET     /experiments/get                        ?experiment_id
GET     /experiments/get-by-name                ?experiment_name
GET     /experiments/search                     ?max_results,page_token,filter,order_by*,view_type
POST    /experiments/search                     {}          reads
POST    /experiments/create                     {}
POST    /experiments/delete                     {}
POST    /experiments/restore                    {}
POST    /experiments/update                     {}
POST    /experiments/set-experiment-tag         {}
POST    /experiments/delete-experiment-tag      {}

GET     /runs/get                               ?run_id,run_uuid
POST    /runs/search                            {}          reads
POST    /runs/create                            {}
POST    /runs/update                            {}
POST    /runs/delete                            {}
POST    /runs/restore                           {}
POST    /runs/log-metric                        {}
POST    /runs/log-parameter                     {}
POST    /runs/log-batch                         {}
POST    /runs/log-model                         {}
POST    /runs/log-inputs                        {}
POST    /runs/outputs                           {}
POST    /runs/set-tag                           {}
POST    /runs/delete-tag                        {}
GET     /metrics/get-history                    ?run_id,run_uuid,metric_key,page_token,max_results
GET     /metrics/get-history-bulk-interval      ?run_ids*,metric_key,start_step,end_step,max_results
GET     /artifacts/list                         ?run_id,run_uuid,path,page_token

POST    /logged-models                          {}
POST    /logged-models/search                   {}          reads
GET     /logged-models/<model_id>               ?model_id
PATCH   /logged-models/<model_id>               {}
DELETE  /logged-models/<model_id>               {}?
POST    /logged-models/<model_id>/params        {}
PATCH   /logged-models/<model_id>/tags          {}
DELETE  /logged-models/<model_id>/tags/<tag_key>  {}?
GET     /logged-models/<model_id>/artifacts/directories  ?artifact_directory_path,page_token

GET     /registered-models/get                  ?name
GET     /registered-models/search               ?filter,max_results,order_by*,page_token
GET     /registered-models/get-latest-versions  ?name,stages*
POST    /registered-models/get-latest-versions  {}          reads
GET     /registered-models/alias                ?name,alias
POST    /registered-models/alias                {}
DELETE  /registered-models/alias                {}
POST    /registered-models/create               {}
POST    /registered-models/rename               {}
PATCH   /registered-models/update               {}
DELETE  /registered-models/delete               {}
POST    /registered-models/set-tag              {}
DELETE  /registered-models/delete-tag           {}
GET     /model-versions/get                     ?name,version
GET     /model-versions/get-download-uri        ?name,version
GET     /model-versions/search                  ?filter,max_results,order_by*,page_token
POST    /model-versions/create                  {}
PATCH   /model-versions/update                  {}
POST    /model-versions/transition-stage        {}
DELETE  /model-versions/delete                  {}
POST    /model-versions/set-tag                 {}
DELETE  /model-versions/delete-tag              {}

[/ajax-api/2.0/mlflow]
GET     /metrics/get-history-bulk               ?run_id*,metric_key,max_results
POST    /experiments/search-datasets            {}          reads
GET     /logged-models/<model_id>/artifacts/files  ?artifact_file_path

[/api/2.0/mlflow-artifacts /ajax-api/2.0/mlflow-artifacts]
GET     /artifacts                              ?path
GET     /artifacts/<path>                       -
PUT     /artifacts/<path>                       bytes
DELETE  /artifacts/<path>                       -           frees
"""

# Two names of one thing, which MLflow's own clients send both.
SAME = ("run_id", "run_uuid")

# A run has to be joined with one table more for each: 200 keys took 39 s, 100 clauses 14 s.
MOST_SORT_KEYS = 10
MOST_CLAUSES = 30
# Of a filter, and of all keys together: what reads them takes the square of their length.
MOST_LETTERS = 20_000

# What a page of MLflow asks for in GraphQL: MLflow checks these alone, and answers others unasked.
GRAPHQL_FIELDS = (
    "mlflowGetExperiment", "mlflowGetRun", "mlflowListArtifacts", "mlflowSearchRuns",
    "mlflowGetMetricHistoryBulkInterval", "mlflowSearchModelVersions",
)  # fmt: skip

# A quote that nothing closes goes to the end, once: MLflow refuses it.
_QUOTED = re.compile(
    r"""'(?:[^'\\]|\\.)*+(?:'|.?\Z)|"(?:[^"\\]|\\.)*+(?:"|.?\Z)|`[^`]*+(?:`|\Z)""", re.DOTALL
)
_AND = re.compile(r"\band\b", re.IGNORECASE)
_KEY = re.compile(r"[a-z][a-z0-9_]*")


# What MLflow's clients call an answer's status.
_CODES = {404: "ENDPOINT_NOT_FOUND", 429: "REQUEST_LIMIT_EXCEEDED", 507: "RESOURCE_EXHAUSTED"}


class Refused(Exception):
    """What is answered instead of MLflow: a status, and a line that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why

    @property
    def code(self) -> str:
        """MLflow's own name for it."""
        return _CODES.get(self.status, "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Route:
    """An interface, and where a request to it says what it concerns."""

    method: str
    path: str
    query: frozenset[str] = frozenset()
    several: frozenset[str] = frozenset()
    body: str = ""  # "json", "json or none", "bytes"
    keys: frozenset[str] = frozenset()  # of the body; empty: any
    kind: str = ""

    @property
    def writes(self) -> bool:
        """Whether it takes room on the disk."""
        return self.method != "GET" and self.kind not in ("reads", "frees")

    def check_query(self, text: bytes, variables: Mapping[str, str]) -> None:
        """Refuse a query that names anything twice, or what is named elsewhere."""
        if not text:
            return
        try:
            pairs = parse_qsl(
                text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000
            )
        except ValueError:
            raise Refused(400, "the query is not of names and values in UTF-8") from None
        given: dict[str, str] = {}
        for name, value in pairs:
            if name not in self.query:
                raise Refused(400, f"{self.method} {self.path} takes no {name[:50]!r} in the query")
            if name in given and name not in self.several:
                raise Refused(400, f"the query names {name} twice")
            given[name] = value
        _check_names(given, variables)
        _check_search([v for k, v in pairs if k == "order_by"], given.get("filter"))

    def check_headers(self, length: bytes | None, chunked: bool, kind: bytes) -> None:
        """Refuse a body where none is expected, and one that is not announced as JSON."""
        has_body = chunked or length not in (None, b"0")
        if self.body in ("", "json or none") and not has_body:
            return
        if not self.body:
            raise Refused(400, f"{self.method} {self.path} takes no body")
        if self.body != "bytes" and kind.split(b";")[0].strip().lower() != b"application/json":
            raise Refused(400, f"{self.method} {self.path} takes JSON (application/json)")

    def check_body(self, body: Any, variables: Mapping[str, str]) -> None:
        """Refuse a body that is no JSON object, or names what the path names otherwise."""
        if not isinstance(body, dict):
            raise Refused(400, f"{self.method} {self.path} takes a JSON object")
        for name in body:
            if name not in self.keys if self.keys else not _KEY.fullmatch(name):
                raise Refused(400, f"{self.method} {self.path} takes no {name[:50]!r}")
        _check_names(body, variables)
        order = body.get("order_by")
        _check_search(order if isinstance(order, list) else [], body.get("filter"))
        if self.path == "/graphql":
            _check_graphql(body)


def _check_names(given: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    if all(name in given for name in SAME) and given[SAME[0]] != given[SAME[1]]:
        raise Refused(400, f"{' and '.join(SAME)} differ")
    for name, value in variables.items():
        if given.get(name, value) != value:
            raise Refused(400, f"{name} is not that of the path")


def _check_search(order: list[Any], clauses: Any) -> None:
    if max(len(clauses) if isinstance(clauses, str) else 0, sum(map(len, map(str, order)))) > (
        MOST_LETTERS
    ):
        raise Refused(400, f"a search of more than {MOST_LETTERS:,} letters")
    if len(order) > MOST_SORT_KEYS:
        raise Refused(400, f"{len(order)} keys to sort by; at most {MOST_SORT_KEYS} are taken")
    if isinstance(clauses, str):
        count = len(_AND.findall(_QUOTED.sub("''", clauses))) + 1
        if count > MOST_CLAUSES:
            raise Refused(400, f"a filter of {count} clauses; at most {MOST_CLAUSES} are taken")


def _check_graphql(body: Mapping[str, Any]) -> None:
    """Refuse a query that asks for more than one thing, or for one that MLflow does not check."""
    from graphql import FieldNode, GraphQLError, OperationDefinitionNode, OperationType, parse
    from graphql.utilities import value_from_ast_untyped

    try:
        asked = parse(str(body.get("query")), max_tokens=2000)
    except (GraphQLError, RecursionError):
        raise Refused(400, "the query is not GraphQL, or too long") from None
    operations = [node for node in asked.definitions if isinstance(node, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation != OperationType.QUERY:
        raise Refused(400, "expected one query of GraphQL")
    fields = operations[0].selection_set.selections
    field = fields[0]
    if len(fields) != 1 or not isinstance(field, FieldNode):
        raise Refused(400, "expected a query of GraphQL for one thing")
    if field.name.value not in GRAPHQL_FIELDS:
        raise Refused(404, f"{field.name.value[:50]!r} is not answered in GraphQL by this service")
    if [argument.name.value for argument in field.arguments] != ["input"]:
        raise Refused(400, f"{field.name.value} takes an input, and nothing else")
    if any(variable.default_value for variable in operations[0].variable_definitions):
        raise Refused(400, "expected variables of GraphQL without defaults")
    variables = body.get("variables") or {}
    try:
        given = value_from_ast_untyped(field.arguments[0].value, variables)
    except (TypeError, AttributeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refused(400, f"{field.name.value} takes an input, and nothing else")
    # GraphQL has MLflow's names with capitals.
    plain = {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", k): v for k, v in given.items()}
    _check_names(plain, {})
    order = plain.get("order_by")
    _check_search(order if isinstance(order, list) else [order or ""], plain.get("filter"))


class OnceEach:
    """JSON as Flask reads a request's: an object that has a name twice is refused."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(text: str | bytes, **options: Any) -> Any:
        try:
            return json.loads(text, object_pairs_hook=_once_each, **options)
        except RecursionError:
            raise ValueError("nested too deep") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The interface that a request is for, with the variables of its path."""
    exact, patterns = _compiled()
    if route := exact.get((method, path)):
        return route, {}
    for pattern, route in patterns.get(method, ()):
        if match := pattern.fullmatch(path):
            return route, match.groupdict()
    return None


@cache
def routes() -> tuple[Route, ...]:
    """The interfaces of the table."""
    found, prefixes = list[Route](), [""]
    for line in TABLE.splitlines():
        if line.startswith("["):
            prefixes = line.strip("[]").split() or [""]
        elif line:
            method, path, where, *kind = line.split()
            names = [name for name in where.strip("?{}-").split(",") if name]
            plain = frozenset(name.rstrip("*") for name in names)
            bodies = {"bytes": "bytes", "{}?": "json or none"}
            found += (
                Route(
                    method,
                    prefix + path,
                    query=plain if where.startswith("?") else frozenset(),
                    several=frozenset(name.rstrip("*") for name in names if name.endswith("*")),
                    body=bodies.get(where, "json" if where.startswith("{") else ""),
                    keys=plain if where.startswith("{") else frozenset(),
                    kind="".join(kind),
                )
                for prefix in prefixes
            )
    return tuple(found)


@cache
def _compiled() -> tuple[dict[tuple[str, str], Route], dict[str, list[Any]]]:
    exact, patterns = {}, dict[str, list[Any]](GET=[], PUT=[], POST=[], PATCH=[], DELETE=[])
    for route in routes():
        if "<" in route.path:
            # A file's path alone may hold slashes.
            pattern = re.escape(route.path).replace("<path>", "(?P<path>.+)")
            pattern = re.sub(r"(?<!\?P)<(\w+)>", r"(?P<\1>[^/]+)", pattern)
            patterns[route.method].append((re.compile(pattern), route))
        else:
            exact[route.method, route.path] = route
    return exact, patterns
