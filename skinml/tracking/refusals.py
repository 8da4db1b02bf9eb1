"""What a tracking server that does not do as it is asked means for the user."""

from typing import TYPE_CHECKING

from skinml.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowException

_REMEDIES = {
    401: "the name and password of a user of it (MLFLOW_TRACKING_USERNAME, "
    "MLFLOW_TRACKING_PASSWORD)",
    403: "an experiment that you made or were granted (MLFLOW_EXPERIMENT_NAME); whoever operates "
    "the service grants everything with `make user NAME=… CAN=READ` (or EDIT)",
}


def refusal(doing: str, error: "MlflowException", otherwise: str = "") -> UserError:
    """The error for a user whose tracking server does not answer, or refuses.

    `doing` says what could not be done, `otherwise` what else would do.
    """
    from mlflow import get_tracking_uri

    remedy = _REMEDIES.get(
        error.get_http_status_code(),
        "a tracking server or store that answers (MLFLOW_TRACKING_URI)",
    )
    said = str(error).splitlines()[0][:200]
    return UserError(
        f"cannot {doing} {get_tracking_uri()} ({said}); expected {remedy}"
        + (f"; {otherwise}" if otherwise else "")
    )
