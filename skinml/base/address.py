"""Addresses with a user's name and password in them, which only their server is to see."""

import os
import re
from urllib.parse import unquote, urlsplit

URI_VARIABLE = "MLFLOW_TRACKING_URI"
USER_VARIABLE = "MLFLOW_TRACKING_USERNAME"
PASSWORD_VARIABLE = "MLFLOW_TRACKING_PASSWORD"

# Up to the last @ of a server's address: in a password somebody may have forgotten to escape a
# slash. In other addresses a path may hold an @ of its own: there up to the last one after "NAME:",
# which a mistyped scheme has before its password and a path has not.
_USER_INFO = re.compile(
    r"((?:https?|postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?://)\S*@"
    r"|(://)(?:[^\s/?#:@]*:\S*|[^\s/?#]*)@",
    re.IGNORECASE,
)


def without_user_info(text: str) -> str:
    """A text without the names and passwords that stand in the addresses within it."""
    return _USER_INFO.sub(r"\1\2", text)


def after_user_info(address: str) -> str:
    """One address without all that stands before its last @, but its scheme.

    Of one that may be none: whatever its scheme is, and whatever a password in it holds. In a path
    that has an @ it takes too much, in a message better than too little.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = "", address
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def move_user_info() -> None:
    """Put the name and password of an HTTP address in $MLFLOW_TRACKING_URI where MLflow has theirs.

    So the address that MLflow prints, and puts into the text of its errors, holds none. They go
    before what $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD say, as in a request.
    """
    address = os.environ.get(URI_VARIABLE, "")
    try:
        parts = urlsplit(address)
    except ValueError:
        return  # No address: whoever uses it says so.
    if parts.scheme in ("http", "https") and parts.username and parts.password:
        os.environ[USER_VARIABLE] = unquote(parts.username)
        os.environ[PASSWORD_VARIABLE] = unquote(parts.password)
        os.environ[URI_VARIABLE] = without_user_info(address)
