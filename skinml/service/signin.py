"""Who calls: a name and a password, looked at before anything else of a request.

MLflow 3.17.2 told by its time whether a name exists (0.4 s to 0.035 s), and took any number of
guesses. Here an unknown name costs the same, and who guesses has to wait. What is counted is one
worker's own, and gone with it.
"""

import asyncio
import base64
from typing import Any

from skinml.service.routes import Refused

# Wrong passwords in a window of so many seconds: of a name from an address, and of all names from
# an address that none of them has signed in from.
WINDOW = 60.0
MOST_OF_NAME, MOST_OF_ADDRESS = 10, 30

NOT_AUTHENTICATED = (
    "You are not authenticated. Please see "
    "https://www.mlflow.org/docs/latest/auth/index.html#authenticating-to-mlflow "
    "on how to authenticate."
)


class SignIn:
    """MLflow's users, and who has guessed wrong of late."""

    def __init__(self, auth: Any) -> None:
        """`auth` is the module mlflow.server.auth, with its store."""
        import cachetools

        self._auth = auth
        self._wrong: Any = cachetools.TTLCache(100_000, WINDOW)
        self._right: Any = cachetools.LRUCache(100_000)
        # A hash takes a core for its time: one at once, or those who are known wait as well.
        self._one = asyncio.Semaphore(1)
        even_out(auth.store)

    async def check(self, header: bytes, address: str) -> None:
        """`Refused` unless the header Authorization holds a user's name and password."""
        signed = _name_and_password(header)
        if signed is None:
            raise Refused(401, NOT_AUTHENTICATED)
        if self._is_remembered(*signed):
            return
        name, password = signed
        counts: list[tuple[Any, int]] = [((name, address), MOST_OF_NAME)]
        if (name, address) not in self._right:
            counts.append((address, MOST_OF_ADDRESS))
        async with self._one:
            if any(self._wrong.get(key, [0])[0] >= most for key, most in counts):
                raise Refused(429, f"too many wrong passwords; try again in {WINDOW:.0f} s")
            if await asyncio.to_thread(self._auth._authenticate_cached, name, password):
                self._right[name, address] = True
                return
            for key, _ in counts:
                # The time of the first one counts: the list is put in once.
                self._wrong.setdefault(key, [0])[0] += 1
        raise Refused(401, NOT_AUTHENTICATED)

    def _is_remembered(self, name: str, password: str) -> bool:
        """Whether MLflow has seen this password within auth_cache_ttl_seconds."""
        cache = self._auth._USER_AUTH_CACHE
        if cache is None:
            return False
        with self._auth._USER_AUTH_CACHE_LOCK:
            return self._auth._auth_cache_key(name, password) in cache


def _name_and_password(header: bytes) -> tuple[str, str] | None:
    scheme, _, token = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        text = base64.b64decode(token.strip(), validate=True).decode()
    except ValueError:
        return None
    name, _, password = text.partition(":")
    # What MLflow takes as a name; a wrong one is kept for a while.
    fine = name.isprintable() and 0 < len(name) <= 255 and password
    return (name, password) if fine else None


def even_out(store: Any) -> None:
    """Have a password of no user take as long as a wrong one of a user."""
    from werkzeug.security import check_password_hash, generate_password_hash

    # Of MLflow's own method and cost.
    nobodys = generate_password_hash("nobody's")
    upstream = store.authenticate_user

    def authenticate_user(username: str, password: str, **options: Any) -> bool:
        if not store.has_user(username):
            check_password_hash(nobodys, password)
            return False
        return upstream(username, password, **options)

    store.authenticate_user = authenticate_user
