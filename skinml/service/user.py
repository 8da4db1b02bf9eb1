"""Make a user of the service, or give one a new password, through MLflow's API.

The password is random and shown once; none is ever on a command line.
"""

import base64
import http.client
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from skinml.base.errors import UserError, run_command
from skinml.base.progress import status_line
from skinml.config import Parser
from skinml.service import compose
from skinml.service.native import data_folder, running_service
from skinml.service.signin import WINDOW

ADMIN = "admin"
CAN = ("READ", "EDIT", "MANAGE")

# Where MLflow listens in its own container.
_INSIDE = "http://127.0.0.1:5000"

# Seconds between two questions of a service that lets nobody guess for a while.
_PAUSE = 2.0


def call(
    address: str, user: str, password: str, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """Ask MLflow's API as some user; returns the status and the answer, JSON where it is JSON."""
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=60)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except OSError as error:
        raise UserError(
            f"{address}: {error}; is the service running? (make up, make serve)"
        ) from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


def make_user(
    address: str, admin_password: str, name: str, reset: bool = False, can: str | None = None
) -> str:
    """Make a user, or with `reset` set a new password; returns the password.

    `can` grants READ, EDIT or MANAGE on every experiment and registered model, today's and later
    ones; without it a user sees what is the user's own and what others grant. Where others have
    guessed passwords from this address, it waits until the service takes one again.
    """
    if not re.fullmatch(r"[\w.@+-]+", name):
        # A colon would end the name in the header that signs in.
        raise UserError(f"{name!r} is no name; write NAME=…, of letters, digits and . _ - @ +")
    if name == ADMIN:
        raise UserError(
            f"{ADMIN}: its password is MLFLOW_AUTH_ADMIN_PASSWORD in the service's .env; write it "
            "there and start the service again"
        )

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return _past_guesses(lambda: call(address, ADMIN, admin_password, method, path, body))

    status, answer = ask("GET", f"/api/2.0/mlflow/users/get?username={quote(name, safe='')}")
    if status == 401:
        raise UserError(
            f"{address}: the password of {ADMIN} in .env is not the service's; restart it"
        )
    if status not in (200, 404):
        raise UserError(f"{name}: MLflow refused, status {status}: {answer}")
    exists = status == 200
    if exists and not reset and not can:
        raise UserError(f"{name}: this user exists; RESET=1 (--reset) gives a new password")
    password = ""
    if not exists or reset:
        password = secrets.token_urlsafe(18)
        secret = {"username": name, "password": password}
        if exists:
            status, answer = ask("PATCH", "/api/2.0/mlflow/users/update-password", secret)
        else:
            status, answer = ask("POST", "/api/2.0/mlflow/users/create", secret)
        if status != 200:
            raise UserError(f"{name}: MLflow refused, status {status}: {answer}")
    for kind in ("experiment", "registered_model") if can else ():
        grant = {"username": name, "resource_type": kind, "resource_id": "*", "permission": can}
        status, answer = ask("POST", "/api/3.0/mlflow/users/permissions/grant", grant)
        if status != 200:
            raise UserError(f"{name}: MLflow granted nothing, status {status}: {answer}")
    return password


def _past_guesses(ask: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
    """The answer to a question, asked again while others' guesses have the service refuse it."""
    status, answer = ask()
    if status != 429:
        return status, answer
    # Whoever guesses on uses up the next window as well: twice as long, and no longer.
    end = time.monotonic() + 2 * WINDOW
    with status_line("wrong passwords came from this address: waiting for the service"):
        while status == 429 and time.monotonic() < end:
            time.sleep(_PAUSE)
            status, answer = ask()
    return status, answer


def find_service(data: Path) -> tuple[str, str]:
    """The address and the admin's password of the service that runs from a data folder."""
    found = running_service(data)
    if not found:
        raise UserError(f"{data}: no native service is running there; start it with `make serve`")
    return found["address"], compose.read_env(data / ".env")["MLFLOW_AUTH_ADMIN_PASSWORD"]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.service.user", description=__doc__)
    parser.add_argument("name", help="the user's name")
    parser.add_argument("--reset", action="store_true", help="a new password for one that exists")
    parser.add_argument(
        "--can", choices=CAN, help="what the user may on everybody's runs and models"
    )
    options = parser.parse_args(argv)
    inside_password = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")
    if inside_password and "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        address, admin_password = _INSIDE, inside_password
    else:
        address, admin_password = find_service(data_folder())
    password = make_user(address, admin_password, options.name, options.reset, options.can)
    if password:
        print(f"MLFLOW_TRACKING_USERNAME={options.name}\nMLFLOW_TRACKING_PASSWORD={password}")
        print("shown this once; only its hash is kept", file=sys.stderr)
    if options.can:
        print(f"{options.name} may {options.can} every experiment and model", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
