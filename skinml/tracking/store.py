"""The store behind $MLFLOW_TRACKING_URI: whether it is there and answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skinml.errors import UserError


@contextmanager
def store_is_needed() -> Iterator[None]:
    """A store that fails while nothing can be done without it is a `UserError`."""
    from mlflow import MlflowException, get_tracking_uri

    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"cannot use {get_tracking_uri()} ({str(error).splitlines()[0][:200]}); expected a "
            "tracking server or store that answers (MLFLOW_TRACKING_URI)"
        ) from None


def check_store(uri: str) -> None:
    """A SQLite store that is not there is a `UserError`: MLflow would make an empty one."""
    scheme, _, path = uri.partition(":///")
    if scheme.startswith("sqlite") and path and not Path(path.partition("?")[0]).exists():
        raise UserError(
            f"{uri}: no such database; expected the store that holds the runs, or the address of "
            "a tracking server (MLFLOW_TRACKING_URI)"
        )
