"""What stands before MLflow: who is not known, or asks for what is not served, goes no further.

An ASGI application around MLflow's own. It looks at the head of a request and answers before the
body is read: 401 without a known user's password, 404 to what is not in the table of `routes`, 400
to what names its object anywhere but in its place. A body is then read within a time, and up to a
size; a file's is passed on as it comes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from skinml.service import routes
from skinml.service.disk import Room
from skinml.service.routes import Refused, Route
from skinml.service.signin import SignIn

if TYPE_CHECKING:
    import flask

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Of a body that MLflow holds whole in memory; a file's is the proxy's to limit.
LARGEST = 16_000_000
# Seconds for a body: such a one, and a file of 100 MB over a line of 500 kbit/s.
PATIENCE, UPLOAD_PATIENCE = 120.0, 3600.0
# Of a body that nobody wants: read so far that the sender sees the answer, which a connection
# that is closed on unread data may lose.
_DISCARDED, _DISCARD_PATIENCE = 1_000_000, 5.0


class Guard:
    """The application that the server runs."""

    def __init__(self, app: Any, flask_app: "flask.Flask", users: SignIn, room: Room) -> None:
        self._app = app
        self._users = users
        self._room = room
        _check_bodies(flask_app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            try:
                route, receive = await self._admit(scope, receive)
                if route.body == "bytes":
                    await self._pass_file_on(scope, receive, send)
                else:
                    await self._app(scope, receive, send)
            except Refused as refused:
                await _answer(refused, scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive) -> tuple[Route, Receive]:
        """What a request in order is for, and what MLflow may read of it; `Refused` otherwise."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in _ONCE:
                raise Refused(400, f"the header {name.decode('latin1')} is there twice")
            headers[name] = value
        method, path = scope["method"], scope["path"]
        found = routes.find(method, path)
        if not found or found[0].kind != "open":
            client = scope["client"][0] if scope.get("client") else ""
            await self._users.check(headers.get(b"authorization", b""), client)
        if path != "/" and not {"", ".", ".."}.isdisjoint(path.split("/")[1:]):
            raise Refused(400, "the path has a part that is empty, or leads upwards")
        if not found:
            raise Refused(404, f"{method[:10]} {path[:100]} is not answered by this service")
        route, variables = found
        length = headers.get(b"content-length")
        chunked = b"transfer-encoding" in headers
        route.check_headers(length, chunked, headers.get(b"content-type", b""))
        route.check_query(scope["query_string"], variables)
        if route.writes:
            self._room.check()
        if route.body == "bytes":
            return route, receive
        if length and int(length) > LARGEST:
            raise Refused(413, f"a body of {int(length):,} bytes; at most {LARGEST:,} are taken")
        return route, await _whole(receive) if route.body and (length or chunked) else receive

    async def _pass_file_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have MLflow store a file as it comes; end it when the time or the disk does."""
        until = asyncio.get_running_loop().time() + UPLOAD_PATIENCE
        ended: list[Refused] = []
        started = False

        async def piece() -> Message:
            try:
                self._room.check()
                async with asyncio.timeout_at(until):
                    return await receive()
            except TimeoutError:
                ended.append(Refused(408, f"the upload took more than {UPLOAD_PATIENCE:.0f} s"))
            except Refused as refused:
                ended.append(refused)
            # As if the sender had gone: MLflow then removes what it has.
            return {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            nonlocal started
            if not ended:
                started = True
                await send(message)

        try:
            await self._app(scope, piece, answer)
        except Exception:
            if not ended:
                raise
        if ended and not started:
            raise ended[0]


_ONCE = (b"authorization", b"content-type", b"content-length", b"host")


async def _whole(receive: Receive) -> Receive:
    """Read a body as MLflow would, whole; what then receives it gets it at once."""
    chunks, size = list[bytes](), 0
    try:
        async with asyncio.timeout(PATIENCE):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the connection ended within the body")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > LARGEST:
                    raise Refused(413, f"a body of more than {LARGEST:,} bytes")
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(408, f"the body took more than {PATIENCE:.0f} s") from None
    body: bytes | None = b"".join(chunks)

    async def again() -> Message:
        nonlocal body
        if body is None:
            return await receive()
        message = {"type": "http.request", "body": body, "more_body": False}
        body = None
        return message

    return again


async def _answer(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that goes no further, and close its connection where a body may follow."""
    more = await _discard(scope, receive)
    if more == "slowly":
        # The proxy cuts the connection on 408: it would wait an hour for the rest.
        refused = Refused(408, f"{refused.why} (the body took too long as well)")
    headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
    text = json.dumps({"error_code": refused.code, "message": refused.why}).encode()
    if refused.status == 401:
        # As MLflow says it: the sentence is all that a browser shows.
        headers[0] = (b"content-type", b"text/html; charset=utf-8")
        headers.append((b"www-authenticate", b'Basic realm="mlflow"'))
        text = refused.why.encode()
    if more:
        headers.append((b"connection", b"close"))
    headers.append((b"content-length", str(len(text)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _discard(scope: Scope, receive: Receive) -> str:
    """Read a body that nobody wants to its end, "", if it is short; else how it goes on.

    "announced" is one whose length is told and large; "slowly" one that has no end in sight.
    """
    headers = dict(scope["headers"])
    length = int(headers.get(b"content-length", b"0"))
    if not length and b"transfer-encoding" not in headers:
        return ""
    if length > _DISCARDED:
        return "announced"
    seen, more = 0, True
    try:
        async with asyncio.timeout(_DISCARD_PATIENCE):
            while more and seen <= _DISCARDED:
                message = await receive()
                seen += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass
    return "slowly" if more else ""


def _check_bodies(flask_app: "flask.Flask") -> None:
    """Have Flask hold a body against the table before MLflow's own checks.

    Not in `Guard`: what Flask has parsed is kept, so that MLflow does not parse it again.
    """
    import flask

    def check() -> flask.Response | None:
        found = routes.find(flask.request.method, flask.request.path)
        try:
            if not found:
                raise Refused(404, "this is not answered by this service")
            route, variables = found
            if route.body == "json" or (route.body and flask.request.content_length):
                flask.request.json_module = routes.OnceEach
                body = flask.request.get_json(silent=True)
                route.check_body(body, variables)
        except Refused as refused:
            response = flask.jsonify(error_code=refused.code, message=refused.why)
            response.status_code = refused.status
            return response
        return None

    flask_app.before_request_funcs.setdefault(None, []).insert(0, check)
