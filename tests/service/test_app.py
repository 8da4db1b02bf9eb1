"""The shorter way of curves into PostgreSQL stores, checks and answers what MLflow's own does."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skinml.service import app
from skinml.service.native import Native
from tests.conftest import surroundings
from tests.service.conftest import needs_service

pytestmark = [
    pytest.mark.slow,
    needs_service,
]


@pytest.fixture(scope="module")
def store(place: Path) -> Iterator[Any]:
    """MLflow's own store over the service's PostgreSQL."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with (
        surroundings(place) as monkeypatch,
        Native(place / "data").up(("postgres", "migrate")) as native,
    ):
        for key, value in native.environment("mlflow").items():
            if key.startswith("PG"):
                monkeypatch.setenv(key, value)
        uri = f"postgresql+psycopg://mlflow@127.0.0.1:{native.ports['postgres', 5432]}/mlflow"
        made = SqlAlchemyStore(uri, "mlflow-artifacts:/")
        yield made
        made._dispose_engine()


@pytest.fixture(scope="module")
def experiment(store: Any) -> str:
    return str(store.create_experiment("curves"))


def make_run(store: Any, experiment: str) -> str:
    run = store.create_run(experiment, "tester", 0, [], "")
    return str(run.info.run_id)


def stored(store: Any, run_id: str) -> tuple[list[Any], list[Any]]:
    """The points and the latest ones of a run, in order."""
    import sqlalchemy

    with store.engine.connect() as connection:
        tables = [
            connection.execute(
                sqlalchemy.text(
                    f"SELECT key, value, timestamp, step, is_nan FROM {table} "
                    "WHERE run_uuid = :run ORDER BY 1, 4, 3, 2, 5"
                ),
                {"run": run_id},
            ).fetchall()
            for table in ("metrics", "latest_metrics")
        ]
    return [tuple(row) for row in tables[0]], [tuple(row) for row in tables[1]]


# Few different ones, so that points repeat within a request and between two.
points = st.builds(
    lambda key, value, timestamp, step: (key, value, timestamp, step),
    st.sampled_from(["loss", "acc/ä", "a b"]),
    st.sampled_from([0.0, -0.0, 0.1, 1e308, 5e-324, math.nan, math.inf, -math.inf, 3]),
    st.sampled_from([0, 1, 2**40]),
    st.sampled_from([-1, 0, 1, 2**33]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests=st.lists(st.lists(points, max_size=12), min_size=1, max_size=4))
def test_both_ways_store_the_same(store: Any, experiment: str, requests: Any) -> None:
    from mlflow.entities import Metric

    ours, theirs = make_run(store, experiment), make_run(store, experiment)
    for request in requests:
        metrics = [Metric(*point) for point in request]
        app.write_points(store, ours, metrics)
        if metrics:
            store._log_metrics_once(theirs, metrics)
    assert stored(store, ours) == stored(store, theirs)


@pytest.mark.parametrize(
    "point",
    [
        ("", 1.0, 0, 0), ("a" * 300, 1.0, 0, 0), ("..", 1.0, 0, 0), ("a", "text", 0, 0),
        ("a", None, 0, 0), ("a", True, 0, 0), ("a", 1.0, -1, 0), ("a", 1.0, 0, "text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("others", [0, 1])
def test_both_ways_refuse_the_same(store: Any, experiment: str, point: Any, others: int) -> None:
    from mlflow import MlflowException
    from mlflow.entities import Metric

    metrics = [*[Metric("fine", 1.0, 0, 0)] * others, Metric(*point)]
    told = []
    for log in (store._log_metrics_once, lambda *words: app.write_points(store, *words)):
        run_id = make_run(store, experiment)
        with pytest.raises(MlflowException) as refused:
            log(run_id, metrics)
        told.append((refused.value.error_code, refused.value.message))
        assert stored(store, run_id) == ([], [])
    assert told[0] == told[1]


def test_a_run_that_is_deleted_or_not_there_takes_nothing(store: Any, experiment: str) -> None:
    from mlflow import MlflowException
    from mlflow.entities import Metric

    metrics = [Metric("loss", 1.0, 0, 0)]
    deleted = make_run(store, experiment)
    store.delete_run(deleted)
    for run_id in (deleted, "0" * 32):
        told = []
        for log in (store._log_metrics_once, lambda *words: app.write_points(store, *words)):
            with pytest.raises(MlflowException) as refused:
                log(run_id, metrics)
            told.append((refused.value.error_code, refused.value.message))
        assert told[0] == told[1]
    assert stored(store, deleted) == ([], [])


def test_requests_at_once_wait_for_each_other_and_lose_nothing(store: Any, experiment: str) -> None:
    """Same run, same keys, in opposite orders: without one order of locks they would block."""
    from mlflow.entities import Metric

    run_id, threads, steps = make_run(store, experiment), 4, 25
    keys = [f"curve_{number:02d}" for number in range(20)]
    failed: list[Exception] = []

    def log(number: int) -> None:
        own = keys if number % 2 else keys[::-1]
        try:
            for step in range(steps):
                app.write_points(
                    store, run_id, [Metric(key, float(number), 0, step) for key in own]
                )
        except Exception as error:
            failed.append(error)

    running = [threading.Thread(target=log, args=[number]) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failed
    rows, latest = stored(store, run_id)
    assert len(rows) == len(keys) * threads * steps
    assert latest == [(key, threads - 1.0, 0, steps - 1, False) for key in keys]


def test_the_version_is_the_one_whose_insides_are_known() -> None:
    """With another the server is MLflow's own, slower: look at what changed, then raise it."""
    import mlflow

    assert mlflow.__version__ == app.VERSION
