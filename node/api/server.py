"""The REST listener: an ASGI application on Hypercorn's trio worker.

Order of things for every request: CORS preflight, application key, route. Unknown paths and wrong methods
are both 404 with an empty body (the Golem daemon has no 405). A handler is cancelled when its client goes;
what it had taken from a queue is put back when the answer could not be written.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import hypercorn.config
import hypercorn.trio
import trio
from starlette.requests import Request
from starlette.responses import Response

from node.api.web import MAX_BODY_BYTES, ApiError, ApiRequest, EventStream, Routes, Session, Taken, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence

    import structlog.typing

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

PING_SECONDS = 15.0
_OPEN_PATHS = ("/version/get", "/metrics-api", "/dashboard")
_METHODS = "PATCH, PUT, OPTIONS, GET, DELETE, TRACE, CONNECT, POST, HEAD"
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

    def add(self, routes: Routes) -> None:
        """Serve a family."""
        self._families.append(routes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        client = _Client(receive)
        await client.read_body()
        if client.gone:
            return
        response = await client.run(self._respond(Request(scope, client.replay)))
        if response is None:
            return
        response.headers["vary"] = _VARY
        if isinstance(response, EventStream):
            await _send_stream(response, client, send)
        else:
            await _send_whole(response, client, send)

    async def _respond(self, request: Request) -> Response:
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return await self._preflight(request)
        session: Session | None = _ANONYMOUS
        key: str | None = None
        if not request.url.path.startswith(_OPEN_PATHS):
            key = _key_of(request)
            if not key:
                return text(401, "Missing application key")
            session = await self._session_of(key)
            if session is None:
                return text(401, "Invalid application key")
        assert session is not None
        response = await self._dispatch(request, session)
        origin = request.headers.get("origin")
        if origin and await self._allows(origin, key or ""):
            response.headers["access-control-allow-origin"] = origin
        return response

    async def _dispatch(self, request: Request, session: Session) -> Response:
        for family in self._families:
            found = family.find(request.method, request.url.path)
            if found is None:
                continue
            handler, path = found
            try:
                return await handler(ApiRequest(request, session, path, family.family))
            except ApiError as error:
                return error.response
            except Exception:
                self._log.exception("REST handler failed", method=request.method, path=request.url.path)
                return Response(
                    b'{"message":"internal error; the node\'s log has the details"}',
                    500,
                    media_type="application/json",
                )
        return Response(status_code=404)

    async def _preflight(self, request: Request) -> Response:
        origin = request.headers.get("origin", "")
        if not origin or not await self._allows(origin, None):
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
        self._handling: trio.CancelScope | None = None
        self.gone = False

    async def read_body(self) -> None:
        """Read the body, up to a little more than is allowed: the family words the refusal."""
        while len(self._body) <= MAX_BODY_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                return
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
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
        """Return whether the client is known to have gone, without waiting."""
        with trio.move_on_after(0):
            await self.wait_gone(trio.CancelScope())
        return self.gone

    async def wait_gone(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client goes."""
        while not self.gone:
            self.gone = (await self._receive())["type"] == "http.disconnect"
        scope.cancel()


def _key_of(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, key = header.partition(" ")
        return key if scheme == "Bearer" and key and not key.startswith(" ") else None
    return request.query_params.get("authToken")


async def _send_whole(response: Response, client: _Client, send: Send) -> None:
    """Send an answer; what it took from a queue is settled by whether all of it was written."""
    delivered = False
    try:
        start = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await send(start)
        # Hypercorn tells of a failed write by a disconnect, and of the end of a whole answer by the same;
        # so the bytes are sent first, and the end after looking.
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        delivered = not await client.has_gone()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        if isinstance(response, Taken):
            with trio.CancelScope(shield=True):
                await response.settle(delivered)


async def _send_stream(response: EventStream, client: _Client, send: Send) -> None:
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    lock = trio.Lock()

    async def write(data: bytes) -> None:
        async with lock:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def ping() -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            await write(b":ping\n\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        nursery.start_soon(client.wait_gone, nursery.cancel_scope)
        async with response.frames as frames:
            async for frame in frames:
                await write(frame)
        await trio.sleep_forever()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


@contextlib.asynccontextmanager
async def serving(server: RestServer, host: str, port: int) -> AsyncIterator[str]:
    """Listen while the context is open; yields the base URL, with the real port where `port` was 0.

    Raises:
        OSError: the address cannot be listened on.
    """
    # Bound here, not by Hypercorn, so that a taken port is an error before anything else starts.
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    bound = listening.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.detach()}"]  # Hypercorn owns, and closes, the descriptor
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 1.0
    config.keep_alive_timeout = 3600.0
    config.include_server_header = False
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, server, config, stop)
        try:
            yield f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + 3


async def _serve(
    server: RestServer, config: hypercorn.config.Config, stop: trio.Event, task_status: Any
) -> None:
    await hypercorn.trio.serve(server, config, shutdown_trigger=stop.wait, task_status=task_status)
