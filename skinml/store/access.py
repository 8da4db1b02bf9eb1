"""The store behind $MLFLOW_TRACKING_URI: whether it is there, answers, and lets one in."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from skinml.base.address import URI_VARIABLE, after_user_info, without_user_info
from skinml.base.environment import seconds_in
from skinml.base.errors import NoAnswer, UserError, did_you_mean, first_line
from skinml.base.progress import WAIT_IS_TOLD

Answer = TypeVar("Answer")

# Seconds until an answer is given up, unless the variable that MLflow has for it says otherwise.
ANSWER_LIMIT = 60.0

# What MLflow itself has stores for; packages may bring it others.
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks", "uc")

LIMIT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

_SERVER = f"a tracking server or store that answers ({URI_VARIABLE})"

# Where a server that takes models is asked for them.
LOGGED_MODELS = "/api/2.0/mlflow/logged-models/search"

_REMEDIES = {
    401: "the name and password of a user of it (MLFLOW_TRACKING_USERNAME, "
    "MLFLOW_TRACKING_PASSWORD)",
    403: "an experiment that you made or were granted (MLFLOW_EXPERIMENT_NAME); whoever operates "
    "the service grants everything with `make user NAME=… CAN=READ` (or EDIT)",
}

# What MLflow says of a database that another version of it has made.
_OTHER_SCHEMA = "out-of-date database schema"


def tracking_uri() -> str:
    """The address of the store: $MLFLOW_TRACKING_URI, else where MLflow keeps runs by itself."""
    from mlflow import get_tracking_uri

    return get_tracking_uri()


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that fails raises: MLflow's exceptions, and SQLAlchemy's own.

    A SQLite file that another process holds while MLflow opens it is told by the second.
    """
    from mlflow import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError


