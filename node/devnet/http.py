"""A small HTTP/1.1 server on trio: one handler, whole bodies, bounded everything.

For the embedded chain's process alone, which wants neither a framework nor the start-up time of one. No TLS,
no streaming, no routing. A client gets 60 s for a request and 2 MiB for its body; 128 connections are served
at once and further ones wait to be accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h11
import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

BODY_LIMIT: Final = 2 * 1024 * 1024
_CONNECTIONS: Final = 128
_PATIENCE_S: Final = 60.0
_CHUNK: Final = 65536


class Request(msgspec.Struct, frozen=True):
    """A request with its whole body."""

    method: str
    target: str
    """Path and query, as sent."""
    body: bytes


class Response(msgspec.Struct, frozen=True):
    """An answer with its whole body."""

    status: int
    body: bytes
    content_type: str = "application/json"


async def serve(listener: trio.SocketListener, handler: Callable[[Request], Response]) -> None:
    """Serve until cancelled. The handler is synchronous: while it works, nobody else is served."""
    slots = trio.CapacityLimiter(_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        while True:
            token = object()
            await slots.acquire_on_behalf_of(token)
            stream = await listener.accept()
            nursery.start_soon(_connection, stream, handler, slots, token)


async def _connection(
    stream: trio.SocketStream,
    handler: Callable[[Request], Response],
    slots: trio.CapacityLimiter,
    token: object,
) -> None:
    try:
        async with stream:
            connection = h11.Connection(h11.SERVER)
            while await _exchange(stream, connection, handler):
                connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass  # the client went away or was too slow: its own affair
    finally:
        slots.release_on_behalf_of(token)


async def _exchange(
    stream: trio.SocketStream, connection: h11.Connection, handler: Callable[[Request], Response]
) -> bool:
    """Serve one request; return whether the connection goes on."""
    try:
        with trio.fail_after(_PATIENCE_S):
            request = await _request(stream, connection)
    except h11.RemoteProtocolError as error:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _answer(stream, connection, Response(error.error_status_hint, b"malformed\n", "text/plain"))
        return False
    if request is None:
        return False
    await _answer(stream, connection, handler(request))
    return bool(connection.our_state is h11.DONE and connection.their_state is h11.DONE)


async def _request(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    """Read a request to its end; None when the client has no more."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send_all(
                    _bytes(connection, h11.InformationalResponse(status_code=100, headers=[]))
                )
            connection.receive_data(await stream.receive_some(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_LIMIT:
                raise h11.RemoteProtocolError("body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Request(head.method.decode(), head.target.decode("ascii", "replace"), bytes(body))
        else:
            return None


async def _answer(stream: trio.SocketStream, connection: h11.Connection, response: Response) -> None:
    headers = [("content-type", response.content_type), ("content-length", str(len(response.body)))]
    if connection.their_state is not h11.DONE:
        headers.append(("connection", "close"))
    head = _bytes(connection, h11.Response(status_code=response.status, headers=headers))
    body = _bytes(connection, h11.Data(data=response.body)) if response.body else b""
    end = _bytes(connection, h11.EndOfMessage())
    with trio.fail_after(_PATIENCE_S):
        await stream.send_all(head + body + end)


def _bytes(connection: h11.Connection, event: h11.Event) -> bytes:
    return connection.send(event) or b""
