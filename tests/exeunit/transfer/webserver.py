"""A web server on loopback that answers as a test tells it to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import trio


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Request], bytes]
"""Returns everything that goes onto the wire; then the connection is closed."""


def response(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    """Make a response; underscores in header names stand for dashes."""
    head = [f"HTTP/1.1 {status} Said"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head += [f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Server:
    """Remembers the requests; answers them in turn, the last answer again and again."""

    def __init__(self, answers: list[Answer], port: int) -> None:
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{port}"
        self._answers = answers

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            request = await _read(stream)
            answer = self._answers[min(len(self.requests), len(self._answers) - 1)]
            self.requests.append(request)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(answer(request))


@contextlib.asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(list(answers), listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _read(stream: trio.SocketStream) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", "0"))
    chunked = headers.get("transfer-encoding") == "chunked"
    while len(body) < length or (chunked and not body.endswith(b"0\r\n\r\n")):
        body += await stream.receive_some()
    return Request(method, path, headers, body)
