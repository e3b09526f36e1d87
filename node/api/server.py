"""The REST server: an ASGI application, which `node.api.listener` puts on a socket.

Order of things for every request: CORS preflight, application key, route. Unknown paths and wrong methods
are both 404 with an empty body (the Golem daemon has no 405). A handler is cancelled when its client goes;
what it had taken from a queue is put back when the answer could not be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from starlette.requests import Request
from starlette.responses import Response

from node.api.web import MAX_BODY_BYTES, ApiError, ApiRequest, EventStream, Routes, Session, Taken, text
from p2p.metrics import Calls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    import structlog.typing

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

PING_SECONDS = 15.0
"""Seconds between two `:ping` comments of an event stream."""
MAX_READ_BYTES = 64 * 1024 * 1024
"""Most of a request's body that is read before it is answered; beyond that, the connection is closed."""
_TURNS = 8
"""Turns of trio's loop in which a connection's end, if it has come, passes from the socket to us."""
_OPEN_PATHS = ("/version/get", "/metrics-api", "/metrics", "/dashboard")
_METHODS = "PATCH, PUT, OPTIONS, GET, DELETE, TRACE, CONNECT, POST, HEAD"
_COUNTED_METHODS = frozenset(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"))
_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
_ANONYMOUS = Session(identity="", name="")  # type: ignore[arg-type]  # open paths act for nobody


class RestServer:
    """Answers REST requests from the families' route tables."""

    def __init__(
        self,
        session_of: Callable[[str], Awaitable[Session | None]],
        log: structlog.typing.FilteringBoundLogger,
        *,
        allowed_origins: Sequence[str] = (),
        origins_of: Callable[[str | None], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        """Make it.

        Args:
            session_of: an application key → whom it acts for, or None.
            allowed_origins: origins whose pages may call, for every key (`*` for any).
            origins_of: an application key → further origins allowed for it; None → those of all keys.
        """
        self._session_of = session_of
        self._log = log
        self._allowed = tuple(allowed_origins)
        self._origins_of = origins_of
        self._families: list[Routes] = []
        self.requests = Calls()
        """What was answered, by the family's prefix, method and status."""

    def add(self, routes: Routes) -> None:
        """Serve a family."""
        self._families.append(routes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        client = _Client(receive)
        await client.read_body()
        if client.gone:
            return
        request = Request(scope, client.replay)
        response = await client.run(self._respond(request))
        if response is None:
            return
        response.headers["vary"] = _VARY
        if not client.said_all:
            response.headers["connection"] = "close"
        if isinstance(response, EventStream):
            response = await self._stream(request, response, client, send)
        if response is not None:
            await _send_whole(response, client, send)

    async def _respond(self, request: Request) -> Response:
        began = trio.current_time()
        try:
            response = await self._answer(request)
        except Exception:
            response = self._failed(request)
        method = request.method if request.method in _COUNTED_METHODS else "other"
        family = getattr(request.state, "family", "none")  # of a refusal, or of a path that nobody serves
        self.requests.ended(trio.current_time() - began, family, method, str(response.status_code))
        return response

    async def _answer(self, request: Request) -> Response:
        origin = request.headers.get("origin")
        if request.method == "OPTIONS" and origin and "access-control-request-method" in request.headers:
            return await self._preflight(request, origin)
        session: Session | None = _ANONYMOUS
        if not _path_of(request).startswith(_OPEN_PATHS):
            key = _key_of(request)
            if not key:
                return text(401, "Missing application key")
            session = await self._session_of(key)
            if session is None:
                return text(401, "Invalid application key")
        assert session is not None
        # Asked before the handler runs: what that takes from a queue must not be lost to a wait after it.
        allowed = origin and await self._allows(origin, _bearer_of(request) or "")
        response = await self._dispatch(request, session)
        if origin and allowed:
            response.headers["access-control-allow-origin"] = origin
        return response

    async def _dispatch(self, request: Request, session: Session) -> Response:
        for family in self._families:
            found = family.find(request.method, _path_of(request))
            if found is None:
                continue
            handler, path = found
            request.state.family = family.prefix or "/"
            try:
                return await handler(ApiRequest(request, session, path, family.family))
            except ApiError as error:
                return error.response
            except Exception:
                return self._failed(request)
        return Response(status_code=404)

    def _failed(self, request: Request) -> Response:
        self._log.exception("REST handler failed", method=request.method, path=_path_of(request))
        return Response(
            b'{"message":"internal error; the node\'s log has the details"}',
            500,
            media_type="application/json",
        )

    async def _stream(
        self, request: Request, response: EventStream, client: _Client, send: Send
    ) -> Response | None:
        """Send events until the client goes; return an answer to send instead, if they could not begin."""
        refusal: Response | None = None
        lock = trio.Lock()

        async def write(data: bytes) -> None:
            async with lock:
                await send({"type": "http.response.body", "body": data, "more_body": True})

        async def ping() -> None:
            while True:
                await trio.sleep(PING_SECONDS)
                await write(b":ping\n\n")

        started = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.wait_gone, nursery.cancel_scope)
            try:
                async with response.frames as frames:
                    await send(_start_of(response))
                    started = True
                    nursery.start_soon(ping)
                    async for frame in frames:
                        await write(frame)
                    await trio.sleep_forever()
            except ApiError as error:
                refusal = error.response
            except Exception:
                refusal = self._failed(request)
            nursery.cancel_scope.cancel()
        return None if started else refusal

    async def _preflight(self, request: Request, origin: str) -> Response:
        if not await self._allows(origin, None):
            return Response("Origin is not allowed to make this request", 400)
        return Response(
            status_code=200,
            headers={
                "access-control-allow-origin": origin,
                "access-control-allow-methods": _METHODS,
                "access-control-allow-headers": request.headers.get(
                    "access-control-request-headers", ""
                ).lower(),
                "access-control-max-age": "3600",
            },
        )

    async def _allows(self, origin: str, key: str | None) -> bool:
        allowed = list(self._allowed)
        if self._origins_of is not None:
            allowed += await self._origins_of(key)
        return origin in allowed or "*" in allowed


class _Client:
    """The client's side of one request: its body, read beforehand, and whether it is still there."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body = bytearray()
        self.gone = False
        self.said_all = False
        """Whether the whole of the body was read."""

    async def read_body(self) -> None:
        """Read the body and keep a little more of it than is allowed: the family words the refusal.

        What is too long is read all the same, up to a bound: who is still sending does not hear an answer.
        """
        seen = 0
        while seen <= MAX_READ_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                return
            chunk = message.get("body", b"")
            self._body += chunk[: MAX_BODY_BYTES + 1 - len(self._body)]
            seen += len(chunk)
            if not message.get("more_body", False):
                self.said_all = True
                return

    async def replay(self) -> Message:
        """Give the body to Starlette's request."""
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": bytes(self._body), "more_body": False}

    async def run(self, handler: Awaitable[Response]) -> Response | None:
        """Run a handler while the client is there; None if it went."""
        response: Response | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait_gone, nursery.cancel_scope)
            response = await handler
            nursery.cancel_scope.cancel()
        return response

    async def has_gone(self) -> bool:
        """Return whether the client is known to have gone, without waiting for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait_gone, nursery.cancel_scope)
            for _ in range(_TURNS):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return self.gone

    async def wait_gone(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client goes."""
        while not self.gone:
            self.gone = (await self._receive())["type"] == "http.disconnect"
        scope.cancel()


def _path_of(request: Request) -> str:
    """Return the path as it was sent; Starlette's `url` would mix the Host header into it."""
    raw: bytes = request.scope["raw_path"]
    return raw.decode("latin-1")


def _bearer_of(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme == "Bearer" and key and not key.startswith(" ") else None


def _key_of(request: Request) -> str | None:
    if "authorization" in request.headers:
        return _bearer_of(request)
    return request.query_params.get("authToken")


def _start_of(response: Response) -> Message:
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }


async def _send_whole(response: Response, client: _Client, send: Send) -> None:
    """Send an answer; what it took from a queue is settled by whether all of it was written."""
    delivered = False
    try:
        await send(_start_of(response))
        # Hypercorn tells of a failed write by a disconnect, and of the end of a whole answer by the same;
        # so all but the last byte is sent first, for no client goes contented before it has that.
        body = bytes(response.body)
        await send({"type": "http.response.body", "body": body[:-1], "more_body": True})
        delivered = not (isinstance(response, Taken) and await client.has_gone())
        await send({"type": "http.response.body", "body": body[-1:], "more_body": False})
    finally:
        if isinstance(response, Taken):
            with trio.CancelScope(shield=True):
                await response.settle(delivered)
