"""The store behind $MLFLOW_TRACKING_URI: whether it is there, answers, and lets one in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinml.errors import UserError

# Where a server that takes models is asked for them.
LOGGED_MODELS = "/api/2.0/mlflow/logged-models/search"

_REMEDIES = {
    401: "the name and password of a user of it (MLFLOW_TRACKING_USERNAME, "
    "MLFLOW_TRACKING_PASSWORD)",
    403: "an experiment that you made or were granted (MLFLOW_EXPERIMENT_NAME); whoever operates "
    "the service grants everything with `make user NAME=… CAN=READ` (or EDIT)",
}


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that fails raises: MLflow's exceptions, and SQLAlchemy's own.

    A SQLite file that another process holds while MLflow opens it is told by the second.
    """
    from mlflow import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError


def refusal(doing: str, error: Exception, otherwise: str = "") -> UserError:
    """The error for a user whose tracking server does not answer, or refuses.

    `doing` says what could not be done, `otherwise` what else would do.
    """
    from mlflow import MlflowException, get_tracking_uri

    remedy = _REMEDIES.get(
        error.get_http_status_code() if isinstance(error, MlflowException) else 0,
        "a tracking server or store that answers (MLFLOW_TRACKING_URI)",
    )
    said = str(error).splitlines()[0][:200]
    return UserError(
        f"cannot {doing} {get_tracking_uri()} ({said}); expected {remedy}"
        + (f"; {otherwise}" if otherwise else "")
    )


def lacks_models(experiment_id: str) -> str:
    """Why the store has no interface for logged models; empty where it has one.

    Servers of before MLflow 3 have none, and proxies may pass on what they know alone. Raises what
    a store that does not answer raises.
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


def check_store(uri: str) -> None:
    """A SQLite store that is not there is a `UserError`: MLflow would make an empty one."""
    scheme, _, path = uri.partition(":///")
    if scheme.startswith("sqlite") and path and not Path(path.partition("?")[0]).exists():
        raise UserError(
            f"{uri}: no such database; expected the store that holds the runs, or the address of "
            "a tracking server (MLFLOW_TRACKING_URI)"
        )
