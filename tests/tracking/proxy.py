"""A proxy before an MLflow server that does what networks and servers do on a bad day."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Passed on, or instead: no answer at all, a status, an answer cut in its middle after the server
# has done what was asked, one that comes late, none that ever comes.
MODES = ("pass", "refuse", "500", "429", "403", "half", "slow", "hang")


class Proxy:
    """What stands between; `mode` may be changed at any time, and holds for the next request."""

    def __init__(self, target: str) -> None:
        self.mode = "pass"
        # What it knows nothing of: paths that begin so.
        self.unknown = ""
        self.requests = 0
        self._target = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                proxy.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """A client that went away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.mode = "refuse"
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        mode = self.mode
        self.requests += 1
        if mode == "hang":
            while self.mode == "hang":
                time.sleep(0.05)
        if mode in ("refuse", "hang"):
            request.close_connection = True
            return
        if mode.isdecimal():
            # Words, as a gateway and as MLflow's own check of users answer.
            self._reply(request, int(mode), b"not now, or not you", "text/plain")
            return
        if self.unknown and request.path.startswith(self.unknown):
            # As a framework answers, without MLflow's own error code.
            self._reply(request, 404, b'{"detail": "Not Found"}', "application/json")
            return
        if mode == "slow":
            time.sleep(1)
        connection = http.client.HTTPConnection(self._target, timeout=120)
        try:
            headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
            connection.request(request.command, request.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except OSError:
            request.close_connection = True
            return
        finally:
            connection.close()
        if mode == "half":
            request.send_response(response.status)
            request.send_header("Content-Length", str(len(content) + 100))
            request.end_headers()
            request.wfile.write(content[: len(content) // 2])
            request.close_connection = True
            return
        kind = response.getheader("Content-Type") or "application/json"
        self._reply(request, response.status, content, kind)

    def _reply(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        kind: str,
    ) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@contextmanager
def faulty(target: str) -> Iterator[Proxy]:
    """A proxy before the server at an address, for as long as it is wanted."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