def is_gone(error: Exception) -> bool:
    """Whether the server says that a run is not there; a proxy's page of status 404 does not."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def is_final(error: Exception) -> bool:
    """Whether no waiting heals what a store says: it is the request or the address that is wrong.

    Of errors that are raised before a run stands.
    """
    from mlflow import MlflowException
    from mlflow.exceptions import InvalidUrlException
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, MlflowException):
        return (
            error.get_http_status_code() in _REMEDIES
            or error.error_code == "INVALID_PARAMETER_VALUE"
            or isinstance(error, InvalidUrlException)
            or _OTHER_SCHEMA in str(error)
        )
    # A package that is missing is the database's driver.
    return isinstance(error, ArgumentError | ImportError | PermissionError)


def refusal(doing: str, error: Exception, otherwise: str = "") -> UserError:
    """The error for a user whose tracking server does not answer, or refuses.

    `doing` says what could not be done, `otherwise` what else would do.
    """
    from mlflow import MlflowException, get_tracking_uri

    status = error.get_http_status_code() if isinstance(error, MlflowException) else 0
    remedy = _REMEDIES.get(status, _SERVER)
    said = first_line(error)[:200]
    if _OTHER_SCHEMA in said:
        said = said.partition(". ")[0]
        remedy = (
            "a database of this MLflow: back it up, then `mlflow db upgrade` it, or use the "
            "MLflow that made it"
        )
    return UserError(
        f"cannot {doing} {get_tracking_uri()} ({said}); expected {remedy}"
        + (f"; {otherwise}" if otherwise else "")
    )


def lacks_models(experiment_id: str) -> str:
    """Why the store has no interface for logged models; empty where it has one.

    MLflow before 3 has none, and a proxy may pass on what it knows alone. Raises what a store that
    does not answer raises.
    """
    from mlflow import MlflowClient, get_tracking_uri
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    uri = get_tracking_uri()
    if not uri.startswith("http"):
        return ""
    # A proxy whose server is away for a moment may say of everything that it is not there.
    MlflowClient().get_experiment(experiment_id)
    # By its status: of a proxy's own page MLflow's client makes an internal error.
    response = http_request(
        get_default_host_creds(uri),
        LOGGED_MODELS,
        "POST",
        json={"experiment_ids": [experiment_id], "max_results": 1},
        raise_on_status=False,
    )
    # MLflow's own answer to an experiment that is not there has that status too.
    if response.status_code not in (404, 405, 501) or "RESOURCE_DOES_NOT_EXIST" in response.text:
        return ""
    return f"the server has no interface for models ({response.status_code} at {LOGGED_MODELS})"


@contextmanager
def store_is_needed() -> Iterator[None]:
    """A store that fails while nothing can be done without it is a `UserError`."""
    try:
        yield
    except store_errors() as error:
        raise refusal("use", error) from None


def ask(
    question: Callable[[], Answer],
    limit: float | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> Answer:
    """Ask a store something: a person is told after 3 s; no answer within `limit` is `NoAnswer`.

    `limit` is in seconds (default: $MLFLOW_HTTP_REQUEST_TIMEOUT, else 60), and begins anew when
    what `progress` returns has changed. MLflow's own retries take 4 minutes and a database's
    connection 100 s, in silence, and neither can be interrupted: the question is asked in a
    thread, which is left behind.
    """
    from mlflow import get_tracking_uri

    # What is refused at once is told soon, with the reason.
    os.environ[RETRIES_VARIABLE] = os.environ.get(RETRIES_VARIABLE) or "2"
    request_limit = seconds_in(LIMIT_VARIABLE, ANSWER_LIMIT, 1)
    # No other request takes longer; of seconds MLflow takes whole ones alone.
    os.environ[LIMIT_VARIABLE] = f"{math.ceil(request_limit)}"
    if limit is None:
        limit = request_limit
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="ask")
    thread.start()
    where = without_user_info(get_tracking_uri())
    seen, since, told = progress(), time.monotonic(), False
    while thread.is_alive():
        waited = time.monotonic() - since
        if waited >= limit:
            raise NoAnswer(f"{where}: no answer within {limit:g} s; expected {_SERVER}")
        if waited >= WAIT_IS_TOLD and not told:
            print(f"skinml: waiting for {where}: {limit:g} s at most", file=sys.stderr, flush=True)
            told = True
        thread.join(min(0.1, limit - waited))
        if (now := progress()) != seen:
            seen, since = now, time.monotonic()
    if errors:
        raise errors[0]
    return answers[0]


def check_address(uri: str) -> None:
    """An address behind which nothing can be is a `UserError`: no waiting heals it."""
    if uri.startswith(("databricks", "uc")) or not uri:
        return
    clean = after_user_info(uri)
    expected = "http://HOST:PORT of a tracking server, or sqlite:///FILE.db on this machine"
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 — a ValueError where it is none
    except ValueError:
        raise UserError(
            f"{URI_VARIABLE}={clean}: {_why_none(clean)}; expected {expected}"
        ) from None
    if "://" not in uri and not (parts.scheme in ("", "file") and Path(parts.path).is_dir()):
        raise UserError(f"{URI_VARIABLE}={clean}: no scheme; expected {expected}")
    scheme = parts.scheme.partition("+")[0]
    if "://" in uri and scheme not in SCHEMES and not _has_plugin(scheme):
        near = did_you_mean(scheme, SCHEMES)
        raise UserError(
            f"{URI_VARIABLE}={clean}: unknown scheme {scheme}{near}; expected {expected}"
        )
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise UserError(f"{URI_VARIABLE}={clean}: no host; expected {expected}")


def _why_none(clean: str) -> str:
    """Why an address is none, by what is left of it without its name and password.

    What Python says of the whole quotes a password that was split at a sign of its own.
    """
    try:
        urlsplit(clean).port  # noqa: B018 — a ValueError where it is none
    except ValueError as error:
        return str(error)
    return "its name or password holds a sign to be escaped, such as / as %2F, ? as %3F, # as %23"


def _has_plugin(scheme: str) -> bool:
    """Whether a package brings MLflow a store of its own for a scheme."""
    from importlib.metadata import entry_points

    return scheme in {point.name for point in entry_points(group="mlflow.tracking_store")}


def check_store(uri: str, may_be_new: bool = False) -> None:
    """A store that is not there, or that nothing can be in, is a `UserError`.

    MLflow would make an empty SQLite store, which `may_be_new`, and try for 100 s to reach another
    database.
    """
    check_address(uri)
    scheme, _, path = uri.partition(":///")
    if scheme.startswith("sqlite"):
        if path and not may_be_new and not Path(path.partition("?")[0]).exists():
            raise UserError(
                f"{uri}: no such database; expected the store that holds the runs, or the address "
                f"of a tracking server ({URI_VARIABLE})"
            )
    elif not uri.startswith(("http://", "https://", "databricks", "uc", "file:")) and "://" in uri:
        _check_database(uri)


def _check_database(uri: str) -> None:
    """A database that takes no connection is a `UserError`, at once where it says so."""
    from sqlalchemy import NullPool, create_engine

    try:
        with store_is_needed():
            ask(lambda: create_engine(uri, poolclass=NullPool).connect().close())
    except ImportError as error:
        said = first_line(error)
        raise UserError(
            f"{uri}: {said}; expected the database's driver: install its package, such as "
            "psycopg2-binary or pymysql"
        ) from None


def experiment_of(experiment_id: str, name: str = "") -> str:
    """The name of the experiment of an id, in which runs can be; another than `name` is refused.

    As `UserError`s, which name the variables that both come from.
    """
    from mlflow import MlflowClient, MlflowException, get_tracking_uri

    given = f"MLFLOW_EXPERIMENT_ID={experiment_id}"
    try:
        found = MlflowClient().get_experiment(experiment_id)
    except MlflowException as error:
        if not is_gone(error):
            raise
        raise UserError(
            f"{given}: not at {get_tracking_uri()}; expected the id of an experiment there, or "
            "none, and a name (MLFLOW_EXPERIMENT_NAME)"
        ) from None
    if name and found.name != name:
        raise UserError(
            f"{given} is the experiment {found.name!r}, MLFLOW_EXPERIMENT_NAME={name!r} another; "
            "expected one of the two variables, or both for the same experiment"
        )
    check_active(found)
    return str(found.name)


def check_active(experiment: Any) -> None:
    """An experiment that was deleted is a `UserError`: no run can be in it."""
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {experiment.name!r} is deleted; restore it "
            f"(`mlflow experiments restore --experiment-id {experiment.experiment_id}`), or name "
            "another (MLFLOW_EXPERIMENT_NAME)"
        )
