"""The store behind $MLFLOW_TRACKING_URI: whether it is there, answers, and lets one in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinml.errors import UserError

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
