"""The server that files are downloaded from, asked with patience.

Why requests with urllib3's `Retry`: proxies, certificates, time-outs, back-off with jitter and
Retry-After are theirs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import skinml
from skinml.base.errors import UserError
from skinml.data.isic2017 import DOWNLOADS, HOMEPAGE

if TYPE_CHECKING:
    from requests import Response, Session


URL_VARIABLE = "SKINML_DOWNLOAD_URL"


# Seconds: until a connection stands; without a byte, or with hardly any, until it counts as broken.
CONNECT_SECONDS = 30.0


STALL_SECONDS = 60.0


SLOWEST = 1000  # bytes a second


# Attempts in a row that bring the file no further. Between them 0, 2, 4 … 60 s, and up to one more
# by chance, so that not all clients of a server that was away come back in the same moment.
ATTEMPTS = 8


# At the first contact someone waits in front of the terminal.
FIRST_ATTEMPTS = 4


BACKOFF_SECONDS = 1.0


BACKOFF_MAX_SECONDS = 60.0


JITTER_SECONDS = 1.0


# A server that asks for more patience (Retry-After) gets this much.
RETRY_AFTER_MAX_SECONDS = 600


# What passes by itself; any other error is answered at once.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Remote(NamedTuple):
    """A file of the server: its size in bytes, and what tells its versions apart."""

    name: str
    url: str
    size: int
    # An ETag, else a Last-Modified, else nothing.
    version: str

    @property
    def if_range(self) -> dict[str, str]:
        """The header that asks for the rest only of this version; a weak ETag may not stand there.

        RFC 9110, section 13.1.5.
        """
        return {"If-Range": self.version} if self.version and self.version[:2] != "W/" else {}


class Broken(Exception):
    """An attempt that did not bring the file to its end; another may.

    `response` may ask for patience. What has arrived is `useless` if it is of another version.
    """

    def __init__(
        self, reason: str, response: "Response | None" = None, useless: bool = False
    ) -> None:
        super().__init__(reason)
        self.response = response
        self.useless = useless


def base_url() -> str:
    """Where the files are downloaded from: the challenge's storage, or $SKINML_DOWNLOAD_URL."""
    return (os.environ.get(URL_VARIABLE) or DOWNLOADS).rstrip("/") + "/"


@contextmanager
def open_session() -> "Iterator[Session]":
    import requests

    with requests.Session() as session:
        # Compressed on the way, bytes could not be counted, nor asked for from the middle.
        session.headers.update(
            {"User-Agent": f"skinml/{skinml.__version__}", "Accept-Encoding": "identity"}
        )
        yield session


class Patience:
    """How long to wait after a failed attempt, and when to give up."""

    def __init__(self, url: str, attempts: int) -> None:
        from urllib3.util import Retry

        self._url = url
        self._attempts = attempts
        self._fresh = self._retry = Retry(
            total=attempts,
            backoff_factor=BACKOFF_SECONDS,
            backoff_max=BACKOFF_MAX_SECONDS,
            backoff_jitter=JITTER_SECONDS,
            retry_after_max=RETRY_AFTER_MAX_SECONDS,
        )

    def renew(self) -> None:
        """Forget the failures: there was progress."""
        self._retry = self._fresh

    def wait(self, broken: Broken) -> None:
        """Sleep until the next attempt; `UserError` where there is none left."""
        from urllib3.exceptions import InvalidHeader

        self._retry = self._retry.increment(method="GET", url=self._url, error=broken)
        if not self._retry.total:
            raise UserError(
                f"{self._url}: {broken}, {self._attempts} times in a row without progress; look at "
                "the network and run the same command again: it goes on at the byte where it "
                f"stopped; or bring the file from {HOMEPAGE} by hand"
            )
        try:
            self._retry.sleep(broken.response.raw if broken.response is not None else None)
        except InvalidHeader:  # A Retry-After that says nothing.
            self._retry.sleep()


def send_request(session: "Session", method: str, url: str, **options: Any) -> "Response":
    """One attempt; a passing failure is `Broken`, any other a `UserError`."""
    import requests

    timeout = (CONNECT_SECONDS, STALL_SECONDS)
    try:
        response = session.request(method, url, stream=True, timeout=timeout, **options)
    except (requests.exceptions.SSLError, ValueError) as error:
        # A certificate or a URL (requests' errors of these are ValueErrors) stays as it is.
        raise UserError(
            f"{url}: {reason_of(error)}; expected an https address whose certificate this machine "
            f"knows, from the default or ${URL_VARIABLE}"
        ) from None
    except requests.RequestException as error:
        raise Broken(reason_of(error)) from None
    if response.status_code in _PASSING:
        response.close()
        raise Broken(f"the server answers {response.status_code} {response.reason}", response)
    if response.status_code >= 400 and response.status_code != 416:
        response.close()
        raise UserError(
            f"{url}: the server answers {response.status_code} {response.reason}; the file is not "
            f"there: look at {HOMEPAGE}, or name a mirror with ${URL_VARIABLE}"
        )
    return response


def ask_server(session: "Session", name: str) -> Remote:
    """Size and version of a file, without its content."""
    url = base_url() + name
    patience = Patience(url, FIRST_ATTEMPTS)
    while True:
        try:
            with send_request(session, "HEAD", url, allow_redirects=True) as response:
                return describe_remote(name, url, response)
        except Broken as broken:
            patience.wait(broken)


def describe_remote(name: str, url: str, response: "Response") -> Remote:
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise UserError(
            f"{url}: the server does not tell the size of the file; expected a Content-Length: "
            f"name another mirror with ${URL_VARIABLE}"
        )
    return Remote(name, url, int(length), version_of(response))


def version_of(response: "Response") -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def reason_of(error: BaseException) -> str:
    """The innermost cause of a network error in one line: its outer layers repeat the URL."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
