"""MLflow's server with users, behind a guard, with a shorter way for what training asks most.

    python -m skinml.service.app …        the options are those of `mlflow server`

Curves are most of what a tracking server is sent. MLflow 3.17.2 writes each point as an object of
its own, within transactions within others, and to learn whose a run is it reads all of the run.
Here the points of a request are two statements, and the experiment of a run, which never changes,
is read once. What is checked, stored and answered is the same: tests/service/test_app.py holds both
ways against each other. With another version of MLflow or another database nothing is changed.

The guard, which refuses what is not to reach MLflow, stands there with every version: `guard`.
"""

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

# Of MLflow, whose insides are replaced here.
VERSION = "3.17.2"

# The variable with the address of the users' tables where it is not that of MLflow's file of users.
USERS_STORE = "SKINML_USERS_STORE_URI"

_APP = "skinml.service.app:create_app"

_ROWS = """(run_uuid, key, value, timestamp, step, is_nan)
    SELECT :run, * FROM unnest(CAST(:keys AS text[]), CAST(:values AS float8[]),
      CAST(:timestamps AS int8[]), CAST(:steps AS int8[]), CAST(:nans AS bool[]))"""

_POINTS = f"INSERT INTO metrics {_ROWS} ON CONFLICT DO NOTHING"

_LATEST = f"""
    INSERT INTO latest_metrics AS old {_ROWS}
    ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, step = excluded.step,
      timestamp = excluded.timestamp, is_nan = excluded.is_nan
    WHERE (excluded.step, excluded.timestamp, excluded.value)
        > (old.step, old.timestamp, old.value)"""

# Key, value, timestamp, step, is_nan: with the run a point's identity, as in MLflow's table.
_Point = tuple[str, float, int, int, bool]


def create_app() -> Any:
    """What each worker of the server serves: MLflow's own application, guarded and quickened."""
    import mlflow
    from mlflow.server import app, auth

    from skinml.service import disk
    from skinml.service.guard import Guard
    from skinml.service.signin import SignIn
    from skinml.service.ui import add_script

    add_script(app)
    address_users()
    let_metrics_be_scraped()
    advertise_what_is_served()
    if mlflow.__version__ == VERSION:
        quicken_store()
        quicken_permissions()
    else:
        print(f"skinml: MLflow {mlflow.__version__} is not {VERSION}: not quickened",
              file=sys.stderr)  # fmt: skip
    return Guard(auth.create_app(), app, SignIn(auth), disk.of_server())


def address_users() -> None:
    """Have MLflow look for its users where the variable says, if it is set, and not its file."""
    if users := os.environ.get(USERS_STORE):
        from mlflow.server import auth

        module: Any = auth
        module.auth_config = module.auth_config._replace(database_uri=users)


def let_metrics_be_scraped() -> None:
    """Have MLflow show its metrics to who calls it by an address, and has signed in.

    Prometheus asks each container by its own, which is none of the server's names. MLflow 3.17.2
    answers 403 to those, for the sake of browsers, and has no setting for one path.
    """
    from mlflow.server import security_utils

    security_utils.HEALTH_ENDPOINTS.append("/metrics")


def advertise_what_is_served() -> None:
    """Have the server say that files go through it alone.

    With a store of objects behind it MLflow offers signed addresses, which the guard closes; a
    client that was offered them asks for nothing else.
    """
    from mlflow.server import handlers, server_info_api

    upstream = handlers.build_server_info_payload

    def payload() -> dict[str, Any]:
        said: dict[str, Any] = upstream()
        closed = [name for name in said if name.startswith(("multipart_", "presigned_"))]
        return {**said, **dict.fromkeys(closed, False)}

    for module in (handlers, server_info_api):
        vars(module)["build_server_info_payload"] = payload


