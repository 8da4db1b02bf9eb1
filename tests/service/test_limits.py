"""What a search may ask at most, in a body, a query or GraphQL: by the table alone, no server."""

from typing import Any

import pytest

from skinml.service import routes
from skinml.service.routes import MOST_CLAUSES, MOST_LETTERS, MOST_SORT_KEYS, Refused

KEYS = [f"metrics.m{number}" for number in range(MOST_SORT_KEYS + 1)]
CLAUSES = " AND ".join(["tags.a = 'b'"] * (MOST_CLAUSES + 1))
SEARCH = "query Q($data: In!) {mlflowSearchRuns(input: $data) {runs {info {runName}}}}"


def check(method: str, path: str, body: dict[str, Any]) -> None:
    found = routes.find(method, path)
    assert found
    found[0].check_body(body, found[1])


@pytest.mark.parametrize(
    "text",
    ["'" + "\\'" * 9_990, '"' + '\\"' * 9_990, "'" * 19_999, "`" * 19_999, "'\\" * 9_999],
    ids=["escaped", "escaped double", "quotes", "backticks", "open"],
)
def test_quotes_that_nothing_closes_are_read_once(text: str) -> None:
    """They took the square of their length: a filter of 160 kB ten minutes of a worker."""
    assert len(routes._QUOTED.findall(text)) <= len(text)
    check("POST", "/api/2.0/mlflow/runs/search", {"filter": text})


@pytest.mark.parametrize("clauses", [MOST_CLAUSES, MOST_CLAUSES + 1])
def test_a_word_in_quotes_is_no_clause(clauses: int) -> None:
    text = " and ".join(["tags.`a and b` = 'c \\' and \"d'"] * clauses)
    assert len(routes._AND.findall(routes._QUOTED.sub("''", text))) == clauses - 1


@pytest.mark.parametrize(
    "search",
    [
        {"filter": "x" * (MOST_LETTERS + 1)},
        {"filter": CLAUSES},
        {"order_by": KEYS},
        {"order_by": ["x" * (MOST_LETTERS + 1)]},
    ],
    ids=["long filter", "clauses", "keys", "long key"],
)
def test_a_search_is_short_in_every_place(search: dict[str, Any]) -> None:
    """GraphQL was a way around."""
    with pytest.raises(Refused, match=r"at most|more than"):
        check("POST", "/api/2.0/mlflow/runs/search", search)
    in_graphql = {name.replace("order_by", "orderBy"): value for name, value in search.items()}
    with pytest.raises(Refused, match=r"at most|more than"):
        check("POST", "/graphql", {"query": SEARCH, "variables": {"data": in_graphql}})
    check("POST", "/graphql", {"query": SEARCH, "variables": {"data": {"filter": "a = 'b'"}}})


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        (SEARCH, None),
        (SEARCH, []),
        (SEARCH, {"data": "own"}),
        (SEARCH.replace("In!", 'In = {filter: "a"}'), {}),
        (SEARCH.replace("$data)", "null)"), {}),
        ('{mlflowGetRun(input: {runId: "own", runUuid: "own-too"}) {run {info {runName}}}}', {}),
    ],
    ids=["no variables", "a list", "a text", "default", "null", "two names"],
)
def test_an_input_of_graphql_says_what_it_is_about_once(query: str, variables: Any) -> None:
    with pytest.raises(Refused):
        check("POST", "/graphql", {"query": query, "variables": variables})