def quicken_store() -> None:
    """Have MLflow's store write the points of a request as two statements, in PostgreSQL."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.utils import validation

    upstream_log_batch = SqlAlchemyStore.log_batch
    upstream_log_metrics = SqlAlchemyStore._log_metrics_once

    def log_batch(
        self: Any, run_id: str, metrics: "Sequence[Metric]", params: Any, tags: Any
    ) -> None:
        if params or tags or any(metric.model_id is not None for metric in metrics):
            upstream_log_batch(self, run_id, metrics, params, tags)
            return
        validation._validate_run_id(run_id)
        metrics, params, tags = validation._validate_batch_log_data(metrics, params, tags)
        validation._validate_batch_log_limits(metrics, params, tags)
        self._log_metrics(run_id, metrics)

    def log_metrics(self: Any, run_id: str, metrics: "Sequence[Metric]") -> None:
        if self.db_type == "postgresql":
            write_points(self, run_id, metrics)
        else:
            upstream_log_metrics(self, run_id, metrics)

    store: Any = SqlAlchemyStore
    store.log_batch = log_batch
    store._log_metrics_once = log_metrics


def write_points(store: Any, run_id: str, metrics: "Sequence[Metric]") -> None:
    """Store points of a run that is active, and for each key the latest, in one transaction.

    A point that is there stays as it is: it may be sent twice. The latest is that of the largest
    step, then timestamp, then value, as in MLflow's `_update_latest_metrics_if_necessary`.
    """
    import sqlalchemy

    points = _points(store, metrics)
    with store.ManagedSessionMaker(read_only=False) as session:
        store._check_run_is_active(store._get_run(run_uuid=run_id, session=session))
        if not points:
            return
        latest: dict[str, _Point] = {}
        for point in points:
            other = latest.get(point[0])
            if other is None or _age(point) > _age(other):
                latest[point[0]] = point
        session.execute(sqlalchemy.text(_POINTS), _columns(run_id, points))
        # In the order of their keys, so that two requests never wait for each other's locks.
        session.execute(
            sqlalchemy.text(_LATEST), _columns(run_id, [latest[key] for key in sorted(latest)])
        )


def _points(store: Any, metrics: "Sequence[Metric]") -> list[_Point]:
    """What is stored of metrics, each once, checked as MLflow does."""
    from mlflow.utils.validation import _validate_metric

    points: dict[_Point, None] = {}
    for number, metric in enumerate(metrics):
        path = "" if len(metrics) == 1 else f"metrics[{number}]"
        _validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
        is_nan, value = store.sanitize_metric_value(metric.value)
        points[metric.key, float(value), metric.timestamp, metric.step, is_nan] = None
    return list(points)


def _age(point: _Point) -> tuple[int, int, float]:
    _, value, timestamp, step, _ = point
    return step, timestamp, value


def _columns(run_id: str, points: Sequence[_Point]) -> dict[str, Any]:
    keys, values, timestamps, steps, nans = (list(column) for column in zip(*points, strict=True))
    return {
        "run": run_id, "keys": keys, "values": values, "timestamps": timestamps, "steps": steps,
        "nans": nans,
    }  # fmt: skip


def quicken_permissions() -> None:
    """Have MLflow's permissions read the experiment of a run once in a worker's life.

    It never changes, and no run's id is used again. Permissions themselves are read at every
    request, as before.
    """
    from mlflow.server import auth, handlers

    module: Any = auth

    @lru_cache(maxsize=100_000)
    def experiment_of(run_id: str) -> str:
        # That a run is not there is an error of MLflow's, which is not kept.
        return str(handlers._get_tracking_store().get_run(run_id).info.experiment_id)

    class Runs:
        """MLflow's store, of which a run has no more than permissions ask for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(handlers._get_tracking_store(), name)

        def get_run(self, run_id: str) -> Any:
            return SimpleNamespace(info=SimpleNamespace(experiment_id=experiment_of(run_id)))

    runs = Runs()
    module._get_tracking_store = lambda: runs


def main() -> None:
    """`mlflow server`, whose workers serve `create_app`."""
    import mlflow.cli
    import mlflow.server

    address_users()  # it makes the first user, before there are workers
    server: Any = mlflow.server
    server._find_app = lambda name: _APP
    mlflow.cli.cli(["server", *sys.argv[1:]], prog_name="mlflow")


if __name__ == "__main__":
    main()
